"""Tables of what was measured, drawn from records only, beside what the paper published for TAU 2019."""

from pathlib import Path

import numpy as np
import pandas as pd

from .artefacts import REPOSITORY
from .experiment import SIZES, preset_of
from .metrics import interval
from .records import read_predictions, read_records
from .tag_vectors import lwlrap_interval
from .tagger import SUPERVISION


def published() -> pd.DataFrame:
    """The paper's 56 cells (Tables 2 to 5): table, system, its sizes and accuracy (%) on TAU 2019."""
    return pd.read_csv(REPOSITORY / "results" / "paper" / "published.csv").astype({size: "Int64" for size in SIZES})


def title(system: str, parameters: dict) -> str:
    """A system's name with the sizes that it uses, and the tags' source where it is not the tagger."""
    sizes = {size: parameters.get(size) for size in SIZES if parameters.get(size) is not None}
    source = Path(parameters.get("tags") or "tagger").stem
    words = [f"{value} {size.replace('_', ' ')}".removesuffix("s" * (value == 1)) for size, value in sizes.items()]
    return ", ".join([system.replace("_", " "), *words, *([f"{source} tags"] if source != "tagger" else [])])


def measured(data: str, root: Path | None = None) -> pd.DataFrame:
    """All systems with records: a row each, figures in % on the official test list and on all clips outside training.

    A row holds runs that differ in nothing but their seed. ``mean``, ``std`` and ``seeds`` over seeds; ``low`` and
    ``high``: 95 % bootstrap over locations of the mean; ``gain``, ``gain_low`` and ``gain_high``: the same of the
    difference, clip by clip, to the baseline with the same data and epochs.
    """
    groups: dict[tuple, dict[int, dict]] = {}
    for record in read_records(data, root):
        if record["system"] != "tagger":
            groups.setdefault(_kind(record), {})[record["parameters"]["seed"]] = record
    runs = {kind: [by_seed[seed] for seed in sorted(by_seed)] for kind, by_seed in groups.items()}
    clips = {kind: _correct([read_predictions(r["run"], data, root) for r in some]) for kind, some in runs.items()}
    rows = [_row(kind, some, clips[kind], clips.get(("baseline", *kind[1:-1], None))) for kind, some in runs.items()]
    table = pd.DataFrame(rows)
    return table if table.empty else table.sort_values(["table", "system"], kind="stable").set_index("system")


def _kind(record: dict) -> tuple:
    """What makes runs comparable: (system with its sizes, what was trained how, data, tags)."""
    parameters, tags = record["parameters"], record["tags"]
    preset = preset_of(parameters["data"])
    usual = {"epochs": preset.scene.epochs, "front_end": preset.front_end, "threads": preset.threads}
    changed = [f"{name} {parameters[name]}" for name, value in usual.items() if parameters[name] != value]
    shuffled = tags and tags["source"] == "shuffled"  # these differ from seed to seed
    kind = None if tags is None or shuffled else tags["fingerprint"]
    return title(record["system"], parameters), ", ".join(changed), record["data"]["fingerprint"], kind


def _correct(predictions: list[pd.DataFrame]) -> pd.DataFrame:
    """Share of seeds that classify each clip of the official test list correctly, with its location."""
    clips = pd.concat([p.assign(correct=p["truth"] == p["svm"]) for p in predictions])
    clips = clips[clips["split"] == "test"]
    return clips.groupby("filename").agg(correct=("correct", "mean"), location=("location", "first"))


def _bootstrap(values: pd.Series, locations: pd.Series) -> tuple[float, float]:
    percent = 100 * values.to_numpy()
    return interval(lambda rows: percent[rows].mean(), locations.to_numpy())


def _row(kind: tuple, runs: list[dict], clips: pd.DataFrame, baseline: pd.DataFrame | None) -> dict:
    name = ", ".join(filter(None, kind[:2]))
    row = {"table": runs[0]["table"], "system": name, "n_parameters": runs[0]["n_parameters"]}
    for key, column in (
        ("accuracy", "mean"),
        ("accuracy_softmax", "softmax"),
        ("accuracy_paper_protocol", "best_on_test"),
    ):
        row[column] = 100 * np.mean([run["test"][key] for run in runs])
    row["seeds"] = [100 * run["test"]["accuracy"] for run in runs]
    row["std"] = np.std(row["seeds"], ddof=1) if len(runs) > 1 else np.nan
    row["test_all"] = 100 * np.mean([run["test_all"]["accuracy"] for run in runs])
    row["low"], row["high"] = _bootstrap(clips["correct"], clips["location"])
    if baseline is not None and kind[0] != "baseline":
        difference = clips["correct"] - baseline["correct"]
        row["gain"] = 100 * difference.mean()
        row["gain_low"], row["gain_high"] = _bootstrap(difference, clips["location"][difference.index])
    return row


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The columns a reader wants, as text: accuracy ± deviation [interval], gain [interval]."""
    if table.empty:
        return table
    span = "{:.1f} [{:.1f}, {:.1f}]".format
    gains = table.reindex(columns=["gain", "gain_low", "gain_high"])
    out = pd.DataFrame(index=table.index)
    out["seeds"] = table["seeds"].map(len)
    out["accuracy % [95 %]"] = [span(*row) for row in table[["mean", "low", "high"]].to_numpy()]
    out["± over seeds"] = table["std"].map("{:.1f}".format).replace("nan", "")
    signed = "{:+.1f} [{:+.1f}, {:+.1f}]".format
    out["gain over baseline [95 %]"] = ["" if np.isnan(row[0]) else signed(*row) for row in gains.to_numpy(float)]
    out["softmax"] = table["softmax"].map("{:.1f}".format)
    out["best on test"] = table["best_on_test"].map("{:.1f}".format)
    out["all clips outside training"] = table["test_all"].map("{:.1f}".format)
    out["parameters"] = table["n_parameters"].map("{:,}".format)
    return out


def taggers(data: str, root: Path | None = None) -> pd.DataFrame:
    """What each kind of supervision gives the tagger, on the test clips: a row a kind, as text, in training order.

    lwlrap after both stages with its 95 % interval (bootstrap over recordings), what it gains over the row above on
    the same clips, and the share of clips whose most probable tag is right. Seeds are averaged clip by clip.
    """
    preset, kinds = preset_of(data).tagger, {}
    for record in read_records(data, root):
        if record["system"] == "tagger" and record["parameters"]["epochs"] == preset.epochs:
            kinds.setdefault(record["parameters"].get("supervision"), []).append(record)
    rows, above = [], None
    for supervision in (name for name in SUPERVISION if name in kinds):
        runs = kinds[supervision]
        clips = [read_predictions(run["run"], data, root) for run in runs]
        judged = clips[0].assign(
            **{name: np.mean([c[name] for c in clips], 0) for name in ("lrap", "lrap_stage_1", "top")}
        )
        row = {"supervision": supervision.replace("_", " "), "seeds": len(runs)}
        for title_, column in (("lwlrap after stage 1", "lrap_stage_1"), ("lwlrap after stage 2", "lrap")):
            row[title_] = "{:.3f} [{:.3f}, {:.3f}]".format(*_lwlrap(judged, judged[column]))
        row["gain over the row above"] = ""
        if above is not None:
            row["gain over the row above"] = "{:+.3f} [{:+.3f}, {:+.3f}]".format(
                *_lwlrap(judged, judged["lrap"] - above)
            )
        chance = np.mean([run["lwlrap"]["stage 2"]["test"]["chance"] for run in runs])
        rows.append(row | {"chance": f"{chance:.3f}", "accuracy %": f"{100 * judged['top'].mean():.1f}"})
        above = judged["lrap"]
    return pd.DataFrame(rows).set_index("supervision") if rows else pd.DataFrame()


def _lwlrap(judged: pd.DataFrame, values: pd.Series) -> tuple[float, float, float]:
    return float(np.average(values, weights=judged["labels"])), *lwlrap_interval(judged, values)


def markdown(readable: pd.DataFrame) -> str:
    """A readable table as Markdown, for the README."""
    rows = [[readable.index.name, *readable.columns], ["---"] * (1 + len(readable.columns))]
    rows += [[str(value) for value in row] for row in readable.reset_index().to_numpy()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)

"""Tables of what was measured, drawn from records only, beside what the paper published for TAU 2019."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .artefacts import REPOSITORY
from .experiment import FIXED_FUSION, SIZES, preset_of
from .records import read_predictions, read_records
from .stats import accuracy_interval, compare, holm
from .tag_vectors import lwlrap_interval
from .tagger import SUPERVISION

NOTEBOOK_OF = {
    "tagger": "01_tagger",
    "baseline": "02_baseline",
    "codecat": "03_concatenation",
    "before_code": "03_concatenation",
    "attention": "04_attention",
    "combined_separate": "05_combined",
    "combined_shared": "05_combined",
}
CONTROL_TAGS = ("shuffled", "constant", "true")
GAIN = ("gain", "gain_low", "gain_high")
GRIDS = (2, 3, 4, 5)
DRAWN = ("systems", "evidence", "contrasts", "taggers", "by_scene", "by_city", *(f"table{number}" for number in GRIDS))
QUESTIONS = {
    "baseline": "How far does the waveform alone lead?",
    "codecat": "Do tags help beside the code?",
    "before_code": "Do tags help before the code layer?",
    "attention": "Do tags help by weighting filters?",
    "combined_separate": "Do both help, with a transform each?",
    "combined_shared": "Do both help, with one transform?",
    "tags_only": "How far do tags alone lead?",
    "shuffled": "What do the tags of other clips do?",
    "constant": "What do the same layers do when every clip has the same tags?",
    "true": "What would a perfect tagger give?",
}


def published() -> pd.DataFrame:
    """The paper's 56 cells (Tables 2 to 5): table, system, its sizes and accuracy (%) on TAU 2019."""
    return pd.read_csv(REPOSITORY / "results" / "paper" / "published.csv").astype({size: "Int64" for size in SIZES})


def title(system: str, parameters: dict) -> str:
    """A system's name with the sizes that it uses, and the tags' source where it is not the tagger."""
    sizes = {size: parameters.get(size) for size in SIZES if parameters.get(size) is not None}
    source = Path(parameters.get("tags") or "tagger").stem
    words = [f"{value} {size.replace('_', ' ')}".removesuffix("s" * (value == 1)) for size, value in sizes.items()]
    return ", ".join([system.replace("_", " "), *words, *([f"{source} tags"] if source != "tagger" else [])])


@dataclass(frozen=True)
class Runs:
    """The runs of a system that differ in nothing but their seed, in the order of seeds."""

    records: list[dict]
    predictions: list[pd.DataFrame]  # of the official test list, one a run, sorted by filename

    @property
    def correct(self) -> np.ndarray:
        """Whether each seed's SVM is right: [seeds, clips]."""
        return np.stack([(table["truth"] == table["svm"]).to_numpy() for table in self.predictions])

    @property
    def places(self) -> np.ndarray:
        """The location of each clip."""
        return self.predictions[0]["location"].to_numpy()

    @property
    def first(self) -> dict:
        """The record of the first seed."""
        return self.records[0]

    @property
    def tags(self) -> str | None:
        """Where the tag vectors came from."""
        return self.first["parameters"].get("tags")

    @property
    def command(self) -> str:
        """The papermill line of the first seed."""
        return papermill_line(self.first["system"], self.first["parameters"])

    def mean(self, figure: str, kind: str = "test") -> float:
        """A figure of the records in %, averaged over seeds."""
        return 100 * float(np.mean([record[kind][figure] for record in self.records]))


def systems(data: str, root: Path | None = None) -> dict[tuple, Runs]:
    """The scene runs with records, by what makes them comparable: system and sizes, what was changed, data, tags.

    Raises ValueError, naming them, for two records of the same run, and for predictions that are not a record's.
    """
    groups: dict[tuple, dict[int, dict]] = {}
    for record in read_records(data, root):
        if record["system"] == "tagger":
            continue
        first = groups.setdefault(_kind(record), {}).setdefault(record["parameters"]["seed"], record)
        if first is not record:
            raise ValueError(f"{first['run']} and {record['run']} differ in their recipe alone: remove one record")
    found = {}
    for kind, by_seed in groups.items():
        records = [by_seed[seed] for seed in sorted(by_seed)]
        found[kind] = Runs(records, [_judged(record, data, root) for record in records])
    return found


def _judged(record: dict, data: str, root: Path | None) -> pd.DataFrame:
    clips = read_predictions(record["run"], data, root).query("split == 'test'")
    if not np.isclose((clips["truth"] == clips["svm"]).mean(), record["test"]["accuracy"]):
        raise ValueError(f"{record['run']}.npz is not what its record says: remove both, and run its cell again")
    return clips.sort_values("filename", ignore_index=True)


def _names(found: dict[tuple, Runs]) -> dict[tuple, str]:
    """A name for each kind; two of one name are told apart by the fingerprints of their data and tags."""
    names = {kind: ", ".join(filter(None, kind[:2])) for kind in found}
    twice = {name for name, number in Counter(names.values()).items() if number > 1}
    return {
        kind: f"{name}, data {kind[2]}" + (f", tags {kind[3]}" if kind[3] else "") if name in twice else name
        for kind, name in names.items()
    }


def _kind(record: dict) -> tuple:
    parameters, tags = record["parameters"], record["tags"]
    changed = [f"{name} {parameters[name]}" for name, value in _usual(parameters).items() if parameters[name] != value]
    shuffled = tags and tags["source"] == "shuffled"  # these differ from seed to seed
    kind = None if tags is None or shuffled else tags["fingerprint"]
    return title(record["system"], parameters), ", ".join(changed), record["data"]["fingerprint"], kind


def _usual(parameters: dict) -> dict[str, int | str]:
    preset = preset_of(parameters["data"])
    return dict(epochs=preset.scene.epochs, front_end=preset.front_end, threads=preset.threads, precision="float32")


def papermill_line(system: str, parameters: dict) -> str:
    """The command of a run, to be typed in ``notebooks/``."""
    notebook = NOTEBOOK_OF.get(system, "05_combined")
    usual = _usual(parameters) | {"tags": "tagger"}
    left_out = {"device"} | ({"fusion"} if notebook in FIXED_FUSION else set())
    told = {k: v for k, v in parameters.items() if v is not None and k not in left_out and usual.get(k) != v}
    return " ".join(["papermill", f"{notebook}.ipynb", "out.ipynb", *(f"-p {name} {told[name]}" for name in told)])


def measured(data: str, root: Path | None = None) -> pd.DataFrame:
    """All systems with records: a row each, figures in % on the official test list (``test_all``: on all clips outside
    training).

    ``mean``, ``std`` over ``seeds``; ``low`` and ``high``: 95 %, bootstrap over locations and seeds. ``gain`` to
    ``low``/``high`` beside it: the same of the difference, clip by clip, to the baseline with the same data and
    settings; ``p``: its test, ``p_holm`` corrected for all comparisons of this table; ``mcnemar``: blind to locations;
    ``detectable``: the smallest gain that had an 80 % chance of being found. With one seed, intervals are over
    locations alone, and there is no ``p``: one training cannot tell what another would have given.
    """
    found = systems(data, root)
    names = _names(found)
    rows = [
        {"system": names[kind]} | _row(kind, runs, found.get(("baseline", *kind[1:-1], None)))
        for kind, runs in found.items()
    ]
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows).assign(p_holm=lambda t: holm(t["p"]))
    return table.sort_values(["control", "table", "fusion", *SIZES], kind="stable").set_index("system")


def _row(kind: tuple, runs: Runs, baseline: Runs | None) -> dict:
    first = runs.first
    row = {"table": first["table"], "command": runs.command}
    row["control"] = first["table"] is None or runs.tags in CONTROL_TAGS
    row |= {size: first["parameters"].get(size) for size in SIZES} | {"fusion": first["system"], "tags": runs.tags}
    row |= {"n_parameters": first["n_parameters"], "macs": first["macs"]}
    row |= {"mean": runs.mean("accuracy"), "softmax": runs.mean("accuracy_softmax")}
    row |= {"best_on_test": runs.mean("accuracy_paper_protocol"), "test_all": runs.mean("accuracy", "test_all")}
    row["seeds"] = [100 * record["test"]["accuracy"] for record in runs.records]
    row["std"] = np.std(row["seeds"], ddof=1) if len(runs.records) > 1 else np.nan
    row["low"], row["high"] = (100 * bound for bound in accuracy_interval(runs.correct, runs.places))
    row["p"] = np.nan
    if baseline is not None and kind[0] != "baseline":
        row |= _compared(runs, baseline)
    return row


def _compared(runs: Runs, other: Runs) -> dict[str, float]:
    found = compare(runs.correct, other.correct, runs.places)
    low, high = (100 * bound for bound in found.interval)
    gain = {"gain": 100 * found.difference, "gain_low": low, "gain_high": high, "mcnemar": found.mcnemar}
    if min(len(runs.records), len(other.records)) < 2:
        return gain | {"detectable": np.nan, "p": np.nan}
    return gain | {"detectable": 100 * found.detectable, "p": found.p}


def contrasts(data: str, root: Path | None = None) -> pd.DataFrame:
    """What the tags' information does: each system with the tagger's tags against itself with other ones.

    A row for every other source of tags; columns as in ``measured``. Both have the same parameters and settings.
    """
    found, rows = systems(data, root), []
    heard = {kind[:3]: runs for kind, runs in found.items() if runs.tags == "tagger"}
    for (name, *others, _), runs in found.items():
        system = name.removesuffix(f", {runs.tags} tags")
        own = heard.get((system, *others))
        if runs.tags in CONTROL_TAGS and own:
            rows.append({"system": system, "tags": "tagger", "against": runs.tags} | _compared(own, runs))
    return pd.DataFrame(rows).assign(p_holm=lambda t: holm(t["p"])).set_index("system") if rows else pd.DataFrame()


def paper_table(number: int, here: pd.DataFrame) -> pd.DataFrame:
    """One of the paper's Tables 2 to 5: its cells in its order, ``published`` (TAU 2019) beside those of ``measured``.

    ``p_holm`` is corrected for the comparisons of this table. Cells without a record are NaN.
    """
    cells = published().query("table == @number").rename(columns={"accuracy": "published", "system": "fusion"})
    if here.empty:
        return cells.assign(mean=np.nan).set_index("fusion")
    here = here[~here["control"] & ~here.index.str.contains("epochs|front_end|threads|precision")]
    columns = ["fusion", *SIZES, "mean", "std", "low", "high", "gain", "gain_low", "gain_high", "p", "seeds"]
    here = here.reset_index().reindex(columns=columns).astype({size: "Int64" for size in SIZES})
    table = cells.merge(here, "left", ["fusion", *SIZES])
    return table.assign(p_holm=holm(table["p"])).set_index("fusion")


def by(column: str, data: str, root: Path | None = None) -> pd.DataFrame:
    """Accuracy in % of each system (rows) on the test clips of each scene or city (``column``: "scene" or "city")."""
    rows, found = {}, systems(data, root)
    names = _names(found)
    for kind, runs in found.items():
        clips, labels = runs.predictions[0], np.asarray(runs.first["labels"])
        groups = labels[clips["truth"]] if column == "scene" else clips["city"].to_numpy()
        rows[names[kind]] = pd.Series(100 * runs.correct.mean(0)).groupby(groups).mean()
    return pd.DataFrame(rows).T


def readable(table: pd.DataFrame) -> pd.DataFrame:
    """The columns a reader wants, as text: accuracy ± deviation [interval], gain [interval], its test, sizes."""
    if table.empty:
        return table
    out = pd.DataFrame(index=table.index)
    out["seeds"] = table["seeds"].map(len)
    out["accuracy % [95 %]"] = _spans(table, "mean", "low", "high")
    out["± over seeds"] = table["std"].map("{:.1f}".format).replace("nan", "")
    out["gain over baseline [95 %]"] = _spans(table, *GAIN, sign="+")
    for column, name in (("p_holm", "p (Holm)"), ("mcnemar", "McNemar, by clip"), ("detectable", "detectable gain")):
        values = table.reindex(columns=[column])[column]
        out[name] = values.map(_p if column != "detectable" else "{:.1f}".format).replace("nan", "")
    out["softmax"] = table["softmax"].map("{:.1f}".format)
    out["best on test"] = table["best_on_test"].map("{:.1f}".format)
    out["all clips outside training"] = table["test_all"].map("{:.1f}".format)
    out["parameters"] = table["n_parameters"].map("{:,}".format)
    out["MMAC a clip"] = (table["macs"] / 1e6).map("{:.0f}".format)
    return out


def _spans(table: pd.DataFrame, middle: str, low: str, high: str, sign: str = "") -> list[str]:
    """A figure and its interval as text; empty where there is none, the figure alone where it has no interval."""
    form, texts = f"{{:{sign}.1f}}".format, []
    for value, *bounds in table.reindex(columns=[middle, low, high]).to_numpy(float):
        span = "" if np.isnan(bounds).any() else f" [{', '.join(map(form, bounds))}]"
        texts.append("" if np.isnan(value) else form(value) + span)
    return texts


def brief(readable: pd.DataFrame) -> pd.DataFrame:
    """The columns that a page has room for."""
    return readable[[*readable.columns[:4], "p (Holm)", "parameters"]]


def _p(value: float) -> str:
    return "nan" if np.isnan(value) else "< 0.001" if value < 0.001 else f"{value:.3f}"


def readable_contrasts(table: pd.DataFrame) -> pd.DataFrame:
    """``contrasts`` as text."""
    if table.empty:
        return table
    out = table[["tags", "against"]].copy()
    out["difference [95 %]"] = _spans(table, *GAIN, sign="+")
    out["p (Holm)"] = table["p_holm"].map(_p).replace("nan", "")
    out["detectable"] = table["detectable"].map("{:.1f}".format).replace("nan", "")
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


def evidence(table: pd.DataFrame) -> pd.DataFrame:
    """A row a system of ``measured``: the question, the figure that answers it, and the command of its first seed."""
    rows = []
    for (system, row), gain in zip(table.iterrows(), _spans(table, *GAIN, sign="+")):
        figure = f"{row['mean']:.1f} %" + (f", {gain}" if gain else "")
        question = QUESTIONS.get(row["tags"]) or QUESTIONS.get(row["fusion"], "What does this fusion give?")
        rows.append({"question": question, "system": system, "figure": figure, "command": row["command"]})
    return pd.DataFrame(rows, columns=["question", "system", "figure", "command"]).set_index("question")


def drawn(data: str, root: Path | None = None) -> dict[str, str]:
    """All tables of a data set as CSV, by file name: what its records give, nothing else."""
    table = measured(data, root)
    found = {"systems": readable(table), "evidence": evidence(table)}
    found |= {"contrasts": readable_contrasts(contrasts(data, root)), "taggers": taggers(data, root)}
    found |= {f"by_{column}": by(column, data, root).round(1).rename_axis("system") for column in ("scene", "city")}
    grids = {f"table{number}": paper_table(number, table) for number in GRIDS}
    found |= {name: readable_grid(grid) for name, grid in grids.items() if grid["mean"].notna().any()}
    return {f"{name}.csv": some.to_csv() for name, some in found.items() if len(some)}


def readable_grid(grid: pd.DataFrame) -> pd.DataFrame:
    """``paper_table`` as text, without the sizes that the table does not vary."""
    out = grid[[size for size in SIZES if grid[size].notna().any()]].copy()
    out["published, TAU 2019"] = grid["published"].map("{:.2f}".format)
    out["measured % [95 %]"] = _spans(grid, "mean", "low", "high")
    out["gain [95 %]"] = _spans(grid, *GAIN, sign="+")
    out["p (Holm)"] = grid["p_holm"].map(_p).replace("nan", "")
    return out


def markdown(readable: pd.DataFrame) -> str:
    """A readable table as Markdown, for the README."""
    rows = [[readable.index.name, *readable.columns], ["---"] * (1 + len(readable.columns))]
    rows += [[str(value) for value in row] for row in readable.reset_index().to_numpy()]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)

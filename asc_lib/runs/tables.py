"""Tables of what was measured, drawn from records only, beside the paper's for TAU 2019."""

import glob
import re
import shlex
from collections import Counter
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from .. import corpora, stats
from ..corpora.soundscapes import Recipe
from ..fusion import FUSIONS, SIZES
from ..recipes import NAMED, Preset
from ..settings import NOTEBOOKS, RIVALS
from ..tags.sources import BY_SEED, CONTROLS
from ..tags.tag_data import SUPERVISION
from . import readable
from .cells import CONTROL_CELLS, papermill_line, published, published_table6
from .readable import GAIN, spans
from .records import read_predictions, read_records

GRIDS = (2, 3, 4, 5)
N_TAGS = 80  # at most, unless a parameter says otherwise
PREDICTED = ["truth", "predicted", "softmax"]
UNTESTED = dict.fromkeys(("error", "df", "p"), np.nan)  # a comparison with one seed, or none
DRAWN = (
    *("systems", "evidence", "contrasts", "learning", "character", "taggers"),
    *("by_scene", "by_city"),
    *(f"table{number}" for number in (*GRIDS, 6)),
)


def title(system: str, parameters: dict) -> str:
    """A system's name with its sizes, and the tags' source where it is not the tagger."""
    sizes = {size: parameters[size] for size in SIZES if parameters.get(size) is not None}
    source = Path(parameters.get("tags") or "tagger").name
    name = ", ".join(
        [
            system,
            *(f"{value} {size}".removesuffix("s" * (value == 1)) for size, value in sizes.items()),
        ]
    ).replace("_", " ")
    return name if source == "tagger" else f"{name}, {source} tags"


def usual(preset: Preset) -> dict[str, int | str]:
    """What the preset of a data set gives parameters that are not named."""
    return {
        "epochs": preset.scene.epochs,
        "recipe": "",
        "front_end": preset.front_end,
        "threads": preset.threads,
        "precision": "float32",
        "tag_windows": preset.scene.tag_windows,
        "n_tags": N_TAGS,
    }


@dataclass(frozen=True)
class Kind:
    """What makes runs comparable; its runs differ in nothing but their seed."""

    title: str
    changed: str  # parameters other than the usual, in words
    data: str  # fingerprint
    tags: str | None  # fingerprint; None without tags, and where they differ by seed

    @classmethod
    def of(cls, record: dict, usual: dict[str, int | str]) -> "Kind":
        parameters = dict(record["parameters"])
        own, source = record.get("recipe"), parameters.get("recipe")  # none: the front-end's own
        if own and source and source not in NAMED:  # a file: what it says, whatever its name
            values = (f"{name} {value}" for name, value in own.items())
            parameters["recipe"] = f"of {', '.join(values)}"
        tags = record["tags"]
        return cls(
            title=title(record["system"], parameters),
            changed=", ".join(
                f"{name} {parameters[name]}"
                for name, value in usual.items()
                if parameters.get(name) not in (None, value)
            ),
            data=record["data"]["fingerprint"],
            tags=tags["fingerprint"] if tags and tags["source"] not in BY_SEED else None,
        )

    @property
    def name(self) -> str:
        return ", ".join(filter(None, [self.title, self.changed]))

    @property
    def full_name(self) -> str:
        return f"{self.name}, data {self.data}" + (f", tags {self.tags}" if self.tags else "")


@dataclass(frozen=True)
class Runs:
    """The runs of one kind, in the order of their seeds."""

    records: list[dict]
    evaluated: list[pd.DataFrame]  # sorted by filename

    @cached_property
    def predictions(self) -> list[pd.DataFrame]:
        """Those of the official test list."""
        return [clips[clips["split"] == "test"].reset_index(drop=True) for clips in self.evaluated]

    @cached_property
    def correct(self) -> np.ndarray:
        """Whether each seed is right: [seeds, clips]."""
        return np.stack(
            [(clips["truth"] == clips["predicted"]).to_numpy() for clips in self.predictions]
        )

    @cached_property
    def places(self) -> stats.Places:
        return stats.Places(self.predictions[0]["location"], beds=self.predictions[0]["beds"])

    @property
    def tags(self) -> str | None:
        return self.records[0]["parameters"].get("tags")

    @property
    def layers(self) -> int:  # of the tags' transform; of two, of that before the code
        sizes = self.records[0]["parameters"]
        return sizes.get("layers") or sizes.get("concat_layers") or 0

    def mean(self, figure: str, test_set: str = "test") -> float:
        """A figure of the records in %, averaged over seeds."""
        return 100 * float(np.mean([record[test_set][figure] for record in self.records]))


def command(record: dict, preset: Preset, data: str) -> str:
    """The papermill line of a record of a data set, to be typed in ``notebooks/``."""
    parameters = record["parameters"] | {"data": data}
    known = FUSIONS.get(record["system"])  # not where a plug-in is not loaded
    notebook = known.notebook if known else "05_combined"
    defaults = usual(preset) | {"tags": preset.tags, "device": parameters["device"]}
    given = {
        name: value
        for name, value in parameters.items()
        if name in NOTEBOOKS[notebook] and value not in (None, defaults.get(name))
    }
    return shlex.join(papermill_line(f"{notebook}.ipynb", "out.ipynb", given))


class Results:
    """The records of a data set, read once, and the tables that they give.

    ``root``: the folder of results; None: ``ASC_RESULTS``. Raises ValueError, naming them, for two
    records of the same run, and for predictions that do not match their record.
    """

    def __init__(self, data: str, root: Path | None = None):
        self.data = data
        self.preset = corpora.find(data).preset
        self.root = root
        self.records = read_records(data, root)
        preset = usual(self.preset)
        self.clips: dict[str, pd.DataFrame] = {}  # by the fingerprint of their data
        groups: dict[Kind, dict[int, dict]] = {}
        for record in self.records:
            if record["system"] != "tagger":
                kind = Kind.of(record, preset | {"epochs": self._epochs(record)})
                by_seed = groups.setdefault(kind, {})
                first = by_seed.setdefault(record["parameters"]["seed"], record)
                if first is not record:
                    raise ValueError(
                        f"{first['run']} and {record['run']} differ in their recipe alone: "
                        "remove one record"
                    )
        self.systems: dict[Kind, Runs] = {}
        for kind, by_seed in groups.items():
            records = [by_seed[seed] for seed in sorted(by_seed)]
            self.systems[kind] = Runs(records, [self._evaluated(record) for record in records])

    def _epochs(self, record: dict) -> int:
        """The usual number of epochs: that of most runs on the same data."""
        same = [
            other["parameters"]["epochs"]
            for other in self.records
            if other["data"]["fingerprint"] == record["data"]["fingerprint"]
        ]
        return Counter(sorted(same, reverse=True)).most_common(1)[0][0]

    def _evaluated(self, record: dict) -> pd.DataFrame:
        clips = read_predictions(record["run"], self.data, self.root)
        same = self.clips.setdefault(record["data"]["fingerprint"], clips)
        known = ["filename", "location", "split", "truth"]
        right = clips[known].equals(same[known]) and (clips[PREDICTED] < len(record["labels"])).all(
            axis=None
        )
        for test_set, part in (("test", clips[clips["split"] == "test"]), ("test_all", clips)):
            found = record[test_set]
            kernels = {"predicted": found["accuracy"], "softmax": found["accuracy_softmax"]}
            kernels |= found["accuracy_by_kernel"]
            chosen = [
                value
                for row in record["history"]
                for name, value in row.items()
                if name.removeprefix(f"{test_set}_") in found["accuracy_by_kernel"]
            ]
            best = max([*chosen, *found["accuracy_by_kernel"].values()])
            right = (
                right
                and np.isclose(found["accuracy_paper_protocol"], best)
                and all(
                    np.isclose((part["truth"] == part[name]).mean(), value)
                    for name, value in kernels.items()
                )
            )
        if not right:
            raise ValueError(
                f"{record['run']}.npz does not match its record, or the other runs' clips: "
                "remove both, and run its cell again"
            )
        return clips

    @cached_property
    def names(self) -> dict[Kind, str]:
        """A name for each kind; equal ones are completed by the fingerprints of data and tags."""
        count = Counter(kind.name for kind in self.systems)
        return {
            kind: kind.full_name if count[kind.name] > 1 else kind.name for kind in self.systems
        }

    def _compared(self, kind: Kind, other: Kind) -> dict[str, float]:
        one, two = self.systems[kind], self.systems[other]
        places = one.places
        found = places.estimate(places.shares(one.correct), places.shares(two.correct))
        low, high = found.interval
        row = {
            "gain": 100 * found.value,
            "gain_low": 100 * low,
            "gain_high": 100 * high,
            "mcnemar": stats.mcnemar(one.correct, two.correct),
        }
        if min(len(one.correct), len(two.correct)) > 1:
            row |= {"error": 100 * found.error, "df": float(found.df), "p": float(found.p)}
        return row

    @cached_property
    def measured(self) -> pd.DataFrame:
        """One row per system, figures in % on the official test list.

        ``mean``, ``std`` over ``seeds``; ``low`` and ``high``: 95 %, over locations and seeds
        (``stats.Places``). ``loss``: of training, at its end; ``rise``: of the accuracy, since the
        last evaluation in the first 80 % of the epochs, 0 on a plateau. ``gain`` with its
        ``gain_low`` and ``gain_high``: the difference, clip by clip, to the baseline with the same
        data and settings; ``error`` and ``df``: its standard error and degrees of freedom; ``p``:
        its t test, ``p_holm`` corrected for all comparisons of this table; ``detectable``: the
        smallest gain that had an 80 % chance to be found after that correction; ``mcnemar`` assumes
        independent clips. With one seed, intervals are over locations alone, and there is no ``p``.
        ``test_all``: on all clips outside training.
        """
        table = _corrected([self._row(kind) for kind in self.systems])
        by = ["control", "table", "fusion", *SIZES]
        return table if table.empty else table.sort_values(by, kind="stable")

    def _row(self, kind: Kind) -> dict:
        runs = self.systems[kind]
        first = runs.records[0]
        seeds = [100 * record["test"]["accuracy"] for record in runs.records]
        low, high = runs.places.interval(runs.correct)
        row = {
            "system": self.names[kind],
            "changed": kind.changed,
            "table": first["table"],
            "command": command(first, self.preset, self.data),
            "control": first["system"] == "tags_only" or runs.tags in CONTROLS,
            **{size: first["parameters"].get(size) for size in SIZES},
            "fusion": first["system"],
            "tags": runs.tags,
            "n_parameters": first["n_parameters"],
            "macs": first["macs"],
            "mean": runs.mean("accuracy"),
            "softmax": runs.mean("accuracy_softmax"),
            "best_on_test": runs.mean("accuracy_paper_protocol"),
            "test_all": runs.mean("accuracy", "test_all"),
            "seeds": seeds,
            "std": np.std(seeds, ddof=1) if len(seeds) > 1 else np.nan,
            "loss": np.mean([record["history"][-1]["loss"] for record in runs.records]),
            "rise": 100 * np.mean([_rise(record) for record in runs.records]),
            "low": 100 * low,
            "high": 100 * high,
            **UNTESTED,
        }
        baseline = Kind("baseline", kind.changed, kind.data, None)
        if kind != baseline and baseline in self.systems:
            row |= self._compared(kind, baseline)
        return row

    @cached_property
    def contrasts(self) -> pd.DataFrame:
        """What the tags' information does: each system against itself with other tags.

        One row for every other source of tags, and one for the same tags without the waveform,
        transformed by as many layers, or as near as there are; columns as in ``measured``.
        ``n_parameters`` and ``n_against`` are those of the two.
        """
        named = {(kind.title, kind.changed, kind.data): kind for kind in self.systems}
        rows = []

        def compare(kind: Kind, other: Kind, against: str) -> None:
            one, two = self.systems[kind], self.systems[other]
            rows.append(
                {
                    "system": kind.title.removesuffix(f", {one.tags} tags"),
                    "tags": one.tags,
                    "against": against,
                    "n_parameters": one.records[0]["n_parameters"],
                    "n_against": two.records[0]["n_parameters"],
                    **UNTESTED,
                    **self._compared(kind, other),
                }
            )

        for kind, runs in self.systems.items():
            first = runs.records[0]
            for tags in CONTROLS[runs.tags].of if runs.tags in CONTROLS else ():
                own = title(first["system"], first["parameters"] | {"tags": tags})
                if same := named.get((own, kind.changed, kind.data)):
                    compare(same, kind, runs.tags)
            alone = [
                other
                for other, there in self.systems.items()
                if there.records[0]["system"] == "tags_only" != first["system"]
                and replace(other, title=kind.title) == kind
            ]
            for other in sorted(alone, key=lambda o: abs(self.systems[o].layers - runs.layers))[:1]:
                compare(kind, other, other.title.removesuffix(f", {runs.tags} tags"))
        return _corrected(rows)

    @cached_property
    def by_character(self) -> pd.DataFrame:
        """``measured`` of the systems that also ran on other characters of these composed scenes.

        Beside it ``character``, 0 to 1: how many places have their scene's own marks. Empty where
        there is one character.
        """
        folder = corpora.results(self.data, self.root)
        parts = {Recipe.character: self.measured}
        for path in folder.parent.glob(f"{glob.escape(folder.name)}@*"):
            if re.fullmatch(r"[01]|0?\.\d+", value := path.name.removeprefix(f"{folder.name}@")):
                parts[float(value)] = Results(path.name, self.root).measured
        table = pd.concat([parts[value].assign(character=value) for value in sorted(parts)])
        runs = table.index.value_counts()[table.index].to_numpy()
        return table[(runs == len(parts)) & (len(parts) > 1)]

    def paper_table(self, number: int) -> pd.DataFrame:
        """One of the paper's Tables 2 to 5: ``published`` (TAU 2019) beside what was measured.

        ``p_holm`` is corrected for the comparisons of this table. Cells without a record are NaN.
        """
        cells = (
            published()
            .query("table == @number")
            .rename(columns={"accuracy": "published", "system": "fusion"})
        )
        if self.measured.empty:
            return cells.assign(mean=np.nan).set_index("fusion")
        here = (
            self.measured.query("not control and changed == ''")
            .reindex(columns=["fusion", *SIZES, "mean", "std", "low", "high", *GAIN, "p", "seeds"])
            .astype(dict.fromkeys(SIZES, "Int64"))
        )
        table = cells.merge(here, "left", ["fusion", *SIZES])
        return table.assign(p_holm=stats.holm(table["p"])).set_index("fusion")

    def table6(self) -> pd.DataFrame:
        """The systems of ``RIVALS`` that were measured, the baseline, attention and "Ours".

        Columns as in ``measured``, and beside them what the paper's Table 6 has of the system that
        each ``follows`` (on TAU 2019): ``published`` accuracy and ``parameters``. Empty where no
        rival was measured.
        """
        if self.measured.empty:
            return self.measured
        table = self.measured.query("not control")
        follows = {
            ", ".join(" ".join(pair) for pair in rival.parameters.items()): rival.published
            for rival in RIVALS.values()
        }
        # A front-end may have a length of training of its own.
        rivals = table["changed"].str.replace(r"^epochs \d+, ", "", regex=True).map(follows)
        own = {"baseline": "", "attention": "", "combined_shared": "Ours"}
        best = tuple(title(name, FUSIONS[name].main[-1]) for name in own)
        usual = (table["changed"] == "") & table.index.str.startswith(best)
        table = table.assign(follows=rivals.fillna(table["fusion"].map(own).where(usual)))
        names = {"system": "follows", "accuracy": "published"}
        published = published_table6().rename(columns=names).set_index("follows")
        return table[table["follows"].notna() & rivals.notna().any()].join(published, "follows")

    def by(self, column: str) -> pd.DataFrame:
        """Accuracy in % of each system (rows) by "scene" or "city" of the test clips."""
        rows = {}
        for kind, runs in self.systems.items():
            clips = runs.predictions[0]
            scenes = np.asarray(runs.records[0]["labels"])[clips["truth"]]
            groups = scenes if column == "scene" else clips["city"].to_numpy()
            rows[self.names[kind]] = pd.Series(100 * runs.correct.mean(0)).groupby(groups).mean()
        return pd.DataFrame(rows).T

    def taggers(self) -> pd.DataFrame:
        """What each supervision gives the tagger on the test clips, as text, in training order.

        lwlrap after both stages with its 95 % interval (over recordings), its gain over
        the row above on the same clips, and the share of clips whose most probable tag is right.
        Seeds are averaged clip by clip.
        """
        known = ["fname", "recording", "labels"]
        rows = []
        above = None
        for supervision in SUPERVISION:
            runs = [
                record
                for record in self.records
                if record["system"] == "tagger"
                and record["parameters"]["supervision"] == supervision
                and record["parameters"]["epochs"] == self._epochs(record)
            ]
            if not runs:
                continue
            clips = [self._tagged(run) for run in runs]
            seeds = {run["parameters"]["seed"] for run in runs}
            same = all(table[known].equals(clips[0][known]) for table in clips)
            if len(seeds) < len(runs) or not same:
                raise ValueError(
                    f"{' and '.join(run['run'] for run in runs)} are not runs with different seeds "
                    "on the same clips: remove one record"
                )
            evaluated = clips[0].assign(
                **{
                    name: np.mean([table[name] for table in clips], 0)
                    for name in ("lrap", "lrap_stage_1", "top")
                }
            )
            gain = "" if above is None else _lwlrap(evaluated, evaluated["lrap"] - above, "+")
            chance = np.mean([run["lwlrap"]["stage 2"]["test"]["chance"] for run in runs])
            rows.append(
                {
                    "supervision": supervision.replace("_", " "),
                    "seeds": len(runs),
                    "lwlrap after stage 1": _lwlrap(evaluated, evaluated["lrap_stage_1"]),
                    "lwlrap after stage 2": _lwlrap(evaluated, evaluated["lrap"]),
                    "gain over the row above": gain,
                    "chance": f"{chance:.3f}",
                    "accuracy %": f"{100 * evaluated['top'].mean():.1f}",
                }
            )
            above = evaluated["lrap"]
        return pd.DataFrame(rows).set_index("supervision") if rows else pd.DataFrame()

    def _tagged(self, record: dict) -> pd.DataFrame:
        clips = read_predictions(record["run"], self.data, self.root)
        for stage, column in (("stage 1", "lrap_stage_1"), ("stage 2", "lrap")):
            figure = np.average(clips.get(column, [np.nan]), weights=clips.get("labels", [1]))
            if not np.isclose(figure, record["lwlrap"][stage]["test"]["lwlrap"]):
                raise ValueError(
                    f"{record['run']}.npz does not match its record: "
                    "remove both, and run its cell again"
                )
        return clips

    def learning(self) -> pd.DataFrame:
        """Accuracy (%) on the test clips after each evaluated epoch, mean over seeds."""
        curves = {
            (self.names[kind], record["parameters"]["seed"]): _curve(record)
            for kind, runs in self.systems.items()
            for record in runs.records
        }
        table = 100 * pd.DataFrame(curves).T.groupby(level=0, sort=False).mean()
        return table.sort_index(axis=1).round(1).rename_axis("system")

    def evidence(self) -> pd.DataFrame:
        """One row per system: the question, the figure that answers it, and the command."""
        table = self.measured
        if table.empty:
            return table
        return pd.DataFrame(
            {
                "question": [
                    CONTROL_CELLS.get((fusion, tags))
                    or (CONTROLS[tags].question if tags in CONTROLS else "")
                    or (FUSIONS[fusion].question if fusion in FUSIONS else "What does it gain?")
                    for tags, fusion in zip(table["tags"], table["fusion"])
                ],
                "system": table.index,
                "figure": [
                    f"{mean:.1f} %, {gain}" if gain else f"{mean:.1f} %"
                    for mean, gain in zip(table["mean"], spans(table, *GAIN, sign="+"))
                ],
                "command": table["command"].to_numpy(),
            }
        ).set_index("question")

    def drawn(self) -> dict[str, str]:
        """All tables as CSV, by file name: what the records give, nothing else."""
        found = {
            "systems": readable.systems(self.measured),
            "evidence": self.evidence(),
            "contrasts": readable.contrasts(self.contrasts),
            "learning": self.learning() if self.systems else pd.DataFrame(),
            "character": readable.character(self.by_character),
            "taggers": self.taggers(),
            "by_scene": self.by("scene").round(1).rename_axis("system"),
            "by_city": self.by("city").round(1).rename_axis("system"),
        }
        for number in GRIDS:
            grid = self.paper_table(number)
            if grid["mean"].notna().any():
                found[f"table{number}"] = readable.grid(grid)
        found["table6"] = readable.rivals(self.table6())
        return {f"{name}.csv": table.to_csv() for name, table in found.items() if len(table)}


def _curve(record: dict) -> dict[int, float]:
    """Accuracy on the test clips after each evaluated epoch, of the SVM with the RBF kernel."""
    return {
        **{row["epoch"]: row["test_rbf"] for row in record["history"] if "test_rbf" in row},
        record["history"][-1]["epoch"]: record["test"]["accuracy_by_kernel"]["rbf"],
    }


def _rise(record: dict) -> float:
    """Of the accuracy, since the last evaluation in the first 80 % of the epochs."""
    curve = _curve(record)
    before = [curve[epoch] for epoch in sorted(curve) if epoch <= 0.8 * max(curve)]
    return curve[max(curve)] - before[-1] if before else np.nan


def _corrected(rows: list[dict]) -> pd.DataFrame:
    table = pd.DataFrame(rows)
    if not rows:
        return table
    return table.assign(
        p_holm=stats.holm(table["p"]),
        detectable=stats.detectable(table["error"], table["df"], table["p"].count()),
    ).set_index("system")


def _lwlrap(evaluated: pd.DataFrame, values: pd.Series, sign: str = "") -> str:
    mean = np.average(values, weights=evaluated["labels"])
    low, high = stats.Places(evaluated["recording"], evaluated["labels"]).interval(values)
    return f"{mean:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"

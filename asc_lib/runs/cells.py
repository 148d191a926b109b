"""What is run: the paper's 56 cells, the main systems and the controls, as notebook parameters."""

import ast
import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd

from .. import corpora
from ..corpora import store
from ..files import REPOSITORY
from ..fusion import FUSIONS, SIZES
from ..registry import load_plugins
from ..settings import NOTEBOOKS, RIVALS, Settings, check
from ..tags import sources
from ..tags.sources import BY_SEED, CONTROLS, open_tag_vectors
from ..tags.tag_data import SUPERVISION
from . import records

TAGGER = "01_tagger"
CONTROL_CELLS = {  # what the paper lacks, and the question of each: other tags, and tags alone
    **{
        ("combined_shared", tags): CONTROLS[tags].question
        for tags in ("shuffled", "constant", "true")
    },
    **{("attention", tags): source.question for tags, source in CONTROLS.items()},
    ("tags_only", "tagger"): "How accurate are tags alone?",
    ("tags_only", "true"): "Is the gain by true tags fusion, or tags alone?",
    ("tags_only", "yamnet"): "How accurate are tags alone?",
}


def published() -> pd.DataFrame:
    """The paper's 56 cells (Tables 2 to 5): table, system, sizes and accuracy (%) on TAU 2019."""
    return pd.read_csv(REPOSITORY / "results" / "paper" / "published.csv").astype(
        {size: "Int64" for size in SIZES}
    )


def published_table6() -> pd.DataFrame:
    """The paper's Table 6: system, number of parameters, accuracy (%) on TAU 2019."""
    table = pd.read_csv(REPOSITORY / "results" / "paper" / "published_table6.csv")
    return table.astype({"parameters": "Int64"})


def papermill_line(notebook: Path | str, output: Path | str, parameters: dict) -> list[str]:
    given = [word for name, value in parameters.items() for word in ("-p", name, str(value))]
    return ["papermill", str(notebook), str(output), *given]


@dataclass(frozen=True)
class Cell:
    """One configuration: a notebook and the parameters that differ from its own."""

    notebook: str
    parameters: dict[str, int | str]

    @property
    def path(self) -> Path:
        return REPOSITORY / "notebooks" / f"{self.notebook}.ipynb"

    def settings(self) -> Settings:
        import papermill  # takes seconds; most commands do without it

        defaults = {
            name: ast.literal_eval(entry["default"])
            for name, entry in papermill.inspect_notebook(str(self.path)).items()
        }
        return check(self.notebook, **(defaults | self.parameters))

    def command(self, folder: Path) -> str:
        """The papermill line that runs it, with its notebook executed into ``folder``."""
        name = re.sub(
            "[^A-Za-z0-9]+", "_", "-".join([self.notebook, *map(str, self.parameters.values())])
        )
        return shlex.join(papermill_line(self.path, folder / f"{name}.ipynb", self.parameters))


def cell(system: str, parameters: dict[str, int | str], **others: int | str) -> Cell:
    """The cell of a system: a fusion's name, or "tagger"; ``others`` that its notebook has."""
    notebook = TAGGER if system == "tagger" else FUSIONS.find(system).notebook
    names = NOTEBOOKS[notebook]
    chosen = {"fusion": system} if "fusion" in names else {}
    return Cell(notebook, {k: v for k, v in others.items() if k in names} | chosen | parameters)


def sweeps() -> dict[str, list[tuple[str, dict[str, int | str]]]]:
    """What can be swept, by name: systems with their parameters.

    "main": the paper's best cells and the baseline; "systems": one of each; "first": tags alone,
    baseline, attention, combined; "controls", and "yamnet_controls" of its tags; "rivals": systems
    of Table 6 and later; "table2" to "table5"; "all" 56; the three "taggers"; and each system by
    its own name, at its `main` sizes.
    """
    load_plugins()
    paper = {name: entry for name, entry in FUSIONS.items() if entry.table}
    best = {name: entry.main[-1] for name, entry in FUSIONS.items()}
    grid = published()
    cells = [
        (row["system"], {size: int(row[size]) for size in SIZES if pd.notna(row[size])})
        for _, row in grid.iterrows()
    ]
    return {
        "main": [(name, sizes) for name, entry in paper.items() for sizes in entry.main],
        "systems": [(name, best[name]) for name in paper],
        "first": [
            (name, best[name]) for name in ("baseline", "tags_only", "attention", "combined_shared")
        ],
        **{
            sweep: [
                (name, best[name] | ({} if tags == "tagger" else {"tags": tags}))
                for name, tags in CONTROL_CELLS
                if ("yamnet" in tags) == (sweep == "yamnet_controls")
            ]
            for sweep in ("controls", "yamnet_controls")
        },
        "rivals": [
            (name, best[name] | rival.parameters)
            for rival in RIVALS.values()
            for name in rival.fusions
        ],
        "taggers": [("tagger", {"supervision": name}) for name in SUPERVISION],
        "all": cells,
        **{
            f"table{number}": [cells[row] for row in rows]
            for number, rows in grid.groupby("table").groups.items()
        },
        "tagger": [("tagger", {})],
        **{name: [(name, sizes) for sizes in entry.main] for name, entry in FUSIONS.items()},
    }


def cells(name: str, **others: int | str) -> list[Cell]:
    """The cells of one of ``sweeps``. Raises ValueError for any other name."""
    chosen = sweeps()
    if name not in chosen:
        raise ValueError(f"unknown sweep '{name}': choose one of {', '.join(chosen)}")
    for known, resolved in (("data", corpora.resolved), ("tags", sources.resolved)):
        if others.get(known, "auto") != "auto":  # a worker may run in another folder
            others[known] = resolved(others[known])
    return [cell(system, parameters, **others) for system, parameters in chosen[name]]


def parts(cells: list[Cell]) -> list[Cell]:
    """The cells of each fold of a data set that is made of folds; none of any other."""
    return [
        Cell(cell.notebook, cell.parameters | {"data": data})
        for cell in cells
        for data in corpora.folds(str(cell.parameters["data"]))
    ]


def run_names(chosen: list[Cell]) -> list[str]:
    """Names of the runs of cells; makes the data and tag vectors they read, where missing."""

    @cache
    def scenes(data: str) -> tuple:
        corpus = corpora.find(data).scenes()
        return corpus, store.pack(corpus)

    @cache
    def vectors(data: str, source: str, seed: int):
        return open_tag_vectors(source, *scenes(data), seed)

    names = []
    for settings in (cell.settings() for cell in chosen):
        if settings.notebook == TAGGER:
            names.append(records.tagger_run(settings, corpora.find(settings.data).tagger_clips()))
        else:
            seed = settings.seed if settings.tags in BY_SEED else 0
            corpus, waveforms = scenes(settings.data)
            tags = None
            if settings.tags:
                tags = vectors(settings.data, settings.tags, seed)
                tags = tags.kept(settings.n_tags, corpus.rows("train"))
            names.append(records.scene_run(settings, waveforms, tags))
    return names

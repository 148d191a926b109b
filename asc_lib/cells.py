"""What is run: the paper's 56 cells, the main systems and the controls, each as a notebook and its parameters."""

import ast
import re
import shlex
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pandas as pd
import papermill

from . import records, store, tables
from .artefacts import REPOSITORY
from .corpora import SceneCorpus, open_scenes, open_tags
from .experiment import SIZES, Settings, check
from .fusion import FUSIONS
from .tables import NOTEBOOK_OF
from .tag_vectors import TagVectors, open_tag_vectors
from .tagger import SUPERVISION

BEST = {"heads": 4, "layers": 3}  # of the combined system that the paper reports last (Tables 5 and 6)
MAIN = [  # the baseline and Table 2's methods; of each of the other tables, the best cell
    ("baseline", {}),
    ("codecat", {}),
    ("before_code", {"layers": 0}),
    ("before_code", {"layers": 3}),
    ("attention", {"heads": 2, "layers": 1}),
    ("combined_separate", {"heads": 4, "concat_layers": 4, "attention_layers": 3}),
    ("combined_shared", BEST),
]
CONTROLS = [  # what the paper lacks: the same systems with other tags, and tags without the waveform
    ("combined_shared", BEST | {"tags": "shuffled"}),  # the tags of other clips: no information, as much noise
    ("combined_shared", BEST | {"tags": "constant"}),  # the baseline matched in parameters
    ("combined_shared", BEST | {"tags": "true"}),  # an upper bound: what a perfect tagger would give
    ("attention", {"heads": 2, "layers": 1, "tags": "constant"}),  # an attention map that is the same for every clip
    ("tags_only", {"layers": 3}),
]


@dataclass(frozen=True)
class Cell:
    """One configuration: a notebook and the parameters that differ from its own."""

    notebook: str
    parameters: dict[str, int | str]

    @property
    def path(self) -> Path:
        """The notebook's file."""
        return REPOSITORY / "notebooks" / f"{self.notebook}.ipynb"

    def settings(self) -> Settings:
        """The parameters, checked, with the notebook's defaults."""
        defaults = {n: ast.literal_eval(p["default"]) for n, p in papermill.inspect_notebook(str(self.path)).items()}
        return check(self.notebook, **(defaults | self.parameters))

    def command(self, folder: Path) -> str:
        """The papermill line that runs it, with its notebook executed into ``folder``."""
        given = [word for name, value in self.parameters.items() for word in ("-p", name, str(value))]
        words = [self.notebook, *(f"{value}" for value in self.parameters.values())]
        output = folder / f"{re.sub(r'[^A-Za-z0-9]+', '_', '-'.join(words))}.ipynb"
        return shlex.join(["papermill", str(self.path), str(output), *given])


def cell(system: str, parameters: dict[str, int | str], **others: int | str) -> Cell:
    """The cell of a system."""
    notebook = NOTEBOOK_OF.get(system, "05_combined")
    chosen = {"fusion": system} if notebook in ("03_concatenation", "05_combined") else {}
    return Cell(notebook, others | chosen | parameters)


def cells(name: str, **others: int | str) -> list[Cell]:
    """The cells of "main" (seven), of "systems" (one of each of the six), of "controls" (five), of one of these
    systems, of "table2" to "table5", of "all" 56, or of the three "taggers".

    Raises ValueError for any other name.
    """
    grid = tables.published()
    best = {system: sizes for system, sizes in MAIN}  # the last of each
    chosen = {
        "main": MAIN,
        "systems": list(best.items()),
        "controls": CONTROLS,
        "taggers": [("tagger", {"supervision": supervision}) for supervision in SUPERVISION],
        "all": _of_paper(grid),
        **{f"table{number}": _of_paper(part) for number, part in grid.groupby("table")},
        **{system: [(system, best.get(system, {}))] for system in (*NOTEBOOK_OF, *FUSIONS)},
    }
    if name not in chosen:
        raise ValueError(f"unknown sweep '{name}': choose one of {', '.join(chosen)}")
    return [cell(system, parameters, **others) for system, parameters in chosen[name]]


def _of_paper(grid: pd.DataFrame) -> list[tuple[str, dict[str, int]]]:
    rows = [row.dropna() for _, row in grid[["system", *SIZES]].iterrows()]
    return [(row["system"], {size: int(row[size]) for size in SIZES if size in row}) for row in rows]


def run_names(chosen: list[Cell]) -> list[str]:
    """Names of the runs that cells lead to; makes the data and tag vectors that they read, if they are not there."""

    @cache
    def scenes(data: str) -> tuple[SceneCorpus, store.Store]:
        corpus = open_scenes(data)
        return corpus, store.pack(corpus)

    @cache
    def vectors(data: str, source: str, seed: int) -> TagVectors:
        return open_tag_vectors(source, *scenes(data), seed)

    names = []
    for settings in (one.settings() for one in chosen):
        if settings.notebook == NOTEBOOK_OF["tagger"]:
            names.append(records.tagger_run(settings, open_tags(settings.data)))
        else:
            seed = settings.seed if settings.tags == "shuffled" else 0
            tags = vectors(settings.data, settings.tags, seed) if settings.tags else None
            names.append(records.scene_run(settings, scenes(settings.data)[1], tags))
    return names

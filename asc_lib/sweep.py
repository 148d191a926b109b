"""Many runs: the paper's cells as notebook and parameters, each executed by papermill in a process of its own."""

import ast
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import papermill

from . import records, store, tables
from .artefacts import REPOSITORY, results_root
from .corpora import open_scenes, open_tags
from .experiment import SIZES, Settings, check
from .scene_net import FUSIONS
from .tag_vectors import open_tag_vectors
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
MAIN = {  # the baseline and, of each of the paper's tables, the best cell; Table 2's two other methods
    "baseline": {},
    "codecat": {},
    "before_code": {"layers": 3},
    "attention": {"heads": 2, "layers": 1},
    "combined_separate": {"heads": 4, "concat_layers": 4, "attention_layers": 3},
    "combined_shared": {"heads": 4, "layers": 3},
}


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

    def command(self, output: Path) -> list[str]:
        """The papermill line that runs it."""
        given = [word for name, value in self.parameters.items() for word in ("-p", name, str(value))]
        return [sys.executable, "-m", "papermill", "--log-output", str(self.path), str(output), *given]


def cell(system: str, sizes: dict[str, int], **others: int | str) -> Cell:
    """The cell of a system."""
    notebook = NOTEBOOK_OF.get(system, "05_combined")
    chosen = {"fusion": system} if notebook in ("03_concatenation", "05_combined") else {}
    return Cell(notebook, others | chosen | sizes)


def cells(name: str, **others: int | str) -> list[Cell]:
    """The cells of "main", of one system of it, of "table2" to "table5", of "all" 56, or of the three "taggers".

    Raises ValueError for any other name.
    """
    if name == "main":
        return [cell(system, sizes, **others) for system, sizes in MAIN.items()]
    if name == "taggers":
        return [cell("tagger", {}, **others, supervision=supervision) for supervision in SUPERVISION]
    if name in (*NOTEBOOK_OF, *FUSIONS):
        return [cell(name, MAIN.get(name, {}), **others)]
    grid = tables.published()
    of_tables = (f"table{number}" for number in sorted(grid["table"].unique()))
    known = dict.fromkeys(["all", "main", "taggers", *of_tables, *NOTEBOOK_OF, *FUSIONS])
    if name not in known:
        raise ValueError(f"unknown sweep '{name}': choose one of {', '.join(known)}")
    chosen = grid if name == "all" else grid[grid["table"] == int(name.removeprefix("table"))]
    rows = [row.dropna() for _, row in chosen[["system", *SIZES]].iterrows()]
    return [cell(row["system"], {size: int(row[size]) for size in SIZES if size in row}, **others) for row in rows]


def run_name(one: Cell) -> str:
    """Name of the run that a cell leads to; makes the data and tag vectors that it reads, if they are not there."""
    settings = one.settings()
    if one.notebook == NOTEBOOK_OF["tagger"]:
        return records.tagger_run(settings, open_tags(settings.data))
    corpus = open_scenes(settings.data)
    waveforms = store.pack(corpus)
    tags = open_tag_vectors(settings.tags, corpus, waveforms, settings.seed) if settings.tags else None
    return records.scene_run(settings, waveforms, tags)


def run(chosen: list[Cell], workers: int = 1) -> list[Cell]:
    """Execute the cells that have no record yet, ``workers`` at a time; return those that failed."""
    waiting = []
    for one in chosen:
        name, folder = run_name(one), results_root() / one.settings().data_name
        if (folder / "records" / f"{name}.json").exists():
            print(f"done before: {name}", flush=True)
        else:
            waiting.append((one, folder / "notebooks" / f"{name}.ipynb"))
    with ThreadPoolExecutor(workers) as pool:
        succeeded = list(pool.map(lambda item: _execute(*item), waiting))
    return [one for (one, _), good in zip(waiting, succeeded) if not good]


def _execute(one: Cell, output: Path) -> bool:
    output.parent.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(one.command(output), capture_output=True, text=True)
    print(f"{'FAILED' if done.returncode else 'done'}: {output.stem}", flush=True)
    if done.returncode:
        last = done.stderr.strip().splitlines()[-1:]
        print("\n".join([*last, f"see {output}", shlex.join(one.command(output))]), flush=True)
    return not done.returncode

"""What several tests use: parameters of notebooks, folders, and runs through papermill."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import papermill
import pytest
import torch
from traitlets.config import Config

from asc_lib.files import REPOSITORY
from asc_lib.scene_net import SceneNet

COMMON = dict(data="mini", seed=0, epochs=0, device="cpu", threads=0)
BASELINE = COMMON | dict(recipe="", front_end="auto", precision="float32")
TAGGED = BASELINE | dict(tags="tagger", tag_windows="auto", n_tags=80)
ATTENTION = TAGGED | dict(heads=2, layers=1)
COMBINED = ATTENTION | dict(
    fusion="combined_shared", heads=4, layers=3, concat_layers=4, attention_layers=3
)
NOTEBOOKS = REPOSITORY / "notebooks"


@contextmanager
def roots(folder: Path) -> Iterator[None]:
    """Data and results under a folder, for a while."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASC_DATA", str(folder / "data"))
        patch.setenv("ASC_RESULTS", str(folder / "results"))
        yield


def read_by(net: SceneNet, clips: int, samples: int) -> dict[str, torch.Tensor]:
    """Random inputs [clips, 2, samples] of what a network reads in training."""
    batch = {"waveform": torch.randn(clips, 2, samples), "tags": torch.rand(clips, net.n_tags)}
    if net.fusion.reads == "windows":
        batch["tags"] = torch.rand(clips, 2, net.n_tags)
        batch["times"] = torch.tensor([[[0.0, 0.1], [0.1, 0.2]]] * clips)
    return batch


def kernels_without_ports(folder: str | Path) -> dict[str, str]:
    """Two kernels that start at once may take the same TCP port, and wait for ever."""
    return {"transport": "ipc", "ip": f"{folder}/kernel"}


def execute(notebook: Path, results: Path, cwd: Path, **parameters: object) -> None:
    """Execute a notebook into ``results``/out.ipynb, with its record under ``results``."""
    results.mkdir(parents=True, exist_ok=True)
    given = {name: str(v) if isinstance(v, Path) else v for name, v in parameters.items()}
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as folder:
        patch.setenv("ASC_RESULTS", str(results))
        patch.chdir(cwd)
        config = Config(KernelManager=kernels_without_ports(folder))
        papermill.execute_notebook(
            notebook, results / "out.ipynb", given, progress_bar=False, config=config
        )


def execute_here(name: str, **parameters: object) -> None:
    """Execute a notebook's cells in this process, which takes less time than a kernel's start."""
    names = {}
    for cell in json.loads((NOTEBOOKS / f"{name}.ipynb").read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            exec("".join(cell["source"]), names)
            names |= parameters if cell["metadata"].get("tags") == ["parameters"] else {}


def papermill_line(
    notebook: str, results: Path, parameters: dict[str, object]
) -> subprocess.CompletedProcess:
    """The same as a user types it, in the notebooks' folder."""
    results.mkdir(parents=True, exist_ok=True)
    given = [word for name, v in parameters.items() for word in ("-p", name, str(v))]
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", notebook]
    return subprocess.run(
        [*command, results / "out.ipynb", *given],
        cwd=NOTEBOOKS,
        env=os.environ | {"ASC_RESULTS": str(results)},
        capture_output=True,
        text=True,
    )

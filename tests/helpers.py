"""What several tests use: parameters of notebooks, folders, and runs through papermill."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

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


def words(parameters: dict) -> list[str]:
    """Parameters as papermill takes them."""
    return [word for key, value in parameters.items() for word in ("-p", key, str(value))]


def read_by(net: SceneNet, clips: int, samples: int) -> dict[str, torch.Tensor]:
    """Random inputs [clips, 2, samples] of what a network reads in training."""
    batch = {"waveform": torch.randn(clips, 2, samples), "tags": torch.rand(clips, net.n_tags)}
    if net.fusion.reads == "windows":
        batch["tags"] = torch.rand(clips, 2, net.n_tags)
        batch["times"] = torch.tensor([[[0.0, 0.1], [0.1, 0.2]]] * clips)
    return batch


def papermill(
    notebook: Path | str, results: Path, cwd: Path, *given: str, **environment: str
) -> subprocess.CompletedProcess:
    """Execute a notebook into ``results``/out.ipynb, with its record under ``results``."""
    results.mkdir(parents=True, exist_ok=True)
    output = results / "out.ipynb"
    command = [sys.executable, "-m", "papermill", "--no-progress-bar", notebook, output, *given]
    env = os.environ | {"ASC_RESULTS": str(results)} | environment
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True)

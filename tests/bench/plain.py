"""The plain way, as a careful researcher would write it: eager float32 layers, and WAV files.

The network is the one that notebook 02 builds from PyTorch's own layers, read from there. Nothing
is shared with ``asc_lib`` but the names of the weights, so that the same weights can be loaded into
both. No tags, no mixup: the work that every configuration does.
"""

import json
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

NOTEBOOK = Path(__file__).resolve().parents[2] / "notebooks" / "02_baseline.ipynb"
RELEASED = dict(stem=128, blocks=(64, 64, 128, 128, 128, 128, 128), padding=3, code=128, bias=False)


def of_notebook_02() -> dict:
    """The classes and functions in the cells of notebook 02 that are tagged "plain"."""
    names = {"nn": nn, "F": F, "torch": torch}
    for cell in json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]:
        if "plain" in cell["metadata"].get("tags", []):
            exec("".join(cell["source"]), names)
    return names


def plain_net(classes: int = 10, **sizes) -> nn.Module:
    """The plain network, by default with the released front-end's sizes."""
    return of_notebook_02()["Baseline"](**(RELEASED | sizes), classes=classes)


class Clips(Dataset):
    """A random excerpt of each WAV file, pre-emphasised."""

    def __init__(self, paths: list[Path], targets: np.ndarray, crop: int):
        self.paths, self.targets, self.crop = paths, targets, crop

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[np.ndarray, int]:
        clip = soundfile.read(self.paths[index], dtype="float32")[0].T
        clip = 32000 * (clip[:, 1:] - 0.97 * clip[:, :-1])
        start = torch.randint(clip.shape[1] - self.crop + 1, ()).item()
        return clip[:, start : start + self.crop].astype("float32"), self.targets[index]


def step(
    net: nn.Module, optimiser: torch.optim.Optimizer, waveform: torch.Tensor, targets: torch.Tensor
) -> float:
    """One training step; its loss."""
    optimiser.zero_grad()
    loss = F.cross_entropy(net(waveform), targets)
    loss.backward()
    optimiser.step()
    return loss.item()


def epoch(
    net: nn.Module, optimiser: torch.optim.Optimizer, clips: Clips, batch: int, workers: int
) -> None:
    """One epoch over WAV files."""
    device = next(net.parameters()).device
    for waveform, targets in DataLoader(
        clips, batch, shuffle=True, drop_last=True, num_workers=workers
    ):
        step(net.train(), optimiser, waveform.to(device), targets.to(device))


@torch.no_grad()
def probabilities(net: nn.Module, waveform: torch.Tensor) -> torch.Tensor:
    """Scene probabilities [B, classes] of waveforms [B, 2, T]."""
    return net.eval()(waveform).softmax(1)

"""The plain way, as a careful researcher would write it: eager float32 layers, and a data set that reads WAV files.

It shares nothing with ``asc_lib`` but the sizes of the released front-end and the names of its weights, so that the
same weights can be loaded into both. No tags, no mixup: the work that every configuration does.
"""

from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset


class Block(nn.Module):
    def __init__(self, inputs: int, filters: int):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv1d(inputs, filters, 3, padding=1), nn.BatchNorm1d(filters)
        self.conv2, self.bn2 = nn.Conv1d(filters, filters, 3, padding=1), nn.BatchNorm1d(filters)
        self.skip = nn.Conv1d(inputs, filters, 3, padding=1) if inputs != filters else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bn2(self.conv2(F.leaky_relu(self.bn1(self.conv1(x)), 0.3)))
        return F.max_pool1d(F.leaky_relu(y + self.skip(x), 0.3), 3)


class PlainNet(nn.Module):
    """Waveform [B, 2, T] to logits [B, classes]."""

    def __init__(self, classes: int = 10):
        super().__init__()
        self.stem, self.stem_bn = nn.Conv1d(2, 128, 12, stride=12), nn.BatchNorm1d(128)
        widths = [128, 64, 64, 128, 128, 128, 128, 128]
        self.blocks = nn.Sequential(*(Block(i, o) for i, o in zip(widths, widths[1:])))
        self.last = nn.Sequential(
            nn.Conv1d(128, 128, 1, padding=3), nn.BatchNorm1d(128), nn.LeakyReLU(0.3)
        )
        self.code, self.output = nn.Linear(256, 128), nn.Linear(128, classes, bias=False)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        x = self.last(self.blocks(F.leaky_relu(self.stem_bn(self.stem(waveform)), 0.3)))
        return self.output(self.code(torch.cat([x.mean(2), x.amax(2)], 1)))


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
    net: PlainNet, optimiser: torch.optim.Optimizer, waveform: torch.Tensor, targets: torch.Tensor
) -> float:
    """One training step; its loss."""
    optimiser.zero_grad()
    loss = F.cross_entropy(net(waveform), targets)
    loss.backward()
    optimiser.step()
    return loss.item()


def epoch(
    net: PlainNet, optimiser: torch.optim.Optimizer, clips: Clips, batch: int, workers: int
) -> None:
    """One epoch over WAV files."""
    device = next(net.parameters()).device
    for waveform, targets in DataLoader(
        clips, batch, shuffle=True, drop_last=True, num_workers=workers
    ):
        step(net.train(), optimiser, waveform.to(device), targets.to(device))


@torch.no_grad()
def probabilities(net: PlainNet, waveform: torch.Tensor) -> torch.Tensor:
    """Scene probabilities [B, classes] of waveforms [B, 2, T]."""
    return net.eval()(waveform).softmax(1)

"""Tag vectors of windows: how recordings are cut, and which windows a network reads."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from ..corpora.audio import RATE, resampled
from ..files import fingerprint

CHOICES = ("random", "excerpt", "clip")  # of windows in training; the last is the paper's


class WindowTagger:
    """A tagger of recordings, in windows of ``length`` every ``hop`` (s) of mono sound."""

    tags: list[str]
    rate: int  # Hz
    length: float
    hop: float

    def tag_mono(self, windows: torch.Tensor) -> torch.Tensor:
        """Tag vectors [n, c], 0 to 1, of windows [n, samples] at ``rate``, within ±1."""
        raise NotImplementedError

    def times(self, samples: int) -> np.ndarray:
        """Start and end (s) of the windows [w, 2] of a clip of so many samples at 48 kHz."""
        seconds = samples / RATE
        count = 1 + max(math.floor((seconds - self.length) / self.hop + 1e-6), 0)
        starts = self.hop * np.arange(count)
        return np.stack([starts, np.minimum(starts + self.length, seconds)], 1)

    def tag_windows(self, clips: torch.Tensor) -> torch.Tensor:
        """Tag vectors [B, w, c] of int16 clips [B, channels, T] at 48 kHz.

        The mean of the channels is resampled; a clip shorter than a window is followed by zeros.
        """
        mono = resampled(clips.cpu().float().mean(1).numpy() / 2**15, RATE, self.rate)
        size = round(self.length * self.rate)
        starts = np.round(self.times(clips.shape[-1])[:, 0] * self.rate).astype(int)
        padded = np.pad(mono, ((0, 0), (0, max(starts[-1] + size - mono.shape[1], 0))))
        pieces = np.stack([padded[:, start : start + size] for start in starts], 1)
        vectors = self.tag_mono(torch.from_numpy(pieces.reshape(-1, size)))
        return vectors.reshape(len(clips), len(starts), -1)


def shares(
    choice: str,
    times: np.ndarray,
    starts: np.ndarray,
    length: float,
    rng: np.random.Generator,
) -> np.ndarray:
    """What each window [w, 2] counts in the tag vectors of excerpts: [B, w], of sum 1.

    ``choice``: "excerpt", those that overlap the ``length`` seconds after
    ``starts`` [B]; "random", a random half of them.
    """
    count = len(times)
    if choice == "excerpt":
        overlap = np.minimum(times[:, 1], starts[:, None] + length) - np.maximum(
            times[:, 0], starts[:, None]
        )
        chosen = overlap >= np.minimum(overlap.max(1, keepdims=True), 1e-6)
    else:
        order = rng.permuted(np.tile(np.arange(count), (len(starts), 1)), axis=1)
        chosen = order < (count + 1) // 2
    return chosen / chosen.sum(1, keepdims=True)


def along(
    values: torch.Tensor, times: np.ndarray, starts: np.ndarray, length: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tag vectors [B, w, c] along excerpts: [B, n, c] of n equal parts, and their times [B, n, 2].

    As many parts as windows begin in ``length`` seconds; linear between the middles of windows.
    Times are in s after the excerpts' starts [B], the same in all, so that mixup may mix them.
    """
    middles = times.mean(1)
    hop = float(middles[1] - middles[0]) if len(middles) > 1 else length
    count = max(round(length / hop), 1)
    part = length / count
    at = starts[:, None] + part * (np.arange(count) + 0.5)  # [B, n]
    place = torch.from_numpy(((at - middles[0]) / hop).clip(0, len(middles) - 1))
    low = place.floor().long().clamp(max=max(len(middles) - 2, 0))
    share = (place - low)[..., None].to(values.dtype)
    rows = torch.arange(len(values))[:, None]
    high = (low + 1).clamp(max=len(middles) - 1)
    mixed = (1 - share) * values[rows, low] + share * values[rows, high]
    edges = part * np.stack([np.arange(count), np.arange(1, count + 1)], 1)
    return mixed, torch.from_numpy(np.tile(edges, (len(values), 1, 1))).float()


@dataclass(frozen=True)
class TagVectors:
    """Tag vectors of all clips of a scene corpus, in its order, and where they come from.

    ``values`` [clips, windows, c], each within 0 to 1; one window where the source knows the clip
    as a whole only. ``times`` [windows, 2]: start and end of each window (s); None: the whole clip.
    """

    values: np.ndarray
    names: list[str]
    source: str
    lwlrap: dict | None = None  # of our own tagger, on its test clips
    tagger: WindowTagger | None = None  # that gives tag vectors of other recordings
    times: np.ndarray | None = None
    redrawn: Callable[[np.ndarray, np.random.Generator], np.ndarray] | None = None

    @cached_property
    def clips(self) -> np.ndarray:
        """One tag vector per clip [clips, c]: the mean over its windows."""
        return self.values.mean(1)

    @property
    def fingerprint(self) -> str:
        return fingerprint(np.ascontiguousarray(self.values).tobytes(), self.names)

    def kept(self, number: int, rows: np.ndarray) -> "TagVectors":
        """The ``number`` tags that vary most over the clips ``rows``; all of them for 0."""
        spread = self.clips[rows].var(0)
        best = np.sort(np.argsort(-spread, kind="stable")[: number or None])
        if len(best) == len(self.names):
            return self
        again = self.redrawn and (lambda rows, rng: self.redrawn(rows, rng)[..., best])
        names = [self.names[tag] for tag in best]
        return replace(self, values=self.values[..., best], names=names, redrawn=again)

    def inputs(
        self,
        rows: np.ndarray,
        reads: str,
        starts: np.ndarray,
        length: float,
        choice: str = "clip",
        rng: np.random.Generator | None = None,
    ) -> dict[str, torch.Tensor]:
        """What a fusion reads (``Fusion.reads``) of excerpts of ``length`` from ``starts`` on (s).

        ``choice``: of windows, for a fusion that reads one tag vector (``windows.shares``).
        ``rng``: in training.
        """
        times = np.array([[0.0, length]]) if self.times is None else self.times
        weights = None if choice == "clip" else shares(choice, times, starts, length, rng)
        values = self.redrawn(rows, rng) if rng and self.redrawn else self.values[rows]
        return as_read(torch.from_numpy(values), times, reads, starts, length, weights)


def as_read(
    values: torch.Tensor,
    times: np.ndarray,
    reads: str,
    starts: np.ndarray,
    length: float,
    weights: np.ndarray | None = None,
) -> dict[str, torch.Tensor]:
    """Network inputs from tag vectors of windows [B, w, c] with their times [w, 2] (s).

    "clip" and "targets": the mean over windows, by ``weights`` [B, w], as ``tags`` [B, c];
    "windows": ``tags`` [B, n, c] and ``times`` [B, n, 2] along the excerpts (``windows.along``);
    "nothing": ``tags`` [B, 0].
    """
    if reads == "windows":
        tags, relative = along(values, times, starts, length)
        return {"tags": tags, "times": relative}
    if reads == "nothing":
        return {"tags": values[:, 0, :0]}
    if weights is None:
        return {"tags": values.mean(1)}
    return {"tags": torch.einsum("bwc,bw->bc", values, torch.from_numpy(weights).to(values))}

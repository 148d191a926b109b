"""Tag vectors of scene clips, and what a fusion reads of them."""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch

from ..corpora import SceneCorpus, by_name
from ..corpora.store import Store
from ..files import Put, data_root, filled, fingerprint
from .hub import HubTagger
from .tagger import Tagger

CHUNK = 64  # clips tagged between two notes of progress
VERSION = 2  # raised when a change of the code changes what a tagger learns or gives


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
    tagger: Tagger | HubTagger | None = None  # that gives tag vectors of other recordings
    times: np.ndarray | None = None

    @cached_property
    def clips(self) -> np.ndarray:
        """One tag vector per clip [clips, c]: the mean over its windows."""
        return self.values.mean(1)

    @property
    def fingerprint(self) -> str:
        """Changes when any value does."""
        return fingerprint(np.ascontiguousarray(self.values).tobytes(), self.names)

    def inputs(
        self, rows: np.ndarray, reads: str, starts: np.ndarray, seconds: float
    ) -> dict[str, torch.Tensor]:
        """What a fusion reads (``Fusion.reads``) of excerpts that start at ``starts`` (s).

        ``seconds``: length of a clip.
        """
        times = np.array([[0.0, seconds]]) if self.times is None else self.times
        return as_read(torch.from_numpy(self.values[rows]), times, reads, starts)


def as_read(
    values: torch.Tensor, times: np.ndarray, reads: str, starts: np.ndarray
) -> dict[str, torch.Tensor]:
    """Network inputs from tag vectors of windows [B, w, c] with their times [w, 2] (s).

    "clip": the mean over windows as ``tags`` [B, c]; "windows": ``tags`` [B, w, c] and ``times``
    [B, w, 2] after the excerpts' starts [B]; "nothing": ``tags`` [B, 0].
    """
    if reads == "windows":
        relative = torch.from_numpy(times[None] - starts[:, None, None]).float()
        return {"tags": values, "times": relative}
    return {"tags": values.mean(1) if reads == "clip" else values[:, 0, :0]}


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use this many threads for a while: tag vectors must not depend on the run's own."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def cached(
    corpus: SceneCorpus, waveforms: Store, tagger: str, width: int, tag: Callable
) -> np.ndarray:
    """Tag vectors [clips, 1, width] of a corpus by the tagger of this name, computed on first use.

    ``tag(rows)`` gives those of some clips [len(rows), width].
    """
    mark = fingerprint(tagger, waveforms.fingerprint, VERSION)
    path = data_root() / "made" / f"{corpus.name}-tags-{mark}.npy"

    def fill(put: Put, rows: np.ndarray) -> None:
        put(rows[0], tag(rows))

    clips = len(corpus.clips)
    with threads(by_name(corpus.name).preset.tagger_threads):
        return np.array(filled(path, (clips, width), "float32", fill, clips, CHUNK))[:, None]

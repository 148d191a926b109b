"""What a corpus is once it has been read: scene clips, or tag clips."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd


class CorpusError(ValueError):
    """A corpus that is missing or faulty; the message names the file and the way out."""


@dataclass(frozen=True)
class SceneCorpus:
    """Scene clips and, for composed corpora, what is in them.

    ``clips``: one row per clip with filename, scene_label, location, city, device, split (train,
    test or unused) and fold (that of the recordings inside it; 0 where no tagger can have heard
    any). ``composition``: one row per bed or event with filename, tag, recording, role, onset (s)
    and snr (dB), or None.
    """

    name: str
    root: Path
    clips: pd.DataFrame
    composition: pd.DataFrame | None = None
    convert: bool = False  # convert clips of other rates, channels and lengths: custom data

    @property
    def labels(self) -> list[str]:
        """The scenes, in alphabetical order."""
        return sorted(self.clips["scene_label"].unique())

    def rows(self, *splits: str) -> np.ndarray:
        """Row numbers of the clips in these splits."""
        return np.flatnonzero(self.clips["split"].isin(splits))

    def targets(self) -> np.ndarray:
        """Index into ``labels`` of every clip."""
        return np.searchsorted(self.labels, self.clips["scene_label"])

    def sounds_in(self, row: int) -> set[str]:
        """Tags of everything that was composed into a clip; empty where that is not known."""
        if self.composition is None:
            return set()
        parts = self.composition[self.composition["filename"] == self.clips["filename"][row]]
        return set(parts["tag"]) - {""}


@dataclass(frozen=True)
class TagCorpus:
    """Tag clips.

    ``clips``: one row per clip with path, labels (a list), set (curated, noisy or test) and fold
    (-1: none).
    """

    name: str
    root: Path
    clips: pd.DataFrame
    tags: list[str]

    def targets(self) -> np.ndarray:
        """Float array [clips, tags]: 1 where a clip carries a tag."""
        index = {tag: k for k, tag in enumerate(self.tags)}
        out = np.zeros((len(self.clips), len(self.tags)), "float32")
        for row, labels in enumerate(self.clips["labels"]):
            out[row, [index[label] for label in labels]] = 1
        return out

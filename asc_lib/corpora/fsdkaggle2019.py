"""Reader of FSDKaggle2019's format, in which composed tag corpora are written too."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from .tau2019 import CorpusError

SETS = ("train_curated", "train_noisy", "test")
# Curated clips of FSDKaggle2019 that are known to be mislabelled, or silent (the last).
WRONG = ("f76181c4", "77b925c2", "6a1f682a", "c7db12aa", "7752cc8a", "1d44b0bd")


@dataclass(frozen=True)
class TagCorpus:
    """Tag clips. ``clips``: a row a clip with path, labels (a list), set (curated, noisy or test), fold (-1: none)."""

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


def read(name: str, root: Path) -> TagCorpus:
    """Read a corpus in FSDKaggle2019's layout; the tags are those of the curated set, in alphabetical order.

    Raises CorpusError where a table is missing, has other columns, or holds a label that the curated set has not.
    """
    parts = []
    for kind in SETS:
        path = root / "FSDKaggle2019.meta" / f"{kind}_post_competition.csv"
        if not path.is_file():
            raise CorpusError(f"{path} is missing: unpack FSDKaggle2019.meta.zip there")
        table = pd.read_csv(path, keep_default_na=False)
        if list(table.columns[:2]) != ["fname", "labels"]:
            raise CorpusError(f"{path}: expected columns fname,labels, found {list(table.columns)}")
        table["path"] = [root / f"FSDKaggle2019.audio_{kind}" / fname for fname in table["fname"]]
        parts.append(table.assign(set=kind.removeprefix("train_")))
    clips = pd.concat(parts, ignore_index=True)
    clips = clips[~clips["fname"].str.removesuffix(".wav").isin(WRONG)].reset_index(drop=True)
    clips["labels"] = clips["labels"].str.split(",")
    tags = sorted({tag for labels in clips.loc[clips["set"] == "curated", "labels"] for tag in labels})
    if strangers := {tag for labels in clips["labels"] for tag in labels} - set(tags):
        raise CorpusError(f"{root}: labels that no curated clip carries: {sorted(strangers)[:5]}")
    return TagCorpus(name, root, clips if "fold" in clips else clips.assign(fold=-1), tags)

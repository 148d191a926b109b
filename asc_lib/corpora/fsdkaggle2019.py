"""Reader of FSDKaggle2019's format, in which composed tag corpora are written too."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from . import checks
from .checks import CorpusError, Finding

SETS = ("train_curated", "train_noisy", "test")
OFFICIAL = {"train_curated": 4970, "train_noisy": 19_815, "test": 4481}
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


def tables(root: Path) -> tuple[dict[str, pd.DataFrame], list[Finding]]:
    """The three tables of a corpus in FSDKaggle2019's layout, by set, and everything that is wrong with them."""
    found, findings = {}, []
    for kind in SETS:
        file = f"FSDKaggle2019.meta/{kind}_post_competition.csv"
        table, problems = checks.table(root / file, ["fname", "labels"], ",")
        if table is not None:
            found[kind] = table
            problems += filter(None, map(checks.unsafe, table["fname"]))
        findings += [Finding(file, problem) for problem in problems]
    known = _tags(found["train_curated"]) if "train_curated" in found else set()
    for kind, table in found.items():
        if known and (strangers := _tags(table) - known):
            file = f"FSDKaggle2019.meta/{kind}_post_competition.csv"
            findings.append(Finding(file, f"has the label {min(strangers)!r}, which no curated clip carries"))
    return found, findings


def _tags(table: pd.DataFrame) -> set[str]:
    return {tag for labels in table["labels"].str.split(",") for tag in labels}


def file_names(found: dict[str, pd.DataFrame]) -> list[str]:
    """Every file that these tables name, relative to the corpus."""
    return [f"FSDKaggle2019.audio_{kind}/{fname}" for kind, table in found.items() for fname in table["fname"]]


def read(name: str, root: Path) -> TagCorpus:
    """Read a corpus in FSDKaggle2019's layout; the tags are those of the curated set, in alphabetical order.

    Raises CorpusError where a table is missing, has other columns, or holds a label that the curated set has not.
    """
    found, findings = tables(root)
    if findings:
        raise CorpusError(f"{root / findings[0].file} {findings[0].what}")
    parts = []
    for kind, table in found.items():
        paths = [root / f"FSDKaggle2019.audio_{kind}" / fname for fname in table["fname"]]
        parts.append(table.assign(path=paths, set=kind.removeprefix("train_")))
    clips = pd.concat(parts, ignore_index=True)
    clips = clips[~clips["fname"].str.removesuffix(".wav").isin(WRONG)].reset_index(drop=True)
    tags = sorted(_tags(clips[clips["set"] == "curated"]))
    clips = clips.assign(labels=clips["labels"].str.split(","))
    fold = clips["fold"].astype(int) if "fold" in clips else -1
    return TagCorpus(name, root, clips.assign(fold=fold), tags)


def check(root: Path) -> list[Finding]:
    """Everything that is wrong with a corpus: its tables, rows and files without each other, every audio file."""
    found, findings = tables(root)
    for kind, table in found.items():
        folder = f"FSDKaggle2019.audio_{kind}"
        names = [f"{folder}/{name}" for name in table["fname"] if not checks.unsafe(name)]
        findings += checks.files(root, folder, names)
        findings += checks.clips(root, names, 44_100, 1, None)
    return findings

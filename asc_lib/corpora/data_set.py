"""What the project knows of a data set: one object, made in one module of this folder."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ..files import data_root
from ..recipes import Preset, SceneRecipe, TaggerSizes
from ..registry import Registry
from .checks import Finding, Tables
from .corpus import CorpusError, SceneCorpus, TagCorpus

CORES = os.cpu_count() or 1
FULL_SIZE = Preset("released", SceneRecipe(), TaggerSizes(), threads=CORES, tagger_threads=CORES)
DATA_SETS = Registry("data")


@dataclass(frozen=True)
class DataSet:
    """A data set; what it does not have is None."""

    name: str
    licence: str  # title, address and licence
    check: Callable[[], tuple[pd.DataFrame, list[Finding]]]  # counts of rows, and what is wrong
    scenes: Callable[[], SceneCorpus] | None = None  # composed scenes are written on first use
    tag_clips: Callable[[], TagCorpus] | None = None  # None: those of FSDKaggle2019
    preset: Preset = FULL_SIZE
    archives: Callable[[], list] | None = None  # to download, as their host lists them now
    tables: Callable[[Path], Tables] | None = None  # in its folder, once downloaded
    leading: str = ""  # folder that its archives wrap around everything
    composed: bool = False  # by this project: what is measured on it is no result on TAU

    def tagger_clips(self) -> TagCorpus:
        """The tag clips that teach the tagger of these scenes."""
        return (self.tag_clips or DATA_SETS["fsdkaggle2019"].tag_clips)()

    def complete(self, root: Path) -> bool:
        """Whether its download into ``root`` is complete."""
        tables = self.tables(root)
        names = sum(tables.files.values(), [])
        return not tables.findings and all((root / name).is_file() for name in names)


def register(data_set: DataSet) -> DataSet:
    """Make a data set known under its name."""
    DATA_SETS[data_set.name] = data_set
    return data_set


def official_root(name: str) -> Path:
    """Folder of a downloaded data set. Raises CorpusError, saying where to get it."""
    root = data_root() / name
    if not root.is_dir():
        what = f"{root} is missing: `asc data fetch {name}` downloads it"
        raise CorpusError(f"{what}, or unpack its archives there. {DATA_SETS[name].licence}")
    return root

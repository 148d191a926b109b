"""What the project knows of a data set, and what has been read from it.

A data set is one ``DataSet``, registered by one module of this folder.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..files import cores, data_root, fingerprint
from ..recipes import Preset, SceneRecipe, TaggerSizes
from ..registry import Registry

FULL_SIZE = Preset("released", SceneRecipe(), TaggerSizes(), cores(), cores())
DATA_SETS = Registry("data")
COLUMNS = ["filename", "scene_label", "location", "city", "device", "split", "fold"]


class CorpusError(ValueError):
    """A corpus that is missing or faulty; the message names the file and the way out."""


class Finding(NamedTuple):
    """Something wrong with a file of a corpus or, if not ``fatal``, something to know about it."""

    file: str
    what: str
    fatal: bool = True

    @property
    def kind(self) -> str:
        """``what`` without the figures of this one file: the same for all that it happens to."""
        return re.sub(r"[\d.]+(?= (s long|s, but|samples|windows|%))", "…", self.what)


def fault(file: str, cases: Sequence, what: str) -> list[Finding]:
    """One finding, ``what`` with the {first} case and the {count} of cases; none without cases."""
    return [Finding(file, what.format(first=cases[0], count=len(cases)))] if cases else []


class Tables(NamedTuple):
    """The tables of a corpus by file name, the audio files they name, and what is wrong."""

    found: dict[str, pd.DataFrame]
    files: dict[str, list[str]]  # by folder; relative to the corpus, safe ones only
    findings: list[Finding]

    def checked(self, root: Path) -> dict[str, pd.DataFrame]:
        """The tables. Raises CorpusError with the first finding."""
        if self.findings:
            raise CorpusError(f"{root / self.findings[0].file} {self.findings[0].what}")
        return self.found


@dataclass(frozen=True)
class SceneCorpus:
    """Scene clips and, for composed corpora, what is in them.

    ``clips``: one row per clip with ``COLUMNS``: split is train, test or unused, and fold that of
    the recordings inside it (0 where no tagger can have heard any). ``composition``: one row per
    bed or event with filename, tag, recording, role, onset (s) and snr (dB), or None. ``places``:
    one row per location with identifier and ``soundscapes.LATENTS``, or None.
    """

    name: str
    root: Path
    clips: pd.DataFrame
    composition: pd.DataFrame | None = None
    places: pd.DataFrame | None = None
    samples: int | None = None  # at 48 kHz, to which clips of any kind are converted: custom data

    @property
    def labels(self) -> list[str]:
        """The scenes, in alphabetical order."""
        return sorted(self.clips["scene_label"].unique())

    @property
    def fingerprint(self) -> str:
        """Changes with what is trained on, what is judged, and how: every cell of ``COLUMNS``."""
        return fingerprint(self.clips.reindex(columns=COLUMNS).astype(str).to_dict("list"))

    def rows(self, *splits: str) -> np.ndarray:
        return np.flatnonzero(self.clips["split"].isin(splits))

    def targets(self) -> np.ndarray:
        """Index into ``labels`` of every clip."""
        return np.searchsorted(self.labels, self.clips["scene_label"])

    @property
    def beds(self) -> pd.Series:
        """Names of each clip's background recordings, joined by spaces; "" where not known."""
        if self.composition is None:
            return pd.Series("", self.clips.index)
        beds = self.composition.query("role == 'bed'").groupby("filename")["recording"]
        return self.clips["filename"].map(beds.agg(" ".join)).fillna("")

    def sounds_in(self, row: int) -> set[str]:
        """Tags of everything that was composed into a clip; empty where that is not known."""
        if self.composition is None:
            return set()
        return set(
            self.composition[self.composition["filename"] == self.clips["filename"][row]]["tag"]
        ) - {""}


@dataclass(frozen=True)
class TagCorpus:
    name: str
    root: Path
    clips: pd.DataFrame
    tags: list[str]

    @property
    def fingerprint(self) -> str:
        """Changes with every cell of ``clips``, and with the order of the tags."""
        return fingerprint(self.root.name, self.clips.astype(str).to_dict("list"), self.tags)

    def targets(self) -> np.ndarray:
        """Float array [clips, tags]: 1 where a clip carries a tag."""
        out = np.zeros((len(self.clips), len(self.tags)), "float32")
        for row, labels in enumerate(self.clips["labels"]):
            out[row, [self.tags.index(label) for label in labels]] = 1
        return out


@dataclass(frozen=True)
class DataSet:
    """A data set; what it does not have is None."""

    name: str
    licence: str  # title, address and licence
    check: Callable[[], tuple[pd.DataFrame, list[Finding]]]  # counts of rows, and what is wrong
    scenes: Callable[[], SceneCorpus] | None = None  # composed scenes are written on first use
    tag_clips: Callable[[], TagCorpus] | None = None  # None: those of FSDKaggle2019
    sounds: Callable[[], tuple[str, ...]] = tuple  # tags of all that its scenes are composed from
    preset: Preset = FULL_SIZE
    archives: Callable[[], list] | None = None  # to download, as their host lists them now
    tables: Callable[[Path], Tables] | None = None  # in its folder, once downloaded
    leading: str = ""  # folder that its archives wrap around everything
    variant: Callable[[str], "DataSet"] | None = None  # by the word behind @: ``corpora.find``
    folds: Sequence[str] = ()  # variants of the same clips, each of which is tested on another part
    folder: Path | None = None  # of a custom one
    composed: bool = False  # by this project: what is measured on it is no result on TAU

    def tagger_clips(self) -> TagCorpus:
        """The tag clips that teach the tagger of these scenes."""
        return (self.tag_clips or DATA_SETS["fsdkaggle2019"].tag_clips)()

    def complete(self, root: Path) -> bool:
        tables = self.tables(root)
        return not tables.findings and all(
            (root / name).is_file() for names in tables.files.values() for name in names
        )


def register(data_set: DataSet) -> None:
    DATA_SETS[data_set.name] = data_set


def official_root(name: str) -> Path:
    """Folder of a downloaded data set. Raises CorpusError, saying where to get it."""
    root = data_root() / name
    leading = DATA_SETS[name].leading.strip("/")
    if leading:  # as an archive unpacks: the folder that it wraps around everything
        tables = DATA_SETS[name].tables
        places = [root, root / leading, data_root() / leading]
        root = next((place for place in places if tables(place).found), root)
    if not root.is_dir():
        raise CorpusError(
            f"{root} is missing: `asc data fetch {name}` downloads it, or unpack its archives "
            f"there. {DATA_SETS[name].licence}"
        )
    return root

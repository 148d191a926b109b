"""Reader of TAU Urban Acoustic Scenes 2019's format, in which composed scene corpora are written too."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

HEADERS = {
    "meta.csv": ["filename", "scene_label", "identifier", "source_label"],
    "evaluation_setup/fold1_train.csv": ["filename", "scene_label"],
    "evaluation_setup/fold1_evaluate.csv": ["filename", "scene_label"],
    "evaluation_setup/fold1_test.csv": ["filename"],
}


class CorpusError(ValueError):
    """A corpus that is not as it should be; the message names the file and the way out."""


@dataclass(frozen=True)
class SceneCorpus:
    """Scene clips and, for composed corpora, what is in them.

    ``clips``: a row a clip with filename, scene_label, location, city, device, split (train, test or unused) and fold
    (that of the recordings inside it; 0 where no tagger can have heard any). ``composition``: a row a bed or event
    with filename, tag, recording, role, onset (s) and snr (dB), or None.
    """

    name: str
    root: Path
    clips: pd.DataFrame
    composition: pd.DataFrame | None = None

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
        return set(self.composition.loc[self.composition["filename"] == self.clips["filename"][row], "tag"]) - {""}


def _table(path: Path, columns: list[str]) -> pd.DataFrame:
    if not path.is_file():
        raise CorpusError(f"{path} is missing: the corpus's evaluation setup and meta data belong there")
    table = pd.read_csv(path, sep="\t", dtype=str)
    if list(table.columns[: len(columns)]) != columns:
        raise CorpusError(f"{path}: expected tab-separated columns {columns}, found {list(table.columns)}")
    return table


def read(name: str, root: Path) -> SceneCorpus:
    """Read a corpus in TAU 2019's layout (official fold 1).

    Raises CorpusError where a table is missing, has other columns, or the lists contradict each other.
    """
    meta, train, evaluate, test = (_table(root / file, columns) for file, columns in HEADERS.items())
    lists = {"train": set(train["filename"]), "test": set(evaluate["filename"])}
    if lists["test"] != set(test["filename"]):
        raise CorpusError(f"{root / 'evaluation_setup'}: fold1_test.csv and fold1_evaluate.csv name different clips")
    if both := lists["train"] & lists["test"]:
        raise CorpusError(f"{root / 'evaluation_setup'}: {len(both)} clips in both lists, the first {min(both)}")
    if strangers := (lists["train"] | lists["test"]) - set(meta["filename"]):
        raise CorpusError(f"{root / 'meta.csv'}: {len(strangers)} listed clips are missing, the first {min(strangers)}")
    if meta["filename"].duplicated().any():
        raise CorpusError(f"{root / 'meta.csv'}: {meta['filename'][meta['filename'].duplicated()].iloc[0]} twice")
    clips = meta.rename(columns={"identifier": "location", "source_label": "device"})
    clips["city"] = clips["location"].str.split("-").str[0]
    clips["split"] = np.select([clips["filename"].isin(lists[s]) for s in lists], list(lists), "unused")
    composition = root / "composition.csv"
    if not composition.is_file():
        return SceneCorpus(name, root, clips.assign(fold=0))
    parts = pd.read_csv(composition, sep="\t", keep_default_na=False)
    return SceneCorpus(
        name, root, clips.assign(fold=clips["filename"].map(parts.groupby("filename")["fold"].first())), parts
    )

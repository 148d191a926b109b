"""Reader of TAU Urban Acoustic Scenes 2019's format, in which composed scene corpora are written too."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from . import checks
from .checks import CorpusError, Finding

HEADERS = {
    "meta.csv": ["filename", "scene_label", "identifier", "source_label"],
    "evaluation_setup/fold1_train.csv": ["filename", "scene_label"],
    "evaluation_setup/fold1_evaluate.csv": ["filename", "scene_label"],
    "evaluation_setup/fold1_test.csv": ["filename"],
}


SCENES = ("airport", "bus", "metro", "metro_station", "park", "public_square", "shopping_mall", "street_pedestrian")
SCENES += ("street_traffic", "tram")
OFFICIAL = {"meta.csv": 14_400, "evaluation_setup/fold1_train.csv": 9185, "evaluation_setup/fold1_evaluate.csv": 4185}


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
    convert: bool = False  # clips of other rates, channels and lengths are converted: data sets of one's own

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


def tables(root: Path) -> tuple[dict[str, pd.DataFrame], list[Finding]]:
    """The four tables of a corpus in TAU 2019's layout (official fold 1), and everything that is wrong with them."""
    found, findings = {}, []
    for file, columns in HEADERS.items():
        table, problems = checks.table(root / file, columns, "\t")
        if table is not None:
            found[file] = table
            problems += filter(None, map(checks.unsafe, table["filename"]))
        findings += [Finding(file, problem) for problem in problems]
    if len(found) == len(HEADERS):
        findings += _contradictions(*found.values())
    return found, findings


def _contradictions(meta: pd.DataFrame, train: pd.DataFrame, evaluate: pd.DataFrame, test: pd.DataFrame):
    _, train_file, evaluate_file, test_file = HEADERS
    if different := set(evaluate["filename"]) ^ set(test["filename"]):
        yield Finding(test_file, f"names other clips than fold1_evaluate.csv, the first {min(different)!r}")
    if both := set(train["filename"]) & set(evaluate["filename"]):
        yield Finding(train_file, f"shares {len(both)} clips with fold1_evaluate.csv, the first {min(both)!r}")
    labels = meta.drop_duplicates("filename").set_index("filename")["scene_label"]
    for file, part in ((train_file, train), (evaluate_file, evaluate)):
        known = part["filename"].isin(labels.index)
        if not known.all():
            first = part["filename"][~known].iloc[0]
            yield Finding(file, f"lists {(~known).sum()} clips that meta.csv does not know, the first {first!r}")
        part = part[known]
        other = part[part["scene_label"] != part["filename"].map(labels)]
        if len(other):
            first = other.iloc[0]
            says = f"{first['filename']!r} a {first['scene_label']!r}, meta.csv a {labels[first['filename']]!r}"
            yield Finding(file, f"calls {says} ({len(other)} such rows)")
    if strangers := sorted(set(meta["scene_label"]) - set(SCENES)):
        yield Finding("meta.csv", f"has the unknown label {strangers[0]!r}; there are {', '.join(SCENES)}")
    if cityless := [name for name in meta["identifier"] if "-" not in name]:
        yield Finding("meta.csv", f"has the identifier {cityless[0]!r}; expected is city-number, as in milan-1164")


def file_names(found: dict[str, pd.DataFrame]) -> list[str]:
    """Every file that these tables name, relative to the corpus."""
    return [] if "meta.csv" not in found else found["meta.csv"]["filename"].tolist()


def read(name: str, root: Path) -> SceneCorpus:
    """Read a corpus in TAU 2019's layout (official fold 1).

    Raises CorpusError where a table is missing, has other columns, or the lists contradict each other.
    """
    found, findings = tables(root)
    if findings:
        raise CorpusError(f"{root / findings[0].file} {findings[0].what}")
    meta, train, evaluate, _ = found.values()
    lists = {"train": set(train["filename"]), "test": set(evaluate["filename"])}
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


def check(root: Path, samples: int | None = 480_000) -> list[Finding]:
    """Everything that is wrong with a corpus: its tables, rows and files without each other, every audio file.

    ``samples``: length of every clip at 48 kHz, 10 s in TAU 2019.
    """
    found, findings = tables(root)
    names = [name for name in file_names(found) if not checks.unsafe(name)]
    return [*findings, *checks.files(root, "audio", names), *checks.clips(root, names, 48_000, 2, samples)]

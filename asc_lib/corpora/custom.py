"""A custom data set: a folder of audio files and a CSV table that says what they are."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from ..files import write_text
from . import audio, checks
from .checks import Finding
from .corpus import CorpusError, SceneCorpus
from .data_set import DataSet

COLUMNS = ["filename", "label"]
SPLITS = ("train", "test", "unused")
SPLIT = "split.csv"  # written beside a table without a column ``split``
PARTS = 4  # one part is the test set
TRIES = 50


def custom(folder: Path) -> DataSet:
    """The data set in a folder; the full-size tagger tags its scenes."""
    folder = folder.resolve()
    stem = re.sub(r"\W+", "_", folder.name.lower()).strip("_") or "data"
    name = "own_" + stem.removeprefix("own_")
    reader = Reader(name, folder)
    return DataSet(name, "yours", reader.check, reader.scenes)


@dataclass(frozen=True)
class Reader:
    """Reads and checks the folder of a custom data set."""

    name: str
    folder: Path

    def scenes(self) -> SceneCorpus:
        """Its clips; without a column split, one is made and written beside the table.

        Further columns of the table, each optional: ``location`` (else every clip counts as a place
        of its own), ``city`` and ``split`` (train, test or unused). Raises CorpusError.
        """
        clips, findings = self.table()
        if findings:
            raise CorpusError(f"{self.folder / findings[0].file} {findings[0].what}")
        clips = clips.rename(columns={"label": "scene_label"}).assign(fold=0, device="")
        if "location" not in clips:
            clips["location"] = clips["filename"]
        if "city" not in clips:
            clips["city"] = "unknown"
        if "split" not in clips:
            clips["split"] = self._write_split(clips)
        return SceneCorpus(self.name, self.folder, clips, convert=True)

    def _write_split(self, clips: pd.DataFrame) -> pd.Series:
        table = self.folder / self.table_file()
        path = self.folder / SPLIT
        try:
            split = made_split(clips)
            write_text(path, clips.assign(split=split)[["filename", "split"]].to_csv(index=False))
        except CorpusError as error:
            options = ", ".join(SPLITS)
            raise CorpusError(f"{table}: {error}; give it a column split with {options}") from None
        except OSError as error:
            what = f"{table} has no column split, and {path} cannot be written"
            raise CorpusError(f"{what}: {error}") from None
        print(f"{table} has no column split: a split was made and written to {path}")
        return split

    def table_file(self) -> str:
        """Name of the table of clips. Raises CorpusError where none, or more than one, fits."""
        found = sorted(path.name for path in self.folder.glob("*.csv") if path.name != SPLIT)
        if "clips.csv" in found:
            return "clips.csv"
        if len(found) == 1:
            return found[0]
        what = "has no CSV table"
        if found:
            what = f"has the tables {', '.join(found)}: name that of the clips clips.csv"
        columns = "filename, label and, if known, location, split"
        raise CorpusError(f"{self.folder} {what}; it needs one with the columns {columns}")

    def table(self) -> tuple[pd.DataFrame | None, list[Finding]]:
        """The table of clips with its split, if there is one yet, and what is wrong with it."""
        file = self.table_file()
        clips, problems = checks.table(self.folder / file, COLUMNS, ",")
        findings = [Finding(file, problem) for problem in problems]
        if clips is None or findings:
            return clips, findings
        if "split" not in clips and (self.folder / SPLIT).is_file():
            file = SPLIT
            split, problems = checks.table(self.folder / SPLIT, ["filename", "split"], ",")
            if split is None or problems:
                return clips, [Finding(SPLIT, problem) for problem in problems]
            clips = clips.merge(split[["filename", "split"]], on="filename", how="left")
            clips["split"] = clips["split"].fillna("")
        return clips, [Finding(file, problem) for problem in _contradictions(clips)]

    def check(self) -> tuple[pd.DataFrame, list[Finding]]:
        """Rows of the table; everything wrong with it and its files, and every conversion."""
        clips, findings = self.table()
        rows = 0 if clips is None else len(clips)
        counts = pd.DataFrame([{"table": self.table_file(), "rows": rows}])
        names = [] if clips is None else checks.safe(clips["filename"])
        there = [name for name in names if (self.folder / name).is_file()]
        findings += [Finding(name, audio.MISSING) for name in names if name not in there]

        def examined(name: str) -> tuple:
            clip, rate, problems = audio.decoded(self.folder / name)
            doubts = [] if problems else audio.doubtful(clip)
            return name, clip.shape, rate, problems, doubts

        run = joblib.Parallel(n_jobs=-1, prefer="threads")
        sounds = run(joblib.delayed(examined)(name) for name in there)
        findings += [Finding(name, what) for name, _, _, problems, _ in sounds for what in problems]
        usable = [sound for sound in sounds if not sound[3]]
        try:
            usual = audio.usual_length([(shape[1], rate) for _, shape, rate, _, _ in usable])
        except audio.AudioError as error:
            return counts, [*findings, Finding(".", str(error))]
        for name, (channels, frames), rate, _, doubts in usable:
            notes = audio.conversions(frames, rate, channels, usual) + doubts
            findings += [Finding(name, what, fatal=False) for what in notes]
        return counts, findings


def _contradictions(clips: pd.DataFrame) -> Iterator[str]:
    if "split" not in clips:
        return
    other = clips[~clips["split"].isin(SPLITS)]
    if len(other):
        row = other.iloc[0]
        options = ", ".join(SPLITS)
        yield f"puts {row['filename']!r} in the split {row['split']!r}; there are {options}"
    for split in ("train", "test"):
        if not (clips["split"] == split).any():
            yield f"has no clip in the split {split!r}"
    trained = set(clips.loc[clips["split"] == "train", "label"])
    strangers = sorted(set(clips["label"]) - trained)
    if strangers:
        yield f"has the label {strangers[0]!r}, which no training clip carries"
    if "location" in clips:
        sides = clips[clips["split"] != "unused"].groupby("location")["split"].nunique()
        both = sides.index[sides > 1]
        if both.size:
            count = f"({both.size} such locations)"
            yield f"has clips of the location {both[0]!r} in train and in test {count}"


def made_split(clips: pd.DataFrame) -> pd.Series:
    """Train or test for every clip: stratified by scene, no location in both, always the same.

    A quarter of the clips are for the test. Raises CorpusError where a label has one location only.
    """
    places = clips.groupby("scene_label")["location"].nunique()
    lone = places.index[places < 2]
    if lone.size:
        what = f"the label {lone[0]!r} has one location"
        raise CorpusError(f"{what}: it cannot be in train and in test")
    for seed in range(TRIES):
        folds = StratifiedGroupKFold(PARTS, shuffle=True, random_state=seed)
        for _, test in folds.split(clips, clips["scene_label"], clips["location"]):
            in_test = np.isin(np.arange(len(clips)), test)
            split = pd.Series(np.where(in_test, "test", "train"), clips.index)
            labels = clips.groupby(split)["scene_label"].nunique()
            if len(labels) == 2 and (labels == len(places)).all():
                return split
    raise CorpusError("no split has every label in train and in test and no location in both")

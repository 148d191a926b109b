"""A custom data set: a folder of audio files and a CSV table that says what they are."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from ..files import write_text
from . import audio, checks
from .data_set import CorpusError, DataSet, Finding, SceneCorpus

SPLITS = ("train", "test", "unused")
SPLIT = "split.csv"  # written beside a table without a column ``split``


def custom(folder: Path) -> DataSet:
    """The data set in a folder; the full-size tagger tags its scenes."""
    folder = folder.resolve()
    stem = re.sub(r"\W+", "_", folder.name.lower()).strip("_") or "data"
    reader = Reader("own_" + stem.removeprefix("own_"), folder)
    return DataSet(reader.name, "yours", reader.check, reader.scenes)


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
        defaults = {"location": clips["filename"], "city": "unknown"}
        clips = clips.rename(columns={"label": "scene_label"}).assign(
            fold=0, device="", **{k: v for k, v in defaults.items() if k not in clips}
        )
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
            raise CorpusError(
                f"{table}: {error}; give it a column split with {', '.join(SPLITS)}"
            ) from None
        except OSError as error:
            raise CorpusError(
                f"{table} has no column split, and {path} cannot be written: {error}"
            ) from None
        print(f"{table} has no column split: a split was made and written to {path}")
        return split

    def table_file(self) -> str:
        """Name of the table of clips. Raises CorpusError where none, or more than one, fits."""
        found = sorted(path.name for path in self.folder.glob("*.csv") if path.name != SPLIT)
        if "clips.csv" in found:
            return "clips.csv"
        if len(found) == 1:
            return found[0]
        several = f"has the tables {', '.join(found)}: name that of the clips clips.csv"
        raise CorpusError(
            f"{self.folder} {several if found else 'has no CSV table'}; "
            "it needs one with the columns filename, label and, if known, location, split"
        )

    def table(self) -> tuple[pd.DataFrame | None, list[Finding]]:
        """The table of clips with its split, if there is one yet, and what is wrong with it."""
        file = self.table_file()
        clips, problems = checks.table(self.folder / file, ["filename", "label"], ",")
        if not problems and "split" not in clips and (self.folder / SPLIT).is_file():
            file = SPLIT
            split, problems = checks.table(self.folder / SPLIT, ["filename", "split"], ",")
            if not problems:
                clips = clips.merge(split[["filename", "split"]], on="filename", how="left")
                clips["split"] = clips["split"].fillna("")
        problems = problems or _contradictions(clips)
        return clips, [Finding(file, problem) for problem in problems]

    def check(self) -> tuple[pd.DataFrame, list[Finding]]:
        """Rows of the table; everything wrong with it and its files, and every conversion."""
        clips, findings = self.table()
        names = [] if clips is None else clips["filename"]
        counts = pd.DataFrame([{"table": self.table_file(), "rows": len(names)}])
        sounds = list(checks.examined(self.folder, checks.safe(names)))
        findings += [Finding(sound.name, what) for sound in sounds for what in sound.problems]
        usable = [sound for sound in sounds if not sound.problems]
        try:
            usual = audio.usual_length([(sound.shape[1], sound.rate) for sound in usable])
        except audio.AudioError as error:
            return counts, [*findings, Finding(".", str(error))]
        for sound in usable:
            channels, frames = sound.shape
            notes = audio.conversions(frames, sound.rate, channels, usual) + sound.doubts
            findings += [Finding(sound.name, what, fatal=False) for what in notes]
        return counts, findings


def _contradictions(clips: pd.DataFrame) -> Iterator[str]:
    if "split" not in clips:
        return
    other = clips[~clips["split"].isin(SPLITS)]
    if len(other):
        row = other.iloc[0]
        yield (
            f"puts {row['filename']!r} in the split {row['split']!r}; there are {', '.join(SPLITS)}"
        )
    for split in ("train", "test"):
        if not (clips["split"] == split).any():
            yield f"has no clip in the split {split!r}"
    strangers = set(clips["label"]) - set(clips.loc[clips["split"] == "train", "label"])
    if strangers:
        yield f"has the label {min(strangers)!r}, which no training clip carries"
    if "location" in clips:
        sides = clips[clips["split"] != "unused"].groupby("location")["split"].nunique()
        both = sides.index[sides > 1]
        if both.size:
            yield (
                f"has clips of the location {both[0]!r} in train and in test "
                f"({both.size} such locations)"
            )


def made_split(clips: pd.DataFrame) -> pd.Series:
    """Train or test for every clip: stratified by scene, no location in both, always the same.

    A quarter of the clips are for the test. Raises CorpusError where a label has one location only.
    """
    places = clips.groupby("scene_label")["location"].nunique()
    lone = places.index[places < 2]
    if lone.size:
        raise CorpusError(
            f"the label {lone[0]!r} has one location: it cannot be in train and in test"
        )
    for seed in range(50):
        folds = StratifiedGroupKFold(4, shuffle=True, random_state=seed)
        for _, test in folds.split(clips, clips["scene_label"], clips["location"]):
            split = pd.Series("train", clips.index)
            split.iloc[test] = "test"
            labels = clips.groupby(split)["scene_label"].nunique()
            if len(labels) == 2 and (labels == len(places)).all():
                return split
    raise CorpusError("no split has every label in train and in test and no location in both")

"""Reader of a data set of one's own: a folder of audio files and a CSV table that says what they are."""

import re
from collections.abc import Iterator
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from .. import audio
from ..artefacts import write_text
from . import checks
from .checks import CorpusError, Finding
from .tau2019 import SceneCorpus

COLUMNS, SPLITS = ["filename", "label"], ("train", "test", "unused")
SPLIT = "split.csv"  # written beside the table where it has no column ``split``
PARTS, TRIES = 4, 50  # test clips are one part in four


def name(folder: Path) -> str:
    """The data set's name in files and folders: that of its folder, in small letters and digits."""
    return "own_" + (re.sub(r"\W+", "_", folder.resolve().name.lower()).strip("_") or "data").removeprefix("own_")


def table_file(folder: Path) -> str:
    """Name of the folder's table of clips. Raises CorpusError where none, or more than one, could be it."""
    found = sorted(path.name for path in folder.glob("*.csv") if path.name != SPLIT)
    if len(found) == 1 or "clips.csv" in found:
        return found[0] if len(found) == 1 else "clips.csv"
    what = f"has the tables {', '.join(found)}: name that of the clips clips.csv" if found else "has no CSV table"
    raise CorpusError(f"{folder} {what}; it needs one with the columns filename, label and, if known, location, split")


def table(folder: Path) -> tuple[pd.DataFrame | None, list[Finding]]:
    """The table of clips with its split, if there is one yet, and everything that is wrong with it."""
    file = table_file(folder)
    clips, problems = checks.table(folder / file, COLUMNS, ",")
    if clips is not None:
        problems += filter(None, map(checks.unsafe, clips["filename"]))
    findings = [Finding(file, problem) for problem in problems]
    if clips is None or findings:
        return clips, findings
    if "split" not in clips and (folder / SPLIT).is_file():
        file = SPLIT
        split, problems = checks.table(folder / SPLIT, ["filename", "split"], ",")
        if split is None or problems:
            return clips, [Finding(SPLIT, problem) for problem in problems]
        clips = clips.merge(split[["filename", "split"]], on="filename", how="left")
        clips["split"] = clips["split"].fillna("")
    return clips, [Finding(file, problem) for problem in _contradictions(clips)]


def _contradictions(clips: pd.DataFrame) -> Iterator[str]:
    if "split" not in clips:
        return
    if len(other := clips[~clips["split"].isin(SPLITS)]):
        row = other.iloc[0]
        yield f"puts {row['filename']!r} in the split {row['split']!r}; there are {', '.join(SPLITS)}"
    for split in ("train", "test"):
        if not (clips["split"] == split).any():
            yield f"has no clip in the split {split!r}"
    trained = set(clips.loc[clips["split"] == "train", "label"])
    if strangers := sorted(set(clips["label"]) - trained):
        yield f"has the label {strangers[0]!r}, which no training clip carries"
    if "location" in clips:
        sides = clips[clips["split"] != "unused"].groupby("location")["split"].nunique()
        if (both := sides[sides > 1]).size:
            yield f"has clips of the location {both.index[0]!r} in train and in test ({both.size} such locations)"


def made_split(clips: pd.DataFrame) -> pd.Series:
    """Train or test for every clip: stratified by label, a quarter to test, no location in both; always the same.

    Raises CorpusError where a label has fewer than two locations.
    """
    places = clips.groupby("label")["location"].nunique()
    if (lone := places[places < 2]).size:
        raise CorpusError(f"the label {lone.index[0]!r} has one location: it cannot be in train and in test")
    for seed in range(TRIES):
        folds = StratifiedGroupKFold(PARTS, shuffle=True, random_state=seed)
        for _, test in folds.split(clips, clips["label"], clips["location"]):
            split = pd.Series(np.where(np.isin(np.arange(len(clips)), test), "test", "train"), clips.index)
            if all(clips["label"][split == side].nunique() == len(places) for side in ("train", "test")):
                return split
    raise CorpusError("no split found that has every label in train and in test and no location in both")


def read(folder: Path) -> SceneCorpus:
    """Read a folder with audio and a table (CSV) with the columns filename and label.

    Further columns, each optional: ``location`` (else every clip counts as a place of its own), ``city``, and ``split``
    (train, test or unused), without which a split is made and written down beside the table. Raises CorpusError.
    """
    clips, findings = table(folder)
    if findings:
        raise CorpusError(f"{folder / findings[0].file} {findings[0].what}")
    clips = clips.rename(columns={"label": "scene_label"}).assign(fold=0, device="")
    if "location" not in clips:
        clips["location"] = clips["filename"]
    if "city" not in clips:
        clips["city"] = "unknown"
    if "split" not in clips:
        file = folder / table_file(folder)
        try:
            clips["split"] = made_split(clips.rename(columns={"scene_label": "label"}))
            write_text(folder / SPLIT, clips[["filename", "split"]].to_csv(index=False))
        except CorpusError as error:
            raise CorpusError(f"{file}: {error}; give it a column split with {', '.join(SPLITS)}") from None
        except OSError as error:
            raise CorpusError(f"{file} has no column split, and {folder / SPLIT} cannot be written: {error}") from None
        print(f"no column split in {file}: one was made and written to {folder / SPLIT}")
    return SceneCorpus(name(folder), folder, clips, convert=True)


def check(folder: Path, rate: int, channels: int) -> list[Finding]:
    """Everything that is wrong with a data set of one's own, and everything that will be converted."""
    clips, findings = table(folder)
    names = [] if clips is None else [n for n in dict.fromkeys(clips["filename"]) if not checks.unsafe(n)]
    findings += [Finding(missing, audio.MISSING) for missing in names if not (folder / missing).is_file()]
    there = [n for n in names if (folder / n).is_file()]

    def heard(file: str) -> tuple:
        clip, found, problems = audio.decoded(folder / file)
        if not problems and len(clip) not in (1, channels):
            problems = [audio.too_many(len(clip), channels)]
        return file, clip.shape, found, problems, [] if problems else audio.doubtful(clip)

    sounds = joblib.Parallel(n_jobs=-1, prefer="threads")(joblib.delayed(heard)(file) for file in there)
    findings += [Finding(file, what) for file, _, _, problems, _ in sounds for what in problems]
    fit = [sound for sound in sounds if not sound[3]]
    try:
        usual = audio.usual_length([(shape[1], found) for _, shape, found, _, _ in fit], rate)
    except audio.AudioError as error:
        return [*findings, Finding(".", str(error))]
    for file, shape, found, _, doubts in fit:
        notes = audio.conversions(shape, found, rate, channels, usual) + doubts
        findings += [Finding(file, what, False) for what in notes]
    return findings

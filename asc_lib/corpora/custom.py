"""A custom data set: a folder of audio files and a CSV table that says what they are."""

import re
from pathlib import Path

import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from ..files import write_text
from . import audio, checks
from .data_set import CorpusError, DataSet, Finding, SceneCorpus, fault

SPLITS = ("train", "test", "unused")
SPLIT = "split.csv"  # written beside a table without a column ``split``


def custom(folder: Path) -> DataSet:
    """The data set in a folder; the full-size tagger tags its scenes."""
    folder = folder.resolve()
    name = "own_" + (re.sub(r"\W+", "_", folder.name.lower()).strip("_") or "data").removeprefix(
        "own_"
    )
    return DataSet(name, "yours", lambda: check(folder), lambda: read(name, folder))


def read(name: str, folder: Path) -> SceneCorpus:
    """The clips in a folder; without a column split, one is made and written beside the table.

    Further columns of the table, each optional: ``location`` (else every clip counts as a place
    of its own), ``city`` and ``split`` (train, test or unused). Raises CorpusError.
    """
    clips, findings = table(folder)
    if findings:
        raise CorpusError(f"{folder / findings[0].file} {findings[0].what}")
    defaults = {"location": clips["filename"], "city": "unknown"}
    clips = clips.rename(columns={"label": "scene_label"}).assign(
        fold=0, device="", **{k: v for k, v in defaults.items() if k not in clips}
    )
    if "split" not in clips:
        clips["split"] = _write_split(folder, clips)
    return SceneCorpus(name, folder, clips, convert=True)


def _write_split(folder: Path, clips: pd.DataFrame) -> pd.Series:
    file = folder / table_file(folder)
    path = folder / SPLIT
    try:
        split = made_split(clips)
        write_text(path, clips.assign(split=split)[["filename", "split"]].to_csv(index=False))
    except CorpusError as error:
        raise CorpusError(
            f"{file}: {error}; give it a column split with {', '.join(SPLITS)}"
        ) from None
    except OSError as error:
        raise CorpusError(
            f"{file} has no column split, and {path} cannot be written: {error}"
        ) from None
    print(f"{file} has no column split: a split was made and written to {path}")
    return split


def table_file(folder: Path) -> str:
    """Name of the table of clips. Raises CorpusError where none, or more than one, fits."""
    found = sorted(path.name for path in folder.glob("*.csv") if path.name != SPLIT)
    if "clips.csv" in found:
        return "clips.csv"
    if len(found) == 1:
        return found[0]
    several = f"has the tables {', '.join(found)}: name that of the clips clips.csv"
    raise CorpusError(
        f"{folder} {several if found else 'has no CSV table'}; "
        "it needs one with the columns filename, label and, if known, location, split"
    )


def table(folder: Path) -> tuple[pd.DataFrame | None, list[Finding]]:
    """The table of clips with its split, if there is one yet, and what is wrong with it."""
    file = table_file(folder)
    clips, problems = checks.table(folder / file, ["filename", "label"], ",")
    if not problems and "split" not in clips and (folder / SPLIT).is_file():
        file = SPLIT
        split, problems = checks.table(folder / SPLIT, ["filename", "split"], ",")
        if not problems:
            clips = clips.merge(split[["filename", "split"]], on="filename", how="left")
            clips["split"] = clips["split"].fillna("")
    if problems or "split" not in clips:
        return clips, [Finding(file, problem) for problem in problems]
    return clips, _contradictions(file, clips)


def check(folder: Path) -> tuple[pd.DataFrame, list[Finding]]:
    """Rows of the table; everything wrong with it and its files, and every conversion."""
    clips, findings = table(folder)
    names = [] if clips is None else clips["filename"]
    counts = pd.DataFrame([{"table": table_file(folder), "rows": len(names)}])
    sounds = list(checks.examined(folder, checks.safe(names)))
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


def _contradictions(file: str, clips: pd.DataFrame) -> list[Finding]:
    findings = fault(
        file,
        list(clips[~clips["split"].isin(SPLITS)].itertuples()),
        "puts {first.filename!r} in the split {first.split!r}; there are " + ", ".join(SPLITS),
    )
    findings += [
        Finding(file, f"has no clip in the split {split!r}")
        for split in ("train", "test")
        if not (clips["split"] == split).any()
    ]
    findings += fault(
        file,
        sorted(set(clips["label"]) - set(clips.loc[clips["split"] == "train", "label"])),
        "has the label {first!r}, which no training clip carries",
    )
    if "location" in clips:
        sides = clips[clips["split"] != "unused"].groupby("location")["split"].nunique()
        findings += fault(
            file,
            list(sides.index[sides > 1]),
            "has clips of the location {first!r} in train and in test ({count} such locations)",
        )
    return findings


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
        for _, test in StratifiedGroupKFold(4, shuffle=True, random_state=seed).split(
            clips, clips["scene_label"], clips["location"]
        ):
            split = pd.Series("train", clips.index)
            split.iloc[test] = "test"
            labels = clips.groupby(split)["scene_label"].nunique()
            if len(labels) == 2 and (labels == len(places)).all():
                return split
    raise CorpusError("no split has every label in train and in test and no location in both")

"""A custom data set: a folder of audio files and a CSV table that says what they are."""

import re
from pathlib import Path

import numpy as np
import pandas as pd

from ..files import write_text
from . import audio, checks
from .data_set import COLUMNS, FULL_SIZE, CorpusError, DataSet, Finding, SceneCorpus, fault

SPLITS = ("train", "test", "unused")
TEST = 0.25  # share of the clips of each label in a split that is made
RESERVED = {"start", "end", "scene"}
SPLIT = "split.csv"  # written beside a table without a column ``split``


def custom(folder: Path) -> DataSet:
    """The data set in a folder; the full-size tagger tags its scenes."""
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
    clips = with_usual(clips)
    if "split" not in clips:
        clips["split"] = _write_split(folder, clips)
    return SceneCorpus(name, folder, clips[COLUMNS], convert=True)


def with_usual(clips: pd.DataFrame) -> pd.DataFrame:
    """A table's clips with all columns of a corpus but the split; an empty cell is no value."""
    known = clips.columns.intersection(["filename", "label", "location", "city", "split"])
    clips = clips[known].rename(columns={"label": "scene_label"}).assign(fold=0, device="")
    for column, usual in (("location", clips["filename"]), ("city", "unknown")):
        given = clips[column] if column in clips else pd.Series("", clips.index)
        clips[column] = given.where(given != "", usual)
    return clips


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
    found = sorted(
        path.name
        for path in folder.glob("[!.]*")
        if path.suffix.lower() == ".csv" and path.name != SPLIT
    )
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
            new = clips["filename"][clips["split"].isna()]
            if new.size:
                problems = [f"has no row for {new.iloc[0]!r}: remove it to have it made again"]
    findings = [Finding(file, problem) for problem in problems]
    if clips is not None and not problems:
        findings = [*_same_files(folder, file, clips), *_alike(file, clips)]
    if findings or "split" not in clips:
        return clips, findings
    return clips, _contradictions(file, clips)


def _same_files(folder: Path, file: str, clips: pd.DataFrame) -> list[Finding]:
    """Spell the names as the disk does; two names of one file, and names in another case."""
    if not all((folder / name).exists() for name in clips["filename"]):
        there = [path.relative_to(folder).as_posix() for path in folder.rglob("*")]
        spelt = {checks.normal(name): name for name in there}
        clips["filename"] = clips["filename"].map(lambda name: spelt.get(name, name))
        folded = {name.casefold(): name for name in there}
        lost = [name for name in clips["filename"] if not (folder / name).exists()]
        near = [
            (name, folded[name.casefold()])
            for name in lost
            if folded.get(name.casefold(), name) != name
        ]
    else:
        near = []
    found = fault(
        file, near, "names {first[0]!r}, but the file is called {first[1]!r} ({count} such rows)"
    )
    names: dict[tuple, list[str]] = {}
    for name in clips["filename"]:
        if (folder / name).exists():
            state = (folder / name).stat()
            names.setdefault((state.st_dev, state.st_ino), []).append(name)
    twice = [same for same in names.values() if len(same) > 1]
    return found + fault(file, twice, "names one file as {first[0]!r} and as {first[1]!r}")


def _alike(file: str, clips: pd.DataFrame) -> list[Finding]:
    findings = []
    for column in clips.columns.intersection(["label", "location", "city"]):
        spellings = clips.groupby(clips[column].str.casefold().str.split().str.join(" "))[column]
        several = [sorted(set(group)) for _, group in spellings if group.nunique() > 1]
        what = f"has the {column}s {{first[0]!r}} and {{first[1]!r}}: write them alike"
        findings += fault(file, several, what)
    return findings


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
        return counts, findings + [Finding(".", str(error))] * bool(usable)
    for sound in usable:
        channels, frames = sound.shape
        notes = audio.conversions(frames, sound.rate, channels, usual) + sound.doubts
        findings += [Finding(sound.name, what, fatal=False) for what in notes]
    if not any(finding.fatal for finding in findings):
        findings += _lacking(table_file(folder), clips)
    return counts, findings


def _lacking(file: str, clips: pd.DataFrame) -> list[Finding]:
    """What a run would lack, of a table and files in which nothing is wrong."""
    if clips["label"].nunique() < 2:
        return [Finding(file, "has one label: at least two are needed")]
    try:
        split = clips["split"] if "split" in clips else made_split(with_usual(clips))
    except CorpusError as error:
        return [Finding(file, f"has no column split, and {error}")]
    train = int((split == "train").sum())
    batch = FULL_SIZE.scene.batch
    few = f"has {train} training clips: a batch takes {batch}"
    return [Finding(file, few)] if train < batch else []


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
        sorted(RESERVED.intersection(clips["label"])),
        "has the label {first!r}, a column of every answer: use another word",
    )
    findings += fault(
        file,
        sorted(set(clips["label"]) - set(clips.loc[clips["split"] == "train", "label"])),
        "has the label {first!r}, which no training clip carries",
    )
    if "location" in clips:
        sides = clips[(clips["split"] != "unused") & (clips["location"] != "")]
        sides = sides.groupby("location")["split"].nunique()
        findings += fault(
            file,
            list(sides.index[sides > 1]),
            "has clips of the location {first!r} in train and in test ({count} such locations)",
        )
    return findings


def made_split(clips: pd.DataFrame) -> pd.Series:
    """Train or test for every clip: every label in both, no location in both, always the same.

    About a quarter of the clips of each label are for the test. Raises CorpusError, naming a label,
    where there is no such split.
    """
    table = pd.crosstab(clips["location"], clips["scene_label"])
    lone = table.columns[(table > 0).sum() < 2]
    if lone.size:
        raise CorpusError(
            f"the label {lone[0]!r} has one location: it cannot be in train and in test"
        )
    counts = table.to_numpy()
    rng = np.random.default_rng(0)
    splits = [_drawn(counts, rng) for _ in range(100)]
    # Of those with most labels in the test, the one nearest to a quarter of each.
    shares = [counts[test].sum(0) / counts.sum(0) for test in splits]
    best = max(range(100), key=lambda k: ((shares[k] > 0).sum(), -abs(shares[k] - TEST).sum()))
    if not shares[best].all():
        raise CorpusError(
            f"no split has the label {table.columns[shares[best].argmin()]!r} in train and in test "
            "and no location in both"
        )
    test = clips["location"].isin(table.index[splits[best]])
    return test.map({True: "test", False: "train"})


# Which locations [places] of ``counts`` [places, labels] are for the test: first those of labels
# that have none yet, then up to a quarter of the clips; each label keeps one for training.
def _drawn(counts: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    test = np.zeros(len(counts), bool)
    held = np.zeros(counts.shape[1], int)
    left = (counts > 0).sum(0)
    most = TEST * counts.sum(0) + 0.5
    for cover in (True, False):
        for place in rng.permutation(np.flatnonzero(~test)):
            mine = counts[place] > 0
            room = (held + counts[place] <= most)[mine].all()
            if ((held[mine] == 0).any() if cover else room) and (left[mine] > 1).all():
                test[place] = True
                held += counts[place]
                left -= mine
    return test

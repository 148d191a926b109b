"""A custom data set: a folder of audio files and a CSV table that says what they are."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from ..files import cores, write_text
from ..recipes import HELD_OUT, SMALL_SCENE, Preset
from ..registry import ParameterError
from . import audio, checks
from .data_set import COLUMNS, FULL_SIZE, CorpusError, DataSet, Finding, SceneCorpus, fault
from .splits import TEST, fold_split, made_split

SPLITS = ("train", "test", "unused")
RESERVED = {"start", "end", "scene"}
SPLIT = "split.csv"  # written beside a table without a column ``split``
STEPS = 600  # of the optimiser; on 61 clips the training loss is near 0 then
VARIANT = re.compile(r"fold([1-9]\d?)of([1-9]\d?)|([1-9]\d?)folds|(\d{1,4}(?:\.\d+)?)s")


def custom(folder: Path, seconds: float = 0, fold: tuple[int, int] | None = None) -> DataSet:
    """The data set in a folder; the full-size tagger tags its scenes.

    ``seconds``: length of its clips (0: the median of its recordings). ``fold``: the number of the
    fold that is tested (from 1; 0: none, all clips train), and of all folds; None: the split of the
    folder.
    """
    name = "own_" + (re.sub(r"\W+", "_", folder.name.lower()).strip("_") or "data").removeprefix(
        "own_"
    )
    name += f"@{seconds:g}s" * bool(seconds)
    if fold:
        number, folds = fold
        name += f"@fold{number}of{folds}" if number else f"@{folds}folds"
    return DataSet(
        name,
        "yours",
        lambda: check(folder, seconds, fold),
        lambda: read(name, folder, seconds, fold),
        preset=preset(folder),
        folder=folder,
        variant=None if fold else partial(_variant, folder, seconds),
        folds=[f"@fold{k + 1}of{folds}" for k in range(folds)] if fold and not number else [],
    )


def preset(folder: Path) -> Preset:
    """That of the full-size corpora on a GPU; on a processor one that trains in minutes.

    There a network takes about ``STEPS`` steps, however few the clips.
    """
    import torch  # takes seconds; the processes that compose scenes do without it

    if torch.cuda.is_available():
        scene = replace(FULL_SIZE.scene, back_end=HELD_OUT)
        return replace(FULL_SIZE, scene=scene, tags="yamnet")
    try:
        lines = (folder / table_file(folder)).read_bytes().count(b"\n")
    except (CorpusError, OSError):  # told by whoever reads the clips
        lines = 0
    epochs = STEPS * SMALL_SCENE.batch / max((1 - TEST) * lines, 1)
    epochs = int(np.clip(epochs, SMALL_SCENE.epochs, 300))
    scene = replace(SMALL_SCENE, epochs=epochs, eval_every=epochs, back_end=HELD_OUT)
    return Preset("narrow", scene, FULL_SIZE.tagger, 1, cores(), "yamnet")


def _variant(folder: Path, seconds: float, word: str) -> DataSet:
    match = VARIANT.fullmatch(word)
    fold, of, folds, length = match.groups() if match else [None] * 4
    if length and not seconds and float(length) >= audio.SHORTEST:
        return custom(folder, float(length))
    if int(of or folds or 0) > 1 and int(fold or 0) <= int(of or folds):
        return custom(folder, seconds, (int(fold or 0), int(of or folds)))
    raise ParameterError(
        f"parameter 'data' ends with '@{word}': a folder takes @10s (clips of 10 s, of at least "
        f"{audio.SHORTEST:g} s), then @fold2of5 (the second of five folds is the test) or, for "
        "sweeps and what they give, @5folds (each in turn)"
    )


def read(
    name: str, folder: Path, seconds: float = 0, fold: tuple[int, int] | None = None
) -> SceneCorpus:
    """The clips in a folder; without a column split, one is made and written beside the table.

    Further columns of the table, each optional: ``location`` (else every clip counts as a place
    of its own), ``city`` and ``split`` (train, test or unused). A recording that holds several
    clips is so many windows, named after it (``audio.window_of``). Raises CorpusError, and
    AudioError for a file that has no length.
    """
    clips, findings = table(folder)
    if findings:
        raise CorpusError(f"{folder / findings[0].file} {findings[0].what}")
    clips = with_usual(clips)
    if fold:
        clips = _folded(clips, fold)
    elif "split" not in clips:
        clips["split"] = _made(folder, clips)
    lengths = [audio.length(folder / name) for name in clips["filename"]]
    samples = round(seconds * audio.RATE) or audio.usual_length(lengths)
    windows = [audio.windows(*length, samples) for length in lengths]
    names = [
        name if count == 1 else f"{name}#{number}"
        for name, count in zip(clips["filename"], windows)
        for number in range(1, count + 1)
    ]
    clips = clips.loc[clips.index.repeat(windows)].reset_index(drop=True).assign(filename=names)
    return SceneCorpus(name, folder, clips[COLUMNS], samples=samples)


def with_usual(clips: pd.DataFrame) -> pd.DataFrame:
    """A table's clips with all columns of a corpus but the split; an empty cell is no value."""
    known = clips.columns.intersection(["filename", "label", "location", "city", "split"])
    clips = clips[known].rename(columns={"label": "scene_label"}).assign(fold=0, device="")
    for column, usual in (("location", clips["filename"]), ("city", "unknown")):
        given = clips[column] if column in clips else pd.Series("", clips.index)
        clips[column] = given.where(given != "", usual)
    return clips


def _folded(clips: pd.DataFrame, fold: tuple[int, int]) -> pd.DataFrame:
    used = clips.get("split", pd.Series("", clips.index)) != "unused"
    return clips.assign(
        split=fold_split(clips[used], *fold).reindex(clips.index, fill_value="unused")
    )


def write_split(folder: Path) -> pd.Series:
    """Make the split of a folder's clips and write it beside its table. Raises CorpusError."""
    clips, findings = table(folder)
    if findings:
        raise CorpusError(f"{folder / findings[0].file} {findings[0].what}")
    if "split" in clips:
        file = SPLIT if (folder / SPLIT).is_file() else table_file(folder)
        raise CorpusError(f"{folder / file} has a split already: it is used")
    return _made(folder, with_usual(clips))


def _made(folder: Path, clips: pd.DataFrame) -> pd.Series:
    """A split, written. The same clips give the same one, so two processes do not disagree."""
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
                problems = [
                    f"has no row for {new.iloc[0]!r}: add it, or delete {SPLIT} for a new split"
                ]
    findings = [Finding(file, problem) for problem in problems]
    if clips is not None and not problems:
        findings = [*_same_files(folder, file, clips), *_unfit_names(file, clips)]
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


def _unfit_names(file: str, clips: pd.DataFrame) -> list[Finding]:
    findings = fault(
        file,
        sorted(RESERVED.intersection(clips["label"])),
        "has the label {first!r}, a column of every answer: use another word",
    )
    for column in clips.columns.intersection(["label", "location", "city"]):
        spellings = clips.groupby(clips[column].str.casefold().str.split().str.join(" "))[column]
        several = [sorted(set(group)) for _, group in spellings if group.nunique() > 1]
        what = f"has the {column}s {{first[0]!r}} and {{first[1]!r}}: write them alike"
        findings += fault(file, several, what)
    return findings


def check(
    folder: Path, seconds: float = 0, fold: tuple[int, int] | None = None
) -> tuple[pd.DataFrame, list[Finding]]:
    """Clips and places of each label and split; everything wrong, converted, or lacking."""
    clips, findings = table(folder)
    file = table_file(folder)
    names = [] if clips is None else clips["filename"]
    counts = pd.DataFrame([{"table": file, "rows": len(names)}])
    sounds = list(checks.examined(folder, checks.safe(names)))
    own = {audio.MISSING: "is missing: copy it there, or remove its row"}
    findings += [
        Finding(sound.name, own.get(what, what)) for sound in sounds for what in sound.problems
    ]
    usable = [sound for sound in sounds if not sound.problems]
    lengths = [(sound.shape[1], sound.rate) for sound in usable]
    try:
        usual = round(seconds * audio.RATE) or audio.usual_length(lengths)
    except audio.AudioError as error:
        return counts, findings + [Finding(".", str(error))] * bool(usable)
    windows = [audio.windows(*length, usual) for length in lengths]
    for sound, count in zip(usable, windows):
        channels, frames = sound.shape
        cut = "cut to" if count == 1 else f"cut into {count} windows of"
        notes = audio.conversions(frames, sound.rate, channels, usual, cut) + sound.doubts
        findings += [Finding(sound.name, what, fatal=False) for what in notes]
    if any(finding.fatal for finding in findings):
        return counts, findings
    clips = with_usual(clips).assign(
        clips=windows, seconds=[frames / rate for frames, rate in lengths]
    )
    rates = pd.Series([sound.rate / 1000 for sound in usable]).value_counts()
    told = ", ".join(f"{rate:g} kHz ({count})" for rate, count in rates.items())
    what = f"{clips['clips'].sum()} clips of {usual / audio.RATE:g} s from recordings of {told}"
    findings.append(Finding(file, f"gives {what}", fatal=False))
    try:
        if fold:
            clips = _folded(clips, fold)
        elif "split" not in clips:
            clips["split"] = made_split(clips)
            made = "has no column split: this one is made; `asc data split` writes it"
            findings.append(Finding(file, made, fatal=False))
    except CorpusError as error:
        findings.append(Finding(file, f"has no column split, and {error}"))
        return _summary(clips.assign(split="")), findings
    return _summary(clips), findings + _lacking(file, clips)


def _summary(clips: pd.DataFrame) -> pd.DataFrame:
    """Clips, places and minutes of every label, and clips and places in every split."""
    rows = {}
    for label, group in [*clips.groupby("scene_label"), ("all", clips)]:
        parts = {name: group[group["split"] == name] for name in SPLITS}
        rows[label] = {"clips": group["clips"].sum(), "places": group["location"].nunique()}
        for name, part in parts.items():
            if (clips["split"] == name).any():
                places = part["location"].nunique()
                rows[label] |= {name: part["clips"].sum(), f"{name} places": places}
        rows[label]["minutes"] = round(group["seconds"].sum() / 60, 1)
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("label").reset_index()


def _lacking(file: str, clips: pd.DataFrame) -> list[Finding]:
    """What a run would lack, of a table and files in which nothing is wrong."""
    if clips["scene_label"].nunique() < 2:
        return [Finding(file, "has one label: at least two are needed")]
    train = int(clips["clips"][clips["split"] == "train"].sum())
    batch = SMALL_SCENE.batch
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

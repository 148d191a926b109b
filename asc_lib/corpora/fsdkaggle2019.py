"""FSDKaggle2019, and its format, in which composed tag clips are written too."""

from pathlib import Path

import pandas as pd

from ..recipes import TAG_RATE
from . import checks
from .checks import Finding, Tables
from .corpus import TagCorpus
from .data_set import DataSet, official_root, register
from .fetch import zenodo

SETS = ("train_curated", "train_noisy", "test")
# Curated clips of FSDKaggle2019 that are known to be mislabelled, or silent (the last).
WRONG = ("f76181c4", "77b925c2", "6a1f682a", "c7db12aa", "7752cc8a", "1d44b0bd")


def table_file(kind: str) -> str:
    """The table of a set."""
    return f"FSDKaggle2019.meta/{kind}_post_competition.csv"


def tables(root: Path) -> Tables:
    """The three tables of a corpus in FSDKaggle2019's layout."""
    found = {}
    files = {}
    findings = []
    for kind in SETS:
        table, problems = checks.table(root / table_file(kind), ["fname", "labels"], ",")
        if table is not None:
            found[table_file(kind)] = table
            folder = f"FSDKaggle2019.audio_{kind}"
            files[folder] = checks.safe(table["fname"], f"{folder}/")
        findings += [Finding(table_file(kind), problem) for problem in problems]
    curated = found.get(table_file("train_curated"))
    known = set() if curated is None else _tags(curated)
    for file, table in found.items():
        strangers = _tags(table) - known
        if known and strangers:
            what = f"has the label {min(strangers)!r}, which no curated clip carries"
            findings.append(Finding(file, what))
    return Tables(found, files, findings)


def _tags(table: pd.DataFrame) -> set[str]:
    return {tag for labels in table["labels"].str.split(",") for tag in labels}


def read(name: str, root: Path) -> TagCorpus:
    """Read a corpus in FSDKaggle2019's layout; the tags are those of the curated set, sorted.

    Raises CorpusError where a table is missing, has other columns, or holds an unknown label.
    """
    found = tables(root).checked(root)
    parts = []
    for kind, table in zip(SETS, found.values()):
        paths = [root / f"FSDKaggle2019.audio_{kind}" / fname for fname in table["fname"]]
        parts.append(table.assign(path=paths, set=kind.removeprefix("train_")))
    clips = pd.concat(parts, ignore_index=True)
    clips = clips[~clips["fname"].str.removesuffix(".wav").isin(WRONG)].reset_index(drop=True)
    tags = sorted(_tags(clips[clips["set"] == "curated"]))
    fold = clips["fold"].astype(int) if "fold" in clips else -1
    clips = clips.assign(labels=clips["labels"].str.split(","), fold=fold)
    return TagCorpus(name, root, clips, tags)


OFFICIAL = dict(zip(map(table_file, SETS), (4970, 19_815, 4481)))


def check() -> tuple[pd.DataFrame, list[Finding]]:
    """Everything that is wrong with the official corpus, and its counts."""
    root = official_root("fsdkaggle2019")
    return checks.check(root, tables(root), TAG_RATE, 1, None, OFFICIAL)


register(
    DataSet(
        "fsdkaggle2019",
        "FSDKaggle2019, https://doi.org/10.5281/zenodo.3612637 (Creative Commons, clip by clip)",
        check,
        tag_clips=lambda: read("fsdkaggle2019", official_root("fsdkaggle2019")),
        archives=lambda: zenodo(3612637),
        tables=tables,
    )
)

"""FSDKaggle2019, and its format, in which composed tag clips are written too."""

from pathlib import Path

import pandas as pd

from ..recipes import TAG_RATE
from . import checks
from .data_set import DataSet, Finding, Tables, TagCorpus, official_root, register
from .fetch import zenodo

SETS = ("train_curated", "train_noisy", "test")
# Curated clips of FSDKaggle2019 that are known to be mislabelled, or silent (the last).
WRONG = ("f76181c4", "77b925c2", "6a1f682a", "c7db12aa", "7752cc8a", "1d44b0bd")


def table_file(kind: str) -> str:
    return f"FSDKaggle2019.meta/{kind}_post_competition.csv"


def tables(root: Path) -> Tables:
    """The three tables of a corpus in FSDKaggle2019's layout."""
    found, findings = checks.read_tables(
        root, dict.fromkeys(map(table_file, SETS), ["fname", "labels"]), ","
    )
    files = {
        f"FSDKaggle2019.audio_{kind}": checks.safe(
            found[table_file(kind)]["fname"], f"FSDKaggle2019.audio_{kind}/"
        )
        for kind in SETS
        if table_file(kind) in found
    }
    curated = found.get(table_file("train_curated"))
    known = set() if curated is None else _tags(curated)
    findings += [
        Finding(file, f"has the label {min(_tags(table) - known)!r}, which no curated clip carries")
        for file, table in found.items()
        if known and not _tags(table) <= known
    ]
    return Tables(found, files, findings)


def _tags(table: pd.DataFrame) -> set[str]:
    return {tag for labels in table["labels"].str.split(",") for tag in labels}


def read(name: str, root: Path) -> TagCorpus:
    """Read a corpus in FSDKaggle2019's layout; the tags are those of the curated set, sorted.

    Raises CorpusError where a table is missing, has other columns, or holds an unknown label.
    """
    clips = pd.concat(
        [
            table.assign(
                path=[root / f"FSDKaggle2019.audio_{kind}" / fname for fname in table["fname"]],
                set=kind.removeprefix("train_"),
            )
            for kind, table in zip(SETS, tables(root).checked(root).values())
        ],
        ignore_index=True,
    )
    clips = clips[~clips["fname"].str.removesuffix(".wav").isin(WRONG)].reset_index(drop=True)
    tags = sorted(_tags(clips[clips["set"] == "curated"]))
    clips = clips.assign(
        labels=clips["labels"].str.split(","),
        fold=clips["fold"].astype(int) if "fold" in clips else -1,
    )
    return TagCorpus(name, root, clips, tags)


def check() -> tuple[pd.DataFrame, list[Finding]]:
    root = official_root("fsdkaggle2019")
    rows = dict(zip(map(table_file, SETS), (4970, 19_815, 4481)))
    return checks.check(root, tables(root), TAG_RATE, 1, None, rows)


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

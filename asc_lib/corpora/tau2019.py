"""TAU Urban Acoustic Scenes 2019, and its format, in which composed scenes are written too."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from . import checks
from .audio import CHANNELS, RATE
from .data_set import DataSet, Finding, SceneCorpus, Tables, official_root, register
from .fetch import zenodo

HEADERS = {
    "meta.csv": ["filename", "scene_label", "identifier", "source_label"],
    "evaluation_setup/fold1_train.csv": ["filename", "scene_label"],
    "evaluation_setup/fold1_evaluate.csv": ["filename", "scene_label"],
    "evaluation_setup/fold1_test.csv": ["filename"],
}
SCENES = (
    "airport",
    "bus",
    "metro",
    "metro_station",
    "park",
    "public_square",
    "shopping_mall",
    "street_pedestrian",
    "street_traffic",
    "tram",
)


def tables(root: Path) -> Tables:
    """The four tables of a corpus in TAU 2019's layout (official fold 1)."""
    found, findings = checks.read_tables(root, HEADERS, "\t")
    if len(found) == len(HEADERS):
        findings += _contradictions(*found.values())
    names = checks.safe(found["meta.csv"]["filename"]) if "meta.csv" in found else []
    return Tables(found, {"audio": names}, findings)


def _contradictions(
    meta: pd.DataFrame, train: pd.DataFrame, evaluate: pd.DataFrame, test: pd.DataFrame
) -> Iterator[Finding]:
    _, train_file, evaluate_file, test_file = HEADERS
    different = set(evaluate["filename"]) ^ set(test["filename"])
    if different:
        yield Finding(
            test_file, f"names other clips than fold1_evaluate.csv, the first {min(different)!r}"
        )
    both = set(train["filename"]) & set(evaluate["filename"])
    if both:
        yield Finding(
            train_file,
            f"shares {len(both)} clips with fold1_evaluate.csv, the first {min(both)!r}",
        )
    labels = meta.drop_duplicates("filename").set_index("filename")["scene_label"]
    for file, part in ((train_file, train), (evaluate_file, evaluate)):
        known = part["filename"].isin(labels.index)
        if not known.all():
            yield Finding(
                file,
                f"lists {(~known).sum()} clips that are not in meta.csv, "
                f"the first {part['filename'][~known].iloc[0]!r}",
            )
        other = part[known & (part["scene_label"] != part["filename"].map(labels))]
        if len(other):
            first = other.iloc[0]
            yield Finding(
                file,
                f"labels {first['filename']!r} as {first['scene_label']!r}, "
                f"meta.csv as {labels[first['filename']]!r} ({len(other)} such rows)",
            )
    strangers = set(meta["scene_label"]) - set(SCENES)
    if strangers:
        yield Finding(
            "meta.csv",
            f"has the unknown label {min(strangers)!r}; there are {', '.join(SCENES)}",
        )
    cityless = [name for name in meta["identifier"] if "-" not in name]
    if cityless:
        yield Finding(
            "meta.csv",
            f"has the identifier {cityless[0]!r}; expected is city-number, as in milan-1164",
        )


def read(name: str, root: Path) -> SceneCorpus:
    """Read a corpus in TAU 2019's layout (official fold 1).

    Raises CorpusError where a table is missing, has other columns, or lists contradict each other.
    """
    meta, train, evaluate, _ = tables(root).checked(root).values()
    lists = [meta["filename"].isin(part["filename"]) for part in (train, evaluate)]
    clips = meta.rename(columns={"identifier": "location", "source_label": "device"}).assign(
        city=meta["identifier"].str.split("-").str[0],
        split=np.select(lists, ["train", "test"], "unused"),
    )
    if not (root / "composition.csv").is_file():
        return SceneCorpus(name, root, clips.assign(fold=0))
    parts = pd.read_csv(root / "composition.csv", sep="\t", keep_default_na=False)
    folds = parts.groupby("filename")["fold"].first()
    return SceneCorpus(name, root, clips.assign(fold=clips["filename"].map(folds)), parts)


def check() -> tuple[pd.DataFrame, list[Finding]]:
    """Everything that is wrong with the official corpus, and its counts."""
    root = official_root("tau2019")
    official = dict(zip(HEADERS, (14_400, 9185, 4185)))
    return checks.check(root, tables(root), RATE, CHANNELS, 10 * RATE, official)


register(
    DataSet(
        "tau2019",
        "TAU Urban Acoustic Scenes 2019, https://doi.org/10.5281/zenodo.2589280 "
        "(own EULA: no commercial use)",
        check,
        scenes=lambda: read("tau2019", official_root("tau2019")),
        archives=lambda: zenodo(2589280),
        tables=tables,
        leading="TAU-urban-acoustic-scenes-2019-development/",
    )
)

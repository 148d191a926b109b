"""TAU Urban Acoustic Scenes 2019, and its format, in which composed scenes are written too."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pandas as pd

from . import checks
from .audio import CHANNELS, RATE
from .checks import Finding, Tables
from .corpus import SceneCorpus
from .data_set import DataSet, official_root, register
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
    found = {}
    findings = []
    for file, columns in HEADERS.items():
        table, problems = checks.table(root / file, columns, "\t")
        if table is not None:
            found[file] = table
        findings += [Finding(file, problem) for problem in problems]
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
        first = min(different)
        yield Finding(test_file, f"names other clips than fold1_evaluate.csv, the first {first!r}")
    both = set(train["filename"]) & set(evaluate["filename"])
    if both:
        what = f"shares {len(both)} clips with fold1_evaluate.csv, the first {min(both)!r}"
        yield Finding(train_file, what)
    labels = meta.drop_duplicates("filename").set_index("filename")["scene_label"]
    for file, part in ((train_file, train), (evaluate_file, evaluate)):
        known = part["filename"].isin(labels.index)
        if not known.all():
            first = part["filename"][~known].iloc[0]
            what = f"lists {(~known).sum()} clips that are not in meta.csv, the first {first!r}"
            yield Finding(file, what)
        part = part[known]
        other = part[part["scene_label"] != part["filename"].map(labels)]
        if len(other):
            first = other.iloc[0]
            own = f"labels {first['filename']!r} as {first['scene_label']!r}"
            its = f"meta.csv as {labels[first['filename']]!r}"
            yield Finding(file, f"{own}, {its} ({len(other)} such rows)")
    strangers = sorted(set(meta["scene_label"]) - set(SCENES))
    if strangers:
        what = f"has the unknown label {strangers[0]!r}; there are {', '.join(SCENES)}"
        yield Finding("meta.csv", what)
    cityless = [name for name in meta["identifier"] if "-" not in name]
    if cityless:
        what = f"has the identifier {cityless[0]!r}; expected is city-number, as in milan-1164"
        yield Finding("meta.csv", what)


def read(name: str, root: Path) -> SceneCorpus:
    """Read a corpus in TAU 2019's layout (official fold 1).

    Raises CorpusError where a table is missing, has other columns, or lists contradict each other.
    """
    meta, train, evaluate, _ = tables(root).checked(root).values()
    clips = meta.rename(columns={"identifier": "location", "source_label": "device"})
    clips["city"] = clips["location"].str.split("-").str[0]
    in_train = clips["filename"].isin(train["filename"])
    in_test = clips["filename"].isin(evaluate["filename"])
    clips["split"] = np.select([in_train, in_test], ["train", "test"], "unused")
    if not (root / "composition.csv").is_file():
        return SceneCorpus(name, root, clips.assign(fold=0))
    parts = pd.read_csv(root / "composition.csv", sep="\t", keep_default_na=False)
    folds = parts.groupby("filename")["fold"].first()
    return SceneCorpus(name, root, clips.assign(fold=clips["filename"].map(folds)), parts)


OFFICIAL = {
    "meta.csv": 14_400,
    "evaluation_setup/fold1_train.csv": 9185,
    "evaluation_setup/fold1_evaluate.csv": 4185,
}


def check() -> tuple[pd.DataFrame, list[Finding]]:
    """Everything that is wrong with the official corpus, and its counts."""
    root = official_root("tau2019")
    return checks.check(root, tables(root), RATE, CHANNELS, 10 * RATE, OFFICIAL)


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

"""TAU Urban Acoustic Scenes 2019, and its format, in which composed scenes are written too."""

from dataclasses import replace
from pathlib import Path, PurePosixPath

import numpy as np
import pandas as pd

from ..registry import unknown
from . import checks, macs
from .audio import CHANNELS, RATE
from .data_set import (
    DATA_SETS,
    DataSet,
    Finding,
    SceneCorpus,
    Tables,
    fault,
    official_root,
    register,
)
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
) -> list[Finding]:
    meta_file, train_file, evaluate_file, test_file = HEADERS
    findings = fault(
        test_file,
        sorted(set(evaluate["filename"]) ^ set(test["filename"])),
        "names other clips than fold1_evaluate.csv, the first {first!r}",
    )
    findings += fault(
        train_file,
        sorted(set(train["filename"]) & set(evaluate["filename"])),
        "shares {count} clips with fold1_evaluate.csv, the first {first!r}",
    )
    labels = meta.drop_duplicates("filename").set_index("filename")["scene_label"]
    for file, part in ((train_file, train), (evaluate_file, evaluate)):
        known = part["filename"].isin(labels.index)
        findings += fault(
            file,
            list(part["filename"][~known]),
            "lists {count} clips that are not in meta.csv, the first {first!r}",
        )
        both = part.assign(label=part["filename"].map(labels))[known]
        findings += fault(
            file,
            list(both[both["scene_label"] != both["label"]].itertuples()),
            "labels {first.filename!r} as {first.scene_label!r}, meta.csv as {first.label!r} "
            "({count} such rows)",
        )
    findings += fault(
        meta_file,
        sorted(set(meta["scene_label"]) - set(SCENES)),
        "has the unknown label {first!r}; there are " + ", ".join(SCENES),
    )
    return findings + fault(
        meta_file,
        [name for name in meta["identifier"] if "-" not in name],
        "has the identifier {first!r}; expected is city-number, as in milan-1164",
    )


def read(name: str, root: Path) -> SceneCorpus:
    """Read a corpus in TAU 2019's layout (official fold 1).

    Raises CorpusError where a table is missing, has other columns, or lists contradict each other.
    """
    meta, train, evaluate, _ = tables(root).checked(root).values()
    clips = meta.rename(columns={"identifier": "location", "source_label": "device"}).assign(
        city=meta["identifier"].str.split("-").str[0],
        split=np.select(
            [meta["filename"].isin(part["filename"]) for part in (train, evaluate)],
            ["train", "test"],
            "unused",
        ),
    )
    if not (root / "composition.csv").is_file():
        return SceneCorpus(name, root, clips.assign(fold=0))
    parts = pd.read_csv(root / "composition.csv", sep="\t", keep_default_na=False)
    folds = parts.groupby("filename")["fold"].first()
    clips["fold"] = clips["filename"].map(folds)
    return SceneCorpus(name, root, clips, parts, pd.read_csv(root / "places.csv", sep="\t"))


def check() -> tuple[pd.DataFrame, list[Finding]]:
    root = official_root("tau2019")
    return checks.check(
        root, tables(root), RATE, CHANNELS, 10 * RATE, dict(zip(HEADERS, (14_400, 9185, 4185)))
    )


def with_macs() -> SceneCorpus:
    """The clips that MACS has human tags of: three scenes."""
    corpus = read("tau2019@macs", official_root("tau2019"))
    names = [PurePosixPath(name).name for name in corpus.clips["filename"]]
    clips = corpus.clips[pd.Index(names).isin(macs.read().index)]
    return replace(corpus, clips=clips.reset_index(drop=True))


def variant(word: str) -> DataSet:
    """Its clips in MACS, for ``macs``. Raises ParameterError."""
    if word != "macs":
        raise unknown("data", f"tau2019@{word}", ["tau2019", "tau2019@macs"])
    return replace(DATA_SETS["tau2019"], name="tau2019@macs", scenes=with_macs, variant=None)


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
        variant=variant,
    )
)

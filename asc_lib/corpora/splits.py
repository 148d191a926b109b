"""Parts of a data set's clips: train and test, or folds. No place is in two of them."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from scipy import sparse
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, milp

from .data_set import CorpusError, SceneCorpus

TEST = 0.25  # share of the clips of each label in a split that is made
# The best division is not worth minutes: the search ends within 5 % of it, or at its root.
SEARCH = {"mip_rel_gap": 0.05, "node_limit": 1}


def made_split(clips: pd.DataFrame) -> pd.Series:
    """Train or test for every clip, about a quarter of each label's for the test.

    Every label is in both, no location is, and the same clips give the same split. Raises
    CorpusError, naming the labels in the way, where there is no such split.
    """
    return parted(clips, [1 - TEST, TEST], "train and test").map({0: "train", 1: "test"})


def fold_split(clips: pd.DataFrame, fold: int, folds: int) -> pd.Series:
    """Test for the clips of one of so many ``folds`` (from 1; 0: none), train for all others.

    Labels are spread over the folds as evenly as their places allow. Raises CorpusError as
    ``made_split`` does.
    """
    part = parted(clips, [1 / folds] * folds, f"{folds} folds")
    return (part == fold - 1).map({True: "test", False: "train"})


def held_out(corpus: SceneCorpus) -> SceneCorpus:
    """The training clips alone: those of a third of their places, by label, become the test."""
    from sklearn.model_selection import StratifiedGroupKFold  # as PyTorch in ``custom.preset``

    clips = corpus.clips.iloc[corpus.rows("train")]
    folds = StratifiedGroupKFold(3, shuffle=True, random_state=0)
    _, judges = next(folds.split(clips, clips["scene_label"], clips["location"]))
    return _judged(corpus, clips.index[judges])


def judged(corpus: SceneCorpus) -> SceneCorpus:
    """The same for few places, so that every label is on both sides. Raises CorpusError."""
    clips = corpus.clips.iloc[corpus.rows("train")]
    part = parted(clips, [2 / 3, 1 / 3], "a third of the training places")
    return _judged(corpus, clips.index[part == 1])


def _judged(corpus: SceneCorpus, judges: pd.Index) -> SceneCorpus:
    split = corpus.clips["split"].where(corpus.clips["split"] == "train", "left out")
    split[judges] = "test"
    return replace(corpus, clips=corpus.clips.assign(split=split))


def parted(clips: pd.DataFrame, shares: Sequence[float], what: str) -> pd.Series:
    """The number of every clip's part; the parts hold about these ``shares`` of each label.

    No part is empty, no location is in two, no label is in one alone. A mixed-integer programme,
    so that parts that exist are found. Raises CorpusError where there are none.
    """
    table = pd.crosstab(clips["location"], clips["scene_label"])
    if 1 < len(table) < len(shares):
        raise CorpusError(f"there are {len(table)} locations: too few for {what}")
    kinds, kind = np.unique(table.to_numpy(), axis=0, return_inverse=True)  # of places, alike
    sizes = np.bincount(kind)
    found = _solved(kinds, sizes, shares, **SEARCH)
    if found.x is None:
        found = _solved(kinds, sizes, shares, weight=0)  # any parts at all, by a full search
    if found.x is None:
        keep = list(range(len(table.columns)))
        for label in reversed(keep):  # without each of those that can go
            rest = [k for k in keep if k != label]
            if rest and _solved(kinds[:, rest], sizes, shares, weight=0).x is None:
                keep = rest
        names = ", ".join(map(repr, table.columns[keep]))
        raise CorpusError(
            f"the label {names} has one location: it cannot be in train and in test"
            if len(keep) == 1
            else f"the labels {names} share too few locations: no {what} without a location in two "
            "parts have each of these labels in more than one"
        )
    places = np.random.default_rng(0).permutation(len(table))  # which of those that are alike
    places = places[np.argsort(kind[places], kind="stable")]
    amounts = found.x[: len(kinds) * len(shares)].round().astype(int)
    parts = pd.Series(np.repeat(np.tile(range(len(shares)), len(kinds)), amounts), places)
    return clips["location"].map(dict(zip(table.index, parts.sort_index())))


def _solved(
    kinds: np.ndarray, sizes: np.ndarray, shares: Sequence[float], weight: float = 1, **options
) -> OptimizeResult:
    """How many places of each kind go to each part, then each label's distance from its shares.

    ``kinds`` [k, labels]: clips of each label in a place of each kind; ``sizes`` [k]: places.
    """
    parts = len(shares)
    clips = sizes @ kinds
    distances = sparse.eye_array(len(clips) * parts)

    def per_part(rows: np.ndarray) -> sparse.sparray:
        return sparse.kron(rows, sparse.eye_array(parts))

    def padded(rows: sparse.sparray) -> sparse.sparray:
        return sparse.hstack([rows, sparse.csr_array((rows.shape[0], distances.shape[0]))])

    each = sparse.kron(sparse.eye_array(len(kinds)), np.ones((1, parts)))
    some = per_part((kinds > 0).T.astype(float))
    held = per_part(kinds.T)
    wanted = np.outer(clips, shares).ravel()
    most = np.repeat(sizes @ (kinds > 0) - 1, parts)
    return milp(
        np.r_[np.zeros(each.shape[1]), np.repeat(weight / clips, parts)],
        integrality=np.r_[np.ones(each.shape[1]), np.zeros(len(wanted))],
        bounds=Bounds(0, np.r_[np.repeat(sizes, parts), np.full(len(wanted), np.inf)]),
        constraints=[
            LinearConstraint(padded(each), sizes, sizes),
            LinearConstraint(padded(some), -np.inf, most),  # no label in one part alone
            LinearConstraint(padded(per_part(np.ones((1, len(kinds))))), 1, np.inf),
            LinearConstraint(sparse.hstack([held, distances]), wanted, np.inf),
            LinearConstraint(sparse.hstack([held, -distances]), -np.inf, wanted),
        ],
        options=options,
    )

"""Accuracy and lwlrap with intervals and paired tests, for clips that share places and networks.

The clips of one place are not independent, nor are the answers of one network, nor places with a
background recording in common. A system's outcome is an array ``correct`` [seeds, clips] of 0 and
1. Variances are those of places and, where there are several seeds, of seeds: what would other
places and another training give? `asc simulate` says how often the tests are wrong.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.special import nctdtrinc
from scipy.stats import binomtest, rankdata
from scipy.stats import t as student
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

LEVEL = 0.95
POWER = 0.8


def accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Share of clips classified correctly, 0 to 1."""
    return float(np.mean(np.asarray(truth) == np.asarray(predicted)))


def linear_probe(
    features: np.ndarray,
    targets: np.ndarray,
    train: np.ndarray,
    test: np.ndarray,
    places: np.ndarray,
) -> np.ndarray:
    """Whether a logistic regression, fitted on the rows ``train``, is right on the rows ``test``.

    ``features`` [clips, c] are standardised; the strength of the L2 penalty is chosen on training
    rows alone, by cross-validation over ``places`` [clips]; C = 0.1 where a label has one place.
    """
    places = np.asarray(places)[train]
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    fewest = min(len(np.unique(places[targets[train] == k])) for k in np.unique(targets[train]))
    groups = {}
    if fewest > 1:
        groups = {"groups": places}
        probe = GridSearchCV(
            probe,
            {"logisticregression__C": [0.001, 0.01, 0.1, 1.0]},
            cv=StratifiedGroupKFold(min(3, fewest), shuffle=True, random_state=0),
        )
    probe.fit(features[train], targets[train], **groups)
    return probe.predict(features[test]) == targets[test]


def lrap_by_clip(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label-ranking average precision of each clip with a label, and the number of its labels.

    ``targets`` (0 or 1) and ``scores``: [clips, c] each. Raises ValueError if no clip has a label.
    """
    rows = np.flatnonzero(targets.sum(1) > 0)
    if not len(rows):
        raise ValueError("lwlrap needs at least one clip with a label")
    right, scores = targets[rows] > 0, scores[rows]
    rank = rankdata(-scores, "max", axis=1)  # in all labels, and in the right ones alone
    among = rankdata(np.where(right, -scores, np.inf), "max", axis=1)
    labels = right.sum(1)
    return np.where(right, among / rank, 0).sum(1) / labels, labels


def lwlrap(targets: np.ndarray, scores: np.ndarray) -> float:
    """Label-weighted label-ranking average precision of DCASE 2019 task 2: [clips, c], 0 to 1."""
    precision, weights = lrap_by_clip(targets, scores)
    return float(np.average(precision, weights=weights))


def lwlrap_by_chance(
    targets: np.ndarray, scores: np.ndarray, seed: int = 0, draws: int = 20
) -> float:
    """Mean lwlrap of the same scores dealt out to the wrong clips."""
    rng = np.random.default_rng(seed)
    return float(np.mean([lwlrap(targets, rng.permutation(scores)) for _ in range(draws)]))


class Places:
    """The places of test clips: what is drawn, beside seeds, and what some of them share.

    ``location``, ``weights`` (1 unless given) and ``beds`` (names of background recordings, joined
    by spaces; none unless given): of every clip.
    """

    def __init__(
        self,
        location: np.ndarray | pd.Series,
        weights: np.ndarray | pd.Series | None = None,
        beds: np.ndarray | pd.Series | None = None,
    ):
        names, self.index = np.unique(location, return_inverse=True)  # [clips]
        self.count = len(names)
        weights = np.ones(len(self.index)) if weights is None else np.asarray(weights, float)
        self.weights = weights * self.count / weights.sum()
        self.sizes = np.bincount(self.index, self.weights)  # [places], 1 on average
        self.shared = None  # else, whether two places share a bed: [places, places]
        names = pd.Series("" if beds is None else np.asarray(beds, str), self.index).str.split()
        used = pd.get_dummies(names.explode().dropna()).groupby(level=0).max()
        used = used.reindex(range(self.count), fill_value=False).to_numpy("float32")
        if (used.sum(0) > 1).any():
            self.shared = np.maximum(used @ used.T > 0, np.eye(self.count)).astype("float32")
            self.free = self.count - self.shared.sum() / self.count
            centred = self.shared - self.shared.mean(0) - self.shared.mean(0)[:, None]
            self.df = self.free**2 / max(np.square(centred + self.shared.mean()).sum(), 1e-9)

    def shares(self, values: np.ndarray) -> np.ndarray:
        """Sums of values [seeds, clips] by place, so scaled that their mean is that of all clips.

        [seeds, places]; where places have equally many clips, each place's mean.
        """
        rows = np.atleast_2d(values) * self.weights
        return np.stack([np.bincount(self.index, row) for row in rows])

    def estimate(self, *systems: np.ndarray) -> "Estimate":
        """The mean of one system, or the difference of two: ``shares`` [..., seeds, places].

        Its variance has a part of places (of the mean over seeds, or the difference, in each) and,
        for every system with several seeds, one of seeds (of their means), less what both count:
        the scatter of single answers. Where that leaves nothing of the seeds' part, it is dropped.
        The part of places counts products of deviations, too, of those that share a bed; where they
        are negative, which is chance, at most a fifth is taken off. Degrees of freedom are
        Satterthwaite's. Error and p are NaN where there is one place, or one bed for all.
        """
        value, together, seeds, noise = 0.0, 0.0, 0.0, 0.0
        pairs = self.count * (self.count - 1)
        for sign, shares in zip((1, -1), systems):
            means = shares.mean(-1)  # [..., seeds]
            apart = shares - self.sizes.astype(shares.dtype) * means[..., None]
            average = apart.mean(-2)  # [..., places]
            value = value + sign * means.mean(-1)
            together = together + sign * average
            count = shares.shape[-2]
            if count > 1 and pairs:
                of_seeds = means.var(-1, ddof=1) / count
                single = np.square(apart - average[..., None, :]).sum((-2, -1))
                single /= (count - 1) * count * pairs
                seeds = seeds + of_seeds - single
                noise = noise + (of_seeds**2 + single**2 / (self.count - 1)) / (count - 1)
        if not pairs or (self.shared is not None and self.free < 1e-6):
            return Estimate(value, value * np.nan, value * np.nan)
        places = np.square(together).sum(-1) / pairs
        df = self.count - 1
        if self.shared is not None:
            alike = (together @ self.shared * together).sum(-1) / (self.count * self.free)
            df = np.where(alike > places, self.df, df)
            places = np.maximum(alike, 0.8 * places)
        variance = places + np.maximum(seeds, 0)
        noise = places**2 / df + np.where(seeds > 0, noise, 0)
        df = np.divide(variance**2, noise, out=np.full_like(variance, np.inf), where=noise > 0)
        return Estimate(value, np.sqrt(variance), df)

    def interval(self, values: np.ndarray) -> tuple[float, float]:
        """95 % interval of the mean of values [clips] or [seeds, clips], within their range.

        Where all clips are right, or all wrong, nothing varies: the exact interval of Clopper and
        Pearson, of so many places.
        """
        lowest, highest = np.min(values), np.max(values)
        if self.count > 1 and lowest == highest in (0, 1):
            edge = ((1 - LEVEL) / 2) ** (1 / self.count)
            return (edge, 1.0) if lowest else (0.0, 1 - edge)
        low, high = self.estimate(self.shares(values)).interval
        return float(max(low, lowest)), float(min(high, highest))


@dataclass(frozen=True)
class Estimate:
    """A mean, or a difference of two, with its standard error and degrees of freedom.

    Numbers, or arrays of one shape.
    """

    value: np.ndarray  # a share, -1 to 1
    error: np.ndarray
    df: np.ndarray

    @property
    def interval(self) -> tuple[np.ndarray, np.ndarray]:
        """95 %; it excludes 0 where ``p`` is under 0.05."""
        half = student.ppf((1 + LEVEL) / 2, self.df) * self.error
        return self.value - half, self.value + half

    @property
    def p(self) -> np.ndarray:
        """Two-sided, of the t test of whether the value is 0; 1 where nothing differs."""
        ratio = np.abs(self.value) / np.maximum(self.error, 1e-12)
        return 2 * student.sf(ratio, self.df)


def detectable(error: np.ndarray, df: np.ndarray, comparisons: int = 1) -> np.ndarray:
    """The smallest difference that has an 80 % chance to be found at 5 %.

    Of several ``comparisons``, at the level that Holm's method asks of the first.
    """
    level = (1 - LEVEL) / max(comparisons, 1)
    return nctdtrinc(df, 1 - POWER, student.ppf(1 - level / 2, df)) * error


def mcnemar(system: np.ndarray, other: np.ndarray) -> float:
    """Exact p of McNemar's test on clips that one system gets right and the other does not.

    Each by the majority of its seeds; NaN where they differ in the number of seeds, because a
    majority of five is right more often than a single training.
    """
    if len(system) != len(other):
        return np.nan
    right = system.mean(0) > 0.5
    other_right = other.mean(0) > 0.5
    only = int(np.sum(right & ~other_right))
    only_other = int(np.sum(other_right & ~right))
    return float(binomtest(only, only + only_other).pvalue) if only + only_other else 1.0


def holm(p: list[float]) -> list[float]:
    """Holm's correction of the p of several comparisons; NaN stays NaN and is not counted."""
    values = np.asarray(p, float)
    corrected = np.full(len(p), np.nan)
    order = np.argsort(values)[: np.sum(~np.isnan(values))]  # NaN comes last
    corrected[order] = np.maximum.accumulate(
        np.minimum(np.arange(len(order), 0, -1) * values[order], 1.0)
    )
    return corrected.tolist()

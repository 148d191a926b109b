"""Accuracy and lwlrap with intervals and paired tests, for clips that share places and networks.

The clips of one place are not independent, nor are the answers of one network. A system's outcome
is an array ``correct`` [seeds, clips] of 0 and 1. The bootstraps draw places, with all their clips,
and, where there are several seeds, seeds too: what would other places and another training give?
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import label_ranking_average_precision_score
from sklearn.model_selection import GridSearchCV, StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

DRAWS = 10_000
LEVEL = 0.95
POWER = 1.96 + 0.84  # standard errors for a power of 80 % at 5 %, two-sided


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
    return np.array(
        [label_ranking_average_precision_score(targets[[row]], scores[[row]]) for row in rows]
    ), targets[rows].sum(1)


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


def interval(
    values: np.ndarray, places: np.ndarray, weights: np.ndarray | None = None
) -> tuple[float, float]:
    """95 % interval of a mean over clips: ``bootstrap`` of ``values`` [clips] over places."""
    draws = bootstrap([np.asarray(values)[None]], places, weights)[0]
    return middle(draws, len(np.unique(places)))


def middle(draws: np.ndarray, places: int = 0) -> tuple[float, float]:
    """The middle 95 % of bootstrap draws of a share.

    Where all clips are right, or all wrong, draws do not differ: the exact interval of Clopper and
    Pearson, of so many ``places``.
    """
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    if places > 1 and low == high in (0, 1):
        edge = ((1 - LEVEL) / 2) ** (1 / places)
        return (edge, 1.0) if low else (0.0, 1 - edge)
    return float(low), float(high)


@dataclass(frozen=True)
class Comparison:
    """A system against another, on the same clips. Shares, 0 to 1; NaN with one place only."""

    difference: float
    interval: tuple[float, float]  # 95 %
    p: float  # bootstrap over places and seeds, two-sided
    detectable: float  # the smallest difference that had an 80 % chance to be found
    mcnemar: float  # p by clip, each by the majority of its seeds; assumes independent clips


def bootstrap(
    systems: list[np.ndarray], places: np.ndarray, weights: np.ndarray | None = None, seed: int = 0
) -> np.ndarray:
    """Accuracies [systems, draws] in ``DRAWS`` draws of places and of each system's seeds.

    The places drawn are the same for all systems. ``systems``: ``correct`` [seeds, clips] of each;
    ``places`` and ``weights``: of every clip. NaN where there is one place only. Of n seeds n - 1
    are drawn, which gives the mean's variance without bias; a single seed says nothing of other
    trainings.
    """
    rng = np.random.default_rng(seed)
    names, place = np.unique(places, return_inverse=True)
    if len(names) < 2:
        return np.full((len(systems), DRAWS), np.nan)
    weights = np.ones(len(place)) if weights is None else weights
    equal = [1 / len(names)] * len(names)
    drawn = rng.multinomial(len(names), equal, size=DRAWS).astype(float)  # [draws, places]
    clips = drawn @ np.bincount(place, weights)
    draws = []
    for correct in systems:
        right = np.stack([np.bincount(place, row * weights) for row in correct])  # [seeds, places]
        count = max(len(correct) - 1, 1)
        equal = [1 / len(correct)] * len(correct)
        seeds = rng.multinomial(count, equal, size=DRAWS) / count  # shares [draws, seeds]
        draws.append(np.einsum("ds,sp,dp->d", seeds, right, drawn, optimize=True) / clips)
    return np.stack(draws)


def compare(
    system: np.ndarray, other: np.ndarray, draws: np.ndarray, other_draws: np.ndarray
) -> Comparison:
    """How a system differs from another: both ``correct`` [seeds, clips], and their draws.

    The test asks how often draws lie as far from the measured difference as that lies from zero.
    """
    difference = float(system.mean() - other.mean())
    apart = draws - other_draws
    extreme = np.abs(apart - difference) >= abs(difference) - 1e-12
    return Comparison(
        difference,
        interval=middle(apart),
        p=np.nan if np.isnan(apart).any() else float((1 + extreme.sum()) / (1 + DRAWS)),
        detectable=float(POWER * apart.std()),
        mcnemar=mcnemar(system, other),
    )


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

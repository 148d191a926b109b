"""Accuracy and lwlrap, each with an interval."""

from collections.abc import Callable

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import label_ranking_average_precision_score


def accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Share of clips classified correctly, 0 to 1."""
    return float(np.mean(np.asarray(truth) == np.asarray(predicted)))


def lrap_by_clip(targets: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Label-ranking average precision of each clip that has a label, and its weight, the number of its labels.

    ``targets`` (0 or 1) and ``scores``: [clips, tags] each. Raises ValueError if no clip has a label.
    """
    rows = np.flatnonzero(targets.sum(1) > 0)
    if not len(rows):
        raise ValueError("lwlrap needs at least one clip with a label")
    precision = [label_ranking_average_precision_score(targets[[row]], scores[[row]]) for row in rows]
    return np.array(precision), targets[rows].sum(1)


def lwlrap(targets: np.ndarray, scores: np.ndarray) -> float:
    """Label-weighted label-ranking average precision of DCASE 2019 task 2: [clips, tags] each, 0 to 1."""
    precision, weights = lrap_by_clip(targets, scores)
    return float(np.average(precision, weights=weights))


def lwlrap_by_chance(targets: np.ndarray, scores: np.ndarray, seed: int = 0, draws: int = 20) -> float:
    """Mean lwlrap of the same scores dealt out to the wrong clips: what knowing only the labels' shares gives."""
    rng = np.random.default_rng(seed)
    return float(np.mean([lwlrap(targets, rng.permutation(scores)) for _ in range(draws)]))


def interval(
    statistic: Callable[[np.ndarray], float], groups: np.ndarray, seed: int = 0, draws: int = 1000, level: float = 0.95
) -> tuple[float, float]:
    """Percentile bootstrap interval of ``statistic(rows)``, drawing whole groups of rows with replacement.

    ``groups``: the group (location, recording) of every row; rows of a group are not independent of each other.
    """
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    values = [
        statistic(np.concatenate([members[k] for k in rng.integers(len(members), size=len(members))]))
        for _ in range(draws)
    ]
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def linear_probe(features: np.ndarray, targets: np.ndarray, train: np.ndarray, test: np.ndarray) -> float:
    """Accuracy on the rows ``test`` of a logistic regression fitted on the rows ``train``: what features tell."""
    probe = LogisticRegression(max_iter=5000).fit(features[train], targets[train])
    return float(probe.score(features[test], targets[test]))

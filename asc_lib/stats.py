"""Intervals and paired tests of accuracies, for clips that share places and trained networks.

The clips of one place are not independent, nor are the answers of one network. A system's outcome is an array
``correct`` [seeds, clips] of 0 and 1. All bootstraps draw places, with all their clips, and where there are several
seeds, seeds too: what would other places and another training have given?
"""

from dataclasses import dataclass

import numpy as np
from scipy.stats import binomtest

DRAWS, LEVEL = 10_000, 0.95
POWER = 1.96 + 0.84  # standard errors that a difference needs to be found in 80 % of trials, at 5 %, two-sided


@dataclass(frozen=True)
class Comparison:
    """A system against another, on the same clips. Shares, 0 to 1; NaN where one place leaves nothing to draw from."""

    difference: float
    interval: tuple[float, float]  # 95 %
    p: float  # bootstrap over places and seeds, two-sided
    detectable: float  # the smallest difference that had an 80 % chance of being found
    mcnemar: float  # p on clips as if they were independent, each by the majority of its seeds


def bootstrap(systems: list[np.ndarray], places: np.ndarray, seed: int = 0) -> np.ndarray:
    """Accuracies [systems, draws] in ``DRAWS`` draws of places, the same for all systems, and of each system's seeds.

    ``systems``: ``correct`` [seeds, clips] of each; ``places``: of every clip. NaN where there is one place only. Of n
    seeds n - 1 are drawn, which gives the mean's variance without bias; a single seed says nothing of other trainings.
    """
    rng = np.random.default_rng(seed)
    names, place = np.unique(places, return_inverse=True)
    if len(names) < 2:
        return np.full((len(systems), DRAWS), np.nan)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=DRAWS)
    clips = drawn @ np.bincount(place)
    found = []
    for correct in systems:
        of_place = np.stack([np.bincount(place, row, len(names)) for row in correct])  # [seeds, places]
        some = max(len(correct) - 1, 1)
        seeds = rng.multinomial(some, np.full(len(correct), 1 / len(correct)), size=DRAWS) / some
        found.append(np.einsum("ds,sp,dp->d", seeds, of_place, drawn, optimize=True) / clips)
    return np.stack(found)


def interval(draws: np.ndarray) -> tuple[float, float]:
    """The middle 95 % of bootstrap draws."""
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def accuracy_interval(correct: np.ndarray, places: np.ndarray) -> tuple[float, float]:
    """95 % interval of a system's mean accuracy."""
    return interval(bootstrap([correct], places)[0])


def compare(system: np.ndarray, other: np.ndarray, places: np.ndarray) -> Comparison:
    """How a system differs from another on the same clips; both ``correct`` [seeds, clips].

    The test asks how often draws lie as far from the measured difference as that lies from zero.
    """
    difference = float(system.mean() - other.mean())
    one, two = bootstrap([system, other], places)
    draws = one - two
    if np.isnan(draws).any():
        p = np.nan
    else:
        p = (1 + np.sum(np.abs(draws - difference) >= abs(difference) - 1e-12)) / (1 + DRAWS)
    return Comparison(difference, interval(draws), float(p), float(POWER * draws.std()), mcnemar(system, other))


def mcnemar(system: np.ndarray, other: np.ndarray) -> float:
    """Exact p of McNemar's test on the clips that one system gets right and the other does not, by majority of seeds.

    NaN where they differ in the number of seeds: a majority of five is right more often than a single training.
    """
    if len(system) != len(other):
        return np.nan
    right, other_right = system.mean(0) > 0.5, other.mean(0) > 0.5
    only, only_other = int(np.sum(right & ~other_right)), int(np.sum(other_right & ~right))
    return float(binomtest(only, only + only_other).pvalue) if only + only_other else 1.0


def holm(p: list[float]) -> list[float]:
    """Holm's correction of the p of several comparisons, in their order; NaN stays NaN and is not counted."""
    values, corrected = np.asarray(p, float), np.full(len(p), np.nan)
    order = [k for k in np.argsort(values) if not np.isnan(values[k])]
    largest = 0.0
    for rank, k in enumerate(order):
        largest = max(largest, min(1.0, (len(order) - rank) * values[k]))
        corrected[k] = largest
    return corrected.tolist()

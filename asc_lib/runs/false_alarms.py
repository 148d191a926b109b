"""How often the tests of ``stats`` find a difference that is not there, by simulation.

Two systems that are equally good, on the test places of ``esc50`` (one clip each). A clip is right
with a probability of 0.5 plus normal deviations, cut to 0 to 1: of the clip, of each system in it,
of each training, and of the beds, on which the two systems differ.
"""

import itertools

import numpy as np
import pandas as pd

from .. import stats
from ..corpora import esc50, soundscapes

CLIPS, SYSTEMS = 0.35, 0.15  # deviations, about those of the records of version 1
SEEDS = ((0.02, 0.02), (0.05, 0.05), (0.1, 0.1), (0.1, 0.02))  # of trainings, by system
BEDS = (0.0, 0.05, 0.15)  # of what a bed changes in the difference of two systems
TRAININGS = (1, 3, 5)
RECORDINGS = 6  # of a tag in a fold
COMPARISONS = 11
SCENARIOS = list(itertools.product(TRAININGS, SEEDS, BEDS))
CHUNK = 500  # simulations at a time


def beds() -> list[str]:
    """The beds of each test place of ``esc50``, drawn without its recordings, by tag and fold."""
    rng = np.random.default_rng(0)
    planned = soundscapes.locations(esc50.RECIPE, esc50.RecordedSounds)
    return [
        " ".join(f"{tag}-{place.fold}-{rng.integers(RECORDINGS)}" for tag in place.beds)
        for place in planned
        if place.split == "test"
    ]


def simulate(number: int, draws: int = 40_000) -> dict[str, object]:
    """One of ``SCENARIOS``: shares of simulations, in %.

    Alarms are tests of the difference with p under 5 %, and under the level that Holm's method asks
    of the first of 11 comparisons; *without beds*: by a test that takes places for independent;
    *covered*: the true accuracy lies in the interval of one system.
    """
    trainings, seeds, bed = SCENARIOS[number]
    rng = np.random.default_rng([2019, number])
    own = beds()
    count = len(own)
    places, independent = stats.Places(np.arange(count), beds=own), stats.Places(np.arange(count))
    names = pd.Series(own).str.split().explode()
    used = pd.crosstab(names.index, names).to_numpy("float32") / 2
    found = []
    for _ in range(draws // CHUNK):

        def normal(*shape: int) -> np.ndarray:
            return rng.standard_normal((CHUNK, *shape), "float32")

        clips = 0.5 + CLIPS * normal(1, count)
        by_bed = bed * normal(1, used.shape[1]) @ used.T
        pair = []
        for sign, deviation in zip((0.5, -0.5), seeds):
            chance = clips + sign * by_bed + SYSTEMS * normal(1, count)
            chance = chance + deviation * normal(trainings, 1)
            pair.append((rng.random(chance.shape, "float32") < chance).astype("float32"))
        p = places.estimate(*pair).p
        low, high = places.estimate(pair[0]).interval
        found.append(
            {
                "false alarms at 5 %": p < 0.05,
                "at 0.45 %": p < 0.05 / COMPARISONS,
                "at 5 %, without beds": independent.estimate(*pair).p < 0.05,
                "covered": (low < 0.5) & (high > 0.5),
            }
        )
    deviations = " and ".join(f"{100 * each:g}" for each in dict.fromkeys(seeds))
    return {
        "seeds": trainings,
        "deviation of seeds": deviations,
        "of beds": f"{100 * bed:g}",
        **{name: 100 * np.mean([each[name] for each in found]) for name in found[0]},
    }


def table() -> pd.DataFrame:
    """All scenarios, a row for each; deviations are in points."""
    return pd.DataFrame(map(simulate, range(len(SCENARIOS)))).set_index("seeds")

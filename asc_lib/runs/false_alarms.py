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

# Deviations of clips, and of a system in a clip: about those of the records of version 1.
CLIPS, SYSTEMS = 0.35, 0.15
# Seeds (2 stands last: a scenario's number seeds its draws); deviations of the trainings of either
# system; that of a bed in the systems' difference.
SCENARIOS = list(
    itertools.product(
        (1, 3, 5, 2), ((0.02, 0.02), (0.05, 0.05), (0.1, 0.1), (0.1, 0.02)), (0.0, 0.05, 0.15)
    )
)
CHUNK = 500  # simulations at a time


def beds() -> list[str]:
    """The beds of each test place of ``esc50``: six recordings of a tag in a fold, drawn anew."""
    rng = np.random.default_rng(0)
    return [
        " ".join(f"{tag}-{place.fold}-{rng.integers(6)}" for tag in place.beds)
        for place in soundscapes.locations(esc50.RECIPE, esc50.RecordedSounds)
        if place.split == "test"
    ]


def simulate(number: int, draws: int = 40_000) -> dict[str, object]:
    """One of ``SCENARIOS``: shares of simulations, in %.

    Alarms are tests of the difference with p under 5 %, and under the level that Holm's method asks
    of the first of 11 comparisons; *without beds*: by a test that takes places for independent;
    *covered*: the true accuracy lies in the interval of one system.
    """
    seeds, trainings, bed = SCENARIOS[number]
    rng = np.random.default_rng([2019, number])
    used = pd.Series(beds()).str.get_dummies(" ").to_numpy("float32") / 2
    count = len(used)
    places = stats.Places(range(count), beds=beds())
    independent = stats.Places(range(count))
    found = []
    for _ in range(draws // CHUNK):
        clips = 0.5 + CLIPS * rng.standard_normal((CHUNK, 1, count), "float32")
        by_bed = bed * rng.standard_normal((CHUNK, 1, used.shape[1]), "float32") @ used.T
        pair = []
        for sign, deviation in zip((0.5, -0.5), trainings):
            own = SYSTEMS * rng.standard_normal((CHUNK, 1, count), "float32")
            training = deviation * rng.standard_normal((CHUNK, seeds, 1), "float32")
            chance = clips + sign * by_bed + own + training
            pair.append((rng.random(chance.shape, "float32") < chance).astype("float32"))
        p = places.estimate(*pair).p
        low, high = places.estimate(pair[0]).interval
        alone = independent.estimate(*pair).p
        found.append([p < 0.05, p < 0.05 / 11, alone < 0.05, (low < 0.5) & (high > 0.5)])
    names = "false alarms at 5 %", "at 0.45 %", "at 5 %, without beds", "covered"
    return {
        "seeds": seeds,
        "deviation of seeds": " and ".join(f"{100 * each:g}" for each in dict.fromkeys(trainings)),
        "of beds": f"{100 * bed:g}",
        **dict(zip(names, 100 * np.mean(found, axis=(0, 2)))),
    }


def table() -> pd.DataFrame:
    """All scenarios, a row for each; deviations are in points."""
    return pd.DataFrame(map(simulate, range(len(SCENARIOS)))).set_index("seeds")

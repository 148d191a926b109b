"""The data set ``esc50``: ten scenes composed from the recordings of ESC-50, and its 50 tags.

Reads the official folder (``.wav``, 44.1 kHz; Piczak 2015) or a repacked one with other endings.
ESC-50 is CC BY-NC 3.0 (its subset ESC-10 is CC BY). Official folds 1 to 3 make everything that is
trained on, folds 4 and 5 the test scenes.
"""

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import soundfile

from ..files import data_root, fingerprint, named
from ..recipes import SMALL_SCENE, SMALL_TAGGER, Preset
from . import audio, checks
from .data_set import CorpusError, Tables, register
from .fetch import Archive
from .soundscapes import RATE, Recipe, Scene, composed, mislabelled


def folder() -> Path:
    """ESC-50's folder: ``ASC_ESC50``, or ``esc50/`` or ``ESC-50-master/`` under ``ASC_DATA``."""
    places = named("ASC_ESC50") or [data_root() / "esc50", data_root() / "ESC-50-master"]
    for place in places:
        if (place / "meta" / "esc50.csv").is_file() and (place / "audio").is_dir():
            return place
    raise FileNotFoundError(
        f"no ESC-50 (audio/, meta/esc50.csv) in {' or '.join(map(str, places))}: "
        "`asc data fetch esc50` downloads it from https://github.com/karolpiczak/ESC-50 "
        "(licence CC BY-NC 3.0: no commercial use), or set the environment variable ASC_ESC50 "
        "to its folder"
    )


@functools.lru_cache(maxsize=128)
def recording(path: Path) -> np.ndarray:
    """Samples of a recording, mono at 48 kHz, without the silence that pads many to 5 s."""
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    mono = audio.resampled(samples.mean(axis=1), rate, RATE)
    loud = np.flatnonzero(np.abs(mono) > 1e-3 * np.abs(mono).max()) if mono.any() else np.array([0])
    return mono[loud[0] : loud[-1] + 1]


class RecordedSounds:
    """Draws events and beds from one official fold at a time."""

    folds = (1, 2, 3)
    test_folds = (4, 5)

    def __init__(self, place: Path):
        self.audio = place / "audio"
        found, problems = checks.table(place / META, [*COLUMNS], ",")
        if problems:
            raise CorpusError(f"{place / META} {problems[0]}")
        table = found[[*COLUMNS]].astype(COLUMNS)
        table["recording"] = "freesound-" + table["src_file"].astype(str)
        # Four recordings in two official folds would leak.
        self.table = table[table.groupby("recording")["fold"].transform("nunique") == 1]
        self.tags = tuple(sorted(self.table["category"].unique()))
        sizes = [(self.audio / name).stat().st_size for name in self.table["filename"]]
        # Other copies of ESC-50 make other corpora.
        self.name = f"esc50-{fingerprint(self.table.to_csv(), sizes)}"
        self.files = {
            key: part[["filename", "recording"]].to_numpy()
            for key, part in self.table.groupby(["category", "fold"])
        }

    def event(self, tag: str, fold: int, rng: np.random.Generator) -> tuple[str, np.ndarray]:
        filename, name = rng.choice(self.files[tag, fold])
        samples = recording(self.audio / filename)
        longest = int(rng.uniform(1.5, 3) * RATE)
        start = int(rng.integers(max(len(samples) - longest, 0) + 1))
        return name, _faded(samples[start : start + longest])

    def bed(self, tag: str, fold: int, rng: np.random.Generator) -> tuple[str, np.ndarray]:
        filename, name = rng.choice(self.files[tag, fold])
        return name, _faded(recording(self.audio / filename))


# Short ramps at both ends, against clicks.
def _faded(samples: np.ndarray, seconds: float = 0.01) -> np.ndarray:
    ramp = np.minimum(1, np.arange(1, len(samples) + 1, dtype="float32") / (seconds * RATE))
    return samples * ramp * ramp[::-1]


# Tilt (dB per octave), hum (Hz), throb (Hz), room (s); beds by weight; mean events per clip.
# fmt: off
SCENES = {
    "airport": Scene(
        -1.0, 0, 0.0, 1.2,
        dict(vacuum_cleaner=3, airplane=2, wind=2, washing_machine=1),
        dict(airplane=.4, footsteps=.5, crying_baby=.3, coughing=.3, laughing=.25,
             keyboard_typing=.3, clock_alarm=.25, helicopter=.2, drinking_sipping=.2),
    ),
    "bus": Scene(
        -3.0, 62, 5.0, 0.1,
        dict(engine=3, washing_machine=2, rain=1, train=1),
        dict(engine=.5, coughing=.4, sneezing=.3, car_horn=.3, door_wood_creaks=.3, laughing=.2,
             can_opening=.2),
    ),
    "metro": Scene(
        -2.5, 95, 9.0, 0.2,
        dict(train=2, washing_machine=2, vacuum_cleaner=2, engine=1),
        dict(train=.5, coughing=.3, door_wood_knock=.3, clock_alarm=.3, door_wood_creaks=.3,
             crying_baby=.2, keyboard_typing=.2),
    ),
    "metro_station": Scene(
        -1.5, 50, 0.5, 1.6,
        dict(train=2, vacuum_cleaner=2, wind=2, airplane=1),
        dict(train=.4, footsteps=.5, door_wood_knock=.2, clapping=.2, clock_alarm=.3,
             laughing=.3, siren=.2, mouse_click=.2, water_drops=.15),
    ),
    "park": Scene(
        0.5, 0, 0.3, 0.0,
        dict(wind=3, crickets=1, rain=2, sea_waves=2),
        dict(chirping_birds=.6, dog=.5, crow=.4, insects=.3, footsteps=.3, church_bells=.15,
             airplane=.2, water_drops=.2, chainsaw=.15),
    ),
    "public_square": Scene(
        -0.5, 0, 0.6, 0.5,
        dict(sea_waves=2, wind=2, pouring_water=2, rain=1, crickets=1),
        dict(church_bells=.5, clapping=.4, laughing=.3, chirping_birds=.3, pouring_water=.3,
             footsteps=.3, fireworks=.25, crow=.15, insects=.15),
    ),
    "shopping_mall": Scene(
        -1.5, 120, 0.0, 0.9,
        dict(vacuum_cleaner=2, pouring_water=2, rain=1, washing_machine=1),
        dict(laughing=.4, footsteps=.4, can_opening=.3, clapping=.25, crying_baby=.3,
             mouse_click=.3, drinking_sipping=.3, glass_breaking=.2, coughing=.15),
    ),
    "street_pedestrian": Scene(
        -0.5, 0, 0.8, 0.3,
        dict(wind=2, rain=2, sea_waves=1, engine=1),
        dict(footsteps=.6, dog=.4, laughing=.3, church_bells=.25, coughing=.2,
             glass_breaking=.2, chirping_birds=.2, siren=.2, fireworks=.15),
    ),
    "street_traffic": Scene(
        -2.0, 80, 1.2, 0.2,
        dict(engine=3, wind=2, rain=2, airplane=1),
        dict(car_horn=.5, engine=.5, siren=.5, dog=.2, chainsaw=.2, helicopter=.25,
             footsteps=.15),
    ),
    "tram": Scene(
        -2.5, 100, 4.0, 0.1,
        dict(train=2, engine=2, washing_machine=1, vacuum_cleaner=1),
        dict(church_bells=.3, train=.3, door_wood_creaks=.35, car_horn=.2, sneezing=.25,
             clock_alarm=.25, laughing=.2, glass_breaking=.15),
    ),
}
# fmt: on

META = "meta/esc50.csv"
COLUMNS = {"filename": str, "fold": int, "category": str, "src_file": str}  # of it
RECIPE = Recipe(SCENES, version=2, train=(16, 1), test=(4, 1), blur=0.5)


def tag_rows(sounds: RecordedSounds, seed: int = 2019) -> list[dict]:
    """Rows of the tag corpus: all clips of ESC-50.

    What makes training scenes is split by source recording into a curated and a noisy set; the
    other folds are the test.
    """
    rng = np.random.default_rng([seed, 4])
    rows = []
    table = sounds.table.sort_values("filename")
    trained = table[table["fold"].isin(sounds.folds)]
    curated = set()
    for _, names in trained.groupby(["category", "fold"])["recording"]:
        unique = rng.permutation(names.unique())
        curated.update(unique[: max(1, round(0.4 * len(unique)))])  # the others: the noisy set
    for entry in table.itertuples():
        kind = "train_curated" if entry.recording in curated else "train_noisy"
        kind = kind if entry.fold in sounds.folds else "test"
        labels = (
            mislabelled([entry.category], sounds.tags, rng)
            if kind == "train_noisy"
            else [entry.category]
        )
        rows.append(
            {
                "set": kind,
                "fname": Path(entry.filename).with_suffix(".wav").name,
                "labels": ",".join(labels),
                "fold": entry.fold,
                "recordings": entry.recording,
                "source": entry.filename,
            }
        )
    return rows


def _tag_clip(folder: Path, row: dict) -> np.ndarray:
    return recording(folder / row["source"])


def tables(root: Path) -> Tables:
    found, findings = checks.read_tables(root, {"meta/esc50.csv": ["filename"]}, ",")
    names = [name for table in found.values() for name in checks.safe(table["filename"], "audio/")]
    return Tables(found, {"audio": names}, findings)


register(
    composed(
        "esc50",
        "ESC-50, https://github.com/karolpiczak/ESC-50 (CC BY-NC 3.0: no commercial use)",
        RECIPE,
        lambda: RecordedSounds(folder()),
        tag_rows,
        lambda sounds: functools.partial(_tag_clip, sounds.audio),
        tags_version=2,
        preset=Preset(
            "narrow",
            replace(SMALL_SCENE, epochs=40, eval_every=10),
            replace(SMALL_TAGGER, crop=128, epochs=80),
            threads=1,
            tagger_threads=1,
        ),
        archives=lambda: [
            Archive(
                "ESC-50-master.zip",
                "https://github.com/karolpiczak/ESC-50/archive/refs/heads/master.zip",
                None,
                None,
            )
        ],
        tables=tables,
        leading="ESC-50-master/",
    )
)

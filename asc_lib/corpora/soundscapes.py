"""Composed scenes: clips made of a bed and sound events, in the formats of the official corpora.

A *scene* says which recordings serve as its bed and how often each event occurs. A *city* colours
all its clips (equaliser, noise floor, level). A *location* belongs to one scene and city; it fixes
the bed and how far away things are, and is in the train or the test list, never in both. As in TAU
2019, one city is in neither list.

A waveform network could also name a scene by a hum or a room of its own. How far that goes is the
corpus's *character*: with this probability the tilt, hum, throb and room of a location are those of
its scene, else each is that of any scene. `data="esc50@0"` is the data set ``esc50`` with character
0.
"""

import itertools
import re
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import joblib
import numpy as np
import pandas as pd
import soundfile
from scipy import fft, signal

from ..files import data_root, fingerprint, made_once, processes, progress
from ..recipes import TAG_RATE
from ..registry import ParameterError
from . import audio, checks, fsdkaggle2019, tau2019
from .audio import CHANNELS, RATE
from .data_set import DataSet, Finding, SceneCorpus, TagCorpus

CITIES = (
    "barcelona",
    "helsinki",
    "lisbon",
    "london",
    "lyon",
    "milan",
    "paris",
    "prague",
    "stockholm",
    "vienna",
)
UNUSED = "milan"  # in neither list, as in TAU 2019
LATENTS = {"tilt": "dB per octave", "hum": "Hz", "throb": "Hz", "room": "s"}  # of a location
BANDS = np.geomspace(60, 16_000, 8)  # Hz, where a city's equaliser and a location's are set


@dataclass(frozen=True)
class Scene:
    """What is a scene's own."""

    tilt: float  # slope of the bed's spectrum, dB per octave
    hum: float  # fundamental of its hum, Hz (0: none)
    throb: float  # rate at which the bed swells, Hz (0: steady)
    room: float  # reverberation decay, s (0: open air)
    beds: dict[str, float]  # weight by tag of the recording that serves as bed (empty: noise)
    events: dict[str, float]  # mean number per clip, by tag


class Sounds(Protocol):
    """Where sounds come from; those of different folds never share a source recording."""

    name: str
    tags: tuple[str, ...]
    folds: tuple[int, ...]  # that training scenes are composed from, one per location
    test_folds: tuple[int, ...]  # the same of all other scenes

    def event(self, tag: str, fold: int, rng: np.random.Generator) -> tuple[str, np.ndarray]:
        """Name of a source recording of ``tag`` in ``fold``, and samples of it: mono, 48 kHz."""

    def bed(self, tag: str, fold: int, rng: np.random.Generator) -> tuple[str, np.ndarray]:
        """The same of a bed; of noise where the scene has no beds and ``tag`` is ""."""


@dataclass(frozen=True)
class Recipe:
    """Everything that determines a composed corpus; ``version`` changes when the code does."""

    scenes: dict[str, Scene]
    version: int
    seconds: float = 4.0
    train: tuple[int, int] = (2, 2)  # locations in each city, clips in each location
    test: tuple[int, int] = (1, 3)
    snr: tuple[float, float] = (-5.0, 15.0)  # dB, events over the bed
    blur: float = 1.0  # how far cities and locations stray from their scene
    character: float = 0.3  # probability that a location has its scene's tilt, hum, throb and room
    seed: int = 2019

    def key(self, sounds: Sounds) -> str:
        return f"{sounds.name}-{fingerprint(asdict(self))}"


@dataclass(frozen=True)
class Location:
    number: int
    scene: str
    city: str
    split: str  # train, test or unused
    fold: int
    clips: int
    beds: tuple[str, str]  # tags of its two bed recordings


def _shared_out(weights: dict[str, float], count: int, rng: np.random.Generator) -> np.ndarray:
    """``count`` keys in random order, in proportion to their weights; "" where there are none."""
    weights = weights or {"": 1}
    bounds = np.cumsum([0, *weights.values()])
    numbers = np.diff(np.round(bounds / bounds[-1] * count).astype(int))
    return rng.permutation(np.repeat([*weights], numbers))


def locations(recipe: Recipe, sounds: Sounds) -> list[Location]:
    """All locations of a corpus, numbered from 0; those of a split take its folds in turn.

    Beds are shared out by their weights, so that every split has the same mix of them.
    """
    out: list[Location] = []
    for number, (scene, split) in enumerate(
        itertools.product(recipe.scenes, ("train", "test", "unused"))
    ):
        count, clips = recipe.train if split == "train" else recipe.test
        folds = sounds.folds if split == "train" else sounds.test_folds
        cities = [city for city in CITIES if (city == UNUSED) == (split == "unused")]
        rng = np.random.default_rng([recipe.seed, 0, number])
        beds = _shared_out(recipe.scenes[scene].beds, 2 * count * len(cities), rng).reshape(-1, 2)
        out += [
            Location(len(out) + k, scene, city, split, folds[k % len(folds)], clips, tuple(pair))
            for k, (city, pair) in enumerate(zip(cities * count, beds.tolist()))
        ]
    return out


def shaped(noise: np.ndarray, tilt: float, equaliser: np.ndarray) -> np.ndarray:
    """Filter samples [..., n] by a tilt (dB per octave from 1 kHz) and gains (dB) at ``BANDS``."""
    hertz = np.maximum(fft.rfftfreq(noise.shape[-1], 1 / RATE), 20)
    gain = np.clip(tilt * np.log2(hertz / 1000), -40, 30)
    gain += np.interp(np.log(hertz), np.log(BANDS), equaliser)
    return fft.irfft((fft.rfft(noise) * (10 ** (gain / 20)).astype("float32")), noise.shape[-1])


def reverberated(dry: np.ndarray, room: float, rng: np.random.Generator) -> np.ndarray:
    """Samples [..., n] with the tail of a room that decays by 60 dB in ``room`` seconds."""
    if room < 0.05:
        return dry
    t = np.arange(int(room * RATE), dtype="float32") / RATE
    tail = rng.standard_normal((*dry.shape[:-1], len(t)), "float32") * np.exp(-6.9 * t / room)
    tail *= 0.5 / np.sqrt(np.square(tail).sum(axis=-1, keepdims=True))
    return dry + signal.fftconvolve(dry, tail, axes=-1)[..., : dry.shape[-1]]


# Scaled to an RMS of ``decibels`` re full scale, over the samples that are not silent.
def _level(samples: np.ndarray, decibels: float) -> np.ndarray:
    power = np.square(samples)
    active = power[power > 1e-4 * power.max()] if power.any() else power
    return samples * np.float32(10 ** (decibels / 20) / np.sqrt(active.mean() + 1e-20))


class Place:
    """What a location fixes: the bed's recordings and colour, the room, how far away things are."""

    def __init__(self, recipe: Recipe, sounds: Sounds, location: Location):
        self.location = location
        self.scene = recipe.scenes[location.scene]
        blur = recipe.blur
        city = np.random.default_rng([recipe.seed, 1, CITIES.index(location.city)])
        rng = np.random.default_rng([recipe.seed, 2, location.number])
        self.equaliser = city.normal(0, 3 * blur, 8) + rng.normal(0, 3 * blur, 8)
        self.floor = city.uniform(-62, -50)
        self.loudness = city.uniform(-6, 6)
        own = rng.random() < recipe.character
        others = rng.choice([*recipe.scenes.values()], 4)  # drawn in any case: see ``character``
        tilt, hum, throb, room = [self.scene] * 4 if own else others
        self.tilt = tilt.tilt + rng.normal(0, 0.8 * blur)
        self.hum = hum.hum * rng.uniform(1 - 0.1 * blur, 1 + 0.1 * blur)
        self.hum_level = rng.uniform(-14, -4)
        self.throb = throb.throb * rng.uniform(1 - 0.3 * blur, 1 + 0.3 * blur)
        self.depth = rng.uniform(0.2, 0.6)
        self.room = room.room * rng.uniform(0.7, 1.4)
        self.distance = rng.uniform(0.1, 0.8)
        self.beds = [(tag, *sounds.bed(tag, location.fold, rng)) for tag in location.beds]

    @property
    def identifier(self) -> str:
        return f"{self.location.city}-{self.location.number}"

    def described(self) -> dict:
        """What the waveform could tell of it: a row of ``places.csv``."""
        return {"identifier": self.identifier} | {name: getattr(self, name) for name in LATENTS}

    def bed(self, length: int, rng: np.random.Generator) -> np.ndarray:
        """The bed of one clip: [2, length], RMS -32 dB re full scale before the city's loudness."""
        a, b = (
            np.resize(np.roll(samples, -int(rng.integers(len(samples)))), length)
            for _, _, samples in self.beds
        )
        out = shaped(
            np.stack([a + 0.5 * b, 0.5 * a + b]).astype("float32"), self.tilt, self.equaliser
        )
        t = np.arange(length, dtype="float32") / RATE
        if self.throb:
            phase = 2 * np.pi * self.throb * t + rng.uniform(0, 2 * np.pi)
            out *= 1 + self.depth * np.sin(phase, dtype="float32")
        out = _level(out, -32)
        if self.hum:
            phase = 2 * np.pi * self.hum * t + rng.uniform(0, 2 * np.pi)
            harmonics = (np.sin(k * phase, dtype="float32") / k for k in (1, 2, 3, 5))
            out += _level(sum(harmonics), -32 + self.hum_level)
        return out

    def event(
        self, mono: np.ndarray, snr: float, length: int, rng: np.random.Generator
    ) -> tuple[float, np.ndarray]:
        """One event in its place: onset (s) and samples [2, length].

        It lies ``snr`` dB over the bed, is panned, and dulled by distance.
        """
        mono = _level(mono[:length], -32 + snr)
        muffle = np.clip(self.distance + rng.uniform(-0.1, 0.1), 0, 0.9)
        mono = signal.lfilter([1 - 0.7 * muffle], [1, -0.7 * muffle], mono)
        # It may have begun before the clip, or outlast it.
        onset = int(rng.uniform(-0.5 * len(mono), 0.9 * length))
        piece = mono[max(-onset, 0) : length - onset]
        onset = max(onset, 0)
        angle = rng.uniform(0.1, 0.9) * np.pi / 2
        out = np.zeros((2, length), "float32")
        out[:, onset : onset + len(piece)] = np.sqrt(2) * np.outer(
            [np.cos(angle), np.sin(angle)], piece
        )
        return onset / RATE, out


def compose(
    recipe: Recipe, sounds: Sounds, place: Place, number: int
) -> tuple[np.ndarray, list[dict]]:
    """Compose one clip: samples [2, T] within ±1, and a row for each bed and event in it."""
    clip_number = (place.location.number, number)
    rng = np.random.default_rng([recipe.seed, 3, *clip_number])
    length = int(recipe.seconds * RATE)
    rows = [
        {"role": "bed", "tag": tag, "recording": name, "onset": 0.0, "snr": 0.0}
        for tag, name, _ in place.beds
    ]
    bed = place.bed(length, np.random.default_rng([recipe.seed, 4, *clip_number]))
    events = np.zeros((2, length), "float32")
    for tag, mean in place.scene.events.items():
        for _ in range(rng.poisson(mean)):
            name, mono = sounds.event(tag, place.location.fold, rng)
            snr = rng.uniform(*recipe.snr)
            onset, event = place.event(mono, snr, length, rng)
            events += event
            rows.append(
                {
                    "role": "event",
                    "tag": tag,
                    "recording": name,
                    "onset": round(onset, 3),
                    "snr": round(snr, 1),
                }
            )
    clip = (bed + reverberated(events, place.room, rng)) * 10 ** (place.loudness / 20)
    clip += rng.standard_normal(clip.shape, "float32") * np.float32(10 ** (place.floor / 20))
    return clip / max(1.0, np.abs(clip).max() / 0.98), rows


def _write_location(
    location: Location, recipe: Recipe, sounds: Sounds, folder: Path
) -> tuple[dict, list[dict]]:
    place = Place(recipe, sounds, location)
    rows = []
    for number in range(location.clips):
        clip, parts = compose(recipe, sounds, place, number)
        segment = location.number * 10 + number
        shared = {
            "filename": f"audio/{location.scene}-{place.identifier}-{segment}-a.wav",
            "scene_label": location.scene,
            "identifier": place.identifier,
            "split": location.split,
            "fold": location.fold,
        }
        soundfile.write(folder / shared["filename"], clip.T, RATE, subtype="PCM_24")
        rows += [shared | part for part in parts]
    return place.described(), rows


def _in_parallel(function: Callable, items: Sequence, *shared: object) -> list:
    made = joblib.Parallel(n_jobs=min(processes(), 16), batch_size=4, return_as="generator")(
        joblib.delayed(function)(item, *shared) for item in items
    )
    return list(progress(made, "composing", len(items)))


def write_scenes(recipe: Recipe, sounds: Sounds, folder: Path) -> None:
    """Write scenes in TAU 2019's layout, ``composition.csv`` (all beds and events), ``places.csv``.

    Says first how much disk that takes.
    """
    (folder / "audio").mkdir(parents=True)
    (folder / "evaluation_setup").mkdir()
    planned = locations(recipe, sounds)
    clips = sum(location.clips for location in planned)
    size = clips * recipe.seconds * RATE * CHANNELS * (3 + 2)  # 24 bit, and 16 bit in the store
    print(f"composing {clips} clips: {size / 1e9:.1f} GB with their waveform store", flush=True)
    places, parts = zip(*_in_parallel(_write_location, planned, recipe, sounds, folder))
    composition = pd.DataFrame(itertools.chain.from_iterable(parts))
    clips = composition.drop_duplicates("filename").assign(source_label="a")
    meta = ["filename", "scene_label", "identifier", "source_label"]
    train, test = (clips[clips.split == split] for split in ("train", "test"))
    for name, table in {
        "meta.csv": clips[meta],
        "evaluation_setup/fold1_train.csv": train[meta[:2]],
        "evaluation_setup/fold1_evaluate.csv": test[meta[:2]],
        "evaluation_setup/fold1_test.csv": test[meta[:1]],
        "composition.csv": composition.drop(columns=["scene_label", "identifier", "split"]),
        "places.csv": pd.DataFrame(places),
    }.items():
        table.to_csv(folder / name, sep="\t", index=False)


def _write_tag_clip(row: dict, make: Callable[[dict], np.ndarray], folder: Path) -> None:
    samples = audio.resampled(make(row), RATE, TAG_RATE)
    soundfile.write(
        folder / f"FSDKaggle2019.audio_{row['set']}" / row["fname"],
        0.5 * samples / np.abs(samples).max(),
        TAG_RATE,
        subtype="PCM_16",
    )


def write_tag_clips(rows: list[dict], make: Callable[[dict], np.ndarray], folder: Path) -> None:
    """Write a tag corpus in FSDKaggle2019's layout, with the further columns fold and recordings.

    A row holds ``set`` (train_curated, train_noisy or test), ``fname``, ``labels`` (joined by
    commas), ``fold`` and ``recordings`` (joined by spaces); ``make(row)`` gives its samples, mono
    at 48 kHz.
    """
    for kind in fsdkaggle2019.SETS:
        (folder / f"FSDKaggle2019.audio_{kind}").mkdir(parents=True)
    (folder / "FSDKaggle2019.meta").mkdir()
    _in_parallel(_write_tag_clip, rows, make, folder)
    for kind, part in pd.DataFrame(rows).assign(usage="Private").groupby("set"):
        part[
            ["fname", "labels", *(["usage"] if kind == "test" else []), "fold", "recordings"]
        ].to_csv(folder / fsdkaggle2019.table_file(kind), index=False)


def mislabelled(
    labels: list[str], tags: tuple[str, ...], rng: np.random.Generator, share: float = 1 / 3
) -> list[str]:
    """Replace ``share`` of the labels by a random other tag, to make a noisy set noisy."""
    return [
        str(rng.choice([tag for tag in tags if tag != label])) if drawn < share else label
        for label, drawn in zip(labels, rng.random(len(labels)))
    ]


def composed(
    name: str,
    licence: str,
    recipe: Recipe,
    sounds: Callable[[], Sounds],
    tag_rows: Callable[[Sounds], list[dict]],
    tag_clip: Callable[[Sounds], Callable[[dict], np.ndarray]],
    tags_version: int,
    **others,
) -> DataSet:
    """A data set whose scenes and tag clips are composed from the same sounds, on first use.

    ``tag_rows(sounds)`` and ``tag_clip(sounds)`` are the arguments of ``write_tag_clips``;
    ``tags_version`` changes when a change of the code changes them.
    """
    title = name if recipe.character == Recipe.character else f"{name}@{recipe.character:g}"

    def variant(character: str) -> DataSet:
        if not re.fullmatch(r"0|1|0?\.\d+", character):
            raise ParameterError(
                f"parameter 'data' is '{name}@{character}': the character of {name} is 0 to 1, "
                f"as in {name}@0.5"
            )
        other = replace(recipe, character=float(character))
        return composed(name, licence, other, sounds, tag_rows, tag_clip, tags_version, **others)

    def scenes() -> SceneCorpus:
        source = sounds()
        path = made_once(
            data_root() / "made" / f"{recipe.key(source)}-scenes",
            lambda to: write_scenes(recipe, source, to),
        )
        return tau2019.read(title, path)

    def tag_clips() -> TagCorpus:
        source = sounds()
        path = made_once(
            data_root() / "made" / f"{source.name}-tags{tags_version}",
            lambda to: write_tag_clips(tag_rows(source), tag_clip(source), to),
        )
        return fsdkaggle2019.read(name, path)

    def check() -> tuple[pd.DataFrame, list[Finding]]:
        root = scenes().root
        counts, findings = checks.check(
            root, tau2019.tables(root), RATE, CHANNELS, int(RATE * recipe.seconds)
        )
        root = tag_clips().root
        tags, more = checks.check(root, fsdkaggle2019.tables(root), TAG_RATE, 1, None)
        return pd.concat([counts, tags]), findings + more

    made = dict(composed=True, variant=variant if title == name else None)
    own = (check, scenes, tag_clips, lambda: sounds().tags)
    return DataSet(title, licence, *own, **made, **others)

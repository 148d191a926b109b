"""The data set ``mini``: ten scenes composed from synthesised sounds. It needs no file at all.

Every sound is a function of a random generator and draws its own pitch, pace, length and timbre, so
that no two are alike. All return mono float arrays at 48 kHz of any level; the composer sets it.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
from scipy.signal import butter, sosfilt

from ..recipes import SMALL_SCENE, SMALL_TAGGER, Preset
from .data_set import register
from .soundscapes import RATE, Recipe, Scene, composed, mislabelled, reverberated, shaped

Rng = np.random.Generator
SOUNDS: dict[str, Callable[[Rng], np.ndarray]] = {}


def sound(make: Callable[[Rng], np.ndarray]) -> Callable[[Rng], np.ndarray]:
    """Register a sound under its function's name, which is its tag."""
    SOUNDS[make.__name__] = make
    return make


def seconds(duration: float) -> np.ndarray:
    return np.arange(int(duration * RATE)) / RATE


def tone(
    hertz: np.ndarray | float, length: int, harmonics: int = 1, fall: float = 1.0
) -> np.ndarray:
    """Sum of sines at multiples of a (moving) frequency, the k-th with amplitude k^-fall."""
    phase = 2 * np.pi * np.cumsum(np.broadcast_to(hertz, length)) / RATE
    return sum(np.sin(k * phase) * k**-fall for k in range(1, harmonics + 1))


def band(signal: np.ndarray, low: float, high: float) -> np.ndarray:
    return sosfilt(
        butter(2, [low, min(high, 0.49 * RATE)], "bandpass", fs=RATE, output="sos"), signal
    )


def noise(rng: Rng, length: int, low: float, high: float) -> np.ndarray:
    return band(rng.standard_normal(length), low, high)


def struck(rng: Rng, base: float, ratios: tuple[float, ...], decay: float) -> np.ndarray:
    """A struck body: partials at ``ratios`` of ``base`` that decay in ``decay`` s or sooner."""
    t = seconds(4 * decay)
    return sum(
        rng.uniform(0.3, 1) * np.sin(2 * np.pi * base * r * t) * np.exp(-t * np.sqrt(r) / decay)
        for r in ratios
    )


def placed(pieces: list[tuple[float, np.ndarray]]) -> np.ndarray:
    """Lay pieces on one time line, each at its onset in seconds."""
    out = np.zeros(max(int(at * RATE) + len(piece) for at, piece in pieces))
    for at, piece in pieces:
        start = int(at * RATE)
        out[start : start + len(piece)] += piece
    return out


def swell(length: int, peak: float) -> np.ndarray:
    """Envelope from 0 to 1 and back, at its highest at the fraction ``peak`` of its length."""
    x = np.linspace(0, 1, length)
    return np.sin(np.pi / 2 * np.minimum(x / peak, (1 - x) / (1 - peak))) ** 2


def speech(rng: Rng, duration: float) -> np.ndarray:
    """Babble of one voice: pulses through three formants that move with each syllable."""
    size = int(RATE / rng.uniform(3.5, 5.5))  # of a syllable
    pitch = rng.uniform(90, 230) * (
        1 + 0.08 * np.sin(2 * np.pi * rng.uniform(0.4, 1) * seconds(duration))
    )
    syllables = []
    for piece in np.split(
        tone(pitch, len(pitch), harmonics=10, fall=0.7), range(size, len(pitch), size)
    ):
        formants = (rng.uniform(300, 800), rng.uniform(900, 2200), rng.uniform(2300, 3200))
        voiced = sum(band(piece, f * 0.88, f * 1.12) / (k + 1) for k, f in enumerate(formants))
        syllables.append(voiced * swell(len(piece), 0.35) * rng.uniform(0.2, 1))
    return np.concatenate(syllables)


@sound
def aeroplane(rng: Rng) -> np.ndarray:
    length = int(rng.uniform(2.2, 3.5) * RATE)
    whine = tone(np.linspace(1, rng.uniform(0.6, 0.85), length) * rng.uniform(1400, 3200), length)
    return (noise(rng, length, 80, rng.uniform(900, 1800)) + 0.15 * whine) * swell(
        length, rng.uniform(0.35, 0.65)
    )


@sound
def announcement(rng: Rng) -> np.ndarray:
    return band(speech(rng, rng.uniform(1.5, 3)), 400, 3200)


@sound
def beep(rng: Rng) -> np.ndarray:
    pitch = rng.uniform(900, 3200)
    length = int(rng.uniform(0.06, 0.16) * RATE)
    gap = rng.uniform(0.15, 0.4)
    one = tone(pitch, length, harmonics=3) * swell(length, 0.1)
    return placed([(k * gap, one) for k in range(rng.integers(1, 5))])


@sound
def bell(rng: Rng) -> np.ndarray:
    body = struck(
        rng, rng.uniform(280, 950), (0.5, 1, 1.19, 1.5, 2, 2.51, 3.01), rng.uniform(0.35, 0.8)
    )
    return placed([(k * rng.uniform(0.5, 0.9), body) for k in range(rng.integers(1, 4))])


@sound
def birdsong(rng: Rng) -> np.ndarray:
    base = rng.uniform(2200, 5500)
    pieces, at = [], 0.0
    for _ in range(rng.integers(4, 12)):
        length = int(rng.uniform(0.04, 0.16) * RATE)
        sweep = base * (
            1 + rng.uniform(-0.25, 0.25) * np.linspace(-1, 1, length) + rng.uniform(-0.1, 0.1)
        )
        pieces.append((at, tone(sweep, length) * swell(length, 0.4)))
        at += rng.uniform(0.07, 0.3)
    return placed(pieces)


@sound
def brake_hiss(rng: Rng) -> np.ndarray:
    t = seconds(rng.uniform(0.5, 1.4))
    return (
        noise(rng, len(t), rng.uniform(2500, 4500), 14000)
        * np.exp(-t * rng.uniform(2, 6))
        * np.minimum(t * 40, 1)
    )


@sound
def car_pass(rng: Rng) -> np.ndarray:
    length = int(rng.uniform(1.5, 3) * RATE)
    engine = tone(
        np.linspace(1.08, 0.92, length) * rng.uniform(45, 130), length, harmonics=8, fall=0.6
    )
    return (noise(rng, length, 60, rng.uniform(1200, 3000)) + 0.3 * engine) * swell(
        length, rng.uniform(0.3, 0.7)
    )


@sound
def chime(rng: Rng) -> np.ndarray:
    base = rng.uniform(400, 800)
    step = rng.uniform(0.25, 0.5)
    notes = rng.permutation([1, 1.26, 1.5, 2])[: rng.integers(2, 5)]
    return placed([(k * step, struck(rng, base * r, (1, 2, 3), 0.3)) for k, r in enumerate(notes)])


@sound
def clatter(rng: Rng) -> np.ndarray:
    hits = [(rng.uniform(0, 1.5), rng.uniform(1500, 6000)) for _ in range(rng.integers(5, 16))]
    return placed(
        [(at, rng.uniform(0.2, 1) * struck(rng, f, (1, 1.47, 2.09, 2.56), 0.03)) for at, f in hits]
    )


@sound
def dog_bark(rng: Rng) -> np.ndarray:
    pitch = rng.uniform(350, 900)
    pieces, at = [], 0.0
    for _ in range(rng.integers(1, 5)):
        length = int(rng.uniform(0.1, 0.22) * RATE)
        body = tone(pitch * np.linspace(1.25, 0.75, length), length, harmonics=6, fall=0.5)
        pieces.append((at, (body + noise(rng, length, 500, 3000)) * swell(length, 0.2)))
        at += rng.uniform(0.25, 0.6)
    return placed(pieces)


@sound
def door_slam(rng: Rng) -> np.ndarray:
    t = seconds(0.6)
    thud = np.sin(2 * np.pi * rng.uniform(55, 140) * t) * np.exp(-t * rng.uniform(8, 16))
    return thud + 0.8 * noise(rng, len(t), 150, 2500) * np.exp(-t * rng.uniform(20, 45))


@sound
def footsteps(rng: Rng) -> np.ndarray:
    pace = rng.uniform(0.42, 0.62)
    low = rng.uniform(200, 900)
    t = seconds(0.09)
    steps = [
        noise(rng, len(t), low, low * 5) * np.exp(-t * 60) * rng.uniform(0.6, 1) for _ in range(7)
    ]
    return placed(
        [(k * pace * rng.uniform(0.96, 1.04), s) for k, s in enumerate(steps[: rng.integers(3, 7)])]
    )


@sound
def horn(rng: Rng) -> np.ndarray:
    length = int(rng.uniform(0.25, 1.1) * RATE)
    pitch = rng.uniform(320, 520)
    both = (tone(hertz, length, harmonics=9, fall=0.5) for hertz in (pitch, pitch * 1.25))
    return sum(both) * swell(length, 0.15) ** 0.25


@sound
def music(rng: Rng) -> np.ndarray:
    base = rng.uniform(110, 260)
    beat = rng.uniform(0.25, 0.45)
    t = seconds(beat * 1.3)
    chords = [
        sum(tone(base * 2 ** (n / 12), len(t), 5) for n in rng.choice([0, 3, 4, 7, 9, 12, 16], 3))
        for _ in range(rng.integers(4, 8))
    ]
    return placed([(k * beat, chord * np.exp(-t * 4)) for k, chord in enumerate(chords)])


@sound
def rail_clack(rng: Rng) -> np.ndarray:
    every = rng.uniform(0.5, 0.95)
    gap = rng.uniform(0.08, 0.16)
    t = seconds(0.08)
    clack = noise(rng, len(t), 180, rng.uniform(1200, 2400)) * np.exp(-t * 55)
    return placed([(k * every + g, clack) for k in range(rng.integers(2, 5)) for g in (0, gap)])


@sound
def rail_squeal(rng: Rng) -> np.ndarray:
    t = seconds(rng.uniform(0.8, 2.2))
    drift = 1 + 0.01 * np.sin(2 * np.pi * rng.uniform(2, 7) * t)
    tones = sum(
        rng.uniform(0.3, 1) * tone(rng.uniform(2000, 6500) * drift, len(t))
        for _ in range(rng.integers(2, 5))
    )
    return (tones + 0.3 * noise(rng, len(t), 2000, 8000)) * swell(len(t), rng.uniform(0.3, 0.7))


@sound
def siren(rng: Rng) -> np.ndarray:
    t = seconds(rng.uniform(1.8, 3.2))
    glide = rng.uniform(500, 800) * (1.45 + 0.45 * np.sin(2 * np.pi * rng.uniform(0.35, 2.5) * t))
    return tone(glide, len(t), harmonics=4) * swell(len(t), 0.5) ** 0.5


@sound
def suitcase(rng: Rng) -> np.ndarray:
    t = seconds(rng.uniform(1.2, 2.6))
    rattle = np.abs(np.sin(np.pi * rng.uniform(9, 20) * t)) ** 6 + 0.15
    return noise(rng, len(t), 250, rng.uniform(2500, 5000)) * rattle * swell(len(t), 0.5)


@sound
def voices(rng: Rng) -> np.ndarray:
    return placed(
        [(rng.uniform(0, 0.6), speech(rng, rng.uniform(1, 1.8))) for _ in range(rng.integers(2, 4))]
    )


@sound
def water(rng: Rng) -> np.ndarray:
    t = seconds(rng.uniform(1.8, 3))
    ripple = 1 + 0.6 * np.interp(t, np.arange(0, 4, 0.05), rng.uniform(-1, 1, 80))
    return noise(rng, len(t), rng.uniform(300, 700), 9000) * ripple * swell(len(t), 0.5) ** 0.3


class SynthesisedSounds:
    """Draws new sounds without end: a recording is a tag and its generator's 48-bit seed."""

    name = "mini"
    tags = tuple(sorted(SOUNDS))
    folds = (0,)
    test_folds = (0,)

    def event(self, tag: str, fold: int, rng: Rng) -> tuple[str, np.ndarray]:
        recording = f"{tag}-{rng.integers(2**48):012x}"
        return recording, self.play(recording)

    def bed(self, tag: str, fold: int, rng: Rng) -> tuple[str, np.ndarray]:
        number = int(rng.integers(2**48))
        noise = np.random.default_rng(number).standard_normal(4 * RATE, "float32")
        return f"bed-{number:012x}", noise

    def play(self, recording: str) -> np.ndarray:
        tag, number = recording.rsplit("-", 1)
        return SOUNDS[tag](np.random.default_rng(int(number, 16))).astype("float32")


# Tilt (dB per octave), hum (Hz), throb (Hz), room (s); no beds but noise; mean events per clip.
# fmt: off
SCENES = {
    "airport": Scene(
        -3.0, 0, 0.0, 1.2, {},
        dict(aeroplane=.5, announcement=.5, chime=.4, suitcase=.6, footsteps=.4, beep=.3),
    ),
    "bus": Scene(
        -6.0, 62, 5.0, 0.1, {},
        dict(brake_hiss=.5, beep=.4, door_slam=.4, announcement=.3, voices=.3, car_pass=.4,
             horn=.2),
    ),
    "metro": Scene(
        -5.0, 95, 9.0, 0.2, {},
        dict(rail_clack=.7, chime=.4, announcement=.3, door_slam=.4, rail_squeal=.4, beep=.2),
    ),
    "metro_station": Scene(
        -4.0, 50, 0.5, 1.6, {},
        dict(announcement=.4, rail_squeal=.4, chime=.3, footsteps=.5, brake_hiss=.3,
             door_slam=.2, suitcase=.2),
    ),
    "park": Scene(
        -1.5, 0, 0.3, 0.0, {},
        dict(birdsong=.8, dog_bark=.5, water=.3, voices=.2, footsteps=.3, aeroplane=.2,
             bell=.15),
    ),
    "public_square": Scene(
        -2.5, 0, 0.6, 0.5, {},
        dict(bell=.4, water=.5, voices=.5, birdsong=.3, footsteps=.4, siren=.2, music=.2),
    ),
    "shopping_mall": Scene(
        -3.5, 120, 0.0, 0.9, {},
        dict(music=.6, voices=.5, footsteps=.5, beep=.4, clatter=.5, announcement=.25),
    ),
    "street_pedestrian": Scene(
        -2.5, 0, 0.8, 0.3, {},
        dict(footsteps=.7, voices=.6, dog_bark=.3, clatter=.3, music=.3, bell=.2, birdsong=.2),
    ),
    "street_traffic": Scene(
        -4.5, 80, 1.2, 0.2, {},
        dict(car_pass=.8, horn=.5, siren=.4, brake_hiss=.3, footsteps=.2, aeroplane=.2),
    ),
    "tram": Scene(
        -5.0, 100, 4.0, 0.1, {},
        dict(rail_squeal=.4, bell=.4, rail_clack=.5, chime=.3, door_slam=.3, voices=.3),
    ),
}
# fmt: on

RECIPE = Recipe(SCENES, version=2, train=(4, 1), test=(2, 1))


def tag_rows(sounds: SynthesisedSounds, seed: int = 2019) -> list[dict]:
    """Rows of the tag corpus: one sound per clip, or two in one clip of six.

    A third of the noisy labels are wrong.
    """
    rng = np.random.default_rng([seed, 4])
    rows = []
    for kind, count in (("train_curated", 20), ("train_noisy", 30), ("test", 8)):  # of each tag
        for number, tag in enumerate(sounds.tags * count):
            other = str(rng.choice([t for t in sounds.tags if t != tag]))
            tags = [tag, other] if rng.random() < 1 / 6 else [tag]
            recordings = [f"{t}-{rng.integers(2**48):012x}" for t in tags]
            labels = mislabelled(tags, sounds.tags, rng) if kind == "train_noisy" else tags
            rows.append(
                {
                    "set": kind,
                    "fname": f"{kind}-{number:04d}.wav",
                    "fold": -1,
                    "labels": ",".join(sorted(set(labels))),
                    "recordings": " ".join(recordings),
                }
            )
    return rows


def tag_clip(row: dict) -> np.ndarray:
    """Samples of a tag clip, mono at 48 kHz: sounds at their own onsets, in a room, over noise."""
    recordings = row["recordings"].split()
    rng = np.random.default_rng([int(name.rsplit("-", 1)[1], 16) for name in recordings])
    sounds = [SynthesisedSounds().play(name) for name in recordings]
    dry = placed([(rng.uniform(0, 0.5), s / s.std() * rng.uniform(0.5, 1)) for s in sounds])
    mix = reverberated(dry.astype("float32"), rng.choice([0, rng.uniform(0.1, 1.5)]), rng)
    background = shaped(
        rng.standard_normal(len(mix), "float32"), rng.uniform(-7, 0), rng.normal(0, 4, 8)
    )
    return mix + background / background.std() * 10 ** (-rng.uniform(0, 25) / 20)


register(
    composed(
        "mini",
        "synthesised by this project (MIT)",
        RECIPE,
        SynthesisedSounds,
        tag_rows,
        lambda sounds: tag_clip,
        tags_version=2,
        preset=Preset(
            "narrow", SMALL_SCENE, replace(SMALL_TAGGER, crop=64, folds=2, epochs=20), 1, 1
        ),
    )
)

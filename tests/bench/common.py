"""What the parts of the benchmark share: sizes, timing in turns, and the name of the machine."""

import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

RATE, CHANNELS = 48_000, 2
Times = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Sizes:
    """How much is measured; the defaults are the paper's sizes but for the number of clips."""

    clips: int = 300  # of the store: 576 MB
    seconds: int = 10
    crop: int = 240_000
    batch: int = 24
    whole: int = 24  # clips of one pass of inference
    per_epoch: int = 72  # clips of the epoch that is timed
    rounds: int = 5
    workers: int = 2  # processes of the plain way's DataLoader
    steps: int = 1  # training steps that are timed together
    shrink: int = 1  # how much smaller are the matrices that tell what a machine reaches


TOY = Sizes(
    clips=4, seconds=1, crop=28_000, batch=2, whole=2, per_epoch=4, rounds=1, workers=0, shrink=8
)


def side_by_side(
    ways: dict[str, Callable[[], object]], rounds: int, before: Callable[[], object] = lambda: None
) -> Times:
    """Seconds that each way takes: median, smallest and largest of ``rounds``.

    One round before them does not count. The order alternates; ``before`` is called, untimed,
    before each. What a way returns, if a float, is its seconds.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            before()
            started = time.perf_counter()
            own = ways[name]()
            seconds[name].append(
                time.perf_counter() - started if not isinstance(own, float) else own
            )
    return {
        name: {
            "median": float(np.median(some[1:])),
            "smallest": min(some[1:]),
            "largest": max(some[1:]),
        }
        for name, some in seconds.items()
    }


def write_noise(folder: Path, sizes: Sizes) -> None:
    """Write 24-bit stereo clips, as TAU 2019's are."""
    import soundfile  # here, since a GPU's machine may lack it

    noise = 0.1 * np.random.default_rng(0).standard_normal((sizes.seconds * RATE, CHANNELS))
    for number in range(sizes.clips):
        soundfile.write(
            folder / f"{number:03d}.wav", np.roll(noise, 999 * number, 0), RATE, subtype="PCM_24"
        )
    os.sync()


def noise(sizes: Sizes) -> np.ndarray:
    """Clips [clips, channels, samples], int16, in little memory: one noise, each from elsewhere."""
    samples, apart = sizes.seconds * RATE, 997
    rng = np.random.default_rng(0)
    sound = 3000 * rng.standard_normal(apart * sizes.clips + CHANNELS * samples, "float32")
    shape, strides = (sizes.clips, CHANNELS, samples), (2 * apart, 2 * samples, 2)
    return np.lib.stride_tricks.as_strided(sound.astype("int16"), shape, strides, writeable=False)


def machine(device: str = "cpu") -> str:
    """Name of this machine's GPU, or of its processor and its number of cores."""
    if device != "cpu":
        return slug(torch.cuda.get_device_name(device))
    about = Path("/proc/cpuinfo")
    models = (
        re.findall(r"model name\s*: (.*)", about.read_text(encoding="utf-8"))
        if about.exists()
        else []
    )
    name = models[0] if models else platform.machine()
    return f"{slug(name)}-{os.cpu_count()}-cores"


def slug(name: str) -> str:
    """A name in lower-case letters, digits and hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")

"""What the parts of the benchmark share: sizes, timing in turns, and the name of the machine."""

import os
import platform
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile

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


TOY = Sizes(clips=4, seconds=1, crop=28_000, batch=2, whole=2, per_epoch=4, rounds=1, workers=0)


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
    noise = 0.1 * np.random.default_rng(0).standard_normal((sizes.seconds * RATE, CHANNELS))
    for number in range(sizes.clips):
        soundfile.write(
            folder / f"{number:03d}.wav", np.roll(noise, 999 * number, 0), RATE, subtype="PCM_24"
        )
    os.sync()


def machine() -> str:
    """Name of this machine's processor and its number of cores."""
    about = Path("/proc/cpuinfo")
    models = (
        re.findall(r"model name\s*: (.*)", about.read_text(encoding="utf-8"))
        if about.exists()
        else []
    )
    name = models[0] if models else platform.machine()
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-{os.cpu_count()}-cores"

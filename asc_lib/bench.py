"""Measure, in one run and side by side, ours and the plain way: ``make bench``, to ``results/bench/<machine>.json``.

Each pair is timed in turns, in alternating order; a figure is the median over the rounds, beside its smallest and
largest.
"""

import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch

from . import store
from .artefacts import REPOSITORY, write_text
from .corpora import SceneCorpus

CLIPS, SECONDS, CROP, BATCH = 300, 10, 240_000, 24  # a store of 576 MB


def side_by_side(
    ways: dict[str, Callable[[], object]], rounds: int, before: Callable[[], object] = lambda: None
) -> dict[str, dict[str, float]]:
    """Seconds that each way takes: median, smallest and largest of ``rounds``, after one that does not count.

    ``before`` is called, untimed, before each.
    """
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(rounds + 1):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            before()
            started = time.perf_counter()
            ways[name]()
            seconds[name].append(time.perf_counter() - started)
    return {
        name: {"median": float(np.median(some[1:])), "smallest": min(some[1:]), "largest": max(some[1:])}
        for name, some in seconds.items()
    }


def anonymous_memory() -> float:
    """Anonymous memory of this process in MB: what is not a file, such as a memory-mapped store."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(re.search(r"RssAnon:\s+(\d+)", status)[1]) * 1024 / 1e6


@contextmanager
def watched(found: dict[str, float], name: str) -> Iterator[None]:
    """Note the largest anonymous memory (MB) seen meanwhile as ``found[name]``."""
    over = threading.Event()

    def watch() -> None:
        while not over.wait(0.005):
            found[name] = max(found.get(name, 0.0), anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()


def clips_of_noise(folder: Path) -> None:
    """Write 24-bit stereo clips of 10 s, as TAU 2019's are."""
    rng = np.random.default_rng(0)
    noise = 0.1 * rng.standard_normal((SECONDS * store.RATE, store.CHANNELS))
    for number in range(CLIPS):
        soundfile.write(folder / f"{number:03d}.wav", np.roll(noise, 999 * number, 0), store.RATE, subtype="PCM_24")
    os.sync()


def packed(folder: Path) -> store.Store:
    """The store of these clips."""
    os.environ["ASC_DATA"] = str(folder / "data")
    names = sorted(path.name for path in folder.glob("*.wav"))
    return store.pack(SceneCorpus("noise", folder, pd.DataFrame({"filename": names})))


def crops(waveforms: store.Store, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Rows and starts of a batch of random crops."""
    return rng.integers(CLIPS, size=BATCH), rng.integers(waveforms.samples - CROP, size=BATCH)


def memory(folder: Path) -> dict[str, float]:
    """Anonymous memory (MB) before, and the largest while clips are packed, and while batches are read from them."""
    found, rng = {"before": anonymous_memory()}, np.random.default_rng(1)
    with watched(found, "packing"):
        waveforms = packed(folder)
    with watched(found, "reading"):
        for _ in range(100):
            waveforms.batch(*crops(waveforms, rng), CROP).float()
    return found


def data(folder: Path) -> dict:
    """Packing, and batches of random crops, beside a loop of librosa.load and partial reads with soundfile."""
    import librosa  # here, since it would count as memory of packing and reading

    clips_of_noise(folder)
    paths, rng = sorted(folder.glob("*.wav")), np.random.default_rng(1)
    waveforms = packed(folder)

    def loading() -> None:
        for path in paths:
            librosa.load(path, sr=None, mono=False)

    def partial_reads(kind: str) -> torch.Tensor:
        places = zip(*crops(waveforms, rng))
        pieces = [soundfile.read(paths[row], CROP, start, dtype=kind)[0].T for row, start in places]
        return torch.from_numpy(np.stack(pieces))

    batches = {
        "ours, int16": lambda: waveforms.batch(*crops(waveforms, rng), CROP),
        "ours, float32": lambda: waveforms.batch(*crops(waveforms, rng), CROP).float(),
        "partial reads, int16": lambda: partial_reads("int16"),
        "partial reads, float32": lambda: partial_reads("float32"),
    }
    seconds = side_by_side(batches, 50)
    clear = partial(shutil.rmtree, folder / "data", ignore_errors=True)
    seconds |= side_by_side({"pack": lambda: packed(folder), "librosa.load": loading}, 5, clear)
    clear()
    median = {name: times["median"] for name, times in seconds.items()}
    ratios = {
        "packing": median["librosa.load"] / median["pack"],
        "batch, int16": median["partial reads, int16"] / median["ours, int16"],
        "batch, float32": median["partial reads, float32"] / median["ours, float32"],
    }
    apart = subprocess.run([sys.executable, "-m", __spec__.name, folder], check=True, capture_output=True, text=True)
    size = waveforms.waveforms.nbytes / 1e6
    return {"seconds": seconds, "times as fast": ratios, "store (MB)": size, "RssAnon (MB)": json.loads(apart.stdout)}


def machine() -> str:
    """Name of this machine's processor, or of its GPU, and the number of cores."""
    if torch.cuda.is_available():
        name = torch.cuda.get_device_name()
    else:
        about = Path("/proc/cpuinfo").read_text(encoding="utf-8")
        name = "".join(re.findall(r"model name\s*: (.*)", about)[:1]) or platform.machine()
    return f"{re.sub(r'[^a-z0-9]+', '-', name.lower()).strip('-')}-{os.cpu_count()}-cores"


def main() -> None:
    """Measure everything and write it down."""
    from . import records

    with tempfile.TemporaryDirectory() as folder:
        found = {"data": data(Path(folder))}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    about = {"machine": machine(), "environment": records.environment(device), "threads": torch.get_num_threads()}
    path = REPOSITORY / "results" / "bench" / f"{machine()}.json"
    write_text(path, json.dumps(about | found, indent=1))
    print(json.dumps(found, indent=1), path, sep="\n")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(json.dumps(memory(Path(sys.argv[1]))))
    else:
        main()

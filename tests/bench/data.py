"""The data part: packing and batches of random crops, beside librosa.load and partial reads."""

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import torch

from asc_lib.corpora import SceneCorpus, store

from .common import Sizes, side_by_side


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


def packed(folder: Path) -> store.Store:
    """The store of these clips."""
    os.environ["ASC_DATA"] = str(folder / "data")
    names = sorted(path.name for path in folder.glob("*.wav"))
    return store.pack(SceneCorpus("noise", folder, pd.DataFrame({"filename": names})))


def crops(
    waveforms: store.Store, sizes: Sizes, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Rows and starts of a batch of random crops."""
    starts = rng.integers(waveforms.samples - sizes.crop, size=sizes.batch)
    return rng.integers(sizes.clips, size=sizes.batch), starts


def memory(folder: Path, sizes: Sizes) -> dict[str, float]:
    """Anonymous memory (MB) before, and the largest while clips are packed, and batches read."""
    found, rng = {"before": anonymous_memory()}, np.random.default_rng(1)
    with watched(found, "packing"):
        waveforms = packed(folder)
    with watched(found, "reading"):
        for _ in range(100):
            waveforms.batch(*crops(waveforms, sizes, rng), sizes.crop).float()
    return found


def measure(folder: Path, sizes: Sizes) -> dict:
    """The part's figures, from the WAV files in ``folder``."""
    import librosa  # here, since it would count as memory of packing and reading

    paths, rng = sorted(folder.glob("*.wav")), np.random.default_rng(1)
    waveforms = packed(folder)

    def loading() -> None:
        for path in paths:
            librosa.load(path, sr=None, mono=False)

    def partial_reads(kind: str) -> torch.Tensor:
        places = zip(*crops(waveforms, sizes, rng))
        pieces = [
            soundfile.read(paths[row], sizes.crop, start, dtype=kind)[0].T for row, start in places
        ]
        return torch.from_numpy(np.stack(pieces))

    batches = {
        "ours, int16": lambda: waveforms.batch(*crops(waveforms, sizes, rng), sizes.crop),
        "ours, float32": lambda: waveforms.batch(*crops(waveforms, sizes, rng), sizes.crop).float(),
        "partial reads, int16": lambda: partial_reads("int16"),
        "partial reads, float32": lambda: partial_reads("float32"),
    }
    seconds = side_by_side(batches, 10 * sizes.rounds)
    clear = partial(shutil.rmtree, folder / "data", ignore_errors=True)
    seconds |= side_by_side(
        {"pack": lambda: packed(folder), "librosa.load": loading}, sizes.rounds, clear
    )
    clear()
    median = {name: times["median"] for name, times in seconds.items()}
    ratios = {
        "packing": median["librosa.load"] / median["pack"],
        "batch, int16": median["partial reads, int16"] / median["ours, int16"],
        "batch, float32": median["partial reads, float32"] / median["ours, float32"],
    }
    command = [sys.executable, "-m", __name__, folder, json.dumps(asdict(sizes))]
    apart = subprocess.run(command, check=True, capture_output=True, text=True)
    size = waveforms.waveforms.nbytes / 1e6
    return {
        "seconds": seconds,
        "times as fast": ratios,
        "store (MB)": size,
        "RssAnon (MB)": json.loads(apart.stdout),
    }


if __name__ == "__main__":
    print(json.dumps(memory(Path(sys.argv[1]), Sizes(**json.loads(sys.argv[2])))))

"""Packed waveforms: all clips of a corpus in one int16 array, memory-mapped, read in batches."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import torch

from ..files import Put, data_root, filled, fingerprint, made_once
from . import audio
from .audio import CHANNELS, RATE
from .data_set import CorpusError, SceneCorpus

VERSION = 2
CHUNK = 64  # clips packed between two notes of progress: about a second's work


@dataclass(frozen=True)
class Store:
    """Waveforms [clips, channels, samples], int16 at 48 kHz, in the order of the corpus's clips.

    A memory map, or a tensor on a GPU that holds all of them.
    """

    waveforms: np.ndarray | torch.Tensor
    fingerprint: str  # of the waveforms and of the corpus

    @property
    def samples(self) -> int:
        return self.waveforms.shape[-1]

    def batch(self, rows: np.ndarray, starts: np.ndarray, length: int) -> torch.Tensor:
        """Excerpts [len(rows), channels, length] of ``length`` samples from ``starts``; int16."""
        pieces = [
            self.waveforms[row, :, start : start + length] for row, start in zip(rows, starts)
        ]
        on_device = torch.is_tensor(self.waveforms)
        return torch.stack(pieces) if on_device else torch.from_numpy(np.stack(pieces))

    def whole(self, rows: np.ndarray) -> torch.Tensor:
        """Whole clips [len(rows), channels, samples]; int16."""
        return self.batch(rows, np.zeros(len(rows), int), self.samples)

    def nearest(self, device: str) -> "Store":
        """This store in GPU memory if it takes at most half of what is free, else as it is."""
        free = torch.cuda.mem_get_info(device)[0] if device.startswith("cuda") else 0
        there = isinstance(self.waveforms, torch.Tensor)
        return self if there or self.waveforms.nbytes > free / 2 else self.copied(device)

    def copied(self, device: str) -> "Store":
        """This store with all waveforms as a tensor on a device."""
        copy = torch.empty(self.waveforms.shape, dtype=torch.int16, device=device)
        for row in range(0, len(copy), CHUNK):
            copy[row : row + CHUNK] = torch.from_numpy(self.waveforms[row : row + CHUNK].copy())
        return Store(copy, self.fingerprint)


def folder(corpus: SceneCorpus) -> Path:
    """Where the store of a corpus lies; that of a custom data set changes with files and length."""
    described = [corpus.root.name, corpus.clips["filename"].tolist(), VERSION]
    if corpus.samples:
        described += [corpus.samples]
        described += [_state(corpus.root / name) for name in corpus.clips["filename"]]
    name = corpus.name.partition("@")[0]  # variants of a data set share it
    return data_root() / "made" / f"{name}-store-{fingerprint(described)}"


def _state(path: Path) -> tuple[int, int, int]:
    path, _ = audio.window_of(path)
    if not path.is_file():
        raise audio.AudioError(f"{path} {audio.MISSING}")
    with open(path, "rb") as file:  # two folders may have been unpacked at one time
        return path.stat().st_size, path.stat().st_mtime_ns, zlib.crc32(file.read(1 << 16))


def pack(corpus: SceneCorpus) -> Store:
    """The store of a corpus, packed under ``ASC_DATA`` on first use; resumes after an interruption.

    Raises AudioError for the first clip of another rate, number of channels or length than the
    first one's, OSError where there is no room, and CorpusError where a store is damaged.
    """
    path = folder(corpus)
    made_once(path / "index.json", lambda index: _write(corpus, path / "waveforms.npy", index))
    try:
        return Store(
            np.load(path / "waveforms.npy", mmap_mode="r", allow_pickle=False),
            fingerprint(
                json.loads((path / "index.json").read_text(encoding="utf-8"))["fingerprint"],
                corpus.fingerprint,
            ),
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(
            f"{path} is damaged ({error}): delete it to have it packed again"
        ) from None


def _write(corpus: SceneCorpus, path: Path, index: Path) -> None:
    paths = [corpus.root / filename for filename in corpus.clips["filename"]]
    if not paths:
        raise CorpusError(f"{corpus.root / 'meta.csv'} lists no clip")
    samples = corpus.samples
    if not samples:  # the first clip's, which may be a sample off whole seconds
        first = audio.read(paths[0], RATE, CHANNELS)
        samples = audio.fitted(first, RATE * round(first.shape[1] / RATE)).shape[1]

    def pack_clip(put: Put, row: int) -> None:
        path, window = audio.window_of(paths[row])
        if not corpus.samples:
            put(row, audio.read(path, RATE, CHANNELS, samples))
        elif window:
            put(row, audio.Recording.open(path, samples).window(window - 1))
        else:
            clip, rate, problems = audio.decoded(path)
            if problems:
                raise audio.AudioError(f"{path} {problems[0]}")
            put(row, audio.converted(clip, rate, samples))

    with joblib.Parallel(n_jobs=-1, prefer="threads") as threads:
        waveforms = filled(
            path,
            (len(paths), CHANNELS, samples),
            "int16",
            lambda put, rows: threads(joblib.delayed(pack_clip)(put, row) for row in rows),
            len(paths),
            CHUNK,
        )
    marks = _checksums(waveforms)
    text = json.dumps(
        {
            "clips": corpus.clips["filename"].tolist(),
            "marks": marks,
            "fingerprint": fingerprint(marks, VERSION),
        }
    )
    index.write_text(text, encoding="utf-8")


# One per clip, of its samples as they lie on the disk.
def _checksums(waveforms: np.ndarray) -> list[int]:
    return joblib.Parallel(n_jobs=-1, prefer="threads", batch_size=CHUNK)(
        joblib.delayed(zlib.crc32)(waveform) for waveform in waveforms
    )


def verify(corpus: SceneCorpus) -> Store:
    """The store of a corpus, read through. Raises CorpusError where it is not what was packed."""
    store = pack(corpus)
    path = folder(corpus)
    index = json.loads((path / "index.json").read_text(encoding="utf-8"))
    marks = _checksums(store.waveforms)
    changed = [name for name, a, b in zip(index["clips"], index["marks"], marks) if a != b]
    if changed or len(index["marks"]) != len(marks):
        raise CorpusError(
            f"{path} is damaged (first at {changed[:1]}): delete it to have it packed again"
        )
    return store

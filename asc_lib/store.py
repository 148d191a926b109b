"""Packed waveforms: every clip of a corpus in one int16 array, written once, memory-mapped, read in batches."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import torch
from filelock import FileLock

from . import audio
from .artefacts import Put, data_root, filled, fingerprint, write_text
from .corpora import CorpusError, SceneCorpus

RATE, CHANNELS, VERSION = 48_000, 2, 2
AT_A_TIME = 64  # clips packed between two notes of how far packing has come: about a second's work


@dataclass(frozen=True)
class Store:
    """Waveforms [clips, channels, samples], int16 at 48 kHz, in the order of the corpus's clips.

    A memory map, or a tensor on a GPU that holds all of them.
    """

    waveforms: np.ndarray | torch.Tensor
    fingerprint: str

    @property
    def samples(self) -> int:
        """Length of every clip."""
        return self.waveforms.shape[-1]

    def batch(self, rows: np.ndarray, starts: np.ndarray, length: int) -> torch.Tensor:
        """Excerpts [len(rows), channels, length] of ``length`` samples, each from its own start; int16."""
        pieces = [self.waveforms[row, :, start : start + length] for row, start in zip(rows, starts)]
        return torch.stack(pieces) if torch.is_tensor(self.waveforms) else torch.from_numpy(np.stack(pieces))

    def nearest(self, device: str) -> "Store":
        """This store on the GPU where it takes at most half of its free memory, otherwise as it is."""
        if not device.startswith("cuda") or self.waveforms.nbytes > torch.cuda.mem_get_info(device)[0] / 2:
            return self
        return self.copied(device)

    def copied(self, device: str) -> "Store":
        """This store with all waveforms as a tensor on a device."""
        copy = torch.empty(self.waveforms.shape, dtype=torch.int16, device=device)
        for row in range(0, len(copy), AT_A_TIME):
            copy[row : row + AT_A_TIME] = torch.from_numpy(self.waveforms[row : row + AT_A_TIME].copy())
        return Store(copy, self.fingerprint)


def folder(corpus: SceneCorpus) -> Path:
    """Where the store of a corpus lies; of a data set of one's own, another one when a file has changed."""
    described = [corpus.root.name, corpus.clips["filename"].tolist(), VERSION]
    if corpus.convert:
        described += [str(corpus.root), [_state(corpus.root / name) for name in corpus.clips["filename"]]]
    return data_root() / "made" / f"{corpus.name}-store-{fingerprint(described)}"


def _state(path: Path) -> tuple[int, int]:
    if not path.is_file():
        raise audio.AudioError(f"{path} {audio.MISSING}")
    return path.stat().st_size, path.stat().st_mtime_ns


def pack(corpus: SceneCorpus) -> Store:
    """The store of a corpus, packed under ``ASC_DATA`` on first use; a packing that was cut short goes on.

    Raises audio.AudioError that names the first clip of another rate, number of channels or length than the first's,
    OSError where there is no room, and CorpusError where a store is damaged.
    """
    path = folder(corpus)
    if not (path / "index.json").exists():
        path.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not (path / "index.json").exists():
                _write(corpus, path)
    try:
        index = json.loads((path / "index.json").read_text(encoding="utf-8"))
        return Store(np.load(path / "waveforms.npy", mmap_mode="r", allow_pickle=False), index["fingerprint"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CorpusError(f"{path} is damaged ({error}): delete this folder, and it is packed again") from None


def _write(corpus: SceneCorpus, path: Path) -> None:
    paths = [corpus.root / filename for filename in corpus.clips["filename"]]
    if not paths:
        raise CorpusError(f"{corpus.root / 'meta.csv'} lists no clip")
    if corpus.convert:
        read, samples = audio.converted, audio.usual_length([audio.length(path) for path in paths], RATE)
    else:
        read, samples = audio.read, audio.read(paths[0], RATE, CHANNELS).shape[1]

    def one(put: Put, row: int) -> None:
        put(row, read(paths[row], RATE, CHANNELS, samples))

    with joblib.Parallel(n_jobs=-1, prefer="threads") as threads:
        waveforms = filled(
            path / "waveforms.npy",
            (len(paths), CHANNELS, samples),
            "int16",
            lambda put, rows: threads(joblib.delayed(one)(put, row) for row in rows),
            len(paths),
            AT_A_TIME,
        )
    marks = _marks(waveforms)
    index = {"clips": corpus.clips["filename"].tolist(), "marks": marks, "fingerprint": fingerprint(marks, VERSION)}
    write_text(path / "index.json", json.dumps(index))


def _marks(waveforms: np.ndarray) -> list[int]:
    """A checksum of each clip, as it lies on the disk."""
    threads = joblib.Parallel(n_jobs=-1, prefer="threads", batch_size=AT_A_TIME)
    return threads(joblib.delayed(zlib.crc32)(waveform) for waveform in waveforms)


def verify(corpus: SceneCorpus) -> Store:
    """The store of a corpus, read through. Raises CorpusError where it is not what was packed."""
    store, path = pack(corpus), folder(corpus)
    index = json.loads((path / "index.json").read_text(encoding="utf-8"))
    changed = [name for name, was, is_ in zip(index["clips"], index["marks"], _marks(store.waveforms)) if was != is_]
    if changed or len(index["marks"]) != len(store.waveforms):
        raise CorpusError(f"{path} is damaged (first at {changed[:1]}): delete this folder, and it is packed again")
    return store

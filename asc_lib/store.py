"""Packed waveforms: every clip of a corpus in one int16 array, written once, memory-mapped, read in batches."""

import json
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import torch

from . import audio
from .artefacts import data_root, fingerprint, made_once
from .corpora import CorpusError, SceneCorpus

RATE, CHANNELS, VERSION = 48_000, 2, 1


@dataclass(frozen=True)
class Store:
    """Waveforms [clips, channels, samples], int16 at 48 kHz, in the order of the corpus's clips."""

    waveforms: np.ndarray
    fingerprint: str

    @property
    def samples(self) -> int:
        """Length of every clip."""
        return self.waveforms.shape[-1]

    def batch(self, rows: np.ndarray, starts: np.ndarray, length: int) -> torch.Tensor:
        """Excerpts [len(rows), channels, length] of ``length`` samples, each from its own start; int16."""
        pieces = [self.waveforms[row, :, start : start + length] for row, start in zip(rows, starts)]
        return torch.from_numpy(np.stack(pieces))


def pack(corpus: SceneCorpus) -> Store:
    """The store of a corpus, packed under ``ASC_DATA`` on first use.

    Raises audio.AudioError that names the first clip of another rate, number of channels or length than the first's.
    """
    described = [corpus.root.name, corpus.clips["filename"].tolist(), VERSION]
    path = data_root() / "made" / f"{corpus.name}-store-{fingerprint(described)}"
    made_once(path, lambda folder: _write(corpus, folder))
    index = json.loads((path / "index.json").read_text(encoding="utf-8"))
    return Store(np.load(path / "waveforms.npy", mmap_mode="r", allow_pickle=False), index["fingerprint"])


def _write(corpus: SceneCorpus, folder: Path) -> None:
    folder.mkdir()
    paths = [corpus.root / filename for filename in corpus.clips["filename"]]
    if not paths:
        raise CorpusError(f"{corpus.root / 'meta.csv'} lists no clip")
    samples = audio.read(paths[0], RATE, CHANNELS).shape[1]
    shape = (len(paths), CHANNELS, samples)
    packed = np.lib.format.open_memmap(folder / "waveforms.npy", "w+", "int16", shape)
    clips = joblib.Parallel(n_jobs=-1, prefer="threads", return_as="generator")(
        joblib.delayed(audio.read)(path, RATE, CHANNELS, samples) for path in paths
    )
    marks = []
    for row, clip in enumerate(clips):
        packed[row] = clip
        marks.append(fingerprint(clip.tobytes()))
    packed.flush()
    index = {"clips": corpus.clips["filename"].tolist(), "fingerprint": fingerprint(marks, VERSION)}
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")

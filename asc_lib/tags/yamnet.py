"""YAMNet as a source of tags: no GPU and no training."""

import threading
import zipfile
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import joblib
import numpy as np
import torch

from ..corpora import yamnet as published
from ..files import cores, fingerprint
from ..registry import ParameterError
from .windows import WindowTagger

THREAD = threading.local()  # one interpreter each


@dataclass(frozen=True)
class YamNet(WindowTagger):
    """Google's YAMNet (TensorFlow Lite): the sigmoids of 521 classes of AudioSet."""

    path: Path
    tags: list[str]
    rate = 16_000
    length = 0.975
    hop = 0.48

    @classmethod
    def load(cls) -> "YamNet":
        """Raises CorpusError where the model's file is missing or another one."""
        path = published.model()
        with zipfile.ZipFile(path) as labels:  # in the model's tail
            names = labels.read("yamnet_label_list.txt").decode("utf-8").splitlines()
        return cls(path, names)

    @cached_property
    def fingerprint(self) -> str:
        """Of what it hears most in a fixed signal: the same model is published in two files.

        Values themselves may differ in the last of their eight bits between processors.
        """
        signal = np.random.default_rng(0).uniform(-1, 1, (8, 15_600)).astype("float32")
        shaped = np.cumsum(signal, 1) / 20 * np.linspace(0.01, 1, 8)[:, None]
        vectors = self.tag_mono(torch.from_numpy(shaped.clip(-1, 1).astype("float32")))
        best = vectors.topk(2, 1)
        certain = best.values[:, 0] - best.values[:, 1] > 0.1
        return fingerprint(best.indices[certain, 0].tolist(), self.tags)

    def tag_mono(self, windows: torch.Tensor) -> torch.Tensor:
        parts = np.array_split(windows.numpy(), cores())
        with joblib.Parallel(n_jobs=cores(), prefer="threads") as threads:
            found = threads(joblib.delayed(self._tag)(part) for part in parts if len(part))
        return torch.from_numpy(np.concatenate(found))

    def _tag(self, windows: np.ndarray) -> np.ndarray:
        if getattr(THREAD, "path", None) != self.path:
            THREAD.interpreter = interpreter(self.path)
            THREAD.path = self.path
        run = THREAD.interpreter
        source = run.get_input_details()[0]["index"]
        target = run.get_output_details()[0]["index"]
        vectors = np.empty((len(windows), len(self.tags)), "float32")
        for number, window in enumerate(windows):
            run.set_tensor(source, window)
            run.invoke()
            vectors[number] = run.get_tensor(target)[0]
        return vectors

    def to(self, device: str) -> "YamNet":
        return self  # it runs on the processor

    def save(self, folder: Path) -> None:
        """Save nothing: the model is a public file, and must give the same."""


def interpreter(path: Path):
    """A LiteRT interpreter of a model. Raises ParameterError where LiteRT is not installed."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        raise ParameterError(
            "parameter 'tags' is 'yamnet', which needs ai-edge-litert: pip install ai-edge-litert"
        ) from None
    run = Interpreter(str(path), num_threads=1)
    run.allocate_tensors()
    return run

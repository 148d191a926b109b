"""The scene recipe: what the network is fed, how it is trained, and how it is judged (Sections 2.1 and 4.2)."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from sklearn.svm import SVC
from torch.nn import functional as F

from . import audio, svm, training
from .corpora import CorpusError, SceneCorpus
from .metrics import accuracy
from .scene_net import SceneNet, SceneOutput
from .store import Store

PRECISIONS = ("float32", "bfloat16")


@dataclass(frozen=True)
class SceneRecipe:
    """How a scene network is trained. The defaults are the full-size recipe, each with its source.

    [paper]: Section 4.2. [22]: the system that the same authors released before, with the same front-end. Pre-emphasis
    (0.97 [paper]) and scale (32,000 [22]) are in ``audio.pre_emphasis``, the SVM's settings in ``svm``.
    """

    epochs: int = 90  # [22]
    batch: int = 24  # [22]; the last, incomplete batch of an epoch is dropped
    lr: float = 1e-4  # [22]; Adam with AMSGrad, constant
    weight_decay: float = 1e-3  # [22]
    crop: int = 240_000  # [22]; samples of a training excerpt, after pre-emphasis
    test_samples: int = 479_520  # [22]; samples read of every clip when it is judged: the first ones
    mixup: float = 0.1  # mixup is [paper], its alpha [22]; on the pre-emphasised waveform, and ours: on the tag vector
    mixup_from: int = 7  # [22]; first epoch with mixup
    look_every: int = 1  # [22]; epochs between the looks at the test clips that the paper's protocol selects from
    precision: str = "float32"  # of the network's layers: one of PRECISIONS


@dataclass(frozen=True)
class SceneData:
    """What a scene network reads and answers: clips, their waveforms and their tag vectors, in the same order."""

    corpus: SceneCorpus
    waveforms: Store
    tags: np.ndarray  # [clips, c]
    recipe: SceneRecipe
    device: str

    @cached_property
    def source(self) -> Store:
        """The waveforms where the device reaches them fastest: all of them on the GPU, if they fit."""
        return self.waveforms.nearest(self.device)

    @property
    def crop(self) -> int:
        """Samples of a training excerpt: the recipe's, or all of a clip that is not longer (in data of one's own)."""
        return min(self.recipe.crop, self.waveforms.samples - 1)

    def inputs(self, rows: np.ndarray, starts: np.ndarray, length: int) -> training.Batch:
        """Pre-emphasised excerpts [B, 2, length] from ``starts``, and tag vectors [B, c]."""
        raw = self.source.batch(rows, starts, length + 1)
        if raw.device.type == "cpu" and self.device != "cpu":
            raw = raw.pin_memory().to(self.device, non_blocking=True)
        tags = torch.from_numpy(self.tags[rows]).to(self.device)
        return {"waveform": audio.pre_emphasis(raw), "tags": tags}

    def training_batches(self, seed: int, epoch: int) -> Iterator[training.Batch]:
        """Random excerpts of the training clips, in random order; mixed up from the recipe's epoch on."""
        recipe, rng = self.recipe, training.epoch_generator(seed, epoch)
        order, targets = rng.permutation(self.corpus.rows("train")), self.corpus.targets()
        if len(order) < recipe.batch:
            raise CorpusError(f"{self.corpus.root} has {len(order)} training clips: a batch takes {recipe.batch}")
        for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
            rows = order[start : start + recipe.batch]
            starts = rng.integers(self.waveforms.samples - self.crop, size=len(rows))
            batch = self.inputs(rows, starts, self.crop)
            one_hot = F.one_hot(torch.from_numpy(targets[rows]), len(self.corpus.labels))
            batch["targets"] = one_hot.float().to(self.device)
            if epoch >= recipe.mixup_from:
                batch = training.mix(batch, rng.beta(recipe.mixup, recipe.mixup), rng)
            yield batch

    def loss(self, net: SceneNet, batch: training.Batch) -> torch.Tensor:
        """Cross-entropy of the output layer."""
        out = run(net, batch["waveform"], batch["tags"], self.recipe.precision)
        return F.cross_entropy(out.logits.float(), batch["targets"])

    def optimiser(self, net: SceneNet) -> torch.optim.Optimizer:
        """The recipe's optimiser."""
        settings = dict(lr=self.recipe.lr, weight_decay=self.recipe.weight_decay, amsgrad=True)
        return torch.optim.Adam(net.parameters(), fused=True, **settings)

    def whole(self, rows: np.ndarray) -> training.Batch:
        """Inputs of whole clips, that is of their first ``test_samples`` samples."""
        length = min(self.recipe.test_samples, self.waveforms.samples - 1)
        return self.inputs(rows, np.zeros(len(rows), int), length)

    def read(self, net: SceneNet, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes [len(rows), width] and scene probabilities [len(rows), scenes] of whole clips."""
        size = at_a_time(self.device)
        batches = (self.whole(rows[start : start + size]) for start in range(0, len(rows), size))
        return outputs(net, batches, self.recipe.precision)

    def judge(self, net: SceneNet) -> pd.DataFrame:
        """Classify every clip that is not in the train list: one row each with its truth and its predictions.

        A column for the SVM of each kernel, fitted on the training clips' codes, and ``softmax``, the network's own
        output layer. ``svm`` is the one whose kernel was fixed beforehand.
        """
        targets, train = self.corpus.targets(), self.corpus.rows("train")
        judged = self.corpus.rows("test", "unused")
        codes, probabilities = self.read(net, np.concatenate([train, judged]))
        table = self.corpus.clips.iloc[judged][["filename", "scene_label", "city", "location", "split"]]
        table = table.reset_index(drop=True).assign(truth=targets[judged])
        for kernel in svm.KERNELS:
            back_end = svm.fit(codes[: len(train)], targets[train], kernel)
            table[kernel] = back_end.predict(codes[len(train) :])
        return table.assign(svm=table[svm.KERNEL], softmax=probabilities[len(train) :].argmax(1))

    def back_end(self, net: SceneNet) -> SVC:
        """The SVM of the kernel that was fixed beforehand, fitted on the training clips' codes."""
        train = self.corpus.rows("train")
        return svm.fit(self.read(net, train)[0], self.corpus.targets()[train])

    def train(self, net: SceneNet, seed: int, checkpoint: Path | None = None) -> pd.DataFrame:
        """Train ``net`` in place by the recipe; return the history (an unfinished run at ``checkpoint`` goes on).

        The last epoch is not looked at here: ``judge`` does that.
        """
        recipe = self.recipe
        looked_at = range(recipe.look_every, recipe.epochs, recipe.look_every)
        ahead = iter if self.device == "cpu" else training.prefetched  # a processor has no time to spare meanwhile
        return training.fit(
            net.to(self.device),
            lambda epoch: ahead(self.training_batches(seed, epoch)),
            self.loss,
            self.optimiser(net),
            epochs=recipe.epochs,
            checkpoint=checkpoint,
            after_epoch=lambda epoch: looks(self.judge(net)) if epoch in looked_at else {},
        )


def at_a_time(device: str) -> int:
    """Whole clips that one forward pass takes: a processor's caches hold few."""
    return 4 if device == "cpu" else 24


def autocast(device: str, precision: str) -> torch.autocast:
    """Within it, if "bfloat16", convolutions and matrix products are computed in that; weights are not."""
    return torch.autocast(torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16")


def run(net: SceneNet, waveform: torch.Tensor, tags: torch.Tensor, precision: str) -> SceneOutput:
    """The network's output, computed in a precision."""
    with autocast(waveform.device.type, precision):
        return net(waveform, tags)


@torch.no_grad()
def outputs(net: SceneNet, batches: Iterable[training.Batch], precision: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes [clips, width] and scene probabilities [clips, scenes] of batches with waveform and tags; float32."""
    net.eval()
    found = []
    for batch in batches:
        out = run(net, batch["waveform"], batch["tags"], precision)
        found.append((out.code.float().cpu(), out.logits.float().softmax(1).cpu()))
    codes, probabilities = zip(*found)
    return torch.cat(codes).numpy(), torch.cat(probabilities).numpy()


def test_sets(judged: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The two test sets in a table of judged clips: the official list, and all that is not in the train list."""
    return {"test": judged[judged["split"] == "test"], "test_all": judged}


def looks(judged: pd.DataFrame) -> dict[str, float]:
    """Accuracy on both test sets with each kernel: what the paper's protocol selects from, on test clips."""
    parts = test_sets(judged).items()
    return {f"{name}_{kernel}": accuracy(part["truth"], part[kernel]) for name, part in parts for kernel in svm.KERNELS}

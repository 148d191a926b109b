"""What a scene network is fed, how it is trained, and how it is evaluated (Sections 2.1, 4.2)."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.base import ClassifierMixin
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel

from . import back_ends, corpora, distillation, fine_tuning, training
from .corpora import CorpusError, SceneCorpus, splits, store
from .corpora.audio import RATE
from .corpora.store import Store
from .files import fingerprint
from .front_ends import pre_emphasis
from .fusion import AS_INPUT, FUSIONS
from .recipes import HELD_OUT, SceneRecipe
from .scene_net import SceneNet, inference_batch, run
from .settings import Settings
from .stats import accuracy
from .tags.sources import open_tag_vectors
from .tags.windows import TagVectors


class BackEnd(NamedTuple):
    """The back-end of a run: one of ``back_ends.IN_WORDS``."""

    name: str
    held_out: dict[str, float] = {}  # accuracy of the candidates, where it was chosen by that


PAPERS = BackEnd("rbf")


@dataclass(frozen=True)
class SceneData:
    """What a scene network reads: clips, their waveforms, and the tag vectors that it fuses."""

    corpus: SceneCorpus
    waveforms: Store
    vectors: TagVectors | None  # None where the fusion reads no tags
    recipe: SceneRecipe
    device: str
    reads: str = "clip"  # of the fusion (``Fusion.reads``)
    _kept: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    @classmethod
    def open(cls, settings: Settings) -> "SceneData":
        """The data that a scene notebook's settings ask for, made on first use."""
        corpus = corpora.find(settings.data).scenes()
        waveforms = store.pack(corpus)
        tags = settings.tags
        vectors = open_tag_vectors(tags, corpus, waveforms, settings.seed) if tags else None
        return cls(
            corpus,
            waveforms,
            vectors and vectors.kept(settings.n_tags, corpus.rows("train")),
            settings.recipe,
            settings.device,
            reads=FUSIONS.find(settings.fusion).build.reads,
        )

    @property
    def n_tags(self) -> int:
        return len(self.vectors.names) if self.vectors else 0

    def network(self, settings: Settings) -> SceneNet:
        """The untrained network of a scene notebook's settings, initialised by its seed.

        With ``start_from`` in the recipe: with weights of that system (``fine_tuning.begin``).
        """
        torch.manual_seed(settings.seed)
        net = SceneNet(
            self.n_tags,
            len(self.corpus.labels),
            settings.front_end,
            settings.fusion,
            tag_scale=self.tag_scale,
            **settings.sizes(),
        )
        if self.tag_scale != "raw":
            net.tag_scale.fit(torch.from_numpy(self.vectors.clips[self.corpus.rows("train")]))
        if self.recipe.start_from:
            names = self.vectors.names if self.vectors else []
            known = (self.corpus.name, self.waveforms.fingerprint)
            fine_tuning.begin(net, self.recipe.start_from, self.corpus.labels, names, known)
        if self.recipe.fixed == "front_end":
            net.fix_front_end()
        return net

    @property
    def tag_scale(self) -> str:
        return self.recipe.tag_scale if self.vectors and self.reads in AS_INPUT else "raw"

    @cached_property
    def source(self) -> Store:
        """The waveforms where the device reaches them fastest: on the GPU, if they fit."""
        return self.waveforms.nearest(self.device)

    @property
    def crop(self) -> int:
        """Samples of a training excerpt: the recipe's, or the whole clip if it is shorter."""
        return min(self.recipe.crop, self.waveforms.samples - 1)

    @property
    def test_samples(self) -> int:
        """Samples of a clip that evaluation reads, after pre-emphasis: the first ones."""
        return min(self.recipe.test_samples, self.waveforms.samples - 1)

    def inputs(
        self,
        rows: np.ndarray,
        starts: np.ndarray,
        length: int,
        rng: np.random.Generator | None = None,
    ) -> training.Batch:
        """Pre-emphasised excerpts [B, 2, length] from ``starts``, and the tags of their clips.

        With ``rng``, in training, tags of the windows that the recipe chooses (``tag_windows``).
        """
        raw = self.source.batch(rows, starts, length + 1)
        if raw.device.type == "cpu" and self.device.startswith("cuda"):
            raw = raw.pin_memory().to(self.device, non_blocking=True)
        batch = {"waveform": pre_emphasis(raw), "tags": torch.zeros(len(rows), 0)}
        if self.vectors and (rng or self.reads in AS_INPUT):
            choice = self.recipe.tag_windows if rng else "clip"
            batch |= self.vectors.inputs(
                rows, self.reads, starts / RATE, length / RATE, choice, rng
            )
        return {name: value.to(self.device) for name, value in batch.items()}

    def training_batches(self, seed: int, epoch: int) -> Iterator[training.Batch]:
        """Random excerpts of the training clips in random order, with mixup from ``mixup_from``."""
        recipe = self.recipe
        rng = training.epoch_generator(seed, epoch)
        order = rng.permutation(self.corpus.rows("train"))
        if len(order) < recipe.batch:
            raise CorpusError(
                f"{self.corpus.root} has {len(order)} training clips: a batch takes {recipe.batch}"
            )
        for start in range(0, len(order) - recipe.batch + 1, recipe.batch):
            batch = self.excerpts(order[start : start + recipe.batch], rng)
            if epoch >= recipe.mixup_from:
                batch = training.mix(batch, self._shares(rng), rng)
            yield batch

    def excerpts(self, rows: np.ndarray, rng: np.random.Generator) -> training.Batch:
        """A random excerpt of each of these clips, augmented, with one-hot ``targets``."""
        starts = rng.integers(self.waveforms.samples - self.crop, size=len(rows))
        batch = self.inputs(rows, starts, self.crop, rng)
        augmented = training.AUGMENTATIONS[self.recipe.augmentation]
        batch["waveform"] = augmented(batch["waveform"], rng)
        targets = torch.from_numpy(self.corpus.targets()[rows])
        batch["targets"] = F.one_hot(targets, len(self.corpus.labels)).float().to(self.device)
        return batch

    def _shares(self, rng: np.random.Generator) -> float | np.ndarray:
        alpha = self.recipe.mixup
        if self.recipe.mixup_per == "batch":
            return rng.beta(alpha, alpha)
        shares = rng.beta(alpha, alpha, self.recipe.batch)
        return np.maximum(shares, 1 - shares)

    def loss(self, net: SceneNet, batch: training.Batch) -> torch.Tensor:
        """Cross-entropy of the output layer, and the fusion's own term."""
        inputs = {name: value for name, value in batch.items() if name != "targets"}
        out = run(net, inputs, self.recipe.precision)
        cost = F.cross_entropy(out.logits.float(), batch["targets"], self.class_weights)
        return cost + net.fusion.loss(out, batch)

    @cached_property
    def class_weights(self) -> torch.Tensor | None:
        """Weights [scenes] of the loss, 1 on average over the training clips; None: all alike."""
        if self.recipe.class_weights == "none":
            return None
        counts = np.bincount(self.targets("train"), minlength=len(self.corpus.labels))
        weights = counts.sum() / (len(counts) * np.maximum(counts, 1))
        return torch.from_numpy(weights).float().to(self.device)

    def targets(self, *splits: str) -> np.ndarray:
        """Scenes of the clips in these parts, as indices of the labels."""
        return self.corpus.targets()[self.corpus.rows(*splits)]

    def optimiser(self, net: SceneNet) -> torch.optim.Optimizer:
        return torch.optim.Adam(
            net.parameters(),
            lr=self.recipe.lr,
            weight_decay=self.recipe.weight_decay,
            amsgrad=self.recipe.amsgrad,
            fused=True,
        )

    def whole(self, rows: np.ndarray) -> training.Batch:
        """Inputs of whole clips, that is of their first ``test_samples`` samples."""
        return self.inputs(rows, np.zeros(len(rows), int), self.test_samples)

    def outputs(self, net: SceneNet, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Codes [len(rows), width] and scene probabilities [len(rows), scenes] of whole clips."""
        size = inference_batch(self.device)
        parts = (self.whole(rows[start : start + size]) for start in range(0, len(rows), size))
        return outputs(net, parts, self.recipe.precision)

    def training_codes(self, net: SceneNet) -> np.ndarray:
        """Codes [clips, width] of the training clips; kept until a network of other weights asks.

        After the last epoch evaluation and the saved system ask for the same ones.
        """
        weights = fingerprint(*(v.cpu().numpy().tobytes() for v in net.state_dict().values()))
        if self._kept.get("weights") != weights:
            self._kept.update(
                codes=self.outputs(net, self.corpus.rows("train"))[0], weights=weights
            )
        return self._kept["codes"]

    def evaluate(self, net: SceneNet, back_end: str = "rbf") -> pd.DataFrame:
        """Classify every clip outside the train list: one row per clip, truth and predictions.

        A column for each back-end, fitted on the training clips' codes; ``predicted`` is that of
        ``back_end``, which was fixed beforehand.
        """
        others = self.corpus.rows("test", "unused")
        codes = self.training_codes(net)
        other_codes, probabilities = self.outputs(net, others)
        found = {
            name: self.fitted(name, codes).predict(other_codes)
            for name in back_ends.IN_WORDS
            if name != back_ends.SOFTMAX
        } | {back_ends.SOFTMAX: probabilities.argmax(1)}
        return (
            self.corpus.clips.iloc[others][["filename", "scene_label", "city", "location", "split"]]
            .reset_index(drop=True)
            .assign(
                beds=self.corpus.beds.to_numpy()[others],
                truth=self.targets("test", "unused"),
                **found,
                predicted=found[back_end],
            )
        )

    def fitted(self, name: str, codes: np.ndarray) -> ClassifierMixin:
        """A back-end but the softmax, fitted on the training clips' codes."""
        return back_ends.fit(name, codes, self.targets("train"), self.recipe.class_weights)

    def back_end(self, settings: Settings, checkpoint: Path | None = None) -> BackEnd:
        """The recipe's back-end. "held_out": the one that is best on held-out training places.

        It is judged on a third of the training places, with a network that learns from the others
        in as many steps as the run's own. Where they are too few (a label in one place, less than a
        batch), the softmax, which needs no further training.
        """
        if self.recipe.back_end != HELD_OUT:
            return BackEnd(self.recipe.back_end)
        batches = len(self.corpus.rows("train")) // self.recipe.batch
        try:
            corpus = splits.judged(self.corpus)
        except CorpusError as error:
            print(f"the back-end is the softmax, without a comparison: {error}")
            return BackEnd(back_ends.SOFTMAX)
        fewer = len(corpus.rows("train")) // self.recipe.batch
        if not fewer:
            print("the back-end is the softmax: less than a batch would be left to compare it")
            return BackEnd(back_ends.SOFTMAX)
        epochs = -(-self.recipe.epochs * batches // fewer)
        print(f"choosing the back-end on held-out training places: {epochs} epochs")
        recipe = replace(self.recipe, epochs=epochs, eval_every=epochs)
        judged = replace(self, corpus=corpus, recipe=recipe)
        net = judged.network(settings)
        own = checkpoint and checkpoint.with_suffix(".held-out.safetensors")
        judged.train(net, settings.seed, own)
        found = judged.evaluate(net)
        accuracies = {name: accuracy(found["truth"], found[name]) for name in back_ends.CANDIDATES}
        return BackEnd(max(accuracies, key=accuracies.get), accuracies)

    def train(self, net: SceneNet, seed: int, checkpoint: Path | None = None) -> pd.DataFrame:
        """Train ``net`` in place by the recipe; return the history. Resumes from ``checkpoint``.

        With ``specialists`` in the recipe, in stages (``distillation.train``). The last epoch is
        not evaluated here: ``evaluate`` does that.
        """
        if self.recipe.specialists:
            return distillation.train(self, net, seed, checkpoint)
        return self.fit(
            net, lambda epoch: self.training_batches(seed, epoch), self.loss, checkpoint
        )

    def fit(
        self,
        net: SceneNet,
        batches: Callable[[int], Iterable[training.Batch]],
        loss: training.Loss,
        checkpoint: Path | None,
    ) -> pd.DataFrame:
        """``training.fit`` with the optimiser, schedule, epochs and evaluations of the recipe."""
        epochs = self.recipe.epochs
        evaluated = range(self.recipe.eval_every, epochs, self.recipe.eval_every)
        optimiser = self.optimiser(net.to(self.device))
        averaging = self.recipe.average_from < 1
        ahead = iter if self.device == "cpu" else training.prefetched  # no gain on a CPU
        return training.fit(
            net,
            lambda epoch: ahead(batches(epoch)),
            loss,
            optimiser,
            epochs=epochs,
            checkpoint=checkpoint,
            schedule=training.SCHEDULES[self.recipe.schedule](optimiser, epochs),
            average=AveragedModel(net, use_buffers=True) if averaging else None,
            average_from=self.recipe.average_from,
            steps=len(self.corpus.rows("train")) // self.recipe.batch * (self.device == "cpu"),
            after_epoch=lambda e: accuracies(self.evaluate(net)) if e in evaluated else {},
        )


@torch.no_grad()
def outputs(
    net: SceneNet, batches: Iterable[training.Batch], precision: str
) -> tuple[np.ndarray, np.ndarray]:
    """Codes [clips, width] and scene probabilities [clips, scenes] of batches; float32."""
    net.eval()
    found = [run(net, batch, precision) for batch in batches]
    return (
        torch.cat([out.code.float().cpu() for out in found]).numpy(),
        torch.cat([out.logits.float().softmax(1).cpu() for out in found]).numpy(),
    )


def test_sets(evaluated: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """The two test sets of evaluated clips: the official list, and all outside the train list."""
    return {"test": evaluated[evaluated["split"] == "test"], "test_all": evaluated}


def accuracies(evaluated: pd.DataFrame) -> dict[str, float]:
    """Accuracy on both test sets with each kernel, from which the paper's protocol selects."""
    return {
        f"{name}_{kernel}": accuracy(part["truth"], part[kernel])
        for name, part in test_sets(evaluated).items()
        for kernel in back_ends.KERNELS
    }

"""Specialist distillation (Jung et al. 2019, [22]; Table 6): a student of several teachers.

A specialist is the baseline, trained further on two scenes that are often confused. The student is
the baseline, too, trained further to answer an excerpt as the baseline and its specialists answer
whole clips. So the network stays the same: all of it is training.
"""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from sklearn.metrics import confusion_matrix
from torch.nn import functional as F

from . import training
from .corpora import CorpusError
from .corpora.splits import held_out
from .scene_net import SceneNet, inference_batch, run

if TYPE_CHECKING:
    from .scenes import SceneData

TEMPERATURE = 2
LENGTH = 60 / 90  # of a specialist's training, and the student's, as a share of the recipe's epochs
SLOWER = 0.04  # learning rate of specialists, as a share of the recipe's


class Teachers(NamedTuple):
    """What the student learns from."""

    nets: list[SceneNet]  # the baseline, then the specialists; frozen, in evaluation mode
    pairs: list[tuple[int, int]]  # of scenes, of the specialists
    histories: list[pd.DataFrame]  # of the stages before the student


def train(
    scenes: "SceneData", net: SceneNet, seed: int, checkpoint: Path | None = None
) -> pd.DataFrame:
    """Train ``net`` in place, as the baseline and then as the student; return the history.

    Its column ``stage`` counts the stages: without the held-out places, baseline, specialists,
    student. Each resumes from a file of its own beside ``checkpoint``.
    """
    found = teachers(scenes, net, seed, checkpoint)
    print("the student", flush=True)
    student = _stage(scenes, schedule="student", epochs=_epochs(scenes))
    history = student.fit(
        net,
        partial(joined_batches, student, seed, stream=len(found.nets)),
        partial(student_loss, found.nets, scenes.recipe.precision),
        checkpoint,
    )
    stages = [*found.histories, history]
    return pd.concat(
        [each.assign(stage=number) for number, each in enumerate(stages, 1)], ignore_index=True
    )


def teachers(
    scenes: "SceneData", net: SceneNet, seed: int, checkpoint: Path | None = None
) -> Teachers:
    """Train ``net`` in place as the baseline, and a specialist of each pair that is confused most.

    The pairs are found on a third of the training places, by a network that learns from the others;
    by the "paper_protocol" on the test clips, by the baseline (``SceneRecipe.specialists_by``).
    """
    plain = _stage(scenes, eval_every=scenes.recipe.epochs)
    labels = scenes.corpus.labels
    on_test = scenes.recipe.specialists_by == "paper_protocol"
    histories = []
    if not on_test:
        apart = replace(plain, corpus=held_out(scenes.corpus))
        print("without the held-out places", flush=True)
        judge = copy.deepcopy(net)
        histories.append(apart.train(judge, seed, _file(checkpoint, "apart")))
        evaluated = apart.evaluate(judge)
    print("the baseline", flush=True)
    histories.append(plain.train(net, seed, _file(checkpoint, "baseline")))
    if on_test:
        evaluated = plain.evaluate(net).query("split == 'test'")
    pairs = confused(
        evaluated["truth"], evaluated["predicted"], len(labels), scenes.recipe.specialists
    )
    nets = [copy.deepcopy(net)]
    epochs = _epochs(scenes)
    special = _stage(
        plain, schedule="specialist", lr=SLOWER * scenes.recipe.lr, epochs=epochs, eval_every=epochs
    )
    for number, pair in enumerate(pairs, 1):
        print("a specialist of", " and ".join(labels[k] for k in pair), flush=True)
        nets.append(copy.deepcopy(nets[0]))
        history = special.fit(
            nets[-1],
            partial(pair_batches, special, pair, seed, stream=number),
            special.loss,
            _file(checkpoint, "of-{}-{}".format(*pair)),
        )
        histories.append(history)
    return Teachers([each.requires_grad_(False).eval() for each in nets], pairs, histories)


def confused(
    truth: Sequence[int], predicted: Sequence[int], scenes: int, most: int
) -> list[tuple[int, int]]:
    """The pairs of so many ``scenes`` (a < b) that are confused in most clips, most first."""
    matrix = confusion_matrix(truth, predicted, labels=range(scenes))
    first, second = np.triu_indices(scenes, 1)
    order = np.argsort(-(matrix + matrix.T)[first, second], kind="stable")[:most]
    return [(int(first[k]), int(second[k])) for k in order]


def student_loss(
    teachers: list[SceneNet], precision: str, net: SceneNet, batch: training.Batch
) -> torch.Tensor:
    """``divergence`` of the student's answers to excerpts from its teachers' to ``whole``."""
    size = inference_batch(batch["whole"].device.type)
    parts = [*zip(batch["whole"].split(size), batch["whole_tags"].split(size))]
    with torch.no_grad():
        answers = [
            torch.cat([run(each, {"waveform": w, "tags": t}, precision).logits for w, t in parts])
            for each in teachers
        ]
    own = run(net, {"waveform": batch["waveform"], "tags": batch["tags"]}, precision)
    return divergence(own.logits, answers)


def divergence(student: torch.Tensor, answers: list[torch.Tensor]) -> torch.Tensor:
    """Sum over teachers of KL(softmax(teacher / 2) || softmax(student / 2)), mean over the batch.

    Logits [B, scenes]. As released: not multiplied by the temperature's square, without labels.
    """
    own = F.log_softmax(student.float() / TEMPERATURE, 1)
    terms = [
        F.kl_div(own, F.softmax(each.float() / TEMPERATURE, 1), reduction="batchmean")
        for each in answers
    ]
    return torch.stack(terms).sum()


def pair_batches(
    scenes: "SceneData", pair: tuple[int, int], seed: int, epoch: int, stream: int
) -> Iterator[training.Batch]:
    """An epoch's excerpts: half of each batch of the pair's clips, half of as many others, redrawn.

    Raises CorpusError where there are not enough of either.
    """
    rng = training.epoch_generator(seed, epoch, stream)
    rows = scenes.corpus.rows("train")
    inside = np.isin(scenes.corpus.targets()[rows], pair)
    half = max(1, scenes.recipe.batch // 2)
    kinds = [rng.permutation(rows[which]) for which in (inside, ~inside)]
    count = min(map(len, kinds)) // half
    if not count:
        raise CorpusError(
            f"{scenes.corpus.root} has {len(kinds[0])} training clips of a pair of scenes and "
            f"{len(kinds[1])} others: a specialist's batch takes {half} of each"
        )
    for batch in np.hstack([kind[: count * half].reshape(count, half) for kind in kinds]):
        yield scenes.excerpts(batch, rng)


def joined_batches(
    scenes: "SceneData", seed: int, epoch: int, stream: int
) -> Iterator[training.Batch]:
    """An epoch's excerpts for the student, and in ``whole`` [B, 2, 2T] what its teachers hear.

    That is the excerpt's clip as evaluation reads it, followed by another of its scene; the tags
    in ``whole_tags`` are the mean of theirs.
    """
    rng = training.epoch_generator(seed, epoch, stream)
    order = rng.permutation(scenes.corpus.rows("train"))
    targets = scenes.corpus.targets()[order]
    others = order.copy()
    for label in np.unique(targets):
        others[targets == label] = rng.permutation(order[targets == label])
    size = scenes.recipe.batch
    for start in range(0, len(order) - size + 1, size):
        batch = scenes.excerpts(order[start : start + size], rng)
        clips = [scenes.whole(rows[start : start + size]) for rows in (order, others)]
        batch["whole"] = torch.cat([clip["waveform"] for clip in clips], -1)
        batch["whole_tags"] = torch.stack([clip["tags"] for clip in clips]).mean(0)
        yield batch


def _epochs(scenes: "SceneData") -> int:
    return max(1, round(LENGTH * scenes.recipe.epochs))


def _stage(scenes: "SceneData", **changes: float | str) -> "SceneData":
    recipe = replace(scenes.recipe, specialists=0, **changes)
    return replace(scenes, recipe=recipe, waveforms=scenes.source)  # one copy on a GPU


def _file(checkpoint: Path | None, stage: str) -> Path | None:
    return checkpoint and checkpoint.with_suffix(f".{stage}.safetensors")

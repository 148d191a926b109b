"""Training of the tagger in two stages, and its evaluation by lwlrap (Section 2.2, [14])."""

import copy
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import torch
from filelock import FileLock
from torch.nn import functional as F

from .. import stats, training
from ..corpora import DataSet, SceneCorpus
from ..files import made_once, processes, written_whole
from ..tagging_net import TaggingNet
from .tag_data import TagData, tagger_path
from .tagger import Tagger, threads

PSEUDO_WEIGHT = 20.0  # of the mean squared error that stage 2 adds


def loss(net: TaggingNet, batch: training.Batch) -> torch.Tensor:
    """Binary cross-entropy of the curated head on curated clips, and what else a batch adds.

    ``noisy`` images add that of the noisy head on them (stage 1); ``pseudo`` targets for these add
    20 times the mean squared error between the curated head's sigmoid and the targets (stage 2).
    """
    images = [batch[name] for name in ("curated", "noisy") if name in batch]
    embedded = net.embed(torch.cat(images)).split([len(part) for part in images])
    cost = F.binary_cross_entropy_with_logits(net.curated(embedded[0]), batch["curated_targets"])
    if "noisy" in batch:
        cost = cost + F.binary_cross_entropy_with_logits(
            net.noisy(embedded[1]), batch["noisy_targets"]
        )
    if "pseudo" in batch:
        cost = cost + PSEUDO_WEIGHT * F.mse_loss(
            net.curated(embedded[1]).sigmoid(), batch["pseudo"]
        )
    return cost


def soft_pseudo_labels(probabilities: np.ndarray) -> np.ndarray:
    """Soft pseudo-labels [clips, c] of tag vectors [teachers, clips, c]: mean, squared, sum 1."""
    sharpened = probabilities.mean(0) ** 2
    return sharpened / sharpened.sum(1, keepdims=True)


def train(data: TagData, checkpoints: Path) -> tuple[list[Tagger], pd.DataFrame]:
    """Train one network per fold in two stages: the tagger after each, and the history.

    The history has one row per epoch of each stage and fold. On a CPU there is a process for each
    network, as many at a time as the cores allow. An unfinished training resumes from the folder
    ``checkpoints``.
    """
    torch.manual_seed(data.seed)
    nets = dict.fromkeys(data.networks, TaggingNet(len(data.corpus.tags), data.sizes))
    workers = processes() // data.threads if data.device == "cpu" else 1
    stages = []
    histories = []
    for stage in (1, 2):
        print(f"stage {stage}, the networks without folds {', '.join(map(str, nets))}", flush=True)
        trained = joblib.Parallel(max(1, min(workers, len(nets))), pre_dispatch="n_jobs")(
            joblib.delayed(_fit)(data, net, fold, stage, checkpoints, os.getpid())
            for fold, net in nets.items()
        )
        nets = dict(zip(nets, (net for net, _ in trained)))
        histories += [part.assign(stage=stage, fold=fold) for fold, (_, part) in zip(nets, trained)]
        stages.append(Tagger(dict(nets), data.corpus.tags, data.sizes))
    return stages, pd.concat(histories, ignore_index=True)


def _fit(
    data: TagData, net: TaggingNet, fold: int, stage: int, checkpoints: Path, run_by: int
) -> tuple[TaggingNet, pd.DataFrame]:
    net, sizes = copy.deepcopy(net), data.sizes
    with_pseudo = data.supervision == "pseudo_labels"
    pseudo = _pseudo_labels(data, fold, checkpoints) if with_pseudo and stage == 2 else None
    optimiser = torch.optim.Adam(net.to(data.device).parameters(), sizes.lr, fused=True)

    def teach(epoch: int) -> dict:
        if run_by not in (os.getpid(), os.getppid()):  # it was killed
            raise SystemExit
        # Keep the noisy clips' tag vectors at the end of each cycle of stage 1.
        if with_pseudo and stage == 1 and epoch % sizes.epochs == 0:
            noisy = data.noisy_rows()
            teacher = Tagger({fold: net}, data.corpus.tags, sizes)
            vectors = teacher.tag_clips(
                [data.mels[row] for row in noisy], np.full(len(noisy), fold)
            )
            cycle = epoch // sizes.epochs
            with written_whole(checkpoints / f"fold{fold}-cycle{cycle}.npy") as file:
                np.save(file, vectors)
        return {}

    with threads(data.threads):
        history = training.fit(
            net,
            lambda epoch: data.batches(fold, stage, epoch, pseudo),
            loss,
            optimiser,
            epochs=(sizes.cycles if stage == 1 else sizes.second_cycles) * sizes.epochs,
            schedule=torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(
                optimiser, sizes.epochs, eta_min=1e-6
            ),
            checkpoint=checkpoints / f"fold{fold}-stage{stage}.safetensors",
            after_epoch=teach,
            label=f"fold {fold}, ",
        )
    return net.cpu(), history


def _pseudo_labels(data: TagData, fold: int, checkpoints: Path) -> torch.Tensor:
    probabilities = [  # of the teachers at the ends of their cycles
        np.load(path, allow_pickle=False)
        for teacher in data.teachers(fold)
        for path in sorted(checkpoints.glob(f"fold{teacher}-cycle*"))
    ]
    labels = torch.zeros(len(data.corpus.clips), len(data.corpus.tags))  # 0 if not noisy
    labels[data.noisy_rows()] = torch.from_numpy(soft_pseudo_labels(np.stack(probabilities)))
    return labels


@dataclass(frozen=True)
class TrainedTagger:
    """A tagger, how it was trained, and how accurate it is after each stage."""

    tagger: Tagger
    history: pd.DataFrame  # of ``train``
    evaluated: pd.DataFrame  # of ``evaluate``
    lwlrap: dict[str, dict]  # of ``figures``, by stage


def train_tagger(data: TagData) -> TrainedTagger:
    """Train a tagger and evaluate it after each of its two stages.

    It is kept under ``ASC_DATA`` for the scene notebooks; an unfinished training resumes.
    """
    with _lock(data.tagger_path):
        return _train(data)


def _lock(path: Path) -> FileLock:  # one process at a time trains a tagger
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.train.lock"))


def _train(data: TagData) -> TrainedTagger:
    path = data.tagger_path
    checkpoints = path.with_name(f"{path.name}-checkpoints")
    stages, history = train(data, checkpoints)
    evaluated = [evaluate(stage, data) for stage in stages]
    found = {f"stage {number}": figures(*parts) for number, parts in enumerate(evaluated, 1)}
    clips = evaluated[1][0].assign(lrap_stage_1=evaluated[0][0]["lrap"])

    def save(folder: Path) -> None:
        stages[-1].save(folder)
        (folder / "lwlrap.json").write_text(json.dumps(found, indent=1), encoding="utf-8")

    made_once(path, save)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return TrainedTagger(stages[-1], history, clips, found)


def evaluate(tagger: Tagger, data: TagData) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Tag the test clips, and curated ones each by its own fold; then targets, scores [clips, c].

    One row per clip: fname, set, recording (clips of one are not independent), labels (their
    number), lrap, and top, whether the most probable tag is one of them.
    """
    clips = data.corpus.clips
    targets = data.corpus.targets()
    rows = np.flatnonzero(clips["set"].isin(["test", "curated"]) & (targets.sum(1) > 0))
    targets = targets[rows]
    scores = tagger.tag_clips([data.mels[row] for row in rows], data.folds[rows])
    recording = clips["recordings" if "recordings" in clips else "fname"].to_numpy()[rows]
    lrap, labels = stats.lrap_by_clip(targets, scores)
    top = np.take_along_axis(targets, scores.argmax(1)[:, None], 1)[:, 0] > 0
    table = clips.iloc[rows][["fname", "set"]].reset_index(drop=True)
    table = table.assign(recording=recording, labels=labels.astype(int), lrap=lrap, top=top)
    return table, targets, scores


def figures(evaluated: pd.DataFrame, targets: np.ndarray, scores: np.ndarray) -> dict[str, dict]:
    """lwlrap with its 95 % interval (over recordings) and chance, on each set of clips.

    ``accuracy`` (the most probable tag is right) where every clip has one label, else None.
    """
    found = {}
    for kind in ("test", "curated"):
        rows = np.flatnonzero(evaluated["set"] == kind)
        part = evaluated.iloc[rows]
        found[kind] = {
            "lwlrap": float(np.average(part["lrap"], weights=part["labels"])),
            "interval": stats.Places(part["recording"], part["labels"]).interval(part["lrap"]),
            "chance": stats.lwlrap_by_chance(targets[rows], scores[rows]),
            "accuracy": float(part["top"].mean()) if (part["labels"] == 1).all() else None,
            "clips": len(rows),
            "recordings": part["recording"].nunique(),
        }
    return found


def on_scenes(corpus: SceneCorpus, vectors) -> dict[str, dict] | None:
    """lwlrap of the tag vectors of composed scenes, by what was composed into them.

    With its 95 % interval (over locations) and chance, on training and on test clips.
    Of the tags that both know; None where they share none.
    """
    if corpus.composition is None:
        return None
    names = [name for name in vectors.names if name in set(corpus.composition["tag"])]
    if not names:
        return None
    parts = corpus.composition[corpus.composition["tag"].isin(names)]
    counts = pd.crosstab(parts["filename"], parts["tag"]).reindex(corpus.clips["filename"])
    targets = (counts.reindex(columns=names).fillna(0) > 0).to_numpy(float)
    scores = vectors.clips[:, [vectors.names.index(name) for name in names]]
    found = {}
    for split in ("train", "test"):
        rows = corpus.rows(split)
        rows = rows[targets[rows].sum(1) > 0]
        lrap, labels = stats.lrap_by_clip(targets[rows], scores[rows])
        places = stats.Places(corpus.clips["location"].iloc[rows], labels, corpus.beds.iloc[rows])
        found[split] = {
            "lwlrap": float(np.average(lrap, weights=labels)),
            "interval": list(places.interval(lrap)),
            "chance": stats.lwlrap_by_chance(targets[rows], scores[rows]),
            "clips": len(rows),
        }
    return found


def default_tagger(data_set: DataSet) -> tuple[Tagger, dict, str]:
    """The tagger of a data set's preset with seed 0, trained on first use; its lwlrap and name."""
    preset = data_set.preset
    corpus = data_set.tagger_clips()
    options = dict(supervision="pseudo_labels", seed=0, threads=preset.tagger_threads)
    path = tagger_path(corpus, preset.tagger, **options)
    device = training.default_device()
    with _lock(path):
        if not path.exists():
            print(f"no tagger for '{data_set.name}' yet: training it first, as in notebook 01")
            with threads(preset.tagger_threads):
                _train(TagData.open(corpus, preset.tagger, device=device, **options))
    return (
        Tagger.load(path).to(device),
        json.loads((path / "lwlrap.json").read_text(encoding="utf-8")),
        path.name,
    )

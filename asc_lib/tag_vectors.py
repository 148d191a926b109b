"""Tag vectors of scene clips: from the tagger (trained on first use), shuffled between clips, or true."""

import contextlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock

from .artefacts import data_root, fingerprint, made_once
from .corpora import SceneCorpus, TagCorpus, open_tags
from .experiment import PRESETS, ParameterError, Settings, check
from .metrics import interval, lrap_by_clip, lwlrap_by_chance
from .store import Store
from .tagger import TagData, Tagger, fold_numbers, tag_mels

VERSION = 2  # raised when a change of the code changes what a tagger learns or gives


@dataclass(frozen=True)
class TagVectors:
    """Tag vectors [clips, c], each value within 0 to 1, in the order of a scene corpus, and where they come from."""

    values: np.ndarray
    names: list[str]
    source: str
    lwlrap: dict | None  # of the finished tagger, on its own test clips; None for true labels

    @property
    def fingerprint(self) -> str:
        """Changes when any value does."""
        return fingerprint(np.ascontiguousarray(self.values).tobytes(), self.names)


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use this many threads for a while: floats depend on it, and a run's own number must not reach here."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tagger_path(settings: Settings, corpus: TagCorpus) -> Path:
    """Where the tagger of notebook 01's settings lies, named by what determines it."""
    sizes, others = asdict(settings.preset.tagger), (settings.supervision, settings.seed, settings.threads)
    marks = fingerprint(corpus.root.name, len(corpus.clips), sizes, *others, VERSION)
    return data_root() / "made" / f"{settings.data}-tagger-{marks}"


def tag_data(settings: Settings, corpus: TagCorpus) -> TagData:
    """What the tagger of notebook 01's settings learns from."""
    sizes = settings.preset.tagger
    mels, folds = tag_mels(corpus, sizes), fold_numbers(corpus, sizes, settings.seed)
    return TagData(corpus, mels, folds, sizes, settings.supervision, settings.seed, settings.device)


@dataclass(frozen=True)
class TrainedTagger:
    """A tagger, how it was trained, and how well it hears after each stage."""

    tagger: Tagger
    history: pd.DataFrame  # of ``TagData.train``
    judged: pd.DataFrame  # of ``judge``
    lwlrap: dict[str, dict]  # of ``figures``


def train_tagger(settings: Settings, data: TagData) -> TrainedTagger:
    """Train the tagger of notebook 01's settings and judge it after each of its two stages.

    It is kept under ``ASC_DATA`` for the scene notebooks; an unfinished training of the same settings goes on.
    """
    with _training(settings, data.corpus):
        return _train(settings, data)


def _training(settings: Settings, corpus: TagCorpus) -> FileLock:
    """Lock that lets one process at a time train a tagger."""
    path = tagger_path(settings, corpus)
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.train.lock"))


def _train(settings: Settings, data: TagData) -> TrainedTagger:
    path = tagger_path(settings, data.corpus)
    checkpoints = path.with_name(f"{path.name}-checkpoints")
    stages, history = data.train(checkpoints)
    judged = [judge(stage, data) for stage in stages]
    found = {f"stage {number}": figures(*one) for number, one in enumerate(judged, 1)}
    clips = judged[1][0].assign(lrap_stage_1=judged[0][0]["lrap"])

    def save(folder: Path) -> None:
        stages[-1].save(folder)
        (folder / "lwlrap.json").write_text(json.dumps(found, indent=1), encoding="utf-8")

    made_once(path, save)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return TrainedTagger(stages[-1], history, clips, found)


def judge(tagger: Tagger, data: TagData) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    """Tag the test clips, and the curated ones each by its own fold; targets and scores [clips, tags] come last.

    A row a clip: fname, set, recording (clips of one are not independent), labels (their number), lrap, and top,
    whether the most probable tag is one of them.
    """
    clips, targets = data.corpus.clips, data.corpus.targets()
    rows = np.flatnonzero(clips["set"].isin(["test", "curated"]) & (targets.sum(1) > 0))
    targets, scores = targets[rows], tagger.tag_clips([data.mels[row] for row in rows], data.folds[rows])
    table = clips.iloc[rows][["fname", "set"]].reset_index(drop=True)
    own = clips["recordings"] if "recordings" in clips else clips["fname"]
    lrap, labels = lrap_by_clip(targets, scores)
    top = np.take_along_axis(targets, scores.argmax(1)[:, None], 1)[:, 0] > 0
    return table.assign(recording=own.to_numpy()[rows], labels=labels.astype(int), lrap=lrap, top=top), targets, scores


def figures(judged: pd.DataFrame, targets: np.ndarray, scores: np.ndarray) -> dict[str, dict]:
    """lwlrap with its 95 % interval (bootstrap over recordings) and chance, on each set of judged clips.

    ``accuracy`` (the most probable tag is right) where every clip has one label, else None.
    """
    found = {}
    for kind in ("test", "curated"):
        rows = np.flatnonzero(judged["set"] == kind)
        part = judged.iloc[rows]
        found[kind] = {
            "lwlrap": float(np.average(part["lrap"], weights=part["labels"])),
            "interval": lwlrap_interval(part),
            "chance": lwlrap_by_chance(targets[rows], scores[rows]),
            "accuracy": float(part["top"].mean()) if (part["labels"] == 1).all() else None,
            "clips": len(rows),
            "recordings": part["recording"].nunique(),
        }
    return found


def lwlrap_interval(judged: pd.DataFrame, lrap: pd.Series | None = None) -> tuple[float, float]:
    """95 % bootstrap interval over recordings of judged clips' lwlrap, or of another value of each clip (``lrap``)."""
    values, weights = (judged["lrap"] if lrap is None else lrap).to_numpy(), judged["labels"].to_numpy()
    return interval(lambda rows: np.average(values[rows], weights=weights[rows]), judged["recording"].to_numpy())


def default_tagger(data: str) -> tuple[Tagger, dict, str]:
    """The tagger that scene notebooks use (preset, seed 0), trained on first use; its lwlrap; its name."""
    defaults = dict(seed=0, epochs=0, device="auto", threads=0, supervision="pseudo_labels")
    settings, corpus = check("01_tagger", data=data, **defaults), open_tags(data)
    path = tagger_path(settings, corpus)
    with _training(settings, corpus):
        if not path.exists():
            print(f"no tagger for '{data}' yet: training it first, as notebook 01 does")
            with threads(settings.threads):
                _train(settings, tag_data(settings, corpus))
    return Tagger.load(path), json.loads((path / "lwlrap.json").read_text(encoding="utf-8")), path.name


def open_tag_vectors(source: str, corpus: SceneCorpus, waveforms: Store, seed: int = 0) -> TagVectors:
    """Tag vectors of every clip of a scene corpus.

    ``source``: "tagger" (computed on first use, then cached); "shuffled", the same dealt out to other clips of the
    same split; "true", 1 for every sound that is in a composed clip. Raises ParameterError for "true" on a corpus
    that does not say what is in its clips.
    """
    if source == "true":
        return _true_tags(corpus)
    tagger, found, name = default_tagger(corpus.name)
    path = data_root() / "made" / f"{corpus.name}-tags-{fingerprint(name, waveforms.fingerprint, VERSION)}.npy"
    with threads(PRESETS[corpus.name].tagger_threads):
        made_once(path, lambda file: np.save(file, tagger.tag_scenes(corpus, waveforms, np.arange(len(corpus.clips)))))
    values = np.load(path, allow_pickle=False)
    if source == "shuffled":
        rng = np.random.default_rng(seed)
        for split in ("train", "test", "unused"):
            rows = corpus.rows(split)
            values[rows] = values[rng.permutation(rows)]
    return TagVectors(values, tagger.tags, source, found["stage 2"]["test"])


def _true_tags(corpus: SceneCorpus) -> TagVectors:
    if corpus.composition is None:
        raise ParameterError(f"parameter 'tags' is 'true', but {corpus.name} does not say what sounds are in its clips")
    heard = corpus.composition[corpus.composition["tag"] != ""]
    names = sorted(heard["tag"].unique())
    values = pd.crosstab(heard["filename"], heard["tag"]).reindex(index=corpus.clips["filename"], columns=names)
    return TagVectors(values.fillna(0).clip(upper=1).to_numpy("float32"), names, "true", None)

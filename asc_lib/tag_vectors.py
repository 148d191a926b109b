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
from .metrics import lwlrap, lwlrap_by_chance, lwlrap_interval
from .store import Store
from .tagger import Tagger, fold_numbers, tag_mels, train

VERSION = 1  # raised when a change of the code changes what a tagger learns or gives


@dataclass(frozen=True)
class TagVectors:
    """Tag vectors [clips, c], each value within 0 to 1, in the order of a scene corpus, and where they come from."""

    values: np.ndarray
    names: list[str]
    source: str
    lwlrap: dict | None  # of the tagger, on its own test clips; None for true labels

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
    marks = (corpus.root.name, len(corpus.clips), asdict(settings.preset.tagger), settings.seed, settings.threads)
    return data_root() / "made" / f"{settings.data}-tagger-{fingerprint(*marks, VERSION)}"


def train_tagger(settings: Settings, corpus: TagCorpus) -> tuple[Tagger, pd.DataFrame, dict]:
    """Train the tagger of notebook 01's settings; return it, its history and its lwlrap (``judge``).

    It is kept under ``ASC_DATA`` for the scene notebooks; an unfinished training of the same settings goes on.
    """
    with _training(settings, corpus):
        return _train(settings, corpus)


def _training(settings: Settings, corpus: TagCorpus) -> FileLock:
    """Lock that lets one process at a time train a tagger."""
    path = tagger_path(settings, corpus)
    path.parent.mkdir(parents=True, exist_ok=True)
    return FileLock(path.with_name(f".{path.name}.train.lock"))


def _train(settings: Settings, corpus: TagCorpus) -> tuple[Tagger, pd.DataFrame, dict]:
    path, sizes = tagger_path(settings, corpus), settings.preset.tagger
    checkpoints = path.with_name(f"{path.name}-checkpoints")
    mels, folds = tag_mels(corpus, sizes), fold_numbers(corpus, sizes, settings.seed)
    told = dict(epochs=sizes.epochs, seed=settings.seed, checkpoints=checkpoints, device=settings.device)
    trained, history = train(corpus, mels, folds, sizes, **told)
    found = judge(trained, corpus, mels, folds)

    def save(folder: Path) -> None:
        trained.save(folder)
        (folder / "lwlrap.json").write_text(json.dumps(found, indent=1), encoding="utf-8")

    made_once(path, save)
    shutil.rmtree(checkpoints, ignore_errors=True)
    return trained, history, found


def judge(tagger: Tagger, corpus: TagCorpus, mels: list[torch.Tensor], folds: np.ndarray) -> dict[str, dict]:
    """lwlrap, its 95 % interval and chance on the test clips, and on the curated ones (each by its own fold)."""
    found, targets = {}, corpus.targets()
    for kind in ("test", "curated"):
        rows = np.flatnonzero(corpus.clips["set"] == kind)
        truth, scores = targets[rows], tagger.tag_clips([mels[row] for row in rows], folds[rows])
        figures = {"lwlrap": lwlrap(truth, scores), "interval": lwlrap_interval(truth, scores)}
        found[kind] = figures | {"chance": lwlrap_by_chance(truth, scores), "clips": len(rows)}
    return found


def default_tagger(data: str) -> tuple[Tagger, dict, str]:
    """The tagger that scene notebooks use (preset, seed 0), trained on first use; its lwlrap; its name."""
    settings = check("01_tagger", data=data, seed=0, epochs=0, device="auto", threads=0)
    corpus = open_tags(data)
    path = tagger_path(settings, corpus)
    with _training(settings, corpus):
        if not path.exists():
            print(f"no tagger for '{data}' yet: training it first, as notebook 01 does")
            with threads(settings.threads):
                _train(settings, corpus)
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
    return TagVectors(values, tagger.tags, source, found["test"])


def _true_tags(corpus: SceneCorpus) -> TagVectors:
    if corpus.composition is None:
        raise ParameterError(f"parameter 'tags' is 'true', but {corpus.name} does not say what sounds are in its clips")
    heard = corpus.composition[corpus.composition["tag"] != ""]
    names = sorted(heard["tag"].unique())
    values = pd.crosstab(heard["filename"], heard["tag"]).reindex(index=corpus.clips["filename"], columns=names)
    return TagVectors(values.fillna(0).clip(upper=1).to_numpy("float32"), names, "true", None)

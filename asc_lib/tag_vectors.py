"""Tag vectors of scene clips: from the tagger (trained on first use), shuffled between clips, or true."""

import contextlib
import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from filelock import FileLock

from . import hub_tagger
from .artefacts import Put, data_root, filled, fingerprint, first_line, made_once
from .corpora import COMPOSED, SceneCorpus, TagCorpus, open_tags
from .experiment import HUB, TAGS, ParameterError, Settings, check, default_device, preset_of
from .metrics import interval, lrap_by_clip, lwlrap_by_chance
from .store import Store
from .tagger import TagData, Tagger, fold_numbers, tag_mels

TAGGED_AT_A_TIME = 64  # clips tagged between two notes of how far tagging has come
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
    """The tagger that scene notebooks use (preset, seed 0), trained on first use; its lwlrap; its name.

    Scenes of one's own are tagged by that of ``tau2019``.
    """
    defaults = dict(seed=0, epochs=0, device="auto", threads=0, supervision="pseudo_labels")
    data = data if data in COMPOSED else "tau2019"
    settings, corpus = check("01_tagger", data=data, **defaults), open_tags(data)
    path = tagger_path(settings, corpus)
    with _training(settings, corpus):
        if not path.exists():
            print(f"no tagger for '{data}' yet: training it first, as notebook 01 does")
            with threads(settings.threads):
                _train(settings, tag_data(settings, corpus))
    found = json.loads((path / "lwlrap.json").read_text(encoding="utf-8"))
    return Tagger.load(path).to(settings.device), found, path.name


def open_tag_vectors(source: str, corpus: SceneCorpus, waveforms: Store, seed: int = 0) -> TagVectors:
    """Tag vectors of every clip of a scene corpus.

    ``source``: "tagger" (computed on first use, then cached); "shuffled", the same dealt out to other clips of the
    same split; "constant", their mean over the training clips, the same for every clip; "true", 1 for every sound that
    is in a composed clip; the path of a table (``read_table``); or "hf:" and the name or folder of a Hugging Face audio
    classification model. Raises ParameterError for "true" on a corpus that does not say what is in its clips, and for a
    table or a model that does not fit.
    """
    if source == "true":
        return _true_tags(corpus)
    if source.startswith(HUB):
        return _from_hub(source, corpus, waveforms)
    if source not in TAGS:
        return read_table(Path(source), corpus)
    tagger, found, name = default_tagger(corpus.name)
    tag = partial(tagger.tag_scenes, corpus, waveforms)
    values = _cached(corpus, waveforms, name, len(tagger.tags), tag)
    if source == "shuffled":
        rng = np.random.default_rng(seed)
        for split in ("train", "test", "unused"):
            rows = corpus.rows(split)
            values[rows] = values[rng.permutation(rows)]
    if source == "constant":
        values[:] = values[corpus.rows("train")].mean(0)
    return TagVectors(values, tagger.tags, source, found["stage 2"]["test"])


def _cached(corpus: SceneCorpus, waveforms: Store, name: str, width: int, tag: Callable) -> np.ndarray:
    """Tag vectors [clips, width] of a whole corpus by the tagger of this name, computed on first use, then cached."""
    path = data_root() / "made" / f"{corpus.name}-tags-{fingerprint(name, waveforms.fingerprint, VERSION)}.npy"

    def fill(put: Put, rows: np.ndarray) -> None:
        put(rows[0], tag(rows))

    clips = len(corpus.clips)
    with threads(preset_of(corpus.name).tagger_threads):
        return np.array(filled(path, (clips, width), "float32", fill, clips, TAGGED_AT_A_TIME))


def _from_hub(source: str, corpus: SceneCorpus, waveforms: Store) -> TagVectors:
    tagger = hub_tagger.load(source.removeprefix(HUB), default_device())
    values = _cached(corpus, waveforms, tagger.fingerprint, len(tagger.tags), partial(tagger.tag_scenes, waveforms))
    return TagVectors(values, tagger.tags, source, None)


def read_table(path: Path, corpus: SceneCorpus) -> TagVectors:
    """Tag vectors from a table of one's own: a row a clip, a column a tag, each value within 0 to 1.

    ``.csv`` and ``.parquet``: the column ``filename``, as in the corpus, and one for each tag. ``.npz``: the arrays
    ``filename`` [clips], ``tags`` [c] and ``values`` [clips, c]. Rows of other clips are left aside. Raises
    ParameterError, naming the table, where it cannot be read, lacks clips, names one twice, or holds other values.
    """
    told = f"parameter 'tags': {path}"
    try:
        table = READERS[path.suffix](path)
        if "filename" not in table or table.shape[1] < 2:
            raise ParameterError(f"{told} needs a column 'filename' and one for each tag; it has {list(table)[:5]}")
        table = table.set_index("filename")
        values = table.apply(pd.to_numeric).astype("float32")
    except ParameterError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ParameterError(f"{told} cannot be read: {first_line(error)}") from None
    if (twice := values.index[values.index.duplicated()]).size:
        raise ParameterError(f"{told} has {twice[0]!r} twice")
    if (missing := corpus.clips["filename"][~corpus.clips["filename"].isin(values.index)]).size:
        raise ParameterError(f"{told} lacks {missing.size} of {len(corpus.clips)} clips, the first {missing.iloc[0]!r}")
    values = values.loc[corpus.clips["filename"]]
    wrong = ~((values >= 0) & (values <= 1)).to_numpy()  # NaN among them
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        where = f"{values.index[row]!r}, tag {values.columns[column]!r}"
        raise ParameterError(f"{told}: {values.iloc[row, column]} is not within 0 to 1 ({where}; {wrong.sum()} such)")
    return TagVectors(values.to_numpy(), list(map(str, values.columns)), path.stem, None)


def _read_npz(path: Path) -> pd.DataFrame:
    with np.load(path, allow_pickle=False) as arrays:
        table = pd.DataFrame(arrays["values"], columns=arrays["tags"].astype(str))
        return table.assign(filename=arrays["filename"].astype(str))


READERS = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".npz": _read_npz}


def _true_tags(corpus: SceneCorpus) -> TagVectors:
    if corpus.composition is None:
        raise ParameterError(f"parameter 'tags' is 'true', but {corpus.name} does not say what sounds are in its clips")
    heard = corpus.composition[corpus.composition["tag"] != ""]
    names = sorted(heard["tag"].unique())
    values = pd.crosstab(heard["filename"], heard["tag"]).reindex(index=corpus.clips["filename"], columns=names)
    return TagVectors(values.fillna(0).clip(upper=1).to_numpy("float32"), names, "true", None)

"""Tag vectors of scene clips, and their sources: a list of openers, some of them patterns."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch

from ..corpora import SceneCorpus, audio, by_name, macs
from ..corpora.store import Store
from ..files import data_root, filled, fingerprint, printable
from ..registry import ParameterError, unknown
from ..training import default_device
from .hub import HUB, HubTagger
from .tag_tables import READERS, from_table
from .tagger import VERSION, Tagger, threads
from .tagger_training import default_tagger
from .windows import TagVectors, WindowTagger
from .yamnet import YamNet

EVENT = 1.0  # s, for which an event of a composed clip is taken to be heard
CHUNK = 64  # clips tagged between two notes of progress


def cached(
    corpus: SceneCorpus, waveforms: Store, name: str, tagger: WindowTagger, tag: Callable
) -> dict:
    """Values and times of a corpus's tag vectors by a tagger called so, computed on first use.

    ``tag(rows)`` gives those of some clips [len(rows), w, c].
    """
    mark = fingerprint(name, waveforms.fingerprint, VERSION)
    clips = len(corpus.clips)
    times = tagger.times(waveforms.samples)
    with threads(by_name(corpus.name).preset.tagger_threads):
        values = filled(
            data_root() / "made" / f"{corpus.name}-tags-{mark}.npy",
            (clips, len(times), len(tagger.tags)),
            "float32",
            lambda put, rows: put(rows[0], tag(rows)),
            clips,
            CHUNK,
        )
    return {"values": np.array(values), "times": times}


def from_tagger(source: str, corpus: SceneCorpus, waveforms: Store, seed: int) -> TagVectors:
    """Our own tagger's, trained on first use."""
    tagger, lwlrap, name = default_tagger(by_name(corpus.name))
    found = of_scenes(tagger, name, corpus, waveforms)
    return replace(found, source=source, lwlrap=lwlrap["stage 2"]["test"])


def of_scenes(tagger: Tagger, name: str, corpus: SceneCorpus, waveforms: Store) -> TagVectors:
    """Those of a tagger of ours that is kept under this name (``TagData.tagger_path``)."""
    tagger = tagger.like_scenes(corpus)
    return TagVectors(
        names=tagger.tags,
        source="tagger",
        tagger=tagger,
        **cached(corpus, waveforms, name, tagger, partial(tagger.tag_scenes, corpus, waveforms)),
    )


def from_model(
    tagger: WindowTagger, source: str, corpus: SceneCorpus, waveforms: Store
) -> TagVectors:
    """A published model's."""
    return TagVectors(
        names=tagger.tags,
        source=source,
        tagger=tagger,
        **cached(corpus, waveforms, tagger.fingerprint, tagger, partial(tagged, tagger, waveforms)),
    )


def tagged(tagger: WindowTagger, waveforms: Store, rows: np.ndarray, batch: int = 8) -> np.ndarray:
    """Tag vectors [len(rows), w, c] of scene clips."""
    return np.concatenate(
        [
            tagger.tag_windows(waveforms.whole(part)).numpy()
            for part in np.split(rows, range(batch, len(rows), batch))
        ]
    )


def shuffled(
    source: str,
    corpus: SceneCorpus,
    waveforms: Store,
    seed: int,
    of: Callable | None = None,
    from_training: bool = False,
    each_epoch: bool = False,
) -> TagVectors:
    """A tagger's, dealt out to other clips of the same split.

    ``from_training``: test clips draw theirs from training clips instead. ``each_epoch``: training
    clips draw theirs again in each epoch.
    """
    found = (of or from_tagger)(source, corpus, waveforms, seed)
    rng = np.random.default_rng(seed)
    order = np.arange(len(found.values))
    train = corpus.rows("train")
    for split in ("train", "test", "unused"):
        rows = corpus.rows(split)
        others = from_training and split != "train"
        order[rows] = rng.choice(train, len(rows)) if others else rng.permutation(rows)
    again = (lambda rows, rng: found.values[rng.choice(train, len(rows))]) if each_epoch else None
    return replace(found, values=found.values[order], tagger=None, redrawn=again)


def constant(
    source: str, corpus: SceneCorpus, waveforms: Store, seed: int, of: Callable | None = None
) -> TagVectors:
    """The mean of a tagger's over the training clips, the same for every clip."""
    found = (of or from_tagger)(source, corpus, waveforms, seed)
    mean = found.values[corpus.rows("train")].mean(0)
    return replace(found, values=np.broadcast_to(mean, found.values.shape), tagger=None)


def true(source: str, corpus: SceneCorpus, waveforms: Store | None, seed: int) -> TagVectors:
    """1 for every sound in a composed clip. Raises ParameterError where that is not known.

    As many columns as our tagger's: there is one for sounds that no scene holds, too.
    """
    if corpus.composition is None:
        raise ParameterError(
            f"parameter 'tags' is 'true', but {corpus.name} does not say what sounds are in its "
            "clips"
        )
    parts = corpus.composition[corpus.composition["tag"] != ""]
    names = sorted({*parts["tag"], *by_name(corpus.name).sounds()})
    times = None if waveforms is None else YamNet(Path(), []).times(waveforms.samples)
    starts, ends = (times if times is not None else np.array([[0.0, np.inf]])).T
    values = np.zeros((len(corpus.clips), len(starts), len(names)), "float32")
    rows = dict(zip(corpus.clips["filename"], range(len(corpus.clips))))
    for part in parts.itertuples():
        bed = part.role == "bed"
        heard = bed | ((part.onset < ends) & (part.onset + EVENT > starts))
        values[rows[part.filename], heard, names.index(part.tag)] = 1
    return TagVectors(values, names, source, times=times)


def error_rates(truth: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Hit and false-alarm rate [c] of scores, for truth [clips, c] of 0 and 1.

    Each tag is said of as many clips as have it, those with its highest scores.
    """
    count = truth.sum(0)
    ranks = (-scores).argsort(0, kind="stable").argsort(0, kind="stable")
    hits = ((ranks < count) * truth).sum(0)
    return hits / np.maximum(count, 1), (count - hits) / np.maximum(len(truth) - count, 1)


def corrupted(
    source: str, corpus: SceneCorpus, waveforms: Store, seed: int, each_epoch: bool = False
) -> TagVectors:
    """True tags of whole clips, with the errors of our tagger on the training clips.

    A tag that the tagger does not know is said at random, as often as it is true. ``each_epoch``:
    in training errors are drawn again each time.
    """
    found = true(source, corpus, None, seed)
    tagger = from_tagger("tagger", corpus, waveforms, seed)
    truth, train = found.values[:, 0], corpus.rows("train")
    noise = np.random.default_rng(0).random(truth.shape)
    columns = {name: tagger.clips[:, k] for k, name in enumerate(tagger.names)}
    scores = np.stack([columns.get(name, noise[:, k]) for k, name in enumerate(found.names)], 1)
    hit, false_alarm = error_rates(truth[train], scores[train])

    def draw(rows: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        said = rng.random((len(rows), len(hit))) < np.where(truth[rows] > 0, hit, false_alarm)
        return said[:, None].astype("float32")

    values = draw(np.arange(len(truth)), np.random.default_rng(seed))
    return replace(found, values=values, redrawn=draw if each_epoch else None)


def from_macs(source: str, corpus: SceneCorpus, waveforms: Store | None, seed: int) -> TagVectors:
    """What people heard, each tag as the share of a clip's annotators. Raises ParameterError."""
    shares = macs.read()
    names = corpus.clips["filename"].map(lambda name: PurePosixPath(name).name)
    missing = names[~names.isin(shares.index)]
    if missing.size:
        raise ParameterError(
            f"parameter 'tags' is 'macs', which lacks {missing.size} of {len(names)} clips, the "
            f"first {missing.iloc[0]!r}: take the data set tau2019@macs"
        )
    values = shares.loc[names].to_numpy("float32")[:, None]
    return TagVectors(values, list(shares.columns), source)


def from_hub(source: str, corpus: SceneCorpus, waveforms: Store, seed: int) -> TagVectors:
    return from_model(HubTagger.load(source, default_device()), source, corpus, waveforms)


def from_yamnet(source: str, corpus: SceneCorpus, waveforms: Store, seed: int) -> TagVectors:
    return from_model(YamNet.load(), source, corpus, waveforms)


class TagSource(NamedTuple):
    name: str  # or, of a pattern, what to type
    open: Callable[[str, SceneCorpus, Store, int], TagVectors]
    matches: Callable[[str], bool] | None = None  # None: the name alone
    question: str = ""  # that it answers as a control
    by_seed: bool = False  # its tag vectors differ from seed to seed
    of: tuple[str, ...] = ("tagger",)  # whose tags it controls


SOURCES = [
    TagSource("tagger", from_tagger),
    TagSource("yamnet", from_yamnet),
    TagSource("shuffled", shuffled, None, "What do the tags of other clips do?", True),
    TagSource("constant", constant, question="What if every clip has the same tags?"),
    TagSource("true", true, question="What would a perfect tagger give?", of=("tagger", "yamnet")),
    TagSource(
        "shuffled_from_training",
        partial(shuffled, from_training=True),
        question="Do other clips' tags harm by a shift at test, which is gone here, or by memory?",
        by_seed=True,
    ),
    TagSource(
        "shuffled_each_epoch",
        partial(shuffled, each_epoch=True),
        question="Do other clips' tags harm as noise, which they still are here, or as names?",
        by_seed=True,
    ),
    TagSource(
        "corrupted",
        corrupted,
        question="What do true tags give with our tagger's rates of error?",
        by_seed=True,
    ),
    TagSource(
        "corrupted_each_epoch",
        partial(corrupted, each_epoch=True),
        question="And where their errors are no names of clips, as they change in each epoch?",
        by_seed=True,
    ),
    TagSource(
        "shuffled_yamnet",
        partial(shuffled, of=from_yamnet),
        question="Is it what YAMNet hears in a clip, or that there are tags?",
        by_seed=True,
        of=("yamnet",),
    ),
    TagSource(
        "constant_yamnet",
        partial(constant, of=from_yamnet),
        question="And if every clip has the same?",
        of=("yamnet",),
    ),
    TagSource("macs", from_macs),
    TagSource(
        f"the path of a table ({', '.join(READERS)})",
        from_table,
        lambda source: Path(source).suffix in READERS,
    ),
    TagSource(
        f"{HUB} and the name of a Hugging Face model",
        from_hub,
        lambda source: source.startswith(HUB),
    ),
]
CONTROLS = {source.name: source for source in SOURCES if source.question}
BY_SEED = {source.name for source in SOURCES if source.by_seed}


def find(source: str) -> TagSource:
    """The first source that fits. Raises ParameterError, listing all."""
    for candidate in SOURCES:
        if candidate.matches(source) if candidate.matches else source == candidate.name:
            return candidate
    raise unknown("tags", source, [candidate.name for candidate in SOURCES])


def resolved(source: str) -> str:
    """What a user typed as ``tags``; a table's path is made absolute. Raises ParameterError."""
    if find(source).open is from_table:
        return str(printable(Path(source).expanduser()).resolve())
    folder = Path(source.removeprefix(HUB)).expanduser()
    return HUB + str(folder.resolve()) if source.startswith(HUB) and folder.is_dir() else source


def name_of(source: str) -> str:
    """The same for records: a table's name without its folder."""
    if find(source).open is from_table:
        return Path(source).name
    own = source.startswith(HUB) and Path(source.removeprefix(HUB)).is_absolute()
    return HUB + Path(source).name if own else source


def open_tag_vectors(
    source: str, corpus: SceneCorpus, waveforms: Store | None, seed: int = 0
) -> TagVectors:
    """Tag vectors of every clip of a scene corpus, from one of ``SOURCES``.

    Raises ParameterError for an unknown source, or one that does not fit the corpus.
    """
    return find(source).open(source, corpus, waveforms, seed)


def published(source: str) -> WindowTagger:
    """A public model as a tagger of any recording. Raises ParameterError for another source."""
    if source == "yamnet":
        return YamNet.load()
    if not source.startswith(HUB):
        raise unknown("tags", source, ["yamnet", f"{HUB} and the name of a Hugging Face model"])
    return HubTagger.load(resolved(source), default_device())


def tag_file(tagger: WindowTagger, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Starts (s) and tag vectors [w, c] of a recording's windows. Raises AudioError."""
    clip, rate, problems = audio.decoded(path)
    if problems:
        raise audio.AudioError(f"{path} {problems[0]}")
    clip = audio.converted(clip, rate, max(round(clip.shape[1] * audio.RATE / rate), 1))
    vectors = tagger.tag_windows(torch.from_numpy(clip[None]))[0].numpy()
    return tagger.times(clip.shape[1])[:, 0], vectors


def saved_tagger(source: str, folder: Path, model: str | None) -> WindowTagger | None:
    """The tagger of a saved system: in ``folder``, or a public one with the fingerprint ``model``.

    None where the system's tags were no tagger's. Raises ParameterError for a changed model.
    """
    if folder.is_dir():
        return Tagger.load(folder)
    if source != "yamnet" and not source.startswith(HUB):
        return None
    tagger = published(source)
    if tagger.fingerprint != model:
        raise ParameterError(f"it was trained with another version of the model {source}")
    return tagger

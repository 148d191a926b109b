"""Tag vectors of scene clips, and their sources: a list of openers, some of them patterns."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import torch

from ..corpora import SceneCorpus, audio, by_name
from ..corpora.checks import normal, read_csv
from ..corpora.store import Store
from ..files import DAMAGED, data_root, filled, fingerprint, first_line, printable
from ..registry import ParameterError, unknown
from ..training import default_device
from .tagger import VERSION, Tagger, threads
from .tagger_training import default_tagger
from .windows import WindowTagger, along, shares
from .yamnet import YamNet

HUB = "hf:"  # before the name of a Hugging Face model
EVENT = 1.0  # s, for which an event of a composed clip is taken to be heard
CHUNK = 64  # clips tagged between two notes of progress


@dataclass(frozen=True)
class HubTagger(WindowTagger):
    """A Hugging Face model and the feature extractor stored beside it (optional extra ``hf``)."""

    model: torch.nn.Module
    front_end: object
    tags: list[str]
    length = 2.0
    hop = 2.0  # such a model takes seconds for each window

    @property
    def rate(self) -> int:
        return self.front_end.sampling_rate

    @classmethod
    def load(cls, source: str, device: str) -> "HubTagger":
        """The model of "hf:NAME", from the hub or a folder: safetensors, no code of its own.

        Raises ParameterError where transformers is not installed, or there is no such model.
        """
        name = source.removeprefix(HUB)
        try:
            from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

            front_end = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
            model = AutoModelForAudioClassification.from_pretrained(
                name, trust_remote_code=False, use_safetensors=True
            )
        except ImportError:
            raise ParameterError(
                f"parameter 'tags' is '{source}', which needs transformers: pip install -e '.[hf]'"
            ) from None
        except (OSError, ValueError, KeyError) as error:
            raise ParameterError(f"parameter 'tags' is '{source}': {first_line(error)}") from None
        tags = [label for _, label in sorted(model.config.id2label.items())]
        return cls(model.eval().to(device), front_end, tags)

    @property
    def fingerprint(self) -> str:
        weights = (value.cpu().numpy().tobytes() for value in self.model.state_dict().values())
        kind = self.model.config.problem_type
        return fingerprint(self.front_end.to_json_string(), kind, *weights)

    @torch.no_grad()
    def tag_mono(self, windows: torch.Tensor) -> torch.Tensor:
        """The sigmoid of each logit; the softmax, if the model says a clip has one label only."""
        inputs = self.front_end(list(windows.numpy()), sampling_rate=self.rate, return_tensors="pt")
        logits = self.model(**inputs.to(self.model.device)).logits
        one_label = self.model.config.problem_type == "single_label_classification"
        return (logits.softmax(1) if one_label else logits.sigmoid()).float().cpu()

    def to(self, device: str) -> "HubTagger":
        return replace(self, model=self.model.to(device))

    def save(self, folder: Path) -> None:
        """Save nothing: the model is loaded again by its name, and must be the same."""


@dataclass(frozen=True)
class TagVectors:
    """Tag vectors of all clips of a scene corpus, in its order, and where they come from.

    ``values`` [clips, windows, c], each within 0 to 1; one window where the source knows the clip
    as a whole only. ``times`` [windows, 2]: start and end of each window (s); None: the whole clip.
    """

    values: np.ndarray
    names: list[str]
    source: str
    lwlrap: dict | None = None  # of our own tagger, on its test clips
    tagger: WindowTagger | None = None  # that gives tag vectors of other recordings
    times: np.ndarray | None = None

    @cached_property
    def clips(self) -> np.ndarray:
        """One tag vector per clip [clips, c]: the mean over its windows."""
        return self.values.mean(1)

    @property
    def fingerprint(self) -> str:
        return fingerprint(np.ascontiguousarray(self.values).tobytes(), self.names)

    def kept(self, number: int, rows: np.ndarray) -> "TagVectors":
        """The ``number`` tags that vary most over the clips ``rows``; all of them for 0."""
        spread = self.clips[rows].var(0)
        best = np.sort(np.argsort(-spread, kind="stable")[: number or None])
        if len(best) == len(self.names):
            return self
        return replace(self, values=self.values[..., best], names=[self.names[tag] for tag in best])

    def inputs(
        self,
        rows: np.ndarray,
        reads: str,
        starts: np.ndarray,
        length: float,
        choice: str = "clip",
        rng: np.random.Generator | None = None,
    ) -> dict[str, torch.Tensor]:
        """What a fusion reads (``Fusion.reads``) of excerpts of ``length`` from ``starts`` on (s).

        ``choice``: of windows, for a fusion that reads one tag vector (``windows.shares``).
        """
        times = np.array([[0.0, length]]) if self.times is None else self.times
        weights = None if choice == "clip" else shares(choice, times, starts, length, rng)
        return as_read(torch.from_numpy(self.values[rows]), times, reads, starts, length, weights)


def as_read(
    values: torch.Tensor,
    times: np.ndarray,
    reads: str,
    starts: np.ndarray,
    length: float,
    weights: np.ndarray | None = None,
) -> dict[str, torch.Tensor]:
    """Network inputs from tag vectors of windows [B, w, c] with their times [w, 2] (s).

    "clip": the mean over windows, by ``weights`` [B, w], as ``tags`` [B, c]; "windows": ``tags``
    [B, n, c] and ``times`` [B, n, 2] along the excerpts (``windows.along``); "nothing": ``tags``
    [B, 0].
    """
    if reads == "windows":
        tags, relative = along(values, times, starts, length)
        return {"tags": tags, "times": relative}
    if reads == "nothing":
        return {"tags": values[:, 0, :0]}
    if weights is None:
        return {"tags": values.mean(1)}
    return {"tags": torch.einsum("bwc,bw->bc", values, torch.from_numpy(weights).to(values))}


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
    tagger = tagger.like_scenes(corpus)
    return TagVectors(
        names=tagger.tags,
        source=source,
        lwlrap=lwlrap["stage 2"]["test"],
        tagger=tagger,
        **cached(corpus, waveforms, name, tagger, partial(tagger.tag_scenes, corpus, waveforms)),
    )


def from_model(load: Callable, source: str, corpus: SceneCorpus, waveforms: Store) -> TagVectors:
    """A published model's."""
    tagger = load()
    tag = partial(tagged, tagger, waveforms)
    return TagVectors(
        names=tagger.tags,
        source=source,
        tagger=tagger,
        **cached(corpus, waveforms, tagger.fingerprint, tagger, tag),
    )


def tagged(tagger: WindowTagger, waveforms: Store, rows: np.ndarray, batch: int = 8) -> np.ndarray:
    """Tag vectors [len(rows), w, c] of scene clips."""
    return np.concatenate(
        [
            tagger.tag_windows(waveforms.whole(part)).numpy()
            for part in np.split(rows, range(batch, len(rows), batch))
        ]
    )


def shuffled(source: str, corpus: SceneCorpus, waveforms: Store, seed: int) -> TagVectors:
    """The tagger's, dealt out to other clips of the same split."""
    found = from_tagger(source, corpus, waveforms, seed)
    rng = np.random.default_rng(seed)
    order = np.arange(len(found.values))
    for split in ("train", "test", "unused"):
        rows = corpus.rows(split)
        order[rows] = rng.permutation(rows)
    return replace(found, values=found.values[order], tagger=None)


def constant(source: str, corpus: SceneCorpus, waveforms: Store, seed: int) -> TagVectors:
    """The mean of the tagger's over the training clips, the same for every clip."""
    found = from_tagger(source, corpus, waveforms, seed)
    mean = found.values[corpus.rows("train")].mean(0)
    return replace(found, values=np.broadcast_to(mean, found.values.shape), tagger=None)


def true(source: str, corpus: SceneCorpus, waveforms: Store | None, seed: int) -> TagVectors:
    """1 for every sound in a composed clip. Raises ParameterError where that is not known."""
    if corpus.composition is None:
        raise ParameterError(
            f"parameter 'tags' is 'true', but {corpus.name} does not say what sounds are in its "
            "clips"
        )
    parts = corpus.composition[corpus.composition["tag"] != ""]
    names = sorted(parts["tag"].unique())
    times = None if waveforms is None else YamNet.times(YamNet, waveforms.samples)
    starts, ends = (times if times is not None else np.array([[0.0, np.inf]])).T
    values = np.zeros((len(corpus.clips), len(starts), len(names)), "float32")
    rows = dict(zip(corpus.clips["filename"], range(len(corpus.clips))))
    for part in parts.itertuples():
        bed = part.role == "bed"
        heard = bed | ((part.onset < ends) & (part.onset + EVENT > starts))
        values[rows[part.filename], heard, names.index(part.tag)] = 1
    return TagVectors(values, names, source, times=times)


def from_hub(source: str, corpus: SceneCorpus, waveforms: Store, seed: int) -> TagVectors:
    load = partial(HubTagger.load, source, default_device())
    return from_model(load, source, corpus, waveforms)


def from_yamnet(source: str, corpus: SceneCorpus, waveforms: Store, seed: int) -> TagVectors:
    return from_model(YamNet.load, source, corpus, waveforms)


def from_table(source: str, corpus: SceneCorpus, waveforms: Store | None, seed: int) -> TagVectors:
    """Those of a table: one row per clip, one column per tag, each value within 0 to 1.

    ``.csv`` and ``.parquet``: the column ``filename``, as in the corpus, and one for each tag; with
    a column ``start`` (s), one row for each window of a clip, the same windows in all.
    ``.npz``: the arrays ``filename`` [clips], ``tags`` [c] and ``values`` [clips, c]. Rows of other
    clips are ignored. Raises ParameterError, naming the table, where it cannot be read, lacks
    clips, names one twice, or holds other values.
    """
    path = Path(source)

    def refuse(why: str) -> None:
        raise ParameterError(f"parameter 'tags': {path} {why}")

    try:
        found = READERS[path.suffix](path)
        columns = list(found)
        if "filename" in columns and len(columns) > 1:
            starts = _reals(found[["start"]])["start"].to_numpy() if "start" in columns else None
            values = _reals(found.drop(columns="start", errors="ignore").set_index("filename"))
    except DAMAGED as error:
        refuse(f"cannot be read: {first_line(error)}")
    if "filename" not in columns or len(columns) < 2:
        refuse(f"needs a column 'filename' and one for each tag; it has {columns[:5]}")
    times = None
    if starts is not None:  # several rows a clip, in the order of their windows
        values = values.iloc[np.argsort(starts, kind="stable")]
        starts = np.sort(starts)
        firsts = np.unique(starts)
        groups = values.groupby(level=0).cumcount().to_numpy()
        if not (
            (starts == firsts[np.minimum(groups, len(firsts) - 1)]).all()
            and (values.groupby(level=0).size() == len(firsts)).all()
        ):
            refuse("has other windows (start) in some clips than in others")
        length = float(np.diff(firsts).min()) if len(firsts) > 1 else 1.0
        times = np.stack([firsts, firsts + length], 1)
    twice = values.index[values.index.duplicated()]
    if twice.size and times is None:
        refuse(f"has {twice[0]!r} twice")
    names = corpus.clips["filename"].map(normal)
    missing = names[~names.isin(values.index)]
    if missing.size:
        refuse(f"lacks {missing.size} of {len(names)} clips, the first {missing.iloc[0]!r}")
    if times is None:
        values = values.loc[names]
    else:
        order = pd.MultiIndex.from_product([names, range(len(times))])
        values = values.set_axis(pd.MultiIndex.from_arrays([values.index, groups])).loc[order]
    wrong = np.argwhere(~((values >= 0) & (values <= 1)).to_numpy())  # NaN among them
    if len(wrong):
        row, column = wrong[0]
        refuse(
            f"has a value out of range: {values.iloc[row, column]} is not within 0 to 1 "
            f"({values.index[row]!r}, tag {values.columns[column]!r}; {len(wrong)} such)"
        )
    windowed = values.to_numpy("float32").reshape(len(names), -1, values.shape[1])
    return TagVectors(windowed, list(map(str, values.columns)), path.name, times=times)


def _reals(table: pd.DataFrame) -> pd.DataFrame:
    """The table with file names in one form. Raises ValueError where a column is not of numbers."""
    for name, column in table.items():
        if column.dtype.kind not in "fiub":
            raise ValueError(f"the column {name!r} holds {column.dtype}, not numbers")
    names = list(map(str, table))
    if len(set(names)) < len(names) or not all(name and name.isprintable() for name in names):
        raise ValueError("a tag's name is empty, there twice, or has a control character")
    return table.set_axis(table.index.map(normal)).astype("float64")


def _read_npz(path: Path) -> pd.DataFrame:
    with np.load(path, allow_pickle=False) as arrays:
        table = pd.DataFrame(arrays["values"], columns=arrays["tags"].astype(str))
        table.insert(0, "filename", arrays["filename"].astype(str))  # raises if a tag is called so
        return table


def _read_csv(path: Path) -> pd.DataFrame:
    table = read_csv(path)
    for name in table.columns.difference(["filename"]):
        try:
            table[name] = pd.to_numeric(table[name])
        except ValueError:
            raise ValueError(f"the column {name!r} holds more than numbers") from None
    return table


READERS = {".csv": _read_csv, ".parquet": pd.read_parquet, ".npz": _read_npz}


class TagSource(NamedTuple):
    name: str  # or, of a pattern, what to type
    open: Callable[[str, SceneCorpus, Store, int], TagVectors]
    matches: Callable[[str], bool] | None = None  # None: the name alone
    question: str = ""  # that it answers as a control


SOURCES = [
    TagSource("tagger", from_tagger),
    TagSource("yamnet", from_yamnet),
    TagSource("shuffled", shuffled, question="What do the tags of other clips do?"),
    TagSource("constant", constant, question="What if every clip has the same tags?"),
    TagSource("true", true, question="What would a perfect tagger give?"),
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
CONTROLS = {source.name: source.question for source in SOURCES if source.question}


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

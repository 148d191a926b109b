"""Sources of tag vectors: a list of openers, some of which are patterns."""

import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from ..corpora import SceneCorpus, by_name
from ..corpora.store import Store
from ..files import first_line
from ..registry import ParameterError, unknown
from ..training import default_device
from . import hub
from .hub import HUB, HubTagger
from .tagger import Tagger
from .tagger_training import default_tagger
from .vectors import TagVectors, cached


def from_tagger(source: str, corpus: SceneCorpus, waveforms: Store, seed: int) -> TagVectors:
    """Our own tagger's, trained on first use."""
    tagger, lwlrap, name = default_tagger(by_name(corpus.name))
    tag = partial(tagger.tag_scenes, corpus, waveforms)
    values = cached(corpus, waveforms, name, len(tagger.tags), tag)
    return TagVectors(values, tagger.tags, source, lwlrap["stage 2"]["test"], tagger)


def shuffled(source: str, corpus: SceneCorpus, waveforms: Store, seed: int) -> TagVectors:
    """The tagger's, dealt out to other clips of the same split."""
    found = from_tagger(source, corpus, waveforms, seed)
    values = found.values.copy()
    rng = np.random.default_rng(seed)
    for split in ("train", "test", "unused"):
        rows = corpus.rows(split)
        values[rows] = values[rng.permutation(rows)]
    return TagVectors(values, found.names, source, found.lwlrap)


def constant(source: str, corpus: SceneCorpus, waveforms: Store, seed: int) -> TagVectors:
    """The mean of the tagger's over the training clips, the same for every clip."""
    found = from_tagger(source, corpus, waveforms, seed)
    values = np.empty_like(found.values)
    values[:] = found.values[corpus.rows("train")].mean(0)
    return TagVectors(values, found.names, source, found.lwlrap)


def true(source: str, corpus: SceneCorpus, waveforms: Store | None, seed: int) -> TagVectors:
    """1 for every sound in a composed clip. Raises ParameterError where that is not known."""
    if corpus.composition is None:
        what = f"{corpus.name} does not say what sounds are in its clips"
        raise ParameterError(f"parameter 'tags' is 'true', but {what}")
    parts = corpus.composition[corpus.composition["tag"] != ""]
    names = sorted(parts["tag"].unique())
    counts = pd.crosstab(parts["filename"], parts["tag"])
    counts = counts.reindex(index=corpus.clips["filename"], columns=names).fillna(0)
    return TagVectors(counts.clip(upper=1).to_numpy("float32")[:, None], names, source)


def from_hub(source: str, corpus: SceneCorpus, waveforms: Store, seed: int) -> TagVectors:
    """A Hugging Face model's."""
    tagger = hub.load(source, default_device())
    tag = partial(tagger.tag_scenes, waveforms)
    values = cached(corpus, waveforms, tagger.fingerprint, len(tagger.tags), tag)
    return TagVectors(values, tagger.tags, source, tagger=tagger)


def from_table(source: str, corpus: SceneCorpus, waveforms: Store | None, seed: int) -> TagVectors:
    """Those of a table: one row per clip, one column per tag, each value within 0 to 1.

    ``.csv`` and ``.parquet``: the column ``filename``, as in the corpus, and one for each tag.
    ``.npz``: the arrays ``filename`` [clips], ``tags`` [c] and ``values`` [clips, c]. Rows of other
    clips are ignored. Raises ParameterError, naming the table, where it cannot be read, lacks
    clips, names one twice, or holds other values.
    """
    path = Path(source)
    table = f"parameter 'tags': {path}"
    try:
        found = READERS[path.suffix](path)
        if "filename" not in found or found.shape[1] < 2:
            what = f"{table} needs a column 'filename' and one for each tag"
            raise ParameterError(f"{what}; it has {list(found)[:5]}")
        values = found.set_index("filename").apply(pd.to_numeric).astype("float32")
    except ParameterError:
        raise
    except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
        raise ParameterError(f"{table} cannot be read: {first_line(error)}") from None
    twice = values.index[values.index.duplicated()]
    if twice.size:
        raise ParameterError(f"{table} has {twice[0]!r} twice")
    missing = corpus.clips["filename"][~corpus.clips["filename"].isin(values.index)]
    if missing.size:
        what = f"{table} lacks {missing.size} of {len(corpus.clips)} clips"
        raise ParameterError(f"{what}, the first {missing.iloc[0]!r}")
    values = values.loc[corpus.clips["filename"]]
    wrong = np.argwhere(~((values >= 0) & (values <= 1)).to_numpy())  # NaN among them
    if len(wrong):
        row, column = wrong[0]
        where = f"{values.index[row]!r}, tag {values.columns[column]!r}; {len(wrong)} such"
        what = f"{values.iloc[row, column]} is not within 0 to 1"
        raise ParameterError(f"{table}: {what} ({where})")
    return TagVectors(values.to_numpy()[:, None], list(map(str, values.columns)), path.stem)


def _read_npz(path: Path) -> pd.DataFrame:
    with np.load(path, allow_pickle=False) as arrays:
        table = pd.DataFrame(arrays["values"], columns=arrays["tags"].astype(str))
        return table.assign(filename=arrays["filename"].astype(str))


READERS = {".csv": pd.read_csv, ".parquet": pd.read_parquet, ".npz": _read_npz}


class TagSource(NamedTuple):
    """A source of tag vectors."""

    name: str  # or, of a pattern, what to type
    open: Callable[[str, SceneCorpus, Store, int], TagVectors]
    matches: Callable[[str], bool] | None = None  # None: the name alone
    question: str = ""  # that it answers as a control


SOURCES = [
    TagSource("tagger", from_tagger),
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


def open_tag_vectors(
    source: str, corpus: SceneCorpus, waveforms: Store | None, seed: int = 0
) -> TagVectors:
    """Tag vectors of every clip of a scene corpus, from one of ``SOURCES``.

    Raises ParameterError for an unknown source, or one that does not fit the corpus.
    """
    return find(source).open(source, corpus, waveforms, seed)


def saved_tagger(source: str, folder: Path, model: str | None) -> Tagger | HubTagger | None:
    """The tagger of a saved system: in ``folder``, or a hub model with the fingerprint ``model``.

    None where the system's tags were no tagger's. Raises ParameterError for a changed model.
    """
    if folder.is_dir():
        return Tagger.load(folder)
    if not source.startswith(HUB):
        return None
    tagger = hub.load(source, "cpu")
    if tagger.fingerprint != model:
        raise ParameterError(f"it was trained with another version of the model {source}")
    return tagger

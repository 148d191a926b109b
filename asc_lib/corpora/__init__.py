"""Where clips come from: data sets, one module each, and the waveform store.

Every module of this folder is imported here, so a new data set is one new file; but those that
load PyTorch or scikit-learn, for which the processes that compose scenes would wait.
"""

import importlib
import pkgutil
from collections.abc import Iterable
from pathlib import Path

from ..files import printable, results_root, write_text
from ..registry import load_plugins, unknown
from .custom import custom
from .data_set import DATA_SETS, CorpusError, DataSet, SceneCorpus, TagCorpus

for _module in sorted({each.name for each in pkgutil.iter_modules(__path__)} - {"probes", "store"}):
    importlib.import_module(f"{__name__}.{_module}")

FOLDER = "the path of a folder of your own"

__all__ = ["DATA_SETS", "CorpusError", "DataSet", "SceneCorpus", "TagCorpus"]


def scene_data_sets() -> list[str]:
    load_plugins()
    return sorted(name for name, data_set in DATA_SETS.items() if data_set.scenes)


def resolved(data: str) -> str:
    """What a user typed as a data set: its name, or its folder's absolute path.

    ``@`` and a word behind either name a variant (``DataSet.variant``). Raises ParameterError.
    """
    return _found(data, DATA_SETS)[0]


def find(data: str) -> DataSet:
    """The data set of this name, or the custom one in this folder. Raises ParameterError."""
    return _found(data, DATA_SETS)[1]


def _found(data: str, choice: Iterable[str]) -> tuple[str, DataSet]:
    load_plugins()
    if data in DATA_SETS:
        return data, DATA_SETS[data]
    if data.strip() and Path(data).expanduser().is_dir():
        folder = printable(Path(data).expanduser()).resolve()
        return str(folder), custom(folder)
    base, _, word = data.rpartition("@")
    if base:
        base, whole = _found(base, choice)
        if whole.variant:
            made = whole.variant(word)
            return made.name if base in DATA_SETS else f"{base}@{word}", made
    raise unknown("data", data, [*choice, FOLDER])


def results(data: str, root: Path | None = None, claim: bool = False) -> Path:
    """Folder of a data set's results, under ``root`` or ``ASC_RESULTS``.

    ``claim`` marks that of a custom data set with its path. Raises CorpusError where it is marked
    with the path of another one of the same name.
    """
    data_set = find(data)
    path = (root or results_root()) / data_set.name
    if data_set.folder:
        mark = path / "folder.txt"
        of = mark.read_text(encoding="utf-8").strip() if mark.is_file() else str(data_set.folder)
        if of != str(data_set.folder):
            raise CorpusError(
                f"{path} holds results of {of}, not of {data_set.folder}: rename one of these "
                f"folders, or set ASC_RESULTS (if yours has moved, delete {mark})"
            )
        if claim:
            path.mkdir(parents=True, exist_ok=True)
            write_text(mark, of + "\n")
    return path


def folds(data: str) -> list[str]:
    """The folds that make up a data set of a folder; none of any other."""
    base = resolved(data).rpartition("@")[0]
    return [f"{base}{fold}" for fold in find(data).folds]


def with_scenes(data: str) -> DataSet:
    """The same, where it has scenes. Raises ParameterError."""
    found = _found(data, scene_data_sets())[1]
    if not found.scenes:
        raise unknown("data", data, [*scene_data_sets(), FOLDER])
    return found


def by_name(name: str) -> DataSet:
    """The data set of this name, of which a custom one has no more than the preset here."""
    return DATA_SETS.get(name.partition("@")[0]) or custom(Path(name))

"""Where clips come from: data sets, one module each, and the waveform store.

Every module of this folder is imported here, so a new data set is one new file.
"""

import importlib
import pkgutil
from pathlib import Path

from ..files import printable
from ..registry import load_plugins, unknown
from .custom import custom
from .data_set import DATA_SETS, CorpusError, DataSet, SceneCorpus, TagCorpus

for _module in pkgutil.iter_modules(__path__):
    importlib.import_module(f"{__name__}.{_module.name}")

FOLDER = "the path of a folder of your own"

__all__ = ["DATA_SETS", "CorpusError", "DataSet", "SceneCorpus", "TagCorpus"]


def scene_data_sets() -> list[str]:
    load_plugins()
    return sorted(name for name, data_set in DATA_SETS.items() if data_set.scenes)


def _named(data: str) -> DataSet | None:
    base, at, variant = data.rpartition("@")
    if at and base in DATA_SETS and DATA_SETS[base].variant:
        return DATA_SETS[base].variant(variant)
    return DATA_SETS.get(data)


def resolved(data: str) -> str:
    """What a user typed as a data set: its name, or its folder's absolute path.

    Raises ParameterError.
    """
    load_plugins()
    if named := _named(data):
        return named.name
    if data.strip() and Path(data).expanduser().is_dir():
        return str(printable(Path(data).expanduser()).resolve())
    raise unknown("data", data, [*scene_data_sets(), FOLDER])


def find(data: str) -> DataSet:
    """The data set of this name, or the custom one in this folder. Raises ParameterError."""
    data = resolved(data)
    return _named(data) or custom(Path(data))


def with_scenes(data: str) -> DataSet:
    """The same, where it has scenes. Raises ParameterError."""
    found = find(data)
    if not found.scenes:
        raise unknown("data", data, [*scene_data_sets(), FOLDER])
    return found


def by_name(name: str) -> DataSet:
    """The data set of this name; for a custom one TAU 2019, whose preset and tagger it shares."""
    return _named(name) or DATA_SETS["tau2019"]

"""Registries: the names that a parameter may have, and what stands behind each of them.

Fusions, front-ends and data sets register themselves where they are defined. Those of your own may
stand in files outside this package: the environment variable ``ASC_PLUGINS`` lists such Python
files (separated by ``:``), which are loaded before a name is looked up.
"""

import importlib.util
import sys
from collections.abc import Iterable

from .files import first_line, named


class ParameterError(ValueError):
    """A parameter with an impossible value; the message names it and lists valid values."""


def unknown(parameter: str, value: object, valid: Iterable[str]) -> ParameterError:
    """The error for a value that is not one of the valid ones."""
    return ParameterError(f"parameter '{parameter}' is {value!r}: choose one of {', '.join(valid)}")


def load_plugins() -> None:
    """Load the files that ``ASC_PLUGINS`` names, each once. Raises ParameterError for a bad one."""
    for path in named("ASC_PLUGINS"):
        if str(path) in sys.modules:
            continue
        spec = importlib.util.spec_from_file_location(str(path), path)
        if not path.is_file() or spec is None:
            raise ParameterError(f"ASC_PLUGINS: {path} is not a Python file")
        module = importlib.util.module_from_spec(spec)
        sys.modules[str(path)] = module
        try:
            spec.loader.exec_module(module)
        except (Exception, SystemExit) as error:  # whatever a user's file may raise
            del sys.modules[str(path)]
            raise ParameterError(
                f"ASC_PLUGINS: {path} cannot be loaded: {type(error).__name__}: {first_line(error)}"
            ) from error


class Registry(dict):
    """Entries by name, for one parameter."""

    def __init__(self, parameter: str):
        super().__init__()
        self.parameter = parameter

    def find(self, name: str):
        """The entry of this name. Raises ParameterError, listing the valid names."""
        load_plugins()
        if name not in self:
            raise unknown(self.parameter, name, self)
        return self[name]

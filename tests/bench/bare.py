"""Packages that a bare GPU machine may lack, and that nothing computed on a GPU calls.

``asc_lib`` reads audio, TOML and web pages with them. Where one is missing, a stand-in lets the
modules that name it be imported; a call after that is an error.
"""

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager

PACKAGES = (
    "librosa",
    "pooch",
    "pydantic",
    "requests",
    "soundfile",
    "soxr",
    "tqdm",
    "urllib3",
    "yaml",
)


class Inherited:
    """What inherits from a stand-in: options and values mean nothing to it."""

    def __init_subclass__(cls, **options):
        super().__init_subclass__()

    def __init__(self, **values):
        pass


class Absent:
    """Stands for a package and for anything in it: a class to inherit from, a decorator."""

    importing = False

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> "Absent":
        if name.startswith("__"):
            raise AttributeError(name)
        return Absent(f"{self._name}.{name}")

    def __mro_entries__(self, bases: tuple) -> tuple[type]:
        return (Inherited,)

    def __iter__(self) -> Iterator:
        return iter(())

    def __call__(self, *args, **kwargs):
        if not Absent.importing:
            raise ModuleNotFoundError(f"{self._name} is needed: install the whole project")
        return args[0] if args and callable(args[0]) else self


@contextmanager
def stand_ins() -> Iterator[None]:
    """Let imports succeed in spite of missing packages; others find these missing afterwards."""
    lacking = [
        package
        for package in PACKAGES
        if package not in sys.modules and importlib.util.find_spec(package) is None
    ]
    sys.modules.update({package: Absent(package) for package in lacking})
    before, Absent.importing = Absent.importing, True
    yield
    Absent.importing = before
    for package in lacking:
        del sys.modules[package]

"""The library's structure: which way dependencies point, where imports stand, how large it is."""

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile

import asc_lib
from asc_lib.files import REPOSITORY

PACKAGE = Path(asc_lib.__file__).parent
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in PACKAGE.rglob("*.py")}
ABOVE = {  # what each part must not import
    "corpora": {"tags", "scenes", "settings", "runs", "use"},
    "tags": {"scenes", "settings", "runs", "use"},
    "scenes": {"runs", "use"},
    "settings": {"runs", "use"},
    "runs": {"use"},
}
LOWEST = (
    "registry",
    "files",
    "recipes",
    "schemas",
    "stats",
    "fusion",
    "front_ends",
    "scene_net",
    "tagging_net",
    "training",
)
ABOVE |= dict.fromkeys(LOWEST, ABOVE["corpora"] | {"corpora"})


def part(path: Path) -> str:
    """The module or folder at the top of the library that a file belongs to."""
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported(node: ast.AST, path: Path) -> Iterator[str]:
    """The parts of the library that a statement of a file imports."""
    if isinstance(node, ast.Import):
        names = [alias.name.split(".") for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        module = node.module.split(".") if node.module else []
        if node.level:
            folder = ["asc_lib", *path.parent.relative_to(PACKAGE).parts]
            module = folder[: len(folder) - node.level + 1] + module
        names = [[*module, alias.name] for alias in node.names]
    else:
        return
    yield from (name[1] for name in names if name[0] == "asc_lib" and len(name) > 1)


def parts_imported(nodes: Iterator[ast.AST], path: Path) -> set[str]:
    return {name for node in nodes for name in imported(node, path)}


@pytest.mark.parametrize("name", ABOVE)
def test_dependencies_point_one_way(name):
    files = [path for path in TREES if part(path) == name]
    assert files
    for path in files:
        assert not parts_imported(ast.walk(TREES[path]), path) & ABOVE[name], path


def test_figures_know_networks_only():
    for name, known in (("plots", set()), ("diagram", {"fusion", "scene_net", "plots"})):
        path = PACKAGE / f"{name}.py"
        assert parts_imported(ast.walk(TREES[path]), path) <= known


def test_modules_of_the_library_are_imported_at_the_top():
    """But for commands, of which each imports what it needs."""
    late = {}
    for path, tree in TREES.items():
        functions = [n for n in ast.walk(tree) if isinstance(n, ast.FunctionDef | ast.Lambda)]
        inside = (node for function in functions for node in ast.walk(function))
        late[path.name] = parts_imported(inside, path)
    assert [name for name, parts in late.items() if parts] == ["cli.py"]


def test_the_import_of_every_form_is_seen():
    path = PACKAGE / "runs" / "made_up.py"
    forms = {
        "from ..tags.tagger import threads": {"tags"},
        "from .. import corpora, files": {"corpora", "files"},
        "from . import records": {"runs"},
        "from .records import figures": {"runs"},
        "import asc_lib.use.system": {"use"},
        "from asc_lib import plots": {"plots"},
        "import torch, asc_lib": set(),
        "from torch import nn": set(),
    }
    for line, parts in forms.items():
        assert parts_imported(ast.walk(ast.parse(line)), path) == parts


def test_it_stays_small():
    count = sum(isinstance(node, ast.stmt) for tree in TREES.values() for node in ast.walk(tree))
    assert count <= 6_875  # whoever adds, deletes first


def modules_after(*arguments: str) -> set[str]:
    """Packages that a command of ``asc`` has imported when it ends."""
    code = (
        "import atexit, sys; from asc_lib import cli;"
        "atexit.register(lambda: print(*{name.partition('.')[0] for name in sys.modules}));"
        "cli.app(sys.argv[1:])"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    return set(done.stdout.splitlines()[-1].split())


def test_help_waits_for_no_large_library():
    heavy = {"torch", "sklearn", "scipy", "librosa", "matplotlib", "seaborn", "distributed"}
    heavy |= {"papermill", "IPython", "ipywidgets", "pooch"}
    found = modules_after("--help")
    assert "pandas" in found and not heavy & found


def test_predict_waits_for_nothing_that_it_does_not_use(saved, tmp_path):
    path = tmp_path / "clip.wav"
    soundfile.write(path, np.ones(48_000) * 0.1, 48_000)
    found = modules_after("predict", str(path), "--system", str(saved.folder))
    assert {"torch", "sklearn", "soundfile"} <= found
    slow = {"librosa", "numba", "torchvision", "matplotlib", "seaborn", "distributed"}
    assert not (slow | {"papermill", "IPython", "ipywidgets"}) & found


def test_processes_that_compose_scenes_wait_for_little():
    code = "import sys; from asc_lib.corpora import esc50, mini; print('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "scipy.signal" in done.stdout and not {"torch", "sklearn"} & {*done.stdout.split()}


def test_a_system_is_loaded_without_torchs_compiler():
    code = (
        "import sys; from asc_lib.training import loaded; from asc_lib.scene_net import SceneNet;"
        "build = lambda: SceneNet(8, 3, 'cp_resnet', 'attention', heads=2, layers=1);"
        "loaded(build, build().state_dict()); print('torch._dynamo' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]


@pytest.mark.parametrize("running", [["3.12", "3.11"], []])
def test_make_takes_the_newest_python_that_runs(tmp_path, running):
    for version in ("3.13", "3.12", "3.11"):
        does = f'exec {sys.executable} "$@"' if version in running else "exit 127"
        (tmp_path / f"python{version}").write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / f"python{version}").chmod(0o755)
    make = ["make", "env", f"VENV={tmp_path / 'venv'}", *(["--dry-run"] if running else [])]
    done = subprocess.run(
        make,
        cwd=REPOSITORY,
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    if running:
        assert f"\npython3.12 -m venv {tmp_path}" in done.stdout
    else:
        assert done.returncode and "install one of python3.13 python3.12 python3.11" in done.stdout

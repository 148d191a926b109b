"""Where files live, and how they are written: whole or not at all, once, under a fingerprint."""

import contextlib
import ctypes
import errno
import fcntl
import glob
import hashlib
import json
import math
import multiprocessing
import os
import re
import shutil
import sys
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
from filelock import FileLock
from tqdm import tqdm

REPOSITORY = Path(__file__).resolve().parents[1]
SOON = 10  # s of waiting that need no bar
PART = ".part"  # suffix of a folder in which something is written
OLD = "old"
AT_FDCWD = -100  # of Linux, as is the next
RENAME_EXCHANGE = 2
DAMAGED = (  # what numpy, pandas and zipfile raise for files that are damaged or of another kind
    *(OSError, EOFError, ValueError, KeyError, TypeError, NotImplementedError),
    *(zipfile.BadZipFile, zlib.error),
)


def named(variable: str) -> list[Path]:
    """The paths in an environment variable, separated by ``:``; absolute, without links.

    Relative ones count from the repository, so that they mean one place in every working folder.
    """
    return [place(word) for word in os.environ.get(variable, "").split(os.pathsep) if word.strip()]


def place(path: str) -> Path:
    return printable(REPOSITORY / Path(path).expanduser()).resolve()


def data_root() -> Path:
    """Folder of corpora and what is made from them: ``ASC_DATA``, or ``data/`` here."""
    return place(os.environ.get("ASC_DATA", "").strip() or "data")


def results_root() -> Path:
    """Folder of records: ``ASC_RESULTS``, or ``results/local/`` in the repository."""
    return place(os.environ.get("ASC_RESULTS", "").strip() or "results/local")


def cores() -> int:
    """Processors that this process may use: of its container and its affinity."""
    return joblib.cpu_count()


def processes() -> int:
    """How many processes work may be split into: one in a worker of Dask's, which has no others."""
    return 1 if multiprocessing.current_process().daemon else cores()


def progress(items: Iterable, what: str, total: int | None = None) -> tqdm:
    """``items``; after ``SOON``, how far they are and the time left, where someone can see it.

    In a notebook, or on a terminal.
    """
    in_notebook = type(sys.stdout).__module__.startswith("ipykernel")
    seen = {"file": sys.stdout, "disable": False} if in_notebook else {}
    return tqdm(items, what, total, **({"disable": None} | seen), delay=SOON, leave=False)


def shown(text: str) -> str:
    """A message for a terminal: no name in it can move the cursor or begin a line of its own."""
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode()
        for c in text.replace("\n  ", "\0")
    ).replace("\\x00", "\n  ")


def printable(path: Path | str) -> Path:
    """The path. Raises ValueError where printing its name could do more than show it."""
    if not str(path).isprintable():
        raise ValueError(
            f"{ascii(str(path))} has a name with control characters or that is not UTF-8: rename it"
        )
    return Path(path)


def inventory() -> pd.DataFrame:
    """Contents of ``ASC_DATA``, one row per corpus or artefact: what, GB, files, fingerprint."""
    root = data_root()
    paths = {*root.glob("[!.]*"), *root.glob("made/[!.]*")} - {root / "made"}
    rows = []
    for path in sorted(paths):
        files = [file for file in [path, *path.rglob("*")] if file.is_file()]
        mark = "".join(re.findall(r"[0-9a-f]{12}", path.stem)[-1:])
        index = path / "index.json"
        if index.is_file():
            try:
                mark = json.loads(index.read_text(encoding="utf-8"))["fingerprint"]
            except DAMAGED:
                mark = "damaged"
        name = (
            path.relative_to(root).as_posix()
            + " (unfinished)" * (path / ".waveforms.npy.unfinished").exists()
        )
        rows.append(
            (name, (sum(file.stat().st_blocks for file in files) * 512 / 1e9), len(files), mark)
        )
    return pd.DataFrame(rows, columns=["what", "GB", "files", "fingerprint"])


def fingerprint(*parts: object) -> str:
    """Twelve hexadecimal digits that change when any part does; parts are bytes or JSON values."""
    digest = hashlib.blake2b(digest_size=6)
    for part in parts:
        raw = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


def first_line(error: Exception) -> str:
    """The first line of an error's message; its type, where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path to write a file or folder to, which takes the place of ``path`` on success.

    In one step: a reader finds the old one or the new one, whenever this process is killed. What a
    killed one has left is removed by the next that writes there. Files get the usual permissions.
    Raises OSError where a file would replace anything but a file, or a folder anything but a
    folder.
    """
    path = Path(os.path.realpath(path))
    if not path.name or (path.exists() and not (path.is_file() or path.is_dir())):
        raise OSError(errno.EINVAL, "not the name of a regular file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    recovered(path)
    folder, handle = _held_folder(path)
    try:
        temporary = folder / path.name
        yield temporary
        usual = folder / "mode"
        usual.touch()  # some libraries write files that their owner alone may read
        for file in [temporary, *temporary.rglob("*")]:
            if not file.is_dir():
                file.chmod(usual.stat().st_mode)
        _replace(temporary, path)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(handle)


def _held_folder(path: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=PART, dir=path.parent))
        handle = _held(folder)
        if handle is not None:  # else ``recovered`` of another process was faster
            return folder, handle


def _held(folder: Path) -> int | None:
    """Hold a folder as long as this process lives; None where another does, or it is gone."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if folder.exists():
                return handle
        os.close(handle)
    return None


def recovered(path: Path) -> Path:
    """``path``, after what killed writers of it have left: an old folder goes back to its place."""
    for folder in path.parent.glob(f".{glob.escape(path.name)}.*{PART}"):
        handle = _held(folder)
        if handle is not None:
            with contextlib.suppress(OSError):
                if not path.exists() and (folder / OLD).exists():
                    os.rename(folder / OLD, path)
                shutil.rmtree(folder)
            os.close(handle)
    return path


def _replace(new: Path, path: Path) -> None:
    try:
        os.replace(new, path)
    except OSError:  # of a folder where one lies already
        if not (new.is_dir() and path.is_dir()):
            raise
        if not _exchanged(new, path):  # then in two steps; ``recovered`` knows of the first
            os.rename(path, new.with_name(OLD))
            os.rename(new, path)


def _exchanged(one: Path, other: Path) -> bool:
    """Whether the system could exchange two folders in one step (Linux, most file systems)."""
    renameat2 = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    return renameat2 is not None and not renameat2(
        *(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE)
    )


def write_text(path: Path, text: str) -> None:
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """Return ``path``; if it is missing, ``make(temporary)`` makes it, in one process at a time."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                with written_whole(path) as temporary:
                    make(temporary)
    return path


Put = Callable[[int, np.ndarray], None]  # put(first, rows) writes rows from ``first`` on


def filled(
    path: Path,
    shape: tuple[int, ...],
    dtype: str,
    fill: Callable[[Put, np.ndarray], None],
    items: int,
    chunk: int,
) -> np.ndarray:
    """Open the array at ``path`` (.npy) for reading; if missing, fill it, in one process at a time.

    ``fill(put, numbers)`` writes what belongs to these of the ``items``, ``chunk`` at a time, from
    any thread. An interrupted filling resumes with the last chunk. The space is reserved first:
    raises OSError when there is none, and ValueError for a damaged file.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                _fill(path, shape, np.dtype(dtype), fill, items, chunk)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        if array.shape != shape:
            raise ValueError(f"it has the shape {array.shape}, not {shape}")
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path} is damaged ({error}): delete it to have it made again") from None
    return array


def _fill(
    path: Path, shape: tuple[int, ...], dtype: np.dtype, fill: Callable, items: int, chunk: int
) -> None:
    unfinished = path.with_name(f".{path.name}.unfinished")
    count = path.with_name(f".{path.name}.filled")
    if not (unfinished.exists() and count.exists() and _number(count) <= items):
        _reserve(unfinished, shape, dtype, path.name)
        write_text(count, "0")
    row = dtype.itemsize * math.prod(shape[1:])
    with open(unfinished, "rb+") as file:
        start = unfinished.stat().st_size - row * shape[0]

        def put(first: int, rows: np.ndarray) -> None:
            raw = memoryview(np.ascontiguousarray(rows, dtype)).cast("B")
            if os.pwrite(file.fileno(), raw, start + row * first) != len(raw):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(unfinished))

        def note(done: int) -> None:
            os.fsync(file.fileno())  # counted data must survive a failing machine
            write_text(count, str(done))

        notes = []
        with ThreadPoolExecutor(1) as disk:
            for done in progress(range(_number(count), items, chunk), path.name):
                stop = min(done + chunk, items)
                fill(put, np.arange(done, stop))
                notes.append(disk.submit(note, stop))
        for noted in notes:
            noted.result()
    count.unlink()
    os.replace(unfinished, path)


def _number(count: Path) -> int:
    """Items that are done; none where a failing machine left no number."""
    text = count.read_text(encoding="utf-8")
    return int(text) if text.isdecimal() else 0


def _reserve(unfinished: Path, shape: tuple[int, ...], dtype: np.dtype, name: str) -> None:
    size = dtype.itemsize * math.prod(shape)
    try:
        with open(unfinished, "wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": dtype.str, "fortran_order": False, "shape": shape}
            )
            file.flush()
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), file.tell(), size)
            else:  # macOS: a full disk is met when it is full
                file.truncate(file.tell() + size)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        needed = f"{error.strerror}: {size / 1e9:.3g} GB are needed for {name}"
        raise OSError(error.errno, needed, str(unfinished.parent)) from None

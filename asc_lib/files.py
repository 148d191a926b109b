"""Where files live, and how they are written: whole or not at all, once, under a fingerprint."""

import contextlib
import errno
import hashlib
import json
import math
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parents[1]


def data_root() -> Path:
    """Folder of corpora and what is made from them: ``ASC_DATA``, or ``data/`` here."""
    return Path(os.environ.get("ASC_DATA") or REPOSITORY / "data").resolve()


def results_root() -> Path:
    """Folder of records: ``ASC_RESULTS``, or ``results/local/`` in the repository."""
    return Path(os.environ.get("ASC_RESULTS") or REPOSITORY / "results" / "local").resolve()


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
            mark = json.loads(index.read_text(encoding="utf-8"))["fingerprint"]
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
    """Yield a temporary path beside ``path`` to write a file or folder to; renamed on success.

    A file replaces a file, and a folder a folder; raises IsADirectoryError where a file would
    replace a folder.
    """
    if not path.name:
        raise IsADirectoryError(errno.EISDIR, "not the name of a file", str(path))
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    old = temporary.with_suffix(".old")
    try:
        yield temporary
        if path.is_dir() and temporary.is_dir():
            os.replace(path, old)  # a folder that holds anything is not replaced in one step
        os.replace(temporary, path)
    finally:
        for folder in (temporary, old):
            shutil.rmtree(folder, ignore_errors=True)
        temporary.unlink(missing_ok=True)


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
    if not (unfinished.exists() and count.exists()):
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
            os.fdatasync(file.fileno())  # counted data must survive a failing machine
            write_text(count, str(done))

        notes = []
        with ThreadPoolExecutor(1) as disk:
            for done in range(int(count.read_text(encoding="utf-8")), items, chunk):
                stop = min(done + chunk, items)
                fill(put, np.arange(done, stop))
                notes.append(disk.submit(note, stop))
        for noted in notes:
            noted.result()
    count.unlink()
    os.replace(unfinished, path)


def _reserve(unfinished: Path, shape: tuple[int, ...], dtype: np.dtype, name: str) -> None:
    size = dtype.itemsize * math.prod(shape)
    try:
        with open(unfinished, "wb") as file:
            np.lib.format.write_array_header_1_0(
                file, {"descr": dtype.str, "fortran_order": False, "shape": shape}
            )
            file.flush()
            os.posix_fallocate(file.fileno(), file.tell(), size)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        needed = f"{error.strerror}: {size / 1e9:.3g} GB are needed for {name}"
        raise OSError(error.errno, needed, str(unfinished.parent)) from None

"""Where files live, and how they are written: whole or not at all, once, and named by what determines them."""

import contextlib
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock

REPOSITORY = Path(__file__).resolve().parents[1]


def data_root() -> Path:
    """Folder of corpora and of everything made from them: ``ASC_DATA``, or ``data/`` in the repository."""
    return Path(os.environ.get("ASC_DATA") or REPOSITORY / "data").resolve()


def results_root() -> Path:
    """Folder of records: ``ASC_RESULTS``, or ``results/local/`` in the repository."""
    return Path(os.environ.get("ASC_RESULTS") or REPOSITORY / "results" / "local").resolve()


def fingerprint(*parts: object) -> str:
    """Twelve hexadecimal digits that change when any part does; a part is bytes or anything JSON can hold."""
    digest = hashlib.blake2b(digest_size=6)
    for part in parts:
        raw = part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode()
        digest.update(len(raw).to_bytes(8, "little") + raw)
    return digest.hexdigest()


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Give a temporary name beside ``path`` to write a file or folder to; it takes its name only on success."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        if temporary.is_dir():
            shutil.rmtree(temporary)
        temporary.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file whole."""
    with written_whole(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def made_once(path: Path, make: Callable[[Path], None]) -> Path:
    """Return ``path``; if it is not there, ``make(temporary)`` makes it, in one process while others wait."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(path.with_name(f".{path.name}.lock")):
            if not path.exists():
                with written_whole(path) as temporary:
                    make(temporary)
    return path

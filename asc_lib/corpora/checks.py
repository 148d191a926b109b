"""All that can be wrong with a corpus on disk, found in one pass: its tables, then every audio file."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import joblib
import pandas as pd

from .. import audio
from ..artefacts import first_line


class Finding(NamedTuple):
    """Something wrong with a file of a corpus, or, if not ``fatal``, something to know about it."""

    file: str  # relative to the corpus
    what: str
    fatal: bool = True


class CorpusError(ValueError):
    """A corpus that is not as it should be; the message names the file and the way out."""


def table(path: Path, columns: list[str], separator: str) -> tuple[pd.DataFrame | None, list[str]]:
    """A table of texts that has these columns, or None, and what is wrong with it; the first column names files.

    Windows line ends and a byte order mark do no harm.
    """
    names = {"\t": "tabs", ",": "commas"}
    if not path.is_file():
        return None, ["is missing: unpack the corpus's meta data there"]
    try:
        found = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except pd.errors.EmptyDataError:
        return None, ["is empty"]
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        return None, [f"cannot be read as a table: {first_line(error)}"]
    if not set(columns) <= set(found.columns):
        other = next(s for s in names if s != separator)
        if len(found.columns) == 1 and other in found.columns[0]:
            return None, [f"is separated by {names[other]}: this format separates columns by {names[separator]}"]
        wanted, is_ = ", ".join(columns), ", ".join(map(str, found.columns))
        return None, [f"has the columns {is_}; expected are {wanted}, separated by {names[separator]}"]
    problems = [] if len(found) else ["holds no row"]
    for column in columns:
        if (empty := found.index[found[column].str.strip() == ""]).size:
            problems.append(f"line {empty[0] + 2} has no {column}")
    name = found[columns[0]]
    if (twice := name[name.duplicated()]).size:
        problems.append(f"names {twice.iloc[0]!r} twice ({twice.size} such rows)")
    return found, problems


def unsafe(name: str) -> str | None:
    """Why a file name from a table cannot be used: it leaves the corpus, or holds control characters."""
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts or "\\" in name:
        return f"names {name!r}, a path that leaves the corpus"
    if not name.isprintable():
        return f"names {name!r}, with a line break or another control character"
    return None


def files(root: Path, folder: str, names: list[str]) -> Iterator[Finding]:
    """Rows with no file, and files with no row, in one folder of a corpus."""
    there = {path.relative_to(root).as_posix() for path in (root / folder).rglob("*") if path.is_file()}
    for name in sorted(set(names) - there):
        yield Finding(name, audio.MISSING)
    for name in sorted(there - set(names)):
        yield Finding(name, "is not in any table: it is not used", fatal=False)


def clips(root: Path, names: list[str], rate: int, channels: int, samples: int | None) -> Iterator[Finding]:
    """What is wrong with each audio file that is there; ``samples`` None: of any length."""

    def of(name: str) -> list[Finding]:
        clip, found, problems = audio.decoded(root / name)
        problems = problems or audio.unlike(clip, found, rate, channels, samples)
        doubts = [] if problems else audio.doubtful(clip)
        return [Finding(name, what) for what in problems] + [Finding(name, what, False) for what in doubts]

    there = [name for name in names if (root / name).is_file()]
    run = joblib.Parallel(n_jobs=-1, prefer="threads", return_as="generator")
    for some in run(joblib.delayed(of)(name) for name in there):
        yield from some

"""Everything that can be wrong with a corpus on disk: its tables, then every audio file."""

from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import joblib
import numpy as np
import pandas as pd

from ..files import first_line
from . import audio
from .data_set import Finding, Tables

SEPARATORS = {"\t": "tabs", ",": "commas"}
# An audio file: its shape [channels, samples] and rate (Hz), and what is wrong or doubtful.
Examined = namedtuple("Examined", ["name", "shape", "rate", "problems", "doubts"])


def table(path: Path, columns: list[str], separator: str) -> tuple[pd.DataFrame | None, list[str]]:
    """A table of texts with these columns, or None, and what is wrong with it.

    The first column names files. Windows line ends and a byte order mark do no harm.
    """
    if not path.is_file():
        return None, ["is missing: unpack the corpus's meta data there"]
    try:
        found = pd.read_csv(
            path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig"
        )
    except pd.errors.EmptyDataError:
        return None, ["is empty"]
    except (pd.errors.ParserError, UnicodeDecodeError) as error:
        return None, [f"cannot be read as a table: {first_line(error)}"]
    if not set(columns) <= set(found.columns):
        (other,) = SEPARATORS.keys() - {separator}
        if len(found.columns) == 1 and other in found.columns[0]:
            return None, [
                f"is separated by {SEPARATORS[other]}: this format separates columns by "
                f"{SEPARATORS[separator]}"
            ]
        return None, [
            f"has the columns {', '.join(map(str, found.columns))}; "
            f"expected {', '.join(columns)}, separated by {SEPARATORS[separator]}"
        ]
    problems = [] if len(found) else ["holds no row"]
    empty = {column: np.flatnonzero(found[column].str.strip() == "") for column in columns}
    problems += [f"line {rows[0] + 2} has no {name}" for name, rows in empty.items() if rows.size]
    names = found[columns[0]]
    twice = names[names.duplicated()]
    if twice.size:
        problems.append(f"names {twice.iloc[0]!r} twice ({twice.size} such rows)")
    return found, [*problems, *filter(None, map(unsafe, names))]


def read_tables(
    root: Path, columns: dict[str, list[str]], separator: str
) -> tuple[dict[str, pd.DataFrame], list[Finding]]:
    """The tables of a corpus that can be read, by file name, and what is wrong with any.

    ``columns``: what each table must have, by file name.
    """
    read = {file: table(root / file, wanted, separator) for file, wanted in columns.items()}
    return (
        {file: found for file, (found, _) in read.items() if found is not None},
        [Finding(file, problem) for file, (_, problems) in read.items() for problem in problems],
    )


def unsafe(name: str) -> str | None:
    """Why a file name cannot be used: it leaves the corpus, or holds control characters."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        return f"names {name!r}, a path that leaves the corpus"
    if not name.isprintable():
        return f"names {name!r}, with a line break or another control character"
    return None


def safe(names: pd.Series, folder: str = "") -> list[str]:
    """The file names that can be used, in a folder of the corpus."""
    return [folder + name for name in dict.fromkeys(names) if not unsafe(name)]


def check(
    root: Path,
    tables: Tables,
    rate: int,
    channels: int,
    samples: int | None,
    official: dict[str, int] | None = None,
) -> tuple[pd.DataFrame, list[Finding]]:
    """Rows of each table beside the official number, and everything wrong with tables and files.

    ``samples``: the length of every clip; None: any. Findings name files with the corpus's folder.
    """
    counts = pd.DataFrame(
        [(f"{root.name}/{file}", len(found)) for file, found in tables.found.items()],
        columns=["table", "rows"],
    )
    findings = list(tables.findings)
    if official:
        counts["official"] = pd.array([official.get(file) for file in tables.found], "Int64")
        findings += [
            Finding(file, f"has {len(found)} rows, officially {official[file]}")
            for file, found in tables.found.items()
            if len(found) != official.get(file, len(found))
        ]
    for folder, names in tables.files.items():
        there = (path for path in (root / folder).rglob("*") if path.is_file())
        findings += [
            Finding(name, "is not in any table: it is ignored", fatal=False)
            for name in sorted({path.relative_to(root).as_posix() for path in there} - set(names))
        ]
        for sound in examined(root, names, rate, channels, samples):
            findings += [Finding(sound.name, what) for what in sound.problems]
            findings += [Finding(sound.name, what, fatal=False) for what in sound.doubts]
    return counts, [finding._replace(file=str(root / finding.file)) for finding in findings]


def examined(
    root: Path,
    names: list[str],
    rate: int | None = None,
    channels: int | None = None,
    samples: int | None = None,
) -> Iterator[Examined]:
    """Read each audio file, and compare it with what is expected (None: anything)."""

    def examine(name: str) -> Examined:
        clip, own_rate, problems = audio.decoded(root / name)
        problems = problems or audio.mismatches(clip, own_rate, rate, channels, samples)
        return Examined(
            name, clip.shape, own_rate, problems, ([] if problems else audio.doubtful(clip))
        )

    return joblib.Parallel(n_jobs=-1, prefer="threads", return_as="generator")(
        joblib.delayed(examine)(name) for name in names
    )

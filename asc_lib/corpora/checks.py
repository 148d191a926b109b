"""Everything that can be wrong with a corpus on disk: its tables, then every audio file."""

from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import joblib
import pandas as pd

from ..files import first_line
from . import audio
from .corpus import CorpusError


class Finding(NamedTuple):
    """Something wrong with a file of a corpus or, if not ``fatal``, something to know about it."""

    file: str
    what: str
    fatal: bool = True


class Tables(NamedTuple):
    """The tables of a corpus by file name, the audio files they name, and what is wrong."""

    found: dict[str, pd.DataFrame]
    files: dict[str, list[str]]  # by folder; relative to the corpus, safe ones only
    findings: list[Finding]

    def checked(self, root: Path) -> dict[str, pd.DataFrame]:
        """The tables. Raises CorpusError with the first finding."""
        if self.findings:
            raise CorpusError(f"{root / self.findings[0].file} {self.findings[0].what}")
        return self.found


def table(path: Path, columns: list[str], separator: str) -> tuple[pd.DataFrame | None, list[str]]:
    """A table of texts with these columns, or None, and what is wrong with it.

    The first column names files. Windows line ends and a byte order mark do no harm.
    """
    separators = {"\t": "tabs", ",": "commas"}
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
        by = separators.pop(separator)
        (other,) = separators
        if len(found.columns) == 1 and other in found.columns[0]:
            what = f"is separated by {separators[other]}"
            return None, [f"{what}: this format separates columns by {by}"]
        actual = ", ".join(map(str, found.columns))
        what = f"has the columns {actual}; expected {', '.join(columns)}"
        return None, [f"{what}, separated by {by}"]
    problems = [] if len(found) else ["holds no row"]
    for column in columns:
        empty = found.index[found[column].str.strip() == ""]
        if empty.size:
            problems.append(f"line {empty[0] + 2} has no {column}")
    names = found[columns[0]]
    twice = names[names.duplicated()]
    if twice.size:
        problems.append(f"names {twice.iloc[0]!r} twice ({twice.size} such rows)")
    problems += filter(None, map(unsafe, names))
    return found, problems


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
    rows = []
    findings = list(tables.findings)
    for file, found in tables.found.items():
        rows.append({"table": f"{root.name}/{file}", "rows": len(found)})
        wanted = (official or {}).get(file)
        if wanted:
            rows[-1]["official"] = wanted
            if len(found) != wanted:
                findings.append(Finding(file, f"has {len(found)} rows, officially {wanted}"))
    for folder, names in tables.files.items():
        findings += _differences(root, folder, names)
        findings += _clips(root, names, rate, channels, samples)
    counts = pd.DataFrame(rows).astype({"official": "Int64"} if official else {})
    return counts, [finding._replace(file=str(root / finding.file)) for finding in findings]


def _differences(root: Path, folder: str, names: list[str]) -> Iterator[Finding]:
    """Rows without a file, and files without a row, in one folder of a corpus."""
    there = {
        path.relative_to(root).as_posix() for path in (root / folder).rglob("*") if path.is_file()
    }
    for name in sorted(set(names) - there):
        yield Finding(name, audio.MISSING)
    for name in sorted(there - set(names)):
        yield Finding(name, "is not in any table: it is ignored", fatal=False)


def _clips(
    root: Path, names: list[str], rate: int, channels: int, samples: int | None
) -> Iterator[Finding]:
    """What is wrong with each audio file that is there."""

    def of(name: str) -> list[Finding]:
        clip, own_rate, problems = audio.decoded(root / name)
        problems = problems or audio.mismatches(clip, own_rate, rate, channels, samples)
        doubts = [] if problems else audio.doubtful(clip)
        wrong = [Finding(name, what) for what in problems]
        return wrong + [Finding(name, what, fatal=False) for what in doubts]

    there = [name for name in names if (root / name).is_file()]
    run = joblib.Parallel(n_jobs=-1, prefer="threads", return_as="generator")
    for findings in run(joblib.delayed(of)(name) for name in there):
        yield from findings

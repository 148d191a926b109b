"""Everything that can be wrong with a corpus on disk: its tables, then every audio file."""

import csv
import unicodedata
from collections import Counter, namedtuple
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import joblib
import pandas as pd

from . import audio
from .data_set import Finding, Tables

SEPARATORS = {"\t": "tabs", ",": "commas", ";": "semicolons"}
# An audio file: its shape [channels, samples] and rate (Hz), and what is wrong or doubtful.
Examined = namedtuple("Examined", ["name", "shape", "rate", "problems", "doubts"])


def normal(text: object) -> str:
    """A cell as it is compared: without space around it, in one Unicode form."""
    return unicodedata.normalize("NFC", str(text).strip())


def read_csv(path: Path, separator: str = ",") -> pd.DataFrame:
    """A table of texts whose header names every column once and whose rows are as wide as it.

    Rows that are empty, and columns that are empty and have no name, are left out; the index holds
    line numbers. Raises ValueError, without the table's name.
    """
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, delimiter=separator)
            lines = [(reader.line_num, [normal(cell) for cell in row]) for row in reader]
    except UnicodeDecodeError:
        raise ValueError("is not in UTF-8: save it as UTF-8") from None
    except csv.Error as error:
        raise ValueError(f"cannot be read as a table: {error}") from None
    lines = [(number, row) for number, row in lines if any(row)]
    if not lines:
        raise ValueError("is empty")
    names = lines[0][1]
    for number, row in lines[1:]:
        if len(row) != len(names):
            raise ValueError(
                f"has {len(row)} cells in line {number}, but {len(names)} columns in its header"
            )
    twice = [name for name, count in Counter(filter(None, names)).items() if count > 1]
    if twice:
        raise ValueError(f"names the column {twice[0]!r} twice")
    found = pd.DataFrame(
        [row for _, row in lines[1:]], [number for number, _ in lines[1:]], names, dtype=object
    )
    return found.loc[:, [bool(name) or (found[name] != "").any(axis=None) for name in names]]


def table(path: Path, columns: list[str], separator: str) -> tuple[pd.DataFrame | None, list[str]]:
    """A table of texts with these columns, or None, and what is wrong with it.

    The first column names files. Windows line ends, a byte order mark, space around cells, empty
    rows and Unicode forms do no harm.
    """
    if not path.is_file():
        return None, ["is missing: unpack the corpus's meta data there"]
    try:
        found = read_csv(path, separator)
    except ValueError as error:
        return None, [str(error)]
    if not set(columns) <= set(found.columns):
        head = ", ".join(found.columns)
        others = [words for mark, words in SEPARATORS.items() if mark in head and mark != separator]
        if len(found.columns) == 1 and others:
            return None, [
                f"is separated by {others[0]}: this format separates columns by "
                f"{SEPARATORS[separator]}"
            ]
        return None, [
            f"has the columns {head}; "
            f"expected {', '.join(columns)}, separated by {SEPARATORS[separator]}"
        ]
    file = columns[0]
    found[file] = found[file].map(lambda name: name and PurePosixPath(name).as_posix())
    problems = [] if len(found) else ["holds no row"]
    for column in columns:
        empty = found.index[found[column] == ""]
        problems += [f"line {row} has no {column}" for row in empty[:1]]
    for column in found.columns.difference([file]):
        odd = found.index[~found[column].map(str.isprintable)]
        problems += [f"line {row} has a control character in {column}" for row in odd[:1]]
    twice = found[file][found[file].duplicated()]
    if twice.size:
        problems.append(f"names {twice.iloc[0]!r} twice ({twice.size} such rows)")
    return found.reset_index(drop=True), [*problems, *filter(None, map(unsafe, found[file]))]


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
    """Why a file name cannot be used: it leaves the corpus, or nothing can be called so."""
    path = PurePosixPath(name)
    if "\\" in name:
        return f"names {name!r}, with a backslash: write / between folders"
    if path.is_absolute() or ".." in path.parts:
        return f"names {name!r}, a path that leaves the corpus"
    if any(len(part.encode()) > 255 for part in path.parts):
        return f"names {name[:50]!r}..., longer than a file name can be"
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

    ``samples``: the length of every clip; None: any. A table with fewer rows is told, and no fault:
    people have parts of a corpus. Findings name files with the corpus's folder.
    """
    counts = pd.DataFrame(
        [(f"{root.name}/{file}", len(found)) for file, found in tables.found.items()],
        columns=["table", "rows"],
    )
    findings = list(tables.findings)
    if official:
        counts["official"] = pd.array([official.get(file) for file in tables.found], "Int64")
        for file, found in tables.found.items():
            rows, whole = len(found), official.get(file, len(found))
            if rows != whole:
                part = "is partial: it has" if rows < whole else "has"
                findings.append(
                    Finding(file, f"{part} {rows} rows, officially {whole}", rows > whole)
                )
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
        doubts = [] if problems else audio.doubtful(not clip.any(), audio.at_full_scale(clip))
        if not problems and clip.shape[1] != audio.fitted(clip, samples).shape[1]:
            doubts.append(f"has {clip.shape[1]} samples: padded or cut to {samples}")
        return Examined(name, clip.shape, own_rate, problems, doubts)

    return joblib.Parallel(n_jobs=-1, prefer="threads", return_as="generator")(
        joblib.delayed(examine)(name) for name in names
    )

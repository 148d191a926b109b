"""Tag vectors from a table of the user's own."""

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from ..corpora import SceneCorpus
from ..corpora.checks import normal, read_csv
from ..corpora.store import Store
from ..files import DAMAGED, first_line
from ..registry import ParameterError
from .windows import TagVectors, as_read, shares


def from_table(source: str, corpus: SceneCorpus, waveforms: Store | None, seed: int) -> TagVectors:
    """Those of a table: one row per clip, one column per tag, each value within 0 to 1.

    ``.csv`` and ``.parquet``: the column ``filename``, as in the corpus, and one for each tag; with
    a column ``start`` (s), one row for each window of a clip, the same windows in all.
    ``.npz``: the arrays ``filename`` [clips], ``tags`` [c] and ``values`` [clips, c]. Rows of other
    clips are ignored. Raises ParameterError, naming the table, where it cannot be read, lacks
    clips, names one twice, or holds other values.
    """
    path = Path(source)
    values, starts = _read(path)

    def refuse(why: str) -> None:
        raise _refused(path, why)

    times = None
    if starts is not None:  # several rows a clip
        firsts = np.unique(starts)
        groups = values.groupby(level=0).cumcount().to_numpy()
        if not (
            (starts == firsts[np.minimum(groups, len(firsts) - 1)]).all()
            and (values.groupby(level=0).size() == len(firsts)).all()
        ):
            refuse("has other windows (start) in some clips than in others")
        times = _times(firsts)
    twice = values.index[values.index.duplicated()]
    if twice.size and times is None:
        refuse(f"has {twice[0]!r} twice")
    names = corpus.clips["filename"].map(normal)
    # A window of a recording may have the recording's row.
    names = names.where(names.isin(values.index), names.str.replace(r"#\d+$", "", regex=True))
    missing = names[~names.isin(values.index)]
    if missing.size:
        refuse(f"lacks {missing.size} of {len(names)} clips, the first {missing.iloc[0]!r}")
    if times is None:
        values = values.loc[names]
    else:
        order = pd.MultiIndex.from_product([names, range(len(times))])
        values = values.set_axis(pd.MultiIndex.from_arrays([values.index, groups])).loc[order]
    _check_range(path, values)
    windowed = values.to_numpy("float32").reshape(len(names), -1, values.shape[1])
    return TagVectors(windowed, list(map(str, values.columns)), path.name, times=times)


@dataclass(frozen=True)
class TagTable:
    """Tag vectors of recordings by their names: one row each, or in time one for each window."""

    path: Path
    values: pd.DataFrame  # [rows, c]
    starts: np.ndarray | None  # [rows], s

    @classmethod
    def read(cls, path: Path | str) -> "TagTable":
        """A table as ``from_table`` takes it. Raises ParameterError."""
        return cls(Path(path), *_read(Path(path)))

    def of_tags(self, names: list[str]) -> "TagTable":
        """With these tags, in their order. Raises ParameterError where it lacks one."""
        values = self.values.rename(columns=str)
        missing = [name for name in names if name not in values]
        if missing:
            raise _refused(
                self.path,
                f"lacks {len(missing)} of the {len(names)} tags that the system reads, "
                f"the first {missing[0]!r}",
            )
        return replace(self, values=values[names])

    def inputs(
        self, recording: Path, reads: str, starts: np.ndarray, length: float
    ) -> dict[str, torch.Tensor]:
        """What a fusion reads of ``length`` s of a recording, from each of ``starts`` (s) on.

        Its row is that of its path or, as the table may name it, of the end of its path. Raises
        ParameterError where there is none.
        """
        parts = [normal(part) for part in recording.parts]
        names = ["/".join(parts[k:]) for k in range(len(parts))]
        name = next((name for name in names if name in self.values.index), None)
        if name is None:
            raise _refused(self.path, f"has no row for {recording}")
        mine = self.values.index == name
        steps = np.zeros(mine.sum() - 1) if self.starts is None else np.diff(self.starts[mine])
        if len(steps) and (steps.min() <= 0 or np.ptp(steps) > 0.01):
            raise _refused(self.path, f"has rows of {name!r} that are not evenly spaced in time")
        _check_range(self.path, self.values[mine])
        vectors = torch.from_numpy(self.values[mine].to_numpy("float32"))
        values = vectors.expand(len(starts), *vectors.shape)
        if self.starts is None:
            whole = np.array([[0.0, length]])
            return as_read(values, whole, reads, np.zeros(len(starts)), length)
        times = _times(self.starts[mine])
        weights = shares("excerpt", times, starts, length)
        return as_read(values, times, reads, starts, length, weights)


def _refused(path: Path, why: str) -> ParameterError:
    return ParameterError(f"parameter 'tags': {path} {why}")


def _read(path: Path) -> tuple[pd.DataFrame, np.ndarray | None]:
    """A table's tag vectors by file name and, where it has them, starts (s), in order of time."""
    if path.suffix not in READERS:
        raise _refused(path, f"is no table ({', '.join(READERS)})")
    try:
        found = READERS[path.suffix](path)
        columns = list(found)
        if "filename" in columns and len(columns) > 1:
            starts = _reals(found[["start"]])["start"].to_numpy() if "start" in columns else None
            values = _reals(found.drop(columns="start", errors="ignore").set_index("filename"))
    except DAMAGED as error:
        raise _refused(path, f"cannot be read: {first_line(error)}") from None
    if "filename" not in columns or len(columns) < 2:
        raise _refused(
            path, f"needs a column 'filename' and one for each tag; it has {columns[:5]}"
        )
    if starts is None:
        return values, None
    order = np.argsort(starts, kind="stable")
    return values.iloc[order], starts[order]


def _times(starts: np.ndarray) -> np.ndarray:
    """Start and end (s) of windows [w, 2] that begin there: each lasts until the next one."""
    length = float(np.diff(starts).min()) if len(starts) > 1 else 1.0
    return np.stack([starts, starts + length], 1)


def _check_range(path: Path, values: pd.DataFrame) -> None:
    wrong = np.argwhere(~((values >= 0) & (values <= 1)).to_numpy())  # NaN among them
    if len(wrong):
        row, column = wrong[0]
        raise _refused(
            path,
            f"has a value out of range: {values.iloc[row, column]} is not within 0 to 1 "
            f"({values.index[row]!r}, tag {values.columns[column]!r}; {len(wrong)} such)",
        )


def _reals(table: pd.DataFrame) -> pd.DataFrame:
    """The table with file names in one form. Raises ValueError where a column is not of numbers."""
    for name, column in table.items():
        if column.dtype.kind not in "fiub":
            raise ValueError(f"the column {name!r} holds {column.dtype}, not numbers")
    names = list(map(str, table))
    if len(set(names)) < len(names) or not all(name and name.isprintable() for name in names):
        raise ValueError("a tag's name is empty, there twice, or has a control character")
    return table.set_axis(table.index.map(normal)).astype("float64")


def _read_npz(path: Path) -> pd.DataFrame:
    with np.load(path, allow_pickle=False) as arrays:
        table = pd.DataFrame(arrays["values"], columns=arrays["tags"].astype(str))
        table.insert(0, "filename", arrays["filename"].astype(str))  # raises if a tag is called so
        return table


def _read_csv(path: Path) -> pd.DataFrame:
    table = read_csv(path)
    for name in table.columns.difference(["filename"]):
        try:
            table[name] = pd.to_numeric(table[name])
        except ValueError:
            raise ValueError(f"the column {name!r} holds more than numbers") from None
    return table


READERS = {".csv": _read_csv, ".parquet": pd.read_parquet, ".npz": _read_npz}

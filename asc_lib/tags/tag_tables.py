"""Tag vectors from a table of the user's own."""

from pathlib import Path

import numpy as np
import pandas as pd

from ..corpora import SceneCorpus
from ..corpora.checks import normal, read_csv
from ..corpora.store import Store
from ..files import DAMAGED, first_line
from ..registry import ParameterError
from .windows import TagVectors


def from_table(source: str, corpus: SceneCorpus, waveforms: Store | None, seed: int) -> TagVectors:
    """Those of a table: one row per clip, one column per tag, each value within 0 to 1.

    ``.csv`` and ``.parquet``: the column ``filename``, as in the corpus, and one for each tag; with
    a column ``start`` (s), one row for each window of a clip, the same windows in all.
    ``.npz``: the arrays ``filename`` [clips], ``tags`` [c] and ``values`` [clips, c]. Rows of other
    clips are ignored. Raises ParameterError, naming the table, where it cannot be read, lacks
    clips, names one twice, or holds other values.
    """
    path = Path(source)

    def refuse(why: str) -> None:
        raise ParameterError(f"parameter 'tags': {path} {why}")

    try:
        found = READERS[path.suffix](path)
        columns = list(found)
        if "filename" in columns and len(columns) > 1:
            starts = _reals(found[["start"]])["start"].to_numpy() if "start" in columns else None
            values = _reals(found.drop(columns="start", errors="ignore").set_index("filename"))
    except DAMAGED as error:
        refuse(f"cannot be read: {first_line(error)}")
    if "filename" not in columns or len(columns) < 2:
        refuse(f"needs a column 'filename' and one for each tag; it has {columns[:5]}")
    times = None
    if starts is not None:  # several rows a clip, in the order of their windows
        values = values.iloc[np.argsort(starts, kind="stable")]
        starts = np.sort(starts)
        firsts = np.unique(starts)
        groups = values.groupby(level=0).cumcount().to_numpy()
        if not (
            (starts == firsts[np.minimum(groups, len(firsts) - 1)]).all()
            and (values.groupby(level=0).size() == len(firsts)).all()
        ):
            refuse("has other windows (start) in some clips than in others")
        length = float(np.diff(firsts).min()) if len(firsts) > 1 else 1.0
        times = np.stack([firsts, firsts + length], 1)
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
    wrong = np.argwhere(~((values >= 0) & (values <= 1)).to_numpy())  # NaN among them
    if len(wrong):
        row, column = wrong[0]
        refuse(
            f"has a value out of range: {values.iloc[row, column]} is not within 0 to 1 "
            f"({values.index[row]!r}, tag {values.columns[column]!r}; {len(wrong)} such)"
        )
    windowed = values.to_numpy("float32").reshape(len(names), -1, values.shape[1])
    return TagVectors(windowed, list(map(str, values.columns)), path.name, times=times)


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

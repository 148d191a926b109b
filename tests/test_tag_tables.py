"""Tag vectors from a table."""

import numpy as np
import pandas as pd
import pytest

from asc_lib.registry import ParameterError
from asc_lib.tags.sources import open_tag_vectors


def table_of(corpus):
    values = np.random.default_rng(0).random((len(corpus.clips), 3)).astype("float32")
    table = pd.DataFrame(values, columns=["Speech", "Vehicle", "Music"])
    return table.assign(filename=corpus.clips["filename"].to_numpy()).sample(frac=1, random_state=1)


def write(table, path):
    if path.suffix == ".csv":
        table.to_csv(path, index=False)
    elif path.suffix == ".parquet":
        table.to_parquet(path, index=False)
    else:
        tags = [name for name in table if name != "filename"]
        arrays = {"values": table[tags].to_numpy(), "tags": np.array(tags)}
        np.savez(path, filename=table["filename"].to_numpy(str), **arrays)
    return str(path)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
def test_a_table_stands_in_for_the_tagger(suffix, small_mini, tmp_path):
    table = table_of(small_mini)
    tags = open_tag_vectors(write(table, tmp_path / f"mine{suffix}"), small_mini, None)
    assert (
        tags.names == ["Speech", "Vehicle", "Music"]
        and tags.source == f"mine{suffix}"
        and tags.lwlrap is None
    )
    expected = table.set_index("filename").loc[small_mini.clips["filename"], tags.names]
    assert tags.values.dtype == np.float32 and tags.values.shape == (190, 1, 3)
    assert np.allclose(tags.clips, expected)


def changed(column, value):
    def change(table):
        table.iloc[5, list(table).index(column)] = value
        return table

    return change


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.iloc[:-2], "lacks 2 of 190 clips, the first 'audio/"),
        (lambda t: pd.concat([t, t.head(1)]), "has 'audio/.* twice"),
        (changed("Music", np.nan), "nan is not within 0 to 1 .*tag 'Music'; 1 such"),
        (changed("Music", 1.5), "1.5 is not within 0 to 1"),
        (changed("Music", -0.1), "-0.1.* is not within 0 to 1"),
        (lambda t: t.drop(columns="filename"), "needs a column 'filename' and one for each tag"),
        (lambda t: t[["filename"]], "needs a column 'filename' and one for each tag"),
        (
            lambda t: t.astype({"Music": str}).replace(
                {"Music": {str(t["Music"].iloc[0]): "loud"}}
            ),
            "cannot be read",
        ),
    ],
)
def test_a_table_that_does_not_fit(change, message, small_mini, tmp_path):
    path = write(change(table_of(small_mini)), tmp_path / "mine.csv")
    with pytest.raises(ParameterError, match=f"mine.csv.*{message}") as error:
        open_tag_vectors(path, small_mini, None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".npz"])
@pytest.mark.parametrize("content", [None, b"", b"no table \x00\xff"])
def test_a_file_that_is_no_table(content, suffix, small_mini, tmp_path):
    path = tmp_path / f"mine{suffix}"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ParameterError, match=f"mine{suffix}"):
        open_tag_vectors(str(path), small_mini, None)


def test_an_npz_with_pickled_objects_is_refused(small_mini, tmp_path):
    np.savez(tmp_path / "mine.npz", filename=np.array(["a"], object), tags=["a"], values=[[1.0]])
    with pytest.raises(ParameterError, match="mine.npz cannot be read"):
        open_tag_vectors(str(tmp_path / "mine.npz"), small_mini, None)

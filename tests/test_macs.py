"""MACS: people's tags of three of TAU 2019's scenes."""

import shutil

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from asc_lib import cli, corpora
from asc_lib.corpora import macs
from asc_lib.registry import ParameterError
from asc_lib.tags import sources


@pytest.fixture
def tau(small_mini, tmp_path, monkeypatch):
    """A corpus where TAU 2019 is expected; MACS beside it knows its parks."""
    monkeypatch.setenv("ASC_DATA", str(tmp_path))
    shutil.copytree(small_mini.root, tmp_path / "tau2019")
    clips = small_mini.clips["filename"][small_mini.clips["scene_label"] == "park"]
    names = [name.removeprefix("audio/") for name in clips]
    write(tmp_path, [annotated(name, [["birds"], ["birds", "wind", "wind"], []]) for name in names])
    return tmp_path, names


def annotated(name, tags):
    people = [{"annotator_id": k, "sentence": "x", "tags": chosen} for k, chosen in enumerate(tags)]
    return {"filename": name, "annotations": people}


def write(root, files):
    (root / "macs").mkdir(exist_ok=True)
    (root / "macs" / macs.FILE).write_text(yaml.safe_dump({"files": files}))


def test_tags_are_shares_of_a_clips_annotators(tau):
    corpus = corpora.find("tau2019@macs").scenes()
    assert corpus.labels == ["park"] and corpus.name == "tau2019@macs"
    assert len(corpus.clips) == len(tau[1]) and list(corpus.clips.index) == [*range(len(tau[1]))]
    found = sources.open_tag_vectors("macs", corpus, None)
    assert found.names == ["birds", "wind"]
    assert np.allclose(found.values, np.float32([[2 / 3, 1 / 3]]))
    assert found.tagger is None


def test_other_clips_and_variants_are_refused(tau):
    whole = corpora.find("tau2019").scenes()
    with pytest.raises(ParameterError, match="lacks .* clips, .*: take the data set tau2019@macs"):
        sources.open_tag_vectors("macs", whole, None)
    with pytest.raises(ParameterError, match="'tau2019@x': choose one of tau2019, tau2019@macs"):
        corpora.find("tau2019@x")


@pytest.mark.parametrize(
    "text", ["files: 3", "a: b", "files: [{filename: x}]", "\t", "!!python/name:os.system ''"]
)
def test_another_file_is_refused(tau, text):
    (tau[0] / "macs" / macs.FILE).write_text(text)
    done = CliRunner().invoke(cli.app, ["data", "check", "macs"])
    assert done.exit_code == 1 and len(done.output.splitlines()) == 1
    assert "cannot be read as MACS" in done.output


def test_check_counts_its_clips(tau):
    done = CliRunner().invoke(cli.app, ["data", "check", "macs"])
    assert done.exit_code == 1 and f"has {len(tau[1])} clips, officially 3930" in done.output

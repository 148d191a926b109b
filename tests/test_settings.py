"""Parameters: what is refused, in which words; defaults; names of runs; the sweep's cells."""

import shlex
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ATTENTION, COMBINED, COMMON, TAGGED
from typer.testing import CliRunner

from asc_lib import corpora
from asc_lib.cli import app
from asc_lib.corpora import mini
from asc_lib.registry import ParameterError
from asc_lib.runs import cells as grid
from asc_lib.runs import records
from asc_lib.scenes import SceneData
from asc_lib.settings import Given, check
from asc_lib.tags import sources
from asc_lib.tags.sources import CONTROLS, open_tag_vectors
from asc_lib.tags.windows import TagVectors


@pytest.mark.parametrize(
    "change, message",
    [
        ({"head": 2}, "unknown parameter 'head'; did you mean 'heads'?"),
        ({"zzz": 2}, "unknown parameter 'zzz'; there are data, seed"),
        ({"heads": "true"}, "parameter 'heads' is a whole number, not 'true'"),
        ({"heads": True}, "parameter 'heads' is a whole number, not True"),
        ({"heads": 2.0}, "parameter 'heads' is a whole number, not 2.0"),
        ({"heads": 3}, "parameter 'heads': 3 does not divide the 128 filters"),
        ({"heads": 128}, "128 heads leave one filter per head"),
        ({"heads": 0}, "parameter 'heads' is 0: input should be greater than or equal to 1"),
        ({"layers": -1}, "parameter 'layers' is -1: input should be greater"),
        ({"seed": "0"}, "parameter 'seed' is a whole number, not '0'"),
        ({"data": "nope"}, "parameter 'data' is 'nope': choose one of esc50, mini, tau2019"),
        ({"front_end": "nope"}, "parameter 'front_end' is 'nope': choose one of auto, released"),
        (
            {"tags": "nope"},
            "parameter 'tags' is 'nope': choose one of tagger, yamnet, shuffled, constant",
        ),
        (
            {"precision": "float16"},
            "parameter 'precision' is 'float16': choose one of float32, bfloat16",
        ),
        ({"tags": ""}, "parameter 'tags' is ''"),
        ({"device": "nope"}, "parameter 'device' is 'nope'"),
    ],
)
def test_refused_parameters(change, message):
    with pytest.raises(ParameterError) as error:
        check("04_attention", **(ATTENTION | change))
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_missing_parameter():
    with pytest.raises(ParameterError, match="parameter 'heads' is missing"):
        check("04_attention", **{k: v for k, v in ATTENTION.items() if k != "heads"})


def test_defaults_come_from_the_preset():
    settings = check("04_attention", **ATTENTION)
    preset = corpora.find("mini").preset
    assert (settings.epochs, settings.threads) == (preset.scene.epochs, preset.threads)
    assert (settings.front_end, settings.fusion) == ("narrow", "attention")
    assert check("04_attention", **(ATTENTION | {"epochs": 3})).recipe.epochs == 3
    full = corpora.find("tau2019").preset
    assert (full.front_end, full.scene.epochs, full.scene.batch, full.scene.lr) == (
        "released",
        90,
        24,
        1e-4,
    )


def test_sizes_that_do_not_apply_are_left_out():
    shared = check("05_combined", **COMBINED)
    assert (
        shared.sizes() == {"heads": 4, "layers": 3} and shared.parameters()["concat_layers"] is None
    )
    separate = check("05_combined", **(COMBINED | {"fusion": "combined_separate"}))
    assert separate.sizes() == {"heads": 4, "concat_layers": 4, "attention_layers": 3}
    codecat = TAGGED | dict(fusion="codecat", layers=3)
    assert check("03_concatenation", **codecat).sizes() == {}
    with pytest.raises(
        ParameterError,
        match="'fusion' is 'attention': choose one of baseline, codecat, before_code",
    ):
        check("03_concatenation", **(codecat | {"fusion": "attention"}))


def notebook(**injected):
    """What a notebook's names look like to Given, above and below the parameters cell."""
    names = {"np": np, "helper": len, "_i1": "x"}
    given = Given(names)
    names |= ATTENTION | {"given": given, "_i2": "y", "sys": np} | injected
    return given, names


def test_given_refuses_new_and_rebound_names_once():
    assert notebook()[0].settings("04_attention").heads == 2
    for wrong in ({"head": 2}, {"helper": 3}):
        with pytest.raises(ParameterError, match=f"unknown parameter '{next(iter(wrong))}'"):
            notebook(**wrong)[0].settings("04_attention")
    given, names = notebook()
    given.settings("04_attention")
    names["history"] = 1  # made by later cells; the check may be run again
    names["heads"] = 4
    assert given.settings("04_attention").heads == 4


def test_the_name_of_a_run_holds_what_determines_it():
    waves = SimpleNamespace(fingerprint="w")
    tags = TagVectors(np.zeros((2, 1, 2), "float32"), ["a", "b"], "tagger")
    name = records.scene_run(check("04_attention", **ATTENTION), waves, tags)
    assert name.startswith("mini-attention-h2-l1-seed0-")
    for change in (
        {"seed": 1},
        {"threads": 2},
        {"epochs": 1},
        {"layers": 2},
        {"precision": "bfloat16"},
    ):
        assert records.scene_run(check("04_attention", **(ATTENTION | change)), waves, tags) != name
    changed = SimpleNamespace(fingerprint="v")
    assert records.scene_run(check("04_attention", **ATTENTION), changed, tags) != name
    other = TagVectors(np.ones((2, 1, 2), "float32"), ["a", "b"], "tagger")
    assert records.scene_run(check("04_attention", **ATTENTION), waves, other) != name


def test_every_published_cell_has_a_notebook():
    cells = grid.cells("all", data="mini", seed=0)
    assert len(cells) == len(grid.published()) == 56
    assert len({str(cell) for cell in cells}) == 56
    for cell, row in zip(cells, grid.published().itertuples()):
        settings = cell.settings()
        assert settings.fusion == row.system
        for name, value in settings.sizes().items():
            assert getattr(row, name) == value
    assert [len(grid.cells(f"table{n}")) for n in (2, 3, 4, 5)] == [8, 20, 8, 20]
    assert [len(grid.cells(name)) for name in ("main", "systems", "controls")] == [7, 6, 12]
    assert [cell.settings().tags for cell in grid.cells("controls")] == [
        "shuffled", "constant", "true",
        *(tags for tags in CONTROLS if "yamnet" not in tags), "tagger", "true"
    ]  # fmt: skip
    assert [
        (cell.settings().fusion, cell.settings().tags) for cell in grid.cells("yamnet_controls")
    ] == [
        ("attention", "shuffled_yamnet"),
        ("attention", "constant_yamnet"),
        ("tags_only", "yamnet"),
    ]
    assert [cell.settings().supervision for cell in grid.cells("taggers")] == [
        "curated",
        "noisy",
        "pseudo_labels",
    ]
    with pytest.raises(
        ValueError,
        match="unknown sweep 'table9': choose one of main, systems, first, controls, yamnet",
    ):
        grid.cells("table9")


@pytest.fixture
def like_tagger(monkeypatch):
    """In place of the tagger's: as many tags as the true ones but one, known without error."""

    def fake(source, corpus, waveforms, seed):
        found = open_tag_vectors("true", corpus, None)
        return replace(found, values=found.values[..., 1:], names=found.names[1:])

    monkeypatch.setattr(sources, "from_tagger", fake)


def test_rates_of_error_by_hand():
    truth = np.array([[1, 1], [1, 0], [0, 0], [0, 0], [0, 0]])
    scores = np.array([[0.9, 0.1], [0.2, 0.1], [0.8, 0.7], [0.1, 0.0], [0.0, 0.0]])
    hit, false_alarm = sources.error_rates(truth, scores)  # said of clips 0 and 2; of clip 2
    assert hit.tolist() == [0.5, 0] and false_alarm == pytest.approx([1 / 3, 1 / 4])


def test_tags_with_the_taggers_errors(small_mini, like_tagger):
    truth = open_tag_vectors("true", small_mini, None).values
    rows, rng = np.arange(len(truth)), np.random.default_rng(0)
    for name in ("corrupted", "corrupted_each_epoch"):
        found = open_tag_vectors(name, small_mini, None, 3)
        assert found.values.shape == truth.shape and found.tagger is None
        assert np.array_equal(found.values[..., 1:], truth[..., 1:])  # known without error
        share = found.values[:, 0, 0].mean(), truth[:, 0, 0].mean()  # at random, as often
        assert not np.array_equal(found.values[..., 0], truth[..., 0])
        assert share[0] == pytest.approx(share[1], abs=0.12)
        assert np.array_equal(found.values, open_tag_vectors(name, small_mini, None, 3).values)
    drawn = [found.inputs(rows, "clip", 0 * rows, 1.0, "clip", rng)["tags"] for _ in range(2)]
    assert not torch.equal(*drawn) and torch.equal(drawn[0][:, 1:], drawn[1][:, 1:])
    few = found.kept(3, small_mini.rows("train"))
    assert few.inputs(rows, "clip", 0 * rows, 1.0, "clip", rng)["tags"].shape[1] == 3
    for reads in ("clip", "windows"):  # not in training
        tags = found.inputs(rows, reads, 0 * rows, 1.0)["tags"].reshape(len(rows), -1)
        assert np.array_equal(tags, found.values[:, 0])


def test_tags_of_other_clips(small_mini, like_tagger):
    own = sources.from_tagger("tagger", small_mini, None, 0).values[:, 0]
    train, test = small_mini.rows("train"), small_mini.rows("test")

    def counts(rows):
        return sorted(map(tuple, rows))

    for name in ("shuffled", "shuffled_from_training", "shuffled_each_epoch"):
        found = open_tag_vectors(name, small_mini, None, 3)
        values = found.values[:, 0]
        assert counts(values[train]) == counts(own[train])
        assert (counts(values[test]) == counts(own[test])) == (name != "shuffled_from_training")
        assert set(counts(values[test])) <= set(counts(own))
        rng = np.random.default_rng(0)
        drawn = [found.inputs(train, "clip", 0 * train, 1.0, "clip", rng) for _ in range(2)]
        assert torch.equal(*(part["tags"] for part in drawn)) == (name != "shuffled_each_epoch")
    assert set(counts(drawn[0]["tags"].numpy())) <= set(counts(own[train]))


def test_true_tags(small_mini):
    tags = open_tag_vectors("true", small_mini, None)
    row = 17
    assert {tags.names[k] for k in np.flatnonzero(tags.clips[row])} == small_mini.sounds_in(row)
    few = replace(small_mini, composition=small_mini.composition.query("tag == 'siren'"))
    other = open_tag_vectors("true", few, None)  # as many columns as our tagger has
    assert other.names == tags.names == sorted(mini.SOUNDS)
    assert set(np.flatnonzero(other.clips.any(0))) == {tags.names.index("siren")}
    unknown = SimpleNamespace(name="tau2019", composition=None)
    with pytest.raises(ParameterError, match="'true', but tau2019 does not say"):
        open_tag_vectors("true", unknown, None)


@pytest.mark.parametrize(
    "given, message",
    [
        (["main", "--seeds", "x"], "--seeds takes whole numbers such as 0 1 2, not 'x'"),
        (["main", "--seeds", "0", "-"], "--seeds takes whole numbers such as 0 1 2, not '-'"),
        (["table9"], "unknown sweep 'table9': choose one of main, systems"),
        (["main", "--data", "nope"], "parameter 'data' is 'nope'"),
    ],
)
def test_a_sweep_that_cannot_be(given, message):
    assert message in str(CliRunner().invoke(app, ["sweep", *given]).exception)


def test_a_dry_run_prints_lines_that_papermill_takes(tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_RESULTS", str(tmp_path))
    done = CliRunner().invoke(
        app, ["sweep", "controls", "--data", "mini", "--dry-run", "--seeds", "0", "4"]
    )
    lines = [shlex.split(line) for line in done.output.splitlines()]
    assert done.exit_code == 0 and len(lines) == 24
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {
        "mini",
        "mini/notebooks",
    }
    assert len({line[2] for line in lines}) == 24 and all(line[0] == "papermill" for line in lines)
    for line, cell in zip(
        lines, [one for seed in (0, 4) for one in grid.cells("controls", data="mini", seed=seed)]
    ):
        assert line[1] == str(cell.path) and line[2].startswith(f"{tmp_path}/mini/notebooks/")
        assert dict(zip(line[4::3], line[5::3])) == {
            name: str(value) for name, value in cell.parameters.items()
        }


TAGS = dict(tag_windows="auto", n_tags=80)
RIVALS = {  # cells of the sweep of this name, with the baseline's fusion and with attention
    "cp_resnet": ({"front_end": "cp_resnet"}, 2),
    "sinc_acl": ({"front_end": "sinc_acl"}, 2),
    "specialists": ({"recipe": "specialists"}, 1),
    "crop_pad": ({"recipe": "crop_pad"}, 2),
}


def test_the_rivals_of_a_sweep_are_those_of_notebook_08(tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_RESULTS", str(tmp_path))
    done = CliRunner().invoke(app, ["sweep", "rivals", "--data", "mini", "--dry-run"])
    names = [Path(shlex.split(line)[2]).stem for line in done.output.splitlines()]
    assert names == [
        *("02_baseline_mini_0_cp_resnet", "04_attention_mini_0_2_1_cp_resnet"),
        *("02_baseline_mini_0_sinc_acl", "04_attention_mini_0_2_1_sinc_acl"),
        "02_baseline_mini_0_specialists",
        *("02_baseline_mini_0_crop_pad", "04_attention_mini_0_2_1_crop_pad"),
    ]
    cells = iter(grid.cells("rivals", data="mini", seed=0))
    for system, (parameters, fusions) in RIVALS.items():
        for fusion in ("baseline", "attention")[:fusions]:
            given = COMMON | TAGS | dict(precision="float32", tags="auto")
            found = check("08_rivals", **given, system=system, fusion=fusion)
            assert found.parameters().items() >= parameters.items()
            assert found.sizes() == ({"heads": 2, "layers": 1} if fusion == "attention" else {})
            assert found == next(cells).settings().model_copy(update={"device": "cpu"})
    assert next(cells, None) is None


@pytest.mark.parametrize(
    "given, message",
    [
        ({"system": "nope"}, "'system' is 'nope': choose one of cp_resnet, sinc_acl, specialists"),
        ({"fusion": "codecat"}, "'fusion' is 'codecat': choose one of baseline, attention"),
        ({"system": "specialists", "fusion": "attention"}, "'attention': choose one of baseline"),
        ({"tags": "nope", "fusion": "attention"}, "parameter 'tags' is 'nope': choose one of"),
    ],
)
def test_rivals_that_there_are_not(given, message):
    usual = COMMON | TAGS | dict(precision="float32", tags="auto")
    with pytest.raises(ParameterError, match=message):
        check("08_rivals", **(usual | dict(system="cp_resnet", fusion="baseline") | given))


def test_a_sweep_gives_each_notebook_what_it_has(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.csv").write_text("filename,a,b\n")
    cells = grid.cells("first", data="mini@0.5", tags="own.csv", n_tags=0, front_end="released")
    assert [cell.notebook[:2] for cell in cells] == ["02", "05", "04", "05"]
    assert "tags" not in cells[0].parameters and cells[0].parameters["front_end"] == "released"
    assert {cell.parameters["tags"] for cell in cells[1:]} == {str(tmp_path / "own.csv")}
    assert {cell.parameters["data"] for cell in cells} == {"mini@0.5"}
    controls = grid.cells("controls", tags="yamnet")
    true = [cell.notebook[:2] for cell in controls if cell.parameters["tags"] == "true"]
    assert true == ["05", "04", "05"]  # a control keeps its own source


@pytest.mark.parametrize("tags", [{}, {"tags": "true", "n_tags": 3}, {"tags": "true", "n_tags": 0}])
def test_a_sweep_waits_for_the_record_that_its_notebook_leaves(
    tags, small_mini, monkeypatch, tmp_path
):
    monkeypatch.setenv("ASC_DATA", str(tmp_path))
    data_set = replace(corpora.find("mini"), scenes=lambda: small_mini)
    monkeypatch.setitem(corpora.DATA_SETS, "mini", data_set)
    (cell,) = grid.cells("attention" if tags else "baseline", data="mini", seed=1, **tags)
    scenes = SceneData.open(cell.settings())
    left = records.scene_run(cell.settings(), scenes.waveforms, scenes.vectors)
    assert grid.run_names([cell]) == [left]

"""A trained system as a folder: equal to the last bit, refused where anything is wrong; ONNX."""

import json
import pickle
import shutil
from dataclasses import replace
from importlib.metadata import version

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import safetensors.torch
import skops.io
import torch
from helpers import roots
from typer.testing import CliRunner

from asc_lib import cli
from asc_lib.corpora import audio
from asc_lib.front_ends import FRONT_ENDS
from asc_lib.fusion import FUSIONS
from asc_lib.registry import ParameterError
from asc_lib.runs import tables
from asc_lib.scene_net import SceneNet
from asc_lib.use import explorer, export, system, what_if
from asc_lib.use.novelty import Known, chosen
from asc_lib.use.system import UnfitSystem, load


@pytest.fixture
def folder(saved, tmp_path):
    """A copy of a system's folder, to be spoilt."""
    return shutil.copytree(saved.folder, tmp_path / "system")


def sealed(folder, **changes):
    """Make the table of contents agree with the folder, as one who means harm would."""
    about = json.loads((folder / system.ABOUT).read_text()) | changes
    about["files"] = {
        name: system._digest(folder / name)
        for name in system._files(folder)
        if name != system.ABOUT
    }
    (folder / system.ABOUT).write_text(json.dumps(system._sealed(about)))
    return folder


def test_what_is_loaded_is_what_was_saved_to_the_last_bit(saved):
    loaded = load(saved.folder, "cpu")
    rows = saved.scenes.corpus.rows("test")[:8]
    clips = np.array(saved.scenes.waveforms.waveforms[rows])
    inputs = loaded.inputs(clips)
    expected = saved.scenes.whole(rows)
    assert set(inputs) == set(expected) == {"waveform", "tags"}
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)
    with torch.no_grad():
        out = saved.net.eval()(**expected)
    found = loaded.classify(clips)
    test = saved.evaluated[saved.evaluated["split"] == "test"]
    assert np.array_equal(found.probabilities, out.logits.softmax(1).numpy())
    assert np.array_equal(found.scenes, test["predicted"][:8])
    for name, value in saved.net.state_dict().items():
        assert torch.equal(loaded.net.state_dict()[name], value)
    assert loaded.labels == saved.scenes.corpus.labels and loaded.tags == saved.scenes.vectors.names
    assert {path.suffix for path in saved.folder.rglob("*.*")} == {
        ".json",
        ".md",
        ".safetensors",
        ".skops",
    }


def test_saving_again_replaces_the_folder(saved):
    before = set(saved.folder.parent.iterdir())
    assert saved.again() == saved.folder and load(saved.folder).tags == saved.scenes.vectors.names
    assert set(saved.folder.parent.iterdir()) == before


def test_the_card_says_what_it_is(saved):
    card = (saved.folder / "README.md").read_text()
    assert "| system | attention, heads 2, layers 1 |" in card and "clips of 1 s" in card
    assert (
        "nothing chosen on them; 95 %, over locations" in card
        and "no figure here is a result on TAU" in card
    )


def truncate(path):
    path.write_bytes(path.read_bytes()[:-100])


def pickled(path):
    path.write_bytes(pickle.dumps({"a": 1}))


def untrusted(path):
    skops.io.dump(audio.Recording(path, 1, 1, 1, 1), path)


def edited(path):
    path.write_text(path.read_text().replace('"airport"', '"harbour"'))


@pytest.mark.parametrize(
    "name, spoil, agree, message",
    [
        ("network.safetensors", truncate, False, "network.safetensors was changed or cut short"),
        ("network.safetensors", truncate, True, "cannot be loaded: "),
        ("network.safetensors", pickled, True, "cannot be loaded: "),
        ("back_end.skops", truncate, False, "back_end.skops was changed or cut short"),
        ("back_end.skops", pickled, True, "cannot be loaded: "),
        ("back_end.skops", untrusted, True, "back_end.skops holds asc_lib.corpora.audio.Recording"),
        (
            "tagger/fold1.safetensors",
            lambda path: path.unlink(),
            False,
            "tagger/fold1.safetensors is missing",
        ),
        ("tagger/fold1.safetensors", pickled, True, "cannot be loaded: "),
        ("extra.pkl", pickled, False, "it holds extra.pkl, which was not saved with it"),
        ("system.json", truncate, False, "system.json is incomplete or damaged"),
        ("system.json", edited, False, "system.json was changed after it was saved"),
        ("system.json", lambda path: path.unlink(), False, "it has no system.json"),
    ],
)
def test_a_spoilt_folder_is_refused_with_its_reason(folder, name, spoil, agree, message):
    spoil(folder / name)
    if agree:
        sealed(folder)
    with pytest.raises(UnfitSystem) as error:
        load(folder)
    assert (
        message in str(error.value)
        and str(folder) in str(error.value)
        and "\n" not in str(error.value)
    )


def test_a_linked_folder_is_refused(folder, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (folder / "more").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UnfitSystem, match="it holds more, which was not saved with it"):
        load(folder)


@pytest.mark.parametrize("device", ["xpu", "meta", "cuda:99"])
def test_a_device_that_is_not_there(saved, tmp_path, device):
    done = CliRunner().invoke(
        cli.app, ["predict", "x.wav", "--system", str(saved.folder), "--device", device]
    )
    assert done.exit_code == 1 and f"'device' is '{device}'" in str(done.exception)


def test_other_versions_and_unknown_networks_are_refused(folder):
    for version_ in (2, 99):
        sealed(folder, version=version_)
        with pytest.raises(UnfitSystem, match=f"has version {version_}, this code reads 3"):
            load(folder)
    sealed(folder, version=system.VERSION, system="nope")
    with pytest.raises(UnfitSystem, match="parameter 'fusion' is 'nope'"):
        load(folder)


def test_a_system_without_a_tagger_says_so(saved, tmp_path):
    trained = load(saved.again(tags="true"))
    path = tmp_path / "clip.wav"
    path.write_bytes(explorer.wav(np.ones((2, 96_000), "int16")))
    with pytest.raises(
        UnfitSystem, match="trained with the tag vectors 'tagger'|with the tag vectors 'true'"
    ):
        trained.predict(path)
    done = CliRunner().invoke(
        cli.app, ["predict", str(path), "--system", str(saved.again(tags="true"))]
    )
    assert done.exit_code == 1 and "choose a system trained with tags = 'tagger'" in str(
        done.output
    )


def test_a_table_gives_the_tags_of_recordings(saved, tmp_path):
    rows = saved.scenes.corpus.rows("test")[:2]
    names = saved.scenes.vectors.names
    path = tmp_path / "tags.csv"
    values = pd.DataFrame(saved.scenes.vectors.clips[rows], columns=names)
    values.assign(other=0.5, filename=["deep/0.wav", "1.wav"]).to_csv(path, index=False)
    trained = load(saved.again(tags=str(path)), "cpu")
    clips = np.array(saved.scenes.waveforms.waveforms[rows])
    (tmp_path / "deep").mkdir()
    files = [tmp_path / "deep" / "0.wav", tmp_path / "1.wav", tmp_path / "2.wav"]
    for file, clip in zip(files, [*clips, clips[0]]):
        file.write_bytes(explorer.wav(clip))
    with pytest.raises(UnfitSystem, match=r"`asc predict --tags TABLE`"):
        trained.predict(files[0])
    *found, unknown = trained.with_table(path).predict_each(files)
    assert f"{path} has no row for {files[2]}" in unknown.why
    for prediction, row in zip(found, rows):
        expected = saved.scenes.vectors.clips[row]
        assert np.allclose(prediction.classified.tags[0], expected, atol=1e-5)
        own = load(saved.folder, "cpu").classify(np.array(saved.scenes.waveforms.waveforms[[row]]))
        assert np.allclose(prediction.classified.probabilities, own.probabilities, atol=1e-3)
        assert what_if.window_of(prediction, 0).vector == pytest.approx(expected, abs=1e-5)
    words = ["predict", *map(str, files[:2]), "--tags", str(path), "--system"]
    done = CliRunner().invoke(cli.app, [*words, str(saved.again(tags=str(path)))])
    assert done.exit_code == 0 and done.stdout.count("; tags: ") == 2
    done = CliRunner().invoke(cli.app, [*words, str(saved.folder)])
    assert done.exit_code == 1 and "tags recordings itself: it takes no table" in done.output
    values.iloc[:, 1:].assign(filename=["deep/0.wav", "1.wav"]).to_csv(path, index=False)
    with pytest.raises(ParameterError, match=f"lacks 1 of the 12 tags .* the first '{names[0]}'"):
        trained.with_table(path)


def test_a_system_knows_how_far_clips_are_from_those_that_trained_it(saved, folder):
    trained = load(saved.folder, "cpu")
    count = len(saved.scenes.corpus.rows("train"))
    clips = np.array(saved.scenes.waveforms.waveforms[saved.scenes.corpus.rows("train")[:3]])
    assert trained.classify(clips).novelty.tolist() == [0, 0, 0]  # they are the training clips
    assert (
        trained.trained_on == f"trained on {count} composed scenes (mini): not for real recordings"
    )
    real = replace(trained, about=trained.about | {"data": trained.about["data"] | {"name": "own"}})
    assert real.trained_on == f"trained on {count} clips of own"
    known = folder / system.KNOWN
    for spoil in ({"codes": np.zeros((3, 5), "float32")}, {"codes": np.full((3, 64), np.nan)}):
        safetensors.numpy.save_file({"places": np.arange(3)} | spoil, known)
        with pytest.raises(UnfitSystem, match="holds no codes of this network"):
            load(sealed(folder))
    known.unlink()
    with pytest.raises(UnfitSystem, match="cannot be loaded: .*known.safetensors"):
        load(sealed(folder))


def test_the_newest_system_of_a_data_set_that_takes_recordings(saved, tmp_path):
    with roots(tmp_path), pytest.raises(UnfitSystem, match="train one.*--data mini"):
        system.newest("mini")
    first = saved.folder
    saved.again(tags="true")  # newer, but it cannot tag
    with roots(saved.root):
        assert system.newest("mini") == first
        with pytest.raises(UnfitSystem, match="esc50 has no system for recordings under .*results"):
            system.newest("esc50")


def test_the_card_and_the_tables_give_one_interval(saved):
    about = load(saved.folder, "cpu").about
    with roots(saved.root):
        results = tables.Results("mini")
        runs = {each.records[0]["run"]: kind for kind, each in results.systems.items()}
        row = results.measured.loc[results.names[runs[about["run"]]]]
    assert [row["low"], row["high"]] == [100 * bound for bound in about["test"]["interval"]]
    assert f"{row['mean']:.1f} % ({row['low']:.1f} to {row['high']:.1f})" in system.card(about)


def test_novelty_is_a_share_of_the_training_clips():
    rng = np.random.default_rng(0)
    codes = rng.standard_normal((300, 8)) * np.logspace(-3, 3, 8)
    known = Known(codes, np.arange(300))
    inside = rng.standard_normal((500, 8)) * np.logspace(-3, 3, 8)
    assert abs(known.novelty(inside).mean() - 0.5) < 0.05  # as far as they are from each other
    assert known.novelty(inside + 9 * codes.std(0)).tolist() == [1] * 500
    places = np.repeat(np.arange(150), 2)  # two clips of a place do not make it familiar
    near = np.repeat(codes[:150], 2, 0) + 1e-9
    fresh = rng.standard_normal((500, 8)) * np.logspace(-3, 3, 8)
    assert abs(Known(near, places).novelty(fresh).mean() - 0.5) < 0.08
    assert Known(near, np.arange(300)).novelty(fresh).mean() > 0.95
    rows = np.arange(5, 1000)
    assert len(chosen(rows)) == 400 and np.array_equal(chosen(rows), chosen(rows))
    assert chosen(np.array([7, 3])).tolist() == [3, 7]


def test_onnx_is_the_same_network(saved, tmp_path):
    import onnxruntime

    path = tmp_path / "scenes.onnx"
    done = CliRunner().invoke(cli.app, ["export", str(saved.folder), "--onnx", str(path)])
    assert done.exit_code == 0 and "largest difference from torch probabilities" in done.output
    assert [file.name for file in tmp_path.iterdir()] == ["scenes.onnx"]
    session, clips = onnxruntime.InferenceSession(str(path)), saved.scenes.waveforms.waveforms[:5]
    trained = load(saved.folder)
    inputs = trained.inputs(np.array(clips))
    with torch.no_grad():
        expected = trained.net(**inputs)
    samples = inputs["waveform"].shape[-1] + 1
    given = {"waveform": clips[..., :samples].astype("float32") / 2**15}
    given["tags"] = inputs["tags"].numpy()
    found = session.run(
        ["probabilities", "attention_map"], given
    )  # a batch of five, exported with two
    assert np.abs(found[0] - expected.logits.softmax(1).numpy()).max() < 1e-4
    assert np.abs(found[1] - expected.attention_map.numpy()).max() < 1e-4


@pytest.mark.parametrize("fusion", FUSIONS)
def test_an_onnx_model_has_the_inputs_that_its_network_reads(tmp_path, monkeypatch, fusion):
    import onnxruntime

    monkeypatch.setattr(FRONT_ENDS["narrow"], "block_filters", (128,))  # exported sooner
    tags = [] if fusion in ("baseline", "tag_targets") else ["rain", 'naïve, "quoted"']
    about = {"labels": ["a", "b b", "ç"], "tags": {"names": tags}, "n_tags": len(tags)}
    about |= {"run": "some-run", "test_samples": 9_599}
    net = SceneNet(len(tags), 3, "narrow", fusion, heads=2)
    trained = system.System(net, None, None, about, None)
    export.export_onnx(trained, tmp_path / "scenes.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "scenes.onnx"))
    read = {
        **dict.fromkeys(("baseline", "tag_targets"), {"waveform"}),
        "tags_only": {"tags"},
        "attention_in_time": {"waveform", "tags", "times"},
    }
    expected = read.get(fusion, {"waveform", "tags"})
    inputs = {entry.name: entry.shape for entry in session.get_inputs()}
    assert inputs.keys() == expected
    for entry in (*session.get_inputs(), *session.get_outputs()):
        assert entry.shape[0] == "batch"
    free = {"batch": 3, "windows": 5}
    given = {
        name: np.zeros([free.get(size, size) for size in shape], "float32")
        for name, shape in inputs.items()
    }
    assert session.run(["probabilities"], given)[0].shape == (3, 3)  # exported with a batch of two
    found = session.get_modelmeta().custom_metadata_map
    assert (json.loads(found["labels"]), json.loads(found["tags"])) == (trained.labels, tags)
    assert (found["rate"], found["samples"], found["channels"]) == ("48000", "9600", "2")
    assert found["run"] == "some-run" and found["version"] == version("asc_lib")


def test_export_without_its_packages(saved, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "onnxruntime", None)
    done = CliRunner().invoke(
        cli.app, ["export", str(saved.folder), "--onnx", str(tmp_path / "x.onnx")]
    )
    assert done.exit_code == 1 and "pip install -e '.[onnx]'" in done.output


def test_a_command_without_a_system_lists_those_that_are_there(saved):
    with roots(saved.root):
        done = CliRunner().invoke(cli.app, ["predict", "x.wav"])
    assert done.exit_code == 1 and f"name a system's folder; under {saved.root}" in done.output
    assert str(saved.folder) in done.output

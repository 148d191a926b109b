"""A trained system as a folder: equal to the last bit, refused where anything is wrong; ONNX."""

import json
import pickle
import shutil
from importlib.metadata import version

import numpy as np
import pytest
import safetensors.torch
import skops.io
import torch
from helpers import roots
from typer.testing import CliRunner

from asc_lib import cli
from asc_lib.corpora import audio
from asc_lib.fusion import FUSIONS
from asc_lib.scene_net import SceneNet
from asc_lib.use import explorer, export, system
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
    assert np.array_equal(found.scenes, test["svm"][:8])
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
        "nothing chosen on them; 95 %, bootstrap over locations" in card
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
        ("svm.skops", truncate, False, "svm.skops was changed or cut short"),
        ("svm.skops", pickled, True, "cannot be loaded: "),
        ("svm.skops", untrusted, True, "svm.skops holds asc_lib.corpora.audio.Recording"),
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
    sealed(folder, version=99)
    with pytest.raises(UnfitSystem, match="has version 99, this code reads up to 2"):
        load(folder)
    sealed(folder, version=system.VERSION, system="nope")
    with pytest.raises(UnfitSystem, match="parameter 'fusion' is 'nope'"):
        load(folder)


def test_version_1_of_the_layout_still_loads(saved, folder):
    """In it front-ends were no modules of their own."""
    weights = safetensors.torch.load_file(folder / system.NETWORK)
    old = {name.removeprefix("front_end."): value for name, value in weights.items()}
    assert old.keys() - weights.keys() and len(old) == len(weights)
    safetensors.torch.save_file(old, folder / system.NETWORK)
    with pytest.raises(UnfitSystem, match="cannot be loaded: "):
        load(sealed(folder))
    first, second = load(saved.folder, "cpu"), load(sealed(folder, version=1), "cpu")
    clips = np.array(saved.scenes.waveforms.waveforms[:3])
    for one, two in zip(first.classify(clips), second.classify(clips)):
        assert np.array_equal(one, two)


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
def test_an_onnx_model_has_the_inputs_that_its_network_reads(tmp_path, fusion):
    import onnxruntime

    tags = [] if fusion == "baseline" else ["rain", 'naïve, "quoted"']
    about = {"labels": ["a", "b b", "ç"], "tags": {"names": tags}, "n_tags": len(tags)}
    about |= {"run": "some-run", "test_samples": 9_599}
    net = SceneNet(len(tags), 3, "narrow", fusion, heads=2)
    trained = system.System(net, None, None, about)
    export.export_onnx(trained, tmp_path / "scenes.onnx")
    session = onnxruntime.InferenceSession(str(tmp_path / "scenes.onnx"))
    expected = {"baseline": {"waveform"}, "tags_only": {"tags"}}.get(fusion, {"waveform", "tags"})
    inputs = {entry.name: entry.shape for entry in session.get_inputs()}
    assert inputs.keys() == expected
    for entry in (*session.get_inputs(), *session.get_outputs()):
        assert entry.shape[0] == "batch"
    given = {name: np.zeros((3, *shape[1:]), "float32") for name, shape in inputs.items()}
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

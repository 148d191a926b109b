"""Plug-ins: fusions and front-ends in files outside the package, from training to prediction."""

import json
import os
import re
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import soundfile
import torch
from helpers import BASELINE, COMBINED, execute_here, read_by, roots
from torch.nn import functional as F
from typer.testing import CliRunner

from asc_lib import corpora, diagram, registry, settings
from asc_lib.cli import app
from asc_lib.files import REPOSITORY
from asc_lib.front_ends import FRONT_ENDS
from asc_lib.fusion import FUSIONS
from asc_lib.registry import ParameterError
from asc_lib.runs import cells, records, sweep
from asc_lib.scene_net import SceneNet
from asc_lib.use import system, what_if
from asc_lib.use.explorer import Explorer

FUSION = '''
from asc_lib.fusion import Attention, Fusion, attention_map, fusion, tag_layer


@fusion("late", "layers", question="Do late tags help?")
class Late(Fusion):
    """Tags of windows, pooled beside the code; the output should not be sure of itself."""

    reads = "windows"

    def __init__(self, n_tags, filters, layers):
        super().__init__()
        self.code_width = n_tags
        self.score = tag_layer(n_tags + 2, n_tags)

    def prepare(self, tags, times):
        assert tags.shape[:2] == times.shape[:2] and times.shape[2] == 2
        return self.score(torch.cat([tags, times], 2)).mean(1)  # [B, c]

    def after_code(self, code, tags):
        return torch.cat([code, tags], 1)

    def loss(self, out, batch):
        return 0.1 * out.logits.square().mean()


@fusion("learnt")
class Learnt(Fusion):
    """An attention map that is the same for every clip: no tags."""

    reads = "nothing"

    def __init__(self, n_tags, filters):
        super().__init__()
        self.score = nn.Parameter(torch.randn(filters))

    def weights(self, tags):
        return attention_map(self.score, 1).expand(len(tags), -1)
'''
FRONT_END = '''
from asc_lib.front_ends import FrontEnd, front_end


@front_end("bands")
class Bands(FrontEnd):
    """Strided convolutions: a map with an axis of bands."""

    filters = 16
    code_width = 24

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv1d(2, 16 * 5, 960, stride=480)

    def forward(self, waveform):
        return self.layer(waveform).relu().unflatten(1, (16, 5))  # [B, f, bands, t]
'''
DATA = """
from pathlib import Path
from asc_lib.corpora import tau2019
from asc_lib.corpora.data_set import DataSet, register

register(DataSet("seaside", "mine", None, scenes=lambda: tau2019.read("seaside", Path("{}"))))
"""
IMPORTS = "import torch\nfrom torch import nn\n"
LATE = COMBINED | dict(fusion="late", front_end="bands", epochs=1)


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """Writes files of plug-ins and names them in ASC_PLUGINS; they are forgotten afterwards."""
    kept = {name: dict(names) for name, names in REGISTRIES.items()}
    paths = []

    def write(*texts, name="mine"):
        for text in texts:
            paths.append(tmp_path / f"{name}{len(paths)}.py")
            paths[-1].write_text(text)
        monkeypatch.setenv("ASC_PLUGINS", os.pathsep.join(map(str, paths)))
        return paths

    yield write
    for name, names in REGISTRIES.items():
        names.clear()
        names.update(kept[name])
    for path in paths:
        sys.modules.pop(str(path), None)


REGISTRIES = {"fusions": FUSIONS, "front-ends": FRONT_ENDS, "data sets": corpora.DATA_SETS}


@pytest.fixture
def mine(plug_in):
    """Plug-ins in two files."""
    return plug_in(IMPORTS + FUSION, IMPORTS + FRONT_END)


def built(fusion, front_end, n_tags=12):
    sizes = dict(heads=4, layers=2, concat_layers=1, attention_layers=1)
    return SceneNet(n_tags, 10, front_end, fusion, **sizes)


@pytest.mark.parametrize("front_end", ["bands", "narrow"])
@pytest.mark.parametrize("fusion", ["late", "learnt", *FUSIONS])
def test_any_fusion_goes_with_any_front_end(fusion, front_end, mine):
    torch.manual_seed(0)
    net = built(fusion, front_end)
    inputs = read_by(net, 3, 9_600)
    out = net(**inputs)
    if fusion != "tags_only" and front_end == "bands":
        assert out.feature_map.shape == (3, 16, 5, 19)
    assert out.logits.shape == (3, 10)
    (out.logits.square().sum() + net.fusion.loss(out, inputs)).backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in net.parameters())
    if fusion in ("late", "learnt"):
        assert all(p.grad.any() for p in net.fusion.parameters())


def test_the_map_of_a_front_end_with_bands_is_attended_and_pooled_filter_by_filter(mine):
    net = built("learnt", "bands").eval()
    inputs = read_by(net, 3, 9_600)
    out = net(**inputs)
    attended = out.feature_map * out.attention_map[:, :, None, None]
    frames = attended.flatten(2)
    pooled = torch.cat([frames.mean(2), frames.max(2).values], 1)
    assert torch.allclose(out.code, net.code(pooled), atol=1e-6)


BAD = {
    "missing": (lambda path: None, "is not a Python file"),
    "a folder": (lambda path: path.mkdir(), "is not a Python file"),
    "broken": (lambda path: path.write_text("def ("), "cannot be loaded: SyntaxError: "),
    "an error": (lambda path: path.write_text("1 / 0"), "cannot be loaded: ZeroDivisionError: "),
    "long": (
        lambda path: path.write_text('raise ValueError("first line\\nsecond line")'),
        "cannot be loaded: ValueError: first line",
    ),
    "no such module": (
        lambda path: path.write_text("import no_such_module"),
        "cannot be loaded: ModuleNotFoundError: No module named 'no_such_module'",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_is_one_clear_error_each_time(case, tmp_path, monkeypatch):
    spoil, message = BAD[case]
    path = tmp_path / "bad.py"
    spoil(path)
    monkeypatch.setenv("ASC_PLUGINS", str(path))
    for _ in range(2):
        for find in (FUSIONS.find, FRONT_ENDS.find, corpora.find):
            with pytest.raises(ParameterError) as error:
                find("narrow")
            assert str(error.value).startswith(f"ASC_PLUGINS: {path} {message}")
            assert "\n" not in str(error.value)
    done = CliRunner().invoke(app, ["sweep", "main", "--dry-run"])
    assert done.exit_code == 1 and f"asc sweep: ASC_PLUGINS: {path}" in done.output


def test_a_file_of_another_kind_is_refused(tmp_path, monkeypatch):
    (tmp_path / "notes.txt").write_text("not Python")
    monkeypatch.setenv("ASC_PLUGINS", str(tmp_path / "notes.txt"))
    with pytest.raises(ParameterError, match="notes.txt is not a Python file"):
        registry.load_plugins()


def test_each_file_is_loaded_once(plug_in, tmp_path):
    plug_in(f"open({str(tmp_path / 'log')!r}, 'a').write('loaded\\n')")
    for _ in range(3):
        FUSIONS.find("baseline")
    assert (tmp_path / "log").read_text() == "loaded\n"


def test_names_of_plugins_are_known_as_the_librarys_are(mine):
    checked = settings.check("05_combined", **LATE)
    assert checked.sizes() == {"layers": 3} and checked.front_end == "bands"
    nothing = settings.check("05_combined", **(LATE | {"fusion": "learnt"}))
    assert nothing.tags is None and nothing.sizes() == {}
    with pytest.raises(ParameterError, match="'fusion' is 'nope': choose one of .*late, learnt"):
        settings.check("05_combined", **(LATE | {"fusion": "nope"}))
    with pytest.raises(ParameterError, match="'front_end' is 'nope': choose one of .*, bands"):
        settings.check("02_baseline", **{k: LATE[k] for k in BASELINE} | {"front_end": "nope"})
    with pytest.raises(ParameterError, match="32 does not divide the 16 filters"):
        settings.check("05_combined", **(LATE | {"fusion": "combined_shared", "heads": 32}))


def test_a_data_set_in_a_file(plug_in, small_mini):
    plug_in(DATA.format(small_mini.root))
    assert "seaside" in corpora.scene_data_sets()
    scenes = corpora.find("seaside").scenes()
    assert scenes.name == "seaside" and scenes.clips.equals(small_mini.clips)
    checked = settings.check("02_baseline", **(BASELINE | {"data": "seaside"}))
    assert checked.data_name == "seaside" and checked.front_end == "released"


def test_a_changed_class_gives_a_run_another_name(plug_in, tagged):
    def name(text):
        plug_in(IMPORTS + text)
        return records.scene_run(settings.check("05_combined", **given), tagged.waveforms, None)

    given = LATE | {"front_end": "narrow"}
    first = name(FUSION)
    assert first.startswith("mini-late-l3-seed0-") and name(FUSION) == first
    assert name(FUSION.replace("0.1 *", "0.2 *")) != first


def test_a_fusion_reads_windows_with_their_times(tagged):
    rows, starts = np.array([3, 50, 7]), np.array([0, 12_000, 23_999])
    two = np.stack([tagged.vectors.clips, 1 - tagged.vectors.clips], 1)
    times = np.array([[0.0, 0.5], [0.5, 1.0]])
    vectors = replace(tagged.vectors, values=two, times=times)
    scenes = replace(tagged, vectors=vectors, reads="windows")
    found = scenes.inputs(rows, starts, 24_000)  # half a second: one part
    assert set(found) == {"waveform", "tags", "times"} and found["tags"].shape == (3, 1, 12)
    assert found["times"].tolist() == [[[0.0, 0.5]]] * 3 and found["times"].dtype == torch.float32
    first, second = two[rows, 0], two[rows, 1]
    share = np.array([0.0, 0.5, 1.0])[:, None]  # the excerpts' middles between those of windows
    assert np.allclose(found["tags"][:, 0], (1 - share) * first + share * second, atol=1e-4)
    whole = replace(scenes, reads="clip").whole(rows)
    assert set(whole) == {"waveform", "tags"} and torch.allclose(whole["tags"], torch.tensor(0.5))


def test_a_fusions_own_loss_is_added(mine, tagged):
    scenes = replace(tagged, reads="windows")
    torch.manual_seed(0)
    net = built("late", "bands")
    batch = next(scenes.training_batches(0, 1))
    out = net(**{name: value for name, value in batch.items() if name != "targets"})
    plain = F.cross_entropy(out.logits, batch["targets"])
    expected = plain + 0.1 * out.logits.square().mean()
    assert scenes.loss(net, batch).item() == pytest.approx(expected.item(), rel=1e-6)
    assert expected > plain


@pytest.fixture
def trained(mine, tagged, tmp_path):
    """Trains and saves a system of a plug-in's fusion on short clips; SceneData, what it gives."""

    def train(fusion):
        checked = settings.check("05_combined", **(LATE | {"fusion": fusion}))
        reads = FUSIONS.find(fusion).build.reads
        vectors = tagged.vectors if checked.tags else None
        recipe = replace(checked.recipe, crop=24_000, mixup_from=1)
        scenes = replace(tagged, vectors=vectors, recipe=recipe, reads=reads)
        with roots(tmp_path):
            return scenes, system.train_and_save(checked, scenes)

    return train


def check_predictions(scenes, done, tmp_path):
    """The system that is loaded again answers as the network that was trained."""
    loaded = system.load(done.folder, "cpu")
    rows = scenes.corpus.rows("test")[:8]  # as many as the tagger's batches
    clips = np.array(scenes.waveforms.waveforms[rows])
    inputs, expected = loaded.inputs(clips), scenes.whole(rows)
    assert set(inputs) == set(expected)
    assert all(torch.equal(inputs[name], expected[name]) for name in expected)
    _, probabilities = scenes.outputs(done.net, rows)
    found = loaded.classify(clips)
    assert np.allclose(found.probabilities, probabilities, atol=1e-6)
    test = done.evaluated.set_index("filename")
    names = scenes.corpus.clips["filename"][rows]
    assert found.scenes.tolist() == test.loc[names, "predicted"].tolist()
    soundfile.write(tmp_path / "x.wav", clips[0].T, 48_000)
    prediction = loaded.predict(tmp_path / "x.wav")
    assert np.allclose(prediction.probabilities, probabilities[0], atol=1e-6)
    return loaded, inputs, prediction


def test_a_fusion_of_windows_from_training_to_a_prediction(trained, tmp_path):
    scenes, done = trained("late")
    record = json.loads(next(tmp_path.glob("results/mini/records/*.json")).read_text())
    assert record["system"] == "late" and record["table"] is None
    assert record["parameters"]["front_end"] == "bands" and record["parameters"]["layers"] == 3
    assert done.record["run"] == record["run"] == done.folder.name
    loaded, inputs, prediction = check_predictions(scenes, done, tmp_path)
    assert inputs["tags"].shape == (8, 8, 12) and inputs["times"].shape == (8, 8, 2)
    assert np.allclose(inputs["times"][0, :, 1] - inputs["times"][0, :, 0], 1 / 8, atol=1e-4)
    assert np.allclose(prediction.tags[loaded.tags], inputs["tags"][0].mean(0), atol=1e-6)


def test_a_fusion_that_reads_nothing_needs_no_tags(trained, tmp_path):
    scenes, done = trained("learnt")
    assert done.record["tags"] is None and done.record["parameters"]["tags"] is None
    assert not (done.folder / system.TAGGER).exists()
    loaded, inputs, prediction = check_predictions(scenes, done, tmp_path)
    assert loaded.tagger is None and inputs["tags"].shape == (8, 0)
    assert prediction.described()["tags"] == {}


def test_attention_in_time_from_training_to_the_explorer(trained, tmp_path):
    scenes, done = trained("attention_in_time")
    loaded, inputs, prediction = check_predictions(scenes, done, tmp_path)
    assert inputs["tags"].shape == (8, 8, 12)
    view = Explorer(loaded, scenes, done.evaluated)
    clip = what_if.CachedClip.of(loaded, scenes.whole(scenes.corpus.rows("test")[:1]))
    weights = clip.output().attention_map
    assert weights.shape == (1, 16, clip.feature_map.shape[-1])
    even = clip.output(attention=False).attention_map
    assert torch.allclose(even, torch.full_like(weights, loaded.heads / 16))
    assert (what_if.clip_table(loaded, scenes, done.evaluated)["change"] > 0).any()
    before = view.what_if.in_time.picture
    assert before and view.what_if.in_time.sound == view.sound.sound != b""
    took = []
    for value in (0.7, 0.8, 0.9):
        start = time.process_time()
        view.what_if.sliders[0].value = value
        took.append(time.process_time() - start)
    assert min(took) < 0.3
    assert view.what_if.in_time.picture != before and view.features.value
    maps = what_if.maps(loaded.net, scenes.vectors.clips[:3])  # as if tags stayed the same
    assert maps.shape == (3, 16)


def test_a_system_that_learnt_tags_predicts_without_them(trained, tmp_path):
    scenes, done = trained("tag_targets")
    assert done.record["tags"]["source"] == "tagger" and done.record["tag_scale"] == "raw"
    assert not (done.folder / system.TAGGER).exists()
    loaded, inputs, prediction = check_predictions(scenes, done, tmp_path)
    assert loaded.tagger is None and loaded.tags == [] and inputs["tags"].shape == (8, 0)
    batch = next(scenes.training_batches(0, 1))
    assert batch["tags"].shape == (24, 12) and batch["tags"].any()
    with pytest.raises(system.UnfitSystem, match="reads no tags"):
        loaded.with_table(tmp_path / "x.csv")
    in_time = Explorer(loaded, scenes, done.evaluated).what_if.in_time
    assert in_time.picture == in_time.sound == b""


@pytest.mark.parametrize("fusion", ["late", "learnt"])
def test_the_explorer_shows_a_system_of_plugins(trained, fusion, tmp_path):
    scenes, done = trained(fusion)
    loaded = system.load(done.folder, "cpu")
    view = Explorer(loaded, scenes, done.evaluated)
    assert view.sound.picture and view.what_if.picture.value
    assert bool(view.features.value) == (fusion == "learnt")  # the map of a clip, attended
    table = what_if.clip_table(loaded, scenes, done.evaluated)
    assert (table["change"] > 0).any() == (fusion == "learnt")
    if fusion == "late":
        before = view.what_if.readout.value
        view.what_if.sliders[0].value = 1.0
        assert view.what_if.readout.value != before and "changed: " in view.what_if.readout.value


@pytest.mark.parametrize("fusion", ["late", "learnt", "combined_shared"])
def test_the_network_of_plugins_is_drawn(mine, fusion):
    figure = diagram.network(built(fusion, "bands"))
    assert "bands" in str([text.get_text() for text in figure.axes[0].texts])


@pytest.mark.parametrize(
    "fusion, expected", [("late", ["waveform", "tags", "times"]), ("learnt", ["waveform"])]
)
def test_a_system_of_a_plugin_is_exported(trained, tmp_path, fusion, expected):
    onnxruntime = pytest.importorskip("onnxruntime")
    _, done = trained(fusion)
    done = CliRunner().invoke(app, ["export", str(done.folder), "--onnx", str(tmp_path / "x.onnx")])
    assert done.exit_code == 0, done.output
    inputs = onnxruntime.InferenceSession(str(tmp_path / "x.onnx")).get_inputs()
    assert [entry.name for entry in inputs] == expected
    assert {entry.shape[0] for entry in inputs} == {"batch"}


def test_a_system_whose_plugin_is_not_there(trained, monkeypatch):
    _, done = trained("late")
    monkeypatch.delenv("ASC_PLUGINS")
    del FUSIONS["late"]
    with pytest.raises(system.UnfitSystem, match="parameter 'fusion' is 'late': choose one of"):
        system.load(done.folder, "cpu")


def test_a_sweep_takes_a_plugin(mine, tmp_path, monkeypatch):
    (cell,) = cells.cells("late", data="mini", seed=3)
    assert cell.notebook == "05_combined" and cell.settings().fusion == "late"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    first, second = (path.name for path in mine)
    monkeypatch.setenv("ASC_PLUGINS", f"{tmp_path / first}{os.pathsep}~/{second}")
    assert sweep.roots()["ASC_PLUGINS"] == os.pathsep.join(map(str, mine))


def test_the_plugin_in_the_readme(plug_in):
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# gated\.py\n.*?)```", readme, re.S)
    plug_in(code, name="gated")
    waveform, tags = torch.randn(1, 2, 12_000), torch.rand(1, 20)
    net = SceneNet(20, front_end="narrow", fusion="gated", layers=1).eval()
    gates = net(waveform, tags).attention_map
    assert gates.shape == (1, 128) and gates.min() > 0 and gates.max() < 1 and gates.sum() > 10


def test_a_notebook_trains_plugins(mine, tmp_path, monkeypatch):
    given = {"fusion": "late", "front_end": "bands", "epochs": 1}
    results = tmp_path / "results"
    monkeypatch.setenv("ASC_RESULTS", str(results))
    execute_here("05_combined", **given)
    (path,) = results.glob("mini/records/*.json")
    record = json.loads(path.read_text())
    assert record["system"] == record["parameters"]["fusion"] == "late"
    assert record["parameters"]["front_end"] == "bands" and record["parameters"]["epochs"] == 1
    assert record["test"]["clips"] == 180 and len(record["history"]) == 1
    assert (results / "mini" / "systems" / record["run"] / system.ABOUT).is_file()

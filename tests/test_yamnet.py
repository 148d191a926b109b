"""YAMNet as a source of tags, and windows of tags: with the real model where ``ASC_YAMNET`` is set.

Elsewhere a stand-in of the same interface takes its place.
"""

import zipfile
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from helpers import ATTENTION, roots
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from asc_lib import cli, settings, stats
from asc_lib.corpora import CorpusError, store
from asc_lib.corpora import yamnet as published
from asc_lib.files import named
from asc_lib.registry import ParameterError
from asc_lib.runs import records
from asc_lib.scenes import SceneData
from asc_lib.tags import sources, windows, yamnet
from asc_lib.tags.sources import open_tag_vectors
from asc_lib.tags.windows import TagVectors, along, shares
from asc_lib.use import system

REAL = named("ASC_YAMNET")


class StandIn:
    """Class k is as probable as the k-th of 521 bands is loud."""

    def get_input_details(self):
        return [{"index": 0}]

    get_output_details = get_input_details

    def set_tensor(self, _, window):
        assert window.shape == (15_600,) and window.dtype == np.float32
        self.window = window

    def invoke(self):
        power = np.abs(np.fft.rfft(self.window))[:7294].reshape(521, 14).mean(1)
        self.vector = (power / (1 + power)).astype("float32")

    def get_tensor(self, _):
        return self.vector[None]


@pytest.fixture
def model(tmp_path, monkeypatch):
    """The real model, or the stand-in."""
    if not REAL:
        path = tmp_path / published.NAME
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("yamnet_label_list.txt", "\n".join(f"class {k}" for k in range(521)))
        monkeypatch.setenv("ASC_YAMNET", str(path))
        monkeypatch.setattr(published, "model", lambda: path)
        monkeypatch.setattr(yamnet, "interpreter", lambda path: StandIn())
    return yamnet.YamNet.load()


def test_a_missing_and_a_wrong_file_are_one_line(tmp_path, monkeypatch):
    path = tmp_path / "x.tflite"
    monkeypatch.setenv("ASC_YAMNET", str(path))
    with pytest.raises(
        CorpusError, match="is missing: `asc data fetch yamnet`.*ASC_YAMNET.*Apache"
    ):
        yamnet.YamNet.load()
    path.write_bytes(b"cut")
    with pytest.raises(CorpusError, match="x.tflite is not YAMNet as it was published, or is cut"):
        yamnet.YamNet.load()
    if REAL:
        path.write_bytes(REAL[0].read_bytes()[:-5])
        with pytest.raises(CorpusError, match="cut short"):
            yamnet.YamNet.load()


@pytest.mark.skipif(not REAL, reason="ASC_YAMNET is not set")
def test_the_real_model_hears_a_tone_and_speech_has_a_name():
    real = yamnet.YamNet.load()
    assert len(real.tags) == 521 and real.tags[0] == "Speech"
    assert real.fingerprint == yamnet.YamNet.load().fingerprint
    t = np.arange(4 * 48_000) / 48_000
    siren = 0.3 * np.sin(2 * np.pi * np.cumsum(800 + 300 * np.sin(2 * np.pi * 0.5 * t)) / 48_000)
    clip = torch.from_numpy(np.round(np.stack([siren, siren]) * 2**15).astype("int16"))[None]
    vectors = real.tag_windows(clip)
    assert vectors.shape == (1, 7, 521) and vectors.min() >= 0 and vectors.max() <= 1
    best = [real.tags[k] for k in vectors[0].mean(0).argsort(descending=True)[:8]]
    assert any("iren" in name or "Theremin" in name or "Sine" in name for name in best), best


def test_scenes_are_tagged_once_and_a_system_answers_with_the_same_tags(
    model, small_mini, tmp_path, monkeypatch
):
    with roots(tmp_path):
        waveforms = store.pack(small_mini)
        vectors = open_tag_vectors("yamnet", small_mini, waveforms)
        assert vectors.values.shape == (190, 1, 521) and vectors.times.tolist() == [[0, 0.975]]
        monkeypatch.setattr(yamnet.YamNet, "tag_windows", lambda *_: pytest.fail("computed again"))
        assert open_tag_vectors("yamnet", small_mini, waveforms).fingerprint == vectors.fingerprint
        train, others = small_mini.rows("train"), {}
        for name in ("shuffled_yamnet", "constant_yamnet"):
            others[name] = open_tag_vectors(name, small_mini, waveforms, seed=1).values[train]
        dealt, same = others.values()
        assert not np.array_equal(dealt, vectors.values[train])
        assert np.array_equal(np.sort(dealt, 0), np.sort(vectors.values[train], 0))
        assert np.ptp(same, 0).max() == 0
        assert np.allclose(same[0], vectors.values[train].mean(0))
        monkeypatch.undo()
        if not REAL:
            monkeypatch.setattr(published, "model", lambda: model.path)
            monkeypatch.setattr(yamnet, "interpreter", lambda path: StandIn())
        given = ATTENTION | {"tags": "yamnet", "n_tags": 20, "epochs": 1}
        checked = settings.check("04_attention", **given)
        assert checked.recipe.tag_windows == "random"
        kept = vectors.kept(20, small_mini.rows("train"))
        recipe = replace(checked.recipe, crop=12_000)
        scenes = SceneData(small_mini, waveforms, kept, recipe, "cpu")
        done = system.train_and_save(checked, scenes)
        assert done.net.n_tags == 20 and done.record["tag_scale"] == "square_root"
        loaded = system.load(done.folder, "cpu")
        rows = small_mini.rows("test")[:3]
        mine = loaded.inputs(np.array(waveforms.waveforms[rows]))
        theirs = scenes.whole(rows)
        assert all(torch.allclose(mine[name], theirs[name], atol=1e-6) for name in theirs)
        assert loaded.tags == kept.names


def test_tags_of_a_folder(model, tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for k in range(2):
        sound = 0.1 * rng.standard_normal((2 * 22_050, 1))
        soundfile.write(tmp_path / "in" / f"{k}.wav", sound, 22_050)
    (tmp_path / "in" / "x.wav").write_bytes(b"no sound")
    for words, rows in (((), 2), (("--windows",), 6)):
        out = tmp_path / "tags.csv"
        done = CliRunner().invoke(
            cli.app, ["tags", str(tmp_path / "in"), "--out", str(out), *words]
        )
        assert done.exit_code == 1 and "x.wav cannot be read as audio" in done.output
        table = pd.read_csv(out)
        assert len(table) == rows and table.shape[1] == 522 + len(words)
        assert table.iloc[:, -1].between(0, 1).all()


# Windows


def test_windows_of_a_clip():
    tagger = yamnet.YamNet(None, [])
    assert len(tagger.times(4 * 48_000)) == 7 and len(tagger.times(480_000)) == 19
    assert tagger.times(24_000).tolist() == [[0, 0.5]]

    class Loudest(windows.WindowTagger):
        rate, length, hop = 48_000, 0.5, 0.25

        def tag_mono(self, pieces):
            return pieces.amax(1, keepdim=True)

    clips = torch.zeros(2, 2, 48_000, dtype=torch.int16)
    clips[1, :, 30_000] = 2**14  # at 0.625 s
    found = Loudest().tag_windows(clips)
    assert found[0].max() == 0 and found[1, :, 0].tolist() == [0, 0.5, 0.5]


@given(st.integers(1, 9), st.sampled_from(["random", "excerpt"]), st.integers(0, 99))
def test_shares_of_windows_sum_to_one(count, choice, seed):
    rng = np.random.default_rng(seed)
    times = np.stack([0.48 * np.arange(count), 0.48 * np.arange(count) + 0.975], 1)
    starts = rng.uniform(0, times[-1, 1] - 0.5, 5)
    found = shares(choice, times, starts, 0.5, rng)
    assert found.shape == (5, count) and np.allclose(found.sum(1), 1)
    if choice == "random":
        assert ((found > 0).sum(1) == (count + 1) // 2).all()
    else:
        overlaps = (times[:, 0] < starts[:, None] + 0.5) & (times[:, 1] > starts[:, None])
        assert ((found > 0) == overlaps).all()


def test_tags_along_an_excerpt_are_linear_between_windows():
    times = np.array([[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]])
    values = torch.tensor([[[0.0], [1.0], [3.0]]])
    found, parts = along(values, times, np.array([0.5]), 2.0)
    assert found[0, :, 0].tolist() == [0.5, 2.0] and parts[0].tolist() == [[0, 1], [1, 2]]


def test_test_clips_always_have_the_mean_of_all_their_windows():
    values = np.random.default_rng(0).random((2, 6, 3), "float32")
    vectors = TagVectors(
        values, list("abc"), "x", times=np.stack([np.arange(6), np.arange(6) + 1], 1)
    )
    rows, starts = np.array([0, 1]), np.zeros(2)
    found = vectors.inputs(rows, "clip", starts, 6.0)["tags"]
    assert np.allclose(found, values.mean(1))
    rng = np.random.default_rng(0)
    drawn = [vectors.inputs(rows, "clip", starts, 6.0, "random", rng)["tags"] for _ in range(99)]
    assert torch.stack(drawn).std(0).min() > 0.01  # anew each time
    assert np.allclose(torch.stack(drawn).mean(0), values.mean(1), atol=0.05)


def test_no_window_of_a_training_clip_reaches_a_test_clip(tagged):
    """Changing a training clip's sound changes no other clip's vectors."""
    corpus, waveforms, tagger = tagged.corpus, tagged.waveforms, tagged.vectors.tagger
    row = corpus.rows("train")[0]
    other = np.array(waveforms.waveforms)
    other[row] = other[row][:, ::-1]
    rows = np.arange(len(corpus.clips))
    before = tagger.tag_scenes(corpus, waveforms, rows)
    after = tagger.tag_scenes(corpus, store.Store(other, ""), rows)
    assert np.flatnonzero((before != after).any((1, 2))).tolist() == [row]


def test_every_clip_is_tagged_by_as_many_networks(tagged, monkeypatch):
    used = []
    tagger = tagged.vectors.tagger
    kind = type(tagger)
    real = kind.probabilities
    monkeypatch.setattr(
        kind,
        "probabilities",
        lambda self, mel, folds: used.append(len(folds)) or real(self, mel, folds),
    )
    folds = np.where(tagged.corpus.clips["split"] == "train", 1, 5)
    corpus = replace(tagged.corpus, clips=tagged.corpus.clips.assign(fold=folds))
    rows = np.r_[corpus.rows("train")[:4], corpus.rows("test")[:4]]
    tagger.tag_scenes(corpus, tagged.waveforms, rows)
    tagger.like_scenes(corpus).tag_windows(tagged.waveforms.whole(rows[:1]))
    assert set(used) == {1}


def test_the_most_varying_tags_are_kept():
    values = np.zeros((4, 1, 3), "float32")
    values[:, 0, 1] = [0, 1, 0, 1]
    values[:, 0, 2] = [0, 0.1, 0, 0.1]
    vectors = TagVectors(values, list("abc"), "x")
    assert vectors.kept(2, np.arange(4)).names == ["b", "c"]
    assert vectors.kept(1, np.arange(4)).names == ["b"]
    assert vectors.kept(0, np.arange(4)) is vectors and vectors.kept(80, np.arange(4)) is vectors


def test_tables_with_several_rows_a_clip(small_mini, tmp_path):
    names = small_mini.clips["filename"]
    rows = [(name, start, 0.1 * start) for name in names for start in (0.5, 0.0)]
    pd.DataFrame(rows, columns=["filename", "start", "Dog"]).to_csv(tmp_path / "t.csv", index=False)
    found = sources.from_table(str(tmp_path / "t.csv"), small_mini, None, 0)
    assert found.values.shape == (190, 2, 1) and found.times.tolist() == [[0, 0.5], [0.5, 1.0]]
    assert np.allclose(found.values[:, :, 0], [0, 0.05])
    pd.DataFrame(rows[:-1], columns=["filename", "start", "Dog"]).to_csv(
        tmp_path / "t.csv", index=False
    )
    with pytest.raises(ParameterError, match="other windows"):
        sources.from_table(str(tmp_path / "t.csv"), small_mini, None, 0)


def test_the_probe_is_fair():
    rng = np.random.default_rng(0)
    targets = np.repeat([0, 1], 60)
    features = rng.standard_normal((120, 4)) * [1, 1e-6, 1, 1]
    features[:, 1] += 1e-6 * 3 * targets  # tells, on a scale of its own
    places = np.arange(120) // 2
    train, test = np.flatnonzero(places % 2), np.flatnonzero(places % 2 == 0)
    assert stats.linear_probe(features, targets, train, test, places).mean() > 0.85


def test_unknown_choices_are_refused():
    with pytest.raises(ParameterError, match="'tag_windows' is 'no': choose one of auto, random"):
        settings.check("04_attention", **(ATTENTION | {"tag_windows": "no"}))
    with pytest.raises(ParameterError, match="n_tags"):
        settings.check("04_attention", **(ATTENTION | {"n_tags": -1}))
    names = [
        records.scene_run(
            settings.check("04_attention", **(ATTENTION | {"tag_windows": choice})),
            SimpleNamespace(fingerprint="x"),
            None,
        )
        for choice in windows.CHOICES
    ]
    assert len(set(names)) == 3

"""What-if is the model's own path; numbers behind average views; widgets without a browser."""

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from asc_lib.scene_net import SceneNet
from asc_lib.use import explorer, what_if
from asc_lib.use.explorer import Explorer, Recordings, WhatIf
from asc_lib.use.system import load
from asc_lib.use.what_if import CachedClip

SILENCE = np.zeros((2, 48_000), "int16")


@pytest.fixture(scope="module")
def trained(saved):
    return load(saved.folder, "cpu")


@pytest.fixture(scope="module")
def batch(saved):
    return saved.scenes.whole(saved.scenes.corpus.rows("test")[:1])


@pytest.fixture(scope="module")
def cached(trained, batch):
    return CachedClip.of(trained, batch)


def test_at_the_stored_tags_it_is_the_models_output_to_the_last_bit(trained, batch, cached):
    with torch.no_grad():
        expected = trained.net(**batch)
    for found, wanted in zip(cached.output(), expected):
        assert torch.equal(found, wanted)


@settings(max_examples=20, deadline=None)
@given(arrays("float32", (1, 12), elements=st.floats(0, 1, width=32)))
def test_at_any_other_tags_it_is_a_full_forward_pass(trained, batch, cached, tags):
    tags = torch.from_numpy(tags)
    with torch.no_grad():
        expected = trained.net(batch["waveform"], tags)
    assert torch.equal(cached.output(tags).logits, expected.logits)
    assert torch.equal(cached.output(tags).attention_map, expected.attention_map)


def test_no_attention_gives_every_filter_the_mean_weight(trained, cached):
    out = cached.output(attention=False)
    assert torch.allclose(out.attention_map, torch.full((1, 128), 2 / 128), atol=1e-7)
    assert not torch.equal(out.logits, cached.output().logits)


def test_a_slider_moves_one_tag_and_reset_brings_back_the_stored_value(trained, cached):
    view = WhatIf(trained.tags)
    view.show(cached, SILENCE)
    assert torch.equal(view.tags, cached.tags)
    k = trained.tags.index(view.sliders[0].description)
    assert k == int(cached.tags.argmax()) and view.sliders[0].value == float(cached.tags[0, k])
    before = view.picture.value, view.readout.value
    view.sliders[0].value = 0.0
    assert view.tags[0, k] == 0 and torch.equal(view.tags[0, :k], cached.tags[0, :k])
    assert torch.equal(view.tags[0, k + 1 :], cached.tags[0, k + 1 :])
    assert view.picture.value != before[0] and f"changed: {trained.tags[k]}" in view.readout.value
    now = what_if.probabilities(cached.output(view.tags))[0]
    assert f"{trained.labels[now.argmax()]} {100 * now.max():.1f} %" in view.readout.value
    view.reset()
    assert torch.equal(view.tags, cached.tags) and view.sliders[0].value == float(cached.tags[0, k])
    assert (view.picture.value, view.readout.value) == before


def test_what_the_browser_sends_back_rounded_is_no_change(trained, cached):
    view = WhatIf(trained.tags)
    view.show(cached, SILENCE)
    for slider in view.sliders:
        slider.value = round(slider.value, 2)
    assert torch.equal(view.tags, cached.tags) and "changed" not in view.readout.value


def test_any_tag_by_its_name(trained, cached):
    view = WhatIf(trained.tags)
    view.show(cached, SILENCE)
    assert not {slider.description for slider in view.sliders} & set(view.other.options)
    view.other.value = name = view.other.options[-1]
    assert view.other_slider.value == float(cached.tags[0, trained.tags.index(name)])
    assert torch.equal(view.tags, cached.tags)
    view.other_slider.value = 1.0
    assert (
        view.tags[0, trained.tags.index(name)] == 1 and int((view.tags != cached.tags).sum()) == 1
    )


def test_the_picture_drawn_again_is_the_picture_drawn_anew(trained, cached):
    tags = cached.tags.clone()
    tags[0, 3] = 1.0
    scenes, own = what_if.answers(cached, None)
    changed, now = what_if.answers(cached, tags)
    first, again = what_if.WhatIfFigure(scenes, own, 2), what_if.WhatIfFigure(scenes, own, 2)
    stored = first.png()
    again.show(changed, now)
    first.show(changed, now)
    assert first.png() == again.png() != stored
    peak = np.where(np.arange(128) == 5, 0.9, 0.1 / 63)
    first.show(changed, peak)
    assert first.figure.axes[0].get_ylim()[1] > 0.9


def test_without_an_attention_map_the_probabilities_are_drawn_alone(trained):
    net = SceneNet(12, 10, "narrow", "codecat").eval()
    other = type(trained)(net, None, None, trained.about, None)
    inputs = {"waveform": torch.randn(1, 2, 48_000), "tags": torch.rand(1, 12)}
    cached = CachedClip.of(other, inputs)
    assert cached.output(attention=False).attention_map is None
    assert what_if.maps(net, np.zeros((2, 12), "float32")) is None
    assert len(what_if.what_if(cached).axes) == 1 and what_if.feature_maps(cached) is None
    view = WhatIf(trained.tags)
    view.show(cached, SILENCE)
    view.sliders[0].value = 0.5
    assert "changed" in view.readout.value


def test_sensitivity_is_the_slope_of_the_map(trained, saved):
    tags = saved.scenes.vectors.clips[:70]  # more than one part
    found = what_if.sensitivity(trained.net, tags, trained.tags)
    k, step = 4, 1e-2
    up, down = tags.copy(), tags.copy()
    up[:, k] += step
    down[:, k] -= step
    slope = (what_if.maps(trained.net, up) - what_if.maps(trained.net, down)) / (2 * step)
    by_hand = 100 * 0.1 * (slope / what_if.maps(trained.net, tags)).mean(0)
    assert found.shape == (12, 128) and np.allclose(found.iloc[k], by_hand, atol=0.02)
    assert found.iloc[k].abs().max() > 0.1


def test_maps_are_those_of_the_network_whatever_its_scale(saved):
    tags = saved.scenes.vectors.clips[:3]
    net = SceneNet(12, 10, "narrow", "attention", heads=2, layers=1, tag_scale="square_root").eval()
    net.tag_scale.fit(torch.from_numpy(saved.scenes.vectors.clips))
    with torch.no_grad():
        expected = net.fuse(torch.ones(3, 128, 4), torch.from_numpy(tags)).attention_map
    assert np.allclose(what_if.maps(net, tags), expected, atol=1e-6)


def test_distances_by_hand():
    weights = np.array([[1.0, 0, 0.5, 0.5], [1.0, 0, 0.5, 0.5], [0, 1.0, 0.5, 0.5]])
    apart = what_if.distances(weights, np.array([0, 0, 1]), ["bus", "park"], heads=2)
    assert (
        apart.loc["bus", "park"] == 50 and apart.loc["bus", "bus"] == 0
    )  # one head apart, one alike
    heads = what_if.by_head(weights, np.array([0, 0, 1]), ["bus", "park"], heads=2)
    assert heads.loc["bus"].tolist() == pytest.approx([100 / 3, 0])
    assert heads.loc["park"].tolist() == pytest.approx([200 / 3, 0])


def test_the_table_of_clips(trained, saved):
    table = what_if.clip_table(trained, saved.scenes, saved.evaluated)
    rows = saved.scenes.corpus.rows("test")
    assert (
        table["row"].tolist() == rows.tolist()
        and table["change"].between(0, 1).all()
        and table["change"].max() > 0
    )
    one = CachedClip.of(trained, saved.scenes.whole(rows[3:4]))
    apart = what_if.probabilities(one.output()) - what_if.probabilities(one.output(attention=False))
    assert table["change"][3] == pytest.approx(np.abs(apart).sum() / 2, abs=1e-6)
    assert (table["predicted"] == table["scene"]).equals(table["right"])


def test_the_explorer_shows_the_clips_that_the_filters_leave(trained, saved):
    view = Explorer(trained, saved.scenes, saved.evaluated)
    assert (
        view.clip.value == view.chosen()["row"].iloc[0]
        and view.chosen()["change"].is_monotonic_decreasing
    )
    assert view.features.value and view.sound.picture and view.sound.sound[:4] == b"RIFF"
    shown = view.what_if.cached.tags
    assert torch.equal(shown, saved.scenes.whole(np.array([view.clip.value]))["tags"])
    view.scene.value = scene = view.table["scene"].iloc[0]
    assert set(view.chosen()["scene"]) == {scene} and len(view.clip.options) == len(view.chosen())
    view.outcome.value, view.order.value = "wrong", "name"
    assert not view.chosen()["right"].any() and view.chosen()["filename"].is_monotonic_increasing
    view.outcome.value, view.city.value = "all", view.table["city"].iloc[-1]
    assert len(view.clip.options) == len(view.chosen())
    if len(view.chosen()):
        assert view.clip.value == view.chosen()["row"].iloc[0]


def test_recordings_are_classified_or_named_with_their_reason(saved, tmp_path):
    (tmp_path / "<b>good.wav").write_bytes(explorer.wav(np.ones((2, 120_000), "int16")))
    (tmp_path / "bad.wav").write_text("x")
    view = Recordings(saved.folder)
    view.path.value = str(tmp_path)
    assert (
        "&lt;b&gt;good.wav: " in view.report.value
        and "✗ bad.wav cannot be read as audio" in view.report.value
    )
    assert (
        view.recording.value == "<b>good.wav" and len(view.window.options) == 2 and view.line.value
    )
    first = view.what_if.cached
    view.window.value = 1
    assert view.what_if.cached is not first
    content = explorer.wav(np.ones((2, 48_000), "int16"))
    now = pd.Timestamp(0, tz="UTC").to_pydatetime()
    view.upload.value = (
        {"name": "up.wav", "type": "", "size": 1, "content": content, "last_modified": now},
    )
    assert view.recording.value == "up.wav" and view.report.value.startswith("up.wav: ")
    view.path.value = str(tmp_path / "nowhere.wav")
    assert "is missing" in view.report.value and view.recording.value == "up.wav"
    for path in ("~nobody-of-this-name/x", "a" * 300, " "):
        view.path.value = path
        assert view.report.value.startswith("✗ ") or view.report.value == "no file there"
    assert list(view.predictions) == ["<b>good.wav", "up.wav"]

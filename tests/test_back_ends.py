"""What names the scene of a code: SVM, logistic regression or softmax, and how one is chosen."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers import ATTENTION
from sklearn.metrics import accuracy_score
from torch.nn import functional as F

from asc_lib import back_ends, settings
from asc_lib.corpora import splits
from asc_lib.scene_net import SceneNet
from asc_lib.use import system


def with_recipe(scenes, **changes):
    return replace(scenes, recipe=replace(scenes.recipe, **changes))


def test_every_back_end_learns_what_is_plain_and_the_logistic_one_any_scale():
    rng = np.random.default_rng(0)
    targets = np.arange(60) % 3
    codes = rng.normal(size=(60, 4)) + 6 * np.eye(4)[targets]
    for name in (*back_ends.KERNELS, "logistic"):
        assert accuracy_score(targets, back_ends.fit(name, codes, targets).predict(codes)) > 0.95
    scaled = codes * [1, 1, 1, 1e-4] + [0, 0, 0, 5]
    fitted = back_ends.fit("logistic", scaled, targets)
    assert (
        fitted.predict(scaled) == back_ends.fit("logistic", codes, targets).predict(codes)
    ).all()


def test_balanced_weights_serve_the_rare_label():
    rng = np.random.default_rng(0)
    targets = np.r_[np.zeros(95, int), np.ones(5, int)]
    codes = rng.normal(size=(100, 1)) + targets[:, None]  # they overlap
    for name in ("rbf", "logistic"):
        found = [
            (back_ends.fit(name, codes, targets, weights).predict(codes)[95:] == 1).mean()
            for weights in ("none", "balanced")
        ]
        assert found[1] > found[0] + 0.2


def test_class_weights_of_the_loss_by_hand(tagged):
    counts = np.bincount(tagged.targets("train"), minlength=10)
    rows = tagged.corpus.rows("train")
    one = rows[tagged.targets("train") == 0]
    fewer = tagged.corpus.clips.copy()
    fewer.loc[one[: len(one) // 2], "split"] = "left out"  # label 0 becomes rarer
    scenes = with_recipe(tagged, class_weights="balanced")
    scenes = replace(scenes, corpus=replace(tagged.corpus, clips=fewer))
    counts[0] -= len(one) // 2
    by_hand = torch.from_numpy(counts.sum() / (10 * counts)).float()
    assert torch.allclose(scenes.class_weights, by_hand) and by_hand[0] > 1.4 * by_hand[1]
    net = SceneNet(0, 10, "narrow").eval()
    batch = scenes.inputs(rows[:4], np.zeros(4, int), 24_000) | {
        "targets": torch.eye(10)[[0, 1, 1, 2]]
    }
    batch["tags"] = torch.zeros(4, 0)
    logits = net(batch["waveform"], batch["tags"]).logits
    each = F.cross_entropy(logits, batch["targets"], reduction="none") * by_hand[[0, 1, 1, 2]]
    assert scenes.loss(net, batch).item() == pytest.approx(each.mean().item(), rel=1e-5)
    assert tagged.class_weights is None


def test_codes_of_the_training_clips_are_computed_once_for_the_same_weights(tagged, monkeypatch):
    net, computed = SceneNet(tagged.n_tags, 10, "narrow", "attention", heads=2), []
    monkeypatch.setattr(
        type(tagged), "outputs", lambda *_: computed.append(1) or (np.full(2, len(computed)), None)
    )
    scenes = replace(tagged)
    assert [scenes.training_codes(net)[0] for _ in range(2)] == [1, 1]
    net.output.bias = torch.nn.Parameter(torch.ones(10))
    assert scenes.training_codes(net)[0] == 2 and replace(scenes).training_codes(net)[0] == 3


def test_held_out_places_choose(tagged, tmp_path, monkeypatch, capsys):
    """The best on them, of a network that learns without them, in as many steps."""
    scenes = with_recipe(tagged, back_end="held_out", epochs=2, batch=20, crop=12_000)
    checked = settings.check("04_attention", **(ATTENTION | dict(tags="true")))
    seen = []
    train = type(scenes).train

    def spy(self, net, seed, checkpoint):
        seen.append(self)
        return train(self, net, seed, checkpoint)

    monkeypatch.setattr(type(scenes), "train", spy)
    found = scenes.back_end(checked, tmp_path / "run.safetensors")
    (judged,) = seen
    assert found.name == max(found.held_out, key=found.held_out.get)
    assert set(found.held_out) == set(back_ends.CANDIDATES)
    judges, learners = judged.corpus.rows("test"), judged.corpus.rows("train")
    assert {*judges, *learners} == {*tagged.corpus.rows("train")}  # no test clip among them
    places = judged.corpus.clips["location"]
    assert not {*places.iloc[judges]} & {*places.iloc[learners]}
    steps = [len(part.corpus.rows("train")) // 20 * part.recipe.epochs for part in (scenes, judged)]
    assert steps[0] <= steps[1] < steps[0] + steps[1] // judged.recipe.epochs
    again = scenes.back_end(checked, tmp_path / "run.safetensors")
    assert again == found and "resumed after" in capsys.readouterr().out
    assert tagged.back_end(checked).name == "rbf"  # the paper's


def test_where_places_are_too_few_it_is_the_softmax(tagged):
    scenes = with_recipe(tagged, back_end="held_out")
    few = replace(tagged.corpus, clips=tagged.corpus.clips.assign(location="one place"))
    assert replace(scenes, corpus=few).back_end(None).name == "softmax"
    many = with_recipe(scenes, batch=len(tagged.corpus.rows("train")))
    assert many.back_end(None).name == "softmax"


def test_few_places_are_held_out_with_every_label(small_mini):
    held = splits.judged(small_mini)
    for part in ("train", "test"):
        assert set(held.clips["scene_label"].iloc[held.rows(part)]) == set(small_mini.labels)


@pytest.mark.parametrize("name", ["logistic", "softmax"])
def test_a_system_answers_by_its_back_end(saved, name):
    with_it = saved.again(back_end=name)
    trained = system.load(with_it, "cpu")
    assert (with_it / system.BACK_END).is_file() == (name == "logistic")
    test = saved.evaluated[saved.evaluated["split"] == "test"].head(8)
    clips = np.array(saved.scenes.waveforms.waveforms[saved.scenes.corpus.rows("test")[:8]])
    assert trained.classify(clips).scenes.tolist() == test[name].tolist()
    assert back_ends.IN_WORDS[name] in system.card(trained.about)

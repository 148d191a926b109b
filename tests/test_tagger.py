"""The tagging network at full size, its folds, its loss and its augmentation."""

import numpy as np
import pandas as pd
import pytest
import torch
from sklearn.metrics import label_ranking_average_precision_score
from torch import nn
from torchvision.models import resnet34

from asc_lib import metrics, tagger
from asc_lib.corpora import TagCorpus
from asc_lib.scene_net import n_parameters

SMALL = tagger.TaggerSizes(bands=16, crop=20, widths=(4, 8), depths=(1, 1), folds=3, batch=8, epochs=40, lr=5e-3)


def corpus(clips=30):
    kinds = ["curated", "noisy", "test"] * (clips // 3)
    labels = [[name] for name in "ab" * (clips // 2)]
    return TagCorpus("made up", None, pd.DataFrame({"set": kinds, "labels": labels, "fold": -1}), ["a", "b"])


def test_full_size_is_resnet_34_with_two_heads():
    net = tagger.TaggingNet(80, tagger.TaggerSizes())
    assert n_parameters(net) == 24_592_224
    reference = resnet34(weights=None)
    reference.conv1 = nn.Conv2d(1, 64, 7, stride=2, padding=3, bias=False)
    reference.avgpool, reference.fc = nn.AdaptiveMaxPool2d(1), nn.Identity()
    ours = [v for k, v in net.state_dict().items() if k.startswith(("stem", "blocks"))]
    reference.load_state_dict(dict(zip(reference.state_dict(), ours, strict=True)))
    image = torch.randn(1, 128, 64)
    assert torch.allclose(net.eval().embed(image), reference.eval()(image.unsqueeze(1)), atol=1e-4)


def test_every_curated_clip_is_left_out_once():
    made_up = corpus()
    folds = tagger.fold_numbers(made_up, SMALL, seed=0)
    curated = (made_up.clips["set"] == "curated").to_numpy()
    assert set(folds[curated]) == {1, 2, 3} and set(folds[~curated]) == {-1}
    for fold in (1, 2, 3):
        rows = tagger.training_rows(made_up, folds, fold)
        assert not set(rows["curated"]) & set(np.flatnonzero(folds == fold))
        assert set(rows["noisy"]) == set(np.flatnonzero(made_up.clips["set"] == "noisy"))


def test_the_loss_adds_both_heads_on_their_own_clips():
    torch.manual_seed(0)
    net = tagger.TaggingNet(2, SMALL).eval()
    batch = {"curated": torch.randn(3, 16, 20), "noisy": torch.randn(3, 16, 20)}
    batch |= {f"{name}_targets": torch.rand(3, 2).round() for name in ("curated", "noisy")}
    p = net.curated(net.embed(batch["curated"])).sigmoid()
    q = net.noisy(net.embed(batch["noisy"])).sigmoid()
    t, u = batch["curated_targets"], batch["noisy_targets"]
    expected = -(t * p.log() + (1 - t) * (1 - p).log()).mean() - (u * q.log() + (1 - u) * (1 - q).log()).mean()
    assert tagger.multi_task_loss(net, batch).item() == pytest.approx(expected.item(), abs=1e-5)


def test_augmentation_changes_images_and_mixes_targets():
    mel, targets = torch.rand(8, 16, 20) + 0.01, torch.eye(8)
    mixed = masked = plain = 0
    for seed in range(40):
        torch.manual_seed(seed)
        image, changed = tagger.augmented(mel, targets, np.random.default_rng(seed))
        assert image.shape == mel.shape and torch.isfinite(image).all()
        assert torch.allclose(changed.sum(1), torch.ones(8), atol=1e-5)
        mixed += not torch.equal(changed, targets)
        masked += bool((image == 0).any())
        plain += torch.equal(changed, targets) and not (image == 0).any()
    assert 8 < mixed < 32 and 8 < masked < 32 and plain > 0


def test_a_tagger_learns_two_tones_and_is_saved(tmp_path):
    torch.manual_seed(0)
    made_up, mels = corpus(), []
    for labels in made_up.clips["labels"]:
        mel = torch.rand(16, 24) * 0.01
        mel[3 if labels == ["a"] else 11] += 1
        mels.append(mel)
    folds = tagger.fold_numbers(made_up, SMALL, seed=0)
    run = dict(epochs=SMALL.epochs, seed=0, checkpoints=tmp_path)
    trained, history = tagger.train(made_up, mels, folds, SMALL, **run)
    rows = np.flatnonzero(made_up.clips["set"] == "test")
    vectors = trained.tag_clips([mels[row] for row in rows], folds[rows])
    assert vectors.min() >= 0 and vectors.max() <= 1
    assert metrics.lwlrap(made_up.targets()[rows], vectors) > 0.9
    assert len(history) == 3 * 40
    trained.save(tmp_path / "saved")
    again = tagger.Tagger.load(tmp_path / "saved").tag_clips([mels[row] for row in rows], folds[rows])
    assert np.array_equal(vectors, again)


def test_lwlrap_is_sklearns_weighted_by_labels():
    rng = np.random.default_rng(0)
    targets, scores = (rng.random((50, 9)) < 0.25).astype(float), rng.random((50, 9))
    kept = targets.sum(1) > 0
    weights = targets[kept].sum(1)
    expected = label_ranking_average_precision_score(targets[kept], scores[kept], sample_weight=weights)
    assert metrics.lwlrap(targets, scores) == pytest.approx(expected)
    assert metrics.lwlrap(targets, targets) == 1
    low, high = metrics.lwlrap_interval(targets, scores)
    assert low < expected < high
    with pytest.raises(ValueError, match="at least one clip with a label"):
        metrics.lwlrap(np.zeros((2, 3)), np.ones((2, 3)))


def test_lwlrap_by_chance_of_single_labels():
    targets = np.eye(50)[np.repeat(np.arange(50), 8)]
    scores = np.random.default_rng(0).random(targets.shape)
    assert metrics.lwlrap_by_chance(targets, scores) == pytest.approx(np.mean(1 / np.arange(1, 51)), abs=0.01)


def test_the_interval_draws_whole_groups():
    correct = np.repeat([0.0, 1.0], 500)
    by_clip = metrics.interval(lambda rows: correct[rows].mean(), np.arange(1000))
    by_place = metrics.interval(lambda rows: correct[rows].mean(), np.repeat(np.arange(10), 100))
    assert by_clip[1] - by_clip[0] < 0.1 < 0.4 < by_place[1] - by_place[0]

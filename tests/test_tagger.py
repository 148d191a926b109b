"""The tagging network at full size, its folds, its loss and its augmentation."""

import os
from dataclasses import replace
from types import SimpleNamespace

import librosa
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from sklearn.metrics import label_ranking_average_precision_score

from asc_lib import stats
from asc_lib.corpora import TagCorpus, audio
from asc_lib.corpora.store import Store
from asc_lib.recipes import TaggerSizes
from asc_lib.scene_net import n_parameters
from asc_lib.tagging_net import MelSpectrogram, TaggingNet, standardised_decibels
from asc_lib.tags import sources, tag_data, tagger_training
from asc_lib.tags.tag_data import TagData
from asc_lib.tags.tagger import Tagger

SMALL = TaggerSizes(
    bands=16,
    crop=20,
    widths=(4, 8),
    depths=(1, 1),
    folds=3,
    batch=8,
    epochs=12,
    cycles=2,
    second_cycles=1,
    lr=5e-3,
)


def corpus(clips=30):
    kinds = ["curated", "noisy", "test"] * (clips // 3)
    labels = [[name] for name in "ab" * (clips // 2)]
    table = pd.DataFrame(
        {"fname": [f"{k}.wav" for k in range(clips)], "set": kinds, "labels": labels, "fold": -1}
    )
    return TagCorpus("made up", None, table, ["a", "b"])


def two_tones(made_up):
    """Linear mel power of clips in which one of two bands sounds."""
    torch.manual_seed(0)
    mels = [torch.rand(16, 24) * 0.01 for _ in made_up.clips["labels"]]
    for mel, labels in zip(mels, made_up.clips["labels"]):
        mel[3 if labels == ["a"] else 11] += 1
    return mels


def made_up_data(supervision="pseudo_labels", **changes):
    made_up = corpus()
    return TagData(
        made_up,
        two_tones(made_up),
        tag_data.fold_numbers(made_up, SMALL, 0),
        replace(SMALL, **changes),
        supervision,
    )


def test_full_size_is_resnet_34_with_two_heads():
    torch.manual_seed(0)
    net = TaggingNet(80, TaggerSizes()).eval()
    assert n_parameters(net) == 24_592_224
    image = torch.linspace(-1, 1, 128 * 64).view(1, 128, 64) ** 3
    of_torchvision = [0.028899, 0.011900, 0.002096, 0.007407, 0.016332]  # resnet34, same weights
    assert net.embed(image)[0, :5].tolist() == pytest.approx(of_torchvision, rel=1e-3)


def test_every_curated_clip_is_left_out_once():
    made_up = corpus()
    folds = tag_data.fold_numbers(made_up, SMALL, seed=0)
    curated = (made_up.clips["set"] == "curated").to_numpy()
    assert set(folds[curated]) == {1, 2, 3} and set(folds[~curated]) == {-1}
    for fold in (1, 2, 3):
        rows = tag_data.training_rows(made_up, folds, fold)
        assert not set(rows["curated"]) & set(np.flatnonzero(folds == fold))
        assert set(rows["noisy"]) == set(np.flatnonzero(made_up.clips["set"] == "noisy"))


def test_the_loss_adds_what_each_stage_adds():
    torch.manual_seed(0)
    net = TaggingNet(2, SMALL).eval()
    batch = {"curated": torch.randn(3, 16, 20), "curated_targets": torch.rand(3, 2).round()}
    p, t = net.curated(net.embed(batch["curated"])).sigmoid(), batch["curated_targets"]
    expected = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
    assert tagger_training.loss(net, batch).item() == pytest.approx(expected.item(), abs=1e-5)
    batch |= {"noisy": torch.randn(3, 16, 20), "noisy_targets": torch.rand(3, 2).round()}
    q, u = net.noisy(net.embed(batch["noisy"])).sigmoid(), batch["noisy_targets"]
    expected = expected - (u * q.log() + (1 - u) * (1 - q).log()).mean()
    assert tagger_training.loss(net, batch).item() == pytest.approx(expected.item(), abs=1e-5)
    batch["pseudo"] = torch.rand(3, 2)
    heard = net.curated(net.embed(batch["noisy"])).sigmoid()
    expected = expected + 20 * ((heard - batch["pseudo"]) ** 2).sum() / 6
    assert tagger_training.loss(net, batch).item() == pytest.approx(expected.item(), abs=1e-4)


def test_soft_pseudo_labels():
    p = np.random.default_rng(0).random((6, 10, 4))  # six teachers
    labels = tagger_training.soft_pseudo_labels(p)
    for clip in range(10):
        mean = [sum(p[teacher, clip, k] for teacher in range(6)) / 6 for k in range(4)]
        assert np.allclose(labels[clip], [m**2 / sum(m**2 for m in mean) for m in mean])


def test_teachers_are_all_networks_or_those_that_heard_nothing_of_the_fold():
    data = made_up_data()
    assert data.networks == [1, 2, 3] and data.teachers(2) == [1, 2, 3]
    own = data.corpus.clips.assign(fold=np.resize([1, 1, 1, 2, 2, 2], len(data.corpus.clips)))
    data = replace(data, corpus=replace(data.corpus, clips=own), folds=own["fold"].to_numpy())
    assert data.networks == [1, 2] and data.teachers(2) == [2]


def test_slices_are_excerpts_of_their_clips():
    clips = [torch.arange(float(n)).expand(4, n) + 1000 * n for n in (20, 30, 50)]
    lengths = set()
    for seed in range(60):
        rows = np.array([2, 0, 1, 1])
        images = tag_data.slices(clips, rows, 20, np.random.default_rng(seed))
        lengths.add(images.shape[-1])
        for row, image in zip(rows, images):
            assert (image[:, 1:] - image[:, :-1] == 1).all() and (
                image[0] // 1000 == len(clips[row][0])
            ).all()
            assert image[0, -1] % 1000 < clips[row].shape[1]
    assert min(lengths) >= 10 and max(lengths) == 20 and len(lengths) > 5


def test_augmentation_acts_on_each_clip_half_of_the_time():
    mel, targets = torch.rand(400, 64, 20) + 0.01, torch.eye(400)
    image, changed = tag_data.augmented(mel, {"targets": targets}, np.random.default_rng(0))
    assert image.shape == mel.shape and torch.isfinite(image).all()
    share = changed["targets"].diagonal()
    assert torch.allclose(changed["targets"].sum(1), torch.ones(400), atol=1e-5)
    mixed = share < 1
    assert 0.4 < mixed.float().mean() < 0.6
    masked = (image == 0).all(2)  # [clips, bands]
    widths = masked.sum(1)[masked.any(1)]
    assert 0.4 < masked.any(1).float().mean() < 0.6 and widths.max() <= 2 * 31 / 128 * 64 + 1
    inner = masked.any(1) & ~masked[:, 0] & ~masked[:, -1]  # masks that no edge cuts
    assert masked[inner].sum(1).min() >= 2 * 8 / 128 * 64 - 1
    plain = ~mixed & ~masked.any(1)
    assert torch.allclose(
        image[plain], standardised_decibels(mel[plain]), atol=1e-4
    )  # gain alone is undone
    clip = int(torch.nonzero(mixed & ~masked.any(1))[0])
    partner = int(changed["targets"][clip].masked_fill(torch.arange(400) == clip, 0).argmax())
    powers = torch.stack([mel[clip].ravel(), mel[partner].ravel()], 1).double().numpy()
    ours = image[clip].ravel().double().numpy()
    ratio = float(
        share[clip] / (1 - share[clip])
    )  # before the gains, which are within 0.81 and 1.21
    fits = [
        np.corrcoef(ours, np.log(powers @ [ratio * g, 1]))[0, 1]
        for g in np.linspace(0.66, 1.5, 169)
    ]
    assert max(fits) > 1 - 1e-5


@pytest.mark.parametrize("supervision", tag_data.SUPERVISION)
def test_what_a_batch_holds(supervision):
    data = made_up_data(supervision)
    pseudo = torch.rand(30, 2) if supervision == "pseudo_labels" else None
    batches = list(data.batches(1, stage=2, epoch=1, pseudo=pseudo))
    assert len(batches) == len(tag_data.training_rows(data.corpus, data.folds, 1)["curated"]) // 4
    noisy = {"noisy", "noisy_targets"} if supervision != "curated" else set()
    assert set(batches[0]) == {"curated", "curated_targets"} | noisy | (
        {"pseudo"} if pseudo is not None else set()
    )


def test_a_tagger_learns_two_tones_and_is_saved(tmp_path):
    data = made_up_data()
    stages, history = tagger_training.train(data, tmp_path)
    rows = np.flatnonzero(data.corpus.clips["set"] == "test")
    vectors = stages[-1].tag_clips([data.mels[row] for row in rows], data.folds[rows])
    assert vectors.min() >= 0 and vectors.max() <= 1
    assert stats.lwlrap(data.corpus.targets()[rows], vectors) > 0.9
    assert history.groupby("stage").size().to_dict() == {1: 3 * 24, 2: 3 * 12}
    assert len(list(tmp_path.glob("fold*-cycle*.npy"))) == 3 * 2
    stages[-1].save(tmp_path / "saved")
    again = Tagger.load(tmp_path / "saved").tag_clips(
        [data.mels[row] for row in rows], data.folds[rows]
    )
    assert np.array_equal(vectors, again)


def test_stage_2_learns_what_the_teachers_say(tmp_path):
    plain, taught = (
        made_up_data(supervision, epochs=1) for supervision in ("noisy", "pseudo_labels")
    )
    (one, _), _ = tagger_training.train(plain, tmp_path / "noisy")
    (same, after), _ = tagger_training.train(taught, tmp_path / "pseudo")
    vectors = [t.tag_clips(taught.mels, taught.folds) for t in (one, same, after)]
    assert np.array_equal(vectors[0], vectors[1]) and not np.allclose(vectors[1], vectors[2])
    # with teachers that always say "a", so does stage 2
    for file in (tmp_path / "pseudo").glob("fold*-cycle*.npy"):
        np.save(file, np.tile(np.array([0.9, 0.1], "float32"), (10, 1)))
    for file in (tmp_path / "pseudo").glob("*stage2*"):
        file.unlink()
    swayed = replace(taught, sizes=replace(SMALL, epochs=1, second_cycles=25))
    (_, after), _ = tagger_training.train(swayed, tmp_path / "pseudo")
    noisy = np.flatnonzero(taught.corpus.clips["set"] == "noisy")
    loud = after.tag_clips([taught.mels[row] for row in noisy], taught.folds[noisy])
    assert loud[:, 0].mean() > vectors[1][noisy, 0].mean() + 0.1


def test_a_tagger_cut_short_ends_as_if_it_had_not_been(tmp_path, monkeypatch):
    """And networks trained in processes of their own are those trained in turn in this one."""
    data = made_up_data(epochs=2)
    monkeypatch.setattr(tagger_training, "processes", lambda: 2)
    whole, _ = tagger_training.train(data, tmp_path / "whole")
    monkeypatch.setattr(tagger_training, "processes", lambda: 1)
    calls, fit = [], tagger_training.training.fit

    def cut(*given, **options):
        calls.append(options["epochs"])
        if len(calls) == 5:  # in stage 2
            raise KeyboardInterrupt
        return fit(*given, **options)

    monkeypatch.setattr(tagger_training.training, "fit", cut)
    with pytest.raises(KeyboardInterrupt):
        tagger_training.train(data, tmp_path / "cut")
    monkeypatch.setattr(tagger_training.training, "fit", fit)
    resumed, _ = tagger_training.train(data, tmp_path / "cut")
    for a, b in zip(whole, resumed):
        assert np.array_equal(
            a.tag_clips(data.mels, data.folds), b.tag_clips(data.mels, data.folds)
        )


def test_a_network_whose_main_process_was_killed_stops_after_an_epoch(tmp_path):
    with pytest.raises(SystemExit):
        tagger_training._fit(made_up_data(), TaggingNet(2, SMALL), 1, 1, tmp_path, run_by=1)
    assert not any(tmp_path.iterdir())


def test_the_learning_rate_falls_along_cosines_that_start_again(tmp_path):
    data, rates, step = made_up_data(epochs=4), [], torch.optim.Adam.step
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.optim.Adam,
            "step",
            lambda self: rates.append(self.param_groups[0]["lr"]) or step(self),
        )
        tagger_training._fit(data, TaggingNet(2, SMALL), 1, 1, tmp_path, os.getpid())
    expected = [
        1e-6 + (SMALL.lr - 1e-6) * (1 + np.cos(np.pi * k / 4)) / 2 for k in (0, 1, 2, 3)
    ] * 2
    assert np.allclose(rates, np.repeat(expected, len(rates) // 8))


def test_a_stereo_scene_at_48_khz_is_tagged_by_the_networks_that_may():
    torch.manual_seed(0)
    sizes = replace(SMALL, bands=32, n_fft=1024, hop=512, crop=114)  # a window: 0.99 s
    nets = {fold: TaggingNet(3, sizes) for fold in (1, 2)}
    rng = np.random.default_rng(0)
    clips = (3000 * rng.standard_normal((3, 2, 48_000))).astype("int16")
    scenes = SimpleNamespace(clips=pd.DataFrame({"fold": [1, 5, 2]}))
    tagger = Tagger(nets, list("abc"), sizes)
    vectors = tagger.tag_scenes(scenes, Store(clips, ""), np.arange(3))
    own = []
    for clip in clips:
        mono = librosa.resample(
            (clip[0] / 2.0 + clip[1] / 2.0) / 2**15, orig_sr=48_000, target_sr=44_100
        )
        options = dict(
            sr=44_100,
            n_fft=1024,
            hop_length=512,
            n_mels=32,
            fmin=20,
            fmax=22_050,
            pad_mode="reflect",
        )
        mono = mono[: round(tagger.length * 44_100)]
        decibels = 10 * np.log10(librosa.feature.melspectrogram(y=mono, **options))
        image = torch.from_numpy((decibels - decibels.mean()) / decibels.std(ddof=1)).float()
        with torch.no_grad():
            own.append([net.eval()(image[None]).sigmoid()[0].numpy() for net in nets.values()])
    # One network each, though two have not heard the second clip: as for the others.
    assert np.allclose(vectors[:, 0], [own[0][0], own[1][1], own[2][1]], atol=2e-3)
    assert tagger.like_scenes(scenes).used == 1
    assert np.abs(own[0][0] - own[0][1]).max() > 0.01


def test_scenes_that_notebook_01_has_tagged_are_not_tagged_again(tagged, tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_DATA", str(tmp_path))
    tagger, data = tagged.vectors.tagger, (tagged.corpus, tagged.waveforms)
    found = sources.of_scenes(tagger, "mini-tagger-0", *data)
    kept = (tagger, {"stage 2": {"test": {"lwlrap": 0.5}}}, "mini-tagger-0")
    monkeypatch.setattr(sources, "default_tagger", lambda data_set: kept)
    monkeypatch.setattr(Tagger, "tag_scenes", lambda *_: pytest.fail("tagged again"))
    again = sources.open_tag_vectors("tagger", *data)
    assert again.fingerprint == found.fingerprint and again.lwlrap == {"lwlrap": 0.5}


def test_evaluated_clips_and_their_figures():
    data = made_up_data()
    evaluated, targets, scores = tagger_training.evaluate(TwoTones(), data)
    assert set(evaluated["set"]) == {"test", "curated"} and len(evaluated) == 20
    assert evaluated["top"].mean() == 0.5
    found = tagger_training.figures(evaluated, targets, scores)["test"]
    rows = np.flatnonzero(evaluated["set"] == "test")
    assert found["accuracy"] == 0.5 and found["clips"] == found["recordings"] == 10
    lwlrap = pytest.approx(stats.lwlrap(targets[rows], scores[rows]))
    assert found["lwlrap"] == lwlrap == pytest.approx(0.75)
    assert found["interval"][0] < 0.75 < found["interval"][1]
    shared = evaluated.assign(recording=evaluated["fname"].str[0])
    together = tagger_training.figures(shared, targets, scores)["test"]["interval"]
    assert together[1] - together[0] != pytest.approx(found["interval"][1] - found["interval"][0])


class TwoTones:
    """A tagger that always hears "a"."""

    def tag_clips(self, mels, folds):
        return np.tile([0.9, 0.1], (len(mels), 1))


def test_lwlrap_is_sklearns_weighted_by_labels():
    rng = np.random.default_rng(0)
    targets = (rng.random((50, 9)) < 0.25).astype(float)
    kept = targets.sum(1) > 0
    weights = targets[kept].sum(1)
    for scores in (rng.random((50, 9)), rng.integers(3, size=(50, 9)) / 2):  # the second has ties
        by_clip = [
            label_ranking_average_precision_score(right[None], given[None])
            for right, given in zip(targets[kept], scores[kept])
        ]
        found, labels = stats.lrap_by_clip(targets, scores)
        assert found == pytest.approx(by_clip) and (labels == weights).all()
        expected = label_ranking_average_precision_score(
            targets[kept], scores[kept], sample_weight=weights
        )
        assert stats.lwlrap(targets, scores) == pytest.approx(expected)
    assert stats.lwlrap(targets, targets) == 1
    with pytest.raises(ValueError, match="at least one clip with a label"):
        stats.lwlrap(np.zeros((2, 3)), np.ones((2, 3)))


def test_lwlrap_by_chance_of_single_labels():
    targets = np.eye(50)[np.repeat(np.arange(50), 8)]
    scores = np.random.default_rng(0).random(targets.shape)
    assert stats.lwlrap_by_chance(targets, scores) == pytest.approx(
        np.mean(1 / np.arange(1, 51)), abs=0.01
    )


def test_mels_are_computed_once_and_short_clips_repeated(tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_DATA", str(tmp_path))
    sizes = TaggerSizes(bands=16, n_fft=512, hop=347, crop=20)
    rng, paths = np.random.default_rng(0), [tmp_path / f"{k}.wav" for k in range(70)]
    for k, path in enumerate(paths):
        soundfile.write(path, 0.1 * rng.standard_normal(347 * (5 + k)), 44_100)
    made_up = TagCorpus("made up", tmp_path, pd.DataFrame({"path": paths}), ["a"])
    mels = tag_data.tag_mels(made_up, sizes)
    mel = MelSpectrogram(sizes)
    for k in (0, 3, 13, 14, 64, 69):
        one = mel(torch.from_numpy(audio.read(paths[k], 44_100, 1)[0]).float() / 2**15)
        repeats = -(-20 // one.shape[1])
        assert torch.equal(mels[k], one.repeat(1, repeats)) and mels[k].shape[1] >= 20
    monkeypatch.setattr(audio, "read", lambda *_: pytest.fail("read again"))
    again = tag_data.tag_mels(made_up, sizes)
    assert all(torch.equal(a, b) for a, b in zip(mels, again))

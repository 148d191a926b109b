"""The training loop: mixup, seeds, and a run that is killed and resumed."""

import itertools
import signal
import subprocess
import sys
import time
from dataclasses import asdict, replace

import numpy as np
import pytest
import scipy.signal
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from asc_lib import recipes, training
from asc_lib.corpora.store import Store
from asc_lib.files import REPOSITORY
from asc_lib.recipes import CP_RESNET, SceneRecipe
from asc_lib.scene_net import SceneNet
from asc_lib.scenes import SceneData
from asc_lib.tags.windows import TagVectors


def test_mixup_is_the_sum_of_two_clips_weighted():
    rng = np.random.default_rng(0)
    a, y = rng.standard_normal((5, 2, 7)).astype("float32"), np.eye(5, dtype="float32")
    batch = {"x": torch.from_numpy(a), "y": torch.from_numpy(y)}
    for share in (0.3, np.array([0.0, 0.25, 0.5, 0.75, 1.0])):
        mixed = training.mix(batch, share, np.random.default_rng(3))
        pairs = np.random.default_rng(3).permutation(5)
        for clip, (own, other) in enumerate(zip(np.broadcast_to(share, 5), pairs)):
            assert np.allclose(mixed["x"][clip], own * a[clip] + (1 - own) * a[other], atol=1e-6)
            assert np.allclose(mixed["y"][clip], own * y[clip] + (1 - own) * y[other])


def fit(checkpoint=None, epochs=4, seed=0, averaged=False, steps=0):
    torch.manual_seed(seed)
    net = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 1))
    optimiser = torch.optim.Adam(net.parameters(), 1e-2, amsgrad=True)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, 4)

    def batches(epoch):
        rng = training.epoch_generator(seed, epoch)
        for _ in range(3):
            yield {"x": torch.from_numpy(rng.standard_normal((16, 3))).float()}

    def loss(net, batch):
        return (net(batch["x"]) - batch["x"].sum(1, keepdim=True)).square().mean()

    options = dict(epochs=epochs, checkpoint=checkpoint, schedule=schedule, steps=steps)
    if averaged:
        options |= dict(average=AveragedModel(net, use_buffers=True), average_from=1 / epochs)
    return training.fit(net, batches, loss, optimiser, **options), net


def test_the_time_left_is_told_where_it_is_minutes(monkeypatch, capsys):
    clock = itertools.count(step=30)
    monkeypatch.setattr(training.time, "perf_counter", lambda: next(clock))
    fit(steps=3)  # of 30 s each by this clock
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "training:  about 6 min left"  # 4 epochs of 3 steps
    assert lines[1].startswith("epoch   1 of 4  loss ") and lines[1].endswith("min left")
    assert lines[-1].startswith("epoch   4 of 4  loss ") and not lines[-1].endswith("left")
    monkeypatch.undo()
    fit(steps=3)
    assert "left" not in capsys.readouterr().out


def test_the_same_seed_gives_the_same_run():
    (first, net), (second, other) = fit(), fit()
    assert first["loss"].tolist() == second["loss"].tolist()
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values())
    )
    assert fit(seed=1)[0]["loss"].tolist() != first["loss"].tolist()


def test_a_run_cut_short_ends_as_if_it_had_not_been(tmp_path, capsys):
    whole, net = fit()
    fit(tmp_path / "c.safetensors", epochs=2)
    resumed, other = fit(tmp_path / "c.safetensors")
    assert "resumed after epoch 2 of 4" in capsys.readouterr().out
    assert resumed["loss"].tolist() == whole["loss"].tolist()
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values())
    )


def test_averaged_weights_and_statistics_are_the_mean_over_the_last_epochs(tmp_path):
    _, net = fit(averaged=True)
    ends = [fit(epochs=epochs)[1].state_dict() for epochs in (2, 3, 4)]  # all but the first
    floating = {name: v for name, v in net.state_dict().items() if v.is_floating_point()}
    for name, value in floating.items():
        mean = torch.stack([end[name].double() for end in ends]).mean(0)
        assert torch.allclose(value.double(), mean, atol=1e-6), name
    checkpoint = tmp_path / "c.safetensors"
    with pytest.raises(InterruptedError):
        fit_until(checkpoint, 3)
    again = fit(checkpoint, averaged=True)[1]
    assert len(again.state_dict()) == len(net.state_dict())
    assert all(
        torch.equal(a, b) for a, b in zip(net.state_dict().values(), again.state_dict().values())
    )


def fit_until(checkpoint, epoch):
    """Averaged training that is cut short after an epoch is saved."""
    save = training.save_checkpoint

    def cut(path, nets, optimiser, schedule, history):
        save(path, nets, optimiser, schedule, history)
        if len(history) == epoch:
            raise InterruptedError

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(training, "save_checkpoint", cut)
        fit(checkpoint, averaged=True)


def test_the_learning_rate_of_cp_resnet():
    optimiser = torch.optim.SGD([torch.zeros(1)], 1e-4)
    schedule = training.SCHEDULES["linear"](optimiser, 35)
    rates = []
    for _ in range(35):
        rates.append(optimiser.param_groups[0]["lr"])
        optimiser.step()
        schedule.step()
    assert rates[:6] == [1e-4] * 6 and rates[25:] == pytest.approx([1e-6] * 10)
    assert np.diff(rates[5:26]) == pytest.approx([-99e-6 / 20] * 20)


def test_roll_turns_each_excerpt_round():
    waveforms = torch.arange(2 * 2 * 200_000).reshape(2, 2, 200_000).float()
    rolled = training.roll(waveforms, np.random.default_rng(0))
    shifts = []
    for before, after in zip(waveforms, rolled):
        shift = int((after[0] == before[0, 0]).nonzero())
        assert torch.equal(after, before.roll(shift, -1))
        shifts.append(shift - 200_000 if shift > 100_000 else shift)
    assert shifts[0] != shifts[1] and max(map(abs, shifts)) <= 55_680


def test_crop_pad_leaves_a_stretch_and_zeros_around():
    waveforms = 1 + torch.rand(200, 2, 100)
    padded = training.crop_pad(waveforms, np.random.default_rng(0))
    assert torch.equal(padded, torch.where(padded != 0, waveforms, 0))
    assert torch.equal(padded[:, 0] != 0, padded[:, 1] != 0)
    changes = (padded[:, 0] != 0).diff(
        dim=1, prepend=torch.zeros(200, 1), append=torch.zeros(200, 1)
    )
    assert (changes.abs().sum(1) == 2).all()  # one stretch
    lengths = (padded[:, 0] != 0).sum(1)
    assert lengths.min() >= 50 and lengths.max() == 100 and lengths.unique().numel() > 30
    assert (padded[:, 0, 0] != 0).any() and (padded[:, 0, -1] != 0).any()


def test_the_recipe_of_cp_resnet(small_mini, monkeypatch):
    data = scene_data(small_mini)
    recipe = SceneRecipe(**CP_RESNET | dict(batch=24, crop=10_000, epochs=7))
    ours = replace(data, recipe=recipe)
    seen = []
    monkeypatch.setattr(
        training, "mix", lambda batch, share, rng: seen.append((batch, share)) or batch
    )
    next(ours.training_batches(0, 1))
    ((batch, shares),) = seen
    assert shares.shape == (24,) and (shares >= 0.5).all() and len(set(shares)) == 24
    plain = replace(ours, recipe=replace(recipe, augmentation="none"))
    excerpt = next(plain.training_batches(0, 1))["waveform"][0, 0].sort().values
    assert torch.equal(batch["waveform"][0, 0].sort().values, excerpt)
    assert not ours.optimiser(nn.Linear(1, 1)).defaults["amsgrad"]
    assert data.optimiser(nn.Linear(1, 1)).defaults["amsgrad"]
    net = SceneNet(4, front_end="narrow", fusion="before_code", layers=0)
    averaged = []
    monkeypatch.setattr(
        training.AveragedModel, "update_parameters", lambda self, net: averaged.append(net)
    )
    ours.train(net, seed=0)
    assert len(averaged) == 2  # of 7 epochs


def test_fields_that_older_recipes_lacked_are_named_only_where_they_differ():
    assert not {"amsgrad", "augmentation", "average_from"} & recipes.described(SceneRecipe()).keys()
    named = recipes.described(replace(SceneRecipe(), augmentation="crop_pad"))
    assert named == recipes.described(SceneRecipe()) | {"augmentation": "crop_pad"}
    assert recipes.described(recipes.SMALL_TAGGER) == asdict(recipes.SMALL_TAGGER)


def test_a_loss_that_is_not_finite_stops_the_run():
    net = nn.Linear(1, 1)
    optimiser = torch.optim.SGD(net.parameters(), 1.0)
    with pytest.raises(FloatingPointError, match="nan in epoch 1"):
        training.fit(
            net,
            lambda e: [{}],
            lambda n, b: n(torch.full((1, 1), np.nan)).sum(),
            optimiser,
            epochs=1,
        )


def scene_data(corpus):
    rng = np.random.default_rng(0)
    waveforms = Store(
        rng.integers(-3000, 3000, (len(corpus.clips), 2, 12_000)).astype("int16"), "noise"
    )
    recipe = SceneRecipe(epochs=5, crop=10_000, batch=24, eval_every=2, mixup_from=2)
    values = rng.random((len(corpus.clips), 1, 4)).astype("float32")
    vectors = TagVectors(values, list("abcd"), "random")
    return SceneData(corpus, waveforms, vectors, recipe, "cpu")


def test_excerpts_of_a_training_epoch(small_mini):
    data = scene_data(small_mini)
    first, again, mixed = (list(data.training_batches(0, epoch)) for epoch in (1, 1, 2))
    assert len(first) == 90 // 24
    for batch, same in zip(first, again):
        assert batch["waveform"].shape == (24, 2, 10_000) and batch["tags"].shape == (24, 4)
        assert all(torch.equal(batch[name], same[name]) for name in batch)
        assert set(batch["targets"].unique().tolist()) == {0.0, 1.0}
    soft = torch.cat([batch["targets"] for batch in mixed])
    assert (
        torch.allclose(soft.sum(1), torch.ones(len(soft)), atol=1e-5)
        and ((soft > 0) & (soft < 1)).any()
    )


def test_crops_are_pre_emphasised_excerpts_of_their_clips(small_mini):
    data = scene_data(small_mini)
    raw = data.waveforms.waveforms / 2**15
    whole = 32_000 * scipy.signal.lfilter([1, -0.97], [1], raw)[..., 1:]  # [clips, 2, 11,999]
    seen = set()
    for batch in data.training_batches(0, 1):
        for crop, tags, target in zip(
            batch["waveform"].numpy(), batch["tags"].numpy(), batch["targets"]
        ):
            (clip,) = np.flatnonzero((data.vectors.clips == tags).all(1))
            found = np.isclose(whole[clip, :, :2000], crop[:, :1], atol=0.01).all(0)
            (start,) = np.flatnonzero(found)
            assert np.allclose(crop, whole[clip, :, start : start + 10_000], atol=0.01)
            assert small_mini.clips["split"][clip] == "train"
            assert small_mini.labels[int(target.argmax())] == small_mini.clips["scene_label"][clip]
            seen.add((clip, start))
    assert (
        len({clip for clip, _ in seen}) == len(seen) == 72
        and len({start for _, start in seen}) > 50
    )
    test = data.whole(np.array([5]))["waveform"].numpy()
    assert np.allclose(test, whole[[5]], atol=0.01)


def test_evaluated_clips_are_those_outside_the_train_list(small_mini):
    data = scene_data(small_mini)
    net = SceneNet(4, front_end="narrow", fusion="before_code", layers=0)
    history = data.train(net, seed=0)
    evaluated = data.evaluate(net)
    assert set(evaluated["split"]) == {"test", "unused"} and len(evaluated) == 100
    assert list(history["test_rbf"].notna()) == [False, True, False, True, False]
    train = set(small_mini.clips.query("split == 'train'")["filename"])
    assert not train & set(evaluated["filename"])


def test_bfloat16_rounds_layers_and_keeps_weights_and_results_in_float32(small_mini):
    exact = scene_data(small_mini)
    rounded = replace(exact, recipe=replace(exact.recipe, precision="bfloat16"))
    torch.manual_seed(0)
    net = SceneNet(4, front_end="narrow", fusion="combined_shared", heads=4, layers=1)
    batch = next(exact.training_batches(0, 1))
    losses = [data.loss(net.train(), batch) for data in (exact, rounded)]
    assert losses[1].dtype == torch.float32 and 0 < abs(losses[0] - losses[1]) < 0.02
    (codes, probabilities), (rounded_codes, rounded_probabilities) = (
        data.outputs(net, np.arange(6)) for data in (exact, rounded)
    )
    assert rounded_codes.dtype == rounded_probabilities.dtype == np.float32
    assert 0 < np.abs(codes - rounded_codes).max() < 0.05 * np.abs(codes).max()
    assert np.abs(probabilities - rounded_probabilities).max() < 0.02
    training.step(net, batch, rounded.loss, rounded.optimiser(net))
    assert {p.dtype for p in net.parameters()} == {torch.float32}


KILLED = """
import sys, torch
from pathlib import Path
from tests.test_training import fit
history, net = fit(Path(sys.argv[1]), epochs=150)
print(repr(history["loss"].iloc[-1]))
"""


def test_kill_9_in_mid_run(tmp_path):
    def start():
        command = [sys.executable, "-c", KILLED, str(tmp_path / "cut")]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)

    history, _ = fit(tmp_path / "whole", epochs=150)
    killed = start()
    while not (tmp_path / "cut").exists():
        time.sleep(0.02)
    time.sleep(0.3)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    resumed, _ = start().communicate(timeout=300)
    assert "resumed after epoch" in resumed
    assert resumed.strip().splitlines()[-1] == repr(history["loss"].iloc[-1])


def test_prefetched_batches_are_the_same():
    def batches():
        for k in range(5):
            yield {"x": torch.tensor([k])}

    assert [int(batch["x"]) for batch in training.prefetched(batches())] == [0, 1, 2, 3, 4]
    assert list(training.prefetched([])) == []

    def broken():
        yield {"x": torch.tensor([1])}
        raise OSError("gone")

    source = training.prefetched(broken())
    assert int(next(source)["x"]) == 1
    with pytest.raises(OSError, match="gone"):
        next(source)

"""The training loop: mixup, seeds, and a run that is killed and goes on."""

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from asc_lib import training
from asc_lib.artefacts import REPOSITORY
from asc_lib.recipe import SceneData, SceneRecipe
from asc_lib.scene_net import SceneNet
from asc_lib.store import Store


def test_mixup_blends_every_value_alike():
    a = torch.arange(5.0)
    mixed = training.mix({"x": a, "y": 2 * a.unsqueeze(1)}, 0.5, np.random.default_rng(3))
    assert torch.allclose(mixed["y"][:, 0], 2 * mixed["x"])
    rng = np.random.default_rng(3)
    share, pairs = rng.beta(0.5, 0.5), torch.from_numpy(rng.permutation(5))
    assert torch.allclose(mixed["x"], share * a + (1 - share) * a[pairs])


def fit(checkpoint=None, epochs=4, seed=0):
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

    options = dict(epochs=epochs, checkpoint=checkpoint, schedule=schedule)
    return training.fit(net, batches, loss, optimiser, **options), net


def test_the_same_seed_gives_the_same_run():
    (first, net), (second, other) = fit(), fit()
    assert first["loss"].tolist() == second["loss"].tolist()
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values()))
    assert fit(seed=1)[0]["loss"].tolist() != first["loss"].tolist()


def test_a_run_cut_short_ends_as_if_it_had_not_been(tmp_path, capsys):
    whole, net = fit()
    fit(tmp_path / "c.safetensors", epochs=2)
    resumed, other = fit(tmp_path / "c.safetensors")
    assert "resumed after epoch 2 of 4" in capsys.readouterr().out
    assert resumed["loss"].tolist() == whole["loss"].tolist()
    assert all(torch.equal(a, b) for a, b in zip(net.state_dict().values(), other.state_dict().values()))


def test_a_loss_that_is_not_finite_stops_the_run():
    net = nn.Linear(1, 1)
    optimiser = torch.optim.SGD(net.parameters(), 1.0)
    with pytest.raises(FloatingPointError, match="nan in epoch 1"):
        training.fit(net, lambda e: [{}], lambda n, b: n(torch.full((1, 1), np.nan)).sum(), optimiser, epochs=1)


def scene_data(corpus):
    rng = np.random.default_rng(0)
    waveforms = Store(rng.integers(-3000, 3000, (len(corpus.clips), 2, 12_000)).astype("int16"), "noise")
    recipe = SceneRecipe(epochs=5, crop=10_000, batch=24, look_every=2, mixup_from=2)
    return SceneData(corpus, waveforms, rng.random((len(corpus.clips), 4)).astype("float32"), recipe, "cpu")


def test_excerpts_of_a_training_epoch(small_mini):
    data = scene_data(small_mini)
    first, again, mixed = (list(data.training_batches(0, epoch)) for epoch in (1, 1, 2))
    assert len(first) == 90 // 24
    for batch, same in zip(first, again):
        assert batch["waveform"].shape == (24, 2, 10_000) and batch["tags"].shape == (24, 4)
        assert all(torch.equal(batch[name], same[name]) for name in batch)
        assert set(batch["targets"].unique().tolist()) == {0.0, 1.0}
    soft = torch.cat([batch["targets"] for batch in mixed])
    assert torch.allclose(soft.sum(1), torch.ones(len(soft)), atol=1e-5) and ((soft > 0) & (soft < 1)).any()


def test_judged_clips_are_those_outside_the_train_list(small_mini):
    data = scene_data(small_mini)
    net = SceneNet(4, front_end="narrow", fusion="before_code", layers=0)
    history = data.train(net, seed=0)
    judged = data.judge(net)
    assert set(judged["split"]) == {"test", "unused"} and len(judged) == 100
    assert list(history["test_rbf"].notna()) == [False, True, False, True, False]
    train = set(small_mini.clips.query("split == 'train'")["filename"])
    assert not train & set(judged["filename"])


KILLED = """
import sys, torch
from pathlib import Path
from tests.test_training import fit
history, net = fit(Path(sys.argv[1]), epochs=150)
print(repr(history["loss"].iloc[-1]))
"""


def test_kill_9_in_mid_run(tmp_path):
    def start(name):
        command = [sys.executable, "-c", KILLED, str(tmp_path / name)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=REPOSITORY)

    whole, _ = start("whole").communicate(timeout=300)
    killed = start("cut")
    while not (tmp_path / "cut").exists():
        time.sleep(0.02)
    time.sleep(0.3)
    killed.send_signal(signal.SIGKILL)
    assert killed.wait() == -signal.SIGKILL
    resumed, _ = start("cut").communicate(timeout=300)
    assert "resumed after epoch" in resumed
    assert resumed.strip().splitlines()[-1] == whole.strip().splitlines()[-1]

"""The benchmark: both ways do the same work, counts are right, reports say what was measured."""

import json
import subprocess
import sys

import pytest
import torch
from bench import network, plain
from bench.common import side_by_side
from torch.nn import functional as F

from asc_lib.files import REPOSITORY
from asc_lib.scene_net import SceneNet
from asc_lib.scenes import outputs


def test_both_ways_compute_the_same():
    torch.manual_seed(0)
    ours, theirs = SceneNet(0), plain.plain_net()
    plain.of_notebook_02()["load_weights"](theirs, ours)
    waveform, targets, tags = 3000 * torch.randn(4, 2, 48_000), torch.arange(4), torch.zeros(4, 0)
    for net, logits in ((ours, ours(waveform, tags).logits), (theirs, theirs(waveform))):
        F.cross_entropy(logits, targets).backward()
        net.found = logits.detach()
    assert (ours.found - theirs.found).abs().max() < 1e-4
    for (name, one), other in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        distance = (one.grad.reshape(other.shape) - other.grad).abs().max()
        assert distance <= 1e-4 * max(other.grad.abs().max(), 1e-3), name
    for (name, one), other in zip(ours.named_buffers(), theirs.buffers(), strict=True):
        assert torch.allclose(one, other, rtol=1e-4), name
    _, probabilities = outputs(ours, [{"waveform": waveform, "tags": tags}], "float32")
    assert (
        torch.from_numpy(probabilities) - plain.probabilities(theirs, waveform)
    ).abs().max() < 1e-4


def test_counted_work_is_that_of_the_released_front_end():
    work = network.counted(240_000)
    assert work["inference"] == pytest.approx(3.56, abs=0.01)
    assert work["training step"] == pytest.approx(10.56, abs=0.01)
    assert 0.05 < work["GB"] < 0.5


def test_counted_work_of_other_front_ends():
    """10**9 multiply-adds of 10 s: layers, and before them mel bands or sinc filters."""
    by_hand = {
        "cp_resnet": 0.576 + 2 * 256 * 941 * 431 / 1e9,
        "sinc_acl": 0.224 + 2 * 16 * 252 * 80_000 / 1e9 + 2 * 16 * 64 * 5 * 20_000 / 1e9,
    }
    for name, expected in by_hand.items():
        assert network.counted(240_000, name)["inference"] == pytest.approx(expected, rel=0.02)


def test_turns_alternate_and_the_first_does_not_count():
    done, times = [], iter([9.0, 8.0, 1.0, 2.0, 4.0, 3.0])

    def way(name):
        return lambda: done.append(name) or next(times)

    found = side_by_side({"a": way("a"), "b": way("b")}, rounds=2)
    assert "".join(done) == "baabba"
    assert found["a"] == {"median": 2.0, "smallest": 1.0, "largest": 3.0}
    assert found["b"] == {"median": 3.0, "smallest": 2.0, "largest": 4.0}


def test_a_process_that_dies_is_named(tmp_path):
    worker = network.Worker(
        "plain", tmp_path, network.Sizes(crop=10, batch=2, whole=2, per_epoch=2), "cpu"
    )
    with pytest.raises(RuntimeError, match="the process of 'plain' died in 'training step'"):
        worker.seconds("training step")
    worker.end()


def test_toy_benchmark_from_end_to_end(tmp_path):
    command = [sys.executable, "-m", "tests.bench", "--toy", tmp_path]
    printed = subprocess.run(
        command, cwd=REPOSITORY, check=True, capture_output=True, text=True
    ).stdout
    (path,) = tmp_path.glob("*.json")
    found = json.loads(path.read_text(encoding="utf-8"))
    for row in network.ROWS:
        seconds, ratio = found["network"]["seconds"][row], found["network"]["times as fast"][row]
        assert ratio == pytest.approx(seconds["plain"]["median"] / seconds["ours"]["median"])
        assert f"| {row}, clips a second |" in printed
        assert f"**{ratio:.1f}**" in printed
    for name, other in found["network"]["front-ends"].items():
        for row, rate in other["clips a second"].items():
            share = other["floor (s a clip)"][row] * rate
            assert rate > 0 and 0 < share < 1
            assert f"| {row} with `{name}`, clips a second | | {rate:.2f} |" in printed
    assert (tmp_path / "README.md").read_text(encoding="utf-8").endswith(printed.strip() + "\n")


def test_committed_table_is_what_the_figures_give():
    from bench import report

    folder = REPOSITORY / "results" / "bench"
    assert (folder / "README.md").read_text(encoding="utf-8") == report.draw(folder)


def test_the_row_of_a_sweep(tmp_path):
    from bench import report

    seconds = {"alone": 10.0, "one worker": 96.0}
    shares = {
        "cost a cell (s)": 2.0,
        "two workers, share of the time of one": 0.55,
        "what the machine allows": 0.521,
    }
    found = {"machine": "m", "cells": 8, "seconds": seconds} | shares
    (tmp_path / "sweeps").mkdir()
    (tmp_path / "sweeps" / "m.json").write_text(json.dumps(found))
    assert report.draw(tmp_path).endswith("| m | 10.0 | 12.0 | +2.0 | 0.55 | 0.52 |\n")


@pytest.mark.skipif(sys.platform != "linux", reason="malloc is tuned on Linux only")
def test_memory_of_freed_tensors_is_kept():
    program = """
import resource, sys
if sys.argv[1] == "ours":
    import asc_lib
import torch
def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    before = faults()
    torch.ones(16_000_000).add(1).sum()
print(faults() - before)
"""
    command = [sys.executable, "-c", program]
    faults = {
        way: int(subprocess.check_output([*command, way], cwd=REPOSITORY))
        for way in ("ours", "plain")
    }
    assert faults["ours"] < 0.1 * faults["plain"]

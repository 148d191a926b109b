"""The benchmark: both ways do the same work, counts are right, reports say what was measured."""

import json
import os
import subprocess
import sys
from math import nan

import numpy as np
import pytest
import torch
from bench import bare, common, network, plain
from bench.common import side_by_side
from torch.nn import functional as F

from asc_lib.files import REPOSITORY
from asc_lib.front_ends import FRONT_ENDS
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
        seconds, ratios = found["network"]["seconds"][row], found["network"]["times as fast"][row]
        assert list(ratios) == ["plain", network.SAME]
        for way, ratio in ratios.items():
            assert ratio == pytest.approx(seconds[way]["median"] / seconds["ours"]["median"])
        assert f"| {row}, clips a second |" in printed
        assert " and ".join(f"**{ratio:.2f}**" for ratio in ratios.values()) in printed
    shares = found["network"]["profile"]
    assert 0.5 < sum(shares.values()) <= 1 and {"convolution_backward"} < shares.keys()
    for name, other in found["network"]["front-ends"].items():
        for row, rate in other["clips a second"].items():
            share = other["floor (s a clip)"][row] * rate
            assert rate > 0 and 0 < share < 1
            assert f"| {row} with `{name}`, clips a second | | | {rate:.2f} |" in printed
    assert (tmp_path / "README.md").read_text(encoding="utf-8").endswith(printed.strip() + "\n")


HIDDEN = (
    *("papermill", "jupyter", "IPython", "nbformat", "ipywidgets", "dask", "distributed", "typer"),
    *("librosa", "soundfile", "soxr", "pooch", "requests", "urllib3", "tqdm", "yaml", "pydantic"),
    *("seaborn", "matplotlib", "pyarrow", "bokeh", "skops"),
)
HIDE = f"""
import sys
from importlib.machinery import PathFinder

class Hiding(PathFinder):
    @classmethod
    def find_spec(cls, name, *others):
        hidden = name.partition(".")[0] in {HIDDEN}
        return None if hidden else super().find_spec(name, *others)

sys.meta_path[sys.meta_path.index(PathFinder)] = Hiding
"""


@pytest.fixture(scope="module")
def on_bare_machine(tmp_path_factory):
    """What the toy benchmark of a GPU writes and prints where most of the packages are missing."""
    folder = tmp_path_factory.mktemp("gpu")
    (folder / "sitecustomize.py").write_text(HIDE)  # which Python imports as it starts
    path = f"{folder}{os.pathsep}{REPOSITORY}"
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.gpu", "--toy", folder],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert not done.returncode, done.stderr
    (path,) = folder.glob("*.json")
    return json.loads(path.read_text(encoding="utf-8")), done.stdout, folder


def test_toy_benchmark_of_a_gpu(on_bare_machine):
    found, printed, folder = on_bare_machine
    section = printed[printed.index("\n## ") :].strip()
    assert (folder / "README.md").read_text(encoding="utf-8").strip().endswith(section)
    speed = found["speed"]
    for row, clips in (("training step", 2 * 2), ("inference", 2)):
        for way, rate in speed["clips a second"][row].items():
            assert rate == pytest.approx(clips / speed["seconds"][row][way]["median"])
            assert rate > 0 and speed["share of the floor"][row][way] > 0
    assert len(speed["memory of a step (GB)"]) == 1 + 2 * len(FRONT_ENDS)  # in two precisions
    days = {
        way: 56 * 90 * (seconds + speed["evaluation (s)"]) / 86_400
        for way, seconds in speed["epoch (s)"].items()
    }
    assert speed["56 cells (days)"] == pytest.approx(days)
    assert list(found["side by side"]) == ["2"]
    steps = 4_970 * 4 // 5 // 4 * 5 * 16 * 64  # in batches of 4 curated clips
    seconds = found["tagger"]["seconds"]["step with data"]
    assert found["tagger"]["days"] == pytest.approx(steps * seconds / 86_400)


def test_what_is_there_of_a_benchmark_cut_short_is_drawn(on_bare_machine, tmp_path):
    from bench import report

    found, printed, _ = on_bare_machine
    parts = [
        "Largest relative distance",
        "56 cells x 90 epochs",
        "Cells side",
        "step of the tagger",
    ]
    for part, words in zip(("tagger", "side by side", "speed"), parts[:0:-1]):
        assert words in printed
        del found[part]
        (tmp_path / "a.json").write_text(json.dumps(found))
        assert words not in report.draw(tmp_path)
    assert parts[0] in report.draw(tmp_path)


def test_a_gpu_that_is_wrong_is_told():
    from bench import correct

    right = {"gradients": 1e-5, "logits": 1e-5}
    rough = {"gradients": 0.6, "logits": 1e-2}
    fine = {"float32": right, "as run": rough, "bfloat16": rough}
    processor = {"float32": right, "bfloat16": rough}
    assert correct.too_far({"processor": processor, "GPU": fine}) == []
    for kind, value in (("float32", 2e-4), ("as run", 0.7), ("bfloat16", 1.0), ("float32", nan)):
        found = fine | {kind: fine[kind] | {"gradients": value}}
        (wrong,) = correct.too_far({"processor": processor, "GPU": found})
        assert wrong.startswith(f"gradients, {kind}: ")


def test_another_result_of_a_step_is_seen(monkeypatch):
    """Of the values that four networks compute, the last is the GPU's: it forgets the tags."""
    from bench import correct

    computed, calls = correct.computed, []

    def forgetful(data, net, batch, precision):
        calls.append(precision)
        if len(calls) > 3:
            batch = batch | {"tags": torch.zeros_like(batch["tags"])}
        return computed(data, net, batch, precision)

    monkeypatch.setattr(correct, "computed", forgetful)
    wrong = correct.too_far(correct.distances("narrow", "codecat", "cpu"))
    assert any(what.startswith("logits, float32") for what in wrong)
    assert any(what.startswith("gradients, float32") for what in wrong)


def test_clips_of_noise_differ_and_take_little_memory():
    clips = common.noise(common.Sizes(clips=1000, seconds=1))
    assert clips.shape == (1000, 2, 48_000) and clips.nbytes == 192_000_000
    first, last = np.lib.array_utils.byte_bounds(clips)
    assert last - first < 3_000_000
    assert (clips[7, 0, 997:] == clips[8, 0, :-997]).all()
    assert abs(np.corrcoef(clips[7].ravel(), clips[8].ravel())[0, 1]) < 0.1


def test_a_stand_in_is_called_by_nothing_but_imports(monkeypatch):
    monkeypatch.setattr(bare, "PACKAGES", ("no_such_package",))
    monkeypatch.delitem(sys.modules, "no_such_package", raising=False)
    with bare.stand_ins():
        import no_such_package
        from no_such_package import decorated

        assert decorated(len) is len and no_such_package.field(ge=1)
    with pytest.raises(ModuleNotFoundError, match="no_such_package.io.read is needed"):
        no_such_package.io.read("x.wav")


def test_the_name_of_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4 (80GB)")
    assert common.machine("cuda") == "nvidia-a100-sxm4-80gb"


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

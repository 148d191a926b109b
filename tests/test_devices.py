"""Devices, on a machine that has none: all that a GPU computes, under torch's fake tensors.

A fake tensor has a shape, a type and a device but no values: what is left on the processor is an
error, as it is on a GPU. ``backward`` does not work, and nothing is said about numbers:
``test_gpu.py`` is for that.
"""

import copy
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torchaudio
import torchgen
import yaml
from bench import correct
from helpers import read_by
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode, unset_fake_temporarily
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from asc_lib import settings, training
from asc_lib.corpora import TagCorpus
from asc_lib.distillation import joined_batches, student_loss
from asc_lib.front_ends import FRONT_ENDS
from asc_lib.fusion import FUSIONS
from asc_lib.registry import ParameterError
from asc_lib.runs import sweep
from asc_lib.scene_net import SceneNet, run
from asc_lib.tagging_net import TaggingNet
from asc_lib.tags.tag_data import TagData
from asc_lib.tags.tagger import Tagger
from asc_lib.tags.tagger_training import loss as tagger_loss
from asc_lib.use.novelty import Known
from asc_lib.use.system import System

GPU = "cuda"
MEL_BANKS = torchaudio.functional.melscale_fbanks


class NoDoubles(TorchDispatchMode):
    """Refuses float64 on the device: mps has none, and a GPU is slow at it."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        found = function(*args, **kwargs or {})
        for value in tree_leaves(found):
            if isinstance(value, torch.Tensor) and value.device.type == GPU:
                assert value.dtype != torch.float64, function
        return found


def values(tensor: FakeTensor) -> np.ndarray:
    """Noise in place of a fake tensor's values, which may be asked for on the processor only."""
    assert tensor.device.type == "cpu", "values of a tensor on the GPU"
    return np.random.default_rng(0).random(tensor.shape).astype("float32")


def unfaked(function):
    """A function that looks at the values that it computes."""

    def computed(*args, **kwargs):
        with unset_fake_temporarily():
            return function(*args, **kwargs)

    return computed


@contextmanager
def fake_gpu():
    """Networks are built before it: torch moves none that was built of fake tensors."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FakeTensor, "numpy", values)
        patch.setattr(torch.Tensor, "pin_memory", lambda tensor: tensor)
        patch.setattr(torch.cuda, "mem_get_info", lambda device: (2**40, 2**40))
        patch.setattr(torch.cuda.amp.common, "amp_definitely_not_available", lambda: False)
        patch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
        patch.setattr(torchaudio.functional, "melscale_fbanks", unfaked(MEL_BANKS))
        torch.__future__.set_overwrite_module_params_on_conversion(True)  # else .to() fails
        with FakeTensorMode(allow_non_fake_inputs=True), NoDoubles():
            yield
        torch.__future__.set_overwrite_module_params_on_conversion(False)


def on_gpu(*tensors: torch.Tensor) -> bool:
    return all(tensor.device.type == GPU for tensor in tensors)


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_every_network_computes_on_a_gpu(front_end, fusion):
    net = SceneNet(12, front_end=front_end, fusion=fusion, tag_scale="logit")
    batch = read_by(net, 2, 28_000)
    with fake_gpu():
        batch = {name: value.to(GPU) for name, value in batch.items()}
        net.to(GPU)
        for mode, precision in ((True, "bfloat16"), (False, "float32")):
            out = run(net.train(mode), batch, precision)
            assert on_gpu(*(value for value in out if value is not None))
            assert out.logits.dtype == getattr(torch, precision)
            assert on_gpu(out.logits.sum() + net.fusion.loss(out, batch))


@pytest.mark.parametrize("augmentation", training.AUGMENTATIONS)
@pytest.mark.parametrize("fusion", ["baseline", "attention", "attention_in_time", "tag_targets"])
@pytest.mark.parametrize("fits", [True, False])
def test_scenes_are_fed_to_a_gpu(tagged, monkeypatch, fusion, augmentation, fits):
    """``fits``: the waveforms into the GPU's memory."""
    recipe = replace(
        tagged.recipe,
        batch=2,
        crop=28_000,
        mixup_from=1,
        augmentation=augmentation,
        tag_windows="random",
        class_weights="balanced",
    )
    data = replace(tagged, device=GPU, recipe=recipe, reads=FUSIONS[fusion].build.reads)
    net = SceneNet(data.n_tags, len(data.corpus.labels), "narrow", fusion)
    with fake_gpu():
        if not fits:
            monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
        assert isinstance(data.source.waveforms, FakeTensor) == fits
        batch = next(data.training_batches(seed=0, epoch=1))
        assert on_gpu(*batch.values(), data.loss(net.to(GPU), batch))
        assert on_gpu(*data.whole(data.corpus.rows("test")[:2]).values())


@pytest.mark.parametrize("device, pins", [("cuda:1", 1), ("mps", 0), ("cpu", 0)])
def test_only_cuda_copies_from_pinned_memory(tagged, monkeypatch, device, pins):
    pinned = []
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: pinned.append(tensor) or tensor)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *args, **kwargs: tensor)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    replace(tagged, device=device).whole(np.arange(2))
    assert [tensor.dtype for tensor in pinned] == pins * [torch.int16]


def test_a_network_is_evaluated_on_a_gpu(tagged):
    data = replace(tagged, device=GPU)
    net = SceneNet(data.n_tags, len(data.corpus.labels), "narrow", "attention")
    with fake_gpu():
        found = data.evaluate(net.to(GPU))
    assert len(found) == len(data.corpus.rows("test", "unused"))


def test_a_student_learns_on_a_gpu(tagged):
    data = replace(tagged, device=GPU, recipe=replace(tagged.recipe, batch=2, crop=28_000))
    net = SceneNet(data.n_tags, len(data.corpus.labels), "narrow", "attention")
    with fake_gpu():
        batch = next(joined_batches(data, 0, 1, 0))
        assert on_gpu(student_loss([net.to(GPU)], "bfloat16", net, batch))


def test_clips_are_tagged_on_a_gpu(tagged):
    tagger = copy.deepcopy(tagged.vectors.tagger)
    rows = np.arange(3)
    with fake_gpu():
        tagger = tagger.to(GPU)
        for waveforms in (tagged.waveforms, tagged.waveforms.copied(GPU)):
            found = tagger.tag_scenes(tagged.corpus, waveforms, rows)
            assert found.shape == tagged.vectors.values[rows].shape


@pytest.mark.parametrize("mixtures", [True, False])
def test_a_tagger_learns_on_a_gpu(tagged, mixtures):
    sizes = replace(tagged.vectors.tagger.sizes, batch=4, mixtures=mixtures)
    kinds, labels = ["curated", "noisy"] * 8, [["a"], ["b"]] * 8
    corpus = TagCorpus("made up", None, pd.DataFrame({"set": kinds, "labels": labels}), ["a", "b"])
    mels = [torch.rand(sizes.bands, 40) for _ in kinds]
    data = TagData(corpus, mels, np.arange(16) // 2 % 2, sizes, device=GPU)
    net = TaggingNet(2, sizes)
    with fake_gpu():
        batch = next(data.batches(0, 2, 1, torch.rand(16, 2)))
        assert on_gpu(*batch.values(), tagger_loss(net.to(GPU), batch))
        tagger = Tagger({0: net}, corpus.tags, sizes)
        assert tagger.tag_clips(mels[:1], np.zeros(1)).shape == (1, 2)


def test_recordings_are_classified_on_a_gpu(saved):
    about = {"labels": saved.scenes.corpus.labels, "tags": {"names": saved.scenes.vectors.names}}
    about |= {"parameters": {"precision": "bfloat16"}, "test_samples": 47_999, "run": "x"}
    net, tagger = copy.deepcopy((saved.net, saved.scenes.vectors.tagger))
    clips = saved.scenes.waveforms.waveforms[:2].copy()
    with fake_gpu():
        known = Known(np.eye(2, net.output.in_features), np.arange(2))
        system = System(net, None, tagger, about, known).to(GPU)
        assert on_gpu(*system.inputs(clips).values())
        assert system.classify(clips).probabilities.shape == (2, len(system.labels))


@pytest.mark.parametrize(
    "cuda, mps, expected, gpus",
    [(1, 1, "cuda", ["0"]), (0, 1, "mps", ["0"]), (0, 0, "cpu", [])],
)
def test_auto_prefers_cuda_then_mps(monkeypatch, cuda, mps, expected, gpus):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: bool(cuda))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: bool(mps))
    monkeypatch.delenv(sweep.PINNED, raising=False)
    assert settings.checked_device("auto") == expected
    assert sweep._visible_gpus() == gpus  # a worker each


@pytest.mark.parametrize("name", ["mps", "mps:0", "cuda", "cuda:3"])
def test_a_device_is_taken_where_torch_has_it(name):
    with pytest.raises(ParameterError, match=f"'device' is '{name}'") as refused:
        settings.checked_device(name)
    assert len(str(refused.value)) < 150
    with fake_gpu():
        assert settings.checked_device(name) == name


class Operators(TorchDispatchMode):
    """The names of torch's operators that are called meanwhile."""

    def __init__(self):
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.names.add(str(function).removeprefix("aten.").removesuffix(".default"))
        return function(*args, **kwargs or {})


def without_mps() -> set[str]:
    """Operators that mps lacks, by the list from which torch itself is built."""
    path = Path(torchgen.__file__).parent / "packaged" / "ATen" / "native" / "native_functions.yaml"
    entries = yaml.load(path.read_text(encoding="utf-8"), yaml.CSafeLoader)
    listed = {entry["func"].partition("(")[0]: entry for entry in entries}
    lacking = set()
    for name, entry in listed.items():
        kernels = listed[entry.get("structured_delegate", name)].get("dispatch") or {}
        places = [place.strip() for places in kernels for place in places.split(",")]
        if places and not any(p == "MPS" or p.startswith("Composite") for p in places):
            lacking.add(name)
    return lacking


def test_mps_has_every_operator_of_a_step_and_of_tagging():
    lacking = without_mps()
    assert "linalg_eig" in lacking and not {"mm", "native_batch_norm", "sinc"} & lacking
    with Operators() as used:
        for front_end, fusion in correct.PAIRS:
            data = correct.small_scenes(fusion)
            net = correct.network(data, front_end, fusion)
            batch = next(data.training_batches(0, 1))
            training.step(net, batch, data.loss, data.optimiser(net))
        correct.shared("cpu")
    assert {"_fft_r2c", "_fused_adam_", "convolution_backward", "sinc"} <= used.names
    assert not used.names & lacking

"""On a GPU: ``pytest -m gpu``. Figures, and the same checks without pytest: ``make gpu``."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from bench import correct

from asc_lib.front_ends import FRONT_ENDS
from asc_lib.fusion import FUSIONS

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch finds no GPU here"),
]


@pytest.mark.parametrize("fusion", FUSIONS)
@pytest.mark.parametrize("front_end", FRONT_ENDS)
def test_a_gpu_is_as_near_to_float64_as_the_processor(front_end, fusion):
    assert not correct.too_far(correct.distances(front_end, fusion, "cuda"))


def test_inputs_optimiser_and_tags_are_the_processors():
    assert max(correct.shared("cuda").values()) <= correct.SHARED


@pytest.mark.parametrize("fits", [True, False])
@pytest.mark.parametrize("recipe", [{}, {"augmentation": "roll", "precision": "bfloat16"}])
def test_training_resumes_on_a_gpu(tmp_path, monkeypatch, recipe, fits):
    """``fits``: the waveforms into the GPU's memory."""
    if not fits:
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (0, 0))
    data = correct.small_scenes("attention", "cuda")
    assert torch.is_tensor(data.source.waveforms) == fits
    data = replace(data, recipe=replace(data.recipe, epochs=2, lr=1e-3, **recipe))
    whole, parts = (correct.network(data, "narrow", "attention") for _ in range(2))
    history = data.train(whole, seed=0)
    replace(data, recipe=replace(data.recipe, epochs=1)).train(parts, 0, tmp_path / "a.safetensors")
    resumed = data.train(parts, 0, tmp_path / "a.safetensors")
    assert np.allclose(history["loss"], resumed["loss"], rtol=1e-3)
    assert next(parts.parameters()).device.type == "cuda"
    assert len(data.evaluate(parts)) == len(data.corpus.rows("test"))

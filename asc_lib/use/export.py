"""A trained system's network as one ONNX model."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from ..corpora.audio import RATE
from ..files import written_whole
from ..front_ends import pre_emphasis
from ..scene_net import SceneNet
from .system import System, UnfitSystem


class _Whole(nn.Module):
    def __init__(self, net: SceneNet):
        super().__init__()
        self.net = net

    def forward(
        self, waveform: torch.Tensor, tags: torch.Tensor, times: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        out = self.net(pre_emphasis(waveform), tags, times)
        outputs = (out.logits.softmax(1), out.code, out.attention_map)
        return outputs[:2] if out.attention_map is None else outputs


def example(system: System) -> dict[str, torch.Tensor]:
    """Noise of the shapes that a system's network reads, two clips."""
    noise = torch.Generator().manual_seed(0)
    samples = system.about["test_samples"] + 1
    windows = [1] if system.net.fusion.reads == "windows" else []
    inputs = {
        "waveform": 0.2 * torch.rand(2, 2, samples, generator=noise) - 0.1,
        "tags": torch.rand(2, *windows, system.about["n_tags"], generator=noise),
    }
    if windows:
        inputs["times"] = torch.tensor([[[0.0, samples / RATE]]] * 2)
    return inputs


def export_onnx(system: System, path: Path) -> dict[str, float]:
    """Write pre-emphasis, front-end, fusion and softmax as one ONNX model; return its differences.

    Inputs: ``waveform`` [B, 2, T], within ±1 at 48 kHz, and ``tags`` [B, c] (and ``times``, where
    the fusion reads windows); outputs: ``probabilities`` [B, scenes], ``code`` and, with attention,
    ``attention_map`` [B, f]. Returned is the largest absolute difference between onnxruntime and
    torch for each output, on noise. Raises UnfitSystem where the packages of the extra ``onnx`` are
    missing, or probabilities or map differ by more than 1e-4.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError:
        raise UnfitSystem("an ONNX model needs more packages: pip install -e '.[onnx]'") from None
    whole = _Whole(system.to("cpu").net).eval()
    inputs = example(system)
    with torch.no_grad():
        expected = whole(**inputs)
    names = ["probabilities", "code", "attention_map"][: len(expected)]
    with warnings.catch_warnings(action="ignore"):  # of the exporter, about itself
        model = torch.onnx.export(
            whole,
            tuple(inputs.values()),
            input_names=list(inputs),
            output_names=names,
            dynamo=True,
            verbose=False,
            dynamic_shapes=dict.fromkeys(inputs, {0: torch.export.Dim("batch")}),
            external_data=False,
        )
    with written_whole(path) as temporary:
        model.save(temporary)
        session = onnxruntime.InferenceSession(str(temporary))
        found = session.run(
            names, {entry.name: inputs[entry.name].numpy() for entry in session.get_inputs()}
        )
        apart = {
            name: float(np.abs(a - b.numpy()).max()) for name, a, b in zip(names, found, expected)
        }
        if max(apart[name] for name in names if name != "code") > 1e-4:
            raise UnfitSystem(f"{path} was not written: onnxruntime differs from torch by {apart}")
    return apart

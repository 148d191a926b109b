"""A trained system's network as one ONNX model."""

import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from . import audio
from .artefacts import written_whole
from .scene_net import SceneNet
from .system import System, UnfitSystem


class _Whole(nn.Module):
    """Waveform within ±1 and tag vector to probabilities, code and attention map: what the ONNX model computes."""

    def __init__(self, net: SceneNet):
        super().__init__()
        self.net = net

    def forward(self, waveform: torch.Tensor, tags: torch.Tensor) -> tuple[torch.Tensor, ...]:
        out = self.net(audio.pre_emphasis(waveform), tags)
        whole = out.logits.softmax(1), out.code
        return whole if out.attention_map is None else (*whole, out.attention_map)


def export_onnx(system: System, path: Path) -> dict[str, float]:
    """Write pre-emphasis, front-end, fusion and softmax as one ONNX model; return how far it lies from torch.

    Inputs: ``waveform`` [B, 2, T], within ±1 at 48 kHz, and ``tags`` [B, c] (where the network reads any); outputs:
    ``probabilities`` [B, scenes], ``code`` and, with attention, ``attention_map`` [B, f]. The result is the largest
    absolute difference of each output, from onnxruntime, on noise. Raises UnfitSystem where the packages of the extra
    ``onnx`` are missing, or a difference of probabilities or map is above 1e-4.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError:
        raise UnfitSystem("an ONNX model needs more packages: pip install -e '.[onnx]'") from None
    whole, samples = _Whole(system.to("cpu").net).eval(), system.about["test_samples"] + 1
    noise = torch.Generator().manual_seed(0)
    waveform = 0.2 * torch.rand(2, 2, samples, generator=noise) - 0.1
    tags = torch.rand(2, system.about["n_tags"], generator=noise)
    batch = torch.export.Dim("batch")
    with torch.no_grad():
        expected = whole(waveform, tags)
    names = ["probabilities", "code", "attention_map"][: len(expected)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter, about itself
        model = torch.onnx.export(
            whole, (waveform, tags), input_names=["waveform", "tags"], output_names=names, dynamo=True, verbose=False,
            dynamic_shapes={"waveform": {0: batch}, "tags": {0: batch}}, external_data=False,
        )  # fmt: skip
    with written_whole(path) as temporary:
        model.save(temporary)
        session = onnxruntime.InferenceSession(str(temporary))
        inputs = {"waveform": waveform.numpy(), "tags": tags.numpy()}
        found = session.run(names, {one.name: inputs[one.name] for one in session.get_inputs()})
        apart = {name: float(np.abs(a - b.numpy()).max()) for name, a, b in zip(names, found, expected)}
        if max(apart[name] for name in names if name != "code") > 1e-4:
            raise UnfitSystem(f"{path} was not written: onnxruntime differs from torch by {apart}")
    return apart

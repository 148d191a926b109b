"""A trained system's network as one ONNX model."""

import json
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch

from ..corpora.audio import RATE
from ..files import written_whole
from ..front_ends import pre_emphasis
from ..scene_net import SceneNet
from .system import System, UnfitSystem


class _Whole(torch.nn.Module):
    def __init__(self, net: SceneNet):
        super().__init__()
        self.net = net

    def forward(
        self,
        waveform: torch.Tensor,
        tags: torch.Tensor | None = None,
        times: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, ...]:
        # a network that reads no tags is given [B, 0], as everywhere
        out = self.net(pre_emphasis(waveform), waveform[:, 0, :0] if tags is None else tags, times)
        return (
            out.logits.softmax(1),
            out.code,
            *(() if out.attention_map is None else (out.attention_map,)),
        )


def example(system: System) -> dict[str, torch.Tensor]:
    """Noise of the shapes that a system's network reads, two clips."""
    noise = torch.Generator().manual_seed(0)
    samples = system.about["test_samples"] + 1
    read = {"clip": 2, "windows": 3}.get(system.net.fusion.reads, 1)  # of these three
    inputs = {
        "waveform": 0.2 * torch.rand(2, 2, samples, generator=noise) - 0.1,
        "tags": torch.rand(2, *[3] * (read == 3), system.about["n_tags"], generator=noise),
        "times": torch.tensor([[[0.0, 1.0], [1.0, 2.0], [2.0, 3.0]]] * 2) * samples / RATE / 3,
    }
    return dict(list(inputs.items())[:read])


@torch.no_grad()
def export_onnx(system: System, path: Path) -> dict[str, float]:
    """Write pre-emphasis, front-end, fusion and softmax as one ONNX model; return its differences.

    Inputs, of these the ones that the network reads: ``waveform`` [B, 2, T], within ±1 at 48 kHz,
    ``tags`` [B, c] or, where the fusion reads windows (three or more), [B, w, c] with ``times`` [B,
    w, 2]; outputs: ``probabilities`` [B, scenes], ``code`` and, with attention, ``attention_map``
    [B, f] or [B, f, t]. Metadata: ``labels`` and ``tags`` (JSON lists), ``rate`` (Hz), ``samples``
    (T), ``channels``, ``run`` and ``version`` (of this library). Returned is the largest absolute
    difference between onnxruntime and torch for each output, on noise. Raises UnfitSystem where the
    packages of the extra ``onnx`` are missing, or probabilities or map differ by more than 1e-4.
    """
    try:
        import onnxruntime
        import onnxscript  # noqa: F401  (torch's exporter needs it)
    except ImportError:
        raise UnfitSystem("an ONNX model needs more packages: pip install -e '.[onnx]'") from None
    whole = _Whole(system.to("cpu").net).eval()
    inputs = example(system)
    expected = whole(**inputs)
    names = ["probabilities", "code", "attention_map"][: len(expected)]
    with warnings.catch_warnings(action="ignore"):  # of the exporter, about itself
        batch = {0: torch.export.Dim("batch")}
        free = dict.fromkeys(inputs, batch)
        if "times" in inputs:
            windows = torch.export.Dim("windows", min=3)
            free |= dict.fromkeys(("tags", "times"), batch | {1: windows})
        # strict, since otherwise ``len(tags)`` in a fusion would fix the size of the batch
        model = torch.onnx.export(
            torch.export.export(whole, (), inputs, dynamic_shapes=free, strict=True),
            input_names=list(inputs),
            output_names=names,
            dynamic_shapes=free,
            verbose=False,
            external_data=False,
        )
    model.model.graph.inputs[:] = [entry for entry in model.model.graph.inputs if entry.uses()]
    model.model.metadata_props.update(
        labels=json.dumps(system.labels),
        tags=json.dumps(system.tags),
        rate=str(RATE),
        samples=str(inputs["waveform"].shape[-1]),
        channels="2",
        run=system.about["run"],
        version=version("asc_lib"),
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

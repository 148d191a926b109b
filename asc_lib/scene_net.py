"""The scene network: front-end, feature map, fusion, code, scenes (Figure 2; Table 1)."""

from typing import NamedTuple

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from .front_ends import FRONT_ENDS
from .fusion import FUSIONS, attend, check_heads, over_frames


class SceneOutput(NamedTuple):
    """The network's output for a batch."""

    logits: torch.Tensor  # [B, scenes]
    code: torch.Tensor  # [B, width of the code]
    attention_map: torch.Tensor | None  # [B, f] or in time [B, f, t], each head summing to 1
    feature_map: torch.Tensor | None  # [B, f, t], before attention; None without the waveform


SCALES = {  # of probabilities p
    "raw": lambda p: p,
    "square_root": lambda p: (p + 1e-4).sqrt(),
    "logit": lambda p: torch.logit(p, 1e-3),
}


class TagScale(nn.Module):
    """Scales tag vectors [..., c] and standardises them by the training clips' (``fit``)."""

    def __init__(self, n_tags: int, kind: str):
        super().__init__()
        self.scaled = SCALES[kind]
        self.register_buffer("mean", torch.zeros(n_tags))
        self.register_buffer("deviation", torch.ones(n_tags))

    def fit(self, vectors: torch.Tensor) -> None:
        """Take mean and deviation from tag vectors [clips, c]."""
        scaled = self.scaled(vectors)
        self.mean.copy_(scaled.mean(0))
        self.deviation.copy_(scaled.std(0, correction=0).clamp(min=0.01))

    def forward(self, vectors: torch.Tensor) -> torch.Tensor:
        return (self.scaled(vectors) - self.mean) / self.deviation


class SceneNet(nn.Module):
    """The scene network.

    ``front_end``: a name of ``FRONT_ENDS``; ``fusion``: one of ``FUSIONS``; sizes that the fusion
    does not use are ignored; ``tag_scale``: one of ``SCALES``. The attention map acts on the output
    of the last residual block, the (18, 128) of Table 1. Raises ValueError for unknown names and
    for heads that do not fit.
    """

    def __init__(
        self,
        n_tags: int,
        n_classes: int = 10,
        front_end: str = "released",
        fusion: str = "baseline",
        heads: int = 4,
        layers: int = 3,
        concat_layers: int = 4,
        attention_layers: int = 3,
        tag_scale: str = "raw",
    ):
        super().__init__()
        entry = FUSIONS.find(fusion)
        front = FRONT_ENDS.find(front_end)
        if "heads" in entry.uses:
            check_heads(heads, front.filters)
        self.n_tags = n_tags
        self.fusion_name = fusion
        self.taken_over: list[str] = []  # parts, from a saved system
        self.fixed = False  # the front-end, in training
        self.scale = tag_scale
        self.tag_scale = nn.Identity() if tag_scale == "raw" else TagScale(n_tags, tag_scale)
        self.front_end = front() if entry.build.waveform else None
        given = dict(
            heads=heads,
            layers=layers,
            concat_layers=concat_layers,
            attention_layers=attention_layers,
        )
        sizes = {name: given[name] for name in entry.uses}
        self.fusion = entry.build(n_tags, front.filters, **sizes)
        pooled_width = self.front_end.pooled_width if self.front_end else 0
        self.code = nn.Linear(pooled_width + self.fusion.pooled_width, front.code_width)
        self.output = nn.Linear(
            front.code_width + self.fusion.code_width, n_classes, bias=front.output_bias
        )
        self.fusion.add_outputs(self.output.in_features)

    def fix_front_end(self) -> None:
        """Keep the front-end's weights, and the statistics of its normalisation, in training."""
        self.fixed = True
        self.front_end.requires_grad_(False).eval()

    def train(self, mode: bool = True) -> "SceneNet":
        super().train(mode)
        if self.fixed:
            self.front_end.eval()
        return self

    def feature_map(self, waveform: torch.Tensor) -> torch.Tensor | None:
        """Pre-emphasised waveform [B, 2, T] to the feature map M [B, f, t]; None if not used."""
        return self.front_end(waveform) if self.front_end else None

    def prepared(self, tags: torch.Tensor, times: torch.Tensor | None = None):
        """Tags, scaled, as the fusion's other methods receive them."""
        return self.fusion.prepare(self.tag_scale(tags), times)

    def fuse(
        self,
        feature_map: torch.Tensor | None,
        tags: torch.Tensor,
        times: torch.Tensor | None = None,
        weights: torch.Tensor | None = None,
    ) -> SceneOutput:
        """Feature map [B, f, t] and tags to logits, code and attention map.

        ``tags`` and ``times``: what the fusion reads (``Fusion.reads``). ``weights`` [B, f] or
        [B, f, t]: an attention map to use in place of the tags' own.
        """
        prepared = self.prepared(tags, times)
        if weights is None:
            weights = self.fusion.weights(prepared)  # [B, f], [B, w, f] or None
            if weights is not None and weights.ndim == 3:
                weights = over_frames(weights, times, feature_map.shape[-1])  # [B, f, t]
        if feature_map is None:
            pooled = tags.new_zeros(len(tags), 0)
        else:
            attended = feature_map if weights is None else attend(feature_map, weights)
            pooled = self.front_end.pool(attended)  # [B, 2f]
        code = self.code(self.fusion.before_code(pooled, prepared))
        code = self.fusion.after_code(code, prepared)
        return SceneOutput(self.output(code), code, weights, feature_map)

    def forward(
        self, waveform: torch.Tensor, tags: torch.Tensor, times: torch.Tensor | None = None
    ) -> SceneOutput:
        """Pre-emphasised waveform [B, 2, T] and tags [B, c], or what ``Fusion.reads`` declares."""
        return self.fuse(self.feature_map(waveform), tags, times)


def inference_batch(device: str) -> int:
    """Whole clips in one forward pass: small batches fit a CPU's caches."""
    return 4 if device == "cpu" else 24


def autocast(device: str, precision: str) -> torch.autocast:
    """Context in which "bfloat16" computes convolutions and matrix products; weights stay."""
    return torch.autocast(
        torch.device(device).type, torch.bfloat16, enabled=precision == "bfloat16"
    )


def run(net: SceneNet, inputs: dict[str, torch.Tensor], precision: str) -> SceneOutput:
    """The network's output for waveform and tags, computed in a precision."""
    with autocast(inputs["waveform"].device.type, precision):
        return net(**inputs)


def n_parameters(net: nn.Module) -> int:
    """Number of trainable parameters."""
    return sum(p.numel() for p in net.parameters())


@torch.no_grad()
def multiply_adds(net: SceneNet, batch: dict[str, torch.Tensor]) -> int:
    """Multiply-adds of the convolutions and matrix products for one clip: waveform, tags, times."""
    with FlopCounterMode(display=False) as counter:
        net.eval()(**batch)
    return counter.get_total_flops() // 2

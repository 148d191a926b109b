"""The scene network: a front-end for raw waveforms (Section 2.1), joined by tags as its fusion says (Section 3)."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from .fusion import FUSIONS, SLOPE, attend, heads_problem


@dataclass(frozen=True)
class FrontEnd:
    """Sizes of a front-end."""

    stem: int  # filters of the strided convolution
    blocks: tuple[int, ...]  # filters of each residual block
    last_conv: bool  # a convolution of width 1, padded by 3, between the blocks and the pooling
    code: int  # width of the code
    output_bias: bool
    channels_last: bool = False  # order in memory: on a processor, few filters are computed in two thirds of the time

    @property
    def filters(self) -> int:
        """Filters f of the feature map."""
        return self.blocks[-1]


FRONT_ENDS = {
    # The authors' public system of the same name in the paper's [22]; its size is the "636k" of Table 6.
    "released": FrontEnd(128, (64, 64, 128, 128, 128, 128, 128), last_conv=True, code=128, output_bias=False),
    # Table 1 as printed.
    "table1": FrontEnd(128, (128,) * 7, last_conv=False, code=64, output_bias=True),
    # The released one with narrow early layers and a block fewer, for short clips on a processor; as many filters.
    "narrow": FrontEnd(32, (16, 16, 32, 64, 128, 128), True, code=64, output_bias=False, channels_last=True),
}


def conv(inputs: int, filters: int, width: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    """A convolution along time, of images [B, inputs, 1, t]: a waveform as an image has two orders in memory."""
    return nn.Conv2d(inputs, filters, (1, width), (1, stride), (0, padding))


def pool(image: torch.Tensor) -> torch.Tensor:
    """The largest of every three frames, by the faster of torch's two ways for the order that the image has."""
    return F.max_pool1d(image.squeeze(2), 3).unsqueeze(2) if image.is_contiguous() else F.max_pool2d(image, (1, 3))


class ResidualBlock(nn.Module):
    """Conv3-BN-LReLU-Conv3-BN, plus skip, LReLU, MaxPool(3) (Table 1); the skip is a Conv3 where the width changes."""

    def __init__(self, inputs: int, filters: int):
        super().__init__()
        self.conv1, self.bn1 = conv(inputs, filters, 3, padding=1), nn.BatchNorm2d(filters)
        self.conv2, self.bn2 = conv(filters, filters, 3, padding=1), nn.BatchNorm2d(filters)
        self.skip = nn.Identity() if inputs == filters else conv(inputs, filters, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.leaky_relu(self.bn1(self.conv1(x)), SLOPE, inplace=True)
        y = self.bn2(self.conv2(y)).add_(self.skip(x))
        return F.leaky_relu(pool(y), SLOPE, inplace=True)  # LReLU keeps order, so it may come last


class SceneOutput(NamedTuple):
    """What the network says of a batch."""

    logits: torch.Tensor  # [B, scenes]
    code: torch.Tensor  # [B, width of the code]
    attention_map: torch.Tensor | None  # [B, f], each head summing to 1
    feature_map: torch.Tensor | None  # [B, f, t], before attention; None without the waveform


class SceneNet(nn.Module):
    """The scene network.

    ``front_end``: a name of ``FRONT_ENDS``; ``fusion``: a name of ``FUSIONS``; the four sizes count where the fusion
    uses them. The attention map acts on the output of the last residual block, the (18, 128) of Table 1.
    Raises ValueError for unknown names and for heads that do not fit the filters.
    """

    def __init__(
        self,
        n_tags: int,
        n_classes: int = 10,
        front_end: str | FrontEnd = "released",
        fusion: str = "baseline",
        heads: int = 4,
        layers: int = 3,
        concat_layers: int = 4,
        attention_layers: int = 3,
    ):
        super().__init__()
        sizes = front_end if isinstance(front_end, FrontEnd) else _named(FRONT_ENDS, "front_end", front_end)
        entry = _named(FUSIONS, "fusion", fusion)
        given = dict(heads=heads, layers=layers, concat_layers=concat_layers, attention_layers=attention_layers)
        if "heads" in entry.uses and (problem := heads_problem(heads, sizes.filters)):
            raise ValueError(problem)
        self.n_tags = n_tags
        if entry.build.waveform:
            self._build_front_end(sizes)
        self.fusion = entry.build(n_tags, sizes.filters, **{name: given[name] for name in entry.uses})
        pooled = 2 * sizes.filters if self.fusion.waveform else 0
        self.code = nn.Linear(pooled + self.fusion.pooled_width, sizes.code)
        self.output = nn.Linear(sizes.code + self.fusion.code_width, n_classes, bias=sizes.output_bias)

    def _build_front_end(self, sizes: FrontEnd) -> None:
        self.order = torch.channels_last if sizes.channels_last else torch.contiguous_format
        self.stem, self.stem_bn = conv(2, sizes.stem, 12, stride=12), nn.BatchNorm2d(sizes.stem)
        widths = (sizes.stem, *sizes.blocks)
        self.blocks = nn.Sequential(*(ResidualBlock(i, o) for i, o in zip(widths, widths[1:])))
        last = [conv(sizes.filters, sizes.filters, 1, padding=3), nn.BatchNorm2d(sizes.filters)]
        self.last = nn.Sequential(*last, nn.LeakyReLU(SLOPE)) if sizes.last_conv else nn.Identity()

    def stem_map(self, waveform: torch.Tensor) -> torch.Tensor:
        """Pre-emphasised waveform [B, 2, T] to [B, filters, T // 12]."""
        image = waveform.unsqueeze(2).contiguous(memory_format=self.order)
        return F.leaky_relu(self.stem_bn(self.stem(image)), SLOPE, inplace=True).squeeze(2)

    def feature_map(self, waveform: torch.Tensor) -> torch.Tensor | None:
        """Pre-emphasised waveform [B, 2, T] to the feature map M [B, f, t] (Eq. 1); None if the fusion wants none."""
        return self.blocks(self.stem_map(waveform).unsqueeze(2)).squeeze(2) if self.fusion.waveform else None

    def fuse(
        self, feature_map: torch.Tensor | None, tags: torch.Tensor, weights: torch.Tensor | None = None
    ) -> SceneOutput:
        """Feature map [B, f, t] and tag vectors [B, c] to scores, code and attention map.

        ``weights`` [B, f]: an attention map to use in place of the one that the tags make.
        """
        read = self.fusion.read(tags)
        weights = self.fusion.weights(read) if weights is None else weights
        pooled = tags[:, :0]
        if feature_map is not None:
            attended = feature_map if weights is None else attend(feature_map, weights)
            attended = self.last(attended.unsqueeze(2)).squeeze(2)
            pooled = torch.cat([attended.mean(-1), attended.amax(-1)], 1)
        code = self.fusion.after_code(self.code(self.fusion.before_code(pooled, read)), read)
        return SceneOutput(self.output(code), code, weights, feature_map)

    def forward(self, waveform: torch.Tensor, tags: torch.Tensor) -> SceneOutput:
        """Pre-emphasised waveform [B, 2, T] and tag vectors [B, c], each value within 0 to 1."""
        return self.fuse(self.feature_map(waveform), tags)


RELEASED_NAMES = {
    "stem": "first_conv",
    "stem_bn": "first_bn",
    "last.0": "last_conv",
    "last.1": "last_bn",
    "code": "fc1",
    "output": "fc2",
}


def load_released_state_dict(net: SceneNet, state: dict[str, torch.Tensor]) -> None:
    """Load weights that carry the names of the authors' released system [22] into a network with its front-end.

    ``first_conv``, ``first_bn``, ``block0.conv1``, ``block0.bn1`` ... ``block0.conv_downsample`` ... ``last_conv``,
    ``last_bn``, ``fc1``, ``fc2``. The rows of ``fc2.weight`` are scenes, in the order of the labels that the weights
    were trained with, which the state does not tell: the caller puts them into the order of the corpus's labels. A
    fusion's own layers keep their values. Raises ValueError, and loads nothing, if a name is missing or not expected
    or a shape differs.
    """
    names, own = {}, net.state_dict()
    shapes = {name: value.squeeze(2).shape if value.ndim == 4 else value.shape for name, value in own.items()}
    for name in own:
        module, _, kind = name.rpartition(".")
        if module.startswith("blocks."):
            _, number, part = module.split(".")
            names[f"block{number}.{'conv_downsample' if part == 'skip' else part}.{kind}"] = name
        elif module in RELEASED_NAMES:
            names[f"{RELEASED_NAMES[module]}.{kind}"] = name
    problems = [f"{name} is missing" for name in names if name not in state]
    problems += [f"{name} is not expected" for name in state if name not in names]
    for name in names.keys() & state.keys():
        if (found := tuple(state[name].shape)) != (expected := tuple(shapes[names[name]])):
            problems.append(f"{name} has shape {found}, expected {expected}")
    if problems:
        more = f"; and {len(problems) - 8} more" if len(problems) > 8 else ""
        raise ValueError(f"these are not this front-end's released weights: {'; '.join(sorted(problems)[:8])}{more}")
    net.load_state_dict(own | {names[name]: value.reshape(own[names[name]].shape) for name, value in state.items()})


def n_parameters(net: nn.Module) -> int:
    """Number of trained values."""
    return sum(p.numel() for p in net.parameters())


@torch.no_grad()
def multiply_adds(net: SceneNet, samples: int) -> int:
    """Multiply-adds of the convolutions and matrix products that classify one clip of so many samples."""
    device = next(net.parameters()).device
    with FlopCounterMode(display=False) as counter:
        net.eval()(torch.zeros(1, 2, samples, device=device), torch.zeros(1, net.n_tags, device=device))
    return counter.get_total_flops() // 2


def _named(table: dict, parameter: str, name: str):
    if name not in table:
        raise ValueError(f"unknown {parameter} '{name}': choose one of {', '.join(table)}")
    return table[name]

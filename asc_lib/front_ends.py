"""Front-ends: a waveform becomes a feature map M [B, f, t], and the map a vector (Section 2.1).

A front-end of your own is a subclass of ``FrontEnd`` under ``@front_end("its_name")``, in a file
that ``ASC_PLUGINS`` names: every scene notebook then takes it (``-p front_end its_name``).
"""

import torch
from torch import nn
from torch.nn import functional as F

from .fusion import SLOPE
from .registry import Registry

FRONT_ENDS = Registry("front_end")


def front_end(name: str):
    """Register a FrontEnd, built without arguments."""

    def register(build: type["FrontEnd"]) -> type["FrontEnd"]:
        FRONT_ENDS[name] = build
        return build

    return register


def pre_emphasis(waveform: torch.Tensor) -> torch.Tensor:
    """y[t] = 32000 (x[t+1] - 0.97 x[t]) along the last axis (Section 4.2; the scale is from [22]).

    ``waveform``: [..., T], int16 or float within ±1; returns float32 [..., T - 1].
    """
    scale = 32_000 / 2**15 if waveform.dtype == torch.int16 else 32_000
    x = waveform.float()
    return torch.sub(x[..., 1:], x[..., :-1], alpha=0.97).mul_(scale)


class FrontEnd(nn.Module):
    """From waveform to feature map (``forward``), and from the attended map to a vector (``pool``).

    ``filters`` is f, ``pooled_width`` the width of the vector. ``code_width`` and ``output_bias``
    describe the two layers that follow: they go with a front-end's published sizes.
    """

    filters = 128
    code_width = 64
    output_bias = False

    @property
    def pooled_width(self) -> int:
        return 2 * self.filters

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        """Pre-emphasised waveform [B, 2, T] to the feature map [B, f, t], or [B, f, bands, t]."""
        raise NotImplementedError

    def pool(self, feature_map: torch.Tensor) -> torch.Tensor:
        """The map, attended or not, to its mean and maximum over all frames [B, 2f]."""
        frames = feature_map.flatten(2)  # [B, f, t]
        return torch.cat([frames.mean(-1), frames.amax(-1)], 1)


def conv(inputs: int, filters: int, width: int, stride: int = 1, padding: int = 0) -> nn.Conv2d:
    """A convolution along time of images [B, inputs, 1, t], which can be in either memory order."""
    return nn.Conv2d(inputs, filters, (1, width), (1, stride), (0, padding))


def normalised(image: torch.Tensor, conv: nn.Conv2d, norm: nn.BatchNorm2d) -> torch.Tensor:
    """``norm(conv(image))``; in evaluation, where ``norm`` is linear, as one convolution."""
    if norm.training:
        return norm(conv(image))
    scale = norm.weight * (norm.running_var + norm.eps).rsqrt()
    weight = scale[:, None, None, None] * conv.weight
    bias = norm.bias + scale * (conv.bias - norm.running_mean)
    return F.conv2d(image, weight, bias, conv.stride, conv.padding)


def max_pool(image: torch.Tensor) -> torch.Tensor:
    """The maximum of every three frames, by the faster of torch's two ways for the memory order."""
    if image.is_contiguous():
        return F.max_pool1d(image.squeeze(2), 3).unsqueeze(2)
    return F.max_pool2d(image, (1, 3))


class ResidualBlock(nn.Module):
    """Conv3-BN-LReLU-Conv3-BN, plus skip, LReLU, MaxPool(3) (Table 1).

    The skip is a Conv3 where the width changes.
    """

    def __init__(self, inputs: int, filters: int):
        super().__init__()
        self.conv1 = conv(inputs, filters, 3, padding=1)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = conv(filters, filters, 3, padding=1)
        self.bn2 = nn.BatchNorm2d(filters)
        self.skip = nn.Identity() if inputs == filters else conv(inputs, filters, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.leaky_relu(normalised(x, self.conv1, self.bn1), SLOPE, inplace=True)
        y = normalised(y, self.conv2, self.bn2).add_(self.skip(x))
        # LReLU is monotonic, so it may follow the maximum, where there is a third of the values.
        return F.leaky_relu(max_pool(y), SLOPE, inplace=True)


@front_end("released")
class Released(FrontEnd):
    """The front-end of the authors' earlier, public system [22]: the "636k" of Table 6."""

    stem_filters = 128  # of the strided convolution
    block_filters = (64, 64, 128, 128, 128, 128, 128)
    last_conv = True  # of width 1, padded by 3, after attention and before pooling
    memory_order = torch.contiguous_format
    code_width = 128

    def __init__(self):
        super().__init__()
        self.stem = conv(2, self.stem_filters, 12, stride=12)
        self.stem_bn = nn.BatchNorm2d(self.stem_filters)
        widths = (self.stem_filters, *self.block_filters)
        self.blocks = nn.Sequential(*(ResidualBlock(i, o) for i, o in zip(widths, widths[1:])))
        self.last = nn.Identity()
        if self.last_conv:
            self.last = nn.Sequential(
                conv(self.filters, self.filters, 1, padding=3),
                nn.BatchNorm2d(self.filters),
                nn.LeakyReLU(SLOPE),
            )

    def stem_map(self, waveform: torch.Tensor) -> torch.Tensor:
        """Pre-emphasised waveform [B, 2, T] to [B, stem_filters, T // 12]."""
        image = waveform.unsqueeze(2).contiguous(memory_format=self.memory_order)  # [B, 2, 1, T]
        image = normalised(image, self.stem, self.stem_bn)
        return F.leaky_relu(image, SLOPE, inplace=True).squeeze(2)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        return self.blocks(self.stem_map(waveform).unsqueeze(2)).squeeze(2)  # [B, f, t]

    def pool(self, feature_map: torch.Tensor) -> torch.Tensor:
        return super().pool(self.last(feature_map.unsqueeze(2)))


@front_end("table1")
class Table1(Released):
    """Table 1 as printed."""

    block_filters = (128,) * 7
    last_conv = False
    code_width = 64
    output_bias = True


@front_end("narrow")
class Narrow(Released):
    """The released one with narrow early layers and one block fewer, for short clips on a CPU.

    It ends in as many filters. With few filters, channels-last takes two thirds of the time.
    """

    stem_filters = 32
    block_filters = (16, 16, 32, 64, 128, 128)
    memory_order = torch.channels_last
    code_width = 64

"""Front-ends: a waveform becomes a feature map M [B, f, t], and the map a vector (Section 2.1).

A front-end of your own is a subclass of ``FrontEnd`` under ``@front_end("its_name")``, in a file
that ``ASC_PLUGINS`` names: every scene notebook then takes it (``-p front_end its_name``).
"""

import math
from typing import Any

import torch
import torchaudio
from torch import nn
from torch.nn import functional as F

from .fusion import SLOPE
from .recipes import CP_RESNET, RATE
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
    describe the two layers that follow: they go with a front-end's published sizes. ``recipe``:
    values of ``SceneRecipe`` that it is trained with (``recipes.fitted``).
    """

    filters = 128
    code_width = 64
    output_bias = False
    recipe: dict[str, Any] = {}

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
    padding: int | None = 3  # of the last convolution, after attention; None: there is none
    memory_order = torch.contiguous_format
    code_width = 128

    def __init__(self):
        super().__init__()
        self.stem = conv(2, self.stem_filters, 12, stride=12)
        self.stem_bn = nn.BatchNorm2d(self.stem_filters)
        widths = (self.stem_filters, *self.block_filters)
        self.blocks = nn.Sequential(*(ResidualBlock(i, o) for i, o in zip(widths, widths[1:])))
        self.last = nn.Identity()
        if self.padding is not None:
            self.last = nn.Sequential(
                conv(self.filters, self.filters, 1, padding=self.padding),
                nn.BatchNorm2d(self.filters),
                nn.LeakyReLU(SLOPE),
            )

    def stem_map(self, waveform: torch.Tensor) -> torch.Tensor:
        """Pre-emphasised waveform [B, 2, T] to [B, stem_filters, T // 12]."""
        order = self.memory_order if self.training else torch.channels_last  # the faster one
        image = waveform.unsqueeze(2).contiguous(memory_format=order)  # [B, 2, 1, T]
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
    padding = None
    code_width = 64
    output_bias = True


@front_end("narrow")
class Narrow(Released):
    """The released one with narrow early layers and one block fewer, for short clips on a CPU.

    It ends in as many filters. With few filters, channels-last takes two thirds of the time. The
    last convolution is not padded: of 1 s, 6 frames in 11 would be padding, of 4 s 6 in 27, and
    batch normalisation would meet other means at test than in training.
    """

    stem_filters = 32
    block_filters = (16, 16, 32, 64, 128, 128)
    padding = 0
    memory_order = torch.channels_last
    code_width = 64


class LogMel(nn.Module):
    """Decibels in 256 mel bands up to 11 kHz, each band standardised: the input of CP-ResNet.

    ``forward``: waveform [B, 2, T] at 48 kHz to [B, 2, bands, frames]. Bands are sums of decibels,
    so that filtering a waveform (pre-emphasis, A-weighting) adds a constant to each of them, which
    the standardisation takes away: only what is 80 dB below the loudest is another floor.
    """

    bands = 256
    highest = 11_025  # Hz
    window = 4096  # samples: 85 ms; theirs are of 93 ms
    hop = 1115  # 512 at 22,050 Hz

    def __init__(self):
        super().__init__()
        self.bins = self.highest * self.window // RATE + 1
        with torch.device("cpu"):  # a network may be built without memory
            mel = torchaudio.functional.melscale_fbanks(
                self.window // 2 + 1, 0.0, self.highest, self.bands, RATE, mel_scale="slaney"
            )
            hann = torch.hann_window(self.window)
        self.register_buffer("mel", mel[: self.bins].T.contiguous(), persistent=False)
        self.register_buffer("hann", hann, persistent=False)
        self.standardise = nn.BatchNorm2d(self.bands, affine=False)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        spectra = torch.stft(
            waveform.flatten(0, 1),
            self.window,
            self.hop,
            self.window,
            self.hann,
            return_complex=True,
        )[:, : self.bins]
        power = spectra.real.square() + spectra.imag.square()
        decibels = torchaudio.functional.amplitude_to_DB(
            power.unflatten(0, (-1, 2)), 10.0, 1e-10, 0.0, top_db=80.0
        )
        with torch.autocast(waveform.device.type, enabled=False):
            bands = self.mel @ decibels  # [B, 2, bands, frames]
        return self.standardise(bands.transpose(1, 2)).transpose(1, 2)


class LogMelBlock(nn.Module):
    """Conv-BN-ReLU-Conv-BN, plus skip, ReLU; the skip is Conv1-BN where the width changes."""

    def __init__(self, inputs: int, filters: int, first: int, second: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, filters, first, padding=first // 2, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, second, padding=second // 2, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.skip = nn.Identity()
        if inputs != filters:
            self.skip = nn.Sequential(
                nn.Conv2d(inputs, filters, 1, bias=False), nn.BatchNorm2d(filters)
            )
        nn.init.kaiming_normal_(self.conv1.weight)
        nn.init.zeros_(self.conv2.weight)  # so that each block begins as its skip

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.bn1(self.conv1(x)), inplace=True)
        return F.relu(self.bn2(self.conv2(y)).add_(self.skip(x)), inplace=True)


@front_end("cp_resnet")
class CPResNet(FrontEnd):
    """CP-ResNet on log-mel bands, its receptive field limited by ``rho`` (Koutini et al. 2019).

    Its three stages have ``filters`` / 4, / 2 and / 1 filters.
    """

    rho = 7
    recipe = CP_RESNET

    def __init__(self):
        super().__init__()
        width = self.filters // 4
        self.log_mel = LogMel()
        # of the 24 convolutions in order: all of size 3 but the second, until the field is reached
        sizes = [3 if number != 1 and number < self.rho + 2 else 1 for number in range(24)]
        widths = [width] * 5 + [2 * width] * 4 + [4 * width] * 4
        layers = [
            nn.Conv2d(2, width, 5, stride=2, padding=1, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(inplace=True),
        ]
        for number in range(12):
            kernels = sizes[2 * number : 2 * number + 2]
            layers.append(LogMelBlock(*widths[number : number + 2], *kernels))
            if number in (0, 1, 3):
                layers.append(nn.MaxPool2d(2))
        self.layers = nn.Sequential(*layers)

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        image = self.log_mel(waveform).contiguous(memory_format=torch.channels_last)  # faster
        return self.layers(image)  # [B, f, bands, t]


class SincConv(nn.Module):
    """Band-pass filters of two learnt numbers each, the same on every channel (SincNet).

    ``forward``: [B, 2, T] at 16 kHz to [B, 2 * filters, T / 2]. The numbers are in kHz: optimisers
    step by about the learning rate, which is nothing in Hz.
    """

    width = 251
    nyquist = 8.0  # kHz
    narrowest = 0.05  # kHz

    def __init__(self, filters: int):
        super().__init__()
        low, high = (2595 * math.log10(1 + hz / 700) for hz in (30, 1000 * self.nyquist - 100))
        edges = 0.7 * (10 ** (torch.linspace(low, high, filters + 1) / 2595) - 1)  # kHz
        self.low = nn.Parameter(edges[:-1])
        self.band = nn.Parameter(edges.diff())
        half = self.width // 2
        time = torch.arange(-half, half + 1) / (2 * self.nyquist)  # ms
        self.register_buffer("time", time, persistent=False)
        hamming = torch.hamming_window(self.width, periodic=False)
        self.register_buffer("hamming", hamming, persistent=False)

    def kernels(self) -> torch.Tensor:
        """Impulse responses [filters, 251] at 16 kHz; the one at the centre is 1."""
        low = (self.narrowest + self.low.abs()).clamp(max=self.nyquist - self.narrowest)
        high = (low + self.narrowest + self.band.abs()).clamp(max=self.nyquist)

        def low_pass(cut: torch.Tensor) -> torch.Tensor:
            return 2 * cut[:, None] * torch.sinc(2 * cut[:, None] * self.time)

        return self.hamming * (low_pass(high) - low_pass(low)) / (2 * (high - low))[:, None]

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        # Even and odd samples as two channels, which takes half the time of a stride of 2.
        channels, samples = waveform.shape[1:]
        half = self.width // 2
        padded = F.pad(waveform.flatten(0, 1), (half, half + samples % 2))
        phases = padded.unflatten(1, (-1, 2)).transpose(1, 2).contiguous()
        kernels = F.pad(self.kernels(), (0, 1)).unflatten(1, (-1, 2)).transpose(1, 2)
        return F.conv1d(phases, kernels).unflatten(0, (-1, channels)).flatten(1, 2)


def conv3(inputs: int, filters: int, separable: bool = False) -> list[nn.Module]:
    """Conv3x3-BN-ReLU; ``separable``: of one convolution in each filter and one across them."""
    convolutions = [nn.Conv2d(inputs, filters, 3, padding=1, bias=False)]
    if separable:
        convolutions = [
            nn.Conv2d(inputs, inputs, 3, padding=1, groups=inputs, bias=False),
            nn.Conv2d(inputs, filters, 1, bias=False),
        ]
    return [*convolutions, nn.BatchNorm2d(filters), nn.ReLU(inplace=True)]


@front_end("sinc_acl")
class SincAcl(FrontEnd):
    """AclNet with sinc filters in place of its first convolution, after Huang et al. (Table 6).

    ``filters`` are AclNet's 512 times its width multiplier, which is 0.25.
    """

    separable = False  # all 3x3 convolutions but the first

    def __init__(self):
        super().__init__()
        width = self.filters // 16
        self.sinc = SincConv(16)
        self.frames = nn.Sequential(  # of 10 ms
            nn.Conv1d(2 * 16, 64, 5, stride=4, padding=2, bias=False),
            nn.BatchNorm1d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool1d(20),
        )
        layers = conv3(1, width)
        for inputs in (width, 2 * width, 4 * width, 8 * width):
            layers.append(nn.MaxPool2d(2))
            layers += conv3(inputs, 2 * inputs, self.separable)
            layers += conv3(2 * inputs, 2 * inputs, self.separable)
        self.layers = nn.Sequential(*layers, nn.MaxPool2d(2), nn.Dropout(0.2))

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        at_16_khz = torchaudio.functional.resample(waveform, RATE, 16_000)
        image = self.frames(self.sinc(at_16_khz)).unsqueeze(1)  # [B, 1, 64, frames]
        return self.layers(image)  # [B, f, bands, t]

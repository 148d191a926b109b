"""The tagging network (Section 2.2): a ResNet on log-mel images, one head per set of clips."""

import torch
import torchaudio
from torch import nn
from torch.nn import functional as F

from .recipes import TAG_RATE, TaggerSizes


class MelSpectrogram(torchaudio.transforms.MelSpectrogram):
    """Linear mel power of mono audio at 44.1 kHz: [..., T] to [..., bands, frames] (Sec. 4.2)."""

    def __init__(self, sizes: TaggerSizes):
        super().__init__(
            TAG_RATE,
            sizes.n_fft,
            hop_length=sizes.hop,
            f_min=20.0,
            f_max=22_050.0,
            n_mels=sizes.bands,
            mel_scale="slaney",
            norm="slaney",
        )


def standardised_decibels(mel: torch.Tensor) -> torch.Tensor:
    """dB of linear mel power [..., bands, frames], with mean 0 and deviation 1 over each image."""
    decibels = torchaudio.functional.amplitude_to_DB(
        mel, multiplier=10.0, amin=1e-10, db_multiplier=0.0, top_db=None
    )
    mean = decibels.mean((-2, -1), keepdim=True)
    deviation = decibels.std((-2, -1), keepdim=True)
    return (decibels - mean) / (deviation + 1e-6)


class Residual(nn.Module):
    """ResNet's basic block, under torchvision's names: two convolutions beside a shortcut.

    [B, before, H, W] to [B, filters, H / stride, W / stride].
    """

    def __init__(self, before: int, filters: int, stride: int):
        super().__init__()
        shortcut = nn.Identity()
        if stride > 1 or before != filters:
            shortcut = nn.Sequential(
                nn.Conv2d(before, filters, 1, stride, bias=False), nn.BatchNorm2d(filters)
            )
        self.conv1 = nn.Conv2d(before, filters, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(filters)
        self.conv2 = nn.Conv2d(filters, filters, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(filters)
        self.downsample = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = F.relu(self.bn1(self.conv1(x)), inplace=True)
        second = self.bn2(self.conv2(first))
        return F.relu(second.add_(self.downsample(x)), inplace=True)


class TaggingNet(nn.Module):
    """ResNet with one input channel, global max pooling, and one head for each set of clips.

    With the default sizes: ResNet-34, 24,592,224 parameters for 80 tags.
    """

    def __init__(self, n_tags: int, sizes: TaggerSizes):
        super().__init__()
        width = sizes.widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(1, width, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        blocks = []
        for stage, (filters, depth) in enumerate(zip(sizes.widths, sizes.depths)):
            for block in range(depth):
                stride = 2 if stage and not block else 1
                blocks.append(Residual(width, filters, stride))
                width = filters
        self.blocks = nn.Sequential(*blocks)
        self.curated = self._head(width, n_tags)
        self.noisy = self._head(width, n_tags)

    @staticmethod
    def _head(width: int, n_tags: int) -> nn.Sequential:
        hidden = 2 * width
        return nn.Sequential(
            nn.Linear(width, hidden),
            nn.ReLU(),
            nn.Dropout(0.2),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Dropout(0.1),
            nn.Linear(hidden, n_tags),
        )

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """Standardised log-mel images [B, bands, frames] to [B, width of the last stage]."""
        # Channels last is the faster order on a processor.
        first = self.stem[0](image.unsqueeze(1)).contiguous(memory_format=torch.channels_last)
        features = self.blocks(self.stem[1:](first))  # [B, width, bands / 32, frames / 32]
        return features.amax((-2, -1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Standardised log-mel images [B, bands, frames] to the curated head's logits [B, c]."""
        return self.curated(self.embed(image))

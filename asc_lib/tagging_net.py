"""The tagging network (Section 2.2): a ResNet on log-mel images, with one head for each set of clips."""

from dataclasses import dataclass

import torch
from torch import nn

from . import audio


@dataclass(frozen=True)
class TaggerSizes:
    """Everything that determines a tagger but data and seed; the defaults are the paper's system [14], at full size.

    A smaller tagger is the same code with smaller numbers here.
    """

    bands: int = 128  # mel bands, from 20 Hz to 22,050 Hz
    n_fft: int = 2560  # samples at 44.1 kHz
    hop: int = 347  # samples
    widths: tuple[int, ...] = (64, 128, 256, 512)  # ResNet-34
    depths: tuple[int, ...] = (3, 4, 6, 3)
    crop: int = 512  # frames, the longest slice of a clip that training sees
    folds: int = 5  # of the curated set
    batch: int = 64  # clips, one half curated and one half noisy
    epochs: int = 64  # of one cosine cycle; an epoch is one pass over the curated clips
    cycles: int = 8  # of stage 1
    second_cycles: int = 8  # of stage 2; its length is not known, so it gets as many
    lr: float = 1e-3  # Adam; each cycle takes it down to 1e-6

    def mel(self) -> audio.MelSpectrogram:
        """The front end: linear mel power."""
        return audio.MelSpectrogram(self.bands, self.n_fft, self.hop)


class TaggingNet(nn.Module):
    """ResNet with one input channel, global max pooling, and one head for each set of clips.

    With the default sizes: ResNet-34, 24,592,224 parameters for 80 tags.
    """

    def __init__(self, n_tags: int, sizes: TaggerSizes):
        super().__init__()
        from torchvision.models.resnet import BasicBlock  # two seconds that processes without a tagger need not wait

        first = sizes.widths[0]
        self.stem = nn.Sequential(
            nn.Conv2d(1, first, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(first),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        blocks, width = [], first
        for stage, (filters, depth) in enumerate(zip(sizes.widths, sizes.depths)):
            for block in range(depth):
                stride, down = (2 if stage and not block else 1), None
                if stride > 1 or width != filters:
                    down = nn.Sequential(nn.Conv2d(width, filters, 1, stride, bias=False), nn.BatchNorm2d(filters))
                blocks.append(BasicBlock(width, filters, stride, down))
                width = filters
        self.blocks = nn.Sequential(*blocks)
        self.curated, self.noisy = self._head(width, n_tags), self._head(width, n_tags)

    @staticmethod
    def _head(width: int, n_tags: int) -> nn.Sequential:
        hidden = 2 * width
        layers = [nn.Linear(width, hidden), nn.ReLU(), nn.Dropout(0.2), nn.Linear(hidden, hidden), nn.ReLU()]
        return nn.Sequential(*layers, nn.Dropout(0.1), nn.Linear(hidden, n_tags))

    def embed(self, image: torch.Tensor) -> torch.Tensor:
        """Standardised log-mel images [B, bands, frames] to [B, width of the last stage]."""
        return self.blocks(self.stem(image.unsqueeze(1))).amax((-2, -1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Standardised log-mel images [B, bands, frames] to the curated head's logits [B, n_tags]."""
        return self.curated(self.embed(image))

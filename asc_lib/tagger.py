"""The audio tagging system (Section 2.2): log-mel, a ResNet with two heads, folds; and the tag vectors it gives."""

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchaudio
from safetensors.torch import load_file, save_file
from sklearn.model_selection import StratifiedKFold
from torch import nn
from torch.nn import functional as F
from torchvision.models.resnet import BasicBlock

from . import audio, store, training
from .corpora import SceneCorpus, TagCorpus
from .store import Store


@dataclass(frozen=True)
class TaggerSizes:
    """Everything that determines a tagger but data, seed and epochs; the defaults are the paper's system [14]."""

    bands: int = 128
    n_fft: int = 2560
    hop: int = 347
    widths: tuple[int, ...] = (64, 128, 256, 512)
    depths: tuple[int, ...] = (3, 4, 6, 3)
    crop: int = 512  # frames
    folds: int = 5
    batch: int = 64
    epochs: int = 64
    lr: float = 1e-3

    def mel(self) -> audio.MelSpectrogram:
        """The front end: linear mel power."""
        return audio.MelSpectrogram(self.bands, self.n_fft, self.hop)


class TaggingNet(nn.Module):
    """ResNet with one input channel, global max pooling, and one head for each set of clips.

    With the default sizes: ResNet-34, 24,592,224 parameters for 80 tags.
    """

    def __init__(self, n_tags: int, sizes: TaggerSizes):
        super().__init__()
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


def tag_mels(corpus: TagCorpus, sizes: TaggerSizes) -> list[torch.Tensor]:
    """Linear mel power [bands, frames] of every clip, in the corpus's order; clips shorter than a crop are repeated."""
    mel, out = sizes.mel(), []
    for path in corpus.clips["path"]:
        clip = torch.from_numpy(audio.read(path, mel.rate, channels=1)[0]).float() / 2**15
        spectrogram = mel(clip)
        repeats = -(-sizes.crop // spectrogram.shape[1])
        out.append(spectrogram.repeat(1, repeats))
    return out


def fold_numbers(corpus: TagCorpus, sizes: TaggerSizes, seed: int) -> np.ndarray:
    """Fold of every clip: the corpus's own where it has any; else curated clips stratified by their first label.

    A clip of fold -1 (noisy clips without a fold of their own) is heard in every fold; test clips are heard in none.
    """
    folds = corpus.clips["fold"].to_numpy().copy()
    if (folds < 0).all():
        curated = np.flatnonzero(corpus.clips["set"] == "curated")
        first = [labels[0] for labels in corpus.clips["labels"].iloc[curated]]
        splitter = StratifiedKFold(sizes.folds, shuffle=True, random_state=seed)
        for fold, (_, held_out) in enumerate(splitter.split(curated, first), 1):
            folds[curated[held_out]] = fold
    return folds


def training_rows(corpus: TagCorpus, folds: np.ndarray, fold: int) -> dict[str, np.ndarray]:
    """Rows of the curated and of the noisy clips that the network of ``fold`` hears: all that are not of this fold."""
    kinds = corpus.clips["set"].to_numpy()
    return {kind: np.flatnonzero((kinds == kind) & (folds != fold)) for kind in ("curated", "noisy")}


def _crops(mels: list[torch.Tensor], rows: np.ndarray, frames: int, rng: np.random.Generator) -> torch.Tensor:
    starts = [int(rng.integers(mels[row].shape[1] - frames + 1)) for row in rows]
    return torch.stack([mels[row][:, start : start + frames] for row, start in zip(rows, starts)])


def augmented(mel: torch.Tensor, targets: torch.Tensor, rng: np.random.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Augment linear mel power [B, bands, frames] and return standardised images and targets (Section 4.2, [14]).

    Each with probability 0.5 for the batch: mixup with Beta(1, 1); gain of ±10 %; a frequency mask per clip
    (SpecAugment), filled with the image's mean.
    """
    if rng.random() < 0.5:
        mel, targets = training.mix({"mel": mel, "targets": targets}, 1.0, rng).values()
    if rng.random() < 0.5:
        mel = mel * float(rng.uniform(0.9, 1.1)) ** 2
    image = audio.standardised_decibels(mel)
    if rng.random() < 0.5:
        image = torchaudio.functional.mask_along_axis_iid(image.unsqueeze(1), image.shape[1] // 2, 0.0, 2).squeeze(1)
    return image, targets


def _batches(
    mels: list[torch.Tensor], targets: torch.Tensor, sets: dict[str, np.ndarray], sizes: TaggerSizes, device: str, rng
) -> Iterator[training.Batch]:
    """One epoch over the curated clips; every batch holds as many noisy clips as curated ones."""
    half = sizes.batch // 2
    curated = rng.permutation(sets["curated"])
    noisy = np.resize(rng.permutation(sets["noisy"]), len(curated))
    for start in range(0, len(curated) - half + 1, half):
        batch = {}
        for name, rows in (("curated", curated), ("noisy", noisy)):
            rows = rows[start : start + half]
            crops = _crops(mels, rows, sizes.crop, rng).to(device)
            batch[name], batch[f"{name}_targets"] = augmented(crops, targets[rows].to(device), rng)
        yield batch


def multi_task_loss(net: TaggingNet, batch: training.Batch) -> torch.Tensor:
    """Binary cross-entropy of each head on the clips of its own set, added (stage 1 of [14])."""
    both = net.embed(torch.cat([batch["curated"], batch["noisy"]]))
    curated, noisy = both.split([len(batch["curated"]), len(batch["noisy"])])
    loss = F.binary_cross_entropy_with_logits
    return loss(net.curated(curated), batch["curated_targets"]) + loss(net.noisy(noisy), batch["noisy_targets"])


@dataclass(frozen=True)
class Tagger:
    """Trained networks, one a fold; the network of fold k has heard no clip of fold k."""

    nets: dict[int, TaggingNet]
    tags: list[str]
    sizes: TaggerSizes

    def fit_to_tag(self, fold: int) -> tuple[int, ...]:
        """Folds whose networks may tag a clip with recordings of ``fold``: its own, or all where none heard it."""
        return (fold,) if fold in self.nets else tuple(self.nets)

    @torch.no_grad()
    def probabilities(self, mel: torch.Tensor, folds: tuple[int, ...]) -> torch.Tensor:
        """Tag vectors [B, tags] of linear mel power [B, bands, frames]: the curated heads' mean sigmoid, 0 to 1."""
        image = audio.standardised_decibels(mel)
        return torch.stack([self.nets[fold].eval()(image).sigmoid() for fold in folds]).mean(0)

    def tag_clips(self, mels: list[torch.Tensor], folds: np.ndarray) -> np.ndarray:
        """Tag vectors [clips, tags] of tag clips, each from the networks that have not heard its fold."""
        vectors = [self.probabilities(mel[None], self.fit_to_tag(int(fold))) for mel, fold in zip(mels, folds)]
        return torch.cat(vectors).numpy()

    def tag_scenes(self, corpus: SceneCorpus, waveforms: Store, rows: np.ndarray, batch: int = 20) -> np.ndarray:
        """Tag vectors [len(rows), tags] of scene clips, mixed to mono and resampled from 48 to 44.1 kHz."""
        mel, resample = self.sizes.mel(), torchaudio.transforms.Resample(store.RATE, audio.MelSpectrogram.rate)
        folds, out = corpus.clips["fold"].to_numpy()[rows], np.zeros((len(rows), len(self.tags)), "float32")
        for fold in np.unique(folds):
            places = np.flatnonzero(folds == fold)
            for part in np.array_split(places, -(-len(places) // batch)):
                starts = np.zeros(len(part), int)
                clips = waveforms.batch(rows[part], starts, waveforms.samples).float().mean(1) / 2**15
                out[part] = self.probabilities(mel(resample(clips)), self.fit_to_tag(int(fold))).numpy()
        return out

    def save(self, folder: Path) -> None:
        """Write the networks (safetensors) and what they are (JSON) into a new folder."""
        folder.mkdir(parents=True)
        for fold, net in self.nets.items():
            save_file(net.state_dict(), folder / f"fold{fold}.safetensors")
        about = {"tags": self.tags, "sizes": asdict(self.sizes), "folds": list(self.nets)}
        (folder / "tagger.json").write_text(json.dumps(about, indent=1), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path) -> "Tagger":
        """Read what ``save`` wrote."""
        about = json.loads((folder / "tagger.json").read_text(encoding="utf-8"))
        sizes = TaggerSizes(**{k: tuple(v) if isinstance(v, list) else v for k, v in about["sizes"].items()})
        nets = {fold: TaggingNet(len(about["tags"]), sizes) for fold in about["folds"]}
        for fold, net in nets.items():
            net.load_state_dict(load_file(folder / f"fold{fold}.safetensors"))
        return cls(nets, about["tags"], sizes)


def train(
    corpus: TagCorpus,
    mels: list[torch.Tensor],
    folds: np.ndarray,
    sizes: TaggerSizes,
    *,
    epochs: int,
    seed: int,
    checkpoints: Path,
    device: str = "cpu",
) -> tuple[Tagger, pd.DataFrame]:
    """Train one network a fold on the curated and noisy clips of all other folds (stage 1 of [14]).

    ``mels`` and ``folds`` are those of ``tag_mels`` and ``fold_numbers``; ``checkpoints`` is a folder in which an
    unfinished training goes on. Returns the tagger and its history: a row a fold and epoch.
    """
    targets, kinds = torch.from_numpy(corpus.targets()), corpus.clips["set"].to_numpy()
    nets, histories = {}, []
    for fold in map(int, np.unique(folds[kinds == "curated"])):
        sets = training_rows(corpus, folds, fold)
        print(f"fold {fold}: trains on {len(sets['curated'])} curated and {len(sets['noisy'])} noisy clips")
        torch.manual_seed(seed)
        nets[fold] = net = TaggingNet(len(corpus.tags), sizes).to(device)
        optimiser = torch.optim.Adam(net.parameters(), sizes.lr)

        def batches(epoch: int, fold=fold, sets=sets) -> Iterator[training.Batch]:
            return _batches(mels, targets, sets, sizes, device, training.epoch_generator(seed, epoch, fold))

        history = training.fit(
            net,
            batches,
            multi_task_loss,
            optimiser,
            epochs=epochs,
            schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs, eta_min=1e-6),
            checkpoint=checkpoints / f"fold{fold}.safetensors",
        )
        net.cpu()
        histories.append(history.assign(fold=fold))
    return Tagger(nets, corpus.tags, sizes), pd.concat(histories, ignore_index=True)

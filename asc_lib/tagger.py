"""The audio tagging system (Section 2.2, [14]): augmentation, two training stages over folds, and its tag vectors."""

import copy
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchaudio
from safetensors.torch import load_file, save_file
from sklearn.model_selection import StratifiedKFold
from torch.nn import functional as F

from . import audio, store, training
from .artefacts import Put, data_root, filled, fingerprint, written_whole
from .corpora import SceneCorpus, TagCorpus
from .store import Store
from .tagging_net import TaggerSizes, TaggingNet

SUPERVISION = ("curated", "noisy", "pseudo_labels")
PSEUDO_WEIGHT = 20.0  # of the mean squared error that stage 2 adds


def tag_mels(corpus: TagCorpus, sizes: TaggerSizes) -> list[torch.Tensor]:
    """Linear mel power [bands, frames] of every clip, in the corpus's order; clips shorter than a crop are repeated.

    They lie in one file under ``ASC_DATA`` (about 25 GB for FSDKaggle2019), computed on first use and memory-mapped.
    """
    paths, mel = list(corpus.clips["path"]), sizes.mel()
    frames = np.array([1 + audio.length(path)[0] // sizes.hop for path in paths])
    frames *= -(-sizes.crop // frames)
    ends = np.cumsum(frames)

    def compute(put: Put, rows: np.ndarray) -> None:
        for row in rows:
            clip = torch.from_numpy(audio.read(paths[row], mel.rate, channels=1)[0]).float() / 2**15
            one = mel(clip).T
            put(ends[row] - frames[row], one.repeat(frames[row] // len(one), 1).numpy())

    described = [str(corpus.root), list(map(str, paths)), frames.tolist(), sizes.bands, sizes.n_fft, sizes.hop]
    path = data_root() / "made" / f"{corpus.root.name}-mels-{fingerprint(*described)}.npy"
    filled(path, (int(ends[-1]), sizes.bands), "float32", compute, len(paths), 64)
    array = np.load(path, mmap_mode="c", allow_pickle=False)  # torch warns of arrays that cannot be written
    return [torch.from_numpy(array[end - count : end]).T for end, count in zip(ends, frames)]


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


def slices(mels: list[torch.Tensor], rows: np.ndarray, longest: int, rng: np.random.Generator) -> torch.Tensor:
    """A random excerpt of each clip (slicing): [len(rows), bands, frames].

    All are ``longest`` frames long or, with probability 0.5, of one length between half of that and that.
    """
    frames = longest if rng.random() < 0.5 else int(rng.integers(longest // 2, longest + 1))
    starts = [int(rng.integers(mels[row].shape[1] - frames + 1)) for row in rows]
    return torch.stack([mels[row][:, start : start + frames] for row, start in zip(rows, starts)])


def augmented(
    mel: torch.Tensor, targets: training.Batch, rng: np.random.Generator
) -> tuple[torch.Tensor, training.Batch]:
    """Augment the clips of one set, linear mel power [B, bands, frames]: standardised images and targets ([14]).

    For each clip with probability 0.5 each: a gain of up to 10 % (before mixup: standardisation undoes it otherwise);
    mixup with Beta(1, 1), of the powers and of every [B, tags] in ``targets``; a frequency mask (SpecAugment) whose
    half-width is 8 to 31 of 128 bands, filled with the image's mean.
    """
    clips, bands = mel.shape[:2]
    gain = np.where(rng.random(clips) < 0.5, rng.uniform(0.9, 1.1, clips) ** 2, 1.0)
    mel = mel * torch.as_tensor(gain[:, None, None], dtype=mel.dtype, device=mel.device)
    share = np.where(rng.random(clips) < 0.5, rng.beta(1.0, 1.0, clips), 1.0)
    mixed = training.mix({"mel": mel} | targets, share, rng)
    image = audio.standardised_decibels(mixed.pop("mel"))
    half = np.where(rng.random(clips) < 0.5, rng.uniform(8, 31, clips) / 128 * bands, 0.0)
    masked = np.abs(np.arange(bands) - rng.uniform(0, bands, clips)[:, None]) < half[:, None]
    return image.masked_fill(torch.from_numpy(masked[:, :, None]).to(image.device), 0.0), mixed


def loss(net: TaggingNet, batch: training.Batch) -> torch.Tensor:
    """What one batch costs: binary cross-entropy of the curated head on curated clips, and what else it holds.

    With ``noisy`` images: the same of the noisy head on them (stage 1). With ``pseudo`` targets for these: 20 times
    the mean squared error between the curated head's sigmoid and the targets (stage 2).
    """
    images = [batch[name] for name in ("curated", "noisy") if name in batch]
    embedded = net.embed(torch.cat(images)).split([len(part) for part in images])
    cost = F.binary_cross_entropy_with_logits(net.curated(embedded[0]), batch["curated_targets"])
    if "noisy" in batch:
        cost = cost + F.binary_cross_entropy_with_logits(net.noisy(embedded[1]), batch["noisy_targets"])
    if "pseudo" in batch:
        cost = cost + PSEUDO_WEIGHT * F.mse_loss(net.curated(embedded[1]).sigmoid(), batch["pseudo"])
    return cost


def soft_pseudo_labels(probabilities: np.ndarray) -> np.ndarray:
    """Soft pseudo-labels [clips, tags] of tag vectors [teachers, clips, tags]: mean, squared, each clip's sum 1."""
    sharpened = probabilities.mean(0) ** 2
    return sharpened / sharpened.sum(1, keepdims=True)


def tag(net: TaggingNet, mel: torch.Tensor) -> torch.Tensor:
    """Tag vectors [B, tags] of linear mel power [B, bands, frames]: the curated head's sigmoid, 0 to 1."""
    with torch.no_grad():
        image = audio.standardised_decibels(mel.contiguous().to(next(net.parameters()).device))
        return net.eval()(image).sigmoid().cpu()


@dataclass(frozen=True)
class Tagger:
    """Trained networks, one a fold; the network of fold k has heard no clip of fold k."""

    nets: dict[int, TaggingNet]
    tags: list[str]
    sizes: TaggerSizes

    def fit_to_tag(self, fold: int) -> tuple[int, ...]:
        """Folds whose networks may tag a clip with recordings of ``fold``: its own, or all where none heard it."""
        return (fold,) if fold in self.nets else tuple(self.nets)

    def probabilities(self, mel: torch.Tensor, folds: tuple[int, ...]) -> torch.Tensor:
        """Tag vectors [B, tags] of linear mel power [B, bands, frames]: the mean of the networks of ``folds``."""
        return torch.stack([tag(self.nets[fold], mel) for fold in folds]).mean(0)

    def tag_clips(self, mels: list[torch.Tensor], folds: np.ndarray) -> np.ndarray:
        """Tag vectors [clips, tags] of tag clips, each from the networks that have not heard its fold."""
        vectors = [self.probabilities(mel[None], self.fit_to_tag(int(fold))) for mel, fold in zip(mels, folds)]
        return torch.cat(vectors).numpy()

    @cached_property
    def _heard(self) -> torch.nn.Sequential:
        """From mono at 48 kHz to linear mel power."""
        resample = torchaudio.transforms.Resample(store.RATE, audio.MelSpectrogram.rate)
        device = next(next(iter(self.nets.values())).parameters()).device
        return torch.nn.Sequential(resample, self.sizes.mel()).to(device)

    def tag_waveforms(self, clips: torch.Tensor, fold: int = -1) -> torch.Tensor:
        """Tag vectors [B, tags] of int16 clips [B, channels, T] at 48 kHz, mixed to mono and resampled to 44.1 kHz."""
        return self.probabilities(self._heard(clips.float().mean(1) / 2**15), self.fit_to_tag(fold))

    def tag_scenes(self, corpus: SceneCorpus, waveforms: Store, rows: np.ndarray, batch: int = 8) -> np.ndarray:
        """Tag vectors [len(rows), tags] of scene clips, each from the networks that have not heard its fold."""
        device = next(next(iter(self.nets.values())).parameters()).device
        folds, out = corpus.clips["fold"].to_numpy()[rows], np.zeros((len(rows), len(self.tags)), "float32")
        for fold in np.unique(folds):
            places = np.flatnonzero(folds == fold)
            for part in np.array_split(places, -(-len(places) // batch)):
                clips = waveforms.batch(rows[part], np.zeros(len(part), int), waveforms.samples).to(device)
                out[part] = self.tag_waveforms(clips, int(fold)).numpy()
        return out

    def to(self, device: str) -> "Tagger":
        """The same tagger on a device."""
        return Tagger({fold: net.to(device) for fold, net in self.nets.items()}, self.tags, self.sizes)

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


@dataclass(frozen=True)
class TagData:
    """What a tagger learns from, and how.

    ``supervision``: "curated", these clips alone; "noisy", the noisy set besides, through a head of its own;
    "pseudo_labels", in stage 2 also soft pseudo-labels of the noisy clips. Training is equally long in all three.
    """

    corpus: TagCorpus
    mels: list[torch.Tensor]  # of ``tag_mels``
    folds: np.ndarray  # of ``fold_numbers``
    sizes: TaggerSizes
    supervision: str = "pseudo_labels"
    seed: int = 0
    device: str = "cpu"

    @property
    def networks(self) -> list[int]:
        """Folds of the curated set: each has a network that does not hear it."""
        return np.unique(self.folds[self.corpus.clips["set"] == "curated"]).tolist()

    def teachers(self, fold: int) -> list[int]:
        """Networks whose pseudo-labels the network of ``fold`` learns: all, as in [14].

        Its own alone where the corpus has folds of its own: there the fold's recordings sound in scene clips that
        this network will tag, and the others have heard them.
        """
        return [fold] if (self.corpus.clips["fold"] >= 0).any() else self.networks

    def batches(
        self, fold: int, stage: int, epoch: int, pseudo: torch.Tensor | None = None
    ) -> Iterator[training.Batch]:
        """One epoch over the curated clips of all other folds, with as many noisy clips in every batch.

        ``pseudo``: soft pseudo-labels [clips, tags], of which the noisy clips' are used.
        """
        targets = torch.from_numpy(self.corpus.targets())
        half, rng = self.sizes.batch // 2, training.epoch_generator(self.seed, epoch, 2 * fold + stage)
        heard = training_rows(self.corpus, self.folds, fold)
        curated = rng.permutation(heard["curated"])
        noisy = np.resize(rng.permutation(heard["noisy"]), len(curated))
        for start in range(0, len(curated) - half + 1, half):
            chosen = {"curated": curated[start : start + half], "noisy": noisy[start : start + half]}
            mel = slices(self.mels, np.concatenate(list(chosen.values())), self.sizes.crop, rng).to(self.device)
            parts, batch = dict(zip(chosen, mel.split(half))), {}
            for name, rows in chosen.items():
                if name == "curated" or self.supervision != "curated":
                    wanted = {f"{name}_targets": targets[rows]}
                    if name == "noisy" and pseudo is not None:
                        wanted["pseudo"] = pseudo[rows]
                    wanted = {key: value.to(self.device) for key, value in wanted.items()}
                    image, wanted = augmented(parts[name], wanted, rng)
                    batch |= {name: image} | wanted
            yield batch

    def train(self, checkpoints: Path) -> tuple[list[Tagger], pd.DataFrame]:
        """Train one network a fold in two stages: the tagger after each of them, and the history.

        A row of the history is an epoch of one stage and fold. In the folder ``checkpoints`` an unfinished training
        goes on.
        """
        torch.manual_seed(self.seed)
        untrained = TaggingNet(len(self.corpus.tags), self.sizes)
        nets, stages, histories = dict.fromkeys(self.networks, untrained), [], []
        for stage in (1, 2):
            for fold in self.networks:
                print(f"stage {stage}, the network that leaves out fold {fold}")
                nets[fold] = copy.deepcopy(nets[fold])
                history = self._fit(nets[fold], fold, stage, checkpoints)
                histories.append(history.assign(stage=stage, fold=fold))
            stages.append(Tagger(dict(nets), self.corpus.tags, self.sizes))
        return stages, pd.concat(histories, ignore_index=True)

    def _fit(self, net: TaggingNet, fold: int, stage: int, checkpoints: Path) -> pd.DataFrame:
        sizes, teaches = self.sizes, stage == 1 and self.supervision == "pseudo_labels"
        cycles = sizes.cycles if stage == 1 else sizes.second_cycles
        pseudo = self._pseudo_labels(fold, checkpoints) if self.supervision == "pseudo_labels" and stage == 2 else None
        optimiser = torch.optim.Adam(net.to(self.device).parameters(), sizes.lr)

        def at_cycle_end(epoch: int) -> dict:
            if teaches and epoch % sizes.epochs == 0:
                vectors = torch.cat([tag(net, self.mels[row][None]) for row in self._noisy_rows()])
                with written_whole(checkpoints / f"fold{fold}-cycle{epoch // sizes.epochs}.npy") as file:
                    np.save(file, vectors.numpy())
            return {}

        history = training.fit(
            net,
            lambda epoch: self.batches(fold, stage, epoch, pseudo),
            loss,
            optimiser,
            epochs=cycles * sizes.epochs,
            schedule=torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimiser, sizes.epochs, eta_min=1e-6),
            checkpoint=checkpoints / f"fold{fold}-stage{stage}.safetensors",
            after_epoch=at_cycle_end,
        )
        net.cpu()
        return history

    def _noisy_rows(self) -> np.ndarray:
        return np.flatnonzero(self.corpus.clips["set"] == "noisy")

    def _pseudo_labels(self, fold: int, checkpoints: Path) -> torch.Tensor:
        """Soft pseudo-labels [clips, tags] from the teachers' networks at the ends of their cycles; 0 if not noisy."""
        files = [path for teacher in self.teachers(fold) for path in sorted(checkpoints.glob(f"fold{teacher}-cycle*"))]
        labels = torch.zeros(len(self.corpus.clips), len(self.corpus.tags))
        probabilities = np.stack([np.load(file, allow_pickle=False) for file in files])
        labels[self._noisy_rows()] = torch.from_numpy(soft_pseudo_labels(probabilities))
        return labels

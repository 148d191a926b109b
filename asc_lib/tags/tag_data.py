"""What a tagger learns from: mel power of tag clips, folds, slices, augmentation ([14])."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.model_selection import StratifiedKFold

from .. import training
from ..corpora import TagCorpus, audio
from ..files import Put, data_root, filled, fingerprint
from ..recipes import TAG_RATE, TaggerSizes
from ..tagging_net import MelSpectrogram, standardised_decibels
from .tagger import VERSION

SUPERVISION = ("curated", "noisy", "pseudo_labels")


def tag_mels(corpus: TagCorpus, sizes: TaggerSizes) -> list[torch.Tensor]:
    """Linear mel power [bands, frames] of every clip; clips shorter than a crop are repeated.

    They lie in one memory-mapped file under ``ASC_DATA`` (about 25 GB for FSDKaggle2019), computed
    on first use.
    """
    paths = list(corpus.clips["path"])
    spectrogram = MelSpectrogram(sizes)
    frames = np.array([1 + audio.length(path)[0] // sizes.hop for path in paths])
    frames *= np.ceil(sizes.crop / frames).astype(int)
    ends = np.cumsum(frames)

    def compute(put: Put, rows: np.ndarray) -> None:
        for row in rows:
            mel = spectrogram(
                torch.from_numpy(audio.read(paths[row], TAG_RATE, channels=1)[0]).float() / 2**15
            ).T  # [frames, bands]
            put(ends[row] - frames[row], mel.repeat(frames[row] // len(mel), 1).numpy())

    mark = fingerprint(
        corpus.root.name,
        [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths],
        frames.tolist(),
        sizes.bands,
        sizes.n_fft,
        sizes.hop,
    )
    path = data_root() / "made" / f"{corpus.root.name}-mels-{mark}.npy"
    filled(path, (int(ends[-1]), sizes.bands), "float32", compute, len(paths), 64)
    array = np.load(path, mmap_mode="c", allow_pickle=False)  # torch warns of read-only arrays
    return [torch.from_numpy(array[end - count : end]).T for end, count in zip(ends, frames)]


def fold_numbers(corpus: TagCorpus, sizes: TaggerSizes, seed: int) -> np.ndarray:
    """Fold of every clip: the corpus's own, else curated clips stratified by their first label.

    A clip of fold -1 (noisy clips without a fold of their own) is used in every fold; test clips
    are used in none.
    """
    folds = corpus.clips["fold"].to_numpy().copy()
    if (folds < 0).all():
        curated = np.flatnonzero(corpus.clips["set"] == "curated")
        splits = StratifiedKFold(sizes.folds, shuffle=True, random_state=seed).split(
            curated, [labels[0] for labels in corpus.clips["labels"].iloc[curated]]
        )
        for fold, (_, held_out) in enumerate(splits, 1):
            folds[curated[held_out]] = fold
    return folds


def training_rows(corpus: TagCorpus, folds: np.ndarray, fold: int) -> dict[str, np.ndarray]:
    """Rows of the curated and the noisy clips that train the network of ``fold``: other folds'."""
    kinds = corpus.clips["set"].to_numpy()
    return {
        kind: np.flatnonzero((kinds == kind) & (folds != fold)) for kind in ("curated", "noisy")
    }


def slices(
    mels: list[torch.Tensor], rows: np.ndarray, longest: int, rng: np.random.Generator
) -> torch.Tensor:
    """A random slice of each clip: [len(rows), bands, frames].

    All are ``longest`` frames long or, with probability 0.5, of one length between half of that and
    that.
    """
    frames = longest if rng.random() < 0.5 else int(rng.integers(longest // 2, longest + 1))
    return _cut(mels, rows, frames, rng)


def _cut(
    mels: list[torch.Tensor], rows: np.ndarray, frames: int, rng: np.random.Generator
) -> torch.Tensor:
    starts = [int(rng.integers(mels[row].shape[1] - frames + 1)) for row in rows]
    return torch.stack([mels[row][:, start : start + frames] for row, start in zip(rows, starts)])


def mixtures(
    mel: torch.Tensor,
    targets: training.Batch,
    others: torch.Tensor,
    other_targets: training.Batch,
    rng: np.random.Generator,
) -> tuple[torch.Tensor, training.Batch]:
    """Slices [B, bands, frames] made like scenes, as tagging scenes needs; ours, not the paper's.

    Three of four become mixtures of two to four sounds at levels within 12 dB of each other, with
    ``others`` [3, B, bands, frames] of the same set; then each gets a bed of noise with a colour of
    its own, 0 to 20 dB below, a room (a decay of up to 0.5 s in the powers) and an equaliser
    of up to 6 dB. Targets [B, c] are the union of those of the sounds mixed.
    """
    clips, bands, frames = mel.shape
    many = rng.choice([0, 1, 2, 3], clips, p=(0.25, 0.35, 0.25, 0.15))

    def level(power: torch.Tensor, decibels: np.ndarray) -> torch.Tensor:
        gain = torch.from_numpy(10 ** (decibels / 10)).to(power)
        return power * (gain / (power.mean((-2, -1)) + 1e-12))[..., None, None]

    mixed = level(mel, np.zeros(clips))
    for number in range(len(others)):
        gains = np.where(number < many, rng.uniform(-12, 0, clips), -np.inf)
        mixed = mixed + level(others[number], gains)
        used = torch.from_numpy(number < many).to(mel.device)[:, None]
        targets = {
            name: torch.maximum(value, other_targets[name][number] * used)
            for name, value in targets.items()
        }
    colour = np.linspace(0, 1, bands) * rng.uniform(-25, 5, (clips, 1))  # dB over the bands
    bed = rng.chisquare(4, (clips, bands, frames)) * 10 ** (colour[:, :, None] / 10)
    mixed = mixed + level(torch.from_numpy(bed).to(mel), rng.uniform(-20, 0, clips))
    decay = torch.from_numpy(np.exp(-np.arange(25) / rng.uniform(0.5, 8, (clips, 1)))).to(mel)
    wet = torch.from_numpy(rng.uniform(0, 0.3, clips)).to(mel)[:, None, None]
    tail = F.conv1d(
        F.pad(mixed.transpose(0, 1), (24, 0)), decay.flip(1)[:, None], groups=clips
    ).transpose(0, 1)
    corners = rng.uniform(-6, 6, (clips, 4))
    equaliser = np.stack([np.interp(np.linspace(0, 3, bands), range(4), row) for row in corners])
    return (mixed + wet * tail) * torch.from_numpy(10 ** (equaliser / 10)).to(mel)[
        ..., None
    ], targets


def augmented(
    mel: torch.Tensor, targets: training.Batch, rng: np.random.Generator
) -> tuple[torch.Tensor, training.Batch]:
    """Augmented clips of one set, linear mel power [B, bands, frames]: images and targets ([14]).

    For each clip, each with probability 0.5: a gain of up to 10 % (before mixup, because
    standardisation would undo it afterwards); mixup with Beta(1, 1), of the powers and of every
    value [B, c] in ``targets``; a frequency mask (SpecAugment) whose half-width is 8 to 31 of 128
    bands, filled with the image's mean. (No mask in time: PAPER.md says why.)
    """
    clips, bands = mel.shape[:2]
    gain = np.where(rng.random(clips) < 0.5, rng.uniform(0.9, 1.1, clips) ** 2, 1.0)
    mel = mel * torch.as_tensor(gain[:, None, None], dtype=mel.dtype, device=mel.device)
    share = np.where(rng.random(clips) < 0.5, rng.beta(1.0, 1.0, clips), 1.0)
    mixed = training.mix({"mel": mel} | targets, share, rng)
    image = standardised_decibels(mixed.pop("mel"))
    half = np.where(rng.random(clips) < 0.5, rng.uniform(8, 31, clips) / 128 * bands, 0.0)
    centre = rng.uniform(0, bands, clips)
    masked = np.abs(np.arange(bands) - centre[:, None]) < half[:, None]
    return image.masked_fill(torch.from_numpy(masked[:, :, None]).to(image.device), 0.0), mixed


@dataclass(frozen=True)
class TagData:
    """What a tagger learns from, and how.

    ``supervision``: "curated", these clips alone; "noisy", the noisy set too, through a head of its
    own; "pseudo_labels", in stage 2 also soft pseudo-labels of the noisy clips. Training is equally
    long in all three.
    """

    corpus: TagCorpus
    mels: list[torch.Tensor]  # of ``tag_mels``
    folds: np.ndarray  # of ``fold_numbers``
    sizes: TaggerSizes
    supervision: str = "pseudo_labels"
    seed: int = 0
    device: str = "cpu"
    threads: int = 1

    @classmethod
    def open(cls, corpus: TagCorpus, sizes: TaggerSizes, seed: int = 0, **others) -> "TagData":
        """Read the clips of a corpus; ``others``: further fields."""
        return cls(
            corpus,
            tag_mels(corpus, sizes),
            fold_numbers(corpus, sizes, seed),
            sizes,
            seed=seed,
            **others,
        )

    @property
    def tagger_path(self) -> Path:
        return tagger_path(self.corpus, self.sizes, self.supervision, self.seed, self.threads)

    @property
    def networks(self) -> list[int]:
        """Folds of the curated set: each has a network that does not hear it."""
        return np.unique(self.folds[self.corpus.clips["set"] == "curated"]).tolist()

    def teachers(self, fold: int) -> list[int]:
        """Networks whose pseudo-labels the network of ``fold`` learns: all, as in [14].

        Its own alone where the corpus has folds of its own: there the fold's recordings are part of
        scene clips that this network will tag, and the others have heard them.
        """
        return [fold] if (self.corpus.clips["fold"] >= 0).any() else self.networks

    def noisy_rows(self) -> np.ndarray:
        return np.flatnonzero(self.corpus.clips["set"] == "noisy")

    def batches(
        self, fold: int, stage: int, epoch: int, pseudo: torch.Tensor | None = None
    ) -> Iterator[training.Batch]:
        """One epoch over the curated clips of all other folds, with as many noisy ones per batch.

        ``pseudo``: soft pseudo-labels [clips, c], of which the noisy clips' are used.
        """
        targets = torch.from_numpy(self.corpus.targets()).to(self.device)
        kinds = ("curated",) if self.supervision == "curated" else ("curated", "noisy")
        half = self.sizes.batch // 2
        rng = training.epoch_generator(self.seed, epoch, 2 * fold + stage)
        rows = training_rows(self.corpus, self.folds, fold)
        curated = rng.permutation(rows["curated"])
        noisy = np.resize(rng.permutation(rows["noisy"]), len(curated))
        for start in range(0, len(curated) - half + 1, half):
            chosen = np.r_[curated[start : start + half], noisy[start : start + half]]
            mel = slices(self.mels, chosen, self.sizes.crop, rng).to(self.device)
            batch = {}
            for kind, part, clips in zip(kinds, mel.split(half), chosen.reshape(2, -1)):
                known = {f"{kind}_targets": targets}
                if kind == "noisy" and pseudo is not None:
                    known["pseudo"] = pseudo.to(self.device)
                wanted = {name: value[clips] for name, value in known.items()}
                if self.sizes.mixtures:
                    more = rng.choice(rows[kind], (3, half))
                    others = torch.stack([_cut(self.mels, k, part.shape[2], rng) for k in more])
                    part, wanted = mixtures(
                        part,
                        wanted,
                        others.to(self.device),
                        {name: value[more] for name, value in known.items()},
                        rng,
                    )
                image, wanted = augmented(part, wanted, rng)
                batch |= {kind: image} | wanted
            yield batch


def tagger_path(
    corpus: TagCorpus, sizes: TaggerSizes, supervision: str, seed: int, threads: int
) -> Path:
    """Where the tagger of these settings lies, named by what determines it."""
    mark = fingerprint(
        corpus.fingerprint,
        asdict(sizes),
        supervision,
        seed,
        threads,
        VERSION,
    )
    return data_root() / "made" / f"{corpus.name}-tagger-{mark}"

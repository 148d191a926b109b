"""A trained tagger: the networks of all folds, and the tag vectors they give (Section 2.2)."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from ..corpora import SceneCorpus
from ..corpora.audio import RATE, resampled
from ..corpora.store import Store
from ..recipes import TAG_RATE, TaggerSizes
from ..schemas import TaggerAbout, read_json, validated
from ..tagging_net import MelSpectrogram, TaggingNet, standardised_decibels
from ..training import loaded

VERSION = 2  # raised when a change of the code changes what a tagger learns or gives


@contextlib.contextmanager
def threads(number: int) -> Iterator[None]:
    """Let torch use this many threads for a while: tag vectors must not depend on the run's own."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def tag(net: TaggingNet, mel: torch.Tensor) -> torch.Tensor:
    """Tag vectors [B, c] of linear mel power [B, bands, frames]: the curated head's sigmoid."""
    with torch.no_grad():
        image = standardised_decibels(mel.contiguous().to(next(net.parameters()).device))
        return net.eval()(image).sigmoid().cpu()


@dataclass(frozen=True)
class Tagger:
    """Trained networks, one per fold; the network of fold k has not heard any clip of fold k."""

    nets: dict[int, TaggingNet]
    tags: list[str]
    sizes: TaggerSizes

    def unbiased(self, fold: int) -> tuple[int, ...]:
        """Folds whose networks may tag recordings of ``fold``: its own, or all if none heard it."""
        return (fold,) if fold in self.nets else tuple(self.nets)

    def probabilities(self, mel: torch.Tensor, folds: tuple[int, ...]) -> torch.Tensor:
        """Tag vectors [B, c] of linear mel power [B, bands, frames]: the mean over networks."""
        return torch.stack([tag(self.nets[fold], mel) for fold in folds]).mean(0)

    def tag_clips(self, mels: list[torch.Tensor], folds: np.ndarray) -> np.ndarray:
        """Tag vectors [clips, c] of tag clips, each from networks that have not heard its fold."""
        return torch.cat(
            [
                self.probabilities(mel[None], self.unbiased(int(fold)))
                for mel, fold in zip(mels, folds)
            ]
        ).numpy()

    def tag_waveforms(self, clips: torch.Tensor, fold: int = -1) -> torch.Tensor:
        """Tag vectors [B, c] of int16 clips [B, channels, T] at 48 kHz, mixed to mono."""
        waveform = torch.from_numpy(
            resampled((clips.cpu().float().mean(1).numpy() / 2**15), RATE, TAG_RATE)
        )
        device = next(next(iter(self.nets.values())).parameters()).device
        return self.probabilities(
            MelSpectrogram(self.sizes).to(device)(waveform.to(device)), self.unbiased(fold)
        )

    def tag_scenes(
        self, corpus: SceneCorpus, waveforms: Store, rows: np.ndarray, batch: int = 8
    ) -> np.ndarray:
        """Tag vectors [len(rows), c] of scene clips, from networks that have not heard them."""
        folds = corpus.clips["fold"].to_numpy()[rows]
        out = np.zeros((len(rows), len(self.tags)), "float32")
        for fold in np.unique(folds):
            places = np.flatnonzero(folds == fold)
            for part in np.split(places, range(batch, len(places), batch)):
                out[part] = self.tag_waveforms(waveforms.whole(rows[part]), int(fold)).numpy()
        return out

    def to(self, device: str) -> "Tagger":
        return replace(self, nets={fold: net.to(device) for fold, net in self.nets.items()})

    def save(self, folder: Path) -> None:
        """Write the networks (safetensors) and what they are (JSON) into a new folder."""
        folder.mkdir(parents=True)
        for fold, net in self.nets.items():
            save_file(net.state_dict(), folder / f"fold{fold}.safetensors")
        (folder / "tagger.json").write_text(
            json.dumps(
                {"tags": self.tags, "sizes": asdict(self.sizes), "folds": list(self.nets)}, indent=1
            ),
            encoding="utf-8",
        )

    @classmethod
    def load(cls, folder: Path) -> "Tagger":
        about = validated(read_json(folder / "tagger.json"), TaggerAbout)
        sizes = TaggerSizes(
            **{k: tuple(v) if isinstance(v, list) else v for k, v in about["sizes"].items()}
        )
        nets = {
            fold: loaded(
                lambda: TaggingNet(len(about["tags"]), sizes),
                load_file(folder / f"fold{fold}.safetensors"),
            )
            for fold in about["folds"]
        }
        return cls(nets, about["tags"], sizes)

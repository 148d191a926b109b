"""A trained tagger: the networks of all folds, and the tag vectors they give (Section 2.2)."""

import contextlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from ..corpora import SceneCorpus
from ..corpora.store import Store
from ..recipes import TAG_RATE, TaggerSizes
from ..schemas import TaggerAbout, read_json, validated
from ..tagging_net import MelSpectrogram, TaggingNet, standardised_decibels
from ..training import loaded
from .windows import WindowTagger

VERSION = 4  # raised when a change of the code changes what a tagger learns or gives


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
class Tagger(WindowTagger):
    """Trained networks, one per fold; the network of fold k has not heard any clip of fold k.

    ``used``: how many of them tag a scene clip or another recording; None: all. Its windows are as
    long as the slices that it was taught, on average.
    """

    nets: dict[int, TaggingNet]
    tags: list[str]
    sizes: TaggerSizes
    used: int | None = None
    rate = TAG_RATE

    @property
    def length(self) -> float:
        return 0.75 * self.sizes.crop * self.sizes.hop / TAG_RATE

    @property
    def hop(self) -> float:
        return self.length / 2

    def unbiased(self, fold: int) -> tuple[int, ...]:
        """Folds whose networks may tag recordings of ``fold``: its own, or all if none heard it."""
        return (fold,) if fold in self.nets else tuple(self.nets)

    def probabilities(self, mel: torch.Tensor, folds: tuple[int, ...]) -> torch.Tensor:
        """Tag vectors [B, c] of linear mel power [B, bands, frames]: the mean over networks."""
        return torch.stack([tag(self.nets[fold], mel) for fold in folds]).mean(0)

    def tag_clips(self, mels: list[torch.Tensor], folds: np.ndarray, batch: int = 16) -> np.ndarray:
        """Tag vectors [clips, c] of tag clips, each from networks that have not heard its fold.

        Clips of one fold and length go through the networks together.
        """
        out = np.zeros((len(mels), len(self.tags)), "float32")
        alike = pd.DataFrame({"fold": folds, "frames": [mel.shape[1] for mel in mels]})
        for (fold, _), rows in alike.groupby(["fold", "frames"]).indices.items():
            for part in np.split(rows, range(batch, len(rows), batch)):
                mel = torch.stack([mels[row] for row in part])
                out[part] = self.probabilities(mel, self.unbiased(fold)).numpy()
        return out

    def tag_mono(self, windows: torch.Tensor) -> torch.Tensor:
        device = next(next(iter(self.nets.values())).parameters()).device
        mel = MelSpectrogram(self.sizes).to(device)(windows.to(device))
        return self.probabilities(mel, tuple(self.nets)[: self.used])

    def tag_scenes(
        self, corpus: SceneCorpus, waveforms: Store, rows: np.ndarray, batch: int = 8
    ) -> np.ndarray:
        """Tag vectors [len(rows), w, c] of scene clips, from networks that have not heard them.

        Every clip by as many networks, as many as any clip has.
        """
        heard = [self.unbiased(fold) for fold in corpus.clips["fold"]]
        used = min(map(len, heard))
        chosen = np.array([(heard[row] * 2)[row % len(heard[row]) :][:used] for row in rows])
        out = np.zeros((len(rows), len(self.times(waveforms.samples)), len(self.tags)), "float32")
        for folds in np.unique(chosen, axis=0):
            own = replace(self, nets={fold: self.nets[fold] for fold in folds}, used=None)
            places = np.flatnonzero((chosen == folds).all(1))
            for part in np.split(places, range(batch, len(places), batch)):
                out[part] = own.tag_windows(waveforms.whole(rows[part])).numpy()
        return out

    def like_scenes(self, corpus: SceneCorpus) -> "Tagger":
        """This tagger with as many networks for any recording as for the clips of a corpus."""
        return replace(self, used=min(len(self.unbiased(fold)) for fold in corpus.clips["fold"]))

    def to(self, device: str) -> "Tagger":
        return replace(self, nets={fold: net.to(device) for fold, net in self.nets.items()})

    def save(self, folder: Path) -> None:
        """Write the networks (safetensors) and what they are (JSON) into a new folder."""
        folder.mkdir(parents=True)
        for fold, net in self.nets.items():
            save_file(net.state_dict(), folder / f"fold{fold}.safetensors")
        (folder / "tagger.json").write_text(
            json.dumps(
                {
                    "tags": self.tags,
                    "sizes": asdict(self.sizes),
                    "folds": list(self.nets),
                    "used": self.used,
                },
                indent=1,
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
        return cls(nets, about["tags"], sizes, about.get("used"))

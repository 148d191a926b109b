"""Hugging Face audio classification models as taggers (optional extra ``hf``)."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ..corpora.audio import RATE, resampled
from ..corpora.store import Store
from ..files import fingerprint, first_line
from ..registry import ParameterError

HUB = "hf:"  # before the name of a model


@dataclass(frozen=True)
class HubTagger:
    """A model and the feature extractor that its authors stored beside it."""

    model: torch.nn.Module
    front_end: object
    tags: list[str]

    @property
    def fingerprint(self) -> str:
        """Changes when any weight or any setting of the feature extractor does."""
        weights = (value.cpu().numpy().tobytes() for value in self.model.state_dict().values())
        return fingerprint(self.front_end.to_json_string(), *weights)

    @torch.no_grad()
    def tag_waveforms(self, clips: torch.Tensor) -> torch.Tensor:
        """Tag vectors [B, c], 0 to 1, of int16 clips [B, channels, T] at 48 kHz, mixed to mono.

        The sigmoid of each logit; the softmax, if the model says that a clip has one label only.
        """
        rate = self.front_end.sampling_rate
        mono = resampled(clips.cpu().float().mean(1).numpy() / 2**15, RATE, rate)
        inputs = self.front_end(list(mono), sampling_rate=rate, return_tensors="pt")
        logits = self.model(**inputs.to(self.model.device)).logits
        one_label = self.model.config.problem_type == "single_label_classification"
        return (logits.softmax(1) if one_label else logits.sigmoid()).float().cpu()

    def tag_scenes(self, waveforms: Store, rows: np.ndarray, batch: int = 8) -> np.ndarray:
        """Tag vectors [len(rows), c] of scene clips."""
        parts = [rows[start : start + batch] for start in range(0, len(rows), batch)]
        return torch.cat([self.tag_waveforms(waveforms.whole(part)) for part in parts]).numpy()

    def to(self, device: str) -> "HubTagger":
        """The same tagger on a device."""
        return HubTagger(self.model.to(device), self.front_end, self.tags)

    def save(self, folder: Path) -> None:
        """Nothing is saved: the model is loaded again by its name, and must be the same."""


def load(source: str, device: str) -> HubTagger:
    """The model of "hf:NAME", from the hub or a folder: safetensors weights, no code of its own.

    Raises ParameterError where transformers is not installed, or there is no such model.
    """
    name = source.removeprefix(HUB)
    try:
        from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
    except ImportError:
        what = f"parameter 'tags' is '{source}', which needs transformers"
        raise ParameterError(f"{what}: pip install -e '.[hf]'") from None
    try:
        front_end = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
        model = AutoModelForAudioClassification.from_pretrained(
            name, trust_remote_code=False, use_safetensors=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise ParameterError(f"parameter 'tags' is '{source}': {first_line(error)}") from None
    tags = [label for _, label in sorted(model.config.id2label.items())]
    return HubTagger(model.eval().to(device), front_end, tags)

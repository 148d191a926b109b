"""Hugging Face audio classification models as taggers (optional extra ``hf``), such as those of AudioSet's 527 tags."""

from dataclasses import dataclass

import numpy as np
import torch
import torchaudio

from . import store
from .artefacts import fingerprint, first_line
from .experiment import HUB, ParameterError
from .store import Store


@dataclass(frozen=True)
class HubTagger:
    """A model and the front end that its authors stored beside it."""

    model: torch.nn.Module
    front_end: object
    tags: list[str]

    @property
    def fingerprint(self) -> str:
        """Changes when any weight or any setting of the front end does."""
        weights = (value.cpu().numpy().tobytes() for value in self.model.state_dict().values())
        return fingerprint(self.front_end.to_json_string(), *weights)

    @torch.no_grad()
    def tag_waveforms(self, clips: torch.Tensor) -> torch.Tensor:
        """Tag vectors [B, tags], 0 to 1, of int16 clips [B, channels, T] at 48 kHz, mixed to mono and resampled.

        The sigmoid of each logit; of a model that says that a clip has one label only, their softmax.
        """
        rate, device = self.front_end.sampling_rate, self.model.device
        one_label = self.model.config.problem_type == "single_label_classification"
        mono = torchaudio.functional.resample(clips.cpu().float().mean(1) / 2**15, store.RATE, rate)
        heard = self.front_end(list(mono.numpy()), sampling_rate=rate, return_tensors="pt").to(device)
        logits = self.model(**heard).logits
        return (logits.softmax(1) if one_label else logits.sigmoid()).float().cpu()

    def tag_scenes(self, waveforms: Store, rows: np.ndarray, batch: int = 8) -> np.ndarray:
        """Tag vectors [len(rows), tags] of scene clips."""
        parts = np.array_split(rows, -(-len(rows) // batch))
        clips = (waveforms.batch(part, np.zeros(len(part), int), waveforms.samples) for part in parts)
        return torch.cat([self.tag_waveforms(some) for some in clips]).numpy()

    def to(self, device: str) -> "HubTagger":
        """The same tagger on a device."""
        return HubTagger(self.model.to(device), self.front_end, self.tags)


def load(name: str, device: str) -> HubTagger:
    """A model from the hub, or from a folder: safetensors weights only, no code of its own.

    Raises ParameterError where transformers is not installed, or there is no such model.
    """
    told = f"parameter 'tags' is '{HUB}{name}'"
    try:
        from transformers import AutoFeatureExtractor, AutoModelForAudioClassification
    except ImportError:
        raise ParameterError(f"{told}, which needs transformers: pip install -e '.[hf]'") from None
    try:
        front_end = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
        model = AutoModelForAudioClassification.from_pretrained(name, trust_remote_code=False, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        raise ParameterError(f"{told}: {first_line(error)}") from None
    tags = [label for _, label in sorted(model.config.id2label.items())]
    return HubTagger(model.eval().to(device), front_end, tags)

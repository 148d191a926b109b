"""Hugging Face models as taggers (optional extra ``hf``)."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ..files import fingerprint, first_line
from ..registry import ParameterError
from .windows import WindowTagger

HUB = "hf:"  # before the name of a Hugging Face model


@dataclass(frozen=True)
class HubTagger(WindowTagger):
    """A Hugging Face model and the feature extractor stored beside it (optional extra ``hf``)."""

    model: torch.nn.Module
    front_end: object
    tags: list[str]
    length = 2.0
    hop = 2.0  # such a model takes seconds for each window

    @property
    def rate(self) -> int:
        return self.front_end.sampling_rate

    @classmethod
    def load(cls, source: str, device: str) -> "HubTagger":
        """The model of "hf:NAME", from the hub or a folder: safetensors, no code of its own.

        Raises ParameterError where transformers is not installed, or there is no such model.
        """
        name = source.removeprefix(HUB)
        try:
            from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

            front_end = AutoFeatureExtractor.from_pretrained(name, trust_remote_code=False)
            model = AutoModelForAudioClassification.from_pretrained(
                name, trust_remote_code=False, use_safetensors=True
            )
        except ImportError:
            raise ParameterError(
                f"parameter 'tags' is '{source}', which needs transformers: pip install -e '.[hf]'"
            ) from None
        except (OSError, ValueError, KeyError) as error:
            raise ParameterError(f"parameter 'tags' is '{source}': {first_line(error)}") from None
        tags = [label for _, label in sorted(model.config.id2label.items())]
        return cls(model.eval().to(device), front_end, tags)

    @property
    def fingerprint(self) -> str:
        weights = (value.cpu().numpy().tobytes() for value in self.model.state_dict().values())
        kind = self.model.config.problem_type
        return fingerprint(self.front_end.to_json_string(), kind, *weights)

    @torch.no_grad()
    def tag_mono(self, windows: torch.Tensor) -> torch.Tensor:
        """The sigmoid of each logit; the softmax, if the model says a clip has one label only."""
        inputs = self.front_end(list(windows.numpy()), sampling_rate=self.rate, return_tensors="pt")
        logits = self.model(**inputs.to(self.model.device)).logits
        one_label = self.model.config.problem_type == "single_label_classification"
        return (logits.softmax(1) if one_label else logits.sigmoid()).float().cpu()

    def to(self, device: str) -> "HubTagger":
        return replace(self, model=self.model.to(device))

    def save(self, folder: Path) -> None:
        """Save nothing: the model is loaded again by its name, and must be the same."""

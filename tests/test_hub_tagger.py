"""A Hugging Face audio classification model as the tagger: a tiny one, made here."""

import librosa
import numpy as np
import pytest
import torch
from helpers import ATTENTION

from asc_lib.corpora import store
from asc_lib.registry import ParameterError
from asc_lib.settings import check
from asc_lib.tags import sources
from asc_lib.tags.sources import open_tag_vectors

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny-ast")
    torch.manual_seed(0)
    names = {0: "Speech", 1: "Bell", 2: "Aircraft"}
    sizes = dict(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16)
    config = transformers.ASTConfig(**sizes, max_length=64, num_mel_bins=32, id2label=names)
    transformers.ASTForAudioClassification(config).save_pretrained(folder)
    transformers.ASTFeatureExtractor(max_length=64, num_mel_bins=32).save_pretrained(folder)
    return folder


@pytest.fixture
def packed(small_mini, tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_DATA", str(tmp_path))
    return store.pack(small_mini)


def test_its_tag_vectors_are_the_models(model_folder, small_mini, packed):
    tags = open_tag_vectors(f"hf:{model_folder}", small_mini, packed)
    assert (
        tags.names == ["Speech", "Bell", "Aircraft"]
        and tags.values.shape == (190, 1, 3)
        and tags.lwlrap is None
    )
    mono = (packed.waveforms[70] / 2**15).astype("float32").mean(0)
    heard = librosa.resample(mono, orig_sr=48_000, target_sr=16_000)
    front_end = transformers.ASTFeatureExtractor.from_pretrained(model_folder)
    model = transformers.ASTForAudioClassification.from_pretrained(model_folder).eval()
    with torch.no_grad():
        expected = model(
            **front_end(heard, sampling_rate=16_000, return_tensors="pt")
        ).logits.sigmoid()[0]
    assert np.allclose(tags.clips[70], expected, atol=1e-5) and tags.clips.std(0).min() > 1e-5


def test_they_are_computed_once(model_folder, small_mini, packed, monkeypatch):
    first = open_tag_vectors(f"hf:{model_folder}", small_mini, packed)
    monkeypatch.setattr(sources.HubTagger, "tag_mono", lambda *_: pytest.fail("computed again"))
    assert (
        open_tag_vectors(f"hf:{model_folder}", small_mini, packed).fingerprint == first.fingerprint
    )


def test_a_model_that_gives_one_label_has_a_softmax(model_folder, packed):
    tagger = sources.HubTagger.load(f"hf:{model_folder}", "cpu")
    tagger.model.config.problem_type = "single_label_classification"
    assert np.allclose(sources.tagged(tagger, packed, np.arange(3)).sum(-1), 1, atol=1e-5)


def test_a_model_that_is_not_there(tmp_path):
    with pytest.raises(ParameterError, match="parameter 'tags' is 'hf:.*/none'") as error:
        sources.HubTagger.load(f"hf:{tmp_path / 'none'}", "cpu")
    assert "\n" not in str(error.value)


def test_pickled_weights_are_refused(model_folder, tmp_path):
    model = transformers.ASTForAudioClassification.from_pretrained(model_folder)
    transformers.ASTFeatureExtractor.from_pretrained(model_folder).save_pretrained(tmp_path)
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(ParameterError, match="safetensors"):
        sources.HubTagger.load(f"hf:{tmp_path}", "cpu")


def test_the_parameter_is_checked():
    settings = check("04_attention", **(ATTENTION | {"tags": "hf:someone/model"}))
    assert settings.tags == "hf:someone/model"

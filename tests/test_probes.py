"""Gates of the composed corpora: how far a scene is told by what is not an event."""

import os
import re
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from asc_lib import corpora
from asc_lib.cli import app
from asc_lib.corpora import esc50, mini, probes, soundscapes, store, tau2019
from asc_lib.corpora.esc50 import RecordedSounds
from asc_lib.corpora.mini import SynthesisedSounds
from asc_lib.registry import ParameterError
from asc_lib.runs import probe

KINDS = {"esc50": (esc50.RECIPE, RecordedSounds), "mini": (mini.RECIPE, SynthesisedSounds)}


class Clicks:
    """Sounds that take no time to make, for the folds of a corpus."""

    name = "clicks"

    def __init__(self, kind: type):
        self.folds, self.test_folds = kind.folds, kind.test_folds

    def event(self, tag, fold, rng):
        return f"{tag}-{fold}", np.ones(8, "float32")

    def bed(self, tag, fold, rng):
        return f"{tag}-{fold}", rng.standard_normal(480).astype("float32")


def composed(which: str, folder: Path, **changes) -> corpora.SceneCorpus:
    recipe, kind = KINDS[which]
    recipe = replace(recipe, seconds=0.01, **changes)
    soundscapes.write_scenes(recipe, Clicks(kind), folder)
    return tau2019.read(which, folder)


@pytest.fixture(scope="module")
def default(tmp_path_factory):
    """A corpus of one of ``KINDS`` as it is, composed once."""
    return cache(lambda which: composed(which, tmp_path_factory.mktemp(which) / "default"))


def test_the_beds_of_a_clip_are_those_composed_into_it(default):
    corpus = default("esc50")
    planned = soundscapes.locations(esc50.RECIPE, RecordedSounds)
    expected = {f"{p.city}-{p.number}": " ".join(f"{t}-{p.fold}" for t in p.beds) for p in planned}
    assert corpus.beds.tolist() == corpus.clips["location"].map(expected).tolist()
    unknown = replace(corpus, composition=None).beds
    assert unknown.tolist() == [""] * len(corpus.clips)


@pytest.mark.parametrize("which", KINDS)
def test_places_tell_little_and_events_much(which, default, tmp_path):
    corpus = default(which)
    by_place = probes.named(probes.latents(corpus), corpus).mean()
    assert 0.15 < by_place < 0.4
    rows = corpus.rows("train"), corpus.rows("test")
    features, targets = probes.events(corpus), corpus.targets()
    right = probes.stats.linear_probe(features, targets, *rows, corpus.clips["location"])
    assert {"esc50": 0.6, "mini": 0.5}[which] < right.mean() < 0.8
    marked = composed(which, tmp_path / "marked", character=1.0)
    assert probes.named(probes.latents(marked), marked).mean() > 0.9
    assert np.array_equal(features, probes.events(marked))  # only the places differ


@pytest.mark.parametrize("which", KINDS)
def test_both_sides_have_the_same_mix_of_beds(which):
    recipe, kind = KINDS[which]
    places = soundscapes.locations(recipe, Clicks(kind))
    assert [place.number for place in places] == list(range(len(places)))
    for scene, made in recipe.scenes.items():
        for split in ("train", "test"):
            tags = [t for p in places if (p.scene, p.split) == (scene, split) for t in p.beds]
            total = sum(made.beds.values())
            for tag, weight in made.beds.items():
                assert abs(tags.count(tag) - weight / total * len(tags)) <= 1
    assert {p.city for p in places if p.split == "unused"} == {soundscapes.UNUSED}


def test_low_peaks_find_a_hum():
    t = np.arange(2 * store.RATE) / store.RATE
    noise = np.random.default_rng(0).standard_normal((2, len(t)))
    peaks = probes.low_peaks(noise + 0.5 * np.sin(2 * np.pi * 120 * t))
    assert peaks.shape == (361,) and peaks.argmax() == 120 - 40 and peaks.max() > 10


def test_a_character_is_part_of_the_name():
    assert corpora.find("mini@0.5").name == "mini@0.5"
    default = soundscapes.Recipe.character
    assert corpora.find(f"mini@{default}0").name == "mini"
    assert corpora.by_name("esc50@0").preset == corpora.find("esc50").preset
    for wrong in ("mini@2", "mini@", "mini@nan", "mini@-0.1"):
        with pytest.raises(ParameterError, match=r"character of mini is 0 to 1, as in mini@0.5"):
            corpora.find(wrong)
    for wrong in ("tau2019@0.5", "mini@0@1"):
        with pytest.raises(ParameterError, match="parameter 'data'"):
            corpora.find(wrong)


@pytest.mark.slow
@pytest.mark.skipif("ASC_ESC50" not in os.environ, reason="ASC_ESC50 names no ESC-50")
def test_low_peaks_of_real_recordings(tmp_path):
    """At the default character they tell at most 8 points more than where scenes have no marks."""
    sounds = RecordedSounds(esc50.folder())
    right = {}
    for character in (0.0, soundscapes.Recipe.character, 1.0):
        recipe = replace(esc50.RECIPE, train=(8, 1), character=character)
        soundscapes.write_scenes(recipe, sounds, tmp_path / str(character))
        corpus = tau2019.read("esc50", tmp_path / str(character))
        waveforms = [
            soundscapes.audio.read(corpus.root / k, store.RATE) for k in corpus.clips["filename"]
        ]
        peaks = np.array([probes.low_peaks(clip) for clip in waveforms])
        right[character] = probes.named(peaks, corpus).mean()
    assert right[soundscapes.Recipe.character] - right[0.0] < 0.08
    assert right[1.0] - right[0.0] > 0.15


def test_tags_alone_are_a_table(small_mini, monkeypatch, tmp_path):
    monkeypatch.setenv("ASC_RESULTS", str(tmp_path))
    monkeypatch.setenv("ASC_DATA", str(tmp_path / "data"))  # where there is no YAMNet
    monkeypatch.delenv("ASC_YAMNET", raising=False)
    data_set = replace(corpora.find("mini"), scenes=lambda: small_mini)
    monkeypatch.setitem(corpora.DATA_SETS, "mini", data_set)
    monkeypatch.setattr(probe, "SOURCES", ("true", "yamnet"))
    done = CliRunner().invoke(app, ["probe", "--data", "mini"])
    assert done.exit_code == 0 and "yamnet: " in done.stderr and "fetch yamnet" in done.stderr
    (row,) = pd.read_csv(tmp_path / "mini" / "tags_alone.csv", dtype=str).to_dict("records")
    assert row["source"] == "true" and row["tags"] == "20"
    accuracy, low, high = map(float, re.findall(r"[\d.]+", row["accuracy % [95 %]"]))
    assert low < accuracy < high and accuracy > 30
    assert row["lwlrap on scenes [95 %]"].startswith("1.000") and float(row["chance lwlrap"]) < 0.5

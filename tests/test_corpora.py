"""Composed corpora: official formats, no leaks, no tag that gives a scene away; clear errors."""

import functools
import shutil
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile

from asc_lib import corpora
from asc_lib.corpora import esc50, fsdkaggle2019, mini, soundscapes, tau2019
from asc_lib.recipes import TaggerSizes
from asc_lib.tags.tag_data import TagData, fold_numbers, training_rows
from asc_lib.tags.tagger import Tagger


def test_scenes_are_written_as_tau_2019(small_mini):
    clip = small_mini.clips.iloc[0]
    info = soundfile.info(small_mini.root / clip["filename"])
    assert (info.samplerate, info.channels, info.subtype) == (48_000, 2, "PCM_24")
    scene, city, place, segment, device = (
        clip["filename"].removesuffix(".wav").removeprefix("audio/").split("-")
    )
    assert (scene, f"{city}-{place}", device) == (
        clip["scene_label"],
        clip["location"],
        "a",
    ) and segment.isdigit()
    meta = pd.read_csv(small_mini.root / "meta.csv", sep="\t")
    assert (
        list(meta) == ["filename", "scene_label", "identifier", "source_label"] and len(meta) == 190
    )
    test = pd.read_csv(small_mini.root / "evaluation_setup" / "fold1_test.csv", sep="\t")
    assert list(test) == ["filename"] and len(test) == 90
    assert len(small_mini.labels) == 10 and small_mini.clips["city"].nunique() == 10


def check_no_leak(corpus):
    assert (corpus.clips.groupby("location")["split"].nunique() == 1).all()
    parts = corpus.composition.merge(corpus.clips[["filename", "split"]], on="filename")
    train, rest = parts["split"] == "train", parts["split"] != "train"
    assert not set(parts.loc[train, "recording"]) & set(parts.loc[rest, "recording"])
    assert corpus.clips.query("split == 'test'")["location"].nunique() >= 30
    assert set(corpus.clips.query("split == 'unused'")["city"]) == {"milan"}
    assert "milan" not in set(corpus.clips.query("split != 'unused'")["city"])


def test_mini_shares_no_location_and_no_recording(small_mini):
    check_no_leak(small_mini)


@pytest.mark.parametrize("scenes", [mini.SCENES, esc50.SCENES], ids=["mini", "esc50"])
def test_no_tag_gives_a_scene_away(scenes):
    assert len(scenes) == 10
    owners: dict[str, set[str]] = {}
    for name, scene in scenes.items():
        assert max(scene.events.values()) < 1, "an event that is nearly always there"
        for tag in (*scene.events, *scene.beds):
            owners.setdefault(tag, set()).add(name)
    lonely = {tag for tag, where in owners.items() if len(where) == 1}
    assert not lonely


def test_no_two_synthesised_sounds_are_alike():
    assert len(mini.SOUNDS) >= 16
    for tag, make in mini.SOUNDS.items():
        one, same, other = (make(np.random.default_rng(seed)) for seed in (1, 1, 2))
        assert np.isfinite(one).all() and one.ndim == 1 and 0.05 < len(one) / 48_000 < 6, tag
        assert np.array_equal(one, same)
        n = min(len(one), len(other))
        assert abs(np.corrcoef(one[:n], other[:n])[0, 1]) < 0.9, tag


def test_the_same_recipe_composes_the_same_clips(small_mini, tmp_path):
    recipe = replace(mini.RECIPE, seconds=1.0, train=(1, 1), test=(1, 1))
    sounds = mini.SynthesisedSounds()
    place = soundscapes.locations(recipe, sounds)[7]
    clip, rows = soundscapes.compose(recipe, sounds, soundscapes.Place(recipe, sounds, place), 0)
    written = small_mini.clips[small_mini.clips["location"] == f"{place.city}-{place.number}"].iloc[
        0
    ]
    stored, _ = soundfile.read(small_mini.root / written["filename"], dtype="float32")
    assert np.abs(stored.T - clip).max() < 2**-22 and np.abs(clip).max() <= 1
    assert len(rows) == (small_mini.composition["filename"] == written["filename"]).sum()


def test_snr_is_what_the_composition_says():
    sounds, rng = mini.SynthesisedSounds(), np.random.default_rng(0)
    recipe = mini.RECIPE
    at = next(p for p in soundscapes.locations(recipe, sounds) if p.scene == "park")
    place = soundscapes.Place(recipe, sounds, at)
    place.distance = place.hum = place.throb = 0.0
    bed = place.bed(96_000, rng)
    steady = rng.standard_normal(400_000)
    _, event = place.event(steady, 10.0, 96_000, np.random.default_rng(4))
    active = event[:, np.abs(event).sum(0) > 0]
    power = np.square(active).mean() / np.square(bed).mean()
    assert 10 * np.log10(power) == pytest.approx(
        10, abs=1
    )  # the distance filter still takes a little


def test_esc50_shares_no_location_and_no_recording(esc50_folder, tmp_path):
    sounds = esc50.RecordedSounds(esc50_folder)
    recipe = replace(esc50.RECIPE, seconds=0.5, train=(3, 1), test=(2, 1))
    soundscapes.write_scenes(recipe, sounds, tmp_path / "scenes")
    corpus = tau2019.read("esc50", tmp_path / "scenes")
    check_no_leak(corpus)
    folds = sounds.table.set_index("recording")["fold"].to_dict()
    parts = corpus.composition.merge(
        corpus.clips[["filename", "split", "fold"]], on="filename", suffixes=("", "_clip")
    )
    assert (parts["recording"].map(folds) == parts["fold_clip"]).all(), (
        "a clip mixes official folds"
    )
    assert set(corpus.clips.query("split == 'train'")["fold"]) == {1, 2, 3}
    assert set(corpus.clips.query("split != 'train'")["fold"]) == {4, 5}


def test_no_tagger_has_heard_a_clip_that_it_tags(esc50_folder, tmp_path):
    sounds = esc50.RecordedSounds(esc50_folder)
    make = functools.partial(esc50._tag_clip, sounds.audio)
    soundscapes.write_tag_clips(esc50.tag_rows(sounds), make, tmp_path / "tags")
    tags = fsdkaggle2019.read("esc50", tmp_path / "tags")
    sizes = TaggerSizes()
    folds = fold_numbers(tags, sizes, seed=0)
    nets = dict.fromkeys(np.unique(folds[tags.clips["set"] == "curated"]))
    tagger = Tagger(nets, tags.tags, sizes)
    data = TagData(tags, [], folds, sizes)
    assert set(nets) == {1, 2, 3} and "freesound-131943" not in set(tags.clips["recordings"])
    table = pd.read_csv(esc50_folder / "meta" / "esc50.csv")
    official = {
        k: {f"freesound-{s}" for s in part["src_file"]} for k, part in table.groupby("fold")
    }
    assert official[2] & official[3]
    recordings = tags.clips["recordings"].to_numpy()
    for scene_fold in range(1, 6):
        allowed = tagger.unbiased(scene_fold)
        assert allowed == ((scene_fold,) if scene_fold < 4 else (1, 2, 3))
        for fold in allowed:
            assert scene_fold > 3 or data.teachers(fold) == [scene_fold]  # nor has who taught it
            heard = {
                recordings[row]
                for rows in training_rows(tags, folds, fold).values()
                for row in rows
            }
            composed = {
                name
                for (_, fold), part in sounds.files.items()
                if fold == scene_fold
                for _, name in part
            }
            assert len(heard) > 90 and not heard & composed and composed <= official[scene_fold]


@pytest.mark.parametrize("which", ["mini", "esc50"])
def test_tag_sets_share_no_recording(which, esc50_folder):
    sounds = mini.SynthesisedSounds() if which == "mini" else esc50.RecordedSounds(esc50_folder)
    rows = pd.DataFrame((mini if which == "mini" else esc50).tag_rows(sounds))
    rows["recordings"] = rows["recordings"].str.split()
    rows = rows.explode("recordings")
    assert (rows.groupby("recordings")["set"].nunique() == 1).all()
    assert set(rows["set"]) == {"train_curated", "train_noisy", "test"}
    assert (rows["set"] == "train_noisy").sum() >= 0.9 * (rows["set"] == "train_curated").sum()


def test_a_third_of_the_noisy_labels_is_wrong():
    tags = ("a", "b", "c")
    labels = ["a"] * 3000
    given = soundscapes.mislabelled(labels, tags, np.random.default_rng(0))
    wrong = sum(g != "a" for g in given) / 3000
    assert wrong == pytest.approx(1 / 3, abs=0.03) and set(given) == set(tags)


def test_tag_clips_are_written_as_fsdkaggle2019(tmp_path):
    rows = [
        r
        for r in mini.tag_rows(mini.SynthesisedSounds())
        if r["fname"].endswith(("0000.wav", "0001.wav"))
    ]
    soundscapes.write_tag_clips(rows, mini.tag_clip, tmp_path / "tags")
    info = soundfile.info(
        tmp_path / "tags" / "FSDKaggle2019.audio_train_curated" / "train_curated-0000.wav"
    )
    assert (info.samplerate, info.channels, info.subtype) == (44_100, 1, "PCM_16")
    meta = tmp_path / "tags" / "FSDKaggle2019.meta"
    assert list(pd.read_csv(meta / "test_post_competition.csv"))[:3] == ["fname", "labels", "usage"]


def test_a_missing_esc50_says_where_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setenv("ASC_ESC50", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=r"no ESC-50.*CC BY-NC 3.0.*ASC_ESC50"):
        corpora.find("esc50").scenes()


@pytest.mark.parametrize("which, where", [("scenes", "2589280"), ("tagger_clips", "3612637")])
def test_missing_official_corpora_say_where_to_get_them(which, where, monkeypatch, tmp_path):
    monkeypatch.setenv("ASC_DATA", str(tmp_path))
    with pytest.raises(corpora.CorpusError, match=where):
        getattr(corpora.find("tau2019"), which)()


def test_contradictory_lists_are_refused(small_mini, tmp_path):
    shutil.copytree(small_mini.root, tmp_path / "c", ignore=shutil.ignore_patterns("audio"))
    setup = tmp_path / "c" / "evaluation_setup"
    train = pd.read_csv(setup / "fold1_train.csv", sep="\t")
    evaluate = pd.read_csv(setup / "fold1_evaluate.csv", sep="\t")
    both = pd.concat([evaluate, train.head(2)])
    both.to_csv(setup / "fold1_evaluate.csv", sep="\t", index=False)
    with pytest.raises(
        corpora.CorpusError, match="fold1_test.csv names other clips than fold1_evaluate.csv"
    ):
        tau2019.read("c", tmp_path / "c")
    both[["filename"]].to_csv(setup / "fold1_test.csv", sep="\t", index=False)
    with pytest.raises(
        corpora.CorpusError, match="fold1_train.csv shares 2 clips with fold1_evaluate.csv"
    ):
        tau2019.read("c", tmp_path / "c")
    (setup / "fold1_train.csv").unlink()
    with pytest.raises(corpora.CorpusError, match="fold1_train.csv is missing"):
        tau2019.read("c", tmp_path / "c")

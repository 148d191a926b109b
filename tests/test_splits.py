"""Splits and folds by place: any that exist are found, and the same ones every time."""

from itertools import product

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from asc_lib.corpora import CorpusError
from asc_lib.corpora.splits import TEST, fold_split, made_split


def clips_of(counts) -> pd.DataFrame:
    """Clips by ``counts`` [places, labels]."""
    return pd.DataFrame(
        [
            {"scene_label": f"label {label}", "location": f"place {place}"}
            for place, row in enumerate(counts)
            for label, count in enumerate(row)
            for _ in range(count)
        ],
        columns=["scene_label", "location"],
    )


def divisible(counts: np.ndarray, parts: int) -> bool:
    """By trying all: whether no label need be in one part alone, nor a part be empty."""
    counts = counts[counts.any(1)][:, counts.any(0)]
    for given_ in product(range(parts), repeat=len(counts)):
        held = np.array([(counts[np.array(given_) == k] > 0).any(0) for k in range(parts)])
        if set(given_) == set(range(parts)) and (held.sum(0) > 1).all():
            return True
    return False


def split_of(clips: pd.DataFrame, folds: int) -> pd.DataFrame:
    """Whether every clip is for the test [clips, times]: the split, or each fold in turn."""
    if folds == 2:
        return pd.DataFrame({0: made_split(clips) == "test"})
    return pd.DataFrame({k: fold_split(clips, k + 1, folds) == "test" for k in range(folds)})


@given(
    st.integers(1, 4).flatmap(
        lambda labels: st.lists(
            st.lists(st.sampled_from([0, 0, 1, 3]), min_size=labels, max_size=labels),
            min_size=1,
            max_size=6,
        )
    ),
    st.sampled_from([2, 3]),
)
@example([[1, 1, 0], [0, 1, 1], [1, 0, 1]], 2)  # three places: each pair of labels shares one
@example([[1, 1, 0], [0, 1, 1], [1, 0, 1]], 3)
@settings(max_examples=40, deadline=None)
def test_a_division_is_found_where_there_is_one(counts, folds):
    counts = np.array(counts)
    clips = clips_of(counts)
    if not len(clips):
        return
    if not divisible(counts, folds):
        with pytest.raises(CorpusError, match="'label \\d'|too few"):
            split_of(clips, folds)
        return
    test = split_of(clips, folds)
    assert test.groupby(clips["location"]).nunique().eq(1).all(axis=None)
    for column in test:
        training = clips["scene_label"][~test[column]]
        assert set(training) == set(clips["scene_label"]) and test[column].any()
    if folds == 2:
        assert set(clips["scene_label"][test[0]]) == set(clips["scene_label"])
    else:
        assert (test.sum(axis=1) == 1).all()


def few_clips() -> pd.DataFrame:
    """Fifteen labels, some of two clips in two places, many places with several labels."""
    rng = np.random.default_rng(5)
    counts = np.zeros((24, 15), int)
    for label in range(15):
        places = rng.choice(24, 2 + label % 3, replace=False)
        counts[places, label] = rng.integers(1, 3 if label % 3 else 2, len(places))
    return clips_of(counts)


def test_few_clips_are_split_the_same_way_every_time():
    clips = few_clips()
    split = made_split(clips)
    assert made_split(clips).equals(split)
    assert clips[split == "test"]["scene_label"].nunique() == 15
    assert clips[split == "train"]["scene_label"].nunique() == 15
    moved = clips.sample(frac=1, random_state=1)  # the order of rows makes no difference
    assert made_split(moved).reindex(clips.index).equals(split)


@pytest.mark.parametrize("per_place", [1, 3])
def test_shares_are_near_to_what_is_asked_for(per_place):
    rng = np.random.default_rng(0)
    counts = np.zeros((120, 10), int)
    for place in range(120):
        labels = rng.choice(10, per_place, replace=False)
        counts[place, labels] = rng.integers(1, 8, per_place)
    clips = clips_of(counts)
    assert shares(clips, made_split(clips)).sub(TEST).abs().max() < 0.05
    for fold in (1, 5):
        assert shares(clips, fold_split(clips, fold, 5)).sub(0.2).abs().max() < 0.06


def shares(clips: pd.DataFrame, split: pd.Series) -> pd.Series:
    return (split == "test").groupby(clips["scene_label"]).mean()


@pytest.mark.parametrize(
    "counts, folds, message",
    [
        ([[1, 1], [0, 1]], 2, "the label 'label 0' has one location"),
        (
            [[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 1, 0], [0, 0, 0, 2], [0, 0, 0, 2]],
            2,
            "the labels 'label 0', 'label 1', 'label 2' share too few locations",
        ),
        ([[1, 1], [1, 1]], 3, "there are 2 locations: too few for 3 folds"),
    ],
)
def test_what_stands_in_the_way_is_named(counts, folds, message):
    with pytest.raises(CorpusError, match=message):
        split_of(clips_of(counts), folds)

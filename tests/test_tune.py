"""Choices on held-out training places: which clips judge, and what the table says."""

from dataclasses import replace

import pandas as pd
import pytest
import torch
from typer.testing import CliRunner

from asc_lib import corpora
from asc_lib.cli import app
from asc_lib.runs import tune


def test_no_test_clip_judges_and_no_place_is_on_both_sides(small_mini):
    held = tune.held_out(small_mini)
    judges, learners = held.rows("test"), held.rows("train")
    assert {*judges, *learners} == {*small_mini.rows("train")}
    assert len(judges) == pytest.approx(len(learners) / 2, rel=0.2)
    places = held.clips["location"]
    assert not {*places.iloc[judges]} & {*places.iloc[learners]}
    assert set(held.clips["scene_label"].iloc[judges]) == set(small_mini.labels)
    assert held.rows("unused").size == 0  # evaluation would read them too


def test_the_rise_in_the_last_fifth():
    points = pd.DataFrame({"epoch": [4, 8, 10], "loss": [2, 1, 0.5], "held_out": [0.1, 0.3, 0.34]})
    points = points.assign(softmax=[None, None, 0.4], system="baseline", recipe="a", seed=0)
    (row,) = tune.summary(points).to_dict("records")
    assert row["held out %"] == "34.0" and row["softmax %"] == "40.0"
    assert row["rise in the last fifth"] == "+4.0"  # since epoch 8


def test_the_command(small_mini, monkeypatch, tmp_path):
    monkeypatch.setenv("ASC_RESULTS", str(tmp_path))
    monkeypatch.setenv("ASC_DATA", str(tmp_path / "data"))
    data_set = replace(corpora.find("mini"), scenes=lambda: small_mini)
    monkeypatch.setitem(corpora.DATA_SETS, "mini", data_set)
    monkeypatch.setattr(tune, "cores", lambda: 1)
    monkeypatch.setattr(torch, "set_num_threads", lambda number: None)
    changes = [{"lr": 1e-3, "schedule": "constant"}, {"lr": 1e-2, "schedule": "cosine"}]
    monkeypatch.setitem(tune.STEPS, "length", (["baseline"], changes, 1))
    done = CliRunner().invoke(app, ["tune", "length", "--data", "mini", "--epochs", "2"])
    assert done.exit_code == 0, done.output
    points = pd.read_csv(tmp_path / "mini" / "tune_length.csv")
    assert list(points["epoch"]) == [1, 2, 1, 2] and points["held_out"].between(0, 1).all()
    assert list(points["recipe"].unique()) == ["0.001 constant", "0.01 cosine"]
    assert (tmp_path / "mini" / "tune_length.png").is_file()
    again = CliRunner().invoke(app, ["tune", "length", "--data", "mini", "--epochs", "2"])
    assert again.output.count("resumed after epoch 2 of 2") == 2  # nothing is trained twice
    assert points.equals(pd.read_csv(tmp_path / "mini" / "tune_length.csv"))
    wrong = CliRunner().invoke(app, ["tune", "nothing", "--data", "mini"])
    assert wrong.exit_code == 1 and "choose one of length, tags, front_end" in wrong.output

"""A custom data set: any audio, a table, a split made where none is given."""

import importlib
import re
import shutil

import numpy as np
import pandas as pd
import pytest
import soundfile
from helpers import BASELINE, execute_here

from asc_lib import corpora, settings
from asc_lib.corpora import audio, store
from asc_lib.registry import ParameterError
from asc_lib.runs import records, tables
from asc_lib.runs.cells import Cell
from asc_lib.scenes import SceneData
from asc_lib.settings import Given
from asc_lib.tags import sources
from asc_lib.use import folds, system

FORMATS = (("wav", 44_100, 1), ("flac", 48_000, 2), ("ogg", 16_000, 1), ("mp3", 44_100, 2))


@pytest.fixture
def folder(made_folder, tmp_path):
    """A copy of it to change."""
    return shutil.copytree(made_folder, tmp_path / "My scénes")


@pytest.fixture(scope="module")
def made_folder(tmp_path_factory):
    """Forty clips of two seconds in four formats: two labels, ten places."""
    root, rng, rows = tmp_path_factory.mktemp("own") / "made", np.random.default_rng(0), []
    (root / "sound").mkdir(parents=True)
    for k in range(40):
        kind, rate, channels = FORMATS[k % 4]
        pitch = np.sin(2 * np.pi * (200 if k % 2 else 1000) * np.arange(2 * rate) / rate)
        samples = 0.3 * pitch[:, None] + 0.05 * rng.standard_normal((2 * rate, channels))
        soundfile.write(root / "sound" / f"clip {k}.{kind}", samples, rate)
        rows.append(
            {
                "label": ("low", "high")[k % 2],
                "filename": f"sound/clip {k}.{kind}",
                "location": f"place-{k // 4}",
            }
        )
    pd.DataFrame(rows, columns=["label", "filename", "location"]).to_csv(
        root / "labels.csv", index=False
    )
    return root


def change(folder, **columns):
    table = pd.read_csv(folder / "labels.csv").assign(**columns)
    table.to_csv(folder / "labels.csv", index=False)
    return table


def test_a_split_is_made_and_written_down(folder, capsys):
    clips = corpora.find(str(folder)).scenes().clips
    assert "a split was made and written to" in capsys.readouterr().out
    assert (clips.groupby("location")["split"].nunique() == 1).all()
    assert (clips.groupby("split")["scene_label"].nunique() == 2).all()
    assert 6 <= (clips["split"] == "test").sum() <= 14
    assert pd.read_csv(folder / "split.csv")["split"].tolist() == clips["split"].tolist()
    pd.read_csv(folder / "split.csv").assign(split=["train", "test"] * 20)[::-1].to_csv(
        folder / "split.csv", index=False
    )
    change(folder, location=[f"place-{k}" for k in range(40)], label="one")
    assert (
        corpora.find(str(folder)).scenes().clips["split"].tolist() == ["train", "test"] * 20
    )  # what is there is used
    assert capsys.readouterr().out == ""


def test_a_split_that_is_given_is_kept(folder):
    split = ["train"] * 20 + ["test"] * 16 + ["unused"] * 4
    change(folder, split=split)
    corpus = corpora.find(str(folder)).scenes()
    assert corpus.clips["split"].tolist() == split and not (folder / "split.csv").exists()
    assert corpus.name == "own_my_scénes" and corpus.labels == ["high", "low"]


def test_every_clip_is_converted(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_DATA", str(tmp_path / "data"))
    soundfile.write(folder / "sound/clip 0.wav", 0.5 * np.ones((3 * 44_100, 1)), 44_100)
    soundfile.write(
        folder / "sound/clip 4.wav", np.r_[np.zeros(24_000), 0.5 * np.ones(24_000)], 48_000
    )
    six = np.full((96_000, 6), [0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    soundfile.write(folder / "sound/clip 8.wav", six, 48_000, subtype="FLOAT")
    packed = store.pack(corpora.find(str(folder)).scenes())
    assert packed.waveforms.shape == (40, 2, 96_000)
    assert (packed.waveforms[:, 0].max(1) > 5000).all()
    assert (packed.waveforms[8] == 8192).all()  # the mean of six channels, twice
    mono = packed.waveforms[2]  # 16 kHz OGG
    assert np.array_equal(mono[0], mono[1])
    assert np.allclose(
        packed.waveforms[4][:, [23_999, 24_000, 71_999, 72_000]], [0, 16_384, 0, 16_384]
    )  # repeated
    spectrum = np.abs(np.fft.rfft(packed.waveforms[3, 0]))  # 44.1 kHz MP3 at 200 Hz
    assert np.argmax(spectrum) * 48_000 / 96_000 == pytest.approx(200, abs=1)
    before = packed.fingerprint
    soundfile.write(folder / "sound/clip 0.wav", np.zeros((44_100, 1)), 44_100)
    assert (
        store.pack(corpora.find(str(folder)).scenes()).fingerprint != before
    )  # a changed file is noticed


def test_every_conversion_is_noted(folder):
    soundfile.write(folder / "sound/clip 12.wav", 0.1 * np.ones((96_000, 6)), 48_000)
    soundfile.write(folder / "sound/clip 4.wav", 0.1 * np.ones((8 * 48_000, 2)), 48_000)
    soundfile.write(folder / "sound/clip 8.wav", 0.1 * np.ones((48_000, 2)), 48_000)
    counts, findings = corpora.find(str(folder)).check()
    assert counts["clips"].tolist()[-1] == 43 and not any(finding.fatal for finding in findings)
    notes = {finding.what for finding in findings if finding.file.startswith("sound/")}
    assert notes == {
        "is resampled from 44100 Hz to 48000 Hz",
        "is resampled from 16000 Hz to 48000 Hz",
        "is mono: its channel is used twice",
        "is not stereo: the mean of its 6 channels is used twice",
        "is 8 s long: cut into 4 windows of 2 s",
        "is 1 s long: repeated to 2 s",
    }


def test_a_long_recording_is_several_clips_of_one_place(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_DATA", str(tmp_path / "data"))
    steps = np.repeat([0.1, 0.2, 0.3], 2 * 48_000)
    soundfile.write(folder / "sound/clip 4.wav", np.r_[steps, np.zeros(24_000)], 48_000)
    corpus = corpora.find(str(folder)).scenes()
    windows = corpus.clips[corpus.clips["filename"].str.startswith("sound/clip 4.wav")]
    assert windows["filename"].tolist() == [f"sound/clip 4.wav#{k}" for k in (1, 2, 3)]
    assert set(windows["location"]) == {"place-1"} and windows["split"].nunique() == 1
    packed = store.pack(corpus).waveforms
    assert packed.shape == (42, 2, 96_000)
    for row, level in zip(windows.index, (0.1, 0.2, 0.3)):
        assert (np.abs(packed[row] - level * 2**15) < 2).all()
    tags = pd.DataFrame({"filename": pd.read_csv(folder / "labels.csv")["filename"], "Low": 0.5})
    tags.loc[tags["filename"] == "sound/clip 4.wav", "Low"] = 0.25
    tags.to_csv(tmp_path / "tags.csv", index=False)
    values = sources.open_tag_vectors(str(tmp_path / "tags.csv"), corpus, None).clips[:, 0]
    assert (values[windows.index] == 0.25).all() and (values == 0.25).sum() == 3


def test_folds_and_lengths_are_variants(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_DATA", str(tmp_path / "data"))
    names = [corpora.resolved(f"{folder}@fold{fold}of5") for fold in range(1, 6)]
    parts = [corpora.find(name).scenes() for name in names]
    assert names[1] == f"{folder}@fold2of5" and parts[1].name == "own_my_scénes@fold2of5"
    tested = pd.concat([part.clips[part.clips["split"] == "test"] for part in parts])
    assert sorted(tested["filename"]) == sorted(parts[0].clips["filename"])
    assert (tested.groupby("location").size() == 4).all() and not (folder / "split.csv").exists()
    assert len({part.fingerprint for part in parts}) == 5
    assert len({store.folder(part) for part in parts}) == 1  # one store for all
    short = corpora.find(f"{folder}@1s@fold1of2").scenes()
    assert len(short.clips) == 80 and store.pack(short).samples == 48_000
    for word in ("fold0of5", "fold6of5", "fold1of1", "0.5s", "x", "", "fold1of2@1s", "1s@2s"):
        with pytest.raises(ParameterError, match="parameter 'data'"):
            corpora.find(f"{folder}@{word}")


def test_folds_together_are_a_data_set_whose_system_learns_from_all(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ASC_RESULTS", str(tmp_path / "results"))
    whole = f"{folder}@3folds"
    parts = corpora.folds(whole)
    assert parts == [f"{folder}@fold{k}of3" for k in (1, 2, 3)] and not corpora.folds(parts[0])
    given = BASELINE | dict(epochs=1, threads=1)
    cell = Cell("02_baseline", dict(data=whole, epochs=1, threads=1))
    with pytest.raises(ValueError, match="cannot be read"):
        folds.retrain(cell)
    each = []
    for data in parts:
        fold = settings.check("02_baseline", **(given | dict(data=data)))
        each.append(system.train_and_save(fold, SceneData.open(fold)).record)
    trained = folds.retrain(cell)
    record = trained.record
    assert record["data"]["clips"] == {"train": 40} and record["test"]["clips"] == 40
    right = [found["test"]["accuracy"] * found["test"]["clips"] for found in each]
    assert record["test"]["accuracy"] == pytest.approx(sum(right) / 40)
    assert "each judged by a system that had not learnt from it" in (
        trained.folder / "README.md"
    ).read_text("utf-8")
    assert len(tables.Results(whole).systems) == 1  # what `asc tables` reads
    loaded = system.load(trained.folder, "cpu")
    recipe = tmp_path / "again.toml"
    recipe.write_text(f'start_from = "{trained.folder}"')
    for data, refused in ((parts[0], True), (whole, False)):
        tuned = settings.check("02_baseline", **(given | dict(data=data, recipe=str(recipe))))
        if refused:
            with pytest.raises(ParameterError, match="may know the test clips"):
                SceneData.open(tuned).network(tuned)
        else:
            assert "front_end" in SceneData.open(tuned).network(tuned).taken_over
    assert loaded.trained_on == "trained on 40 clips of own_my_scénes@3folds"
    names = {}
    asked = Given(names)
    names.update(given | dict(data=whole))
    with pytest.raises(ParameterError, match="a notebook takes one fold, such as"):
        asked.settings("02_baseline")
    for word in ("0folds", "1folds", "3folds@1s"):
        with pytest.raises(ParameterError, match="parameter 'data'"):
            corpora.find(f"{folder}@{word}")


def test_two_folders_of_one_name_do_not_share_results(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_RESULTS", str(tmp_path / "results"))
    mine = corpora.results(str(folder), claim=True)
    other = tmp_path / "other" / folder.name
    shutil.copytree(folder, other)
    message = f"{mine} holds results of {folder}, not of {other}: rename one"
    for ask in (corpora.results, tables.Results, system.newest):
        with pytest.raises(corpora.CorpusError, match=re.escape(message)):
            ask(str(other))
    assert corpora.results(str(folder)) == mine
    assert corpora.results(str(other), root=tmp_path / "elsewhere").name == mine.name
    assert not (tmp_path / "elsewhere").exists()  # asking makes nothing


def test_two_processes_may_make_a_split_at_once(folder, monkeypatch):
    module = importlib.import_module("asc_lib.corpora.custom")
    alone = module.made_split

    def beside_another(clips):
        monkeypatch.setattr(module, "made_split", alone)
        others.append(corpora.find(str(folder)).scenes())  # that writes its split meanwhile
        return alone(clips)

    others = []
    monkeypatch.setattr(module, "made_split", beside_another)
    assert corpora.find(str(folder)).scenes().clips.equals(others[0].clips)
    with pytest.raises(corpora.CorpusError, match="split.csv has a split already: it is used"):
        module.write_split(folder)


def test_what_makes_no_folds_is_told_by_the_check(folder):
    _, findings = corpora.find(f"{folder}@fold1of20").check()
    assert "there are 10 locations: too few for 20 folds" in findings[-1].what
    assert findings[-1].fatal


def with_sound(samples, rate=48_000):
    return lambda folder: soundfile.write(
        folder / "sound/clip 0.wav", samples, rate, subtype="FLOAT"
    )


def listed(**columns):
    return lambda folder: change(folder, **columns)


UNFIT = {
    "no table": (
        lambda f: (f / "labels.csv").unlink(),
        "has no CSV table; it needs one with the columns filename",
    ),
    "two tables": (
        lambda f: (f / "b.csv").write_text("x"),
        "has the tables b.csv, labels.csv: name that of the clips clips.csv",
    ),
    "no label": (
        lambda f: change(f).drop(columns="label").to_csv(f / "labels.csv"),
        "labels.csv has the columns .*; expected filename, label, separated by commas",
    ),
    "another split": (
        listed(split="validation"),
        "in the split 'validation'; there are train, test, unused",
    ),
    "nothing to test": (listed(split="train"), "has no clip in the split 'test'"),
    "one place on both sides": (
        listed(split=["train", "test"] * 20, label="x"),
        "has clips of the location 'place-0'",
    ),
    "a label only tested": (
        listed(split=["train"] * 20 + ["test"] * 20, label=["a"] * 39 + ["b"]),
        "has the label 'b', which no training clip carries",
    ),
    "one location": (
        listed(location="here"),
        "the label 'high' has one location: it cannot be in train and in test",
    ),
    "not a number": (
        with_sound(np.full((96_000, 2), np.nan)),
        "clip 0.wav holds 192000 values that are not numbers",
    ),
    "missing": (lambda f: (f / "sound/clip 0.wav").unlink(), "clip 0.wav is missing"),
    "leaves the folder": (
        listed(filename=[f"../{k}.wav" for k in range(40)]),
        "names '../0.wav', a path that leaves the corpus",
    ),
    "half a second": (
        lambda f: (
            [
                soundfile.write(path, np.zeros(24_000), 48_000)
                for path in (f / "sound").glob("*.flac")
            ]
            + [
                change(f)[lambda t: t["filename"].str.endswith("flac")].to_csv(
                    f / "labels.csv", index=False
                )
            ]
        ),
        "the usual length of these clips is 0.5 s: at least 1 s are needed",
    ),
}


@pytest.mark.parametrize("case", UNFIT)
def test_what_stops_a_data_set(case, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_DATA", str(tmp_path / "data"))
    change_, message = UNFIT[case]
    change_(folder)
    with pytest.raises((corpora.CorpusError, audio.AudioError), match=message) as error:
        store.pack(corpora.find(str(folder)).scenes())
    assert "\n" not in str(error.value)
    if case not in (
        "no table",
        "two tables",
        "one location",
    ):  # these are said where a split is made
        _, findings = corpora.find(str(folder)).check()
        assert any(
            finding.fatal and re.search(message, f"{finding.file} {finding.what}")
            for finding in findings
        )


def test_a_split_that_cannot_be_written(folder):
    (folder / "split.csv").mkdir()
    with pytest.raises(
        corpora.CorpusError,
        match="labels.csv has no column split, and .*split.csv cannot be written",
    ):
        corpora.find(str(folder)).scenes()


def test_it_runs_in_the_notebooks(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ASC_RESULTS", str(tmp_path / "results"))
    files = pd.read_csv(folder / "labels.csv")["filename"]
    pd.DataFrame({"filename": files, "Low": 0.2, "High": np.linspace(0, 1, 40)}).to_parquet(
        tmp_path / "tags.parquet"
    )
    given = {
        "data": str(folder),
        "tags": str(tmp_path / "tags.parquet"),
        "epochs": 1,
        "front_end": "narrow",
        "threads": 1,
    }
    execute_here("04_attention", **given)
    (record,) = records.read_records(str(folder))
    assert record["data"]["name"] == "own_my_scénes" and record["tags"]["source"] == "tags.parquet"
    assert record["test"]["clips"] + record["data"]["clips"]["train"] == 40

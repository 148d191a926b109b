"""Recordings: every kind gives a result or one clear line."""

import json
import os
import re

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from asc_lib import cli, plots
from asc_lib.corpora import audio
from asc_lib.corpora.audio import AudioError, Recording
from asc_lib.use import explorer
from asc_lib.use.system import load

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def trained(saved):
    return load(saved.folder, "cpu")


def noise(seconds, rate, channels):
    return 0.1 * RNG.standard_normal((round(seconds * rate), channels))


GOOD = [
    (
        "a.wav",
        "PCM_16",
        8_000,
        1,
        2.0,
        ["is resampled from 8000 Hz to 48000 Hz", "is mono: its channel is used twice"],
    ),
    ("b.wav", "PCM_24", 48_000, 2, 1.0, []),
    ("c.wav", "PCM_32", 96_000, 2, 3.0, ["is 3 s long: cut into 3 windows of 1 s"]),
    (
        "d.wav",
        "FLOAT",
        44_100,
        2,
        1.5,
        ["has 0.5 s after the last window, which are ignored"],
    ),
    (
        "e.wav",
        "DOUBLE",
        192_000,
        6,
        2.0,
        ["is not stereo: the mean of its 6 channels is used twice"],
    ),
    ("f.flac", "PCM_24", 44_100, 2, 2.0, ["is resampled from 44100 Hz"]),
    ("g.ogg", "VORBIS", 32_000, 2, 2.0, []),
    ("h.ogg", "OPUS", 48_000, 1, 2.0, []),
    ("i.mp3", "MPEG_LAYER_III", 44_100, 2, 2.0, []),
    ("j.aiff", "PCM_16", 22_050, 1, 1.2, []),
    ("k.wav", "PCM_U8", 11_025, 1, 1.0, []),
    ("l.au", "ULAW", 8_000, 1, 1.1, []),
    ("m.caf", "PCM_16", 48_000, 4, 1.0, ["is not stereo: the mean of its 4 channels"]),
    ("n.w64", "PCM_16", 16_000, 3, 1.0, []),
    ("o.wav", "PCM_16", 8_000, 1, 600.0, ["is 600 s long: cut into 600 windows of 1 s"]),
]


@pytest.mark.parametrize(
    "name, kind, rate, channels, seconds, notes", GOOD, ids=lambda value: str(value)[:8]
)
def test_any_recording_gets_a_result(trained, tmp_path, name, kind, rate, channels, seconds, notes):
    soundfile.write(tmp_path / name, noise(seconds, rate, channels), rate, subtype=kind)
    found = trained.predict(tmp_path / name)
    assert found.scene in trained.labels and found.probabilities.sum() == pytest.approx(1, abs=1e-5)
    assert len(found.windows()) == max(int(seconds), 1) and np.isfinite(
        found.windows()[trained.labels]
    ).all(axis=None)
    for wanted in notes:
        assert any(wanted in note for note in found.notes), found.notes
    assert notes or rate != 48_000 or channels != 2 or not found.notes


def spoilt(path, kind):
    if kind == "short":
        soundfile.write(path, noise(0.1, 48_000, 1), 48_000)
    elif kind in ("nan", "inf"):
        values = noise(2.5, 48_000, 1)
        values[50_000] = float(kind)
        soundfile.write(path, values, 48_000, subtype="FLOAT")
    elif kind == "no samples":
        soundfile.write(path, np.zeros((0, 2)), 48_000)
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "text":
        path.write_text("no sound")
    elif kind == "folder":
        path.mkdir()
    elif kind == "cut":
        soundfile.write(path, noise(2.0, 48_000, 2), 48_000)
        path.write_bytes(path.read_bytes()[:30])
    elif kind == "unknown length":  # as streaming encoders leave it
        soundfile.write(path, noise(2.0, 48_000, 2), 48_000, format="FLAC")
        raw = bytearray(path.read_bytes())
        raw[21] &= 0xF0
        raw[22:26] = bytes(4)
        path.write_bytes(raw)


@pytest.mark.parametrize(
    "kind, message",
    [
        ("short", "is 0.1 s long: at least 1 s are needed"),
        ("nan", r"holds 1 values that are not numbers \(NaN or infinite\) after 1 s"),
        ("inf", "not numbers"),
        ("no samples", "holds no sample"),
        ("empty", "is an empty file"),
        ("text", "cannot be read as audio"),
        ("folder", "is not a file"),
        ("cut", "cannot be read as audio|holds no sample"),
        ("unknown length", "cannot be read as audio"),
        ("missing", "is missing"),
    ],
)
def test_what_cannot_serve_gets_one_line(trained, tmp_path, kind, message):
    path = tmp_path / "x.wav"
    spoilt(path, kind)
    (unusable,) = trained.predict_each([path])
    assert unusable.path == path and str(path) in unusable.why
    assert re.search(message, unusable.why) and "\n" not in unusable.why


def test_raw_samples_do_not_stop_the_others(trained, tmp_path):
    soundfile.write(tmp_path / "good.wav", noise(1.0, 48_000, 2), 48_000)
    (tmp_path / "x.raw").write_bytes(bytes(100_000))
    raw, good = trained.predict_each([tmp_path / "x.raw", tmp_path / "good.wav"])
    assert good.file == str(tmp_path / "good.wav") and "without a header" in raw.why


@pytest.mark.parametrize("kind", ["VORBIS", "OPUS"])
def test_loud_compressed_audio_does_not_wrap_around(tmp_path, kind):
    loud = 0.99 * np.sign(np.sin(2 * np.pi * 440 * np.arange(96_000) / 48_000))
    soundfile.write(tmp_path / "x.ogg", np.stack([loud, loud], 1), 48_000, subtype=kind)
    real = soundfile.read(tmp_path / "x.ogg", dtype="float32", always_2d=True)[0].T
    assert np.abs(real).max() > 1  # it overshoots
    found = Recording.open(tmp_path / "x.ogg", 96_000).window(0)
    assert np.abs(found / 2**15 - real.clip(-1, 1)[:, :96_000]).max() < 1e-3
    assert np.array_equal(audio.decoded(tmp_path / "x.ogg")[0][:, :96_000], found)


def test_windows_of_an_mp3_are_those_of_the_whole_file(tmp_path):
    soundfile.write(tmp_path / "x.mp3", noise(6.0, 48_000, 2), 48_000, format="MP3")
    whole = audio.decoded(tmp_path / "x.mp3")[0]
    recording = Recording.open(tmp_path / "x.mp3", 96_000)
    for start, window in zip(recording.starts, recording.windows()):
        part = whole[:, start : start + 96_000].astype(int)
        assert np.abs(window[:, : part.shape[1]] - part).max() <= 1


def test_a_name_that_is_not_utf8_gets_one_line(trained, tmp_path):
    path = tmp_path / os.fsdecode(b"\xff.wav")
    soundfile.write(tmp_path / "x.wav", noise(2.0, 48_000, 2), 48_000)
    (tmp_path / "x.wav").rename(path)
    (unusable,) = trained.predict_each([path])
    assert re.search(r"udcff.wav' has a name .*that is not UTF-8: rename it$", unusable.why)


def test_silence_gets_a_result_and_a_word(trained, tmp_path):
    soundfile.write(tmp_path / "x.wav", np.zeros((96_000, 2)), 48_000)
    assert trained.predict(tmp_path / "x.wav").notes[-1] == "is silent: every sample is 0"


def test_windows_hold_the_samples_of_the_file(tmp_path):
    clip = RNG.integers(-3000, 3000, (2, 170_000)).astype("int16")
    (tmp_path / "x.wav").write_bytes(explorer.wav(clip))
    recording = Recording.open(tmp_path / "x.wav", 48_000)
    assert recording.starts == [0, 48_000, 96_000] and recording.seconds == pytest.approx(
        170_000 / 48_000
    )
    for start, window in zip(recording.starts, recording.windows()):
        assert np.array_equal(window, clip[:, start : start + 48_000])
    longer = Recording.open(tmp_path / "x.wav", 100_000)
    assert longer.starts == [0, 70_000]  # a rest of over a second reaches back
    assert np.array_equal(longer.window(1), clip[:, 70_000:])
    repeated = Recording.open(tmp_path / "x.wav", 200_000)
    assert (
        repeated.starts == [0] and "is 3.54 s long: repeated to 4.16667 s" in repeated.conversions
    )
    assert np.array_equal(repeated.window(0), np.tile(clip, 2)[:, :200_000])


def test_a_resampled_window_is_as_long_as_any(tmp_path):
    for rate in (
        8_000,
        11_025,
        22_050,
        44_100,
        47_999,
        96_000,
        192_000,
    ):  # 47,999: no common divisor with 48,000
        soundfile.write(tmp_path / "x.wav", noise(3.0, rate, 2), rate)
        recording = Recording.open(tmp_path / "x.wav", 48_000)
        assert [window.shape for window in recording.windows()] == [(2, 48_000)] * 3


def test_a_clip_of_the_corpus_is_classified_as_in_its_record(saved, trained, tmp_path):
    clips = saved.scenes.corpus.clips
    for row in saved.scenes.corpus.rows("test")[:6]:
        found = trained.predict(saved.scenes.corpus.root / clips["filename"][row])
        evaluated = saved.evaluated.set_index("filename").loc[clips["filename"][row]]
        assert trained.labels[evaluated["predicted"]] == found.scene
        assert found.probabilities.argmax() == evaluated["softmax"] and not found.notes


def test_most_windows_decide_and_then_the_probability(trained, tmp_path):
    soundfile.write(tmp_path / "x.wav", noise(3.0, 48_000, 2), 48_000)
    found = trained.predict(tmp_path / "x.wav")
    votes = found.classified._replace(scenes=np.array([2, 5, 2]))
    assert type(found)(trained, found.recording, votes, []).scene == trained.labels[2]
    level = np.full((3, 10), 0.1)
    level[:, 5] = 0.2
    tied = found.classified._replace(scenes=np.array([2, 5, 1]), probabilities=level)
    assert type(found)(trained, found.recording, tied, []).scene == trained.labels[5]


def test_the_command(saved, tmp_path):
    soundfile.write(tmp_path / "good.flac", noise(2.0, 44_100, 1), 44_100)
    (tmp_path / "bad.wav").write_text("x")
    words = [
        "predict",
        str(tmp_path / "good.flac"),
        str(tmp_path / "bad.wav"),
        "--system",
        str(saved.folder),
    ]
    done = CliRunner().invoke(cli.app, words)
    assert (
        done.exit_code == 1
        and done.stderr.count("\n") == 2
        and " composed scenes (mini): not for real recordings\n" in done.stderr
        and "bad.wav cannot be read as audio" in done.stderr
    )
    assert "note: it is mono" in done.stdout and "network: " in done.stdout
    done = CliRunner().invoke(cli.app, [*words[:2], *words[3:], "--json"])
    (found,) = json.loads(done.stdout)
    assert (
        done.exit_code == 0 and found["file"].endswith("good.flac") and len(found["windows"]) == 2
    )
    assert (
        sum(found["probabilities"].values()) == pytest.approx(1, abs=1e-4)
        and len(found["tags"]) == 10
    )


def predicted(saved, *words):
    done = CliRunner().invoke(cli.app, ["predict", *map(str, words), "--system", str(saved.folder)])
    return done.exit_code, done.stdout, done.stderr


def test_a_folder_is_all_audio_under_it(tmp_path):
    for name in ("b.WAV", "sub/a.flac", ".hidden.wav", "sub/x.txt", "c.m4a", "._b.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "d.wav").mkdir()
    found = [tmp_path / name for name in ("b.WAV", "c.m4a", "sub/a.flac")]
    assert audio.recordings(tmp_path) == found
    assert audio.recordings(f"{tmp_path}/*.[Wm]*") == found[:2]
    assert audio.recordings(f"{tmp_path}/**/*.flac") == found[2:]
    for alone in ("sub/x.txt", "d.wav", "gone", "gone*"):
        assert audio.recordings(tmp_path / alone) == [tmp_path / alone]
    (tmp_path / "[x].wav").write_bytes(b"")  # a name before it is a pattern
    assert audio.recordings(tmp_path / "[x].wav") == [tmp_path / "[x].wav"]


def test_a_folder_is_predicted_in_order_and_conversions_are_told_once(saved, tmp_path):
    for name, silent in (("b", 1), ("a", 1), ("c", 0)):
        sound = (1 - silent) * noise(2.0, 44_100, 1)
        soundfile.write(tmp_path / f"{name}.wav", sound, 44_100)
    (tmp_path / "notes.txt").write_text("x")
    code, out, _ = predicted(saved, tmp_path)
    lines = out.splitlines()
    named = [re.search(r"(\w)\.wav: ", line)[1] for line in lines if ".wav: " in line]
    assert code == 0 and named == ["a", "b", "c"]
    assert out.count("is resampled from 44100 Hz") == 1 and out.count("is silent") == 2
    assert out.count("; novelty ") == 3
    (tmp_path / "empty").mkdir()
    code, out, error = predicted(saved, tmp_path / "empty", tmp_path / "x*.wav", tmp_path / "c.wav")
    assert code == 1 and out.count(".wav: ") == 1
    assert "empty is not a file, nor a folder with audio" in error and "x*.wav is missing" in error


def test_a_folder_in_the_notebook_is_all_audio_under_it(tmp_path):
    (tmp_path / "sub").mkdir()
    for name in ("a.wav", "sub/a.wav", "x.csv"):
        (tmp_path / name).write_bytes(b"")
    assert list(explorer.found_in(str(tmp_path))) == ["a.wav", "sub/a.wav"]
    assert list(explorer.found_in(f"{tmp_path}/sub/a.wav")) == ["a.wav"]
    assert explorer.found_in(" ") == {}


def test_a_time_line_names_its_file(trained, tmp_path):
    soundfile.write(tmp_path / "x.wav", noise(2.0, 48_000, 2), 48_000)
    windows = trained.predict(tmp_path / "x.wav").windows()
    figure = plots.timeline(windows, trained.labels, "street $1_2$.wav")
    assert figure.axes[0].get_title(loc="right") == "street $1_2$.wav"
    plots.png(figure)


def test_neighbours_of_one_scene_are_merged_in_the_time_line(saved, trained, tmp_path, monkeypatch):
    soundfile.write(tmp_path / "x.wav", noise(5.0, 48_000, 2)[:-4800], 48_000)  # 4.9 s
    scenes = iter([2, 2, 5, 5, 2])
    monkeypatch.setattr(
        type(trained.back_end),
        "predict",
        lambda self, codes: np.array([next(scenes) for _ in codes]),
    )
    found = trained.predict(tmp_path / "x.wav").timeline()
    one, two = trained.labels[2], trained.labels[5]
    assert found["scene"].tolist() == [one, two]  # the rest of 0.9 s is ignored
    assert found[["start", "end"]].to_numpy().tolist() == [[0, 2], [2, 4]]
    soundfile.write(tmp_path / "x.wav", noise(100_000 / 48_000 + 1.5, 48_000, 2), 48_000)
    scenes = iter([2, 2, 5, 2, 2, 5])
    longest = type(trained)(**(vars(trained) | {"about": trained.about | {"samples": 100_000}}))
    found = longest.predict(tmp_path / "x.wav").timeline()  # the last window reaches back
    assert found.shape == (1, 3) and found["end"].item() == pytest.approx(100_000 / 48_000 + 1.5)
    scenes = iter([2, 5, 5, 2, 5, 2])
    found = longest.predict(tmp_path / "x.wav").timeline()
    assert found["start"].tolist() == [0, pytest.approx(100_000 / 48_000)]
    scenes = iter([2, 5, 2])
    soundfile.write(tmp_path / "x.wav", noise(3.0, 48_000, 2), 48_000)
    code, out, _ = predicted(saved, tmp_path / "x.wav")
    assert f"  0.0 to 1.0 s: {one}\n  1.0 to 2.0 s: {two}\n  2.0 to 3.0 s: {one}\n" in out
    scenes = iter([2, 2, 2] * 2)
    assert " s: " not in predicted(saved, tmp_path / "x.wav")[1]
    assert predicted(saved, tmp_path / "x.wav", "--windows")[1].count(f" s: {one}\n") == 3


def test_a_file_that_ends_sooner_than_it_says(tmp_path):
    soundfile.write(tmp_path / "x.wav", noise(3.0, 48_000, 1), 48_000)
    recording = Recording.open(tmp_path / "x.wav", 48_000)
    (tmp_path / "x.wav").write_bytes((tmp_path / "x.wav").read_bytes()[:100_000])
    with pytest.raises(AudioError, match=r"ends after 1\.0\d* s|cannot be read"):
        list(recording.windows())
    with pytest.raises(AudioError, match="ends after 1.041 s, but its header says 3 s"):
        audio.length(tmp_path / "x.wav")

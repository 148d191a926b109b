"""Input that is not as it should be: one message names each file, `asc data check` finds all."""

import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from asc_lib import corpora
from asc_lib.corpora import audio, checks, tau2019

META, TRAIN, EVALUATE, TEST = tau2019.HEADERS
RATE = 48_000


@pytest.fixture
def scenes(tmp_path):
    """Ten half-second clips in the format of TAU 2019: four to train, four to test, two unused."""
    root, rng, rows = tmp_path / "tau2019", np.random.default_rng(0), []
    (root / "audio").mkdir(parents=True)
    (root / "evaluation_setup").mkdir()
    for k, scene in enumerate(tau2019.SCENES):
        name = f"audio/{scene}-lyon-{k}-{k}-a.wav"
        soundfile.write(root / name, 0.1 * rng.standard_normal((24_000, 2)), RATE, subtype="PCM_24")
        rows.append((name, scene, f"lyon-{k}", "a"))
    table = pd.DataFrame(rows, columns=tau2019.HEADERS[META])
    for file, part in (
        (META, table),
        (TRAIN, table[:4]),
        (EVALUATE, table[4:8]),
        (TEST, table[4:8]),
    ):
        part[tau2019.HEADERS[file]].to_csv(root / file, sep="\t", index=False)
    return root


def clip(root):
    return sorted((root / "audio").iterdir())[2]  # metro, a training clip


def sound(seconds=0.5, channels=2, rate=RATE, **options):
    samples = options.pop(
        "samples", 0.1 * np.random.default_rng(1).standard_normal((int(seconds * rate), channels))
    )
    return lambda root: soundfile.write(clip(root), samples, rate, **({"format": "WAV"} | options))


def bytes_of(change):
    return lambda root: clip(root).write_bytes(change(clip(root).read_bytes()))


def text_of(file, change):
    return lambda root: (root / file).write_bytes(change((root / file).read_bytes()))


def replaced(file, old, new):
    return text_of(file, lambda raw: raw.replace(old, new, 1))


def twice(file, line=1):
    return text_of(file, lambda raw: raw + raw.splitlines(keepends=True)[line])


def with_value(value):
    samples = np.zeros((24_000, 2), "float32") + 0.1
    samples[7, 1] = value
    return sound(samples=samples, subtype="FLOAT")


METRO = "audio/metro-lyon-2-2-a.wav"
FATAL = {
    # what was done: (how, the file named, what is said of it)
    "truncated": (
        bytes_of(lambda raw: raw[:30_000]),
        METRO,
        "ends after 0.104 s, but its header says 0.5 s",
    ),
    "header only": (bytes_of(lambda raw: raw[:60]), METRO, "ends after 4.167e-05 s"),
    "0 bytes": (
        bytes_of(lambda raw: b""),
        METRO,
        r"is an empty file \(0 bytes\): copy or unpack it again",
    ),
    "wrong header": (
        bytes_of(lambda raw: b"RIFX" + b"\0" * 40 + raw[44:]),
        METRO,
        "cannot be read as audio",
    ),
    "text renamed": (
        bytes_of(lambda raw: b"not a sound at all, but words\n" * 9),
        METRO,
        "cannot be read as audio",
    ),
    "zeros": (bytes_of(lambda raw: b"\0" * len(raw)), METRO, "cannot be read as audio"),
    "44.1 kHz": (sound(rate=44_100), METRO, "has a sample rate of 44100 Hz, expected 48000"),
    "mono": (sound(channels=1), METRO, r"has 1 channel\(s\), expected 2"),
    "5.1": (sound(channels=6), METRO, r"has 6 channel\(s\), expected 2"),
    "too short": (sound(seconds=0.4), METRO, "has 19200 samples, expected 24000"),
    "too long": (sound(seconds=0.6), METRO, "has 28800 samples, expected 24000"),
    "no sample": (sound(seconds=0), METRO, "holds no sample"),
    "NaN": (with_value(np.nan), METRO, "holds 1 values that are not numbers"),
    "infinite": (with_value(np.inf), METRO, "holds 1 values that are not numbers"),
    "a row with no file": (
        lambda root: clip(root).unlink(),
        METRO,
        "is missing: unpack its archive there",
    ),
    "a name in other letters": (
        lambda root: clip(root).rename(root / "audio" / "métro.wav"),
        METRO,
        "is missing: unpack its archive there",
    ),
    "leaves the corpus": (
        replaced(META, b"audio/metro-", b"../metro-"),
        META,
        "a path that leaves the corpus",
    ),
    "absolute path": (
        replaced(META, b"audio/metro-", b"/etc/metro-"),
        META,
        "a path that leaves the corpus",
    ),
    "backslashes": (
        replaced(META, b"audio/metro-", b"audio\\metro-"),
        META,
        "with a backslash: write / between folders",
    ),
    "line break in a name": (
        replaced(META, b"audio/metro-lyon-2-2-a.wav", b'"audio/metro\n.wav"'),
        META,
        "with a line break",
    ),
    "duplicate row": (
        twice(META),
        META,
        r"names 'audio/airport-lyon-0-0-a.wav' twice \(1 such rows\)",
    ),
    "duplicate in a list": (twice(TRAIN), TRAIN, "names 'audio/airport-lyon-0-0-a.wav' twice"),
    "unknown label": (
        text_of(META, lambda raw: raw.replace(b"\tmetro\t", b"\tbeach\t")),
        META,
        "has the unknown label 'beach'; there are airport, bus",
    ),
    "labels that differ": (
        replaced(TRAIN, b"\tmetro", b"\ttram"),
        TRAIN,
        "labels .* as 'tram', meta.csv as 'metro'",
    ),
    "commas": (text_of(META, lambda raw: raw.replace(b"\t", b",")), META, "is separated by commas"),
    "commas in a list": (
        text_of(TRAIN, lambda raw: raw.replace(b"\t", b",")),
        TRAIN,
        "is separated by commas",
    ),
    "empty table": (text_of(META, lambda raw: b""), META, "is empty"),
    "header alone": (
        text_of(META, lambda raw: raw.splitlines(keepends=True)[0]),
        META,
        "holds no row",
    ),
    "no table": (
        lambda root: (root / TRAIN).unlink(),
        TRAIN,
        "is missing: unpack the corpus's meta data",
    ),
    "other columns": (
        replaced(META, b"scene_label", b"label"),
        META,
        "has the columns filename, label",
    ),
    "no header": (
        text_of(META, lambda raw: b"".join(raw.splitlines(keepends=True)[1:])),
        META,
        "expected filename, scene_label",
    ),
    "UTF-16": (
        text_of(META, lambda raw: raw.decode().encode("utf-16")),
        META,
        "is not in UTF-8: save it as UTF-8",
    ),
    "too many cells": (
        replaced(META, b"lyon-3\ta\n", b"lyon-3\ta\tb\tc\td\n"),
        META,
        "has 7 cells in line 5, but 4 columns",
    ),
    "empty cell": (replaced(META, b"\tmetro\t", b"\t\t"), META, "line 4 has no scene_label"),
    "no city": (
        replaced(META, b"lyon-2\ta", b"lyon\ta"),
        META,
        "has the identifier 'lyon'; expected is city-number",
    ),
    "train and test overlap": (
        lambda root: [
            (root / file).write_bytes((root / file).read_bytes() + row)
            for file, row in (
                (EVALUATE, METRO.encode() + b"\tmetro\n"),
                (TEST, METRO.encode() + b"\n"),
            )
        ],
        TRAIN,
        "shares 1 clips with fold1_evaluate.csv, the first 'audio/metro",
    ),
    "lists that differ": (
        replaced(TEST, b"audio/park", b"audio/x"),
        TEST,
        "names other clips than fold1_evaluate.csv",
    ),
    "a listed clip without meta data": (
        text_of(
            META,
            lambda raw: b"".join(line for line in raw.splitlines(True) if b"metro-" not in line),
        ),
        TRAIN,
        "lists 1 clips that are not in meta.csv, the first 'audio/metro",
    ),
}
DOUBTFUL = {
    "all zeros": (sound(samples=np.zeros((24_000, 2))), METRO, "is silent: every sample is 0"),
    "clipped": (
        sound(samples=np.sign(np.sin(np.arange(48_000))).reshape(-1, 2)),
        METRO,
        "is clipped: 100.0 %",
    ),
    "beyond 1": (
        sound(samples=np.full((24_000, 2), 3.0), subtype="FLOAT"),
        METRO,
        "is clipped: 100.0 %",
    ),
    "a file with no row": (
        lambda root: shutil.copy(clip(root), root / "audio" / "stray file.wav"),
        "audio/stray file.wav",
        "is not in any table: it is ignored",
    ),
}
HARMLESS = {
    "as it should be": lambda root: None,
    "Windows line ends": text_of(META, lambda raw: raw.replace(b"\n", b"\r\n")),
    "byte order mark": text_of(META, lambda raw: b"\xef\xbb\xbf" + raw),
    "FLAC inside": sound(format="FLAC", subtype="PCM_24"),
    "16 bits": sound(subtype="PCM_16"),
    "floating point": sound(subtype="FLOAT"),
    "spaces and letters": lambda root: [
        clip(root).rename(root / "audio" / "mé tro.wav"),
        *[
            text_of(f, lambda raw: raw.replace(METRO.encode(), "audio/mé tro.wav".encode()))(root)
            for f in (META, TRAIN)
        ],
    ],
}


def found(root):
    """The findings, with files as the corpus names them."""
    _, findings = checks.check(root, tau2019.tables(root), RATE, audio.CHANNELS, 24_000)
    return [each._replace(file=str(Path(each.file).relative_to(root))) for each in findings]


@pytest.mark.parametrize("case", FATAL)
def test_what_stops_a_corpus(case, scenes):
    change, file, message = FATAL[case]
    change(scenes)
    findings = [finding for finding in found(scenes) if finding.fatal]
    assert any(finding.file == file and re.search(message, finding.what) for finding in findings), (
        findings
    )
    assert all("\n" not in finding.what for finding in findings)
    with pytest.raises(
        (corpora.CorpusError, audio.AudioError)
    ) as error:  # the same words where it is used
        corpus = tau2019.read("tau2019", scenes)
        for name in corpus.clips["filename"]:
            audio.read(corpus.root / name, RATE, 2, 24_000)
    assert str(error.value) in {f"{scenes / finding.file} {finding.what}" for finding in findings}


@pytest.mark.parametrize("case", DOUBTFUL)
def test_what_is_said_and_used(case, scenes):
    change, file, message = DOUBTFUL[case]
    change(scenes)
    (finding,) = found(scenes)
    assert not finding.fatal and finding.file == file and re.search(message, finding.what)
    assert audio.read(clip(scenes), RATE, 2, 24_000).shape == (2, 24_000)


@pytest.mark.parametrize("case", HARMLESS)
def test_what_does_no_harm(case, scenes):
    HARMLESS[case](scenes)
    assert found(scenes) == []
    assert tau2019.read("tau2019", scenes).clips["split"].value_counts().to_dict() == {
        "train": 4,
        "test": 4,
        "unused": 2,
    }


def test_all_is_found_in_one_pass(scenes):
    cases = ("duplicate row", "labels that differ", "lists that differ", "mono", "no city")
    for case in cases:
        FATAL[case][0](scenes)
    findings = found(scenes)
    for _, file, message in (FATAL[case] for case in cases):
        assert any(
            finding.file == file and re.search(message, finding.what) for finding in findings
        )


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=300))
def test_no_bytes_break_the_table_reader(tmp_path_factory, raw):
    path = tmp_path_factory.mktemp("t") / "meta.csv"
    path.write_bytes(raw)
    table, problems = checks.table(path, ["filename", "scene_label"], "\t")
    assert table is not None or len(problems) == 1
    assert all("\n" not in problem for problem in problems)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200), st.integers(0, 60), st.sampled_from(["PCM_16", "PCM_24", "FLOAT"]))
def test_no_bytes_break_the_audio_reader(tmp_path_factory, raw, at, subtype):
    path = tmp_path_factory.mktemp("a") / "clip.wav"
    soundfile.write(path, np.full((50, 2), 0.25), RATE, subtype=subtype)
    whole = path.read_bytes()
    path.write_bytes(whole[:at] + raw + whole[at + len(raw) :])
    clip, rate, problems = audio.decoded(path)
    assert clip.dtype == np.int16 and (clip.size > 0) == (not problems)
    assert all("\n" not in problem for problem in problems)


@pytest.mark.parametrize(
    "subtype, tolerance", [("PCM_16", 0), ("PCM_24", 1), ("FLOAT", 1), ("DOUBLE", 1)]
)
def test_each_kind_of_sample_is_read_alike(tmp_path, subtype, tolerance):
    samples = np.random.default_rng(0).integers(-(2**15), 2**15, (500, 2)).astype("int16")
    soundfile.write(tmp_path / "c.wav", samples / 2**15, RATE, subtype=subtype)
    assert np.abs(audio.read(tmp_path / "c.wav", RATE).T.astype(int) - samples).max() <= tolerance

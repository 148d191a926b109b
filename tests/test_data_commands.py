"""`asc data`: one line for what is wrong, no traceback, an exit code."""

import json
import shutil

import numpy as np
import pytest
import soundfile
from typer.testing import CliRunner

from asc_lib import cli, corpora
from asc_lib.corpora import store


@pytest.fixture
def tau(small_mini, tmp_path, monkeypatch):
    """A corpus where TAU 2019 is expected, with clips of one second."""
    monkeypatch.setenv("ASC_DATA", str(tmp_path))
    return shutil.copytree(small_mini.root, tmp_path / "tau2019")


def asc(*words):
    done = CliRunner().invoke(cli.app, ["data", *map(str, words)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


def test_check_lists_everything_and_fails(tau):
    first, second, *_ = sorted((tau / "audio").iterdir())
    first.write_bytes(b"")
    second.rename(tau / "audio" / "stray.wav")
    code, out = asc("check", "tau2019")
    assert (
        code == 1
        and f"wrong  {first} is an empty file" in out
        and f"wrong  {second} is missing" in out
    )
    assert f"note   {tau / 'audio' / 'stray.wav'} is not in any table" in out
    assert "note   " in out and "meta.csv is partial: it has 190 rows, officially 14400" in out
    assert ["tau2019/meta.csv", "190", "14400"] in [line.split() for line in out.splitlines()]
    assert (
        out.splitlines()[-1].endswith("wrong, 4 to note (--all lists each)")
        and "each has … samples, expected 480000" in out
    )  # these clips are too short as well


def test_pack_and_info(tau):
    code, out = asc("pack", "tau2019")
    packed = store.pack(corpora.find("tau2019").scenes())
    assert code == 0 and f"190 clips of 1 s, 0.0365 GB, fingerprint {packed.fingerprint}" in out
    code, out = asc("info")
    (line,) = [line for line in out.splitlines() if "tau2019-store-" in line]
    index = json.loads((store.folder(corpora.find("tau2019").scenes()) / "index.json").read_text())
    assert code == 0 and line.split()[-1] == index["fingerprint"] and float(line.split()[1]) > 0.03
    assert any(line.split()[0] == "tau2019" for line in out.splitlines()[3:])


def test_info_of_an_unfinished_store(tau):
    clip = max((tau / "audio").iterdir())
    clip.write_bytes(clip.read_bytes()[:5000])
    code, out = asc("pack", "tau2019")
    assert (
        code == 1
        and out.startswith("asc data pack:")
        and clip.name in out
        and len(out.splitlines()) == 1
    )
    assert "(unfinished)" in asc("info")[1]


@pytest.mark.parametrize("command", ["check", "pack"])
@pytest.mark.parametrize(
    "name, message",
    [
        (
            "nowhere",
            "parameter 'data' is 'nowhere': choose one of",
        ),
        (
            "tau2019",
            "tau2019 is missing: `asc data fetch tau2019` downloads it, or unpack its archives "
            "there",
        ),
        ("mini", "/sys/no"),  # a folder that cannot be made
        ("esc50", "no ESC-50"),
    ],
)
def test_what_cannot_be_opened(command, name, message, tmp_path, monkeypatch):
    monkeypatch.delenv("ASC_ESC50", raising=False)
    monkeypatch.setenv("ASC_DATA", "/sys/no" if name == "mini" else str(tmp_path))
    code, out = asc(command, name)
    assert (
        code == 1
        and message in out
        and len(out.splitlines()) == 1
        and out.startswith(f"asc data {command}: ")
    )


def test_a_custom_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_DATA", str(tmp_path / "data"))
    root = tmp_path / "mine"
    root.mkdir()
    for k in range(36):
        soundfile.write(
            root / f"{k}.flac", 0.1 * np.random.default_rng(k).standard_normal(44_100), 44_100
        )
    (root / "clips.csv").write_text(
        "filename,label\n" + "".join(f"{k}.flac,{'ab'[k % 2]}\n" for k in range(36))
    )
    code, out = asc("check", root)
    assert code == 0 and "36 files, the first 0.flac: each is resampled from 44100 Hz" in out
    assert "36 clips of 1 s from recordings of 44.1 kHz (36)" in out and "0 wrong" in out
    assert out.splitlines()[-1] == f"next: asc sweep first --data {root}"
    total = out.splitlines()[3].split()  # clips and places in all, in train, in test; minutes
    assert total == ["all", "36", "36", "28", "28", "8", "8", "0.6"]
    assert asc("check", root, "--all")[1].count("is resampled from 44100 Hz") == 36
    assert not (root / "split.csv").exists()
    code, out = asc("split", root)
    assert code == 0 and (root / "split.csv").is_file()
    code, out = asc("split", root)
    assert code == 1 and "split.csv has a split already: it is used" in out
    code, out = asc("pack", root)
    assert code == 0 and "36 clips of 1 s" in out


def test_a_data_set_without_scenes(tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_DATA", str(tmp_path))
    code, out = asc("pack", "fsdkaggle2019")
    what = "parameter 'data' is 'fsdkaggle2019': choose one of esc50, mini, tau2019, the path of"
    assert code == 1 and out.startswith(f"asc data pack: {what}") and len(out.splitlines()) == 1

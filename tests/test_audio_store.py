"""Reading, pre-emphasis, mel spectrograms, the packed store, against independent calculations."""

import io
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import librosa
import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from asc_lib import corpora, files
from asc_lib.corpora import audio, store
from asc_lib.front_ends import pre_emphasis
from asc_lib.recipes import TaggerSizes
from asc_lib.tagging_net import MelSpectrogram, standardised_decibels


def test_pre_emphasis_is_the_filter_of_the_paper():
    x = np.random.default_rng(0).uniform(-1, 1, (2, 5000)).astype("float32")
    expected = 32_000 * scipy.signal.lfilter([1, -0.97], [1], x)[:, 1:]
    assert np.allclose(pre_emphasis(torch.from_numpy(x)), expected, atol=0.02)
    as_int16 = torch.from_numpy((x * 2**15).astype("int16"))
    assert np.allclose(pre_emphasis(as_int16), expected, atol=3)
    assert pre_emphasis(torch.zeros(2, 480_000)).shape == (2, 479_999)


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100, 47_999, 96_000])
@pytest.mark.parametrize("shape", [(1,), (3,), (44_101,), (2, 9_999)])
def test_samples_are_resampled_as_by_librosa(shape, rate):
    x = np.random.default_rng(0).uniform(-1, 1, shape).astype("float32")
    expected = librosa.resample(x, orig_sr=rate, target_sr=48_000)
    assert np.array_equal(audio.resampled(x, rate, 48_000), expected)
    assert audio.resampled(x, rate, rate) is x


def test_mel_spectrogram_is_librosas():
    x = np.random.default_rng(1).standard_normal(44_100).astype("float32")
    ours = MelSpectrogram(TaggerSizes())(torch.from_numpy(x)).numpy()
    options = dict(
        sr=44_100, n_fft=2560, hop_length=347, n_mels=128, fmin=20, fmax=22_050, pad_mode="reflect"
    )
    assert np.allclose(ours, librosa.feature.melspectrogram(y=x, **options), rtol=1e-3, atol=1e-6)


def test_standardised_decibels():
    mel = torch.rand(3, 64, 50) + 1e-3
    image = standardised_decibels(mel)
    assert torch.allclose(image.mean((1, 2)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(image.std((1, 2)), torch.ones(3), atol=1e-4)
    expected = 10 * np.log10(mel[0].numpy())
    assert np.allclose(image[0], (expected - expected.mean()) / expected.std(ddof=1), atol=1e-4)
    assert torch.isfinite(standardised_decibels(torch.zeros(1, 8, 8))).all()


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda p: None, "is missing"),
        (lambda p: p.write_text("no sound"), "cannot be read as audio"),
        (lambda p: p.write_bytes(b""), r"is an empty file \(0 bytes\)"),
        (
            lambda p: soundfile.write(p, np.zeros((10, 2)), 44_100),
            "has a sample rate of 44100 Hz, expected 48000",
        ),
        (lambda p: soundfile.write(p, np.zeros(10), 48_000), r"has 1 channel\(s\), expected 2"),
        (lambda p: soundfile.write(p, np.zeros((10, 2)), 48_000), "has 10 samples, expected 48000"),
    ],
)
def test_unfit_audio_is_named(tmp_path, write, message):
    path = tmp_path / "clip.wav"
    write(path)
    with pytest.raises(audio.AudioError, match=f"clip.wav.*{message}"):
        audio.read(path, 48_000, 2, 48_000)


def test_the_store_holds_the_upper_16_bits(small_mini, tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_DATA", str(tmp_path))
    packed = store.pack(small_mini)
    raw, _ = soundfile.read(small_mini.root / small_mini.clips["filename"][3], dtype="int32")
    assert np.array_equal(packed.waveforms[3], (raw >> 16).astype("int16").T)
    assert packed.samples == 48_000 and len(packed.waveforms) == len(small_mini.clips)
    assert store.pack(small_mini).fingerprint == packed.fingerprint


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 900)), min_size=1, max_size=8),
    st.integers(1, 100),
)
def test_a_batch_is_its_excerpts(picks, length):
    waveforms = np.random.default_rng(0).integers(-9, 9, (10, 2, 1000)).astype("int16")
    rows, starts = np.array(picks).T
    batch = store.Store(waveforms, "").batch(rows, starts, length)
    assert batch.shape == (len(picks), 2, length)
    for excerpt, (row, start) in zip(batch, picks):
        assert np.array_equal(excerpt, waveforms[row, :, start : start + length])


def test_a_copy_of_the_store_gives_the_same_batches(small_mini, tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_DATA", str(tmp_path))
    packed = store.pack(small_mini)
    rows, starts = np.array([5, 0, 189]), np.array([7, 0, 40_000])
    copied = packed.copied("cpu")
    assert torch.is_tensor(copied.waveforms) and packed.nearest("cpu") is packed
    assert torch.equal(copied.batch(rows, starts, 8_000), packed.batch(rows, starts, 8_000))


@pytest.mark.parametrize("fits", [True, False])
def test_the_store_goes_to_a_gpu_where_it_fits(fits, small_mini, tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_DATA", str(tmp_path))
    packed = store.pack(small_mini)
    free = 2 * packed.waveforms.nbytes - (not fits)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (free, 8 * free))
    monkeypatch.setattr(store.Store, "copied", lambda self, device: f"on {device}")
    assert packed.nearest("cuda:1") == ("on cuda:1" if fits else packed)


PACKING = """
from pathlib import Path
from asc_lib.corpora import store
from asc_lib.corpora import tau2019
print(store.pack(tau2019.read("mini", Path("{}"))).fingerprint)
"""


def packing(root, data):
    command = [sys.executable, "-c", PACKING.format(root)]
    return subprocess.Popen(
        command, env=os.environ | {"ASC_DATA": str(data)}, stdout=subprocess.PIPE, text=True
    )


def test_two_pack_at_once(small_mini, tmp_path):
    both = [packing(small_mini.root, tmp_path) for _ in range(2)]
    first, second = (process.communicate()[0] for process in both)
    assert first == second != "" and not any(process.returncode for process in both)
    assert len(list((tmp_path / "made").glob("mini-store-*"))) == 1


def test_a_packing_that_stopped_goes_on(small_mini, tmp_path, monkeypatch):
    """A clip that cannot be read stops it; what was packed before is not read again."""
    root = shutil.copytree(small_mini.root, tmp_path / "scenes")
    corpus, seen = replace(small_mini, root=root), []
    monkeypatch.setenv("ASC_DATA", str(tmp_path / "data"))
    broken = root / corpus.clips["filename"][100]
    whole = broken.read_bytes()
    broken.write_bytes(whole[:1000])
    with pytest.raises(audio.AudioError, match=broken.name):
        store.pack(corpus)
    broken.write_bytes(whole)
    read = audio.read
    monkeypatch.setattr(audio, "read", lambda path, *rest: seen.append(path) or read(path, *rest))
    packed = store.pack(corpus)
    assert len(seen) == 190 - 64 + 1  # and the first, whose length all others must have
    assert not list((tmp_path / "data" / "made").glob("*/.*.unfinished"))
    monkeypatch.setenv("ASC_DATA", str(tmp_path / "other"))
    assert store.pack(corpus).fingerprint == packed.fingerprint


def test_a_damaged_store_is_refused(small_mini, tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_DATA", str(tmp_path))
    packed = store.verify(small_mini)
    file = store.folder(small_mini) / "waveforms.npy"
    with open(file, "rb+") as raw:
        raw.seek(-3, 2)
        byte = raw.read(1)
        raw.seek(-3, 2)
        raw.write(bytes([byte[0] ^ 1]))
    first = small_mini.clips["filename"].iloc[-1]
    remedy = "delete it to have it packed again"
    where = rf"is damaged \(first at \['{first}'\]\): {remedy}"
    with pytest.raises(corpora.CorpusError, match=where):
        store.verify(small_mini)
    os.truncate(file, 1_000_000)
    with pytest.raises(corpora.CorpusError, match=f"is damaged .*: {remedy}"):
        store.pack(small_mini)
    shutil.rmtree(file.parent)
    assert store.pack(small_mini).fingerprint == packed.fingerprint
    (file.parent / "index.json").write_text("{")
    with pytest.raises(corpora.CorpusError, match="is damaged"):
        store.pack(small_mini)


def test_a_full_disk_leaves_nothing(small_mini, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setenv("ASC_DATA", str(tmp_path))
    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(
        OSError, match="No space left on device: 0.0365 GB are needed for waveforms.npy"
    ):
        store.pack(small_mini)
    assert {path.suffix for path in (tmp_path / "made").rglob("*") if path.is_file()} <= {".lock"}


def test_a_filled_array_is_what_was_filled_in(tmp_path):
    calls = []

    def fill(put, items):
        calls.append(items.tolist())
        if len(calls) == 2:
            raise KeyboardInterrupt
        put(items[0], np.repeat(items[:, None], 3, 1))

    with pytest.raises(KeyboardInterrupt):
        files.filled(tmp_path / "a.npy", (5, 3), "int16", fill, 5, 2)
    array = files.filled(tmp_path / "a.npy", (5, 3), "int16", fill, 5, 2)
    assert calls == [[0, 1], [2, 3], [2, 3], [4]] and array.tolist() == [[k] * 3 for k in range(5)]
    assert (
        files.filled(tmp_path / "a.npy", (5, 3), "int16", fill, 5, 2).shape == (5, 3)
        and len(calls) == 4
    )
    assert not [path for path in tmp_path.iterdir() if path.suffix in (".unfinished", ".filled")]
    with pytest.raises(
        ValueError, match=r"a.npy is damaged \(it has the shape \(5, 3\), not \(5, 4\)\): delete it"
    ):
        files.filled(tmp_path / "a.npy", (5, 4), "int16", fill, 5, 2)
    os.truncate(tmp_path / "a.npy", 140)
    with pytest.raises(ValueError, match="a.npy is damaged .*: delete it to have it made again"):
        files.filled(tmp_path / "a.npy", (5, 3), "int16", fill, 5, 2)


def test_a_failed_write_leaves_nothing(tmp_path):
    target = tmp_path / "made" / "x.bin"
    with pytest.raises(RuntimeError), files.written_whole(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert os.listdir(target.parent) == []


def test_a_file_does_not_replace_a_folder(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a").write_text("a")
    with pytest.raises(IsADirectoryError), files.written_whole(tmp_path / "kept") as temporary:
        temporary.write_text("new")
    assert [path.name for path in tmp_path.rglob("*")] == ["kept", "a"]


def test_a_thing_is_made_once(tmp_path):
    calls = []

    def make(path):
        calls.append(path)
        path.mkdir()
        (path / "a").write_text("a")

    for _ in range(2):
        assert (files.made_once(tmp_path / "thing", make) / "a").read_text() == "a"
    assert len(calls) == 1


def test_fingerprints_tell_parts_apart():
    assert files.fingerprint("ab", "c") != files.fingerprint("a", "bc")
    assert files.fingerprint(b"x") == files.fingerprint(b"x") and len(files.fingerprint(1)) == 12


@pytest.mark.parametrize("seen", [True, False])
def test_a_wait_says_how_far_it_is_in_a_notebook_and_nothing_in_a_pipe(monkeypatch, capsys, seen):
    monkeypatch.setattr(files, "SOON", 0)
    if seen:
        kind = type("OutStream", (io.StringIO,), {"__module__": "ipykernel.iostream"})
        monkeypatch.setattr(sys, "stdout", kind())
    assert list(files.progress(range(3), "packing")) == [0, 1, 2]
    out = sys.stdout.getvalue() if seen else "".join(capsys.readouterr())
    assert ("packing" in out and "0/3" in out) == seen and (seen or not out)


def test_without_a_way_to_reserve_space_a_store_is_the_same(tmp_path, monkeypatch):
    monkeypatch.delattr(files.os, "posix_fallocate")  # as on macOS
    array = files.filled(
        tmp_path / "a.npy", (5,), "int16", lambda put, rows: put(rows[0], rows + 1), 5, 2
    )
    assert array.tolist() == [1, 2, 3, 4, 5]

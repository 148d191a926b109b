"""Reading, pre-emphasis, mel spectrograms and the packed store, against independent calculations."""

import os

import librosa
import numpy as np
import pytest
import scipy.signal
import soundfile
import torch
from hypothesis import given
from hypothesis import strategies as st

from asc_lib import artefacts, audio, store


def test_pre_emphasis_is_the_filter_of_the_paper():
    x = np.random.default_rng(0).uniform(-1, 1, (2, 5000)).astype("float32")
    expected = 32_000 * scipy.signal.lfilter([1, -0.97], [1], x)[:, 1:]
    assert np.allclose(audio.pre_emphasis(torch.from_numpy(x)), expected, atol=0.02)
    as_int16 = torch.from_numpy((x * 2**15).astype("int16"))
    assert np.allclose(audio.pre_emphasis(as_int16), expected, atol=3)
    assert audio.pre_emphasis(torch.zeros(2, 480_000)).shape == (2, 479_999)


def test_mel_spectrogram_is_librosas():
    x = np.random.default_rng(1).standard_normal(44_100).astype("float32")
    ours = audio.MelSpectrogram()(torch.from_numpy(x)).numpy()
    options = dict(sr=44_100, n_fft=2560, hop_length=347, n_mels=128, fmin=20, fmax=22_050, pad_mode="reflect")
    assert np.allclose(ours, librosa.feature.melspectrogram(y=x, **options), rtol=1e-3, atol=1e-6)


def test_standardised_decibels():
    mel = torch.rand(3, 64, 50) + 1e-3
    image = audio.standardised_decibels(mel)
    assert torch.allclose(image.mean((1, 2)), torch.zeros(3), atol=1e-5)
    assert torch.allclose(image.std((1, 2)), torch.ones(3), atol=1e-4)
    expected = 10 * np.log10(mel[0].numpy())
    assert np.allclose(image[0], (expected - expected.mean()) / expected.std(ddof=1), atol=1e-4)
    assert torch.isfinite(audio.standardised_decibels(torch.zeros(1, 8, 8))).all()


@pytest.mark.parametrize(
    "write, message",
    [
        (lambda p: None, "is missing"),
        (lambda p: p.write_text("no sound"), "cannot be read as audio"),
        (lambda p: p.write_bytes(b""), "cannot be read as audio"),
        (lambda p: soundfile.write(p, np.zeros((10, 2)), 44_100), r"sample rate \(Hz\) is 44100, expected 48000"),
        (lambda p: soundfile.write(p, np.zeros(10), 48_000), "number of channels is 1, expected 2"),
        (lambda p: soundfile.write(p, np.zeros((10, 2)), 48_000), r"length \(samples\) is 10, expected 48000"),
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


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 900)), min_size=1, max_size=8), st.integers(1, 100))
def test_a_batch_is_its_excerpts(picks, length):
    waveforms = np.random.default_rng(0).integers(-9, 9, (10, 2, 1000)).astype("int16")
    rows, starts = np.array(picks).T
    batch = store.Store(waveforms, "").batch(rows, starts, length)
    assert batch.shape == (len(picks), 2, length)
    for excerpt, (row, start) in zip(batch, picks):
        assert np.array_equal(excerpt, waveforms[row, :, start : start + length])


def test_a_failed_write_leaves_nothing(tmp_path):
    target = tmp_path / "made" / "x.bin"
    with pytest.raises(RuntimeError), artefacts.written_whole(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert os.listdir(target.parent) == []


def test_an_artefact_is_made_once(tmp_path):
    calls = []

    def make(path):
        calls.append(path)
        path.mkdir()
        (path / "a").write_text("a")

    for _ in range(2):
        assert (artefacts.made_once(tmp_path / "thing", make) / "a").read_text() == "a"
    assert len(calls) == 1


def test_fingerprints_tell_parts_apart():
    assert artefacts.fingerprint("ab", "c") != artefacts.fingerprint("a", "bc")
    assert artefacts.fingerprint(b"x") == artefacts.fingerprint(b"x") and len(artefacts.fingerprint(1)) == 12

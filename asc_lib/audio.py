"""Read and check one clip; pre-emphasis; log-mel spectrograms."""

from pathlib import Path

import numpy as np
import soundfile
import torch
import torchaudio

PRE_EMPHASIS, WAVEFORM_SCALE = 0.97, 32_000.0


class AudioError(ValueError):
    """An audio file that cannot serve; the message names it and what is wrong."""


def read(path: Path, rate: int, channels: int | None = None, samples: int | None = None) -> np.ndarray:
    """Read a clip as int16 [channels, samples]; of 24-bit files the upper 16 bits are kept.

    Raises AudioError where the file cannot be read, is empty, or is not of the rate (Hz), the number of channels or
    the length (samples) asked for.
    """
    if not Path(path).is_file():
        raise AudioError(f"{path} is missing")
    try:
        clip, found = soundfile.read(path, dtype="int16", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise AudioError(f"{path} cannot be read as audio: {error.error_string}") from None
    wrong = {
        "sample rate (Hz)": (found, rate),
        "number of channels": (clip.shape[1], channels),
        "length (samples)": (clip.shape[0], samples),
    }
    for what, (is_, wanted) in wrong.items():
        if wanted is not None and is_ != wanted:
            raise AudioError(f"{path}: {what} is {is_}, expected {wanted}")
    if not len(clip):
        raise AudioError(f"{path} holds no sample")
    return clip.T


def preview(clip: np.ndarray, rate: int, seconds: float = 2.0, at: int = 8_000) -> dict[str, object]:
    """The start of a clip [channels, samples], mono and at a low rate (Hz): arguments of ``IPython.display.Audio``."""
    mono = torch.from_numpy(np.asarray(clip, "float32").mean(0)[: int(seconds * rate)])
    return {"data": torchaudio.functional.resample(mono, rate, at).numpy(), "rate": at}


def pre_emphasis(waveform: torch.Tensor) -> torch.Tensor:
    """y[t] = 32000 (x[t+1] - 0.97 x[t]) along the last axis (Section 4.2; the scale is the released system's).

    ``waveform``: [..., T], int16 or float within ±1; returns float32 [..., T - 1].
    """
    if waveform.dtype == torch.int16:
        waveform = waveform.float() / 2**15
    return WAVEFORM_SCALE * torchaudio.functional.preemphasis(waveform, PRE_EMPHASIS)[..., 1:]


class MelSpectrogram(torch.nn.Module):
    """Linear mel power spectrogram of mono audio at 44.1 kHz: [..., T] to [..., bands, frames] (Section 4.2)."""

    rate = 44_100

    def __init__(self, bands: int = 128, n_fft: int = 2560, hop: int = 347, low: float = 20.0, high: float = 22_050.0):
        super().__init__()
        self.mel = torchaudio.transforms.MelSpectrogram(
            self.rate, n_fft, hop_length=hop, f_min=low, f_max=high, n_mels=bands, mel_scale="slaney", norm="slaney"
        )

    def forward(self, waveform: torch.Tensor) -> torch.Tensor:
        return self.mel(waveform)


def standardised_decibels(mel: torch.Tensor) -> torch.Tensor:
    """dB of a linear mel spectrogram [..., bands, frames], then mean 0 and deviation 1 over each clip's image."""
    decibels = torchaudio.functional.amplitude_to_DB(mel, multiplier=10.0, amin=1e-10, db_multiplier=0.0, top_db=None)
    mean, deviation = (f(decibels, dim=(-2, -1), keepdim=True) for f in (torch.mean, torch.std))
    return (decibels - mean) / (deviation + 1e-6)

"""Read and check one clip; pre-emphasis; log-mel spectrograms."""

import wave
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import librosa
import numpy as np
import soundfile
import torch
import torchaudio

PRE_EMPHASIS, WAVEFORM_SCALE = 0.97, 32_000.0
SHORTEST = 1.0  # s
MISSING = "is missing: unpack its archive there"
NOT_NUMBERS = "holds {} values that are not numbers (NaN or infinite)"


LONGEST = 2**48  # frames; more is what libsndfile says where it does not know
UNREADABLE = (soundfile.LibsndfileError, TypeError)  # the second: samples without a header, of unknown rate


class AudioError(ValueError):
    """An audio file that cannot serve; the message names it and what is wrong."""


def unreadable(error: Exception) -> str:
    """What is said of a file that soundfile cannot open or read."""
    if isinstance(error, TypeError):
        return "is raw samples without a header: convert it, for example to WAV"
    return f"cannot be read as audio: {error.error_string}"


def read(path: Path, rate: int, channels: int | None = None, samples: int | None = None) -> np.ndarray:
    """Read a clip as int16 [channels, samples].

    Of 24-bit files the upper 16 bits are kept (rounded down, without dither: the error, at most one step, lies 90 dB
    below full scale); values of floating-point files beyond ±1 are clipped. Raises AudioError, naming the file, where
    it cannot be read, holds nothing or values that are not numbers, or is not of the rate (Hz), the number of channels
    or the length (samples) asked for.
    """
    clip, found, problems = decoded(path)
    if not problems:
        problems = unlike(clip, found, rate, channels, samples)
    if problems:
        raise AudioError(f"{path} {problems[0]}")
    return clip


def decoded(path: Path) -> tuple[np.ndarray, int, list[str]]:
    """A file as int16 [channels, samples], its rate (Hz), and why it cannot serve, if so (then the clip is empty)."""
    nothing = np.zeros((0, 0), "int16")
    if not Path(path).is_file():
        return nothing, 0, [MISSING]
    if not Path(path).stat().st_size:
        return nothing, 0, ["is an empty file (0 bytes): copy or unpack it again"]
    if (quick := _upper_16_bits(path)) is not None:
        return *quick, []
    try:
        with soundfile.SoundFile(path) as file:
            rate, (clip, wrong) = file.samplerate, _samples(file)
    except UNREADABLE as error:
        return nothing, 0, [unreadable(error)]
    if not clip.size:
        return nothing, rate, ["holds no sample"]
    if wrong:
        return nothing, rate, [NOT_NUMBERS.format(wrong)]
    return clip, rate, []


def _samples(file: soundfile.SoundFile, frames: int = -1) -> tuple[np.ndarray, int]:
    """The next ``frames`` of a file as int16 [channels, frames], and how many of its values are not numbers."""
    if file.subtype not in ("FLOAT", "DOUBLE", "VORBIS", "OPUS"):  # of these libsndfile's integers cut or wrap around
        return file.read(frames, "int16", always_2d=True).T, 0
    clip = file.read(frames, "float32", always_2d=True).T
    wrong = int(np.sum(~np.isfinite(clip)))
    clip = np.nan_to_num(clip, posinf=1, neginf=-1)
    return np.round(clip * 2.0**15).clip(-(2**15), 2**15 - 1).astype("int16"), wrong


def _upper_16_bits(path: Path) -> tuple[np.ndarray, int] | None:
    """A 24-bit WAV file as ``decoded`` gives it, in a fifth of the time, and its rate; None for any other file."""
    try:
        with wave.open(str(path)) as file:
            if file.getsampwidth() != 3:
                return None
            rate, channels, raw = file.getframerate(), file.getnchannels(), file.readframes(file.getnframes())
    except (wave.Error, EOFError, RuntimeError, OSError):
        return None
    step = 3 * channels
    clip = np.empty((channels, len(raw) // step), "int16")
    if not clip.size:
        return None
    for channel in range(channels):
        clip[channel] = np.ndarray(clip.shape[1:], "<i2", raw, 3 * channel + 1, (step,))
    return clip, rate


def unlike(clip: np.ndarray, found: int, rate: int, channels: int | None, samples: int | None) -> list[str]:
    """In what a clip [channels, samples] at the rate ``found`` differs from what is asked for."""
    pairs = {
        "a sample rate of {} Hz": (found, rate),
        "{} channel(s)": (clip.shape[0], channels),
        "{} samples": (clip.shape[1], samples),
    }
    return [
        f"has {what.format(is_)}, expected {wanted}"
        for what, (is_, wanted) in pairs.items()
        if wanted is not None and is_ != wanted
    ]


def usual_length(lengths: list[tuple[int, int]], rate: int) -> int:
    """The most common length of clips of one's own, in samples at ``rate`` (Hz); ``lengths``: samples and rate of each.

    Raises AudioError where it is under a second, too little for the networks.
    """
    seconds = Counter(samples / found for samples, found in lengths)
    usual = max(seconds, key=lambda length: (seconds[length], length), default=0.0)
    if usual < SHORTEST:
        raise AudioError(f"the usual length of these clips is {usual:g} s: at least {SHORTEST:g} s are needed")
    return round(usual * rate)


def length(path: Path) -> tuple[int, int]:
    """Samples and rate (Hz) that an audio file claims to hold. Raises AudioError, naming the file."""
    try:
        about = soundfile.info(path)
    except UNREADABLE as error:
        what = decoded(path)[2] or [unreadable(error)]
        raise AudioError(f"{path} {what[0]}") from None
    if about.frames > LONGEST:
        raise AudioError(f"{path} does not say how long it is: convert it, for example to WAV")
    return about.frames, about.samplerate


def converted(path: Path, rate: int, channels: int, samples: int) -> np.ndarray:
    """Read a clip of any rate and length as int16 [channels, samples]: for data sets of one's own.

    It is resampled to ``rate`` (Hz); one channel becomes several alike; a longer clip is cut after ``samples``, a
    shorter one is repeated. Raises AudioError as ``read`` does, and where it has another number of channels.
    """
    clip, found, problems = decoded(path)
    if not problems and clip.shape[0] not in (1, channels):
        problems = [too_many(len(clip), channels)]
    if problems:
        raise AudioError(f"{path} {problems[0]}")
    clip = _resampled(clip, found, rate)
    clip = np.tile(clip, (channels // len(clip), -(-samples // clip.shape[1])))
    return clip[:, :samples]


def _resampled(clip: np.ndarray, found: int, rate: int) -> np.ndarray:
    if found == rate:
        return clip
    wave = librosa.resample(clip.astype("float32"), orig_sr=found, target_sr=rate)
    return wave.round().clip(-(2**15), 2**15 - 1).astype("int16")


def too_many(is_: int, wanted: int) -> str:
    """What is said of a clip whose number of channels cannot be converted."""
    return f"has {is_} channels: mix it down to {wanted} or 1 first"


def conversions(shape: tuple[int, int], found: int, rate: int, channels: int, samples: int) -> list[str]:
    """What ``converted`` does to a clip of this shape [channels, samples] at the rate ``found`` (Hz), in words."""
    done = [f"is resampled from {found} Hz to {rate} Hz"] if found != rate else []
    done += [f"is mono: its channel is used {channels} times"] if shape[0] == 1 else []
    seconds, usual = shape[1] / found, samples / rate
    if abs(seconds - usual) * rate >= 1:
        done.append(f"is {seconds:g} s long: {'cut' if seconds > usual else 'repeated'} to {usual:g} s")
    return done


@dataclass(frozen=True)
class Recording:
    """A recording of any rate, number of channels and length, read in windows of ``samples`` at ``to`` (Hz)."""

    path: Path
    frames: int
    rate: int  # Hz
    channels: int
    to: int
    samples: int

    @classmethod
    def open(cls, path: Path | str, to: int, samples: int) -> "Recording":
        """Raises AudioError, naming the file, where it cannot be read, is empty or is shorter than a second."""
        path = Path(path)
        if not path.is_file():
            raise AudioError(f"{path} is missing" if not path.exists() else f"{path} is not a file")
        if not _is_text(path):
            raise AudioError(f"{ascii(str(path))} has a name that is not UTF-8: rename it")
        frames, rate = length(path)
        if not frames:
            raise AudioError(f"{path} holds no sample")
        if frames / rate < SHORTEST:
            raise AudioError(f"{path} is {frames / rate:.3g} s long: at least {SHORTEST:g} s are needed")
        return cls(path, frames, rate, soundfile.info(path).channels, to, samples)

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.frames / self.rate

    @property
    def conversions(self) -> list[str]:
        """What is done to it, in words."""
        done = [f"is resampled from {self.rate} Hz to {self.to} Hz"] if self.rate != self.to else []
        if self.channels != 2:
            one = "its channel" if self.channels == 1 else f"the mean of its {self.channels} channels"
            done.append(f"is {'mono' if self.channels == 1 else 'not stereo'}: {one} is used twice")
        window = self.samples / self.to
        if self.seconds < window:
            done.append(f"is {self.seconds:.3g} s long: repeated to {window:g} s")
        if len(self.starts) > 1:
            done.append(f"is {self.seconds:.4g} s long: cut into {len(self.starts)} windows of {window:g} s")
        rest = self.frames - self.starts[-1] - self._frames
        if rest > 0 and rest / self.rate * self.to >= 1:
            done.append(f"goes on for {rest / self.rate:.3g} s after the last window: these are left out")
        return done

    @property
    def _frames(self) -> int:
        return -(-self.samples * self.rate // self.to)

    @cached_property
    def starts(self) -> list[int]:
        """First frame of every window. A rest of a second or more gets one, which reaches back into the one before."""
        starts = list(range(0, self.frames - self._frames + 1, self._frames)) or [0]
        rest = self.frames - starts[-1] - self._frames
        return [*starts, self.frames - self._frames] if rest >= SHORTEST * self.rate else starts

    def windows(self) -> Iterator[np.ndarray]:
        """Each window as int16 [2, samples]. Raises AudioError, naming the file, for values that are not numbers."""
        return map(self.window, range(len(self.starts)))

    def window(self, number: int) -> np.ndarray:
        """One of them."""
        start = self.starts[number]
        lead = min(start, self.rate // 2)  # after a jump, decoders of compressed audio need a while to be exact
        try:
            with soundfile.SoundFile(self.path) as file:
                if start > lead:
                    file.seek(start - lead)
                clip, wrong = _samples(file, lead + self._frames)
        except UNREADABLE as error:
            raise AudioError(f"{self.path} {unreadable(error)}") from None
        if wrong:
            raise AudioError(f"{self.path} {NOT_NUMBERS.format(wrong)} after {start / self.rate:.4g} s")
        end = start - lead + clip.shape[1]
        if end < min(start + self._frames, self.frames) - self.rate // 10:  # of compressed audio the end may be a guess
            raise AudioError(f"{self.path} ends after {end / self.rate:.4g} s, sooner than it says: copy it again")
        return self._converted(clip[:, lead:])

    def _converted(self, clip: np.ndarray) -> np.ndarray:
        if len(clip) != 2:
            clip = np.tile(clip.mean(0).round().astype("int16"), (2, 1))
        clip = _resampled(clip, self.rate, self.to)
        return np.tile(clip, (1, -(-self.samples // clip.shape[1])))[:, : self.samples]


def _is_text(path: Path) -> bool:
    try:
        return bool(str(path).encode())
    except UnicodeEncodeError:
        return False


def doubtful(clip: np.ndarray) -> list[str]:
    """What makes a readable clip doubtful: silence, or more than one sample in a thousand at full scale."""
    if not clip.any():
        return ["is silent: every sample is 0"]
    share = float(np.mean((clip == 2**15 - 1) | (clip == -(2**15))))
    return [f"is clipped: {100 * share:.1f} % of its samples are at full scale"] if share > 1e-3 else []


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

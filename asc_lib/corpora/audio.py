"""Read, check and convert audio files."""

import contextlib
import glob
import math
import wave
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median_low

import numpy as np
import soundfile
import soxr

from ..files import printable
from ..recipes import RATE

CHANNELS = 2
SHORTEST = 1.0  # s
LOWEST_RATE = 2_000  # Hz
MISSING = "is missing: unpack its archive there"
NOT_NUMBERS = "holds {} values that are not numbers (NaN or infinite)"
TOO_LOW = f"has a sample rate of {{}} Hz: at least {LOWEST_RATE} Hz are needed"
MANY = 2**48  # frames; libsndfile reports more where it does not know
BLOCK = 2**22  # frames
UNREADABLE = (soundfile.LibsndfileError, TypeError)  # TypeError: samples without a header


class AudioError(ValueError):
    """An unusable audio file; the message names it and what is wrong."""


def unreadable(error: Exception) -> str:
    return (
        "is raw samples without a header: convert it, for example to WAV"
        if isinstance(error, TypeError)
        else f"cannot be read as audio: {error.error_string}"
    )


def read(
    path: Path, rate: int, channels: int | None = None, samples: int | None = None
) -> np.ndarray:
    """Read a clip as int16 [channels, samples].

    Of 24-bit files the upper 16 bits are kept (rounded down, without dither: the error, at most one
    step, lies 90 dB below full scale); values of floating-point files beyond ±1 are clipped. Raises
    AudioError, naming the file, where it cannot be read, holds no samples or values that are not
    numbers, or has another rate (Hz), number of channels or length (samples) than asked for. A
    length that is wrong by 10 ms or less is mended (``fitted``).
    """
    clip, own_rate, problems = decoded(path)
    problems = problems or mismatches(clip, own_rate, rate, channels, samples)
    if problems:
        raise AudioError(f"{path} {problems[0]}")
    return fitted(clip, samples)


def decoded(path: Path) -> tuple[np.ndarray, int, list[str]]:
    """A file as int16 [channels, samples], its rate (Hz), and why it is unusable, if it is.

    The clip of an unusable file is empty.
    """
    nothing = np.zeros((0, 0), "int16")
    path = Path(path)
    if not path.is_file():
        return nothing, 0, [MISSING]
    if not path.stat().st_size:
        return nothing, 0, ["is an empty file (0 bytes): copy or unpack it again"]
    try:
        info = soundfile.info(path)
        stated = _stated(path, info)
        rate = info.samplerate
        clip = _upper_16_bits(path, info)
        wrong = 0
        if clip is None:
            with soundfile.SoundFile(path) as file:
                clip, wrong = _samples(file)
    except UNREADABLE as error:
        return nothing, 0, [unreadable(error)]
    frames = clip.shape[1]
    problems = {
        TOO_LOW.format(rate): rate < LOWEST_RATE,
        "holds no sample": not frames,
        NOT_NUMBERS.format(wrong): wrong,
        f"ends after {frames / rate:.4g} s, but its header says {stated / rate:.4g} s: copy it "
        "again": frames < stated - rate // 10,
    }
    found = [what for what, applies in problems.items() if applies]
    return (nothing if found else clip), rate, found


# The next ``frames`` as int16 [channels, frames], and how many values are not numbers. In blocks,
# since some formats do not say how long they are, and others cannot seek.
def _samples(file: soundfile.SoundFile, frames: int = MANY) -> tuple[np.ndarray, int]:
    # From the formats that hold floats libsndfile's own integers would be cut off or wrap around.
    kind = "float32" if file.subtype in ("FLOAT", "DOUBLE", "VORBIS", "OPUS") else "int16"
    blocks = [np.zeros((0, file.channels), kind)]
    while frames > 0:
        blocks.append(file.read(min(frames, BLOCK), kind, always_2d=True))
        frames = frames - BLOCK if len(blocks[-1]) == min(frames, BLOCK) else 0
    clip = np.concatenate(blocks).T
    if kind == "int16":
        return clip, 0
    wrong = int(np.sum(~np.isfinite(clip)))
    clip = np.nan_to_num(clip, posinf=1, neginf=-1)
    return np.round(clip * 2.0**15).clip(-(2**15), 2**15 - 1).astype("int16"), wrong


# Frames by the header; 0 where it does not know. libsndfile corrects those of a WAV file that was
# cut short.
def _stated(path: Path, info: soundfile._SoundFileInfo) -> int:
    with (
        contextlib.suppress(wave.Error, EOFError, RuntimeError, OSError),
        wave.open(str(path)) as file,
    ):
        size = file.getnframes() * file.getsampwidth() * file.getnchannels()
        if path.stat().st_size < size < 2**32 - 2**8:  # more means unknown
            return file.getnframes()
    return info.frames if info.frames < MANY else 0


# A 24-bit WAV file in a fifth of the time; None for any other file, and for one whose header means
# something else to libsndfile.
def _upper_16_bits(path: Path, info: soundfile._SoundFileInfo) -> np.ndarray | None:
    if (info.format, info.subtype) != ("WAV", "PCM_24"):
        return None
    try:
        with wave.open(str(path)) as file:
            header = file.getparams()
            raw = file.readframes(header.nframes)
    except (wave.Error, EOFError, RuntimeError, OSError):
        return None
    step = 3 * header.nchannels
    read = (len(raw) / step, header.nchannels, header.framerate, header.sampwidth)
    if not raw or read != (info.frames, info.channels, info.samplerate, 3):
        return None
    return np.ndarray(
        (header.nchannels, info.frames), "<i2", raw, offset=1, strides=(3, step)
    ).astype("int16", order="C")


def mismatches(
    clip: np.ndarray, own_rate: int, rate: int, channels: int | None, samples: int | None
) -> list[str]:
    """How a clip [channels, samples] at ``own_rate`` differs from what is asked for (None: any)."""
    return [
        f"has {what}, expected {wanted}"
        for what, actual, wanted in (
            (f"a sample rate of {own_rate} Hz", own_rate, rate),
            (f"{clip.shape[0]} channel(s)", clip.shape[0], channels),
            (f"{clip.shape[1]} samples", fitted(clip, samples).shape[1], samples),
        )
        if wanted is not None and actual != wanted
    ]


def fitted(clip: np.ndarray, samples: int | None) -> np.ndarray:
    """A clip cut, or padded with zeros, to ``samples``, where it differs by 10 ms or less."""
    if samples is None or not 0 < abs(clip.shape[1] - samples) <= RATE // 100:
        return clip
    return np.pad(clip, ((0, 0), (0, max(samples - clip.shape[1], 0))))[:, :samples]


def length(path: Path) -> tuple[int, int]:
    """Samples and rate (Hz) by a file's header. Raises AudioError, naming the file."""
    try:
        info = soundfile.info(path)
    except UNREADABLE as error:
        problems = [*decoded(path)[2], unreadable(error)]
        raise AudioError(f"{path} {problems[0]}") from None
    if info.samplerate < LOWEST_RATE:
        raise AudioError(f"{path} {TOO_LOW.format(info.samplerate)}")
    if info.frames < MANY and _stated(Path(path), info) == info.frames:
        return info.frames, info.samplerate
    clip, rate, problems = decoded(path)  # since its header does not say how long it is, or lies
    if problems:
        raise AudioError(f"{path} {problems[0]}")
    return clip.shape[1], rate


SOUNDS = {  # suffixes; of the last ones libsndfile reads none: they are told, not passed over
    *(f".{name.lower()}" for name in soundfile.available_formats()),
    *(".aif", ".aifc", ".oga", ".opus", ".snd"),
    *(".m4a", ".aac", ".mp4", ".wma", ".amr", ".3gp", ".webm"),
}


def recordings(path: Path | str) -> list[Path]:
    """The file at a path; of a folder, all audio under it; or all that a pattern names; sorted.

    Audio by the names of the files: what cannot be read is told when it is read. A path with none
    is returned as it is.
    """
    places = [Path(path)]
    if not places[0].exists():
        places = sorted(map(Path, glob.glob(str(path), recursive=True)))
    found = []
    for place in places:
        inside = sorted(
            file
            for file in place.rglob("[!.]*")
            if file.suffix.lower() in SOUNDS and not file.is_dir()
        )
        found += inside if place.is_dir() else [place]
    return found or [Path(path)]


def usual_length(lengths: list[tuple[int, int]]) -> int:
    """The median length of a custom data set's clips, in samples at 48 kHz.

    ``lengths``: samples and rate of each. Raises AudioError where it is under a second, too little
    for the networks.
    """
    usual = median_low([samples / rate for samples, rate in lengths] or [0.0])
    if usual < SHORTEST:
        raise AudioError(
            f"the usual length of these clips is {usual:g} s: at least {SHORTEST:g} s are needed"
        )
    return round(usual * RATE)


def windows(frames: int, rate: int, samples: int) -> int:
    """How many clips of ``samples`` at 48 kHz a recording holds; a shorter one is one, repeated."""
    return max(frames // math.ceil(samples * rate / RATE), 1)


def window_of(path: Path) -> tuple[Path, int]:
    """A clip's recording, and the number of its window: the third of ``a.wav`` is ``a.wav#3``.

    From 1; 0 where the clip is a file of its own.
    """
    name, _, number = path.name.rpartition("#")
    if not (name and number.isdecimal()) or path.exists():
        return path, 0
    return path.with_name(name), int(number)


def resampled(samples: np.ndarray, rate: int, to: int) -> np.ndarray:
    """Samples [..., T] at another rate (Hz), as float32; unchanged where the rates are equal.

    They are ``librosa.resample``'s, without the seconds that its import takes.
    """
    if rate == to:
        return samples
    samples = np.asarray(samples, "float32")
    found = np.apply_along_axis(soxr.resample, -1, samples, rate, to)
    length = math.ceil(samples.shape[-1] * (to / rate))
    missing = max(length - found.shape[-1], 0)
    return np.pad(found[..., :length], [(0, 0)] * (found.ndim - 1) + [(0, missing)])


def converted(clip: np.ndarray, rate: int, samples: int) -> np.ndarray:
    """Any clip int16 [channels, T] at ``rate`` (Hz) as int16 [2, samples] at 48 kHz.

    One channel, or the mean of more than two, is used twice; a longer clip is cut after
    ``samples``, a shorter one is repeated.
    """
    if len(clip) != CHANNELS:
        clip = np.tile(clip.mean(0).round().astype("int16"), (CHANNELS, 1))
    if rate != RATE:
        clip = resampled(clip, rate, RATE).round().clip(-(2**15), 2**15 - 1).astype("int16")
    return np.tile(clip, (1, math.ceil(samples / clip.shape[1])))[:, :samples]


def conversions(
    frames: int, rate: int, channels: int, samples: int, cut: str = "cut to"
) -> list[str]:
    """What ``converted`` does to a clip of this shape and rate (Hz), in words."""
    seconds = frames / rate
    usual = samples / RATE
    possible = {
        f"is resampled from {rate} Hz to {RATE} Hz": rate != RATE,
        "is mono: its channel is used twice": channels == 1,
        f"is not stereo: the mean of its {channels} channels is used twice": channels > CHANNELS,
        f"is {seconds:.3g} s long: repeated to {usual:g} s": (usual - seconds) * RATE >= 1,
        f"is {seconds:.4g} s long: {cut} {usual:g} s": cut and (seconds - usual) * RATE >= 1,
    }
    return [words for words, applies in possible.items() if applies]


@dataclass(frozen=True)
class Recording:
    """A recording of any rate, channels and length, read in windows of ``samples`` at 48 kHz."""

    path: Path
    frames: int
    rate: int  # Hz
    channels: int
    samples: int

    @classmethod
    def open(cls, path: Path | str, samples: int) -> "Recording":
        """Raises AudioError, naming the file, where it is unreadable or shorter than a second."""
        path = printable(path)
        if not path.is_file():
            kind = "not a file, nor a folder with audio" if path.exists() else "missing"
            raise AudioError(f"{path} is {kind}")
        frames, rate = length(path)
        if not frames:
            raise AudioError(f"{path} holds no sample")
        if frames / rate < SHORTEST:
            raise AudioError(
                f"{path} is {frames / rate:.3g} s long: at least {SHORTEST:g} s are needed"
            )
        return cls(path, frames, rate, soundfile.info(path).channels, samples)

    @property
    def seconds(self) -> float:
        return self.frames / self.rate

    @property
    def conversions(self) -> list[str]:
        rest = (self.frames - self.starts[-1] - self._frames) / self.rate
        windows = f"{len(self.starts)} windows of {self.samples / RATE:g} s"
        possible = {
            f"is {self.seconds:.4g} s long: cut into {windows}": len(self.starts) > 1,
            f"has {rest:.3g} s after the last window, which are ignored": rest * RATE >= 1,
        }
        return conversions(self.frames, self.rate, self.channels, self.samples, cut="") + [
            words for words, applies in possible.items() if applies
        ]

    @property
    def _frames(self) -> int:  # of a window, at the recording's own rate
        return math.ceil(self.samples * self.rate / RATE)

    @cached_property
    def starts(self) -> list[int]:
        """First frame of each window; the last one may overlap the one before.

        A rest of a second or more gets such a window of its own.
        """
        starts = list(range(0, self.frames - self._frames + 1, self._frames)) or [0]
        if (self.frames - starts[-1] - self._frames) >= SHORTEST * self.rate:
            starts.append(self.frames - self._frames)
        return starts

    def windows(self) -> Iterator[np.ndarray]:
        """Each window as int16 [2, samples]. Raises AudioError as ``window`` does."""
        return map(self.window, range(len(self.starts)))

    def window(self, number: int) -> np.ndarray:
        """A window as int16 [2, samples]. Raises AudioError, naming the file, if it is damaged."""
        start = self.starts[number]
        # After a seek, decoders of compressed audio need a while to be exact.
        lead = min(start, self.rate // 2)
        try:
            with soundfile.SoundFile(self.path) as file:
                if start > lead and file.seekable():
                    file.seek(start - lead)
                elif start > lead:
                    _samples(file, start - lead)
                clip, wrong = _samples(file, lead + self._frames)
        except UNREADABLE as error:
            raise AudioError(f"{self.path} {unreadable(error)}") from None
        if wrong:
            raise AudioError(
                f"{self.path} {NOT_NUMBERS.format(wrong)} after {start / self.rate:.4g} s"
            )
        end = start - lead + clip.shape[1]
        # The length of compressed audio may be an estimate.
        if end < min(start + self._frames, self.frames) - self.rate // 10:
            raise AudioError(
                f"{self.path} ends after {end / self.rate:.4g} s, "
                "sooner than its header says: copy it again"
            )
        return converted(clip[:, lead:], self.rate, self.samples)


def at_full_scale(clip: np.ndarray) -> float:
    """Share of samples, 0 to 1."""
    return float(np.mean((clip == 2**15 - 1) | (clip == -(2**15))))


def doubtful(silent: bool, share: float) -> list[str]:
    """What makes a clip doubtful: silence, or over one sample in a thousand at full scale."""
    if silent:
        return ["is silent: every sample is 0"]
    return [f"is clipped: {100 * share:.1f} % of its samples are at full scale"] * (share > 1e-3)


def preview(
    clip: np.ndarray, rate: int, seconds: float = 2.0, at: int = 8_000
) -> dict[str, object]:
    """A small excerpt of a clip [channels, T], mono: arguments of ``IPython.display.Audio``."""
    return {
        "data": resampled(np.asarray(clip, "float32").mean(0)[: int(seconds * rate)], rate, at),
        "rate": at,
    }

"""Download the official corpora: archive by archive, each verified, unpacked and noted before the next is begun."""

import errno
import io
import json
import os
import shutil
import struct
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import pooch
import requests
from filelock import FileLock
from tqdm import tqdm

from ..artefacts import first_line, write_text
from . import checks, fsdkaggle2019, tau2019
from .checks import CorpusError

ZENODO = {"tau2019": 2589280, "fsdkaggle2019": 3612637}
ESC50 = "https://github.com/karolpiczak/ESC-50/archive/refs/heads/master.zip"
LEADING = ("TAU-urban-acoustic-scenes-2019-development/", "ESC-50-master/")  # folders that archives put around all
AGENT = {"User-Agent": "asc_lib (acoustic scene classification; one archive at a time)"}
TRIES, WAIT, LONGEST_WAIT = 5, 5.0, 3600.0  # of one archive; s before the second try, doubled each time; s
UNPACKED = 1.2  # bytes on disk for each byte of an archive, about


class FetchError(CorpusError):
    """A download that did not succeed; the message names the archive and the way out."""


class Archive(NamedTuple):
    """A file to download. ``size`` (bytes) and ``md5`` are None where the host makes it on demand."""

    name: str
    url: str
    size: int | None
    md5: str | None


def archives(name: str) -> list[Archive]:
    """The archives of tau2019, fsdkaggle2019 or esc50, as their hosts list them now. Raises FetchError."""
    if name == "esc50":
        return [Archive("ESC-50-master.zip", ESC50, None, None)]
    url = f"https://zenodo.org/api/records/{ZENODO[name]}"

    def listing() -> list[dict]:
        answer = requests.get(url, headers=AGENT, timeout=60)
        answer.raise_for_status()
        return answer.json()["files"]

    found = [
        Archive(file["key"], file["links"]["self"], file["size"], file["checksum"].removeprefix("md5:"))
        for file in _patiently(listing, "the list of archives", url)
    ]
    return sorted(found, key=_order)


def _order(archive: Archive) -> tuple[bool, str, int, str]:
    """Small things first, then by number; the parts of a split archive in their order, .zip last."""
    number = "".join(c for c in archive.name.removesuffix(".zip").rsplit(".", 1)[-1] if c.isdigit())
    return ".audio" in archive.name, _stem(archive), int(number or 10**6), archive.name


def _stem(archive: Archive) -> str:
    stem, _, kind = archive.name.rpartition(".")
    return stem if kind == "zip" or (kind[:1] == "z" and kind[1:].isdigit()) else archive.name


def _patiently(attempt: Callable, what: str, url: str):
    """What ``attempt()`` returns; tried again where the network or the host fails for now. Raises FetchError."""
    for number in range(TRIES):
        try:
            return attempt()
        except requests.HTTPError as error:
            answer, failed = error.response, f"the host answers {error.response.status_code} {error.response.reason}"
            if answer.status_code != 429 and answer.status_code < 500:
                raise FetchError(f"{what} cannot be had from {url}: {failed}") from None
            pause = _told(answer.headers.get("Retry-After")) or WAIT * 2**number
        except (requests.RequestException, ValueError) as error:  # pooch says ValueError of another checksum
            failed, pause = first_line(error), WAIT * 2**number
        if number < TRIES - 1:
            print(f"{what}: {failed}; trying again in {pause:.0f} s", flush=True)
            time.sleep(pause)
    raise FetchError(
        f"{what} cannot be had from {url}: {failed} ({TRIES} tries). The same command goes on there later; or "
        "download it by hand into the corpus's folder"
    )


def _told(retry_after: str | None) -> float | None:
    """Seconds that a Retry-After header asks to wait (a number or a date), at most an hour."""
    if not retry_after:
        return None
    if not retry_after.isdigit():
        try:
            retry_after = max(parsedate_to_datetime(retry_after).timestamp() - time.time(), 0)
        except ValueError:
            return None
    return min(float(retry_after), LONGEST_WAIT)


def complete(name: str, root: Path) -> bool:
    """Whether a corpus is there already: all its tables, and a file for every row."""
    if name == "esc50":
        table = root / "meta" / "esc50.csv"
        found, problems = checks.table(table, ["filename"], ",")
        return not problems and all((root / "audio" / file).is_file() for file in found["filename"])
    reader = {"tau2019": tau2019, "fsdkaggle2019": fsdkaggle2019}[name]
    tables, findings = reader.tables(root)
    return not findings and all((root / file).is_file() for file in reader.file_names(tables))


def fetch(name: str, listed: list[Archive] | None, root: Path, only: str = "") -> None:
    """Download, verify and unpack archives into ``root``; what is there already, or was put there by hand, is used.

    ``listed``: the archives; None: as their host lists them now, which is asked only if something is missing.
    ``only``: a word that the archives' names must hold, such as "meta". Raises FetchError, also where the disk is too
    small; the same call then goes on at the first archive that was not finished.
    """
    if not only and complete(name, root):
        print(f"{name} is complete in {root}")
        return
    listed = archives(name) if listed is None else listed
    chosen = [archive for archive in listed if only in archive.name]
    if not chosen:
        raise FetchError(f"no archive of {name} has '{only}' in its name: {', '.join(a.name for a in listed)}")
    notes = root / ".fetched"
    try:
        notes.mkdir(parents=True, exist_ok=True)
        with FileLock(notes / "lock"):
            for left in [*notes.glob("tmp*"), *notes.glob("*.part")]:  # by a download or unpacking that was killed
                left.unlink()
            _fetch_all(chosen, root, notes)
    except OSError as error:
        raise FetchError(f"{error.filename or root} cannot be written: {error.strerror or error}") from None
    print(f"{name} is in {root}")


def _fetch_all(chosen: list[Archive], root: Path, notes: Path) -> None:
    units = [list(parts) for _, parts in groupby(sorted(chosen, key=_order), _stem)]
    units = [parts for parts in units if not (notes / f"{_stem(parts[0])}.json").exists()]
    sizes = [sum(part.size or 0 for part in parts) for parts in units]
    whole, done, started = sum(sizes), 0, time.monotonic()
    _room(root, UNPACKED * whole + max(sizes, default=0))
    print(f"{len(units)} of {len(chosen)} archives to go, {whole / 1e9:.1f} GB, to {root}", flush=True)
    for number, (parts, size) in enumerate(zip(units, sizes), 1):
        stem = _stem(parts[0])
        left = (time.monotonic() - started) * (whole - done) / done / 60 if done else 0
        eta = f", about {left:.0f} min left" if done else ""
        print(f"{number} of {len(units)}: {stem}, {size / 1e9:.2f} GB; {done / 1e9:.1f} GB done{eta}", flush=True)
        files = [_got(part, root, notes) for part in parts]
        count = _unpack(files, root, notes)
        write_text(notes / f"{stem}.json", json.dumps({"md5": {a.name: a.md5 for a in parts}, "files": count}))
        for file in files:
            if file.parent == notes:
                file.unlink()
        done += size


def _room(root: Path, needed: float) -> None:
    free = shutil.disk_usage(root).free
    if free < needed:
        raise FetchError(f"{root} has {free / 1e9:.1f} GB free, and about {needed / 1e9:.1f} GB are needed")


def _got(archive: Archive, root: Path, notes: Path) -> Path:
    """An archive's file: one put there by hand, downloaded before, or downloaded now."""
    for place in (root, root / "archives"):
        if (file := place / archive.name).is_file():
            if archive.md5 and (md5 := pooch.file_hash(str(file), alg="md5")) != archive.md5:
                raise FetchError(f"{file} is not the official archive (md5 {md5}, not {archive.md5}): remove it")
            return file
    known = archive.md5 and f"md5:{archive.md5}"
    quiet = not sys.stderr.isatty()

    def download() -> str:
        bar = tqdm(total=archive.size or 1, unit="B", unit_scale=True, desc=archive.name, disable=quiet, leave=False)
        get = pooch.HTTPDownloader(progressbar=bar, headers=AGENT, timeout=60)
        return pooch.retrieve(archive.url, known, fname=archive.name, path=notes, downloader=get)

    pooch.get_logger().setLevel("ERROR")
    return Path(_patiently(download, archive.name, archive.url))


class _Joined(io.RawIOBase):
    """The parts of a split archive as one file to read."""

    def __init__(self, files: list[Path]):
        self.files = [open(file, "rb") for file in files]  # noqa: SIM115
        self.starts, self.size, self.position = [], 0, 0
        for file in files:
            self.starts.append(self.size)
            self.size += file.stat().st_size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self.position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self.position, os.SEEK_END: self.size}[whence]
        return self.position

    def readinto(self, buffer) -> int:
        part = max(k for k, start in enumerate(self.starts) if start <= self.position)
        self.files[part].seek(self.position - self.starts[part])
        count = self.files[part].readinto(buffer)
        if not count and part + 1 < len(self.files):
            self.position = max(self.position, self.starts[part + 1])
            return self.readinto(buffer)
        self.position += count
        return count

    def close(self) -> None:
        for file in self.files:
            file.close()
        super().close()


def _members(files: list[Path]) -> Iterator[tuple[zipfile.ZipFile, zipfile.ZipInfo]]:
    """The files in an archive, or in the parts of a split one."""
    joined = _Joined(files)
    with io.BufferedReader(joined, 1 << 20) as buffered, zipfile.ZipFile(buffered) as archive:
        entries = archive.infolist()
        if len(files) > 1:
            # Each offset counts from the start of its part. zipfile takes the joined file for one archive with
            # something before it, and has shifted all offsets by the distance of the directory from where it says.
            buffered.seek(max(joined.size - (1 << 16), 0))
            tail = buffered.read()
            said = struct.unpack_from("<L", tail, tail.rindex(b"PK\5\6") + 16)[0]
            for entry in entries:
                entry.header_offset += joined.starts[entry.volume] - (archive.start_dir - said)
                if hasattr(entry, "_end_offset"):  # newer versions of zipfile check it; it was drawn from the old ones
                    entry._end_offset = None
        for entry in entries:
            if not entry.is_dir():
                yield archive, entry


def _unpack(files: list[Path], root: Path, notes: Path) -> int:
    """Unpack an archive, each file whole or not at all; return the number of files."""
    told = files[-1].name
    try:
        entries = [entry for _, entry in _members(files)]
        for entry in entries:
            if problem := checks.unsafe(entry.filename):
                raise FetchError(f"{told} {problem}")
        _room(root, sum(entry.file_size for entry in entries))
        for archive, entry in _members(files):
            name = entry.filename
            for folder in LEADING:
                name = name.removeprefix(folder)
            target, temporary = root / name, notes / "unpacking.part"
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with archive.open(entry) as source, open(temporary, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                os.replace(temporary, target)
            finally:
                temporary.unlink(missing_ok=True)
    except (zipfile.BadZipFile, EOFError, NotImplementedError, zipfile.zlib.error) as error:
        way = "remove it and run the same command again"
        if len(files) > 1:
            way += f"; or join its parts with `zip -s 0 {told} --out joined.zip` and unpack that by hand"
        raise FetchError(f"{files[-1]} cannot be unpacked: {error}: {way}") from None
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise FetchError(f"{root} is full: make room, and the same command goes on with {told}") from None
        raise
    return len(entries)

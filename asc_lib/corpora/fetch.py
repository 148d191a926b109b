"""Download the official corpora, one archive at a time: verified, unpacked, noted, removed."""

import errno
import io
import json
import lzma
import re
import shutil
import struct
import time
import zipfile
from collections.abc import Callable, Iterator
from email.utils import parsedate_to_datetime
from itertools import accumulate, groupby
from pathlib import Path
from typing import NamedTuple

import pooch
import pydantic
import requests
import urllib3
from filelock import FileLock
from tqdm import tqdm

from ..files import first_line, write_text
from ..registry import load_plugins
from . import checks
from .data_set import DATA_SETS, CorpusError, DataSet

AGENT = {
    "User-Agent": "asc_lib (acoustic scene classification; one archive at a time)",
    "Accept-Encoding": "identity",
}
ZIPPED = re.compile(r"\.(zip|z\d+)$")
NOTES = ".fetched"  # folder of what has been fetched
TRIES = 5  # of one archive
LARGEST = 20 * 2**30  # bytes, where the size of an archive is not announced
SLOWEST = 10_000  # bytes a second, over a minute
HOPELESS = (
    requests.exceptions.SSLError,
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    requests.exceptions.TooManyRedirects,
    urllib3.exceptions.LocationParseError,
)


class FetchError(CorpusError):
    """A failed download; the message names the archive and the way out."""


class Listed(pydantic.BaseModel):
    """A file in a host's list of archives."""

    key: str = pydantic.Field(pattern=r"^[\w. ()+-]+$")
    size: int = pydantic.Field(gt=0, lt=2**40)
    checksum: str = pydantic.Field(pattern="^md5:[0-9a-f]+$")
    links: dict[str, str]

    def archive(self) -> "Archive":
        return Archive(self.key, self.links["self"], self.size, self.checksum.removeprefix("md5:"))


class Archive(NamedTuple):
    """A file to download; ``size`` (bytes) and hashes are None where they are not known.

    One that is no zip archive is put into the corpus's folder as it is.
    """

    name: str
    url: str
    size: int | None
    md5: str | None
    sha256: str | None = None

    @property
    def hashed(self) -> str | None:
        """As ``pooch`` takes it."""
        return f"md5:{self.md5}" if self.md5 else self.sha256


def zenodo(record: int) -> list[Archive]:
    """The archives of a Zenodo record, as listed now. Raises FetchError."""
    url = f"https://zenodo.org/api/records/{record}"

    def listing() -> object:
        answer = requests.get(url, headers=AGENT, timeout=60)
        answer.raise_for_status()
        return answer.json()

    answer = _patiently(listing, "the list of archives", url)
    try:
        files = pydantic.TypeAdapter(list[Listed]).validate_python(answer["files"])
        if not files:
            raise ValueError("it is empty")
        return sorted((file.archive() for file in files), key=_order)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        raise FetchError(
            f"the list of archives from {url} is not what was expected ({first_line(error)}): "
            "download them by hand into the corpus's folder"
        ) from None


# Small archives first, then by number; parts of a split archive in order, .zip last.
def _order(archive: Archive) -> tuple[bool, str, int, str]:
    number = "".join(c for c in archive.name.removesuffix(".zip").rsplit(".", 1)[-1] if c.isdigit())
    return ".audio" in archive.name, _stem(archive), int(number or 10**6), archive.name


def _stem(archive: Archive) -> str:
    stem, _, kind = archive.name.rpartition(".")
    return stem if kind == "zip" or (kind[:1] == "z" and kind[1:].isdigit()) else archive.name


# The result of ``attempt()``, retried while network or host fail. Raises FetchError.
def _patiently(attempt: Callable, what: str, url: str):
    for number in range(TRIES):
        pause = 5.0 * 2**number  # s
        try:
            return attempt()
        except FetchError:
            raise
        except HOPELESS as error:
            raise FetchError(
                f"{what} cannot be downloaded from {url}: {first_line(error)}"
            ) from None
        except requests.HTTPError as error:
            answer = error.response
            failed = f"the host answers {answer.status_code} {answer.reason}"
            if answer.status_code != 429 and answer.status_code < 500:
                raise FetchError(f"{what} cannot be downloaded from {url}: {failed}") from None
            pause = _retry_after(answer.headers.get("Retry-After", "")) or pause
        except (requests.RequestException, ValueError) as error:  # pooch: ValueError for checksums
            failed = first_line(error)
        if number < TRIES - 1:
            print(f"{what}: {failed}; trying again in {pause:.0f} s", flush=True)
            time.sleep(pause)
    raise FetchError(
        f"{what} cannot be downloaded from {url}: {failed} ({TRIES} tries). Run the same command "
        "again later to resume, or download it by hand into the corpus's folder"
    )


def fetchable(name: str) -> DataSet:
    """The data set of this name. Raises CorpusError for one that cannot be downloaded."""
    load_plugins()
    names = [key for key, data_set in DATA_SETS.items() if data_set.archives]
    if name not in names:
        raise CorpusError(f"'{name}' cannot be downloaded: choose one of {', '.join(names)}")
    return DATA_SETS[name]


# Seconds that a Retry-After header asks to wait (a number or a date), at most an hour; or 0.
def _retry_after(header: str) -> float:
    if header.isdigit():
        return min(float(header), 3600)
    try:
        return min(max(parsedate_to_datetime(header).timestamp() - time.time(), 0), 3600)
    except ValueError:
        return 0


def fetch(name: str, root: Path, only: str = "", listed: list[Archive] | None = None) -> None:
    """Download, verify and unpack a data set's archives into ``root``, using what is there already.

    ``only``: a word that the archives' names must contain, such as "meta". ``listed``: the
    archives; None: as their host lists them now, which is asked only if something is missing.
    Raises FetchError, also where the disk is too small; the same call then resumes at the first
    unfinished archive.
    """
    data_set = fetchable(name)
    if not only and data_set.complete(root):
        print(f"{name} is complete in {root}")
        return
    listed = data_set.archives() if listed is None else listed
    chosen = [archive for archive in listed if only in archive.name]
    if not chosen:
        raise FetchError(
            f"no archive of {name} has '{only}' in its name: "
            f"{', '.join(archive.name for archive in listed)}"
        )
    notes = root / NOTES
    try:
        notes.mkdir(parents=True, exist_ok=True)
        with FileLock(notes / "lock"):
            for left in [*notes.glob("tmp*"), *notes.glob("*.part")]:  # of a killed process
                left.unlink()
            _fetch_all(chosen, root, notes, data_set.leading)
    except OSError as error:
        raise FetchError(
            f"{error.filename or root} cannot be written: {error.strerror or error}"
        ) from None
    print(f"{name} is in {root}")


def _fetch_all(chosen: list[Archive], root: Path, notes: Path, leading: str) -> None:
    units = {
        stem: list(parts)
        for stem, parts in groupby(sorted(chosen, key=_order), _stem)
        if not (notes / f"{stem}.json").exists()
    }
    sizes = [sum(part.size or 0 for part in parts) for parts in units.values()]
    total = sum(sizes)
    _check_room(root, 1.2 * total + max(sizes, default=0))  # 1.2: unpacked, about
    print(
        f"{len(units)} of {len(chosen)} archives to go, {total / 1e9:.1f} GB, to {root}", flush=True
    )
    done = 0
    started = time.monotonic()
    for number, ((stem, parts), size) in enumerate(zip(units.items(), sizes), 1):
        left = (time.monotonic() - started) * (total - done) / max(done, 1) / 60
        print(
            f"{number} of {len(units)}: {stem}, {size / 1e9:.2f} GB; {done / 1e9:.1f} GB done"
            + (f", about {left:.0f} min left" if done else ""),
            flush=True,
        )
        files = [_downloaded(part, root, notes) for part in parts]
        count = _unpack(files, root, notes, leading)
        write_text(
            notes / f"{stem}.json",
            json.dumps({"md5": {part.name: part.md5 for part in parts}, "files": count}),
        )
        for file in files:
            if file.parent == notes:
                file.unlink()
        done += size


def _check_room(root: Path, needed: float) -> None:
    free = shutil.disk_usage(root).free
    if free < needed:
        raise FetchError(
            f"{root} has {free / 1e9:.1f} GB free, and about {needed / 1e9:.1f} GB are needed"
        )


def inside(root: Path, name: str, source: str) -> Path:
    """The place in a folder of a file that ``source`` names so, after all changes of its name.

    Raises FetchError where it is outside of it.
    """
    why = checks.unsafe(name)
    path = root / name
    if why or path == root or NOTES in path.relative_to(root).parts:
        raise FetchError(f"{source} {why or f'names {name!r}, which is no place in the corpus'}")
    return path


# An archive's file: one put there by hand, downloaded before, or downloaded now.
def _downloaded(archive: Archive, root: Path, notes: Path) -> Path:
    for place in (root, root / "archives"):
        file = inside(place, archive.name, "the list of archives")
        if file.is_file():
            kind = "md5" if archive.md5 else "sha256"
            found = pooch.file_hash(str(file), alg=kind)
            if (archive.md5 or archive.sha256) not in (None, found):
                raise FetchError(
                    f"{file} is not the official archive ({kind} {found}, not "
                    f"{archive.md5 or archive.sha256}): remove it"
                )
            return file

    def download() -> str:
        return pooch.retrieve(
            archive.url,
            known_hash=archive.hashed,
            fname=archive.name,
            path=notes,
            downloader=lambda url, file, _: _stream(archive, file),
        )

    pooch.get_logger().setLevel("ERROR")
    return Path(_patiently(download, archive.name, archive.url))


# Writes an archive to a file; no more of it than announced, and not slower than ``SLOWEST``.
def _stream(archive: Archive, path: str) -> None:
    with (
        requests.get(archive.url, headers=AGENT, stream=True, timeout=60) as answer,
        open(path, "wb") as file,
        tqdm(
            total=archive.size,
            unit="B",
            unit_scale=True,
            desc=archive.name,
            disable=None,  # shown on a terminal only
            leave=False,
        ) as bar,
    ):
        answer.raise_for_status()
        minute = time.monotonic()
        least = 0
        try:
            while piece := answer.raw.read1(1 << 20):
                file.write(piece)
                bar.update(len(piece))
                if file.tell() > (archive.size or LARGEST):
                    raise FetchError(
                        f"{archive.url} sends more than the announced {archive.size or LARGEST} "
                        "bytes: download it by hand into the corpus's folder"
                    )
                if time.monotonic() > minute + 60:
                    minute += 60
                    least += 60 * SLOWEST
                    if file.tell() < least:
                        raise requests.Timeout(f"slower than {SLOWEST / 1000:g} kB a second")
        except urllib3.exceptions.HTTPError as error:
            raise requests.ConnectionError(error) from None


# The parts of a split archive as one file to read.
class _Joined(io.RawIOBase):
    def __init__(self, files: list[Path]):
        self.files = files
        *self.starts, self.size = accumulate([file.stat().st_size for file in files], initial=0)
        self.position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self.position = (
            offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.position, io.SEEK_END: self.size}[whence]
        )
        return self.position

    def readinto(self, buffer) -> int:
        part = max(k for k, start in enumerate(self.starts) if start <= self.position)
        with open(self.files[part], "rb") as file:
            file.seek(self.position - self.starts[part])
            count = file.readinto(buffer)
        self.position += count
        return count


# The files in an archive, or in the parts of a split archive.
def _members(files: list[Path]) -> Iterator[tuple[zipfile.ZipFile, zipfile.ZipInfo]]:
    joined = _Joined(files)
    with io.BufferedReader(joined, 1 << 20) as buffered, zipfile.ZipFile(buffered) as archive:
        entries = archive.infolist()
        if len(files) > 1:
            # Each offset counts from the start of its part. zipfile takes the joined file for an
            # archive with something before it, and has shifted all offsets by the distance between
            # where the directory is and where it should be.
            buffered.seek(max(joined.size - (1 << 16), 0))
            tail = buffered.read()
            stated = struct.unpack_from("<L", tail, tail.rindex(b"PK\5\6") + 16)[0]
            for entry in entries:
                entry.header_offset += joined.starts[entry.volume] - (archive.start_dir - stated)
                if hasattr(entry, "_end_offset"):  # newer versions of zipfile check it
                    entry._end_offset = None
        for entry in entries:
            if not entry.is_dir():
                yield archive, entry


# Unpacks an archive, each file whole or not at all; returns the number of files.
def _unpack(files: list[Path], root: Path, notes: Path, leading: str) -> int:
    name = files[-1].name
    if not ZIPPED.search(name):
        shutil.copyfile(files[0], notes / "unpacking.part")
        (notes / "unpacking.part").replace(inside(root, name, name))
        return 1
    try:
        entries = [entry for _, entry in _members(files)]
        for entry in entries:  # before any is written
            inside(root, entry.filename.removeprefix(leading), name)
        _check_room(root, sum(entry.file_size for entry in entries))
        temporary = notes / "unpacking.part"
        for archive, entry in _members(files):
            target = inside(root, entry.filename.removeprefix(leading), name)
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                with archive.open(entry) as source, open(temporary, "wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                temporary.replace(target)
            finally:
                temporary.unlink(missing_ok=True)
    except FetchError:
        raise
    except (
        *(zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError),
        *(zipfile.zlib.error, ValueError, struct.error, IndexError, lzma.LZMAError),
    ) as error:
        join = (
            f"; or join its parts with `zip -s 0 {name} --out joined.zip` and unpack that by hand"
        )
        raise FetchError(
            f"{files[-1]} cannot be unpacked: {error}: remove it and run the same command again"
            + (join if len(files) > 1 else "")
        ) from None
    except OSError as error:
        if error.errno is None:  # of bz2
            raise FetchError(f"{files[-1]} cannot be unpacked: {error}: remove it") from None
        if error.errno == errno.ENOSPC:
            raise FetchError(
                f"{root} is full: make room, then run the same command again to resume with {name}"
            ) from None
        raise
    return len(entries)

"""Downloads from a local server laid out as the hosts are, and all that can go wrong with them."""

import errno
import hashlib
import http.server
import io
import json
import os
import shutil
import struct
import subprocess
import sys
import threading
import zipfile
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import requests
from typer.testing import CliRunner

from asc_lib import cli, corpora
from asc_lib.corpora import fetch
from asc_lib.corpora.fetch import Archive, FetchError

TAU = "TAU-urban-acoustic-scenes-2019-development"


class Host:
    """What a local server has, how often it was asked for each file, and its tricks for each."""

    def __init__(self):
        self.files, self.tricks, self.asked = {}, {}, Counter()

    def add(self, name, content):
        self.files[name] = content
        return Archive(name, f"{self.url}/{name}", len(content), hashlib.md5(content).hexdigest())


@pytest.fixture
def host():
    host = Host()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.strip("/")
            host.asked[name] += 1
            trick = host.tricks.get(name, [])
            trick = trick.pop(0) if len(trick) > 1 else (trick or ["well"])[0]
            content = host.files.get(name, b"")
            if isinstance(trick, tuple):
                self.send_response(trick[0])
                for header in trick[1:]:
                    self.send_header("Retry-After", header)
                content = b""
            else:
                self.send_response(200 if name in host.files else 404)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            if trick == "changed":
                content = bytes(len(content))
            self.wfile.write(content[: len(content) // 2] if trick == "broken" else content)

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    host.url = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield host
    server.shutdown()
    server.server_close()


@pytest.fixture
def waits(monkeypatch):
    """Seconds waited, instead of waiting."""
    waited = []
    monkeypatch.setattr(fetch.time, "sleep", waited.append)
    return waited


def zipped(files):
    raw = io.BytesIO()
    with zipfile.ZipFile(raw, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return raw.getvalue()


def noise(number, size=3000):
    return np.random.default_rng(number).bytes(size)


def tau(host):
    meta = {f"{TAU}/meta.csv": b"meta", f"{TAU}/evaluation_setup/fold1_train.csv": b"train"}
    audio = [{f"{TAU}/audio/{k}-{n}.wav": noise(10 * k + n) for n in range(3)} for k in range(3)]
    found = [host.add(f"{TAU}.audio.{k + 1}.zip", zipped(files)) for k, files in enumerate(audio)]
    return [*found, host.add(f"{TAU}.meta.zip", zipped(meta))], {
        k: v for files in (*audio, meta) for k, v in files.items()
    }


def list_of_tau(monkeypatch, archives):
    """Let this be what lists the archives of TAU 2019."""
    changed = replace(corpora.find("tau2019"), archives=archives)
    monkeypatch.setitem(corpora.DATA_SETS, "tau2019", changed)


def unpacked(root, folder=""):
    files = [path for path in root.rglob("*") if path.is_file() and ".fetched" not in path.parts]
    return {folder + path.relative_to(root).as_posix(): path.read_bytes() for path in files}


def test_a_corpus_is_fetched_once(host, tmp_path, capsys):
    listed, files = tau(host)
    fetch.fetch("tau2019", tmp_path, listed=listed)
    assert unpacked(tmp_path, f"{TAU}/") == files and set(host.asked.values()) == {1}
    assert not [
        path for path in (tmp_path / ".fetched").iterdir() if path.suffix not in (".json", "")
    ]
    out = capsys.readouterr().out
    assert "4 of 4 archives to go" in out and out.index(".meta") < out.index("audio.1") < out.index(
        "audio.3"
    )
    fetch.fetch("tau2019", tmp_path, listed=listed)
    assert set(host.asked.values()) == {1}


def split(files, size):
    """A zip archive of these files in parts, with the part of each entry and its offset in it."""
    raw = bytearray(b"PK\7\x08" + zipped(files))
    for place in (k for k in range(len(raw)) if raw[k : k + 4] == b"PK\1\2"):
        offset = struct.unpack_from("<L", raw, place + 42)[0] + 4
        struct.pack_into("<H", raw, place + 34, offset // size)
        struct.pack_into("<L", raw, place + 42, offset % size)
    end = raw.rindex(b"PK\5\6")
    start = struct.unpack_from("<L", raw, end + 16)[0] + 4
    struct.pack_into("<HH", raw, end + 4, len(raw) // size, start // size)
    struct.pack_into("<L", raw, end + 16, start % size)
    return [bytes(raw[k : k + size]) for k in range(0, len(raw), size)]


@pytest.mark.parametrize("size", [4_001, 9_000, 12_345])
def test_a_split_archive_is_joined(size, host, tmp_path):
    files = {f"FSDKaggle2019.audio_train_noisy/{n}.wav": noise(n, 2500) for n in range(9)}
    parts = split(files, size)
    names = [f"FSDKaggle2019.audio_train_noisy.z{k + 1:02d}" for k in range(len(parts) - 1)]
    listed = [
        host.add(name, part)
        for name, part in zip([*names, "FSDKaggle2019.audio_train_noisy.zip"], parts)
    ]
    fetch.fetch("fsdkaggle2019", tmp_path, listed=listed[::-1])
    assert unpacked(tmp_path) == files
    assert [path.name for path in (tmp_path / ".fetched").glob("*.json")] == [
        "FSDKaggle2019.audio_train_noisy.json"
    ]


@pytest.mark.skipif(not shutil.which("zip"), reason="needs Info-ZIP's zip")
def test_a_split_archive_of_info_zip_is_joined(host, tmp_path):
    files = {f"FSDKaggle2019.audio_train_noisy/{n}.wav": noise(n, 30_000) for n in range(9)}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    pack = ["zip", "-q", "-r", "-s", "64k", "a.zip", "FSDKaggle2019.audio_train_noisy"]
    subprocess.run(pack, cwd=tmp_path, check=True)
    parts = sorted(tmp_path.glob("a.z*"))
    listed = [host.add(f"noisy{path.suffix}", path.read_bytes()) for path in parts]
    fetch.fetch("fsdkaggle2019", tmp_path / "root", listed=listed)
    assert len(parts) > 2 and unpacked(tmp_path / "root") == files


@pytest.mark.parametrize("trick", ["broken", "changed", (500,), (503,)])
def test_what_fails_for_now_is_tried_again(trick, host, tmp_path, waits, capsys):
    listed, files = tau(host)
    host.tricks[listed[0].name] = [trick, trick, "well"]
    fetch.fetch("tau2019", tmp_path, listed=listed)
    assert unpacked(tmp_path, f"{TAU}/") == files and waits == [5, 10]
    assert capsys.readouterr().out.count("trying again in") == 2


@pytest.mark.parametrize(
    "trick, message",
    [
        (
            "broken",
            "audio.2.zip cannot be downloaded from http.*5 tries.*Run the same command again "
            "later to resume",
        ),
        ("changed", "audio.2.zip cannot be downloaded from .*hash.*5 tries"),
        ((500,), "the host answers 500 Internal Server Error"),
        ((404,), "audio.2.zip cannot be downloaded from .*: the host answers 404 Not Found$"),
    ],
)
def test_what_fails_for_good_is_one_line(trick, message, host, tmp_path, waits):
    listed, files = tau(host)
    host.tricks[f"{TAU}.audio.2.zip"] = [trick]
    with pytest.raises(FetchError, match=message) as error:
        fetch.fetch("tau2019", tmp_path, listed=listed)
    assert "\n" not in str(error.value) and len(waits) == (0 if trick == (404,) else 4)
    host.tricks.clear()
    before = host.asked.copy()
    fetch.fetch("tau2019", tmp_path, listed=listed)  # resumes
    again = {name for name in host.asked if host.asked[name] != before[name]}
    assert (
        again == {f"{TAU}.audio.2.zip", f"{TAU}.audio.3.zip"}
        and unpacked(tmp_path, f"{TAU}/") == files
    )


LONG_AGO = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize("told, waited", [("37", 37), ("999999", 3600), (LONG_AGO, 5), ("soon", 5)])
def test_the_host_says_how_long_to_wait(told, waited, host, tmp_path, waits):
    listed, _ = tau(host)
    host.tricks[listed[3].name] = [(429, told), "well"]
    fetch.fetch("tau2019", tmp_path, listed=listed)
    assert waits == [waited]


def test_a_host_that_is_gone(tmp_path, waits):
    listed = [Archive(f"{TAU}.meta.zip", "http://127.0.0.1:9/x.zip", 10, "0" * 32)]
    with pytest.raises(FetchError, match="meta.zip cannot be downloaded from .*5 tries"):
        fetch.fetch("tau2019", tmp_path, listed=listed)
    assert waits == [5, 10, 20, 40] and unpacked(tmp_path) == {}


def test_a_disk_that_is_too_small(host, tmp_path, monkeypatch):
    listed, _ = tau(host)
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(9, 9, 1000))
    with pytest.raises(FetchError, match="has 0.0 GB free, and about 0.0 GB are needed"):
        fetch.fetch("tau2019", tmp_path, listed=listed)
    assert not host.asked


FULL = "is full: make room, then run the same command again to resume with"


@pytest.mark.parametrize(
    "number, message", [(errno.ENOSPC, FULL), (errno.EROFS, "cannot be written: Read-only")]
)
def test_a_disk_that_fills_up(number, message, host, tmp_path, monkeypatch):
    listed, files = tau(host)
    copy, calls = shutil.copyfileobj, []

    def full(source, file, *rest):
        calls.append(file.write(source.read(10)))
        if len(calls) == 4:
            raise OSError(number, os.strerror(number))
        copy(source, file, *rest)

    with monkeypatch.context() as patched:
        patched.setattr(fetch.shutil, "copyfileobj", full)
        with pytest.raises(FetchError, match=message):
            fetch.fetch("tau2019", tmp_path, listed=listed)
    there = unpacked(tmp_path, f"{TAU}/")
    assert len(there) == 3 and there.items() <= files.items()  # what is there is whole
    assert not list((tmp_path / ".fetched").glob("*.part"))
    fetch.fetch("tau2019", tmp_path, listed=listed)
    assert unpacked(tmp_path, f"{TAU}/") == files


@pytest.mark.parametrize("place", ["", "archives"])
def test_an_archive_put_there_by_hand(place, host, tmp_path):
    listed, files = tau(host)
    by_hand = tmp_path / place / listed[1].name
    by_hand.parent.mkdir(exist_ok=True)
    by_hand.write_bytes(host.files[by_hand.name][:-1])
    with pytest.raises(
        FetchError, match=r"audio.2.zip is not the official archive \(md5 .*, not .*\): remove it"
    ):
        fetch.fetch("tau2019", tmp_path, listed=listed)
    by_hand.write_bytes(host.files[by_hand.name])
    fetch.fetch("tau2019", tmp_path, listed=listed)
    assert by_hand.name not in host.asked and by_hand.is_file()
    assert files.items() <= unpacked(tmp_path, f"{TAU}/").items()


def test_a_corpus_unpacked_by_hand(small_mini, tmp_path, capsys, monkeypatch):
    root = shutil.copytree(small_mini.root, tmp_path / "tau2019")
    list_of_tau(monkeypatch, lambda: pytest.fail("the host was asked"))
    fetch.fetch("tau2019", root)
    assert "tau2019 is complete in" in capsys.readouterr().out
    next((root / "audio").iterdir()).unlink()
    with pytest.raises(FetchError, match="no archive of tau2019"):
        fetch.fetch("tau2019", root, listed=[])


def test_only_some(host, tmp_path):
    listed, _ = tau(host)
    fetch.fetch("tau2019", tmp_path, "meta", listed)
    assert set(host.asked) == {f"{TAU}.meta.zip"} and "meta.csv" in unpacked(tmp_path)
    with pytest.raises(FetchError, match="no archive of tau2019 has 'video' in its name: TAU"):
        fetch.fetch("tau2019", tmp_path, "video", listed)


def test_what_a_killed_download_left_is_removed(host, tmp_path):
    listed, _ = tau(host)
    (tmp_path / ".fetched").mkdir()
    for name in ("tmpabc123", "unpacking.part"):
        (tmp_path / ".fetched" / name).write_bytes(b"half")
    fetch.fetch("tau2019", tmp_path, listed=listed)
    assert {path.suffix for path in (tmp_path / ".fetched").iterdir()} <= {".json", ""}
    assert not list((tmp_path / ".fetched").glob("tmp*"))


def test_two_fetch_at_once(host, tmp_path):
    listed, files = tau(host)
    code = "import sys; from pathlib import Path; from asc_lib.corpora.fetch import *; "
    code += f"fetch('tau2019', Path(sys.argv[1]), listed={listed!r})"
    both = [subprocess.Popen([sys.executable, "-c", code, tmp_path]) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]
    assert unpacked(tmp_path, f"{TAU}/") == files and set(host.asked.values()) == {1}


@pytest.mark.parametrize(
    "content, message",
    [
        (b"no archive", "audio.9.zip cannot be unpacked: File is not a zip file: remove it"),
        (zipped({"../../evil.wav": b"x"}), "names '../../evil.wav', a path that leaves the corpus"),
        (zipped({"/evil.wav": b"x"}), "names '/evil.wav', a path that leaves the corpus"),
        (
            zipped({"a.wav": b"abcdefgh"}).replace(b"abcdefgh", b"abcdefgi", 1),
            "Bad CRC-32 for file 'a.wav'",
        ),
    ],
)
def test_a_bad_archive(content, message, host, tmp_path):
    root = tmp_path / "deep" / "er"
    with pytest.raises(FetchError, match=message):
        fetch.fetch("tau2019", root, listed=[host.add(f"{TAU}.audio.9.zip", content)])
    assert unpacked(tmp_path) == {}


LOCKED = zipped({"a.wav": b"x"})  # says that its entry is encrypted
LOCKED = LOCKED.replace(b"PK\3\4\x14\0\0", b"PK\3\4\x14\0\1").replace(
    b"PK\1\2\x14\3\x14\0\0", b"PK\1\2\x14\3\x14\0\1"
)


@pytest.mark.parametrize(
    "content, message",
    [
        (zipped({f"{TAU}//nowhere/evil.wav": b"x"}), "names '/nowhere/evil.wav', a path that"),
        (zipped({f"{TAU}/../evil.wav": b"x"}), "a path that leaves"),
        (zipped({f"{TAU}/.fetched/lock": b"x"}), "no place in the corpus"),
        (zipped({f"{TAU}/a\x1b[2J.wav": b"x"}), "control character"),
        (LOCKED, "is encrypted"),
    ],
)
def test_targets_are_checked_after_all_changes_of_their_names(content, message, host, tmp_path):
    root = tmp_path / "deep"
    with pytest.raises(FetchError, match=f"audio.9.zip .*{message}"):
        fetch.fetch("tau2019", root, listed=[host.add(f"{TAU}.audio.9.zip", content)])
    assert unpacked(tmp_path) == {}


@pytest.mark.parametrize("name", ["../x.zip", "/nowhere/x.zip", ".fetched/x.zip", "a\nb.zip"])
def test_names_of_archives_are_checked_too(name, host, tmp_path):
    listed = host.add("x.zip", zipped({"a": b"b"}))
    with pytest.raises(FetchError, match="the list of archives names"):
        fetch.fetch("tau2019", tmp_path / "root", listed=[listed._replace(name=name)])
    assert unpacked(tmp_path) == {}


FILE = {"key": "x.zip", "size": 7, "checksum": "md5:ab", "links": {"self": "https://z/x"}}


@pytest.mark.parametrize(
    "answer",
    [None, [], {}, "x", {"files": None}, {"files": []}, {"files": [{}]}, {"files": [[]]}]
    + [{"files": [FILE | change]} for change in ({"key": "../x"}, {"size": -1}, {"size": "no"})]
    + [{"files": [FILE | change]} for change in ({"links": {}}, {"checksum": 7})],
)
def test_an_odd_listing_is_one_line(answer, monkeypatch):
    response = requests.Response()
    response.status_code = 200
    response._content = json.dumps(answer).encode()
    monkeypatch.setattr(fetch.requests, "get", lambda url, **_: response)
    with pytest.raises(FetchError, match="list of archives from https.* is not what was expected"):
        fetch.zenodo(1)


@pytest.mark.parametrize(
    "change, message",
    [
        (dict(size=10), "sends more than the announced 10 bytes"),
        (dict(url="htp://x"), "No connection adapters"),
        (dict(url="http://"), "No host|Invalid URL"),
    ],
)
def test_what_is_hopeless_is_not_tried_again(change, message, host, tmp_path, waits):
    listed = host.add(f"{TAU}.meta.zip", zipped({"a": b"b"}))._replace(**change)
    with pytest.raises(FetchError, match=message):
        fetch.fetch("tau2019", tmp_path, listed=[listed])
    assert waits == [] and unpacked(tmp_path) == {}


def test_a_host_that_drips_is_given_up(host, tmp_path, waits, monkeypatch):
    listed = host.add(f"{TAU}.meta.zip", zipped({"a": noise(0, 5000)}))
    minutes = iter(range(0, 10**6, 61))
    monkeypatch.setattr(fetch.time, "monotonic", lambda: next(minutes))
    with pytest.raises(FetchError, match="slower than 10 kB a second .5 tries"):
        fetch.fetch("tau2019", tmp_path, listed=[listed])


@pytest.mark.parametrize("place", ["tau2019", f"tau2019/{TAU}", TAU])
def test_a_corpus_in_the_archives_own_folder_is_found(small_mini, tmp_path, monkeypatch, place):
    monkeypatch.setenv("ASC_DATA", str(tmp_path))
    shutil.copytree(small_mini.root, tmp_path / place)
    assert len(corpora.find("tau2019").scenes().clips) == len(small_mini.clips)
    assert not any("is missing" in found.what for found in corpora.find("tau2019").check()[1])


def test_the_hosts_listing(monkeypatch):
    def answer(url, **_):
        assert url == "https://zenodo.org/api/records/2589280"
        names = [f"{TAU}.audio.{k}.zip" for k in (10, 2, 1)] + [f"{TAU}.meta.zip"]
        files = [
            {"key": n, "size": 7, "checksum": "md5:abc", "links": {"self": f"https://z/{n}"}}
            for n in names
        ]
        response = requests.Response()
        response.status_code, response._content = (
            200,
            str({"files": files}).replace("'", '"').encode(),
        )
        return response

    monkeypatch.setattr(fetch.requests, "get", answer)
    found = corpora.find("tau2019").archives()
    assert [archive.name.removeprefix(TAU)[1:] for archive in found][0] == "meta.zip" and len(
        found
    ) == 4
    assert found[0] == Archive(f"{TAU}.meta.zip", f"https://z/{TAU}.meta.zip", 7, "abc")
    assert [archive.name for archive in corpora.find("esc50").archives()] == ["ESC-50-master.zip"]


def test_esc50_has_no_checksum(host, tmp_path):
    listed = host.add(
        "ESC-50-master.zip",
        zipped({"ESC-50-master/meta/esc50.csv": b"filename\n", "ESC-50-master/a": b"b"}),
    )
    fetch.fetch("esc50", tmp_path, listed=[listed._replace(size=None, md5=None)])
    assert set(unpacked(tmp_path)) == {"meta/esc50.csv", "a"}


def test_the_command_says_one_line(host, tmp_path, monkeypatch, waits):
    monkeypatch.setenv("ASC_DATA", str(tmp_path))
    listed, files = tau(host)
    list_of_tau(monkeypatch, lambda: listed)
    run = CliRunner().invoke
    assert run(cli.app, ["data", "fetch", "tau2019"]).exit_code == 0
    assert unpacked(tmp_path / "tau2019", f"{TAU}/") == files
    shutil.rmtree(tmp_path / "tau2019")
    host.tricks[listed[0].name] = [(403,)]
    for arguments, message in (
        (["tau2019"], "the host answers 403 Forbidden"),
        (["mini"], "'mini' cannot be downloaded: choose one of fsdkaggle2019, macs, tau2019"),
    ):
        done = run(cli.app, ["data", "fetch", *arguments])
        assert (
            done.exit_code == 1
            and message in done.output.splitlines()[-1]
            and "Traceback" not in done.output
        )
    monkeypatch.setenv("ASC_DATA", "/sys/no")
    done = run(cli.app, ["data", "fetch", "tau2019"])
    assert done.exit_code == 1 and "cannot be written" in done.output.splitlines()[-1]

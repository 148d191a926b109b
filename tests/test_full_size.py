"""A stand-in for TAU 2019, in its exact format, from its archives to a record (slow)."""

import hashlib
import http.server
import threading
import zipfile
from dataclasses import replace
from functools import partial

import pytest
from helpers import NOTEBOOKS, execute

from asc_lib import corpora
from asc_lib.corpora import fetch, mini, soundscapes, store
from asc_lib.runs import records

TAU = "TAU-urban-acoustic-scenes-2019-development"


@pytest.fixture
def served(tmp_path):
    """560 clips of 10 s, zipped as the official archives are, and a server that has them."""
    scenes, archives = tmp_path / "composed", tmp_path / "served"
    soundscapes.write_scenes(replace(mini.RECIPE, seconds=10.0), mini.SynthesisedSounds(), scenes)
    archives.mkdir()
    audio = sorted((scenes / "audio").iterdir())
    tables = [scenes / "meta.csv", *sorted((scenes / "evaluation_setup").iterdir())]
    listed = []
    for name, files in (
        (f"{TAU}.meta.zip", tables),
        *((f"{TAU}.audio.{k + 1}.zip", audio[k::3]) for k in range(3)),
    ):
        with zipfile.ZipFile(archives / name, "w") as archive:
            for file in files:
                archive.write(file, f"{TAU}/{file.relative_to(scenes).as_posix()}")
        with open(archives / name, "rb") as file:
            listed.append((name, hashlib.file_digest(file, "md5").hexdigest()))
    handler = partial(http.server.SimpleHTTPRequestHandler, directory=archives)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    yield [
        fetch.Archive(name, f"{url}/{name}", (archives / name).stat().st_size, md5)
        for name, md5 in listed
    ]
    server.shutdown()


@pytest.mark.slow
def test_from_archives_to_a_record(served, tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ASC_RESULTS", str(tmp_path / "results"))
    fetch.fetch("tau2019", tmp_path / "data" / "tau2019", listed=served)
    counts, findings = corpora.find("tau2019").check()
    assert counts.set_index("table")["rows"]["tau2019/meta.csv"] == 560
    fatal = [finding for finding in findings if finding.fatal]
    assert len(fatal) == 3 and all(
        "rows, officially" in finding.what for finding in fatal
    )  # it is a stand-in
    packed = store.verify(corpora.find("tau2019").scenes())
    assert packed.waveforms.shape == (560, 2, 480_000)
    given = {"data": "tau2019", "epochs": 1}
    execute(NOTEBOOKS / "02_baseline.ipynb", tmp_path / "results", tmp_path, **given)
    (record,) = records.read_records("tau2019")
    assert record["n_parameters"] == 636_736 and record["parameters"]["front_end"] == "released"
    assert record["data"] == {
        "name": "tau2019",
        "clips": {"train": 360, "test": 180, "unused": 20},
        "fingerprint": packed.fingerprint,
    }
    assert len(record["history"]) == 1 and record["test_all"]["clips"] == 200

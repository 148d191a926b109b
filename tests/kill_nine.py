"""Kill downloads, packing, tagging, training and saving at random.

Each must then end as if undisturbed, with nothing hidden left behind.

    python tests/kill_nine.py --kills 50

Each kill (SIGKILL) happens in a folder of its own, at a moment drawn evenly from the time that the
work takes undisturbed, and is followed by a plain restart, whose files are compared byte by byte
with those of an undisturbed run.
"""

import argparse
import functools
import hashlib
import http.server
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np

STAMPED = ("back_end.skops", "system.json")  # hold the time, and its digest; loading checks them
JOBS = ("fetch", "pack", "tags", "training", "distilling", "saving")


def corpus(folder: Path):
    from asc_lib.corpora import tau2019

    return tau2019.read("mini", folder / "scenes")


def fetch(shared: Path, own: Path) -> None:
    """Three archives from the local server, as a corpus of Zenodo."""
    from asc_lib.corpora.fetch import Archive, fetch

    archives = []
    for path in sorted((shared / "served").glob("*.zip")):
        md5 = hashlib.md5(path.read_bytes()).hexdigest()
        archives.append(
            Archive(path.name, f"{os.environ['SERVER']}/{path.name}", path.stat().st_size, md5)
        )
    fetch("tau2019", own / "tau2019", listed=archives)


def pack(shared: Path, own: Path) -> None:
    from asc_lib.corpora import store

    store.CHUNK = 16
    store.verify(corpus(shared))


def tags(shared: Path, own: Path) -> None:
    """Tag vectors by networks that were not trained: their values matter here, not their sense."""
    import torch

    from asc_lib import corpora
    from asc_lib.corpora import store
    from asc_lib.tagging_net import TaggingNet
    from asc_lib.tags import sources
    from asc_lib.tags.tagger import Tagger

    torch.manual_seed(0)
    sizes, names = corpora.find("mini").preset.tagger, [f"tag {k}" for k in range(20)]
    tagger = Tagger({fold: TaggingNet(20, sizes) for fold in (1, 2)}, names, sizes)
    sources.default_tagger = lambda data: (tagger, {"stage 2": {"test": None}}, "random")
    sources.CHUNK = 16
    scenes = corpus(shared)
    sources.open_tag_vectors("tagger", scenes, store.pack(scenes))


def training(shared: Path, own: Path, specialists: int = 0) -> None:
    """Four epochs with mixup and an evaluation; what is kept: weights, and the record."""
    import torch
    from safetensors.torch import save_file

    from asc_lib import corpora
    from asc_lib.corpora import store
    from asc_lib.files import write_text, written_whole
    from asc_lib.scene_net import SceneNet
    from asc_lib.scenes import SceneData

    torch.manual_seed(0)
    scenes = corpus(shared)
    preset = corpora.find("mini").preset
    recipe = replace(preset.scene, crop=12_000, epochs=4, mixup_from=2, eval_every=2)
    recipe = replace(recipe, specialists=specialists)
    data = SceneData(scenes, store.pack(scenes), None, recipe, "cpu", "nothing")
    net = SceneNet(0, 10, "narrow", "baseline")
    history = data.train(net, 0, own / "checkpoint.safetensors")
    with written_whole(own / "net.safetensors") as file:
        save_file(net.state_dict(), file)
    write_text(own / "history.csv", history.drop(columns="seconds").to_csv())
    for path in own.glob("checkpoint*.safetensors"):  # they hold the seconds
        path.unlink()


def distilling(shared: Path, own: Path) -> None:
    """The same in five stages, with specialists."""
    training(shared, own, specialists=2)


def saving(shared: Path, own: Path) -> None:
    """Save a system, its record and a table again and again; what is there is whole each time."""
    import pandas as pd
    import torch

    from asc_lib import corpora, settings
    from asc_lib.corpora import store
    from asc_lib.files import write_text
    from asc_lib.runs import records
    from asc_lib.scene_net import SceneNet
    from asc_lib.scenes import SceneData
    from asc_lib.tagging_net import TaggingNet
    from asc_lib.tags.tagger import Tagger
    from asc_lib.tags.windows import TagVectors
    from asc_lib.use import system

    os.environ["ASC_RESULTS"] = str(own / "results")
    torch.manual_seed(0)
    scenes = corpus(shared)
    preset = corpora.find("mini").preset
    names = [f"tag {k}" for k in range(20)]
    tagger = Tagger({fold: TaggingNet(20, preset.tagger) for fold in (1, 2)}, names, preset.tagger)
    values = np.random.default_rng(0).random((len(scenes.clips), 1, 20), "float32")
    vectors = TagVectors(values, names, "tagger", tagger=tagger)
    data = SceneData(scenes, store.pack(scenes), vectors, preset.scene, "cpu")
    net = SceneNet(20, 10, "narrow", "attention", heads=2, layers=1)
    notebook = dict(data="mini", seed=0, epochs=1, device="cpu", threads=1, front_end="auto")
    notebook |= dict(precision="float32", tags="tagger", tag_windows="auto", n_tags=80)
    notebook |= dict(heads=2, layers=1)
    checked = settings.check("04_attention", **notebook)
    history = pd.DataFrame([{"epoch": 1, "loss": 1.0, "seconds": 1.0}])
    evaluated = data.evaluate(net)
    folder = own / "results" / "mini" / "systems"
    for _ in range(5):
        for path in folder.glob("[!.]*"):  # what is there is whole
            system.load(path, "cpu")
        records.read_records("mini")
        record = records.write_scene_record(checked, data, net, history, evaluated)
        system.save(checked, data, net, record)
        write_text(own / "results" / "mini" / "table.csv", pd.DataFrame(record["history"]).to_csv())


def work(job: str, shared: Path, own: Path) -> None:
    import torch

    import asc_lib.tags.sources  # noqa: F401, before the clock starts

    torch.set_num_threads(1)
    print("started", flush=True)
    globals()[job](shared, own)


def prepare(shared: Path) -> None:
    """A corpus of 190 clips of one second, and the same in three archives."""
    from asc_lib.corpora import mini, soundscapes

    recipe = replace(mini.RECIPE, seconds=1.0, train=(1, 1), test=(1, 1))
    soundscapes.write_scenes(recipe, mini.SynthesisedSounds(), shared / "scenes")
    files = sorted(path for path in (shared / "scenes").rglob("*") if path.is_file())
    (shared / "served").mkdir()
    for number in range(3):
        archive = (
            shared / "served" / f"TAU-urban-acoustic-scenes-2019-development.audio.{number + 1}.zip"
        )
        with zipfile.ZipFile(archive, "w") as packed:
            for path in files[number::3]:
                name = path.relative_to(shared / "scenes").as_posix()
                packed.write(path, f"TAU-urban-acoustic-scenes-2019-development/{name}")


class Slow(http.server.SimpleHTTPRequestHandler):
    """Serves files slowly enough to be killed in the middle."""

    def copyfile(self, source, outputfile) -> None:
        while piece := source.read(1 << 19):
            outputfile.write(piece)
            time.sleep(0.02)

    def log_message(self, *_) -> None:
        pass


def start(job: str, shared: Path, own: Path) -> subprocess.Popen:
    own.mkdir(exist_ok=True)
    command = [sys.executable, __file__, "--job", job, "--shared", shared, "--own", own]
    environment = os.environ | {"ASC_DATA": str(own / "data"), "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline().strip() == "started", process.stderr.read()
    return process


def finish(process: subprocess.Popen) -> float:
    started = time.perf_counter()
    _, errors = process.communicate()
    assert process.returncode == 0, errors
    return time.perf_counter() - started


def contents(folder: Path) -> dict[str, str]:
    """Hash of every file by its name, but of locks."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {
        path.relative_to(folder).as_posix(): path.name
        if path.name in STAMPED
        else hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def tally(kills: int, seed: int) -> None:
    rng, root = np.random.default_rng(seed), Path(tempfile.mkdtemp())
    shared = root / "shared"
    prepare(shared)
    serve = functools.partial(Slow, directory=shared / "served")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve)
    server.handle_error = lambda *_: None  # a client that was killed
    threading.Thread(target=server.serve_forever, daemon=True).start()
    os.environ["SERVER"] = f"http://127.0.0.1:{server.server_port}"
    wrong = 0
    for job, share in zip(JOBS, np.array_split(np.arange(kills), len(JOBS))):
        takes = finish(start(job, shared, root / f"{job}-undisturbed"))
        expected, equal, late = contents(root / f"{job}-undisturbed"), 0, 0
        done = 0
        while done < len(share):
            own = root / f"{job}-killed"
            process = start(job, shared, own)
            time.sleep(rng.uniform(0, takes))
            late += process.poll() is not None  # it had ended already: this one does not count
            done += process.poll() is None
            process.kill()
            process.communicate()
            finish(start(job, shared, own))
            equal += contents(own) == expected
            shutil.rmtree(own)
        wrong += done + late - equal
        same = f"{equal} of {done + late} restarts ended with the same {len(expected)} files"
        print(
            f"{job}: {done} kills within {takes:.1f} s of work ({late} came too late); {same}",
            flush=True,
        )
    shutil.rmtree(root)
    raise SystemExit(f"{wrong} restarts ended differently" if wrong else 0)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--job", choices=JOBS, help=argparse.SUPPRESS)
    parser.add_argument("--shared", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--own", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.job:
        work(given.job, given.shared, given.own)
    else:
        tally(given.kills, given.seed)

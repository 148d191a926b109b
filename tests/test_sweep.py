"""Sweeps on Dask: what stops one, and that the same command then ends as if nothing had."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import nbformat
import numpy as np
import pytest
from dask.distributed import Client

from asc_lib.files import REPOSITORY
from asc_lib.runs import sweep

CODE = """
import json, os, time
from pathlib import Path
from ipykernel import get_connection_info
assert json.loads(get_connection_info())["transport"] == "ipc"  # which has no ports to collide
Path(folder, f"{name}-started-{os.getpid()}").touch()
Path(folder, f"{name}-sees").write_text(os.environ.get("CUDA_VISIBLE_DEVICES", "none"))
time.sleep(seconds)
if fails:
    raise ValueError("it cannot be")
Path(folder, f"{name}.json").write_text(json.dumps({"name": name}))
"""


@pytest.fixture
def toys(tmp_path):
    """Jobs of a notebook that sleeps and leaves a record."""
    parameters = nbformat.v4.new_code_cell('folder, name, seconds, fails = "", "", 0.0, False')
    parameters.metadata["tags"] = ["parameters"]
    notebook = nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(CODE)])
    notebook.metadata["kernelspec"] = {
        "name": "python3",
        "language": "python",
        "display_name": "Python 3",
    }
    nbformat.write(notebook, tmp_path / "toy.ipynb")

    def job(name, seconds=0.0, fails=False):
        given = {"folder": str(tmp_path), "name": name, "seconds": seconds, "fails": fails}
        return sweep.Job(
            name,
            tmp_path / "toy.ipynb",
            given,
            tmp_path / f"{name}.ipynb",
            tmp_path / f"{name}.json",
        )

    return job


def started(folder: Path, name: str) -> list[Path]:
    return list(folder.glob(f"{name}-started-*"))


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)
    return found


@pytest.fixture(scope="module")
def client():
    with sweep.cluster(gpus=["3", "5"]) as local, Client(local) as client:
        client.wait_for_workers(2)
        yield client


def test_a_failed_cell_does_not_stop_the_others(toys, tmp_path, client, capsys):
    failed = sweep.dispatch([toys("a"), toys("b", fails=True), toys("c")], client, {})
    assert [(one.job.run, one.error) for one in failed] == [("b", "ValueError: it cannot be")]
    assert "2 done, 1 failed, 0 running, 0 waiting | 0 min left" in capsys.readouterr().out
    assert nbformat.read(tmp_path / "b.ipynb", 4).metadata.papermill.exception
    before = (tmp_path / "a.json").stat().st_mtime_ns
    assert sweep.dispatch([toys("a"), toys("b")], client, {}) == []
    assert (tmp_path / "a.json").stat().st_mtime_ns == before and (tmp_path / "b.json").exists()
    assert len(started(tmp_path, "a")) == 1 and len(started(tmp_path, "b")) == 2


def test_a_full_disk(toys, tmp_path, client):
    (tmp_path / "a.ipynb").symlink_to("/dev/full")
    (failed,) = sweep.dispatch([toys("a"), toys("b")], client, {})
    assert failed.job.run == "a" and "No space left on device" in failed.error
    assert not (tmp_path / "a.json").exists() and (tmp_path / "b.json").exists()
    (tmp_path / "a.ipynb").unlink()
    assert sweep.dispatch([toys("a"), toys("b")], client, {}) == []
    assert (tmp_path / "a.json").exists()


def test_a_notebook_without_its_record_has_failed(toys, tmp_path, client):
    job = replace(toys("a"), record=tmp_path / "elsewhere.json")
    (failed,) = sweep.dispatch([job], client, {})
    assert failed.error == f"it ended without its record {tmp_path}/elsewhere.json"


def test_a_killed_workers_cell_runs_again(toys, tmp_path, client):
    processes = client.run(os.getpid)
    future = client.submit(sweep.execute, toys("a", 3.0), {}, pure=False)
    (mark,) = until(lambda: started(tmp_path, "a"))
    kernel = int(mark.name.rpartition("-")[2])
    worker = int(Path(f"/proc/{kernel}/stat").read_text().split(")")[1].split()[1])
    assert worker in processes.values()
    os.kill(worker, signal.SIGKILL)
    assert future.result().error == ""
    assert len(started(tmp_path, "a")) == 2 and (tmp_path / "a.json").exists()
    assert not Path(f"/proc/{kernel}").exists()  # the first kernel ended with its worker


def test_each_worker_has_its_own_gpu(toys, tmp_path, client):
    client.wait_for_workers(2, timeout=120)  # one may have been killed by a test before
    assert len(client.nthreads()) == 2
    sweep.dispatch([toys(name, 3.0) for name in "ab"], client, {})
    assert {(tmp_path / f"{name}-sees").read_text() for name in "ab"} == {"3", "5"}


SWEEP = """
import sys
from pathlib import Path
from asc_lib.runs import sweep
folder, seconds, scheduler = Path(sys.argv[1]), float(sys.argv[2]), sys.argv[3]
def job(name):
    given = {"folder": str(folder), "name": name, "fails": False}
    given["seconds"] = seconds if name in "cd" else 0.0
    output, record = folder / f"{name}.ipynb", folder / f"{name}.json"
    return sweep.Job(name, folder / "toy.ipynb", given, output, record)
if __name__ == "__main__":
    with sweep.connected(2, scheduler) as client:
        print("connected", flush=True)
        failed = sweep.dispatch([job(name) for name in "abcd"], client, {})
    print("failed", [one.job.run for one in failed])
"""


def hear_ctrl_c() -> None:
    """A process started in the background ignores Ctrl-C, and so do those that it starts."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


@pytest.fixture
def start(toys, tmp_path):
    toys("a")  # writes the notebook
    script, begun = tmp_path / "swept.py", []
    script.write_text(SWEEP)

    def begin(*command: str) -> subprocess.Popen:
        pipes = dict(
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
        )
        begun.append(
            subprocess.Popen(
                [sys.executable, *command], cwd=REPOSITORY, preexec_fn=hear_ctrl_c, **pipes
            )
        )
        return begun[-1]

    yield (
        lambda seconds, scheduler="": begin(str(script), str(tmp_path), str(seconds), scheduler),
        begin,
    )
    for process in begun:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def kernels(folder: Path) -> list[int]:
    marks = [int(path.name.rpartition("-")[2]) for path in folder.glob("*-started-*")]
    return [pid for pid in marks if Path(f"/proc/{pid}").exists()]


@pytest.mark.parametrize(
    "end", [signal.SIGINT, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_a_stopped_sweep_leaves_no_process_and_nothing_half_written(
    start, toys, tmp_path, client, end
):
    sweeping = start[0](300)
    until(lambda: (tmp_path / "a.json").exists() and started(tmp_path, "c"))
    (os.killpg if end == signal.SIGINT else os.kill)(sweeping.pid, end)
    sweeping.communicate(timeout=120)
    until(lambda: not kernels(tmp_path))
    for path in tmp_path.glob("*.json"):
        assert json.loads(path.read_text()) == {"name": path.stem}
    assert not (tmp_path / "c.json").exists()
    assert sweep.dispatch([toys(name) for name in "abcd"], client, {}) == []
    assert len(list(tmp_path.glob("[a-d].json"))) == 4


@pytest.mark.slow
def test_a_scheduler_elsewhere_and_its_death(start, tmp_path):
    sweep_at, begin = start
    address = tmp_path / "scheduler.json"
    scheduler = begin(
        "-m", "distributed.cli.dask_scheduler", "--port", "0", "--scheduler-file", str(address)
    )
    until(address.exists)
    tcp = until(lambda: json.loads(address.read_text() or "{}").get("address"))
    with (
        pytest.raises(ValueError, match="has no workers: start some with `dask worker tcp://"),
        sweep.connected(0, tcp),
    ):
        pass
    workers = [begin("-m", "distributed.cli.dask_worker", tcp, "--nthreads", "1") for _ in range(2)]
    with Client(tcp) as client:
        client.wait_for_workers(2, timeout=60)
    sweeping = sweep_at(300, tcp)
    until(lambda: (tmp_path / "a.json").exists() and started(tmp_path, "c"))
    os.kill(scheduler.pid, signal.SIGKILL)
    _, error = sweeping.communicate(timeout=120)
    assert "the scheduler was lost: run the same command again, finished records are kept" in error
    for worker in workers:
        os.killpg(worker.pid, signal.SIGKILL)
    out, _ = sweep_at(0).communicate(timeout=120)
    assert "failed []" in out and len(list(tmp_path.glob("[a-d].json"))) == 4


def parents(pid: int) -> list[int]:
    found = []
    while pid > 1:
        pid = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")")[-1].split()[1])
        found.append(pid)
    return found


def kernels_of(pid: int) -> list[int]:
    running = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it may end meanwhile
            if b"ipykernel_launcher" in path.read_bytes() and pid in parents(int(path.parent.name)):
                running.append(int(path.parent.name))
    return running


def records_in(folder: Path) -> dict[str, tuple]:
    """Records less their times, and predictions, by name."""
    found = {}
    for path in sorted(folder.rglob("records/*.json")):
        record = json.loads(path.read_text())
        record.pop("seconds")
        with np.load(path.with_suffix(".npz")) as arrays:
            found[path.stem] = record, {name: arrays[name].tolist() for name in arrays}
    return found


@pytest.mark.slow
def test_a_disturbed_sweep_gives_the_records_of_an_undisturbed_one(start, tmp_path, monkeypatch):
    """Eight short runs of notebook 02, three times.

    In peace; with a worker killed, then Ctrl-C; on workers elsewhere.
    """
    begin, cells = start[1], 8

    def sweep_into(name: str, *more: str) -> tuple[subprocess.Popen, Path]:
        monkeypatch.setenv("ASC_RESULTS", str(tmp_path / name))
        words = [
            "baseline",
            "--data",
            "mini",
            "--epochs",
            "1",
            "--seeds",
            ",".join(map(str, range(cells))),
        ]
        return begin("-m", "asc_lib.cli", "sweep", *words, *more), tmp_path / name

    peaceful, undisturbed = sweep_into("peace")
    out, _ = peaceful.communicate(timeout=900)
    assert f"{cells} done, 0 failed" in out and len(records_in(undisturbed)) == cells

    swept, disturbed = sweep_into("disturbed")
    until(lambda: len(records_in(disturbed)) >= 1 and kernels_of(swept.pid), 300)
    os.kill(parents(kernels_of(swept.pid)[0])[0], signal.SIGKILL)
    until(lambda: len(records_in(disturbed)) >= 3, 300)
    os.killpg(swept.pid, signal.SIGINT)
    assert "stopped: run the same command again to resume" in swept.communicate(timeout=120)[1]
    assert len(records_in(disturbed)) < cells
    out, _ = sweep_into("disturbed")[0].communicate(timeout=900)
    assert records_in(disturbed) == records_in(undisturbed)

    address = tmp_path / "scheduler.json"
    begin("-m", "distributed.cli.dask_scheduler", "--port", "0", "--scheduler-file", str(address))
    tcp = until(lambda: address.exists() and json.loads(address.read_text() or "{}").get("address"))
    for _ in range(2):
        begin("-m", "distributed.cli.dask_worker", tcp, "--nthreads", "1")
    with Client(tcp) as client:
        client.wait_for_workers(2, timeout=60)
    swept, elsewhere = sweep_into("elsewhere", "--scheduler", tcp)
    swept.communicate(timeout=900)
    assert records_in(elsewhere) == records_in(undisturbed)


def test_no_scheduler_there(monkeypatch):
    monkeypatch.setattr(sweep, "Client", lambda address, timeout: Client(address, timeout="1s"))
    with pytest.raises(OSError, match="tcp://127.0.0.1:9"), sweep.connected(0, "tcp://127.0.0.1:9"):
        pass


def test_a_cluster_of_ones_own_answers_this_machine_only(client):
    addresses = [client.scheduler.address, client.dashboard_link, *client.nthreads()]
    assert all("127.0.0.1:" in address for address in addresses)

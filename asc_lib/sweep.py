"""Many runs on Dask: each cell is one papermill execution of its notebook, whose kernel is a process of its own.

A cell is done when its record is there. So a sweep may be started again after whatever stopped it: finished records are
skipped, and a run that was cut short goes on from its checkpoint.
"""

import logging
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import papermill
import torch
from dask.distributed import CancelledError, Client, Nanny, Scheduler, SpecCluster, as_completed
from filelock import FileLock

from .artefacts import data_root, first_line, results_root
from .cells import Cell, run_names

PINNED = "CUDA_VISIBLE_DEVICES"
HERE = "127.0.0.1"  # whoever reaches a Dask scheduler may run code: one of our own answers this machine only
KERNEL = ["--log-level=50"]  # of its own log; what cells print is in the executed notebook


@dataclass(frozen=True)
class Job:
    """A notebook to execute, with the record that it leaves."""

    run: str
    notebook: Path
    parameters: dict[str, int | str]
    output: Path
    record: Path


@dataclass(frozen=True)
class Outcome:
    """How a job ended: with its record, or with an error."""

    job: Job
    seconds: float
    error: str = ""


def roots() -> dict[str, str]:
    """Where this process reads and writes; workers, wherever they run, are told to do so in the same folders."""
    named = {"ASC_DATA": str(data_root()), "ASC_RESULTS": str(results_root())}
    return named | {name: str(Path(os.environ[name]).resolve()) for name in ["ASC_ESC50"] if os.environ.get(name)}


def jobs(cells: list[Cell], folders: dict[str, str]) -> list[Job]:
    """Name the runs of cells. Runs on a worker, since it first makes the data and tag vectors that they read."""
    os.environ.update(folders)
    found = {}
    for cell, run in zip(cells, run_names(cells)):
        folder = results_root() / cell.settings().data_name
        output, record = folder / "notebooks" / f"{run}.ipynb", folder / "records" / f"{run}.json"
        found[run] = Job(run, cell.path, cell.parameters, output, record)
    return list(found.values())


def execute(job: Job, folders: dict[str, str]) -> Outcome:
    """Execute a job's notebook, unless its record is there. Runs on a worker; one at a time executes the same job."""
    os.environ.update(folders)
    started = time.perf_counter()
    job.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(job.output.with_name(f".{job.run}.lock")):
            if not job.record.exists():
                papermill.execute_notebook(
                    job.notebook, job.output, job.parameters, progress_bar=False, extra_arguments=KERNEL
                )
        error = "" if job.record.exists() else f"it ended without its record {job.record}"
    except papermill.PapermillExecutionError as failure:
        error = f"{failure.ename}: {failure.evalue}"
    except Exception as failure:  # a kernel that died, a full disk: whatever it is, the other jobs go on
        error = f"{type(failure).__name__}: {first_line(failure)}"
    return Outcome(job, time.perf_counter() - started, error)


@contextmanager
def cluster(workers: int = 0, gpus: list[str] | None = None) -> Iterator[SpecCluster]:
    """A cluster on this machine: a worker a GPU, each with its own (``gpus``: those visible), or else one a core."""
    gpus = _visible_gpus() if gpus is None else gpus
    spec = {}
    for number in range(workers or len(gpus) or os.cpu_count() or 1):
        env = {PINNED: gpus[number % len(gpus)]} if gpus else {}
        spec[number] = {"cls": Nanny, "options": {"host": HERE, "nthreads": 1, "memory_limit": 0, "env": env}}
    scheduler = {"cls": Scheduler, "options": {"host": HERE, "dashboard_address": f"{HERE}:0"}}
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    os.environ["DASK_LOGGING__DISTRIBUTED"] = "critical"  # of the workers: `_report` says what matters
    with SpecCluster(workers=spec, scheduler=scheduler) as local:
        yield local


@contextmanager
def connected(workers: int = 0, scheduler: str = "") -> Iterator[Client]:
    """A client of the scheduler at this address, or of a cluster of ``workers`` on this machine.

    Raises OSError when nothing answers there, and ValueError for a cluster without workers.
    """
    if not scheduler:
        with cluster(workers) as local, Client(local) as client:
            client.wait_for_workers(len(local.worker_spec))
            try:
                yield client
            except KeyboardInterrupt:  # closing would wait for the notebooks that are being executed
                for nanny in local.workers.values():
                    nanny.auto_restart = False
                    os.kill(nanny.pid, signal.SIGKILL)
                raise
        return
    with Client(scheduler, timeout="10s") as client:
        if not client.nthreads():
            raise ValueError(f"the scheduler at {scheduler} has no workers: start some with `dask worker {scheduler}`")
        yield client


def _visible_gpus() -> list[str]:
    named = os.environ.get(PINNED)
    return named.split(",") if named else [str(number) for number in range(torch.cuda.device_count())]


def sweep(cells: list[Cell], client: Client) -> list[Outcome]:
    """Run the cells that have no record yet on a cluster's workers; print progress; return those that failed.

    Raises RuntimeError when the scheduler is lost, and what ``run_names`` raises.
    """
    folders = roots()
    print("naming the runs; data and tag vectors are made first where they are missing", flush=True)
    named = _result(client.submit(jobs, cells, folders, pure=False))
    waiting = [job for job in named if not job.record.exists()]
    print(f"{len(named) - len(waiting)} of {len(named)} done before", flush=True)
    return dispatch(waiting, client, folders)


def dispatch(waiting: list[Job], client: Client, folders: dict[str, str]) -> list[Outcome]:
    """Execute jobs on a cluster's workers, print a line for each that ends, and return those that failed.

    A job whose worker dies is given to another, three times at most. Raises RuntimeError when the scheduler is lost.
    """
    futures = {client.submit(execute, job, folders, pure=False): job for job in waiting}
    ended: list[Outcome] = []
    for future in as_completed(futures):
        try:
            outcome = _result(future)
        except RuntimeError:
            raise
        except Exception as error:  # the worker died again and again
            outcome = Outcome(futures[future], 0.0, first_line(error))
        ended.append(outcome)
        _report(outcome, ended, len(waiting), len(client.nthreads()))
    return [outcome for outcome in ended if outcome.error]


def _result(future):
    try:
        return future.result()
    except CancelledError:
        lost = "the scheduler was lost: run the same command again, finished records are kept"
        raise RuntimeError(lost) from None


def _report(outcome: Outcome, ended: list[Outcome], total: int, workers: int) -> None:
    failed, left = sum(bool(one.error) for one in ended), total - len(ended)
    mean = sum(one.seconds for one in ended) / len(ended)
    minutes = mean * left / max(workers, 1) / 60
    running = min(left, workers)
    state = f"{len(ended) - failed} done, {failed} failed, {running} running, {left - running} waiting"
    word = "FAILED" if outcome.error else "done"
    print(f"{word} {outcome.job.run} ({outcome.seconds:.0f} s) | {state} | {minutes:.0f} min left", flush=True)
    if outcome.error:
        print(f"  {outcome.error}\n  see {outcome.job.output}", flush=True)

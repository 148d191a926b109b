"""Many runs on Dask: each cell is one papermill execution of its notebook, with its own kernel.

A cell is done when its record is there. So a sweep resumes after any interruption: finished records
are skipped, and an unfinished run continues from its checkpoint.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

import papermill
import torch
from dask.distributed import (
    CancelledError,
    Client,
    Future,
    Nanny,
    Scheduler,
    SpecCluster,
    as_completed,
)
from filelock import FileLock
from traitlets.config import Config

from .. import corpora
from ..files import cores, data_root, first_line, named, results_root, shown
from .cells import Cell, cells, papermill_line, parts, run_names

PINNED = "CUDA_VISIBLE_DEVICES"
HERE = "127.0.0.1"  # whoever reaches a Dask scheduler can run code: ours answers this machine only


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
    """Where this process reads and writes; workers, wherever they run, use the same folders."""
    return {
        "ASC_DATA": str(data_root()),
        "ASC_RESULTS": str(results_root()),
        **{
            name: os.pathsep.join(map(str, named(name)))
            for name in ("ASC_ESC50", "ASC_PLUGINS", "ASC_YAMNET")
        },
    }


def jobs(cells: list[Cell], folders: dict[str, str]) -> list[Job]:
    """Name the runs of cells. Runs on a worker, since it first makes data and tag vectors."""
    os.environ.update(folders)
    found = {}
    for cell, run in zip(cells, run_names(cells)):
        folder = corpora.results(cell.settings().data)
        found[run] = Job(
            run,
            cell.path,
            cell.parameters,
            output=folder / "notebooks" / f"{run}.ipynb",
            record=folder / "records" / f"{run}.json",
        )
    return list(found.values())


def execute(job: Job, folders: dict[str, str]) -> Outcome:
    """Execute a job's notebook, unless its record is there. Runs on a worker, one at a time."""
    os.environ.update(folders)
    started = time.perf_counter()
    job.output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(job.output.with_name(f".{job.run}.lock")):
            if not job.record.exists():
                _run(job)
        error = "" if job.record.exists() else f"it ended without its record {job.record}"
    except papermill.PapermillExecutionError as failure:
        error = f"{failure.ename}: {failure.evalue}"
    except Exception as failure:  # a dead kernel, a full disk: the other jobs go on
        error = f"{type(failure).__name__}: {first_line(failure)}"
    return Outcome(job, time.perf_counter() - started, error)


def _run(job: Job) -> None:
    if corpora.folds(job.parameters.get("data", "mini")):  # these have run: the notebook is theirs
        return _python("asc_lib.use.folds", job.notebook.stem, json.dumps(job.parameters))
    with TemporaryDirectory() as folder:
        papermill.execute_notebook(
            job.notebook,
            job.output,
            job.parameters,
            progress_bar=False,
            # two kernels that start at once may take the same TCP port, and wait for ever
            config=Config(KernelManager={"transport": "ipc", "ip": f"{folder}/kernel"}),
            # of the kernel's own log; what cells print is in the executed notebook
            extra_arguments=["--log-level=50"],
        )


def trained_system(data: str = "mini") -> Path:
    """Folder of a data set's combined system (seed 0), trained as in notebook 05 where missing.

    Raises RuntimeError where that notebook fails.
    """
    (job,) = jobs(cells("combined_shared", data=data), roots())
    path = job.record.parents[1] / "systems" / job.run
    if not path.exists():
        print(f"no combined system for '{data}' yet: training it first, as in notebook 05")
        job.output.parent.mkdir(parents=True, exist_ok=True)
        try:  # A notebook asks for this, and papermill cannot run inside a kernel's event loop.
            _python(*papermill_line(job.notebook, job.output, job.parameters))
        except RuntimeError as error:
            raise RuntimeError(f"notebook 05 failed, see {job.output}: {error}") from None
    return path


def _python(*words: str) -> None:
    """Run a module, with its arguments. Raises RuntimeError with the last line of its errors."""
    done = subprocess.run([sys.executable, "-m", *words], capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no message"])[-1])


@contextmanager
def cluster(workers: int = 0, gpus: list[str] | None = None) -> Iterator[SpecCluster]:
    """A cluster on this machine: one worker per GPU (``gpus``: those visible), or one per core."""
    gpus = _visible_gpus() if gpus is None else gpus
    spec = {
        number: {
            "cls": Nanny,
            "options": {
                "host": HERE,
                "nthreads": 1,
                "memory_limit": 0,
                "env": {PINNED: gpus[number % len(gpus)]} if gpus else {},
            },
        }
        for number in range(workers or len(gpus) or cores())
    }
    scheduler = {"cls": Scheduler, "options": {"host": HERE, "dashboard_address": f"{HERE}:0"}}
    logging.getLogger("distributed").setLevel(logging.CRITICAL)
    # The workers' own log level; `_report` prints what matters.
    os.environ["DASK_LOGGING__DISTRIBUTED"] = "critical"
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
            except KeyboardInterrupt:  # closing would wait for the notebooks under way
                for nanny in local.workers.values():
                    nanny.auto_restart = False
                    os.kill(nanny.pid, signal.SIGKILL)
                raise
    else:
        with Client(scheduler, timeout="10s") as client:
            if not client.nthreads():
                raise ValueError(
                    f"the scheduler at {scheduler} has no workers: "
                    f"start some with `dask worker {scheduler}`"
                )
            yield client


def _visible_gpus() -> list[str]:
    # cuda's: 0 where the variable is -1 or NoDevFiles; mps is one
    count = torch.cuda.device_count() or int(torch.backends.mps.is_available())
    pinned = os.environ.get(PINNED)
    return (pinned.split(",") if pinned else [str(k) for k in range(count)])[:count]


def sweep(cells: list[Cell], client: Client) -> list[Outcome]:
    """Run the cells without a record on a cluster's workers; return those that failed.

    Those of folds first, then, if none has failed, the system that learns from all clips. Prints
    progress. Raises RuntimeError when the scheduler is lost, and what ``run_names`` raises.
    """
    of_folds = parts(cells)
    failed = sweep(of_folds, client) if of_folds else []
    if failed:
        return failed
    folders = roots()
    print("naming the runs, after making missing data and tag vectors", flush=True)
    groups = [
        [cell for cell in cells if bool(cell.settings().tags) == with_tags]
        for with_tags in (False, True)
    ]
    naming = [client.submit(jobs, group, folders, pure=False) for group in groups if group]
    return dispatch([], client, folders, naming)


def dispatch(
    waiting: list[Job], client: Client, folders: dict[str, str], naming: Sequence[Future] = ()
) -> list[Outcome]:
    """Execute jobs on a cluster's workers; return those that failed. Prints one line per job.

    More jobs come from ``naming``: futures of ``jobs``. A job whose worker dies goes to another
    one, three times at most. Raises RuntimeError when the scheduler is lost, and at the end what
    naming has raised.
    """
    futures: dict[Future, Job] = {}
    coming = as_completed(naming)
    wrong = []

    def submit(waiting: list[Job]) -> None:
        new = {client.submit(execute, job, folders, pure=False): job for job in waiting}
        futures.update(new)
        coming.update(new)

    submit(waiting)
    ended: list[Outcome] = []
    for future in coming:
        try:
            outcome = _result(future)
        except RuntimeError:
            raise
        except Exception as error:
            if future in naming:
                wrong.append(error)
                continue
            outcome = Outcome(futures[future], 0.0, first_line(error))  # its worker died thrice
        if future in naming:
            left = [job for job in outcome if not job.record.exists()]
            print(f"{len(outcome) - len(left)} of {len(outcome)} done before", flush=True)
            submit(left)
            continue
        ended.append(outcome)
        _report(outcome, ended, len(futures), len(client.nthreads()))
    if wrong:
        raise wrong[0]
    return [outcome for outcome in ended if outcome.error]


def _result(future):
    try:
        return future.result()
    except CancelledError:
        raise RuntimeError(
            "the scheduler was lost: run the same command again, finished records are kept"
        ) from None


def _report(outcome: Outcome, ended: list[Outcome], total: int, workers: int) -> None:
    failed = sum(bool(other.error) for other in ended)
    left = total - len(ended)
    running = min(left, workers)
    mean = sum(other.seconds for other in ended) / len(ended)
    print(
        f"{'FAILED' if outcome.error else 'done'} {outcome.job.run} ({outcome.seconds:.0f} s) | "
        f"{len(ended) - failed} done, {failed} failed, {running} running, "
        f"{left - running} waiting | {mean * left / max(workers, 1) / 60:.0f} min left",
        flush=True,
    )
    if outcome.error:
        print(shown(f"  {outcome.error}\n  see {outcome.job.output}"), flush=True)

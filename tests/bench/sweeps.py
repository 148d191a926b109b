"""What a sweep costs: eight short cells by one worker and by two, beside the notebook alone.

``python -m tests.bench.sweeps`` takes some minutes on a quiet machine and needs `mini` in place
(`make demo`).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from asc_lib.files import REPOSITORY, write_text
from asc_lib.runs.records import environment

from . import report
from .common import machine

CELLS, EPOCHS = 8, 3


def timed(*commands: list[str], results: Path) -> float:
    """Seconds that commands take side by side, each with records in its own folder."""
    started, running = time.perf_counter(), []
    for number, command in enumerate(commands):
        environment = os.environ | {
            "ASC_RESULTS": str(results / str(number)),
            "OMP_NUM_THREADS": "1",
        }
        running.append(subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL))
    if any([one.wait() for one in running]):
        raise RuntimeError(f"{running[0].args} failed")
    return time.perf_counter() - started


def alone(results: Path, together: int = 1) -> float:
    """The notebook with nothing but a kernel: nbclient in its own process, imports included."""
    program = f"""
import nbformat, nbclient
notebook = nbformat.read({str(REPOSITORY / "notebooks" / "02_baseline.ipynb")!r}, 4)
(cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
cell.source += "\\nepochs = {EPOCHS}"
nbclient.NotebookClient(notebook, kernel_name="python3").execute()
"""
    return timed(*together * [[sys.executable, "-c", program]], results=results)


def swept(workers: int, results: Path) -> float:
    """A sweep of all cells."""
    seeds = ",".join(map(str, range(CELLS)))
    command = [str(Path(sys.executable).with_name("asc")), "sweep", "baseline", "--data", "mini"]
    return timed(
        [*command, "--epochs", str(EPOCHS), "--seeds", seeds, "--workers", str(workers)],
        results=results,
    )


def main() -> None:
    """Measure, write ``results/bench/sweeps/<machine>.json`` and print it."""
    with tempfile.TemporaryDirectory() as folder:
        single = sorted(alone(Path(folder) / f"alone{turn}") for turn in range(3))[1]
        pair = sorted(alone(Path(folder) / f"pair{turn}", together=2) for turn in range(3))[1]
        one, two = (swept(workers, Path(folder) / f"{workers}") for workers in (1, 2))
    found = {
        "machine": machine(),
        "cells": CELLS,
        "epochs": EPOCHS,
        "seconds": {
            "alone": single,
            "two alone, side by side": pair,
            "one worker": one,
            "two workers": two,
        },
        "cost a cell (s)": one / CELLS - single,
        "two workers, share of the time of one": two / one,
        "what the machine allows": pair / (2 * single),
        "environment": environment("cpu"),
    }
    folder = REPOSITORY / "results" / "bench"
    write_text(folder / "sweeps" / f"{machine()}.json", json.dumps(found, indent=1))
    write_text(folder / "README.md", report.draw(folder))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

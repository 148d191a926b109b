"""What a sweep costs: eight short cells by one worker and by two, beside the same notebook executed alone.

``python -m tests.bench.sweeps`` takes some minutes on a quiet machine and needs `mini` in place (`make demo`).
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from asc_lib.artefacts import REPOSITORY, write_text
from asc_lib.records import environment

from .common import machine

CELLS, EPOCHS = 8, 3


def timed(command: list[str], results: Path) -> float:
    """Seconds that a command takes, with its records under ``results``."""
    started = time.perf_counter()
    subprocess.run(command, check=True, env=os.environ | {"ASC_RESULTS": str(results)}, stdout=subprocess.DEVNULL)
    return time.perf_counter() - started


def alone(results: Path) -> float:
    """The notebook with nothing but a kernel: nbclient in a process of its own, imports included."""
    program = f"""
import nbformat, nbclient
notebook = nbformat.read({str(REPOSITORY / "notebooks" / "02_baseline.ipynb")!r}, 4)
(cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
cell.source += "\\nepochs = {EPOCHS}"
nbclient.NotebookClient(notebook, kernel_name="python3").execute()
"""
    return timed([sys.executable, "-c", program], results)


def swept(workers: int, results: Path) -> float:
    """A sweep of all cells."""
    seeds = ",".join(map(str, range(CELLS)))
    command = [str(Path(sys.executable).with_name("asc")), "sweep", "baseline", "--data", "mini"]
    return timed([*command, "--epochs", str(EPOCHS), "--seeds", seeds, "--workers", str(workers)], results)


def main() -> None:
    """Measure, write ``results/bench/sweeps/<machine>.json`` and print it."""
    with tempfile.TemporaryDirectory() as folder:
        single = sorted(alone(Path(folder) / f"alone{turn}") for turn in range(3))[1]
        one, two = (swept(workers, Path(folder) / f"{workers}") for workers in (1, 2))
    found = {
        "cells": CELLS,
        "epochs": EPOCHS,
        "seconds": {"alone": single, "one worker": one, "two workers": two},
        "cost a cell (s)": one / CELLS - single,
        "two workers, share of the time of one": two / one,
        "environment": environment("cpu"),
    }
    write_text(REPOSITORY / "results" / "bench" / "sweeps" / f"{machine()}.json", json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()

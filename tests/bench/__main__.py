"""``make bench``: measure ours and the plain way side by side, and write results/bench."""

import json
import sys
import tempfile
from pathlib import Path

import torch

from asc_lib.files import REPOSITORY, write_text
from asc_lib.runs import records
from asc_lib.training import default_device

from . import data, network, report
from .common import TOY, Sizes, machine, write_noise


def main(results: Path, sizes: Sizes) -> None:
    """Measure everything and write it down."""
    device = default_device()
    about = {"machine": machine(), "device": device, "threads": torch.get_num_threads(), "seed": 0}
    found = about | {"environment": records.environment(device), "sizes": vars(sizes)}
    with tempfile.TemporaryDirectory() as folder:
        write_noise(Path(folder), sizes)
        found["network"] = network.measure(Path(folder), sizes, device)
        found["data"] = data.measure(Path(folder), sizes)
    results.mkdir(parents=True, exist_ok=True)
    write_text(results / f"{machine()}.json", json.dumps(found, indent=1))
    write_text(results / "README.md", report.draw(results))
    print(report.text(found))


if __name__ == "__main__":
    arguments = sys.argv[1:]
    toy = arguments[:1] == ["--toy"]
    folder = Path(arguments[1]) if toy else REPOSITORY / "results" / "bench"
    main(folder, TOY if toy else Sizes())

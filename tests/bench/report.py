"""The table for people, ``results/bench/README.md``, drawn from the JSON of every machine.

A machine's JSON is that of ``make bench`` or, where it has "correct", that of ``make gpu``.
"""

import json
from pathlib import Path

HEAD = (
    "# Benchmarks\n\n"
    "Drawn from the JSON files beside it by `make bench`, which measures ours and the plain way in "
    "one run, in alternating\norder; figures are medians. The plain way is "
    "[tests/bench/plain.py](../../tests/bench/plain.py) and, for the data,\n`librosa.load` and "
    "partial reads with soundfile. The network is the baseline with the released front-end in "
    "float32; a\nstep takes 24 crops of 240,000 samples, inference 24 clips of 479,520 samples, "
    "the epoch 72 clips of 10 s. The content\nis noise. *Our memory*: the plain way in a process "
    "that keeps freed memory, as ours does. The floor\nis the counted work at the rate "
    "of this machine's matrix product (or of its memory, where that takes longer):\nnothing can be "
    "faster without doing less.\n"
)
SWEEPS = (
    "\n## Sweeps\n\n"
    "`python -m tests.bench.sweeps`: eight runs of notebook 02 on `mini`, three epochs each, one "
    "thread each. *Alone* is the\nnotebook in a kernel with nothing around it. The last two "
    "columns: the time of two workers as a share of that of one,\nand the same for two notebooks "
    "executed side by side with neither papermill nor Dask, which is what the machine allows.\n\n"
    "| machine | alone, s | a cell of a sweep, s | papermill and Dask, s | two workers "
    "| two alone |\n|---|---|---|---|---|---|\n"
)


def text(found: dict) -> str:
    """A machine's section."""
    return on_gpu(found) if "correct" in found else on_processor(found)


def on_gpu(found: dict) -> str:
    """The section of ``make gpu``; of a run that was cut short, what there is."""
    parts = {
        "correct": distances,
        "speed": speed,
        "side by side": together,
        "tagger": tagger,
    }
    about = found["environment"]
    lines = [
        f"\n## {found['machine']}\n",
        f"`make gpu`: torch {about['torch']}, {about['accelerator'] or found['device']}.\n",
    ]
    for name, draw in parts.items():
        lines += [*draw(found[name]), ""] if name in found else []
    return "\n".join(lines)


def distances(found: dict) -> list[str]:
    """The largest distances from float64 of all networks, and what is beyond the limits."""
    pairs = found["pairs"].values()
    first = next(iter(pairs))
    columns = list(next(iter(first["GPU"].values())))
    lines = [
        f"Largest relative distance from float64, {len(pairs)} pairs of front-end and fusion "
        "(*as run*: float32 with convolutions in TF32, torch's default):\n",
        f"| | {' | '.join(columns)} |",
        "|---|" + "---|" * len(columns),
    ]
    for place, kinds in first.items():
        for kind in kinds:
            largest = [max(pair[place][kind][column] for pair in pairs) for column in columns]
            cells = " | ".join(f"{distance:.1e}" for distance in largest)
            lines.append(f"| {place}, {kind} | {cells} |")
    shared = max(found["shared"].values())
    lines.append(
        f"\nInputs, optimiser and tags differ from the processor's by at most {shared:.1e}."
    )
    return lines + [f"\n**Wrong:** {what}" for what in found["wrong"]]


def speed(found: dict) -> list[str]:
    """Clips a second and share of the floor, one row a way; epochs and all cells."""
    rates, shares = found["clips a second"], found["share of the floor"]
    lines = [
        "| | steps, clips a second | of the floor's speed | inference, clips a second "
        "| of the floor's speed | memory of a step, GB |",
        "|---|---|---|---|---|---|",
    ]
    for way, memory in found["memory of a step (GB)"].items():
        cells = [f"{rates[row][way]:.0f} | {shares[row][way]:.0%}" for row in rates]
        lines.append(f"| {way} | {' | '.join(cells)} | {memory:.1f} |")
    place = "GPU" if found["store on the device"] else "processor's"
    lines += [
        f"\n{found['store (GB)']:.1f} GB of clips, in {place} memory after "
        f"{found['store to the device (s)']:.0f} s. Evaluation of all of them, back-ends on the "
        f"processor included, takes {found['evaluation (s)']:.0f} s.\n",
        "| | an epoch, s | 56 cells x 90 epochs and evaluations, days |",
        "|---|---|---|",
    ]
    days = found["56 cells (days)"]
    lines += [f"| {way} | {s:.1f} | {days[way]:.1f} |" for way, s in found["epoch (s)"].items()]
    reached = [
        f"{rate['GFLOP/s'] / 1e3:.0f} TFLOP/s in {precision}"
        for precision, rate in found["machine reaches"].items()
    ]
    copied = found["machine reaches"]["float32"]["GB/s"]
    lines.append(
        f"\nThe plain way's epoch is its steps alone, as if data cost nothing. The machine "
        f"reaches {', '.join(reached)} and {copied:.0f} GB/s."
    )
    return lines


def together(found: dict[str, float]) -> list[str]:
    """Throughput of several processes."""
    rates = [f"{count} of them {rate:.0f}" for count, rate in found.items()]
    return [f"Cells side by side, crops a second together: {', '.join(rates)}."]


def tagger(found: dict) -> list[str]:
    """A step of the tagger, and all of its training."""
    step, fed = (1e3 * found["seconds"][way] for way in ("step", "step with data"))
    return [
        f"A step of the tagger takes {step:.0f} ms, with its data {fed:.0f} ms: "
        f"{found['days']:.1f} days for five folds and two stages."
    ]


def on_processor(found: dict) -> str:
    """The section of ``make bench``."""
    training, data = found["network"], found["data"]
    lines = [
        f"\n## {found['machine']}\n",
        f"torch {found['environment']['torch']}, {found['threads']} threads, "
        f"device {found['device']}, seed 0.\n",
        "| | plain | plain, our memory | ours | times as fast | of the floor's speed |",
        "|---|---|---|---|---|---|",
    ]
    for row, ratios in training["times as fast"].items():
        rates = training["clips a second"][row]
        share = training["floor (s a clip)"][row] * rates["ours"]
        cells = _cells(rates, ".2f")
        times = " and ".join(f"**{ratio:.2f}**" for ratio in ratios.values())
        lines.append(f"| {row}, clips a second | {cells} | {times} | {share:.0%} |")
    for name, other in training.get("front-ends", {}).items():  # not in older figures
        for row, rate in other["clips a second"].items():
            share = other["floor (s a clip)"][row] * rate
            lines.append(
                f"| {row} with `{name}`, clips a second | | | {rate:.2f} | | {share:.0%} |"
            )
    memory = {way: value / 1e3 for way, value in training["peak memory (MB)"].items()}
    days = _cells(training["56 cells (days)"], ".0f")
    lines += [
        f"| peak memory, GB | {_cells(memory, '.1f')} | | |",
        f"| 56 cells x 90 epochs at that speed, days | {days} | | |",
    ]
    pairs = {
        "packing": ("librosa.load", "pack"),
        "batch, int16": ("partial reads, int16", "ours, int16"),
        "batch, float32": ("partial reads, float32", "ours, float32"),
    }
    for row, (plain, ours) in pairs.items():
        times = data["seconds"][plain]["median"], data["seconds"][ours]["median"]
        name = (
            "packing 300 clips of 10 s"
            if row == "packing"
            else f"{row.replace(',', ' of 24 crops,')}"
        )
        lines.append(
            f"| {name}, ms | {1e3 * times[0]:.0f} | | {1e3 * times[1]:.1f} "
            f"| **{data['times as fast'][row]:.1f}** | |"
        )
    reached, work = training["machine reaches"], training["counted"]
    lines.append(
        f"\nThis machine reaches {reached['GFLOP/s']:.0f} GFLOP/s and {reached['GB/s']:.0f} GB/s; "
        f"a crop takes {work['inference']:.2f} GFLOP forward, {work['training step']:.2f} GFLOP "
        f"and {work['GB']:.2f} GB a step."
    )
    shares = [f"`{name}` {share:.0%}" for name, share in training.get("profile", {}).items()]
    if shares:
        lines.append(f"\nOf a training step, by torch's profiler: {', '.join(shares)}.")
    return "\n".join(lines) + "\n"


def _cells(values: dict[str, float], form: str) -> str:
    """Cells of the three ways; older figures lack the second."""
    ways = ("plain", "plain, our memory", "ours")
    return " | ".join(format(values[way], form) if way in values else "" for way in ways)


def sweep(found: dict) -> str:
    """A machine's row."""
    seconds, cells = found["seconds"], found["cells"]
    return (
        f"| {found['machine']} | {seconds['alone']:.1f} | {seconds['one worker'] / cells:.1f} "
        f"| {found['cost a cell (s)']:+.1f} | {found['two workers, share of the time of one']:.2f} "
        f"| {found['what the machine allows']:.2f} |\n"
    )


def draw(folder: Path) -> str:
    """The page of all machines in ``folder``."""
    found, swept = (
        [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob(pattern))]
        for pattern in ("*.json", "sweeps/*.json")
    )
    return HEAD + "".join(map(text, found)) + (SWEEPS + "".join(map(sweep, swept)) if swept else "")

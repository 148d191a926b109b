"""``make gpu``: is a GPU right, and how fast is it at full size? To results/bench.

It takes about ten minutes and needs torch, torchaudio, numpy, pandas, scikit-learn,
scipy and safetensors, nothing else of the project's environment. What is measured is written after
each part. ``--toy FOLDER`` does everything small, on the processor.
"""

import json
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch

from . import report
from .bare import stand_ins
from .common import TOY, Sizes, machine, side_by_side

with stand_ins():
    import pandas as pd

    from asc_lib import training
    from asc_lib.corpora import TagCorpus
    from asc_lib.files import REPOSITORY, write_text
    from asc_lib.front_ends import FRONT_ENDS
    from asc_lib.recipes import PRECISIONS, TaggerSizes
    from asc_lib.runs.records import environment
    from asc_lib.tagging_net import TaggingNet
    from asc_lib.tags.tag_data import TagData
    from asc_lib.tags.tagger_training import loss as tagger_loss

    from . import correct, network, worker

CURATED = 4_970  # clips of FSDKaggle2019


@dataclass(frozen=True)
class Plan:
    """What is measured, and how much of it."""

    device: str = "cuda"
    sizes: Sizes = Sizes(clips=14_400, per_epoch=network.TRAIN_CLIPS, rounds=3, steps=20)
    cell: Sizes = Sizes(clips=1_200, per_epoch=1_200)  # of several side by side
    together: tuple[int, ...] = (1, 2, 4)
    tagger: TaggerSizes = TaggerSizes()


SMALL = replace(TOY, clips=16, per_epoch=12, steps=2)
TOY_PLAN = Plan(
    "cpu",
    SMALL,
    SMALL,
    (2,),
    TaggerSizes(bands=32, widths=(8, 8), depths=(1, 1), crop=32, batch=8),
)


def memory_of(work: Callable[[], object], device: str) -> float:
    """GB that some work takes on a GPU beyond what is there before it."""
    if device == "cpu":
        return 0.0
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    return (torch.cuda.max_memory_allocated() - before) / 1e9


def speed(plan: Plan) -> dict:
    """Steps and inference of the plain way and of ours with each front-end; epochs, evaluation."""
    device, sizes = plan.device, plan.sizes
    started = time.perf_counter()
    data = worker.scenes(None, sizes, device)
    network.synchronise(device)
    found: dict = {
        "store (GB)": data.waveforms.waveforms.nbytes / 1e9,
        "store to the device (s)": time.perf_counter() - started,
        "store on the device": torch.is_tensor(data.waveforms.waveforms),
    }
    kinds = {"plain": ("released", "float32")} | {
        f"{name} in {precision}": (name, precision)
        for name in FRONT_ENDS
        for precision in PRECISIONS
    }
    ways = {"plain": worker.plain_way(None, sizes, device)}
    for way, (name, precision) in list(kinds.items())[1:]:
        recipe = replace(data.recipe, precision=precision)
        ways[way] = worker.our_way(replace(data, recipe=recipe), sizes, name)
    clips = {"training step": sizes.steps * sizes.batch, "inference": sizes.whole}
    seconds = {
        row: side_by_side({way: rows[row] for way, rows in ways.items()}, sizes.rounds)
        for row in clips
    }
    ours = [way for way, kind in kinds.items() if kind[0] == "released" and way != "plain"]
    epochs = {way: ways[way]["epoch with data"] for way in ours}
    seconds["epoch with data"] = side_by_side(epochs, sizes.rounds)
    started = time.perf_counter()
    ways[ours[0]]["evaluation"]()
    found["evaluation (s)"] = evaluation = time.perf_counter() - started
    reached = {kind: network.rates(device, sizes.shrink, kind) for kind in PRECISIONS}
    work = {name: network.counted(sizes.crop, name) for name in FRONT_ENDS}
    rates = {row: network.per_second(seconds[row], count) for row, count in clips.items()}
    floors = {
        way: network.floors(halved(work[name], precision), reached[precision])
        for way, (name, precision) in kinds.items()
    }
    cells = network.CELLS * network.EPOCHS / 86_400
    epoch = {way: times["median"] for way, times in seconds["epoch with data"].items()}
    alone = {"plain": sizes.per_epoch / rates["training step"]["plain"]}  # its data cost nothing
    return found | {
        "seconds": seconds,
        "clips a second": rates,
        "share of the floor": {
            row: {way: floors[way][row] * rate for way, rate in rates[row].items()} for row in rates
        },
        "memory of a step (GB)": {
            way: memory_of(rows["training step"], device) for way, rows in ways.items()
        },
        "machine reaches": reached,
        "counted": work,
        "epoch (s)": alone | epoch,
        "56 cells (days)": {way: cells * (s + evaluation) for way, s in (alone | epoch).items()},
    }


def halved(work: dict[str, float], precision: str) -> dict[str, float]:
    """Counted work with the activations of a precision."""
    return work | {"GB": work["GB"] / (2 if precision == "bfloat16" else 1)}


def side_by_side_cells(plan: Plan) -> dict[str, float]:
    """Crops a second of so many processes together, each of which trains a cell of its own."""
    found = {}
    for count in plan.together:
        workers = [network.Worker("ours", "", plan.cell, plan.device) for _ in range(count)]
        try:
            for each in workers:
                each.seconds("epoch with data")  # the first does not count
            started = time.perf_counter()
            for each in workers:
                each.ask("epoch with data")
            for each in workers:
                each.answer("epoch with data")
            found[str(count)] = count * plan.cell.per_epoch / (time.perf_counter() - started)
        finally:
            for each in workers:
                each.end()
    return found


def tagger(plan: Plan) -> dict:
    """A step of the tagging network, on a batch that is there and with its data."""
    sizes, steps = plan.tagger, plan.sizes.steps
    half = sizes.batch // 2
    tags = [f"tag {k}" for k in range(80)]
    table = {"set": ["curated", "noisy"], "labels": [tags[:1], tags[1:2]]}
    corpus = TagCorpus("noise", None, pd.concat([pd.DataFrame(table)] * half * steps), tags)
    mels = [torch.rand(sizes.bands, 2 * sizes.crop)] * len(corpus.clips)
    data = TagData(corpus, mels, np.ones(len(mels)), sizes, device=plan.device)
    net = TaggingNet(len(tags), sizes).to(plan.device).train()
    optimiser = torch.optim.Adam(net.parameters(), sizes.lr)
    batch = next(data.batches(0, 1, 1))

    def train(batches: Iterable[training.Batch]) -> None:
        for each in batches:
            cost = training.step(net, each, tagger_loss, optimiser)
        cost.item()  # as soon as it is there

    ways = {
        "step": lambda: train([batch] * steps),
        "step with data": lambda: train(data.batches(0, 1, 1)),
    }
    times = side_by_side(ways, plan.sizes.rounds)
    seconds = {way: each["median"] / steps for way, each in times.items()}
    epoch = CURATED * (sizes.folds - 1) // sizes.folds // half  # steps
    epochs = sizes.folds * (sizes.cycles + sizes.second_cycles) * sizes.epochs
    return {"seconds": seconds, "days": seconds["step with data"] * epoch * epochs / 86_400}


PARTS = {
    "correct": lambda plan: correct.measure(plan.device),
    "speed": speed,
    "side by side": side_by_side_cells,
    "tagger": tagger,
}


def main(results: Path, plan: Plan) -> list[str]:
    """Measure everything and write it down; return what is wrong."""
    device = plan.device
    about = {"machine": machine(device), "device": device, "threads": torch.get_num_threads()}
    found = about | {"environment": environment(device), "plan": asdict(plan)}
    for name, part in PARTS.items():
        started = time.perf_counter()
        found[name] = part(plan)
        print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
        write_text(results / f"{found['machine']}.json", json.dumps(found, indent=1))
    write_text(results / "README.md", report.draw(results))
    print(report.text(found))
    return found["correct"]["wrong"]


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--toy"]
    toy = words != sys.argv[1:]
    if not (toy or torch.cuda.is_available()):
        sys.exit("torch finds no GPU here (--toy FOLDER does everything small, on the processor)")
    folder = Path(words[0]) if words else REPOSITORY / "results" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    sys.exit("\n".join(main(folder, TOY_PLAN if toy else Plan())) or 0)

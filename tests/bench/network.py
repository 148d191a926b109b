"""The training part: the plain way and ours, each in its own process, and this machine's floor.

The network is the baseline with the released front-end, 636,736 values, in float32.
"""

import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from asc_lib.scene_net import SceneNet

from .common import Sizes, Times, side_by_side

SAME = "plain, our memory"  # the plain way in a process that keeps freed memory, as ours does
WAYS, ROWS = ("plain", SAME, "ours"), ("training step", "inference", "epoch with data")
OTHERS = ("cp_resnet", "sinc_acl")  # front-ends of other systems, measured without the plain way
CELLS, EPOCHS, TRAIN_CLIPS = (
    56,
    90,
    9_168,
)  # Tables 2 to 5; the recipe; whole batches of TAU 2019's official fold


class Worker:
    """A process that does one way's work when asked."""

    def __init__(self, way: str, folder: Path | str, sizes: Sizes, device: str):
        command = [
            sys.executable,
            "-m",
            f"{__package__}.worker",
            way,
            folder,
            json.dumps(asdict(sizes)),
            device,
        ]
        pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.way, self.process = way, subprocess.Popen(command, **pipes)
        self.memory = 0.0  # MB, the largest so far

    def seconds(self, row: str) -> float:
        """Do one row; its seconds. Raises RuntimeError when the process has died."""
        self.ask(row)
        return self.answer(row)

    def ask(self, row: str) -> None:
        """Have one row done, without waiting for the ``answer``."""
        self.process.stdin.write(f"{row}\n")
        self.process.stdin.flush()

    def answer(self, row: str) -> float:
        """The seconds of the row that was asked for."""
        if not (answer := self.process.stdout.readline()):
            raise RuntimeError(
                f"the process of '{self.way}' died in '{row}': what it printed above says why"
            )
        answer = json.loads(answer)
        self.memory = answer["memory"]
        return answer["seconds"]

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def best_rate(work, amount: float, rounds: int) -> float:
    """``amount`` by the shortest of the times that ``work`` takes."""
    work()
    seconds = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - started)
    return amount / min(seconds)


def rates(device: str, shrink: int, precision: str = "float32") -> dict[str, float]:
    """What this machine reaches: matrix product (GFLOP/s), copying (GB/s, both ways).

    On a GPU float32 matrices are multiplied as its convolutions are, in TF32.
    """
    side, long = (2048, 2**26) if device == "cpu" else (8192, 2**29)
    side, long = side // shrink, long // shrink**2
    square = torch.randn(side, side, device=device, dtype=getattr(torch, precision))
    source = torch.zeros(long, device=device)
    target = torch.zeros_like(source)
    tf32 = torch.backends.cuda.matmul.allow_tf32

    def finished(work) -> None:
        work()
        synchronise(device)

    torch.backends.cuda.matmul.allow_tf32 = True
    try:
        flops = best_rate(lambda: finished(lambda: square @ square), 2 * side**3 / 1e9, 20)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = tf32
    copied = best_rate(lambda: finished(lambda: target.copy_(source)), 2 * source.nbytes / 1e9, 10)
    return {"GFLOP/s": flops, "GB/s": copied}


def synchronise(device: str) -> None:
    """Wait until a device has done what it was asked for."""
    if device != "cpu":
        torch.cuda.synchronize()


def counted(crop: int, front_end: str = "released") -> dict[str, float]:
    """Work of one crop: GFLOP forward and of a step; GB of activations that a step moves."""
    net, waveform, kept = SceneNet(0, front_end=front_end), torch.zeros(2, 2, crop), {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    hooks = torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor)
    with FlopCounterMode(display=False) as forward, hooks:
        logits = net(waveform, torch.zeros(2, 0)).logits
    with FlopCounterMode(display=False) as backward:
        logits.sum().backward()
    flops = forward.get_total_flops(), forward.get_total_flops() + backward.get_total_flops()
    return {
        "inference": flops[0] / 2e9,
        "training step": flops[1] / 2e9,
        "GB": 2 * sum(kept.values()) / 2e9,
    }


def profile(sizes: Sizes) -> dict[str, float]:
    """Shares of a training step on a processor, forward and backward, of its largest operators."""
    net, crops = SceneNet(0).train(), 3000 * torch.randn(sizes.batch, 2, sizes.crop)

    def step() -> None:
        net(crops, torch.zeros(len(crops), 0)).logits.logsumexp(1).sum().backward()

    step()
    with torch.profiler.profile() as found:
        step()
    times = {event.key: event.self_cpu_time_total for event in found.key_averages()}
    largest = sorted(times, key=times.get, reverse=True)[:8]
    return {name.removeprefix("aten::"): times[name] / sum(times.values()) for name in largest}


def floors(work: dict[str, float], reached: dict[str, float]) -> dict[str, float]:
    """Seconds a clip, below which this machine cannot do the counted work."""
    step = max(work["training step"] / reached["GFLOP/s"], work["GB"] / reached["GB/s"])
    whole = 2 * work["inference"] / reached["GFLOP/s"]  # of a whole clip, twice a crop
    return {"training step": step, "inference": whole, "epoch with data": step}


def front_end(
    name: str, folder: Path, sizes: Sizes, device: str, reached: dict[str, float]
) -> dict[str, dict]:
    """Figures of one of ``OTHERS``, in a process of its own."""
    worker = Worker(name, folder, sizes, device)
    clips = {"training step": sizes.batch, "inference": sizes.whole}
    try:
        seconds = {
            row: side_by_side({name: lambda row=row: worker.seconds(row)}, sizes.rounds)[name]
            for row in clips
        }
    finally:
        worker.end()
    work = counted(sizes.crop, name)
    return {
        "seconds": seconds,
        "clips a second": {row: clips[row] / seconds[row]["median"] for row in clips},
        "counted": work,
        "floor (s a clip)": floors(work, reached),
    }


def measure(folder: Path, sizes: Sizes, device: str) -> dict:
    """The part's figures, from the WAV files in ``folder``."""
    workers, seconds = [Worker(way, folder, sizes, device) for way in WAYS], {}
    try:
        for row in ROWS:
            ways = {
                worker.way: lambda worker=worker, row=row: worker.seconds(row) for worker in workers
            }
            seconds[row] = side_by_side(ways, sizes.rounds)
    finally:
        for worker in workers:
            worker.end()
    reached, work = rates(device, sizes.shrink), counted(sizes.crop)
    clips = {
        "training step": sizes.batch,
        "inference": sizes.whole,
        "epoch with data": sizes.per_epoch,
    }
    return {
        "seconds": seconds,
        "clips a second": {row: per_second(seconds[row], clips[row]) for row in ROWS},
        "times as fast": {
            row: {
                way: seconds[row][way]["median"] / seconds[row]["ours"]["median"]
                for way in WAYS[:2]
            }
            for row in ROWS
        },
        "machine reaches": reached,
        "counted": work,
        "profile": profile(sizes) if device == "cpu" else {},
        "floor (s a clip)": floors(work, reached),
        "front-ends": {name: front_end(name, folder, sizes, device, reached) for name in OTHERS},
        "peak memory (MB)": {worker.way: worker.memory for worker in workers},
        "56 cells (days)": {
            way: CELLS * EPOCHS * TRAIN_CLIPS / sizes.per_epoch * times["median"] / 86_400
            for way, times in seconds["epoch with data"].items()
        },
    }


def per_second(times: Times, clips: int) -> dict[str, float]:
    """Clips a second of each way, by its median."""
    return {way: clips / float(np.float64(some["median"])) for way, some in times.items()}

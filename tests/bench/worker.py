"""One way of training, in its own process: does and times what standard input names, line by line.

Run with the way's name, the folder of WAV files ("": noise), sizes as JSON and a device. The plain
way imports nothing of asc_lib, which sets how memory is kept.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from .bare import stand_ins
from .common import CHANNELS, Sizes, noise

Rows = dict[str, Callable[[], object]]


def tensors(sizes: Sizes, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch of crops and its targets, and whole clips."""
    torch.manual_seed(0)
    crops = 3000 * torch.randn(sizes.batch, CHANNELS, sizes.crop)
    whole = 3000 * torch.randn(
        sizes.whole, CHANNELS, 2 * sizes.crop - 480
    )  # 479,520 samples at full size
    return crops.to(device), (torch.arange(sizes.batch) % 10).to(device), whole.to(device)


def plain_way(folder: Path | None, sizes: Sizes, device: str) -> Rows:
    """The plain way's rows; without WAV files no epoch."""
    with stand_ins():
        from . import plain

    net = plain.plain_net().to(device)
    optimiser = torch.optim.Adam(net.parameters(), 1e-4, weight_decay=1e-3, amsgrad=True)
    crops, targets, whole = tensors(sizes, device)

    def steps() -> None:
        for _ in range(sizes.steps):
            plain.step(net.train(), optimiser, crops, targets)

    rows = {
        "training step": steps,
        "inference": lambda: plain.probabilities(net, whole).cpu(),
    }
    if folder:
        paths = sorted(folder.glob("*.wav"))[: sizes.per_epoch]
        clips = plain.Clips(paths, np.arange(len(paths)) % 10, sizes.crop)
        rows["epoch with data"] = lambda: plain.epoch(
            net, optimiser, clips, sizes.batch, sizes.workers
        )
    return rows


def scenes(folder: Path | None, sizes: Sizes, device: str, **recipe):
    """Scene clips for the baseline: these WAV files, or noise where the device reaches it best."""
    import pandas as pd

    with stand_ins():
        from asc_lib.corpora import SceneCorpus, store
        from asc_lib.recipes import SceneRecipe
        from asc_lib.scenes import SceneData

    names = sorted(path.name for path in folder.glob("*.wav")) if folder else range(sizes.clips)
    clips = pd.DataFrame({"filename": names, "city": "", "location": names})
    clips["scene_label"] = [f"scene {row % 10}" for row in range(len(names))]
    clips["split"] = ["train" if row < sizes.per_epoch else "test" for row in range(len(names))]
    corpus = SceneCorpus("noise", folder, clips)
    if folder:
        os.environ["ASC_DATA"] = str(folder / "data")
    waveforms = store.pack(corpus) if folder else store.Store(noise(sizes), "").nearest(device)
    options = dict(batch=sizes.batch, crop=sizes.crop, mixup_from=1, epochs=1) | recipe
    return SceneData(corpus, waveforms, None, SceneRecipe(**options), device, "nothing")


def our_way(data, sizes: Sizes, front_end: str) -> Rows:
    """The same rows, by the baseline's own code; an epoch has mixup besides."""
    from asc_lib import training
    from asc_lib.scene_net import SceneNet, inference_batch
    from asc_lib.scenes import outputs

    device, precision = data.device, data.recipe.precision
    net = SceneNet(0, len(data.corpus.labels), front_end).to(device)
    crops, targets, whole = tensors(sizes, device)
    one_hot = torch.nn.functional.one_hot(targets, len(data.corpus.labels)).float()
    batch = {
        "waveform": crops,
        "tags": torch.zeros(len(crops), 0, device=device),
        "targets": one_hot,
    }
    optimiser = data.optimiser(net)
    parts = [
        {"waveform": part, "tags": part.new_zeros(len(part), 0)}
        for part in whole.split(inference_batch(device))
    ]

    def steps() -> None:
        for _ in range(sizes.steps):
            cost = training.step(net.train(), batch, data.loss, optimiser)
        cost.item()  # as soon as it is there

    return {
        "training step": steps,
        "inference": lambda: outputs(net, parts, precision),
        "epoch with data": lambda: data.train(net, seed=0),
        "evaluation": lambda: data.evaluate(net),
    }


def peak_memory(device: str) -> float:
    """Largest memory so far in MB: of the GPU, or of this process."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def rows_of(way: str, folder: Path | None, sizes: Sizes, device: str) -> Rows:
    """The rows of a way: "plain", "plain, our memory", "ours" or a front-end of ours.

    And these in a precision: "ours in bfloat16".
    """
    if way.startswith("plain"):
        if way != "plain":
            importlib.import_module("asc_lib")
        return plain_way(folder, sizes, device)
    name, _, precision = way.partition(" in ")
    data = scenes(folder, sizes, device, precision=precision or "float32")
    return our_way(data, sizes, "released" if name == "ours" else name)


def main(way: str, folder: str, sizes: str, device: str) -> None:
    """Answer each line of standard input with JSON; what is printed goes to standard error."""
    answers, sys.stdout = sys.stdout, sys.stderr
    given = Sizes(**json.loads(sizes))
    rows = rows_of(way, Path(folder) if folder else None, given, device)
    for line in sys.stdin:
        started = time.perf_counter()
        rows[line.strip()]()
        answer = {"seconds": time.perf_counter() - started, "memory": peak_memory(device)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

"""One way of training, in its own process: does and times what standard input names, line by line.

Run with the way's name, the folder of WAV files, sizes as JSON and a device. The plain way imports
nothing of asc_lib, which sets how memory is kept.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from .common import CHANNELS, Sizes


def tensors(sizes: Sizes, device: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """A batch of crops and its targets, and whole clips."""
    torch.manual_seed(0)
    crops = 3000 * torch.randn(sizes.batch, CHANNELS, sizes.crop)
    whole = 3000 * torch.randn(
        sizes.whole, CHANNELS, 2 * sizes.crop - 480
    )  # 479,520 samples at full size
    return crops.to(device), (torch.arange(sizes.batch) % 10).to(device), whole.to(device)


def plain_way(folder: Path, sizes: Sizes, device: str) -> dict[str, Callable[[], object]]:
    """The plain way's rows."""
    from . import plain

    net = plain.plain_net().to(device)
    optimiser = torch.optim.Adam(net.parameters(), 1e-4, weight_decay=1e-3, amsgrad=True)
    crops, targets, whole = tensors(sizes, device)
    paths = sorted(folder.glob("*.wav"))[: sizes.per_epoch]
    clips = plain.Clips(paths, np.arange(len(paths)) % 10, sizes.crop)
    return {
        "training step": lambda: plain.step(net.train(), optimiser, crops, targets),
        "inference": lambda: plain.probabilities(net, whole).cpu(),
        "epoch with data": lambda: plain.epoch(net, optimiser, clips, sizes.batch, sizes.workers),
    }


def our_way(
    folder: Path, sizes: Sizes, device: str, front_end: str
) -> dict[str, Callable[[], object]]:
    """The same rows, by the baseline's own code; an epoch has mixup besides."""
    import pandas as pd

    from asc_lib import training
    from asc_lib.corpora import SceneCorpus, store
    from asc_lib.recipes import SceneRecipe
    from asc_lib.scene_net import SceneNet
    from asc_lib.scenes import SceneData, inference_batch, outputs

    os.environ["ASC_DATA"] = str(folder / "data")
    names = sorted(path.name for path in folder.glob("*.wav"))
    clips = pd.DataFrame(
        {"filename": names, "scene_label": [f"scene {row % 10}" for row in range(len(names))]}
    )
    clips["split"] = ["train" if row < sizes.per_epoch else "unused" for row in range(len(names))]
    corpus = SceneCorpus("noise", folder, clips)
    net = SceneNet(0, len(corpus.labels), front_end).to(device)
    recipe = SceneRecipe(batch=sizes.batch, crop=sizes.crop, mixup_from=1, epochs=1)
    data = SceneData(corpus, store.pack(corpus), None, recipe, device, "nothing")
    crops, targets, whole = tensors(sizes, device)
    one_hot = torch.nn.functional.one_hot(targets, len(corpus.labels)).float()
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
    return {
        "training step": lambda: training.step(net.train(), batch, data.loss, optimiser).item(),
        "inference": lambda: outputs(net, parts, recipe.precision),
        "epoch with data": lambda: data.train(net, seed=0),
    }


def peak_memory(device: str) -> float:
    """Largest memory so far in MB: of the GPU, or of this process."""
    if device != "cpu":
        return torch.cuda.max_memory_allocated() / 1e6
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main(way: str, folder: str, sizes: str, device: str) -> None:
    """Answer each line of standard input with JSON; what is printed goes to standard error."""
    answers, sys.stdout = sys.stdout, sys.stderr
    given = Path(folder), Sizes(**json.loads(sizes)), device
    front_end = "released" if way == "ours" else way
    rows = plain_way(*given) if way == "plain" else our_way(*given, front_end)
    for line in sys.stdin:
        started = time.perf_counter()
        rows[line.strip()]()
        answer = {"seconds": time.perf_counter() - started, "memory": peak_memory(device)}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])

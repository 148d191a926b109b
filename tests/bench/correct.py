"""Is a GPU right? How far it and the processor are from float64, for the same weights and clips.

Distances are relative: the norm of a difference by that of what float64 gives. No rounding is
expected to be the processor's own; it should be of the same size.
"""

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import torch

from .bare import stand_ins
from .common import Sizes
from .worker import scenes

with stand_ins():
    from asc_lib.front_ends import FRONT_ENDS
    from asc_lib.fusion import FUSIONS
    from asc_lib.recipes import TaggerSizes
    from asc_lib.scene_net import SceneNet, run
    from asc_lib.scenes import SceneData
    from asc_lib.tagging_net import TaggingNet
    from asc_lib.tags.tagger import Tagger
    from asc_lib.tags.windows import TagVectors

PAIRS = [*((name, "attention") for name in FRONT_ENDS), *(("narrow", name) for name in FUSIONS)]
TAGS = 12
SMALL = Sizes(clips=12, seconds=1, crop=28_000, batch=4, per_epoch=8)
LIMITS = {  # of a GPU's distance: so many times that of the processor in this precision
    "float32": (10, "float32"),  # convolutions in float32 proper
    "as run": (1, "bfloat16"),  # in TF32, as torch has it by default
    "bfloat16": (2, "bfloat16"),
}
TINY, FAR = 1e-6, 0.9  # always allowed, and never: gradients of 0 are 1 away
SHARED = 1e-4  # from the processor, of what is computed in float32
Found = dict[str, torch.Tensor]


@contextmanager
def exactly(exact: bool) -> Iterator[None]:
    """Convolutions of float32 in float32 proper, or as torch has it."""
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = before and not exact
    yield
    torch.backends.cudnn.allow_tf32 = before


def small_scenes(fusion: str, device: str = "cpu") -> SceneData:
    """Clips of 1 s with tag vectors of three windows."""
    data = scenes(None, SMALL, "cpu")
    values = np.random.default_rng(0).random((SMALL.clips, 3, TAGS), "float32")
    times = np.array([[0.0, 0.4], [0.3, 0.7], [0.6, 1.0]])
    vectors = TagVectors(values, [f"tag {k}" for k in range(TAGS)], "noise", times=times)
    reads = FUSIONS[fusion].build.reads
    return replace(
        data,
        vectors=vectors,
        reads=reads,
        device=device,
        waveforms=data.waveforms.nearest(device),
    )


def network(data: SceneData, front_end: str, fusion: str) -> SceneNet:
    """A network without dropout, whose choice differs between devices."""
    torch.manual_seed(0)
    net = SceneNet(TAGS, len(data.corpus.labels), front_end, fusion)
    for layer in net.modules():
        if isinstance(layer, torch.nn.Dropout):
            layer.p = 0.0
    return net


def computed(data: SceneData, net: SceneNet, batch: Found, precision: str) -> Found:
    """Gradients of a step, and then logits of inference, in a precision."""
    data = replace(data, recipe=replace(data.recipe, precision=precision))
    data.loss(net.train(), batch).backward()
    inputs = {name: value for name, value in batch.items() if name != "targets"}
    with torch.no_grad():
        logits = run(net.eval(), inputs, precision).logits
    gradients = [p.grad.flatten() for p in net.parameters() if p.grad is not None]
    return {"gradients": torch.cat(gradients), "logits": logits}


def apart(found: torch.Tensor, reference: torch.Tensor) -> float:
    """Relative distance."""
    found, reference = found.double().cpu(), reference.double().cpu()
    return float((found - reference).norm() / reference.norm())


def distances(front_end: str, fusion: str, device: str) -> dict[str, dict[str, dict[str, float]]]:
    """Distances from float64 of gradients and logits: by place and kind of ``LIMITS``."""
    data = small_scenes(fusion)
    net = network(data, front_end, fusion)
    batch = next(data.training_batches(0, 1))
    double = {k: v if k == "targets" else v.double() for k, v in batch.items()}
    reference = computed(data, copy.deepcopy(net).double(), double, "float32")
    found = {}
    for place, kinds in (("processor", ("float32", "bfloat16")), ("GPU", tuple(LIMITS))):
        on = "cpu" if place == "processor" else device
        there = {name: value.to(on) for name, value in batch.items()}
        found[place] = {}
        for kind in kinds:
            with exactly(kind == "float32"):
                precision = "bfloat16" if kind == "bfloat16" else "float32"
                values = computed(data, copy.deepcopy(net).to(on), there, precision)
            found[place][kind] = {k: apart(values[k], reference[k]) for k in reference}
    return found


def too_far(found: dict[str, dict[str, dict[str, float]]]) -> list[str]:
    """Which of ``distances`` are beyond ``LIMITS``."""
    wrong = []
    for kind, (times, like) in LIMITS.items():
        for what, distance in found["GPU"][kind].items():
            limit = min(max(times * found["processor"][like][what], TINY), FAR)
            if not distance <= limit:
                wrong.append(f"{what}, {kind}: {distance:.1e} from float64, beyond {limit:.1e}")
    return wrong


def shared(device: str) -> dict[str, float]:
    """Distances between GPU and processor of what all networks share: inputs, optimiser, tags."""
    here, there = (small_scenes("attention_in_time", on) for on in ("cpu", device))
    batches = [next(data.training_batches(0, 1)) for data in (here, there)]
    found = {f"inputs: {name}": apart(batches[1][name], batches[0][name]) for name in batches[0]}
    nets = [network(here, "narrow", "attention").to(on) for on in ("cpu", device)]
    for net, data in zip(nets, (here, there)):
        optimiser = data.optimiser(net)
        for _ in range(3):
            for number, values in enumerate(net.parameters()):
                noise = torch.Generator().manual_seed(number)
                values.grad = torch.randn(values.shape, generator=noise).to(values)
            optimiser.step()
    weights = [torch.cat([p.detach().flatten() for p in net.parameters()]) for net in nets]
    sizes = TaggerSizes(bands=32, n_fft=1024, hop=882, widths=(8, 8), depths=(1, 1), crop=16)
    tagger = Tagger({1: TaggingNet(TAGS, sizes).eval()}, [], sizes)
    windows = torch.randn(4, 44_100, generator=torch.Generator().manual_seed(0))
    with exactly(True):
        tags = [copy.deepcopy(tagger).to(on).tag_mono(windows) for on in ("cpu", device)]
    return found | {"optimiser": apart(*weights[::-1]), "tags": apart(*tags[::-1])}


def measure(device: str) -> dict:
    """Distances of all pairs and of what they share, and in words what is wrong."""
    found = {f"{front}, {fusion}": distances(front, fusion, device) for front, fusion in PAIRS}
    wrong = [f"{name}: {what}" for name, pair in found.items() for what in too_far(pair)]
    others = shared(device)
    wrong += [f"{k}: {v:.1e} from the processor" for k, v in others.items() if not v <= SHARED]
    return {"pairs": found, "shared": others, "wrong": wrong}

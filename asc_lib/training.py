"""One training loop for both networks, seeded epoch by epoch, so that it can be resumed exactly."""

import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from torch.optim.lr_scheduler import CosineAnnealingLR, LambdaLR
from torch.optim.swa_utils import AveragedModel
from torch.overrides import TorchFunctionMode

from .files import first_line, written_whole

Batch = dict[str, torch.Tensor]
Loss = Callable[[nn.Module, Batch], torch.Tensor]


def default_device() -> str:
    """What "auto" stands for: cuda where there is one, else mps, else the processor."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def epoch_generator(seed: int, epoch: int, stream: int = 0) -> np.random.Generator:
    """The source of all random choices of one epoch; seeds torch's own generator too."""
    rng = np.random.default_rng([seed, epoch, stream])
    torch.manual_seed(int(rng.integers(2**62)))
    return rng


def mix(batch: Batch, share: float | np.ndarray, rng: np.random.Generator) -> Batch:
    """Mixup: each clip becomes ``share`` of itself and 1 - share of another, in every value.

    ``share`` within 0 to 1, for the whole batch or [B]; targets are mixed as their waveforms are.
    """
    clips = len(next(iter(batch.values())))
    shares = torch.from_numpy(np.resize(share, clips)).float()
    partners = torch.from_numpy(rng.permutation(clips))

    def mixed(value: torch.Tensor) -> torch.Tensor:
        own = shares.to(value.device).reshape(-1, *[1] * (value.ndim - 1))
        return value[partners.to(value.device)].lerp_(value, own)

    return {name: mixed(value) for name, value in batch.items()}


def roll(waveforms: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Each of [B, 2, T] turned round by up to 1.16 s, which are 50 frames of Koutini et al."""
    shifts = rng.integers(-55_680, 55_681, len(waveforms))
    return torch.stack([each.roll(int(shift), -1) for each, shift in zip(waveforms, shifts)])


def crop_pad(waveforms: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """A random stretch of each of [B, 2, T], at least half of it (ours), with zeros around."""
    samples = waveforms.shape[-1]
    lengths = rng.integers(samples // 2, samples + 1, (len(waveforms), 1))
    time = np.arange(samples) - rng.integers(samples - lengths + 1)  # since the stretch began
    inside = torch.from_numpy((time >= 0) & (time < lengths))
    return waveforms * inside[:, None].to(waveforms.device)


def falling(
    optimiser: torch.optim.Optimizer, epochs: int, ends: tuple[int, ...]
) -> torch.optim.lr_scheduler.LRScheduler:
    """A fifth of the learning rate after each of these epochs of 60, or as early of ``epochs``."""
    return LambdaLR(optimiser, lambda done: 0.2 ** sum(60 * done >= end * epochs for end in ends))


SCHEDULES = {  # of the learning rate, from an optimiser and the number of epochs
    "constant": lambda optimiser, epochs: None,
    "cosine": CosineAnnealingLR,  # to 0
    "linear": lambda optimiser, epochs: LambdaLR(  # Koutini et al.: to 1 % and no further
        optimiser, lambda done: float(np.interp(done / epochs, (1 / 7, 5 / 7), (1, 0.01)))
    ),
    "specialist": partial(falling, ends=(20, 50)),  # [22]
    "student": partial(falling, ends=(15, 30, 45)),  # [22]
}
AUGMENTATIONS = {
    "none": lambda waveforms, rng: waveforms,
    "roll": roll,
    "crop_pad": crop_pad,  # after Zheng and Yan (Table 6), as far as known
}


def prefetched(batches: Iterable[Batch]) -> Iterator[Batch]:
    """The same batches; a thread prepares the next one while one is in use."""
    source = iter(batches)
    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(next, source, None)
        while coming.result() is not None:
            batch = coming.result()
            coming = pool.submit(next, source, None)
            yield batch


def step(
    net: nn.Module, batch: Batch, loss: Loss, optimiser: torch.optim.Optimizer
) -> torch.Tensor:
    """One step of ``net`` in training mode on one batch; its loss, before the step."""
    optimiser.zero_grad(set_to_none=True)
    cost = loss(net, batch)
    cost.backward()
    optimiser.step()
    return cost.detach()


def fit(
    net: nn.Module,
    batches: Callable[[int], Iterable[Batch]],
    loss: Loss,
    optimiser: torch.optim.Optimizer,
    *,
    epochs: int,
    checkpoint: Path | None = None,
    schedule: torch.optim.lr_scheduler.LRScheduler | None = None,
    average: AveragedModel | None = None,
    average_from: float = 1.0,
    steps: int = 0,
    after_epoch: Callable[[int], dict] = lambda epoch: {},
    label: str = "",
) -> pd.DataFrame:
    """Train ``net`` in place; return the history, one row per epoch.

    Its columns are epoch, loss, seconds and what ``after_epoch(epoch)`` returns. ``batches(epoch)``
    yields the epoch's batches, ``loss(net, batch)`` is the loss of one of them, and ``schedule``
    steps once per epoch. ``average`` takes in the weights after each epoch beyond ``average_from``,
    a share of the epochs; in the end they are the network's. With ``checkpoint`` the state is
    written there after every epoch, and training resumes from it. Prints one line per epoch, or per
    ten where they take seconds, and the time left where it is minutes: with ``steps``, their number
    in an epoch, from the second on; each begins with ``label``. Raises FloatingPointError when the
    loss is no longer finite.
    """
    kept = nn.ModuleDict({"net": net} | ({"average": average} if average else {}))
    history = resume(checkpoint, kept, optimiser, schedule) if checkpoint else []
    if history:
        print(f"{label}resumed after epoch {history[-1]['epoch']} of {epochs}")
    first = len(history) + 1
    for epoch in range(first, epochs + 1):
        started = time.perf_counter()
        net.train()
        costs = []
        for batch in batches(epoch):
            begun = time.perf_counter()
            costs.append(step(net, batch, loss, optimiser))
            if epoch == first and len(costs) == 2:
                rest = steps * (epochs - epoch + 1) * (time.perf_counter() - begun)
                if _left(rest):
                    print(f"training:{_left(rest)}", flush=True)
        mean = torch.stack(costs).mean().item()
        if not np.isfinite(mean):
            raise FloatingPointError(
                f"the loss is {mean} in epoch {epoch}: a lower learning rate may help"
            )
        if schedule:
            schedule.step()
        if average and epoch > average_from * epochs:
            average.update_parameters(net)
        row = {"epoch": epoch, "loss": mean} | after_epoch(epoch)
        seconds = time.perf_counter() - started
        history.append(row | {"seconds": seconds})
        if seconds > 5 or epoch % 10 == 0 or epoch in (1, epochs):
            left = _left((epochs - epoch) * seconds)
            print(f"{label}epoch {epoch:3d} of {epochs}  loss {mean:.3f}{left}", flush=True)
        if checkpoint:
            save_checkpoint(checkpoint, kept, optimiser, schedule, history)
    if average:
        net.load_state_dict(average.module.state_dict())
    return pd.DataFrame(history)


def _left(seconds: float) -> str:
    """The time left in words, where it is minutes."""
    return f"  about {seconds / 60:.0f} min left" if seconds > 300 else ""


class _WithoutNoise(TorchFunctionMode):
    """Leaves values as they are: noise on the device "meta" would import torch's compiler."""

    def __torch_function__(self, function, types, given=(), named=None):
        noise = function is torch.Tensor.normal_
        return given[0] if noise else function(*given, **(named or {}))


def loaded(build: Callable[[], nn.Module], weights: dict[str, torch.Tensor]) -> nn.Module:
    """A new network with these weights.

    Built once without memory first: raises ValueError where the weights are not those of such a
    network, or not finite, however large a network they say they are.
    """
    with torch.device("meta"), _WithoutNoise():
        shapes = {name: value.shape for name, value in build().state_dict().items()}
    if shapes != {name: value.shape for name, value in weights.items()}:
        raise ValueError("the weights are those of another network")
    if not all(value.isfinite().all() for value in weights.values()):
        raise ValueError("some weights are not finite")
    net = build()
    net.load_state_dict(weights)
    return net


def save_checkpoint(
    path: Path, nets: nn.ModuleDict, optimiser, schedule, history: list[dict]
) -> None:
    """Write weights, optimiser state and history as one safetensors file, atomically."""
    state = optimiser.state_dict()
    tensors = {name: value.contiguous() for name, value in nets.state_dict().items()}
    tensors |= {
        f"optimiser.{index}.{name}": value.contiguous()
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    with written_whole(path) as temporary:
        save_file(
            tensors,
            temporary,
            {
                "history": json.dumps(history),
                "groups": json.dumps(state["param_groups"]),
                "schedule": json.dumps(schedule and schedule.state_dict()),
            },
        )


def resume(path: Path, nets: nn.ModuleDict, optimiser, schedule) -> list[dict]:
    """Load a checkpoint, if there is one, into nets, optimiser and schedule; return its history."""
    if not path.exists():
        return []
    try:
        return _resumed(path, nets, optimiser, schedule)
    except (SafetensorError, KeyError, TypeError, ValueError, RuntimeError) as error:
        raise ValueError(
            f"the checkpoint {path} is damaged ({first_line(error)}): delete it to begin anew"
        ) from None


def _resumed(path: Path, nets: nn.ModuleDict, optimiser, schedule) -> list[dict]:
    with safe_open(path, "pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = file.metadata()
    nets.load_state_dict(
        {name: value for name, value in tensors.items() if not name.startswith("optimiser.")}
    )
    state: dict[int, dict] = {}
    for name, value in tensors.items():
        if name.startswith("optimiser."):
            _, index, entry = name.split(".")
            state.setdefault(int(index), {})[entry] = value
    optimiser.load_state_dict({"state": state, "param_groups": json.loads(about["groups"])})
    if schedule:
        schedule.load_state_dict(json.loads(about["schedule"]))
    return json.loads(about["history"])

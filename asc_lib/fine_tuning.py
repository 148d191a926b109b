"""Fine-tuning: a network that begins with the weights of a saved system."""

from pathlib import Path

import safetensors.torch

from .files import DAMAGED, fingerprint, first_line
from .registry import ParameterError
from .scene_net import SceneNet
from .schemas import About, read_json, validated

ABOUT = "system.json"  # of a saved system's folder, as the next
NETWORK = "network.safetensors"


def _refused(folder: Path, why: str) -> ParameterError:
    return ParameterError(f"parameter 'recipe': start_from is {folder}, {why}")


def _saved(folder: Path) -> tuple[dict, bytes]:
    """What a saved system says of itself, and its weights. Raises ParameterError."""
    try:
        return validated(read_json(folder / ABOUT), About), (folder / NETWORK).read_bytes()
    except DAMAGED as error:
        raise _refused(folder, f"which is no saved system ({first_line(error)})") from None


def origin(folder: str) -> dict[str, str]:
    """The run of a saved system, and the fingerprint of all that can be taken over from it."""
    about, weights = _saved(Path(folder))
    names = [about["system"], about["labels"], about["tags"]["names"]]
    return {"run": about["run"], "fingerprint": fingerprint(weights, *names)}


def begin(
    net: SceneNet, folder: str, labels: list[str], tags: list[str], data: tuple[str, str]
) -> None:
    """Give ``net`` the front-end of a saved system; of the same fusion and tags, also what follows.

    The output layer is taken over where the labels are the same, too. ``net.taken_over`` names the
    parts. Raises ParameterError where the front-end is another one, and where it has learnt from
    another split of the same folder: ``data`` is the name and fingerprint of the run's.
    """
    about, raw = _saved(Path(folder))
    name, split = data
    learnt = about["data"]
    same = name.startswith("own_") and name.split("@")[0] == learnt["name"].split("@")[0]
    if same and split != learnt["fingerprint"]:
        why = "which has learnt from another split of these clips: it may know the test clips"
        raise _refused(Path(folder), why)
    try:
        weights = safetensors.torch.load(raw)
    except safetensors.SafetensorError as error:
        raise _refused(Path(folder), f"whose weights are damaged ({error})") from None
    alike = about["system"] == net.fusion_name and about["tags"]["names"] == tags
    parts = ["front_end"] + ["tag_scale", "fusion", "code"] * alike
    parts += ["output"] * (alike and about["labels"] == labels)
    state = net.state_dict()
    for part in parts:
        own = {name: value.shape for name, value in state.items() if name.startswith(f"{part}.")}
        given = {name: value for name, value in weights.items() if name.startswith(f"{part}.")}
        same = own == {name: value.shape for name, value in given.items()}
        if own and same and all(value.isfinite().all() for value in given.values()):
            net.load_state_dict(given, strict=False)
            net.taken_over.append(part)
        elif part == "front_end":
            raise _refused(
                Path(folder), f"whose front-end, {about['parameters']['front_end']}, does not fit"
            )

"""What a clip's tags do in a trained network, in numbers and still pictures: ``explorer`` moves them."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure

from . import plots
from .recipe import SceneData, at_a_time
from .scene_net import SceneNet, SceneOutput
from .system import Prediction, System


@dataclass(frozen=True)
class Heard:
    """Clips as the network hears them: their feature maps are computed once, their tag vectors may then be changed."""

    system: System
    feature_map: torch.Tensor | None  # [B, f, t]
    tags: torch.Tensor  # [B, c]

    @classmethod
    def of(cls, trained: System, waveform: torch.Tensor, tags: torch.Tensor) -> "Heard":
        """Hear pre-emphasised waveforms [B, 2, T] with the tag vectors [B, c]."""
        with torch.no_grad(), trained.autocast():
            return cls(trained, trained.net.eval().feature_map(waveform), tags)

    def answer(self, tags: torch.Tensor | None = None, attention: bool = True) -> SceneOutput:
        """The network's own output for these tag vectors [B, c] (none given: those that were heard).

        Without ``attention``: for the map that prefers no filter, each with the mean weight h / f.
        """
        tags = self.tags if tags is None else tags
        with torch.no_grad(), self.system.autocast():
            out = self.system.net.fuse(self.feature_map, tags)
            if attention or out.attention_map is None:
                return out
            level = out.attention_map.mean(-1, keepdim=True).expand_as(out.attention_map)
            return self.system.net.fuse(self.feature_map, tags, level)


def probabilities(out: SceneOutput) -> np.ndarray:
    """Scene probabilities [B, scenes] of an output."""
    return out.logits.float().softmax(1).cpu().numpy()


def clip_table(trained: System, scenes: SceneData, judged: pd.DataFrame) -> pd.DataFrame:
    """The test clips: row, filename, scene, city, called (by the SVM), right, and what attention changes.

    ``judged``: of ``SceneData.judge``. ``change``: half the sum of the absolute differences between a clip's scene
    probabilities with and without attention, 0 to 1.
    """
    test = judged[judged["split"] == "test"]
    rows, size = scenes.corpus.rows("test"), at_a_time(scenes.device)
    changes = []
    for start in range(0, len(rows), size):
        heard = Heard.of(trained, **scenes.whole(rows[start : start + size]))
        apart = probabilities(heard.answer()) - probabilities(heard.answer(attention=False))
        changes.append(np.abs(apart).sum(1) / 2)
    called = np.asarray(trained.labels)[test["svm"]]
    table = test[["filename", "city"]].assign(scene=test["scene_label"], called=called, change=np.concatenate(changes))
    return table.assign(row=rows, right=table["scene"] == called).reset_index(drop=True)


def maps(net: SceneNet, tags: np.ndarray) -> np.ndarray | None:
    """Attention maps [clips, f] of tag vectors [clips, c]; None where the fusion makes none."""
    with torch.no_grad():
        weights = net.fusion.weights(net.fusion.read(_tensor(net, tags)))
    return None if weights is None else weights.cpu().numpy()


def sensitivity(net: SceneNet, tags: np.ndarray, names: list[str], by: float = 0.1) -> pd.DataFrame:
    """By how many percent a filter's weight changes, to first order, when a tag's probability rises by ``by``.

    [tags, filters]: the Jacobian of the attention map, divided by the map, the mean over the tag vectors [clips, c].
    """
    jacobian = torch.func.vmap(torch.func.jacrev(lambda one: net.fusion.weights(net.fusion.read(one[None]))[0].log()))
    parts = [jacobian(part).detach().sum(0) for part in _tensor(net, tags).split(64)]
    return pd.DataFrame(100 * by * (sum(parts) / len(tags)).T.cpu().numpy(), index=names)


def distances(weights: np.ndarray, scenes: np.ndarray, labels: list[str], heads: int) -> pd.DataFrame:
    """How far apart two scenes' mean attention maps [clips, f] lie, in percent: [scenes, scenes].

    Half the sum of absolute differences in each head (0: alike; 100: no filter in common), the mean over heads.
    """
    mean = pd.DataFrame(weights).groupby(np.asarray(labels)[scenes]).mean()
    apart = np.abs(mean.to_numpy()[:, None] - mean.to_numpy()[None]).sum(-1) / 2 / heads
    return pd.DataFrame(100 * apart, index=mean.index, columns=mean.index)


def by_head(weights: np.ndarray, scenes: np.ndarray, labels: list[str], heads: int) -> pd.DataFrame:
    """How far each head's map of a scene lies from that of all clips, in percent, as ``distances``: [scenes, heads]."""
    mean = pd.DataFrame(weights).groupby(np.asarray(labels)[scenes]).mean()
    apart = np.abs(mean.to_numpy() - weights.mean(0)).reshape(len(mean), heads, -1).sum(-1) / 2
    return pd.DataFrame(100 * apart, index=mean.index, columns=[f"head {k + 1}" for k in range(heads)])


def _tensor(net: SceneNet, tags: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(tags).to(next(net.parameters()).device)


def what_if(heard: Heard, tags: torch.Tensor | None = None) -> Figure:
    """The attention map and the scene probabilities for these tag vectors [1, c], beside those of the clip's own."""
    shown = drawn(heard)
    shown.show(*answers(heard, tags))
    return shown.figure


def drawn(heard: Heard) -> plots.WhatIf:
    """The figure of ``what_if``, to be drawn again with other values."""
    scenes, own = answers(heard, None)
    return plots.WhatIf(scenes, own, heard.system.heads)


def answers(heard: Heard, tags: torch.Tensor | None) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Scene probabilities now, with the clip's own tags, and without attention; the attention map [f]."""
    now = heard.answer(tags)
    outputs = {"now": now, "own tags": heard.answer(), "no attention": heard.answer(tags, attention=False)}
    scenes = pd.DataFrame({name: probabilities(out)[0] for name, out in outputs.items()}, index=heard.system.labels)
    return scenes, None if now.attention_map is None else now.attention_map[0].float().cpu().numpy()


def feature_maps(heard: Heard) -> Figure | None:
    """The feature map of one clip before and after attention; None where there is no map."""
    weights = heard.answer().attention_map
    if weights is None:
        return None
    before = heard.feature_map[0].float().cpu()
    return plots.feature_maps(before.numpy(), (before * weights[0].float().cpu()[:, None]).numpy())


def window_of(prediction: Prediction, number: int) -> Heard:
    """One window of a recording, as the network hears it."""
    return Heard.of(prediction.system, *prediction.system.inputs(prediction.clip(number)[None]))


def top_tags(prediction: Prediction, name: str) -> Figure:
    """The most probable tags of a recording, the mean over its windows."""
    tags = prediction.tags
    return plots.tags({name: tags.to_numpy()}, list(tags.index), {name: set()})

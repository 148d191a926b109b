"""What a clip's tags do in a trained network, in numbers and still pictures."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure
from scipy.spatial.distance import cdist

from .. import plots, training
from ..corpora.audio import RATE
from ..scene_net import SceneNet, SceneOutput
from ..scenes import SceneData, inference_batch
from .system import Prediction, System

SCENES = 14  # at most, beside an attention map
MARKS = [("own tags", "k|", 11), ("no attention", "C1x", 6)]


@dataclass(frozen=True)
class CachedClip:
    """Clips whose feature maps have been computed once; their tags may then be changed."""

    system: System
    feature_map: torch.Tensor | None  # [B, f, t]
    tags: torch.Tensor  # [B, c], or windows [B, w, c]
    times: torch.Tensor | None = None  # [B, w, 2], of windows
    waveform: torch.Tensor | None = None  # [B, 2, T], pre-emphasised

    @property
    def vector(self) -> np.ndarray:
        """The tag vector of the first clip [c]: the mean over its windows."""
        return torch.atleast_2d(self.tags[0]).mean(0).cpu().numpy()

    @classmethod
    def of(cls, trained: System, inputs: training.Batch) -> "CachedClip":
        """From the inputs of the network: waveform and tags, as ``SceneData.whole`` gives them."""
        with torch.no_grad(), trained.autocast():
            feature_map = trained.net.eval().feature_map(inputs["waveform"])
        return cls(trained, feature_map, inputs["tags"], inputs.get("times"), inputs["waveform"])

    def output(self, tags: torch.Tensor | None = None, attention: bool = True) -> SceneOutput:
        """The network's own output for these tags (default: the clip's own).

        Without ``attention``: for the map that prefers no filter, with equal weights h / f.
        """
        tags = self.tags if tags is None else tags
        with torch.no_grad(), self.system.autocast():
            out = self.system.net.fuse(self.feature_map, tags, self.times)
            if attention or out.attention_map is None:
                return out
            level = out.attention_map.mean(1, keepdim=True).expand_as(out.attention_map)
            return self.system.net.fuse(self.feature_map, tags, self.times, level)


def probabilities(out: SceneOutput) -> np.ndarray:
    return out.logits.float().softmax(1).cpu().numpy()


def clip_table(trained: System, scenes: SceneData, evaluated: pd.DataFrame) -> pd.DataFrame:
    """The test clips: row, filename, scene, city, predicted, right, change.

    ``evaluated``: of ``SceneData.evaluate``. ``change``: half the sum of the absolute differences
    between a clip's scene probabilities with and without attention, 0 to 1.
    """
    test = evaluated[evaluated["split"] == "test"]
    rows = scenes.corpus.rows("test")
    size = inference_batch(scenes.device)
    changes = []
    for start in range(0, len(rows), size):
        clip = CachedClip.of(trained, scenes.whole(rows[start : start + size]))
        apart = probabilities(clip.output()) - probabilities(clip.output(attention=False))
        changes.append(np.abs(apart).sum(1) / 2)
    return (
        test[["filename", "city"]]
        .reset_index(drop=True)
        .assign(
            scene=test["scene_label"].to_numpy(),
            predicted=np.asarray(trained.labels)[test["predicted"]],
            row=rows,
            right=(test["truth"] == test["predicted"]).to_numpy(),
            change=np.concatenate(changes),
        )
    )


def maps(net: SceneNet, tags: np.ndarray) -> np.ndarray | None:
    """Attention maps [clips, f] of tag vectors [clips, c]; None where the fusion makes none."""
    with torch.no_grad():
        weights = net.fusion.weights(net.prepared(_tensor(net, tags)))
    return None if weights is None else weights.cpu().numpy()


@torch.no_grad()
def sensitivity(net: SceneNet, tags: np.ndarray, names: list[str], by: float = 0.1) -> pd.DataFrame:
    """First-order change (%) of a filter's weight when a tag's probability rises by ``by``.

    [tags, filters]: the Jacobian of the attention map, divided by the map; the mean over the tag
    vectors [clips, c], so many at a time that their Jacobians take 4 MB.
    """

    def log_map(vector: torch.Tensor) -> torch.Tensor:
        return net.fusion.weights(net.prepared(vector[None]))[0].log()

    jacobian = torch.func.vmap(torch.func.jacrev(log_map))
    size = max(1, min(64, 2**20 // maps(net, tags[:1]).shape[1] // len(names)))
    total = sum(jacobian(part).sum(0) for part in _tensor(net, tags).split(size))
    return pd.DataFrame(100 * by * (total / len(tags)).T.cpu().numpy(), index=names)


def distances(
    weights: np.ndarray, scenes: np.ndarray, labels: list[str], heads: int
) -> pd.DataFrame:
    """Distances (%) between the mean attention maps [clips, f] of scenes: [scenes, scenes].

    Half the sum of absolute differences in each head (0: alike; 100: no filter in common), averaged
    over heads.
    """
    mean = pd.DataFrame(weights).groupby(np.asarray(labels)[scenes]).mean()
    return pd.DataFrame(50 / heads * cdist(mean, mean, "cityblock"), mean.index, mean.index)


def by_head(weights: np.ndarray, scenes: np.ndarray, labels: list[str], heads: int) -> pd.DataFrame:
    """Distance (%) of each head's mean map of a scene from that of all clips: [scenes, heads]."""
    mean = pd.DataFrame(weights).groupby(np.asarray(labels)[scenes]).mean()
    return pd.DataFrame(
        100 * (np.abs(mean.to_numpy() - weights.mean(0)).reshape(len(mean), heads, -1).sum(-1) / 2),
        index=mean.index,
        columns=[f"head {k + 1}" for k in range(heads)],
    )


def _tensor(net: SceneNet, tags: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(tags).to(next(net.parameters()).device)


def what_if(clip: CachedClip, tags: torch.Tensor | None = None) -> Figure:
    """Attention map and scene probabilities for these tags, beside those for the clip's own."""
    drawn = drawing(clip)
    drawn.show(*answers(clip, tags))
    return drawn.figure


def drawing(clip: CachedClip) -> "WhatIfFigure":
    return WhatIfFigure(*answers(clip, None), clip.system.heads)


def answers(clip: CachedClip, tags: torch.Tensor | None) -> tuple[pd.DataFrame, np.ndarray | None]:
    """Scene probabilities now, with the clip's own tags, and without attention; the map [f].

    In time it is the mean over frames.
    """
    now = clip.output(tags)
    outputs = {
        "now": now,
        "own tags": clip.output(),
        "no attention": clip.output(tags, attention=False),
    }
    return pd.DataFrame(
        {name: probabilities(out)[0] for name, out in outputs.items()}, index=clip.system.labels
    ), (None if now.attention_map is None else _first(now.attention_map).mean(1).numpy())


def feature_maps(clip: CachedClip) -> Figure | None:
    """The feature map of one clip before and after attention; None where there is no map."""
    weights = clip.output().attention_map
    if weights is None:
        return None
    before = clip.feature_map[0].float().cpu()
    before = before.reshape(len(before), -1, before.shape[-1]).mean(1)  # over bands, if any: [f, t]
    return plots.feature_maps(before.numpy(), (before * _first(weights)).numpy())


def _first(weights: torch.Tensor) -> torch.Tensor:
    """The attention map [B, f] or [B, f, t] of the first clip: [f, 1] or [f, t]."""
    return weights[0].float().cpu().reshape(weights.shape[1], -1)


def _order(weights: np.ndarray, heads: int) -> np.ndarray:
    """Filters head by head, in each by weight [f], the largest first."""
    return np.lexsort((-weights, np.arange(len(weights)) * heads // len(weights)))


def in_time(
    clip: CachedClip, tags: torch.Tensor | None = None, again: Figure | None = None
) -> Figure | None:
    """A clip's tags, sound, and attention in time for these tags; None where there is none.

    Each head's filters are in the order of their mean weights for the clip's own tags. ``again``: a
    figure of the same clip, to draw into.
    """
    weights, own = clip.output(tags).attention_map, clip.output().attention_map
    if weights is None or weights.ndim == 2:
        return None
    order = _order(_first(own).mean(1).numpy(), clip.system.heads)
    shown = (clip.tags if tags is None else tags)[0].float().cpu().numpy()
    given = pd.DataFrame(shown.T, clip.system.tags), _first(weights).numpy()[order]
    if again:
        plots.other_attention_in_time(again, *given, clip.system.heads)
        return again
    waveform = clip.waveform[0].float().cpu().numpy()
    return plots.attention_in_time(waveform, RATE, *given, clip.system.heads)


def window_of(prediction: Prediction, number: int) -> CachedClip:
    system = prediction.system
    clip = prediction.recording.window(number)[None]
    return CachedClip.of(
        system, system.inputs(clip, system.from_table(prediction.recording, [number]))
    )


def top_tags(prediction: Prediction, name: str) -> Figure:
    """The most probable tags of a recording, the mean over its windows."""
    tags = prediction.tags
    return plots.tags({name: tags.to_numpy()}, list(tags.index), {name: set()})


class WhatIfFigure:
    """Attention map [f] and scene probabilities as they are now, beside those of the clip's tags.

    ``scenes``: the columns now, own tags and, with attention, no attention. Each head's filters are
    in the order of the weights for the clip's own tags. Without a map the probabilities are drawn
    alone. ``show`` puts other values into the same figure; of many scenes, the likeliest.
    """

    def __init__(self, scenes: pd.DataFrame, own: np.ndarray | None = None, heads: int = 1):
        self.own = own
        self.heads = heads
        with_map = own is not None
        self.figure, axes = plots.figure_of(
            9, 3, 1, 1 + with_map, layout="none", dpi=85, squeeze=False
        )
        self.figure.subplots_adjust(
            left=0.09 if with_map else 0.19, right=0.98, bottom=0.19, top=0.89, wspace=0.42
        )
        self.stairs = self._map(axes[0, 0]) if with_map else []
        axis = axes[0, -1]
        rows = np.arange(min(len(scenes), SCENES))
        self.bars = axis.barh(rows, 0 * rows, color="C0", label="now")
        self.marks = {
            name: axis.plot(0 * rows, rows, style, ms=size, mew=2, label=name)[0]
            for name, style, size in MARKS[: 1 + with_map]
        }
        axis.set(xlim=(0, 1), yticks=rows, ylim=(len(rows) - 0.4, -0.6))
        axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncol=3, frameon=False)
        self.show(scenes, own)
        sns.despine(self.figure)

    def _map(self, axis) -> list:
        filters = len(self.own)
        stairs = []
        for head, weights in enumerate(self._by_head(self.own)):
            edges = np.arange(len(weights) + 1) + head * len(weights)
            stairs.append(axis.stairs(weights, edges, fill=True, color=f"C{head % 10}"))
            axis.stairs(
                weights, edges, color="k", baseline=None, label=None if head else "own tags"
            )
        axis.axhline(self.heads / filters, c="0.3", ls="--", lw=1, label="no attention")
        axis.set(
            title=f"attention map, {self.heads} head{'s' * (self.heads > 1)} side by side",
            xlabel="filters of each head, by weight",
            ylabel="weight",
            xlim=(0, filters),
            ylim=(0, 1.3 * self.own.max()),  # with room for other tags
        )
        axis.legend(fontsize=8, loc="upper right")
        return stairs

    def _by_head(self, weights: np.ndarray) -> np.ndarray:
        return weights[_order(self.own, self.heads)].reshape(self.heads, -1)

    def show(self, scenes: pd.DataFrame, now: np.ndarray | None) -> None:
        """Put other values into the figure; the scale of the map grows where it must."""
        scenes = scenes[["now", *self.marks]]
        scenes, note = plots.cut(scenes, scenes.max(axis=1), SCENES, "likeliest scenes")
        for bar, width in zip(self.bars, scenes["now"]):
            bar.set_width(width)
        for name, mark in self.marks.items():
            mark.set_xdata(scenes[name])
        axis = self.figure.axes[-1]
        axis.set_yticklabels([plots.words(name, 18) for name in scenes.index])
        axis.set_xlabel(f"scene probability\n{note}".strip(), size=8 if note else None)
        if now is not None:
            for stairs, weights in zip(self.stairs, self._by_head(now)):
                stairs.set_data(weights)
            axis = self.figure.axes[0]
            axis.set_ylim(0, max(axis.get_ylim()[1], 1.3 * now.max()))

    def png(self) -> bytes:
        return plots.png(self.figure)

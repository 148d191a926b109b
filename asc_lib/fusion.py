"""The ways in which tags join the scene network (Section 3), each a class of a few lines.

A fusion of your own is a subclass of ``Fusion`` under ``@fusion("its_name")``, in a file that
``ASC_PLUGINS`` names: notebook 05 then trains it, and it gets a row in the tables.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from .registry import Registry

SLOPE = 0.3  # of every LeakyReLU
SIZES = ("heads", "layers", "concat_layers", "attention_layers")
AS_INPUT = ("clip", "windows")  # values of ``Fusion.reads`` with which prediction needs tags


def tag_layer(n_tags: int, width: int) -> nn.Linear:
    """A fully-connected layer on tags, with He initialisation.

    PyTorch's default would shrink the differences between tag vectors, which are small, to almost
    nothing within three layers.
    """
    layer = nn.Linear(n_tags, width)
    nn.init.kaiming_normal_(layer.weight, SLOPE, nonlinearity="leaky_relu")
    nn.init.zeros_(layer.bias)
    return layer


class TagTransform(nn.Sequential):
    """n fully-connected layers as wide as the tag vector, [B, c] to [B, c] (Section 3.1)."""

    def __init__(self, n_tags: int, layers: int):
        modules = [[tag_layer(n_tags, n_tags), nn.LeakyReLU(SLOPE)] for _ in range(layers)]
        super().__init__(*sum(modules, []))


def attention_map(scores: torch.Tensor, heads: int) -> torch.Tensor:
    """Eq. 1: a softmax over the filters of each head; scores [B, f] to weights [B, f].

    The weights of each head sum to 1. Raises ValueError if ``heads`` does not divide f, or leaves
    one filter per head, where the softmax is always 1.
    """
    filters = scores.shape[-1]
    check_heads(heads, filters)
    per_head = scores.unflatten(-1, (heads, filters // heads))  # [B, h, f / h]
    return per_head.softmax(-1).flatten(-2)  # [B, f]


def attend(feature_map: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Eq. 2: all frames of the map [B, f, t] or [B, f, bands, t], times the weights [B, f].

    Weights [B, f, t] in time: each frame times its own.
    """
    in_time = weights if weights.ndim == 3 else weights[..., None]  # [B, f, t] or [B, f, 1]
    return feature_map * (in_time if feature_map.ndim == 3 else in_time[:, :, None])


def over_frames(maps: torch.Tensor, times: torch.Tensor, frames: int) -> torch.Tensor:
    """Attention maps of windows [B, w, f] to one for each frame [B, f, t]; heads still sum to 1.

    Linear between the middles of windows (``times`` [B, w, 2], in s), constant before the first and
    after the last. Frames are equal parts of the excerpt, which ends with its last window.
    """
    middles = times.mean(2)  # [B, w]
    frame = (torch.arange(frames, device=times.device) + 0.5) / frames  # [t], of the excerpt
    since = frame * times[:, -1:, 1:] - middles[:, :-1, None]  # [B, w - 1, t], s
    passed = (since / middles.diff(dim=1)[..., None]).clamp(0, 1)  # share of the way to the next
    return maps[:, :1].mT + maps.diff(dim=1).mT @ passed


def check_heads(heads: int, filters: int) -> None:
    """Raise ValueError for a number of heads that the filters cannot be divided into."""
    fitting = [h for h in range(1, filters) if filters % h == 0]
    if heads == filters:
        raise ValueError(
            f"{heads} heads leave one filter per head, where the softmax is always 1: "
            f"choose one of {fitting}"
        )
    if heads not in fitting:
        raise ValueError(
            f"{heads} does not divide the {filters} filters of the feature map: "
            f"choose one of {fitting}"
        )


class Fusion(nn.Module):
    """How tags join the scene network; this one ignores them.

    ``reads`` declares the input: "clip", one tag vector per clip [B, c]; "windows", tag vectors of
    windows [B, w, c] with their times [B, w, 2] (start and end in s after the excerpt's start);
    "targets", in training one tag vector per clip, for ``loss``, and nothing [B, 0] at prediction;
    or "nothing". ``prepare`` receives it once per batch, and the other methods its result.
    ``pooled_width`` and ``code_width``: the number of values added by before_code and after_code.
    """

    reads = "clip"
    waveform = True  # False: no front-end; the pooled feature map then has no width
    pooled_width = 0
    code_width = 0

    def prepare(self, tags: torch.Tensor, times: torch.Tensor | None = None):
        """What the methods below receive as ``tags``."""
        return tags

    def weights(self, tags) -> torch.Tensor | None:
        """Attention map [B, f] over the filters, one for each window [B, w, f], or None."""
        return None

    def add_outputs(self, code_width: int) -> None:
        """Add layers that read the code; called once, when the network is built."""

    def before_code(self, pooled: torch.Tensor, tags) -> torch.Tensor:
        """Pooled feature map [B, 2f] to the input of the code layer."""
        return pooled

    def after_code(self, code: torch.Tensor, tags) -> torch.Tensor:
        """Output of the code layer to the code, which the output layer and the SVM read."""
        return code

    def loss(self, out, batch: dict[str, torch.Tensor]) -> torch.Tensor | float:
        """A term added to the training loss, from a ``SceneOutput`` and the batch it is of."""
        return 0.0


@dataclass(frozen=True)
class FusionEntry:
    """All that is known of a fusion."""

    build: type[Fusion]
    uses: tuple[str, ...]  # which of SIZES
    notebook: str  # that trains it
    table: int | None  # of the paper
    question: str  # that its accuracy answers
    main: tuple[dict[str, int], ...]  # sizes in the sweep `main`; the last also in `systems`


FUSIONS = Registry("fusion")


def fusion(
    name: str,
    *uses: str,
    notebook: str = "05_combined",
    table: int | None = None,
    question: str = "What does this fusion gain?",
    main: tuple[dict[str, int], ...] = ({},),
):
    """Register a Fusion, built as ``cls(n_tags, filters, **sizes)`` with the sizes it ``uses``.

    The sizes are ``heads``, ``layers``, ``concat_layers`` and ``attention_layers``.
    """

    def register(build: type[Fusion]) -> type[Fusion]:
        FUSIONS[name] = FusionEntry(build, uses, notebook, table, question, main)
        return build

    return register


@fusion(
    "baseline",
    notebook="02_baseline",
    table=2,
    question="How accurate is the waveform alone?",
)
class Baseline(Fusion):
    """No tags (Section 2.1)."""

    reads = "nothing"

    def __init__(self, n_tags: int, filters: int):
        super().__init__()


@fusion(
    "codecat",
    notebook="03_concatenation",
    table=2,
    question="Do tags help beside the code?",
)
class Codecat(Fusion):
    """The code is the code layer's output beside the tag vector (Section 3.1, first method)."""

    def __init__(self, n_tags: int, filters: int):
        super().__init__()
        self.code_width = n_tags

    def after_code(self, code: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
        return torch.cat([code, tags], 1)  # [B, code + c]


@fusion(
    "before_code",
    "layers",
    notebook="03_concatenation",
    table=2,
    question="Do tags help before the code layer?",
    main=({"layers": 0}, {"layers": 3}),
)
class BeforeCode(Fusion):
    """Transformed tags join the pooled map (Section 3.1, second and third method)."""

    def __init__(self, n_tags: int, filters: int, layers: int):
        super().__init__()
        self.pooled_width = n_tags
        self.transform = TagTransform(n_tags, layers)

    def prepare(self, tags: torch.Tensor, times: torch.Tensor | None = None) -> torch.Tensor:
        return self.transform(tags)  # [B, c]

    def before_code(self, pooled: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
        return torch.cat([pooled, tags], 1)  # [B, 2f + c]


@fusion(
    "attention",
    "heads",
    "layers",
    notebook="04_attention",
    table=3,
    question="Do tags help by weighting filters?",
    main=({"heads": 2, "layers": 1},),
)
class Attention(Fusion):
    """Transformed tags make the attention map over filters (Section 3.2, Eq. 1 and 2)."""

    def __init__(self, n_tags: int, filters: int, heads: int, layers: int):
        super().__init__()
        self.heads = heads
        self.transform = TagTransform(n_tags, layers)
        self.score = tag_layer(n_tags, filters)

    def prepare(self, tags: torch.Tensor, times: torch.Tensor | None = None) -> torch.Tensor:
        return self.transform(tags)  # [B, c]

    def weights(self, tags: torch.Tensor) -> torch.Tensor:
        return attention_map(self.score(tags), self.heads)  # [B, f]


@fusion(
    "combined_separate",
    "heads",
    "concat_layers",
    "attention_layers",
    table=4,
    question="Do both help together, with a transform each?",
    main=({"heads": 4, "concat_layers": 4, "attention_layers": 3},),
)
class CombinedSeparate(Fusion):
    """Attention and concatenation, each with its own transform (Section 3.3, Table 4)."""

    def __init__(
        self, n_tags: int, filters: int, heads: int, concat_layers: int, attention_layers: int
    ):
        super().__init__()
        self.pooled_width = n_tags
        self.attention = Attention(n_tags, filters, heads, attention_layers)
        self.concat = TagTransform(n_tags, concat_layers)

    def weights(self, tags: torch.Tensor) -> torch.Tensor:
        return self.attention.weights(self.attention.prepare(tags))  # [B, f]

    def before_code(self, pooled: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
        return torch.cat([pooled, self.concat(tags)], 1)  # [B, 2f + c]


@fusion(
    "combined_shared",
    "heads",
    "layers",
    table=5,
    question="Do both help together, with one transform?",
    main=({"heads": 4, "layers": 3},),
)
class CombinedShared(Attention):
    """Attention and concatenation from the same transformed tags (Section 3.3, Table 5)."""

    def __init__(self, n_tags: int, filters: int, heads: int, layers: int):
        super().__init__(n_tags, filters, heads, layers)
        self.pooled_width = n_tags

    def before_code(self, pooled: torch.Tensor, tags: torch.Tensor) -> torch.Tensor:
        return torch.cat([pooled, tags], 1)  # [B, 2f + c]


@fusion(
    "tags_only",
    "layers",
    question="How accurate are tags alone?",
    main=({"layers": 0}, {"layers": 1}, {"layers": 3}),
)
class TagsOnly(BeforeCode):
    """No waveform: the code layer reads the transformed tags alone. A control of ours."""

    waveform = False


@fusion(
    "attention_in_time",
    "heads",
    "layers",
    question="Do tags help by weighting filters as they change in time?",
    main=({"heads": 2, "layers": 1},),
)
class AttentionInTime(Attention):
    """An attention map for each window of tags: the weights follow the sound. Ours.

    As many parameters as ``Attention``, and its equal where all windows are (``over_frames``).
    """

    reads = "windows"


@fusion("tag_targets", question="Do tags help as what the code must predict?")
class TagTargets(Fusion):
    """Tags are no input, but what a layer must predict from the code. Ours, after cSEM."""

    reads = "targets"
    weight = 1.0  # of the tags' cross-entropy, as in cSEM

    def __init__(self, n_tags: int, filters: int):
        super().__init__()
        self.n_tags = n_tags

    def add_outputs(self, code_width: int) -> None:
        self.predicted = nn.Linear(code_width, self.n_tags)

    def loss(self, out, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        # [B, c]; the code may be bfloat16, and no autocast is on here
        scores = self.predicted(out.code.to(self.predicted.weight.dtype)).float()
        return self.weight * F.binary_cross_entropy_with_logits(scores, batch["tags"])

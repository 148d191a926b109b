"""The ways in which a tag vector joins the scene network (Section 3 of the paper), each a class of a few lines.

A fusion of one's own is a subclass of ``Fusion`` under ``@fusion("its_name")``: the notebooks then run it.
"""

from dataclasses import dataclass

import torch
from torch import nn

SLOPE = 0.3  # of every LeakyReLU


def tag_layer(n_tags: int, width: int) -> nn.Linear:
    """A fully-connected layer on tags. It starts as one that keeps the scale of its input (He): torch's own start
    would shrink differences between tag vectors, small as they are, to next to nothing in three layers."""
    layer = nn.Linear(n_tags, width)
    nn.init.kaiming_normal_(layer.weight, SLOPE, nonlinearity="leaky_relu")
    nn.init.zeros_(layer.bias)
    return layer


class TagTransform(nn.Sequential):
    """n fully-connected layers of the tag vector's own width, each with a LeakyReLU: [B, c] to [B, c] (Section 3.1)."""

    def __init__(self, n_tags: int, layers: int):
        super().__init__(*(m for _ in range(layers) for m in (tag_layer(n_tags, n_tags), nn.LeakyReLU(SLOPE))))


def attention_map(scores: torch.Tensor, heads: int) -> torch.Tensor:
    """Softmax over the filters of each head: scores [B, f] to weights [B, f] that sum to 1 in each head (Section 3.2).

    Raises ValueError if ``heads`` does not divide f, or leaves one filter a head, where the softmax is always 1.
    """
    filters = scores.shape[-1]
    if problem := heads_problem(heads, filters):
        raise ValueError(problem)
    return scores.unflatten(-1, (heads, filters // heads)).softmax(-1).flatten(-2)


def attend(feature_map: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Eq. 2: every frame of the map [B, f, t] times the same weights [B, f]."""
    return feature_map * weights.unsqueeze(-1)


def heads_problem(heads: int, filters: int) -> str | None:
    """What is wrong with a number of heads, if anything."""
    fitting = [h for h in range(1, filters) if filters % h == 0]
    if heads == filters:
        return f"{heads} heads leave one filter a head, where the softmax is always 1: choose one of {fitting}"
    if heads not in fitting:
        return f"{heads} does not divide the {filters} filters of the feature map: choose one of {fitting}"
    return None


class Fusion(nn.Module):
    """How tags join the scene network; this one lets them out (the baseline).

    ``read`` prepares the tag vector once a clip; each of the three other methods may use what it returns.
    ``pooled_width`` and ``code_width`` say how much the last two widen their input. One that does without the waveform
    says so: then there is no front-end, and the pooled feature map has no width.
    """

    waveform = True
    pooled_width = 0
    code_width = 0

    def read(self, tags: torch.Tensor) -> torch.Tensor:
        """Tag vectors [B, c] as the methods below want them."""
        return tags

    def weights(self, read: torch.Tensor) -> torch.Tensor | None:
        """Attention map [B, f] over the filters of the feature map, or None."""
        return None

    def before_code(self, pooled: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """Pooled feature map [B, 2f] to what the code layer reads."""
        return pooled

    def after_code(self, code: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        """Output of the code layer to the code, which the output layer and the SVM read."""
        return code


@dataclass(frozen=True)
class FusionEntry:
    build: type[Fusion]
    uses: tuple[str, ...]  # of heads, layers, concat_layers, attention_layers


FUSIONS: dict[str, FusionEntry] = {}


def fusion(name: str, *uses: str):
    """Register a Fusion, built as ``cls(n_tags, filters, **those of the four sizes that it uses)``."""

    def register(build: type[Fusion]) -> type[Fusion]:
        FUSIONS[name] = FusionEntry(build, uses)
        return build

    return register


@fusion("baseline")
class Baseline(Fusion):
    """No tags (Section 2.1)."""

    def __init__(self, n_tags: int, filters: int):
        super().__init__()


@fusion("codecat")
class Codecat(Fusion):
    """The code is the code layer's output and the tag vector, side by side (Section 3.1, first method)."""

    def __init__(self, n_tags: int, filters: int):
        super().__init__()
        self.code_width = n_tags

    def after_code(self, code: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        return torch.cat([code, read], 1)


@fusion("before_code", "layers")
class BeforeCode(Fusion):
    """Transformed tags join the pooled map; the code layer reads both (Section 3.1, second and third method)."""

    def __init__(self, n_tags: int, filters: int, layers: int):
        super().__init__()
        self.pooled_width, self.transform = n_tags, TagTransform(n_tags, layers)

    def read(self, tags: torch.Tensor) -> torch.Tensor:
        return self.transform(tags)

    def before_code(self, pooled: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        return torch.cat([pooled, read], 1)


@fusion("attention", "heads", "layers")
class Attention(Fusion):
    """Transformed tags make the attention map over filters (Section 3.2, Eq. 1 and 2)."""

    def __init__(self, n_tags: int, filters: int, heads: int, layers: int):
        super().__init__()
        self.heads, self.transform, self.score = heads, TagTransform(n_tags, layers), tag_layer(n_tags, filters)

    def read(self, tags: torch.Tensor) -> torch.Tensor:
        return self.transform(tags)

    def weights(self, read: torch.Tensor) -> torch.Tensor:
        return attention_map(self.score(read), self.heads)


@fusion("combined_shared", "heads", "layers")
class CombinedShared(Attention):
    """Attention and concatenation before the code, both from the same transformed tags (Section 3.3, Table 5)."""

    def __init__(self, n_tags: int, filters: int, heads: int, layers: int):
        super().__init__(n_tags, filters, heads, layers)
        self.pooled_width = n_tags

    def before_code(self, pooled: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        return torch.cat([pooled, read], 1)


@fusion("combined_separate", "heads", "concat_layers", "attention_layers")
class CombinedSeparate(Fusion):
    """Attention and concatenation before the code, each with its own transform of the tags (Section 3.3, Table 4)."""

    def __init__(self, n_tags: int, filters: int, heads: int, concat_layers: int, attention_layers: int):
        super().__init__()
        self.pooled_width = n_tags
        self.attention = Attention(n_tags, filters, heads, attention_layers)
        self.concat = TagTransform(n_tags, concat_layers)

    def weights(self, read: torch.Tensor) -> torch.Tensor:
        return self.attention.weights(self.attention.read(read))

    def before_code(self, pooled: torch.Tensor, read: torch.Tensor) -> torch.Tensor:
        return torch.cat([pooled, self.concat(read)], 1)


@fusion("tags_only", "layers")
class TagsOnly(BeforeCode):
    """No waveform: the code layer reads the transformed tags alone. A control that the paper lacks."""

    waveform = False

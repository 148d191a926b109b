"""The paper's Figure 2, drawn from a network."""

from matplotlib.figure import Figure

from .fusion import Fusion, TagTransform
from .plots import figure_of
from .scene_net import SceneNet


def network(net: SceneNet) -> Figure:
    """The paper's Figure 2, (a), (b) or (c), drawn from a network and the fusion in it.

    What the fusion adds to the baseline is orange; below each name stands the size of one clip's
    values.
    """
    fusion = net.fusion
    figure, axis = figure_of(10, 2.7)

    def box(x: float, y: float, text: str, color: str = "0.3", shape: str = "round") -> None:
        axis.text(
            x,
            y,
            text,
            ha="center",
            va="center",
            size=8,
            bbox={"boxstyle": f"{shape},pad=0.35", "edgecolor": color, "facecolor": "w"},
            zorder=3,
        )

    def arrow(start: tuple, end: tuple, color: str = "0.3", elbow: bool = False) -> None:
        text = chain[end[0]] if end[1] == 2 and end[0] in chain else "3 layers"
        half = 2.3 * max(map(len, text.split("\n")))  # width of half a box, in points
        axis.annotate(
            "",
            end,
            start,
            arrowprops={
                "arrowstyle": "-|>",
                "color": color,
                "shrinkA": 12,
                "shrinkB": 13 if end[0] in joins.values() else 8 + half,
                "connectionstyle": "angle,angleA=0,angleB=90" if elbow else "arc3",
            },
            zorder=2,
        )

    chain = {
        7.4: f"code layer\n{net.code.in_features} → {net.code.out_features}",
        9.4: f"code\n{net.output.in_features}",
        10.6: "softmax,\nSVM: scene",
    }
    if net.front_end:
        chain |= {
            0: "waveform\n2 × T",
            1.4: f"front-end\n{type(net.front_end).__name__.lower()}",
            2.9: f"feature map M\n{net.front_end.filters} × t",
            5.2: f"mean ‖ max\nover time\n{net.front_end.pooled_width}",
        }
    joins = {  # x of each method that the fusion has
        method: x
        for method, x in {"weights": 4.1, "before_code": 6.4, "after_code": 8.3}.items()
        if getattr(type(fusion), method) is not getattr(Fusion, method)
    }
    places = sorted([*chain, *joins.values()])
    for x, to in zip(places, places[1:]):
        arrow((x, 2), (to, 2))
    for x, text in chain.items():
        box(x, 2, text)
    if joins:
        box(0, 0, "tagger\n(same clip)", "C1")
        box(1.4, 0, f"tag vector T\n{net.n_tags}", "C1")
        arrow((0, 0), (1.4, 0), "C1")
    layers = [len(part) // 2 for part in fusion.modules() if isinstance(part, TagTransform)]
    for number, (method, x) in enumerate(joins.items()):
        start = (1.4, 0)
        if layers:
            start = (2.9, 0 if len(layers) == 1 else 0.4 - 0.8 * number)
            name = "φ" if len(layers) == 1 else f"φ{'₁₂₃'[number]}"
            depth = layers[min(number, len(layers) - 1)]  # the last transform may be shared
            box(*start, f"{name}(T)\n{depth} layer{'s' * (depth != 1)}", "C1")
            arrow((1.4, 0), start, "C1")
        if method == "weights":
            heads = next((part.heads for part in fusion.modules() if hasattr(part, "heads")), 1)
            box(x, 1, f"attention map, {heads} head{'s' * (heads > 1)}", "C1")
            arrow((x, 1), (x, 2), "C1")
        arrow(start, (x, 1 if method == "weights" else 2), "C1", elbow=True)
        box(x, 2, "⊗" if method == "weights" else "‖", "C1", "circle")
    if type(fusion).add_outputs is not Fusion.add_outputs:
        arrow((9.4, 2), (9.4, 0.9), "C1")
        box(9.4, 0.9, f"tag vector T\n{net.n_tags}", "C1")
    axis.set(xlim=(-0.6, 11.2), ylim=(-0.8, 2.5))
    axis.axis("off")
    return figure

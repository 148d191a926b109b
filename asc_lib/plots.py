"""Every figure: functions from arrays and tables to a matplotlib Figure, in palettes safe for colour-blind readers."""

import io

import librosa
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

sns.set_theme("notebook", "ticks", "colorblind", font_scale=0.85)
MAP = "cividis"


def _figure(width: float, height: float, *grid: int, **options) -> tuple[Figure, np.ndarray]:
    figure, axes = plt.subplots(
        *(grid or (1, 1)), figsize=(width, height), layout="constrained", squeeze=False, **options
    )
    plt.close(figure)  # shown where a cell returns it, not twice
    return figure, axes


def _words(name: str) -> str:
    return name.replace("_", " ")


def clip(waveform: np.ndarray, rate: int, title: str = "", events: pd.DataFrame | None = None) -> Figure:
    """Waveform and log-mel spectrogram of a clip on one time axis, its events' onsets marked.

    ``waveform``: [channels, samples], int16 or within ±1.
    """
    figure, axes = _figure(8, 3.8, 2, 1, sharex=True)
    wave, image = axes[:, 0]
    scale = 2**15 if waveform.dtype == np.int16 else 1
    mono = waveform.mean(0).astype("float32") / scale
    librosa.display.waveshow(mono, sr=rate, ax=wave, axis="s")
    wave.set(ylabel="amplitude", xlabel="", title=title)
    mel = librosa.feature.melspectrogram(y=mono, sr=rate, n_mels=64, n_fft=4096, hop_length=1024, fmax=16_000)
    decibels = librosa.power_to_db(mel, ref=np.max, top_db=70)
    shown = librosa.display.specshow(
        decibels, sr=rate, hop_length=1024, x_axis="s", y_axis="mel", fmax=16_000, ax=image, cmap=MAP, rasterized=True
    )
    image.set(ylabel="frequency (Hz)", xlabel="time (s)")
    figure.colorbar(shown, ax=image, label="dB below the loudest")
    for number, event in enumerate([] if events is None else events.itertuples()):
        wave.axvline(event.onset, color="C1", linewidth=1)
        height, box = 0.92 - 0.17 * (number % 5), {"facecolor": "w", "edgecolor": "none", "pad": 1, "alpha": 0.8}
        place = {"transform": wave.get_xaxis_transform(), "va": "top", "size": 8, "bbox": box}
        wave.text(event.onset, height, f" {_words(event.tag)}", **place)
    return figure


def heat(table: pd.DataFrame, label: str, *, annotate: str = "", centre: float | None = None) -> Figure:
    """A table of numbers as a heat map; ``annotate``: format of the numbers in it; ``centre``: where colours part."""
    figure, axes = _figure(8, 0.9 + 0.26 * len(table))
    axis, colours = axes[0, 0], {"cmap": MAP} if centre is None else {"cmap": "vlag", "center": centre}
    sns.heatmap(table, annot=bool(annotate), fmt=annotate, cbar_kws={"label": label}, ax=axis, **colours)
    axis.set_xticklabels([_words(t.get_text()) for t in axis.get_xticklabels()], rotation=45, ha="right")
    axis.set_yticklabels([_words(t.get_text()) for t in axis.get_yticklabels()], rotation=0)
    axis.set(xlabel="", ylabel="")
    return figure


def images(pictures: list[np.ndarray], columns: int, ylabel: str, xlabel: str) -> Figure:
    """A grid of pictures on one scale."""
    rows = -(-len(pictures) // columns)
    figure, axes = _figure(8, 1.6 * rows + 0.3, rows, columns, sharex=True, sharey=True)
    pictures = [np.asarray(picture) for picture in pictures]
    limits = {"vmin": min(p.min() for p in pictures), "vmax": max(p.max() for p in pictures)}
    for axis, picture in zip(axes.flat, pictures):
        axis.imshow(picture, aspect="auto", origin="lower", cmap=MAP, interpolation="nearest", **limits)
    figure.supylabel(ylabel, size=10)
    figure.supxlabel(xlabel, size=10)
    return figure


def loss(history: pd.DataFrame) -> Figure:
    """Loss by epoch, a line a fold where there are folds."""
    figure, axes = _figure(5, 2.4)
    fold = history["fold"].astype(str) if "fold" in history else None
    sns.lineplot(history, x="epoch", y="loss", hue=fold, ax=axes[0, 0])
    axes[0, 0].xaxis.set_major_locator(MaxNLocator(integer=True))
    axes[0, 0].set(ylabel="training loss")
    return figure


def tags(vectors: dict[str, np.ndarray], names: list[str], present: dict[str, set[str]], top: int = 6) -> Figure:
    """The most probable tags of a few clips; those really present are marked with a star."""
    figure, axes = _figure(8, 0.35 * top + 0.9, 1, len(vectors), sharex=True)
    for axis, (title, vector) in zip(axes[0], vectors.items()):
        best = np.argsort(vector)[::-1][:top]
        marked = [f"{'★ ' if names[k] in present[title] else ''}{_words(names[k])}" for k in best]
        colours = ["C0" if names[k] in present[title] else "0.75" for k in best]
        axis.barh(marked, vector[best], color=colours)
        axis.invert_yaxis()
        axis.set(title=title, xlabel="probability", xlim=(0, 1))
    sns.despine(figure)
    return figure


def confusion(truth: np.ndarray, predicted: np.ndarray, labels: list[str]) -> Figure:
    """Confusion matrix: share of each true scene's clips that was called each scene."""
    counts = pd.crosstab(truth, predicted).reindex(index=range(len(labels)), columns=range(len(labels)), fill_value=0)
    shares = 100 * counts.div(counts.sum(1), axis=0)
    short = [_words(label) for label in labels]
    figure, axes = _figure(6, 4.6)
    bar = {"label": "% of the true scene's clips"}
    axis = sns.heatmap(shares, cmap=MAP, vmin=0, vmax=100, annot=True, fmt=".0f", cbar_kws=bar, ax=axes[0, 0])
    axis.set_yticklabels(short, rotation=0)
    axis.set_xticklabels(short, rotation=45, ha="right")
    axis.set(xlabel="predicted", ylabel="true")
    return figure


def attention_by_scene(weights: np.ndarray, scenes: np.ndarray, labels: list[str], heads: int) -> Figure:
    """Mean attention map of each scene [clips, f], relative to the mean of all clips, in percent."""
    mean = pd.DataFrame(weights).groupby(np.asarray(labels)[scenes]).mean()
    return by_filter(100 * (mean / weights.mean(0) - 1), heads, "more or less than usual (%)")


def by_filter(table: pd.DataFrame, heads: int, label: str) -> Figure:
    """Signed numbers [rows, f] about filters as a heat map, heads apart."""
    limit = float(np.quantile(np.abs(table), 0.99)) or 1.0
    figure, axes = _figure(8, 1.2 + 0.2 * len(table))
    options = {"vmin": -limit, "vmax": limit, "xticklabels": 16, "cbar_kws": {"label": label}}
    axis = sns.heatmap(table, cmap="vlag", center=0, rasterized=True, ax=axes[0, 0], **options)
    for head in range(1, heads):
        axis.axvline(head * table.shape[1] / heads, color="k", linewidth=1)
    axis.set_yticks(np.arange(len(table)) + 0.5, [_words(name) for name in table.index], rotation=0)
    axis.set(xlabel="filter (lines part the heads)", ylabel="")
    return figure


class WhatIf:
    """Attention map [f] and scene probabilities as they are now, beside those for a clip's own tags.

    ``scenes``: the columns now, own tags and, with attention, no attention. Each head's filters are in the order of
    the weights for the clip's own tags. Without a map the probabilities are drawn alone. ``png`` draws the same
    ``figure`` again with other values, in a fraction of the time: axes and texts stay.
    """

    def __init__(self, scenes: pd.DataFrame, own: np.ndarray | None = None, heads: int = 1):
        self.own, self.heads, self._empty = own, heads, None
        self.figure, axes = plt.subplots(1, 1 + (own is not None), figsize=(9, 3), dpi=85, squeeze=False)
        plt.close(self.figure)
        self.canvas = FigureCanvasAgg(self.figure)
        self.figure.subplots_adjust(left=0.19 if own is None else 0.09, right=0.98, bottom=0.19, top=0.89, wspace=0.42)
        self.stairs = [] if own is None else self._map(axes[0, 0])
        axis, place = axes[0, -1], np.arange(len(scenes))
        self.bars = axis.barh(place, scenes["now"], color="C0", label="now")
        axis.plot(scenes["own tags"], place, "|", color="k", markersize=11, markeredgewidth=2, label="own tags")
        if own is not None:
            cross = {"color": "C1", "markeredgewidth": 2, "label": "no attention"}
            (self.crosses,) = axis.plot(scenes["no attention"], place, "x", **cross)
        axis.set_yticks(place, [_words(name) for name in scenes.index])
        axis.invert_yaxis()
        axis.set(xlabel="scene probability", xlim=(0, 1))
        axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncol=3, frameon=False)  # over no bar
        sns.despine(self.figure)

    def _map(self, axis: plt.Axes) -> list:
        filters, stairs = len(self.own), []
        for head, weights in enumerate(self._by_head(self.own)):
            edges = np.arange(filters // self.heads + 1) + head * (filters // self.heads)
            stairs.append(axis.stairs(weights, edges, fill=True, color=f"C{head % 10}"))
            axis.stairs(weights, edges, color="k", baseline=None, label=None if head else "own tags")
        axis.axhline(self.heads / filters, color="0.3", linestyle="--", linewidth=1, label="no attention")
        title = f"attention map, {self.heads} head{'s' * (self.heads > 1)} side by side"
        axis.set(xlabel="filters of each head, by weight", ylabel="weight", xlim=(0, filters), title=title)
        axis.set_ylim(0, 1.3 * self.own.max())  # with room for other tags
        axis.legend(fontsize=8, loc="upper right")
        return stairs

    def _by_head(self, weights: np.ndarray) -> np.ndarray:
        order = np.argsort(-self.own.reshape(self.heads, -1), axis=1, kind="stable")
        return np.take_along_axis(weights.reshape(self.heads, -1), order, axis=1)

    def show(self, scenes: pd.DataFrame, now: np.ndarray | None) -> None:
        """Put other values into the figure; the scale of the map grows where it must, and stays so."""
        for bar, width in zip(self.bars, scenes["now"]):
            bar.set_width(width)
        if now is None:
            return
        self.crosses.set_xdata(scenes["no attention"])
        for stairs, weights in zip(self.stairs, self._by_head(now)):
            stairs.set_data(weights)
        axis = self.figure.axes[0]
        if now.max() > axis.get_ylim()[1]:
            axis.set_ylim(0, 1.3 * now.max())
            self._empty = None

    def png(self) -> bytes:
        """The figure as a picture."""
        moving = [artist for axis in self.figure.axes for artist in (*axis.patches, *axis.lines, axis.get_legend())]
        if self._empty is None:
            for artist in moving:
                artist.set_animated(True)  # left out of the next line
            self.canvas.draw()
            self._empty = self.canvas.copy_from_bbox(self.figure.bbox)
        self.canvas.restore_region(self._empty)
        for artist in moving:
            artist.axes.draw_artist(artist)
        buffer = io.BytesIO()
        plt.imsave(buffer, self.canvas.buffer_rgba(), format="png", pil_kwargs={"compress_level": 1})
        return buffer.getvalue()


def timeline(windows: pd.DataFrame, labels: list[str]) -> Figure:
    """Scene probabilities of a recording's windows (columns start, end, scene and one a label) over time.

    The back-end's scene of each window is marked with a dot.
    """
    figure, axes = _figure(8, 1.2 + 0.22 * len(labels))
    shown_from = np.maximum(windows["start"], windows["end"].shift(fill_value=0))  # the last may reach back
    axis, edges = axes[0, 0], [*shown_from, windows["end"].iloc[-1]]
    values = windows[labels].T.to_numpy()
    options = {"vmin": 0, "vmax": 1, "cmap": MAP, "rasterized": True}
    shown = axis.pcolormesh(edges, np.arange(len(labels) + 1), values, **options)
    middles = (np.array(edges[:-1]) + edges[1:]) / 2
    rows = [labels.index(scene) + 0.5 for scene in windows["scene"]]
    axis.plot(middles, rows, "o", color="w", markeredgecolor="k", label="scene by the SVM", linestyle="")
    axis.set_yticks(np.arange(len(labels)) + 0.5, [_words(label) for label in labels])
    axis.invert_yaxis()
    axis.set(xlabel="time (s)", xlim=(edges[0], edges[-1]))
    axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    figure.colorbar(shown, ax=axis, label="scene probability")
    return figure


def feature_maps(before: np.ndarray, after: np.ndarray) -> Figure:
    """One clip's feature map [f, t] before and after attention, each on its own scale."""
    figure, axes = _figure(8, 3, 1, 2, sharey=True)
    for axis, image, title in zip(axes[0], (before, after), ("feature map M", "attended map M'")):
        shown = axis.imshow(image, aspect="auto", cmap=MAP, origin="lower", interpolation="nearest")
        axis.set(title=title, xlabel="frame")
        figure.colorbar(shown, ax=axis)
    axes[0, 0].set(ylabel="filter")
    return figure


LINES = "line: 95 % interval over locations and seeds; hollow: one seed, so over locations alone, and too narrow"


def _intervals(table: pd.DataFrame, middle: str, low: str, high: str, note: str) -> tuple[Figure, plt.Axes]:
    """A row a system: a dot and the line of its interval, those of controls in orange, of a single seed hollow."""
    figure, axes = _figure(8, 0.8 + 0.3 * len(table))
    axis, place = axes[0, 0], np.arange(len(table))
    colours = np.where(table["control"], "C1", "C0")
    axis.hlines(place, table[low], table[high], color=colours, zorder=1)
    faces = [colour if len(seeds) > 1 else "w" for colour, seeds in zip(colours, table["seeds"])]
    axis.scatter(table[middle], place, color=faces, edgecolor=colours, zorder=2)
    axis.set_yticks(place, table.index)
    axis.set_ylim(len(table) - 0.5, -0.5)
    figure.suptitle(f"{note}; orange: controls\n{LINES}", size=9)
    sns.despine(figure)
    return figure, axis


def accuracies(table: pd.DataFrame) -> Figure:
    """Mean accuracy of each system with its 95 % interval (columns mean, low, high), and each seed's as a tick."""
    figure, axis = _intervals(table, "mean", "low", "high", "dot: mean over seeds; grey ticks: single seeds")
    for row, values in enumerate(table["seeds"]):
        axis.plot(values, [row] * len(values), "|", color="0.4", markersize=9, zorder=0)
    axis.set(xlabel="accuracy (%)")
    return figure


def gains(table: pd.DataFrame) -> Figure:
    """Gain of each system over the baseline with its 95 % interval (columns gain, gain_low, gain_high), in points."""
    figure, axis = _intervals(table.dropna(subset="gain"), "gain", "gain_low", "gain_high", "dot: mean over seeds")
    axis.axvline(0, color="0.3", linestyle="--", linewidth=1)
    axis.set(xlabel="gain over the baseline (percentage points)")
    return figure


def grids(grid: pd.DataFrame) -> Figure:
    """A table of the paper with heads and layers: its published accuracies and the measured ones.

    Both have a scale of as many points, each around its own median.
    """
    figure, axes = _figure(9, 2.9, 1, 2)
    titles = {"published": ("published (TAU 2019)", ".2f"), "mean": ("measured here (composed scenes)", ".1f")}
    middles = {column: grid[column].median() for column in titles}
    half = max((grid[column] - middle).abs().max() for column, middle in middles.items())
    for axis, (column, (title, form)) in zip(axes[0], titles.items()):
        shown = grid.pivot(index="heads", columns="layers", values=column).astype(float)
        options = {
            "vmin": middles[column] - half,
            "vmax": middles[column] + half,
            "cbar_kws": {"label": "accuracy (%)"},
        }
        sns.heatmap(shown, cmap=MAP, annot=True, fmt=form, ax=axis, **options)
        axis.set(title=title, xlabel="transform layers", ylabel="heads")
        axis.tick_params("y", rotation=0)
    return figure

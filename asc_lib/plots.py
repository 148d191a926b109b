"""Every figure: functions from arrays and tables to a matplotlib Figure, in palettes safe for colour-blind readers."""

import librosa
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.figure import Figure

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
    """Waveform and log-mel spectrogram of a clip [channels, samples] on one time axis, its events' onsets marked."""
    figure, axes = _figure(8, 3.8, 2, 1, sharex=True)
    wave, image = axes[:, 0]
    mono = waveform.mean(0).astype("float32")
    librosa.display.waveshow(mono, sr=rate, ax=wave, axis="s")
    wave.set(ylabel="amplitude", xlabel="", title=title)
    mel = librosa.feature.melspectrogram(y=mono, sr=rate, n_mels=64, n_fft=4096, hop_length=1024, fmax=16_000)
    decibels = librosa.power_to_db(mel, ref=np.max, top_db=70)
    shown = librosa.display.specshow(
        decibels, sr=rate, hop_length=1024, x_axis="s", y_axis="mel", fmax=16_000, ax=image, cmap=MAP, rasterized=True
    )
    image.set(ylabel="frequency (Hz)", xlabel="time (s)")
    figure.colorbar(shown, ax=image, label="dB")
    for number, event in enumerate([] if events is None else events.itertuples()):
        wave.axvline(event.onset, color="C1", linewidth=1)
        height = 0.92 - 0.17 * (number % 5)
        wave.text(event.onset, height, f" {event.tag}", transform=wave.get_xaxis_transform(), va="top", size=8)
    return figure


def heat(table: pd.DataFrame, label: str, *, annotate: str | None = None, height: float | None = None) -> Figure:
    """A table of numbers as a heat map; ``annotate`` is the format of the numbers in it."""
    figure, axes = _figure(8, height or 0.9 + 0.26 * len(table))
    bar = {"label": label}
    sns.heatmap(
        table, cmap=MAP, annot=annotate is not None, fmt=annotate or "", cbar_kws=bar, ax=axes[0, 0], robust=True
    )
    axis = axes[0, 0]
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
    shares = counts.div(counts.sum(1), axis=0)
    short = [_words(label) for label in labels]
    figure, axes = _figure(6, 4.6)
    bar = {"label": "share of the scene's clips"}
    axis = sns.heatmap(shares, cmap=MAP, vmin=0, annot=100 * shares, fmt=".0f", cbar_kws=bar, ax=axes[0, 0])
    axis.set_yticklabels(short, rotation=0)
    axis.set_xticklabels(short, rotation=45, ha="right")
    axis.set(xlabel="predicted", ylabel="true", title="% of each true scene")
    return figure


def attention(weights: np.ndarray, heads: int, title: str = "") -> Figure:
    """Attention map of one clip [f]: a bar a filter, heads apart; the dashed line is a head that prefers no filter."""
    filters = len(weights)
    figure, axes = _figure(8, 2.3)
    axis, size = axes[0, 0], filters // heads
    for head in range(heads):
        span = np.arange(head * size, (head + 1) * size)
        axis.bar(span, weights[span], width=1, color=f"C{head % 10}", label=f"head {head + 1}")
        axis.axvline(span[-1] + 0.5, color="0.85", linewidth=0.8)
    axis.axhline(heads / filters, color="0.3", linestyle="--", linewidth=1)
    axis.set(xlabel="filter", ylabel="weight", title=title, xlim=(-1, filters))
    if heads <= 8:
        axis.legend(ncol=heads, fontsize=8)
    sns.despine(figure)
    return figure


def attention_by_scene(weights: np.ndarray, scenes: np.ndarray, labels: list[str], heads: int) -> Figure:
    """Mean attention map of each scene [clips, f], relative to the mean of all clips, in percent."""
    mean = pd.DataFrame(weights).groupby(np.asarray(labels)[scenes]).mean()
    relative = 100 * (mean / weights.mean(0) - 1)
    limit = float(np.quantile(np.abs(relative), 0.99)) or 1.0
    figure, axes = _figure(8, 3.2)
    bar = {"label": "more or less than usual (%)"}
    axis = sns.heatmap(
        relative, cmap="vlag", center=0, vmin=-limit, vmax=limit, xticklabels=16, cbar_kws=bar, ax=axes[0, 0]
    )
    for head in range(1, heads):
        axis.axvline(head * weights.shape[1] / heads, color="k", linewidth=1)
    axis.set(xlabel="filter (lines part the heads)", ylabel="")
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


def accuracies(table: pd.DataFrame) -> Figure:
    """Mean accuracy of each system with its 95 % interval (columns mean, low, high), and each seed's as a dot."""
    figure, axes = _figure(7, 0.7 + 0.36 * len(table))
    axis, place = axes[0, 0], np.arange(len(table))
    for column, bars in (("low", -1), ("high", 1)):
        axis.hlines(place, table["mean"], table["mean"] + bars * (table[column] - table["mean"]).abs(), color="C0")
    axis.plot(table["mean"], place, "o", color="C0")
    for row, values in enumerate(table["seeds"]):
        axis.plot(values, [row] * len(values), "|", color="0.4", markersize=9)
    axis.set_yticks(place, table.index)
    axis.invert_yaxis()
    axis.set(xlabel="accuracy (%)")
    figure.suptitle("dot: mean over seeds; line: 95 % interval over locations and seeds; ticks: single seeds", size=9)
    sns.despine(figure)
    return figure


def gains(table: pd.DataFrame) -> Figure:
    """Gain of each system over the baseline with its 95 % interval (columns gain, gain_low, gain_high), in points."""
    table = table.dropna(subset="gain")
    figure, axes = _figure(7, 0.7 + 0.32 * len(table))
    axis, place = axes[0, 0], np.arange(len(table))
    colours = ["C1" if control else "C0" for control in table["control"]]
    axis.hlines(place, table["gain_low"], table["gain_high"], color=colours)
    axis.scatter(table["gain"], place, color=colours, zorder=2)
    axis.axvline(0, color="0.3", linestyle="--", linewidth=1)
    axis.set_yticks(place, table.index)
    axis.invert_yaxis()
    axis.set(xlabel="gain over the baseline (percentage points)")
    figure.suptitle("line: 95 % interval over locations and seeds; orange: controls", size=9)
    sns.despine(figure)
    return figure


def grids(grid: pd.DataFrame) -> Figure:
    """A table of the paper with heads and layers: its published accuracies and the measured ones, each on its scale."""
    figure, axes = _figure(9, 2.9, 1, 2)
    titles = {"published": "published (TAU 2019)", "mean": "measured here"}
    for axis, (column, title) in zip(axes[0], titles.items()):
        shown = grid.pivot(index="heads", columns="layers", values=column).astype(float)
        sns.heatmap(shown, cmap=MAP, annot=True, fmt=".1f", cbar_kws={"label": "accuracy (%)"}, ax=axis)
        axis.set(title=title, xlabel="transform layers", ylabel="heads")
    return figure

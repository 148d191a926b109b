"""Every figure: functions from arrays and tables to a matplotlib Figure, colour-blind safe.

Any size of table gives a figure of bounded size: what would not fit is left out (``cut``), and the
figure says so. Any text is drawn as it is, but shortened; nothing in it is read as mathematics.
"""

import io
import math

import librosa
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

sns.set_theme("notebook", "ticks", "colorblind", font_scale=0.85, rc={"text.parse_math": False})
MAP = "cividis"
ROWS, COLUMNS, NUMBERS = 60, 30, 16  # at most; more columns than that are without numbers
LONGEST = 60  # s of a waveform
TAGS = 8  # at most, over time


def png(figure: Figure) -> bytes:
    """A figure as a PNG picture; lightly compressed, since sliders redraw it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=85, pil_kwargs={"compress_level": 1})
    return buffer.getvalue()


def time_axis(figure: Figure) -> tuple[float, float]:
    """Where 0 s is on the x axis of a drawn figure's first axes, and the length of a second.

    Both in shares of the figure's width.
    """
    axis = figure.axes[0]
    to_share = axis.transData + figure.transFigure.inverted()
    zero, one = to_share.transform([(0, 0), (1, 0)])[:, 0]
    return float(zero), float(one - zero)


def figure_of(
    width: float,
    height: float,
    *grid: int,
    notes: tuple[str, ...] = (),
    layout: str = "constrained",
    **options,
) -> tuple:
    """A figure, 2.4 to 14 inches high, and its axes; ``notes`` that are not empty stand above."""
    size = (width, np.clip(height, 2.4, 14))
    figure, axes = plt.subplots(*grid, figsize=size, layout=layout, **options)
    figure.suptitle("\n".join(filter(None, notes)), size=9).set_in_layout(any(notes))
    plt.close(figure)  # shown where a cell returns it, not twice
    FigureCanvasAgg(figure)  # else every text that is measured has a canvas of its own
    return figure, axes


def cut(
    table: pd.DataFrame | pd.Series, by: np.ndarray, most: int, what: str
) -> tuple[pd.DataFrame | pd.Series, str]:
    """The ``most`` rows that are largest ``by``, in their order; a note if that is not all."""
    rows = np.sort(np.argsort(-np.asarray(by), kind="stable")[:most])
    note = f"the {most} of {len(table)} {what}; the rest is not shown"
    return table.iloc[rows], note * (len(table) > most)


def words(name: object, most: int = 32) -> str:
    return plain(str(name).replace("_", " "), most)


def plain(text: str, most: int = 80) -> str:
    """A text without characters that cannot be drawn, of at most so many."""
    text = "".join(letter if letter.isprintable() else " " for letter in text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def _heatmap(axis: plt.Axes, table: pd.DataFrame, label: str, cmap: str = MAP, **options) -> None:
    sns.heatmap(
        table.rename(index=words, columns=words),
        ax=axis,
        cmap=cmap,
        cbar_kws={"label": label},
        **({"xticklabels": True, "yticklabels": True} | options),
    )
    axis.tick_params("y", rotation=0)
    axis.set(xlabel="", ylabel="")


def clip(
    waveform: np.ndarray, rate: int, title: str = "", events: pd.DataFrame | None = None
) -> Figure:
    """Waveform and log-mel spectrogram of a clip on one time axis, its events' onsets marked.

    ``waveform``: [channels, samples], int16 or within ±1.
    """
    seconds, waveform = waveform.shape[1] / rate, waveform[:, : LONGEST * rate]
    events = pd.DataFrame({"onset": []}) if events is None else events.query("onset < @LONGEST")
    events, note = cut(events, -events["onset"], 30, "events, the first")
    start = f"the first {LONGEST} of {seconds:.0f} s; the rest is not shown" * (seconds > LONGEST)
    figure, (wave, image) = figure_of(8, 3.8, 2, 1, sharex=True, notes=(start, note))
    mono = waveform.mean(0).astype("float32") / (2**15 if waveform.dtype == np.int16 else 1)
    librosa.display.waveshow(mono, sr=rate, ax=wave, axis="s")
    wave.set(ylabel="amplitude", xlabel="", title=plain(title))
    options = {"sr": rate, "hop_length": 1024, "fmax": 16_000}
    shown = librosa.display.specshow(
        _log_mel(mono, **options),
        ax=image,
        x_axis="s",
        y_axis="mel",
        cmap=MAP,
        rasterized=True,
        **options,
    )
    image.set(ylabel="frequency (Hz)", xlabel="time (s)")
    figure.colorbar(shown, ax=image, label="dB below the maximum")
    for number, event in enumerate(events.itertuples()):
        wave.axvline(event.onset, color="C1", linewidth=1)
        wave.text(
            event.onset,
            0.92 - 0.17 * (number % 5),
            f" {words(event.tag)}",
            transform=wave.get_xaxis_transform(),
            va="top",
            size=8,
            bbox={"facecolor": "w", "edgecolor": "none", "pad": 1, "alpha": 0.8},
        )
    return figure


def _log_mel(mono: np.ndarray, **options) -> np.ndarray:
    mel = librosa.feature.melspectrogram(y=mono, n_mels=64, n_fft=4096, **options)
    return librosa.power_to_db(mel, ref=np.max, top_db=70)  # [bands, frames], dB


def attention_in_time(
    waveform: np.ndarray, rate: int, tags: pd.DataFrame, weights: np.ndarray, heads: int
) -> Figure:
    """Tags, spectrogram and attention of a clip on one time axis.

    ``waveform`` [channels, samples]; ``tags``: probabilities [tags, windows], of the
    likeliest; ``weights`` [f, t], drawn as multiples of equal weights.
    """
    mel = _log_mel(waveform.mean(0), sr=rate, hop_length=1024, fmax=16_000)
    rows, seconds, filters = min(len(tags), TAGS), waveform.shape[1] / rate, len(weights)
    figure, axes = figure_of(8, 5, 3, 1, sharex=True, layout="none", dpi=85)
    figure.subplots_adjust(left=0.22, right=0.99, bottom=0.1, top=0.93, hspace=0.12)
    panels = [
        (np.zeros((rows, 1)), 0, 1, "probability"),
        (mel, -70, 0, "dB below maximum"),
        (np.zeros((filters, 1)), 0, 1, "weight (1: equal)"),
    ]
    for axis, (values, low, high, label) in zip(axes, panels):
        shown = axis.imshow(
            values,
            extent=(0, seconds, len(values), 0),
            aspect="auto",
            interpolation="nearest",
            cmap=MAP,
            vmin=low,
            vmax=high,
        )
        figure.colorbar(shown, ax=axis, pad=0.02, label=label)
    axes[1].set(ylabel="mel band", ylim=(0, len(mel)))
    axes[2].hlines(np.arange(1, heads) * filters / heads, 0, seconds, "w", linewidth=1)
    axes[2].set(ylabel="filters of each head", xlabel="time (s)")
    other_attention_in_time(figure, tags, weights, heads)
    return figure


def other_attention_in_time(
    figure: Figure, tags: pd.DataFrame, weights: np.ndarray, heads: int
) -> None:
    """Put other tags and weights of the clip into a figure of ``attention_in_time``."""
    tags, note = cut(tags, tags.max(axis=1), TAGS, "tags, the likeliest in a window")
    figure.suptitle(note)
    figure.axes[0].images[0].set_data(tags)
    figure.axes[0].set_yticks(np.arange(len(tags)) + 0.5, [words(name, 20) for name in tags.index])
    image, weights = figure.axes[2].images[0], weights * len(weights) / heads
    image.set_data(weights)
    image.set_clim(0, weights.max())


def heat(
    table: pd.DataFrame, label: str, *, annotate: str = "", centre: float | None = None
) -> Figure:
    """A table of numbers as a heat map.

    ``annotate``: format of the numbers in it; ``centre``: value where two colours meet.
    """
    what = "with the largest spread"
    both = ""
    if table.index.equals(table.columns):  # of pairs: the same ones both ways
        spread = np.ptp(table.to_numpy(float), 1)
        kept, both = cut(table, spread, COLUMNS, f"rows and columns {what}")
        table = table.loc[kept.index, kept.index]
    table, note = cut(table, np.ptp(table.to_numpy(float), 1), ROWS, f"rows {what}")
    wide, other = cut(table.T, np.ptp(table.to_numpy(float), 0), COLUMNS, f"columns {what}")
    below = 0.05 * max(len(words(name)) for name in wide.index)
    figure, axis = figure_of(8, 0.6 + below + 0.26 * len(table), notes=(both, note, other))
    _heatmap(
        axis,
        wide.T,
        label,
        MAP if centre is None else "vlag",
        annot=bool(annotate) and len(wide) <= NUMBERS,
        fmt=annotate,
        center=centre,
    )
    plt.setp(axis.get_xticklabels(), rotation=45, ha="right")
    return figure


def images(
    pictures: list[np.ndarray], columns: int, ylabel: str, xlabel: str, titles: list[str] = ()
) -> Figure:
    """A grid of pictures on one scale."""
    shown, note = cut(pd.Series(pictures), -np.arange(len(pictures)), 8 * columns, "pictures")
    pictures = np.stack(shown)
    rows = math.ceil(len(pictures) / columns)
    figure, axes = figure_of(
        8, 1.7 * rows + 0.3, rows, columns, sharex=True, sharey=True, squeeze=False, notes=(note,)
    )
    for axis, picture in zip(axes.flat, pictures):
        axis.imshow(
            picture,
            aspect="auto",
            origin="lower",
            interpolation="nearest",
            vmin=pictures.min(),
            vmax=pictures.max(),
            cmap=MAP,
        )
    for axis, title in zip(axes.flat, titles):
        axis.set_title(plain(title, 100 // columns))
    figure.supylabel(ylabel, size=10)
    figure.supxlabel(xlabel, size=10)
    return figure


def loss(history: pd.DataFrame) -> Figure:
    figure, axis = figure_of(5, 2.4)
    part = next((history[name].astype(str) for name in ("fold", "stage") if name in history), None)
    sns.lineplot(history, x="epoch", y="loss", hue=part, ax=axis)
    axis.xaxis.set_major_locator(plt.MaxNLocator(integer=True))
    axis.set(ylabel="training loss")
    return figure


def curves(points: pd.DataFrame) -> Figure:
    """Held-out accuracy by epoch, one line for each recipe and a panel for each system."""
    systems = list(points["system"].unique()[:4])
    figure, axes = figure_of(4 * len(systems) + 2, 3, 1, len(systems), sharey=True, squeeze=False)
    for axis, name in zip(axes[0], systems):
        for recipe, part in list(points[points["system"] == name].groupby("recipe"))[:8]:
            axis.plot(part["epoch"], 100 * part["held_out"], ".-", label=words(recipe, 60))
        axis.set(title=words(name), xlabel="epoch")
    axes[0, 0].set(ylabel="held-out training places (%)")
    axes[0, -1].legend(loc="lower right", fontsize=8)
    return figure


def latents(places: pd.DataFrame, units: dict[str, str]) -> Figure:
    """Values by scene (``scene_label``), one point for each place; ``units`` names the columns."""
    labels = sorted(places["scene_label"].unique())
    kept, note = cut(pd.Series(labels), np.arange(len(labels))[::-1], ROWS, "labels")
    size = (3 * len(units), 1 + 0.25 * len(kept))
    figure, axes = figure_of(*size, 1, len(units), sharey=True, squeeze=False, notes=(note,))
    for axis, (name, unit) in zip(axes[0], units.items()):
        axis.plot(places[name], [labels.index(k) for k in places["scene_label"]], ".", alpha=0.2)
        axis.set(title=f"{name} ({unit})", ylim=(len(kept) - 0.5, -0.5))
    axes[0, 0].set_yticks(range(len(kept)), kept.map(words))
    return figure


def tags(vectors: dict[str, np.ndarray], names: list[str], present: dict[str, set[str]]) -> Figure:
    """The most probable tags of a few clips; a star marks those that are really present."""
    figure, axes = figure_of(8, 3, 1, len(vectors), sharex=True, squeeze=False)
    for axis, (title, vector) in zip(axes[0], vectors.items()):
        best, note = cut(pd.Series(vector, names), vector, 6, "tags with the highest probability")
        best = best.sort_values(ascending=False)
        true = [name in present[title] for name in best.index]
        axis.barh(range(len(best)), best, color=["C0" if star else "0.75" for star in true])
        axis.set_yticks(
            range(len(best)), [f"{'★ ' * star}{words(k)}" for k, star in zip(best.index, true)]
        )
        axis.set(xlabel="probability", xlim=(0, 1), ylim=(len(best) - 0.4, -0.6))
        axis.set_title(plain(title, 80 // len(vectors)))
    figure.suptitle(note, size=9).set_in_layout(bool(note))
    sns.despine(figure)
    return figure


def confusion(truth: np.ndarray, predicted: np.ndarray, labels: list[str]) -> Figure:
    """Confusion matrix: numbers of clips, coloured by their share of the true scene."""
    counts = pd.crosstab(np.take(labels, truth), np.take(labels, predicted)).reindex(
        index=labels, columns=labels, fill_value=0
    )
    percent = 100 * counts.div(counts.sum(axis=1), axis=0)
    shown, note = cut(percent, counts.sum(axis=1), COLUMNS, "labels with most clips")
    hidden = counts.columns.difference(shown.index)
    others = {"(others)": shown[hidden].sum(axis=1)} if len(hidden) else {}
    shown = shown[shown.index].assign(**others)
    larger = 0.12 * max(0, len(shown) - 12)
    figure, axis = figure_of(6 + larger, 4.6 + larger, notes=(note,))
    _heatmap(
        axis,
        shown,
        "% of the clips of the true scene",
        vmin=0,
        vmax=100,
        annot=counts.loc[shown.index, shown.index] if len(shown) <= NUMBERS else False,
        fmt="d",
    )
    plt.setp(axis.get_xticklabels(), rotation=45, ha="right")
    axis.set(xlabel="predicted", ylabel="true")
    return figure


def attention_by_scene(
    weights: np.ndarray, scenes: np.ndarray, labels: list[str], heads: int
) -> Figure:
    """Mean attention map of each scene [clips, f], relative to the mean of all clips (%)."""
    mean = pd.DataFrame(weights).groupby(np.asarray(labels)[scenes]).mean()
    return by_filter(100 * (mean / weights.mean(0) - 1), heads, "deviation from the mean (%)")


def by_filter(table: pd.DataFrame, heads: int, label: str) -> Figure:
    """Signed numbers [rows, f] about filters as a heat map, with lines between heads."""
    table, note = cut(table, np.abs(table).mean(axis=1), ROWS, "rows with the largest values")
    limit = float(np.quantile(np.abs(table), 0.99)) or 1.0
    figure, axis = figure_of(8, 1.2 + 0.2 * len(table), notes=(note,))
    _heatmap(
        axis,
        table,
        label,
        "vlag",
        center=0,
        vmin=-limit,
        vmax=limit,
        xticklabels=16,
        rasterized=True,
    )
    axis.vlines(np.arange(1, heads) * table.shape[1] / heads, 0, len(table), "k", linewidth=1)
    axis.set(xlabel="filter (lines separate heads)")
    return figure


def timeline(windows: pd.DataFrame, labels: list[str], name: str = "") -> Figure:
    """Scene probabilities of a recording's windows (start, end, scene, one per label) over time.

    A dot marks the back-end's scene of each window; ``name`` is the recording's.
    """
    likely = windows[labels].max() + windows["scene"].value_counts().reindex(labels, fill_value=0)
    shown, note = cut(likely, likely, ROWS, "scenes, the likeliest in a window")
    labels = list(shown.index)
    figure, axis = figure_of(8, 1.2 + 0.22 * len(labels), notes=(note,))
    # The last window may overlap the one before: it is drawn from that one's end.
    edges = np.append(
        np.maximum(windows["start"], windows["end"].shift(fill_value=0)), windows["end"].iloc[-1]
    )
    shown = axis.pcolormesh(
        edges,
        np.arange(len(labels) + 1),
        windows[labels].T.to_numpy(),
        vmin=0,
        vmax=1,
        cmap=MAP,
        rasterized=True,
    )
    axis.plot(
        (edges[:-1] + edges[1:]) / 2,
        pd.Series(np.arange(len(labels)) + 0.5, labels).reindex(windows["scene"]),
        "wo",
        markeredgecolor="k",
        label="scene by the back-end",
    )
    axis.set_yticks(np.arange(len(labels)) + 0.5, [words(label) for label in labels])
    axis.set(xlabel="time (s)", xlim=(edges[0], edges[-1]), ylim=(len(labels), 0))
    axis.set_title(plain(name, 48), loc="right", size=9)
    axis.legend(fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), frameon=False)
    figure.colorbar(shown, ax=axis, label="scene probability")
    return figure


def feature_maps(before: np.ndarray, after: np.ndarray) -> Figure:
    """One clip's feature map [f, t] before and after attention, each on its own scale."""
    figure, axes = figure_of(8, 3, 1, 2, sharey=True)
    for axis, image, title in zip(axes, (before, after), ("feature map M", "attended map M'")):
        shown = axis.imshow(image, aspect="auto", cmap=MAP, origin="lower", interpolation="nearest")
        axis.set(title=title, xlabel="frame")
        figure.colorbar(shown, ax=axis)
    axes[0].set(ylabel="filter")
    return figure


def _intervals(
    table: pd.DataFrame, middle: str, low: str, high: str, note: str
) -> tuple[Figure, plt.Axes]:
    table, left_out = cut(table, -np.arange(len(table)), ROWS, "systems")
    notes = (
        f"{note}; orange: controls",
        "line: 95 % interval over locations and seeds; "
        "hollow: one seed, so over locations alone, and too narrow",
        left_out,
    )
    figure, axis = figure_of(8, 0.8 + 0.3 * len(table), notes=notes)
    rows = np.arange(len(table))
    colours = np.where(table["control"], "C1", "C0")
    axis.hlines(rows, table[low], table[high], color=colours, zorder=1)
    axis.scatter(
        table[middle],
        rows,
        color=np.where(table["seeds"].map(len) > 1, colours, "w"),
        edgecolor=colours,
        zorder=2,
    )
    axis.set_yticks(rows, [plain(name) for name in table.index])
    axis.set_ylim(len(table) - 0.5, -0.5)
    sns.despine(figure)
    return figure, axis


def accuracies(table: pd.DataFrame) -> Figure:
    """Mean accuracy of each system, its 95 % interval (mean, low, high), and each seed's."""
    figure, axis = _intervals(
        table, "mean", "low", "high", "dot: mean over seeds; grey ticks: single seeds"
    )
    rows = np.repeat(np.arange(len(table)), table["seeds"].map(len))
    axis.plot(np.concatenate([*table["seeds"]]), rows, "|", color="0.4", markersize=9, zorder=0)
    axis.set(xlabel="accuracy (%)")
    return figure


def gains(table: pd.DataFrame) -> Figure:
    """Gain of each system over the baseline and its 95 % interval (gain, gain_low, gain_high)."""
    figure, axis = _intervals(
        table.dropna(subset="gain"), "gain", "gain_low", "gain_high", "dot: mean over seeds"
    )
    axis.axvline(0, color="0.3", linestyle="--", linewidth=1)
    axis.set(xlabel="gain over the baseline (percentage points)")
    return figure


def by_character(table: pd.DataFrame) -> Figure:
    """``Results.by_character``: accuracy, and gain over the baseline, against the character."""
    names = pd.Series(table.index.unique())
    names, left_out = cut(names, -np.arange(len(names)), 8, "systems")
    shown = ("mean", "low", "high"), ("gain", "gain_low", "gain_high")
    notes = (
        "line: 95 % interval; hollow: one seed, so over locations alone, and too narrow",
        left_out,
    )
    figure, axes = figure_of(11, 4, 1, 2, sharex=True, notes=notes)
    for number, name in enumerate(names):
        part, colour = table.loc[[name]], f"C{number}"
        x = part["character"] + 0.012 * (number - len(names) / 2)  # beside each other
        fills = np.where(part["seeds"].map(len) > 1, colour, "w")
        for axis, (middle, low, high) in zip(axes, shown):
            spread = [part[middle] - part[low], part[high] - part[middle]]
            line = axis.errorbar(x, part[middle], spread, color=colour, capsize=3)
            line.set_label(plain(name))
            axis.scatter(x, part[middle], color=fills, edgecolor=colour, zorder=3)
    axes[0].set(ylabel="accuracy (%)")
    axes[1].set(ylabel="gain over the baseline (points)")
    axes[1].axhline(0, color="0.3", linestyle="--", linewidth=1)
    axes[0].legend(fontsize=8)
    figure.supxlabel("character: share of places with their scene's own hum, throb, tilt and room")
    sns.despine(figure)
    return figure


def grids(grid: pd.DataFrame) -> Figure:
    """A table of the paper with heads and layers: published accuracies beside the measured ones.

    Both colour scales span as many points, each around its own median.
    """
    figure, axes = figure_of(9, 2.9, 1, 2)
    panels = {
        "published": ("published (TAU 2019)", ".2f"),
        "mean": ("measured here (composed scenes)", ".1f"),
    }
    medians = grid[list(panels)].median()
    half = (grid[list(panels)] - medians).abs().max().max()
    for axis, (column, (title, form)) in zip(axes, panels.items()):
        _heatmap(
            axis,
            grid.pivot(index="heads", columns="layers", values=column).astype(float),
            "accuracy (%)",
            annot=True,
            fmt=form,
            vmin=medians[column] - half,
            vmax=medians[column] + half,
        )
        axis.set(title=title, xlabel="transform layers", ylabel="heads")
    return figure

"""Figures of any size and any text; notebooks record what has trained before they draw it."""

import ast
import ctypes
import gc
import inspect
import io
import json
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from helpers import NOTEBOOKS
from matplotlib.text import Text

from asc_lib import plots
from asc_lib.corpora import audio, data_set
from asc_lib.fusion import Attention
from asc_lib.use import what_if

RNG = np.random.default_rng(0)
ODD = [
    "$5 shop$ \\frac",
    "a_b$",
    "100 %",
    "tab\tbell\a\x00\nline",
    "$x^{$",
    60 * "long ",
]
SIZES = [(1, 2, 64), (300, 527, 256)]  # the notebooks draw what lies between


def names(count: int, odd: bool, kind: str) -> list[str]:
    """Sorted names, as those of a corpus are; ``odd``: some that might be read as something."""
    plain = [f"{kind}_{k:03d}" for k in range(count)]
    return sorted((ODD + plain)[:count] if odd else plain)


def shares(*shape: int) -> np.ndarray:
    values = RNG.random(shape).astype("float32") ** 4
    return values / values.sum(-1, keepdims=True)


def systems(count: int, odd: bool) -> pd.DataFrame:
    mean = RNG.random(count)
    table = pd.DataFrame({"mean": mean, "gain": mean}, names(count, odd, "system"))
    for column in ("low", "gain_low", "high", "gain_high"):
        table[column] = mean + (-1 if "low" in column else 1)
    return table.assign(control=mean > 0.5, seeds=[[0.1, 0.2]] * count)


class Made:
    """Made-up results for so many labels, tags and filters."""

    def __init__(self, labels: int, tags: int, filters: int, odd: bool = False):
        self.labels = names(labels, odd, "label")
        self.tags = names(tags, odd, "tag")
        self.file = "$1$_\\frac_\n{\udcff.wav" if odd else "clip.wav"
        self.odd = odd
        self.targets = np.arange(3 * labels) % labels
        self.weights = shares(3 * labels, filters)
        self.probabilities = shares(20, labels)

    def clip(self):
        events = pd.DataFrame({"onset": np.linspace(0, 1.9, len(self.tags)), "tag": self.tags})
        noise = RNG.standard_normal((2, 96_000)).astype("float32") / 10
        return plots.clip(noise, 48_000, self.file, events)

    def attention_in_time(self):
        noise = RNG.standard_normal((2, 96_000)).astype("float32") / 10
        tags = pd.DataFrame(RNG.random((len(self.tags), 20)), self.tags)
        weights = self.weights[0][:, None] * shares(18)
        return plots.attention_in_time(noise, 48_000, tags, weights, 2)

    def heat(self):
        table = pd.DataFrame(shares(len(self.tags), len(self.labels)), self.tags, self.labels)
        return plots.heat(np.log2(table), "$log2$ \\frac", annotate=".1f", centre=0)

    def images(self):
        pictures = list(RNG.random((len(self.labels), 64, 40)))
        return plots.images(pictures, 4, "mel band", "frame", self.labels)

    def loss(self):
        return plots.loss(pd.DataFrame({"epoch": range(300), "loss": range(300), "fold": 1}))

    def curves(self):
        points = pd.DataFrame({"epoch": range(300), "held_out": RNG.random(300)})
        return plots.curves(points.assign(system=self.labels[0], recipe=(self.labels * 300)[:300]))

    def latents(self):
        places = pd.DataFrame(RNG.random((3 * len(self.labels), 4)), columns=list("abcd"))
        return plots.latents(places.assign(scene_label=self.labels * 3), dict.fromkeys("abcd", "s"))

    def tags_of(self):
        return plots.tags(
            {self.file: shares(len(self.tags))}, self.tags, {self.file: self.tags[:1]}
        )

    def confusion(self):
        return plots.confusion(self.targets, RNG.permutation(self.targets), self.labels)

    def attention_by_scene(self):
        return plots.attention_by_scene(self.weights, self.targets, self.labels, 2)

    def by_filter(self):
        table = pd.DataFrame(shares(len(self.tags), self.weights.shape[1]) - 0.01, self.tags)
        return plots.by_filter(table, 4, "change (%)")

    def timeline(self):
        windows = pd.DataFrame(self.probabilities, columns=self.labels)
        scene = [self.labels[k] for k in self.probabilities.argmax(1)]
        starts = np.arange(len(windows)) * 10.0
        return plots.timeline(
            windows.assign(start=starts, end=starts + 10, scene=scene), self.labels
        )

    def feature_maps(self):
        return plots.feature_maps(*RNG.random((2, self.weights.shape[1], 18)))

    def accuracies(self):
        return plots.accuracies(systems(len(self.labels), self.odd))

    def gains(self):
        return plots.gains(systems(len(self.labels), self.odd))

    def by_character(self):
        table = systems(len(self.labels), self.odd)
        return plots.by_character(pd.concat([table.assign(character=k) for k in (0, 0.3, 1)]))

    def grids(self):
        grid = pd.DataFrame(
            [(h, n) for h in (1, 2, 4, 8) for n in range(6)], None, ["heads", "layers"]
        )
        return plots.grids(grid.assign(mean=RNG.random(24), published=RNG.random(24)))

    def what_if(self):
        columns = ["now", "own tags", "no attention"]
        scenes = pd.DataFrame(shares(3, len(self.labels)).T, self.labels, columns)
        drawn = what_if.WhatIfFigure(scenes, 2 * self.weights[0], 2)
        drawn.show(scenes.iloc[::-1].set_index(scenes.index), 2 * self.weights[-1])
        return drawn.figure

    def what_if_without_a_map(self):
        scenes = pd.DataFrame(shares(2, len(self.labels)).T, self.labels, ["now", "own tags"])
        return what_if.WhatIfFigure(scenes).figure

    def distances(self):
        apart = what_if.distances(self.weights, self.targets, self.labels, 2)
        return plots.heat(apart, "distance between mean maps (%)", annotate=".1f")

    def by_head(self):
        heads = self.weights.shape[1] // 2
        table = what_if.by_head(self.weights, self.targets, self.labels, heads)
        return plots.heat(table, "distance from all clips (%)", annotate=".1f")


DRAWN = [name for name in vars(Made) if not name.startswith("_")]
NO_FIGURES = {"png", "figure_of", "cut", "words", "plain", "time_axis", "other_attention_in_time"}


def cut_at(name: str, labels: int, tags: int, filters: int) -> list[str]:
    """What the notes of a figure must begin with."""
    rows = {
        "clip": [(30, tags)],
        "attention_in_time": [(8, tags)],
        "heat": [(plots.ROWS, tags), (plots.COLUMNS, labels)],
        "images": [(32, labels)],
        "tags_of": [(6, tags)],
        "by_character": [(8, labels)],
        "confusion": [(plots.COLUMNS, labels)],
        "by_filter": [(plots.ROWS, tags)],
        "what_if": [(what_if.SCENES, labels)],
        "what_if_without_a_map": [(what_if.SCENES, labels)],
        "distances": [(plots.COLUMNS, labels)],  # rows and columns are the same
        "by_head": [(plots.ROWS, labels), (plots.COLUMNS, filters // 2)],
    } | dict.fromkeys(
        ("attention_by_scene", "timeline", "accuracies", "gains", "latents"), [(plots.ROWS, labels)]
    )
    return [f"the {most} of {count} " for most, count in rows.get(name, []) if count > most]


def memory(kind: str) -> float:
    """Memory of this process in MB: VmRSS now, or VmHWM, the peak."""
    (line,) = re.findall(rf"{kind}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(line) / 1024


@contextmanager
def within(megabytes: float) -> Iterator[None]:
    """What is done inside must take no more memory than that at any time."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what is free goes back, so that its use is seen
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = memory("VmRSS")
    yield
    assert memory("VmHWM") - before < megabytes


def texts(figure: plt.Figure) -> str:
    return "\n".join(text.get_text() for text in figure.findobj(Text))


def test_every_figure_is_drawn_here():
    public = {
        name
        for name, found in vars(plots).items()
        if inspect.isfunction(found) and found.__module__ == plots.__name__ and name[0] != "_"
    }
    assert public - NO_FIGURES <= {name.removesuffix("_of") for name in DRAWN}


@pytest.fixture(scope="module")
def compiled():
    """librosa and fonts are imported, compiled and cached at first use, not in what is timed."""
    plots.png(Made(1, 2, 64).clip())


@pytest.mark.usefixtures("compiled")
@pytest.mark.filterwarnings("error:.*layout")  # as where there is no room for axes
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", DRAWN)
def test_a_figure_of_any_size_is_drawn_soon_small_and_says_what_is_left_out(name, size):
    made = Made(*size)
    start = time.process_time()
    with within(300):
        figure = getattr(made, name)()
        assert len(plots.png(figure)) < 1_000_000
    assert time.process_time() - start < 6
    assert figure.get_figheight() <= 14 and figure.get_figwidth() <= 14
    said = texts(figure)
    notes = cut_at(name, *size)
    assert all(note in said for note in notes) and said.count("not shown") == len(notes)
    boxes = [text.get_window_extent() for text in figure.texts if text.get_text()]
    assert not any(box.overlaps(axis.get_tightbbox()) for box in boxes for axis in figure.axes)


@pytest.mark.filterwarnings("error:.*layout", "ignore:Glyph")
@pytest.mark.parametrize("name", DRAWN)
def test_any_text_is_drawn_as_it_is(name):
    made = Made(8, 8, 64, odd=True)
    figure = getattr(made, name)()
    figure.savefig(io.BytesIO(), bbox_inches="tight")  # as a notebook shows it
    said = texts(figure)
    if name not in ("loss", "images", "feature_maps", "grids"):
        assert "$" in said
    assert not any(ord(letter) < 32 and letter != "\n" for letter in said)
    assert figure.get_tightbbox().height < 14


def test_what_is_cut_keeps_the_largest_in_their_order():
    few = pd.Series([3, 1, 2])
    assert plots.cut(few, few, 3, "tags")[0].equals(few) and not plots.cut(few, few, 3, "tags")[1]
    table = pd.DataFrame({"value": [3, 1, 3, 2, np.nan, 9]})
    shown, note = plots.cut(table, table["value"], 3, "tags with the largest spread")
    assert shown.index.tolist() == [0, 2, 5]
    assert note == "the 3 of 6 tags with the largest spread; the rest is not shown"


def test_the_labels_with_most_clips_are_those_shown():
    truth = np.repeat(np.arange(60), np.where(np.arange(60) % 2, 3, 1))  # the odd ones have three
    figure = plots.confusion(truth, truth, names(60, False, "label"))
    axis = figure.axes[0]
    assert [text.get_text() for text in axis.get_yticklabels()] == [
        f"label {k:03d}" for k in range(1, 60, 2)
    ]
    figure = plots.confusion(truth, np.roll(truth, 1), names(60, False, "label"))
    shares = figure.axes[0].collections[0].get_array().reshape(30, 31)  # the last column: others
    assert np.allclose(shares.sum(1), 100) and shares[:, -1].max() > 30


def test_a_long_clip_is_drawn_from_its_start():
    figure = plots.clip(np.ones((2, 200 * 8000), "int16"), 8000)
    assert "the first 60 of 200 s" in texts(figure) and figure.axes[0].get_xlim()[1] < 64


class Net(torch.nn.Module):
    def __init__(self, tags: int, filters: int):
        super().__init__()
        self.fusion = Attention(tags, filters, heads=2, layers=3)
        self.prepared = torch.nn.Identity()  # these tags need no scaling


def test_sensitivity_in_small_parts():
    torch.manual_seed(0)
    net = Net(527, 256)
    tags = shares(60, 527)
    what_if.sensitivity(Net(3, 8), tags[:, :3], list("abc"))  # what torch itself takes at first
    with within(100):
        found = what_if.sensitivity(net, tags, names(527, False, "tag"))
    one = what_if.sensitivity(net, tags[:1], list(found.index))
    rest = what_if.sensitivity(net, tags[1:], list(found.index))
    assert found.shape == (527, 256) and np.allclose(found, (one + 59 * rest) / 60, atol=1e-4)


TRAINS = {"scenes.train", "system.train_and_save"}
WRITES = {"records.write_scene_record", "system.save", "system.train_and_save"}


def calls(cell: dict) -> set[str]:
    source = "" if cell["cell_type"] != "code" else "".join(cell["source"])
    found = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return {ast.unparse(node.func) for node in found}


@pytest.mark.parametrize("number", ["02", "03", "04", "05"])
def test_what_has_trained_is_written_before_any_figure(number):
    (path,) = NOTEBOOKS.glob(f"{number}_*.ipynb")
    found = list(map(calls, json.loads(path.read_text(encoding="utf-8"))["cells"]))
    trains = [k for k, made in enumerate(found) if made & TRAINS]
    writes = [k for k, made in enumerate(found) if made & WRITES]
    assert len(trains) == 1 and writes
    between = set().union(*found[trains[0] : writes[-1] + 1])
    assert not {name for name in between if name.startswith(("plots.", "what_if."))}


def cell_with(text: str) -> str:
    """The source of the code cell of notebook 00 that holds a text."""
    cells = json.loads((NOTEBOOKS / "00_data.ipynb").read_text(encoding="utf-8"))["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return next(source for source in sources if text in source)


CLIPS = {
    "filename": ["a", "b", "c"],
    "scene_label": ["bus", "bus", "park"],
    "split": ["train", "unused", "test"],
    "location": ["x", "x", "y"],
}
PARTS = {"filename": ["a", "b", "c"], "recording": ["r", "r", "s"], "tag": ["k", "k", "l"]}


@pytest.mark.parametrize("composed", [False, True])
@pytest.mark.parametrize("text", ["assert not trained", "told = ", "used = "])
def test_what_holds_for_composed_data_is_asserted_of_them_alone(text, composed):
    """A place and a recording in two splits, tags that give all away, a recording in two sets."""
    places = pd.DataFrame({"identifier": ["x", "y"]}) if composed else None
    tables = pd.DataFrame(CLIPS), pd.DataFrame(PARTS), places
    told = pd.DataFrame({"accuracy": {"true events": 1.0}})
    values = {
        "corpus": data_set.SceneCorpus("own", Path(), *tables),
        "clips": pd.DataFrame({"recordings": ["r", "r"], "set": ["curated", "test"]}),
        "data_set": data_set.DataSet("own", "", None, composed=composed),
        "probes": SimpleNamespace(told=lambda *_: told),
        "display": lambda shown: None,
        "waveforms": None,
    }
    with pytest.raises(AssertionError) if composed else nullcontext():
        exec(cell_with(text), values)


def test_notebook_00_shows_a_scene_of_few_clips():
    values = {
        "corpus": data_set.SceneCorpus("own", Path(), pd.DataFrame(CLIPS)),
        "waveforms": SimpleNamespace(waveforms=np.zeros((3, 2, 480), "int16")),
        "plots": SimpleNamespace(clip=lambda samples, rate, name, events: name),
        "audio": audio,
        "np": np,
        "display": lambda shown: None,
        "Audio": lambda **options: None,
    }
    exec(cell_with("def show("), values)
    assert values["show"]("bus", 3) == "b"


def test_attention_in_time_drawn_again_is_the_picture_drawn_anew():
    rng = np.random.default_rng(0)
    noise = rng.normal(size=(2, 48_000))
    tags = [pd.DataFrame(rng.random((20, 3))) for _ in range(2)]
    weights = [rng.random((16, 4)) for _ in range(2)]
    first, second = (
        plots.attention_in_time(noise, 48_000, *given, 2) for given in zip(tags, weights)
    )
    before = plots.png(first)
    plots.other_attention_in_time(first, tags[1], weights[1], 2)
    assert plots.png(first) == plots.png(second) != before


def test_a_second_is_as_long_as_the_picture_shows():
    noise = np.random.default_rng(0).normal(size=(2, 3 * 48_000))
    figure = plots.attention_in_time(noise, 48_000, pd.DataFrame(np.eye(3)), np.eye(4), 2)
    plots.png(figure)
    zero, second = plots.time_axis(figure)
    left, right = figure.axes[0].get_position().intervalx
    assert (zero, zero + 3 * second) == pytest.approx((left, right))

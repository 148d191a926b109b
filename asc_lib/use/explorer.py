"""Widgets: the attention explorer, and a system's answers for recordings."""

import html
import io
import tempfile
from pathlib import Path

import anywidget
import ipywidgets as widgets
import numpy as np
import pandas as pd
import soundfile
import torch
import traitlets
from matplotlib.figure import Figure

from .. import plots
from ..corpora.audio import RATE, recordings
from ..plots import png
from ..scenes import SceneData
from .system import Prediction, System, UnfitSystem, load, saved
from .what_if import (
    CachedClip,
    answers,
    clip_table,
    drawing,
    feature_maps,
    in_time,
    top_tags,
    window_of,
)

STEP = 0.01
ALL = "all"
WIDE = {"description_width": "9em"}
LONG = widgets.Layout(width="48em", max_width="calc(100% - 4px)")
ROW = widgets.Layout(flex_flow="row wrap")


def _picture() -> widgets.Image:
    return widgets.Image(format="png", layout={"max_width": "100%", "width": "max-content"})


def _fill(menu: widgets.Dropdown, options: list, index: int = 0) -> None:
    menu.options = options
    menu.index = index if options else None  # a menu that was empty would choose none by itself


def _filter(name: str, values: object) -> widgets.Dropdown:
    return widgets.Dropdown(options=[ALL, *sorted(set(values))], description=name, style=WIDE)


class Lines(widgets.HTML):
    """Lines of text, whatever is in them: the one widget here that a browser reads as HTML."""

    def say(self, *lines: str) -> None:
        self.value = "<br>".join(map(html.escape, lines))


class Player(anywidget.AnyWidget):
    """A sound, its picture, and a line that follows the player; hidden without a picture."""

    _esm = Path(__file__).with_name("player.js")
    sound = traitlets.Bytes().tag(sync=True)  # a WAV file
    picture = traitlets.Bytes().tag(sync=True)  # a PNG file
    axis = traitlets.Tuple((0.0, 0.0)).tag(sync=True)  # of ``plots.time_axis``

    def show(self, figure: Figure | None) -> None:
        """Another picture, of the same sound; None hides both."""
        self.picture = png(figure) if figure else b""
        if figure:
            self.axis = plots.time_axis(figure)


class WhatIf(widgets.VBox):
    """A slider for each of a clip's top tags and one for any other; the network's new answer."""

    def __init__(self, names: list[str]):
        self.names = names
        self.cached: CachedClip | None = None
        self.tags: torch.Tensor | None = None
        options = dict(min=0.0, max=1.0, step=STEP, style=WIDE, layout={"width": "24em"})
        self.sliders = [widgets.FloatSlider(**options) for _ in names[:6]]
        self.other = widgets.Dropdown(options=sorted(names), description="any tag", style=WIDE)
        self.other_slider = widgets.FloatSlider(**options, description="its probability")
        self.reset_button = widgets.Button(
            description="reset", tooltip="back to the clip's own tags"
        )
        self.readout = Lines()
        self.picture = _picture()
        self.in_time = Player()
        for slider in (*self.sliders, self.other_slider):
            slider.observe(self._moved, "value")
        self.other.observe(lambda change: self._place(), "value")
        self.reset_button.on_click(lambda button: self.reset())
        controls = [*self.sliders, self.other, self.other_slider, self.reset_button]
        super().__init__(
            [
                widgets.Box(controls if names else [], layout=ROW),
                self.readout,
                self.picture,
                self.in_time,
            ]
        )

    def show(self, clip: CachedClip, waveform: np.ndarray) -> None:
        """``waveform`` [channels, samples]: the sound of the clip."""
        self.cached = clip
        self.tags = clip.tags
        self._drawing, self._over_time = drawing(clip), None
        for slider, k in zip(self.sliders, np.argsort(-clip.vector, kind="stable")):
            slider.description = self.names[k]
        self.other.options = sorted(
            (set(self.names) - {slider.description for slider in self.sliders}) or self.names
        )
        self.reset()
        self.in_time.sound = wav(waveform) if self.in_time.picture else b""

    def reset(self) -> None:
        """Back to the clip's own tag vector, to the last bit (a slider shows it rounded)."""
        self.tags = self.cached.tags.clone()
        self._place()
        self.draw()

    def draw(self) -> None:
        scenes, now = answers(self.cached, self.tags)
        self._drawing.show(scenes, now)
        self.picture.value = self._drawing.png()
        self._over_time = in_time(self.cached, self.tags, self._over_time)
        self.in_time.show(self._over_time)
        lines = [
            f"{scene} {100 * row['now']:.1f} % (own tags: {100 * row['own tags']:.1f} %)"
            for scene, row in scenes.nlargest(3, "now").iterrows()
        ]
        moved = [
            f"{name} {self.cached.vector[k]:.2f} → {self._value(name):.2f}"
            for k, name in enumerate(self.names)
            if not torch.equal(self.tags[..., k], self.cached.tags[..., k])
        ]
        changed = [f"changed: {', '.join(moved)}"] * bool(moved)
        self.readout.say(", ".join(lines), *changed)

    def _value(self, name: str) -> float:
        return float(self.tags[..., self.names.index(name)].mean())

    def _place(self) -> None:
        for slider in self.sliders:
            slider.value = self._value(slider.description)
        if self.names:
            self.other_slider.value = self._value(self.other.value)

    def _moved(self, change: dict) -> None:
        slider = change["owner"]
        name = self.other.value if slider is self.other_slider else slider.description
        # What `_place` sets is no change, nor what a browser sends back: the same, rounded.
        if abs(change["new"] - self._value(name)) >= STEP / 2:
            self.tags[..., self.names.index(name)] = change["new"]  # of all windows
            self.draw()


class Explorer(widgets.VBox):
    """Choose a test clip, hear it, see the network's answer, and change its tags.

    ``evaluated``: of ``SceneData.evaluate``.
    """

    def __init__(self, trained: System, scenes: SceneData, evaluated: pd.DataFrame):
        self.system = trained
        self.scenes = scenes
        self.table = clip_table(trained, scenes, evaluated)
        self.scene = _filter("scene", self.table["scene"])
        self.city = _filter("city", self.table["city"])
        self.outcome = _filter("answer is", ["right", "wrong"])
        self.order = widgets.Dropdown(
            options=["changed most", "name"], description="order", style=WIDE
        )
        self.clip = widgets.Dropdown(description="clip", style=WIDE, layout=LONG)
        self.sound = Player()
        self.tags = _picture()
        self.features = _picture()
        self.what_if = WhatIf(trained.tags)
        for menu in (self.scene, self.city, self.outcome, self.order):
            menu.observe(lambda change: self._list(), "value")
        self.clip.observe(lambda change: self._show(), "value")
        super().__init__(
            [
                widgets.Box([self.scene, self.city, self.outcome, self.order], layout=ROW),
                self.clip,
                self.sound,
                self.tags,
                self.what_if,
                self.features,
            ]
        )
        self._list()

    def chosen(self) -> pd.DataFrame:
        table = self.table
        wanted = {
            "scene": self.scene.value,
            "city": self.city.value,
            "right": {"right": True, "wrong": False}.get(self.outcome.value, ALL),
        }
        for column, value in wanted.items():
            table = table if value == ALL else table[table[column] == value]
        by_name = self.order.value == "name"
        return table.sort_values(
            "filename" if by_name else "change", ascending=by_name, kind="stable"
        )

    def _list(self) -> None:
        rows = self.chosen()
        words = [
            f"{clip.filename}: {'✓' if clip.right else '✗ predicted ' + clip.predicted}, "
            f"changed {100 * clip.change:.0f} %"
            for clip in rows.itertuples()
        ]
        _fill(self.clip, list(zip(words, rows["row"].tolist())))

    def _show(self) -> None:
        row = self.clip.value
        if row is None:
            return
        name = self.scenes.corpus.clips["filename"][row]
        waveform = np.asarray(self.scenes.waveforms.waveforms[row])
        clip = CachedClip.of(self.system, self.scenes.whole(np.array([row])))
        self.sound.sound = wav(waveform)
        self.sound.show(plots.clip(waveform, RATE, name))
        self.tags.value = png(
            plots.tags(
                {name: clip.vector}, self.system.tags, {name: self.scenes.corpus.sounds_in(row)}
            )
        )
        features = feature_maps(clip)
        self.features.value = png(features) if features else b""
        self.what_if.show(clip, waveform)


class Recordings(widgets.VBox):
    """Upload recordings, or name a file or a folder, and see a system's answer for each window."""

    def __init__(self, folder: Path):
        self.files = {}
        self._folder = tempfile.TemporaryDirectory()
        self.folder = widgets.Dropdown(
            options=[(path.name, path) for path in dict.fromkeys([Path(folder), *saved()])],
            description="system",
            style=WIDE,
            layout=LONG,
        )
        self.upload = widgets.FileUpload(
            multiple=True, description="upload recordings", layout={"width": "16em"}
        )
        self.path = widgets.Text(
            description="or a path", placeholder="a file or folder", continuous_update=False
        )
        self.report = Lines()
        self.recording = widgets.Dropdown(description="recording", style=WIDE)
        self.window = widgets.Dropdown(description="window", style=WIDE)
        self.line = _picture()
        self.tags = _picture()
        for widget, react in (
            (self.folder, self._use),
            (self.upload, self._uploaded),
            (self.path, self._named),
            (self.recording, self._show),
            (self.window, self._show_window),
        ):
            widget.observe(lambda change, react=react: react(), "value")
        super().__init__()
        self._use()

    def _use(self) -> None:
        self.trained = load(self.folder.value)
        self.predictions = {}
        self.what_if = WhatIf(self.trained.tags)
        self.children = [
            self.folder,
            widgets.Box([self.upload, self.path], layout=ROW),
            self.report,
            self.recording,
            self.line,
            self.tags,
            self.window,
            self.what_if,
        ]
        if self.files:
            self.add(self.files)

    def add(self, files: dict[str, Path]) -> None:
        """Classify recordings, by the names to show; unusable ones are listed with the reason."""
        self.files = self.files | files
        lines = []
        try:
            for name, answer in zip(files, self.trained.predict_each(files.values())):
                self.predictions.pop(name, None)
                if isinstance(answer, Prediction):
                    self.predictions[name] = answer
                    lines.append("; it ".join([f"{name}: {answer.scene}", *answer.notes]))
                else:
                    lines.append(f"✗ {answer.why.replace(str(answer.path), name)}")
                self.report.say(*lines)
        except UnfitSystem as error:
            lines = [str(error)]
        self.report.say(*(lines or ["no file there"]))
        if self.predictions.keys() & files.keys():
            _fill(self.recording, list(self.predictions), len(self.predictions) - 1)
            self._show()

    def _named(self) -> None:
        try:
            self.add(found_in(self.path.value))
        except (OSError, RuntimeError) as error:  # a name too long, a user who is not there
            self.report.say(f"✗ {self.path.value}: {error}")

    def _uploaded(self) -> None:
        files = {}
        for number, upload in enumerate(self.upload.value, len(self.files)):
            name = Path(upload["name"]).name
            files[name] = Path(self._folder.name) / f"{number}-{name}"
            files[name].write_bytes(upload["content"])
        self.add(files)

    def _show(self) -> None:
        found = self.predictions.get(self.recording.value)
        if found is None:
            return
        windows = found.windows()
        self.line.value = png(plots.timeline(windows, self.trained.labels, self.recording.value))
        self.tags.value = png(top_tags(found, self.recording.value)) if self.trained.tags else b""
        starts = [f"from {start:.4g} s" for start in windows["start"]]
        _fill(self.window, list(zip(starts, range(len(starts)))))
        self._show_window()

    def _show_window(self) -> None:
        if self.window.value is not None:
            found = self.predictions[self.recording.value]
            clip = window_of(found, self.window.value)
            self.what_if.show(clip, found.recording.window(self.window.value))


def found_in(path: str) -> dict[str, Path]:
    """The recordings at a path (``audio.recordings``) by name; none for an empty path."""
    if not str(path).strip():
        return {}
    place = Path(path).expanduser()
    return {
        file.relative_to(place).as_posix() if place in file.parents else file.name: file
        for file in recordings(place)
    }


def wav(waveform: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, np.ascontiguousarray(waveform.T), RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()

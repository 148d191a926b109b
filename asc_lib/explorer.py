"""The attention explorer: a clip's tags, changed by hand, and what they do (widgets over ``attention``)."""

import html
import io
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import ipywidgets as widgets
import numpy as np
import pandas as pd
import soundfile
import torch
from matplotlib.figure import Figure

from . import plots, store
from .attention import Heard, answers, clip_table, drawn, feature_maps, top_tags, window_of
from .recipe import SceneData
from .system import System, UnfitSystem, load, saved

SHOWN_TAGS, STEP = 6, 0.01
ALL = "all"


def png(figure: Figure) -> bytes:
    """A figure as the picture that a widget shows."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=85)
    return buffer.getvalue()


def _picture() -> widgets.Image:
    return widgets.Image(format="png", layout={"max_width": "100%", "width": "max-content"})


def _fill(choice: widgets.Dropdown, options: list, index: int = 0) -> None:
    """Give a menu new options, and choose one: it chooses none itself after it had none."""
    choice.options = options
    choice.index = index if options else None


WIDE = {"description_width": "9em"}
LONG = widgets.Layout(width="48em", max_width="calc(100% - 4px)")
ROW = widgets.Layout(flex_flow="row wrap")


class WhatIf(widgets.VBox):
    """A slider for each of a clip's top tags, and one for any other by its name; what the network says then."""

    def __init__(self, names: list[str]):
        self.names, self.heard, self.tags, self._drawn, self._quiet = names, None, None, None, False
        slider = dict(min=0.0, max=1.0, step=STEP, style=WIDE, layout={"width": "24em"})
        self.sliders = [widgets.FloatSlider(**slider) for _ in range(min(SHOWN_TAGS, len(names)))]
        self.other = widgets.Dropdown(options=sorted(names), description="any tag", style=WIDE)
        self.other_slider = widgets.FloatSlider(**slider, description="its probability")
        self.reset_button = widgets.Button(description="reset", tooltip="back to the clip's own tags")
        self.readout, self.picture = widgets.HTML(), _picture()
        for one in (*self.sliders, self.other_slider):
            one.observe(self._moved, "value")
        self.other.observe(lambda change: self._place(), "value")
        self.reset_button.on_click(lambda button: self.reset())
        controls = [*self.sliders, self.other, self.other_slider, self.reset_button] if names else []
        super().__init__([widgets.Box(controls, layout=ROW), self.readout, self.picture])

    def show(self, heard: Heard) -> None:
        """Show one clip; its feature map was computed, and stays."""
        self.heard, self.tags, self._drawn = heard, heard.tags.clone(), drawn(heard)
        order = np.argsort(-heard.tags[0].cpu().numpy(), kind="stable")
        for one, k in zip(self.sliders, order):
            one.description = self.names[k]
        shown = {one.description for one in self.sliders}
        with self._silently():
            self.other.options = [name for name in sorted(self.names) if name not in shown] or sorted(self.names)
        self.reset()

    def reset(self) -> None:
        """Back to the clip's own tag vector, to the last bit (a slider shows it rounded)."""
        self.tags = self.heard.tags.clone()
        self._place()
        self.draw()

    def draw(self) -> None:
        """Draw what the network says of the tags as they are now."""
        scenes, now = answers(self.heard, self.tags)
        self._drawn.show(scenes, now)
        self.picture.value = self._drawn.png()
        said = [
            f"<b>{scene}</b> {100 * row['now']:.1f} % (own tags: {100 * row['own tags']:.1f} %)"
            for scene, row in scenes.nlargest(3, "now").iterrows()
        ]
        changed = torch.nonzero(self.tags[0] != self.heard.tags[0]).flatten().tolist()
        moved = [f"{self.names[k]} {self.heard.tags[0, k]:.2f} → {self.tags[0, k]:.2f}" for k in changed]
        self.readout.value = ", ".join(said) + (f"<br>changed: {', '.join(moved)}" if moved else "")

    def _place(self) -> None:
        with self._silently():
            for one in self.sliders:
                one.value = float(self.tags[0, self.names.index(one.description)])
            if self.names:
                self.other_slider.value = float(self.tags[0, self.names.index(self.other.value)])

    def _moved(self, change: dict) -> None:
        if self._quiet:
            return
        name = self.other.value if change["owner"] is self.other_slider else change["owner"].description
        k = self.names.index(name)
        echo = abs(change["new"] - float(self.tags[0, k])) < STEP / 2  # a browser sends back what it was told, rounded
        if not echo:
            self.tags[0, k] = change["new"]
            self.draw()

    @contextmanager
    def _silently(self) -> Iterator[None]:
        self._quiet = True
        try:
            yield
        finally:
            self._quiet = False


class Explorer(widgets.VBox):
    """Choose a test clip, hear it, see what the network makes of it, and change its tags.

    ``judged``: of ``SceneData.judge``.
    """

    def __init__(self, trained: System, scenes: SceneData, judged: pd.DataFrame):
        self.system, self.scenes, self.table = trained, scenes, clip_table(trained, scenes, judged)
        choose = self._chooser
        self.scene, self.city = choose("scene", self.table["scene"]), choose("city", self.table["city"])
        self.outcome = choose("SVM is", ["right", "wrong"])
        self.order = widgets.Dropdown(options=["changed most", "name"], description="order", style=WIDE)
        self.clip = widgets.Dropdown(description="clip", style=WIDE, layout=LONG)
        self.audio = widgets.Audio(autoplay=False, loop=False)
        self.sound, self.tags, self.features = _picture(), _picture(), _picture()
        self.what_if = WhatIf(trained.tags)
        for one in (self.scene, self.city, self.outcome, self.order):
            one.observe(lambda change: self._list(), "value")
        self.clip.observe(lambda change: self._show(), "value")
        filters = widgets.Box([self.scene, self.city, self.outcome, self.order], layout=ROW)
        pictures = [self.sound, self.tags, self.what_if, self.features]
        super().__init__([filters, self.clip, self.audio, *pictures])
        self._list()

    @staticmethod
    def _chooser(name: str, values: object) -> widgets.Dropdown:
        return widgets.Dropdown(options=[ALL, *sorted(set(values))], description=name, style=WIDE)

    def chosen(self) -> pd.DataFrame:
        """The clips that the filters leave, in the order asked for."""
        table = self.table
        for column, wanted in (("scene", self.scene.value), ("city", self.city.value)):
            table = table if wanted == ALL else table[table[column] == wanted]
        if self.outcome.value != ALL:
            table = table[table["right"] == (self.outcome.value == "right")]
        by_name = self.order.value == "name"
        return table.sort_values("filename" if by_name else "change", ascending=by_name, kind="stable")

    def _list(self) -> None:
        rows = self.chosen()
        words = [
            f"{one.filename}: {'✓' if one.right else '✗ called ' + one.called}, changed {100 * one.change:.0f} %"
            for one in rows.itertuples()
        ]
        _fill(self.clip, list(zip(words, rows["row"].tolist())))

    def _show(self) -> None:
        row = self.clip.value
        if row is None:
            return
        name, waveform = self.scenes.corpus.clips["filename"][row], np.asarray(self.scenes.waveforms.waveforms[row])
        self.audio.value = wav(waveform)
        heard = Heard.of(self.system, **self.scenes.whole(np.array([row])))
        for picture, figure in zip((self.sound, self.tags, self.features), self._figures(row, name, waveform, heard)):
            picture.value = png(figure) if figure else b""
        self.what_if.show(heard)

    def _figures(self, row: int, name: str, waveform: np.ndarray, heard: Heard) -> tuple[Figure | None, ...]:
        sound = plots.clip(waveform, store.RATE, name)
        vector = heard.tags[0].cpu().numpy()
        tags = plots.tags({name: vector}, self.system.tags, {name: self.scenes.corpus.sounds_in(row)})
        return sound, tags, feature_maps(heard)


class Recordings(widgets.VBox):
    """Upload recordings, or name a file or a folder, and see what a system says of them, window by window."""

    def __init__(self, folder: Path):
        self.files, self._folder = {}, tempfile.TemporaryDirectory()
        folders = dict.fromkeys([Path(folder), *saved()])
        self.folder = widgets.Dropdown(options=[(one.name, one) for one in folders], description="system", style=WIDE)
        self.folder.layout = LONG
        self.upload = widgets.FileUpload(multiple=True, description="upload recordings", layout={"width": "16em"})
        self.path = widgets.Text(description="or a path", placeholder="a file or folder", continuous_update=False)
        self.said = widgets.HTML()
        self.recording = widgets.Dropdown(description="recording", style=WIDE)
        self.window = widgets.Dropdown(description="window", style=WIDE)
        self.line, self.tags = _picture(), _picture()
        self.folder.observe(lambda change: self._use(), "value")
        self.upload.observe(lambda change: self._uploaded(), "value")
        self.path.observe(lambda change: self._named(), "value")
        self.recording.observe(lambda change: self._show(), "value")
        self.window.observe(lambda change: self._show_window(), "value")
        super().__init__()
        self._use()

    def _use(self) -> None:
        """Take the chosen system, and ask it about the recordings so far."""
        self.trained, self.predictions = load(self.folder.value), {}
        self.what_if = WhatIf(self.trained.tags)
        top = [self.folder, widgets.Box([self.upload, self.path], layout=ROW), self.said]
        self.children = [*top, self.recording, self.line, self.tags, self.window, self.what_if]
        if self.files:
            self.add(self.files)

    def add(self, files: dict[str, Path]) -> None:
        """Classify recordings, by the names to show; one that cannot serve is named with its reason."""
        self.files = self.files | files
        try:
            found, unfit = self.trained.predict_each(files.values())
        except UnfitSystem as error:
            self.said.value = html.escape(str(error))
            return
        lines = []
        for name, path in files.items():
            if path in unfit:
                self.predictions.pop(name, None)  # of another file of this name
                lines.append(f"✗ {unfit[path].replace(str(path), name)}")
                continue
            self.predictions[name] = found[path]
            lines.append("; it ".join([f"{name}: {found[path].scene}", *found[path].notes]))
        self.said.value = "<br>".join(map(html.escape, lines)) or "no file there"
        if shown := [name for name in files if name in self.predictions]:
            _fill(self.recording, list(self.predictions), list(self.predictions).index(shown[-1]))
            self._show()

    def _named(self) -> None:
        try:
            self.add(found_in(self.path.value))
        except (OSError, RuntimeError) as error:  # a name too long, a user who is not there
            self.said.value = html.escape(f"✗ {self.path.value}: {error}")

    def _uploaded(self) -> None:
        files = {}
        for number, one in enumerate(self.upload.value, len(self.files)):
            name = Path(one["name"]).name
            files[name] = Path(self._folder.name) / f"{number}-{name}"
            files[name].write_bytes(one["content"])
        self.add(files)

    def _show(self) -> None:
        if (found := self.predictions.get(self.recording.value)) is None:
            return
        self.line.value = png(plots.timeline(found.windows(), self.trained.labels))
        self.tags.value = png(top_tags(found, self.recording.value)) if self.trained.tags else b""
        _fill(self.window, [(f"from {start:.4g} s", number) for number, start in enumerate(found.starts)])
        self._show_window()

    def _show_window(self) -> None:
        if self.window.value is not None:
            self.what_if.show(window_of(self.predictions[self.recording.value], self.window.value))


def found_in(path: str) -> dict[str, Path]:
    """The file at a path, or those of the folder there, by name; none for an empty path."""
    if not str(path).strip():
        return {}
    one = Path(path).expanduser()
    return {file.name: file for file in sorted(one.iterdir()) if file.is_file()} if one.is_dir() else {one.name: one}


def wav(waveform: np.ndarray) -> bytes:
    """An int16 clip [channels, samples] at 48 kHz as a WAV file."""
    buffer = io.BytesIO()
    soundfile.write(buffer, np.ascontiguousarray(waveform.T), store.RATE, format="WAV", subtype="PCM_16")
    return buffer.getvalue()

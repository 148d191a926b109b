"""The parameters of a run, checked, with the defaults of its data set."""

import difflib
import types
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import pydantic
import torch

from . import corpora
from .files import first_line
from .front_ends import FRONT_ENDS
from .fusion import FUSIONS, SIZES, heads_problem
from .recipes import PRECISIONS, Preset, SceneRecipe, TaggerSizes
from .registry import ParameterError, load_plugins, unknown
from .tags import sources
from .tags.tag_data import SUPERVISION
from .training import default_device

COMMON = ("data", "seed", "epochs", "device", "threads")
ANY_SCENE = (*COMMON, "front_end", "precision")
SCENE = (*ANY_SCENE, "tags")
NOTEBOOKS = {
    "00_data": ("data",),
    "01_tagger": (*COMMON, "supervision"),
    "02_baseline": ANY_SCENE,
    "03_concatenation": (*SCENE, "fusion", "layers"),
    "04_attention": (*SCENE, "heads", "layers"),
    "05_combined": (*SCENE, "fusion", *SIZES),
    "06_results": ("data",),
    "07_your_recordings": ("data", "device", "system", "recordings"),
}


class Settings(pydantic.BaseModel):
    """The parameters of a run, checked; a parameter that does not apply is None."""

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid")

    notebook: str
    data: str
    seed: int = pydantic.Field(0, ge=0)
    epochs: int = pydantic.Field(0, ge=0)
    device: str = "cpu"
    threads: int = pydantic.Field(0, ge=0)
    front_end: str | None = None
    precision: str = "float32"
    tags: str | None = None
    supervision: str | None = None
    fusion: str | None = None
    heads: int | None = pydantic.Field(None, ge=1)
    layers: int | None = pydantic.Field(None, ge=0)
    concat_layers: int | None = pydantic.Field(None, ge=0)
    attention_layers: int | None = pydantic.Field(None, ge=0)
    system: str | None = None
    recordings: str | None = None

    @property
    def preset(self) -> Preset:
        """The preset of the data set."""
        return corpora.find(self.data).preset

    @property
    def recipe(self) -> SceneRecipe:
        """The preset's scene recipe, with this run's number of epochs and precision."""
        return replace(self.preset.scene, epochs=self.epochs, precision=self.precision)

    @property
    def tagger_sizes(self) -> TaggerSizes:
        """The preset's tagger, with this run's number of epochs."""
        return replace(self.preset.tagger, epochs=self.epochs)

    @property
    def data_name(self) -> str:
        """Name of the data set in files and folders."""
        return corpora.find(self.data).name

    def sizes(self) -> dict[str, int]:
        """Heads and layers, those that the fusion uses."""
        return {name: getattr(self, name) for name in SIZES if getattr(self, name) is not None}

    def parameters(self) -> dict[str, int | str | None]:
        """All parameters of the notebook, resolved, and the fusion."""
        names = dict.fromkeys(NOTEBOOKS[self.notebook])
        if self.fusion:
            names["fusion"] = None
        return {name: getattr(self, name) for name in names}

    def describe(self) -> pd.DataFrame:
        """The same as a table, for a notebook to show."""
        values = {k: "does not apply" if v is None else v for k, v in self.parameters().items()}
        return pd.DataFrame({"value": values})


def check(notebook: str, **values: object) -> Settings:
    """Check the parameters of a notebook and resolve defaults (0, "auto") by the preset.

    Raises ParameterError for an unknown name, a wrong type or an impossible value.
    """
    load_plugins()
    names = NOTEBOOKS[notebook]
    for name in values:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(names)}"
            raise ParameterError(f"unknown parameter '{name}'; {hint}")
    missing = [name for name in names if name not in values]
    if missing:
        raise ParameterError(f"parameter '{missing[0]}' is missing from the parameters cell")
    try:
        settings = Settings(notebook=notebook, **values)
    except pydantic.ValidationError as error:
        raise ParameterError(_in_words(error.errors()[0])) from None
    return _resolved(settings)


def _in_words(error: dict) -> str:
    name = error["loc"][0]
    value = error["input"]
    kind = {"int_type": "a whole number", "string_type": "a text"}.get(error["type"])
    if kind:
        return f"parameter '{name}' is {kind}, not {value!r}"
    return f"parameter '{name}' is {value!r}: {error['msg'].lower()}"


def _one_of(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise unknown(name, value, valid)


def _resolved(settings: Settings) -> Settings:
    tagging = settings.notebook == "01_tagger"
    names = corpora.scene_data_sets()
    if tagging or not Path(settings.data).is_dir():
        own = [] if tagging else ["the path of a folder of your own"]
        _one_of("data", settings.data, (*names, *own))
    preset = settings.preset
    new: dict[str, object] = {
        "epochs": settings.epochs or (preset.tagger if tagging else preset.scene).epochs,
        "threads": settings.threads or (preset.tagger_threads if tagging else preset.threads),
        "device": checked_device(settings.device),
    }
    if settings.front_end is not None:
        new |= _network(settings, preset)
    if settings.supervision is not None:
        _one_of("supervision", settings.supervision, SUPERVISION)
    return settings.model_copy(update=new)


def _network(settings: Settings, preset: Preset) -> dict[str, object]:
    """Front-end, fusion, its sizes and its tags."""
    front_end = settings.front_end
    _one_of("front_end", front_end, ("auto", *FRONT_ENDS))
    front_end = preset.front_end if front_end == "auto" else front_end
    _one_of("precision", settings.precision, PRECISIONS)
    fusion = settings.fusion or only_fusion(settings.notebook)
    parameters = set(NOTEBOOKS[settings.notebook])
    _one_of("fusion", fusion, tuple(k for k, v in FUSIONS.items() if set(v.uses) <= parameters))
    entry = FUSIONS[fusion]
    new = {"front_end": front_end, "fusion": fusion}
    new |= {size: None for size in SIZES if size not in entry.uses}
    if "heads" in entry.uses:
        problem = heads_problem(settings.heads, FRONT_ENDS[front_end].filters)
        if problem:
            raise ParameterError(f"parameter 'heads': {problem}")
    if settings.tags is not None:
        sources.find(settings.tags)
        if entry.build.reads == "nothing":
            new["tags"] = None
    return new


def only_fusion(notebook: str) -> str:
    """The fusion of a notebook that has no such parameter."""
    return next(name for name, entry in FUSIONS.items() if entry.notebook == notebook)


def checked_device(name: str) -> str:
    """A device's name, "auto" resolved. Raises ParameterError for one that is not there."""
    if name == "auto":
        return default_device()
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise unknown("device", name, ("auto", "cpu", "cuda"))
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ParameterError(f"parameter 'device' is {name!r}: {first_line(error)}") from None
    return name


@dataclass
class Given:
    """The parameters given to a notebook.

    Made above its parameters cell from ``globals()``, and asked below it: what is new or rebound in
    between, and is not a module, is a parameter. So a misspelt one is refused, once per kernel.
    """

    names: dict[str, object]
    before: dict[str, object] = field(init=False)
    asked: bool = False

    def __post_init__(self):
        self.before = dict(self.names)

    def settings(self, notebook: str) -> Settings:
        """Check the given parameters (``check``); make torch use the run's number of threads."""
        values = {} if self.asked else {k: v for k, v in self.names.items() if self._is_new(k, v)}
        values |= {k: self.names[k] for k in NOTEBOOKS[notebook] if k in self.names}
        settings = check(notebook, **values)
        self.asked = True
        torch.set_num_threads(settings.threads)
        return settings

    def _is_new(self, name: str, value: object) -> bool:
        unchanged = name in self.before and self.before[name] is value
        return not (
            name.startswith("_")
            or unchanged
            or value is self
            or isinstance(value, types.ModuleType)
        )

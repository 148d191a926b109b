"""The parameters of a run, checked, and the preset of its data set."""

import difflib
import os
import types
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd
import pydantic
import torch

from .artefacts import first_line
from .corpora import DATA_SETS, name_of
from .fusion import FUSIONS, heads_problem
from .recipe import PRECISIONS, SceneRecipe
from .scene_net import FRONT_ENDS
from .tagger import SUPERVISION
from .tagging_net import TaggerSizes

SIZES = ("heads", "layers", "concat_layers", "attention_layers")
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
FIXED_FUSION = {"02_baseline": "baseline", "04_attention": "attention"}
TAGS = ("tagger", "shuffled", "constant", "true")
TABLES = (".csv", ".parquet", ".npz")  # of tag vectors of one's own
HUB = "hf:"  # before the name of a Hugging Face audio classification model


@dataclass(frozen=True)
class Preset:
    """What a data set decides unless a parameter says otherwise."""

    front_end: str
    scene: SceneRecipe
    tagger: TaggerSizes
    threads: int  # of a scene notebook; with one each, as many notebooks as there are cores run side by side
    tagger_threads: int  # of the tagger's


SMALL_SCENE = SceneRecipe(lr=1e-3, crop=48_000, epochs=14, look_every=7)
SMALL_TAGGER = TaggerSizes(
    bands=64, n_fft=2048, hop=882, widths=(16, 32, 64, 128), depths=(1, 1, 1, 1), batch=32, cycles=2, second_cycles=1
)
PRESETS = {
    "mini": Preset("narrow", SMALL_SCENE, replace(SMALL_TAGGER, crop=64, folds=2, epochs=20), 1, 1),
    "esc50": Preset(
        "narrow", replace(SMALL_SCENE, epochs=90, look_every=30), replace(SMALL_TAGGER, crop=128, epochs=40), 1, 1
    ),
    "tau2019": Preset("released", SceneRecipe(), TaggerSizes(), os.cpu_count() or 1, os.cpu_count() or 1),
}


def preset_of(data: str) -> Preset:
    """The preset of a data set; a folder of one's own has that of ``tau2019``."""
    return PRESETS.get(data, PRESETS["tau2019"])


class ParameterError(ValueError):
    """A parameter that cannot be; the message names it and what would do."""


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
        """The preset of the data set, with this run's number of epochs."""
        preset = preset_of(self.data)
        if self.notebook == "01_tagger":
            return replace(preset, tagger=replace(preset.tagger, epochs=self.epochs))
        return replace(preset, scene=replace(preset.scene, epochs=self.epochs, precision=self.precision))

    @property
    def data_name(self) -> str:
        """Name of the data set in files and folders."""
        return name_of(self.data)

    def sizes(self) -> dict[str, int]:
        """Heads and layers, those that the fusion uses."""
        return {name: getattr(self, name) for name in SIZES if getattr(self, name) is not None}

    def parameters(self) -> dict[str, int | str | None]:
        """All parameters of the notebook, resolved."""
        names = (*NOTEBOOKS[self.notebook], "fusion") if self.fusion else NOTEBOOKS[self.notebook]
        return {name: getattr(self, name) for name in dict.fromkeys(names)}

    def describe(self) -> pd.DataFrame:
        """The same as a table, for a notebook to show."""
        return pd.DataFrame({"value": {k: "does not apply" if v is None else v for k, v in self.parameters().items()}})


def check(notebook: str, **values: object) -> Settings:
    """Check the parameters of a notebook and resolve defaults (0, "auto") against the preset.

    Raises ParameterError: an unknown name, a wrong type, a value that cannot be.
    """
    names = NOTEBOOKS[notebook]
    for name in values:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are {', '.join(names)}"
            raise ParameterError(f"unknown parameter '{name}'; {hint}")
    if missing := [name for name in names if name not in values]:
        raise ParameterError(f"parameter '{missing[0]}' is missing from the parameters cell")
    try:
        settings = Settings(notebook=notebook, **values)
    except pydantic.ValidationError as error:
        raise ParameterError(_in_words(error.errors()[0])) from None
    return _resolved(settings)


def _in_words(error: dict) -> str:
    name, value = error["loc"][0], error["input"]
    kinds = {"int_type": "a whole number", "string_type": "a text"}
    if error["type"] in kinds:
        return f"parameter '{name}' is {kinds[error['type']]}, not {value!r}"
    return f"parameter '{name}' is {value!r}: {error['msg'].lower()}"


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ParameterError(f"parameter '{name}' is {value!r}: choose one of {', '.join(known)}")


def _resolved(settings: Settings) -> Settings:
    given = settings.notebook
    tagging = given == "01_tagger"
    if tagging or not Path(settings.data).is_dir():
        _one_of("data", settings.data, DATA_SETS if tagging else (*DATA_SETS, "the path of a folder of your own"))
    preset = preset_of(settings.data)
    new: dict[str, object] = {
        "epochs": settings.epochs or (preset.tagger if tagging else preset.scene).epochs,
        "threads": settings.threads or (preset.tagger_threads if tagging else preset.threads),
        "device": checked_device(settings.device),
    }
    if settings.front_end is not None:
        _one_of("front_end", settings.front_end, ("auto", *FRONT_ENDS))
        new["front_end"] = preset.front_end if settings.front_end == "auto" else settings.front_end
        _one_of("precision", settings.precision, PRECISIONS)
        fusion = FIXED_FUSION.get(given) or settings.fusion
        usable = tuple(name for name, entry in FUSIONS.items() if set(entry.uses) <= set(NOTEBOOKS[given]))
        _one_of("fusion", fusion, usable)
        new |= {"fusion": fusion} | {size: None for size in SIZES if size not in FUSIONS[fusion].uses}
        filters = FRONT_ENDS[new["front_end"]].filters
        if "heads" in FUSIONS[fusion].uses and (problem := heads_problem(settings.heads, filters)):
            raise ParameterError(f"parameter 'heads': {problem}")
    if settings.supervision is not None:
        _one_of("supervision", settings.supervision, SUPERVISION)
    if settings.tags is not None and Path(settings.tags).suffix not in TABLES and not settings.tags.startswith(HUB):
        others = f"the path of a table ({', '.join(TABLES)})", f"{HUB} and the name of a model"
        _one_of("tags", settings.tags, (*TAGS, *others))
    return settings.model_copy(update=new)


def default_device() -> str:
    """The device that "auto" stands for."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def checked_device(name: str) -> str:
    """A device's name; "auto" resolved. Raises ParameterError for one that is not there, or neither cpu nor cuda."""
    if name == "auto":
        return default_device()
    if name.partition(":")[0] not in ("cpu", "cuda"):
        raise ParameterError(f"parameter 'device' is {name!r}: choose auto, cpu or cuda")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ParameterError(f"parameter 'device' is {name!r}: {first_line(error)}") from None
    return name


@dataclass
class Given:
    """The parameters given to a notebook. Made above its parameters cell from ``globals()``, asked below it.

    What is new or rebound in between, and is not a module, is a parameter: a misspelt one is refused, once a kernel.
    """

    names: dict[str, object]
    before: dict[str, object] = field(init=False)
    asked: bool = False

    def __post_init__(self):
        self.before = dict(self.names)

    def settings(self, notebook: str) -> Settings:
        """Check what was given (``check``), and make torch use the run's number of threads."""
        known = {name: self.names[name] for name in NOTEBOOKS[notebook] if name in self.names}
        new = {} if self.asked else {name: value for name, value in self.names.items() if self._is_new(name, value)}
        settings = check(notebook, **(new | known))
        self.asked = True
        torch.set_num_threads(settings.threads)
        return settings

    def _is_new(self, name: str, value: object) -> bool:
        unchanged = name in self.before and self.before[name] is value
        return not (name.startswith("_") or unchanged or value is self or isinstance(value, types.ModuleType))

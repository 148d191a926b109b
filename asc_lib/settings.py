"""The parameters of a run, checked, with the defaults of its data set."""

import difflib
import types
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pandas as pd
import pydantic
import torch

from . import back_ends, corpora, recipes
from .files import first_line
from .front_ends import FRONT_ENDS
from .fusion import FUSIONS, SIZES, check_heads
from .recipes import (
    CLASS_WEIGHTS,
    FIXED,
    MIXUP_PER,
    PRECISIONS,
    SPECIALISTS_BY,
    Preset,
    SceneRecipe,
    TaggerSizes,
)
from .registry import ParameterError, load_plugins, unknown
from .scene_net import SCALES
from .tags import sources
from .tags.tag_data import SUPERVISION
from .tags.windows import CHOICES
from .training import AUGMENTATIONS, SCHEDULES, default_device

DEVICES = ("cpu", "cuda", "mps")
COMMON = ("data", "seed", "epochs", "device", "threads")
ANY_SCENE = (*COMMON, "recipe", "front_end", "precision")
SCENE = (*ANY_SCENE, "tags", "tag_windows", "n_tags")
RECIPE = {  # choices of a recipe's fields
    "schedule": SCHEDULES,
    "precision": PRECISIONS,
    "tag_windows": CHOICES,
    "tag_scale": SCALES,
    "mixup_per": MIXUP_PER,
    "augmentation": AUGMENTATIONS,
    "fixed": FIXED,
    "class_weights": CLASS_WEIGHTS,
    "specialists_by": SPECIALISTS_BY,
    "back_end": back_ends.CHOICES,
}
NOTEBOOKS = {
    "00_data": ("data",),
    "01_tagger": (*COMMON, "supervision"),
    "02_baseline": ANY_SCENE,
    "03_concatenation": (*SCENE, "fusion", "layers"),
    "04_attention": (*SCENE, "heads", "layers"),
    "05_combined": (*SCENE, "fusion", *SIZES),
    "06_results": ("data",),
    "07_your_recordings": ("data", "device", "system", "recordings"),
    "08_rivals": (*COMMON, "precision", "tags", "tag_windows", "n_tags", "system", "fusion"),
}


@dataclass(frozen=True)
class Rival:
    """A system of Table 6, or of later years, as parameters of notebooks 02 and 04."""

    published: str  # of whom, as in ``published_table6.csv``
    parameters: dict[str, str]
    fusions: tuple[str, ...] = ("baseline", "attention")


RIVALS = {
    "cp_resnet": Rival("Koutini et al. 2019", {"front_end": "cp_resnet"}),
    "sinc_acl": Rival("Huang et al. [2]", {"front_end": "sinc_acl"}),
    "specialists": Rival("Jung et al. [22]", {"recipe": "specialists"}, ("baseline",)),
    "crop_pad": Rival("Zheng et al. [8]", {"recipe": "crop_pad"}),
}


class Settings(pydantic.BaseModel):
    """The parameters of a run, checked; a parameter that does not apply is None."""

    model_config = pydantic.ConfigDict(strict=True, frozen=True, extra="forbid")

    notebook: str
    data: str
    seed: int = pydantic.Field(0, ge=0, lt=2**32)
    epochs: int = pydantic.Field(0, ge=0)
    device: str = "cpu"
    threads: int = pydantic.Field(0, ge=0)
    recipe_source: str = pydantic.Field("", alias="recipe")
    base: SceneRecipe | None = None  # the recipe, before other parameters
    front_end: str | None = None
    precision: str = "float32"
    tags: str | None = None
    tag_windows: str | None = None
    n_tags: int | None = pydantic.Field(None, ge=0)
    supervision: str | None = None
    fusion: str | None = None
    heads: int | None = pydantic.Field(None, ge=1)
    layers: int | None = pydantic.Field(None, ge=0, le=100)
    concat_layers: int | None = pydantic.Field(None, ge=0, le=100)
    attention_layers: int | None = pydantic.Field(None, ge=0, le=100)
    system: str | None = None
    recordings: str | None = None

    @property
    def preset(self) -> Preset:
        return corpora.find(self.data).preset

    @property
    def recipe(self) -> SceneRecipe:
        own = {"tag_windows": self.tag_windows} if self.tag_windows else {}
        return replace(self.base, epochs=self.epochs, precision=self.precision, **own)

    def changed(self) -> dict[str, int | float | str]:
        """The recipe's values that are not the preset's; of a system's folder the name."""
        preset = asdict(self.preset.scene)
        values = {k: v for k, v in asdict(self.recipe).items() if v != preset[k]}
        return values | {k: Path(v).name for k, v in values.items() if k == "start_from"}

    @property
    def tagger_sizes(self) -> TaggerSizes:
        return replace(self.preset.tagger, epochs=self.epochs)

    @property
    def data_name(self) -> str:
        return corpora.find(self.data).name  # in files and folders

    def sizes(self) -> dict[str, int]:
        """Heads and layers, those that the fusion uses."""
        return {name: getattr(self, name) for name in SIZES if getattr(self, name) is not None}

    def parameters(self) -> dict[str, int | str | None]:
        """All of the notebook, and the fusion; names, where one is a path of this machine."""
        names = NOTEBOOKS[self.notebook] + (("fusion",) if self.fusion else ())
        tags = self.tags and sources.name_of(self.tags)
        known = {name: getattr(self, name) for name in names if name != "recipe"}
        if self.recipe_source:
            known["recipe"] = Path(self.recipe_source).name
        return known | {"data": self.data_name} | ({"tags": tags} if "tags" in known else {})

    def describe(self) -> pd.DataFrame:
        return pd.Series(self.parameters(), dtype=object).fillna("does not apply").to_frame("value")


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
    return _resolved(_of_rival(settings) if notebook == "08_rivals" else settings)


def _of_rival(settings: Settings) -> Settings:
    """Settings of notebook 08 as those of the notebook whose run is the same."""
    _one_of("system", settings.system, RIVALS)
    rival = RIVALS[settings.system]
    _one_of("fusion", settings.fusion, rival.fusions)
    entry = FUSIONS[settings.fusion]
    return settings.model_copy(
        update={
            "notebook": entry.notebook,
            "system": None,
            "front_end": rival.parameters.get("front_end", "auto"),
            "recipe_source": rival.parameters.get("recipe", ""),
            **entry.main[-1],
        }
    )


def _in_words(error: dict) -> str:
    value = error["input"]
    kind = {"int_type": "a whole number", "string_type": "a text"}.get(error["type"])
    problem = f"{kind}, not {value!r}" if kind else f"{value!r}: {error['msg'].lower()}"
    return f"parameter '{error['loc'][0]}' is {problem}"


def _one_of(name: str, value: str, valid: Sequence[str]) -> None:
    if value not in valid:
        raise unknown(name, value, valid)


def _resolved(settings: Settings) -> Settings:
    tagging = settings.notebook == "01_tagger"
    if tagging:
        _one_of("data", settings.data, corpora.scene_data_sets())
    preset = corpora.with_scenes(settings.data).preset
    data = corpora.resolved(settings.data)
    front_end = settings.front_end
    base = preset.scene
    if front_end is not None:
        _one_of("front_end", front_end, ("auto", *FRONT_ENDS))
        front_end = preset.front_end if front_end == "auto" else front_end
        base = recipes.fitted(FRONT_ENDS[front_end].recipe, base)
    base = recipes.read(settings.recipe_source, base)
    for name, valid in RECIPE.items():
        if getattr(base, name) not in valid:
            raise unknown("recipe", f"{name} = {getattr(base, name)}", valid)
    new: dict[str, object] = {
        "data": data,
        "base": base,
        "epochs": settings.epochs or (preset.tagger if tagging else base).epochs,
        "threads": settings.threads or (preset.tagger_threads if tagging else preset.threads),
        "device": checked_device(settings.device),
    }
    if front_end is not None:
        new |= _network(settings, front_end, preset, base)
    if settings.supervision is not None:
        _one_of("supervision", settings.supervision, SUPERVISION)
    return settings.model_copy(update=new)


def _network(
    settings: Settings, front_end: str, preset: Preset, base: SceneRecipe
) -> dict[str, object]:
    _one_of("precision", settings.precision, PRECISIONS)
    fusion = settings.fusion or next(  # a notebook without this parameter has one fusion
        name for name, entry in FUSIONS.items() if entry.notebook == settings.notebook
    )
    given = set(NOTEBOOKS[settings.notebook])
    _one_of("fusion", fusion, [k for k, entry in FUSIONS.items() if given.issuperset(entry.uses)])
    entry = FUSIONS[fusion]
    if "heads" in entry.uses:
        try:
            check_heads(settings.heads, FRONT_ENDS[front_end].filters)
        except ValueError as error:
            raise ParameterError(f"parameter 'heads': {error}") from None
    tags = preset.tags if settings.tags == "auto" else settings.tags
    tags = tags if tags is None else sources.resolved(tags)
    windows = settings.tag_windows
    if windows is not None:
        _one_of("tag_windows", windows, ("auto", *CHOICES))
        windows = base.tag_windows if windows == "auto" else windows
    tagged = entry.build.reads != "nothing"
    if base.start_from and not entry.build.waveform:
        raise ParameterError(f"parameter 'recipe': start_from does nothing for {fusion}")
    if base.specialists and entry.build.reads not in ("nothing", "clip"):
        raise ParameterError(
            f"parameter 'recipe': specialists need a fusion that reads one tag vector a clip, or "
            f"none, such as baseline or attention, not {fusion}"
        )
    return {
        "front_end": front_end,
        "precision": base.precision if settings.precision == "float32" else settings.precision,
        "fusion": fusion,
        "tags": tags if tagged else None,
        "tag_windows": windows if tagged else None,
        "n_tags": settings.n_tags if tagged else None,
        **{size: None for size in SIZES if size not in entry.uses},
    }


def checked_device(name: str) -> str:
    """A device's name, "auto" resolved. Raises ParameterError for one that is not there."""
    if name == "auto":
        return default_device()
    if name.partition(":")[0] not in DEVICES:
        raise unknown("device", name, ("auto", *DEVICES))
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        why = first_line(error).partition(". ")[0]  # for mps, lists of all that torch has follow
        raise ParameterError(f"parameter 'device' is {name!r}: {why}") from None
    return "cpu" if name.startswith("cpu") else name


class Given:
    """The parameters given to a notebook.

    Made above its parameters cell from ``globals()``, and asked below it: what is new or rebound in
    between, and is not a module, is a parameter. So a misspelt one is refused, once per kernel.
    """

    def __init__(self, names: dict[str, object]):
        self.names = names
        self.before = dict(names)
        self.asked = False

    def settings(self, notebook: str) -> Settings:
        """Check the given parameters (``check``); make torch use the run's number of threads."""
        values = {} if self.asked else {k: v for k, v in self.names.items() if self._is_new(k, v)}
        values |= {k: self.names[k] for k in NOTEBOOKS[notebook] if k in self.names}
        settings = check(notebook, **values)
        folds = corpora.folds(settings.data)
        if folds and notebook not in ("06_results", "07_your_recordings"):
            raise ParameterError(
                f"parameter 'data' is {settings.data!r}: a notebook takes one fold, such as "
                f"{folds[0]!r}; `asc sweep` runs all"
            )
        self.asked = True
        torch.set_num_threads(settings.threads)
        return settings

    def _is_new(self, name: str, value: object) -> bool:
        return not (
            name.startswith("_")
            or (name in self.before and self.before[name] is value)
            or value is self
            or isinstance(value, types.ModuleType)
        )

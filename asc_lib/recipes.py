"""Recipes: the numbers that decide how networks are trained, each with its source."""

import json
import tomllib
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any

import pydantic

from .files import first_line
from .registry import ParameterError

PRECISIONS = ("float32", "bfloat16")
RATE = 48_000  # Hz, of every scene clip
TAG_RATE = 44_100  # Hz, of what the tagger hears
MIXUP_PER = ("batch", "clip")
FIXED = ("none", "front_end")
CLASS_WEIGHTS = ("none", "balanced")
HELD_OUT = "held_out"  # the back-end that is best on held-out training places
SPECIALISTS_BY = ("held_out", "paper_protocol")
Whole = Annotated[int, pydantic.Field(ge=1, lt=2**31)]
Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]


def added(default: Any) -> Any:
    """A field that older runs did not have: at its default it is not part of a run's name."""
    return field(default=default, metadata={"added": True})


def described(recipe: "SceneRecipe | TaggerSizes") -> dict[str, Any]:
    """The values that a run's name depends on."""
    return {
        entry.name: getattr(recipe, entry.name)
        for entry in fields(recipe)
        if not entry.metadata or getattr(recipe, entry.name) != entry.default
    }


@dataclass(frozen=True)
class SceneRecipe:
    """How a scene network is trained. The defaults are the full-size recipe, for waveforms.

    Sources: [paper], Section 4.2; [22], the system that the same authors released before, with the
    same front-end. The pre-emphasis (0.97 [paper]) and its scale (32,000 [22]) are in
    ``front_ends.pre_emphasis``, the SVM's settings in ``back_ends.fit``. A front-end may bring
    values of its own (``FrontEnd.recipe``).
    """

    __pydantic_config__ = pydantic.ConfigDict(strict=True)

    epochs: Whole = 90  # [22]
    batch: Whole = 24  # [22]; an incomplete last batch is dropped
    lr: Positive = 1e-4  # [22]; of Adam
    schedule: str = "constant"  # of the learning rate, [22]: one of ``training.SCHEDULES``
    weight_decay: Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)] = 1e-3  # [22]
    crop: Whole = 240_000  # [22]; samples of a training excerpt, after pre-emphasis
    test_samples: Whole = 479_520  # [22]; evaluation reads this many samples from a clip's start
    mixup: Positive = 0.1  # mixup [paper], alpha [22]; of waveforms and (ours) of tag vectors
    mixup_from: Whole = 7  # [22]; first epoch with mixup
    eval_every: Whole = (
        1  # [22]; epochs between evaluations, from which the paper's protocol selects
    )
    precision: str = "float32"  # of the network's layers: one of PRECISIONS
    tag_windows: str = "clip"  # that training reads: one of ``tags.windows.CHOICES``; [paper]
    tag_scale: str = "raw"  # of tag vectors, in the network: one of ``scene_net.SCALES``; [paper]
    amsgrad: bool = added(True)  # [22]
    mixup_per: str = added("batch")  # one share a batch [22], or one a "clip", the larger its own
    augmentation: str = added("none")  # of excerpts: one of ``training.AUGMENTATIONS``
    average_from: Annotated[float, pydantic.Field(ge=0, le=1)] = added(
        1.0  # share of the epochs after which weights are averaged
    )
    start_from: str = added("")  # folder of a saved system, whose weights are taken over
    fixed: str = added("none")  # what of it training leaves as it is: one of FIXED
    class_weights: str = added("none")  # of loss and back-end: one of CLASS_WEIGHTS
    back_end: str = added("rbf")  # one of ``back_ends.CHOICES``; an SVM [paper]
    specialists: Annotated[int, pydantic.Field(ge=0, le=20)] = added(0)  # see ``distillation``
    specialists_by: str = added("held_out")  # clips that choose their pairs: one of SPECIALISTS_BY


@dataclass(frozen=True)
class TaggerSizes:
    """Everything that determines a tagger but its data and seed.

    The defaults are the paper's system [14] at full size; a smaller tagger is the same code with
    smaller numbers.
    """

    bands: int = 128  # mel bands, from 20 Hz to 22,050 Hz
    n_fft: int = 2560  # samples at 44.1 kHz
    hop: int = 347  # samples
    widths: tuple[int, ...] = (64, 128, 256, 512)  # ResNet-34
    depths: tuple[int, ...] = (3, 4, 6, 3)
    crop: int = 512  # frames, the longest slice of a clip in training
    folds: int = 5  # of the curated set
    batch: int = 64  # clips, one half curated and one half noisy
    epochs: int = 64  # of one cosine cycle; an epoch is one pass over the curated clips
    cycles: int = 8  # of stage 1
    second_cycles: int = 8  # of stage 2, whose length is not published: as many
    lr: float = 1e-3  # Adam; each cosine cycle ends at 1e-6
    mixtures: bool = False  # ours: teach it mixtures like scenes; off everywhere, see PAPER.md


@dataclass(frozen=True)
class Preset:
    """What a data set decides unless a parameter says otherwise."""

    front_end: str
    scene: SceneRecipe
    tagger: TaggerSizes
    threads: int  # of a scene notebook; with one each, a sweep runs one notebook per core
    tagger_threads: int
    tags: str = "tagger"  # where tag vectors come from


SMALL = dict(
    lr=1e-3,
    crop=48_000,
    epochs=14,
    eval_every=7,
    tag_windows="random",
    tag_scale="square_root",
)
SMALL_SCENE = SceneRecipe(schedule="cosine", **SMALL)  # settled by `asc tune` on esc50
CP_RESNET = dict(  # published with that front-end [Koutini et al. 2019]
    epochs=350,
    batch=10,
    schedule="linear",
    weight_decay=0.0,
    crop=479_520,
    mixup=0.3,
    mixup_from=1,
    amsgrad=False,
    mixup_per="clip",
    augmentation="roll",
    average_from=5 / 7,
)
NAMED: dict[str, dict[str, Any]] = {  # values of ``SceneRecipe``
    "cp_resnet": CP_RESNET,
    "crop_pad": dict(augmentation="crop_pad"),  # after Zheng and Yan (Table 6)
    "specialists": dict(specialists=2),  # [22] (Table 6)
    "specialists_paper_protocol": dict(specialists=2, specialists_by="paper_protocol"),
}


def fitted(values: dict[str, Any], preset: SceneRecipe) -> SceneRecipe:
    """A preset with these values; of a small one, without those that belong to full size."""
    full = preset == SceneRecipe()
    return replace(
        preset, **{k: v for k, v in values.items() if full or k not in ("batch", *SMALL)}
    )


def read(source: str, preset: SceneRecipe) -> SceneRecipe:
    """The preset with values of one of ``NAMED`` or of a TOML file; as it is for "".

    ``start_from`` counts from the file's folder. Raises ParameterError for anything but a field
    with a value that it may have; choices are checked where they are known (``settings``).
    """
    if not source:
        return preset
    if source in NAMED:
        return fitted(NAMED[source], preset)
    path = Path(source).expanduser()
    refused = f"parameter 'recipe' is {source!r}"
    if not path.is_file():
        raise ParameterError(f"{refused}: choose one of {', '.join(NAMED)}, or a TOML file's path")
    try:
        given = tomllib.loads(path.read_text(encoding="utf-8"))
        known = asdict(preset)
        wrong = sorted(given.keys() - known.keys())
        if wrong:
            raise ValueError(f"there is no {wrong[0]!r}, but {', '.join(known)}")
        recipe = pydantic.TypeAdapter(SceneRecipe).validate_json(
            json.dumps(known | given, default=str)  # as JSON: strictly, and yet not an instance
        )
    except pydantic.ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise ParameterError(f"{refused}: {place} is {first['input']!r}: {first['msg']}") from None
    except (ValueError, OSError) as error:
        raise ParameterError(f"{refused}: {first_line(error)}") from None
    if recipe.fixed != "none" and not recipe.start_from:
        raise ParameterError(f"{refused}: fixed needs start_from, a saved system's folder")
    if not recipe.start_from:
        return recipe
    start = path.resolve().parent / Path(recipe.start_from).expanduser()
    return replace(recipe, start_from=str(start.resolve()))


SMALL_TAGGER = TaggerSizes(
    bands=64,
    n_fft=2048,
    hop=882,
    widths=(16, 32, 64, 128),
    depths=(1, 1, 1, 1),
    batch=32,
    cycles=2,
    second_cycles=1,
)

"""What the files that the library writes must look like when they are read again."""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError, model_validator

MOST_TAGS = 10_000
MOST_CLIPS = 10_000_000
LONGEST = 48_000 * 3600  # samples of a clip


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("it holds control characters")
    return text


def _undefined(value: float) -> float:
    if not math.isnan(value):
        raise ValueError("it is not within 0 to 1")
    return value


Undefined = Annotated[float, AfterValidator(_undefined)]


def _different(names: list[str]) -> list[str]:
    if len(set(names)) < len(names):
        raise ValueError("it names one twice")
    return names


Name = Annotated[str, Field(min_length=1, max_length=10_000), AfterValidator(_printable)]
Names = Annotated[list[Name], AfterValidator(_different)]
Share = Annotated[float, Field(ge=0, le=1)]
Bounds = tuple[Share | Undefined, Share | Undefined]  # of one location there is no interval
Count = Annotated[int, Field(ge=0, le=MOST_CLIPS)]


Scale = Literal["raw", "square_root", "logit"]


class Parameters(BaseModel, extra="allow"):
    """Of a run; ``data`` and ``tags`` are names, not paths."""

    data: Name
    seed: int
    epochs: Count
    device: Name
    threads: Count
    __pydantic_extra__: dict[str, int | Name | None]


class SceneParameters(Parameters):
    front_end: Name
    precision: Literal["float32", "bfloat16"]


class Data(BaseModel):
    name: Name
    clips: dict[Name, Count]
    fingerprint: Name


class Figures(BaseModel):
    """Of a scene network, on one set of clips."""

    clips: Count
    locations: Count
    accuracy: Share
    balanced_accuracy: Share
    interval: Bounds
    accuracy_by_kernel: dict[Name, Share]
    accuracy_logistic: Share
    accuracy_softmax: Share
    accuracy_paper_protocol: Share
    choices: Count


class Tagging(BaseModel):
    """Of a tagger, on one set of clips."""

    lwlrap: Share
    interval: Bounds
    chance: Share
    accuracy: Share | None
    clips: Count
    recordings: Count


class OnScenes(BaseModel):
    """Of tag vectors, against what was composed into scenes."""

    lwlrap: Share
    interval: Bounds
    chance: Share
    clips: Count


class Tags(BaseModel):
    """Tag vectors that a network has read."""

    source: Name | None
    fingerprint: Name | None = None
    lwlrap: Tagging | None = None
    names: Names = Field([], max_length=MOST_TAGS)
    model: Name | None = None


class Described(BaseModel):
    """What records of all runs have in common."""

    run: Name
    system: Name
    parameters: Parameters
    data: Data
    n_parameters: int = Field(ge=0)
    environment: dict[Name, int | str]


class StartFrom(BaseModel):
    """A saved system from which weights were taken over."""

    run: Name
    fingerprint: Name
    taken_over: Names


class BackEnd(BaseModel):
    """That of a run, with the accuracy of its candidates where it was chosen."""

    name: Literal["rbf", "sigmoid", "logistic", "softmax"]
    held_out: dict[Name, Share] = {}


class SceneRecord(Described):
    table: Literal[2, 3, 4, 5] | None
    parameters: SceneParameters
    labels: Names = Field(min_length=2, max_length=MOST_TAGS)
    macs: int = Field(ge=0)
    tags: Tags | None
    recipe: dict[Name, int | float | str] | None = None  # where it is not the preset's
    start_from: StartFrom | None = None
    back_end: BackEnd
    tag_scale: Scale
    test: Figures
    test_all: Figures
    history: list[dict[Name, float]] = Field(min_length=1)
    seconds: float = Field(ge=0)


class TaggerRecord(Described):
    system: Literal["tagger"]
    networks: Count
    lwlrap: dict[Literal["stage 1", "stage 2"], dict[Literal["test", "curated"], Tagging]]
    scenes: dict[Literal["train", "test"], OnScenes] | None = None
    history: list[dict[Name, float]] = Field(min_length=1)


class About(Described):
    """``system.json``: a saved system."""

    version: Literal[3]
    parameters: SceneParameters
    labels: Names = Field(min_length=2, max_length=MOST_TAGS)
    n_tags: int = Field(ge=0, le=MOST_TAGS)
    sizes: dict[Name, Annotated[int, Field(ge=0, le=256)]]
    samples: int = Field(ge=48_000, le=LONGEST)
    test_samples: int = Field(ge=1, le=LONGEST)
    macs: int = Field(ge=0)
    tags: Tags
    start_from: StartFrom | None = None
    back_end: BackEnd
    tag_scale: Scale
    test: Figures
    files: dict[Name, Name]
    seal: Name

    @model_validator(mode="after")
    def fits(self) -> "About":
        if self.n_tags not in (0, len(self.tags.names)) or self.test_samples > self.samples:
            raise ValueError("its sizes contradict each other")
        return self


Size = Annotated[int, Field(ge=1, le=2**16)]
Sizes = Annotated[list[Annotated[int, Field(ge=1, le=4096)]], Field(min_length=1, max_length=16)]


class TaggerSizes(BaseModel, extra="allow"):
    bands: Size
    n_fft: Size
    hop: Size
    widths: Sizes
    depths: Sizes


class TaggerAbout(BaseModel):
    """``tagger.json``: a saved tagger."""

    tags: Names = Field(min_length=1, max_length=MOST_TAGS)
    sizes: TaggerSizes
    folds: list[Annotated[int, Field(ge=-1, le=1000)]] = Field(min_length=1, max_length=100)
    used: Annotated[int, Field(ge=1, le=100)] | None = None


def read_json(path: Path) -> object:
    """The content of a JSON file. Raises ValueError, without the file's name."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON ({error})") from None


def validated(found: object, model: type[BaseModel]) -> dict[str, Any]:
    """``found``, if it fits the model. Raises ValueError, saying where it does not."""
    try:
        model.model_validate(found)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"])) or "its content"
        raise ValueError(f"{place}: {first['msg']}") from None
    return found

"""Where clips come from: ``mini`` and ``esc50`` are composed on demand, ``tau2019`` is read from ``ASC_DATA``."""

from ..artefacts import data_root, made_once
from . import esc50, fsdkaggle2019, mini, soundscapes, tau2019
from .fsdkaggle2019 import TagCorpus
from .tau2019 import CorpusError, SceneCorpus

__all__ = ["DATA_SETS", "CorpusError", "SceneCorpus", "TagCorpus", "open_scenes", "open_tags"]

DATA_SETS = ("mini", "esc50", "tau2019")


def _official(name: str, title: str, licence: str):
    root = data_root() / name
    if not root.is_dir():
        raise CorpusError(f"no {title} in {root}: download it from {licence}, and unpack its archives there")
    return root


def open_scenes(data: str) -> SceneCorpus:
    """The scene corpus ``data``; a composed one is written under ``ASC_DATA`` first, once.

    Raises CorpusError or FileNotFoundError that says where to get what is missing and under which licence.
    """
    if data == "tau2019":
        source = "https://doi.org/10.5281/zenodo.2589280 (its own EULA: no commercial use)"
        return tau2019.read(data, _official(data, "TAU Urban Acoustic Scenes 2019", source))
    module, sounds = _composed(data)
    path = data_root() / "made" / f"{module.RECIPE.key(sounds)}-scenes"
    made_once(path, lambda folder: soundscapes.write_scenes(module.RECIPE, sounds, folder))
    return tau2019.read(data, path)


def open_tags(data: str) -> TagCorpus:
    """The tag corpus that goes with ``data``: FSDKaggle2019 for ``tau2019``, the same sounds' for a composed one."""
    if data == "tau2019":
        source = "https://doi.org/10.5281/zenodo.3612637 (Creative Commons, clip by clip)"
        return fsdkaggle2019.read("fsdkaggle2019", _official("fsdkaggle2019", "FSDKaggle2019", source))
    module, sounds = _composed(data)
    make = esc50.TagClip(sounds) if module is esc50 else mini.tag_clip
    path = data_root() / "made" / f"{sounds.name}-tags{module.TAGS_VERSION}"
    made_once(path, lambda folder: soundscapes.write_tag_clips(module.tag_rows(sounds), make, folder))
    return fsdkaggle2019.read(data, path)


def _composed(data: str):
    if data == "mini":
        return mini, mini.SynthesisedSounds()
    if data == "esc50":
        return esc50, esc50.RecordedSounds(esc50.folder())
    raise ValueError(f"unknown data set '{data}': choose one of {', '.join(DATA_SETS)}")

"""Where clips come from: ``mini`` and ``esc50`` are composed on demand, ``tau2019`` and one's own folders are read."""

from pathlib import Path

import pandas as pd

from ..artefacts import data_root, made_once
from . import esc50, fsdkaggle2019, mini, own, soundscapes, tau2019
from .checks import CorpusError, Finding
from .fsdkaggle2019 import TagCorpus
from .tau2019 import SceneCorpus

COMPOSED = ("mini", "esc50")
DATA_SETS = (*COMPOSED, "tau2019")
OFFICIAL = {
    "tau2019": "TAU Urban Acoustic Scenes 2019, https://doi.org/10.5281/zenodo.2589280 (own EULA: no commercial use)",
    "fsdkaggle2019": "FSDKaggle2019, https://doi.org/10.5281/zenodo.3612637 (Creative Commons, clip by clip)",
    "esc50": "ESC-50, https://github.com/karolpiczak/ESC-50 (CC BY-NC 3.0: no commercial use)",
}


def licence(name: str) -> str:
    """Title, address and licence of an official corpus. Raises CorpusError for any other name."""
    if name not in OFFICIAL:
        raise CorpusError(f"'{name}' cannot be fetched: choose one of {', '.join(OFFICIAL)}")
    return OFFICIAL[name]


def _official(name: str) -> Path:
    root = data_root() / name
    if not root.is_dir():
        where = f"{root} is not there: `asc data fetch {name}` gets it, or unpack its archives there by hand"
        raise CorpusError(f"{where}. {OFFICIAL[name]}")
    return root


def open_scenes(data: str) -> SceneCorpus:
    """The scene corpus ``data``, a name or a folder of one's own; a composed one is written under ``ASC_DATA`` first.

    Raises CorpusError or FileNotFoundError that says where to get what is missing and under which licence.
    """
    if data == "tau2019":
        return tau2019.read(data, _official("tau2019"))
    if data not in DATA_SETS:
        return own.read(_own(data))
    module, sounds = _composed(data)
    path = data_root() / "made" / f"{module.RECIPE.key(sounds)}-scenes"
    made_once(path, lambda folder: soundscapes.write_scenes(module.RECIPE, sounds, folder))
    return tau2019.read(data, path)


def name_of(data: str) -> str:
    """Name of a data set in files and folders: its own, or that of the folder which ``data`` is the path of."""
    return data if data in DATA_SETS else own.name(Path(data))


def check(data: str) -> tuple[pd.DataFrame, list[Finding]]:
    """Rows of each table of a data set beside the official number, and everything that is wrong with its files.

    ``data``: tau2019, fsdkaggle2019, a composed one (composed first, with its tag clips), or a folder of one's own.
    """
    if data == "tau2019":
        return _checked([(tau2019, _official("tau2019"), (480_000,))], official=True)
    if data == "fsdkaggle2019":
        return _checked([(fsdkaggle2019, _official("fsdkaggle2019"), ())], official=True)
    if data not in DATA_SETS:
        folder = _own(data)
        clips, _ = own.table(folder)
        counts = pd.DataFrame([{"table": own.table_file(folder), "rows": 0 if clips is None else len(clips)}])
        return counts, own.check(folder, 48_000, 2)
    module, _ = _composed(data)
    samples = int(48_000 * module.RECIPE.seconds)
    return _checked(
        [(tau2019, open_scenes(data).root, (samples,)), (fsdkaggle2019, open_tags(data).root, ())], official=False
    )


def _checked(parts: list[tuple], official: bool) -> tuple[pd.DataFrame, list[Finding]]:
    rows, findings = [], []
    for reader, root, samples in parts:
        for file, table in reader.tables(root)[0].items():
            rows.append({"table": f"{root.name}/{file}", "rows": len(table)})
            if official and (wanted := reader.OFFICIAL.get(file)):
                rows[-1]["official"] = wanted
                if len(table) != wanted:
                    findings.append(Finding(str(root / file), f"has {len(table)} rows, officially {wanted}"))
        findings += [found._replace(file=str(root / found.file)) for found in reader.check(root, *samples)]
    return pd.DataFrame(rows).astype({"official": "Int64"} if official else {}), findings


def _own(data: str) -> Path:
    folder = Path(data)
    if not folder.is_dir():
        raise ValueError(f"unknown data set '{data}': choose one of {', '.join(DATA_SETS)}, or name a folder")
    return folder.resolve()


def open_tags(data: str) -> TagCorpus:
    """The tag corpus that goes with ``data``: the same sounds' for a composed one, FSDKaggle2019 for all others."""
    if data not in COMPOSED:
        return fsdkaggle2019.read("fsdkaggle2019", _official("fsdkaggle2019"))
    module, sounds = _composed(data)
    make = esc50.TagClip(sounds) if module is esc50 else mini.tag_clip
    path = data_root() / "made" / f"{sounds.name}-tags{module.TAGS_VERSION}"
    made_once(path, lambda folder: soundscapes.write_tag_clips(module.tag_rows(sounds), make, folder))
    return fsdkaggle2019.read(data, path)


def _composed(data: str):
    return (mini, mini.SynthesisedSounds()) if data == "mini" else (esc50, esc50.RecordedSounds(esc50.folder()))

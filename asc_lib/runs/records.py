"""The record of a run: parameters, data, results. All tables are drawn from records."""

import glob
import inspect
import json
import platform
import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from .. import back_ends, corpora, recipes
from ..corpora.store import Store
from ..files import (
    DAMAGED,
    cores,
    data_root,
    fingerprint,
    first_line,
    write_text,
    written_whole,
)
from ..fine_tuning import origin
from ..front_ends import FRONT_ENDS
from ..fusion import FUSIONS
from ..scene_net import SceneNet, multiply_adds, n_parameters
from ..scenes import PAPERS, BackEnd, SceneData, accuracies, test_sets
from ..schemas import SceneRecord, TaggerRecord, read_json, validated
from ..settings import Settings
from ..stats import Places, accuracy
from ..tags.tag_data import SUPERVISION
from ..tags.tagger_training import TrainedTagger
from ..tags.windows import TagVectors

SCENE_COLUMNS = ["filename", "location", "city", "beds", "split", "truth", "predicted", "softmax"]
TAG_COLUMNS = ["fname", "recording", "labels", "lrap", "lrap_stage_1", "top"]
VERSION = 3  # raised when a change of the code changes what a run gives


def run_name(settings: Settings, *fingerprints: str) -> str:
    """Readable name of a run, with a hash of its parameters (but the device), data and recipe."""
    parameters = settings.parameters()
    parameters.pop("device")
    parameters.pop("recipe", None)  # a file's name; what it holds counts
    recipe = settings.recipe if settings.fusion else settings.tagger_sizes
    if settings.fusion and recipe.start_from:
        recipe = replace(recipe, start_from=origin(recipe.start_from)["fingerprint"])
    described = [recipes.described(recipe)]
    if settings.fusion:
        described += [
            Path(inspect.getfile(cls)).read_text(encoding="utf-8")  # of a plug-in
            for cls in (FRONT_ENDS[settings.front_end], FUSIONS[settings.fusion].build)
            if not cls.__module__.startswith("asc_lib.")
        ]
    words = [
        settings.data_name[:40],
        settings.fusion or "tagger",
        *(
            re.sub(r"\W+", "_", Path(value).stem)[:40]
            for value, own in [(settings.tags, "tagger"), (settings.supervision, SUPERVISION[-1])]
            if value not in (None, own)
        ),
        *(f"{name[0]}{value}" for name, value in settings.sizes().items()),
        f"seed{settings.seed}",
        fingerprint(parameters, fingerprints, described, VERSION),
    ]
    return "-".join(words)


def scene_run(settings: Settings, waveforms: Store, vectors: TagVectors | None) -> str:
    return run_name(settings, waveforms.fingerprint, vectors.fingerprint if vectors else "")


def tagger_run(settings: Settings, corpus: corpora.TagCorpus) -> str:
    return run_name(settings, corpus.fingerprint)


def checkpoint(run: str) -> Path:
    """Where an unfinished run keeps its state."""
    return data_root() / "made" / "checkpoints" / f"{run}.safetensors"


def environment(device: str) -> dict[str, str | int]:
    """Versions and machine behind a record's figures."""
    return {
        "python": platform.python_version(),
        **{k: version(k) for k in ("torch", "torchaudio", "scikit-learn", "numpy", "scipy")},
        "processor": platform.machine(),
        "cores": cores(),
        "accelerator": torch.cuda.get_device_name(device) if device.startswith("cuda") else "",
    }


def summary(evaluated: pd.DataFrame, history: pd.DataFrame) -> dict[str, dict]:
    """Figures on both test sets.

    ``accuracy``: last epoch, back-end fixed beforehand, nothing chosen on test clips; ``interval``:
    95 %, over locations; ``balanced_accuracy``: the mean over scenes.
    ``accuracy_paper_protocol``: the best of the evaluated epochs and both kernels, chosen on these
    clips.
    """
    found = {}
    epochs = pd.concat([history, pd.DataFrame([accuracies(evaluated)])])
    for name, part in test_sets(evaluated).items():
        correct = (part["truth"] == part["predicted"]).to_numpy()
        choices = epochs[[f"{name}_{kernel}" for kernel in back_ends.KERNELS]]
        found[name] = {
            "clips": len(part),
            "locations": part["location"].nunique(),
            "accuracy": float(correct.mean()),
            "balanced_accuracy": float(
                pd.Series(correct).groupby(list(part["truth"])).mean().mean()
            ),
            "interval": Places(part["location"], beds=part["beds"]).interval(correct),
            "accuracy_by_kernel": {
                name: accuracy(part["truth"], part[name]) for name in back_ends.KERNELS
            },
            "accuracy_logistic": accuracy(part["truth"], part["logistic"]),
            "accuracy_softmax": accuracy(part["truth"], part["softmax"]),
            "accuracy_paper_protocol": float(choices.max().max()),
            "choices": int(choices.notna().sum().sum()),
        }
    return found


def figures(record: dict) -> pd.DataFrame:
    """A record's accuracies in % as text, one column per test set; one alone if they are equal."""
    columns = {}
    sets = {"official list": "test", "all clips outside training": "test_all"}
    if record["test"]["clips"] == record["test_all"]["clips"]:
        sets = {"test clips": "test"}
    back_end = back_ends.IN_WORDS[record["back_end"]["name"]]
    for title, name in sets.items():
        found = record[name]
        low, high = (100 * bound for bound in found["interval"])
        columns[title] = {
            "clips (locations)": f"{found['clips']} ({found['locations']})",
            f"accuracy %, {back_end} [95 %]": (
                f"{100 * found['accuracy']:.1f} [{low:.1f}, {high:.1f}]"
            ),
            "balanced accuracy": f"{100 * found['balanced_accuracy']:.1f}",
            "logistic regression on codes": f"{100 * found['accuracy_logistic']:.1f}",
            "softmax of the network": f"{100 * found['accuracy_softmax']:.1f}",
            f"best on test, of {found['choices']} choices": (
                f"{100 * found['accuracy_paper_protocol']:.1f}"
            ),
        }
    return pd.DataFrame(columns)


def write_scene_record(
    settings: Settings,
    scenes: SceneData,
    net: SceneNet,
    history: pd.DataFrame,
    evaluated: pd.DataFrame,
    back_end: BackEnd = PAPERS,
) -> dict:
    """Write predictions, then the record, under ``ASC_RESULTS``; drop the checkpoint; return it."""
    vectors = scenes.vectors
    corpus = scenes.corpus
    columns = evaluated[[*SCENE_COLUMNS, *back_ends.KERNELS, "logistic"]]
    record = {
        "run": scene_run(settings, scenes.waveforms, vectors),
        "table": FUSIONS[settings.fusion].table,
        "system": settings.fusion,
        "parameters": settings.parameters(),
        "data": {
            "name": corpus.name,
            "clips": corpus.clips["split"].value_counts().to_dict(),
            "fingerprint": scenes.waveforms.fingerprint,
        },
        "tags": {
            "source": vectors.source,
            "fingerprint": vectors.fingerprint,
            "lwlrap": vectors.lwlrap,
        }
        if vectors
        else None,
        "tag_scale": net.scale,
        "labels": corpus.labels,
        "back_end": back_end._asdict(),
        "n_parameters": n_parameters(net),
        "macs": multiply_adds(net, scenes.whole(np.array([0]))),
        **summary(evaluated, history),
    }
    if settings.base != settings.preset.scene:
        record["recipe"] = settings.changed()
    if net.taken_over:
        start = origin(settings.recipe.start_from)
        record["start_from"] = start | {"taken_over": net.taken_over}
    _write(
        settings,
        columns,
        record,
        history,
    )
    state = checkpoint(record["run"])
    for path in state.parent.glob(f"{glob.escape(state.stem)}.*{state.suffix}"):  # of stages
        path.unlink(missing_ok=True)
    state.unlink(missing_ok=True)
    return record


def write_tagger_record(
    settings: Settings,
    corpus: corpora.TagCorpus,
    trained: TrainedTagger,
    scenes: dict[str, dict] | None = None,
) -> dict:
    """Write each test clip's precision, then the record of notebook 01; return it.

    In it ``test`` are the test clips, and ``curated`` the curated ones, each tagged by the network
    that left it out, after each stage; ``scenes``: of ``tagger_training.on_scenes``.
    """
    record = {
        "run": tagger_run(settings, corpus),
        "table": None,
        "system": "tagger",
        "parameters": settings.parameters(),
        "data": {
            "name": corpus.name,
            "clips": corpus.clips["set"].value_counts().to_dict(),
            "fingerprint": corpus.fingerprint,
        },
        "n_parameters": n_parameters(next(iter(trained.tagger.nets.values()))),
        "networks": len(trained.tagger.nets),
        "lwlrap": trained.lwlrap,
        "scenes": scenes,
    }
    _write(
        settings,
        trained.evaluated.query("set == 'test'").drop(columns="set"),
        record,
        trained.history,
    )
    return record


def _write(settings: Settings, columns: pd.DataFrame, record: dict, history: pd.DataFrame) -> None:
    folder = corpora.results(settings.data, claim=True) / "records"
    arrays = {
        name: pd.to_numeric(column, downcast="unsigned").to_numpy()
        if pd.api.types.is_integer_dtype(column)
        else column.to_numpy(None if pd.api.types.is_numeric_dtype(column) else str)
        for name, column in columns.items()
    }
    with written_whole(folder / f"{record['run']}.npz") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)
    record |= {
        "history": [
            {name: value for name, value in row.items() if not pd.isna(value)}
            for row in history.drop(columns="seconds").to_dict("records")
        ],
        "seconds": round(float(history["seconds"].sum()), 1),
        "environment": environment(record["parameters"]["device"]),
    }
    write_text(folder / f"{record['run']}.json", json.dumps(record, indent=1))


def read_records(data: str, root: Path | None = None) -> list[dict]:
    """All records of a data set under ``ASC_RESULTS`` (or ``root``), by name.

    Raises ValueError for a damaged one.
    """
    found = []
    for path in sorted((corpora.results(data, root) / "records").glob("[!.]*.json")):
        try:
            record = read_json(path)
            tagger = isinstance(record, dict) and record.get("system") == "tagger"
            found.append(validated(record, TaggerRecord if tagger else SceneRecord))
            own = (record["run"], record["data"]["name"])
            if own != (path.stem, corpora.find(data).name):
                raise ValueError(f"it is that of {own[0]}, on {own[1]}")
        except ValueError as error:
            raise ValueError(
                f"{path} is not a complete record ({error}): remove it, and run its cell again"
            ) from None
    return found


def read_predictions(run: str, data: str, root: Path | None = None) -> pd.DataFrame:
    """The evaluated clips of a run: ``SCENE_COLUMNS``, of a tagger's ``TAG_COLUMNS``.

    One row per clip, by file name; truth, predicted and softmax are indices of scenes, beds the
    names of background recordings, joined by spaces, labels their number.
    Raises ValueError, naming the file, if it is missing or damaged.
    """
    path = corpora.results(data, root) / "records" / f"{run}.npz"
    try:
        with np.load(path, allow_pickle=False) as columns:
            found = pd.DataFrame({name: columns[name] for name in columns.files})
        kinds = TAG_COLUMNS if "fname" in found else SCENE_COLUMNS
        odd = [name for name in kinds if name not in found or found[name].dtype.kind not in "Oiufb"]
        if odd or found[next(iter(kinds))].duplicated().any():
            raise ValueError(f"the columns {odd} or file names are not as they were written")
        return found.sort_values(kinds[0], ignore_index=True)
    except DAMAGED as error:
        raise ValueError(
            f"{path} cannot be read ({first_line(error)}): "
            f"remove the record {path.stem}.json, and run its cell again"
        ) from None

"""The record of a run: what was asked, what was read, what came out. All tables are drawn from records."""

import json
import os
import platform
import re
import zipfile
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from . import svm
from .artefacts import data_root, fingerprint, first_line, results_root, write_text, written_whole
from .corpora import SceneCorpus, TagCorpus, name_of
from .experiment import Settings
from .metrics import accuracy, interval
from .recipe import looks, test_sets
from .scene_net import FRONT_ENDS, SceneNet, multiply_adds, n_parameters
from .store import Store
from .tag_vectors import TagVectors, TrainedTagger
from .tagger import SUPERVISION

VERSION = 2  # raised when a change of the code changes what a run gives
TABLES = {"baseline": 2, "codecat": 2, "before_code": 2, "attention": 3, "combined_separate": 4, "combined_shared": 5}


def run_name(settings: Settings, *fingerprints: str) -> str:
    """Readable name of a run and a hash of its parameters (but the device), of what it reads and of the recipe."""
    parameters = settings.parameters()
    parameters.pop("device")
    sizes = [f"{name[0]}{value}" for name, value in settings.sizes().items()]
    words = [settings.data_name, settings.fusion or "tagger", *sizes, f"seed{settings.seed}"]
    for value, usual in ((settings.tags, "tagger"), (settings.supervision, SUPERVISION[-1])):
        if value not in (None, usual):
            words.insert(2, re.sub(r"\W+", "_", Path(value).stem))
    preset = settings.preset
    recipe = [preset.scene, FRONT_ENDS[settings.front_end]] if settings.front_end else [preset.tagger]
    described = [asdict(part) for part in recipe]
    return "-".join([*words, fingerprint(parameters, fingerprints, described, VERSION)])


def scene_run(settings: Settings, waveforms: Store, tags: TagVectors | None) -> str:
    """Name of a scene notebook's run."""
    return run_name(settings, waveforms.fingerprint, tags.fingerprint if tags else "")


def checkpoint(run: str) -> Path:
    """Where an unfinished run keeps its state."""
    return data_root() / "made" / "checkpoints" / f"{run}.safetensors"


def environment(device: str) -> dict[str, str | int]:
    """Versions and machine that a record's figures come from."""
    packages = ("torch", "torchaudio", "scikit-learn", "numpy", "scipy")
    accelerator = torch.cuda.get_device_name(device) if device.startswith("cuda") else ""
    machine = {"processor": platform.machine(), "cores": os.cpu_count() or 0, "accelerator": accelerator}
    return {"python": platform.python_version()} | {name: version(name) for name in packages} | machine


def summary(judged: pd.DataFrame, history: pd.DataFrame) -> dict[str, dict]:
    """Figures on both test sets.

    ``accuracy``: last epoch, kernel fixed beforehand, nothing chosen on test clips; ``interval``: 95 %, bootstrap over
    locations. ``accuracy_paper_protocol``: the best of the epochs looked at and both kernels, chosen on these clips.
    """
    found, seen = {}, pd.concat([history, pd.DataFrame([looks(judged)])])
    for name, part in test_sets(judged).items():
        correct, where = (part["truth"] == part["svm"]).to_numpy(), part["location"].to_numpy()
        choices = seen[[f"{name}_{kernel}" for kernel in svm.KERNELS]]
        found[name] = {
            "clips": len(part),
            "locations": part["location"].nunique(),
            "accuracy": float(correct.mean()),
            "interval": interval(lambda rows, c=correct: c[rows].mean(), where),
            "accuracy_by_kernel": {kernel: accuracy(part["truth"], part[kernel]) for kernel in svm.KERNELS},
            "accuracy_softmax": accuracy(part["truth"], part["softmax"]),
            "accuracy_paper_protocol": float(choices.max().max()),
            "choices": int(choices.notna().sum().sum()),
            "kernel": svm.KERNEL,
        }
    return found


def figures(judged: pd.DataFrame, history: pd.DataFrame) -> pd.DataFrame:
    """``summary`` as text, a column a test set: accuracies in %."""
    columns = {}
    for name, found in summary(judged, history).items():
        low, high = found["interval"]
        other = {kernel: value for kernel, value in found["accuracy_by_kernel"].items() if kernel != found["kernel"]}
        columns[name] = {
            "clips (locations)": f"{found['clips']} ({found['locations']})",
            f"accuracy %, SVM with {found['kernel']} kernel [95 %]": (
                f"{100 * found['accuracy']:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
            ),
            **{f"with {kernel} kernel": f"{100 * value:.1f}" for kernel, value in other.items()},
            "softmax of the network": f"{100 * found['accuracy_softmax']:.1f}",
            f"best on test, of {found['choices']} choices": f"{100 * found['accuracy_paper_protocol']:.1f}",
        }
    return pd.DataFrame(columns).rename(columns={"test": "official list", "test_all": "all clips outside training"})


def write_scene_record(
    settings: Settings,
    corpus: SceneCorpus,
    waveforms: Store,
    tags: TagVectors | None,
    *,
    judged: pd.DataFrame,
    history: pd.DataFrame,
    net: SceneNet,
) -> Path:
    """Write predictions, then the record, under ``ASC_RESULTS``; drop the checkpoint; return the record's path."""
    run = scene_run(settings, waveforms, tags)
    folder = results_root() / settings.data_name / "records"
    predicted = {name: judged[name].astype("uint8") for name in ("truth", "svm", "softmax")}
    _write_columns(folder / f"{run}.npz", judged[["filename", "location", "city", "split"]].assign(**predicted))
    counts = corpus.clips["split"].value_counts().to_dict()
    record = {
        "run": run,
        "table": TABLES.get(settings.fusion),
        "system": settings.fusion,
        "parameters": settings.parameters(),
        "data": {"name": corpus.name, "clips": counts, "fingerprint": waveforms.fingerprint},
        "tags": tags and {"source": tags.source, "fingerprint": tags.fingerprint, "lwlrap": tags.lwlrap},
        "labels": corpus.labels,
        "n_parameters": n_parameters(net),
        "macs": multiply_adds(net, min(settings.preset.scene.test_samples, waveforms.samples - 1)),
        **summary(judged, history),
    }
    path = _write(folder / f"{run}.json", record, history)
    checkpoint(run).unlink(missing_ok=True)
    return path


def tagger_run(settings: Settings, corpus: TagCorpus) -> str:
    """Name of a run of the tagger's notebook."""
    return run_name(settings, corpus.root.name)


def write_tagger_record(settings: Settings, corpus: TagCorpus, trained: TrainedTagger) -> Path:
    """Write each test clip's precision, then the record of notebook 01 with lwlrap after each stage; return its path.

    In it ``test`` are the test clips, and ``curated`` the curated ones, each tagged by the network that left it out.
    """
    run = tagger_run(settings, corpus)
    folder = results_root() / settings.data_name / "records"
    test = trained.judged[trained.judged["set"] == "test"].drop(columns="set")
    _write_columns(folder / f"{run}.npz", test)
    counts = corpus.clips["set"].value_counts().to_dict()
    record = {
        "run": run,
        "table": None,
        "system": "tagger",
        "parameters": settings.parameters(),
        "data": {"name": corpus.name, "clips": counts, "fingerprint": corpus.root.name},
        "n_parameters": n_parameters(next(iter(trained.tagger.nets.values()))),
        "networks": len(trained.tagger.nets),
        "lwlrap": trained.lwlrap,
    }
    return _write(folder / f"{run}.json", record, trained.history)


def _write_columns(path: Path, table: pd.DataFrame) -> None:
    numbers = {name: column.to_numpy() for name, column in table.items() if pd.api.types.is_numeric_dtype(column)}
    texts = {name: table[name].to_numpy(str) for name in table if name not in numbers}
    with written_whole(path) as file:
        np.savez_compressed(file, allow_pickle=False, **texts, **numbers)


def _write(path: Path, record: dict, history: pd.DataFrame) -> Path:
    rows = history.drop(columns="seconds").to_dict("records")
    record["history"] = [{k: v for k, v in row.items() if not pd.isna(v)} for row in rows]
    record["seconds"] = round(float(history["seconds"].sum()), 1)
    record["environment"] = environment(record["parameters"]["device"])
    write_text(path, json.dumps(record, indent=1))
    return path


def read_records(data: str, root: Path | None = None) -> list[dict]:
    """All records of a data set under ``ASC_RESULTS`` (or ``root``), by name. Raises ValueError for a damaged one."""
    folder, found = (root or results_root()) / name_of(data) / "records", []
    for path in sorted(folder.glob("[!.]*.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
        except ValueError:
            record = None
        if not isinstance(record, dict) or not {"run", "system", "parameters"} <= record.keys():
            raise ValueError(f"{path} is not a whole record: remove it, and run its cell again")
        found.append(record)
    return found


def read_predictions(run: str, data: str, root: Path | None = None) -> pd.DataFrame:
    """The judged clips of a run: filename, location, city, split, truth, svm and softmax (indices of scenes).

    Of a tagger's run: fname, recording, labels (their number), lrap, lrap_stage_1 and top. Raises ValueError, naming
    the file, where it is missing or damaged.
    """
    path = (root or results_root()) / name_of(data) / "records" / f"{run}.npz"
    try:
        with np.load(path, allow_pickle=False) as columns:
            return pd.DataFrame({name: columns[name] for name in columns.files})
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        remedy = f"remove the record {path.stem}.json, and run its cell again"
        raise ValueError(f"{path} cannot be read ({first_line(error)}): {remedy}") from None

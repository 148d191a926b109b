"""A trained system as one folder: the network, its back-end and its tagger, saved, loaded and asked about recordings.

The folder holds safetensors, skops and JSON only, with a digest of every file: nothing in it is unpickled, and what
does not agree with its digest is refused.
"""

import hashlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from sklearn.svm import SVC

from . import audio, hub_tagger, store, tables
from .artefacts import REPOSITORY, data_root, fingerprint, first_line, results_root, write_text, written_whole
from .corpora import name_of
from .experiment import HUB, Settings, default_device
from .recipe import SceneData, at_a_time, autocast
from .scene_net import SceneNet
from .tag_vectors import TagVectors, default_tagger
from .tagger import Tagger

VERSION = 1  # of the folder's layout
ABOUT, NETWORK, BACK_END, CARD, TAGGER = "system.json", "network.safetensors", "svm.skops", "README.md", "tagger"


class UnfitSystem(ValueError):
    """A folder that is not a system, or a system that cannot do what is asked; the message names it and says why."""


@dataclass(frozen=True)
class System:
    """A trained network with its back-end and its tagger."""

    net: SceneNet
    back_end: SVC
    tagger: Tagger | hub_tagger.HubTagger | None  # None: the network reads no tags, or others than a tagger's
    about: dict  # of ``system.json``
    device: str = "cpu"

    @property
    def labels(self) -> list[str]:
        """Scenes, in the order of the probabilities."""
        return self.about["labels"]

    @property
    def tags(self) -> list[str]:
        """Tags, in the order of the tag vector; none where the network reads none."""
        return self.about["tags"]["names"]

    @property
    def heads(self) -> int:
        """Heads of the attention map."""
        return self.about["sizes"].get("heads", 1)

    @property
    def samples(self) -> int:
        """Length of the clips that it was trained for, at 48 kHz."""
        return self.about["samples"]

    def to(self, device: str) -> "System":
        """The same system on a device."""
        tagger = self.tagger and self.tagger.to(device)
        return System(self.net.to(device), self.back_end, tagger, self.about, device)

    def inputs(self, clips: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        """What the network reads of int16 clips [B, 2, samples] at 48 kHz: waveforms [B, 2, T], tag vectors [B, c].

        Raises UnfitSystem where its tag vectors were not a tagger's.
        """
        raw, source = torch.from_numpy(clips).to(self.device), self.about["tags"]["source"]
        if source and not self.tagger:
            raise UnfitSystem(
                f"{self.about['run']} was trained with the tag vectors '{source}', which recordings of your own do not"
                " have: choose a system that was trained with tags = 'tagger'"
            )
        tags = self.tagger.tag_waveforms(raw) if self.tagger else torch.zeros(len(clips), 0)
        waveform = audio.pre_emphasis(raw)[..., : self.about["test_samples"]]
        return waveform, tags.to(self.device)

    def autocast(self) -> torch.autocast:
        """Within it, the network computes in the precision that it was trained in."""
        return autocast(self.device, self.about["parameters"]["precision"])

    @torch.no_grad()
    def classify(self, clips: np.ndarray) -> "Classified":
        """Probabilities, back-end's scenes and tag vectors of int16 clips [B, 2, samples] at 48 kHz."""
        waveform, tags = self.inputs(clips)
        with self.autocast():
            out = self.net.eval()(waveform, tags)
        probabilities = out.logits.float().softmax(1).cpu().numpy()
        scenes = self.back_end.predict(out.code.float().cpu().numpy())
        return Classified(probabilities, scenes, tags.cpu().numpy())

    def predict(self, path: Path) -> "Prediction":
        """Classify a recording of any rate, number of channels and length, in windows as long as the training clips.

        Raises ``audio.AudioError``, naming the file, where it cannot serve.
        """
        recording = audio.Recording.open(path, store.RATE, self.samples)
        parts, sounds = [], False
        for clips in batched(recording.windows(), at_a_time(self.device)):
            parts.append(self.classify(np.stack(clips)))
            sounds = sounds or np.any(clips)
        notes = recording.conversions + ([] if sounds else ["is silent: every sample is 0"])
        return Prediction(self, recording, Classified(*map(np.concatenate, zip(*parts))), notes)

    def predict_each(self, paths: Iterable[Path]) -> tuple[dict[Path, "Prediction"], dict[Path, str]]:
        """``predict`` for several recordings, and why the others cannot serve."""
        found, unfit = {}, {}
        for path in paths:
            try:
                found[path] = self.predict(path)
            except (audio.AudioError, OSError) as error:
                unfit[path] = " ".join(str(error).split())
        return found, unfit


class Classified(NamedTuple):
    """What a system says of clips."""

    probabilities: np.ndarray  # [B, scenes], the network's output layer
    scenes: np.ndarray  # [B], the back-end's
    tags: np.ndarray  # [B, c]


@dataclass(frozen=True)
class Prediction:
    """What a system says of a recording, window by window."""

    system: System
    recording: audio.Recording
    classified: Classified  # of its windows
    notes: list[str]  # what was converted, and what is doubtful

    @property
    def file(self) -> str:
        """Its path."""
        return str(self.recording.path)

    @property
    def starts(self) -> list[float]:
        """Start of each window (s)."""
        return [start / self.recording.rate for start in self.recording.starts]

    def clip(self, number: int) -> np.ndarray:
        """One window as int16 [2, samples] at 48 kHz, read again."""
        return self.recording.window(number)

    @cached_property
    def probabilities(self) -> pd.Series:
        """Probability of each scene: the mean over windows."""
        return pd.Series(self.classified.probabilities.mean(0), self.system.labels)

    @cached_property
    def scene(self) -> str:
        """The scene that the back-end names in most windows; of equals, the more probable one."""
        votes = np.bincount(self.classified.scenes, minlength=len(self.system.labels))
        return self.system.labels[np.lexsort((self.probabilities, votes))[-1]]

    @cached_property
    def tags(self) -> pd.Series:
        """Probability of each tag, the mean over windows, most probable first."""
        return pd.Series(self.classified.tags.mean(0), self.system.tags).sort_values(ascending=False)

    def windows(self) -> pd.DataFrame:
        """A row a window: start and end (s), the back-end's scene, and each scene's probability."""
        table = pd.DataFrame({"start": self.starts})
        table["end"] = (table["start"] + self.system.samples / store.RATE).clip(upper=self.recording.seconds)
        table["scene"] = np.asarray(self.system.labels)[self.classified.scenes]
        return table.join(pd.DataFrame(self.classified.probabilities, columns=self.system.labels))

    def described(self) -> dict:
        """The same as plain values, for JSON."""
        return {
            "file": self.file,
            "scene": self.scene,
            "probabilities": _rounded(self.probabilities),
            "tags": _rounded(self.tags.head(10)),
            "seconds": round(self.recording.seconds, 3),
            "windows": [_rounded(row) for row in self.windows().to_dict("records")],
            "notes": self.notes,
            "system": self.system.about["run"],
        }


def _rounded(values) -> dict:
    return {name: round(float(value), 6) if not isinstance(value, str) else value for name, value in values.items()}


def batched(items: Iterator[np.ndarray], size: int) -> Iterator[tuple[np.ndarray, ...]]:
    """``size`` of the items at a time."""
    while some := tuple(itertools.islice(items, size)):
        yield some


def save(settings: Settings, scenes: SceneData, vectors: TagVectors | None, net: SceneNet, record: Path) -> Path:
    """Save what a scene notebook trained, as a folder beside its record; return the folder.

    The back-end is fitted on the training clips' codes, as for the record. A tagger's files are linked, not copied,
    where the file system can.
    """
    import skops.io  # seconds that a process that only trains need not wait

    corpus = scenes.corpus
    told = json.loads(record.read_text(encoding="utf-8"))
    tagger = None
    if settings.tags == "tagger":
        tagger = data_root() / "made" / default_tagger(corpus.name)[2]
    about = {
        "version": VERSION,
        "n_tags": net.n_tags,
        "sizes": settings.sizes(),
        "samples": scenes.waveforms.samples,
        "test_samples": min(scenes.recipe.test_samples, scenes.waveforms.samples - 1),
        "tags": (told["tags"] or {"source": None}) | {"names": vectors.names if vectors else []},
        **{name: told[name] for name in ("run", "system", "parameters", "labels", "data", "n_parameters", "macs")},
        **{name: told[name] for name in ("test", "test_all", "environment")},
    }
    if settings.tags and settings.tags.startswith(HUB):
        about["tags"]["model"] = hub_tagger.load(settings.tags.removeprefix(HUB), "cpu").fingerprint
    path = results_root() / settings.data_name / "systems" / told["run"]
    with written_whole(path) as folder:
        folder.mkdir()
        weights = {name: value.cpu().contiguous() for name, value in net.state_dict().items()}
        safetensors.torch.save_file(weights, folder / NETWORK)
        skops.io.dump(scenes.back_end(net), folder / BACK_END)
        if tagger:
            shutil.copytree(tagger, folder / TAGGER, copy_function=_link)
        (folder / CARD).write_text(card(about), encoding="utf-8")
        files = {name: _digest(folder / name) for name in _files(folder)}
        write_text(folder / ABOUT, json.dumps(_sealed(about | {"files": files}), indent=1))
    return path


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()
    )


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "blake2b").hexdigest()[:32]


def _sealed(about: dict) -> dict:
    unsealed = {name: value for name, value in about.items() if name != "seal"}
    return unsealed | {"seal": fingerprint(unsealed)}


def card(about: dict) -> str:
    """The model card: what the system is, what it was trained on, how good it is, and what it is not for."""
    data, test, tags = about["data"]["name"], about["test"], about["tags"]
    low, high = (100 * bound for bound in test["interval"])
    composed = "" if data == "tau2019" else " Its scenes are not TAU's: no figure here is a result on TAU 2019."
    rows = {
        "system": about["system"] + "".join(f", {name} {value}" for name, value in about["sizes"].items()),
        "front-end": about["parameters"]["front_end"],
        "parameters": f"{about['n_parameters']:,} (the tagger's not counted)",
        "multiply-adds a clip": f"{about['macs']:,}",
        "reads": f"clips of {about['samples'] / store.RATE:g} s, 48 kHz, two channels",
        "tag vectors": f"{tags['source'] or 'none'} ({len(tags['names'])} tags)",
        "trained on": f"{data}, {about['data']['clips']['train']} clips, data {about['data']['fingerprint']}",
        "accuracy": f"{100 * test['accuracy']:.1f} % ({low:.1f} to {high:.1f}) on {test['clips']} test clips of"
        f" {test['locations']} locations (SVM; nothing chosen on them; 95 %, bootstrap over locations)",
        "scenes": ", ".join(about["labels"]),
    }
    table = tables.markdown(pd.DataFrame({"value": rows}).rename_axis(""))
    return f"# {about['run']}\n\n{table}\n\nSaved by `asc_lib` (Jung et al. 2020).{composed}\n"


def load(folder: Path | str, device: str = "auto") -> System:
    """Load a system that ``save`` wrote.

    Raises UnfitSystem, saying why, for a folder that is cut short, changed, of another version, or holds a file that
    ``save`` did not write.
    """
    import skops.io

    folder = Path(folder)
    about = _about(folder)
    device = default_device() if device == "auto" else device
    try:
        net = SceneNet(
            about["n_tags"], len(about["labels"]), about["parameters"]["front_end"], about["system"], **about["sizes"]
        )
        net.load_state_dict(safetensors.torch.load_file(folder / NETWORK))
        if unknown := skops.io.get_untrusted_types(file=folder / BACK_END):
            raise ValueError(f"{BACK_END} holds {', '.join(unknown)}")
        back_end, tagger = skops.io.load(folder / BACK_END), _tagger(folder, about)
    except Exception as error:  # of three libraries, each with its own kinds
        raise UnfitSystem(f"{folder} cannot be loaded: {first_line(error)}") from None
    return System(net.eval(), back_end, tagger, about).to(device)


def _about(folder: Path) -> dict:
    def refuse(why: str) -> None:
        raise UnfitSystem(f"{folder} is not a system that can be loaded: {why}")

    if not (folder / ABOUT).is_file():
        refuse(f"it has no {ABOUT} (notebooks 02 to 05 save one under {results_root()}, in systems/)")
    try:
        about = json.loads((folder / ABOUT).read_text(encoding="utf-8"))
        version, files = about["version"], about["files"]
    except (ValueError, KeyError, TypeError, RecursionError):
        refuse(f"{ABOUT} is cut short or damaged: save the system again")
    if version != VERSION:
        refuse(f"its layout has version {version}, this code reads {VERSION}: train it again, or use the code of then")
    if about != _sealed(about):
        refuse(f"{ABOUT} was changed after it was saved")
    there = set(_files(folder)) - {ABOUT}
    if missing := sorted(files.keys() - there):
        refuse(f"{', '.join(missing)} is missing")
    if extra := sorted(there - files.keys()):
        refuse(f"it holds {', '.join(extra)}, which was not saved with it")
    if changed := [name for name in files if _digest(folder / name) != files[name]]:
        refuse(f"{', '.join(changed)} was changed or cut short after it was saved")
    return about


def _tagger(folder: Path, about: dict) -> Tagger | hub_tagger.HubTagger | None:
    source = about["tags"]["source"]
    if (folder / TAGGER).is_dir():
        return Tagger.load(folder / TAGGER)
    if not (source or "").startswith(HUB):
        return None
    tagger = hub_tagger.load(source.removeprefix(HUB), "cpu")
    if tagger.fingerprint != about["tags"]["model"]:
        raise UnfitSystem(f"it was trained with another version of the model {source}")
    return tagger


def saved() -> list[Path]:
    """Folders of the systems under ``ASC_RESULTS``, newest first."""
    found = results_root().glob(f"*/systems/*/{ABOUT}")
    return [path.parent for path in sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)]


def default_system(data: str = "mini") -> Path:
    """Folder of the combined system (seed 0) of a data set; notebook 05 is executed first where it is not there."""
    from . import cells  # and with it papermill

    cell = cells.cell("combined_shared", cells.BEST, data=data)
    (name,) = cells.run_names([cell])
    path = results_root() / name_of(data) / "systems" / name
    if not path.exists():
        print(f"no combined system for '{data}' yet: training it first, as notebook 05 does", flush=True)
        output = results_root() / name_of(data) / "notebooks" / f"{name}.ipynb"
        output.parent.mkdir(parents=True, exist_ok=True)
        given = [word for key, value in cell.parameters.items() for word in ("-p", key, str(value))]
        command = [sys.executable, "-m", "papermill", "--no-progress-bar", str(cell.path), str(output), *given]
        done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
        if done.returncode:
            raise UnfitSystem(f"notebook 05 failed, see {output}: {(done.stderr.strip().splitlines() or ['?'])[-1]}")
    return path

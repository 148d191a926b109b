"""A trained system as one folder: network, back-end and tagger, saved, loaded, asked.

The folder holds safetensors, skops and JSON only, with a digest of every file: nothing in it is
unpickled, and what does not match its digest is refused.
"""

import hashlib
import json
import zipfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
import safetensors.torch
import torch
from sklearn.base import ClassifierMixin
from sklearn.pipeline import Pipeline
from sklearn.svm import SVC

from .. import back_ends, corpora, training
from ..corpora.audio import RATE, Recording, at_full_scale, doubtful
from ..files import (
    fingerprint,
    first_line,
    printable,
    progress,
    recovered,
    results_root,
    write_text,
    written_whole,
)
from ..fine_tuning import ABOUT, NETWORK
from ..front_ends import pre_emphasis
from ..fusion import AS_INPUT
from ..runs import readable, records
from ..scene_net import SceneNet, autocast, inference_batch, n_parameters
from ..scenes import SceneData
from ..schemas import About, read_json, validated
from ..settings import Settings
from ..tags.sources import saved_tagger
from ..tags.tag_tables import TagTable
from ..tags.tagger import Tagger
from ..tags.windows import WindowTagger, as_read
from .novelty import Known, chosen

VERSION = 3  # of the folder's layout
BACK_END = "back_end.skops"
KNOWN = "known.safetensors"
TAGGER = "tagger"
LARGEST = 2**29  # bytes of a back-end


class UnfitSystem(ValueError):
    """A folder that is not a system, or a system that cannot do what is asked, and why."""


@dataclass(frozen=True)
class System:
    """A trained network with its back-end and its tagger."""

    net: SceneNet
    back_end: ClassifierMixin | None  # None: the softmax
    tagger: WindowTagger | None  # None: its tags, if it reads any, were no tagger's
    about: dict  # of ``system.json``
    known: Known
    device: str = "cpu"
    table: TagTable | None = None  # tag vectors of recordings, in place of a tagger's

    @property
    def labels(self) -> list[str]:
        return self.about["labels"]

    @property
    def tags(self) -> list[str]:
        """Tags that the network reads; none where it reads none, or has learnt to predict them."""
        return self.about["tags"]["names"] if self.net.fusion.reads in AS_INPUT else []

    @property
    def heads(self) -> int:
        return self.about["sizes"].get("heads", 1)

    @property
    def samples(self) -> int:
        return self.about["samples"]  # of the clips that it was trained for, at 48 kHz

    @property
    def trained_on(self) -> str:
        """What kind of data it knows, in words."""
        data = self.about["data"]
        clips = f"{data['clips']['train']:,}"
        if corpora.by_name(data["name"]).composed:
            return f"trained on {clips} composed scenes ({data['name']}): not for real recordings"
        return f"trained on {clips} clips of {data['name']}"

    def with_table(self, path: Path | str) -> "System":
        """The system with a table of the tag vectors of recordings, as ``asc tags`` writes one.

        Raises UnfitSystem where the system has a tagger or reads no tags, and ParameterError for a
        table without its tags.
        """
        if self.tagger or not self.tags:
            why = "tags recordings itself" if self.tags else "reads no tags"
            raise UnfitSystem(f"{self.about['run']} {why}: it takes no table of tags")
        return replace(self, table=TagTable.read(path).of_tags(self.tags))

    def to(self, device: str) -> "System":
        return replace(
            self,
            net=self.net.to(device),
            tagger=self.tagger and self.tagger.to(device),
            device=device,
        )

    def inputs(self, clips: np.ndarray, tags: training.Batch | None = None) -> training.Batch:
        """What the network reads of int16 clips [B, 2, samples] at 48 kHz: waveform, tags, times.

        ``tags``: of a table; None: the tagger's. Raises UnfitSystem where there is neither.
        """
        raw = torch.from_numpy(clips).to(self.device)
        reads = self.net.fusion.reads
        if reads not in AS_INPUT:
            tags = {"tags": torch.zeros(len(clips), 0)}
        elif tags is None and not self.tagger:
            raise UnfitSystem(
                f"{self.about['run']} was trained with the tag vectors "
                f"'{self.about['tags']['source']}', which other recordings do not have: give "
                "theirs (`asc predict --tags TABLE`), or "
                "choose a system trained with tags = 'tagger'"
            )
        elif tags is None:
            kept = [self.tagger.tags.index(name) for name in self.tags]
            values = self.tagger.tag_windows(raw)[..., kept]
            times = self.tagger.times(clips.shape[-1])
            tags = as_read(values, times, reads, np.zeros(len(clips)), self.seconds)
        return {
            "waveform": pre_emphasis(raw)[..., : self.about["test_samples"]],
            **{name: value.to(self.device) for name, value in tags.items()},
        }

    @property
    def seconds(self) -> float:
        return self.about["test_samples"] / RATE  # of a clip that the network reads

    def from_table(self, recording: Recording, numbers: Sequence[int]) -> training.Batch | None:
        """Tags, and times, of these windows of a recording by the table; None without a table.

        Raises ParameterError for a recording that the table lacks.
        """
        if not self.table:
            return None
        starts = np.array(recording.starts)[list(numbers)] / recording.rate
        return self.table.inputs(recording.path, self.net.fusion.reads, starts, self.seconds)

    def autocast(self) -> torch.autocast:
        """Context in which the network computes in the precision that it was trained in."""
        return autocast(self.device, self.about["parameters"]["precision"])

    @torch.no_grad()
    def classify(self, clips: np.ndarray, tags: training.Batch | None = None) -> "Classified":
        """Probabilities, back-end's scenes, tag vectors and novelty of clips (see ``inputs``)."""
        inputs = self.inputs(clips, tags)
        with self.autocast():
            out = self.net.eval()(**inputs)
        codes = out.code.float().cpu().numpy()
        probabilities = out.logits.float().softmax(1).cpu().numpy()
        return Classified(
            probabilities,
            scenes=probabilities.argmax(1)
            if self.back_end is None
            else self.back_end.predict(codes),
            tags=(inputs["tags"] if inputs["tags"].ndim == 2 else inputs["tags"].mean(1))
            .cpu()
            .numpy(),
            novelty=self.known.novelty(codes),
        )

    def predict(self, path: Path) -> "Prediction":
        """Classify a recording of any rate, channels and length, in windows of a training clip.

        Raises AudioError, naming the file, where it is unusable.
        """
        recording = Recording.open(path, self.samples)
        size = inference_batch(self.device)
        numbers = range(len(recording.starts))
        parts = []
        silent = True
        shares = []
        for start in progress(numbers[::size], path.name):
            batch = numbers[start : start + size]
            clips = np.stack([recording.window(k) for k in batch])
            parts.append(self.classify(clips, self.from_table(recording, batch)))
            silent = silent and not clips.any()
            shares.append(at_full_scale(clips))
        notes = recording.conversions + doubtful(silent, float(np.mean(shares)))
        return Prediction(self, recording, Classified(*map(np.concatenate, zip(*parts))), notes)

    def predict_each(self, paths: Iterable[Path]) -> Iterator["Prediction | Unusable"]:
        """``predict`` for several recordings, one after the other, in their order."""
        for path in paths:
            try:
                yield self.predict(path)
            except (ValueError, OSError, RuntimeError, MemoryError) as error:
                if isinstance(error, UnfitSystem):  # no recording will do
                    raise
                yield Unusable(path, " ".join(str(error).split()) or type(error).__name__)


class Unusable(NamedTuple):
    """A recording that cannot be classified."""

    path: Path
    why: str  # with its name


class Classified(NamedTuple):
    """A system's answers for clips."""

    probabilities: np.ndarray  # [B, scenes], the network's output layer
    scenes: np.ndarray  # [B], the back-end's
    tags: np.ndarray  # [B, c]
    novelty: np.ndarray  # [B], 0 to 1 (``novelty.Known``)


@dataclass(frozen=True)
class Prediction:
    """A system's answer for a recording, window by window."""

    system: System
    recording: Recording
    classified: Classified  # of its windows
    notes: list[str]  # conversions and doubts

    @property
    def file(self) -> str:
        return str(self.recording.path)

    @cached_property
    def probabilities(self) -> pd.Series:
        """Probability of each scene: the mean over windows."""
        return pd.Series(self.classified.probabilities.mean(0), self.system.labels)

    @cached_property
    def scene(self) -> str:
        """The back-end's scene in most windows; of equals, the more probable one.

        The softmax's: the scene that is most probable over all windows.
        """
        if self.system.back_end is None:
            return self.probabilities.idxmax()
        votes = np.bincount(self.classified.scenes, minlength=len(self.system.labels))
        return self.system.labels[np.lexsort((self.probabilities, votes))[-1]]

    @property
    def novelty(self) -> float:
        """How far it is from the training clips, 0 to 1: the median over windows."""
        return float(np.median(self.classified.novelty))

    @cached_property
    def tags(self) -> pd.Series:
        """Probability of each tag, the mean over windows, most probable first."""
        return pd.Series(self.classified.tags.mean(0), self.system.tags).sort_values(
            ascending=False
        )

    def windows(self) -> pd.DataFrame:
        """One row per window: start and end (s), the back-end's scene, and all probabilities."""
        start = np.array(self.recording.starts) / self.recording.rate
        end = np.minimum(start + self.system.samples / RATE, self.recording.seconds)
        scene = np.asarray(self.system.labels)[self.classified.scenes]
        return pd.DataFrame({"start": start, "end": end, "scene": scene}).join(
            pd.DataFrame(self.classified.probabilities, columns=self.system.labels)
        )

    def timeline(self) -> pd.DataFrame:
        """One row per scene in time: start and end (s), scene; neighbours of one scene are merged.

        Of windows that overlap, the earlier one counts to its end.
        """
        windows = self.windows()
        run = (windows["scene"] != windows["scene"].shift()).cumsum()
        merged = windows.groupby(run).agg({"start": "first", "end": "last", "scene": "first"})
        return merged.assign(start=merged["start"].clip(lower=merged["end"].shift(fill_value=0)))

    def lines(self, all_windows: bool, told: set[str]) -> list[str]:
        """For a terminal: scene, notes but those ``told`` and, of several scenes, the times."""
        probable = self.probabilities.nlargest(3).items()
        likely = ", ".join(f"{name} {100 * p:.0f} %" for name, p in probable)
        tags = ", ".join(f"{name} {p:.2f}" for name, p in self.tags.head(3).items())
        times = self.windows() if all_windows else self.timeline()
        return [
            f"{self.file}: {self.scene} "
            f"(network: {likely}{'; tags: ' + tags if tags else ''}; "
            f"novelty {100 * self.novelty:.0f} %)",
            *(f"  note: it {note}" for note in self.notes if note not in told),
            *(
                f"  {row.start:.1f} to {row.end:.1f} s: {row.scene}"
                for row in times.itertuples()
                if all_windows or len(times) > 1
            ),
        ]

    def described(self) -> dict:
        return {
            "file": self.file,
            "scene": self.scene,
            "probabilities": _rounded(self.probabilities),
            "tags": _rounded(self.tags.head(10)),
            "seconds": round(self.recording.seconds, 3),
            "windows": [_rounded(row) for row in self.windows().to_dict("records")],
            "timeline": [_rounded(row) for row in self.timeline().to_dict("records")],
            "novelty": round(self.novelty, 4),
            "notes": self.notes,
            "system": self.system.about["run"],
            "trained_on": self.system.trained_on,
        }


def _rounded(values) -> dict:
    return {k: v if isinstance(v, str) else round(float(v), 6) for k, v in values.items()}


class Trained(NamedTuple):
    """What a scene notebook has trained, and where it is saved."""

    net: SceneNet
    history: pd.DataFrame
    evaluated: pd.DataFrame
    record: dict
    folder: Path


def train_and_save(
    settings: Settings, scenes: SceneData, evaluated: pd.DataFrame | None = None
) -> Trained:
    """Train, evaluate, record and save a system: the steps of notebook 02, in one call.

    ``evaluated``: of other runs, for a system that learns from all clips (``runs.folds``).
    """
    net = scenes.network(settings)
    run = records.scene_run(settings, scenes.waveforms, scenes.vectors)
    print(f"{run}: {n_parameters(net):,} parameters")
    history = scenes.train(net, settings.seed, records.checkpoint(run))
    back_end = scenes.back_end(settings, records.checkpoint(run))
    if evaluated is None:
        evaluated = scenes.evaluate(net, back_end.name)
    record = records.write_scene_record(settings, scenes, net, history, evaluated, back_end)
    return Trained(net, history, evaluated, record, save(settings, scenes, net, record))


def save(settings: Settings, scenes: SceneData, net: SceneNet, record: dict) -> Path:
    """Save what a scene notebook trained, as a folder beside its record; return the folder.

    The back-end is fitted on the training clips' codes, as for the record.
    """
    import skops.io  # takes seconds; training does without it

    vectors = scenes.vectors
    tags = (record["tags"] or {"source": None}) | {"names": vectors.names if vectors else []}
    if vectors and vectors.tagger and not isinstance(vectors.tagger, Tagger):
        tags["model"] = vectors.tagger.fingerprint
    about = {
        "version": VERSION,
        "n_tags": net.n_tags,
        "sizes": settings.sizes(),
        "samples": scenes.waveforms.samples,
        "test_samples": scenes.test_samples,
        "tags": tags,
        **{
            name: record[name]
            for name in (
                *("run", "system", "parameters", "labels", "data", "n_parameters", "macs"),
                *("tag_scale", "test", "test_all", "environment", "start_from", "back_end"),
            )
            if name in record
        },
    }
    path = corpora.results(settings.data) / "systems" / record["run"]
    with written_whole(path) as folder:
        folder.mkdir()
        safetensors.torch.save_file(
            {name: value.cpu().contiguous() for name, value in net.state_dict().items()},
            folder / NETWORK,
        )
        train = scenes.corpus.rows("train")
        codes = scenes.training_codes(net)
        if record["back_end"]["name"] != back_ends.SOFTMAX:
            fitted = scenes.fitted(record["back_end"]["name"], codes)
            skops.io.dump(fitted, folder / BACK_END)
        places = np.unique(scenes.corpus.clips["location"].iloc[train], return_inverse=True)[1]
        kept = chosen(np.arange(len(train)))
        Known(codes[kept], places[kept]).save(folder / KNOWN)
        if vectors and vectors.tagger and scenes.reads in AS_INPUT:
            vectors.tagger.save(folder / TAGGER)
        (folder / "README.md").write_text(card(about), encoding="utf-8")
        about["files"] = {name: _digest(folder / name) for name in _files(folder)}
        write_text(folder / ABOUT, json.dumps(_sealed(about), indent=1))
    return path


def _files(folder: Path) -> list[str]:
    return sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    )


def _digest(path: Path) -> str:
    return hashlib.blake2b(path.read_bytes()).hexdigest()[:32]


def _sealed(about: dict) -> dict:
    unsealed = {name: value for name, value in about.items() if name != "seal"}
    return unsealed | {"seal": fingerprint(unsealed)}


def card(about: dict) -> str:
    """The model card: what the system is, what trained it, how accurate it is, its limits."""
    data = about["data"]
    test = about["test"]
    low, high = (100 * bound for bound in test["interval"])
    kind = "test clips"
    judged = ""
    if "test" not in data["clips"]:  # of folds
        kind = "clips"
        judged = ", each judged by a system that had not learnt from it; this one has"
    caveat = (
        " Its scenes are composed: no figure here is a result on TAU 2019."
        * corpora.by_name(data["name"]).composed
    )
    rows = {
        "system": ", ".join(
            [about["system"], *(f"{name} {value}" for name, value in about["sizes"].items())]
        ),
        "front-end": about["parameters"]["front_end"],
        "parameters": f"{about['n_parameters']:,} (without the tagger)",
        "training": f"{about['parameters']['epochs']} epochs, seed {about['parameters']['seed']}",
        "multiply-adds per clip": f"{about['macs']:,}",
        "input": f"clips of {about['samples'] / RATE:g} s, 48 kHz, two channels",
        "tag vectors": f"{about['tags']['source'] or 'none'} ({len(about['tags']['names'])} tags)",
        "training data": f"{data['name']}, {data['clips']['train']} clips, {data['fingerprint']}",
        "accuracy": (
            f"{100 * test['accuracy']:.1f} % ({low:.1f} to {high:.1f}) on {test['clips']} {kind} "
            f"of {test['locations']} locations{judged} (nothing chosen on them; 95 %, over "
            "locations)"
        ),
        "back-end": back_ends.IN_WORDS[about["back_end"]["name"]],
        "scenes": ", ".join(about["labels"]),
    }
    start = about.get("start_from")
    if start:
        rows["started from"] = f"{start['run']}: {', '.join(start['taken_over'])}"
    table = readable.markdown(pd.DataFrame({"value": rows}).rename_axis(""))
    title = f"# {readable.literal(about['run'])}"
    return f"{title}\n\n{table}\n\nSaved by `asc_lib` (Jung et al. 2020).{caveat}\n"


def load(folder: Path | str, device: str = "auto") -> System:
    """Load a system that ``save`` wrote.

    Raises UnfitSystem, saying why, for a folder that is incomplete, changed, of another version, or
    holds a file that ``save`` did not write.
    """
    folder = recovered(printable(folder))
    about = _about(folder)
    try:
        net = training.loaded(
            lambda: SceneNet(
                about["n_tags"],
                len(about["labels"]),
                about["parameters"]["front_end"],
                about["system"],
                **about["sizes"],
                tag_scale=about["tag_scale"],
            ),
            safetensors.torch.load_file(folder / NETWORK),
        )
        back_end = None
        if about["back_end"]["name"] != back_ends.SOFTMAX:
            path = folder / BACK_END
            back_end = _back_end(path, net.output.in_features, len(about["labels"]))
        known = Known.load(folder / KNOWN, net.output.in_features)
        tagger = None
        if net.fusion.reads in AS_INPUT:
            tagger = saved_tagger(
                about["tags"]["source"] or "", folder / TAGGER, about["tags"].get("model")
            )
    except Exception as error:  # of three libraries, each with its own kinds
        raise UnfitSystem(f"{folder} cannot be loaded: {first_line(error)}") from None
    device = training.default_device() if device == "auto" else device
    return System(net.eval(), back_end, tagger, about, known).to(device)


def _back_end(path: Path, width: int, labels: int) -> ClassifierMixin:
    import skops.io

    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > LARGEST:
        raise ValueError(f"{path.name} unpacks to {size / 1e9:.3g} GB")
    unknown = skops.io.get_untrusted_types(file=path)
    if unknown:
        raise ValueError(f"{path.name} holds {', '.join(unknown)}")
    found = skops.io.load(path)
    fits = isinstance(found, SVC | Pipeline) and found.n_features_in_ == width
    if not (fits and set(found.classes_) <= set(range(labels))):
        raise ValueError(f"{path.name} is no back-end of these scenes and this network")
    return found


def _about(folder: Path) -> dict:
    def refuse(why: str) -> None:
        raise UnfitSystem(f"{folder} is not a system that can be loaded: {why}")

    if not (folder / ABOUT).is_file():
        refuse(
            f"it has no {ABOUT} (notebooks 02 to 05 save one under {results_root()}, in systems/)"
        )
    try:
        about = read_json(folder / ABOUT)
        if isinstance(about, dict) and about.get("version", VERSION) != VERSION:
            refuse(
                f"its layout has version {about['version']!r}, this code reads {VERSION}: "
                "train it again, or check out the matching version"
            )
        files = validated(about, About)["files"]
    except UnfitSystem:
        raise
    except ValueError as error:
        refuse(f"{ABOUT} is incomplete or damaged ({error}): save the system again")
    if about != _sealed(about):
        refuse(f"{ABOUT} was changed after it was saved")
    there = set(_files(folder)) - {ABOUT}
    changed = {name for name in there & files.keys() if _digest(folder / name) != files[name]}
    for names, what in (
        (files.keys() - there, "{} is missing"),
        (there - files.keys(), "it holds {}, which was not saved with it"),
        (changed, "{} was changed or cut short after it was saved"),
    ):
        if names:
            refuse(what.format(", ".join(sorted(names))))
    return about


def saved() -> list[Path]:
    """Folders of the systems under ``ASC_RESULTS``, newest first."""
    found = results_root().glob(f"*/systems/*/{ABOUT}")
    return [path.parent for path in sorted(found, key=lambda path: -path.stat().st_mtime)]


def newest(data: str) -> Path:
    """Folder of the newest system of a data set that tags recordings itself, if it reads tags.

    Raises UnfitSystem, saying what to run, where there is none.
    """
    of = corpora.results(data)
    for folder in saved():
        if folder.parents[1] == of:
            tags = _about(folder)["tags"]
            if not tags["names"] or "model" in tags or (folder / TAGGER).is_dir():
                return folder
    raise UnfitSystem(
        f"{data} has no system for recordings under {results_root()}: train one, for example "
        f"`asc sweep baseline --data {data}`"
    )

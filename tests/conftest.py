"""Small corpora and a saved system that tests share, made once a session.

One process of one thread for each, since tests run side by side.
"""

import os
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from tempfile import TemporaryDirectory

import nbval.kernel
import numpy as np
import pandas as pd
import pytest
import soundfile
import torch
from helpers import ATTENTION, kernels_without_ports, roots

from asc_lib import corpora, files, settings
from asc_lib.corpora import esc50, mini, soundscapes, store, tau2019
from asc_lib.recipes import TaggerSizes
from asc_lib.runs import records
from asc_lib.scene_net import SceneNet
from asc_lib.scenes import BackEnd, SceneData
from asc_lib.tagging_net import TaggingNet
from asc_lib.tags import tagger_training
from asc_lib.tags.tagger import Tagger
from asc_lib.tags.windows import TagVectors
from asc_lib.use import system

SOCKETS = TemporaryDirectory()
nbval.kernel.KernelManager = partial(
    nbval.kernel.KernelManager, **kernels_without_ports(SOCKETS.name)
)
os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)
soundscapes.processes = tagger_training.processes = lambda: 1


@pytest.fixture(scope="session")
def small_mini(tmp_path_factory):
    """A `mini` of 1 s clips, one a location; the processes of pytest-xdist share it."""
    recipe = replace(mini.RECIPE, seconds=1.0, train=(1, 1), test=(1, 1))
    folder = tmp_path_factory.getbasetemp()
    root = files.made_once(
        (folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder) / "small_mini",
        lambda to: soundscapes.write_scenes(recipe, mini.SynthesisedSounds(), to),
    )
    return tau2019.read("mini", root)


@pytest.fixture(scope="session")
def esc50_folder(tmp_path_factory):
    """A folder laid out as the official ESC-50 release: 50 classes in 5 folds.

    Each has 4 short clips of 2 recordings in every fold.
    """
    root = tmp_path_factory.mktemp("ESC-50")
    (root / "audio").mkdir()
    (root / "meta").mkdir()
    rng = np.random.default_rng(0)
    rows = []
    classes = [*sorted(esc50_classes()), *(f"class_{k}" for k in range(50))][:50]
    for fold in range(1, 6):
        for target, category in enumerate(classes):
            for take in "ABCD":
                source = 100_000 + fold * 1000 + target * 10 + (take > "B")
                if take == "A" and fold in (2, 3, 5) and target == fold:
                    source = 131_943  # as ESC-50 has it
                name = f"{fold}-{source}-{take}-{target}.wav"
                soundfile.write(
                    root / "audio" / name, 0.1 * rng.standard_normal(4410), 44_100, subtype="PCM_16"
                )
                rows.append((name, fold, target, category, False, source, take))
    columns = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "meta" / "esc50.csv", index=False)
    return root


def esc50_classes() -> set[str]:
    return {tag for scene in esc50.SCENES.values() for tag in (*scene.beds, *scene.events)}


@pytest.fixture(scope="session")
def tagged(small_mini, tmp_path_factory):
    """The clips of ``small_mini`` with the tag vectors of a tagger that was not trained."""
    root = tmp_path_factory.mktemp("tagged")
    sizes = TaggerSizes(
        bands=32, n_fft=1024, hop=882, widths=(8, 8, 8, 8), depths=(1, 1, 1, 1), crop=16, folds=2
    )
    torch.manual_seed(0)
    names = [f"tag_{k}" for k in range(12)]
    nets = {fold: TaggingNet(len(names), sizes).eval() for fold in (1, 2)}
    tagger = Tagger(nets, names, sizes)
    with roots(root):
        waveforms = store.pack(small_mini)
    values = tagger.tag_scenes(small_mini, waveforms, np.arange(len(small_mini.clips)))
    times = tagger.times(waveforms.samples)
    vectors = TagVectors(values, names, "tagger", tagger=tagger, times=times)
    return SceneData(small_mini, waveforms, vectors, corpora.find("mini").preset.scene, "cpu")


@dataclass(frozen=True)
class Saved:
    """A system that was saved, and what it was saved from."""

    root: Path  # under which it lies
    net: SceneNet
    scenes: SceneData
    evaluated: pd.DataFrame

    @cached_property
    def folder(self) -> Path:
        """Its folder."""
        return self.again()

    def again(self, tags: str = "tagger", back_end: str = "rbf") -> Path:
        """Save it, as if it had been trained with these tags, and answered by this back-end."""
        scenes = self.scenes
        if tags != "tagger":
            scenes = replace(scenes, vectors=replace(scenes.vectors, source=tags, tagger=None))
        checked = settings.check("04_attention", **(ATTENTION | dict(epochs=1, tags=tags)))
        history = pd.DataFrame([{"epoch": 1, "loss": 1.0, "seconds": 1.0}])
        with roots(self.root):
            evaluated = self.evaluated.assign(predicted=self.evaluated[back_end])
            record = records.write_scene_record(
                checked, scenes, self.net, history, evaluated, BackEnd(back_end)
            )
            return system.save(checked, scenes, self.net, record)


@pytest.fixture(scope="session")
def saved(tagged, tmp_path_factory):
    """A system with untrained networks, saved as a notebook saves it, for clips of 1 s."""
    torch.manual_seed(0)
    labels = len(tagged.corpus.labels)
    net = SceneNet(tagged.n_tags, labels, "narrow", "attention", heads=2, layers=1)
    net.output.weight.data *= 20  # probabilities that tell clips apart, though nothing is trained
    return Saved(tmp_path_factory.mktemp("saved"), net, tagged, tagged.evaluate(net))


@pytest.fixture(autouse=True)
def as_it_was():
    """A test leaves our variables as they were: the next one, or a notebook, would read them."""

    def ours() -> dict[str, str]:
        return {name: value for name, value in os.environ.items() if name.startswith("ASC_")}

    before = ours()
    yield
    assert ours() == before

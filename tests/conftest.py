"""Small corpora that tests share, composed once a session; one thread a process, since tests run side by side."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from asc_lib import settings
from asc_lib.corpora import esc50, mini, soundscapes, store, tau2019
from asc_lib.runs import records
from asc_lib.scene_net import SceneNet
from asc_lib.scenes import SceneData
from asc_lib.tagging_net import TaggerSizes, TaggingNet
from asc_lib.tags import sources
from asc_lib.tags.tagger_training import Tagger
from asc_lib.use import system

os.environ["OMP_NUM_THREADS"] = "1"
torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small_mini(tmp_path_factory):
    """A `mini` of 1 s clips, one a location."""
    root = tmp_path_factory.mktemp("mini") / "scenes"
    recipe = replace(mini.RECIPE, seconds=1.0, train=(1, 1), test=(1, 1))
    soundscapes.write_scenes(recipe, mini.SynthesisedSounds(), root)
    return tau2019.read("mini", root)


@pytest.fixture(scope="session")
def esc50_folder(tmp_path_factory):
    """A folder laid out as the official ESC-50 release: 50 classes, 5 folds, 4 short clips each, of 2 recordings."""
    root = tmp_path_factory.mktemp("ESC-50")
    (root / "audio").mkdir()
    (root / "meta").mkdir()
    rng, rows = np.random.default_rng(0), []
    classes = [*sorted(esc50_classes()), *(f"class_{k}" for k in range(50))][:50]
    for fold in range(1, 6):
        for target, category in enumerate(classes):
            for take in "ABCD":
                source = 100_000 + fold * 1000 + target * 10 + (take > "B")
                source = (
                    131_943 if take == "A" and fold in (2, 3, 5) and target == fold else source
                )  # as ESC-50 has it
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


@dataclass(frozen=True)
class Saved:
    """A system that was saved, and what it was saved from."""

    folder: Path
    net: SceneNet
    scenes: SceneData
    vectors: tag_vectors.TagVectors
    judged: pd.DataFrame

    def again(self, **parameters) -> Path:
        """Save it as if it had been trained with other parameters."""
        return save_system(self.net, self.scenes, self.vectors, self.judged, **parameters)


def save_system(net, scenes, vectors, judged, **parameters) -> Path:
    common = dict(
        data="mini",
        seed=0,
        epochs=1,
        device="cpu",
        threads=1,
        front_end="auto",
        precision="float32",
    )
    settings = experiment.check(
        "04_attention", **common, **(dict(tags="tagger", heads=2, layers=1) | parameters)
    )
    history = pd.DataFrame([{"epoch": 1, "loss": 1.0, "seconds": 1.0}])
    record = records.write_scene_record(
        settings, scenes.corpus, scenes.waveforms, vectors, judged=judged, history=history, net=net
    )
    return system.save(settings, scenes, vectors, net, record)


@pytest.fixture(scope="session")
def saved(small_mini, tmp_path_factory):
    """A system with untrained networks, saved as a notebook saves it, for clips of 1 s."""
    root = tmp_path_factory.mktemp("saved")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ASC_DATA", str(root / "data"))
        patch.setenv("ASC_RESULTS", str(root / "results"))
        sizes = TaggerSizes(
            bands=32,
            n_fft=1024,
            hop=882,
            widths=(8, 8, 8, 8),
            depths=(1, 1, 1, 1),
            crop=16,
            folds=2,
        )
        torch.manual_seed(0)
        names = [f"tag_{k}" for k in range(12)]
        tagger = Tagger(
            {fold: TaggingNet(len(names), sizes).eval() for fold in (1, 2)}, names, sizes
        )
        tagger.save(root / "data" / "made" / "tiny")
        patch.setattr(system, "default_tagger", lambda data: (tagger, {}, "tiny"))
        waveforms = store.pack(small_mini)
        values = tagger.tag_scenes(small_mini, waveforms, np.arange(len(small_mini.clips)))
        vectors = tag_vectors.TagVectors(values, names, "tagger", None)
        scenes = SceneData(small_mini, waveforms, values, experiment.PRESETS["mini"].scene, "cpu")
        net = SceneNet(len(names), len(small_mini.labels), "narrow", "attention", heads=2, layers=1)
        net.output.weight.data *= (
            20  # probabilities that tell clips apart, though nothing is trained
        )
        judged = scenes.judge(net)
        yield Saved(save_system(net, scenes, vectors, judged), net, scenes, vectors, judged)

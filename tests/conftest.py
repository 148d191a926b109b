"""Small corpora that tests share, composed once a session; one thread a process, since tests run side by side."""

import os
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import soundfile
import torch

from asc_lib.corpora import esc50, mini, soundscapes, tau2019

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
                source = 131_943 if take == "A" and fold in (2, 3, 5) and target == fold else source  # as ESC-50 has it
                name = f"{fold}-{source}-{take}-{target}.wav"
                soundfile.write(root / "audio" / name, 0.1 * rng.standard_normal(4410), 44_100, subtype="PCM_16")
                rows.append((name, fold, target, category, False, source, take))
    columns = ["filename", "fold", "target", "category", "esc10", "src_file", "take"]
    pd.DataFrame(rows, columns=columns).to_csv(root / "meta" / "esc50.csv", index=False)
    return root


def esc50_classes() -> set[str]:
    return {tag for scene in esc50.SCENES.values() for tag in (*scene.beds, *scene.events)}

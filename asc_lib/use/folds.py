"""Folds of a folder's clips: their runs together, and a system that learns from all clips.

A sweep runs this module, with a notebook and its parameters, when the folds have run.
"""

import json
import sys

import pandas as pd
import torch

from .. import corpora
from ..runs import records
from ..runs.cells import Cell
from ..scenes import SceneData
from ..settings import Settings
from . import system


def predictions(settings: Settings) -> pd.DataFrame:
    """The predictions of the runs of each fold, together: every clip once, by a system without it.

    Raises ValueError where a fold has no run.
    """
    parts = []
    for data in corpora.folds(settings.data):
        fold = settings.model_copy(update={"data": data})
        scenes = SceneData.open(fold)
        run = records.scene_run(fold, scenes.waveforms, scenes.vectors)
        part = records.read_predictions(run, data)
        parts.append(part[part["split"] == "test"])
    return pd.concat(parts, ignore_index=True)


def retrain(settings: Settings) -> system.Trained:
    """Train on all clips, and save that system with the accuracy that the folds have together."""
    torch.set_num_threads(settings.threads)
    return system.train_and_save(settings, SceneData.open(settings), predictions(settings))


if __name__ == "__main__":
    retrain(Cell(sys.argv[1], json.loads(sys.argv[2])).settings())

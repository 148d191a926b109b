"""Folds of a folder's clips: their runs together, and a system that learns from all clips.

A sweep runs this module, with a notebook and its parameters, when the folds have run.
"""

import json
import sys

import pandas as pd
import torch

from ..runs import records
from ..runs.cells import Cell, parts, run_names
from ..scenes import SceneData
from . import system


def predictions(cell: Cell) -> pd.DataFrame:
    """The predictions of the runs of each fold, together: every clip once, by a system without it.

    Raises ValueError where a fold has no run.
    """
    folds = parts([cell])
    found = [
        records.read_predictions(run, fold.parameters["data"])
        for fold, run in zip(folds, run_names(folds))
    ]
    return pd.concat(found, ignore_index=True).query("split == 'test'")


def retrain(cell: Cell) -> system.Trained:
    """Train on all clips, and save that system with the accuracy that the folds have together."""
    settings = cell.settings()
    torch.set_num_threads(settings.threads)
    return system.train_and_save(settings, SceneData.open(settings), predictions(cell))


if __name__ == "__main__":
    retrain(Cell(sys.argv[1], json.loads(sys.argv[2])))

"""Choices about training, settled on held-out training places: `asc tune` (never on test clips).

A third of the training places, location-disjoint, judges networks that learn from the other two
thirds. The presets of small data sets follow what this has found on ``esc50``.
"""

from dataclasses import asdict, replace

import joblib
import pandas as pd
import torch

from ..corpora.splits import held_out
from ..files import cores, data_root, fingerprint
from ..registry import unknown
from ..scenes import SceneData
from ..stats import accuracy
from . import cells

SYSTEMS = {"baseline": {}, "attention": {"heads": 2, "layers": 1, "tags": "yamnet"}}
STEPS = {  # systems, changes of the recipe or the front-end, seeds
    "length": (
        ["baseline", "attention"],
        [
            {"lr": 1e-3, "schedule": "constant"},
            {"lr": 1e-3, "schedule": "cosine"},
            {"lr": 3e-3, "schedule": "cosine"},
        ],
        1,
    ),
    "tags": (
        ["attention"],
        [
            {"tag_windows": "random", "tag_scale": "square_root"},
            {"tag_windows": "excerpt", "tag_scale": "square_root"},
            {"tag_windows": "clip", "tag_scale": "square_root"},
            {"tag_windows": "random", "tag_scale": "logit"},
            {"tag_windows": "random", "tag_scale": "raw"},
        ],
        3,
    ),
    "front_end": (
        ["baseline", "attention"],
        [{"front_end": "narrow"}, {"front_end": "cp_resnet"}],
        2,
    ),
}
POINTS = 10  # of a curve


def _run(data: str, epochs: int, step: str, system: str, change: dict, seed: int) -> pd.DataFrame:
    torch.set_num_threads(1)
    label = " ".join(map(str, change.values()))
    change = dict(change)
    given = SYSTEMS[system] | {"front_end": change.pop("front_end", "auto")}
    settings = cells.cell(system, given, data=data, seed=seed, epochs=epochs).settings()
    scenes = SceneData.open(settings)
    total = settings.recipe.epochs
    every = max(1, total // POINTS) if step == "length" else total
    recipe = replace(settings.recipe, eval_every=every, **change)
    scenes = replace(scenes, corpus=held_out(scenes.corpus), recipe=recipe)
    net = scenes.network(settings)
    names = [system, settings.front_end]
    mark = fingerprint(scenes.waveforms.fingerprint, names, asdict(recipe), seed)
    checkpoint = data_root() / "made" / "checkpoints" / f"tune-{mark}.safetensors"
    history = scenes.train(net, seed, checkpoint)
    judged = scenes.evaluate(net)
    history = history.reindex(columns=["epoch", "loss", "test_rbf", "softmax"])
    history.loc[history.index[-1], ["test_rbf", "softmax"]] = [
        accuracy(judged["truth"], judged[name]) for name in ("rbf", "softmax")
    ]
    return (
        history.rename(columns={"test_rbf": "held_out"})
        .dropna(subset="held_out")
        .assign(system=system, recipe=label, seed=seed)
    )


def tune(data: str, step: str, epochs: int = 0) -> pd.DataFrame:
    """Run one of ``STEPS``, a run per core at a time: one row per point of each curve.

    Columns: epoch, loss, held_out (the SVM's accuracy on the held-out places), softmax (the output
    layer's, at the end), system, recipe, seed. Resumes what was interrupted.
    """
    if step not in STEPS:
        raise unknown("step", step, STEPS)
    systems, changes, seeds = STEPS[step]
    parts = joblib.Parallel(n_jobs=cores())(
        joblib.delayed(_run)(data, epochs, step, system, change, seed)
        for system in systems
        for change in changes
        for seed in range(seeds)
    )
    return pd.concat(parts)


def summary(points: pd.DataFrame) -> pd.DataFrame:
    """What each recipe ended with, mean over seeds, and by how much it rose in the last fifth."""
    rows = []
    for (system, recipe), part in points.groupby(["system", "recipe"], sort=False):
        last = part["epoch"].max()
        ended = part[part["epoch"] == last]
        before = part[part["epoch"] <= 0.8 * last].groupby("seed").tail(1)
        rise = ended["held_out"].mean() - before["held_out"].mean()
        rows.append(
            {
                "system": system,
                "recipe": recipe,
                "epochs": last,
                "seeds": len(ended),
                "loss": f"{ended['loss'].mean():.2f}",
                "held out %": f"{100 * ended['held_out'].mean():.1f}",
                "± over seeds": f"{100 * ended['held_out'].std():.1f}" if len(ended) > 1 else "",
                "softmax %": f"{100 * ended['softmax'].mean():.1f}",
                "rise in the last fifth": f"{100 * rise:+.1f}" if len(before) else "",
            }
        )
    return pd.DataFrame(rows).set_index("system")

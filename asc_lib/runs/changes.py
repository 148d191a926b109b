"""Which clips change: what systems make of the clips that the baseline gets wrong, or right."""

import pandas as pd

from .tables import Kind, Results


def changes(results: Results, groups: pd.DataFrame | None = None) -> pd.DataFrame:
    """Shares (%) of the baseline's wrong and right test clips that each system gets right.

    ``groups``: columns filename and group, one row for each group that a clip is in, such as the
    sounds that it holds; None: its scene. One row per system and group, and group "all": ``clips``
    (the group's test clips), ``gained`` (right, of those that the baseline gets wrong) and ``kept``
    (right, of those that it gets right), over all pairs of a seed of the baseline and one of the
    system. The baseline itself is paired with its other seeds: what another training changes.
    """
    parts = []
    for kind, runs in results.systems.items():
        baseline = Kind("baseline", kind.changed, kind.data, None)
        if baseline not in results.systems:
            continue
        before = results.systems[baseline].correct
        clips = runs.predictions[0][["filename", "truth"]]
        scenes = clips.assign(group=[runs.records[0]["labels"][k] for k in clips["truth"]])
        own = scenes if groups is None else clips.merge(groups, on="filename")
        every = pd.concat([own, clips.assign(group="all")])[["filename", "group"]]
        number = pd.Series(range(len(clips)), clips["filename"])[every["filename"]]
        parts += [
            every.assign(
                system=results.names[kind], was=before[i, number], now=runs.correct[j, number]
            )
            for i in range(len(before))
            for j in range(len(runs.correct))
            if kind != baseline or i != j
        ]
    if not parts:
        return pd.DataFrame()
    pairs = pd.concat(parts)
    shares = 100 * pairs.pivot_table("now", ["system", "group"], "was", "mean", observed=True)
    clips = pairs.groupby(["system", "group"])["filename"].nunique().rename("clips")
    named = shares.rename(columns={False: "gained", True: "kept"}).rename_axis(columns=None)
    return named.reindex(columns=["gained", "kept"]).join(clips)


def sounds(composition: pd.DataFrame) -> pd.DataFrame:
    """The events of composed clips as ``groups`` of ``changes``."""
    events = composition[composition["role"] == "event"]
    return events[["filename", "tag"]].drop_duplicates().set_axis(["filename", "group"], axis=1)

"""Tags alone: what a linear classifier reads from tag vectors, without any waveform."""

import sys

import numpy as np
import pandas as pd

from .. import corpora, stats
from ..corpora import SceneCorpus, store
from ..files import shown
from ..tags import tagger_training
from ..tags.sources import open_tag_vectors
from ..tags.windows import TagVectors

SOURCES = ("true", "yamnet", "tagger")


def tags_alone(data: str) -> pd.DataFrame:
    """One row per source of tags: accuracy on the test clips, and lwlrap on what was composed.

    Sources: the preset's, where that needs no training, else all. A logistic regression on the
    square roots of a clip's tags, standardised, its penalty chosen on training places
    (``stats.linear_probe``); 95 % intervals over places. Names sources that are not there on
    standard error.
    """
    parts = [corpora.with_scenes(part).scenes() for part in corpora.folds(data) or [data]]
    found = {}
    usual = corpora.find(data).preset.tags
    for source in SOURCES if usual == "tagger" else (usual,):
        right = []
        try:
            for corpus in parts:
                vectors = open_tag_vectors(source, corpus, store.pack(corpus))
                right.append(_right(corpus, vectors))
        except (ValueError, OSError) as error:
            print(f"{source}: {shown(str(error))}", file=sys.stderr)
            continue
        clips = pd.concat(right)
        share = 100 * clips["right"].mean()
        places = stats.Places(clips["location"], beds=clips["beds"])
        low, high = places.interval(clips["right"].to_numpy())
        heard = tagger_training.on_scenes(corpus, vectors)
        found[source] = {
            "tags": len(vectors.names),
            "accuracy % [95 %]": f"{share:.1f} [{100 * low:.1f}, {100 * high:.1f}]",
            "lwlrap on scenes [95 %]": heard and _lwlrap(heard["test"]),
            "chance lwlrap": heard and f"{heard['test']['chance']:.3f}",
            "data": store.pack(parts[0]).fingerprint,
        }
    return pd.DataFrame(found).T.rename_axis("source").dropna(axis=1, how="all")


def _right(corpus: SceneCorpus, vectors: TagVectors) -> pd.DataFrame:
    """Whether the probe is right, the location and the beds of each test clip."""
    test = corpus.rows("test")
    places = corpus.clips["location"]
    features = np.sqrt(vectors.clips)
    right = stats.linear_probe(features, corpus.targets(), corpus.rows("train"), test, places)
    beds = corpus.beds.to_numpy()[test]
    return pd.DataFrame({"right": right, "location": places.to_numpy()[test], "beds": beds})


def _lwlrap(found: dict) -> str:
    low, high = found["interval"]
    return f"{found['lwlrap']:.3f} [{low:.3f}, {high:.3f}]"

"""Tags alone: what a linear classifier reads from tag vectors, without any waveform."""

import sys

import numpy as np
import pandas as pd

from .. import corpora, stats
from ..corpora import store
from ..files import shown
from ..tags import tagger_training
from ..tags.sources import open_tag_vectors

SOURCES = ("true", "yamnet", "tagger")


def tags_alone(data: str) -> pd.DataFrame:
    """One row per source of tags: accuracy on the test clips, and lwlrap on what was composed.

    A logistic regression on the square roots of a clip's tags, standardised, its penalty chosen on
    training places (``stats.linear_probe``); 95 % intervals over places. Names sources that are not
    there on standard error.
    """
    corpus = corpora.with_scenes(data).scenes()
    waveforms = store.pack(corpus)
    train, test = corpus.rows("train"), corpus.rows("test")
    places = corpus.clips["location"]
    found = {}
    for source in SOURCES:
        try:
            vectors = open_tag_vectors(source, corpus, waveforms)
        except (ValueError, OSError) as error:
            print(f"{source}: {shown(str(error))}", file=sys.stderr)
            continue
        features = np.sqrt(vectors.clips)
        right = stats.linear_probe(features, corpus.targets(), train, test, places)
        low, high = stats.interval(right, places.iloc[test])
        heard = tagger_training.on_scenes(corpus, vectors)
        found[source] = {
            "tags": len(vectors.names),
            "accuracy % [95 %]": f"{100 * right.mean():.1f} [{100 * low:.1f}, {100 * high:.1f}]",
            "lwlrap on scenes [95 %]": heard and _lwlrap(heard["test"]),
            "chance lwlrap": heard and f"{heard['test']['chance']:.3f}",
            "data": waveforms.fingerprint,
        }
    return pd.DataFrame(found).T.rename_axis("source")


def _lwlrap(found: dict) -> str:
    low, high = found["interval"]
    return f"{found['lwlrap']:.3f} [{low:.3f}, {high:.3f}]"

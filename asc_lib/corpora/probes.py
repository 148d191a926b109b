"""What tells composed scenes apart: three probes, fitted on training clips, judged on test clips.

What a place is made of (its tilt, hum, throb and room), low peaks of the spectrum, in which such
marks can be heard, and the events: what the waveform could tell, and what tags could.
"""

import numpy as np
import pandas as pd
from scipy import ndimage, signal
from sklearn.ensemble import RandomForestClassifier

from .. import stats
from .audio import RATE
from .data_set import SceneCorpus
from .soundscapes import LATENTS
from .store import Store

LOW = (40, 400)  # Hz


def latents(corpus: SceneCorpus) -> np.ndarray:
    """Tilt, hum, throb and room of each clip's place: [clips, 4]."""
    places = corpus.places.set_index("identifier")[[*LATENTS]]
    return places.loc[corpus.clips["location"]].to_numpy()


def low_peaks(waveform: np.ndarray) -> np.ndarray:
    """How far each hertz of ``LOW`` stands out, dB over the median of 41 around it: [361].

    ``waveform``: [2, T], at least a second.
    """
    hertz, power = signal.welch(waveform.astype(float).mean(0), RATE, nperseg=RATE)
    decibels = 10 * np.log10(power + 1e-12)
    return (decibels - ndimage.median_filter(decibels, 41))[(hertz >= LOW[0]) & (hertz <= LOW[1])]


def events(corpus: SceneCorpus) -> np.ndarray:
    """Which events a clip holds, beds left out: 0 or 1, [clips, tags]."""
    parts = corpus.composition.query("role == 'event'")
    counts = pd.crosstab(parts["filename"], parts["tag"])
    return (counts.reindex(corpus.clips["filename"], fill_value=0) > 0).to_numpy(float)


def named(features: np.ndarray, corpus: SceneCorpus) -> np.ndarray:
    """Whether a random forest names each test clip's scene, of features [clips, n]."""
    train, test = corpus.rows("train"), corpus.rows("test")
    forest = RandomForestClassifier(300, random_state=0)
    targets = corpus.targets()
    return forest.fit(features[train], targets[train]).predict(features[test]) == targets[test]


def told(corpus: SceneCorpus, waveforms: Store) -> pd.DataFrame:
    """Accuracy of each probe on the test clips, with its 95 % interval over places."""
    rows = corpus.rows("train"), corpus.rows("test")
    places = corpus.clips["location"]
    peaks = np.array([low_peaks(waveform) for waveform in waveforms.waveforms])
    found = {
        "tilt, hum, throb and room of the place": named(latents(corpus), corpus),
        f"peaks of the spectrum, {LOW[0]} to {LOW[1]} Hz": named(peaks, corpus),
        "true events": stats.linear_probe(events(corpus), corpus.targets(), *rows, places),
    }
    test = stats.Places(places.iloc[rows[1]], beds=corpus.beds.iloc[rows[1]])
    intervals = {name: test.interval(right) for name, right in found.items()}
    return pd.DataFrame(
        {
            "accuracy": {name: right.mean() for name, right in found.items()},
            "low": {name: low for name, (low, _) in intervals.items()},
            "high": {name: high for name, (_, high) in intervals.items()},
        }
    )

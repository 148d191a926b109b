"""How far a recording is from what a system was trained on, by the network's codes."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors.numpy
from scipy.spatial.distance import cdist

MOST = 400  # training clips that are kept


def chosen(rows: np.ndarray) -> np.ndarray:
    """At most ``MOST`` of the rows, drawn by chance, always the same."""
    return np.sort(np.random.default_rng(0).permutation(rows)[:MOST])


@dataclass(frozen=True)
class Known:
    """Codes of training clips [n, width], and the number of each one's place [n]."""

    codes: np.ndarray
    places: np.ndarray

    def save(self, path: Path) -> None:
        arrays = {"codes": self.codes.astype("float32"), "places": self.places.astype("int64")}
        safetensors.numpy.save_file(arrays, path)

    @classmethod
    def load(cls, path: Path, width: int) -> "Known":
        """Raises ValueError for codes that are not of this width, or not finite."""
        arrays = safetensors.numpy.load_file(path)
        known = cls(arrays["codes"], arrays["places"])
        shape = (len(known.places), width)
        if not shape[0] or known.codes.shape != shape or not np.isfinite(known.codes).all():
            raise ValueError(f"{path.name} holds no codes of this network")
        return known

    @cached_property
    def apart(self) -> np.ndarray:
        """Distance of each training clip to the nearest one of another place, in order."""
        distances = self._distances(self.codes)
        distances[self.places[:, None] == self.places] = np.inf
        return np.sort(distances.min(1))

    def novelty(self, codes: np.ndarray) -> np.ndarray:
        """Share of training clips, 0 to 1, that are nearer to the nearest other one: [B].

        Of codes [B, width]. Distances are Euclidean between codes that are standardised by the
        training clips'; the nearest other training clip is one of another place.
        """
        return np.searchsorted(self.apart, self._distances(codes).min(1)) / len(self.apart)

    def _distances(self, codes: np.ndarray) -> np.ndarray:
        scale = self.codes.std(0).clip(min=1e-6)
        return cdist(codes / scale, self.codes / scale)

"""The back-end: a support vector machine on the codes (Section 2.1)."""

import numpy as np
from sklearn.svm import SVC

KERNELS = ("rbf", "sigmoid")
KERNEL = "rbf"  # of every figure for which nothing is chosen on test clips


def fit(codes: np.ndarray, targets: np.ndarray, kernel: str = KERNEL) -> SVC:
    """Fit on codes [clips, width] as the network gives them; C = 1, gamma = 1 / (width * variance)."""
    return SVC(kernel=kernel, C=1.0, gamma="scale").fit(codes, targets)

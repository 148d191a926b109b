"""Back-ends: what names the scene of a code. The paper's is an SVM (Section 2.1)."""

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from .recipes import HELD_OUT

KERNELS = ("rbf", "sigmoid")  # of the SVM
SOFTMAX = "softmax"  # the network's own output layer
IN_WORDS = {
    "rbf": "SVM with rbf kernel",
    "sigmoid": "SVM with sigmoid kernel",
    "logistic": "logistic regression on standardised codes",
    SOFTMAX: "softmax of the network",
}
CANDIDATES = ("rbf", "logistic", SOFTMAX)  # of HELD_OUT
CHOICES = (*IN_WORDS, HELD_OUT)


def fit(
    name: str, codes: np.ndarray, targets: np.ndarray, class_weights: str = "none"
) -> ClassifierMixin:
    """A back-end but the softmax, fitted on codes [clips, width]; ``targets``: their scenes.

    An SVM reads codes as they are, with C = 1 and gamma = 1 / (width * variance); the logistic
    regression, of C = 1, standardised ones. ``class_weights``: one of ``recipes.CLASS_WEIGHTS``.
    """
    weights = None if class_weights == "none" else class_weights
    if name in KERNELS:
        return SVC(kernel=name, C=1.0, gamma="scale", class_weight=weights).fit(codes, targets)
    logistic = LogisticRegression(max_iter=10_000, class_weight=weights)
    return make_pipeline(StandardScaler(), logistic).fit(codes, targets)

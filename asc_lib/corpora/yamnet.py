"""YAMNet, Google's tagger of AudioSet's 521 classes: where its file lies, and how it is fetched."""

import hashlib
from pathlib import Path

import pandas as pd

from ..files import data_root, named
from .data_set import DATA_SETS, CorpusError, DataSet, Finding, Tables, register
from .fetch import Archive

NAME = "yamnet.tflite"
PUBLIC = "4d8b4a53282dc83ef04e3e7dbc4fbc98082e34e44ed798e16c3a0cdd4c584faf"
DIGESTS = (  # sha256 of the two files in which the model is published
    PUBLIC,
    "10c95ea3eb9a7bb4cb8bddf6feb023250381008177ac162ce169694d05c317de",  # of TensorFlow Hub
)


def model() -> Path:
    """The model's file: ``ASC_YAMNET``, or ``yamnet/`` under ``ASC_DATA``.

    Raises CorpusError where it is missing, cut short or another one.
    """
    path = (named("ASC_YAMNET") or [data_root() / "yamnet" / NAME])[0]
    path = path / NAME if path.is_dir() else path
    if not path.is_file():
        raise CorpusError(
            f"{path} is missing: `asc data fetch yamnet` downloads it (4 MB), or set the "
            f"environment variable ASC_YAMNET to it. {DATA_SETS['yamnet'].licence}"
        )
    if hashlib.sha256(path.read_bytes()).hexdigest() not in DIGESTS:
        raise CorpusError(
            f"{path} is not YAMNet as it was published, or is cut short: remove it, then "
            "`asc data fetch yamnet`"
        )
    return path


def check() -> tuple[pd.DataFrame, list[Finding]]:
    return pd.DataFrame({"table": [str(model())], "rows": [1]}), []


register(
    DataSet(
        "yamnet",
        "YAMNet, https://github.com/tensorflow/models/tree/master/research/audioset/yamnet "
        "(Apache-2.0)",
        check,
        archives=lambda: [
            Archive(
                NAME,
                "https://storage.googleapis.com/mediapipe-models/audio_classifier/yamnet/float32/1/"
                + NAME,
                4_126_810,
                None,
                PUBLIC,
            )
        ],
        tables=lambda root: Tables({}, {"": [NAME]}, []),
    )
)

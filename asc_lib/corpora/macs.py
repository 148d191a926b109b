"""MACS: what people heard in TAU 2019's clips of airport, public_square and park.

Each of several annotators chose tags for a clip; its sentences are not used here.
"""

import pandas as pd
import yaml

from . import checks
from .data_set import CorpusError, DataSet, Finding, Tables, official_root, register
from .fetch import zenodo

FILE = "MACS.yaml"


def read() -> pd.DataFrame:
    """The share of a clip's annotators who chose each tag, 0 to 1: rows are file names.

    Raises CorpusError where the file is missing or not as it was published.
    """
    path = official_root("macs") / FILE
    try:
        with open(path, "rb") as file:
            clips = yaml.load(file, getattr(yaml, "CSafeLoader", yaml.SafeLoader))["files"]
        people = {checks.normal(clip["filename"]): len(clip["annotations"]) for clip in clips}
        chosen = [
            (checks.normal(clip["filename"]), checks.normal(tag))
            for clip in clips
            for person in clip["annotations"]
            for tag in set(person["tags"])
        ]
    except (OSError, yaml.YAMLError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise CorpusError(
            f"{path} cannot be read as MACS ({type(error).__name__}): remove it, then "
            "`asc data fetch macs`"
        ) from None
    table = pd.DataFrame(chosen, columns=["filename", "tag"])
    shares = pd.crosstab(table["filename"], table["tag"]).reindex(list(people), fill_value=0)
    return shares.div(pd.Series(people), axis=0)


def check() -> tuple[pd.DataFrame, list[Finding]]:
    shares = read()
    rows = len(shares)
    counts = pd.DataFrame({"table": [f"macs/{FILE}"], "rows": [rows], "official": [3930]})
    wrong = f"has {rows} clips, officially 3930"
    return counts, [Finding(FILE, wrong)] if rows != 3930 else []


register(
    DataSet(
        "macs",
        "MACS - Multi-Annotator Captioned Soundscapes, https://doi.org/10.5281/zenodo.5114771 "
        "(its own licence, LICENSE.txt)",
        check,
        archives=lambda: zenodo(5114771),
        tables=lambda root: Tables({}, {"": [FILE]}, []),
    )
)

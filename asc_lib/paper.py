"""What the paper's own figures tell without any data: parameter counts, Table 6, and which test set the digits fit."""

import numpy as np
import pandas as pd

from .artefacts import REPOSITORY
from .experiment import SIZES
from .scene_net import SceneNet, n_parameters
from .tables import published

FOLDER = REPOSITORY / "results" / "paper"
N_TAGS = 80  # of FSDKaggle2019
TEST_CLIPS = {"test": 4185, "test_all": 5215}  # the official list; every clip that is not in the train list
TABLES = {"2": [2], "3": [3], "4": [4], "5": [5], "4 and 5": [4, 5]}


def build(cell: pd.Series, front_end: str = "released") -> SceneNet:
    """The full-size network of one of the 56 cells (a row of ``tables.published``)."""
    sizes = {size: int(cell[size]) for size in SIZES if pd.notna(cell[size])}
    return SceneNet(N_TAGS, front_end=front_end, fusion=cell["system"], **sizes)


def parameters() -> pd.DataFrame:
    """Parameter count of each of the 56 cells, with the released front-end and with Table 1 as printed."""
    cells = published()
    for front_end in ("released", "table1"):
        cells[front_end] = [n_parameters(build(cell, front_end)) for _, cell in cells.iterrows()]
    return cells.drop(columns="accuracy")


def table6() -> pd.DataFrame:
    """Table 6 as published, and beside it the counts of the same systems here.

    The accuracies are the published ones: nothing here was measured on TAU 2019.
    """
    table = pd.read_csv(FOLDER / "published_table6.csv").astype({"parameters": "Int64"})
    ours = {
        "Jung et al. [22]": n_parameters(SceneNet(N_TAGS)),
        "Ours": n_parameters(SceneNet(N_TAGS, fusion="combined_shared", heads=4, layers=3)),
    }
    return table.assign(parameters_here=table["system"].map(ours).astype("Int64"))


def fits(accuracy: float, clips: int, rounded: bool) -> bool:
    """Whether an accuracy printed with two decimals (%) can be a number of correct clips divided by ``clips``.

    ``rounded``: to the nearest hundredth; else cut off after it.
    """
    hundredths = round(100 * accuracy)
    low = 2 * hundredths - rounded  # of the halves of a hundredth that are printed so: low <= x < low + 2
    correct = -(-low * clips // 20_000)  # the least number that reaches low
    return 20_000 * correct < (low + 2) * clips


def digits() -> pd.DataFrame:
    """How many of each table's accuracies fit either test set, cut off or rounded, and how many would by chance.

    By chance, since ``clips`` numbers of correct clips reach that share of the 10,000 hundredths. ``others``: how
    many of all sizes from 3,000 to 6,000 fit a whole table just as well.
    """
    cells, rows = published(), []
    for name, numbers in TABLES.items():
        values = cells.loc[cells["table"].isin(numbers), "accuracy"]
        for rounded in (False, True):
            whole = [n for n in range(3000, 6001) if all(fits(value, n, rounded) for value in values)]
            row = {"table": name, "digits": "rounded" if rounded else "cut off", "values": len(values)}
            for clips in TEST_CLIPS.values():
                row[f"fit {clips}"] = int(np.sum([fits(value, clips, rounded) for value in values]))
                row[f"by chance {clips}"] = round(len(values) * clips / 10_000, 1)
            rows.append(row | {"others that fit all": len(set(whole) - set(TEST_CLIPS.values()))})
    return pd.DataFrame(rows)

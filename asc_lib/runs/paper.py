"""What the paper's own figures tell without any data: sizes, Table 6, and which test set fits."""

import numpy as np
import pandas as pd

from ..fusion import SIZES
from ..scene_net import SceneNet, n_parameters
from .cells import published, published_table6

N_TAGS = 80  # of FSDKaggle2019
TEST_CLIPS = {"test": 4185, "test_all": 5215}  # official list; every clip outside the train list
TABLES = {"2": [2], "3": [3], "4": [4], "5": [5], "4 and 5": [4, 5]}


def build(cell: pd.Series, front_end: str = "released") -> SceneNet:
    """The full-size network of one of the 56 cells (a row of ``published``)."""
    return SceneNet(
        N_TAGS,
        front_end=front_end,
        fusion=cell["system"],
        **{size: int(cell[size]) for size in SIZES if pd.notna(cell[size])},
    )


def best() -> SceneNet:
    return SceneNet(N_TAGS, fusion="combined_shared", heads=4, layers=3)


def parameters() -> pd.DataFrame:
    """Parameter counts of the 56 cells, with the released front-end and with Table 1 as printed."""
    cells = published()
    counts = {
        front_end: [n_parameters(build(cell, front_end)) for _, cell in cells.iterrows()]
        for front_end in ("released", "table1")
    }
    return cells.drop(columns="accuracy").assign(**counts)


def table6() -> pd.DataFrame:
    """Table 6 as published, and beside it the parameter counts of the same systems here.

    The accuracies are the published ones: nothing here was measured on TAU 2019.
    """
    table = published_table6()
    return table.assign(
        parameters_here=table["system"].map(
            {"Jung et al. [22]": n_parameters(SceneNet(N_TAGS)), "Ours": n_parameters(best())}
        )
    ).astype({"parameters_here": "Int64"})


def fits(accuracy: float, clips: int, rounded: bool) -> bool:
    """Whether an accuracy with two decimals (%) can be a count of correct clips out of ``clips``.

    ``rounded``: to the nearest hundredth; else cut off after it.
    """
    # In halves of a hundredth, the printed value stands for low <= x < low + 2.
    low = 2 * round(100 * accuracy) - rounded
    correct = np.ceil(low * clips / 20_000)  # the smallest count that reaches low
    return bool(20_000 * correct < (low + 2) * clips)


def digits() -> pd.DataFrame:
    """How many of each table's accuracies fit either test set, and how many would by chance.

    By chance: ``clips`` counts reach that share of the 10,000 hundredths. ``others``: how many of
    all sizes from 3,000 to 6,000 fit a whole table just as well.
    """
    cells = published()
    rows = []
    for name, numbers in TABLES.items():
        values = cells.loc[cells["table"].isin(numbers), "accuracy"]
        for rounded in (False, True):
            row = {
                "table": name,
                "digits": "rounded" if rounded else "cut off",
                "values": len(values),
            }
            for clips in TEST_CLIPS.values():
                row[f"fit {clips}"] = sum(fits(value, clips, rounded) for value in values)
                row[f"by chance {clips}"] = round(len(values) * clips / 10_000, 1)
            row["others that fit all"] = sum(
                all(fits(value, clips, rounded) for value in values)
                for clips in range(3000, 6001)
                if clips not in TEST_CLIPS.values()
            )
            rows.append(row)
    return pd.DataFrame(rows)

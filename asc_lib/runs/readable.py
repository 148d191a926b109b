"""The tables of ``tables`` as text, as a reader wants them."""

import html
import re

import numpy as np
import pandas as pd

from ..fusion import SIZES

GAIN = ("gain", "gain_low", "gain_high")


def _texts(values: pd.Series, form: str = ".1f") -> pd.Series:
    return values.map(lambda value: "" if np.isnan(value) else f"{value:{form}}")


def _p_values(values: pd.Series) -> pd.Series:
    return _texts(values, ".3f").mask(values < 0.001, "< 0.001")


def spans(table: pd.DataFrame, middle: str, low: str, high: str, sign: str = "") -> list[str]:
    """Figures with their intervals; empty without a figure, alone without an interval."""
    form = f"{{:{sign}.1f}}".format
    texts = []
    for value, *bounds in table.reindex(columns=[middle, low, high]).to_numpy(float):
        span = "" if np.isnan(bounds).any() else f" [{', '.join(map(form, bounds))}]"
        texts.append("" if np.isnan(value) else form(value) + span)
    return texts


def systems(table: pd.DataFrame) -> pd.DataFrame:
    """``measured`` as text: accuracy ± deviation [interval], gain [interval], its test, sizes."""
    if table.empty:
        return table
    table = table.reindex(columns=table.columns.union(["mcnemar", "detectable"], sort=False))
    return pd.DataFrame(
        {
            "seeds": table["seeds"].map(len),
            "accuracy % [95 %]": spans(table, "mean", "low", "high"),
            "± over seeds": _texts(table["std"]),
            "gain over baseline [95 %]": spans(table, *GAIN, sign="+"),
            "p (Holm)": _p_values(table["p_holm"]),
            "McNemar, by clip": _p_values(table["mcnemar"]),
            "detectable gain": _texts(table["detectable"]),
            "training loss": _texts(table["loss"], ".2f"),
            "rise at the end": _texts(table["rise"], "+.1f"),
            "softmax": _texts(table["softmax"]),
            "best on test": _texts(table["best_on_test"]),
            "all clips outside training": _texts(table["test_all"]),
            "parameters": _texts(table["n_parameters"], ","),
            "MMAC per clip": _texts(table["macs"] / 1e6, ".0f"),
        },
        index=table.index,
    )


def brief(table: pd.DataFrame) -> pd.DataFrame:
    return table[[*table.columns[:5], "parameters"]]


def character(table: pd.DataFrame) -> pd.DataFrame:
    """``Results.by_character`` as text."""
    if table.empty:
        return table
    shown = brief(systems(table)).drop(columns="parameters")
    return shown.assign(character=table["character"]).sort_values("system", kind="stable")


def contrasts(table: pd.DataFrame) -> pd.DataFrame:
    if table.empty:
        return table
    return table[["tags", "against"]].assign(
        **{
            "difference [95 %]": spans(table, *GAIN, sign="+"),
            "p (Holm)": _p_values(table["p_holm"]),
            "detectable": _texts(table["detectable"]),
            "parameters": _texts(table["n_parameters"], ","),
            "parameters against": _texts(table["n_against"], ","),
        }
    )


def grid(table: pd.DataFrame) -> pd.DataFrame:
    return table[[size for size in SIZES if table[size].notna().any()]].assign(
        **{
            "published, TAU 2019": _texts(table["published"], ".2f"),
            "measured % [95 %]": spans(table, "mean", "low", "high"),
            "gain [95 %]": spans(table, *GAIN, sign="+"),
            "p (Holm)": _p_values(table["p_holm"]),
        }
    )


def rivals(table: pd.DataFrame) -> pd.DataFrame:
    """``Results.table6`` as text."""
    if table.empty:
        return table
    return pd.DataFrame(
        {
            "follows": table["follows"],
            "published %, TAU 2019": _texts(table["published"], ".2f"),
            "published parameters": _texts(table["parameters"].astype(float), ",.0f"),
            "measured % [95 %]": spans(table, "mean", "low", "high"),
            "parameters": _texts(table["n_parameters"], ","),
            "MMAC per clip": _texts(table["macs"] / 1e6, ".0f"),
        },
        index=table.index,
    )


def literal(text: object) -> str:
    """A text that Markdown shows as it is: no HTML, link, formula or cell border is in it."""
    escaped = html.escape(str(text), quote=False).replace("](", "]\\(")
    return re.sub(r"[|$`]", r"\\\g<0>", escaped)


def markdown(table: pd.DataFrame) -> str:
    rows = [
        map(literal, [table.index.name, *table.columns]),
        ["---"] * (1 + len(table.columns)),
        *(map(literal, row) for row in table.reset_index().to_numpy()),
    ]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)

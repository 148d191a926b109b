"""The committed evidence: tables are what the records give, and the README says what the tables say."""

import json

import pytest

from asc_lib import records, tables
from asc_lib.artefacts import REPOSITORY

RESULTS = REPOSITORY / "results"


def test_the_papers_56_cells():
    cells = tables.published()
    assert cells.groupby("table").size().to_dict() == {2: 8, 3: 20, 4: 8, 5: 20}
    assert cells["accuracy"].max() == 76.75


def test_committed_tables_are_what_the_records_give():
    readable = tables.readable(tables.measured("esc50", RESULTS))
    assert (RESULTS / "esc50" / "systems.csv").read_text() == readable.to_csv()
    assert (readable["seeds"] >= 3).all() and len(readable) >= 6


def test_the_readme_holds_the_committed_table():
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert tables.markdown(tables.readable(tables.measured("esc50", RESULTS))) in readme


def test_predictions_give_the_recorded_accuracy():
    found = records.read_records("esc50", RESULTS)
    assert any(record["system"] == "tagger" for record in found)
    for record in found:
        if record["system"] != "tagger":
            clips = records.read_predictions(record["run"], "esc50", RESULTS)
            for name, part in (("test", clips[clips["split"] == "test"]), ("test_all", clips)):
                assert (part["truth"] == part["svm"]).mean() == pytest.approx(record[name]["accuracy"])


def test_mini_is_informative():
    probe = json.loads((RESULTS / "mini" / "probe.json").read_text())
    assert len(probe["baseline"]) >= 3 and all(0.3 < value < 0.8 for value in probe["baseline"].values())
    assert probe["baseline_mean"] < probe["probe_on_true_tags"] < 0.97
    assert probe["probe_on_tagger_tags"] >= 2 * probe["chance"]

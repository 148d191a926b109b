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


def test_only_seeds_of_one_system_are_pooled(tmp_path):
    import shutil

    shutil.copytree(RESULTS / "esc50" / "records", tmp_path / "esc50" / "records")
    before = tables.measured("esc50", tmp_path)
    path = next((tmp_path / "esc50" / "records").glob("esc50-baseline-seed0-*.json"))
    record = json.loads(path.read_text())
    record["parameters"]["epochs"], record["run"] = 1, "tried"
    (tmp_path / "esc50" / "records" / "tried.json").write_text(json.dumps(record))
    shutil.copy(path.with_suffix(".npz"), tmp_path / "esc50" / "records" / "tried.npz")
    after = tables.measured("esc50", tmp_path)
    assert set(after.index) - set(before.index) == {"baseline, epochs 1"}
    assert after["seeds"]["baseline"] == before["seeds"]["baseline"]

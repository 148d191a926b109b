"""The committed evidence: tables are what the records give; RESULTS.md shows the tables."""

import json
import re
import shutil
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asc_lib.files import REPOSITORY
from asc_lib.runs import cells, paper, readable, records, tables
from asc_lib.runs.tables import Results

RESULTS = REPOSITORY / "results"


def test_the_papers_56_cells():
    published = cells.published()
    assert published.groupby("table").size().to_dict() == {2: 8, 3: 20, 4: 8, 5: 20}
    assert published["accuracy"].max() == 76.75


def test_what_the_papers_figures_tell():
    for name, table in (
        ("parameters", paper.parameters()),
        ("table6", paper.table6()),
        ("digits", paper.digits()),
    ):
        assert (RESULTS / "paper" / f"{name}.csv").read_text() == table.to_csv(index=False)
    page = (REPOSITORY / "PAPER.md").read_text(encoding="utf-8")
    assert readable.markdown(paper.digits().set_index("table")) in page
    assert len(paper.parameters()) == 56
    assert paper.table6().set_index("system")["parameters_here"]["Ours"] == 676_784


@settings(max_examples=200)
@given(st.integers(100, 6000), st.floats(0, 1), st.booleans())
def test_digits_that_fit_are_those_that_a_count_prints(clips, share, rounded):
    printed = set()
    for correct in range(clips + 1):
        exact = Decimal(10_000 * correct) / clips
        printed.add(int(exact.to_integral_value(ROUND_HALF_UP if rounded else ROUND_FLOOR)))
    hundredths = int(share * 10_000)
    assert paper.fits(hundredths / 100, clips, rounded) == (hundredths in printed)


@pytest.mark.parametrize("data", ["mini", "esc50", "second/esc50"])
def test_committed_tables_are_what_the_records_give(data):
    folder = RESULTS / data
    drawn = Results(folder.name, folder.parent).drawn()
    there = {path.name: path.read_text() for path in folder.glob("*.csv")}
    assert drawn == {name: there[name] for name in there if not name.startswith("tune_")}
    assert {"systems.csv", "evidence.csv", "by_scene.csv", "by_city.csv"} <= drawn.keys()


def test_committed_evidence_is_complete():
    esc50, mini = (Results(data, RESULTS) for data in ("esc50", "mini"))
    sweeps = cells.sweeps()
    main, controls = (
        {tables.title(*system) for system in sweeps[name]} for name in ("main", "controls")
    )
    assert main <= set(esc50.measured.index) <= main | controls
    assert (esc50.measured["seeds"].str.len() >= 5).all() and len(mini.measured) == 56
    assert (mini.measured.loc[sorted(main), "seeds"].str.len() == 5).all()
    for number, size in ((2, 8), (3, 20), (4, 8), (5, 20)):
        assert mini.paper_table(number)["mean"].notna().sum() == size
    assert list(esc50.taggers().index) == ["curated", "noisy", "pseudo labels"]


def test_the_page_of_results_holds_the_committed_tables():
    page = (REPOSITORY / "RESULTS.md").read_text(encoding="utf-8")
    results = Results("esc50", RESULTS)
    assert readable.markdown(readable.brief(readable.systems(results.measured))) in page
    assert readable.markdown(results.taggers()) in page
    second = Results("esc50", RESULTS / "second").measured
    assert readable.markdown(readable.brief(readable.systems(second))) in page


@pytest.mark.parametrize("page", ["README.md", "RESULTS.md"])
def test_gains_in_the_prose_are_those_of_the_tables(page):
    number = r"[-+]\d+\.\d"
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    prose = re.sub("```console.*?```", "", text, flags=re.S)  # without what commands printed
    gains = re.findall(rf"{number} \[{number}, {number}\]", prose)
    folders = (RESULTS / "esc50", RESULTS / "second" / "esc50")
    tables_ = "".join(path.read_text() for each in folders for path in each.glob("*.csv"))
    assert gains and all(gain in tables_ for gain in gains)


@pytest.mark.parametrize("data", ["mini", "esc50"])
def test_predictions_give_the_recorded_accuracy(data):
    found = records.read_records(data, RESULTS)
    assert data == "mini" or any(record["system"] == "tagger" for record in found)
    for record in found:
        clips = records.read_predictions(record["run"], data, RESULTS)
        if record["system"] == "tagger":
            for stage, column in (("stage 1", "lrap_stage_1"), ("stage 2", "lrap")):
                lwlrap = (clips[column] * clips["labels"]).sum() / clips["labels"].sum()
                assert lwlrap == pytest.approx(record["lwlrap"][stage]["test"]["lwlrap"])
        else:
            for name, part in (("test", clips[clips["split"] == "test"]), ("test_all", clips)):
                assert (part["truth"] == part["predicted"]).mean() == pytest.approx(
                    record[name]["accuracy"]
                )


def test_mini_is_informative():
    probe = json.loads((RESULTS / "mini" / "probe.json").read_text())
    assert len(probe["baseline"]) >= 3 and all(
        0.3 < value < 0.8 for value in probe["baseline"].values()
    )
    assert probe["baseline_mean"] < probe["probe_on_true_tags"] < 0.97
    assert probe["probe_on_tagger_tags"] >= 2 * probe["chance"]


def test_only_seeds_of_one_system_are_pooled(tmp_path):
    shutil.copytree(RESULTS / "esc50" / "records", tmp_path / "esc50" / "records")
    before = Results("esc50", tmp_path).measured
    path = next((tmp_path / "esc50" / "records").glob("esc50-baseline-seed0-*.json"))
    record = json.loads(path.read_text())
    record["parameters"]["epochs"], record["run"] = 1, "tried"
    (tmp_path / "esc50" / "records" / "tried.json").write_text(json.dumps(record))
    shutil.copy(path.with_suffix(".npz"), tmp_path / "esc50" / "records" / "tried.npz")
    after = Results("esc50", tmp_path).measured
    assert set(after.index) - set(before.index) == {"baseline, epochs 1"}
    assert after["seeds"]["baseline"] == before["seeds"]["baseline"]

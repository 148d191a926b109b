"""The committed evidence: tables are what the records give; RESULTS.md shows the tables."""

import json
import re
import shutil
from decimal import ROUND_FLOOR, ROUND_HALF_UP, Decimal

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asc_lib import stats
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


DATA = ["mini", "esc50", "esc50@0", "esc50@1"]


@pytest.mark.parametrize("data", DATA)
def test_committed_tables_are_what_the_records_give(data):
    drawn = Results(data, RESULTS).drawn()
    there = {path.name: path.read_text() for path in (RESULTS / data).glob("*.csv")}
    assert drawn == {name: there[name] for name in there if not name.startswith("tune_")}
    assert {"systems.csv", "evidence.csv", "by_scene.csv", "by_city.csv"} <= drawn.keys()


def test_committed_evidence_is_complete():
    esc50, mini = (Results(data, RESULTS) for data in ("esc50", "mini"))
    sweeps = cells.sweeps()
    with_yamnet = {
        tables.title(name, sizes | ({} if name == "baseline" else {"tags": "yamnet"}))
        for name, sizes in sweeps["main"]
    }
    assert with_yamnet <= set(esc50.measured.index)
    first = {tables.title(name, sizes | {"tags": "yamnet"}) for name, sizes in sweeps["first"]}
    assert first - {"baseline, yamnet tags"} < set(esc50.by_character.index)
    assert [sizes for _, sizes in sweeps["tags_only"]] == [{"layers": n} for n in (0, 1, 3)]
    alone = {tables.title(name, sizes | {"tags": "yamnet"}) for name, sizes in sweeps["tags_only"]}
    assert alone < set(esc50.by_character.index)
    assert set(esc50.by_character["character"]) == {0, 0.3, 1}
    assert len(mini.measured) == 56 and (mini.measured["seeds"].str.len() == 1).all()
    for number, size in ((2, 8), (3, 20), (4, 8), (5, 20)):
        assert mini.paper_table(number)["mean"].notna().sum() == size


def test_the_page_of_results_holds_the_committed_tables():
    page = (REPOSITORY / "RESULTS.md").read_text(encoding="utf-8")
    esc50 = Results("esc50", RESULTS)
    assert readable.markdown(readable.brief(readable.systems(esc50.measured))) in page
    assert readable.markdown(readable.character(esc50.by_character)) in page
    assert readable.markdown(readable.contrasts(esc50.contrasts)) in page
    assert readable.markdown(readable.rivals(esc50.table6())) in page


def test_what_holds_over_all_comparisons_of_recorded_sounds():
    """RESULTS.md: how many there are, and what would not hold if all were corrected together."""
    page = " ".join((REPOSITORY / "RESULTS.md").read_text(encoding="utf-8").split())
    found = [Results(data, RESULTS) for data in DATA[1:]]
    parts = [table.reset_index() for one in found for table in (one.measured, one.contrasts)]
    tested = pd.concat(parts, keys=range(len(parts))).dropna(subset="p")
    together = pd.Series(stats.holm(tested["p"]), tested.index)
    lost = sorted(together[(tested["p_holm"] < 0.05) & (together >= 0.05)].round(3))
    assert f"In all there are {len(tested)} in six families" in page and lost == [
        0.055,
        0.058,
        0.069,
    ]
    gains = tested.loc[0].query("table.notna() and tags == 'yamnet' and p_holm < 0.05").index
    assert sorted(together.loc[0][gains].round(3))[-2:] == [0.044, 0.055]


@pytest.mark.parametrize("page", ["README.md", "RESULTS.md"])
def test_numbers_in_the_prose_are_those_of_the_tables(page):
    text = (REPOSITORY / page).read_text(encoding="utf-8")
    prose = re.sub("```.*?```", "", text, flags=re.S)  # without what commands printed
    number = r"[-+]?\d+\.\d+"
    span = rf"{number} \[{number}, {number}\]"
    said = set(re.findall(rf"{span}|[-+]\d+\.\d|{number}(?= %)", prose))
    tables_ = "\n".join(path.read_text() for path in sorted(RESULTS.rglob("*.csv")))
    assert said and said <= {*re.findall(span, tables_), *re.findall(number, tables_)}


@pytest.mark.parametrize("data", DATA)
def test_predictions_give_the_recorded_accuracy(data):
    found = records.read_records(data, RESULTS)
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


def test_only_seeds_of_one_system_are_pooled(tmp_path):
    shutil.copytree(RESULTS / "esc50" / "records", tmp_path / "esc50" / "records")
    before = Results("esc50", tmp_path).measured
    (run,) = (
        runs.records[0]["run"]
        for kind, runs in Results("esc50", RESULTS).systems.items()
        if kind.name == "baseline"
    )
    path = tmp_path / "esc50" / "records" / f"{run}.json"
    record = json.loads(path.read_text())
    record["parameters"]["epochs"], record["run"] = 1, "tried"
    (tmp_path / "esc50" / "records" / "tried.json").write_text(json.dumps(record))
    shutil.copy(path.with_suffix(".npz"), tmp_path / "esc50" / "records" / "tried.npz")
    after = Results("esc50", tmp_path).measured
    assert set(after.index) - set(before.index) == {"baseline, epochs 1"}
    assert after["seeds"]["baseline"] == before["seeds"]["baseline"]

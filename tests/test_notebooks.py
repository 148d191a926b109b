"""Notebooks: each one's contract through papermill, and what a committed notebook must be."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from helpers import NOTEBOOKS, execute, execute_here, papermill_line

from asc_lib.files import REPOSITORY
from asc_lib.registry import ParameterError
from asc_lib.runs import cells, records
from asc_lib.scenes import SceneData
from asc_lib.use import system

COMMITTED = sorted(NOTEBOOKS.glob("0[0-9]_*.ipynb"))


def record_of(results: Path) -> dict:
    (path,) = (results / "mini" / "records").glob("*.json")
    return json.loads(path.read_text())


ONE_EPOCH = {"epochs": 1}
RUNS = {
    "02_baseline": ({}, "baseline", 2),
    "03_concatenation": ({"fusion": "codecat", "tags": "true"}, "codecat", 2),
    "04_attention": ({"heads": 4, "layers": 0}, "attention", 3),
    "05_combined": ({"fusion": "combined_separate", "tags": "shuffled"}, "combined_separate", 4),
    "08_rivals": ({"system": "specialists"}, "baseline", 2),
    "08_rivals again": (
        {"fusion": "attention", "system": "sinc_acl", "tags": "true"},
        "attention",
        3,
    ),
}
NO_DATA = "parameter 'data' is 'nope': choose one of esc50, mini, tau2019"


@pytest.fixture(scope="module")
def results_of(tmp_path_factory):
    """Folder of the results of one of ``RUNS``, executed once."""

    @cache
    def run(name: str) -> Path:
        results = tmp_path_factory.mktemp(name) / "results"
        notebook, parameters = f"{name.split()[0]}.ipynb", ONE_EPOCH | RUNS[name][0]
        if name == "04_attention":
            done = papermill_line(notebook, results, parameters)
            assert done.returncode == 0, done.stderr[-2000:]
        else:
            execute(NOTEBOOKS / notebook, results, results.parent, **parameters)
        return results

    return run


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.slow] * (name == "08_rivals")) for name in RUNS],
)
def test_a_scene_notebook_leaves_its_record_and_its_system(name, results_of, tmp_path):
    parameters, fusion, table = RUNS[name]
    results = results_of(name)
    record = record_of(results)
    assert (record["system"], record["table"]) == (fusion, table)
    expected = {"data": "mini", "seed": 0, "epochs": 1} | parameters
    rival = expected.pop("system", "narrow")  # of notebook 08: a recipe, or a front-end
    named = {"recipe": rival, "front_end": "narrow"}
    expected |= named if rival == "specialists" else {"front_end": rival}
    assert record["parameters"].items() >= expected.items()
    assert record["data"]["clips"] == {"train": 360, "test": 180, "unused": 20}
    assert record["test"]["clips"] == 180 and record["test_all"]["clips"] == 200
    assert record["test"]["locations"] == 180
    for figures in (record["test"], record["test_all"]):
        assert figures["interval"][0] <= figures["accuracy"] <= figures["interval"][1]
        assert figures["accuracy_paper_protocol"] >= figures["accuracy"] >= 0
        assert figures["choices"] == 2
        assert figures["accuracy_by_kernel"]["rbf"] == figures["accuracy"]
        assert max(figures["accuracy_by_kernel"].values()) == figures["accuracy_paper_protocol"]
    clips = records.read_predictions(record["run"], "mini", results)
    test = clips[clips["split"] == "test"]
    assert len(clips) == 200 and (test["truth"] == test["predicted"]).mean() == pytest.approx(
        record["test"]["accuracy"]
    )
    assert len(record["history"]) == (5 if name == "08_rivals" else 1)
    assert record["seconds"] > 0 and record["environment"]["torch"]
    assert (record["tags"] is None) == (fusion == "baseline")
    folder = results / "mini" / "systems" / record["run"]
    assert system.load(folder).about["test"] == record["test"]
    if name == "04_attention":
        notebook = NOTEBOOKS / "07_your_recordings.ipynb"
        execute(notebook, tmp_path / "results", tmp_path, system=folder)
        executed = (tmp_path / "results" / "out.ipynb").read_text(encoding="utf-8")
        assert "three_scenes.wav" in executed and "cut into 3 windows of 4 s" in executed
    if name == "05_combined":
        assert record["tags"]["lwlrap"]["lwlrap"] > 2 * record["tags"]["lwlrap"]["chance"]


def test_the_tagger_notebook_leaves_its_record(tmp_path):
    notebook = NOTEBOOKS / "01_tagger.ipynb"
    execute(notebook, tmp_path / "results", tmp_path, **ONE_EPOCH)
    record = record_of(tmp_path / "results")
    assert record["system"] == "tagger" and record["parameters"]["epochs"] == 1
    assert record["parameters"]["supervision"] == "pseudo_labels" and record["networks"] == 2
    for stage in ("stage 1", "stage 2"):
        test = record["lwlrap"][stage]["test"]
        assert (
            test["clips"] == 160 and test["interval"][0] < test["lwlrap"] < test["interval"][1] < 1
        )
    clips = records.read_predictions(record["run"], "mini", tmp_path / "results")
    assert clips["fname"].is_unique and np.average(
        clips["lrap"], weights=clips["labels"]
    ) == pytest.approx(record["lwlrap"]["stage 2"]["test"]["lwlrap"])
    assert {(row["stage"], row["fold"]) for row in record["history"]} == {
        (1, 1),
        (1, 2),
        (2, 1),
        (2, 2),
    }


@pytest.mark.parametrize(
    "name, parameters, message",
    [
        ("04_attention", {"head": 2}, "unknown parameter 'head'; did you mean 'heads'\\?"),
        ("04_attention", {"heads": 3}, "3 does not divide the 128 filters"),
        ("04_attention", {"heads": True}, "parameter 'heads' is a whole number"),
        *(
            (name, {"data": "nope"}, NO_DATA)
            for name in ("00_data", "06_results", "07_your_recordings")
        ),
    ],
)
def test_a_wrong_parameter_stops_a_notebook(name, parameters, message):
    with pytest.raises(ParameterError, match=message):
        execute_here(name, **parameters)


def test_a_folder_that_is_no_system_stops_notebook_07(tmp_path):
    message = "is not a system that can be loaded: it has no system.json"
    with pytest.raises(system.UnfitSystem, match=message):
        execute_here("07_your_recordings", system=str(tmp_path))


def test_the_same_run_twice_gives_the_same_record(results_of, tmp_path, monkeypatch):
    """Once as a notebook, once as a program."""
    monkeypatch.setenv("ASC_RESULTS", str(tmp_path))
    (cell,) = cells.cells("baseline", data="mini", epochs=1)
    settings = cell.settings()
    system.train_and_save(settings, SceneData.open(settings))
    first, second = record_of(results_of("02_baseline")), record_of(tmp_path)
    assert first.pop("seconds") and second.pop("seconds") and first == second


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_committed_notebooks_read_well(path):
    text = path.read_text(encoding="utf-8")
    notebook = json.loads(text)
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(text) < 400_000 and "widgets" not in notebook["metadata"]
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    widgets = [cell for cell in code if cell["metadata"].get("tags") == ["widget"]]
    assert all(cell["execution_count"] for cell in code if cell not in widgets), "not executed"
    assert not any(cell["outputs"] for cell in widgets), "a widget without its kernel shows nothing"
    assert not any(output["output_type"] == "error" for cell in code for output in cell["outputs"])
    assert sum(cell["metadata"].get("tags") == ["parameters"] for cell in code) == 1
    assert str(REPOSITORY) not in text and "execution" not in str(
        [cell["metadata"] for cell in code]
    )
    for cell in code:
        lines = [line for line in "".join(cell["source"]).splitlines() if line.strip()]
        assert len(lines) <= 25 and max(map(len, lines)) <= 100
        plain = "plain" in cell["metadata"].get(
            "tags", []
        )  # the network, from PyTorch's own layers
        assert plain or not any(line.startswith("class ") for line in lines)

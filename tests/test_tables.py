"""Tables from records that are made up here, so that what they must say is known."""

import json

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from asc_lib import corpora, plots, stats
from asc_lib.cli import app
from asc_lib.fusion import SIZES
from asc_lib.runs import cells, changes, readable, tables
from asc_lib.runs.tables import Results

SCENES, CITIES = ["airport", "park"], ["lyon", "vienna"]
CLIPS = 40
TRUTH = np.arange(CLIPS) % 2


def write(root, system, seed, wrong, tags="tagger", **sizes):
    """A run on 20 locations of two clips; those numbered in ``wrong`` are misclassified."""
    folder = root / "mini" / "records"
    folder.mkdir(parents=True, exist_ok=True)
    predicted = np.where(np.isin(np.arange(CLIPS), list(wrong)), 1 - TRUTH, TRUTH)
    run = "-".join(map(str, ("mini", system, tags, *sizes.values(), seed)))
    clips = {
        "filename": np.array([f"{k:03d}.wav" for k in range(CLIPS)]),
        "location": np.array([f"place{k // 2}" for k in range(CLIPS)]),
        "city": np.array([CITIES[k // 20] for k in range(CLIPS)]),
        "beds": np.array([""] * CLIPS),
        "split": np.array(["test"] * CLIPS),
    }
    shuffled = np.random.default_rng(seed).permutation(
        CLIPS
    )  # the order of clips is nothing to rely on
    columns = clips | {"truth": TRUTH}
    columns |= dict.fromkeys(("predicted", "softmax", "rbf"), predicted)
    np.savez(folder / f"{run}.npz", **{name: column[shuffled] for name, column in columns.items()})
    tagged = {"source": tags, "fingerprint": tags if tags != "shuffled" else f"shuffled {seed}"}
    parameters = dict(
        data="mini", seed=seed, epochs=14, device="cpu", threads=1, front_end="narrow"
    )
    parameters |= {"precision": "float32", "fusion": system}
    if system != "baseline":
        parameters |= dict(tags=tags) | {size: sizes.get(size) for size in SIZES}
    share = float(np.mean(predicted == TRUTH))
    figures = {
        **dict.fromkeys(("accuracy", "accuracy_softmax", "accuracy_paper_protocol"), share),
        **dict.fromkeys(("balanced_accuracy", "accuracy_logistic"), share),
        "clips": CLIPS,
        "locations": CLIPS // 2,
        "interval": [0.0, 1.0],
        "accuracy_by_kernel": {"rbf": share},
        "choices": 1,
    }
    record = {
        "run": run,
        "table": {"baseline": 2, "codecat": 2, "attention": 3, "combined_shared": 5}.get(system),
        "system": system,
        "parameters": parameters,
        "data": {"name": "mini", "clips": {"test": CLIPS}, "fingerprint": "f"},
        "tags": None if system == "baseline" else tagged,
        "tag_scale": "raw",
        "back_end": {"name": "rbf"},
        "labels": SCENES,
        "n_parameters": 1000,
        "macs": 2_000_000,
        "test": figures,
        "test_all": figures,
        "history": [{"epoch": 1, "loss": 1.0}],
        "seconds": 1.0,
        "environment": {},
    }
    (folder / f"{run}.json").write_text(json.dumps(record))


@pytest.fixture
def root(tmp_path):
    for seed in (0, 1):
        write(tmp_path, "baseline", seed, range(seed, 20))
        write(tmp_path, "attention", seed, range(seed, 6), heads=2, layers=1)
        write(tmp_path, "attention", seed, range(seed, 16), tags="constant", heads=2, layers=1)
        write(
            tmp_path, "combined_shared", seed, range(seed, 20), tags="shuffled", heads=4, layers=3
        )
    write(tmp_path, "combined_shared", 0, range(10), heads=4, layers=3)
    return tmp_path


def test_systems_by_mean_over_seeds_and_gain_on_the_same_clips(root):
    table = Results("mini", root).measured
    assert list(table.index) == [
        "baseline",
        "attention, 2 heads, 1 layer",
        "combined shared, 4 heads, 3 layers",
        "attention, 2 heads, 1 layer, constant tags",
        "combined shared, 4 heads, 3 layers, shuffled tags",
    ]
    row = table.loc["attention, 2 heads, 1 layer"]
    assert (
        row["seeds"] == [85.0, 87.5]
        and row["mean"] == 86.25
        and row["std"] == pytest.approx(1.7678, abs=1e-4)
    )
    assert row["gain"] == pytest.approx(86.25 - 51.25)
    assert row["gain_low"] < row["gain"] < row["gain_high"] and row["p"] < 0.01
    assert table["p_holm"].tolist() == pytest.approx(stats.holm(table["p"]), nan_ok=True)
    assert (
        np.isnan(table.loc["baseline", "p"])
        and table["control"].tolist() == [False] * 3 + [True] * 2
    )
    assert table["seeds"].map(len).tolist() == [2, 2, 1, 2, 2]


def test_a_system_against_itself_with_other_tags(root):
    table = Results("mini", root).contrasts
    assert table[["tags", "against"]].to_numpy().tolist() == [
        ["tagger", "constant"],
        ["tagger", "shuffled"],
    ]
    assert table["gain"].tolist() == pytest.approx([25.0, 100 * (10 / 40 - 1 / 80)])


def test_a_system_against_the_same_tags_without_the_waveform(root):
    for seed in (0, 1):
        for layers in (0, 3):
            write(root, "tags_only", seed, range(8 - layers), layers=layers)
        write(root, "attention", seed, [seed], heads=2, layers=2)
        write(root, "codecat", seed, [seed])
    table = Results("mini", root).contrasts
    table = table[table["against"].str.startswith("tags only")]
    assert table["against"].to_dict() == {  # by the nearest number of layers
        "codecat": "tags only, 0 layers",
        "attention, 2 heads, 1 layer": "tags only, 0 layers",
        "attention, 2 heads, 2 layers": "tags only, 3 layers",
        "combined shared, 4 heads, 3 layers": "tags only, 3 layers",
    }
    gain = table.loc["attention, 2 heads, 1 layer", "gain"]
    assert gain == pytest.approx(86.25 - 80)


def test_loss_and_rise_at_the_end_of_training(root):
    for path in (root / "mini" / "records").glob("*baseline*.json"):
        record = json.loads(path.read_text())
        end = record["test"]["accuracy_by_kernel"]["rbf"]
        record["history"] = [
            {"epoch": epoch, "loss": 8 / epoch} | ({"test_rbf": end - down} if down else {})
            for epoch, down in ((4, 0.1), (8, 0.02), (9, 0.01), (10, 0))
        ]
        path.write_text(json.dumps(record))
    results = Results("mini", root)
    curve = results.learning().loc["baseline"].dropna()  # others have their last epoch alone
    assert curve.to_dict() == {4: 41.2, 8: 49.2, 9: 50.2, 10: 51.2}
    row = readable.systems(results.measured).loc["baseline"]
    assert (row["training loss"], row["rise at the end"]) == ("0.80", "+2.0")  # since epoch 8


def test_a_control_of_a_published_model_is_compared_with_it(root):
    for seed in (0, 1):
        for tags in ("yamnet", "shuffled_yamnet", "true"):
            sizes = dict(heads=2, layers=1)
            write(root, "attention", seed, range(seed, len(tags)), tags=tags, **sizes)
    table = Results("mini", root).contrasts
    assert table[["tags", "against"]].to_numpy().tolist() == [
        ["tagger", "constant"],
        ["yamnet", "shuffled_yamnet"],
        ["tagger", "true"],
        ["yamnet", "true"],
        ["tagger", "shuffled"],
    ]


def test_detectable_is_at_the_level_of_the_first_comparison(root):
    table = Results("mini", root).measured
    tested = table[table["p"].notna()]
    assert len(tested) == 3  # one of the four has one seed
    corrected = stats.detectable(tested["error"], tested["df"], 3)
    assert tested["detectable"].tolist() == pytest.approx(corrected.tolist())


def test_contrasts_say_where_parameters_differ(root):
    for path in (root / "mini" / "records").glob("*constant*.json"):
        path.write_text(path.read_text().replace('"n_parameters": 1000', '"n_parameters": 1200'))
    shown = readable.contrasts(Results("mini", root).contrasts)
    columns = ["parameters", "parameters against"]
    assert shown[columns].to_numpy().tolist() == [["1,000", "1,200"], ["1,000", "1,000"]]


def test_places_that_share_a_bed_widen_intervals(root):
    before = Results("mini", root).measured.loc["attention, 2 heads, 1 layer"]
    for path in (root / "mini" / "records").glob("*.npz"):
        with np.load(path) as columns:
            clips = dict(columns)
        numbers = [int(name.removesuffix(".wav")) for name in clips["filename"]]
        beds = np.array([f"rain{number // 10} own{number // 2}" for number in numbers])
        np.savez(path, **clips | {"beds": beds})
    after = Results("mini", root).measured.loc["attention, 2 heads, 1 layer"]
    assert after["mean"] == before["mean"] and after["gain"] == before["gain"]
    assert after["low"] < before["low"] and after["error"] > before["error"]
    assert after["p"] > before["p"]


def test_the_papers_cells_in_its_order(root):
    grid = Results("mini", root).paper_table(3)
    assert len(grid) == 20 and grid["mean"].notna().sum() == 1
    (row,) = grid[grid["mean"].notna()].itertuples()
    assert (row.heads, row.layers, row.published, row.mean) == (2, 1, 76.58, 86.25)
    assert Results("mini", root).paper_table(4)["mean"].isna().all()


def changed_to(root, run, name, own=None, **parameters):
    """A copy of a run under another name, as if it had had these parameters, and recipe ``own``."""
    path = root / "mini" / "records" / f"{run}.json"
    record = json.loads(path.read_text())
    record["run"] = name
    record["parameters"] |= parameters
    record["recipe"] = own
    path.with_name(f"{name}.json").write_text(json.dumps(record))
    path.with_name(f"{name}.npz").write_bytes(path.with_suffix(".npz").read_bytes())


def test_table_6_holds_rivals_beside_the_figures_that_they_follow(root):
    assert Results("mini", root).table6().empty
    assert "table6.csv" not in Results("mini", root).drawn()
    run = "mini-baseline-tagger-0"
    changed_to(root, run, "a", front_end="sinc_acl")
    own = {"schedule": "linear", "epochs": 350}  # the front-end brings it, without the parameter
    changed_to(root, run, "b", own, front_end="cp_resnet", epochs=350)
    changed_to(root, run, "c", {"specialists": 2}, recipe="specialists")
    changed_to(root, run, "d", recipe="mine.toml")
    changed_to(root, "mini-attention-tagger-2-1-1", "e", recipe="crop_pad")
    table = Results("mini", root).table6()
    assert table[["follows", "published"]].fillna(0).T.to_dict("list") == {
        "baseline": ["", 0],
        "baseline, epochs 350, front_end cp_resnet": ["Koutini et al. 2019", 0],
        "baseline, front_end sinc_acl": ["Huang et al. [2]", 76.08],
        "baseline, recipe specialists": ["Jung et al. [22]", 75.81],
        "attention, 2 heads, 1 layer": ["", 0],
        "attention, 2 heads, 1 layer, recipe crop_pad": ["Zheng et al. [8]", 69.23],
        "combined shared, 4 heads, 3 layers": ["Ours", 76.75],
    }
    text = readable.rivals(table)
    assert text.loc["baseline, recipe specialists"].tolist() == [
        *("Jung et al. [22]", "75.81", "636,000"),
        *(text["measured % [95 %]"]["baseline, front_end sinc_acl"], "1,000", "2"),
    ]
    assert text["published parameters"]["attention, 2 heads, 1 layer, recipe crop_pad"] == ""
    assert Results("mini", root).drawn()["table6.csv"] == text.to_csv()


def test_by_scene_and_by_city(root):
    name = "attention, 2 heads, 1 layer"
    results = Results("mini", root)
    cities = {"lyon": pytest.approx(72.5), "vienna": 100}
    assert results.by("city").loc[name].to_dict() == cities
    assert results.by("scene").loc[name].to_dict() == {"airport": 87.5, "park": 85.0}


def command(cell):
    """The words of the command of a cell's record."""
    settings = cell.settings()
    record = {"system": settings.fusion, "parameters": settings.parameters()}
    return tables.command(record, settings.preset, settings.data).split()


def test_the_command_of_a_figure_is_that_of_its_cell(root):
    sweeps = cells.sweeps()
    for system, parameters in [*sweeps["main"], *sweeps["controls"]]:
        cell = cells.cell(system, parameters, data="mini", seed=3)
        line = command(cell)
        assert line[:3] == ["papermill", f"{cell.notebook}.ipynb", "out.ipynb"]
        given = dict(zip(line[4::3], line[5::3]))
        assert given == {name: str(value) for name, value in cell.parameters.items()}
    changed = command(cells.cell("baseline", {}, data="mini", seed=0, epochs=3))
    assert "-p epochs 3" in " ".join(changed)


def test_a_table_that_records_do_not_give_is_found(root, monkeypatch):
    monkeypatch.setenv("ASC_RESULTS", str(root))
    run = CliRunner().invoke
    assert run(app, ["tables", "--data", "mini"]).exit_code == 0
    checked = run(app, ["tables", "--data", "mini", "--check"])
    assert checked.exit_code == 0
    assert "all 9 tables in" in checked.output
    path = root / "mini" / "contrasts.csv"
    path.write_text(path.read_text().replace("+25.0", "+26.0"))
    (root / "mini" / "taggers.csv").write_text("typed by hand")
    (root / "mini" / "mine.csv").write_text("not ours")
    checked = run(app, ["tables", "--data", "mini", "--check"])
    assert checked.exit_code == 1
    where = f"contrasts.csv, taggers.csv in {root / 'mini'} do not match the records"
    assert where in str(checked.exception) + checked.output
    assert run(app, ["tables", "--data", "mini"]).exit_code == 0
    assert run(app, ["tables", "--data", "mini", "--check"]).exit_code == 0
    assert not (root / "mini" / "taggers.csv").exists() and (root / "mini" / "mine.csv").exists()


def test_one_seed_has_an_interval_and_no_test(root):
    row = Results("mini", root).measured.loc["combined shared, 4 heads, 3 layers"]
    assert (
        row["gain_low"] < row["gain"] < row["gain_high"]
        and np.isnan([row["p"], row["detectable"]]).all()
    )
    shown = readable.systems(Results("mini", root).measured).loc[
        "combined shared, 4 heads, 3 layers"
    ]
    assert shown["p (Holm)"] == shown["detectable gain"] == shown["McNemar, by clip"] == ""


@pytest.mark.parametrize("kept", ["baseline", "attention", "nothing"])
def test_any_part_of_the_records_gives_its_tables(root, kept, monkeypatch):
    monkeypatch.setenv("ASC_RESULTS", str(root))
    for path in (root / "mini" / "records").iterdir():
        if f"mini-{kept}-tagger" not in path.name:
            path.unlink()
    done = CliRunner().invoke(app, ["tables", "--data", "mini"])
    if kept == "nothing":
        assert done.exit_code == 1 and "no record in" in done.output + str(done.exception)
    else:
        assert done.exit_code == 0 and kept in done.output and "nan" not in done.output
        assert CliRunner().invoke(app, ["tables", "--data", "mini", "--check"]).exit_code == 0


def test_one_place_leaves_the_figure_alone(root, monkeypatch):
    for path in (root / "mini" / "records").glob("*.npz"):
        with np.load(path) as columns:
            changed = dict(columns) | {"location": np.array(["one"] * CLIPS)}
        np.savez(path, **changed)
    shown = readable.systems(Results("mini", root).measured)
    assert shown.loc["baseline", "accuracy % [95 %]"] == "51.2"
    assert shown.loc["attention, 2 heads, 1 layer", "gain over baseline [95 %]"] == "+35.0"


def spoil(root, how):
    """Spoil the first record or its predictions; the file that the message has to name."""
    record = min((root / "mini" / "records").glob("*.json"))
    predictions = record.with_suffix(".npz")
    if how == "record cut":
        record.write_text(record.read_text()[:200])
    elif how == "no record":
        (record := record.with_name("notes.json")).write_text("[]")
    elif how == "predictions cut":
        predictions.write_bytes(predictions.read_bytes()[:200])
    elif how == "no predictions":
        predictions.unlink()
    elif how == "other predictions":
        predictions.write_bytes(
            (root / "mini" / "records" / "mini-baseline-tagger-0.npz").read_bytes()
        )
    elif how == "twice":
        changed = json.loads(record.read_text()) | {"run": "again"}
        record.with_name("again.json").write_text(json.dumps(changed))
    return (record if "record" in how else predictions).name if how != "twice" else "again"


@pytest.mark.parametrize(
    "how",
    ["record cut", "no record", "predictions cut", "no predictions", "other predictions", "twice"],
)
def test_spoilt_records_are_named_in_one_line(root, how, monkeypatch):
    monkeypatch.setenv("ASC_RESULTS", str(root))
    name = spoil(root, how)
    done = CliRunner().invoke(app, ["tables", "--data", "mini"])
    message = str(done.exception)
    assert done.exit_code == 1 and isinstance(done.exception, SystemExit)
    assert (
        message.startswith("asc tables: ")
        and name in message
        and "remove" in message
        and "\n" not in message
    )


def test_a_plugin_that_is_not_loaded_has_its_row(root):
    write(root, "unheard_of", 0, range(4), layers=2)
    results = Results("mini", root)
    row = results.measured.loc["unheard of, 2 layers"]
    assert row["gain"] == pytest.approx(90 - 51.25)
    line = "papermill 05_combined.ipynb out.ipynb -p data mini -p seed 0 -p fusion unheard_of"
    assert row["command"] == f"{line} -p layers 2"
    assert "evidence.csv" in results.drawn()


def test_two_sets_of_data_under_one_name_are_told_apart(root):
    for path in list((root / "mini" / "records").glob("mini-baseline-*.json")):
        record = json.loads(path.read_text())
        record["run"], record["data"]["fingerprint"] = f"{record['run']}-again", "g"
        path.with_name(f"{record['run']}.json").write_text(json.dumps(record))
        path.with_name(f"{record['run']}.npz").write_bytes(path.with_suffix(".npz").read_bytes())
    names = set(Results("mini", root).measured.index)
    assert {"baseline, data f", "baseline, data g", "attention, 2 heads, 1 layer"} <= names
    assert names == set(Results("mini", root).by("scene").index)


def test_which_clips_change(tmp_path):
    write(tmp_path, "baseline", 0, [0, 1, 2, 3])  # wrong: 0 and 2 of airport, 1 and 3 of park
    write(tmp_path, "baseline", 1, [0, 1])
    write(tmp_path, "attention", 0, [0, 4], heads=2, layers=1)
    table = changes.changes(Results("mini", tmp_path))
    attention = table.loc["attention, 2 heads, 1 layer"]
    assert attention["clips"].to_dict() == {"airport": 20, "all": 40, "park": 20}
    # wrong clips of both seeds: 0 2 | 0 of airport, 1 3 | 1 of park
    assert attention["gained"].round(3).to_dict() == {"airport": 33.333, "all": 66.667, "park": 100}
    assert attention["kept"]["airport"] == pytest.approx(100 * 35 / 37)
    again = table.loc["baseline"]  # 2 and 3 in one order; in the other none
    assert again["gained"]["all"] == pytest.approx(100 * 2 / 6)
    assert again["kept"]["all"] == pytest.approx(100 * 72 / 74)
    parts = pd.DataFrame({"filename": ["000.wav", "000.wav", "002.wav", "003.wav", "004.wav"]})
    parts = parts.assign(tag=["rain", "rain", "dog", "rain", "bed"], role=["event"] * 4 + ["bed"])
    table = changes.changes(Results("mini", tmp_path), changes.sounds(parts))
    attention = table.loc["attention, 2 heads, 1 layer"]
    assert attention["clips"].to_dict() == {"all": 40, "dog": 1, "rain": 2}
    assert attention["gained"]["rain"] == pytest.approx(100 / 3)  # 0 3 | 0: only 3 is right now
    assert attention["kept"].to_dict()["dog"] == 100
    assert changes.changes(Results("mini", tmp_path / "none")).empty


def test_by_character(root, tmp_path):
    assert Results("mini", root).by_character.empty
    for value in ("0", "1"):
        for seed in (0, 1):
            write(tmp_path / "other", "baseline", seed, range(seed, 20))
            write(tmp_path / "other", "attention", seed, range(4), heads=2, layers=1)
        (tmp_path / "other" / "mini").rename(root / f"mini@{value}")
    (root / "mini@10s").mkdir()  # of a folder with that name
    for path in root.glob("mini@?/records/*.json"):
        record = json.loads(path.read_text())
        record["data"]["name"] = corpora.find(path.parts[-3]).name
        path.write_text(json.dumps(record))
    table = Results("mini", root).by_character
    assert table["character"].tolist() == [0.0, 0.0, 0.3, 0.3, 1.0, 1.0]
    assert set(table.index) == {"baseline", "attention, 2 heads, 1 layer"}
    shown = readable.character(table).loc["attention, 2 heads, 1 layer"]
    assert shown["character"].tolist() == [0.0, 0.3, 1.0]
    assert shown["accuracy % [95 %]"].str[:4].tolist() == ["90.0", "86.2", "90.0"]
    figure = plots.by_character(table)
    assert [len(axis.containers) for axis in figure.axes] == [2, 2]

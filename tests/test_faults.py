"""Kinds of faults: each test holds for the next instance of its kind, not for one example."""

import ast
import copy
import json
import multiprocessing
import os
import re
import struct
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
from helpers import ATTENTION, roots
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from typer.testing import CliRunner

import asc_lib
from asc_lib import cli, corpora, files, settings
from asc_lib.corpora import audio, checks, store
from asc_lib.corpora.data_set import COLUMNS, SceneCorpus
from asc_lib.corpora.splits import made_split
from asc_lib.registry import ParameterError
from asc_lib.runs import readable, records, sweep, tables
from asc_lib.tags import sources
from asc_lib.tags.tagger import Tagger
from asc_lib.use import explorer, system

SOURCES = {path: path.read_text("utf-8") for path in Path(asc_lib.__file__).parent.rglob("*.py")}
NOTEBOOKS = Path(asc_lib.__file__).parents[1] / "notebooks"
ODD = (None, -1, 10**9, 1e300, True, "", "x\x1b[2J", "\n", [], {}, [None], {"a": []}, "rbf")


def asc(*words: object) -> tuple[int, str]:
    done = CliRunner().invoke(cli.app, list(map(str, words)))
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.output


@pytest.fixture
def own(tmp_path, monkeypatch):
    """A custom data set of 32 clips of two labels, in a folder called ``ownset``."""
    monkeypatch.setenv("ASC_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("ASC_RESULTS", str(tmp_path / "results"))
    root = tmp_path / "ownset"
    (root / "audio").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for k in range(32):
        sound = 0.1 * rng.standard_normal((16_000, 1))
        soundfile.write(root / "audio" / f"{k:02}.wav", sound, 16_000)
    write(root, table())
    return root


def table() -> pd.DataFrame:
    numbers = range(32)
    return pd.DataFrame(
        {
            "filename": [f"audio/{k:02}.wav" for k in numbers],
            "label": [("park", "tram")[k % 2] for k in numbers],
            "location": [f"place-{k}" for k in numbers],
            "city": "here",
            "split": ["test" if k < 4 else "train" for k in numbers],
        }
    )


def write(root: Path, clips: pd.DataFrame, file: str = "clips.csv") -> None:
    clips.to_csv(root / file, index=False)


def findings(root: Path) -> str:
    return asc("data", "check", root)[1]


# Identity


@pytest.mark.parametrize("column", COLUMNS)
def test_every_cell_of_a_corpus_is_in_its_identity(small_mini, tmp_path, column):
    clips = small_mini.clips.copy()
    value = clips[column].iloc[-1]
    clips[column] = [*clips[column].iloc[:-1], value + 1 if column == "fold" else f"{value}x"]
    other = SceneCorpus("mini", small_mini.root, clips)
    assert other.fingerprint != small_mini.fingerprint
    if column == "split":  # and so in that of a run, and of its checkpoint
        with roots(tmp_path):
            checked = settings.check("04_attention", **ATTENTION)
            runs = {records.scene_run(checked, store.pack(c), None) for c in (small_mini, other)}
        assert len(runs) == 2


def test_another_split_is_another_run(own):
    given = ATTENTION | {"data": str(own)}
    names = set()
    for split in ("train", "unused"):
        write(own, table().assign(split=["test"] * 4 + [split] + ["train"] * 27))
        checked = settings.check("04_attention", **given)
        names.add(records.scene_run(checked, store.pack(corpora.find(str(own)).scenes()), None))
    assert len(names) == 2


# Paths


def test_one_folder_is_one_data_set_however_it_is_typed(own, monkeypatch):
    monkeypatch.chdir(own.parent)
    monkeypatch.setenv("HOME", str(own.parent))
    typed = ("ownset", "./ownset", "ownset/", str(own), "~/ownset", "audio/../ownset/.")
    (own.parent / "audio").mkdir()
    found = {settings.check("02_baseline", **baseline_of(name)).data for name in typed}
    assert found == {str(own)}
    with pytest.raises(ParameterError, match="parameter 'data' is ''"):
        settings.check("02_baseline", **baseline_of(""))
    kept = settings.check("04_attention", **(ATTENTION | {"data": "ownset"})).parameters()
    assert kept["data"] == "own_ownset"


def baseline_of(data: str) -> dict:
    return {name: ATTENTION[name] for name in settings.NOTEBOOKS["02_baseline"]} | {"data": data}


def test_records_hold_names_and_no_paths(own):
    (own / "tags.csv").write_text("filename,Dog\n")
    given = ATTENTION | {"data": str(own), "tags": str(own / "tags.csv")}
    assert str(own) not in json.dumps(settings.check("04_attention", **given).parameters())


@pytest.mark.parametrize("value", ["~/x", "sub/x", "/x//y/../y"])
def test_a_variable_names_one_folder_wherever_it_is_read(monkeypatch, tmp_path, value):
    found = set()
    for here in (tmp_path, NOTEBOOKS):
        monkeypatch.chdir(here)
        monkeypatch.setenv("ASC_DATA", value)
        found.add(files.data_root())
    assert len(found) == 1 and "~" not in str(found) and found.pop().is_absolute()


def test_variables_are_read_in_one_place():
    for path, text in SOURCES.items():
        for node in ast.walk(ast.parse(text)):
            strings = [n.value for n in ast.walk(node) if isinstance(n, ast.Constant)]
            if isinstance(node, ast.Call | ast.Subscript) and "environ" in ast.unparse(node):
                asks = any(str(value).startswith("ASC_") for value in strings)
                assert not asks or path.name == "files.py", f"{path}:{node.lineno}"


# Markup


def test_only_one_widget_shows_html_and_it_escapes():
    for path, text in SOURCES.items():
        tree = ast.parse(text)
        for node in ast.walk(tree):
            sinks = ("widgets.HTML", "widgets.HTMLMath", "Markdown", "display.HTML", "Javascript")
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith(sinks):
                raise AssertionError(f"{path}:{node.lineno} shows markup: use explorer.Lines")
    lines = explorer.Lines()
    lines.say("<img src=x onerror=alert(1)>", "a & b")
    assert lines.value == "&lt;img src=x onerror=alert(1)&gt;<br>a &amp; b"


def test_notebooks_show_as_markdown_only_what_is_escaped():
    safe = ("inspect.getsource", "card(", "markdown(")
    for path in NOTEBOOKS.glob("*.ipynb"):
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                tree = ast.parse("".join(cell["source"]))
                for call in (n for n in ast.walk(tree) if isinstance(n, ast.Call)):
                    if ast.unparse(call.func) in ("Markdown", "HTML", "Javascript", "Latex"):
                        assert any(word in ast.unparse(call) for word in safe), path


@pytest.mark.parametrize("text", ["<b>x</b>", "a|b", "$x^2$", "[x](javascript:1)", "`x`"])
def test_markdown_tables_show_cells_as_they_are(text):
    row = readable.markdown(pd.DataFrame({"value": {"a": text}}).rename_axis("")).splitlines()[-1]
    cell = row.removeprefix("| a | ").removesuffix(" |")
    assert not re.search(r"<|\]\(|(?<!\\)[|$`]", cell)


def test_no_name_moves_the_cursor_or_begins_a_line(own, tmp_path):
    name = "x\n0 wrong, 0 to note\x1b[2J.wav"
    (own / "audio" / name).write_bytes(b"")
    assert files.shown(f"{name}\n  see") == "x\\n0 wrong, 0 to note\\x1b[2J.wav\n  see"
    with pytest.raises(ValueError, match=r"'x\\n0 wrong.*control characters"):
        audio.Recording.open(Path(name), 48_000)
    for column in ("label", "location", "city", "filename"):
        clips = table()
        clips.loc[3, column] = "a\x1b[2Jb"
        write(own, clips)
        out = findings(own)
        assert "\x1b" not in out and ("line 5 has a control character" in out or "names" in out)


# Replacing


def test_only_regular_files_and_folders_are_replaced(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for path in (Path("/dev/null"), tmp_path / "fifo", Path("/")):
        with pytest.raises(OSError, match="not the name of a regular file"):
            files.write_text(path, "x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError):
        files.write_text(tmp_path / "folder", "x")
    assert not list(tmp_path.glob("*.part"))


def save_folder(path: Path, text: str) -> None:
    with files.written_whole(path) as folder:
        folder.mkdir()
        for name in "ab":
            (folder / name).write_text(text)


def test_a_folder_is_replaced_in_one_step_whoever_writes_and_reads(tmp_path):
    path = tmp_path / "system"
    save_folder(path, "0")
    ended = []

    def write_often(k: int) -> None:
        for n in range(100):
            save_folder(path, f"{k}{n}")
        ended.append(k)

    writers = [threading.Thread(target=write_often, args=(k,)) for k in range(3)]
    for writer in writers:
        writer.start()
    seen = 0
    while any(writer.is_alive() for writer in writers):
        handle = os.open(path, os.O_RDONLY)  # one folder, as long as it is open
        try:
            inside = set(os.listdir(handle))
            assert inside in ({"a", "b"}, {"a"}, {"b"}, set())  # an old one may be going
            assert path.is_dir()
            seen += 1
        finally:
            os.close(handle)
    assert sorted(ended) == [0, 1, 2]  # none stopped in an error
    assert seen and (path / "a").read_text() == (path / "b").read_text()
    assert [entry.name for entry in tmp_path.iterdir()] == ["system"]


@pytest.mark.parametrize("exchange", [True, False])
def test_what_a_killed_writer_left_is_removed_and_nothing_is_lost(tmp_path, monkeypatch, exchange):
    path = tmp_path / "system"
    save_folder(path, "old")
    if not exchange:  # killed between the two steps
        monkeypatch.setattr(files, "_exchanged", lambda *_: False)
        left = tmp_path / ".system.abc.part"
        left.mkdir()
        path.rename(left / "old")
        assert files.recovered(path) == path and (path / "a").read_text() == "old"
    (tmp_path / ".system.xyz.part").mkdir()
    (tmp_path / ".system.xyz.part" / "half").write_text("")
    save_folder(path, "new")
    assert (path / "a").read_text() == "new" and len(list(tmp_path.iterdir())) == 1


def test_files_follow_the_umask_and_are_nobody_elses(saved):
    for path in saved.folder.rglob("*"):
        if path.is_file():
            assert path.stat().st_mode & 0o777 == 0o644 and path.stat().st_nlink == 1


# Sealed is not valid


def places(value: object, path: tuple = ()) -> list[tuple]:
    inner = value.items() if isinstance(value, dict) else enumerate(value)
    found = [path] if path else []
    if isinstance(value, dict | list):
        for key, part in list(inner)[:6]:
            found += places(part, (*path, key)) if isinstance(part, dict | list) else [(*path, key)]
    return found


def changed(value: dict, path: tuple, new: object) -> dict:
    out = copy.deepcopy(value)
    inside = out
    for key in path[:-1]:
        inside = inside[key]
    inside[path[-1]] = new
    return out


def test_a_sealed_system_is_still_checked(saved, tmp_path):
    folder = tmp_path / "system"
    with files.written_whole(folder) as copy_of:
        import shutil

        shutil.copytree(saved.folder, copy_of)
    about = json.loads((folder / "system.json").read_text())
    refused = 0
    for path in places(about):
        for odd in ODD:
            (folder / "system.json").write_text(
                json.dumps(system._sealed(changed(about, path, odd)))
            )
            try:
                system.load(folder, "cpu")
            except system.UnfitSystem:
                refused += 1
    assert refused > 200


def test_a_tagger_is_still_checked(saved, tmp_path):
    folder = saved.folder / "tagger"
    about = json.loads((folder / "tagger.json").read_text())
    there = tmp_path / "tagger"
    there.mkdir()
    for path in folder.glob("*.safetensors"):
        (there / path.name).write_bytes(path.read_bytes())
    refused = 0
    for path in places(about):
        for odd in ODD:
            (there / "tagger.json").write_text(json.dumps(changed(about, path, odd)))
            try:
                Tagger.load(there)
            except (ValueError, OSError, TypeError):
                refused += 1
    assert refused > 100


def test_a_record_is_still_checked(saved, tmp_path):
    saved.folder  # noqa: B018, saves it
    source = saved.root / "results" / "mini" / "records"
    target = tmp_path / "mini" / "records"
    target.mkdir(parents=True)
    (npz,) = source.glob("*-attention-h2*.npz")
    (target / npz.name).write_bytes(npz.read_bytes())
    path = target / f"{npz.stem}.json"
    record = json.loads((source / path.name).read_text())
    path.write_text(json.dumps(record))
    drawn = tables.Results("mini", tmp_path).drawn()
    for place in places(record):
        for odd in (*ODD, 7.5, 0.5):
            path.write_text(json.dumps(changed(record, place, odd)))
            try:
                found = tables.Results("mini", tmp_path).drawn()
            except (ValueError, OSError) as error:
                assert str(error)
            else:  # nothing that a table shows as a figure on clips has changed
                for name in ("by_scene.csv", "by_city.csv"):
                    assert found[name] == drawn[name] or place[0] in (
                        "system",
                        "parameters",
                        "labels",
                    )


def test_predictions_are_paired_by_file_name(saved, tmp_path):
    saved.folder  # noqa: B018, saves it
    source = saved.root / "results" / "mini" / "records"
    target = tmp_path / "mini" / "records"
    target.mkdir(parents=True)
    (npz,) = source.glob("*-attention-h2*.npz")
    with np.load(npz) as arrays:
        columns = {name: arrays[name] for name in arrays.files}
    record = json.loads((source / f"{npz.stem}.json").read_text())
    for seed, names in enumerate((columns["filename"], columns["filename"][::-1])):
        run = f"run{seed}"
        other = record | {"run": run, "parameters": record["parameters"] | {"seed": seed}}
        (target / f"{run}.json").write_text(json.dumps(other))
        np.savez(target / f"{run}.npz", **(columns | {"filename": names}))
    with pytest.raises(ValueError, match="run1.npz does not match .* the other runs' clips"):
        tables.Results("mini", tmp_path)


# Narrowing


def test_predictions_of_many_labels_are_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("ASC_RESULTS", str(tmp_path))
    checked = settings.check("04_attention", **ATTENTION)
    clips = pd.DataFrame(dict.fromkeys(records.SCENE_COLUMNS, range(70_000)))
    record = {"run": "x", "parameters": {"device": "cpu"}}
    history = pd.DataFrame([{"epoch": 1, "loss": 1.0, "seconds": 1.0}])
    records._write(checked, clips.assign(filename=clips["filename"].astype(str)), record, history)
    kept = records.read_predictions("x", "mini")
    assert set(kept["truth"]) == set(range(70_000))


@pytest.mark.parametrize(
    "name, what, message",
    [
        ("x.parquet", {"when": pd.Timestamp("2020")}, "'when' holds datetime64"),
        ("x.parquet", {"z": 0.5 + 0.1j}, "complex|cannot be read"),
        ("x.csv", {"Dog": "much"}, "'Dog' holds"),
        ("x.csv", "filename,Dog,Dog\na,0.5,0.5\n", "names the column 'Dog' twice"),
        ("x.csv", "filename,Dog\na,0.5,0.5\n", "3 cells in line 2, but 2 columns in its header"),
        ("x.csv", "filename,Dog\na,0.5\nb,0.5,1\n", "line 3|saw 3"),
        ("x.npz", {"tags": ["filename"]}, "filename"),
        ("x.npz", {"values": np.full((2, 1), 0.5 + 0.1j)}, "holds complex128"),
    ],
)
def test_tag_tables_hold_numbers_and_every_column_once(own, name, what, message):
    if name.endswith("npz"):
        arrays = dict(filename=["a", "b"], tags=["x"], values=np.full((2, 1), 0.5)) | what
        np.savez(own / name, **arrays)
    elif isinstance(what, str):
        (own / name).write_text(what)
    elif name.endswith("csv"):
        pd.DataFrame({"filename": ["a"], **what}).to_csv(own / name, index=False)
    elif "z" in what:
        pytest.importorskip("pyarrow")
        np.savez(own / "x.npz", filename=["a"], tags=["z"], values=np.array([[0.5 + 0.1j]]))
        name = "x.npz"
    else:
        pd.DataFrame({"filename": ["a"], **what}).to_parquet(own / name)
    with pytest.raises(ParameterError, match=message):
        sources.from_table(str(own / name), corpora.find(str(own)).scenes(), None, 0)


# The fast reader of 24-bit files


def chunk(name: bytes, body: bytes, size: int) -> bytes:
    return name + struct.pack("<I", size % 2**32) + body


@hypothesis_settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    channels=st.integers(1, 3),
    bits=st.sampled_from([8, 16, 20, 24, 32]),
    align=st.sampled_from([1, 2, 3, 4, 6, 8, 9]),
    tag=st.sampled_from([1, 3, 0xFFFE]),
    riff=st.integers(-5000, 5000),
    data=st.integers(-5000, 5000),
    odd=st.integers(0, 7),
)
def test_the_fast_reader_agrees_with_libsndfile(
    tmp_path, channels, bits, align, tag, riff, data, odd
):
    raw = np.random.default_rng(0).bytes(6000 + odd)
    header = struct.pack("<HHIIHH", tag, channels, 48_000, 48_000 * align, align, bits)
    body = chunk(b"fmt ", header, 16) + chunk(b"data", raw, len(raw) + data)
    path = tmp_path / "x.wav"
    path.write_bytes(chunk(b"RIFF", b"WAVE" + body, 4 + len(body) + riff))
    try:
        info = soundfile.info(path)
        fast = audio._upper_16_bits(path, info)
        slow = soundfile.read(path, dtype="int32", always_2d=True)[0].T >> 16
    except soundfile.LibsndfileError:
        return
    assert fast is None or np.array_equal(fast, slow)


# Tables


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.assign(label=t["label"] + " "),
        lambda t: t.assign(label=[f"{x} " if k % 3 else x for k, x in enumerate(t["label"])]),
        lambda t: t.assign(location=[f" {x}" if k % 3 else x for k, x in enumerate(t["location"])]),
        lambda t: t.assign(filename="./" + t["filename"]),
        lambda t: t.rename(columns=lambda name: f" {name} "),
        lambda t: t.assign(split=t["split"] + "\t"),
        lambda t: pd.concat([t[:5], pd.DataFrame([dict.fromkeys(t, "")]), t[5:]]),
    ],
)
def test_what_a_spreadsheet_adds_does_no_harm(own, change):
    before = corpora.find(str(own)).scenes().fingerprint
    write(own, change(table()))
    assert corpora.find(str(own)).scenes().fingerprint == before


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda t: t.assign(label=["Park"] + [*t["label"][1:]]), "labels 'Park' and 'park'"),
        (
            lambda t: t.assign(location=["Place-1"] + [*t["location"][1:]]),
            "locations 'Place-1' and",
        ),
        (lambda t: t.assign(filename=["audio/x.wav"] + [*t["filename"][1:]]), "one file as"),
        (lambda t: t.assign(filename=t["filename"].str.upper()), "but the file is called"),
        (lambda t: t.assign(label="park"), "has one label"),
        (lambda t: t.drop(columns="split").replace("park", "start"), "the label 'start', a column"),
        (lambda t: t[:20], "16 training clips: a batch takes 24"),
        (
            lambda t: t.assign(split=["test"] + ["train"] * 31, label=["x"] + [*t["label"][1:]]),
            "'x'",
        ),
    ],
)
def test_the_check_names_what_a_run_would_trip_over(own, change, message):
    os.link(own / "audio" / "01.wav", own / "audio" / "x.wav")
    write(own, change(table()))
    assert message in findings(own)


@pytest.mark.parametrize(
    "edit, message",
    [
        (
            lambda rows: [rows[0]] + [row + "," for row in rows[1:]],
            "6 cells in line 2, but 5 columns in its header",
        ),
        (
            lambda rows: [*rows[:7], "audio/06.wav,park", *rows[8:]],
            "2 cells in line 8, but 5 columns",
        ),
        (lambda rows: [*rows[:7], rows[7] + ",x", *rows[8:]], "line 8"),
        (lambda rows: [row.replace(",", ";") for row in rows], "is separated by semicolons"),
        (lambda rows: [rows[0].replace("city", "label"), *rows[1:]], "column 'label' twice"),
        (lambda rows: [], "is empty"),
    ],
)
def test_tables_are_not_read_by_guess(own, edit, message):
    rows = (own / "clips.csv").read_text().splitlines()
    (own / "clips.csv").write_text("\n".join(edit(rows)))
    code, out = asc("data", "check", own)
    assert code == 1 and message in out and "Traceback" not in out


def test_an_empty_optional_cell_is_no_value(own):
    write(own, table().assign(location="", city=""))
    clips = corpora.find(str(own)).scenes().clips
    assert clips["location"].is_unique and set(clips["city"]) == {"unknown"}


# What a run needs


def test_a_clip_that_is_a_sample_off_is_mended_and_told(tmp_path):
    for samples in (47_999, 48_001, 48_480):
        soundfile.write(tmp_path / f"{samples}.wav", np.full((samples, 2), 0.1), 48_000)
        path = tmp_path / f"{samples}.wav"
        assert audio.read(path, 48_000, 2, 48_000).shape == (2, 48_000)
        (found,) = checks.examined(tmp_path, [path.name], 48_000, 2, 48_000)
        assert not found.problems and found.doubts == [
            f"has {samples} samples: padded or cut to 48000"
        ]
    soundfile.write(path, np.full((48_481, 2), 0.1), 48_000)
    with pytest.raises(audio.AudioError, match="has 48481 samples, expected 48000"):
        audio.read(path, 48_000, 2, 48_000)


def test_half_a_file_and_a_rate_of_1_hz_are_told(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, np.full((96_000, 1), 0.1), 48_000)
    path.write_bytes(path.read_bytes()[:96_044])
    assert audio.decoded(path)[2] == ["ends after 1 s, but its header says 2 s: copy it again"]
    soundfile.write(path, np.full((5, 1), 0.1), 1)
    assert "sample rate of 1 Hz: at least 2000" in audio.decoded(path)[2][0]


def test_the_length_of_clips_is_the_median():
    seconds = [(2 * 48_000, 48_000)] * 40 + [(60 * 48_000, 48_000)]
    assert audio.usual_length(seconds) == 96_000
    assert audio.usual_length([(48_000 + k, 48_000) for k in range(41)]) == 48_020


@given(st.lists(st.tuples(st.integers(0, 14), st.integers(0, 29)), min_size=2, max_size=120))
@hypothesis_settings(max_examples=60, deadline=None)
def test_a_split_that_exists_is_found_where_each_place_has_one_label(pairs):
    clips = pd.DataFrame(
        [{"scene_label": str(a), "location": f"{a}-{b}"} for a, b in pairs]
        + [{"scene_label": str(a), "location": f"{a}-{b}"} for a, _ in pairs for b in (50, 51)]
    )
    split = made_split(clips)
    assert (clips.groupby(split)["scene_label"].nunique() == clips["scene_label"].nunique()).all()
    assert (clips.assign(split=split).groupby("location")["split"].nunique() == 1).all()


# Errors


def test_one_bad_recording_stops_no_other(saved, tmp_path):
    soundfile.write(tmp_path / "good.wav", np.full((48_000, 2), 1.5), 48_000, subtype="FLOAT")
    for name, content in (("a.wav", b""), ("b.wav", b"no sound"), ("c.raw", bytes(9999))):
        (tmp_path / name).write_bytes(content)
    (tmp_path / "d.wav").mkdir()
    names = ["a.wav", "b.wav", "gone.wav", "c.raw", "d.wav", "good.wav"]
    code, out = asc("predict", *(tmp_path / name for name in names), "--system", saved.folder)
    lines = out.splitlines()
    assert code == 1 and [line for line in lines if f"{tmp_path / 'good.wav'}: " in line]
    assert "note: it is clipped" in out and len(lines) == 8


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(28, "full", "x"), EOFError("x"), RuntimeError("a\x1b[2Jb\nc")]
)
def test_expected_failures_are_one_line(monkeypatch, error):
    def fail() -> None:
        raise error

    monkeypatch.setattr(cli, "inventory", fail)
    code, out = asc("data", "info")
    assert code == 1 and out.startswith("asc data info: ") and len(out.splitlines()) == 1
    assert "\x1b" not in out


def test_a_bug_keeps_its_traceback(monkeypatch):
    monkeypatch.setattr(cli, "inventory", lambda: {}["x"])
    assert isinstance(CliRunner().invoke(cli.app, ["data", "info"]).exception, KeyError)


# The machine


@pytest.mark.parametrize("pinned", ["-1", "NoDevFiles", "", "0,1"])
def test_a_gpu_counts_where_torch_sees_it(monkeypatch, pinned):
    monkeypatch.setenv(sweep.PINNED, pinned)
    assert sweep._visible_gpus() == []  # there is none in tests
    monkeypatch.setattr(sweep.torch.cuda, "device_count", lambda: 2)
    assert len(sweep._visible_gpus()) <= 2


def test_a_worker_of_a_sweep_starts_no_process(monkeypatch):
    assert files.processes() == files.cores()
    monkeypatch.setitem(multiprocessing.current_process()._config, "daemon", True)
    assert files.processes() == 1


def test_cores_are_those_that_this_process_may_use():
    before = os.sched_getaffinity(0)
    code = "import asc_lib.files; print(asc_lib.files.cores())"
    import subprocess
    import sys

    one = {min(before)}
    out = subprocess.run(
        [sys.executable, "-c", f"import os; os.sched_setaffinity(0, {one}); {code}"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert int(out) == 1
    assert not any("os.cpu_count" in text for text in SOURCES.values())

"""JupyterLab in a real browser: notebooks 04 and 07 run, a slider moves the picture, uploads work.

In attention in time, a line follows the player.

Skipped where Chromium is not installed, unless ``ASC_BROWSER=required``. With ``ASC_SCREENSHOTS``
the pages are kept.
"""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import torch

from asc_lib import corpora, plots
from asc_lib.corpora import store
from asc_lib.files import REPOSITORY
from asc_lib.use import explorer, system, what_if

CHROMIUM = (
    shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
)
SETTINGS = {
    "notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True},
    "themes": {"theme": "JupyterLab Light"},
}
SCREENSHOTS = os.environ.get("ASC_SCREENSHOTS")
MINUTE = 60_000
# JupyterLab forgets cells that are run before their notebook's kernel is there
IDLE = "window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status == 'idle'"

if not CHROMIUM and os.environ.get("ASC_BROWSER") != "required":
    pytest.skip(
        "no Chromium here: install Debian's package chromium to run the browser tests",
        allow_module_level=True,
    )


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    """JupyterLab over short copies of 04 and 07: its address, and the folder."""
    root = tmp_path_factory.mktemp("lab")
    for name, settings in SETTINGS.items():
        path = (
            root / "settings" / "@jupyterlab" / "apputils-extension" / f"{name}.jupyterlab-settings"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    (root / "notebooks").mkdir()
    copy("04_attention", root / "notebooks", epochs=0 if SCREENSHOTS else 1)
    environment = os.environ | {
        "ASC_RESULTS": str(root / "results"),
        "JUPYTER_PLATFORM_DIRS": "1",
        "OMP_NUM_THREADS": "1",
    }
    options = [
        "--no-browser",
        "--allow-root",
        "--ServerApp.port=0",
        "--IdentityProvider.token=",
        "--ServerApp.port_retries=0",
        "--KernelManager.transport=ipc",  # as in ``helpers.kernels_without_ports``
    ]
    options += [
        f"--LabApp.user_settings_dir={root / 'settings'}",
        f"--LabApp.workspaces_dir={root / 'workspaces'}",
        "--LabApp.expose_app_in_browser=True",
    ]
    command = [sys.executable, "-m", "jupyterlab", *options, f"--notebook-dir={root / 'notebooks'}"]
    server = subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    try:
        yield address(server), root
    finally:
        server.terminate()
        server.wait(30)


def address(server: subprocess.Popen) -> str:
    printed = []
    for line in server.stdout:
        printed.append(line)
        if found := re.search(r"http://(?:localhost|127\.0\.0\.1):\d+", line):
            return found[0]
    raise AssertionError("".join(printed))


def copy(name: str, folder: Path, **parameters: object) -> None:
    """The notebook without outputs, and with other parameters."""
    notebook = nbformat.read(REPOSITORY / "notebooks" / f"{name}.ipynb", 4)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
        if "parameters" in cell.metadata.get("tags", []):
            cell.source += "".join(f"\n{key} = {value!r}" for key, value in parameters.items())
    nbformat.write(notebook, folder / f"{name}.ipynb")


@pytest.fixture(scope="module")
def page(lab):
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(MINUTE)
        yield page
        browser.close()


def run_all(page, url: str, name: str, widget: str) -> None:
    """Open a notebook, run all its cells, and go to the widget."""
    page.goto(f"{url}/lab/tree/{name}.ipynb?reset")
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    page.wait_for_function(IDLE)
    page.locator(".lm-MenuBar-itemLabel >> text=Run").click()
    page.locator(".lm-Menu-itemLabel >> text='Run All Cells'").click()
    page.locator(".jp-Notebook").press("Escape")
    page.locator(widget).last.wait_for(timeout=5 * MINUTE)
    assert (
        page.locator(
            ".jp-OutputArea-output[data-mime-type='application/vnd.jupyter.stderr']"
        ).count()
        == 0
    )
    page.locator(widget).last.scroll_into_view_if_needed()


def screenshots(page, name: str) -> None:
    """The page in both widths and themes, where someone asked for pictures."""
    if not SCREENSHOTS:
        return
    for theme in ("Dark", "Light"):
        page.locator(".lm-MenuBar-itemLabel >> text=Settings").click()
        page.locator(".lm-Menu-itemLabel >> text='Theme'").hover()
        page.locator(f".lm-Menu-itemLabel >> text='JupyterLab {theme}'").click()
        page.wait_for_timeout(1500)
        for width in (900, 1280):
            page.set_viewport_size({"width": width, "height": 1000})
            page.wait_for_timeout(1000)
            page.screenshot(path=Path(SCREENSHOTS) / f"{name}-{theme.lower()}-{width}.png")


def systems(root: Path) -> list[Path]:
    return list((root / "results" / "mini" / "systems").glob("mini-attention-h*"))


def shown(page) -> str:
    return page.locator(".widget-html-content >> text=own tags").last.inner_text()


def expected(cached: what_if.CachedClip, tags: torch.Tensor) -> str:
    """The three most probable scenes, in the words of the page."""
    now, own = (what_if.probabilities(cached.output(one))[0] for one in (tags, None))
    best = np.argsort(-now)[:3]
    labels = cached.system.labels
    return ", ".join(
        f"{labels[k]} {100 * now[k]:.1f} % (own tags: {100 * own[k]:.1f} %)" for k in best
    )


def test_the_explorer_answers_what_the_model_computes_and_at_once(lab, page):
    url, root = lab
    run_all(page, url, "04_attention", ".widget-slider")
    (folder,) = systems(root)
    trained, corpus = system.load(folder, "cpu"), corpora.find("mini").scenes()
    clip = page.locator(".widget-dropdown:has(label:text-is('clip')) select")
    name = clip.evaluate("menu => menu.options[menu.selectedIndex].text").split(":")[0]
    row = corpus.clips.index[corpus.clips["filename"] == name][0]
    waveform = np.array(store.pack(corpus).waveforms[row])
    cached = what_if.CachedClip.of(trained, trained.inputs(waveform[None]))
    assert shown(page) == expected(cached, cached.tags)
    screenshots(page, "explorer")

    handle = page.locator(".widget-slider .noUi-handle").first
    tag = page.locator(".widget-slider label.widget-label").first.inner_text()
    k = trained.tags.index(tag)
    handle.focus()
    handle.press("Home")
    page.locator(f".widget-html-content >> text=/changed: {tag} .* 0.00$/").wait_for()
    tags = cached.tags.clone()
    tags[0, k] = 0.0
    assert shown(page).splitlines()[0] == expected(cached, tags) != expected(cached, cached.tags)

    if SCREENSHOTS:  # the README's picture
        page.set_viewport_size({"width": 1280, "height": 2000})
        page.wait_for_timeout(1000)
        page.locator(".jp-OutputArea-output > .widget-vbox").last.screenshot(
            path=Path(SCREENSHOTS) / "explorer.png"
        )
        page.set_viewport_size({"width": 1280, "height": 1000})

    assert statistics.median(redrawn(page, handle, "widget-image")) < 300

    page.locator("button >> text=reset").last.click()
    page.wait_for_function("!document.body.innerText.includes('changed: ')")
    assert shown(page) == expected(cached, cached.tags)


def redrawn(page, handle, picture: str) -> list[float]:
    """Milliseconds from pressing a key on a slider to the next picture of this class."""
    page.evaluate(WATCH, picture)
    for presses in range(21):
        handle.press("ArrowRight")
        page.wait_for_function(f"window.drawn.length > {presses}")
    times = page.evaluate("window.drawn")
    print(f"slider to {picture}, ms:", [round(time) for time in times])
    return times


WATCH = """kind => {
  const pictures = [...document.querySelectorAll(`img.${kind}`)];
  window.drawn = []; window.pressed = null;
  document.addEventListener('keydown', () => { window.pressed = performance.now(); }, true);
  for (const picture of pictures) picture.addEventListener('load', () => {
    if (window.pressed === null) return;
    window.drawn.push(performance.now() - window.pressed);
    window.pressed = null;
  });
}"""
IN_TIME = """
from asc_lib.runs import cells
from asc_lib.scenes import SceneData
from asc_lib.use import explorer, system

(cell,) = cells.cells("attention_in_time", data="mini", epochs=1)
settings = cell.settings()
scenes = SceneData.open(settings)
done = system.train_and_save(settings, scenes)
explorer.Explorer(system.load(done.folder, "cpu"), scenes, done.evaluated)
"""
LINE = """picture => {  // where the line is, in shares of the picture's width
  const [box, line] = [picture, picture.nextSibling].map(node => node.getBoundingClientRect());
  return (line.left - box.left) / box.width;
}"""


def test_in_attention_in_time_a_line_follows_the_player(lab, page):
    url, root = lab
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(IN_TIME)])
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3"}
    nbformat.write(notebook, root / "notebooks" / "in_time.ipynb")
    run_all(page, url, "in_time", ".widget-slider")
    waveform = np.array(store.pack(corpora.find("mini").scenes()).waveforms[0])
    figures = [
        plots.clip(waveform, 48_000),
        plots.attention_in_time(waveform, 48_000, pd.DataFrame(np.eye(3)), np.eye(4), 2),
    ]
    pictures = page.locator("img.asc-picture")
    assert pictures.count() == len(figures)
    for number, figure in enumerate(figures):
        picture, audio = pictures.nth(number), page.locator("audio").nth(number)
        plots.png(figure)
        zero, second = plots.time_axis(figure)
        assert picture.evaluate(LINE) == pytest.approx(zero, abs=0.01)
        audio.evaluate("audio => { audio.muted = true; audio.currentTime = 1; }")
        page.wait_for_timeout(500)
        assert picture.evaluate(LINE) == pytest.approx(zero + second, abs=0.01)
        audio.evaluate("audio => audio.play()")
        page.wait_for_timeout(1000)
        played = audio.evaluate("audio => { audio.pause(); return audio.currentTime; }")
        page.wait_for_timeout(200)
        assert 1.3 < played < 3
        assert picture.evaluate(LINE) == pytest.approx(zero + played * second, abs=0.01)
    screenshots(page, "in-time")
    handle = page.locator(".widget-slider .noUi-handle").first
    handle.focus()
    assert min(redrawn(page, handle, "asc-picture")) < 600  # 240 where nothing else runs


def test_an_uploaded_recording_gets_its_prediction(lab, page):
    url, root = lab
    (folder,) = systems(root)
    copy("07_your_recordings", root / "notebooks", system=str(folder))
    corpus = corpora.find("mini").scenes()
    row = corpus.rows("test")[7]
    recording, waveform = root / "mine.wav", np.array(store.pack(corpus).waveforms[row])
    recording.write_bytes(explorer.wav(waveform))
    run_all(page, url, "07_your_recordings", "button >> text=upload recordings")
    with page.expect_file_chooser() as chooser:
        page.locator("button >> text=upload recordings").last.click()
    chooser.value.set_files(recording)
    trained = system.load(folder, "cpu")
    predicted = trained.predict(recording)
    page.locator(f".widget-html-content >> text='mine.wav: {predicted.scene}'").wait_for()
    cached = what_if.window_of(predicted, 0)
    page.locator(f".widget-html-content >> text={expected(cached, cached.tags)}").wait_for()
    screenshots(page, "recordings")

"""The commands of ``asc``, from data to a system's answers.

Each imports what it needs: torch alone takes a second, and most commands do without much else.
"""

import json
import os
import shlex
import sys
import zipfile
import zlib
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer
from tqdm import tqdm
from typer.core import TyperGroup

from .files import (
    cores,
    data_root,
    inventory,
    printable,
    progress,
    results_root,
    shown,
    write_text,
    written_whole,
)

# What bad input, a full disk or a lost connection may raise here and in other libraries. A bug in
# this one raises something else, as a rule, and keeps its traceback.
EXPECTED = (
    ValueError,
    OSError,
    RuntimeError,
    MemoryError,
    EOFError,
    zipfile.BadZipFile,
    zlib.error,
)


class Commands(TyperGroup):
    """Commands whose expected errors end them with one line and exit code 1."""

    def invoke(self, ctx):
        # Names that a terminal cannot write, and answers as they come.
        sys.stdout.reconfigure(errors="backslashreplace", line_buffering=True)
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):  # RuntimeErrors, but how a command ends itself
            raise
        except KeyboardInterrupt:
            print("stopped: run the same command again to resume", file=sys.stderr)
            raise SystemExit(130) from None
        except BrokenPipeError:  # whoever read has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise SystemExit(1) from None
        except EXPECTED as error:
            group = "data " if self.name == "data" else ""
            told = str(error) or type(error).__name__
            raise SystemExit(f"asc {group}{ctx.invoked_subcommand}: {shown(told)}") from None


OPTIONS = dict(no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
app = typer.Typer(help=__doc__, cls=Commands, **OPTIONS)
data_app = typer.Typer(help="Manage data sets.", cls=Commands, **OPTIONS)
app.add_typer(data_app, name="data")
Data = Annotated[str, typer.Option(help="data set: mini, esc50, tau2019, or a folder of your own")]
Name = Annotated[
    str, typer.Argument(help="mini, esc50, tau2019, fsdkaggle2019, or a folder of your own")
]


@data_app.command("fetch")
def fetch_(
    name: Annotated[str, typer.Argument(help="tau2019, fsdkaggle2019, esc50, yamnet or macs")],
    only: Annotated[str, typer.Option(help="only archives with this word in the name")] = "",
) -> None:
    """Download and unpack a data set into ASC_DATA; run it again to resume."""
    from .corpora import fetch

    print(fetch.fetchable(name).licence)
    fetch.fetch(name, data_root() / name, only)


@data_app.command()
def check(
    data: Name,
    all_: Annotated[bool, typer.Option("--all", help="list every file, not counts")] = False,
) -> None:
    """Find what is in a data set, and what is wrong; exit code 1 if a run would fail."""
    from . import corpora
    from .corpora import yamnet

    data_set = corpora.find(data)
    counts, findings = data_set.check()
    print(counts.to_string(index=False, na_rep="-", formatters={"label": shown}), end="\n\n")
    kinds: dict[tuple, list] = {}
    for finding in findings:
        key = finding if all_ else (finding.fatal, finding.kind)
        kinds.setdefault(key, []).append(finding)
    for first, *more in kinds.values():
        what = f"{first.file} {first.what}"
        if more:
            what = f"{1 + len(more)} files, the first {first.file}: each {first.kind}"
        print(shown(f"{'wrong' if first.fatal else 'note '}  {what}"))
    wrong = sum(finding.fatal for finding in findings)
    print(f"{wrong} wrong, {len(findings) - wrong} to note{'' if all_ else ' (--all lists each)'}")
    if not wrong and data_set.scenes:
        try:
            yamnet.model()
        except corpora.CorpusError as error:
            print(shown(f"for tags='yamnet': {error}"))
        print(f"next: asc sweep first --data {shlex.quote(data)}")
    raise typer.Exit(1 if wrong else 0)


@data_app.command()
def split(folder: Annotated[Path, typer.Argument(help="with a table that has no split")]) -> None:
    """Write a split of a folder of your own beside its table, for all runs to come."""
    from .corpora.custom import write_split

    write_split(folder)


@data_app.command()
def pack(data: Name) -> None:
    """Pack the scene clips of a data set into its waveform store, and verify it.

    Notebooks do so on first use.
    """
    from . import corpora
    from .corpora import store

    corpus = corpora.with_scenes(data).scenes()
    packed = store.verify(corpus)
    clips, _, samples = packed.waveforms.shape
    print(
        f"{clips} clips of {samples / store.RATE:g} s, {packed.waveforms.nbytes / 1e9:.3g} GB, "
        f"fingerprint {packed.fingerprint}: {store.folder(corpus)}"
    )


@data_app.command()
def info() -> None:
    """List what lies under ASC_DATA, with sizes and fingerprints."""
    table = inventory()
    print(
        f"{data_root()} ({table['GB'].sum():.3g} GB)",
        table.assign(what=table["what"].map(shown)).to_string(
            index=False, float_format="{:.3f}".format
        ),
        sep="\n\n",
    )


@app.command("sweep")
def sweep_(
    what: Annotated[
        str,
        typer.Argument(
            help="all, table2 to table5, main, systems, first, controls, yamnet_controls, rivals, "
            "taggers, or a system"
        ),
    ],
    more_seeds: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    data: Data = "mini",
    seeds: Annotated[str, typer.Option(help="0 1 2, or 0,1,2")] = "0",
    workers: Annotated[
        int, typer.Option(min=0, help="notebooks executed at a time; 0: one per GPU, or per core")
    ] = 0,
    scheduler: Annotated[
        str, typer.Option(help="tcp://HOST:PORT of a running Dask scheduler")
    ] = "",
    epochs: Annotated[int | None, typer.Option(help="of each run")] = None,
    tags: Annotated[str | None, typer.Option(help="as in notebooks 03 to 05")] = None,
    tag_windows: Annotated[str | None, typer.Option(help="as in notebooks 03 to 05")] = None,
    n_tags: Annotated[int | None, typer.Option(help="as in notebooks 03 to 05")] = None,
    front_end: Annotated[str | None, typer.Option(help="as in notebooks 02 to 05")] = None,
    recipe: Annotated[str | None, typer.Option(help="as in notebooks 02 to 05")] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="print the papermill lines and run nothing")
    ] = False,
) -> None:
    """Run notebooks through papermill on Dask; runs that have a record are skipped.

    Options that a notebook does not have are not given to it.
    """
    from . import corpora
    from .runs import cells, sweep

    options = dict(
        epochs=epochs,
        tags=tags,
        tag_windows=tag_windows,
        n_tags=n_tags,
        front_end=front_end,
        recipe=recipe,
    )
    given = {name: value for name, value in options.items() if value is not None}
    chosen = [
        cell
        for seed in _whole_numbers("--seeds", " ".join([seeds, *(more_seeds or [])]))
        for cell in cells.cells(what, data=data, **given, seed=seed)
    ]
    for cell in chosen:
        cell.settings()
    if workers > 8 * cores():
        raise ValueError(f"--workers is {workers}: this machine has {cores()} cores")
    if scheduler and not scheduler.startswith("tcp://"):
        raise ValueError(f"--scheduler is {scheduler!r}: it takes tcp://HOST:PORT")
    if dry_run:
        folder = corpora.results(data) / "notebooks"
        folder.mkdir(parents=True, exist_ok=True)  # papermill makes none
        print(*(cell.command(folder) for cell in cells.parts(chosen) or chosen), sep="\n")
        return
    with sweep.connected(workers, scheduler) as client:
        print(f"{len(client.nthreads())} workers, dashboard at {client.dashboard_link}", flush=True)
        failed = sweep.sweep(chosen, client)
    if what == "first" and tags is None:
        probe_(data)
    if not failed:
        print(f"next: asc tables --data {shlex.quote(data)}")
    else:
        print(
            f"{len(failed)} failed:",
            *(shown(f"  {outcome.job.run}: {outcome.error}") for outcome in failed),
            sep="\n",
        )
    raise typer.Exit(1 if failed else 0)


def _whole_numbers(option: str, text: str) -> list[int]:
    words = text.replace(",", " ").split()
    wrong = [word for word in words if not word.isdecimal()]
    if wrong or not words:
        raise ValueError(
            f"{option} takes whole numbers such as 0 1 2, not {wrong[0] if wrong else text!r}"
        )
    return [int(word) for word in words]


@app.command("tables")
def tables_(
    data: Data = "mini",
    check: Annotated[
        bool, typer.Option("--check", help="only compare: fail if a table differs")
    ] = False,
) -> None:
    """Draw all tables from the records under ASC_RESULTS, beside them, and print the main one."""
    from . import corpora, plots
    from .runs import readable, tables

    folder = corpora.results(data)
    results = tables.Results(data)
    drawn = results.drawn()
    if not drawn:
        raise ValueError(f"no record in {folder}: run `asc sweep main --data {data}` first")
    paths = sorted(folder / f"{name}.csv" for name in tables.DRAWN)
    if check:
        there = {path.name: path.read_text("utf-8", "replace") for path in paths if path.exists()}
        wrong = [path.name for path in paths if drawn.get(path.name) != there.get(path.name)]
        if wrong:
            raise ValueError(
                f"{', '.join(wrong)} in {folder} do not match the records: run `asc tables`"
            )
        print(f"all {len(drawn)} tables in {folder} match the records")
        return
    for path in paths:
        if path.name in drawn:
            write_text(path, drawn[path.name])
        else:
            path.unlink(missing_ok=True)  # of records that are gone
    printed = [results.taggers()]
    if len(results.measured):
        with written_whole(folder / "systems.png") as picture:
            plots.accuracies(results.measured).savefig(picture, dpi=120)
        printed = [
            readable.brief(readable.systems(results.measured)),
            readable.contrasts(results.contrasts),
            readable.character(results.by_character),
            *printed,
        ]
    if len(results.by_character):
        with written_whole(folder / "character.png") as picture:
            plots.by_character(results.by_character).savefig(picture, dpi=120)
    if (folder / "tags_alone.csv").is_file():  # of `asc probe`
        printed.append(pd.read_csv(folder / "tags_alone.csv", index_col=0, dtype=str))
    print(*(readable.markdown(table) for table in printed if len(table)), sep="\n\n")


@app.command("paper")
def paper_() -> None:
    """Draw what the paper tells without data: parameter counts, Table 6, digits, Figure 2."""
    from . import diagram
    from .runs import paper

    for draw in (paper.parameters, paper.table6, paper.digits):
        table = draw()
        write_text(results_root() / "paper" / f"{draw.__name__}.csv", table.to_csv(index=False))
        print(table.to_string(index=False, na_rep="-"), end="\n\n")
    with written_whole(results_root() / "paper" / "network.png") as picture:
        diagram.network(paper.best()).savefig(picture, dpi=120)


@app.command("probe")
def probe_(data: Data = "mini") -> None:
    """Tags alone, by a linear probe, for every source of tags: a table, tags_alone.csv.

    `asc sweep first` ends with it, where --tags names none.
    """
    from . import corpora
    from .runs import probe, readable

    table = probe.tags_alone(data)
    write_text(corpora.results(data) / "tags_alone.csv", table.to_csv())
    print(readable.markdown(table))


@app.command("tune")
def tune_(
    step: Annotated[str, typer.Argument(help="length, tags or front_end")],
    data: Data = "esc50",
    epochs: Annotated[int, typer.Option(help="0: the preset's")] = 0,
) -> None:
    """Compare ways to train, on a third of the training places: never on test clips."""
    from . import corpora, plots
    from .runs import readable, tune

    points = tune.tune(data, step, epochs)
    folder = corpora.results(data)
    write_text(folder / f"tune_{step}.csv", points.to_csv(index=False, float_format="%.4f"))
    if step == "length":
        with written_whole(folder / "tune_length.png") as picture:
            plots.curves(points).savefig(picture, dpi=120)
    print(readable.markdown(tune.summary(points)))


@app.command("simulate")
def simulate_() -> None:
    """Simulate how often tests find a difference that is not there: false_alarms.csv."""
    from .runs import false_alarms, readable

    table = false_alarms.table()
    write_text(results_root() / "false_alarms.csv", table.to_csv(float_format="%.2f"))
    print(readable.markdown(table.round(2)))


@app.command("tags")
def tags_(
    folder: Annotated[Path, typer.Argument(help="of recordings, or one recording")],
    out: Annotated[Path, typer.Option(help="CSV table to write")],
    tags: Annotated[str, typer.Option(help="yamnet, or hf:MODEL")] = "yamnet",
    windows: Annotated[
        bool, typer.Option("--windows", help="one row per window, with its start (s)")
    ] = False,
) -> None:
    """Write the tag vectors of recordings as a table, which `tags=` takes as well."""
    from .tags import sources

    tagger = sources.published(tags)
    files = sorted(path for path in folder.rglob("*") if path.is_file()) or [folder]
    rows = []
    unusable = 0
    for path in progress(files, "tagging"):
        try:
            if path.suffix.lower() in (".csv", ".txt", ".md", ".json"):
                continue
            name = printable(path.relative_to(folder) if path != folder else path.name).as_posix()
            starts, vectors = sources.tag_file(tagger, path)
        except ValueError as error:
            unusable += 1
            print(f"asc tags: {shown(str(error))}", file=sys.stderr, flush=True)
            continue
        if windows:
            rows += [[name, f"{start:.3f}", *vector] for start, vector in zip(starts, vectors)]
        else:
            rows.append([name, *vectors.mean(0)])
    columns = ["filename", *["start"] * windows, *tagger.tags]
    with written_whole(out) as file:
        pd.DataFrame(rows, columns=columns).to_csv(file, index=False, float_format="%.4g")
    print(f"{out}: {len(rows)} rows, {len(tagger.tags)} tags")
    raise typer.Exit(1 if unusable else 0)


@app.command()
def predict(
    recordings: Annotated[
        list[Path],
        typer.Argument(help="files of any format, rate and length, folders of them, or patterns"),
    ],
    system_: Annotated[str, typer.Option("--system", help="folder of a trained system")] = "",
    tags: Annotated[
        str, typer.Option(help="table of the recordings' tags, where the system was trained on one")
    ] = "",
    windows: Annotated[
        bool, typer.Option("--windows", help="list every window of a long recording")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="print a JSON list of all figures")
    ] = False,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or mps")] = "auto",
) -> None:
    """Classify recordings, scene by scene where one is long.

    Unusable ones are listed on standard error, with exit code 1. Novelty: how far a recording is
    from the training clips; the share of these that are nearer to the nearest one of another place.
    A conversion that several recordings need is told once.
    """
    from .corpora import audio
    from .use import system

    trained = _load(system_, device)
    if tags:
        trained = trained.with_table(tags)
    print(f"{trained.about['run']}: {shown(trained.trained_on)}", file=sys.stderr)
    files = [file for given in recordings for file in audio.recordings(given)]
    described = []
    told: set[str] = set()  # conversions, each once
    unusable = 0
    for prediction in progress(trained.predict_each(files), "predicting", len(files)):
        if isinstance(prediction, system.Unusable):
            unusable += 1
            tqdm.write(f"asc predict: {prediction.why}", file=sys.stderr)
        elif as_json:
            described.append(prediction.described())
        else:
            tqdm.write("\n".join(prediction.lines(windows, told)))
            told.update(prediction.recording.conversions)
    if as_json:
        print(json.dumps(described, indent=1))
    raise typer.Exit(1 if unusable else 0)


@app.command("export")
def export_(
    system_: Annotated[str, typer.Argument(metavar="SYSTEM", help="folder of a trained system")],
    onnx: Annotated[Path, typer.Option(help="file to write")],
) -> None:
    """Write a system's network as one ONNX model, from waveform and tags to scenes."""
    from .use import export

    print(
        f"{onnx}: largest difference from torch",
        ", ".join(
            f"{name} {value:.1e}"
            for name, value in export.export_onnx(_load(system_, "cpu"), onnx).items()
        ),
    )


def _load(folder: str, device: str):
    from . import settings
    from .use import system

    if not folder:
        raise ValueError(
            f"name a system's folder; under {results_root()}:\n  "
            + (
                "\n  ".join(map(str, system.saved()))
                or "none yet: `asc sweep combined_shared` trains one on `mini`"
            )
        )
    return system.load(folder, settings.checked_device(device))


if __name__ == "__main__":
    app()

"""The commands: ``asc data``, ``sweep``, ``tables``, ``paper``, ``probe``, ``predict`` and ``export``."""

import json
import sys
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from . import artefacts, corpora, paper, plots, records, store, system, tables
from .artefacts import first_line, results_root, write_text, written_whole
from .corpora import fetch, open_scenes
from .experiment import checked_device
from .export import export_onnx
from .metrics import linear_probe
from .tag_vectors import open_tag_vectors

app = typer.Typer(help=__doc__, no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
Data = Annotated[str, typer.Option(help="data set: mini, esc50, tau2019, or a folder of your own")]


data_app = typer.Typer(help="Look after the data sets.", no_args_is_help=True)
app.add_typer(data_app, name="data")
Name = Annotated[str, typer.Argument(help="mini, esc50, tau2019, fsdkaggle2019, or a folder of your own")]


@data_app.command("fetch")
def fetch_(
    name: Annotated[str, typer.Argument(help="tau2019, fsdkaggle2019 or esc50")],
    only: Annotated[str, typer.Option(help="fetch only archives with this word in their names, such as meta")] = "",
) -> None:
    """Download and unpack a corpus into ASC_DATA; run it again to go on where it stopped."""
    try:
        print(corpora.licence(name))
        fetch.fetch(name, None, artefacts.data_root() / name, only)
    except (ValueError, OSError) as error:
        raise SystemExit(f"asc data fetch: {error}") from None


@data_app.command()
def check(data: Name) -> None:
    """Find everything that is wrong with a data set in one pass; the exit code is 1 if anything is."""
    try:
        counts, findings = corpora.check(data)
    except (ValueError, OSError) as error:
        raise SystemExit(f"asc data check: {error}") from None
    print(counts.to_string(index=False, na_rep="-"), end="\n\n")
    for finding in findings:
        print(f"{'wrong' if finding.fatal else 'note '}  {finding.file} {finding.what}")
    wrong = sum(finding.fatal for finding in findings)
    print(f"{wrong} wrong, {len(findings) - wrong} to note")
    raise typer.Exit(1 if wrong else 0)


@data_app.command()
def pack(data: Name) -> None:
    """Pack the scene clips of a data set into its waveform store, as the notebooks do on first use, and verify it."""
    try:
        corpus = open_scenes(data)
        waveforms = store.verify(corpus)
    except (ValueError, OSError) as error:
        raise SystemExit(f"asc data pack: {error}") from None
    clips, _, samples = waveforms.waveforms.shape
    seconds, size = samples / store.RATE, waveforms.waveforms.nbytes / 1e9
    print(f"{clips} clips of {seconds:g} s, {size:.3g} GB, fingerprint {waveforms.fingerprint}: {store.folder(corpus)}")


@data_app.command()
def info() -> None:
    """List what lies under ASC_DATA: corpora and all that was made from them, with sizes and fingerprints."""
    table = artefacts.inventory()
    print(f"{artefacts.data_root()} ({table['GB'].sum():.3g} GB)", end="\n\n")
    print(table.to_string(index=False, float_format="{:.3f}".format))


@app.command("sweep")
def sweep_(
    what: Annotated[str, typer.Argument(help="all, table2 to table5, main, systems, controls, taggers, or a system")],
    more_seeds: Annotated[list[str] | None, typer.Argument(hidden=True)] = None,
    data: Data = "mini",
    seeds: Annotated[str, typer.Option(help="seeds: 0 1 2, or 0,1,2")] = "0",
    workers: Annotated[int, typer.Option(min=0, help="notebooks executed at a time; 0: one a GPU, or one a core")] = 0,
    scheduler: Annotated[str, typer.Option(help="tcp://HOST:PORT of a Dask scheduler that is there already")] = "",
    epochs: Annotated[int, typer.Option(help="0: the preset's")] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="print the papermill lines and run nothing")] = False,
) -> None:
    """Run notebooks through papermill on Dask; runs that have a record are skipped."""
    from . import cells, sweep  # papermill and Dask: seconds that the other commands need not wait

    others = {"data": data} | ({"epochs": epochs} if epochs else {})
    try:
        numbers = _whole_numbers("--seeds", " ".join([seeds, *(more_seeds or [])]))
        chosen = [cell for seed in numbers for cell in cells.cells(what, **others, seed=seed)]
        for cell in chosen:
            cell.settings()
        if dry_run:
            folder = results_root() / corpora.name_of(data) / "notebooks"
            folder.mkdir(parents=True, exist_ok=True)  # papermill makes none
            print(*(cell.command(folder) for cell in chosen), sep="\n")
            return
        with sweep.connected(workers, scheduler) as client:
            print(f"{len(client.nthreads())} workers, dashboard at {client.dashboard_link}", flush=True)
            failed = sweep.sweep(chosen, client)
    except (ValueError, OSError, RuntimeError) as error:
        raise SystemExit(f"asc sweep: {error}") from None
    except KeyboardInterrupt:
        print("stopped: the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
    if failed:
        print(f"{len(failed)} failed:", *(f"  {one.job.run}: {one.error}" for one in failed), sep="\n")
    raise typer.Exit(1 if failed else 0)


def _whole_numbers(option: str, text: str) -> list[int]:
    words = text.replace(",", " ").split()
    if wrong := [word for word in words if not word.isdecimal()]:
        raise ValueError(f"{option} takes whole numbers such as 0 1 2, not {wrong[0]!r}")
    return [int(word) for word in words]


@app.command("tables")
def tables_(
    data: Data = "mini",
    check: Annotated[bool, typer.Option("--check", help="only compare: fail if a table is not what they give")] = False,
) -> None:
    """Draw all tables from the records under ASC_RESULTS, write them beside these, and print the one of all systems."""
    folder = results_root() / corpora.name_of(data)
    try:
        drawn = tables.drawn(data)
    except (ValueError, OSError) as error:
        raise SystemExit(f"asc tables: {error}") from None
    if not drawn:
        raise SystemExit(f"asc tables: no record in {folder}: run `asc sweep main --data {data}` first")
    paths = {path.name: path for path in (folder / f"{name}.csv" for name in tables.DRAWN)}
    if check:
        there = {name: path.read_text("utf-8", "replace") for name, path in paths.items() if path.exists()}
        wrong = sorted(name for name in paths if drawn.get(name) != there.get(name))
        if wrong:
            raise SystemExit(f"asc tables: not what the records give: {', '.join(wrong)} in {folder}: run `asc tables`")
        print(f"all {len(drawn)} tables in {folder} are what the records give")
        return
    for name, path in paths.items():
        if name in drawn:
            write_text(path, drawn[name])
        else:
            path.unlink(missing_ok=True)  # of records that are gone
    if "systems.csv" not in drawn:
        print(tables.markdown(tables.taggers(data)))
        return
    table = tables.measured(data)
    with written_whole(folder / "systems.png") as picture:
        plots.accuracies(table).savefig(picture, dpi=120)
    print(tables.markdown(tables.brief(tables.readable(table))))
    for other in (tables.readable_contrasts(tables.contrasts(data)), tables.taggers(data)):
        if len(other):
            print("", tables.markdown(other), sep="\n")


@app.command("paper")
def paper_() -> None:
    """Draw what the paper's own figures tell: the 56 cells' parameter counts, Table 6, the digits' test set."""
    for name, table in (("parameters", paper.parameters()), ("table6", paper.table6()), ("digits", paper.digits())):
        write_text(results_root() / "paper" / f"{name}.csv", table.to_csv(index=False))
        print(table.to_string(index=False, na_rep="-"), end="\n\n")


@app.command()
def probe(data: Data = "mini") -> None:
    """How much tags tell on their own: a linear probe on true and on predicted tags, beside the baseline's records."""
    try:
        corpus = open_scenes(data)
        waveforms = store.pack(corpus)
        vectors = {source: open_tag_vectors(source, corpus, waveforms) for source in ("true", "tagger")}
    except (ValueError, OSError) as error:
        raise SystemExit(f"asc probe: {error}") from None
    targets, train, test = corpus.targets(), corpus.rows("train"), corpus.rows("test")
    found = {"data": data, "fingerprint": waveforms.fingerprint, "chance": 1 / len(corpus.labels)}
    for source, tags in vectors.items():
        found[f"probe_on_{source}_tags"] = linear_probe(tags.values, targets, train, test)
    baseline = [r for r in records.read_records(data) if r["system"] == "baseline"]
    found["baseline"] = {r["parameters"]["seed"]: r["test"]["accuracy"] for r in baseline}
    found["baseline_mean"] = float(np.mean(list(found["baseline"].values()))) if baseline else None
    write_text(results_root() / corpora.name_of(data) / "probe.json", json.dumps(found, indent=1))
    print(json.dumps(found, indent=1))


@app.command()
def predict(
    files: Annotated[list[Path], typer.Argument(help="recordings: any format, rate, number of channels and length")],
    system_: Annotated[str, typer.Option("--system", help="folder of a trained system")] = "",
    as_json: Annotated[bool, typer.Option("--json", help="a JSON list with all that is known")] = False,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda")] = "auto",
) -> None:
    """Say the scene of recordings; one that cannot serve is named on standard error, and the exit code is 1."""
    trained = _load("predict", system_, device)
    try:
        found, unfit = trained.predict_each(files)
    except system.UnfitSystem as error:
        raise SystemExit(f"asc predict: {error}") from None
    print(*(f"asc predict: {why}\n" for why in unfit.values()), sep="", end="", file=sys.stderr)
    if as_json:
        print(json.dumps([one.described() for one in found.values()], indent=1))
    for one in [] if as_json else found.values():
        likely = ", ".join(f"{name} {100 * p:.0f} %" for name, p in one.probabilities.nlargest(3).items())
        heard = ", ".join(f"{name} {p:.2f}" for name, p in one.tags.head(3).items())
        print(f"{one.file}: {one.scene} (network: {likely}{'; tags: ' + heard if heard else ''})")
        print(*(f"  note: it {note}" for note in one.notes), sep="\n", end="\n" if one.notes else "")
    raise typer.Exit(1 if unfit else 0)


@app.command()
def export(
    system_: Annotated[str, typer.Argument(metavar="SYSTEM", help="folder of a trained system")],
    onnx: Annotated[Path, typer.Option(help="file to write")],
) -> None:
    """Write a system's network as one ONNX model, from waveform and tag vector to scene probabilities."""
    try:
        apart = export_onnx(_load("export", system_, "cpu"), onnx)
    except (system.UnfitSystem, OSError) as error:
        raise SystemExit(f"asc export: {error}") from None
    print(f"{onnx}: largest difference from torch {', '.join(f'{name} {a:.1e}' for name, a in apart.items())}")


def _load(command: str, folder: str, device: str) -> system.System:
    if not folder:
        there = "".join(f"\n  {path}" for path in system.saved())
        none = "\n  none yet: `asc sweep combined_shared` trains one on `mini`"
        how = "a system with --system FOLDER" if command == "predict" else "a system's folder"
        raise SystemExit(f"asc {command}: name {how}; under {results_root()}:{there or none}")
    try:
        return system.load(folder, checked_device(device))
    except (ValueError, RuntimeError, OSError) as error:
        raise SystemExit(f"asc {command}: {first_line(error)}") from None


if __name__ == "__main__":
    app()

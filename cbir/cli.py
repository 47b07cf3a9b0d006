"""The command line: `cbir reproduce`, `cbir evidence`, `cbir sweep`, `cbir compare`, `cbir query`."""

import argparse
import sys

import papermill
import yaml

from .networks import ROOT
from .notebooks import EVIDENCE, PAPER, PATHS, reproduce
from .query import query
from .run import Run, open_run, runs_folder
from .search import METRICS
from .store import open_store
from .sweep import read_sweep, sweep
from .zoo import load_network


def main(argv=None):
    args = _parser().parse_args(argv)
    try:
        args.run_command(args)
    except papermill.PapermillExecutionError as error:
        sys.exit(f"\n{error.ename}: {error.evalue}")
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"cbir: {error}")


def _parser():
    parser = argparse.ArgumentParser(prog="cbir", description="Image retrieval by network activations: the paper, reproduced.")
    commands = parser.add_subparsers(dest="command", required=True)
    profiles = sorted(p.stem for p in (ROOT / "profiles").glob("*.yaml"))
    for name, what in [("reproduce", "run the paper's notebooks (00-04)"), ("evidence", "run the notebooks that test its claims (05-08)")]:
        sub = commands.add_parser(name, help=f"{what}; figures, tables and report in runs/<name>/",
                                  description=f"Example: cbir {name} --profile folder -p images ~/photos -p weights none")
        sub.add_argument("--profile", default="embedded", help=f"one of {', '.join(profiles)} (default: embedded)")
        sub.add_argument("--name", help="the run's name (default: the profile's)")
        sub.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                         help="a notebook parameter, as YAML; repeat for more")
        sub.add_argument("--scheduler", help="where extraction and search run: 'local', the cores of this machine; tcp://...: a Dask cluster")
        sub.set_defaults(run_command=_reproduce)
    sub = commands.add_parser("sweep", help="run a grid of parameters; one table and one plot in runs/<sweep>/",
                              description="Example: cbir sweep sweeps/metric.yaml --scheduler local. Cells that are complete are not run again.")
    sub.add_argument("file", help="a sweep file, as those in sweeps/")
    sub.add_argument("--scheduler", help="'local': as many cells at a time as there are cores; tcp://...: a running Dask scheduler")
    sub.set_defaults(run_command=_sweep)
    sub = commands.add_parser("compare", help="write one page with what differs between two runs",
                              description="Example: cbir compare embedded released. Parameters, results, Table I, time, memory and figures, side by side.")
    sub.add_argument("a", help="a run: its name, or its folder")
    sub.add_argument("b", help="another one")
    sub.add_argument("--output", metavar="PAGE", help="the page (default: compare_<a>_<b>.html in this folder)")
    sub.set_defaults(run_command=_compare)
    sub = commands.add_parser("query", help="show the images of a store nearest to yours",
                              description="Example: cbir query photo.jpg --run folder. Writes query_<stem>.png and .json for every image.")
    sub.add_argument("images", nargs="+", metavar="IMAGE")
    where = sub.add_mutually_exclusive_group()
    where.add_argument("--run", default="embedded", help="the run whose database is searched (default: embedded)")
    where.add_argument("--store", help="a store to search instead")
    sub.add_argument("-k", type=int, default=5, help="images to find (default: 5)")
    sub.add_argument("--descriptor", action="append", help="repeat for several (default: h, eta_conv, eta)")
    sub.add_argument("--metric", default="l1", choices=METRICS)
    sub.add_argument("--output", default=".", help="folder for the results (default: this one)")
    sub.add_argument("--weights", help="the weights of the store's network, where they are not the run's or the default")
    sub.set_defaults(run_command=_query)
    return parser


def _reproduce(args):
    given = {k: v if k in PATHS or not v else yaml.safe_load(v) for k, v in args.parameter} | ({"scheduler": args.scheduler} if args.scheduler else {})
    run = reproduce(args.profile, args.name, given, EVIDENCE if args.command == "evidence" else PAPER)
    counts = run.metrics.get("images")  # notebook 02's
    if counts and args.command == "reproduce":
        print(f"\n{counts['described now']} images described, {counts['reused']} reused from the store.", end=" ")
    print(f"Done: {run.path / 'report.html'}")


def _sweep(args):
    table = sweep(args.file, args.scheduler, tell=lambda line: print(line, flush=True))
    print(f"Done: {runs_folder() / read_sweep(args.file).name}")
    failed = table[table["status"] != "complete"]
    if len(failed):
        sys.exit("\n".join([f"cbir: {len(failed)} of {len(table)} cells failed; the same command tries them again",
                            *(f"  {cell}: {error}" for cell, error in zip(failed["run"], failed["error"]))]))


def _compare(args):
    print(f"Done: {open_run(args.a).compare(open_run(args.b), args.output)}")


def _query(args):
    path, weights = args.store, args.weights or "default"
    if not path:
        path = runs_folder() / args.run / "stores" / "database"
        if not path.is_dir():
            raise FileNotFoundError(f"no run {args.run!r} with descriptors in {runs_folder()}: run `cbir reproduce` first, or give --store")
        weights = args.weights or Run(args.run).metrics.get("parameters", {}).get("weights", "default")
    store = open_store(path)
    net = load_network(store.network["name"], weights=weights, crop="CenterCrop" in store.network["transform"],
                       precision=store.network.get("precision", "float32"))
    written, unreadable = query(args.images, store, net, args.descriptor or ("h", "eta_conv", "eta"), args.metric, args.k, args.output)
    print("\n".join(map(str, written.values())))
    if unreadable:
        sys.exit("\n".join(f"cbir: {file!r} cannot be read: {reason}" for file, reason in unreadable.items()))


if __name__ == "__main__":
    main()

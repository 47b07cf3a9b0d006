"""The command line. Nothing is imported that takes long before it is needed."""

import argparse
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from . import __version__
from .common import INSTALLED, METRICS, ROOT, did_you_mean, runs_folder

DESCRIPTION = """\
Images become descriptors, queries find the nearest images, notebooks draw and judge them.

  cbir reproduce                                          the embedded images, in minutes
  cbir reproduce --profile folder -p images ~/photos      your own
  cbir query photo.jpg --run folder                       the images nearest to a picture

Results are in runs/<name>/: open report.html. A command that was interrupted, given again, goes
on where it stopped. `cbir parameters` lists what -p can set; README.md tells the rest."""


class _Parser(argparse.ArgumentParser):
    """Says which word was probably meant."""

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        known = wrong and re.findall(r"[\w-]+", wrong[2])
        if not wrong:
            wrong = re.search(r"unrecognized arguments: (\S+)", message)
            known = re.findall(r"(?<!\S)--[\w-]+", self.format_help())
        super().error(message + (did_you_mean(wrong[1], known or []) if wrong else ""))


def _parser() -> _Parser:
    parser = _Parser(
        prog="cbir", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--version", action="version", version=f"cbir {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for name, what in [
        ("reproduce", "the paper's notebooks (00-04): figures and Table I"),
        ("evidence", "the notebooks that test its claims (05-09)"),
    ]:
        add = commands.add_parser(name, help=what, description=f"Run {what}.").add_argument
        add("--profile", default="embedded", help="a file of profiles/ (default: %(default)s)")
        add("--name", help="the run's: its folder in runs/ (default: the profile's)")
        add("--only", metavar="NUMBERS", help="other notebooks: 10, or 02-07,10")
        add(
            *("-p", "--parameter"),
            nargs=2,
            action="append",
            default=[],
            metavar=("NAME", "VALUE"),
            help="a parameter, its value as YAML; repeat for more",
        )
        add("--scheduler", help="Dask: 'local', or tcp://host:8786 (default: this process)")
    what = "images of a run that are nearest to yours"
    add = commands.add_parser("query", help=what, description=f"Find the {what}.").add_argument
    add("images", nargs="+", metavar="IMAGE", help="an image file")
    add("--run", default="embedded", help="whose database is searched (default: %(default)s)")
    add("--store", help="a store to search instead")
    add("-k", type=int, default=5, help="images to find (default: %(default)s)")
    add("--descriptor", action="append", help="h, eta, w_1, h+w_1, ..; repeat for several")
    add("--metric", default="l1", choices=METRICS, help="default: %(default)s, the paper's")
    add("--output", default=".", help="folder for the results (default: this one)")
    add("--weights", default="", help="of the store's network: a name or a file")
    what = "look at a run's images in the browser"
    add = commands.add_parser("explore", help=what, description=f"{what.title()}.").add_argument
    add("--run", default="embedded", help="whose database is shown (default: %(default)s)")
    add("--store", help="a store to show instead")
    add("--host", default="127.0.0.1", help="default: %(default)s; others need --auth")
    add("--port", type=int, default=8866, help="default: %(default)s")
    add("--no-browser", action="store_true", help="open no browser")
    add("--auth", metavar="NAME:PASSWORD", help="what visitors must give")
    what = "run a grid of parameters"
    add = commands.add_parser("sweep", help=what, description=f"{what.title()}.").add_argument
    add("file", help="a file as those in sweeps/")
    add("--scheduler", help="Dask: many cells at a time: 'local', or tcp://host:8786")
    what = "write a run's report again"
    add = commands.add_parser("report", help=what, description=f"{what.title()}.").add_argument
    add("run", help="its name or folder")
    what = "put two runs side by side on one page"
    add = commands.add_parser("compare", help=what, description=f"{what.title()}.").add_argument
    add("a", help="a run's name or folder")
    add("b", help="another's")
    add("--output", metavar="PAGE", help="default: compare_<a>_<b>.html in this folder")
    what = "list what -p can set, with defaults"
    add = commands.add_parser("parameters", help=what, description=f"{what.title()}.").add_argument
    add("names", nargs="*", metavar="NAME", help="only these")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command.

    Args:
        argv: its words, default the shell's.

    Raises:
        SystemExit: with a sentence where the command fails, with 2 where it was misspelt.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names and η, into a pipe on Windows
        sys.stdout.reconfigure(errors="backslashreplace")
    if ROOT == INSTALLED:  # kernels may run in another folder
        os.environ.setdefault("CBIR_RUNS", str(runs_folder().resolve()))
    args = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="cbir-home-") as home:
        try:
            Path.home()
        except RuntimeError:  # no HOME, and no entry for this user
            os.environ |= {"HOME": home, "USER": "nobody"}
        try:
            globals()[f"_{args.command}"](args)
        except (ValueError, OSError, ImportError) as error:
            sys.exit(f"cbir: {error}")
        except KeyboardInterrupt:
            sys.exit("\ncbir: interrupted; the same command, given again, goes on")


def _reproduce(args: argparse.Namespace) -> None:
    import papermill
    import yaml

    from . import notebooks

    selected = notebooks.PAPER if args.command == "reproduce" else notebooks.EVIDENCE
    if args.only:
        selected = notebooks.by_number(args.only)
    given: dict[str, Any] = {}
    for name, value in args.parameter:
        as_typed = name in notebooks.PATHS | notebooks.PATHS_OR_NAMES or not value
        given[name] = value if as_typed else yaml.safe_load(value)
    if args.scheduler:
        given["scheduler"] = args.scheduler
    try:
        run = notebooks.reproduce(args.profile, args.name, given, selected)
    except papermill.PapermillExecutionError as error:
        folder = runs_folder() / (args.name or args.profile) / "notebooks"
        executed = max(folder.glob("*.ipynb"), key=os.path.getmtime)
        sys.exit(
            f"\n{error.ename}: {error.evalue}\n\ncbir: {executed} has the cell that failed; "
            "what was done before it is kept"
        )
    counts, skipped = run.metrics.get("images", {}), run.metrics.get("unreadable", {})
    for what, count in counts.items():
        print(f"{what}: {count:,}")
    if skipped:
        print(f"skipped, listed in the report: {len(skipped):,}")
    print(f"Done: {run.path / 'report.html'}")


_evidence = _reproduce


def _sweep(args: argparse.Namespace) -> None:
    from .sweep import sweep

    path, table = sweep(args.file, args.scheduler)
    print(f"Done: {path}")
    failed = table[table["status"] != "complete"]
    if len(failed):
        lines = [f"  {cell}: {error}" for cell, error in zip(failed["run"], failed["error"])]
        told = (
            f"cbir: {len(failed)} of {len(table)} cells failed; the same command tries them again"
        )
        sys.exit("\n".join([told, *lines]))


def _report(args: argparse.Namespace) -> None:
    from .report import report
    from .run import open_run

    print(f"Done: {report(open_run(args.run))}")


def _compare(args: argparse.Namespace) -> None:
    from .report import compare
    from .run import open_run

    print(f"Done: {compare(open_run(args.a), open_run(args.b), args.output)}")


def _query(args: argparse.Namespace) -> None:
    from .names import plain_name
    from .query import open_database, query

    store, net = open_database(args.run, args.store or "", args.weights)
    descriptors = args.descriptor or ("h", "eta_conv", "eta")
    written, unreadable = query(
        args.images, store, net, descriptors, args.metric, args.k, args.output
    )
    for file, picture in written.items():
        print(f"{file}: {picture}")
        found = json.loads(picture.with_suffix(".json").read_text(encoding="utf-8"))
        for descriptor in descriptors:
            print(f"  by {plain_name(descriptor)}")
            for hit in found[descriptor]:
                print(f"    {hit['distance']:.5g}  {hit['file']}  {hit['label']}".rstrip())
    if unreadable:
        lines = [f"cbir: {file!r} cannot be read: {why}" for file, why in unreadable.items()]
        sys.exit("\n".join(lines))


def _explore(args: argparse.Namespace) -> None:
    from .explore import serve

    serve(args.run, args.store, args.host, args.port, not args.no_browser, args.auth)


def _parameters(args: argparse.Namespace) -> None:
    from .notebooks import numbered, parameters
    from .run import OPTIONS

    known: dict[str, dict[tuple[str, str], list[str]]] = {}  # {name: {(default, comment): where}}
    for notebook in numbered():
        for name, (default, comment) in parameters(notebook).items():
            about = (json.dumps(default), comment)
            known.setdefault(name, {}).setdefault(about, []).append(notebook[:2])
    for name, (default, comment) in OPTIONS.items():
        known.setdefault(name, {})[json.dumps(default), comment] = ["02"]
    for name in args.names or known:
        if name not in known:
            raise ValueError(f"no notebook has a parameter {name!r}{did_you_mean(name, known)}")
        for (default, comment), where in known[name].items():
            print(f"{name:<19} {default:<12} {comment} [{' '.join(where)}]")


if __name__ == "__main__":
    main()

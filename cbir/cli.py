"""Images become descriptors, queries find the nearest images, notebooks draw and judge them.

  cbir reproduce                                          the scenes by VGG16, in minutes
  cbir reproduce --profile folder -p images ~/photos      your own
  cbir query photo.jpg --run folder                       the images nearest to a picture

Results are in runs/<name>/: open report.html. A command that was interrupted, given again, goes
on where it stopped. `cbir parameters` lists what -p can set; README.md tells the rest.
"""

# The docstring is what `cbir --help` says. What takes long is imported when it is needed.

import argparse
import io
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from . import __version__
from .common import INSTALLED, METRICS, ROOT, did_you_mean, explained, runs_folder


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        choices = re.findall(r"[\w-]+", message.partition("choose from")[2])
        known = choices or re.findall(r"(?<!\S)--[\w-]+", self.format_help())
        wrong = re.search(r"(?:invalid choice: '|unrecognized arguments: )([^\s']+)", message)
        super().error(message + (did_you_mean(wrong[1], known) if wrong else ""))


def _parser() -> _Parser:
    as_it_is = argparse.RawDescriptionHelpFormatter
    parser = _Parser("cbir", description=__doc__, formatter_class=as_it_is)
    parser.add_argument("--version", action="version", version=f"cbir {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")

    def command(name: str, what: str) -> Callable[..., Any]:
        return commands.add_parser(name, help=what, description=what).add_argument

    for name, what in [
        ("reproduce", "run the paper's notebooks (00-04): figures and Table I"),
        ("evidence", "run the notebooks that test its claims (05-07)"),
    ]:
        add = command(name, what)
        add("--profile", default="scenes", help="a file of profiles/ (default: %(default)s)")
        add("--name", help="the run's: its folder in runs/ (default: the profile's)")
        add("--only", metavar="NUMBERS", help="other notebooks: 08, or 02-05,08")
        pair = {"nargs": 2, "action": "append", "default": [], "metavar": ("NAME", "VALUE")}
        add("-p", "--parameter", help="a parameter, its value as YAML; repeat for more", **pair)
        add("--scheduler", help="Dask: 'local', or tcp://host:8786 (default: this process)")
    add = command("query", "find the images of a run that are nearest to yours")
    add("images", nargs="+", metavar="IMAGE", help="an image file, or a CSV of them")
    add("--run", default="scenes", help="whose database is searched (default: %(default)s)")
    add("--store", default="", help="a store to search instead")
    add("-k", type=int, default=5, help="images to find (default: %(default)s)")
    add("--descriptor", action="append", help="h, eta, w_1, h+w_1, ..; repeat for several")
    add("--metric", default="l1", choices=METRICS, help="default: %(default)s, the paper's")
    add("--output", default=".", help="folder for the results (default: this one)")
    add("--weights", default="", help="of the store's network: a name or a file")
    add = command("explore", "look at a run's images in the browser")
    add("--run", default="scenes", help="whose database is shown (default: %(default)s)")
    add("--store", help="a store to show instead")
    add("--host", default="127.0.0.1", help="default: %(default)s; others need --auth")
    add("--port", type=int, default=8866, help="default: %(default)s")
    add("--no-browser", dest="browser", action="store_false", help="open no browser")
    add("--auth", metavar="NAME:PASSWORD", help="what visitors must give")
    add = command("sweep", "run a grid of parameters")
    add("path", help="a file as those in sweeps/")
    add("--scheduler", help="Dask: many cells at a time: 'local', or tcp://host:8786")
    command("report", "write a run's report again")("run", help="its name or folder")
    add = command("compare", "put two runs side by side on one page")
    add("a", help="a run's name or folder")
    add("b", help="another's")
    add("--output", metavar="PAGE", help="default: compare_<a>_<b>.html in this folder")
    add = command("parameters", "list what -p can set, with defaults")
    add("names", nargs="*", metavar="NAME", help="only these")
    return parser


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command; `argv` are its words, default the shell's.

    Raises:
        SystemExit: with a sentence where the command fails, with 2 where it was misspelt.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):  # file names and η, into a pipe on Windows
        sys.stdout.reconfigure(errors="backslashreplace")
    if ROOT == INSTALLED:  # kernels may run in another folder
        os.environ.setdefault("CBIR_RUNS", str(runs_folder().resolve()))
    args = _parser().parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="cbir-home-") as home:
        if os.path.expanduser("~") == "~":  # no HOME, and no entry for this user
            os.environ |= {"HOME": home, "USER": "nobody"}
        try:
            with explained(runs_folder()):
                globals()[f"_{args.command}"](args)
        except (ValueError, OSError, ImportError) as error:
            sys.exit(f"cbir: {error}")
        except KeyboardInterrupt:
            sys.exit("\ncbir: interrupted; the same command, given again, goes on")


def _reproduce(args: argparse.Namespace) -> None:
    import papermill
    import yaml

    from . import notebooks as nb

    paths = nb.PATHS | nb.PATHS_OR_NAMES  # taken as typed
    given = {n: v if n in paths or not v else yaml.safe_load(v) for n, v in args.parameter}
    given |= {"scheduler": args.scheduler} if args.scheduler else {}
    selected = nb.PAPER if args.command == "reproduce" else nb.EVIDENCE
    try:
        selected = nb.by_number(args.only) if args.only else selected
        run = nb.reproduce(args.profile, args.name, given, selected)
    except papermill.PapermillExecutionError as error:
        folder = runs_folder() / (args.name or args.profile) / "notebooks"
        executed = max(folder.glob("*.ipynb"), key=os.path.getmtime)
        kept = f"cbir: {executed} has the cell that failed; what was done before it is kept"
        sys.exit(f"\n{error.ename}: {error.evalue}\n\n{kept}")
    skipped = len(run.metrics.get("unreadable", {}))
    counts = run.metrics.get("images", {}) | {"skipped, listed in the report": skipped}
    print("\n".join(f"{what}: {count:,}" for what, count in counts.items()))
    print(f"Done: {run.path / 'report.html'}")


_evidence = _reproduce


def _sweep(args: argparse.Namespace) -> None:
    from .sweep import sweep

    path, table = sweep(args.path, args.scheduler)
    print(f"Done: {path}")
    failed = table[table["status"] != "complete"]
    if len(failed):
        told = f"{len(failed)} of {len(table)} cells failed; the same command tries them again"
        sys.exit(f"cbir: {told}\n" + "\n".join("  " + failed["run"] + ": " + failed["error"]))


def _report(args: argparse.Namespace) -> None:
    from . import report, run

    print(f"Done: {report.report(run.open_run(args.run))}")


def _compare(args: argparse.Namespace) -> None:
    from . import report, run

    print(f"Done: {report.compare(run.open_run(args.a), run.open_run(args.b), args.output)}")


def _query(args: argparse.Namespace) -> None:
    from .names import plain_name
    from .query import query
    from .run import open_run
    from .store import open_store
    from .trained import network_of

    run = None if args.store else open_run(args.run, described=True)
    store = open_store(run.path / "stores" / "database" if run else args.store)
    of_run = run.settings.get("weights", "default") if run else "default"
    net = network_of(store, weights=args.weights or of_run)
    wanted = args.descriptor or ("h", "eta_conv", "eta")
    written, unread = query(args.images, store, net, wanted, args.metric, args.k, args.output)
    for file, picture in written.items():
        print(f"{file}: {picture}")
        found = json.loads(picture.with_suffix(".json").read_text(encoding="utf-8"))
        for descriptor in wanted:
            print(f"  by {plain_name(descriptor)}")
            for hit in found[descriptor]:
                print(f"    {hit['distance']:.5g}  {hit['file']}  {hit['label']}".rstrip())
    if unread:
        sys.exit("\n".join(f"cbir: {file!r} cannot be read: {why}" for file, why in unread.items()))


def _explore(args: argparse.Namespace) -> None:
    from .explore import serve

    serve(args.run, args.store, args.host, args.port, args.browser, args.auth)


def _parameters(args: argparse.Namespace) -> None:
    from .notebooks import numbered, parameters
    from .run import OPTIONS

    found: dict[tuple[str, str, str], list[str]] = {}  # by name, default and comment: where
    for notebook in numbered():
        known = parameters(notebook) | (OPTIONS if notebook.startswith("02") else {})
        for name, (default, comment) in known.items():
            found.setdefault((name, json.dumps(default), comment), []).append(notebook[:2])
    names = {name for name, _, _ in found}
    for wrong in set(args.names) - names:
        raise ValueError(f"no notebook has a parameter {wrong!r}{did_you_mean(wrong, names)}")
    for (name, default, comment), where in sorted(found.items()):
        if name in (args.names or names):
            print(f"{name:<19} {default:<12} {comment} [{' '.join(where)}]")

# PYTHON_ARGCOMPLETE_OK
"""The command line: `cbir reproduce`, `evidence`, `sweep`, `compare`, `query`, `explore`, `parameters`. Nothing is imported that takes long before it is needed."""

import argparse
import os
import re
import shlex
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any, NoReturn

from . import __version__
from .common import METRICS, ROOT, did_you_mean
from .workflow import project
from .workflow.project import EVIDENCE, PAPER, runs_folder

STORY = """\
Image retrieval by the activations of a network: the paper of Staszewski et al.
(IEEE TNNLS 2021), reproduced.

Images become descriptors, which are kept in a store; a query finds the nearest images
in it; notebooks draw and judge what came out. To start with:

  cbir reproduce                        Figs 1-10 and Table I, on images that this project
                                        renders: no download, a few minutes
  cbir reproduce --profile folder -p images ~/photos
                                        the same on your own photographs
  cbir query photo.jpg --run folder     the images of a run nearest to a picture of yours
"""
WHERE = """\
Results are in runs/<name>/ of this project, or in the folder that CBIR_RUNS names: open
report.html there. A command that was interrupted, given again, goes on where it stopped.

`cbir <command> --help` has examples and all options, `cbir parameters` all that -p can
set; README.md tells the rest.
"""
LEAVES = """
Leaves in runs/<name>/:

  report.html     everything in one file: open this
  figures/        as PNG and PDF
  table1.*        Table I as CSV, Markdown and LaTeX
  metrics.json    every number, the parameters, the versions
  notebooks/      executed
  stores/         the descriptors; a second run takes them from here

Profiles, each a kind of images:

"""
NOTEBOOKS = {
    "reproduce": ("the paper's notebooks (00-04): figures and Table I", """\
  cbir reproduce                                  the embedded images: no download, a few minutes
  cbir reproduce --profile folder -p images ~/photos
                                                  any folder; its subfolders, if any, are the classes
  cbir reproduce --profile folder -p images ~/photos -p queries ~/queries --name holiday
  cbir reproduce --profile imagenette             ten classes of ImageNet, downloaded once
  cbir reproduce --name strict -p q 2 -p metric cosine -p k 10
                                                  another threshold, distance, number of images
  cbir reproduce --name released -p recipe as_released
                                                  the method as the authors' notebook has it
  cbir reproduce --profile folder -p images ~/photos --scheduler local
                                                  described on all cores, a process each
"""),
    "evidence": ("the notebooks that test the paper's claims (05-08), and the explorer's figures (09)", """\
  cbir evidence                                   on the embedded images; after `cbir reproduce`,
                                                  it takes the descriptors from that run's store
  cbir evidence --profile folder -p images ~/photos
                                                  on the run "folder" of `cbir reproduce`
  cbir evidence -p cutoffs "[1, 10, 100]"         a list, as YAML writes it
"""),
}


class _Parser(argparse.ArgumentParser):
    """Says which word was probably meant, and breaks no line of the descriptions."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=partial(argparse.RawDescriptionHelpFormatter, max_help_position=28), **options)

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        super().error(message + (did_you_mean(wrong[1], re.findall(r"[\w-]+", wrong[2])) if wrong else ""))


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command. argv: its words, default the shell's. Exits with 1 and a sentence on stderr where it fails, with 2 where it was misspelt."""
    parser = _parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks, by the Tab key, what may follow
        import argcomplete
        argcomplete.autocomplete(parser)
    args, rest = parser.parse_known_args(argv)
    if rest:
        options = re.findall(r"(?<!\S)--?[\w-]+", args.parser.format_help())
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}{did_you_mean(rest[0], options)}")
    try:
        args.run_command(args)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"cbir: {error}")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="cbir", usage="cbir command [options]", description=STORY, epilog=WHERE)
    parser.add_argument("--version", action="version", version=f"cbir {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, prog="cbir", metavar="command [options]", title="commands")

    def add(name: str, function: Callable[[argparse.Namespace], None], help: str, description: str, examples: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(name, help=help, description=description, epilog=f"examples:\n{examples}")
        sub.set_defaults(run_command=function, parser=sub)
        return sub

    def option(of: argparse._ActionsContainer, *names: str, completer: Callable[..., Iterable[str]], **about: Any) -> None:
        of.add_argument(*names, **about).completer = completer  # type: ignore[attr-defined]  # where argcomplete looks for it

    for name, (what, examples) in NOTEBOOKS.items():
        kinds = "".join(f"  {k:<11} {textwrap.fill(v, 80, subsequent_indent=' ' * 14)}\n" for k, v in project.profiles().items())
        sub = add(name, _reproduce, f"run {what}", f"Runs {what}.\n{LEAVES}{kinds}", examples)
        option(sub, "--profile", default="embedded", help="kind of images, see above (default: %(default)s)", completer=lambda **_: project.profiles())
        option(sub, "--name", help="the run's name: its folder in runs/ (default: the profile's)", completer=lambda **_: project.runs())
        option(sub, "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), completer=_parameters_and_values,
               help="a notebook parameter, its value as YAML; repeat for more; `cbir parameters` lists them")
        sub.add_argument("--scheduler", help="where extraction and search run: 'local', the cores of this machine; tcp://host:8786, a Dask cluster "
                                             "(default: this process)")
    sub = add("sweep", _sweep, "run a grid of parameters: one table, one plot",
              "Runs every combination of the parameters in a YAML file, each as a run of its own, and\n"
              "collects them in runs/<the file's name>/: table.csv, table.md, plot.png, plot.pdf. Cells\n"
              "that are complete are not run again; where one fails, the table says why.", """\
  cbir sweep sweeps/metric.yaml                       l1, l2, cosine, for two numbers of images
  cbir sweep sweeps/threshold.yaml --scheduler local  as many cells at a time as there are cores

a file of your own, whose values under `grid` are combined:
  profile: folder
  parameters: {images: /home/me/photos, n_queries: 2}
  grid: {q: [0.25, 0.5, 1], metric: [l1, cosine]}
""")
    option(sub, "file", help="a sweep file, as those in sweeps/", completer=_sweeps)
    sub.add_argument("--scheduler", help="where cells run: 'local', as many at a time as there are cores; tcp://host:8786, a Dask cluster "
                                         "(default: one after the other)")
    sub = add("compare", _compare, "put two runs side by side on one page",
              "Writes one page with what differs between two runs: parameters, results with intervals, Table I,\n"
              "time, memory, skipped images and figures; where both searched the same images, also how many of\n"
              "the images found are the same.", """\
  cbir compare embedded released              two runs by name
  cbir compare runs/a runs/b --output a_b.html
                                              by folder; the page under another name
""")
    option(sub, "a", help="a run: its name, or its folder", completer=lambda **_: project.runs())
    option(sub, "b", help="another one", completer=lambda **_: project.runs())
    sub.add_argument("--output", metavar="PAGE", help="the page (default: compare_<a>_<b>.html in this folder)")
    sub = add("query", _query, "find the images of a run nearest to yours",
              "Searches the database of a run, or any store, for the images nearest to yours. Writes for\n"
              "every image query_<stem>.png, where they stand side by side, and query_<stem>.json.", """\
  cbir query photo.jpg                        among the embedded images, after `cbir reproduce`
  cbir query *.jpg --run folder -k 10 --output found
                                              many pictures, in the run "folder"
  cbir query photo.jpg --run folder --descriptor eta --descriptor h+w_1 --metric cosine
  cbir query photo.jpg --store stores/photos  in a store that cbir.extract made
""")
    sub.add_argument("images", nargs="+", metavar="IMAGE", help="an image file")
    where = sub.add_mutually_exclusive_group()
    option(where, "--run", default="embedded", help="the run whose database is searched (default: %(default)s)", completer=lambda **_: project.runs())
    where.add_argument("--store", help="a store to search instead: a folder or a URL")
    sub.add_argument("-k", type=int, default=5, help="images to find (default: %(default)s)")
    option(sub, "--descriptor", action="append", completer=_descriptors, help="h, eta_conv, eta, a part such as w_1, an extra of the store, or a sum "
                                                                              "'h+w_1'; repeat for several (default: h, eta_conv, eta)")
    sub.add_argument("--metric", default="l1", choices=METRICS, help="how descriptors are compared (default: %(default)s, the paper's)")
    sub.add_argument("--output", default=".", help="folder for the results (default: this one)")
    sub.add_argument("--weights", help="the weights of the store's network, where they are not the run's or the default: a name or a file")
    sub = add("explore", _explore, "look at a run's images in the browser",
              "Serves notebook 09 as a web page, on this machine only: choose or upload a picture, see what\n"
              "each descriptor finds for it, which regions were significant and what made a distance. The\n"
              "embedded images are described first where that has not been done (a minute).", """\
  cbir explore                                the embedded images
  cbir explore --run folder                   the database of the run "folder" of `cbir reproduce`
  cbir explore --store stores/photos -p pictures ~/photos/new
                                              a store that cbir.extract made, pictures from a folder
  cbir explore --no-browser --port 8900       without opening a browser, at another port
""")
    option(sub, "--run", default="embedded", help="the run whose database is explored (default: %(default)s)", completer=lambda **_: project.runs())
    sub.add_argument("--store", help="a store to explore instead: a folder or a URL")
    option(sub, "-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), completer=_parameters_and_values,
           help="another parameter of notebook 09, its value as YAML; repeat for more")
    sub.add_argument("--host", default="127.0.0.1", help="the address to listen on; any but a loopback address asks visitors for a token (default: %(default)s)")
    sub.add_argument("--port", type=int, default=8866, help="default: %(default)s")
    sub.add_argument("--no-browser", action="store_true", help="open no browser")
    sub = add("parameters", _list_parameters, "list what -p can set, with defaults",
              "Lists the parameters of the notebooks: name, default, meaning, and in brackets the\nnotebooks that have them.", """\
  cbir parameters                     all
  cbir parameters q metric recipe     some
""")
    option(sub, "names", nargs="*", metavar="NAME", help="only these", completer=lambda **_: _known_parameters())
    return parser


def _reproduce(args: argparse.Namespace) -> None:
    selected = EVIDENCE if args.command == "evidence" else PAPER
    project.check_names(args.profile, [name for name, _ in args.parameter], selected)  # a slip of the pen shows at once
    import papermill

    from .workflow.notebooks import reproduce
    given = _given(args) | ({"scheduler": args.scheduler} if args.scheduler else {})
    try:
        run = reproduce(args.profile, args.name, given, selected)
    except papermill.PapermillExecutionError as error:
        executed = max((runs_folder() / (args.name or args.profile) / "notebooks").glob("*.ipynb"), key=os.path.getmtime)
        sys.exit(f"\n{error.ename}: {error.evalue}\n\ncbir: {executed} has the cell that failed; the same command, given again, goes on with what is done")
    counts = run.metrics.get("images")  # notebook 02's
    if counts and args.command == "reproduce":
        print(f"\n{counts['described now']} images described, {counts['reused']} reused from the store.", end=" ")
    print(f"Done: {run.path / 'report.html'}")


def _sweep(args: argparse.Namespace) -> None:
    from .workflow.sweep import read_sweep, sweep
    table = sweep(args.file, args.scheduler, tell=lambda line: print(line, flush=True))
    print(f"Done: {runs_folder() / read_sweep(args.file).name}")
    failed = table[table["status"] != "complete"]
    if len(failed):
        sys.exit("\n".join([f"cbir: {len(failed)} of {len(table)} cells failed; the same command tries them again",
                            *(f"  {cell}: {error}" for cell, error in zip(failed["run"], failed["error"]))]))


def _compare(args: argparse.Namespace) -> None:
    from .workflow.run import open_run
    print(f"Done: {open_run(args.a).compare(open_run(args.b), args.output)}")


def _query(args: argparse.Namespace) -> None:
    from .workflow.query import open_database, query
    store, net = open_database(args.run, args.store or "", args.weights or "")
    written, unreadable = query(args.images, store, net, args.descriptor or ("h", "eta_conv", "eta"), args.metric, args.k, args.output)
    print("\n".join(map(str, written.values())))
    if unreadable:
        sys.exit("\n".join(f"cbir: {file!r} cannot be read: {reason}" for file, reason in unreadable.items()))


def _explore(args: argparse.Namespace) -> None:
    project.check_names("embedded", [name for name, _ in args.parameter], ["09_explore"])
    from .explorer.serve import serve
    serve(args.run, _given(args) | ({"store": args.store} if args.store else {}), args.host, args.port, not args.no_browser)


def _given(args: argparse.Namespace) -> dict[str, object]:
    """What -p gave: values as YAML, paths as they are typed."""
    import yaml

    from .workflow.notebooks import PATHS
    return {k: v if k in PATHS or not v else yaml.safe_load(v) for k, v in args.parameter}


def _list_parameters(args: argparse.Namespace) -> None:
    known = _known_parameters()
    unknown = [name for name in args.names if name not in known]
    if unknown:
        raise ValueError(f"no notebook has a parameter {unknown[0]!r}{did_you_mean(unknown[0], known)}: `cbir parameters` lists all that there are")
    width = min(shutil.get_terminal_size((150, 24)).columns, 150)
    for name in args.names or known:
        for default, (comment, numbers) in known[name].items():
            head = f"{name:<19} {default:<12} "
            if len(head) > 33:
                print(head.rstrip())
                head = " " * 33
            print(head + f"\n{' ' * 33}".join(textwrap.wrap(f"{comment} [{' '.join(numbers)}]", width - 33)))


def _known_parameters() -> dict[str, dict[str, tuple[str, list[str]]]]:
    """{parameter: {default, as text: (what it is, the numbers of the notebooks where it has this default)}}."""
    known: dict[str, dict[str, tuple[str, list[str]]]] = {}
    for notebook in project.notebooks():
        for name, (default, comment) in project.parameters(notebook).items():
            if name != "run_name":  # --name
                known.setdefault(name, {}).setdefault(str(default) or '""', (comment, []))[1].append(notebook[:2])
    return known


# ---- what may follow, for the Tab key ---------------------------------------------------------------------------------------

def _parameters_and_values(prefix: str, **_: Any) -> Iterable[str]:
    """After -p a parameter; after its name the values that its comment quotes, and files where it speaks of them."""
    words = shlex.split(os.environ["COMP_LINE"][:int(os.environ["COMP_POINT"])] + "x")[:-1]  # those before the one that is being typed
    known = _known_parameters()
    if words[-1] not in known:
        return {name: comment for name, defaults in known.items() for comment, _ in [next(iter(defaults.values()))]}
    default, (comment, _) = next(iter(known[words[-1]].items()))
    values = ["True", "False"] if default in ("True", "False") else re.findall(r'"([^"]+)"', comment)
    if not re.search("file|folder|picture", re.sub(r'"[^"]*"', "", comment)):
        return values
    from argcomplete.completers import FilesCompleter
    return [*values, *FilesCompleter()(prefix)]


def _sweeps(prefix: str, **_: Any) -> Iterable[str]:
    from argcomplete.completers import FilesCompleter
    return [*(os.path.relpath(path) for path in (ROOT / "sweeps").glob("*.yaml")), *FilesCompleter(("yaml", "yml"))(prefix)]


def _descriptors(parsed_args: argparse.Namespace, **_: Any) -> Iterable[str]:
    return project.descriptors(parsed_args.store or runs_folder() / parsed_args.run / "stores" / "database")


if __name__ == "__main__":
    main()

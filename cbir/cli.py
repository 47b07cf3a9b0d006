"""The command line. Nothing is imported that takes long before it is needed."""

import argparse
import io
import json
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

from . import __version__, project
from .common import INSTALLED, METRICS, ROOT, did_you_mean
from .names import plain_name
from .project import EVIDENCE, PAPER, runs_folder

Commands: TypeAlias = "argparse._SubParsersAction[_Parser]"

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
REPRODUCE_EXAMPLES = """\
  cbir reproduce                                  the embedded images: no download, a few minutes
  cbir reproduce --profile folder -p images ~/photos
                                                  any folder; subfolders, if any, are the classes
  cbir reproduce --profile folder -p images ~/photos -p queries ~/queries --name holiday
  cbir reproduce --profile imagenette             ten classes of ImageNet, downloaded once
  cbir reproduce --name strict -p q 2 -p metric cosine -p k 10
                                                  another threshold, distance, number of images
  cbir reproduce --name released -p recipe as_released
                                                  the method as the authors' notebook has it
  cbir reproduce --profile original --only 02-07,10
                                                  VGG16's original weights, codes retrained
  cbir reproduce --profile folder -p images ~/photos --scheduler local
                                                  described on all cores, a process each
"""
EVIDENCE_EXAMPLES = """\
  cbir evidence                                   on the embedded images; after `cbir reproduce`,
                                                  it takes the descriptors from that run's store
  cbir evidence --profile folder -p images ~/photos
                                                  on the run "folder" of `cbir reproduce`
  cbir evidence -p cutoffs "[1, 10, 100]"         a list, as YAML writes it
"""
SWEEP = """\
Runs every combination of the parameters in a YAML file, each as a run of its own, and
collects them in runs/<the file's name>/: table.csv, table.md, plot.png, plot.pdf. Cells
that are complete are not run again; where one fails, the table says why."""
SWEEP_EXAMPLES = """\
  cbir sweep sweeps/metric.yaml                       l1, l2, cosine, for two numbers of images
  cbir sweep sweeps/threshold.yaml --scheduler local  as many cells at a time as there are cores

a file of your own, whose values under `grid` are combined:
  profile: folder
  parameters: {images: /home/me/photos, n_queries: 2}
  grid: {q: [0.25, 0.5, 1], metric: [l1, cosine]}
"""
COMPARE = """\
Writes one page with what differs between two runs: parameters, results with intervals, Table I,
time, memory, skipped images and figures; where both searched the same images, also how many of
the images found are the same."""
COMPARE_EXAMPLES = """\
  cbir compare embedded released              two runs by name
  cbir compare runs/a runs/b --output a_b.html
                                              by folder; the page under another name
"""
QUERY = """\
Searches the database of a run, or any store, for the images nearest to yours. Writes for
every image query_<stem>.png, where they stand side by side, and query_<stem>.json."""
QUERY_EXAMPLES = """\
  cbir query photo.jpg                        among the embedded images, after `cbir reproduce`
  cbir query *.jpg --run folder -k 10 --output found
                                              many pictures, in the run "folder"
  cbir query photo.jpg --run folder --descriptor eta --descriptor h+w_1 --metric cosine
  cbir query photo.jpg --store stores/photos  in a store that cbir.extract made
"""
EXPLORE = """\
Serves notebook 09 as a web page, on this machine only: pick an image of the database or upload
a picture, see what each descriptor finds for it and why, and go on from what was found. The
embedded images are described first where that has not been done (a minute)."""
EXPLORE_EXAMPLES = """\
  cbir explore                                the embedded images
  cbir explore --run folder                   the database of the run "folder" of `cbir reproduce`
  cbir explore --store stores/photos -p pictures ~/photos/new
                                              a store that cbir.extract made, pictures from a folder
  cbir explore --no-browser --port 8900       without opening a browser, at another port
"""
REPORT = """\
Writes runs/<name>/report.html again, from what is there: after notebooks that were run by
hand, say."""
REPORT_EXAMPLES = """\
  papermill notebooks/02_extraction.ipynb out.ipynb -p profile folder -p images ~/photos \\
            -p network efficientnet_lite0 -p run_name mine
  papermill notebooks/03_retrieval.ipynb out.ipynb -p run_name mine -p metric cosine
  cbir report mine                    the run of that name, in runs/
  cbir report results/mine            the run in that folder
"""
PARAMETERS = """\
Lists the parameters of the notebooks: name, default, meaning, and in brackets the
notebooks that have them. The everyday ones come first."""
PARAMETERS_EXAMPLES = """\
  cbir parameters                     all
  cbir parameters q metric recipe     some
"""
# The parameters in the order in which they are listed; an empty group has all others.
GROUPS: dict[str, list[str]] = {
    "What is described, how, and what is shown": [
        "profile",
        "images",
        "queries",
        "network",
        "weights",
        "recipe",
        "q",
        "k",
        "metric",
        "n_queries",
        "query_names",
        "picture",
        "run_name",
    ],
    "Size, speed, draws": [
        "max_images",
        "max_queries",
        "n_images",
        "crop",
        "code_widths",
        "precision",
        "dtype",
        "windows",
        "batch_size",
        "device",
        "scheduler",
        "seed",
    ],
    "The evidence": [],
    "The explorer": ["descriptors", "store", "pictures", "mode"],
    "Training the embedded network": ["train", "seeds", "n_scenes", "epochs"],
    "The authors' weights, pictures and vectors": [
        "caffe",
        "n_formulas",
        "thumbnails",
        "im_vectors",
        "im_query_vectors",
        "im_files",
        "im_query_files",
    ],
}


class _Parser(argparse.ArgumentParser):
    """Says which word was probably meant, and breaks no line of the descriptions."""

    def __init__(self, **options: Any) -> None:
        formatter = partial(argparse.RawDescriptionHelpFormatter, max_help_position=28)
        super().__init__(formatter_class=formatter, **options)

    def error(self, message: str) -> NoReturn:
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message)
        if wrong:
            message += did_you_mean(wrong[1], re.findall(r"[\w-]+", wrong[2]))
        super().error(message)


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
    args, rest = _parser().parse_known_args(argv)
    if rest:
        options = re.findall(r"(?<!\S)--?[\w-]+", args.parser.format_help())
        meant = did_you_mean(rest[0], options)
        args.parser.error(f"unrecognized arguments: {' '.join(rest)}{meant}")
    try:
        args.run_command(args)
    except (ValueError, OSError, ImportError) as error:
        sys.exit(f"cbir: {error}")
    except KeyboardInterrupt:
        goes_on = args.command in ("reproduce", "evidence", "sweep")
        sys.exit("\ncbir: interrupted" + "; the same command, given again, goes on" * goes_on)


# ---- the parsers, one a command -----------------------------------------------------------------


def _parser() -> _Parser:
    """The parser of the whole command line."""
    parser = _Parser(prog="cbir", usage="cbir command [options]", description=STORY, epilog=WHERE)
    parser.add_argument("--version", action="version", version=f"cbir {__version__}")
    commands = parser.add_subparsers(
        dest="command",
        required=True,
        prog="cbir",
        metavar="command [options]",
        title="commands",
    )
    _add_notebooks(
        commands,
        "reproduce",
        "the paper's notebooks (00-04): figures and Table I",
        REPRODUCE_EXAMPLES,
    )
    _add_notebooks(
        commands,
        "evidence",
        "the notebooks that test the paper's claims (05-08), and the explorer's figures (09)",
        EVIDENCE_EXAMPLES,
    )
    _add_sweep(commands)
    _add_report(commands)
    _add_compare(commands)
    _add_query(commands)
    _add_explore(commands)
    _add_parameters(commands)
    return parser


def _add(
    commands: Commands,
    name: str,
    function: Callable[[argparse.Namespace], None],
    help: str,
    description: str,
    examples: str,
) -> _Parser:
    """Adds a command; returns its parser."""
    parser = commands.add_parser(
        name, help=help, description=description, epilog=f"examples:\n{examples}"
    )
    parser.set_defaults(run_command=function, parser=parser)
    return parser


def _add_parameter_option(parser: _Parser, help: str) -> None:
    parser.add_argument(
        "-p",
        "--parameter",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help=help,
    )


def _add_notebooks(commands: Commands, name: str, what: str, examples: str) -> None:
    kinds = ""
    for profile, meaning in project.profiles().items():
        kinds += f"  {profile:<11} {textwrap.fill(meaning, 80, subsequent_indent=' ' * 14)}\n"
    description = f"Runs {what}.\n{LEAVES}{kinds}"
    parser = _add(commands, name, _reproduce, f"run {what}", description, examples)
    parser.add_argument(
        "--profile", default="embedded", help="kind of images, see above (default: %(default)s)"
    )
    parser.add_argument(
        "--name", help="the run's name: its folder in runs/ (default: the profile's)"
    )
    parser.add_argument(
        "--only",
        metavar="NUMBERS",
        help="other notebooks than these, by their numbers: 10, or 02-07,10",
    )
    _add_parameter_option(
        parser,
        "a notebook parameter, its value as YAML; repeat for more; `cbir parameters` lists them",
    )
    parser.add_argument(
        "--scheduler",
        help="where extraction and search run: 'local', the cores of this machine; "
        "tcp://host:8786, a Dask cluster (default: this process)",
    )


def _add_sweep(commands: Commands) -> None:
    parser = _add(
        commands,
        "sweep",
        _sweep,
        "run a grid of parameters: one table, one plot",
        SWEEP,
        SWEEP_EXAMPLES,
    )
    parser.add_argument("file", help="a sweep file, as those in sweeps/")
    parser.add_argument(
        "--scheduler",
        help="where cells run: 'local', as many at a time as there are cores; "
        "tcp://host:8786, a Dask cluster (default: one after the other)",
    )


def _add_report(commands: Commands) -> None:
    parser = _add(
        commands, "report", _report, "write a run's report again", REPORT, REPORT_EXAMPLES
    )
    parser.add_argument("run", help="a run: its name, or its folder")


def _add_compare(commands: Commands) -> None:
    parser = _add(
        commands,
        "compare",
        _compare,
        "put two runs side by side on one page",
        COMPARE,
        COMPARE_EXAMPLES,
    )
    parser.add_argument("a", help="a run: its name, or its folder")
    parser.add_argument("b", help="another one")
    parser.add_argument(
        "--output",
        metavar="PAGE",
        help="the page (default: compare_<a>_<b>.html in this folder)",
    )


def _add_query(commands: Commands) -> None:
    parser = _add(
        commands,
        "query",
        _query,
        "find the images of a run nearest to yours",
        QUERY,
        QUERY_EXAMPLES,
    )
    parser.add_argument("images", nargs="+", metavar="IMAGE", help="an image file")
    where = parser.add_mutually_exclusive_group()
    where.add_argument(
        "--run",
        default="embedded",
        help="the run whose database is searched (default: %(default)s)",
    )
    where.add_argument("--store", help="a store to search instead: a folder or a URL")
    parser.add_argument("-k", type=int, default=5, help="images to find (default: %(default)s)")
    parser.add_argument(
        "--descriptor",
        action="append",
        help="h, eta_conv, eta, a part such as w_1, an extra of the store, or a sum 'h+w_1'; "
        "repeat for several (default: h, eta_conv, eta)",
    )
    parser.add_argument(
        "--metric",
        default="l1",
        choices=METRICS,
        help="how descriptors are compared (default: %(default)s, the paper's)",
    )
    parser.add_argument("--output", default=".", help="folder for the results (default: this one)")
    parser.add_argument(
        "--weights",
        help="the weights of the store's network, where they are not the run's or the default: "
        "a name or a file",
    )


def _add_explore(commands: Commands) -> None:
    parser = _add(
        commands,
        "explore",
        _explore,
        "look at a run's images in the browser",
        EXPLORE,
        EXPLORE_EXAMPLES,
    )
    parser.add_argument(
        "--run",
        default="embedded",
        help="the run whose database is explored (default: %(default)s)",
    )
    parser.add_argument("--store", help="a store to explore instead: a folder or a URL")
    _add_parameter_option(
        parser, "another parameter of notebook 09, its value as YAML; repeat for more"
    )
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        help="the address to listen on; any but a loopback address asks visitors for a token "
        "(default: %(default)s)",
    )
    parser.add_argument("--port", type=int, default=8866, help="default: %(default)s")
    parser.add_argument("--no-browser", action="store_true", help="open no browser")


def _add_parameters(commands: Commands) -> None:
    parser = _add(
        commands,
        "parameters",
        _list_parameters,
        "list what -p can set, with defaults",
        PARAMETERS,
        PARAMETERS_EXAMPLES,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="only these")


# ---- the commands -------------------------------------------------------------------------------


def _reproduce(args: argparse.Namespace) -> None:
    selected = EVIDENCE if args.command == "evidence" else PAPER
    if args.only:
        selected = project.by_number(args.only)
    # Before the imports, which take seconds: a slip of the pen shows at once.
    project.check_names(args.profile, [name for name, _ in args.parameter], selected)
    import papermill

    from .notebooks import reproduce
    from .report import as_lines

    given = _given(args)
    if args.scheduler:
        given["scheduler"] = args.scheduler
    try:
        run = reproduce(args.profile, args.name, given, selected)
    except papermill.PapermillExecutionError as error:
        folder = runs_folder() / (args.name or args.profile) / "notebooks"
        executed = max(folder.glob("*.ipynb"), key=os.path.getmtime)
        sys.exit(
            f"\n{error.ename}: {error.evalue}\n\ncbir: {executed} has the cell that failed; "
            "what was done before it is kept"
        )
    counts = run.metrics.get("images")  # notebook 02's
    if counts and args.command == "reproduce":
        described, reused = counts["described now"], counts["reused"]
        print(f"\n{described} images described, {reused} reused from the store.")
    print("\n".join(as_lines(run)))


def _sweep(args: argparse.Namespace) -> None:
    from .sweep import read_sweep, sweep

    table = sweep(args.file, args.scheduler, tell=partial(print, flush=True))
    print(f"Done: {runs_folder() / read_sweep(args.file).name}")
    failed = table[table["status"] != "complete"]
    if len(failed):
        lines = [
            f"cbir: {len(failed)} of {len(table)} cells failed; the same command tries them again"
        ]
        lines += [f"  {cell}: {error}" for cell, error in zip(failed["run"], failed["error"])]
        sys.exit("\n".join(lines))


def _report(args: argparse.Namespace) -> None:
    from .report import report
    from .run import open_run

    print(f"Done: {report(open_run(args.run))}")


def _compare(args: argparse.Namespace) -> None:
    from .compare import compare
    from .run import open_run

    print(f"Done: {compare(open_run(args.a), open_run(args.b), args.output)}")


def _query(args: argparse.Namespace) -> None:
    from .query import open_database, query

    store, net = open_database(args.run, args.store or "", args.weights or "")
    descriptors = args.descriptor or ("h", "eta_conv", "eta")
    written, unreadable = query(
        args.images, store, net, descriptors, args.metric, args.k, args.output
    )
    where = args.store or f"the run {args.run!r}"
    print(f"Searched: {where}, {len(store):,} images of {store.root}")
    for file, picture in written.items():
        _print_hits(file, picture, descriptors)
    if unreadable:
        lines = [f"cbir: {file!r} cannot be read: {why}" for file, why in unreadable.items()]
        sys.exit("\n".join(lines))


def _print_hits(file: str, picture: Path, descriptors: Sequence[str]) -> None:
    """What `query` found for an image, as its file of results has it."""
    found = json.loads(picture.with_suffix(".json").read_text(encoding="utf-8"))
    print(f"\n{file}: {picture}")
    for descriptor in descriptors:
        print(f"  by {plain_name(descriptor)}")
        for hit in found[descriptor]:
            label = f"  ({hit['label']})" if hit["label"] else ""
            print(f"    {hit['distance']:.5g}  {hit['file']}{label}")


def _explore(args: argparse.Namespace) -> None:
    project.check_names("embedded", [name for name, _ in args.parameter], ["09_explore"])
    from .explorer.serve import check_address, serve

    check_address(args.host, args.port)
    given = _given(args) if args.parameter else {}  # paths are known by a module that imports torch
    if args.store:
        given["store"] = args.store
    serve(args.run, given, args.host, args.port, not args.no_browser)


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """What -p gave: values as YAML, paths as they are typed."""
    import yaml

    from .checks import PATHS

    given = {}
    for name, value in args.parameter:
        as_typed = name in PATHS or not value
        given[name] = value if as_typed else yaml.safe_load(value)
    return given


def _list_parameters(args: argparse.Namespace) -> None:
    known = _known_parameters()
    for name in args.names:
        if name not in known:
            raise ValueError(project.unknown_parameter(name, known))
    if args.names:
        _print_parameters(args.names, known)
        return
    grouped = {name for names in GROUPS.values() for name in names}
    others = [name for name in known if name not in grouped]
    for title, names in GROUPS.items():
        print(f"\n{title}:\n")
        _print_parameters(names or others, known)


def _print_parameters(
    names: Iterable[str], known: Mapping[str, Mapping[str, tuple[str, list[str]]]]
) -> None:
    width = min(shutil.get_terminal_size((150, 24)).columns, 150)
    for name in names:
        for default, (comment, numbers) in known[name].items():
            head = f"{name:<19} {default:<12} "
            if len(head) > 33:
                print(head.rstrip())
                head = " " * 33
            lines = textwrap.wrap(f"{comment} [{' '.join(numbers)}]", width - 33)
            print(head + f"\n{' ' * 33}".join(lines))


def _known_parameters() -> dict[str, dict[str, tuple[str, list[str]]]]:
    """{parameter: {default, as text: (comment, the numbers of the notebooks where it is so)}}."""
    known: dict[str, dict[str, tuple[str, list[str]]]] = {}
    for notebook in project.notebooks():
        for name, (default, comment) in project.parameters(notebook).items():
            if name == "run_name":
                comment += "; of these commands: --name"
            defaults = known.setdefault(name, {})
            _, numbers = defaults.setdefault(str(default) or '""', (comment, []))
            numbers.append(notebook[:2])
    return known


if __name__ == "__main__":
    main()

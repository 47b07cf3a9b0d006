"""`cbir reproduce`: the paper's notebooks, headless, with a profile's parameters."""

import argparse
import ast
import os
import shlex
import sys
import time

import papermill
import yaml
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from .descriptors import named_recipe
from .images import load_images
from .networks import ROOT
from .run import Run
from .search import METRICS

PATHS = {"images", "queries", "weights", "im_vectors", "im_query_vectors", "im_files", "im_query_files"}  # taken as they are typed
PAPER = ["00_embedded_network", "01_walkthrough", "02_extraction", "03_retrieval", "04_color_histograms"]


def main(argv=None):
    parser = argparse.ArgumentParser(prog="cbir", description="Image retrieval by network activations: the paper, reproduced.")
    commands = parser.add_subparsers(dest="command", required=True)
    reproduce_ = commands.add_parser("reproduce", help="run the paper's notebooks; figures, tables and report in runs/<name>/",
                                     description="Example: cbir reproduce --profile folder -p images ~/photos -p weights none")
    profiles = sorted(p.stem for p in (ROOT / "profiles").glob("*.yaml"))
    reproduce_.add_argument("--profile", default="embedded", help=f"one of {', '.join(profiles)} (default: embedded)")
    reproduce_.add_argument("--name", help="the run's name (default: the profile's)")
    reproduce_.add_argument("-p", "--parameter", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"),
                            help="a notebook parameter, as YAML; repeat for more")
    args = parser.parse_args(argv)
    try:
        reproduce(args.profile, args.name, {k: v if k in PATHS or not v else yaml.safe_load(v) for k, v in args.parameter})
    except papermill.PapermillExecutionError as error:
        sys.exit(f"\n{error.ename}: {error.evalue}")
    except (ValueError, OSError) as error:
        sys.exit(f"cbir: {error}")


def reproduce(profile="embedded", name=None, parameters=None):
    """Executes notebooks 00-04 with profiles/<profile>.yaml and `parameters` over it; returns the `Run`.

    Leaves runs/<name>/ with the executed notebooks, figures, tables, metrics.json and report.html.
    Raises ValueError for an unknown profile or parameter, and what papermill raises where a notebook fails.
    """
    path = ROOT / "profiles" / f"{profile}.yaml"
    if not path.is_file():
        raise ValueError(f"unknown profile {profile!r}: choose one of {sorted(p.stem for p in path.parent.glob('*.yaml'))}")
    given = parameters or {}
    parameters = yaml.safe_load(path.read_text(encoding="utf-8")) | given
    run = Run(name or profile)
    known = {n: papermill.inspect_notebook(str(ROOT / "notebooks" / f"{n}.ipynb")) for n in PAPER}
    unknown = set(parameters) - set().union(*known.values())
    if unknown:
        raise ValueError(f"no notebook has a parameter {sorted(unknown)}; there are {sorted(set().union(*known.values()))}")
    parameters["run_name"] = run.name
    if isinstance(parameters.get("query_names"), str):
        parameters["query_names"] = [parameters["query_names"]]
    named_recipe(parameters.get("recipe", "as_printed"), q=parameters.get("q", 0.5))
    if parameters.get("metric", "l1") not in METRICS:
        raise ValueError(f"unknown metric {parameters['metric']!r}: choose one of {METRICS}")
    if parameters.get("k", 1) < 1:
        raise ValueError(f"k = {parameters['k']} is out of range")
    for key in PATHS & set(parameters):  # the notebooks may run in another folder
        path = os.path.expanduser(parameters[key] or "")
        if path and (key != "weights" or os.path.exists(path)):  # weights may be a name, too
            parameters[key] = os.path.abspath(path)
    kind, folders = parameters["profile"], (parameters.get("images"), parameters.get("queries"))
    if kind == "folder" or kind == "embedded" and any(folders):  # a wrong folder shows now, not after the network was loaded
        load_images(kind, *folders)
    command = ["cbir", "reproduce", "--profile", profile, "--name", run.name]
    defaults = {k: ast.literal_eval(about["default"]) for n in PAPER[1:] for k, about in known[n].items()}
    run.record(parameters=defaults | parameters, profile=profile,
               command=shlex.join(command + [x for k, v in given.items() for x in ("-p", k, "none" if v is None else str(v))]))
    seconds = {}
    for notebook in PAPER if parameters["profile"] == "embedded" else PAPER[1:]:  # notebook 00 is about the embedded set
        start = time.time()
        print(f"\n{notebook}", file=sys.stderr)
        output = run.path / "notebooks" / f"{notebook}.ipynb"
        output.parent.mkdir(exist_ok=True)
        papermill.execute_notebook(
            str(ROOT / "notebooks" / f"{notebook}.ipynb"), str(output), progress_bar=False, stderr_file=sys.stderr,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],  # not its remarks on transport encryption
            parameters={k: v for k, v in parameters.items() if k in known[notebook]})
        _tidy(output)
        seconds[notebook] = round(time.time() - start, 1)
    run.record(seconds=seconds)
    report = run.report()
    counts = run.metrics["images"]
    print(f"\n{counts['described now']} images described, {counts['reused']} reused from the store. Done: {report}")
    return run


def _tidy(path):
    """Progress bars in an executed notebook, reduced to the last state of each."""
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(papermill.iorw.load_notebook_node(str(path)), {})
    papermill.iorw.write_ipynb(notebook, str(path))


if __name__ == "__main__":
    main()

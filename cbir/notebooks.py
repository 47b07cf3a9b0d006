"""The numbered notebooks, headless: papermill with a profile's parameters, into runs/<name>/."""

import ast
import functools
import hashlib
import inspect
import json
import math
import os
import platform
import shlex
import sys
import tempfile
import time
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO, get_args

import papermill
import torch
import yaml
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from .common import (
    METRICS,
    PACKAGE,
    PACKAGES,
    ROOT,
    Dtype,
    Precision,
    commit,
    cores,
    did_you_mean,
    unknown_choice,
    write_atomically,
)
from .datasets import PROFILES, load_images
from .descriptors import RECIPES
from .images import list_images
from .run import OPTIONS, PARTS, Run
from .zoo import NoDownload, check_at_hand, check_network

PAPER = [  # in the order in which they are run: pictures come before drawings of the network
    "00_embedded_network",
    "02_extraction",
    "03_retrieval",
    "04_color_histograms",
    "01_walkthrough",
]
EVIDENCE = [
    "05_evidence",
    "06_as_released",
    "07_baselines_and_ablations",
    "08_other_networks",
    "09_explore",
]
PATHS = {"images", "queries", "store", "thumbnails"}  # parameters that are taken as they are typed
PATHS_OR_NAMES = {"weights", "caffe"}
CHOICES = {
    "profile": PROFILES,
    "recipe": tuple(RECIPES),
    "metric": METRICS,
    "dtype": get_args(Dtype),
    "precision": get_args(Precision),
}
KINDS = {
    bool: "true or false",
    int: "a whole number, 0 or more",
    float: "a number, 0 or more",
    str: "a text",
    list: "a list: [a, b]",
    dict: "a mapping: {a: b}",
}
HOW = {"device", "batch_size", "scheduler", "query_names", "seed"}  # no descriptor depends on them
WITHOUT_DOWNLOAD = {
    "network": "-p network vgg16_conv, -p network efficientnet_lite0, --profile photographs (for "
    "class folders), or the file itself by -p weights FILE",
    "networks": "-p networks '[embedded, vgg16_conv, efficientnet_lite0]'",
}


# ---- which there are, and their parameters -------------------------------------------------------


def folder() -> Path:
    """Where the notebooks lie: the variable CBIR_NOTEBOOKS, else the project's."""
    return Path(os.environ.get("CBIR_NOTEBOOKS") or ROOT / "notebooks")


def parameters(notebook: str) -> dict[str, tuple[Any, str]]:
    """The parameters of a notebook, {name: (default, the comment beside it)}.

    Raises:
        ValueError: there is no such notebook, or a default is no literal.
    """
    path = folder() / f"{notebook}.ipynb"
    if not path.is_file():
        raise ValueError(f"no notebook {notebook!r} in {folder()}: there are {numbered()}")
    found = papermill.inspect_notebook(str(path)).values()
    return {p["name"]: (ast.literal_eval(p["default"]), p["help"].strip()) for p in found}


def numbered() -> list[str]:
    """The names of all numbered notebooks, in order."""
    return sorted(path.stem for path in folder().glob("[0-9]*.ipynb"))


def by_number(numbers: str) -> list[str]:
    """The names of the notebooks "02-07,10".

    Raises:
        ValueError: there is no notebook of that number, or the text is no list of numbers.
    """
    known = {int(name.split("_")[0]): name for name in numbered()}
    selected = []
    for part in numbers.split(","):
        first, _, last = part.partition("-")
        try:
            selected += [known[n] for n in range(int(first), int(last or first) + 1)]
        except ValueError:
            raise ValueError(f"{part!r} is no notebook's number: write 10, or 02-07,10") from None
        except KeyError as error:
            raise ValueError(
                f"no notebook {error}: there are {', '.join(known.values())}"
            ) from None
    return selected


def profiles() -> dict[str, str]:
    """{name: what it is for, the comment at its top} of profiles/*.yaml."""
    files = sorted((ROOT / "profiles").glob("*.yaml"))
    return {f.stem: f.read_text(encoding="utf-8").splitlines()[0].strip("# ") for f in files}


def _settings() -> dict[str, Any]:
    """What `Run.describe` takes, with defaults: for any notebook that opens a run's stores."""
    known = inspect.signature(Run.describe).parameters.values()
    plain = {p.name: p.default for p in known if isinstance(p.default, (str, int, float, tuple))}
    defaults: dict[str, Any] = {name: list(d) if d == () else d for name, d in plain.items()}
    del defaults["folder"]
    return defaults | {name: default for name, (default, _) in OPTIONS.items()}


# ---- checked before anything is written ----------------------------------------------------------


def check(
    profile: str = "embedded",
    name: str | None = None,
    given: dict[str, Any] | None = None,
    notebooks: Sequence[str] = PAPER,
) -> dict[str, Any]:
    """What notebooks and `Run.describe` are given: a profile, and parameters over it.

    Args:
        profile: the name of a file in profiles/.
        name: the run's, default the profile's.
        given: parameters that differ from the profile.
        notebooks: the ones that are to run.

    Returns:
        {parameter: value}, paths made absolute, "run_name" among them.

    Raises:
        ValueError: an unknown profile or parameter, a value that has no meaning, or one that the
            run's stores were not made with.
        FileNotFoundError: a folder of images or a file of weights is not there.
        NoDownload: weights are not here, and their server does not answer.
        ImportError: a network needs a package that is missing.
    """
    if profile not in profiles():
        raise ValueError(unknown_choice("profile", profile, profiles()))
    path = ROOT / "profiles" / f"{profile}.yaml"
    values = yaml.safe_load(path.read_text(encoding="utf-8")) | (given or {})
    if isinstance(values.get("query_names"), str):
        values["query_names"] = [values["query_names"]]
    by_notebook = {n: {k: d for k, (d, _) in parameters(n).items()} for n in notebooks}
    known: dict[str, list[Any]] = {}  # {parameter: its defaults}
    for defaults in (_settings(), *by_notebook.values()):
        for parameter, default in defaults.items():
            known.setdefault(parameter, []).append(default)
    for parameter in given or {}:
        if parameter == "run_name":
            raise ValueError("a run is named by --name, not by a parameter")
        if parameter not in known:
            raise ValueError(_unknown(parameter, known))
    for parameter in values.keys() & known.keys():
        for default in known[parameter]:
            _check_value(parameter, values[parameter], default)
    for network in [values.get("network", "embedded"), *values.get("networks", [])]:
        check_network(network)
    values = {parameter: absolute(parameter, value) for parameter, value in values.items()}
    run = Run(name or profile)
    _check_stores(run, values, whole="02_extraction" in notebooks)
    _check_images(values)
    _check_weights(values, by_notebook)
    return values | {"run_name": run.name}


def _unknown(name: str, known: Iterable[str]) -> str:
    """The message for a name that is no parameter of the notebooks that are to run."""
    elsewhere = [notebook for notebook in numbered() if name in parameters(notebook)]
    if elsewhere:
        return (
            f"none of the notebooks that are to run has a parameter {name!r}, but "
            f"{' and '.join(elsewhere)}: see `cbir parameters {name}`"
        )
    hint = did_you_mean(name, known)
    return f"no notebook has a parameter {name!r}{hint}: `cbir parameters` lists all that there are"


def _check_value(name: str, value: Any, default: Any) -> None:
    """Raises ValueError for a value that is not of the kind of its default, or out of range."""
    kind = type(default)
    if kind is str and (value is None or name in PATHS | PATHS_OR_NAMES):
        return
    fits = isinstance(value, (int, float) if kind is float else kind)
    if isinstance(value, bool) != (kind is bool):
        fits = False
    elif fits and kind in (int, float):
        fits = math.isfinite(value) and value >= 0
    if not fits:
        raise ValueError(f"{name} is {KINDS[kind]}, not {value!r}")
    if name == "k" and value < 1:
        raise ValueError(f"k = {value} is out of range: 1 or more")
    if name in CHOICES and value not in CHOICES[name]:
        raise ValueError(unknown_choice(name, value, CHOICES[name]))


def _check_stores(run: Run, values: dict[str, Any], whole: bool) -> None:
    """Raises ValueError where the run has stores that were made with other settings.

    whole: what is not given has its default; else it stays as it was.
    """
    if not (run.path / "stores" / "database").exists():
        return
    made_with, now = run.settings, _settings() | values if whole else values
    differing = []
    for name in sorted(made_with.keys() & now.keys() - HOW):
        was = made_with[name]
        moved = name in ("images", "queries") and was and not os.path.exists(was)
        if was != now[name] and not moved:  # of a folder that moved, `extract` compares the files
            differing.append(f"{name} {was!r}, now {now[name]!r}")
    if differing:
        raise ValueError(
            f"the run {run.name!r} was made with {'; '.join(differing)}: give this one another "
            f"--name, or delete {run.path}"
        )


def _check_images(values: dict[str, Any]) -> None:
    """Raises what `load_images` does for folders, and ValueError where they hold too few images."""
    kind, images, queries = (values.get(key, "") for key in ("profile", "images", "queries"))
    if kind == "folder" or (kind == "embedded" and (images or queries)):
        database, _ = load_images(kind, images, queries)
        n = min(len(database), values.get("max_images") or len(database))
        if values.get("k", 1) > n:
            raise ValueError(
                f"k = {values['k']} is out of range for {n} images: choose 1 to {n}, by -p k {n}"
            )
        if "k" not in values and n < 5:
            raise ValueError(f"k = 5 is out of range for {n} images: add -p k {n}")


def _check_weights(values: dict[str, Any], by_notebook: dict[str, dict[str, Any]]) -> None:
    """Raises what `check_at_hand` does for the networks that notebooks load."""
    wanted = {(values.get("network", "embedded"), values.get("weights", "default")): "network"}
    for defaults in by_notebook.values():
        for name in (defaults | values).get("networks", []) if "networks" in defaults else []:
            wanted[name, "default"] = "networks"
    for (network, weights), parameter in wanted.items():
        try:
            check_at_hand(network, weights)
        except NoDownload as error:
            advice = f"Without a download: {WITHOUT_DOWNLOAD[parameter]}"
            raise NoDownload(error.reason, advice) from error


def absolute(name: str, value: Any) -> Any:
    """Makes a path absolute, for a kernel in another folder; leaves names and all else."""
    path = os.path.expanduser(str(value or ""))
    if path and (name in PATHS or (name in PATHS_OR_NAMES and os.path.exists(path))):
        return os.path.abspath(path)
    return value


# ---- running them --------------------------------------------------------------------------------


def reproduce(
    profile: str = "embedded",
    name: str | None = None,
    given: dict[str, Any] | None = None,
    notebooks: Sequence[str] = PAPER,
    log: TextIO | None = None,
) -> Run:
    """Executes notebooks in order, with a profile's parameters, and writes the run's report.

    One that would give again what is there is left as it is: same cells, parameters, stores,
    package and machine. Those that look at images themselves are always executed.
    Leaves runs/<name>/ with the executed notebooks, figures, tables, metrics.json, report.html.
    metrics.json says of every notebook when it began (UTC), its seconds, parameters, environment,
    and the files that it wrote; "status" is "complete" when all are through.

    Args:
        profile: the name of a file in profiles/.
        name: the run's, default the profile's.
        given: parameters that differ from the profile.
        notebooks: the names of those to execute.
        log: where the notebooks' stderr goes, default ours.

    Returns:
        The run.

    Raises:
        ValueError: as `check` does; and what papermill raises where a notebook fails.
    """
    from .report import report

    log = log or sys.stderr
    values = check(profile, name, given, notebooks)
    run = Run(values["run_name"])
    asked = _settings() if "02_extraction" in notebooks else {}
    run.set(**asked | {key: value for key, value in values.items() if key in _settings()})
    if values["profile"] == "folder":
        run.record(no_images=_no_images(values, log))
    only = ",".join(notebook.split("_")[0] for notebook in notebooks)
    words = ["cbir", "reproduce", "--only", only, "--profile", profile, "--name", run.name]
    for key, value in (given or {}).items():
        words += ["-p", key, "none" if value is None else str(value)]
    commands = [*run.metrics.get("command", "").splitlines(), shlex.join(words)]
    run.record(
        status="unfinished",
        profile=profile,
        given=json.loads(json.dumps(values)),
        command="\n".join(dict.fromkeys(commands)),
    )
    here = environment()
    try:
        for notebook in notebooks:
            if notebook == PAPER[0] and values["profile"] != "embedded":
                continue  # it is about the embedded images
            defaults = {key: default for key, (default, _) in parameters(notebook).items()}
            own = {key: value for key, value in values.items() if key in defaults}
            before = run.metrics.get("notebooks", {})
            made_of = _made_of(run, folder() / f"{notebook}.ipynb", own, here)
            if defaults.keys().isdisjoint({"images", "folders"}) and _is_there(
                run, before.get(notebook, {}), made_of
            ):
                print(f"{notebook}: unchanged", file=log)
                continue
            print(notebook, file=log)
            run.record(notebooks={n: about for n, about in before.items() if n != notebook})
            began, there = time.time(), _files(run)
            output = run.path / "notebooks" / f"{notebook}.ipynb"
            execute(folder() / f"{notebook}.ipynb", output, own, log)
            about = {
                "began": time.strftime("%Y-%m-%d %H:%M", time.gmtime(began)),
                "seconds": round(time.time() - began, 1),
                "parameters": defaults | own,
                "environment": here,
                "made_of": made_of,
                "files": sorted(name for name, _ in _files(run).items() - there.items()),
            }
            run.record(notebooks=run.metrics["notebooks"] | {notebook: about})
        run.record(status="complete")
    finally:
        report(run)
    return run


def _no_images(values: dict[str, Any], log: TextIO) -> dict[str, int]:
    """How many files of the folders are no images, by their suffix; tells how many are."""
    counts: dict[str, int] = {}
    n = 0
    for place in filter(None, (values.get("images"), values.get("queries"))):
        images, others = list_images(place).split_by_suffix()
        n += len(images)
        for suffix, count in others.items():
            counts[suffix] = counts.get(suffix, 0) + count
    print(f"{n:,} images to describe", file=log)
    return counts


def execute(notebook: Path, output: Path, given: Mapping[str, Any], log: TextIO) -> None:
    """Executes one notebook by this interpreter, whatever kernels the user has."""
    output.parent.mkdir(parents=True, exist_ok=True)
    options = [
        "--IPKernelApp.log_level=CRITICAL",  # no remarks on encryption, or on being stopped
        "--InteractiveShellApp.ignore_cwd=True",  # no zarr.py that lies beside the photographs
    ]
    start = "from ipykernel import kernelapp; kernelapp.launch_new_instance()"
    spec = {
        "argv": [sys.executable, "-c", start, "-f", "{connection_file}"],
        "display_name": "Python 3",
        "language": "python",
        "env": {"PYTHONSAFEPATH": "1"},
    }
    others = os.environ.get("JUPYTER_PATH", "")
    with tempfile.TemporaryDirectory(prefix="cbir-kernel-") as own:
        write_atomically(Path(own, "kernels", "python3", "kernel.json"), json.dumps(spec))
        os.environ["JUPYTER_PATH"] = own + os.pathsep + others
        try:
            papermill.execute_notebook(
                str(notebook),
                str(output),
                progress_bar=False,
                stderr_file=log,
                extra_arguments=options,
                parameters=dict(given),
                kernel_name="python3",
            )
        finally:
            os.environ["JUPYTER_PATH"] = others
    executed = papermill.iorw.load_notebook_node(str(output))
    executed, _ = CoalesceStreamsPreprocessor().preprocess(executed, {})  # bars: their last state
    papermill.iorw.write_ipynb(executed, str(output))


# ---- what results depend on ----------------------------------------------------------------------


def _made_of(run: Run, notebook: Path, given: Mapping[str, Any], here: Mapping[str, str]) -> str:
    """A hash of all that a notebook's results depend on, 64 hex digits."""
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    machine = {key: value for key, value in here.items() if key != "code"}
    digest = hashlib.sha256(json.dumps([machine, given], sort_keys=True).encode())
    digest.update("".join(line for cell in cells for line in cell["source"]).encode())
    digest.update(_package())
    for part in PARTS if notebook.stem != PAPER[0] else ():  # 00 comes before the stores
        for file in ("store.json", "images.csv"):
            path = run.path / "stores" / part / file
            digest.update(path.read_bytes() if path.exists() else b"none")
    return digest.hexdigest()


@functools.cache
def _package() -> bytes:
    """A hash of the package's files, and of the numbers and weights beside it."""
    digest = hashlib.sha256()
    for folder in (PACKAGE, ROOT / "data" / "paper", ROOT / "data" / "weights"):
        for path in sorted(folder.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(folder)}\n".encode() + path.read_bytes())
    return digest.digest()


def _is_there(run: Run, before: Mapping[str, Any], made_of: str) -> bool:
    """Whether a notebook was executed before, from the same, and all that it wrote is there."""
    return before.get("made_of") == made_of and all(
        (run.path / file).exists() for file in before["files"]
    )


def _files(run: Run) -> dict[str, int]:
    """When each file of a run was written, but for stores and what this module writes."""
    ours = ("stores", "metrics.json", "settings.json", "report.html")
    paths = {path.relative_to(run.path).as_posix(): path for path in run.path.rglob("*.*")}
    return {n: p.stat().st_mtime_ns for n, p in paths.items() if n.split("/")[0] not in ours}


@functools.cache
def environment() -> dict[str, str]:
    """What results and times depend on besides parameters: code, packages, machine."""
    return {
        "code": commit(),
        "Python": platform.python_version(),
        **{package: version(package) for package in PACKAGES},
        "platform": platform.platform(),
        "cores": str(cores()),
        "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
    }

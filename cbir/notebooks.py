"""The numbered notebooks, headless: papermill with a profile's parameters, into runs/<name>/."""

import ast
import functools
import hashlib
import json
import math
import os
import platform
import shlex
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, TextIO, get_args

import papermill
import torch
import yaml

from . import common
from .common import METRICS, PACKAGE, ROOT, check_choice, did_you_mean
from .datasets import PROFILES, load_images
from .descriptors import RECIPES
from .images import ImageSet
from .report import execute, report
from .run import DRAWN, PARTS, SETTINGS, Run
from .zoo import NoDownload, check_at_hand

# In the order in which they are run: pictures come before drawings of the network.
PAPER = "02_extraction 00_ten_minutes 03_retrieval 04_color_histograms 01_walkthrough".split()
EVIDENCE = "05_evidence 06_as_released 07_ablations".split()
PATHS = {"images", "pictures", "queries", "store"}  # parameters that are taken as they are typed
PATHS_OR_NAMES = {"weights"}
CHOICES: dict[str, Collection[str]] = {"profile": PROFILES, "recipe": RECIPES, "metric": METRICS}
CHOICES |= {"dtype": get_args(common.Dtype), "precision": get_args(common.Precision)}
KINDS = {bool: "true or false", str: "a text", list: "a list: [a, b]", dict: "a mapping: {a: b}"}
KINDS |= {int: "a whole number, {} or more", float: "a number, {} or more"}
HOW = {"device", "batch_size", "scheduler", "query_names"}  # no descriptor depends on them
WITHOUT_DOWNLOAD = """Without a download: -p network vgg16_conv or efficientnet_lite0, \
--profile photographs, or the file by -p weights FILE"""


def folder() -> Path:
    """Where the notebooks lie: the variable CBIR_NOTEBOOKS, else the project's."""
    return Path(os.environ.get("CBIR_NOTEBOOKS") or ROOT / "notebooks")


def parameters(notebook: str) -> dict[str, tuple[Any, str]]:
    """The parameters of a notebook, {name: (default, the comment beside it)}, or ValueError."""
    path = folder() / f"{notebook}.ipynb"
    if not path.is_file():
        raise ValueError(f"no notebook {notebook!r} in {folder()}: there are {numbered()}")
    found = papermill.inspect_notebook(str(path)).values()
    return {p["name"]: (ast.literal_eval(p["default"]), p["help"].strip()) for p in found}


def numbered() -> list[str]:
    """The names of all numbered notebooks, in order."""
    return sorted(path.stem for path in folder().glob("[0-9]*.ipynb"))


def by_number(numbers: str) -> list[str]:
    """The names of the notebooks "02-05,08"; ValueError where there are none of such numbers."""
    known = {int(name.split("_")[0]): name for name in numbered()}
    selected = []
    for part in numbers.split(","):
        first, _, last = part.partition("-")
        try:
            selected += [known[n] for n in range(int(first), int(last or first) + 1)]
        except (ValueError, KeyError):
            hint = f"write 08, or 02-05,08; there are {', '.join(known.values())}"
            raise ValueError(f"{part!r} is no notebook's number: {hint}") from None
    return selected


def check(
    profile: str = "scenes",
    name: str | None = None,
    given: Mapping[str, Any] | None = None,
    notebooks: Sequence[str] = PAPER,
) -> tuple[dict[str, Any], Sequence[ImageSet]]:
    """Checks what `reproduce` is given, before anything is written.

    Returns:
        {parameter: value}, paths made absolute, "run_name" among them; and the database and the
        queries, none where listing them takes a download or minutes.

    Raises:
        ValueError: an unknown profile or parameter, a value that has no meaning, or one that the
            run's stores were not made with.
        OSError, ImportError: images, weights, their server or a package are not there.
    """
    profiles = {path.stem: path for path in sorted((ROOT / "profiles").glob("*.yaml"))}
    check_choice("profile", profile, profiles)
    values = yaml.safe_load(profiles[profile].read_text(encoding="utf-8")) | (given or {})
    if isinstance(values.get("query_names"), str):
        values["query_names"] = [values["query_names"]]
    run = Run(name or profile)
    own = {key: d for notebook in notebooks for key, (d, _) in parameters(notebook).items()}
    known = own | SETTINGS
    for key, value in values.items():
        if key in (given or {}) and (key == "run_name" or key not in known):
            raise ValueError(_unknown(key, known))
        if key in known:
            _check_value(key, value, known[key])
    values = {key: absolute(key, value) for key, value in values.items()}
    own, asked = own | values, SETTINGS | values
    describes = "02_extraction" in notebooks
    # The seed matters to retrained layers alone.
    free = HOW if describes and run.settings.get("code_widths") else HOW | {"seed"}
    _check_stores(run, asked if describes else values, free)
    k = own.get("k", 1)
    parts: Sequence[ImageSet] = ()
    if asked["profile"] in ("scenes", "folder"):  # the others are notebook 02's
        parts = load_images(**{key: asked[key] for key in ("profile", "images", "queries", *DRAWN)})
        if k > (n := len(parts[0])):
            choose = f"choose 1 to {n}, by -p k {n}"
            raise ValueError(f"k = {k} is out of range for {n} images: {choose}")
    try:
        check_at_hand(asked["network"], asked["weights"])
    except NoDownload as error:
        raise NoDownload(error.reason, WITHOUT_DOWNLOAD) from error
    return values | {"run_name": run.name}, parts


def _unknown(name: str, known: Collection[str]) -> str:
    """The message for a name that is no parameter of the notebooks that are to run."""
    if name == "run_name":
        return "a run is named by --name, not by a parameter"
    if elsewhere := [notebook for notebook in numbered() if name in parameters(notebook)]:
        where = f", but {' and '.join(elsewhere)}: see `cbir parameters {name}`"
        return f"none of the notebooks that are to run has a parameter {name!r}{where}"
    hint = did_you_mean(name, known)
    return f"no notebook has a parameter {name!r}{hint}: `cbir parameters` lists all that there are"


def _check_value(name: str, value: Any, default: Any) -> None:
    """Raises ValueError for a value that is not of the kind of its default, or out of range."""
    kind, least = type(default), int(name == "k")
    if kind is str and name in PATHS | PATHS_OR_NAMES:
        return
    fits = isinstance(value, (int, float) if kind is float else kind)
    fits = fits and isinstance(value, bool) == (kind is bool)
    if not fits or (kind in (int, float) and not least <= value < math.inf):
        raise ValueError(f"{name} is {KINDS[kind].replace('{}', str(least))}, not {value!r}")
    if name in CHOICES:
        check_choice(name, value, CHOICES[name])


def _check_stores(run: Run, now: Mapping[str, Any], free: Collection[str]) -> None:
    """Raises ValueError where the run has stores that were made with other, not free, settings."""
    differing = []
    for name, was in sorted(run.settings.items()):
        moved = name in ("images", "queries") and was and not os.path.exists(was)
        if name in now and name not in free and now[name] != was and not moved:
            differing.append(f"{name} {was!r}, now {now[name]!r}")  # `extract` sees what has moved
    if differing and (run.path / "stores" / "database").exists():
        hint = f"give this one another --name, or delete {run.path}"
        raise ValueError(f"the run {run.name!r} was made with {'; '.join(differing)}: {hint}")


def absolute(name: str, value: Any) -> Any:
    """Makes a path absolute, for a kernel in another folder; leaves names and all else."""
    path = os.path.expanduser(str(value or ""))
    if path and (name in PATHS or (name in PATHS_OR_NAMES and os.path.exists(path))):
        return os.path.abspath(path)
    return value


def reproduce(
    profile: str = "scenes",
    name: str | None = None,
    given: Mapping[str, Any] | None = None,
    notebooks: Sequence[str] = PAPER,
    log: TextIO | None = None,
) -> Run:
    """Executes notebooks in order, with a profile's parameters, and writes the run's report.

    One that would give again what is there is left as it is: same cells, parameters, stores,
    package and machine. Those that look into folders of images are always executed.
    metrics.json says of every notebook when it began (UTC), its seconds, parameters, environment,
    and the files that it wrote; "status" is "complete" when all are through.

    Args:
        profile: the name of a file in profiles/.
        name: the run's, default the profile's.
        given: parameters that differ from the profile.
        notebooks: the names of those to execute.
        log: takes the notebooks' stderr, default ours.

    Raises:
        ValueError: as `check` does; and what papermill raises where a notebook fails.
    """
    log = log or sys.stderr
    values, parts = check(profile, name, given, notebooks)
    run, asked = Run(values["run_name"]), SETTINGS if "02_extraction" in notebooks else {}
    stay = DRAWN if not asked and (run.path / "stores").exists() else ()  # what the stores are of
    changed = SETTINGS.keys() - stay
    run.set(**{key: value for key, value in (asked | values).items() if key in changed})
    if values["profile"] == "folder":
        classes = sorted({*parts[0].labels, *parts[1].labels} - {""})
        names = textwrap.shorten(", ".join(classes), 200, placeholder=" ..") or "none"
        print(f"{sum(map(len, parts)):,} images to describe", file=log)
        print(f"{len(classes):,} class{'es' * (len(classes) != 1)}: {names}", file=log)
        run.record(no_images=Counter(parts[0].skipped) + Counter(parts[1].skipped))
    words = ["cbir", "reproduce", "--only", ",".join(n.split("_")[0] for n in notebooks)]
    words += ["--profile", profile, "--name", run.name]
    for key, value in (given or {}).items():
        words += ["-p", key, "none" if value is None else str(value)]
    commands = dict.fromkeys([*run.metrics.get("command", "").splitlines(), shlex.join(words)])
    run.record(status="unfinished", profile=profile, given=values, command="\n".join(commands))
    try:
        for notebook in notebooks:
            _run_notebook(run, notebook, values, log)
        run.record(status="complete")
    finally:
        report(run)
    return run


def _run_notebook(run: Run, notebook: str, values: Mapping[str, Any], log: TextIO) -> None:
    """Executes one notebook of a run, unless all that it would give is there; records it."""
    defaults = {key: default for key, (default, _) in parameters(notebook).items()}
    given = {key: value for key, value in values.items() if key in defaults}
    others = run.metrics.get("notebooks", {})
    before = others.pop(notebook, {"made_of": None})
    there = all((run.path / file).exists() for file in before.get("files", []))
    if there and not (given.get("images") or given.get("pictures")):  # whose files may have changed
        if before["made_of"] == _made_of(run, notebook, given):
            print(f"{notebook}: unchanged", file=log)
            return
    print(notebook, file=log)
    run.record(notebooks=others)
    began, old = time.time(), _files(run)
    output = run.path / "notebooks" / f"{notebook}.ipynb"
    usual = SETTINGS | run.settings == SETTINGS
    usual &= all(value == defaults[key] for key, value in given.items() if key != "run_name")
    execute(folder() / f"{notebook}.ipynb", output, given, log, findings=usual)
    about = {
        "began": time.strftime("%Y-%m-%d %H:%M", time.gmtime(began)),
        "seconds": round(time.time() - began, 1),
        "parameters": defaults | given,
        "environment": environment(),
        "made_of": _made_of(run, notebook, given),  # with the stores that it filled
        "files": sorted(name for name, _ in _files(run).items() - old.items()),
    }
    run.record(notebooks=others | {notebook: about})


def _made_of(run: Run, notebook: str, given: Mapping[str, Any]) -> str:
    """A hash of all that a notebook's results depend on."""
    cells = json.loads((folder() / f"{notebook}.ipynb").read_text(encoding="utf-8"))["cells"]
    machine = environment() | {"code": _package()}
    parts = [machine, given, [cell["source"] for cell in cells]]
    files = [run.path / "stores" / p / f for p in PARTS for f in ("store.json", "images.csv")]
    parts += [hashlib.sha256(f.read_bytes()).hexdigest() for f in files if f.exists()]
    earlier = PAPER[: PAPER.index(notebook)] if notebook in PAPER else []  # they leave arrays
    known = run.metrics.get("notebooks", {})
    parts += [known.get(name, {}).get("made_of") for name in earlier]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@functools.cache
def _package() -> str:
    """A hash of the package's files, and of the numbers, scenes and weights beside it."""
    digest = hashlib.sha256()
    beside = [ROOT / "data" / part for part in ("paper", "results", "scenes", "weights")]
    for place in (PACKAGE, *beside):
        for path in sorted(place.rglob("*")):
            if path.is_file() and "__pycache__" not in path.parts:
                digest.update(f"{path.relative_to(place)}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def _files(run: Run) -> dict[str, int]:
    """When each file of a run was written, but for stores and what this module writes."""
    ours = ("stores", "metrics.json", "settings.json", "report.html")
    paths = {path.relative_to(run.path).as_posix(): path for path in run.path.rglob("*.*")}
    return {n: p.stat().st_mtime_ns for n, p in paths.items() if n.split("/")[0] not in ours}


@functools.cache
def environment() -> dict[str, str]:
    """Lists what results and times depend on besides parameters: code, packages, machine."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    machine = {"platform": platform.platform(), "cores": str(common.cores()), "GPU": gpu}
    packages = {package: version(package) for package in common.PACKAGES}
    return {"code": common.commit(), "Python": platform.python_version()} | packages | machine

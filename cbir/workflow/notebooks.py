"""The numbered notebooks, headless: papermill with a profile's parameters, into runs/<name>/."""

import os
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.metadata import version
from pathlib import Path
from threading import Event, Thread
from typing import Any, TextIO

import papermill
import psutil
import torch
import yaml
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from ..common import METRICS, ROOT, AnyPath
from ..datasets import load_images
from ..descriptors import named_recipe
from . import project
from .project import EVIDENCE, PAPER
from .report import image_hashes
from .run import Run

PATHS = {"images", "queries", "picture", "pictures", "store", "weights", "caffe", "thumbnails", "im_vectors", "im_query_vectors", "im_files",
         "im_query_files"}  # taken as they are typed
PACKAGES = ["cbir", "torch", "torchvision", "numpy", "numba", "pandas", "pillow", "zarr", "dask", "safetensors", "matplotlib", "papermill"]  # results depend on
SAMPLING = 0.2  # seconds between two looks at a kernel's memory


@cache
def known_parameters(notebook: str) -> dict[str, Any]:
    """The parameters of a notebook with their defaults (dict). Raises ValueError where there is no such notebook."""
    return {name: about.default for name, about in project.parameters(notebook).items()}


def check_parameters(profile: str = "embedded", name: str | None = None, parameters: dict[str, Any] | None = None,
                     notebooks: Sequence[str] = PAPER) -> dict[str, Any]:
    """What notebooks are given: profiles/<profile>.yaml with `parameters` and the run's name over it (dict), paths made absolute.

    Raises ValueError for an unknown profile, an unknown parameter or a value that has no meaning, and what `load_images` raises
    for a folder that is not there.
    """
    project.check_names(profile, parameters or {}, notebooks)
    path = ROOT / "profiles" / f"{profile}.yaml"
    given = yaml.safe_load(path.read_text(encoding="utf-8")) | (parameters or {}) | {"run_name": name or profile}
    if isinstance(given.get("query_names"), str):
        given["query_names"] = [given["query_names"]]
    named_recipe(given.get("recipe", "as_printed"), q=given.get("q", 0.5))
    if given.get("metric", "l1") not in METRICS:
        raise ValueError(f"unknown metric {given['metric']!r}: choose one of {METRICS}")
    if given.get("k", 1) < 1:
        raise ValueError(f"k = {given['k']} is out of range")
    for key in PATHS & set(given):  # the notebooks may run in another folder
        path = os.path.expanduser(given[key] or "")
        if path and (key not in ("weights", "caffe") or os.path.exists(path)):  # these may be a name, too
            given[key] = os.path.abspath(path)
    kind, folders = given["profile"], (given.get("images"), given.get("queries"))
    if kind == "folder" or kind == "embedded" and any(folders):  # a wrong folder shows now, not after the network was loaded
        load_images(kind, *folders)
    return given


def with_defaults(parameters: dict[str, Any], notebooks: Sequence[str]) -> dict[str, Any]:
    """Parameters with the defaults of `notebooks` for those not given: all that a run depends on."""
    return {k: v for n in notebooks if n != PAPER[0] for k, v in known_parameters(n).items()} | parameters


def reproduce(profile: str = "embedded", name: str | None = None, parameters: dict[str, Any] | None = None, notebooks: Sequence[str] = PAPER,
              log: TextIO | None = None) -> Run:
    """Executes `notebooks` in order with profiles/<profile>.yaml and `parameters` over it; returns the `Run`.

    Leaves runs/<name>/ with the executed notebooks, figures, tables, metrics.json and report.html. metrics.json gets, of every notebook when
    it is through, "seconds", "memory" (peak, in bytes: see `peak_memory`), "dates" (when it began, UTC), "environment" and "parameters_of"; when
    the last one is, its "status" is "complete" and "hashes" tell the images (see `image_hashes`). The report is written even where a notebook fails.
    log: where the notebooks' stderr goes, default ours.
    Raises what `check_parameters` raises, and what papermill raises where a notebook fails.
    """
    given, log = check_parameters(profile, name, parameters, notebooks), log or sys.stderr
    run = Run(given["run_name"])
    before = run.metrics
    start = f"cbir {'evidence' if notebooks == EVIDENCE else 'reproduce'} "
    command = start + shlex.join(["--profile", profile, "--name", run.name] + [
        x for k, v in (parameters or {}).items() for x in ("-p", k, "none" if v is None else str(v))])
    others = [line for line in before.get("command", "").splitlines() if not line.startswith(start)]  # the other command's stays
    run.record(status="unfinished", parameters=before.get("parameters", {}) | with_defaults(given, notebooks), profile=profile,
               command="\n".join([*others, command]))
    here = environment()
    try:
        for notebook in notebooks:
            if notebook == PAPER[0] and given["profile"] != "embedded":
                continue  # it is about the embedded set
            begin = time.time()
            print(f"\n{notebook}", file=log)
            output = run.path / "notebooks" / f"{notebook}.ipynb"
            output.parent.mkdir(exist_ok=True)
            own = {k: v for k, v in given.items() if k in known_parameters(notebook)}
            with peak_memory() as memory:
                papermill.execute_notebook(
                    str(ROOT / "notebooks" / f"{notebook}.ipynb"), str(output), progress_bar=False, stderr_file=log,
                    extra_arguments=["--IPKernelApp.log_level=ERROR"],  # not its remarks on transport encryption
                    parameters=own)
            _tidy(output)
            stage = {"seconds": round(time.time() - begin, 1), "memory": max(memory), "environment": here, "parameters_of": known_parameters(notebook) | own,
                     "dates": time.strftime("%Y-%m-%d %H:%M", time.gmtime(begin))}
            run.record(**{key: run.metrics.get(key, {}) | {notebook: value} for key, value in stage.items()})
        run.record(status="complete", hashes=image_hashes(run))
    finally:
        run.report()
    return run


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Gives a list that grows, all through the block, by the resident memory (bytes) of the processes that the block started, theirs included:
    a notebook's kernel, and on this machine its workers. Sampled every `SAMPLING` seconds; pages that several share count for each."""
    own, done, samples = psutil.Process(), Event(), [0]
    before = set(own.children(recursive=True))

    def look() -> None:
        while not done.wait(SAMPLING):
            samples.append(sum(map(_resident, set(own.children(recursive=True)) - before)))

    watch = Thread(target=look, daemon=True)
    watch.start()
    try:
        yield samples
    finally:
        done.set()
        watch.join()


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.Error:  # it has just ended
        return 0


def environment() -> dict[str, str]:
    """What results and times may depend on besides the parameters: code, Python, packages, machine (dict of str)."""
    processors = (line.split(":")[1].strip() for line in _text("/proc/cpuinfo").splitlines() if line.startswith("model name"))
    return {"code": commit(), "Python": platform.python_version(), **{package: version(package) for package in PACKAGES},
            "platform": platform.platform(), "processor": next(processors, platform.processor()), "cores": str(os.cpu_count()),
            "memory": f"{psutil.virtual_memory().total / 2 ** 30:.1f} GiB",
            "GPU": torch.cuda.get_device_name() if torch.cuda.is_available() else "none"}


def commit() -> str:
    """The git commit of this code and whether files that git knows were changed since; "no git checkout" where it is none."""
    if not (ROOT / ".git").exists():
        return "no git checkout"
    try:
        told = subprocess.run(["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
                              capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "a git checkout, of which git says nothing"
    return told.stdout.strip().replace("-dirty", ", with changes")


def _text(path: AnyPath) -> str:
    return Path(path).read_text() if Path(path).exists() else ""


def _tidy(path: AnyPath) -> None:
    """Progress bars in an executed notebook, reduced to the last state of each."""
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(papermill.iorw.load_notebook_node(str(path)), {})
    papermill.iorw.write_ipynb(notebook, str(path))

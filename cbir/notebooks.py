"""The numbered notebooks, headless: papermill with a profile's parameters, into runs/<name>/."""

import re
import shlex
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread
from typing import Any, TextIO

import papermill
import psutil
from nbconvert.preprocessors import CoalesceStreamsPreprocessor

from .checks import EXTRACTION, check_parameters, known_parameters
from .common import ROOT
from .environment import environment
from .estimate import estimate
from .images import list_images
from .project import EVIDENCE, PAPER
from .report import image_hashes, report
from .run import Run
from .unchanged import is_there, made_of, results

FIGURE = r"figures/[^/]+\.png"
SAMPLING = 0.2  # seconds between two looks at a kernel's memory


def with_defaults(parameters: dict[str, Any], notebooks: Sequence[str]) -> dict[str, Any]:
    """All that a run depends on: parameters, with the defaults of `notebooks` for the others."""
    complete: dict[str, Any] = {}
    for notebook in notebooks:
        if notebook != PAPER[0]:
            complete |= known_parameters(notebook)
    return complete | parameters


def reproduce(
    profile: str = "embedded",
    name: str | None = None,
    parameters: dict[str, Any] | None = None,
    notebooks: Sequence[str] = PAPER,
    log: TextIO | None = None,
) -> Run:
    """Executes notebooks in order, with a profile's parameters.

    Those of the paper that would give again what is there are left as they are, see `unchanged`.
    Leaves runs/<name>/ with the executed notebooks, figures, tables, metrics.json and report.html.
    Of every notebook that is through, metrics.json gets "seconds", "memory" (peak, in bytes: see
    `peak_memory`), "dates" (when it began, UTC), "environment", "parameters_of", "made_of", "files"
    (what it wrote) and "figures" (the names of those it drew, in order). When the last one is
    through, "status" is "complete", and "hashes" tell the images (see `image_hashes`). The report
    is written after every notebook, and where one fails, too.

    Args:
        profile: the name of a file in profiles/.
        name: the run's, default the profile's.
        parameters: those that differ from the profile.
        notebooks: the names of those to execute.
        log: where the notebooks' stderr goes, default ours.

    Returns:
        The run.

    Raises:
        ValueError: as `check_parameters` does; and what papermill raises where a notebook fails.
    """
    given = check_parameters(profile, name, parameters, notebooks)
    if log is None:
        log = sys.stderr
    run = Run(given["run_name"])
    before = run.metrics
    run.record(
        status="unfinished",
        parameters=before.get("parameters", {}) | with_defaults(given, notebooks),
        profile=profile,
        command=_commands(before.get("command", ""), profile, run.name, parameters, notebooks),
    )
    here = environment()
    if given["profile"] == "folder":
        run.record(no_images=_no_images(given))
        told = ""
        if EXTRACTION in notebooks and not given.get("scheduler") and not given.get("code_widths"):
            told = estimate(run, given)
        if told:
            print(told, file=log)
    try:
        for notebook in notebooks:
            if notebook == PAPER[0] and given["profile"] != "embedded":
                continue  # it is about the embedded set
            own = {k: v for k, v in given.items() if k in known_parameters(notebook)}
            made = made_of(run, notebook, own, here)
            if is_there(run, notebook, made):
                print(f"\n{notebook}: unchanged", file=log)
                continue
            print(f"\n{notebook}", file=log)
            run.record(made_of=run.metrics.get("made_of", {}) | {notebook: "unfinished"})
            stage = _execute(notebook, run, own, log)
            stage["environment"] = here
            stage["made_of"] = made
            known = run.metrics
            run.record(**{key: known.get(key, {}) | {notebook: stage[key]} for key in stage})
            pictures = [name for name in stage["files"] if name.endswith(".png")]
            if pictures:
                more = f" and {len(pictures) - 1} more" * (len(pictures) > 1)
                print(f"drawn: {run.path / pictures[0]}{more}", file=log)
            report(run)
        run.record(status="complete", hashes=image_hashes(run))
    finally:
        report(run)
    return run


def _no_images(given: Mapping[str, Any]) -> dict[str, int]:
    """How many files of the folders are no images, by their suffix."""
    counts: Counter[str] = Counter()
    for part in ("images", "queries"):
        if given.get(part):
            _, others = list_images(given[part]).split_by_suffix()
            counts.update(others)
    return dict(sorted(counts.items()))


def _commands(
    before: str,
    profile: str,
    name: str,
    parameters: Mapping[str, Any] | None,
    notebooks: Sequence[str],
) -> str:
    """The command lines that made a run: this one, after those of another command before it."""
    start = f"cbir {_command_of(notebooks)} --profile "
    words = [profile, "--name", name]
    for key, value in (parameters or {}).items():
        words += ["-p", key, "none" if value is None else str(value)]
    others = [line for line in before.splitlines() if not line.startswith(start)]
    return "\n".join([*others, start + shlex.join(words)])


def _command_of(notebooks: Sequence[str]) -> str:
    """The command that runs these notebooks, as far as they are named."""
    if notebooks == EVIDENCE:
        return "evidence"
    if notebooks == PAPER:
        return "reproduce"
    return "reproduce --only " + ",".join(name.split("_")[0] for name in notebooks)


def _execute(notebook: str, run: Run, parameters: dict[str, Any], log: TextIO) -> dict[str, Any]:
    """Executes one notebook into a run; returns what metrics.json is to say of it."""
    output = run.path / "notebooks" / f"{notebook}.ipynb"
    output.parent.mkdir(parents=True, exist_ok=True)
    before = results(run)
    begin = time.time()
    with peak_memory() as memory:
        papermill.execute_notebook(
            str(ROOT / "notebooks" / f"{notebook}.ipynb"),
            str(output),
            progress_bar=False,
            stderr_file=log,
            # not the kernel's remarks on transport encryption, or on being stopped when it is done
            extra_arguments=["--IPKernelApp.log_level=CRITICAL"],
            parameters=parameters,
        )
    _tidy(output)
    written = {name: when for name, when in results(run).items() if when != before.get(name)}
    written = dict(sorted(written.items(), key=lambda item: item[1]))
    return {
        "seconds": round(time.time() - begin, 1),
        "memory": max(memory),
        "dates": time.strftime("%Y-%m-%d %H:%M", time.gmtime(begin)),
        "parameters_of": known_parameters(notebook) | parameters,
        "figures": [Path(name).stem for name in written if re.fullmatch(FIGURE, name)],
        "files": sorted(written),
    }


def _tidy(path: Path) -> None:
    """Reduces progress bars in an executed notebook to the last state of each."""
    notebook = papermill.iorw.load_notebook_node(str(path))
    notebook, _ = CoalesceStreamsPreprocessor().preprocess(notebook, {})
    papermill.iorw.write_ipynb(notebook, str(path))


# ---- what results and times depend on -----------------------------------------------------------


@contextmanager
def peak_memory() -> Iterator[list[int]]:
    """Measures the memory of the processes that a `with` block starts, and of their children.

    For a notebook these are its kernel and the workers on this machine. Pages that several share
    count for each.

    Yields:
        A list that grows all through the block: resident memory (bytes), every `SAMPLING` seconds.
    """
    own = psutil.Process()
    done = Event()
    samples = [0]
    before = set(own.children(recursive=True))

    def look() -> None:
        while not done.wait(SAMPLING):
            started = set(own.children(recursive=True)) - before
            samples.append(sum(map(_resident, started)))

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

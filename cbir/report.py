"""A notebook executed into another file; a run, or two side by side, as one HTML file.

The pages are notebooks, those of notebooks/pages, written by nbconvert.
"""

import base64
import html
import io
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import pandas as pd
import papermill
from jupyter_client.kernelspec import KernelSpec
from jupyter_client.manager import AsyncKernelManager
from nbconvert import HTMLExporter
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from PIL import Image

from .common import PACKAGE, ROOT, AnyPath, write_atomically
from .names import plain_name
from .run import PARTS, Run
from .statistics import with_interval
from .store import find_store

LARGE = 2**18  # bytes of a PNG above which a page embeds it as WebP; figures/ keeps the PNG
INCH = 128  # pixels on the page for an inch of a figure


class _Kernel(AsyncKernelManager):
    """This interpreter, whatever kernels the user has; no zarr.py that lies beside photographs."""

    @property
    def kernel_spec(self) -> KernelSpec:
        command = [sys.executable, "-m", "ipykernel", "-f", "{connection_file}"]
        command += ["--IPKernelApp.log_level=CRITICAL", "--InteractiveShellApp.ignore_cwd=True"]
        return KernelSpec(argv=command, language="python", env={"PYTHONSAFEPATH": "1"})


def execute(
    notebook: Path, output: Path, given: Mapping[str, Any], log: TextIO, findings: bool = True
) -> None:
    """Executes one notebook by this interpreter, into another file.

    Cells with the tag "finding" speak of the default run's numbers: another one leaves them out.
    """
    output.parent.mkdir(parents=True, exist_ok=True)
    asked = papermill.iorw.load_notebook_node(str(notebook))
    asked.cells = [c for c in asked.cells if findings or "finding" not in c.metadata.tags]
    papermill.iorw.write_ipynb(asked, str(output))
    how = {"kernel_name": "python3", "kernel_manager_class": _Kernel, "progress_bar": False}
    executed = papermill.execute_notebook(output, output, dict(given), stderr_file=log, **how)
    executed, _ = CoalesceStreamsPreprocessor().preprocess(executed, {})  # bars: their last state
    papermill.iorw.write_ipynb(executed, str(output))


def report(run: Run) -> Path:
    """Writes report.html, with everything inside, into a run's folder; returns its path."""
    given = {"folder": str(run.path.resolve())}
    return _write(run.path / "report.html", "report", run.name, given)


def compare(a: Run, b: Run, output: AnyPath | None = None) -> Path:
    """Writes a page (default compare_<a>_<b>.html) with what differs between two runs."""
    path = Path(output or f"compare_{a.name}_{b.name}.html")
    given = {"a": str(a.path.resolve()), "b": str(b.path.resolve())}
    return _write(path, "compare", f"{a.name} and {b.name}", given)


def _write(path: Path, page: str, title: str, given: Mapping[str, str]) -> Path:
    """Executes a notebook of notebooks/pages and writes it without its code."""
    with tempfile.TemporaryDirectory() as aside:
        executed = Path(aside, f"{title}.ipynb")  # its name is the title
        execute(ROOT / "notebooks" / "pages" / f"{page}.ipynb", executed, given, io.StringIO())
        look = {"exclude_input": True, "exclude_input_prompt": True, "exclude_output_prompt": True}
        template = (PACKAGE / "page.html.j2").read_text(encoding="utf-8")
        exporter = HTMLExporter(template_name="basic", raw_template=template, **look)
        text, _ = exporter.from_filename(str(executed))
    return write_atomically(path, text)


def figures(run: Run, names: Sequence[str]) -> str:
    """Figures of a run with their captions, as HTML that refers to nothing outside."""
    shown = []
    for name in names:
        data, kind = (run.path / "figures" / f"{name}.png").read_bytes(), "png"
        with Image.open(io.BytesIO(data)) as image:
            caption = html.escape(image.info.get("Description", name))
            width = round(image.width / image.info.get("dpi", (200, 200))[0] * INCH)
            if len(data) > LARGE and max(image.size) < 2**14:  # what WebP can hold
                image.convert("RGB").save(small := io.BytesIO(), "webp", quality=88)
                data, kind = small.getvalue(), "webp"
        source = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        body = f'<img src="{source}" alt="{caption}" width="{width}">'
        body += f"<figcaption>{caption}</figcaption>"
        shown.append(f'<figure id="figure-{name}">{body}</figure>')
    return "\n".join(shown)


def results(records: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Means with intervals as a table of text, a row a descriptor, a column a measure."""
    found: dict[str, dict[str, str]] = {}
    for record in records:
        values = np.array([record[key] for key in ("mean", "low", "high")], float)  # None: NaN
        of_name = found.setdefault(plain_name(record["descriptor"]), {})
        of_name[record["metric"]] = with_interval(*values) or "–"
    return pd.DataFrame(list(found.values()), index=list(found)).fillna("")


def facts(run: Run) -> dict[str, str]:
    """Collects what a run's numbers depend on, {name: text}: settings, parameters, versions, .."""
    metrics = run.metrics
    known: dict[str, Any] = {f"images, {k}": n for k, n in metrics.get("images", {}).items()}
    known |= {"recipe": metrics.get("recipe", ""), **run.settings}
    for part in ("network", "versions"):
        known |= {f"{part}, {name}": value for name, value in metrics.get(part, {}).items()}
    for notebook, about in sorted(metrics.get("notebooks", {}).items()):
        known |= about["environment"]
        for name, value in about["parameters"].items():
            if name not in (*run.settings, "run_name"):
                known[f"{notebook[:2]}, {name}"] = value
    return {name: re.sub(r"^$", "(empty)", str(value)) for name, value in known.items()}


def listed(run: Run) -> list[Any]:
    """The files and classes of a run's images; [] where its stores are gone."""
    stores = filter(None, (find_store(run.path / "stores" / part) for part in PARTS))
    return [[store.files, store.labels] for store in stores]

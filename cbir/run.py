"""A run's folder, runs/<name>/: figures, tables, metrics.json and, from these, report.html."""

import base64
import json
import os
import re
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from . import figures, tables
from .descriptors import NAMES
from .networks import ROOT


def runs_folder():
    """The folder of all runs: the variable CBIR_RUNS, else runs/ beside the package (Path)."""
    return Path(os.environ.get("CBIR_RUNS") or ROOT / "runs")


class Run:
    """The folder of the run `name`, made where it does not exist. `folder` (or the variable CBIR_RUNS) holds all runs.

    Raises ValueError for a name that is no plain folder name.
    """

    def __init__(self, name="embedded", folder=None):
        if not re.fullmatch(r"\w[\w.-]*", name):
            raise ValueError(f"{name!r} is no run name: letters, digits, '_', '-' and '.' only")
        self.name = name
        self.path = Path(folder or runs_folder()) / name
        (self.path / "figures").mkdir(parents=True, exist_ok=True)

    def save_figure(self, fig, name, caption):
        """figures/<name>.png and .pdf; the caption travels inside both files."""
        fig.savefig(self.path / "figures" / f"{name}.png", metadata={"Description": caption})
        fig.savefig(self.path / "figures" / f"{name}.pdf", metadata={"Subject": caption, "CreationDate": None})

    def show(self, fig, name, caption):
        """`save_figure`, then the figure in the notebook with the caption as alternative text."""
        self.save_figure(fig, name, caption)
        figures.show(fig, caption)

    def save_table1(self, table):
        """Table I as table1.csv, .md, .tex and, for the report, .html; numbers with six decimals as in the paper, winners in bold."""
        self._write("table1.csv", table.to_csv(index=False, float_format="%.6f"))
        self._write("table1.md", tables.markdown(table, tables.winners(table)))
        self._write("table1.tex", tables.style(table, "latex").to_latex(convert_css=True, hrules=True))
        self._write("table1.html", tables.style(table).to_html())

    def array_path(self, name, key):
        """Where `save_arrays` keeps one array: for those who write it there piece by piece."""
        (self.path / name).mkdir(exist_ok=True)
        return self.path / name / f"{key}.npy"

    def save_arrays(self, name, **arrays):
        """Arrays as <name>/<key>.npy, for the notebooks that follow; instead of whatever was there."""
        (self.path / name).mkdir(exist_ok=True)
        files = {self.array_path(name, key): array for key, array in arrays.items()}
        for path in {*(self.path / name).glob("*.npy")} - {*files}:
            path.unlink()
        for path, array in files.items():
            if Path(getattr(array, "filename", None) or "").resolve() != path.resolve():  # else it lies there already, mapped
                np.save(path, array)

    def load_arrays(self, name):
        """What `save_arrays` saved (dict), mapped from disk. Raises FileNotFoundError where an earlier notebook has not run."""
        if not (self.path / name).is_dir():
            raise FileNotFoundError(f"no {name} in runs/{self.name}: run the earlier notebooks first, in order")
        return {path.stem: np.load(path, mmap_mode="r", allow_pickle=False) for path in sorted((self.path / name).glob("*.npy"))}

    def record(self, **metrics):
        """Adds to metrics.json (values that JSON knows), replacing what had the same names."""
        self._write("metrics.json", json.dumps(self.metrics | metrics, indent=1, sort_keys=True) + "\n")

    def record_results(self, table):
        """Adds rows (metric, descriptor, mean, low, high) to metrics.json's results, replacing those of the same metrics."""
        rows = table.to_dict("records")
        others = [r for r in self.metrics.get("results", []) if r["metric"] not in {r["metric"] for r in rows}]
        self.record(results=others + rows)

    @property
    def metrics(self):
        path = self.path / "metrics.json"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}

    def report(self):
        """Writes report.html, one file with everything inside, and returns its path."""
        figures = []
        for png in sorted((self.path / "figures").glob("*.png")):
            with Image.open(png) as image:
                caption = image.info.get("Description", "")
            figures.append((png.stem, caption, base64.b64encode(png.read_bytes()).decode()))
        table1 = self.path / "table1.html"
        page = jinja2.Environment(autoescape=True).from_string(PAGE).render(
            run=self, names=NAMES, metrics=self.metrics, figures=figures,
            table1=table1.read_text(encoding="utf-8") if table1.exists() else "")
        self._write("report.html", page)
        return self.path / "report.html"

    def _write(self, name, text):
        aside = self.path / f".{name}.new"
        aside.write_text(text, encoding="utf-8")
        aside.replace(self.path / name)


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ run.name }}: image retrieval by network activations</title>
<style>
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
h1, h2 { line-height: 1.2; font-weight: 600 } h2 { margin-top: 2.5rem }
figure { margin: 2rem 0 } figure img { width: 100%; height: auto } figcaption { color: #555; font-size: .9rem }
table { border-collapse: collapse; font-size: .85rem } .wide { overflow-x: auto }
th, td { padding: .25rem .7rem; text-align: right; border-bottom: 1px solid #ddd; white-space: nowrap } th:first-child, td:first-child { text-align: left }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: .85rem }
</style></head><body>
<h1>Run “{{ run.name }}”</h1>
<p>Staszewski et al., <em>A New Approach to Descriptors Generation for Image Retrieval by Analyzing Activations of Deep Neural
Network Layers</em>, IEEE TNNLS 2021, reproduced.</p>
{% if metrics.parameters %}<h2>What was run</h2>
<div class="wide"><table>{% for key, value in metrics.parameters.items() %}<tr><td>{{ key }}</td><td style="text-align:left">{{ value }}</td></tr>{% endfor %}</table></div>
{% endif %}{% if metrics.command %}<p>Again with:</p><pre>{{ metrics.command }}</pre>{% endif %}
<h2>Results over all queries</h2>
{% if metrics.results %}<div class="wide"><table><tr><th>metric</th><th>descriptor</th><th>mean</th><th>95 % interval</th></tr>
{% for row in metrics.results %}<tr><td>{{ row.metric }}</td><td>{{ names[row.descriptor] }}</td><td>{{ "%.4f" % row.mean }}</td><td>{{ "%.4f – %.4f" % (row.low, row.high) }}</td></tr>
{% endfor %}</table></div>{% endif %}
{% if table1 %}<h2>Table I</h2>
<p>Mean colour-histogram distance between a query and the images retrieved for it, the smallest of a row in bold; L1 / 75 as printed, the formula behind the
paper's printed numbers, and the paper's own numbers (for its own ten queries).</p>
<div class="wide">{{ table1 | safe }}</div>
{% endif %}<h2>Images</h2>
<p>{% if metrics.images %}{{ metrics.images.database }} database images, {{ metrics.images.queries }} queries.{% endif %}
{% if metrics.unreadable %}Skipped:</p><ul>{% for file, reason in metrics.unreadable.items() %}<li>{{ file }}: {{ reason }}</li>{% endfor %}</ul>
{% else %}None was skipped.</p>{% endif %}
<h2>Figures</h2>
{% for name, caption, png in figures %}<figure><img alt="{{ caption }}" src="data:image/png;base64,{{ png }}"><figcaption>{{ caption }}</figcaption></figure>
{% endfor %}
{% if metrics.seconds %}<h2>Time and versions</h2>
<div class="wide"><table>{% for key, value in metrics.seconds.items() %}<tr><td>{{ key }}</td><td>{{ "%.0f" % value }} s</td></tr>{% endfor %}
{% for key, value in (metrics.versions or {}).items() %}<tr><td>{{ key }}</td><td>{{ value }}</td></tr>{% endfor %}</table></div>{% endif %}
</body></html>
"""

"""Pages that say what a run did and found, and how two runs differ: one self-contained HTML file each, from templates/*.html.j2."""

import base64
import hashlib
import io
import json
import math
import re
from collections.abc import Iterable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

import jinja2
import numpy as np
import pandas as pd
from PIL import Image

from ..common import ROOT, AnyPath
from ..descriptors import RECIPES
from ..evaluation import COLOR, bootstrap_interval, common_in_top_k
from ..labels import NAMES
from ..store import find_store
from ..tables import GROUPS

if TYPE_CHECKING:
    from .run import Run  # which imports this module

Record: TypeAlias = dict[str, Any]  # from metrics.json: metric, descriptor, mean, low, high, ..
Metrics: TypeAlias = Mapping[str, Any]  # what metrics.json holds
Key = TypeVar("Key")
Value = TypeVar("Value")

LARGE = 2 ** 20  # bytes of a PNG above which a page embeds it as WebP, a seventh of that for photographs; figures/ keeps the PNG
WEBP_SIDE = 16383  # pixels, the most that WebP knows
INCH = 128  # pixels on the page for an inch of a figure: those of 7.2 inches fill it, and text has one size in all
PARTS = {"database": "database", "queries": "query"}
EVIDENCE = {  # lists in metrics.json besides "results": their headings, and what differences begin with
    "pairs": ("Paired differences, query by query: η less the other (notebook 05)", "η − "),
    "released_results": ("From the recipe as printed to the one as released (notebook 06)", ""),
    "printed_against": ("Paired differences for η: as printed less the other recipe (notebook 06)", "printed − "),
    "caffe": ("With the authors' weights (notebook 06)", ""),
    "baselines": ("Other descriptors (notebook 07)", ""),
    "networks": ("Other networks (notebook 08)", ""),
    "networks_compared": ("Paired differences by network: η less the other (notebook 08)", "η − ")}
PAGES = jinja2.Environment(loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True,
                           trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined)


def report(run: "Run") -> Path:
    """Writes report.html, one file with everything inside, into a run's folder and returns its path."""
    metrics, figures = run.metrics, _figures(run)
    table1 = run.path / "table1.html"
    sections = {"The paper's figures": [f for f in figures.values() if f["of_paper"]]}
    for figure in figures.values():
        if not figure["of_paper"]:
            sections.setdefault(f"Figures of {figure['notebook']}", []).append(figure)
    groups = _groups(metrics)
    main, others = groups[0] if groups else None, groups[1:]
    commits = {e["code"] for e in metrics.get("environment", {}).values()}
    page = PAGES.get_template("report.html.j2").render(
        name=run.name, status=metrics.get("status", ""), summary=_summary(metrics, main), main=main, others=others,
        table1=table1.read_text(encoding="utf-8") if table1.exists() else "", sections={k: v for k, v in sections.items() if v},
        shown=metrics.get("shown_queries", []), images=metrics.get("images"), unreadable=metrics.get("unreadable"),
        command=metrics.get("command", ""), commit=commits.pop() if len(commits) == 1 else "", facts=facts(run), stages=_stages(metrics))
    return _write(run.path / "report.html", page)


def compare(a: "Run", b: "Run", output: AnyPath | None = None) -> Path:
    """Writes one page with what differs between two runs, by default compare_<a>_<b>.html in the current folder; returns its path.

    Results over other queries or another database stand side by side without a verdict. Raises ValueError for a folder that holds no run.
    """
    for run in (a, b):
        if not run.metrics:
            raise ValueError(f"{run.path} is no run: there is no metrics.json in it")
    of_a, of_b = a.metrics, b.metrics
    comparable, remark = _same_images(a, b)
    unfinished = [f"Run {side} is {run.metrics['status']}: what it shows may be incomplete, or in part of an earlier time."
                  for side, run in zip("ab", (a, b)) if run.metrics.get("status", "complete") != "complete"]
    both = of_a.get("seconds", {}).keys() & of_b.get("seconds", {}).keys() or None
    rows = [(section, key, x.get(key, "–"), y.get(key, "–")) for section, x, y in _paired(facts(a, both), facts(b, both), {}) for key in x | y]
    left, right = (metrics.get("unreadable", {}) for metrics in (of_a, of_b))
    stages = [{stage["notebook"]: stage for stage in _stages(metrics)} for metrics in (of_a, of_b)]
    page = PAGES.get_template("compare.html.j2").render(
        a=a.name, b=b.name, paths=[a.path, b.path], warnings=unfinished + [remark] * (comparable is not True), comparable=comparable is not False,
        differing=[row for row in rows if row[2] != row[3]], same=[row for row in rows if row[2] == row[3]],
        groups=_compared_groups(of_a, of_b, comparable is not False), common=_common(a, b) if comparable else [],
        table1=_compared_table1(a, b), same_shown=of_a.get("shown_queries") == of_b.get("shown_queries"),
        stages=sorted(_paired(*stages)),
        skipped=[(file, left.get(file), right.get(file)) for file in sorted(left | right) if left.get(file) != right.get(file)],
        skipped_alike=sum(left.get(file) == reason for file, reason in right.items()), figures=_compared_figures(a, b))
    return _write(Path(output or f"compare_{a.name}_{b.name}.html"), page)


# ---- what was run -----------------------------------------------------------------------------------------------------------

def facts(run: "Run", notebooks: Iterable[str] | None = None) -> dict[str, dict[str, str]]:
    """All that a run's numbers depend on: {section: {name: value}}, as text; of the parameters those of `notebooks`, default all that were run."""
    metrics = run.metrics
    recipe, images = (metrics.get(key, {}) for key in ("recipe", "images"))
    parameters, environment = ({n: values for n, values in metrics.get(key, {}).items() if notebooks is None or n in notebooks}
                               for key in ("parameters_of", "environment"))
    parameters = _merged(parameters) or metrics.get("parameters", {})  # of a run by hand there are none
    sections = {"Notebooks": {"through": ", ".join(sorted(metrics.get("seconds", {})))},
                "Parameters": {k: v for k, v in parameters.items() if k != "run_name"},
                "Recipe": ({"name": _recipe_name(recipe)} if recipe else {}) | recipe, "Network": metrics.get("network", {}),
                "Images": {f"{name} images": images[part] for part, name in PARTS.items() if part in images}
                          | {f"{PARTS[part]} images, SHA-256 of the list": value for part, value in image_hashes(run).items()},
                "Code, packages, machine": _merged(environment) or metrics.get("versions", {})}
    return {title: {k: _text(values[k]) for k in sorted(values, key=str.casefold)} for title, values in sections.items() if values}


def image_hashes(run: "Run") -> dict[str, str]:
    """SHA-256 of the names and classes of the run's images, in order, as JSON [names, classes]: {"database": hex, "queries": hex}.

    Read from its stores; where these are gone, what metrics.json recorded. A store that cannot be read says why instead.
    """
    found = dict(run.metrics.get("hashes", {}))
    for part in PARTS:
        try:
            store = find_store(run.path / "stores" / part)
            if store is not None:
                found[part] = hashlib.sha256(json.dumps([store.files, store.labels]).encode()).hexdigest()
        except ValueError as error:
            found[part] = f"unknown: {error}"
    return found


def _merged(of_notebooks: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """{notebook: {name: value}} -> {name: value}; where values differ, all of them, each with its notebooks."""
    merged: dict[str, dict[str, list[str]]] = {}
    for notebook, values in of_notebooks.items():
        for key, value in values.items():
            merged.setdefault(key, {}).setdefault(_text(value), []).append(notebook)
    return {key: next(iter(values)) if len(values) == 1 else "; ".join(f"{value} ({', '.join(notebooks)})" for value, notebooks in values.items())
            for key, values in merged.items()}


def _stages(metrics: Metrics) -> list[dict[str, Any]]:
    """A dict for every notebook that has been run, with what is known of its beginning, seconds and memory (bytes)."""
    return [{"notebook": n, "began": metrics.get("dates", {}).get(n), "seconds": seconds, "memory": metrics.get("memory", {}).get(n)}
            for n, seconds in sorted(metrics.get("seconds", {}).items())]


def _recipe_name(recipe: Mapping[str, Any]) -> str:
    name = next((name for name, known in RECIPES.items() if known | {"q": recipe.get("q")} == recipe), "one of its own")
    return name.replace("_", " ")


def _text(value: object) -> str:
    return "none" if value is None else "(empty)" if value == "" else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# ---- results ----------------------------------------------------------------------------------------------------------------

def _groups(metrics: Metrics) -> list[dict[str, Any]]:
    """All results with intervals, the paper's notebooks' first: [{"title", "prefix", "metrics": {metric: {descriptor: record}}, ..}, ..]."""
    records = metrics.get("results", [])
    key = [r for r in records if r["metric"].startswith("same ") or r["metric"] == COLOR] or records
    groups = [("Results", "", key), ("More metrics (notebook 05)", "", [r for r in records if r not in key])]
    for name, (title, prefix) in EVIDENCE.items():
        found = metrics.get(name, [])
        for part in dict.fromkeys(r.get("network", r.get("of")) for r in found):
            groups.append((f"{title}: {NAMES.get(part, part)}" if part else title, prefix, [r for r in found if r.get("network", r.get("of")) == part]))
    return [_group(title, prefix, records) for title, prefix, records in groups if records]


def _group(title: str, prefix: str, records: Iterable[Record]) -> dict[str, Any]:
    table: dict[str, dict[str, Record]] = {}
    for r in records:
        table.setdefault(r["metric"], {})[r["descriptor"]] = dict(r)
    for metric, row in table.items():
        low, high = (pick([r[end] for r in row.values() if math.isfinite(r[end])], default=0) for pick, end in [(min, "low"), (max, "high")])
        best, near = leaders(metric, row)
        for descriptor, r in row.items():
            r["text"], r["interval"] = _number(metric, r["mean"]), f"[{_number(metric, r['low'])}, {_number(metric, r['high'])}]"
            r["best"] = r["verdict"] != "open" if "verdict" in r else descriptor in best
            r["near"] = "verdict" not in r and descriptor in near
            r["at"] = [round(2 + 96 * (r[x] - low) / (high - low or 1), 1) if math.isfinite(r[x]) else None for x in ("low", "mean", "high")]
    return {"title": title, "prefix": prefix, "metrics": table, "descriptors": list(dict.fromkeys(r["descriptor"] for r in records)),
            "differences": any("verdict" in r for r in records)}


def leaders(metric: str, row: Mapping[str, Record]) -> tuple[list[str], list[str]]:
    """(best, near): the descriptors of the best mean, and those whose intervals overlap the best one's. row: {descriptor: record}."""
    row = {d: r for d, r in row.items() if math.isfinite(r["mean"])}
    if not row:
        return [], []
    top = (min if metric == COLOR else max)(r["mean"] for r in row.values())
    best = [d for d, r in row.items() if r["mean"] == top]
    return best, [d for d, r in row.items() if d not in best and _overlap(r, row[best[0]])]


def _overlap(a: Record, b: Record) -> bool:
    return a["low"] <= b["high"] and b["low"] <= a["high"]


def _summary(metrics: Metrics, main: dict[str, Any] | None) -> str:
    """The run in two sentences: what was done, and which descriptor is ahead in what."""
    images, network, recipe = (metrics.get(key) for key in ("images", "network", "recipe"))
    done = ([f"{_count(images['queries'], 'query was', 'queries were')} searched for in a database of {_count(images['database'], 'image', 'images')}"] if images else []) + (
        [f"described by the network “{network['name']}” and the recipe {_recipe_name(recipe)} (q = {recipe['q']})"] if network and recipe else [])
    apart: dict[str, list[str]] = {}
    close: list[str] = []
    for metric, row in main["metrics"].items() if main else []:
        best, near = leaders(metric, row)
        if len(row) < 2 or not best:
            continue
        metric = metric.removeprefix("same ")
        if len(best) == 1 and not near:
            apart.setdefault(descriptor_name(best[0]), []).append(metric)
        else:
            close.append(f"in {metric} {_listed(best)} {'has' if len(best) == 1 else 'have'} the best mean"
                         + (f", but the interval{'s' * (len(near) > 1)} of {_listed(near)} overlap{'s' * (len(near) == 1)}" if near else ""))
    found = [f"in {_listed(of)} {name} is best, its interval{'s' * (len(of) > 1)} apart from all others" for name, of in apart.items()] + close
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in (", ".join(done), "; ".join(found)) if text)


def descriptor_name(descriptor: str) -> str:
    """A descriptor as text, "η, unit length" for "eta, unit length"."""
    return ", ".join(NAMES.get(part, part) for part in descriptor.split(", "))


def _listed(words: Iterable[str]) -> str:
    *first, last = map(descriptor_name, words)
    return f"{', '.join(first)} and {last}" if first else last


def _number(metric: str, x: float, sign: str = "") -> str:
    return f"{x:{sign}.{4 if 'distance' in metric else 3}f}" if math.isfinite(x) else "–"


# ---- two runs ---------------------------------------------------------------------------------------------------------------

def _paired(a: dict[Key, Value], b: dict[Key, Value], default: Any = None) -> list[tuple[Key, Any, Any]]:
    """Two dicts side by side: [(key, value in a, value in b), ..]."""
    return [(key, a.get(key, default), b.get(key, default)) for key in a | b]


def _same_images(a: "Run", b: "Run") -> tuple[bool | None, str]:
    """(True, False or None where it cannot be told, a sentence about it)."""
    left, right = image_hashes(a), image_hashes(b)
    told = {part: left[part] == right[part] for part in left.keys() & right.keys() if "unknown" not in left[part] + right[part]}
    other = [part for part, same in sorted(told.items()) if not same]
    if other:
        return False, (f"The runs have other images ({_listed(other)}): numbers over different queries or databases cannot be compared as such, "
                       "so none is subtracted here.")
    if len(told) < 2:
        return None, "Whether the runs had the same images cannot be told (no list of them is left): the differences mean something only if they had."
    return True, ""


def _compared_groups(of_a: Metrics, of_b: Metrics, comparable: bool) -> dict[str, list[tuple[Any, ...]]]:
    """{title: [(metric, descriptor, cell of a, cell of b, difference, verdict), ..]}, for what both have; cells are records of `_group` or None."""
    groups = [{g["title"]: g for g in _groups(metrics)} for metrics in (of_a, of_b)]
    compared: dict[str, list[tuple[Any, ...]]] = {}
    for title in [title for title in groups[0] if title in groups[1]]:
        cells = [{(metric, d): r for metric, row in of[title]["metrics"].items() for d, r in row.items()} for of in groups]
        rows = compared[title] = []
        for (metric, descriptor), x, y in _paired(*cells):
            both = x and y and comparable and math.isfinite(x["mean"]) and math.isfinite(y["mean"])
            verdict = "" if not both else "equal" if [x[k] for k in ("mean", "low", "high")] == [y[k] for k in ("mean", "low", "high")] else (
                "overlap" if _overlap(x, y) else "apart")
            rows.append((metric, descriptor_name(descriptor), x, y, "0" if verdict == "equal" else _number(metric, y["mean"] - x["mean"], "+") if both else "", verdict))
    return compared


def _common(a: "Run", b: "Run") -> list[tuple[str, int, float, float, float, float]]:
    """Of runs over the same images: [(descriptor, k, mean, low, high, share of queries whose k images are all the same), ..]."""
    if not all((run.path / "hits").is_dir() for run in (a, b)):
        return []
    left, right = ({name.removesuffix("_indices"): hits for name, hits in run.load_arrays("hits").items() if name.endswith("_indices")} for run in (a, b))
    rows = []
    for descriptor in [d for d in NAMES if d in left and d in right and len(left[d]) == len(right[d])]:  # else some are of an earlier time
        k = min(left[descriptor].shape[1], right[descriptor].shape[1])
        common = common_in_top_k(left[descriptor][:, :k], right[descriptor][:, :k])
        rows.append((NAMES[descriptor], k, *bootstrap_interval(common), np.mean(common[np.isfinite(common)] == 1)))
    return rows


def _compared_table1(a: "Run", b: "Run") -> list[tuple[str, ...]]:
    """The means of Table I: [(group, descriptor, mean of a, of b, difference), ..] as text; without the paper's own."""
    means: list[Any] = []
    for run in (a, b):
        path = run.path / "table1.csv"
        means.append(pd.read_csv(path).iloc[-1] if path.exists() else {})
    rows = []
    for column in [c for c in dict.fromkeys([*means[0].keys(), *means[1].keys()]) if c.split()[0] in ("printed", "published")]:
        group, descriptor = column.split(" ", 1)
        x, y = (float(m[column]) if column in m else math.nan for m in means)
        rows.append((GROUPS[group], descriptor_name(descriptor), f"{x:.6f}", f"{y:.6f}", f"{y - x:+.6f}"))
    return [tuple(text.replace("+nan", "–").replace("nan", "–") for text in row) for row in rows]


def _compared_figures(a: "Run", b: "Run") -> dict[str, list[Any]]:
    """{"differ": [(figure of a, figure of b), ..], "identical": [figure, ..] (byte for byte), "only in a": .., "only in b": ..}"""
    figures: dict[str, list[Any]] = {"differ": [], "identical": [], "only in a": [], "only in b": []}
    for _, x, y in _paired(_figures(a), _figures(b)):
        if not (x and y):
            figures["only in a" if x else "only in b"].append(x or y)
        elif x["png"].read_bytes() == y["png"].read_bytes():
            figures["identical"].append(x)
        else:
            figures["differ"].append((x, y))
    return figures


# ---- figures ----------------------------------------------------------------------------------------------------------------

def _figures(run: "Run") -> dict[str, dict[str, Any]]:
    """{name: what a page shows of a figure}, the paper's first, then by the notebooks that draw them."""
    figures = []
    for png in sorted((run.path / "figures").glob("*.png")):
        name, of_paper = png.stem, bool(re.fullmatch(r"fig\d\d", png.stem))
        with Image.open(png) as image:
            caption, width = image.info.get("Description", name), image.width / image.info.get("dpi", (200,))[0] * INCH
        drawn = ((notebook, re.search(rf'\bshow\(\w+, "{re.escape(name)}"', source)) for notebook, source in _notebooks())
        notebook, place = next(((notebook, found.start()) for notebook, found in drawn if found), ("other notebooks", 0))
        figures.append({"name": name, "caption": caption, "title": (re.match(r"Fig\. \d+", caption) or [name.replace("_", " ")])[0],
                        "png": png, "width": round(width), "of_paper": of_paper, "notebook": notebook, "order": (not of_paper, name if of_paper else notebook, place)})
    return {figure["name"]: figure for figure in sorted(figures, key=lambda figure: figure["order"])}


@cache
def _notebooks() -> list[tuple[str, str]]:
    """[(name, source of its code), ..] of this repository."""
    cells = {path.stem: json.loads(path.read_text(encoding="utf-8"))["cells"] for path in sorted((ROOT / "notebooks").glob("*.ipynb"))}
    return [(name, "\n".join("".join(cell["source"]) for cell in of if cell["cell_type"] == "code")) for name, of in cells.items()]


def embedded(png: Path) -> str:
    """A figure's file as the source of an <img>: as it is, or as WebP where it is `LARGE`."""
    data, kind = png.read_bytes(), "png"
    if len(data) > LARGE:
        with Image.open(png) as image:
            if max(image.size) <= WEBP_SIDE:
                buffer, kind = io.BytesIO(), "webp"
                image.convert("RGB").save(buffer, "webp", quality=88)
                data = buffer.getvalue()
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _count(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"


def _size(n_bytes: float) -> str:
    return f"{n_bytes / 2 ** 30:.2f} GiB" if n_bytes >= 2 ** 30 else f"{n_bytes / 2 ** 20:.0f} MiB"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _write(path: Path, page: str) -> Path:
    aside = path.with_name(f".{path.name}.new")
    aside.write_text(page, encoding="utf-8")
    aside.replace(path)
    return path


PAGES.filters |= {"embedded": embedded, "size": _size, "time": _time, "count_of": _count, "descriptor": descriptor_name}

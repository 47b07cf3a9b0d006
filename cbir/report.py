"""The page that says what a run did and found: one HTML file that refers to nothing outside."""

import base64
import hashlib
import io
import json
import math
import re
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import jinja2
from PIL import Image

from . import studies
from .common import write_atomically
from .descriptors import RECIPES
from .evaluation import HISTOGRAM_DISTANCE, measure
from .images import Images
from .names import NAMES, plain_name
from .run import Run
from .store import find_store

Metrics: TypeAlias = Mapping[str, Any]  # what metrics.json holds
Record: TypeAlias = Mapping[str, Any]  # one of its results: metric, descriptor, mean, low, high, ..

LARGE = 2**20  # bytes of a PNG above which a page embeds it as WebP; figures/ keeps the PNG
WEBP_SIDE = 16383  # pixels, the most that WebP knows
INCH = 128  # pixels on the page for an inch of a figure: those of 7.2 inches fill it
FEW = 50  # queries, up to which a page says that they are too few, not whose intervals overlap
PARTS = {"database": "database", "queries": "query"}
MEANINGS = {  # what a descriptor looks for, and what it is
    "im": "the class: a hidden layer trained on the classes of the database",
    "h": "the object: the network's last layers, by which it tells what a picture shows",
    "eta_conv": "texture and colour: how active the earlier layers are on average, "
    "at the positions that influence the network's decision the most",
    "eta": "both: h and η̃ joined, the paper's descriptor",
    "h+average": "both, for comparison: h joined with the averages over the whole picture",
}
EVIDENCE = {  # lists in metrics.json besides "results": headings, and what differences begin with
    "pairs": ("Paired differences, query by query: η less the other (notebook 05)", "η − "),
    "released_results": ("From the recipe as printed to the one as released (notebook 06)", ""),
    "printed_against": (
        "Paired differences: as printed less the other recipe (notebook 06)",
        "printed − ",
    ),
    "caffe": ("With the authors' weights (notebook 06)", ""),
    "baselines": ("Other descriptors (notebook 07)", ""),
    "networks": ("Other networks (notebook 08)", ""),
    "networks_compared": (
        "Paired differences by network: η less the other (notebook 08)",
        "η − ",
    ),
}


def report(run: Run) -> Path:
    """Writes report.html, with everything inside, into a run's folder; returns its path."""
    metrics = run.metrics
    groups = result_groups(metrics)
    main = groups[0] if groups else None
    table1 = run.path / "table1.html"
    sections = _sections(shown_figures(run), is_own(metrics))
    page = PAGES.get_template("report.html.j2").render(
        name=run.name,
        own=is_own(metrics),
        status=metrics.get("status", ""),
        summary=_summary(metrics, main),
        verdicts=studies.verdict_table().to_dict("split"),
        main=main,
        meanings=_meanings(main),
        others=groups[1:],
        table1=table1.read_text(encoding="utf-8") if table1.exists() else "",
        papers=_has_papers(run),
        sections={section.key: section for section in sections},
        shown=metrics.get("shown_queries", []),
        duplicates=metrics.get("duplicates", []),
        images=metrics.get("images"),
        unreadable=metrics.get("unreadable"),
        left_out=_left_out(metrics),
        command=metrics.get("command", ""),
        commit=_commit(metrics),
        facts=facts(run),
        stages=stages(metrics),
    )
    return write_atomically(run.path / "report.html", page)


def is_own(metrics: Metrics) -> bool:
    """Whether a run is over a folder of the user's own images."""
    return metrics.get("images_of") == "folder"


# ---- what was run -------------------------------------------------------------------------------


def facts(run: Run, notebooks: Iterable[str] | None = None) -> dict[str, dict[str, str]]:
    """All that a run's numbers depend on.

    Args:
        run: the run.
        notebooks: whose parameters and environment are meant, default all that were run.

    Returns:
        {section: {name: value}}, as text.
    """
    metrics = run.metrics
    recipe = metrics.get("recipe", {})
    if recipe:
        recipe = {"name": _recipe_name(recipe), **recipe}
    parameters = _merged(metrics.get("parameters_of", {}), notebooks)
    if not parameters:  # of a run by hand nothing is recorded by notebook
        parameters = metrics.get("parameters", {})
    environment = _merged(metrics.get("environment", {}), notebooks)
    sections = {
        "Notebooks": {"through": ", ".join(sorted(metrics.get("seconds", {})))},
        "Parameters": {name: v for name, v in parameters.items() if name != "run_name"},
        "Recipe": recipe,
        "Network": metrics.get("network", {}),
        "Images": _image_facts(run),
        "Code, packages, machine": environment or metrics.get("versions", {}),
    }
    as_text = {}
    for title, values in sections.items():
        if values:
            names = sorted(values, key=str.casefold)
            as_text[title] = {name: _text(values[name]) for name in names}
    return as_text


def _image_facts(run: Run) -> dict[str, Any]:
    """How many images there were, and which."""
    counts = run.metrics.get("images", {})
    about = {}
    for part, name in PARTS.items():
        if part in counts:
            about[f"{name} images"] = counts[part]
    for part, value in image_hashes(run).items():
        about[f"{PARTS[part]} images, SHA-256 of the list"] = value
    return about


def _left_out(metrics: Metrics) -> str:
    """How many files beside the images are none: "3 .json, 1 .txt"; "" where all are."""
    counts = metrics.get("no_images", {})
    most_first = sorted(counts, key=counts.get, reverse=True)
    return ", ".join(f"{counts[suffix]:,} {suffix}" for suffix in most_first)


def image_hashes(run: Run) -> dict[str, str]:
    """SHA-256 of the names and classes of a run's images, in order, as JSON [names, classes].

    They are read from its stores; where these are gone, from metrics.json.

    Args:
        run: the run.

    Returns:
        {"database": hex, "queries": hex}; of a store that cannot be read, why it cannot.
    """
    hashes = dict(run.metrics.get("hashes", {}))
    for part in PARTS:
        try:
            store = find_store(run.path / "stores" / part)
        except ValueError as error:
            hashes[part] = f"unknown: {error}"
            continue
        if store is not None:
            hashes[part] = image_hash(store)
    return hashes


def image_hash(images: Images) -> str:
    """SHA-256 of the names and classes of some images, in order, as JSON [names, classes]."""
    listed = json.dumps([images.files, images.labels])
    return hashlib.sha256(listed.encode()).hexdigest()


def _merged(
    by_notebook: Mapping[str, Mapping[str, Any]], notebooks: Iterable[str] | None
) -> dict[str, str]:
    """{notebook: {name: value}} as {name: value}; of different values each with its notebooks."""
    wanted = by_notebook.keys() if notebooks is None else set(notebooks)
    where: dict[str, dict[str, list[str]]] = {}  # name: {value: notebooks}
    for notebook, values in by_notebook.items():
        if notebook not in wanted:
            continue
        for name, value in values.items():
            where.setdefault(name, {}).setdefault(_text(value), []).append(notebook)
    merged = {}
    for name, values in where.items():
        if len(values) == 1:
            merged[name] = next(iter(values))
        else:
            merged[name] = "; ".join(f"{v} ({', '.join(having)})" for v, having in values.items())
    return merged


def stages(metrics: Metrics) -> list[dict[str, Any]]:
    """What is known of every notebook that was run: name, beginning, seconds, memory (bytes)."""
    known = []
    for notebook, seconds in sorted(metrics.get("seconds", {}).items()):
        began = metrics.get("dates", {}).get(notebook)
        memory = metrics.get("memory", {}).get(notebook)
        stage = {"notebook": notebook, "began": began, "seconds": seconds, "memory": memory}
        known.append(stage)
    return known


def _commit(metrics: Metrics) -> str:
    """The commit of the code, where all notebooks were run by the same one."""
    commits = {about["code"] for about in metrics.get("environment", {}).values()}
    if len(commits) != 1:
        return ""
    return commits.pop()


def _recipe_name(recipe: Mapping[str, Any]) -> str:
    for name, known in RECIPES.items():
        if known | {"q": recipe.get("q")} == recipe:
            return name.replace("_", " ")
    return "one of its own"


def _text(value: object) -> str:
    if value is None:
        return "none"
    if value == "":
        return "(empty)"
    if isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False)


# ---- results ------------------------------------------------------------------------------------


class Mean(NamedTuple):
    """A mean with its interval; of a paired difference also the verdict of `as_family`."""

    mean: float
    low: float
    high: float
    verdict: str | None = None

    def overlaps(self, other: "Mean") -> bool:
        """Whether the intervals have anything in common; one that is not known may have."""
        return not (self.low > other.high or other.low > self.high)


class Cell(NamedTuple):
    """What a table shows of a mean.

    `best`: it is in bold; `near`: its interval overlaps the best one's; `at`: its low end, itself
    and its high end on the row's scale of 0 to 100, None where it is no finite number.
    """

    value: Mean
    text: str
    interval: str
    best: bool
    near: bool
    at: list[float | None]


class Group(NamedTuple):
    """A table of results. `metrics`: {metric: {descriptor: cell}}; `prefix`: of the descriptors."""

    title: str
    prefix: str
    metrics: dict[str, dict[str, Cell]]
    descriptors: list[str]

    @property
    def has_intervals(self) -> bool:
        """Whether any mean has one: below ten queries none has."""
        return any(cell.interval for row in self.metrics.values() for cell in row.values())


def result_groups(metrics: Metrics) -> list[Group]:
    """All results of a run that have intervals, those of the paper's notebooks first."""
    results = metrics.get("results", [])
    main = [record for record in results if _is_main(record)] or results
    more = [record for record in results if record not in main]
    groups = []
    if main:
        groups.append(_group("Results", "", main))
    if more:
        groups.append(_group("More metrics (notebook 05)", "", more))
    for key, (title, prefix) in EVIDENCE.items():
        by_part: dict[str | None, list[Record]] = {}
        for record in metrics.get(key, []):
            part = record.get("network", record.get("of"))
            by_part.setdefault(part, []).append(record)
        for part, records in by_part.items():
            of_part = f": {NAMES.get(part, part)}" if part else ""
            groups.append(_group(title + of_part, prefix, records))
    return groups


def _is_main(record: Record) -> bool:
    """Whether a result is one of the paper's notebooks'."""
    metric = record["metric"]
    return metric.startswith("same ") or metric == HISTOGRAM_DISTANCE


def _group(title: str, prefix: str, records: Iterable[Record]) -> Group:
    rows: dict[str, dict[str, Mean]] = {}
    descriptors: dict[str, None] = {}  # in order
    for record in records:
        mean = Mean(record["mean"], record["low"], record["high"], record.get("verdict"))
        rows.setdefault(record["metric"], {})[record["descriptor"]] = mean
        descriptors[record["descriptor"]] = None
    metrics = {metric: _cells(metric, row) for metric, row in rows.items()}
    return Group(title, prefix, metrics, list(descriptors))


def _cells(metric: str, row: Mapping[str, Mean]) -> dict[str, Cell]:
    """A row of a table. Of differences those are bold that are better or worse."""
    best, near = _leaders(metric, row)
    lowest = min((m.low for m in row.values() if math.isfinite(m.low)), default=0)
    highest = max((m.high for m in row.values() if math.isfinite(m.high)), default=0)
    cells = {}
    for descriptor, m in row.items():
        at: list[float | None] = []
        for x in (m.low, m.mean, m.high):
            place = 2 + 96 * (x - lowest) / (highest - lowest or 1)
            at.append(round(place, 1) if math.isfinite(x) else None)
        is_difference = m.verdict is not None
        cells[descriptor] = Cell(
            value=m,
            text=number(metric, m.mean),
            interval=interval(metric, m),
            best=m.verdict in ("better", "worse") if is_difference else descriptor in best,
            near=not is_difference and descriptor in near,
            at=at,
        )
    return cells


def _leaders(metric: str, row: Mapping[str, Mean]) -> tuple[list[str], list[str]]:
    """The descriptors of the best mean, and those whose intervals overlap the best one's."""
    known = {descriptor: m for descriptor, m in row.items() if math.isfinite(m.mean)}
    if not known:
        return [], []
    better = min if measure(metric).best == "min" else max
    top = better(known.values(), key=lambda m: m.mean)
    best = [descriptor for descriptor, m in known.items() if m.mean == top.mean]
    overlapping = [descriptor for descriptor, m in known.items() if m.overlaps(top)]
    return best, [descriptor for descriptor in overlapping if descriptor not in best]


def interval(metric: str, m: Mean) -> str:
    """The ends of an interval as text, nothing where there is none."""
    if not (math.isfinite(m.low) and math.isfinite(m.high)):
        return ""
    return f"[{number(metric, m.low)}, {number(metric, m.high)}]"


def number(metric: str, x: float, sign: str = "") -> str:
    """A value of a metric as text, with one digit more than the notebooks print."""
    if not math.isfinite(x):
        return "–"
    return f"{x:{sign}.{measure(metric).digits + 1}f}"


# ---- the run in two sentences -------------------------------------------------------------------


def _summary(metrics: Metrics, main: Group | None) -> str:
    """What was done, and which descriptor is ahead in what."""
    done = _sentence(", ".join(_what_was_done(metrics)))
    return " ".join(filter(None, [done, _found_in_words(metrics, main)]))


def _found_in_words(metrics: Metrics, main: Group | None) -> str:
    n_queries = metrics.get("images", {}).get("queries", 0)
    return _sentence("; ".join(_what_was_found(main, n_queries)))


def _sentence(text: str) -> str:
    """A text with a capital letter and a full stop; "" for none."""
    return f"{text[0].upper()}{text[1:]}." if text else ""


def _meanings(main: Group | None) -> dict[str, str]:
    """{descriptor: what it looks for} of those that have results."""
    if main is None:
        return {}
    return {d: MEANINGS[d] for d in main.descriptors if d in MEANINGS}


def as_lines(run: Run) -> list[str]:
    """A run for the terminal: its main results, what was skipped, and where to look."""
    metrics = run.metrics
    groups = result_groups(metrics)
    lines = []
    if groups:
        lines += _table_lines(groups[0])
        found = _found_in_words(metrics, groups[0])
        if found:
            lines += [found, ""]
    page = run.path / "report.html"
    skipped = metrics.get("unreadable")
    if skipped:
        counts = metrics.get("images", {})
        n = sum(counts.get(part, 0) for part in PARTS)
        lines.append(f"{len(skipped):,} of {n:,} images skipped, listed in {page}")
    if _left_out(metrics):
        lines.append(f"Files left out, as they are no images: {_left_out(metrics)}")
    lines.append(f"Pictures: {run.path / 'figures'}")
    lines.append(f"Done: {page}")
    return lines


def _table_lines(group: Group) -> list[str]:
    """A table of results in plain text, a row a descriptor."""
    rows = [["", *group.metrics]]
    for descriptor in group.descriptors:
        cells = [row.get(descriptor) for row in group.metrics.values()]
        rows.append([plain_name(descriptor), *(cell.text if cell else "" for cell in cells)])
    widths = [max(map(_width, column)) for column in zip(*rows)]
    lines = []
    for name, *cells in rows:
        line = name + " " * (widths[0] - _width(name))
        for cell, width in zip(cells, widths[1:]):
            line += f"   {cell:>{width}}"
        lines.append(line)
    less = ", histogram distance: less is better" * (HISTOGRAM_DISTANCE in group.metrics)
    return ["", *lines, f"Means over the queries{less}.", ""]


def _width(text: str) -> int:
    """How many columns of a terminal a text takes: the tilde of η̃ takes none."""
    return sum(not unicodedata.combining(letter) for letter in text)


def _what_was_done(metrics: Metrics) -> list[str]:
    images, network, recipe = (metrics.get(key) for key in ("images", "network", "recipe"))
    done = []
    if images:
        queries = _count(images["queries"], "query was", "queries were")
        database = _count(images["database"], "image", "images")
        done.append(f"{queries} searched for in a database of {database}")
    if network and recipe:
        done.append(
            f"described by the network “{network['name']}” "
            f"and the recipe {_recipe_name(recipe)} (q = {recipe['q']})"
        )
    return done


def _what_was_found(main: Group | None, n_queries: int) -> list[str]:
    if main is None:
        return []
    apart: dict[str, list[str]] = {}  # descriptor: metrics in which its interval is apart
    alike: dict[str, list[str]] = {}  # descriptors that few queries do not tell apart: metrics
    close = []
    for metric, row in main.metrics.items():
        best = [plain_name(descriptor) for descriptor, cell in row.items() if cell.best]
        near = [plain_name(descriptor) for descriptor, cell in row.items() if cell.near]
        metric = metric.removeprefix("same ")
        if len(row) < 2 or not best:
            continue
        if len(best) == 1 and not near:
            apart.setdefault(best[0], []).append(metric)
            continue
        if 0 < n_queries <= FEW:
            all_of_many = len(row) > 2 and len(best + near) == len(row)
            names = "the descriptors" if all_of_many else listed(best + near)
            alike.setdefault(names, []).append(metric)
            continue
        have = "has" if len(best) == 1 else "have"
        sentence = f"in {metric} {listed(best)} {have} the best mean"
        if len(near) == 1:
            sentence += f", but the interval of {listed(near)} overlaps"
        elif near:
            sentence += f", but the intervals of {listed(near)} overlap"
        close.append(sentence)
    found = []
    for name, metrics in apart.items():
        intervals = "interval" if len(metrics) == 1 else "intervals"
        ahead = f"in {listed(metrics)} {name} is best, its {intervals} apart from all others"
        found.append(ahead)
    queries = _count(n_queries, "query", "queries")
    for names, metrics in alike.items():
        found.append(f"{queries} cannot tell {names} apart in {listed(metrics)}")
    return found + close


def listed(words: Iterable[str]) -> str:
    """Words as a list in a sentence: "a, b and c"."""
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else last


def _has_papers(run: Run) -> bool:
    """Whether Table I has the paper's own numbers, too."""
    path = run.path / "table1.csv"
    return path.exists() and ",paper " in path.read_text(encoding="utf-8").split("\n", 1)[0]


# ---- figures ------------------------------------------------------------------------------------


class ShownFigure(NamedTuple):
    """What a page shows of a figure. `width`: in pixels; `section`: the heading it stands under."""

    name: str
    title: str
    caption: str
    png: Path
    width: int
    section: str


def shown_figures(run: Run) -> dict[str, ShownFigure]:
    """A run's figures by name: the paper's, then by the notebooks that drew them, then others."""
    files = {png.stem: png for png in sorted((run.path / "figures").glob("*.png"))}
    sections = {name: "The paper's figures" for name in files if re.fullmatch(r"fig\d\d", name)}
    for notebook, names in sorted(run.metrics.get("figures", {}).items()):
        for name in names:
            sections.setdefault(name, f"Figures of {notebook}")
    for name in files:
        sections.setdefault(name, "Other figures")
    shown = {}
    for name, section in sections.items():
        if name in files:
            shown[name] = _shown_figure(files[name], section)
    return shown


def _shown_figure(png: Path, section: str) -> ShownFigure:
    with Image.open(png) as image:
        caption = image.info.get("Description", png.stem)
        dots_an_inch, _ = image.info.get("dpi", (200, 200))
        width = round(image.width / dots_an_inch * INCH)
    numbered = re.match(r"Fig\. \d+", caption)
    title = numbered[0] if numbered else png.stem.replace("_", " ")
    return ShownFigure(png.stem, title, caption, png, width, section)


class Section(NamedTuple):
    """Figures under a heading: its id, text, what stands under it, whether they are folded."""

    key: str
    title: str
    figures: list[ShownFigure]
    remark: str = ""
    folded: bool = False


OWN = {  # of a run over one's own images: {key: (which figures, heading, remark)}
    "pictures": (["summary"], "Pictures and what was found for them", ""),
    "found": (
        [f"fig{n:02}" for n in range(3, 7)],
        "All pictures shown, one descriptor at a time",
        "Figs 3-6 of the paper, with your pictures.",
    ),
    "colours": (
        [f"fig{n:02}" for n in range(7, 11)],
        "Their colour histograms",
        "Figs 7-10 of the paper, with your pictures.",
    ),
    "network": (["fig01", "fig02"], "The network", ""),
}


def _sections(shown: Mapping[str, ShownFigure], own: bool) -> list[Section]:
    """The figures under their headings; of a run over one's own images the pictures first."""
    left = dict(shown)
    sections = []
    if own:
        for key, (names, title, remark) in OWN.items():
            figures = [left.pop(name) for name in names if name in left]
            if figures:
                sections.append(Section(key, title, figures, remark, folded=key == "colours"))
    others: dict[str, list[ShownFigure]] = {}
    for figure in left.values():
        others.setdefault(figure.section, []).append(figure)
    for n, (title, figures) in enumerate(others.items(), start=1):
        sections.append(Section(f"section{n}", title, figures))
    return sections


def embedded(png: Path) -> str:
    """A figure's file as the source of an <img>: as it is, or as WebP where it is `LARGE`."""
    data = png.read_bytes()
    kind = "png"
    if len(data) > LARGE:
        with Image.open(png) as image:
            if max(image.size) <= WEBP_SIDE:
                webp = io.BytesIO()
                image.convert("RGB").save(webp, "webp", quality=88)
                data = webp.getvalue()
                kind = "webp"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


# ---- the templates ------------------------------------------------------------------------------


def _count(n: int, one: str, many: str) -> str:
    return f"{n:,} {one if n == 1 else many}"


def _size(n_bytes: float) -> str:
    if n_bytes >= 2**30:
        return f"{n_bytes / 2**30:.2f} GiB"
    return f"{n_bytes / 2**20:.0f} MiB"


def _time(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    if seconds < 7200:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"


PAGES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")),
    autoescape=True,
    trim_blocks=True,
    lstrip_blocks=True,
    undefined=jinja2.StrictUndefined,
)
PAGES.filters |= {
    "embedded": embedded,
    "size": _size,
    "time": _time,
    "count_of": _count,
    "descriptor": plain_name,
}

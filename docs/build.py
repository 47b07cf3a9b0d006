"""The site: README and notebooks as web pages that need no server, no JavaScript and no network. `make site` writes them to site/.

nbconvert renders the cells, docs/template/ frames them, latex2mathml turns formulas into MathML. Every page is checked before it counts
as built: links, anchors, alternative texts, headings.
"""

import argparse
import html
import re
import shutil
import sys
import textwrap
import urllib.error
import urllib.request
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from urllib.parse import unquote, urlsplit

import latex2mathml.converter
import nbformat
from jinja2 import pass_context
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = ROOT / "docs" / "template"
LOADS = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src", "video": "src", "audio": "src", "object": "data", "embed": "src"}
INLINE_MATH = re.compile(r'[("]*<math [^>]*display="inline">.*?</math>[-.,;:)"]*', re.DOTALL)  # and what no line break may part from it


class Page(HTMLParser):
    """What one page of HTML consists of, as the navigation and the checks need it.

    ids: in order. links: (href, id last seen before it). loads: what the browser fetches, likewise. images: (alt, id).
    headings: with level, id and text. title, language, description: texts, "" where missing.
    """

    def __init__(self, text):
        super().__init__()
        self.ids, self.links, self.loads, self.images, self.headings = [], [], [], [], []
        self.title = self.language = self.paragraph = ""
        self._inside = None
        self.feed(text)

    @property
    def description(self):
        return textwrap.shorten(self.paragraph, 200, placeholder=" ...")

    def handle_starttag(self, tag, attributes):
        values = {name: value or "" for name, value in attributes}
        if "id" in values:
            self.ids.append(values["id"])
        where = self.ids[-1] if self.ids else ""
        if tag == "html":
            self.language = values.get("lang", "")
        elif tag == "a" and "href" in values:
            self.links.append((values["href"], where))
        elif re.fullmatch("h[1-6]", tag):
            self.headings.append(SimpleNamespace(level=int(tag[1]), id=values.get("id", ""), text=""))
        if tag == "img":
            self.images.append((values.get("alt", "").strip(), where))
        if values.get(LOADS.get(tag)):
            self.loads.append((values[LOADS[tag]], where))
        if tag == "title" or tag == "p" and not self.paragraph or re.fullmatch("h[1-6]", tag):
            self._inside = tag

    def handle_endtag(self, tag):
        if tag == self._inside:
            self._inside = None

    def handle_data(self, data):
        if self._inside == "title":
            self.title += data
        elif self._inside == "p":
            self.paragraph += data
        elif self._inside:
            self.headings[-1].text += data


class Renderer(IPythonRenderer):
    """Markdown as nbconvert renders it, but with MathML, GitHub's anchors, tables that scroll, and links that `resolve` turns into the site's."""

    def __init__(self, resolve):
        super().__init__(escape=False)
        self.resolve = resolve

    def link(self, text, url, title=None):
        return super().link(text, self.resolve(url), title)

    def image(self, text, url, title=None):
        return super().image(text, self.resolve(url), title)

    def heading(self, text, level, **attributes):
        words = html.unescape(re.sub("<[^>]+>", "", text)).lower()
        anchor = re.sub(r"[^\w -]", "", words).replace(" ", "-")
        return f'<h{level} id="{anchor}">{text}</h{level}>\n'

    def table(self, text):
        return f'<div class="wide"><table>\n{text}</table></div>\n'

    def inline_math(self, body):
        return mathml(body)

    def block_math(self, body):
        return f'<span class="wide">{mathml(body, "block")}</span>'


def mathml(tex, display="inline"):
    """TeX as MathML. Raises ValueError for a macro that latex2mathml does not know: it would be shown as it is typed."""
    out = latex2mathml.converter.convert(tex.strip(), display=display)
    if "\\" in out:
        raise ValueError(f"latex2mathml does not know all of {tex!r}")
    return out


class Exporter(HTMLExporter):
    """nbconvert's HTML with docs/template/ and `Renderer`. `pages`: {source: file} of the whole site; other files that are linked go to `copied`."""

    def __init__(self, pages):
        self.pages, self.copied = pages, {}
        super().__init__(template_name=TEMPLATE.name, extra_template_basedirs=[str(TEMPLATE.parent)], exclude_input_prompt=True, exclude_output_prompt=True)

    def default_filters(self):
        yield from super().default_filters()
        yield "parse", lambda text: Page(text)  # nbconvert makes an instance of a bare class

    @pass_context
    def markdown2html(self, context, source):
        page = context["resources"]["source"]
        text = MarkdownWithMath(renderer=Renderer(lambda url: self.resolve(url, page))).render(source)
        return re.sub(INLINE_MATH, r'<span class="together">\g<0></span>', text)

    def resolve(self, url, page):
        """A link of the source `page` as the site has it; links to elsewhere, and those that lead nowhere, stay as they are."""
        path, hash_, anchor = url.partition("#")
        target = (ROOT / page).parent / unquote(path)
        if not path or urlsplit(url).scheme or not target.is_file() or not target.resolve().is_relative_to(ROOT):
            return url
        name = target.resolve().relative_to(ROOT).as_posix()
        if name not in self.pages:  # texts as .txt, which every browser shows
            self.copied[name] = name if target.suffix in (".png", ".jpg", ".svg", ".pdf") else f"{name}.txt"
        return (self.pages | self.copied)[name] + hash_ + anchor


def sources():
    """The pages of the site in order, {source: file}: README, the notebooks, and what else README describes."""
    notebooks = sorted(path.name for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
    return {"README.md": "index.html"} | {f"notebooks/{n}": n.replace(".ipynb", ".html") for n in notebooks} | {
        "bench/results.md": "benchmarks.html", "data/README.md": "data.html"}


def read(source):
    """A notebook, or a Markdown file as a notebook of one cell."""
    text = (ROOT / source).read_text(encoding="utf-8")
    return nbformat.reads(text, as_version=4) if source.endswith(".ipynb") else nbformat.v4.new_notebook(cells=[nbformat.v4.new_markdown_cell(text)])


def build(site):
    """Writes the site into the folder `site`, made where it does not exist; returns the files (list of Path).

    Raises FileExistsError where the folder is not empty, and what `mathml` raises.
    """
    site = Path(site)
    site.mkdir(parents=True, exist_ok=True)
    if any(site.iterdir()):
        raise FileExistsError(f"{site} is not empty: remove it, or name another folder")
    pages = sources()
    notebooks = {source: read(source) for source in pages}
    contents = [{"file": file, "title": Page(MarkdownWithMath(Renderer(str)).render(notebooks[source].cells[0].source)).headings[0].text}
                for source, file in pages.items()]
    exporter = Exporter(pages)
    for number, (source, file) in enumerate(pages.items()):
        text, _ = exporter.from_notebook_node(notebooks[source], {"source": source, "number": number, "contents": contents})
        (site / file).write_text(text, encoding="utf-8")
    for source, file in exporter.copied.items():
        (site / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / source, site / file)
    light, dark = (HtmlFormatter(style=name).get_style_defs(".highlight") for name in ("xcode", "github-dark"))  # those with enough contrast
    (site / "style.css").write_text(f"@media print, (prefers-color-scheme: light) {{\n{light}\n}}\n@media screen and (prefers-color-scheme: dark) {{\n{dark}\n}}\n"
                                    + (TEMPLATE / "style.css").read_text(encoding="utf-8"), encoding="utf-8")
    return sorted(path for path in site.rglob("*") if path.is_file())


def check(site):
    """Looks at every page of a built site; returns what is wrong with it and the links that lead elsewhere (two lists of str, sorted).

    Places are named as page#id, with the last id before them: within a notebook that of the cell.
    """
    site, problems, external = Path(site), [], set()
    pages = {path.relative_to(site).as_posix(): Page(path.read_text(encoding="utf-8")) for path in sorted(site.rglob("*.html"))}
    for name, page in pages.items():
        levels = [heading.level for heading in page.headings]
        problems += [f"{name}: no {what}" for what in ("title", "language", "description") if not getattr(page, what)]
        problems += [f"{name}: {levels.count(1)} headings of level 1"] if levels.count(1) != 1 else []
        problems += [f"{name}: heading {after.text!r} skips a level" for before, after in pairwise(page.headings) if after.level > before.level + 1]
        problems += [f"{name}: the id {id_!r} occurs twice" for id_ in sorted({x for x in page.ids if page.ids.count(x) > 1})]
        problems += [f"{name}#{where}: an image without alternative text" for alt, where in page.images if not alt]
        for url, where in page.links + page.loads:
            scheme, host, path, _, anchor = urlsplit(url)
            target = (Path(name).parent / unquote(path)).as_posix() if path else name
            if scheme == "data":
                continue
            if scheme or host:
                external.add(url)
                if (url, where) in page.loads:
                    problems.append(f"{name}#{where}: {url} would be loaded from elsewhere")
            elif not (site / target).is_file():
                problems.append(f"{name}#{where}: {url} leads nowhere")
            elif anchor and target in pages and unquote(anchor) not in pages[target].ids:
                problems.append(f"{name}#{where}: {url} has no such anchor")
    return sorted(problems), sorted(external)


def unreachable(urls, timeout=20):
    """Those of the URLs that do not answer, with the reason (list of str)."""
    problems = []
    for url in urls:
        try:
            urllib.request.urlopen(urllib.request.Request(url, headers={"User-Agent": "Mozilla/5.0"}), timeout=timeout).close()
        except (urllib.error.URLError, OSError, ValueError) as error:
            problems.append(f"{url}: {error}")
    return problems


def main(argv=None):
    parser = argparse.ArgumentParser(description="README and all notebooks as a static site, its links checked")
    parser.add_argument("site", nargs="?", type=Path, default=ROOT / "site", help="folder to write (site/)")
    parser.add_argument("--external", action="store_true", help="try the links to other sites, too")
    args = parser.parse_args(argv)
    files = build(args.site)
    problems, external = check(args.site)
    print("Links to elsewhere" + (":" if args.external else " (not tried; --external tries them):"), *external, sep="\n  ")
    problems += unreachable(external) if args.external else []
    if problems:
        sys.exit("\n  ".join(["The site is not good yet:", *problems]))
    print(f"{sum(file.suffix == '.html' for file in files)} pages, {sum(file.stat().st_size for file in files) / 2**20:.1f} MiB: {args.site / 'index.html'}")


if __name__ == "__main__":
    main()

"""The site: README, the pages of docs/ and all notebooks as web pages, built by `make site`.

Sphinx reads them where they lie, so that every link works on GitHub and in the site. Notebooks are
shown with their committed outputs and are not executed. Formulas become MathML: the pages need no
network.
"""

import json
import shutil
from pathlib import Path

from docutils import nodes
from docutils.utils.math import MathError
from docutils.utils.math.latex2mathml import tex2mathml
from sphinx.util.logging import getLogger

project = "cbir"
root_doc = "README"
include_patterns = [
    "README.md",
    "ARCHITECTURE.md",
    "CONTRIBUTING.md",
    "docs/*.md",
    "notebooks/*.ipynb",
    "notebooks/appendix/*.ipynb",
    "bench/results.md",
    "data/README.md",
    "data/scenes/README.md",
]
extensions = ["myst_nb"]
nb_execution_mode = "off"
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 4  # as GitHub names them: links to headings are checked
html_theme = "furo"
html_title = "cbir"
html_static_path = ["site.css"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_copy_source = False
html_math_renderer = "mathml"

CONTENTS = """
```{toctree}
:hidden:
:caption: Notebooks
:glob:

notebooks/*
notebooks/appendix/*
```

```{toctree}
:hidden:
:caption: More

docs/install
docs/results
docs/errata
docs/glossary
docs/photographs
docs/explorer
docs/python
docs/cost
docs/clusters
docs/reliability
bench/results
docs/model_card
data/README
data/scenes/README
ARCHITECTURE
CONTRIBUTING
```
"""


def add_contents(app, name, content):
    """Gives the first page the table of contents of the site, which GitHub does not need."""
    if name == root_doc:
        content[0] += CONTENTS


def keep_alternative_texts(app, name, content):
    """Copies the alternative text of a figure to its cell, where myst-nb looks for it."""
    if app.env.doc2path(name).suffix != ".ipynb":
        return
    notebook = json.loads(content[0])
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            for mime, options in output.get("metadata", {}).items():
                if mime.startswith("image/"):
                    cell["metadata"]["mystnb"] = {"image": {"alt": options["alt"]}}
    content[0] = json.dumps(notebook)


def visit_math(self, node):
    """Writes a formula as MathML; TeX that docutils does not know is a warning."""
    as_block = isinstance(node, nodes.math_block)
    tex = node.astext().replace(r"\dots", r"\ldots")  # the one of the two that docutils knows
    try:
        self.body.append(tex2mathml(tex, as_block=as_block))
    except MathError as error:
        getLogger(__name__).warning(f"{error} in {tex}", location=node)
    raise nodes.SkipNode


# What scrolls sideways can be reached with the keyboard; captions say which headings they are.
ACCESSIBLE = {
    "<pre>": '<pre tabindex="0">',
    '<div class="table-wrapper': '<div tabindex="0" class="table-wrapper',
    'role="heading">': 'role="heading" aria-level="2">',
}


def make_accessible(app, pagename, templatename, context, doctree):
    """Adds to a page's text and contents what an accessibility checker misses."""
    for part in ("body", "furo_navigation_tree"):
        for text, accessible in ACCESSIBLE.items():
            context[part] = context.get(part, "").replace(text, accessible)


def copy_first_page(app, exception):
    """Browsers open index.html."""
    if exception is None:
        shutil.copyfile(Path(app.outdir, "README.html"), Path(app.outdir, "index.html"))


def setup(app):
    """Called by Sphinx."""
    app.connect("source-read", add_contents)
    app.connect("source-read", keep_alternative_texts)
    app.connect("html-page-context", make_accessible, priority=900)  # after the theme
    app.connect("build-finished", copy_first_page)
    app.add_html_math_renderer("mathml", (visit_math, None), (visit_math, None))

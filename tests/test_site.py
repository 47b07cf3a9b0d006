"""The site of README, docs and notebooks: that it is whole and needs no network."""

import re

import nbformat
from conftest import read_page
from test_notebooks import NOTEBOOKS

from cbir.common import ROOT

# What a browser fetches by itself: {element: attribute}.
LOADED = {"img": "src", "script": "src", "link": "href", "iframe": "src", "source": "src"}


def test_pages_show_every_notebook_with_its_figures_and_formulas(site):
    assert (site / "index.html").read_bytes() == (site / "README.html").read_bytes()
    for page in (ROOT / "docs").glob("*.md"):
        assert (site / "docs" / f"{page.stem}.html").is_file()
    for notebook in NOTEBOOKS:
        cells = nbformat.read(notebook, as_version=4).cells
        prose = "".join(cell.source for cell in cells if cell.cell_type == "markdown")
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        shown = [of for out in outputs for of in out.get("metadata", {}).values() if "alt" in of]
        page = read_page(site / notebook.relative_to(ROOT).with_suffix(".html"))
        alts = [image["alt"] for image in page.select("article img")]
        assert alts == [image["alt"] for image in shown]
        assert len(page.select("article math[display=block]")) == prose.count("$$") / 2
        assert "$" not in "".join(text.get_text() for text in page.select("article p"))


def test_pages_need_no_network(site):
    for page in site.rglob("*.html"):
        for element in read_page(page).find_all(LOADED):
            address = element.get(LOADED[element.name], "")
            assert not re.match(r"(\w+:)?//", address), f"{page.name} loads {address}"
            assert not address or (page.parent / re.split("[?#]", address)[0]).exists()
    for sheet in site.rglob("*.css"):
        assert not re.search(r"(@import|url\()\W*(\w+:)?//", sheet.read_text(encoding="utf-8"))

"""In double quotation marks stand only the paper's own words, as data/paper/quotes.csv has them."""

import re
from unicodedata import normalize

import nbformat

from cbir.common import ROOT

CODE = re.compile(r"```.*?```|`[^`]*`|<[^>]*>", re.S)  # HTML tags too
QUOTED = re.compile(r'"([^"]+)"|“([^”]+)”|„([^“]+)“')
PLACES = ["README.md", "docs/*.md", "notebooks/*.ipynb", "notebooks/appendix/*.ipynb"]


def plain(text):  # on one line, without the marks of formulas and emphasis
    return " ".join(re.sub(r"[$*]|^> ?", "", normalize("NFC", text), flags=re.M).split())


QUOTES = plain((ROOT / "data" / "paper" / "quotes.csv").read_text(encoding="utf-8"))


def not_verbatim(markdown):
    """The texts of three words or more in quotation marks that are not in `QUOTES`."""
    paragraphs = re.split(r"\n\s*\n", CODE.sub("code", markdown))  # a lone mark harms no other
    quoted = [plain(max(found)) for text in paragraphs for found in QUOTED.findall(text)]
    return [text for text in quoted if len(text.split()) > 2 and text not in QUOTES]


def test_only_the_paper_is_quoted():
    for path in (path for place in PLACES for path in ROOT.glob(place)):
        cells = [path.read_text(encoding="utf-8")]
        if path.suffix == ".ipynb":
            cells = [c.source for c in nbformat.reads(*cells, 4).cells if c.cell_type != "code"]
        assert not_verbatim("\n\n".join(cells)) == [], path.name


def test_a_changed_word_is_noticed():
    assert not_verbatim('> "matrix $z_m$ counts the number\n> of sets" `"a b c"` “two words”') == []
    assert not_verbatim('"matrix z_m counts all sets"') == ["matrix z_m counts all sets"]

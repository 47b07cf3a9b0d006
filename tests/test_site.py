"""The static site of README and notebooks: that it is whole, that it can be read, and that its checks can fail."""

import base64
import http.server
import importlib.util
import io
import shutil
import threading

import nbformat.v4 as nb
import pytest
from PIL import Image

from cbir.common import ROOT

spec = importlib.util.spec_from_file_location("site_build", ROOT / "docs" / "build.py")
build = importlib.util.module_from_spec(spec)
spec.loader.exec_module(build)

GOOD = ('<!doctype html><html lang="en"><head><meta name="description" content="."><title>t</title></head><body><h1 id="a">A</h1><p>Text</p>'
        '<h2 id="b">B</h2>{}</body></html>')
# Widths, and the text whose contrast with the ground behind it is below 4.5 (WCAG 2.2, success criterion 1.4.3).
LOOK = """() => {
  const channel = v => (v /= 255) <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4;
  const numbers = color => color.match(/[\\d.]+/g).map(Number);
  const light = color => { const [r, g, b] = numbers(color); return 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b) };
  const ground = e => { for (; e; e = e.parentElement) { const c = getComputedStyle(e).backgroundColor, n = numbers(c); if (n.length < 4 || n[3]) return c } };
  const pale = new Set(), seen = new Set(), walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || seen.has(e) || e.closest("style")) continue;
    seen.add(e);
    const [a, b] = [light(getComputedStyle(e).color), light(ground(e))].sort((x, y) => x - y);
    if ((b + 0.05) / (a + 0.05) < 4.5) pale.add(`${e.tagName} ${e.className}: ${walker.currentNode.data}`);
  }
  const formulas = [...document.querySelectorAll("math")].map(m => m.getBoundingClientRect().width);
  return {width: document.documentElement.scrollWidth, pale: [...pale], formulas};
}"""


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    build.build(folder)
    return folder


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if not path:
        pytest.skip("there is no Chromium")
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def picture_cell(alt=None, mime="image/png"):
    out = io.BytesIO()
    Image.new("RGB", (3, 2)).save(out, "PNG" if mime == "image/png" else "JPEG")
    output = nb.new_output("display_data", {mime: base64.b64encode(out.getvalue()).decode(), "text/plain": "<Figure>"}, metadata={mime: {"alt": alt}} if alt else {})
    return nb.new_code_cell("figure()", outputs=[output], id="03-08", execution_count=1)


def write(folder, *cells, source="notebooks/new.ipynb"):
    """A page of these cells in `folder`, with the style sheet that it asks for."""
    resources = {"source": source, "number": 0, "contents": [{"file": "new.html", "title": "T"}]}
    text, _ = build.Exporter(build.sources()).from_notebook_node(nb.new_notebook(cells=list(cells)), resources)
    (folder / "new.html").write_text(text, encoding="utf-8")
    (folder / "style.css").touch()
    return text


def test_site_is_whole(site):
    notebooks = {path.stem for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert notebooks | {"index", "benchmarks", "data"} == {path.stem for path in site.glob("*.html")}
    index = build.Page((site / "index.html").read_text(encoding="utf-8"))
    assert {f"{name}.html" for name in notebooks} | {"LICENSE.txt", "CITATION.cff.txt", "data.html", "#without-make"} <= {url for url, _ in index.links}
    assert (site / "LICENSE.txt").read_text(encoding="utf-8") == (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert (site / "docs" / "one_query.png").read_bytes() == (ROOT / "docs" / "one_query.png").read_bytes()


def test_site_passes_its_checks(site):
    problems, external = build.check(site)
    assert not problems, "\n".join(problems)
    assert "https://doi.org/10.1109/TNNLS.2021.3084633" in external


def test_pages_hold_every_figure_table_and_output(site):
    for path in (ROOT / "notebooks").glob("*.ipynb"):
        outputs = [o for cell in build.read(f"notebooks/{path.name}").cells for o in cell.get("outputs", [])]
        data = [o.get("data", {}) for o in outputs]
        text = (site / f"{path.stem}.html").read_text(encoding="utf-8")
        shown = sum("text/html" not in d and any(mime.startswith("image/") for mime in d) for d in data)
        assert len(build.Page(text).images) == shown
        assert text.count("<table") >= sum("<table" in d.get("text/html", "") for d in data)
        assert text.count("<pre") >= sum(o.output_type == "stream" for o in outputs)


def test_pages_need_no_script_and_no_network(site):
    for path in site.glob("*.html"):
        text = path.read_text(encoding="utf-8")
        assert "<script" not in text
        assert all(url == "style.css" or url == "docs/one_query.png" or url.startswith("data:image/") for url, _ in build.Page(text).loads)
    assert "url(" not in (site / "style.css").read_text(encoding="utf-8")


def test_pages_fit_a_phone_and_have_contrast(site, browser):
    requests = []
    page = browser.new_page()
    page.on("request", lambda request: requests.append(request.url))
    for path in sorted(site.glob("*.html")):
        page.set_viewport_size({"width": 390, "height": 800})
        page.goto(path.as_uri())
        contents = page.locator("nav li a").first
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            look = page.evaluate(LOOK)
            assert not look["pale"], f"{path.name}, {scheme}"
        assert look["width"] == 390, f"{path.name} is wider than a phone"
        assert all(width > 0 for width in look["formulas"])
        assert not contents.is_visible()
        page.locator("summary").click()
        assert contents.is_visible()
        page.set_viewport_size({"width": 1300, "height": 800})
        page.locator("summary").dispatch_event("click")
        assert contents.is_visible()
    assert requests and all(url.startswith(("file:", "data:")) for url in requests)


def test_the_look_at_pages_can_fail(browser):
    page = browser.new_page(viewport={"width": 390, "height": 800})
    page.set_content('<body style="background: #fff"><p style="color: #808080">pale</p><p style="color: #707070">dark enough</p><pre>' + "long " * 100)
    look = page.evaluate(LOOK)
    assert look["pale"] == ["P : pale"] and look["width"] > 390


# ---- the checks can fail ------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("body, problem", [
    ('<a href="nowhere.html">x</a>', "page.html#b: nowhere.html leads nowhere"),
    ('<a href="folder/">x</a>', "page.html#b: folder/ leads nowhere"),
    ('<a href="#c">x</a>', "page.html#b: #c has no such anchor"),
    ('<a href="page.html#c">x</a>', "page.html#b: page.html#c has no such anchor"),
    ('<p id="cell-7"><img src="data:image/png;base64,AA"></p>', "page.html#cell-7: an image without alternative text"),
    ('<img src="data:image/png;base64,AA" alt=" ">', "page.html#b: an image without alternative text"),
    ('<img src="gone.png" alt="x">', "page.html#b: gone.png leads nowhere"),
    ('<script src="https://cdn.example/x.js"></script>', "page.html#b: https://cdn.example/x.js would be loaded from elsewhere"),
    ('<script src="//cdn.example/x.js"></script>', "page.html#b: //cdn.example/x.js would be loaded from elsewhere"),
    ('<p id="a">x</p>', "page.html: the id 'a' occurs twice"),
    ("<h4>x</h4>", "page.html: heading 'x' skips a level"),
    ("<h1>x</h1>", "page.html: 2 headings of level 1"),
])
def test_check_finds_what_is_wrong(tmp_path, body, problem):
    (tmp_path / "page.html").write_text(GOOD.format('<a href="#a">x</a><a href="page.html#b">x</a><a href="https://a.example/#c">x</a>'))
    assert build.check(tmp_path) == ([], ["https://a.example/#c"])
    (tmp_path / "page.html").write_text(GOOD.format(body))
    assert build.check(tmp_path)[0] == [problem]


def test_check_wants_title_language_and_description(tmp_path):
    (tmp_path / "page.html").write_text("<html><h1>x</h1></html>")
    assert build.check(tmp_path)[0] == ["page.html: no description", "page.html: no language", "page.html: no title"]


@pytest.mark.parametrize("mime", ["image/png", "image/jpeg"])
def test_an_image_without_alternative_text_is_named_by_its_cell(tmp_path, mime):
    title = nb.new_markdown_cell("# T\n\nText.", id="03-00")
    write(tmp_path, title, picture_cell(mime=mime))
    assert build.check(tmp_path)[0] == ["new.html#cell-id=03-08: an image without alternative text"]
    text = write(tmp_path, title, picture_cell('Fig. 3. "a" < b & η', mime))
    assert build.check(tmp_path)[0] == []
    assert build.Page(text).images == [('Fig. 3. "a" < b & η', "cell-id=03-08")]


def test_make_site_fails_on_a_broken_link(tmp_path, monkeypatch, capsys):
    (tmp_path / "README.md").write_text("# T\n\n[there](other.md) [license](LICENSE) [out](../secret.md)")
    (tmp_path / "LICENSE").write_text("MIT")
    (tmp_path.parent / "secret.md").write_text("not of this repository")
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "sources", lambda: {"README.md": "index.html"})
    with pytest.raises(SystemExit, match=r"not good yet:\n  index.html#\S+: \.\./secret.md leads nowhere\n  index.html#\S+: other.md leads nowhere$"):
        build.main([str(tmp_path / "site")])
    assert sorted(path.name for path in (tmp_path / "site").iterdir()) == ["LICENSE.txt", "index.html", "style.css"]
    with pytest.raises(FileExistsError, match="is not empty"):
        build.main([str(tmp_path / "site")])
    (tmp_path / "README.md").write_text("# T\n\n[license](LICENSE)")
    build.main([str(tmp_path / "again")])
    assert "1 pages" in capsys.readouterr().out


def test_links_between_pages_and_to_files():
    exporter = build.Exporter(build.sources())
    assert exporter.resolve("notebooks/05_evidence.ipynb", "README.md") == "05_evidence.html"
    assert exporter.resolve("../README.md#without-make", "notebooks/05_evidence.ipynb") == "index.html#without-make"
    assert exporter.resolve("06_as_released.ipynb", "notebooks/05_evidence.ipynb") == "06_as_released.html"
    assert exporter.resolve("results.md", "bench/results.md") == "benchmarks.html"
    for url in ("#here", "https://doi.org/10.1", "mailto:a@b.c", "notebooks/", "gone.ipynb"):
        assert exporter.resolve(url, "README.md") == url
    assert not exporter.copied
    assert exporter.resolve("profiles/folder.yaml", "README.md") == "profiles/folder.yaml.txt"
    assert exporter.copied == {"profiles/folder.yaml": "profiles/folder.yaml.txt"}


def test_formulas_and_anchors():
    render = build.MarkdownWithMath(build.Renderer(str)).render
    assert '<h2 id="the-threshold-q-eq-8">' in render("## The threshold $q$ (Eq. 8)")
    assert render("$\\tilde\\eta < h$").count("<math") == 1 and "$" not in render("$$w_m$$ and $h$")
    assert 'display="block"' in render("$$w_m$$") and 'class="wide"' in render("$$w_m$$")
    assert render("| a |\n|---|\n| $x$ |").startswith('<div class="wide"><table>')
    with pytest.raises(ValueError, match="nosuchmacro"):
        render("$\\nosuchmacro x$")


def test_unreachable_links_are_told():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200 if self.path == "/here" else 404)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        here, gone = (f"http://127.0.0.1:{server.server_port}/{name}" for name in ("here", "gone"))
        assert build.unreachable([here, gone]) == [f"{gone}: HTTP Error 404: Not Found"]
        server.shutdown()
    assert build.unreachable([here], timeout=1)[0].startswith(here)

"""Pages in a real browser: headless Chromium drives the explorer that Voila serves.

An accessibility checker looks at reports and the site.

Screenshots: runs/browser/screenshots/.
"""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import psutil
import pytest
from conftest import CHROMIUM, write_image
from PIL import Image

import cbir
from cbir import report
from cbir.common import ROOT

QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WAIT = 180_000  # ms; a kernel imports torch meanwhile, on a machine that may be busy

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder of all, and the explorer of a store of coloured noise in four classes."""
    folder = tmp_path_factory.mktemp("world")
    for i in range(24):
        label = ("ant", "bee", "cat", "<i>dog")[i % 4]
        write_image(folder / "images" / label / f"{i:02}.png", size=(64, 48), seed=i)
        pixels = (
            np.random.default_rng(i)
            .integers(0, 256, (6, 8, 3))
            .astype(np.uint8)
            .repeat(12, axis=0)
            .repeat(12, axis=1)
        )
        Image.fromarray(pixels).save(folder / "images" / label / f"{i:02}.png")
    net = cbir.load_network(device="cpu")
    store = cbir.extract(folder / "images", net, folder / "store", extras={"windows": "windows"})
    (folder / "tmp").mkdir()
    return folder, cbir.Explorer(store, net)


@pytest.fixture(scope="module")
def server(world):
    """The address of the page, served as `cbir explore` does, and the server's process."""
    folder, _ = world
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "cbir.cli",
        "explore",
        "--run",
        "browser",
        "--store",
        str(folder / "store"),
        "--port",
        str(port),
        "--no-browser",
    ]
    with open(folder / "server.log", "w") as log:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=os.environ
            | {
                "TMPDIR": str(folder / "tmp"),
                "CBIR_RUNS": str(ROOT / "runs"),
                "CUDA_VISIBLE_DEVICES": "",
            },
        )
    address = f"http://127.0.0.1:{port}/"
    try:
        for _ in range(WAIT // 500):
            assert process.poll() is None, (folder / "server.log").read_text()
            try:
                with socket.create_connection(("127.0.0.1", port), timeout=1):
                    break
            except OSError:
                time.sleep(0.5)
        yield address, process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def opened(server, browser):
    """The page, opened once; page.faults has what went wrong and what it asked other hosts for."""
    page = browser.new_page(viewport={"width": 1280, "height": 1500})
    page.faults = []
    page.on("console", lambda m: m.type == "error" and page.faults.append(m.text))
    page.on("pageerror", lambda e: page.faults.append(str(e)))
    page.on("requestfailed", lambda r: page.faults.append(r.url))
    page.on(
        "request",
        lambda r: (
            r.url.startswith((server[0], "data:", "blob:")) or page.faults.append(f"asks {r.url}")
        ),
    )
    page.set_default_timeout(WAIT)
    page.goto(server[0], timeout=WAIT)
    page.wait_for_selector(".cbir-card")
    return page


@pytest.fixture
def page(opened, request):
    """The page with image 0 as the query; after every test, a screenshot and no fault."""
    search_for(opened, "03.png")
    opened.wait_for_function(
        "document.querySelector('.cbir-query h2')?.innerText == '03.png'"
        " && document.querySelector('.cbir-message') == null"
    )
    yield opened
    screenshot(opened, request.node.name.removeprefix("test_").replace("/", "_"))
    assert opened.faults == []


def screenshot(page, name):
    folder = ROOT / "runs" / "browser" / "screenshots"
    folder.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=folder / f"{name}.png")


def search_for(page, name):
    page.locator("input[type=search]").fill(name)
    page.keyboard.press("Enter")


def shown(page):
    """What the page shows: {name of the descriptor: [(file, class, distance), ..]}."""
    return page.evaluate(
        """() => Object.fromEntries(
            [...document.querySelectorAll(".cbir-main section:has(.cbir-row)")].map((section) => [
                section.querySelector("h2").innerText,
                [...section.querySelectorAll(".cbir-card")].map((card) =>
                    [...card.querySelectorAll(":scope > span")].map((span) => span.innerText)),
            ]))"""
    )


def expected(explorer, row, descriptors=("h", "eta_conv", "eta"), **options):
    """What is found for a row of the store, or for a look at something else."""
    look = row
    if isinstance(row, int):
        look = explorer.look(row)
        options["without"] = row
    found = {}
    for d, (rows, distances) in explorer.find(look, list(descriptors), **options).items():
        names = [explorer.store.files[row].split("/")[1] for row in rows]
        labels = [explorer.store.labels[row] for row in rows]
        numbers = [f"{round(x, 6):.4g}" for x in distances]
        found[cbir.NAMES[d]] = [list(card) for card in zip(names, labels, numbers)]
    return found


def wait_for(page, what):
    """Waits until the page shows what is expected; else the failure names the difference."""
    for _ in range(WAIT // 200):
        if shown(page) == what:
            return
        page.wait_for_timeout(200)
    assert shown(page) == what


def upload(page, path):
    page.set_input_files(".cbir-upload input", path)


def test_opens_with_the_images_to_choose_from(opened, world):
    _, explorer = world
    assert "9. Explore" not in opened.inner_text("body") and opened.title()
    assert opened.locator(".cbir-card").count() == len(explorer.store)
    opened.locator("[data-key='pick 7']").click()
    wait_for(opened, expected(explorer, 7))
    opened.get_by_role("button", name="all images").click()
    opened.wait_for_selector("[data-key='pick 7']")
    assert not opened.locator(".cbir-main").is_visible()
    assert opened.faults == []


def test_more_like_what_was_found(page, world):
    _, explorer = world
    wait_for(page, expected(explorer, 0))
    row = int(explorer.find(explorer.look(0), ["h"], without=0)["h"][0][1])
    page.locator("[data-key='h 1 like']").click()
    wait_for(page, expected(explorer, row))


def test_the_file_that_is_saved_has_what_is_shown(page, world):
    _, explorer = world
    wait_for(page, expected(explorer, 0))
    with page.expect_download() as download:
        page.get_by_role("link", name="save the hits").click()
    assert download.value.suggested_filename == "hits_03.json"
    saved = json.loads(open(download.value.path()).read())
    rows, _ = explorer.find(explorer.look(0), ["eta"], without=0)["eta"]
    assert [hit["file"] for hit in saved["eta"]] == [explorer.store.files[row] for row in rows]


def test_a_larger_view_opens_and_closes(page, world):
    _, explorer = world
    page.locator("[data-key='view query']").first.click()
    page.wait_for_selector("dialog[open] img")
    assert str(explorer.store.path(0)) in page.locator("dialog").inner_text()
    page.keyboard.press("Escape")
    page.wait_for_selector("dialog", state="detached")
    page.locator("[data-key='view query']").first.click()  # again
    page.get_by_role("button", name="close").click()
    page.wait_for_selector("dialog", state="detached")


def test_another_descriptor_is_a_click_away(page, world):
    _, explorer = world
    assert not page.get_by_role("checkbox", name="w₁").is_visible()
    page.get_by_text("layers, others").click()
    page.get_by_role("checkbox", name="w₁").check()
    page.get_by_role("checkbox", name="h", exact=True).uncheck()
    page.wait_for_function(
        """names => [...document.querySelectorAll('.cbir-main section:has(.cbir-row) h2')]
        .map(title => title.innerText).join() == names""",
        arg="η̃,η,w₁",
    )
    assert shown(page)["η"] == expected(explorer, 0)["η"]
    assert page.get_by_role("checkbox", name="w₁").is_visible()  # what was unfolded stays so
    page.get_by_role("checkbox", name="w₁").uncheck()
    page.get_by_role("checkbox", name="h", exact=True).check()
    wait_for(page, expected(explorer, 0))


def test_moving_q_searches_and_draws_anew(page, world):
    _, explorer = world
    regions = page.locator(".cbir-main td img").nth(2).get_attribute("src")
    page.get_by_role("slider", name="q").focus()
    for _ in range(4):
        page.keyboard.press("ArrowRight")
    wait_for(page, expected(explorer, 0, recipe={"q": 0.7}))
    page.wait_for_function(
        "before => document.querySelectorAll('.cbir-main td img')[2].src != before", arg=regions
    )  # drawn after what was found
    for _ in range(4):
        page.keyboard.press("ArrowLeft")
    wait_for(page, expected(explorer, 0))


def test_recipe_balance_averaging_metric_and_k(page, world):
    _, explorer = world
    page.get_by_role("combobox", name="recipe").select_option("as_released")
    wait_for(page, expected(explorer, 0, recipe=cbir.AS_RELEASED))
    page.get_by_role("radio", name="cosine").check()
    wait_for(page, expected(explorer, 0, recipe=cbir.AS_RELEASED, metric="cosine"))
    page.get_by_role("combobox", name="recipe").select_option("as_printed")
    wait_for(page, expected(explorer, 0, metric="cosine"))
    page.get_by_role("radio", name="L1").check()
    page.get_by_role("checkbox", name="unit length").check()
    wait_for(page, expected(explorer, 0, recipe={"balance": "l2"}))
    page.get_by_role("checkbox", name="average all").check()
    wait_for(page, expected(explorer, 0, recipe={"q": 0, "balance": "l2"}))
    assert page.get_by_role("slider", name="q").is_disabled()
    page.get_by_role("checkbox", name="unit length").uncheck()
    page.get_by_role("checkbox", name="average all").uncheck()
    wait_for(page, expected(explorer, 0))
    page.get_by_role("slider", name="images").focus()
    page.keyboard.press("ArrowRight")
    wait_for(page, expected(explorer, 0, k=6))
    page.keyboard.press("ArrowLeft")
    wait_for(page, expected(explorer, 0))


def test_a_click_on_a_result_explains_it(page, world):
    _, explorer = world
    wait_for(page, expected(explorer, 0))
    page.locator('[data-key="h 3"]').click()
    page.wait_for_function(
        "document.querySelector('.cbir-main table').innerText.includes('h, rank 4')"
    )
    assert page.locator('[data-key="h 3"]').get_attribute("aria-pressed") == "true"
    assert page.locator('.cbir-card [aria-pressed="true"]').count() == 1
    hits = explorer.find(explorer.look(0), ["h"], without=0)["h"]
    row, distance = (values[3] for values in hits)
    text = page.locator(".cbir-main").inner_text()
    shares = explorer.parts(explorer.look(0), int(row), "h")
    assert f"What made the distance {round(distance, 6):.4g}" in text
    assert f"y₆ {shares['y_6']:.1%}, y₇ {shares['y_7']:.1%}" in text
    page.locator('[data-key="eta 1"]').focus()
    page.keyboard.press("Enter")  # without a mouse
    page.wait_for_function(
        "document.querySelector('.cbir-main table').innerText.includes('rank 2')"
    )
    assert page.evaluate("document.activeElement.dataset.key") == "eta 1"


def test_work_in_progress_shows(page, world):
    _, explorer = world
    page.evaluate(
        """() => { window.seen = false;
        new MutationObserver(() => { window.seen ||= !!document.querySelector(".cbir-busy"); })
        .observe(document.querySelector(".cbir-page"), { attributes: true }); }"""
    )
    page.locator("[data-key='h 1 like']").click()
    page.wait_for_function("window.seen && !document.querySelector('.cbir-busy')")


def test_dark_where_the_system_is(page):
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    ink = page.evaluate("getComputedStyle(document.querySelector('.cbir-page h1')).color")
    screenshot(page, "dark_page")
    page.emulate_media(color_scheme="light")
    assert (light, dark, ink) == ("rgb(255, 255, 255)", "rgb(17, 17, 17)", "rgb(242, 242, 242)")


def test_an_uploaded_picture_is_searched_for(page, world):
    folder, explorer = world
    upload(page, write_image(folder / "mine" / "holiday.jpg", size=(300, 200), seed=99))
    wait_for(
        page, expected(explorer, explorer.look(cbir.open_image(folder / "mine" / "holiday.jpg")))
    )
    assert "holiday.jpg" in page.locator(".cbir-query").inner_text()
    assert page.locator(".cbir-message").count() == 0
    page.wait_for_function(  # drawn after what was found
        "document.querySelector('.cbir-main table').innerText.includes('holiday.jpg')"
    )
    for place in (".cbir-query img", ".cbir-main tbody tr:first-child td:nth-child(2) img"):
        box = page.locator(place).bounding_box()
        assert box["width"] / box["height"] == pytest.approx(1.5, abs=0.02)


def bad_files(folder):
    (folder / "bad").mkdir(exist_ok=True)
    (folder / "bad" / "notes.txt").write_text("no picture at all")
    whole = write_image(folder / "bad" / "whole.jpg", size=(400, 300)).read_bytes()
    (folder / "bad" / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    with open(folder / "bad" / "huge.jpg", "wb") as huge:
        huge.truncate(100_000_000)
    (folder / "bad" / "empty.png").write_bytes(b"")
    (folder / "bad" / "<img src=x onerror=alert(1)>.png").write_text("neither")
    return folder / "bad"


@pytest.mark.parametrize(
    "name, message",
    [
        ("notes.txt", "'notes.txt' cannot be read: not an image"),
        ("huge.jpg", "'huge.jpg' has 100.0 MB, more than 10 MB"),
        ("truncated.jpg", "'truncated.jpg' cannot be read"),
        ("empty.png", "'empty.png' cannot be read: empty file"),
        ("<img src=x onerror=alert(1)>.png", "'<img src=x onerror=alert(1)>.png' cannot be read"),
    ],
    ids=["no image", "100 MB", "truncated", "empty", "hostile name"],
)
def test_a_bad_upload_gives_a_message_and_the_page_goes_on(page, world, name, message):
    folder, explorer = world
    before = expected(explorer, 0)
    wait_for(page, before)
    upload(page, bad_files(folder) / name)
    page.wait_for_selector(".cbir-message")
    assert message in page.locator(".cbir-message").inner_text() and shown(page) == before
    screenshot(page, f"message_{name.split('.')[0].split(' ')[0].strip('<')}")
    search_for(page, "07.png")
    wait_for(page, expected(explorer, row_of(explorer, "07.png")))
    assert page.locator(".cbir-message").count() == 0


def row_of(explorer, name):
    return next(i for i, file in enumerate(explorer.store.files) if file.endswith(name))


def test_a_dropped_file_is_an_upload(page, world):
    folder, explorer = world
    picture = write_image(folder / "mine" / "dropped.png", size=(90, 120), seed=5)
    transfer = page.evaluate_handle(
        """bytes => { const data = new DataTransfer();
        data.items.add(new File([new Uint8Array(bytes)], "dropped.png", {type: "image/png"}));
        return data; }""",
        list(picture.read_bytes()),
    )
    page.dispatch_event(".cbir-upload", "drop", {"dataTransfer": transfer})
    wait_for(page, expected(explorer, explorer.look(cbir.open_image(picture))))


def test_an_unknown_name_gives_a_message(page):
    search_for(page, "no such picture")
    page.wait_for_selector(".cbir-message")
    assert "no image has 'no such picture'" in page.locator(".cbir-message").inner_text()


def test_on_a_phone_a_tap_leads_to_why(page):
    """Results come before controls, and nothing is wider than the screen."""
    page.set_viewport_size({"width": 390, "height": 844})
    page.evaluate("scrollTo(0, 0)")
    assert page.evaluate("document.querySelector('.cbir-page').scrollWidth") <= 390
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    screenshot(page, "phone_top")
    tops = [page.locator(".cbir-main > *").nth(n).bounding_box()["y"] for n in range(4)]
    assert tops == sorted(tops)  # query, results, why, settings
    page.locator('[data-key="h 1"]').click()
    page.wait_for_function(
        """() => { const why = document.querySelector(".cbir-main table");
        const { top } = why.closest("section").getBoundingClientRect();
        return why.innerText.includes("h, rank 2") && Math.abs(top) < 60; }"""
    )
    screenshot(page, "phone_why")
    page.get_by_role("button", name="back to the images").click()
    page.wait_for_function(
        """() => { const card = document.querySelector('[data-key="h 1"]');
        const { top, bottom } = card.getBoundingClientRect();
        return top > 0 && bottom < innerHeight; }"""
    )
    page.set_viewport_size({"width": 1280, "height": 1500})


def test_images_have_alternative_text_and_controls_have_names(page):
    assert page.locator(".cbir-page img:not([alt]), .cbir-page img[alt='']").count() == 0
    controls = ".cbir-page button, .cbir-page select, .cbir-page input"
    unnamed = page.evaluate(
        """controls => [...document.querySelectorAll(controls)]
        .filter(e => !(e.innerText || e.ariaLabel || e.title || e.labels?.length))
        .map(e => e.outerHTML)""",
        controls,
    )
    assert unnamed == []


def test_listens_on_loopback_only_and_for_its_own_name(server):
    address, process = server
    processes = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    listening = {
        c.laddr.ip
        for p in processes
        for c in p.net_connections("inet")
        if c.status == psutil.CONN_LISTEN
    }
    assert listening == {"127.0.0.1"}
    request = urllib.request.Request(address, headers={"Host": "elsewhere.example"})
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(request)
    assert error.value.code == 403
    for path in (
        "voila/files/explore.ipynb",
        "voila/files/metrics.json",
        "voila/files/../browser/explore.ipynb",
    ):
        with pytest.raises(urllib.error.HTTPError) as error:
            urllib.request.urlopen(address + path)
        assert error.value.code in (403, 404)


def test_uploads_left_nothing_behind(page, world):
    """Neither in the temporary folder nor beside the images nor in the store or the run."""
    folder, explorer = world
    left = [
        p
        for p in (folder / "tmp").rglob("*")
        if p.is_file() and not re.search(r"kernel-|voila_|\.json$|\.(nbi|nbc)$", str(p))
    ]
    assert left == []
    assert sorted(p.name for p in folder.iterdir()) == [
        ".store.lock",
        "bad",
        "images",
        "mine",
        "server.log",
        "store",
        "tmp",
    ]
    assert len(list((folder / "images").rglob("*.png"))) == len(explorer.store)
    assert {p.name for p in (ROOT / "runs" / "browser").iterdir()} <= {
        "explore.ipynb",
        "figures",
        "screenshots",
    }
    assert "Traceback" not in (folder / "server.log").read_text()
    assert json.loads((ROOT / "runs" / "browser" / "explore.ipynb").read_text())["cells"]


# ---- accessibility ------------------------------------------------------------------------------


def serious_faults(page):
    """What axe calls serious or critical in a page: [(rule, the first element), ..]."""
    from axe_playwright_python.sync_playwright import Axe

    found = Axe().run(page).response["violations"]
    grave = [fault for fault in found if fault["impact"] in ("serious", "critical")]
    return [(fault["id"], fault["nodes"][0]["html"]) for fault in grave]


@pytest.fixture(scope="module", params=["folder", "embedded"])
def report_page(request, tmp_path_factory):
    """A report with all its parts: tables that are wide, folds, figures, lists, commands."""
    run = cbir.Run(request.param, tmp_path_factory.mktemp("runs"))
    fig, _ = plt.subplots(figsize=(7, 1))
    for name in ("summary", "fig01", "fig04", "fig07", "shares"):
        run.save_figure(fig, name, f"A caption of {name}")
    plt.close(fig)
    descriptors = ["im", "h", "eta_conv", "eta", "h+average"]
    results = [
        {"metric": metric, "descriptor": d, "mean": 0.5, "low": 0.4, "high": 0.6}
        for metric in ("same class", "class AP", "histogram distance")
        for d in descriptors
    ]
    table = pd.DataFrame({"query": [1, "mean"], "class": ["cat", ""]})
    for group in ("printed", "published", "paper"):
        for d in descriptors:
            table[f"{group} {d}"] = 0.25
    run.save_table1(table)
    run.record(
        images_of=request.param,
        results=results,
        pairs=[row | {"verdict": "better"} for row in results],
        images={"database": 90, "queries": 10},
        unreadable={f"{i}.jpg": "truncated" for i in range(12)},
        duplicates=[["a.jpg", "b.jpg"]],
        no_images={".txt": 1},
        recipe=cbir.AS_PRINTED,
        network={"name": "embedded"},
        command="cbir reproduce " + "-p images x " * 30,
        seconds={"02_extraction": 3.0},
        memory={"02_extraction": 2**30},
        status="unfinished",
    )
    return report.report(run).as_uri()


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_reports_have_no_serious_fault_of_accessibility(browser, report_page, width, scheme):
    viewport = {"width": width, "height": 900}
    with browser.new_page(viewport=viewport, color_scheme=scheme) as page:
        page.goto(report_page)
        assert serious_faults(page) == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("name", ["index", "docs/results", "notebooks/03_retrieval"])
def test_the_site_has_no_serious_fault_of_accessibility(browser, site, name, width):
    with browser.new_page(viewport={"width": width, "height": 900}) as page:
        page.goto((site / f"{name}.html").as_uri())
        assert serious_faults(page) == []


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_explorer_has_no_serious_fault_of_accessibility(page, scheme, width):
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    try:
        assert serious_faults(page) == []
        page.locator("[data-key='view query']").first.click()
        page.wait_for_selector("dialog[open]")
        assert serious_faults(page) == []
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog", state="detached")
        page.get_by_role("button", name="all images").click()
        page.wait_for_selector("[data-key='pick 7']")
        assert serious_faults(page) == []
    finally:
        page.emulate_media(color_scheme="light")
        page.set_viewport_size({"width": 1280, "height": 1500})


def test_the_checker_sees_a_fault(browser):
    with browser.new_page() as page:
        page.set_content("<html lang='en'><title>A</title><main><img src='data:,'></main></html>")
        assert [rule for rule, _ in serious_faults(page)] == ["image-alt"]

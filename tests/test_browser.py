"""Headless Chromium drives the page of `cbir explore`; axe looks at it, and at the site."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import unicodedata
import urllib.error
import urllib.parse
import urllib.request
from itertools import product

import psutil
import pytest
from conftest import write_image

import cbir
from cbir import explain
from cbir.explore import serve
from cbir.names import plain_name

WAIT = 120_000  # ms; a server imports torch meanwhile, on a machine that may be busy
CAFE = unicodedata.normalize("NFD", "café")  # as macOS writes names

pytestmark = [pytest.mark.slow, pytest.mark.browser]


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """The folder of all, and the explorer of a store of coloured noise in three classes."""
    folder = tmp_path_factory.mktemp("world")
    for i in range(70):
        label = ("ant", "bee", "<i>dog")[i % 3]
        name = f"{i:02}{CAFE if i == 65 else ''}.png"
        write_image(folder / "images" / label / name, (8, 6), seed=i)
    net = cbir.load_network(device="cpu")
    store = cbir.extract(folder / "images", net, folder / "store", extras={"windows": "windows"})
    (folder / "tmp").mkdir()
    return folder, explain.Explorer(store, net)


def start(folder, *arguments):
    """`cbir explore` of the store, in the folder: the process and its page's address."""
    command = [sys.executable, *"-m cbir explore --store store --no-browser --port 0".split()]
    log = folder / "server.log"
    env = os.environ | {"TMPDIR": str(folder / "tmp"), "CUDA_VISIBLE_DEVICES": ""}
    streams = {"stdout": log.open("w"), "stderr": subprocess.STDOUT}
    process = subprocess.Popen([*command, *arguments], cwd=folder, env=env, **streams)
    while not (found := re.match(r"The page: (\S+)\n", log.read_text())):
        assert process.poll() is None, log.read_text()
        time.sleep(0.2)
    return process, found[1]


@pytest.fixture(scope="module")
def server(world):
    """The address of the page, and the process that serves it; ended by SIGTERM."""
    process, address = start(world[0])
    yield address, process
    process.terminate()
    process.wait(30)


@pytest.fixture
def page(server, browser):
    """The page, opened anew; after the test no fault and no request elsewhere."""
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(WAIT)
    faults = []
    page.on("console", lambda m: m.type == "error" and faults.append(m.text))
    page.on("pageerror", lambda e: faults.append(str(e)))
    ours = (server[0], "data:", "blob:")
    page.on("request", lambda r: r.url.startswith(ours) or faults.append(f"asks {r.url}"))
    page.goto(server[0])
    page.wait_for_selector(".thumbnail-item img")
    yield page
    page.close()
    assert faults == []


def gallery(page, label):
    block = page.locator(".block:visible", has=page.locator("label", has_text=re.compile(label)))
    return block.last.locator(".thumbnail-item")


def pick(page, explorer, name):
    """Searches for a name and makes the first image the query; returns its row."""
    page.get_by_label("Part of an image's name").fill(name)
    first = "name => document.querySelector('.thumbnail-item').innerText == name"
    page.wait_for_function(first, arg=name)
    gallery(page, "Images to choose from").first.click()
    page.get_by_text("Query: ", exact=False).filter(has_text=name).wait_for()
    return next(i for i, file in enumerate(explorer.store.files) if file.endswith(name))


def shown(page, descriptors=("h", "η̃", "η")):
    """{descriptor: [(class, distance, file), ..]} as the page shows them."""
    texts = {d: gallery(page, f"^\\s*{d}\\s*$").all_inner_texts() for d in descriptors}
    return {d: [tuple(text.split("\n")) for text in found] for d, found in texts.items()}


def expected(explorer, query, descriptors=("h", "eta_conv", "eta"), **options):
    """What is to be shown for a row of the store, or for another file."""
    labels, files, found = explorer.store.labels, explorer.store.files, {}
    row, label = (query, labels[query]) if isinstance(query, int) else (None, None)
    for d, hits in explorer.find(explorer.look(query), descriptors, without=row, **options).items():
        found[plain_name(d)] = [
            (labels[j] + " ✓" * (labels[j] == label), f"{round(x, 6):.4g}", files[j].split("/")[1])
            for j, x in zip(*hits)
        ]
    return found


def wait_for(page, what):
    end = time.monotonic() + WAIT / 1000
    while shown(page, what) != what and time.monotonic() < end:
        page.wait_for_timeout(200)
    assert shown(page, what) == what


def test_a_picture_is_picked_by_name_explained_and_followed(page, world):
    _, explorer = world
    assert gallery(page, "Images to choose from").count() == 60
    row = pick(page, explorer, "07.png")
    wait_for(page, expected(explorer, row))
    with page.expect_download() as download:
        page.get_by_text("Save the hits (JSON)").click()
    assert download.value.suggested_filename == "hits_07.json"
    saved = json.loads(download.value.path().read_text())["eta"]
    rows, distances = explorer.find(explorer.look(row), ["eta"], without=row)["eta"]
    assert [hit["file"] for hit in saved] == [explorer.store.files[row] for row in rows]
    assert [hit["distance"] for hit in saved] == distances.tolist()
    gallery(page, "^\\s*η\\s*$").nth(2).click()
    shares = explorer.shares(explorer.look(row), int(rows[2]), "eta")
    said = page.get_by_text("What adds to this distance").last
    assert f"number 3 by η: {distances[2]:.4g} apart" in said.inner_text()
    assert f"y₆ {shares['y_6']:.1%}, y₇ {shares['y_7']:.1%}, w₁" in said.inner_text()
    figure = page.locator("img[alt*='What adds']")
    figure.wait_for()
    assert figure.evaluate("image => image.complete && image.naturalWidth > 1000")
    page.get_by_text("More like this one").click()
    wait_for(page, expected(explorer, int(rows[2])))
    assert not figure.is_visible()


def test_names_are_found_in_any_case_and_form(page):
    for word, count in [("no such name", "0 of 0"), ("", "60 of 70"), ("CAFÉ", "1 of 1")]:
        page.get_by_label("Part of an image's name").fill(word)
        page.get_by_text(f"Images to choose from: {count}", exact=True).wait_for()
    images = gallery(page, "Images to choose from")
    assert images.count() == 1 and CAFE in images.inner_text()


def test_settings_search_anew(page, world):
    _, explorer = world
    row = pick(page, explorer, "03.png")
    page.get_by_text("Settings", exact=True).click()
    for label, recipe, metric in [
        ("as_released", cbir.AS_RELEASED, "l1"),
        ("cosine", cbir.AS_RELEASED, "cosine"),
        ("unit_length", cbir.UNIT_LENGTH, "cosine"),
        ("l1", cbir.UNIT_LENGTH, "l1"),
        ("as_printed", cbir.AS_PRINTED, "l1"),
    ]:
        page.get_by_label(label).check()
        wait_for(page, expected(explorer, row, recipe=recipe, metric=metric))
    page.get_by_label("number input for q").fill("1.5")
    recipe = cbir.AS_PRINTED | {"q": 1.5}
    wait_for(page, expected(explorer, row, recipe=recipe))
    page.get_by_label("number input for k").fill("9")
    page.get_by_label("w₁").check()
    names = ("h", "eta_conv", "eta", "w_1")
    wait_for(page, expected(explorer, row, names, recipe=recipe, k=9))
    for name in ("h", "η̃", "η", "w₁"):
        page.get_by_label(name, exact=True).uncheck()
    page.get_by_text("no descriptor is chosen").wait_for()


def test_an_uploaded_picture_is_searched_for_and_not_kept(page, world):
    folder, explorer = world
    mine = write_image(folder / "mine" / "holiday.jpg", size=(300, 200), seed=99)
    page.set_input_files("input[type=file]", mine)
    page.get_by_text("Query: holiday.jpg").wait_for()
    wait_for(page, expected(explorer, mine))
    box = page.locator("img[alt*='holiday']").evaluate("i => i.naturalWidth / i.naturalHeight")
    assert box == pytest.approx(1.5, abs=0.02)
    assert not [p for p in (folder / "tmp").rglob("holiday.jpg") if p.stat().st_size]


def test_a_bad_upload_gives_a_message_and_the_page_goes_on(page, world):
    _, explorer = world
    before = expected(explorer, pick(page, explorer, "08.png"))
    wait_for(page, before)
    for name, size, message in [
        ("notes.txt", 20, "'notes.txt' cannot be read: not an image"),
        ("empty.png", 0, "'empty.png' cannot be read: empty file"),
        ("<img src=x onerror=alert(1)>.png", 30, "onerror"),
        ("huge.jpg", 10_500_000, "maximum"),
    ]:
        file = {"name": name, "mimeType": "image/png", "buffer": b"n" * size}
        page.set_input_files("input[type=file]", file)
        page.locator(".toast-body", has_text=message).wait_for()
        assert shown(page) == before and page.locator(".toast-body img").count() == 0
    wait_for(page, expected(explorer, pick(page, explorer, "09.png")))


def serious_faults(page):
    """What axe calls serious or critical in a page: [(rule, the first element), ..]."""
    from axe_playwright_python.sync_playwright import Axe

    found, grave = Axe().run(page).response["violations"], ("serious", "critical")
    return [(f["id"], f["nodes"][0]["html"]) for f in found if f["impact"] in grave]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [1280, 390])
def test_light_and_dark_on_a_screen_and_a_phone(page, world, scheme, width):
    """Nothing is wider than the screen, and nothing is a serious fault for axe."""
    page.set_viewport_size({"width": width, "height": 844})
    page.emulate_media(color_scheme=scheme)
    assert serious_faults(page) == []
    pick(page, world[1], "08.png")
    page.get_by_text("Settings", exact=True).click()
    gallery(page, "^\\s*h\\s*$").first.click()
    page.locator("img[alt*='What adds']").wait_for()
    page.wait_for_timeout(1000)  # fading in is no fault
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    assert serious_faults(page) == []
    background = page.evaluate("getComputedStyle(document.body).backgroundColor")
    light = min(map(int, re.findall(r"\d+", background)[:3])) > 128
    assert light == (scheme == "light")


def refused(address, **options):
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(urllib.request.Request(address, **options))
    return error.value.code


def test_no_file_of_the_disk_can_be_fetched(server, world):
    address, _ = server
    folder, explorer = world
    secret = folder / "secret.txt"
    secret.write_text("secret")
    own = next((folder / "tmp").glob("cbir_explore_*"))
    paths = [secret, explorer.store.path(0), "/etc/passwd", "secret.txt"]
    paths += [f"{own}/../../secret.txt", "../" * 12 + "etc/passwd", "https://example.org/"]
    routes = ("gradio_api/file=", "gradio_api/file/", "file=", "static/", "assets/")
    for path, route in product(map(str, paths), routes):
        for quoted in (path, urllib.parse.quote(path, safe="")):
            assert refused(f"{address}{route}{quoted}") in (403, 404, 405)
    upload = {"path": str(explorer.store.path(0)), "meta": {"_type": "gradio.FileData"}}
    config = json.load(urllib.request.urlopen(address + "config"))
    (file,) = [c["id"] for c in config["components"] if c["type"] == "file"]
    event = next(d for d in config["dependencies"] if file in d["inputs"])
    data = [upload if i == file else None for i in event["inputs"]]
    body = json.dumps({"data": data, "fn_index": event["id"], "session_hash": "x"}).encode()
    kind = {"Content-Type": "application/json"}
    urllib.request.urlopen(urllib.request.Request(f"{address}gradio_api/queue/join", body, kind))
    answers = urllib.request.urlopen(address + "gradio_api/queue/data?session_hash=x").read()
    assert b'"success":false' in answers.replace(b" ", b"") and explorer.store.path(0).exists()


def test_listens_on_loopback_only_and_for_its_own_name(server):
    address, process = server
    connections = psutil.Process(process.pid).net_connections("inet")
    assert {c.laddr.ip for c in connections if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
    assert not [c for c in connections if c.raddr and c.raddr.ip != "127.0.0.1"]
    assert refused(address, headers={"Host": "elsewhere.example"}) == 400
    many = b"--b\r\nContent-Disposition: form-data; name=files; filename=a.png\r\n\r\n"
    many += b"n" * 10_500_000
    form = {"Content-Type": "multipart/form-data; boundary=b"}
    assert refused(f"{address}gradio_api/upload", data=many + b"\r\n--b--\r\n", headers=form) == 413


def test_a_password_and_sigterm_that_leaves_nothing_behind(world, browser):
    folder, _ = world
    before = set((folder / "tmp").iterdir())
    process, address = start(folder, "--auth", "ann:secret")
    assert refused(f"{address}config") == 401
    with browser.new_page() as page:
        asked = []
        page.on("request", lambda r: asked.append(r.url))
        page.goto(address)
        page.get_by_label("username").fill("ann")
        page.get_by_label("password").fill("secret")
        page.get_by_role("button", name="Login").click()
        page.wait_for_selector(".thumbnail-item img")
        assert all(url.startswith((address, "data:", "blob:")) for url in asked)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 128 + signal.SIGTERM
    left = set((folder / "tmp").iterdir()) - before
    assert not [p for p in left if p.name.startswith(("cbir", "gradio"))]
    assert "Traceback" not in (folder / "server.log").read_text()
    known = "images mine store tmp server.log secret.txt .store.lock"
    assert {p.name for p in folder.iterdir()} <= set(known.split())


def test_a_wrong_address_is_refused_before_anything_is_opened():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        for host, port, auth, message in [
            ("0.0.0.0", 0, None, "--auth name:password"),
            ("127.0.0.1", 0, "ann", "--auth name:password"),
            ("127.0.0.1", 70000, None, "port 70000 of 127.0.0.1"),
            ("203.0.113.1", 0, "a:b", "choose another --port"),
            ("127.0.0.1", taken.getsockname()[1], None, "already in use"),
        ]:
            with pytest.raises((ValueError, OSError), match=message):
                serve("no such run", None, host, port, False, auth)


@pytest.mark.parametrize("name", ["index", "docs/results", "notebooks/03_retrieval"])
def test_the_site_has_no_serious_fault_of_accessibility(browser, site, name):
    with browser.new_page(viewport={"width": 390, "height": 900}) as page:
        page.goto((site / f"{name}.html").as_uri())
        assert serious_faults(page) == []

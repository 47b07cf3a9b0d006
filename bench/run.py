"""How fast, against what: `make bench` writes bench/results.md.

All peers run in one process, by turns; figures are medians. Machines are shared and noisy, so
ratios count, not times. Every time stands beside a physical limit of the same machine in the same
minute: the arithmetic that a matrix product reaches, or the memory bandwidth that a plain sum
reaches.
"""

import argparse
import os

os.environ["TQDM_DISABLE"] = "1"

import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import faiss
import numba
import numpy as np
import scipy.spatial.distance
import sklearn.metrics
import sklearn.neighbors
import torch

import cbir
from cbir.common import ROOT
from cbir.create import Settings, create_store, file_sizes
from cbir.descriptors import AS_RELEASED
from cbir.explorer.engine import Explorer
from cbir.explorer.page import Page
from cbir.extract import Describer

DIMS = 9664
OUT = []


def say(text=""):
    print(text, flush=True)
    OUT.append(text)


def table(header, rows):
    say("| " + " | ".join(header) + " |")
    say("|" + "---|" * len(header))
    for row in rows:
        cells = [cell if isinstance(cell, str) else f"{cell:.3g}" for cell in row]
        say("| " + " | ".join(cells) + " |")
    say()


def by_turns(repeats=5, **functions):
    """Median seconds of every function, {name: seconds}, and ratios {"a / b": median}.

    Each runs once before, then all in turn; "a / b" is the median of the turns' ratios.
    """
    seconds = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    medians = {name: float(np.median(values)) for name, values in seconds.items()}
    for a in seconds:
        for b in seconds:
            medians[f"{a} / {b}"] = float(np.median(np.divide(seconds[a], seconds[b])))
    return medians


def load(name):
    """The embedded network with its weights, another one with random weights."""
    return cbir.load_network(name, weights="default" if name == "embedded" else None)


def probes(net, batch):
    """A batch of inputs in the memory format of the network."""
    x = net.probe().expand(batch, -1, -1, -1)
    return x.contiguous(memory_format=torch.channels_last)


def codes(n, d=DIMS, seed=0):
    """Like a network's activations: four of five are zero, few directions tell images apart.

    Of 1,000 such rows a byte a value leaves 0.8 % to be compared in full; of the embedded network's
    descriptors of 1,000 scenes, 1.0 %. Independent numbers would leave 7 %.
    """
    directions = np.random.default_rng(1).standard_normal((48, d), dtype=np.float32) / 7
    rng = np.random.default_rng(100 + seed)
    out = np.empty((n, d), np.float32)
    for i in range(0, n, 1000):
        size = min(1000, n - i)
        values = rng.standard_normal((size, 48), dtype=np.float32) @ directions
        values += 0.3 * rng.standard_normal((size, d), dtype=np.float32)
        out[i : i + 1000] = np.maximum(0, values - 0.84)
    return out


@numba.njit(parallel=True, fastmath={"reassoc"})
def plain_sum(x):
    total = 0.0
    for i in numba.prange(x.shape[0]):
        row = np.float32(0)
        for j in range(x.shape[1]):
            row += x[i, j]
        total += row
    return total


# ---- descriptors ----------------------------------------------------------------------------


def descriptors(repeats):
    say("## Descriptors\n")
    say(
        "The descriptor beside a bare forward pass (same batch, channels_last, inference mode), "
        "and the arithmetic of that pass beside a matrix product's.\n"
    )
    matrix = torch.rand(2048, 2048)
    rows = []
    for name, batch in [("embedded", 32), ("vgg16", 8)]:
        net = load(name)
        half = load(name).to(dtype=torch.bfloat16)
        x = probes(net, batch)
        with torch.inference_mode():
            flops = 30.9e9 if name == "vgg16" else forward_flops(net)
            ys, _ = net(x)
            t = by_turns(
                3 * repeats,
                bare=lambda: net.module(x),
                described=lambda: cbir.describe(net, x),
                alone=lambda: cbir.conv_descriptor(ys),
            )
            peers = {"product": lambda: matrix @ matrix}
            if name == "embedded" or has_bfloat16():
                peers["half"] = lambda: cbir.describe(half, x)
            t |= by_turns(repeats, **peers)
        ours = batch * flops / t["bare"] / 1e9
        theirs = 2 * 2048**3 / t["product"] / 1e9
        faster = f"{t['described'] / t['half']:.2f}" if "half" in t else "no bfloat16 here"
        rows.append(
            {
                "network": name,
                "batch": batch,
                "bare images/s": batch / t["bare"],
                "described images/s": batch / t["described"],
                "added by describing": f"{100 * (t['described / bare'] - 1):+.1f} %",
                "Eq. 8-15 alone": f"{100 * t['alone'] / t['bare']:.1f} %",
                "bare GFLOP/s": ours,
                "matrix product GFLOP/s": theirs,
                "ratio": ours / theirs,
                "bfloat16: speed ratio": faster,
            }
        )
    table(rows[0].keys(), [row.values() for row in rows])
    bfloat16_effect()
    authors_loops(repeats)


def has_bfloat16():
    about = Path("/proc/cpuinfo")
    return not about.exists() or "bf16" in about.read_text()


def forward_flops(net):
    """Multiplications and additions of all convolutions and linear layers, for one image."""
    counts = []
    handles = []

    def count(module, _inputs, output):
        counts.append(2 * output[0].numel() * module.weight[0].numel())

    for module in net.module.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            handles.append(module.register_forward_hook(count))
    net.module(net.probe())
    for handle in handles:
        handle.remove()
    return sum(counts)


def bfloat16_effect():
    net = cbir.load_network()
    queries = cbir.load_images("embedded", max_queries=64)[1]
    scenes = [cbir.open_image(queries.path(i)) for i in range(64)]
    batch = torch.stack([net.transform(scene) for scene in scenes])
    full = cbir.describe(net, batch)
    half = cbir.describe(net.to(dtype=torch.bfloat16), batch)
    rows = []
    for name in ("h", "eta_conv", "eta"):
        a, b = getattr(full, name), getattr(half, name)
        rows.append([name, float((b - a).abs().sum() / a.abs().sum())])
    say(
        "Effect of bfloat16 on the descriptors of 64 scenes, embedded network: sum of absolute "
        "differences over sum of values.\n"
    )
    table(["descriptor", "relative difference"], rows)


def authors_loops(repeats):
    """One image as released: loops over the last block's neurons and every block's positions."""
    net = cbir.load_network("vgg16", weights=None)
    ys, _ = net(net.probe())
    arrays = [y[0].permute(1, 2, 0).contiguous().numpy() for y in ys]

    def loops():
        last = arrays[-1] / arrays[-1].max()
        marked = np.zeros(last.shape[:2], bool)
        for i in range(last.shape[0]):
            for j in range(last.shape[1]):
                for k in range(last.shape[2]):
                    if last[i, j, k] > 0.5:
                        marked[i, j] = True
        parts = []
        for y in arrays:
            side = y.shape[0] // 7
            w = np.zeros(y.shape[2], np.float32)
            cells = 0
            for i in range(7):
                for j in range(7):
                    if marked[i, j]:
                        cells += 1
                        for a in range(side * i, side * (i + 1)):
                            for b in range(side * j, side * (j + 1)):
                                w += y[a, b] / y.shape[2]
            parts.append(w / max(cells, 1))
        return np.concatenate(parts)

    def ours():
        return cbir.conv_descriptor(ys, **AS_RELEASED)

    if not np.allclose(loops(), ours()[0].numpy(), rtol=1e-3, atol=1e-6):
        raise AssertionError("the loops and conv_descriptor disagree")
    with torch.inference_mode():
        t = by_turns(repeats, loops=loops, ours=ours)
    say(
        "One image's descriptor from the same VGG16 activations, as released: Python loops over "
        "the neurons, as the authors' notebook does it, beside `conv_descriptor`.\n"
    )
    table(
        ["Python loops, ms", "conv_descriptor, ms", "ratio"],
        [[1e3 * t["loops"], 1e3 * t["ours"], t["loops"] / t["ours"]]],
    )


# ---- search ---------------------------------------------------------------------------------


def search(repeats, folder, rows=20_000, largest=100_000):
    say("## Exact search\n")
    store = fake_store(folder / "searched", rows)
    loaded = store.load()
    x = store.eta[:]
    q = codes(10, seed=1)
    index = faiss.IndexFlat(DIMS, faiss.METRIC_L1)
    index.add(x)
    tree = sklearn.neighbors.NearestNeighbors(n_neighbors=5, algorithm="brute", metric="manhattan")
    tree.fit(x)
    xt, qt = torch.from_numpy(x), torch.from_numpy(q)
    exact = np.stack([np.abs(x - row.astype(float)).sum(axis=1) for row in q])
    best = np.argsort(exact, axis=1, kind="stable")[:, :5]
    if not all((cbir.search(database, q).indices == best).all() for database in (x, store, loaded)):
        raise AssertionError("not the neighbours of float64 brute force")

    def scipy_search():
        distances = scipy.spatial.distance.cdist(q, x, "cityblock")
        return np.argpartition(distances, 5, axis=1)

    t = by_turns(
        repeats,
        cbir=lambda: cbir.search(x, q),
        store=lambda: cbir.search(store, q),
        loaded=lambda: cbir.search(loaded, q),
        faiss=lambda: index.search(q, 5),
        sum=lambda: plain_sum(x),
        numpy=lambda: x.sum(),
    )
    t |= by_turns(
        max(1, repeats // 3),
        torch=lambda: torch.cdist(qt, xt, p=1).topk(5, largest=False),
        sklearn=lambda: tree.kneighbors(q),
        scipy=scipy_search,
    )
    say(
        f"L1, {rows:,} x {DIMS:,} float32, 10 queries, k = 5, all with {numba.get_num_threads()} "
        "threads where they know threads. Indices checked against float64 brute force.\n"
        "The store's files are in the page cache; everything else is an array in memory.\n"
    )
    gigabytes = x.nbytes / 1e9
    names = {
        "loaded": "cbir.search of a loaded store",
        "store": "cbir.search of a store on disk",
        "cbir": "cbir.search of an array",
        "faiss": "faiss.IndexFlat(METRIC_L1)",
        "torch": "torch.cdist(p=1)",
        "sklearn": "scikit-learn, brute force",
        "scipy": "scipy cdist",
        "sum": "a plain sum over the database, all threads (numba)",
        "numpy": "a plain sum over the database, one thread (numpy)",
    }
    table(
        ["", "ms", "a loaded store is faster by", "bandwidth of the database, GB/s"],
        [
            [title, 1e3 * t[name], t[name] / t["loaded"], gigabytes / t[name]]
            for name, title in names.items()
        ],
    )
    del index, tree
    t = by_turns(
        repeats,
        l2=lambda: cbir.search(x, q, metric="l2"),
        cosine=lambda: cbir.search(x, q, metric="cosine"),
        product=lambda: qt @ xt.T,
    )
    say("L2 and cosine beside the matrix product that they need at least:\n")
    table(
        ["", "ms", "matrix product, ms"],
        [[metric, 1e3 * t[metric], 1e3 * t["product"]] for metric in ("l2", "cosine")],
    )
    many = codes(200, seed=2)
    stores = {"loaded": loaded, "store": store}
    growth = [growth_row(repeats, x, many[:n], stores) for n in (1, 10, 50, 200)]
    del x, xt
    growth += [growth_row(repeats, codes(n), q) for n in (5_000, 50_000, largest)]
    say("Growth with the number of queries and of rows (L1):\n")
    header = ["rows", "queries"]
    for database in ("loaded store", "store on disk", "array"):
        header += [f"{database}, ms", "times a plain sum"]
    table(header, growth)


def growth_row(repeats, x, q, stores=None):
    """Searches of an array and of the same rows in stores, beside a plain sum of the array."""
    searches = {"array": lambda: cbir.search(x, q)}
    for name, store in (stores or {}).items():
        searches[name] = partial(cbir.search, store, q)
    t = by_turns(max(1, repeats // 2), **searches, sum=lambda: plain_sum(x))
    row = [f"{len(x):,}", f"{len(q)}"]
    for name in ("loaded", "store", "array"):
        row += [1e3 * t[name], t[f"{name} / sum"]] if name in t else ["", ""]
    return row


# ---- store ----------------------------------------------------------------------------------


def fake_store(path, n, dtype="float32", shard=256):
    """A store of VGG16's shape filled with numbers, as `extract` would write it."""
    blocks = [(64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7)]
    shapes = {"blocks": blocks, "codes": [4096, 4096]}
    net = SimpleNamespace(shapes=shapes, provenance={"name": "numbers"})
    images = cbir.ImageSet(Path(path).parent, [f"{i}.jpg" for i in range(n)], [""] * n)
    settings = Settings(images, file_sizes(images), net, {}, {}, dtype)
    store = create_store(path, settings, {"codes": 8192, "conv": 1472}, shard)
    for rows in store.shards:
        x = codes(rows.stop - rows.start, seed=rows.start)
        arrays = {"codes": x[:, :8192], "conv": np.abs(x[:, 8192:]) + 0.5}
        store.write(rows, arrays, ["ok"] * len(x))
    return store


def size(path):
    return sum(p.stat().st_size for p in Path(path).rglob("*") if p.is_file())


def stores(repeats, folder, n_rows=10_000):
    say("## Store\n")
    raw = 4 * n_rows * DIMS
    start = time.perf_counter()
    store = fake_store(folder / "full", n_rows)
    seconds = time.perf_counter() - start
    fake_store(folder / "half", n_rows, "float16")
    half = cbir.open_store(folder / "half")
    q = fake_store(folder / "queries", 10)
    start = time.perf_counter()
    for rows in store.shards:
        codes(rows.stop - rows.start, seed=rows.start)
    seconds -= time.perf_counter() - start
    x = store.eta[:]
    np.save(folder / "plain.npy", x)
    t = by_turns(
        max(1, repeats // 2),
        read=lambda: [store.eta[rows] for rows in store.shards],
        half=lambda: [half.eta[rows] for rows in half.shards],
        plain=lambda: np.load(folder / "plain.npy"),
        search=lambda: cbir.search(store, q),
        three=lambda: cbir.search(store, q, ["h", "eta_conv", "eta"]),
        search_half=lambda: cbir.search(half, q.eta[:]),
        memory=lambda: cbir.search(x, q.eta[:]),
        sum=lambda: plain_sum(x),
    )
    say(
        f"{n_rows:,} rows of VGG16's width ({raw / 1e6:.0f} MB as float32), files in the page "
        f"cache; written at {raw / seconds / 1e6:.0f} MB/s.\n"
    )
    coarse = size(folder / "full" / "coarse") / raw
    lines = [
        ("read", "read every shard, float32 (zstd)", size(folder / "full") / raw - coarse),
        ("half", "read every shard, float16 (zstd)", size(folder / "half") / raw - coarse),
        ("plain", "read one uncompressed file (numpy)", "1"),
        ("search", "search the store by eta, 10 queries", coarse),
        ("three", "search it by h, eta~ and eta in one pass", ""),
        ("search_half", "search the float16 store by eta", ""),
        ("memory", "search the same array in memory", ""),
        ("sum", "a plain sum over it in memory", ""),
    ]
    table(
        ["", "s", "MB/s of descriptors", "size on disk, of float32"],
        [[title, t[name], raw / t[name] / 1e6, share] for name, title, share in lines],
    )
    float16_effect(folder)


def float16_effect(folder):
    net = cbir.load_network()
    write_scenes(folder / "scenes", 600)
    names = ["h", "eta_conv", "eta"]
    made = []
    hits = []
    for dtype in ("float32", "float16"):
        made.append(cbir.extract(folder / "scenes", net, folder / f"scenes_{dtype}", dtype=dtype))
        hits.append(cbir.search(made[-1], made[-1], names, k=6))
    rows = []
    for name in names:
        full, small = hits[0][name], hits[1][name]
        common = [len({*a[1:]} & {*b[1:]}) / 5 for a, b in zip(full.indices, small.indices)]
        change = np.abs(full.distances - small.distances) / np.maximum(full.distances, 1e-12)
        rows.append([name, float(np.mean(common)), float(change[:, 1:].max())])
    say(
        "Real descriptors (600 scenes, embedded network; h is mostly zeros), and what float16 "
        "does to the five nearest of each:\n"
    )
    table(["descriptor", "share of common top-5", "largest relative change of a distance"], rows)
    on_disk = [size(f"{st.location}/codes") + size(f"{st.location}/conv") for st in made]
    shares = [bytes_ / (4 * len(st) * st.eta.shape[1]) for bytes_, st in zip(on_disk, made)]
    zeros = [float((st.h[:] == 0).mean()) for st in made]
    table(
        ["", "float32", "float16"],
        [
            ["bytes a descriptor on disk, of its float32 size", *shares],
            ["share of zeros in h", *zeros],
        ],
    )


# ---- from images to figures -----------------------------------------------------------------


def write_scenes(folder, n):
    folder.mkdir(exist_ok=True)
    scenes, _ = cbir.load_images("embedded", max_images=n)
    for i in range(n):
        file = folder / f"{i:05}.jpg"
        if not file.exists():
            shutil.copyfile(scenes.path(i), file)


def end_to_end(repeats, folder):
    say("## End to end\n")
    say(
        "Image files to a store: JPEG decoding, resizing, forward pass, descriptors, writing; "
        "beside the bare forward pass of the same batches.\n"
    )
    write_scenes(folder / "scenes", 600)
    files = cbir.list_images(folder / "scenes")
    rows = []
    for name, n, batch in [("embedded", 600, 32), ("vgg16", 32, 16)]:
        net = load(name)
        x = probes(net, batch)
        n_batches = n // batch
        paths = (folder / f"end-{name}-{turn}" for turn in range(100))
        with torch.inference_mode():
            t = by_turns(
                1,
                bare=lambda: [net.module(x) for _ in range(n_batches)],
                ours=lambda: cbir.extract(files[range(n)], net, next(paths), batch_size=batch),
            )
        bare = n_batches * batch / t["bare"]
        rows.append([name, bare, n / t["ours"], n / t["ours"] / bare])
    table(["network", "bare forward pass, images/s", "end to end, images/s", "ratio"], rows)


def explorer(repeats, folder, n=10_000):
    say("## Explorer\n")
    say(
        f"What notebook 09's page waits for after an action, {n:,} images, three descriptors, "
        "k = 5: searching, regions, decoding thumbnails, HTML; without the browser's\n"
        "own drawing. Beside it what cannot be avoided: a forward pass of the picture. "
        "Descriptors are made up, pictures are rendered scenes.\n"
    )
    write_scenes(folder / "scenes", 600)
    rows = []
    for name, extras in [("embedded", {"windows": "windows"}), ("vgg16", {})]:
        net = load(name)
        images = made_up_store(folder / f"explored-{name}", folder, net, extras, n)
        start = time.perf_counter()
        store = cbir.open_store(folder / f"explored-{name}")
        page = Page(Explorer(store, net), images[range(600)])
        opened = time.perf_counter() - start
        x = net.probe()
        uploads = [(folder / "scenes" / f"{i:05}.jpg").read_bytes() for i in range(600)]
        pictures = iter(range(1, 600))
        thresholds = iter(np.linspace(0.05, 3, 60))
        clicks = iter(range(10**6))

        def upload():
            about = {"name": "mine.jpg", "size": 1}
            page._uploaded(page.upload, about, [uploads[next(pictures)]])

        def move_q():
            page.change(q=float(next(thresholds)))

        def click():
            page._clicked(None, {"key": f"eta {1 + next(clicks) % 4}"}, [])

        with torch.inference_mode():
            actions = {"bare": lambda: net.module(x), "upload": upload, "click": click}
            if page.explorer.live:  # elsewhere the page does not offer it
                actions["q"] = move_q
            t = by_turns(repeats, **actions)
        assert not page.message.html.count("cbir-message"), page.message.html
        rows.append(
            {
                "network": name,
                "opening the page, s": opened,
                "bare forward pass, s": t["bare"],
                "a picture is uploaded, s": t["upload"],
                "q is moved, s": t.get("q", "not offered"),
                "a result is clicked, s": t["click"],
                "upload / forward pass": t["upload / bare"],
            }
        )
    table(rows[0].keys(), [row.values() for row in rows])


def made_up_store(path, folder, net, extras, n):
    """A store of n images, 600 different ones, with random descriptors; returns the images."""
    files = [f"scenes/{i % 600:05}.jpg" for i in range(n)]
    images = cbir.ImageSet(folder, files, [f"class {i % 10}" for i in range(n)])
    widths = Describer(net, {}, extras).probe()
    settings = Settings(
        images, file_sizes(images), net, cbir.named_recipe("as_printed"), extras, "float32"
    )
    store = create_store(path, settings, widths, 256)
    for shard in store.shards:
        rng = np.random.default_rng(shard.start)
        n_rows = shard.stop - shard.start
        arrays = {}
        for array, width in widths.items():
            arrays[array] = np.maximum(0, rng.standard_normal((n_rows, width), dtype=np.float32))
        store.write(shard, arrays, ["ok"] * n_rows)
    return images


MEMORY = """
import sys
import time
from pathlib import Path
import cbir
cbir.extract, cbir.search  # imported, when they are first named
what, path, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
if what == "extract":
    images = cbir.list_images(path)[[i % 600 for i in range(n)]]
    cbir.extract(images, cbir.load_network(), f"{path}/../memory-{n}")
elif what == "search":
    st = cbir.open_store(path)
    rows = st.eta[: 2 * 10]
    queries = (rows[:10] + rows[10:]) / 2
    cbir.search(st, queries)
    block = sys.modules["cbir.search"].ByteBlock
    read, refined = block.rows, []
    def counted(self, part, which):
        refined.append(len(which) / (len(st) * len(st.parts("eta"))))
        return read(self, part, which)
    block.rows = counted
    start = time.perf_counter()
    cbir.search(st, queries)
    print(time.perf_counter() - start, 100 * sum(refined))
# getrusage would tell of the process that started this one, too
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])
"""


def memory(folder, rows):
    say("## Peak memory and large stores\n")
    write_scenes(folder / "scenes", 600)
    imported, _ = peak("import", "", 0)
    say(
        "Of a process of its own each; what `cbir.extract` and `cbir.search` import alone takes "
        f"{imported:,.0f} MB.\n"
    )
    table(
        ["extracted images", "peak, MB"],
        [[f"{n:,}", f"{peak('extract', folder / 'scenes', n)[0]:,.0f}"] for n in (64, 600, 2400)],
    )
    say(
        "Ten queries by eta, L1, k = 5, files in the page cache. Rows compared: those of which "
        "the float numbers are read, as a share of the store, all queries together.\n"
    )
    lines = []
    for n in rows:
        path = folder / f"rows-{n}"
        if not path.exists():
            fake_store(path, n)
        megabytes, (seconds, refined) = peak("search", path, n)
        lines.append([f"{n:,}", f"{4 * n * DIMS / 1e6:,.0f}", seconds, f"{refined:.2f} %"])
        lines[-1].append(f"{megabytes:,.0f}")
    table(["rows", "descriptors as float32, MB", "s", "rows compared", "peak, MB"], lines)


def peak(what, path, n):
    """Peak memory in MB of a process that runs `MEMORY`, and the numbers that it prints before."""
    command = [sys.executable, "-c", MEMORY, what, path, str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *numbers, kilobytes = done.stdout.split()
    return int(kilobytes) / 1024, [float(number) for number in numbers]


# ---- the report -----------------------------------------------------------------------------


def say_head():
    about = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in about if line.startswith("model name")]
    cpu = models[0] if models else platform.processor()
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else "none"
    packages = ("torch", "numpy", "numba", "zarr", "faiss-cpu", "scikit-learn", "scipy")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    say("# Benchmarks\n")
    say(
        f"Written by `make bench`, {time.strftime('%Y-%m-%d')}. {cpu}, {os.cpu_count()} cores, "
        f"{memory_gib:.0f} GiB; GPU: {gpu}. Python {platform.python_version()}, {versions}."
    )
    say(
        "Medians of runs by turns in one process; ratios count, times depend on what else the "
        "machine does. Search and store speed are measured on random numbers shaped like\n"
        "VGG16's descriptors (see `codes` in run.py), everything else on rendered scenes.\n"
    )


def with_section(report, title, section):
    """A report with one section in place of the old one, or at the end."""
    if f"## {title}\n" not in report:
        return report + "\n" + section
    pattern = re.compile(rf"## {title}\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
    return pattern.sub(lambda _: section + "\n", report).rstrip() + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument(
        "--quick",
        action="store_true",
        help="small sizes: shows that everything runs, measures nothing of worth",
    )
    parser.add_argument(
        "--only", help="one section ('Explorer'), measured anew in the file that is there"
    )
    parser.add_argument("--output", default=ROOT / "bench" / "results.md", type=Path)
    args = parser.parse_args()
    repeats = args.repeats
    searched = (2_000, 4_000) if args.quick else (20_000, 100_000)
    stored = 1_000 if args.quick else 10_000
    held = (1_000, 2_000) if args.quick else (10_000, 200_000)
    say_head()
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sections = {
            "Descriptors": lambda: descriptors(repeats),
            "Exact search": lambda: search(repeats, folder, *searched),
            "Store": lambda: stores(repeats, folder, stored),
            "End to end": lambda: end_to_end(repeats, folder),
            "Explorer": lambda: explorer(repeats, folder, stored),
            "Peak memory and large stores": lambda: memory(folder, held),
        }
        for section in [args.only] if args.only else sections:
            sections[section]()
    report = "\n".join(OUT).rstrip() + "\n"
    if args.only:
        section = report[report.index(f"## {args.only}") :]
        report = with_section(args.output.read_text(encoding="utf-8"), args.only, section)
    args.output.write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()

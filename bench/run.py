"""How fast, against what: `make bench` writes bench/results.md. All peers run in one process, by turns; figures are medians.

Machines are shared and noisy, so ratios count, not times. Every time stands beside a physical limit of the same machine in the same
minute: the arithmetic that a matrix product reaches, or the memory bandwidth that a plain sum reaches.
"""

import argparse
import os

os.environ["TQDM_DISABLE"] = "1"

import platform
import re
import subprocess
import sys
import tempfile
import time
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
from cbir.descriptors import AS_RELEASED
from cbir.explorer.engine import Explorer
from cbir.explorer.page import Page
from cbir.extract import Describer
from cbir.scenes import render_scenes, sample_scenes
from cbir.store import create_store

DIMS = 9664
OUT = []


def say(text=""):
    print(text, flush=True)
    OUT.append(text)


def table(header, rows):
    say("| " + " | ".join(header) + " |")
    say("|" + "---|" * len(header))
    for row in rows:
        say("| " + " | ".join(str(cell) if isinstance(cell, str) else f"{cell:.3g}" for cell in row) + " |")
    say()


def by_turns(repeats=5, **functions):
    """Median seconds of every function, {name: seconds}; each runs once before, then all in turn. "a / b" is the median of the turns' ratios."""
    seconds = {name: [] for name in functions}
    for turn in range(repeats + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if turn:
                seconds[name].append(time.perf_counter() - start)
    ratios = {f"{a} / {b}": float(np.median(np.divide(seconds[a], seconds[b]))) for a in seconds for b in seconds}
    return {name: float(np.median(values)) for name, values in seconds.items()} | ratios


def codes(n, d=DIMS, seed=0):
    """Like the activations of fully connected layers after their ReLU: four of five are zero."""
    rng, out = np.random.default_rng(seed), np.empty((n, d), np.float32)
    for i in range(0, n, 1000):
        out[i:i + 1000] = np.maximum(0, rng.standard_normal((min(1000, n - i), d), dtype=np.float32) - 0.84)
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


# ---- descriptors ------------------------------------------------------------------------------------------------------------

def descriptors(repeats):
    say("## Descriptors\n")
    say("The descriptor beside a bare forward pass (same batch, channels_last, inference mode), and the arithmetic of that pass beside a matrix product's.\n")
    a, rows = torch.rand(2048, 2048), []
    for name, batch, flops in [("embedded", 32, None), ("vgg16", 8, 30.9e9)]:
        net = cbir.load_network(name, weights="default" if name == "embedded" else None)
        x = net.probe().expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        half = cbir.load_network(name, weights="default" if name == "embedded" else None).to(dtype=torch.bfloat16)
        with torch.inference_mode():
            flops = flops or forward_flops(net)
            ys, _ = net(x)
            t = by_turns(3 * repeats, bare=lambda: net.module(x), described=lambda: cbir.describe(net, x), alone=lambda: cbir.conv_descriptor(ys))
            t |= by_turns(repeats, product=lambda: a @ a, **({"half": lambda: cbir.describe(half, x)} if name == "embedded" or has_bfloat16() else {}))
        ours, theirs = batch * flops / t["bare"] / 1e9, 2 * 2048 ** 3 / t["product"] / 1e9
        rows.append([name, batch, batch / t["bare"], batch / t["described"], f"{100 * (t['described / bare'] - 1):+.1f} %", f"{100 * t['alone'] / t['bare']:.1f} %", ours, theirs, ours / theirs,
                     f"{t['described'] / t['half']:.2f}" if "half" in t else "no bfloat16 here"])
    table(["network", "batch", "bare images/s", "described images/s", "added by describing", "Eq. 8-15 alone", "bare GFLOP/s", "matrix product GFLOP/s", "ratio", "bfloat16: speed ratio"], rows)
    say("What describing adds beyond Eq. 8-15 is memory: while the five blocks are held, the allocator cannot use their pages again, and the system clears new ones. In one trial with\n"
        "MALLOC_TOP_PAD_=268435456 and MALLOC_TRIM_THRESHOLD_=2147483648 (glibc) it fell from a fifth to a few percent (embedded network), and the bare pass took a fifth less.\n")
    bfloat16_effect()
    authors_loops(repeats)


def has_bfloat16():
    return "bf16" in Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else True


def forward_flops(net):
    """Multiplications and additions of all convolutions and linear layers, for one image."""
    total, handles = [0], []
    for module in net.module.modules():
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
            handles.append(module.register_forward_hook(lambda m, i, o: total.__setitem__(0, total[0] + 2 * o[0].numel() * m.weight[0].numel())))
    net(net.probe())
    for handle in handles:
        handle.remove()
    return total[0]


def bfloat16_effect():
    net, images = cbir.load_network(), render_scenes(sample_scenes(64, 1, "query"))
    batch = torch.stack([net.transform(cbir.images.Image.fromarray(image)) for image in images])
    full = cbir.describe(net, batch)
    half = cbir.describe(net.to(dtype=torch.bfloat16), batch)
    rows = [[name, float((getattr(half, name) - getattr(full, name)).abs().sum() / getattr(full, name).abs().sum())] for name in ("h", "eta_conv", "eta")]
    say("Effect of bfloat16 on the descriptors of 64 scenes, embedded network: sum of absolute differences over sum of values.\n")
    table(["descriptor", "relative difference"], rows)


def authors_loops(repeats):
    """The descriptor of one image as released: a Python loop over the neurons of the last block, and one over every block's positions."""
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
            side, w, cells = y.shape[0] // 7, np.zeros(y.shape[2], np.float32), 0
            for i in range(7):
                for j in range(7):
                    if marked[i, j]:
                        cells += 1
                        for a in range(side * i, side * (i + 1)):
                            for b in range(side * j, side * (j + 1)):
                                w += y[a, b] / y.shape[2]
            parts.append(w / max(cells, 1))
        return np.concatenate(parts)

    ours = cbir.conv_descriptor(ys, **AS_RELEASED)[0].numpy()
    if not np.allclose(loops(), ours, rtol=1e-3, atol=1e-6):
        raise AssertionError("the loops and conv_descriptor disagree")
    with torch.inference_mode():
        t = by_turns(repeats, loops=loops, ours=lambda: cbir.conv_descriptor(ys, **AS_RELEASED))
    say("One image's descriptor from the same VGG16 activations, as released: Python loops over the neurons, as the authors' notebook does it, beside `conv_descriptor`.\n")
    table(["Python loops, ms", "conv_descriptor, ms", "ratio"], [[1e3 * t["loops"], 1e3 * t["ours"], t["loops"] / t["ours"]]])


# ---- search -----------------------------------------------------------------------------------------------------------------

def search(repeats, rows=20_000, largest=100_000):
    say("## Exact search\n")
    x, q = codes(rows), codes(10, seed=1)
    index = faiss.IndexFlat(DIMS, faiss.METRIC_L1)
    index.add(x)
    tree = sklearn.neighbors.NearestNeighbors(n_neighbors=5, algorithm="brute", metric="manhattan").fit(x)
    xt, qt = torch.from_numpy(x), torch.from_numpy(q)
    exact = np.stack([np.abs(x - row.astype(float)).sum(axis=1) for row in q])
    hits = cbir.search(x, q)
    if not (hits.indices == np.argsort(exact, axis=1, kind="stable")[:, :5]).all():
        raise AssertionError("not the neighbours of float64 brute force")
    t = by_turns(repeats, cbir=lambda: cbir.search(x, q), faiss=lambda: index.search(q, 5), sum=lambda: plain_sum(x), numpy=lambda: x.sum())
    few = by_turns(max(1, repeats // 3), torch=lambda: torch.cdist(qt, xt, p=1).topk(5, largest=False), sklearn=lambda: tree.kneighbors(q),
                   scipy=lambda: np.argpartition(scipy.spatial.distance.cdist(q, x, "cityblock"), 5, axis=1))
    say(f"L1, {rows:,} x {DIMS:,} float32, 10 queries, k = 5, all with {numba.get_num_threads()} threads where they know threads. Indices checked against float64 brute force.\n")
    names = {"cbir": "cbir.search", "faiss": "faiss.IndexFlat(METRIC_L1)", "torch": "torch.cdist(p=1)", "sklearn": "scikit-learn, brute force", "scipy": "scipy cdist",
             "sum": "a plain sum over the database, all threads (numba)", "numpy": "a plain sum over the database, one thread (numpy)"}
    t |= few
    table(["", "ms", "cbir is faster by", "bandwidth of the database, GB/s"], [[title, 1e3 * t[n], t[n] / t["cbir"], x.nbytes / t[n] / 1e9] for n, title in names.items()])
    say(f"Share of the plain sum's bandwidth that the search reaches: {t['sum'] / t['cbir']:.2f} (all threads), {t['numpy'] / t['cbir']:.2f} (one). "
        "With ten queries additions bound it, not memory: see the growth with the number of queries.\n")
    del index, tree
    other = by_turns(repeats, l2=lambda: cbir.search(x, q, metric="l2"), cosine=lambda: cbir.search(x, q, metric="cosine"), product=lambda: qt @ xt.T)
    say("L2 and cosine beside the matrix product that they need at least:\n")
    table(["", "ms", "matrix product, ms"], [[m, 1e3 * other[m], 1e3 * other["product"]] for m in ("l2", "cosine")])
    growth = []
    many = codes(200, seed=2)
    for n in (1, 10, 50, 200):
        t = by_turns(max(1, repeats // 2), ours=lambda: cbir.search(x, many[:n]), sum=lambda: plain_sum(x))
        growth.append([f"{rows:,}", n, 1e3 * t["ours"], 1e3 * t["ours"] / n, t["ours"] / t["sum"]])
    del x, xt
    for n in (5_000, 20_000, 50_000, largest):
        y = codes(n)
        t = by_turns(max(1, repeats // 2), ours=lambda: cbir.search(y, q), sum=lambda: plain_sum(y))
        growth.append([f"{n:,}", 10, 1e3 * t["ours"], 1e3 * t["ours"] / 10, t["ours"] / t["sum"]])
        del y
    say("Growth with the number of queries and of rows (L1):\n")
    table(["rows", "queries", "ms", "ms a query", "times a plain sum"], growth)


# ---- store ------------------------------------------------------------------------------------------------------------------

def fake_store(path, n, dtype="float32", shard=256):
    """A store of VGG16's shape filled with numbers, as `extract` would write it."""
    net = SimpleNamespace(shapes={"blocks": [(64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7)], "codes": [4096, 4096]}, provenance={"name": "numbers"})
    images = cbir.ImageSet(Path(path).parent, [f"{i}.jpg" for i in range(n)], [""] * n)
    store = create_store(path, images, net, {}, {}, dtype, {"codes": 8192, "conv": 1472}, shard)
    for rows in store.shards:
        x = codes(rows.stop - rows.start, seed=rows.start)
        store.write(rows, {"codes": x[:, :8192], "conv": np.abs(x[:, 8192:]) + 0.5}, ["ok"] * len(x))
    return store


def size(path):
    return sum(p.stat().st_size for p in Path(path).rglob("*") if p.is_file())


def stores(repeats, folder, rows=10_000):
    say("## Store\n")
    start = time.perf_counter()
    store = fake_store(folder / "full", rows)
    seconds, raw = time.perf_counter() - start, 4 * rows * DIMS
    fake_store(folder / "half", rows, "float16")
    half = cbir.open_store(folder / "half")
    q = fake_store(folder / "queries", 10)
    start = time.perf_counter()
    for rows_ in store.shards:
        codes(rows_.stop - rows_.start, seed=rows_.start)
    seconds -= time.perf_counter() - start
    x = store.eta[:]
    np.save(folder / "plain.npy", x)
    t = by_turns(max(1, repeats // 2), read=lambda: [store.eta[s] for s in store.shards], half=lambda: [half.eta[s] for s in half.shards],
                 plain=lambda: np.load(folder / "plain.npy"), search=lambda: cbir.search(store, q), three=lambda: cbir.search(store, q, ["h", "eta_conv", "eta"]),
                 search_half=lambda: cbir.search(half, q.eta[:]), memory=lambda: cbir.search(x, q.eta[:]), sum=lambda: plain_sum(x))
    say(f"{rows:,} rows of VGG16's width ({raw / 1e6:.0f} MB as float32), files in the page cache; written at {raw / seconds / 1e6:.0f} MB/s.\n")
    table(["", "s", "MB/s of descriptors", "size on disk, of float32"], [
        ["read every shard, float32 (zstd)", t["read"], raw / t["read"] / 1e6, size(folder / "full") / raw],
        ["read every shard, float16 (zstd)", t["half"], raw / t["half"] / 1e6, size(folder / "half") / raw],
        ["read one uncompressed file (numpy)", t["plain"], raw / t["plain"] / 1e6, "1"],
        ["search the store by eta, 10 queries", t["search"], raw / t["search"] / 1e6, ""],
        ["search it by h, eta~ and eta in one pass", t["three"], raw / t["three"] / 1e6, ""],
        ["search the float16 store by eta", t["search_half"], raw / t["search_half"] / 1e6, ""],
        ["search the same array in memory", t["memory"], raw / t["memory"] / 1e6, ""],
        ["a plain sum over it in memory", t["sum"], raw / t["sum"] / 1e6, ""]])
    net = cbir.load_network()
    scenes(folder / "scenes", 600)
    pair = [cbir.extract(folder / "scenes", net, folder / f"scenes_{dtype}", dtype=dtype) for dtype in ("float32", "float16")]
    full, small = (cbir.search(s, s, ["h", "eta_conv", "eta"], k=6) for s in pair)
    say("Real descriptors (600 scenes, embedded network; h is mostly zeros), and what float16 does to the five nearest of each:\n")
    table(["descriptor", "share of common top-5", "largest relative change of a distance"], [
        [d, float(np.mean([len({*a[1:]} & {*b[1:]}) / 5 for a, b in zip(full[d].indices, small[d].indices)])),
         float(np.max(np.abs(full[d].distances[:, 1:] - small[d].distances[:, 1:]) / np.maximum(full[d].distances[:, 1:], 1e-12)))] for d in full])
    table(["", "float32", "float16"], [["bytes a descriptor on disk, of its float32 size", *(sum(size(Path(s.location) / a) for a in ("codes", "conv")) / (4 * len(s) * s.eta.shape[1]) for s in pair)],
                                       ["share of zeros in h", *(float((s.h[:] == 0).mean()) for s in pair)]])


# ---- from images to figures --------------------------------------------------------------------------------------------------

def scenes(folder, n):
    folder.mkdir(exist_ok=True)
    for i, image in enumerate(render_scenes(sample_scenes(n, 0, "database"))):
        if not (folder / f"{i:05}.jpg").exists():
            cbir.images.Image.fromarray(image).save(folder / f"{i:05}.jpg", quality=95)


def end_to_end(repeats, folder):
    say("## End to end\n")
    say("Image files to a store: JPEG decoding, resizing, forward pass, descriptors, writing; beside the bare forward pass of the same batches.\n")
    scenes(folder / "scenes", 600)
    files, rows = cbir.list_images(folder / "scenes"), []
    for name, n, batch in [("embedded", 600, 32), ("vgg16", 32, 16)]:
        net = cbir.load_network(name, weights="default" if name == "embedded" else None)
        x = net.probe().expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        turn = iter(range(100))
        with torch.inference_mode():
            t = by_turns(1, bare=lambda: [net.module(x) for _ in range(n // batch)], ours=lambda: cbir.extract(files[range(n)], net, folder / f"end-{name}-{next(turn)}", batch_size=batch))
        done = n // batch * batch
        rows.append([name, done / t["bare"], n / t["ours"], (n / t["ours"]) / (done / t["bare"])])
    table(["network", "bare forward pass, images/s", "end to end, images/s", "ratio"], rows)


def explorer(repeats, folder, n=10_000):
    say("## Explorer\n")
    say(f"What notebook 09's page waits for after an action, {n:,} images, three descriptors, k = 5: searching, regions, decoding thumbnails, HTML; without the browser's\n"
        "own drawing. Beside it what cannot be avoided: a forward pass of the picture. Descriptors are made up, pictures are rendered scenes.\n")
    scenes(folder / "scenes", 600)
    rows = []
    for name, extras in [("embedded", {"windows": "windows"}), ("vgg16", {})]:
        net = cbir.load_network(name, weights="default" if name == "embedded" else None)
        images = cbir.ImageSet(folder, [f"scenes/{i % 600:05}.jpg" for i in range(n)], [f"class {i % 10}" for i in range(n)])
        widths = Describer(net, {}, extras).probe()
        store = create_store(folder / f"explored-{name}", images, net, cbir.named_recipe("as_printed"), extras, "float32", widths, 256)
        for shard in store.shards:
            rng = np.random.default_rng(shard.start)
            store.write(shard, {array: np.maximum(0, rng.standard_normal((shard.stop - shard.start, d), dtype=np.float32)) for array, d in widths.items()},
                        ["ok"] * (shard.stop - shard.start))
        start = time.perf_counter()
        page = Page(Explorer(cbir.open_store(folder / f"explored-{name}"), net), images[range(600)])
        opened, pictures, qs, clicks = time.perf_counter() - start, iter(range(1, 600)), iter(np.linspace(0.05, 3, 60)), iter(range(10 ** 6))
        x = net.probe()
        uploads = [(folder / "scenes" / f"{i:05}.jpg").read_bytes() for i in range(600)]

        def upload():
            page._uploaded(page.upload, {"name": "mine.jpg", "size": 1}, [uploads[next(pictures)]])

        def move_q():
            page.q.value = float(next(qs))

        def click():
            page._clicked(None, {"key": f"eta {1 + next(clicks) % 4}"}, [])

        with torch.inference_mode():
            t = by_turns(repeats, bare=lambda: net.module(x), upload=upload, q=move_q, click=click)
        assert not page.message.html.count("cbir-message"), page.message.html
        rows.append([name, "search and regions" if page.explorer.live else "regions", opened, t["bare"], t["upload"], t["q"], t["click"], t["upload / bare"]])
    table(["network", "moving q changes", "opening the page, s", "bare forward pass, s", "a picture is uploaded, s", "q is moved, s", "a result is clicked, s",
           "upload / forward pass"], rows)


MEMORY = """
import sys
from pathlib import Path
import numpy as np
import cbir
cbir.extract, cbir.search  # imported, when they are first named
what, path, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
if what == "extract":
    cbir.extract(cbir.list_images(path)[[i % 600 for i in range(n)]], cbir.load_network(), f"{path}/../memory-{n}")
elif what == "search":
    st = cbir.open_store(path)
    cbir.search(st, np.ones((10, st.eta.shape[1]), np.float32))
print(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0])  # getrusage would tell of the process that started this one, too
"""


def memory(folder, rows):
    say("## Peak memory\n")
    scenes(folder / "scenes", 600)
    cases = [("extract", folder / "scenes", n) for n in (64, 300, 1200, 2400)]
    for n in rows:
        if not (folder / f"rows-{n}").exists():
            fake_store(folder / f"rows-{n}", n)
        cases.append(("search", folder / f"rows-{n}", n))
    peaks = [int(subprocess.run([sys.executable, "-c", MEMORY, what, path, str(n)], capture_output=True, text=True, check=True).stdout) / 1024
             for what, path, n in [("import", "", 0), *cases]]
    say(f"Of a process of its own each; what `cbir.extract` and `cbir.search` import alone takes {peaks[0]:,.0f} MB.\n")
    table(["", "images", "descriptors, MB", "peak, MB"], [[what, f"{n:,}", f"{4 * n * DIMS / 1e6:,.0f}" if what == "search" else "", f"{peak:,.0f}"]
                                                          for (what, _, n), peak in zip(cases, peaks[1:])])


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that everything runs, measures nothing of worth")
    parser.add_argument("--only", help="one section ('Explorer'), measured anew in the file that is there")
    parser.add_argument("--output", default=ROOT / "bench" / "results.md", type=Path)
    args = parser.parse_args()
    cpu = next((line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), platform.processor())
    say("# Benchmarks\n")
    say(f"Written by `make bench`, {time.strftime('%Y-%m-%d')}. {cpu}, {os.cpu_count()} cores, {os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.0f} GiB; "
        f"GPU: {torch.cuda.get_device_name() if torch.cuda.is_available() else 'none'}. Python {platform.python_version()}, "
        + ", ".join(f"{p} {version(p)}" for p in ("torch", "numpy", "numba", "zarr", "faiss-cpu", "scikit-learn", "scipy")) + ".")
    say("Medians of runs by turns in one process; ratios count, times depend on what else the machine does. Search and store speed are measured on random numbers shaped like\n"
        "VGG16's descriptors (four of five codes are zero), everything else on rendered scenes.\n")
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        sections = {"Descriptors": lambda: descriptors(args.repeats), "Exact search": lambda: search(args.repeats, *((2_000, 4_000) if args.quick else ())),
                    "Store": lambda: stores(args.repeats, folder, 1_000 if args.quick else 10_000), "End to end": lambda: end_to_end(args.repeats, folder),
                    "Explorer": lambda: explorer(args.repeats, folder, 1_000 if args.quick else 10_000),
                    "Peak memory": lambda: memory(folder, (1_000, 2_000) if args.quick else (10_000, 40_000, 80_000))}
        for section in [args.only] if args.only else sections:
            sections[section]()
    text = "\n".join(OUT).rstrip() + "\n"
    if args.only:  # in place of the old one, or at the end
        new, old = text[text.index(f"## {args.only}"):], args.output.read_text(encoding="utf-8")
        text = (re.sub(rf"## {args.only}\n.*?(?=^## |\Z)", lambda _: new + "\n", old, flags=re.S | re.M) if f"## {args.only}\n" in old else old + "\n" + new).rstrip() + "\n"
    args.output.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()

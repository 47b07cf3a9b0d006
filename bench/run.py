"""How fast, against what: `make bench` writes bench/results.md.

All peers run in one process, by turns; figures are medians. Machines are shared and noisy, so
ratios count, not times. Each stands beside what was asked of it, and beside a limit of the same
machine in the same minute: a bare forward pass, a plain sum of the rows, one np.save.
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

import faiss
import numba
import numpy as np
import pandas as pd
import sklearn.neighbors
import torch

import cbir
from cbir import store as stores
from cbir.common import ROOT, cores

DIMS = 9664  # of VGG16's eta
WIDTHS = {"h": 8192, "eta_conv": 1472}
BLOCKS = [(64, 112, 112), (128, 56, 56), (256, 28, 28), (512, 14, 14), (512, 7, 7)]
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
    """The slim network with its weights, another one with random weights."""
    return cbir.load_network(name, weights="default" if name == "embedded" else None)


def inputs(net, batch):
    """A batch in the memory format of the network."""
    x = net.probe().expand(batch, -1, -1, -1)
    return x.contiguous(memory_format=torch.channels_last)


def codes(n, seed=0):
    """Like a network's activations: four of five are zero, few directions tell images apart."""
    directions = np.random.default_rng(1).standard_normal((48, DIMS), dtype=np.float32) / 7
    rng = np.random.default_rng(100 + seed)
    out = np.empty((n, DIMS), np.float32)
    for i in range(0, n, 1000):
        size = min(1000, n - i)
        values = rng.standard_normal((size, 48), dtype=np.float32) @ directions
        values += 0.3 * rng.standard_normal((size, DIMS), dtype=np.float32)
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


def fake_store(path, n, shard=256):
    """A store of VGG16's shape filled with numbers, as `extract` would write it.

    Returns it, and the seconds that writing its shards took.
    """
    files = {"file": [f"{i}.jpg" for i in range(n)], "label": "", "bytes": 1, "modified": 1}
    images = pd.DataFrame(files | {"row": range(n)})
    about = {
        "root": str(path.parent),
        "network": {"name": "numbers"},
        "recipe": {},
        "extras": {},
        "dims": {"blocks": BLOCKS, "codes": [4096, 4096]},
        "widths": WIDTHS,
        "dtype": "float32",
        "shard_size": shard,
        "versions": {},
    }
    stores.create(path, about, images)
    seconds = 0.0
    for start in range(0, n, shard):
        facts = images.iloc[start : start + shard].assign(crc32=0, state="ok")
        x = codes(len(facts), seed=start)
        arrays = {"h": x[:, :8192].copy(), "eta_conv": x[:, 8192:].copy()}
        begun = time.perf_counter()
        stores.write_shard(path, start // shard, arrays, facts)
        seconds += time.perf_counter() - begun
    return cbir.open_store(path), seconds


# ---- sections -------------------------------------------------------------------------------


def describing(repeats, folder):
    say("## Describing\n")
    say("A batch described beside a bare forward pass of it; then files to a store beside that.\n")
    files = scenes(folder)
    lines, ends = [], []
    for name, batch, n in [("embedded", 32, 600), ("vgg16", 16, 64)]:
        net = load(name)
        x = inputs(net, batch)
        paths = (folder / f"end-{name}-{turn}" for turn in range(100))
        with torch.inference_mode():
            t = by_turns(
                3 * repeats, bare=lambda: net.module(x), described=lambda: cbir.describe(net, x)
            )
            ours = partial(cbir.extract, files[range(n)], net, batch_size=batch)
            end = by_turns(
                repeats,
                bare=lambda: [net.module(x) for _ in range(n // batch)],
                ours=lambda: ours(path=next(paths)),
            )
        lines.append([name, batch / t["bare"], t["described / bare"], "1.02"])
        wanted = "0.75" if name == "embedded" else "0.95"
        ends.append([name, n / end["ours"], n // batch * batch / n * end["bare / ours"], wanted])
    table(["network", "bare, images/s", "described / bare", "at most"], lines)
    table(["network", "files to a store, images/s", "of the bare forward pass", "at least"], ends)


def scenes(folder):
    """600 scenes, as files in one folder."""
    place = folder / "scenes"
    if not place.exists():
        place.mkdir()
        images, _ = cbir.load_images(max_images=600)
        for i in range(len(images)):
            shutil.copyfile(images.path(i), place / f"{i:05}.jpg")
    return cbir.list_images(place)


def searching(repeats, folder, n=20_000):
    say("## Exact search\n")
    store, seconds = fake_store(folder / f"rows-{n}", n)
    x, loaded, q = store.eta[:], store.load(), codes(10, seed=1)
    begun = time.perf_counter()
    np.save(folder / "plain.npy", x)
    saved = time.perf_counter() - begun
    index = faiss.IndexFlat(DIMS, faiss.METRIC_L1)
    index.add(x)
    tree = sklearn.neighbors.NearestNeighbors(n_neighbors=5, algorithm="brute", metric="manhattan")
    tree.fit(x)
    xt, qt = torch.from_numpy(x), torch.from_numpy(q)
    exact = np.stack([np.abs(x - row.astype(float)).sum(axis=1) for row in q])
    best = np.argsort(exact, axis=1, kind="stable")[:, :5]
    if not all((cbir.search(database, q).indices == best).all() for database in (x, store, loaded)):
        raise AssertionError("not the neighbours of float64 brute force")
    t = by_turns(
        repeats,
        store=lambda: cbir.search(store, q),
        two=lambda: cbir.search(store, {"h": q[:, :8192], "eta": q}, ["h", "eta"]),
        memory=lambda: cbir.search(x, q),
        faiss=lambda: index.search(q, 5),
        one=lambda: cbir.search(x, q[:1]),
        sum=lambda: plain_sum(x),
        l2=lambda: cbir.search(x, q, metric="l2"),
        cosine=lambda: cbir.search(x, q, metric="cosine"),
        product=lambda: qt @ xt.T,
    )
    slow = by_turns(
        1,
        torch=lambda: torch.cdist(qt, xt, p=1).topk(5, largest=False),
        sklearn=lambda: tree.kneighbors(q),
    )
    say(
        f"{n:,} x {DIMS:,} float32, ten queries, k = 5, {cores()} cores. The store's files (shards "
        "of 256 rows) are in the page cache. Indices checked against float64 brute force.\n"
    )
    titles = {
        "store": "L1, a store on disk",
        "two": "the same by h and by eta in one pass",
        "memory": "L1, an array in memory",
        "one": "L1, one query, in memory",
        "sum": "a plain sum of the rows, all threads",
        "faiss": "faiss.IndexFlat(METRIC_L1)",
        "torch": "torch.cdist(p=1)",
        "sklearn": "scikit-learn, brute force",
        "l2": "L2, in memory",
        "cosine": "cosine, in memory",
        "product": "the matrix product that these two need",
    }
    table(["", "ms"], [[title, 1e3 * (t | slow)[name]] for name, title in titles.items()])
    asked = [
        ["store on warm disk / in memory", t["store / memory"], "at most 1.7"],
        ["faiss / in memory", t["faiss / memory"], "at least 4.5"],
        ["one query in memory / plain sum", t["one / sum"], "at most 1.2"],
        ["writing shards / np.save of the same rows", seconds / saved, "at most 2"],
    ]
    table(["ratio", "", "wanted"], asked)


def float16(_repeats, folder):
    say("## float16\n")
    say("What it does to the five nearest of 600 scenes, slim network.\n")
    hits = []
    for dtype in ("float32", "float16"):
        made = cbir.extract(scenes(folder), load("embedded"), folder / dtype, dtype=dtype)
        hits.append(cbir.search(made, made, ["h", "eta_conv", "eta"], k=6))
    rows = []
    for name, full in hits[0].items():
        pairs = zip(full.indices, hits[1][name].indices)
        rows.append([name, float(np.mean([len({*a[1:]} & {*b[1:]}) / 5 for a, b in pairs]))])
    table(["descriptor", "share of common top-5"], rows)


MEMORY = """
import sys, time
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
    start = time.perf_counter()
    cbir.search(st, queries)
    print(time.perf_counter() - start)
# what is mapped from files can be taken away at any time
status = Path("/proc/self/status").read_text()
kinds = ("RssAnon:", "VmHWM:")
print(*(status.split(kind)[1].split()[0] for kind in kinds))
"""


def large(_repeats, folder, n=20_000, many=200_000):
    say("## Large stores, and memory\n")
    lines, times = [], {}
    for rows in (n, many):
        path = folder / f"rows-{rows}"
        if not path.exists():
            fake_store(path, rows)
        times[rows], own, _ = process("search", path, rows)
        size = 4 * rows * DIMS / 1e6
        lines.append([f"search of {rows:,} rows ({size:,.0f} MB), ten queries", times[rows], own])
    for images in (64, 2400 if many > 10_000 else 128):
        scenes(folder)
        _, peak = process("extract", folder / "scenes", images)
        lines.append([f"extraction of {images:,} images, the peak", "", peak])
    own, _ = process("import", "", 0)
    lines.append(["importing cbir.extract and cbir.search alone", "", own])
    table(["a process of its own", "s", "memory of its own, MB"], lines)
    ratio = times[many] / times[n]
    wanted = f"at most {1.2 * many / n:.3g}; memory under 1,000 MB"
    table(["ratio", "", "wanted"], [[f"{many:,} rows / {n:,}", ratio, wanted]])


def process(what, path, n):
    """The numbers that `MEMORY` prints in a process of its own; the last two are MB."""
    command = [sys.executable, "-c", MEMORY, what, path, str(n)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    *numbers, own, peak = map(float, done.stdout.split())
    return *numbers, own / 1024, peak / 1024


# ---- the report -----------------------------------------------------------------------------


def say_head():
    about = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(":")[1].strip() for line in about if line.startswith("model name")]
    memory_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    packages = ("torch", "numpy", "numba", "faiss-cpu", "scikit-learn")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    say("# Benchmarks\n")
    say(
        f"Written by `make bench`, {time.strftime('%Y-%m-%d')}. "
        f"{models[0] if models else platform.processor()}, {cores()} cores, {memory_gib:.0f} GiB. "
        f"Python {platform.python_version()}, {versions}.\n\n"
        "Medians of runs by turns in one process; ratios count, times depend on what else the "
        "machine does. Searches are measured on random numbers shaped like VGG16's descriptors "
        "(see `codes` in run.py), everything else on the scenes.\n"
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
    parser.add_argument("--quick", action="store_true", help="small: shows that everything runs")
    parser.add_argument("--only", help="one section ('Exact search'), measured anew in the file")
    parser.add_argument("--output", default=ROOT / "bench" / "results.md", type=Path)
    args = parser.parse_args()
    sizes = (1_000, 4_000) if args.quick else (20_000, 200_000)
    sections = {
        "Describing": describing,
        "Exact search": partial(searching, n=sizes[0]),
        "float16": float16,
        "Large stores, and memory": partial(large, n=sizes[0], many=sizes[1]),
    }
    say_head()
    with tempfile.TemporaryDirectory() as folder:
        for section in [args.only] if args.only else sections:
            sections[section](args.repeats, Path(folder))
    report = "\n".join(OUT).rstrip() + "\n"
    if args.only:
        section = report[report.index(f"## {args.only}") :]
        report = with_section(args.output.read_text(encoding="utf-8"), args.only, section)
    args.output.write_text(report, encoding="utf-8")


if __name__ == "__main__":
    main()

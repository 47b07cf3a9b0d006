"""Figures: everything that is to be seen is drawn, on the axes given, without a warning."""

import base64
import io
import itertools
import re
import warnings

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_hex
from matplotlib.text import Annotation
from nbclient import NotebookClient
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image
from torchvision import models

import cbir
from cbir import figures, names, plots, zoo
from cbir.common import ROOT

KNOWN = pd.DataFrame({"class": ["cat", "cat", "cat", "dog"], "background": [*"wwtw"]})
KNOWN["palette"] = [*"RBBR"]
SCRIPTS = {"豹": "Bao", "オートバイ": "otobai", "코끼리": "KoKkiLi", "कुत्ता": "kutta"}
SCRIPTS |= {name: name for name in ("café", "кошка", "قطة", "$5 to $9\\frac")}  # no formulas
SCRIPTS["American Staffordshire terrier"] = "American Staffor…"


@pytest.fixture(autouse=True)
def strict():
    """A warning is an error; rcParams and figures do not leak."""
    with warnings.catch_warnings(), plt.rc_context():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", ResourceWarning)  # sockets that earlier tests left
        figures.use_style()
        yield
        plt.close("all")


def picture(seed=0, size=(6, 8)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def hits_of(indices, distances=0):
    return cbir.Hits(np.array(indices), distances + np.zeros(np.shape(indices)))


def test_a_users_settings_change_nothing():
    ours = dict(plt.rcParams)
    plt.rcParams.update({"text.usetex": True, "axes.grid": True})
    figures.use_style()
    assert dict(plt.rcParams) == ours and ours["savefig.dpi"] == figures.DOTS
    assert ours["pdf.fonttype"] == 42  # text stays text


def test_a_figure_is_shown_with_its_caption_as_alternative_text(tmp_path, monkeypatch):
    monkeypatch.delenv("MPLBACKEND", raising=False)  # else the kernel would draw for files only
    alts = ["unsaved: a < b", 'Fig. 1. "Quoted"']
    source = f"""import cbir, matplotlib.pyplot as plt
cbir.figures.show(plt.subplots(figsize=(1, 1))[0], {alts[0]!r})
cbir.Run("r", {str(tmp_path)!r}).show(plt.subplots(figsize=(1, 1))[0], "fig01", {alts[1]!r})
print(plt.get_fignums())"""
    notebook = new_notebook(cells=[new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3").execute()
    *figures_shown, closed = notebook.cells[0].outputs
    assert closed.text == "[]\n"
    for shown, alt in zip(figures_shown, alts, strict=True):
        assert shown.metadata["image/png"] == {"alt": alt, "width": figures.INCH}
        with Image.open(io.BytesIO(base64.b64decode(shown.data["image/png"]))) as png:
            assert png.width > figures.DOTS  # an inch, and what is written beside it
    assert {f.name for f in (tmp_path / "r/figures").iterdir()} == {"fig01.png", "fig01.pdf"}
    figures.show(plt.subplots()[0], "outside a kernel")
    assert not plt.get_fignums()


def test_a_grid_looks_the_same_however_often_it_is_saved(tmp_path):
    """Notebooks save a figure, then show it: with another bounding box."""
    fig, axes = figures.grid(2, 3)
    before = [ax.get_position().bounds for ax in axes.flat]
    for box in (None, "tight"):
        fig.savefig(tmp_path / "a.png", bbox_inches=box)
    assert [ax.get_position().bounds for ax in axes.flat] == before
    with pytest.raises(ValueError):
        figures.grid(1, 2, heigth=2)


def test_names_of_descriptors_layers_and_variants():
    for called, plain, symbol in [
        ("eta_conv, unit length", "η̃, unit length", r"$\tilde{\eta}$, unit length"),
        ("y_6", "y₆", "$y_6$"),
        ("w_1, later", "w₁, later", "$w_1$, later"),
        ("something else", "something else", "something else"),
    ]:
        assert (names.plain_name(called), names.symbol(called)) == (plain, symbol)
    drawn = {d: (names.color(d), names.marker(d)) for d in ("eta, whitened", "gem", "w_3")}
    baseline = names.Label("", "")[2:]
    assert drawn == {"eta, whitened": names.LABELS["eta"][2:], "gem": baseline, "w_3": baseline}
    assert names.layer_names(2, 2) == (["w_1", "w_2"], ["y_3", "y_4"])
    own = [label[2:] for label in names.LABELS.values() if label.marker != baseline[1]]
    assert [len(set(each)) for each in zip(*own)] == [7, 7]


@pytest.mark.parametrize("name", ["resnet18", "vgg16"])
def test_fig_1_names_every_output_and_writes_nothing_over_anything(name):
    """The last feature of ResNet-18 is a code of shape (512, 1, 1)."""
    with torch.device("meta"):  # where tensors have shapes only
        module = models.get_model(name)
    blocks, codes = [f"layer{m}" for m in range(1, 5)], ["avgpool"]
    if name == "vgg16":
        blocks, codes = zoo.taps_of(name, module)[:2]
    net = cbir.Network(module, blocks, codes)
    fig, ax = plt.subplots(figsize=(figures.WIDTH, 2.45))
    assert figures.network(ax, net) is ax
    assert ax.get_xlim()[1] < figures.WIDEST + 0.8  # however many layers
    ax.set_xlim(-0.4, figures.WIDEST + 0.8)
    fig.canvas.draw()
    notes = [text for text in ax.texts if isinstance(text, Annotation)]
    shapes = {name: " × ".join(map(str, shape)) for name, _, shape in net.layers}
    taps = enumerate([*net.blocks, *net.codes], start=1)
    expected = [f"$y_{m}$\n{shapes[name].removesuffix(' × 1 × 1')}" for m, name in taps]
    assert texts(notes) == expected
    assert len(ax.patches) == 3 * len(net.layers)  # three faces a slab
    slabs = [patch.get_window_extent() for patch in ax.patches]
    boxes = [plt.Text.get_window_extent(note) for note in notes]  # without their lines
    assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))
    for box in [*boxes, ax.get_legend().get_window_extent()]:
        assert not box.count_overlaps(slabs)
    kinds = texts(ax.get_legend().get_texts())
    assert {"convolution + ReLU", "max-pool"} <= {*kinds}
    assert ("average-pool" in kinds) == (name == "resnet18")


def test_fig_2_colors_an_image_where_neurons_are_significant():
    """And grey elsewhere; counts: the brighter the more channels, and the lighter the pixel."""
    z = np.array([[1, 0, 0, 0], [0, 1, 0, 1]])
    _, axes = plt.subplots(1, 2)
    assert figures.significant_regions(axes, picture(), [z, 0 * z], ["a", "b"]) is axes
    shown, empty = (ax.images[0].get_array() for ax in axes)
    inside = np.kron(z > 0, np.ones((3, 2), bool))
    np.testing.assert_array_equal(shown[inside], picture()[inside])
    assert np.ptp(shown[~inside], axis=-1).max() == np.ptp(empty, axis=-1).max() == 0
    z = np.array([[0, 1], [30, 64]])
    plain = [np.full((2, 2, 3), level, np.uint8) for level in (220, 40)]
    light, dark = (figures.marked(image, z).astype(int).reshape(4, 3) for image in plain)
    assert np.ptp(light[0]) == np.ptp(dark[0]) == 0 < np.ptp(light[1:], axis=1).min()
    assert (np.diff(light[1:].sum(axis=1)) > 0).all() and (dark[1:] < 0.6 * light[1:]).all()
    figures.count_bar(axes[0], z)
    figures.count_bar(axes[1], z > 0)
    (bar,) = axes[0].child_axes
    assert (bar.get_ylabel(), bar.get_ylim()) == ("channels", (1, 64)) and not axes[1].child_axes


@pytest.fixture
def draw(tmp_path):
    def draw(classes=KNOWN["class"], distances=(0, 0.01, 0.02), **options):
        """Draws what the first of four images found: (its row of axes, the images)."""
        files = [f"{i}.png" for i in range(len(classes))]
        for i, file in enumerate(files):
            Image.fromarray(picture(i, (5 + i, 7))).save(tmp_path / file)
        images = cbir.ImageSet(tmp_path, files, list(classes))
        hits = hits_of([[1, 2, 3]], [distances])
        _, axes = figures.grid(1, 4, right=0.85, top=0.42)
        assert figures.retrieval(axes, images, images, hits, rows=[0], **options) is axes
        axes[0, 0].figure.canvas.draw()
        return axes[0], images

    return draw


def marks(ax):
    return [line.get_markerfacecolor() == figures.QUERY for line in ax.lines]


def frames(row):
    """The colour of the frame of every picture, and whether it is solid."""
    edges = [ax.patches[0] for ax in row]
    return [(to_hex(e.get_edgecolor()).upper(), e.get_linestyle() == "-") for e in edges]


def texts(found):
    return [text.get_text() for text in found]


def test_figs_3_to_6_show_every_image_with_class_distance_and_what_is_known(draw):
    row, _ = draw(known=(KNOWN, KNOWN))
    for i, ax in enumerate(row):
        np.testing.assert_array_equal(ax.images[0].get_array(), picture(i, (5 + i, 7)))
    assert [ax.get_xlabel() for ax in row] == ["cat", "cat\n0.0000", "cat\n0.0100", "dog\n0.0200"]
    assert [ax.get_title() for ax in row] == ["query", "1", "2", "3"]
    assert row[0].get_ylabel() == "1"
    same, other = (figures.SAME, True), (figures.OTHER, False)
    assert frames(row) == [(figures.QUERY, True), same, same, other]
    assert [marks(ax) for ax in row] == [[], [True, False], [False, False], [True, True]]
    assert texts(row[-1].texts) == ["class 2/3\nbackground 2/3\npalette 1/3"]
    (legend,) = row[0].figure.legends
    assert texts(legend.get_texts()) == [f"same {factor} / other" for factor in KNOWN]
    numbers = [ax.get_xlabel()[4:] for ax in draw(distances=(0, 1.304e-5, 9e-5))[0]]
    assert numbers[1:] == ["0.0000000", "0.0000130", "0.0000900"]


def test_figs_3_to_6_of_photographs(draw):
    """Their class alone is known, or nothing; then the file's name stands under each."""
    row, _ = draw(known=(KNOWN[["class"]], KNOWN[["class"]]), names=["a.png"])
    assert row[0].get_ylabel() == "a.png" and [marks(ax) for ax in row] == [[]] * 4
    assert texts(row[-1].texts) == ["class 2/3"]
    assert len(row[0].figure.legends[0].get_texts()) == 1
    nothing = pd.DataFrame(index=range(4))
    row, _ = draw([""] * 4, known=(nothing, nothing))
    assert [ax.get_xlabel() for ax in row] == ["0", "1\n0.0000", "2\n0.0100", "3\n0.0200"]
    assert not row[-1].texts and not row[0].figure.legends[0].get_texts()
    assert frames(row) == [(figures.QUERY, True)] * 4


def test_descriptors_below_each_other(tmp_path):
    Image.new("RGB", (4000, 3000), "red").save(tmp_path / "IMG_20260102_123456.jpg")
    large = cbir.ImageSet(tmp_path, ["IMG_20260102_123456.jpg"], [""])
    _, axes = figures.grid(2, 2)
    figures.retrieval(axes, large, large, {"h": hits_of([[0]]), "eta": hits_of([[0]])})
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["$h$", r"$\eta$"]
    assert [ax.get_title() for ax in axes.flat] == ["query", "1", "", ""]
    assert axes[0, 0].get_xlabel() == "…0260102_123456"
    assert axes[0, 0].images[0].get_array().shape == (300, 400, 3)  # as large as it is printed


def test_images_that_cannot_be_read_are_gray_and_say_so(draw, tmp_path):
    """One is damaged, one is gone; nothing was found for a query that could not be read."""
    _, images = draw()
    images.path(0).write_text("no image")
    images.path(1).unlink()
    _, axes = plt.subplots(2, 2)
    hits = hits_of([[0], [-1]], [[0.5], [np.nan]])
    figures.retrieval(axes, images, images, hits, rows=[0, 1])
    assert not any(np.ptp(ax.images[0].get_array()) for ax in axes.flat)
    assert [texts(ax.texts) for ax in axes.flat] == [["unreadable"]] * 3 + [[]]
    assert [ax.get_xlabel() for ax in axes[:, 1]] == ["cat\n0.500", "nan"]


@pytest.mark.parametrize("name, shown", SCRIPTS.items())
def test_class_names_in_any_script_are_drawn(draw, name, shown):
    """Without a warning of a missing glyph, which would fail here, and under their picture."""
    row, _ = draw([name] * 4)
    assert row[0].get_xlabel() == shown
    boxes = [ax.xaxis.label.get_window_extent() for ax in row]
    assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def test_figs_7_to_10_show_every_histogram():
    shown = [*(picture(seed, (20, 20)) for seed in range(4)), np.zeros((4, 4, 3), np.uint8)]
    table = [*map(cbir.color_histogram, shown), np.full(75, np.nan)]  # the last has vanished
    table = np.reshape(table, (2, 3, 75))
    pictures = [picture(0), picture(1, (9, 4))]
    fig, axes = figures.grid(2, 3, left=0.85)
    figures.histograms(axes, table, [[0.1, 0.2], [0.3, np.nan]], pictures)
    fig.canvas.draw()
    for row, values in zip(axes, np.minimum(table, 0.3)):
        for ax, each in zip(row, values):  # a hit has its bars, the difference, the query's outline
            parts = np.reshape([bars.get_data().values for bars in ax.patches], (3, -1, 25))
            expected = [each] if ax is row[0] else [each, each, values[0]]
            np.testing.assert_allclose(parts.swapaxes(0, 1).reshape(-1, 75), expected)
    filled = [bars.get_data() for bars in axes[0, 1].patches[1::3]]
    area = sum(np.abs(bars.values - bars.baseline).sum() for bars in filled) / 75
    np.testing.assert_allclose(area, np.abs(np.diff(np.minimum(table[0, :2], 0.3), axis=0)).mean())
    assert axes[0, -1].get_yticks().tolist() == [0, 0.3] and not len(axes[1, -1].get_yticks())
    assert [ax.get_xlabel() for ax in axes.flat] == ["", "0.1000", "0.2000", "", "0.3000", "nan"]
    assert [ax.get_title() for ax in axes.flat] == ["query", "1", "2", "", "", ""]
    for number, (ax, image) in enumerate(zip(axes[:, 0], pictures), start=1):
        np.testing.assert_array_equal(ax.child_axes[0].images[0].get_array(), image)
        assert ax.child_axes[0].get_ylabel() == str(number)
    for labelled in (figures.histogram(plt.subplots()[1], table[0, 0]), *axes[:, 0]):
        assert texts(labelled.texts) == ["R", "G", "B"]


def means(descriptors, metrics=("class",)):
    """What `cbir.means` gives: means 0.1, 0.2, .. of every metric, low 0.1 less, high 0.3 more."""
    of_each = [(d, n / 10, n / 10 - 0.1, n / 10 + 0.3) for n, d in enumerate(descriptors, start=1)]
    rows = [(metric, *row) for metric in metrics for row in of_each]
    return pd.DataFrame(rows, columns=["metric", "descriptor", "mean", "low", "high"])


def test_intervals():
    _, axes = plt.subplots(1, 2, figsize=(7, 2))
    drawn = ["h", "eta", "eta, relative", "gem"]
    table = means(drawn, ["class", "colour"]).drop(index=0)  # h has no class
    table["descriptor"] = pd.Categorical(table.descriptor, drawn)
    plots.intervals(axes, table.sort_values("descriptor"), chance={"class": 0.125})
    assert [ax.get_title() for ax in axes] == ["colour", "class"]  # as they come
    assert texts(axes[0].get_yticklabels()) == ["$h$", r"$\eta$", r"$\eta$, relative", "GeM"]
    assert not any(texts(axes[1].get_yticklabels())) and len(axes[1].containers) == 3
    for y, ((line, _, (bars,)), descriptor) in enumerate(zip(axes[0].containers, drawn)):
        mean = (y + 1) / 10
        assert (line.get_xdata()[0], line.get_ydata()[0]) == (mean, y)
        assert line.get_color() == names.color(descriptor)
        assert (line.get_markerfacecolor() == "white") == ("," in descriptor)
        np.testing.assert_allclose(bars.get_segments()[0][:, 0], [mean - 0.1, mean + 0.3])
    assert axes[1].containers[0][0].get_ydata()[0] == 1  # beside its name
    assert axes[1].get_lines()[0].get_xdata()[0] == 0.125 != axes[0].get_lines()[0].get_xdata()[0]


def test_notebooks_name_no_color():
    """Colours are those of `names`, so that a descriptor has one over all notebooks."""
    literal = re.compile(r"""\b(colors?|cmap|c|ec|fc)=["']|["']#[0-9A-Fa-f]{6}["']|["']C\d["']""")
    for file in sorted((ROOT / "notebooks").rglob("*.ipynb")):
        cells = nbformat.read(file, 4).cells
        code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
        assert not literal.search(code), (file.name, literal.search(code))


@pytest.mark.parametrize("values, joined", [([0, 0.5, 4], True), (["l1", "l2", True], False)])
def test_sweep(values, joined):
    """Numbers are drawn to scale, anything else side by side."""
    table = pd.concat([means(["h", "eta"], ["class"]).assign(x=x) for x in values])
    _, ax = plt.subplots()
    plots.sweep([ax], table.astype({"x": float if joined else object}), "q")
    assert texts(ax.get_xticklabels()) == [str(value) for value in values]
    assert ax.get_xticks().tolist() == (values if joined else [0, 1, 2])
    assert {line.get_linestyle() for line, *_ in ax.containers} == {"-" if joined else "None"}
    first, second = (line.get_xdata() for line, *_ in ax.containers)
    assert (first < second).all()  # a little apart

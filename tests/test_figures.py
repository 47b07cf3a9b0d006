"""Figures: everything that is to be seen is drawn, on the axes given, without a warning."""

import base64
import io
import itertools
import re
import warnings

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from bs4 import BeautifulSoup
from conftest import make_net
from matplotlib.colors import to_hex, to_rgb
from matplotlib.text import Annotation
from nbclient import NotebookClient
from nbconvert import HTMLExporter
from nbformat.v4 import new_code_cell, new_notebook
from PIL import Image
from torchvision import models

import cbir
from cbir import figures, plots
from cbir import figures as canvas
from cbir import names as labels
from cbir.names import LABELS


@pytest.fixture(autouse=True)
def strict():
    """A warning is an error; rcParams and figures do not leak."""
    with warnings.catch_warnings(), plt.rc_context():
        warnings.simplefilter("error")
        # Sockets that earlier tests left are collected at any time.
        warnings.simplefilter("ignore", ResourceWarning)
        yield
        plt.close("all")


def picture(seed=0, size=(6, 8)):
    return np.random.default_rng(seed).integers(0, 256, (*size, 3), dtype=np.uint8)


def texts(ax):
    """All that is written on drawn axes."""
    ax.figure.canvas.draw()
    return [t.get_text() for t in ax.findobj(plt.Text) if t.get_text() and t.get_visible()]


def test_style():
    canvas.use_style()
    assert plt.rcParams["pdf.fonttype"] == 42  # text in PDFs stays text
    assert plt.rcParams["savefig.dpi"] == canvas.DOTS
    plt.subplots()[0].canvas.draw()


# Fig. 1

NETWORKS = {
    "embedded": lambda: cbir.load_network("embedded", weights=None),
    "tiny": make_net,
    "no codes": lambda: make_net(codes=()),
    "residual": lambda: residual_network(),
}


def residual_network():
    """ResNet-18, whose last feature is a code of shape (512, 1, 1)."""
    blocks = ["layer1", "layer2", "layer3", "layer4"]
    transform = cbir.resize_transform(64)
    return cbir.Network(models.resnet18(weights=None), blocks, ["avgpool"], transform)


@pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)
def test_fig_1_names_every_tap_with_its_shape(make):
    net, (fig, ax) = make(), plt.subplots()
    assert figures.network(ax, net) is ax and fig.axes == [ax]
    notes = [t.get_text().replace(" × 1 × 1", "") for t in ax.texts if isinstance(t, Annotation)]
    shapes = [" × ".join(map(str, shape)) for shape in net.shapes["blocks"]]
    shapes += map(str, net.shapes["codes"])
    assert notes == [f"$y_{m}$\n{shape}" for m, shape in enumerate(shapes, start=1)]
    assert len(ax.patches) == 3 * len(net.layers)  # three faces a slab
    fig.canvas.draw()
    x = [t.xy[0] for t in ax.texts if isinstance(t, Annotation)]
    assert x == sorted(x) and ax.get_xlim()[0] < x[0] and x[-1] < ax.get_xlim()[1]


def test_fig_1_explains_its_colors():
    _, ax = plt.subplots()
    legend = figures.network(ax, make_net()).get_legend()
    kinds = [text.get_text() for text in legend.get_texts()]
    assert kinds == ["convolution + ReLU", "max-pool", "fully connected"]
    _, ax = plt.subplots()
    assert figures.network(ax, make_net(), key=False).get_legend() is None
    _, ax = plt.subplots()
    legend = figures.network(ax, residual_network()).get_legend()
    kinds = [text.get_text() for text in legend.get_texts()]
    assert kinds == ["convolution + ReLU", "max-pool", "average-pool", "fully connected"]


def vgg16_on_meta():
    """VGG16 on torch's meta device, where tensors have shapes only."""
    with torch.device("meta"):
        module = models.vgg16()
    taps = cbir.zoo.taps_of("vgg16", module)
    return cbir.Network(module, taps.blocks, taps.codes)


def efficientnet():
    pytest.importorskip("timm", reason="timm is missing: make check")
    return cbir.load_network("efficientnet_lite0", weights=None, device="cpu")


WIDE = {"vgg16": vgg16_on_meta, "efficientnet_lite0": efficientnet}
WIDE |= {name: NETWORKS[name] for name in ("embedded", "residual")}


@pytest.mark.parametrize("make", WIDE.values(), ids=WIDE)
def test_fig_1_writes_nothing_over_anything(make):
    """However many layers there are, to the scale of VGG16."""
    canvas.use_style()
    fig, ax = plt.subplots(figsize=(canvas.WIDTH, 2.45))
    figures.network(ax, make())
    right = ax.get_xlim()[1]
    assert right < figures.WIDEST + 0.8
    ax.set_xlim(-0.4, figures.WIDEST + 0.8)
    fig.canvas.draw()
    slabs = [patch.get_window_extent() for patch in ax.patches]
    notes = [plt.Text.get_window_extent(note) for note in ax.texts]  # without their lines
    for before, after in itertools.pairwise(notes):
        assert before.x1 < after.x0
    for text in [*notes, ax.get_legend().get_window_extent()]:
        assert not any(text.overlaps(slab) for slab in slabs)


def test_fig_1_draws_vgg16_as_wide_as_its_channels_say():
    _, ax = plt.subplots()
    net = vgg16_on_meta()
    figures.network(ax, net)
    first, second = ax.patches[0].get_xy(), ax.patches[3].get_xy()
    thickness = first[:, 0].max() - first[:, 0].min()
    assert thickness == pytest.approx(0.035 * np.log2(64))
    assert second[0, 0] - first[0, 0] > thickness


def test_fig_1_draws_vgg16_without_its_weights():
    net = vgg16_on_meta()
    fig, ax = plt.subplots()
    figures.network(ax, net)
    fig.canvas.draw()
    notes = [t.get_text().split("\n")[1] for t in ax.texts if isinstance(t, Annotation)]
    blocks = ["64 × 112 × 112", "128 × 56 × 56", "256 × 28 × 28", "512 × 14 × 14", "512 × 7 × 7"]
    assert notes == [*blocks, "4096", "4096"]
    assert len(net.layers) == 13 + 5 + 3


# Fig. 2


def test_fig_2_lays_every_map_over_the_image():
    """Colour where a neuron is significant, else grey."""
    fig, axes = plt.subplots(1, 3)
    maps = [np.arange(12).reshape(3, 4), np.eye(2, dtype=int), np.zeros((2, 4), int)]
    assert figures.significant_regions(axes, picture(), maps, ["$z_1$", "$z_2$", "$z_3$"]) is axes
    for ax, z, title in zip(axes, maps, ["$z_1$", "$z_2$", "$z_3$"]):
        (shown,) = ax.images
        np.testing.assert_array_equal(shown.get_array(), figures.marked(picture(), z))
        assert ax.get_title() == title
        assert not len(ax.get_xticks()) and not len(ax.get_yticks())
    fig.canvas.draw()


def test_a_map_of_one_channel_leaves_the_image_its_colors():
    z = np.array([[1, 0, 0, 0], [0, 1, 0, 1]])
    marked = np.kron(z > 0, np.ones((3, 2), bool))
    shown = figures.marked(picture(), z)
    np.testing.assert_array_equal(shown[marked], picture()[marked])
    assert (np.ptp(shown[~marked], axis=-1) == 0).all()


def test_a_map_of_counts_is_tinted_and_the_image_stays_visible():
    """The tint of a count is that of the colour bar; within it light pixels are lighter."""
    z = np.array([[0, 1], [30, 64]])
    light, dark = np.full((4, 4, 3), 220, np.uint8), np.full((4, 4, 3), 40, np.uint8)
    colors = figures.marked(light, z)[::2, ::2].astype(float)
    assert np.ptp(colors[0, 0]) == 0  # grey where no channel is significant
    cmap, norm = figures.tint(z)
    for row, column in [(0, 1), (1, 0), (1, 1)]:
        expected = 255 * np.array(cmap(norm(z[row, column])))[:3]
        ratio = colors[row, column] / expected
        assert np.ptp(ratio) < 0.03 * ratio.max() or colors[row, column].max() == 255
        darker = figures.marked(dark, z)[2 * row, 2 * column]
        assert (darker < 0.6 * colors[row, column]).all()
    brightness = [colors[0, 1].sum(), colors[1, 0].sum(), colors[1, 1].sum()]
    assert brightness == sorted(brightness)


def test_a_color_bar_tells_how_many_channels():
    fig, (counted, marked) = plt.subplots(1, 2)
    figures.count_bar(counted, np.array([[0, 64]]))
    figures.count_bar(marked, np.array([[0, 1]]))
    fig.canvas.draw()
    assert not marked.child_axes
    (bar,) = counted.child_axes
    assert bar.get_ylabel() == "channels" and bar.get_ylim() == (0, 64)


def test_fig_2_without_titles():
    fig, axes = plt.subplots(1, 2)
    figures.significant_regions(axes, picture(), [np.ones((3, 3))] * 2)
    assert [ax.get_title() for ax in axes] == ["", ""]
    fig.canvas.draw()


# Figs 3-6


@pytest.fixture
def draw(tmp_path):
    """Draws what queries of these classes found, of these classes: (axes, pictures)."""

    def draw(classes, distances=None, axes=None, **options):
        pictures = {}
        queries = ([], [])  # files, labels
        database = ([], [])
        for q, row in enumerate(classes):
            for i, label in enumerate(row):
                file = f"{q} {i}.png"
                pictures[q, i] = picture(10 * q + i, (5 + i, 7))
                Image.fromarray(pictures[q, i]).save(tmp_path / file)
                files, labels = database if i else queries
                files.append(file)
                labels.append(label)
        k = len(classes[0]) - 1
        indices = np.arange(len(classes) * k).reshape(-1, k)
        distances = indices / 100 if distances is None else np.array(distances)
        if axes is None:
            _, axes = plt.subplots(len(classes), 1 + k, squeeze=False)
        sets = [cbir.ImageSet(tmp_path, *lists) for lists in (queries, database)]
        assert figures.retrieval(axes, *sets, cbir.Hits(indices, distances), **options) is axes
        axes[0][0].figure.canvas.draw()
        return axes, pictures

    return draw


def test_figs_3_to_6_show_every_image_with_class_and_distance(draw):
    axes, pictures = draw([["cat", "cat", "dog", "cat"], ["dog", "", "dog", "dog"]])
    for q in range(2):
        for col in range(4):
            assert len(axes[q][col].images) == 1
            np.testing.assert_array_equal(axes[q][col].images[0].get_array(), pictures[q, col])
    lines = [[ax.get_xlabel().split("\n") for ax in row] for row in axes]
    assert [x[0] for x in lines[0]] == ["cat", "cat", "dog", "cat"] and lines[1][0] == ["dog"]
    distances = [[float(x[-1]) for x in row[1:]] for row in lines]
    assert distances == [[0, 0.01, 0.02], [0.03, 0.04, 0.05]]
    # no line for a class that is not known, where others are
    assert [len(x) for row in lines for x in row] == [1, 2, 2, 2, 1, 1, 2, 2]
    assert [ax.get_title() for ax in axes[0]] == ["query", "1", "2", "3"]
    assert axes[1][0].get_title() == ""
    assert [row[0].get_ylabel() for row in axes] == ["1", "2"]


def test_figs_3_to_6_name_their_rows(draw):
    axes, _ = draw([["cat", "cat"], ["dog", "cat"]], names=["a.png", "b.png"])
    assert [row[0].get_ylabel() for row in axes] == ["a.png", "b.png"]


def test_a_figure_of_several_descriptors_and_of_some_queries(tmp_path):
    """Query by query, a row for every descriptor; the figure is filled by two calls."""
    database = cbir.ImageSet(tmp_path, ["a.png", "b.png"], ["cat", "dog"])
    for i, file in enumerate(database.files):
        Image.fromarray(picture(i)).save(tmp_path / file)
    hits = {
        "h": cbir.Hits(np.array([[0], [1]]), np.array([[0.1], [0.2]])),
        "eta": cbir.Hits(np.array([[1], [0]]), np.array([[0.3], [0.4]])),
    }
    _, axes = plt.subplots(4, 2)
    figures.retrieval(axes[:2], database, database, hits, rows=[1])
    figures.retrieval(axes[2:], database, database, hits, rows=np.array([0]))
    texts = [[ax.get_xlabel() for ax in row] for row in axes]
    assert texts == [
        ["dog", "dog\n0.2000"],
        ["dog", "cat\n0.4000"],
        ["cat", "cat\n0.1000"],
        ["cat", "dog\n0.3000"],
    ]
    assert [row[0].get_ylabel() for row in axes] == [cbir.SYMBOLS["h"], cbir.SYMBOLS["eta"]] * 2
    assert [row[0].get_title() for row in axes] == ["query", "", "", ""]


def test_images_that_cannot_be_read_are_gray(tmp_path):
    """One is damaged, one is gone, one was never found: its query could not be read."""
    (tmp_path / "damaged.png").write_text("no image")
    images = cbir.ImageSet(tmp_path, ["damaged.png", "gone.png"], ["cat", "cat"])
    hits = cbir.Hits(np.array([[0], [-1]]), np.array([[0.5], [np.nan]]))
    _, axes = plt.subplots(2, 2)
    figures.retrieval(axes, images, images, hits)
    for ax in axes.flat:
        assert np.ptp(ax.images[0].get_array()) == 0
    assert [ax.get_xlabel() for ax in axes[:, 1]] == ["cat\n0.5000", "nan"]


def test_photographs_are_reduced_for_drawing(tmp_path):
    """Twelve million pixels of a photograph would be drawn in two hundred columns."""
    Image.new("RGB", (4000, 3000), "red").save(tmp_path / "large.jpg")
    image = cbir.ImageSet(tmp_path, ["large.jpg"], [""])
    _, axes = plt.subplots(1, 2, squeeze=False)
    figures.retrieval(axes, image, image, cbir.Hits(np.array([[0]]), np.array([[0.0]])))
    for ax in axes[0]:
        assert ax.images[0].get_array().shape == (300, 400, 3)


def frames(row):
    """The colour of what is drawn around every picture: spines or an unfilled rectangle."""
    colors = []
    for ax in row:
        edges = [spine for spine in ax.spines.values() if spine.get_visible()]
        edges += [patch for patch in ax.patches if not patch.get_fill()]
        colors.append({to_hex(edge.get_edgecolor()).upper() for edge in edges})
    return colors


def test_figs_3_to_6_frames_tell_the_class(draw):
    axes, _ = draw([["cat", "cat", "dog", ""], ["", "", "", ""]])
    same_other_unknown = [{figures.QUERY}, {figures.SAME}, {figures.OTHER}, {figures.QUERY}]
    assert frames(axes[0]) == same_other_unknown
    assert frames(axes[1]) == [{figures.QUERY}] * 4


KNOWN = pd.DataFrame(
    {
        "class": ["cat", "cat", "cat", "dog"],
        "background": ["wood", "wood", "tiles", "wood"],
        "palette": ["red", "blue", "blue", "red"],
    }
)


def marks(ax):
    """{marker: whether it is filled} of the marks under a picture, from left to right."""
    lines = sorted(ax.lines, key=lambda line: line.get_xdata()[0])
    return {line.get_marker(): line.get_markerfacecolor() == figures.QUERY for line in lines}


def known_of(rows):
    """What is known of a query, the first row, and of the images."""
    return KNOWN[:1], KNOWN.iloc[rows].reset_index(drop=True)


def beside(ax):
    """What stands behind a row."""
    return [text.get_text() for text in ax.texts]


def test_figs_3_to_6_mark_what_is_known_besides_the_class(draw):
    axes, _ = draw([["cat", "cat", "cat", "dog"]], known=known_of([1, 2, 3]))
    assert marks(axes[0][0]) == {}
    assert [marks(ax) for ax in axes[0][1:]] == [
        {"o": True, "D": False},
        {"o": False, "D": False},
        {"o": True, "D": True},
    ]
    assert beside(axes[0][-1]) == ["class 2/3\nbackground 2/3\npalette 1/3"]
    assert not beside(axes[0][1])


def test_figs_3_to_6_explain_their_marks_once(draw):
    classes = [["cat", "cat", "dog"], ["cat", "cat", "dog"]]
    known = KNOWN.iloc[[0, 0]].reset_index(drop=True), KNOWN
    axes, _ = draw(classes, known=known)
    (legend,) = axes[0][0].figure.legends
    factors = [text.get_text().split(":")[0] for text in legend.get_texts()]
    assert factors == ["class", "background", "palette"]


def test_figs_3_to_6_of_photographs_know_the_class_only(draw):
    known = tuple(table[["class"]] for table in known_of([1, 3]))
    axes, _ = draw([["cat", "cat", "dog"]], known=known)
    assert [marks(ax) for ax in axes[0]] == [{}] * 3
    assert beside(axes[0][-1]) == ["class 1/2"]
    (legend,) = axes[0][0].figure.legends
    assert len(legend.get_texts()) == 1


def test_figs_3_to_6_of_images_of_which_nothing_is_known(draw):
    nothing = pd.DataFrame(index=range(2))
    axes, _ = draw([["", "", ""]], known=(nothing, nothing))
    assert not beside(axes[0][-1]) and not axes[0][0].figure.legends


def test_marks_do_not_touch_the_text_under_a_picture(tmp_path):
    canvas.use_style()
    files = ["0.png", "1.png", "2.png"]
    for file in files:
        Image.fromarray(picture(size=(20, 20))).save(tmp_path / file)
    images = cbir.ImageSet(tmp_path, files, ["a long class name", "mushroom", "cat"])
    hits = cbir.Hits(np.array([[1, 2]]), np.array([[0.1, 0.00001]]))
    fig, axes = canvas.grid(1, 3, right=0.85, top=0.42)
    figures.retrieval(axes, images, images, hits, rows=[0], known=(KNOWN, KNOWN))
    fig.canvas.draw()
    for ax in axes[0, 1:]:
        *_, (left, bottom, right, top) = ax.xaxis.label.get_window_extent().extents.reshape(1, 4)
        numbers = 0.5 * (bottom + top)  # the distance is the lower one of two lines
        for line in ax.lines:
            x, y = line.get_transform().transform([line.get_xdata()[0], 0])
            assert bottom - 3 < y < numbers
            assert ax.bbox.x0 <= x <= ax.bbox.x1
    behind = axes[0, -1].texts[0].get_window_extent()
    assert behind.x1 < fig.bbox.x1 and behind.x0 > axes[0, -1].bbox.x1


def test_a_summary_shows_descriptors_side_by_side(tmp_path):
    """In the groups of its columns the images that each descriptor found, and their counts."""
    files = [f"{i}.png" for i in range(4)]
    for i, file in enumerate(files):
        Image.fromarray(picture(i)).save(tmp_path / file)
    images = cbir.ImageSet(tmp_path, files, KNOWN["class"].tolist())
    distances = np.zeros((4, 3))
    hits = {
        "h": cbir.Hits(np.array([[1, 2, 3]] * 4), distances),
        "eta": cbir.Hits(np.array([[3, 2, 1]] * 3 + [[-1, -1, -1]]), distances * np.nan),
    }
    canvas.use_style()
    fig, axes = canvas.side_by_side(2, [1, 3, 3])
    assert axes.shape == (2, 7)
    known = (KNOWN, KNOWN)
    assert figures.summary(axes, images, images, hits, [0, 3], ["1", "4"], known) is axes
    fig.canvas.draw()
    for column, row in enumerate([0, 1, 2, 3, 3, 2, 1]):
        np.testing.assert_array_equal(axes[0, column].images[0].get_array(), picture(row))
    assert [ax.get_title() for ax in axes[0]] == ["query", "", "$h$", "", "", r"$\eta$", ""]
    counts = "class 2 · background 2 · palette 1"
    assert [ax.get_xlabel() for ax in axes[0]] == ["", "", counts, "", "", counts, ""]
    assert axes[1, 5].get_xlabel() == "class 0 · background 0 · palette 0"  # not found
    assert [ax.get_ylabel() for ax in axes[:, 0]] == ["1", "4"]
    assert marks(axes[0, 6]) == {"o": True, "D": False}
    assert frames(axes[0]) == [{figures.QUERY}, *[{c} for c in class_frames()]]
    assert len(fig.legends) == 1
    boxes = [ax.get_tightbbox() for ax in axes[0]]
    gaps = [after.x0 - before.x1 for before, after in itertools.pairwise(boxes)]
    assert gaps[0] > 2 * gaps[1] and fig.bbox.contains(*axes[0, 6].bbox.p1)


def class_frames():
    same, other = figures.SAME, figures.OTHER
    return [same, same, other, other, same, same]


def test_figs_3_to_6_tell_the_class_without_color_too(draw):
    axes, _ = draw([["cat", "cat", "dog", ""]])
    solid = [ax.patches[0].get_linestyle() == "-" for ax in axes[0]]
    assert solid == [True, True, False, True]


@pytest.mark.parametrize("scale, shown", [(1, "0.1304"), (100, "13.0400"), (1e-4, "0.0000130")])
def test_distances_of_a_figure_have_the_same_number_of_decimals(draw, scale, shown):
    axes, _ = draw([[""] * 4], [[0, 0.1304 * scale, 0.9 * scale]])
    numbers = [ax.get_xlabel().split("\n")[-1] for ax in axes[0][1:]]
    assert numbers[1] == shown and len({len(n.split(".")[1]) for n in numbers}) == 1


def test_queries_that_were_not_searched_for_have_no_distance(draw):
    axes, _ = draw([["cat"] * 2], np.full((1, 1), np.nan))
    assert axes[0][1].get_xlabel() == "cat\nnan"


def test_long_class_names_stay_under_their_picture(draw):
    axes, _ = draw([["American Staffordshire terrier", "cat"]])
    assert axes[0][0].get_xlabel() == "American Staffor…"
    canvas.use_style()
    _, axes = canvas.grid(1, 2)
    draw([["American Staffordshire terrier"] * 2], [[0.1]], axes)
    boxes = [ax.xaxis.label.get_window_extent() for ax in axes[0]]
    assert not boxes[0].overlaps(boxes[1])


def test_file_names_stand_where_there_are_no_classes(draw, tmp_path):
    axes, _ = draw([["", "", ""]])
    assert [ax.get_xlabel() for ax in axes[0]] == ["0 0", "0 1\n0.0000", "0 2\n0.0100"]
    Image.new("RGB", (4, 4)).save(tmp_path / "IMG_20260102_123456.png")
    images = cbir.ImageSet(tmp_path, ["IMG_20260102_123456.png"], [""])
    canvas.use_style()
    _, axes = canvas.grid(1, 2)
    figures.retrieval(axes, images, images, cbir.Hits(np.zeros((1, 1), int), np.zeros((1, 1))))
    assert axes[0][0].get_xlabel() == "…0260102_123456"
    boxes = [ax.xaxis.label.get_window_extent() for ax in axes[0]]
    assert not boxes[0].overlaps(boxes[1])


NAMES = {
    "豹": "Bao",
    "オートバイ": "otobai",
    "코끼리": "KoKkiLi",
    "कुत्ता": "kutta",
    "café": "café",
    "кошка": "кошка",  # the font has these
    "قطة": "قطة",
}


@pytest.mark.parametrize("name, shown", NAMES.items(), ids=NAMES.values())
def test_class_names_in_any_script_are_drawn(draw, name, shown):
    """Without a warning of a missing glyph, which would fail here."""
    axes, _ = draw([[name, name]])
    assert axes[0][0].get_xlabel() == shown


def test_class_names_are_shown_as_they_are(draw):
    """They are folder names, not formulas."""
    names = ["$x^^$", "a_b", "$5 to $9", "\\frac"]
    axes, _ = draw([names], names=[r"$\eta$"])
    for ax, name in zip(axes[0], names):
        assert any(name in text for text in texts(ax))


# Figs 7-10


def test_figs_7_to_10_show_every_histogram():
    fig, axes = plt.subplots(2, 3)
    seen = [cbir.color_histogram(picture(seed, (20, 20))) for seed in range(5)]
    black = cbir.color_histogram(np.zeros((4, 4, 3), np.uint8))
    table = np.reshape([*seen, black], (2, 3, 75))
    assert figures.histograms(axes, table, np.array([[0.1, 0.2], [0.3, 0.04567]])) is axes
    fig.canvas.draw()
    for q in range(2):
        for i in range(3):
            bars = axes[q][i].patches
            assert [to_hex(b.get_facecolor()).upper() for b in bars] == list(figures.CHANNELS)
            drawn = np.concatenate([b.get_data().values for b in bars])
            np.testing.assert_allclose(drawn, np.minimum(table[q][i], 0.3))
            assert axes[q][i].get_ylim() == (0, 0.3)
            low, high = axes[q][i].get_xlim()
            edges = [b.get_data().edges for b in bars]
            limits = [low, edges[0][0], edges[0][-1], edges[1][0], edges[1][-1]]
            limits += [edges[2][0], edges[2][-1], high]
            assert (np.diff(limits) > 0).all()  # side by side
    distances = [ax.get_xlabel() for ax in axes.flat]
    assert distances == ["", "0.1000", "0.2000", "", "0.3000", "0.0457"]
    for row in axes:
        assert [text.get_text() for text in row[0].texts] == ["R", "G", "B"]
        assert not row[1].texts
    assert [ax.get_title() for ax in axes.flat] == ["query", "1", "2", "", "", ""]


def test_figs_7_to_10_show_the_query_before_its_row():
    fig, axes = plt.subplots(2, 2)
    table = np.zeros((2, 2, 75))
    pictures = [picture(0), picture(1, (9, 4))]
    figures.histograms(axes, table, np.zeros((2, 1)), pictures)
    fig.canvas.draw()
    for number, (row, image) in enumerate(zip(axes, pictures), start=1):
        (before,) = row[0].child_axes
        np.testing.assert_array_equal(before.images[0].get_array(), image)
        assert before.get_ylabel() == str(number) and not row[0].get_ylabel()
        assert before.bbox.x1 < row[0].bbox.x0


def test_one_histogram_has_axes():
    fig, ax = plt.subplots()
    values = cbir.color_histogram(picture(0, (20, 20)))
    assert figures.histogram(ax, values) is ax
    drawn = np.concatenate([bars.get_data().values for bars in ax.patches])
    np.testing.assert_allclose(drawn, np.minimum(values, 0.3))
    assert {"0", "255", "R", "G", "B", "value of a channel", "share of the pixels"} <= {*texts(ax)}
    assert len(ax.get_yticks()) > 2


# Means and intervals

FOUR = ["im", "h", "eta_conv", "eta"]


def means(descriptors, metrics=("class",)):
    """What `cbir.means` gives: means 0.1, 0.2, .. of every metric, low 0.1 less, high 0.3 more."""
    rows = []
    for metric in metrics:
        for n, descriptor in enumerate(descriptors, start=1):
            rows.append((metric, descriptor, n / 10, n / 10 - 0.1, n / 10 + 0.3))
    return pd.DataFrame(rows, columns=["metric", "descriptor", "mean", "low", "high"])


def test_intervals():
    fig, axes = plt.subplots(1, 2)
    assert plots.intervals(axes, means(FOUR, ["class", "color"])) is axes
    fig.canvas.draw()
    for ax, metric in zip(axes, ("class", "color")):
        assert ax.get_title() == metric
        assert [t.get_text() for t in ax.get_xticklabels()] == [cbir.SYMBOLS[d] for d in FOUR]
        assert len(ax.containers) == 4
        for x, (bar, descriptor, mean) in enumerate(zip(ax.containers, FOUR, (0.1, 0.2, 0.3, 0.4))):
            line, _, (bars,) = bar
            label = LABELS[descriptor]
            assert (line.get_xdata()[0], line.get_ydata()[0]) == (x, mean)
            assert (line.get_color(), line.get_marker()) == (label.color, label.marker)
            assert line.get_markerfacecolor() == line.get_color()
            np.testing.assert_allclose(bars.get_segments()[0][:, 1], [mean - 0.1, mean + 0.3])


def test_intervals_of_one_metric_and_some_descriptors():
    fig, axes = plt.subplots(1, 1, squeeze=False)
    plots.intervals(axes[0], means(["eta"]))
    assert cbir.SYMBOLS["eta"] in texts(axes[0][0])


def test_intervals_of_descriptors_without_a_name_of_their_own():
    _, ax = plt.subplots()
    plots.intervals([ax], means(["gem", "without $w_2$"]))
    assert [t.get_text() for t in ax.get_xticklabels()] == ["GeM", "without $w_2$"]


@pytest.mark.parametrize("width, slanted", [(7, False), (1.6, True)])
def test_names_are_slanted_where_there_is_no_room(width, slanted):
    canvas.use_style()
    fig, ax = plt.subplots(figsize=(width, 2))
    plots.intervals([ax], means(["im", "h", "eta_conv", "eta", "average"]))
    fig.canvas.draw()
    names = ax.get_xticklabels()
    assert {bool(name.get_rotation()) for name in names} == {slanted}
    if not slanted:
        boxes = [name.get_window_extent() for name in names]
        assert not any(a.overlaps(b) for a, b in itertools.pairwise(boxes))


def test_nothing_is_cut_off_at_the_width_of_a_page():
    """Five panels, as many as there are: titles are wider than their axes."""
    canvas.use_style()
    fig, axes = plt.subplots(1, 5, figsize=(canvas.WIDTH, 1.8))
    spread = {
        "class P@5": 0.5,
        "class AP": 0.4,
        "background P@5": 0.3,
        "palette P@5": 0.5,
        "histogram distance": 0.01,
    }
    table = means(FOUR, spread).assign(mean=0)
    table["high"] = table.metric.map(spread)
    table["low"] = -table["high"]
    plots.intervals(axes, table)
    fig.canvas.draw()
    ink = (np.asarray(fig.canvas.buffer_rgba())[..., :3] < 250).any(axis=2)
    assert ink.any() and not (ink[[0, 1, -2, -1]].any() or ink[:, [0, 1, -2, -1]].any())


def test_intervals_of_variants_and_of_recipes():
    """A variant has its descriptor's colour and marker, and an empty point.

    What else is named takes those of the descriptor that it is drawn as.
    """

    def points(names, **options):
        _, ax = plt.subplots()
        plots.intervals([ax], means(names), **options)
        lines = [line for line, *_ in ax.containers]
        ticks = [text.get_text() for text in ax.get_xticklabels()]
        assert {(line.get_color(), line.get_marker()) for line in lines} == {LABELS["eta"][2:]}
        return [line.get_markerfacecolor() for line in lines], ticks

    color = LABELS["eta"].color
    variants = ([color, "white"], [r"$\eta$", r"$\eta$, relative"])
    assert points(["eta", "eta, relative"]) == variants
    recipes = ["printed", "released"]
    assert points(recipes, drawn_as="eta") == ([color, color], recipes)


# Comparisons

POINTS = pd.DataFrame(
    [
        ("eta", 0.9, 0.8, 1.0, 0.3, 0.2, 0.5, True),
        ("h", 0.8, 0.7, 0.9, 0.4, 0.3, 0.5, False),
        ("color", 0.2, 0.1, 0.3, 0.1, 0.1, 0.1, True),
        ("gem", 0.6, 0.5, 0.8, 0.2, 0.1, 0.3, True),
    ],
    columns=["descriptor", "x", "x_low", "x_high", "y", "y_low", "y_high", "front"],
)


def test_plane_shows_every_descriptor_with_both_intervals():
    fig, ax = plt.subplots()
    assert plots.plane(ax, POINTS) is ax
    fig.canvas.draw()
    assert len(ax.containers) == len(POINTS)
    for bar, row in zip(ax.containers, POINTS.itertuples()):
        point, _, (across, up) = bar
        color = labels.color(row.descriptor)
        assert (point.get_xdata()[0], point.get_ydata()[0]) == (row.x, row.y)
        assert point.get_color() == color
        assert point.get_markerfacecolor() == (color if row.front else "white")
        ends_x = [[row.x_low, row.y], [row.x_high, row.y]]
        ends_y = [[row.x, row.y_low], [row.x, row.y_high]]
        np.testing.assert_allclose(across.get_segments()[0], ends_x)
        np.testing.assert_allclose(up.get_segments()[0], ends_y)
    names = [text for text in ax.texts if isinstance(text, Annotation)]
    assert [text.get_text() for text in names] == [cbir.SYMBOLS[d] for d in POINTS.descriptor]
    assert [text.xy for text in names] == list(zip(POINTS.x, POINTS.y))


def test_the_front_is_drawn_through_its_points_alone():
    _, ax = plt.subplots()
    line = plots.plane(ax, POINTS).get_lines()[0]
    assert line.get_label() == "Pareto front"
    assert line.get_xdata().tolist() == [0.2, 0.6, 0.9]
    assert line.get_ydata().tolist() == [0.1, 0.2, 0.3]


@pytest.mark.parametrize("best", ["max", "min"])
def test_heat_map(best):
    """Every number is written in its cell, and the best one is the lightest."""
    columns = pd.MultiIndex.from_tuples([("raw", "l1"), ("raw", "l2"), ("whitened", "l1")])
    values = [[0.1, 0.25, np.nan], [0.5, 0.75, 0.9]]
    fig, ax = plt.subplots()
    assert plots.heat_map(ax, pd.DataFrame(values, ["eta", "gem"], columns), best=best) is ax
    fig.canvas.draw()
    cells = {text.get_position(): text for text in ax.texts}
    assert {position: text.get_text() for position, text in cells.items()} == {
        (0, 0): "0.10",
        (1, 0): "0.25",
        (0, 1): "0.50",
        (1, 1): "0.75",
        (2, 1): "0.90",
        (0.5, -0.65): "raw",
        (2, -0.65): "whitened",
    }
    assert [text.get_text() for text in ax.get_yticklabels()] == [cbir.SYMBOLS["eta"], "GeM"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["l1", "l2", "l1"]
    assert [line.get_xdata()[0] for line in ax.get_lines()] == [1.5]  # between the two groups
    assert not ax.images  # cells are drawn, not painted: they stay sharp in a PDF
    image = ax.collections[0]
    light = {v: sum(image.cmap(image.norm(v))[:3]) for v in (0.1, 0.9)}
    assert (light[0.9] > light[0.1]) == (best == "max")
    assert {cells[0, 0].get_color(), cells[2, 1].get_color()} == {"black", "white"}
    assert cells[2, 1].get_color() == ("black" if best == "max" else "white")


def test_heat_map_of_plain_columns():
    fig, ax = plt.subplots()
    table = pd.DataFrame({"a": [1.0, 2.0], "b": [3.0, 4.0]}, index=["without $w_1$", "h"])
    plots.heat_map(ax, table, text="%.0f")
    assert {"a", "b", "1", "4", "without $w_1$", "$h$"} <= set(texts(ax)) and not ax.get_lines()


def test_heat_map_of_columns_that_are_tuples():
    fig, ax = plt.subplots()
    table = pd.DataFrame([[1.0, 2.0]], index=["h"])
    table.columns = [("raw", "l1"), ("unit length", "l1")]
    plots.heat_map(ax, table)
    assert {"raw", "unit length", "l1"} <= set(texts(ax)) and len(ax.get_lines()) == 1


def test_names_in_the_plane_cover_no_point_and_no_other_name():
    """Twelve points in a heap, one in the corner."""
    rng = np.random.default_rng(0)
    names = [*cbir.SYMBOLS][:11] + ["without $w_1$", "h + colour"]
    x = np.append(0.8 + rng.random(12) / 15, 1.0)
    y = np.append(0.5 + rng.random(12) / 4, 0.9)
    table = pd.DataFrame({"descriptor": names, "x": x, "y": y, "y_low": y, "y_high": y})
    table = table.assign(x_low=x - 0.01, x_high=x + 0.01, front=cbir.evaluation.pareto_front(x, y))
    canvas.use_style()
    fig, ax = plt.subplots(figsize=(5, 4))
    ax.set(xlim=(0, 1.05), ylim=(0, 1))
    plots.plane(ax, table)
    fig.canvas.draw()
    notes = [text for text in ax.texts if isinstance(text, Annotation)]
    boxes = [plt.Text.get_window_extent(note) for note in notes]  # without the lines to points
    points = ax.transData.transform(table[["x", "y"]])
    assert len(boxes) == 13
    for i, box in enumerate(boxes):
        assert not box.count_overlaps(boxes[:i])
        assert not box.count_contains(points)
        assert ax.bbox.padded(1).count_contains(box.corners()) == 4


def test_curves():
    lines = [
        pd.DataFrame({"metric": metric, "curve": curve, "q": [0, 0.5, 1], "value": values})
        for metric in ("class", "colour")
        for curve, values in [("eta", [0, 0.5, 1]), ("relative", [0, 1, 2])]
    ]
    table = pd.concat(lines)
    _, axes = plt.subplots(1, 2)
    plots.curves(axes, table, "q", names={"relative": "relative threshold"})
    for ax, metric in zip(axes, ("class", "colour")):
        assert (ax.get_title(), ax.get_xlabel()) == (metric, "q")
        assert [line.get_ydata().tolist() for line in ax.get_lines()] == [[0, 0.5, 1], [0, 1, 2]]
        assert ax.get_lines()[0].get_color() == LABELS["eta"].color
    legend = [text.get_text() for text in axes[0].get_legend().get_texts()]
    assert legend == [cbir.SYMBOLS["eta"], "relative threshold"]
    assert axes[1].get_legend() is None  # the same curves


def test_curves_that_only_a_later_panel_has_are_explained_there():
    rows = [("positions", "share", 0, 1), ("stays", "h", 0, 1), ("stays", "share", 0, 1)]
    _, axes = plt.subplots(1, 2)
    plots.curves(axes, pd.DataFrame(rows, columns=["metric", "curve", "q", "value"]), "q")
    legends = [[text.get_text() for text in ax.get_legend().get_texts()] for ax in axes]
    assert legends == [["share"], [cbir.SYMBOLS["h"]]]


def test_names_of_parts_and_variants():
    symbols = {
        "eta": r"$\eta$",
        "eta, unit length": r"$\eta$, unit length",
        "w_3": "$w_3$",
        "y_6": "$y_6$",
        "h+w_1": "h+w_1",
        "something else": "something else",
    }
    assert {d: labels.symbol(d) for d in symbols} == symbols
    names = {
        "eta_conv": "η̃",
        "h+color, unit length": "h + colour, unit length",
        "w_12": "w₁₂",
        "w_1, later": "w₁, later",
        "h+w_1": "h+w_1",
        "something else": "something else",
    }
    assert {d: labels.plain_name(d) for d in names} == names


def test_colors_and_markers_of_variants():
    assert labels.marker("eta, unit length") == LABELS["eta"].marker
    assert labels.marker("gem") not in {label.marker for label in colored().values()}
    assert labels.color("eta, unit length") == LABELS["eta"].color
    assert labels.color("w_3") == labels.color("gem") == labels.BASELINE


def test_names_of_layers():
    assert labels.layer_names(5, 2) == (["w_1", "w_2", "w_3", "w_4", "w_5"], ["y_6", "y_7"])
    assert labels.layer_names(3, 0) == (["w_1", "w_2", "w_3"], [])


def colored():
    """The descriptors that have a colour of their own."""
    return {d: label for d, label in LABELS.items() if label.color != labels.BASELINE}


def test_contributions_are_shares_of_each_row():
    parts = {"y_6": [1.0, 0], "y_7": [2.0, 0], "w_1": [1.0, 5]}
    table = pd.DataFrame(parts, index=["as printed", "eta"])
    _, ax = plt.subplots()
    assert plots.contributions(ax, table) is ax
    starts = [[bar.get_x() for bar in part] for part in ax.containers]  # of each part, in each row
    widths = [[bar.get_width() for bar in part] for part in ax.containers]
    np.testing.assert_allclose(starts, [(0, 0), (0.25, 0), (0.75, 0)])
    np.testing.assert_allclose(widths, [(0.25, 0), (0.5, 0), (0.25, 1)])
    assert [t.get_text() for t in ax.get_yticklabels()] == ["as printed", cbir.SYMBOLS["eta"]]
    assert sorted(t.get_text() for t in ax.texts) == ["100%", "25%", "25%", "50%"]


def test_a_grid_looks_the_same_however_often_it_is_saved(tmp_path):
    """Notebooks save a figure, then show it: with another bounding box."""
    canvas.use_style()
    fig, axes = canvas.grid(2, 3)
    before = [ax.get_position().bounds for ax in axes.flat]
    for name, box in [("a.png", None), ("b.pdf", None), ("c.png", "tight")]:
        fig.savefig(tmp_path / name, bbox_inches=box)
    assert [ax.get_position().bounds for ax in axes.flat] == before
    plt.close(fig)


# Everywhere

# Machado, Oliveira, Fernandes, A Physiologically-based Model for Simulation of Color Vision
# Deficiency, IEEE TVCG 2009, severity 1; for linear RGB.
SIGHT = {
    "normal": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}
SRGB_TO_XYZ = [[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]


def lab(color, sight):
    """A colour in CIELAB (D65) as somebody sees it."""
    rgb = np.array(to_rgb(color))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(np.array(sight) @ linear, 0, 1)
    xyz = SRGB_TO_XYZ @ seen / [0.9505, 1, 1.089]
    f = np.where(xyz > (6 / 29) ** 3, np.cbrt(xyz), xyz * (29 / 6) ** 2 / 3 + 4 / 29)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SIGHT.values(), ids=SIGHT)
def test_colors_can_be_told_apart_by_everybody(sight):
    """Delta E (CIE 1976) of 15 between any two descriptors, and between the frames.

    2 is just noticeable.
    """
    from_black = lab("red", SIGHT["normal"]) - lab("black", SIGHT["normal"])
    # CIELAB of red: 53.2, 80.1, 67.2
    assert np.linalg.norm(from_black) == pytest.approx(117.3, abs=0.1)
    descriptors = [*(label.color for label in colored().values()), labels.BASELINE]
    frames = [figures.SAME, figures.OTHER, figures.QUERY]
    for colors in (descriptors, frames, figures.CHANNELS):
        seen = [lab(color, sight) for color in colors]
        assert min(np.linalg.norm(a - b) for i, a in enumerate(seen) for b in seen[:i]) > 15


def test_every_descriptor_with_a_color_has_a_marker_of_its_own():
    """So has h + average, in the baselines' colour."""
    assert {*colored()} == {"im", "h", "eta_conv", "eta", "color", "h+color"}
    with_marker = {d for d, label in LABELS.items() if label.marker != labels.BASELINE_MARKER}
    assert with_marker == {*colored(), "h+average"}
    assert len({LABELS[descriptor].marker for descriptor in with_marker}) == len(with_marker)


def test_figures_keep_their_text_as_text_and_embed_one_family_of_fonts(tmp_path):
    canvas.use_style()
    fig, ax = plt.subplots(figsize=(3, 2))
    plots.intervals([ax], means(FOUR))
    fig.savefig(tmp_path / "a.pdf")
    pdf = (tmp_path / "a.pdf").read_bytes()
    fonts = set(re.findall(rb"/BaseFont /(?:[A-Z]{6}\+)?([\w-]+)", pdf))
    assert fonts == {b"DejaVuSans", b"DejaVuSans-Oblique"}
    assert b"/FontFile2" in pdf and b"/Subtype /Image" not in pdf


def test_a_figure_is_shown_with_its_caption_as_alternative_text(tmp_path, monkeypatch):
    """In a kernel, as in the notebooks.

    nbconvert's classic template gives it to the page; its lab template knows no such text.
    """
    monkeypatch.delenv("MPLBACKEND", raising=False)  # else the kernel would draw for files only
    source = f"""import matplotlib.pyplot as plt
from cbir.figures import show
from cbir.run import Run
show(plt.subplots(figsize=(1, 1))[0], "unsaved: a < b")
Run("r", {str(tmp_path)!r}).show(plt.subplots(figsize=(1, 1))[0], "fig01", "Fig. 1. \\"Quoted\\"")
print(plt.get_fignums())"""
    formats = "%config InlineBackend.figure_formats = ['png', 'jpeg']"
    notebook = new_notebook(cells=[new_code_cell(formats), new_code_cell(source)])
    NotebookClient(notebook, kernel_name="python3").execute()
    first, second, closed = notebook.cells[1].outputs
    assert closed.text == "[]\n"
    for shown, alt in [(first, "unsaved: a < b"), (second, 'Fig. 1. "Quoted"')]:
        alts = {kind: about["alt"] for kind, about in shown.metadata.items()}
        assert alts == {"image/png": alt, "image/jpeg": alt}
        assert {about["width"] for about in shown.metadata.values()} == {canvas.INCH}
        with Image.open(io.BytesIO(base64.b64decode(shown.data["image/png"]))) as png:
            assert png.width > canvas.DOTS  # an inch, and what is written beside it
        assert {"image/png", "image/jpeg"} < {*shown.data}
    for suffix in (".png", ".pdf"):
        assert (tmp_path / "r" / "figures" / f"fig01{suffix}").is_file()
    html, _ = HTMLExporter(template_name="classic").from_notebook_node(notebook)
    images = BeautifulSoup(html, "html.parser").select("img")
    assert [image["alt"] for image in images] == ["unsaved: a < b", 'Fig. 1. "Quoted"']


def test_a_figure_outside_notebooks_is_closed_only(capsys):
    canvas.show(plt.subplots()[0], "caption")
    assert not plt.get_fignums() and not capsys.readouterr().out

"""The embedded image set: its table, its pictures, its folder; and training a network on it."""

import os

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from torch import nn

import cbir
from cbir.scenes import (
    BACKGROUNDS,
    CLASSES,
    PALETTES,
    SPLITS,
    catalog,
    render_scenes,
    sample_scenes,
    training,
    write_scenes,
)
from cbir.zoo import slim_vgg16

FACTORS = {"class": CLASSES, "background": BACKGROUNDS, "palette": PALETTES}


def fixed_scene(**factors):
    """One table row with the given factors: facing the camera, in the middle, lit from the left."""
    row = {
        "class": "ball",
        "background": "checker",
        "palette": "ocean",
        "azimuth": 20.0,
        "elevation": 22.0,
        "distance": 5.5,
        "aim_x": 0.0,
        "aim_y": 0.15,
        "sun_azimuth": -50.0,
        "sun_elevation": 45.0,
        "texture_angle": 30.0,
        "texture_scale": 1.0,
        "texture_x": 3.0,
        "texture_y": 4.0,
    }
    return row | factors


def test_the_sets_of_names():
    assert (len(CLASSES), len(BACKGROUNDS), len(PALETTES)) == (10, 8, 8)
    for names in FACTORS.values():
        assert len(set(names)) == len(names)
    assert set(fixed_scene()) == set(sample_scenes(1, 0, "query").columns)


def test_classes_are_balanced_and_the_first_rows_do_not_depend_on_n():
    table = sample_scenes(200, 3, "database")
    assert table["class"].value_counts().tolist() == [20] * 10
    assert table["class"].tolist()[:12] == [*CLASSES, *CLASSES[:2]]
    pd.testing.assert_frame_equal(sample_scenes(37, 3, "database"), table[:37])


def test_background_and_palette_are_uniform_and_independent_of_each_other_and_of_the_class():
    table = sample_scenes(8000, 0, "training")
    for a, b in (("background", "palette"), ("class", "background"), ("class", "palette")):
        counts = pd.crosstab(table[a], table[b]).to_numpy()
        expected = 8000 / counts.size
        assert counts.shape == (len(FACTORS[a]), len(FACTORS[b]))
        # chi-squared of a table of independent, uniform factors: its mean is about the number of
        # cells, its deviation sqrt(2 * cells)
        chi = ((counts - expected) ** 2 / expected).sum()
        assert abs(chi - counts.size) < 5 * np.sqrt(2 * counts.size)


def test_every_split_and_every_seed_is_a_stream_of_its_own():
    tables = [sample_scenes(50, seed, split) for seed in (0, 1) for split in SPLITS]
    azimuths = np.concatenate([t["azimuth"] for t in tables])
    assert len(set(azimuths)) == len(azimuths)
    with pytest.raises(ValueError, match="test"):
        sample_scenes(1, 0, "test")


def test_the_same_seed_gives_the_same_pixels_alone_or_among_others():
    table = sample_scenes(6, 5, "query")
    images = render_scenes(table, size=56)
    assert images.shape == (6, 56, 56, 3) and images.dtype == np.uint8
    np.testing.assert_array_equal(render_scenes(sample_scenes(6, 5, "query"), size=56), images)
    np.testing.assert_array_equal(render_scenes(table[4:5], size=56)[0], images[4])
    assert render_scenes(table[:0]).shape == (0, 224, 224, 3)
    assert render_scenes(table[:1]).shape == (1, 224, 224, 3)


@pytest.mark.parametrize("factor, threshold", [("class", 3), ("background", 8), ("palette", 20)])
def test_every_value_of_a_factor_looks_different_from_every_other(factor, threshold):
    table = pd.DataFrame([fixed_scene(**{factor: name}) for name in FACTORS[factor]])
    images = render_scenes(table, size=112).astype(int)
    for i, image in enumerate(images):
        assert image.std() > 20  # a picture, not a blank
        for j in range(i):
            difference = abs(image - images[j]).mean()
            assert difference > threshold, (FACTORS[factor][i], FACTORS[factor][j])


def test_the_object_covers_a_good_part_of_the_picture_and_the_ground_more():
    """Two palettes that differ in the object's colours alone tell its pixels from the others."""
    table = sample_scenes(40, 0, "query").assign(palette="ocean")
    colors = catalog._COLORS["ocean"]
    try:
        before = render_scenes(table, size=64).astype(int)
        catalog._COLORS["ocean"] = "00ff00 00ff00" + colors[13:]
        after = render_scenes(table, size=64).astype(int)
    finally:
        catalog._COLORS["ocean"] = colors
    mask = abs(before - after).sum(-1) > 12
    heights = mask.any(2).sum(1) / 64
    assert (heights > 0.25).all() and (heights < 0.65).all() and 0.35 < np.median(heights) < 0.55
    assert (mask.mean((1, 2)) < 0.4).all()
    border = mask[:, [0, -1]].any() or mask[:, :, [0, -1]].any()
    assert not border  # no object is cut off


def write(folder, **options):
    return write_scenes(folder, **({"n_database": 10, "n_queries": 3, "seed": 2} | options))


@pytest.fixture
def small(monkeypatch):
    """Pictures of 32 x 32, to write them fast; counts the pictures rendered."""
    rendered = []

    def render_small(table):
        rendered.append(len(table))
        return render_scenes(table, size=32)

    monkeypatch.setattr(catalog, "render_scenes", render_small)
    return rendered


def test_a_written_folder_has_the_pictures_and_their_factors(small, tmp_path):
    folder = write(tmp_path / "scenes")
    manifest = pd.read_csv(folder / "manifest.csv")
    files = {p.relative_to(folder).as_posix() for p in folder.rglob("*.jpg")}
    assert set(manifest["file"]) == files and len(files) == 13
    assert "database/star/star_00006.jpg" in files and "queries/ring/ring_00002.jpg" in files
    queries = sample_scenes(3, 2, "query")
    recorded = manifest[manifest["split"] == "query"].reset_index(drop=True)
    pd.testing.assert_frame_equal(recorded[queries.columns], queries)
    with Image.open(folder / "queries/ring/ring_00002.jpg") as image:
        assert image.format == "JPEG"
        written = np.asarray(image).astype(int)
        assert abs(written - render_scenes(queries[2:], size=32)[0]).mean() < 6


def test_a_complete_folder_is_left_alone(small, tmp_path):
    folder = write(tmp_path)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*.*")}
    assert write(tmp_path) == folder and small == [13]
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*.*")} == before


def test_missing_files_are_rendered_again_and_only_those(small, tmp_path):
    folder = write(tmp_path)
    lost = folder / "database/ball/ball_00000.jpg"
    pixels = lost.read_bytes()
    lost.unlink()
    write(tmp_path)
    assert lost.read_bytes() == pixels and small == [13, 1]


def test_an_interrupted_render_is_done_again(small, tmp_path, monkeypatch):
    def fail(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail)
        with pytest.raises(KeyboardInterrupt):
            write(tmp_path)
    assert not (tmp_path / "manifest.csv").exists()
    broken = tmp_path / "database/ball/ball_00000.jpg"
    broken.write_bytes(b"half a pict")
    write(tmp_path)
    assert small == [13, 13] and (tmp_path / "manifest.csv").exists()
    Image.open(broken).load()


@pytest.mark.parametrize("other", [{"seed": 3}, {"n_database": 9}, {"n_queries": 4}])
def test_a_folder_of_another_set_is_refused_and_kept(small, tmp_path, other):
    folder = write(tmp_path)
    before = {p: p.read_bytes() for p in folder.rglob("*.*")}
    with pytest.raises(ValueError, match="choose another folder"):
        write(tmp_path, **other)
    assert {p: p.read_bytes() for p in folder.rglob("*.*")} == before


def test_another_version_of_the_renderer_is_refused(small, tmp_path, monkeypatch):
    write(tmp_path)
    monkeypatch.setattr(catalog, "VERSION", catalog.VERSION + 1)
    with pytest.raises(ValueError, match="version"):
        write(tmp_path)


def test_pictures_that_are_not_of_the_set_are_refused(small, tmp_path):
    write(tmp_path, n_database=20)
    (tmp_path / "manifest.csv").unlink()
    with pytest.raises(ValueError, match="10 pictures of another set"):
        write(tmp_path)


def test_folding_batch_norms_leaves_the_output_and_the_plain_layout():
    torch.manual_seed(0)
    model = cbir.slim_vgg16(10, batch_norm=True).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.normal_(layer.running_mean, std=0.3)
            nn.init.uniform_(layer.running_var, 0.3, 1.5)
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.3)
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        before = model(x)
        folded = training.fold_batch_norm(model)
        plain = cbir.slim_vgg16(10).eval()
        plain.load_state_dict(folded.state_dict())
        assert abs(before).max() > 0.01
        torch.testing.assert_close(plain(x), before, rtol=1e-4, atol=1e-4)


class Brightest(nn.Module):
    """Answers with the colour channel of the highest mean before normalisation."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.tensor(cbir.networks.IMAGENET_MEAN).view(1, 3, 1, 1))
        self.std = nn.Parameter(torch.tensor(cbir.networks.IMAGENET_STD).view(1, 3, 1, 1))

    def forward(self, x):
        return (x * self.std + self.mean).mean((2, 3))


def test_accuracy_counts_the_right_answers_in_every_batch():
    images = np.full((7, 8, 8, 3), 100, np.uint8)
    for i, channel in enumerate([0, 1, 2, 0, 1, 2, 0]):
        images[i, ..., channel] += 30
    labels = [0, 1, 2, 0, 1, 0, 1]  # the last two are wrong
    assert training.accuracy(Brightest(), images, labels, batch_size=3) == pytest.approx(5 / 7)


def test_a_batch_is_normalised_as_the_network_expects():
    images = np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), dtype=np.uint8)
    expected = torch.stack([cbir.resize_transform()(Image.fromarray(i)) for i in images])
    torch.testing.assert_close(training.to_batch(images), expected)


def test_augmentation_only_mirrors():
    torch.manual_seed(1)
    x = torch.rand(40, 3, 4, 5)
    mirrored = 0
    for before, after in zip(x, training.augment(x)):
        mirrored += torch.equal(before.flip(2), after)
        assert torch.equal(before, after) or torch.equal(before.flip(2), after)
    assert 5 < mirrored < 35


def test_training_runs_from_scenes_to_folded_weights():
    """A few steps only: it runs, learns something and returns VGG16's plain layout."""
    options = {"n_scenes": 64, "n_validation": 20, "epochs": 2, "batch_size": 16, "lr": 1e-3}
    model, history = training.train_slim_vgg16(**options)
    assert list(history) == ["epoch", "loss", "accuracy"] and len(history) == 2
    assert np.isfinite(history.loss).all() and history.accuracy.between(0, 1).all()
    assert model.state_dict().keys() == slim_vgg16().state_dict().keys()

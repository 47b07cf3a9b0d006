"""The rendered scenes: their table, three of them rendered again; training a network on them."""

import io
import sys

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import nn

from cbir import zoo
from cbir.common import ROOT

sys.path += [str(ROOT / "data" / "scenes"), str(ROOT / "data" / "weights")]
import make_scenes
import train_slim_vgg16 as training

SCENES = ROOT / "data" / "scenes"
MANIFEST = pd.read_csv(SCENES / "manifest.csv")


def test_the_manifest_is_that_of_seed_0():
    tables = [make_scenes.sample_scenes(n, 0, s) for n, s in [(1000, "database"), (200, "query")]]
    expected = pd.concat(tables, ignore_index=True)
    pd.testing.assert_frame_equal(MANIFEST.drop(columns="file"), expected)
    pd.testing.assert_frame_equal(make_scenes.sample_scenes(37, 0, "database"), tables[0][:37])
    files = {path.relative_to(SCENES).as_posix() for path in SCENES.rglob("*.jpg")}
    assert set(MANIFEST["file"]) == files
    assert MANIFEST["class"].value_counts().tolist() == [120] * 10


def test_three_scenes_rendered_again(tmp_path):
    """Before compression the pixels are the same, but for rounding on other processors."""
    scenes = MANIFEST.iloc[[0, 517, 1006]]
    pixels = make_scenes.render_scenes(scenes)
    assert pixels.shape == (3, 224, 224, 3) and pixels.dtype == np.uint8
    for file, picture in zip(scenes["file"], pixels):
        compressed = io.BytesIO()
        Image.fromarray(picture).save(compressed, "jpeg", quality=85, subsampling=0)
        again, stored = (np.asarray(Image.open(f), int) for f in (compressed, SCENES / file))
        assert abs(stored - picture).mean() < 6
        assert (abs(again - stored) > 1).mean() < 1e-3
    mask = Image.open((SCENES / "masks" / scenes["file"].iloc[2]).with_suffix(".png"))
    assert mask.mode == "1"
    covered = make_scenes.object_masks(scenes[2:])[0] >= 0.5
    assert (np.asarray(mask) != covered).sum() <= 3
    make_scenes.write_scenes(tmp_path, n_database=2, n_queries=1)
    files = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*.*")}
    made = "database/ball/ball_00000.jpg database/cube/cube_00001.jpg manifest.csv"
    made += " queries/ball/ball_00000.jpg masks/queries/ball/ball_00000.png"
    assert files == {*made.split()}


def test_folding_batch_norms_leaves_the_output_and_the_plain_layout():
    torch.manual_seed(0)
    model = zoo.slim_vgg16(10, batch_norm=True).eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            for values in (layer.running_mean, layer.running_var, layer.weight, layer.bias):
                nn.init.uniform_(values, 0.3, 1.5)
    x = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        before = model(x)
        folded = training.fold_batch_norm(model)
        plain = zoo.slim_vgg16(10).eval()
        plain.load_state_dict(folded.state_dict())
        assert abs(before).max() > 0.01
        torch.testing.assert_close(plain(x), before, rtol=1e-4, atol=1e-4)


def test_training_runs_from_scenes_to_folded_weights():
    """A few steps only: it runs, learns something and returns VGG16's plain layout."""
    options = {"n_scenes": 64, "n_validation": 20, "epochs": 2, "batch_size": 16, "lr": 1e-3}
    model, history = training.train_slim_vgg16(**options)
    assert list(history) == ["epoch", "loss", "accuracy"] and len(history) == 2
    assert np.isfinite(history.loss).all() and history.accuracy.between(0, 1).all()
    assert model.state_dict().keys() == zoo.slim_vgg16().state_dict().keys()

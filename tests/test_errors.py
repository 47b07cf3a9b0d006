"""What an error says: what is wrong, with the word that was probably meant, and what to do next."""

import numpy as np
import pytest
import torch
from conftest import make_net
from torch import nn

import cbir
from cbir import trained
from cbir.common import check_choice, did_you_mean

FLAT = nn.Sequential(nn.Flatten())
YS = [torch.ones(1, 2, 5, 5), torch.ones(1, 2, 2, 2)]
ROWS = np.ones((3, 4), np.float32)

# What is called, and what its error must say, where no other file asks.
MISTAKES = [
    (lambda: cbir.named_recipe("as_release"), r"\(did you mean 'as_released'\?\): choose one of"),
    (lambda: cbir.conv_descriptor(YS), r"block 1 is \(5, 5\): .*; cbir.Network\(.., trim=True\)"),
    (lambda: cbir.Network(make_net().module, ["on"]), r"mean 'one'\?\).*named_modules"),
    (lambda: cbir.Network(make_net().module, []), "name the submodules whose outputs are y_1"),
    (lambda: cbir.Network(FLAT, ["0"]).shapes, "block '0' gives .* name it in `codes`"),
    (lambda: cbir.search(ROWS, ROWS, k=4), "k = 4 is out of range for 3 rows: choose 1 to 3"),
    (lambda: cbir.search(ROWS[0], ROWS), "one row an image"),
    (lambda: cbir.search(ROWS, ROWS, ["h"]), "pass the store, which knows"),
    (lambda: cbir.search(ROWS, ROWS[:, 1:], k=1), "the same descriptor of the same network"),
    (lambda: cbir.search(ROWS, [__file__], k=1), "pass the store, which knows"),
    (lambda: cbir.load_network("timm/mobilenetv3_smal_100"), r"mean 'mobilenetv3_small_100'\?\)"),
    (lambda: cbir.load_images("folder"), "needs a folder of.*-p images FOLDER -p queries"),
    (lambda: trained.train_hidden_layer(ROWS, ["cat"] * 3), "Give every class a folder"),
]


def test_did_you_mean():
    assert did_you_mean("metrc", ["metric", "k"]) == " (did you mean 'metric'?)"
    assert did_you_mean("img_1.jpg", ["IMG_1.JPG", "b.jpg"]) == " (did you mean 'IMG_1.JPG'?)"
    assert did_you_mean("colour", ["metric"]) == did_you_mean("k", ["k"]) == ""
    assert did_you_mean("999999.jpg", (f"{i:06}.jpg" for i in range(2_000_000)))
    message = r"^unknown metric 'cosin' \(did you mean 'cosine'\?\): choose one of 'l1', 'cosine'$"
    with pytest.raises(ValueError, match=message):
        check_choice("metric", "cosin", ("l1", "cosine"))


@pytest.mark.parametrize("call, message", MISTAKES)
def test_what_to_do_next(call, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        call()


def test_queries_that_are_not_there(folder):
    with pytest.raises(FileNotFoundError, match=r"no query '003.png' .* \(did you mean '03.png'"):
        cbir.choose_queries(folder, names=["003.png"])


def test_stores(folder, tmp_path):
    store = cbir.extract(folder, make_net(), tmp_path / "st", extras={"mac": "mac"})
    assert {"h", "eta", "w_1", "mac"} <= set(store._ipython_key_completions_())  # the tab key
    with pytest.raises(ValueError, match=r"unknown descriptor 'eta_con' \(did you mean 'eta_conv'"):
        cbir.search(store, store, "eta_con")
    other = cbir.extract(folder, make_net(1), tmp_path / "other")
    with pytest.raises(ValueError, match="pass the queries' image files"):
        cbir.search(store, other)
    again = cbir.extract(folder, make_net(), tmp_path / "again", extras={"mac": {"q": 1}})
    with pytest.raises(ValueError, match="extract one again, with the other's `extras`"):
        cbir.search(store, again, "mac")
    with pytest.raises(ValueError, match=r"'sopc' \(did you mean 'spoc'\?\): .*or give a recipe"):
        cbir.extract(folder, make_net(), tmp_path / "third", extras={"a": "sopc"})

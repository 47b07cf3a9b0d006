"""Trains the fully connected layers of the network "vgg16_scenes" on the classes of the scenes.

    python data/weights/train_vgg16_scenes.py codes.safetensors

VGG16's original convolutions describe the 1,000 database scenes once, into runs/vgg16_conv/ (five
minutes on two cores); then two layers of 128 are trained on y_5 (a minute). The file beside this
script was made so. Another number of threads sums in another order and gives slightly other
weights, so results use the kept file. A file that is there already is read, not replaced.
"""

import sys

import cbir
from cbir.common import runs_folder
from cbir.datasets import SCENES


def main(path: str) -> None:
    """Trains the layers into a file, and prints their accuracy on the scenes held out."""
    trunk = cbir.load_network("vgg16_conv")
    place = runs_folder() / "vgg16_conv" / "stores" / "database"
    windows = cbir.extract(SCENES / "database", trunk, place, extras={"windows": "windows"})
    net = cbir.train_codes(trunk, windows, widths=(128, 128), epochs=40, lr=1e-3, seed=0, path=path)
    print(net.head.about)


if __name__ == "__main__":
    main(*sys.argv[1:])

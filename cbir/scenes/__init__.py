"""The embedded image set: rendered scenes with known factors, and the network trained on them."""

from ..scenes.catalog import BACKGROUNDS as BACKGROUNDS
from ..scenes.catalog import CLASSES as CLASSES
from ..scenes.catalog import PALETTES as PALETTES
from ..scenes.catalog import SPLITS as SPLITS
from ..scenes.catalog import object_masks as object_masks
from ..scenes.catalog import render_scenes as render_scenes
from ..scenes.catalog import sample_scenes as sample_scenes
from ..scenes.catalog import write_scenes as write_scenes

"""The embedded image set: rendered scenes with known factors, and the network trained on them."""

from .catalog import BACKGROUNDS as BACKGROUNDS
from .catalog import CLASSES as CLASSES
from .catalog import PALETTES as PALETTES
from .catalog import SPLITS as SPLITS
from .catalog import object_masks as object_masks
from .catalog import render_scenes as render_scenes
from .catalog import sample_scenes as sample_scenes
from .catalog import write_scenes as write_scenes

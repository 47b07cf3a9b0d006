"""Image-retrieval descriptors from the activations of VGG16, reproduced.

The paper is Staszewski et al., IEEE TNNLS 2021. The public names are those of __init__.pyi. Each is
imported when it is first used, since torch takes seconds. EAGER_IMPORT=1 imports all at once.
"""

import lazy_loader

__version__ = "0.1.0"
__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)

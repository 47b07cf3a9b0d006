# What `import cbir` gives, for `lazy_loader`, type checkers and editors ("x as x": a stub offers
# nothing else). Modules with a function of their own name (extract, search) are not among the
# modules: `cbir.search` is the function.
from . import (
    figures as figures,
)
from .trained import (
    compress as compress,
    train_codes as train_codes,
)
from .color import (
    color_histogram as color_histogram,
    histogram_distance as histogram_distance,
    published_distances as published_distances,
)
from .copies import (
    duplicates as duplicates,
)
from .datasets import (
    choose_queries as choose_queries,
    known_factors as known_factors,
    load_images as load_images,
)
from .images import (
    UnreadableImage as UnreadableImage,
    open_image as open_image,
)
from .descriptors import (
    AS_PRINTED as AS_PRINTED,
    AS_RELEASED as AS_RELEASED,
    UNIT_LENGTH as UNIT_LENGTH,
    conv_descriptor as conv_descriptor,
    describe as describe,
    named_recipe as named_recipe,
    significance_map as significance_map,
    significant as significant,
    trace as trace,
)
from .evaluation import (
    Evaluation as Evaluation,
    common_in_top_k as common_in_top_k,
)
from .extract import (
    extract as extract,
)
from .images import (
    ImageSet as ImageSet,
    list_images as list_images,
    open_first as open_first,
)
from .names import (
    NAMES as NAMES,
)
from .networks import (
    Network as Network,
    resize_transform as resize_transform,
    to_picture as to_picture,
)
from .pooling import (
    POOLINGS as POOLINGS,
)
from .search import (
    Hits as Hits,
    search as search,
)
from .statistics import (
    means as means,
    paired_difference as paired_difference,
)
from .store import (
    Store as Store,
    open_store as open_store,
)
from .tables import (
    color_histograms as color_histograms,
    table1 as table1,
)
from .query import (
    query as query,
)
from .run import (
    Run as Run,
)
from .zoo import (
    NETWORKS as NETWORKS,
    load_network as load_network,
)

__version__: str
__all__: list[str]

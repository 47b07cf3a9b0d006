# What `import cbir` gives, for `lazy_loader`, type checkers and editors ("x as x": a stub offers
# nothing else). Modules with a function of their own name (extract, search) are not among the
# modules: `cbir.search` is the function.
from . import (
    cluster as cluster,
    color as color,
    datasets as datasets,
    descriptors as descriptors,
    evaluation as evaluation,
    explorer as explorer,
    figures as figures,
    images as images,
    names as names,
    nearest as nearest,
    networks as networks,
    plots as plots,
    pooling as pooling,
    store as store,
    studies as studies,
    tables as tables,
    trained as trained,
    zoo as zoo,
)
from .trained import (
    hidden_codes as hidden_codes,
    imagenet1m_descriptors as imagenet1m_descriptors,
    read_fvecs as read_fvecs,
    train_hidden_layer as train_hidden_layer,
)
from .trained import (
    Codes as Codes,
    load_codes as load_codes,
    train_codes as train_codes,
)
from .color import (
    color_histogram as color_histogram,
    histogram_distance as histogram_distance,
    published_distances as published_distances,
)
from .datasets import (
    choose_queries as choose_queries,
    hold_out as hold_out,
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
    Descriptors as Descriptors,
    RECIPES as RECIPES,
    conv_descriptor as conv_descriptor,
    describe as describe,
    named_recipe as named_recipe,
    significance_map as significance_map,
    significant as significant,
    trace as trace,
)
from .evaluation import (
    Evaluation as Evaluation,
    MARGIN as MARGIN,
    as_family as as_family,
    average_precision as average_precision,
    bootstrap_interval as bootstrap_interval,
    by_other_half as by_other_half,
    class_color_plane as class_color_plane,
    common_in_top_k as common_in_top_k,
    comparisons as comparisons,
    distance_by_part as distance_by_part,
    halves as halves,
    holm as holm,
    means as means,
    paired_difference as paired_difference,
    pareto_front as pareto_front,
    share_in_top_k as share_in_top_k,
)
from .explorer.engine import (
    Explorer as Explorer,
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
    SYMBOLS as SYMBOLS,
)
from .nearest import (
    Hits as Hits,
)
from .networks import (
    Activations as Activations,
    Network as Network,
    pick_device as pick_device,
    resize_transform as resize_transform,
    to_picture as to_picture,
)
from .pooling import (
    POOLINGS as POOLINGS,
    Whitening as Whitening,
    l2_normalize as l2_normalize,
    pca_whitening as pca_whitening,
)
from .search import (
    Found as Found,
    search as search,
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
    EMBEDDED_WEIGHTS as EMBEDDED_WEIGHTS,
    NETWORKS as NETWORKS,
    load_network as load_network,
    slim_vgg16 as slim_vgg16,
)

__version__: str
__all__: list[str]

# What `import cbir` gives, for `lazy_loader`, type checkers and editors. Modules with a function of their own name (extract, query, search) are not
# listed as modules: `cbir.search` is the function.
from . import (baselines, cluster, color, descriptors, evaluation, explore, figures, images, metrics, networks, notebooks, page, pooling, run, scenes,
               serve, store, sweep, tables, training, whitening, zoo)
from .baselines import hidden_codes, imagenet1m_descriptors, read_fvecs, train_hidden_layer
from .color import color_histogram, density_overlap, histogram_distance, parzen_density, parzen_overlap, published_distances
from .descriptors import (AS_PRINTED, AS_RELEASED, NAMES, RECIPES, SYMBOLS, Descriptors, conv_descriptor, describe, named_recipe,
                          significance_map, significant, trace)
from .evaluation import Evaluation, class_color_plane, comparisons, means
from .explore import Explorer
from .extract import extract
from .images import ImageSet, UnreadableImage, choose_queries, hold_out, known_factors, list_images, load_images, open_first, open_image
from .metrics import average_precision, bootstrap_interval, common_in_top_k, distance_by_part, paired_difference, pareto_front, share_in_top_k
from .networks import Activations, Network, pick_device, resize_transform, to_picture
from .pooling import POOLINGS
from .query import query
from .run import Run
from .search import Hits, search
from .store import Store, open_store
from .tables import color_histograms, table1
from .whitening import Whitening, l2_normalize, pca_whitening
from .zoo import EMBEDDED_WEIGHTS, NETWORKS, load_network, slim_vgg16

__version__: str
__all__: list[str]

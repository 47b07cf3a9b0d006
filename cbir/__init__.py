"""Image-retrieval descriptors from the activations of VGG16 (Staszewski et al., IEEE TNNLS 2021), reproduced."""

from . import cluster
from .baselines import hidden_codes, imagenet1m_descriptors, read_fvecs, train_hidden_layer
from .color import color_histogram, density_overlap, histogram_distance, parzen_density, parzen_overlap, published_distances
from .descriptors import (AS_PRINTED, AS_RELEASED, NAMES, RECIPES, SYMBOLS, Descriptors, conv_descriptor, describe, named_recipe,
                          significance_map, significant, trace)
from .evaluation import Evaluation, class_color_plane, comparisons, means
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

__version__ = "0.1.0"

"""What a run is given, checked as a whole before anything of it is written."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any, get_args

import yaml

from . import project
from .common import METRICS, ROOT, Dtype, Precision, unknown_choice
from .datasets import load_images
from .descriptors import named_recipe
from .project import PAPER, runs_folder
from .zoo import NoDownload, check_at_hand, check_network

# Parameters that are taken as they are typed.
PATHS = {
    "images",
    "queries",
    "picture",
    "pictures",
    "store",
    "weights",
    "caffe",
    "thumbnails",
    "im_vectors",
    "im_query_vectors",
    "im_files",
    "im_query_files",
}
PATHS_OR_NAMES = {"weights", "caffe"}
# What to give for networks whose weights are out of reach.
WITHOUT_DOWNLOAD = {
    "network": "-p network vgg16_conv, -p network efficientnet_lite0, --profile photographs (for "
    "class folders), or the file itself by -p weights FILE",
    "networks": "-p networks '[embedded, vgg16_conv, efficientnet_lite0]'",
}
CHOICES = {"metric": METRICS, "dtype": get_args(Dtype), "precision": get_args(Precision)}
EXTRACTION = "02_extraction"  # fills the stores that the others read
OF_STORES = (  # its parameters that every descriptor depends on
    "profile",
    "images",
    "queries",
    "network",
    "weights",
    "crop",
    "precision",
    "recipe",
    "q",
    "code_widths",
    "dtype",
    "max_images",
    "max_queries",
)
KINDS = {
    bool: "true or false",
    int: "a whole number, 0 or more",
    float: "a number, 0 or more",
    str: "a text",
    list: "a list: [a, b]",
    dict: "a mapping: {a: b}",
}


@cache
def known_parameters(notebook: str) -> dict[str, Any]:
    """The parameters of a notebook with their defaults.

    Raises:
        ValueError: there is no such notebook.
    """
    return {name: about.default for name, about in project.parameters(notebook).items()}


def check_parameters(
    profile: str = "embedded",
    name: str | None = None,
    parameters: dict[str, Any] | None = None,
    notebooks: Sequence[str] = PAPER,
) -> dict[str, Any]:
    """What notebooks are given: a profile with parameters and the run's name over it.

    Args:
        profile: the name of a file in profiles/.
        name: the run's, default the profile's.
        parameters: those that differ from the profile.
        notebooks: the ones that are to run.

    Returns:
        {parameter: value}, paths made absolute.

    Raises:
        ValueError: an unknown profile, an unknown parameter, a value that has no meaning, or one
            that the run's stores were not made with.
        FileNotFoundError: a folder of images is not there, see `load_images`; or a file of weights.
        NoDownload: weights are not here, and their server does not answer.
        ImportError: a network needs a package that is missing.
    """
    project.check_names(profile, parameters or {}, notebooks)
    path = ROOT / "profiles" / f"{profile}.yaml"
    given = yaml.safe_load(path.read_text(encoding="utf-8"))
    given |= parameters or {}
    given["run_name"] = name or profile
    if isinstance(given.get("query_names"), str):
        given["query_names"] = [given["query_names"]]
    for notebook in notebooks:
        for parameter, default in known_parameters(notebook).items():
            if parameter in given:
                _check_value(parameter, given[parameter], default)
    named_recipe(given.get("recipe", "as_printed"), q=given.get("q", 0.5))
    for network in [given.get("network", "embedded"), *given.get("networks", [])]:
        check_network(network)
    given = {name: absolute(name, value) for name, value in given.items()}
    _check_stores(given, notebooks)
    _check_images(given)
    _check_weights(given, notebooks)
    return given


def _check_value(name: str, value: Any, default: Any) -> None:
    """Raises ValueError for a value that is not of the kind of its default, or out of range."""
    kind = type(default)
    if kind is str and (value is None or name in ("run_name", *PATHS)):
        return
    fits = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
    if kind is float and type(value) is int:
        fits = True
    if fits and kind in (int, float):
        fits = math.isfinite(value) and value >= 0
    if not fits:
        raise ValueError(f"{name} is {KINDS[kind]}, not {value!r}")
    if name == "k" and value < 1:
        raise ValueError(f"k = {value} is out of range: 1 or more")
    if name in CHOICES and value not in CHOICES[name]:
        raise ValueError(unknown_choice(name, value, CHOICES[name]))


def _check_stores(given: dict[str, Any], notebooks: Sequence[str]) -> None:
    """Raises ValueError where the stores of the run of that name were made with other settings."""
    folder = runs_folder() / given["run_name"]
    if not (folder / "stores" / "database").exists() or not (folder / "metrics.json").exists():
        return
    metrics = json.loads((folder / "metrics.json").read_text(encoding="utf-8"))
    made_with = metrics.get("parameters_of", {}).get(EXTRACTION, {})
    now = (known_parameters(EXTRACTION) if EXTRACTION in notebooks else {}) | given
    differing = []
    for name in OF_STORES:
        if name in made_with and name in now and made_with[name] != now[name]:
            differing.append(f"{name} {made_with[name]!r}, now {now[name]!r}")
    if differing:
        raise ValueError(
            f"the run {given['run_name']!r} was made with {'; '.join(differing)}: give this one "
            f"another --name, or delete {folder}"
        )


def _check_images(given: Mapping[str, Any]) -> None:
    """Raises what `load_images` does for folders, and ValueError where they hold too few images."""
    kind, images, queries = given["profile"], given.get("images", ""), given.get("queries", "")
    if kind != "folder" and not (kind == "embedded" and (images or queries)):
        return
    database, _ = load_images(kind, images, queries)
    n = min(len(database), given.get("max_images") or len(database))
    if given.get("k", 1) > n:
        raise ValueError(f"k = {given['k']} is out of range for {n} images: choose 1 to {n}")


def _check_weights(given: Mapping[str, Any], notebooks: Sequence[str]) -> None:
    """Raises what `check_at_hand` does for the networks that notebooks load."""
    wanted = {}  # {(network, weights): the parameter that names it}
    for notebook in notebooks:
        now = known_parameters(notebook) | dict(given)
        if "network" in known_parameters(notebook):
            wanted[now["network"], now.get("weights", "default")] = "network"
        if "networks" in known_parameters(notebook):
            wanted |= {(name, "default"): "networks" for name in now["networks"]}
    for (network, weights), parameter in wanted.items():
        try:
            check_at_hand(network, weights)
        except NoDownload as error:
            advice = f"Without a download: {WITHOUT_DOWNLOAD[parameter]}"
            raise NoDownload(error.reason, advice) from error


def absolute(name: str, value: Any) -> Any:
    """Makes a parameter fit for a kernel that runs in another folder.

    Args:
        name: the parameter's.
        value: what it was given.

    Returns:
        An absolute path for a path; URLs, names of weights and all else as they are.
    """
    path = os.path.expanduser(str(value or ""))
    if name not in PATHS or not path or "://" in path:
        return value
    if name in PATHS_OR_NAMES and not os.path.exists(path):
        return value
    return os.path.abspath(path)

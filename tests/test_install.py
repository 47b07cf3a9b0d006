"""What an installation brings, and on which Pythons and systems."""

import ast
import os
import re
import subprocess
import sys
import tomllib
from importlib.metadata import PackageNotFoundError, metadata
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from cbir.common import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
OLDEST = "3.11.2"  # Debian 12's


# `make CONSTRAINTS=...` tests other versions, which need not be those of the other systems.
PINNED = os.environ.get("CONSTRAINTS", "constraints.txt") == "constraints.txt"
by_pins = pytest.mark.skipif(not PINNED, reason="other versions were asked for: CONSTRAINTS")

# What a requirement may depend on, by system and by processor, as docs/install.md has them.
SYSTEMS = {
    "Linux": {"os_name": "posix", "sys_platform": "linux", "platform_machine": "x86_64"},
    "Linux on ARM": {"os_name": "posix", "sys_platform": "linux", "platform_machine": "aarch64"},
    "macOS": {"os_name": "posix", "sys_platform": "darwin", "platform_machine": "arm64"},
    "Windows": {"os_name": "nt", "sys_platform": "win32", "platform_machine": "AMD64"},
}
PLATFORM_SYSTEMS = {"linux": "Linux", "darwin": "Darwin", "win32": "Windows"}
PYTHONS = ["3.11", "3.12", "3.13", "3.14"]

UNIX = {"fcntl", "grp", "pwd", "pty", "resource", "termios"}


def pins():
    """{package: pinned version}."""
    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pairs = re.findall(r"^([\w.-]+)==([\w.+!-]+)$", text, re.M)
    return {canonicalize_name(name): number for name, number in pairs}


def metadata_of(name, field):
    """What an installed package says of itself; nothing of one for another system or extra."""
    try:
        return metadata(name).get_all(field) or []
    except PackageNotFoundError:
        return []


def requirements(name):
    """What a package needs, with the extras that it is needed for as markers."""
    if name != "cbir":
        return metadata_of(name, "Requires-Dist")
    extras = PROJECT["optional-dependencies"].items()
    needed = [f"{line} ; extra == '{extra}'" for extra, wanted in extras for line in wanted]
    return PROJECT["dependencies"] + needed


@by_pins
def test_the_oldest_python_can_have_every_pinned_package():
    """By what the packages that are installed here say of themselves."""
    for name in pins():
        for wanted in metadata_of(name, "Requires-Python"):
            assert OLDEST in SpecifierSet(wanted), name
    assert OLDEST in SpecifierSet(PROJECT["requires-python"])
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(PROJECT["classifiers"]))
    assert named == PYTHONS


@by_pins
@pytest.mark.parametrize("python", PYTHONS)
@pytest.mark.parametrize("system", SYSTEMS)
def test_every_package_that_a_system_needs_is_pinned(system, python):
    """Also those that this system or this Python does without; with a version that fits."""
    where = SYSTEMS[system] | {"python_version": python, "python_full_version": f"{python}.5"}
    where["platform_system"] = PLATFORM_SYSTEMS[where["sys_platform"]]
    where["implementation_version"] = f"{python}.5"
    pinned = pins()
    todo = [("cbir", extra) for extra in ["", *PROJECT["optional-dependencies"]]]
    seen = set(todo)
    while todo:
        name, extra = todo.pop()
        for line in requirements(name):
            wanted = Requirement(line)
            if wanted.marker and not wanted.marker.evaluate(where | {"extra": extra}):
                continue
            needed = canonicalize_name(wanted.name)
            if needed != "cbir":
                assert needed in pinned, f"{name} needs {wanted}"
                assert pinned[needed] in wanted.specifier, f"{name} needs {wanted}"
            found = {(needed, ""), *((needed, extra) for extra in wanted.extras)}
            todo += found - seen
            seen |= found
    assert len(seen) > 150


def test_every_dependency_has_a_lower_bound():
    """Which `uv pip compile --resolution lowest-direct` takes, and the pin fits it."""
    lines = [*PROJECT["dependencies"], *chain(*PROJECT["optional-dependencies"].values())]
    for line in lines:
        wanted = Requirement(line)
        bounds = [part for part in wanted.specifier if part.operator in (">=", "==")]
        assert wanted.name == "cbir" or bounds, line
        assert all(pins()[canonicalize_name(wanted.name)] in wanted.specifier for _ in bounds)


def test_code_runs_on_windows():
    """What only Unix has is imported where it is used; text files name their encoding."""
    for file in chain(*(ROOT.glob(f"{part}/*.py") for part in ("cbir", "tests", "notebooks"))):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for line in tree.body:
            names = [alias.name for alias in line.names] if isinstance(line, ast.Import) else []
            assert not UNIX & {*names, getattr(line, "module", "")}, file
        for call in ast.walk(tree) if file.parent.name == "cbir" else []:
            if isinstance(call, ast.Call) and opens_text(call):
                assert "encoding" in {k.arg for k in call.keywords}, f"{file}:{call.lineno}"


def opens_text(call):
    """Whether a call reads or writes a file as text."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    is_open = getattr(call.func, "id", "") == "open" and "'rb'" not in map(ast.unparse, call.args)
    return is_open or name in ("read_text", "write_text")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A folder that holds the installed wheel alone."""
    built, site = tmp_path_factory.mktemp("wheel"), tmp_path_factory.mktemp("site")
    pip = [sys.executable, "-m", "pip", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", str(built), str(ROOT)], check=True)
    (file,) = built.glob("cbir-*.whl")
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(file)], check=True)
    return site


def run(wheel, folder, *command):
    """Runs Python with the wheel's cbir, away from the checkout; what it prints."""
    environment = os.environ | {"PYTHONPATH": str(wheel), "HOME": str(folder)}
    environment.pop("CBIR_RUNS", None)
    options = dict(cwd=folder, env=environment, capture_output=True, text=True)
    done = subprocess.run([sys.executable, *command], **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_wheel_has_the_whole_project(wheel, tmp_path):
    where = run(wheel, tmp_path, "-c", "import cbir; print(cbir.__file__)")
    assert Path(where.strip()).is_relative_to(wheel)
    project = wheel / "cbir" / "project"
    for part in "scenes/masks", "paper", "results", "weights", "../notebooks/pages", "../sweeps":
        assert any((project / "data" / part).iterdir())
    assert not (project / "data" / "scenes" / "make_scenes.py").exists()
    assert "max_queries" in run(wheel, tmp_path, "-m", "cbir", "parameters")
    code = "import cbir; print(cbir.load_network(), cbir.Run('mine').path.resolve())"
    assert str(tmp_path / "runs" / "mine") in run(wheel, tmp_path, "-c", code)


@pytest.mark.slow
def test_a_wheel_reproduces_away_from_the_checkout(wheel, tmp_path):
    small = ["--profile", "slim", "--only", "01-04", "-p", "max_queries", "20"]
    before = {path for path in wheel.rglob("*") if "__pycache__" not in path.parts}
    run(wheel, tmp_path, "-m", "cbir", "reproduce", *small)
    made = tmp_path / "runs" / "slim"
    assert (made / "report.html").is_file() and list((made / "figures").glob("*.png"))
    assert {path for path in wheel.rglob("*") if "__pycache__" not in path.parts} == before

"""What holds the project together: the three lists of dependencies, the README, the sources."""

import re
import subprocess
import tomllib
from importlib.metadata import version

import yaml

from cbir.common import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def normal(name):
    return re.sub(r"[-_.]+", "-", name).lower()


def names(requirements):
    return {normal(re.split(r"[<>=!\[ ]", r)[0]) for r in requirements}


def pins():
    found = {}
    for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines():
        if line and not line.startswith("#"):
            assert re.fullmatch(r"[\w.-]+==[\w.+!-]+", line)
            name, number = line.lower().split("==")
            found[normal(name)] = number
    return found


def test_dependencies_are_few_and_pinned():
    assert len(PROJECT["dependencies"]) <= 18
    wanted = names(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        wanted |= names(extra)
    assert wanted - {"cbir"} <= set(pins())  # extras name each other as cbir[extra]
    for name in names(PROJECT["dependencies"]):  # the tests speak for the versions that users get
        assert version(name).split("+")[0] == pins()[name], name


def test_conda_environment_installs_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, requirements = environment["dependencies"]
    assert PROJECT["requires-python"].removeprefix(">=").startswith(python.split("=")[1])
    assert requirements["pip"] == ["-c constraints.txt", "-e .[test]"]


def test_no_package_index_is_named():
    command = ["git", "ls-files"]
    files = subprocess.check_output(command, cwd=ROOT, text=True)
    parts = ["index" + "-url", "find" + "-links", r"pypi\." + "org", "pytorch" + r"\.org/whl"]
    pattern = re.compile("|".join(parts))
    assert files
    for file in files.split():
        path = ROOT / file
        if path.is_file() and path.suffix not in (".safetensors", ".png", ".jpg", ".npz"):
            assert not pattern.search(path.read_text(encoding="utf-8")), file


def test_readme_commands_exist_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", readme, re.M))
    assert {"reproduce", "test", "lab", "notebooks", "help"} <= named <= targets


def test_version_is_the_same_everywhere():
    import cbir

    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cbir.__version__ == PROJECT["version"] == citation["version"]

"""What holds the project together: the three lists of dependencies, the README, the sources."""

import re
import subprocess
from importlib.metadata import version

import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from test_install import PROJECT, PYTHONS, by_pins, pins

import cbir
from cbir.common import ROOT

RUNNERS = {"ubuntu-latest": "POSIX :: Linux", "macos-latest": "MacOS"}
RUNNERS |= {"windows-latest": "Microsoft :: Windows"}


@by_pins
def test_dependencies_are_few_and_those_of_the_tests():
    """These speak for the versions that users get."""
    assert len(PROJECT["dependencies"]) <= 18
    for line in PROJECT["dependencies"]:
        name = Requirement(line).name
        assert version(name).split("+")[0] == pins()[canonicalize_name(name)], name


def test_conda_environment_installs_the_same():
    environment = yaml.safe_load((ROOT / "environment.yml").read_text(encoding="utf-8"))
    python, pip, requirements = environment["dependencies"]
    assert PROJECT["requires-python"].removeprefix(">=").startswith(python.split("=")[1])
    assert requirements["pip"] == ["-c constraints.txt", "-e .[test]"]


def test_no_package_index_is_named():
    files = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True)
    parts = ["index" + "-url", "find" + "-links", r"pypi\." + "org", "pytorch" + r"\.org/whl"]
    pattern = re.compile("|".join(parts))
    assert files
    for file in files.split():
        path = ROOT / file
        if path.is_file() and path.suffix not in (".safetensors", ".png", ".jpg", ".npz", ".gz"):
            assert not pattern.search(path.read_text(encoding="utf-8")), file


def test_commands_of_the_pages_exist_in_the_makefile():
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), ROOT / "data" / "README.md"]
    text = "\n".join(page.read_text(encoding="utf-8") for page in pages)
    targets = set(re.findall(r"^([a-z-]+):", makefile, re.M))
    named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.M))
    assert {"reproduce", "paper", "results", "verdict", "notebooks", "help"} <= named <= targets


def test_workflows_call_what_there_is():
    """On every system that the classifiers name."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for file in (ROOT / ".github" / "workflows").iterdir():
        (job,) = yaml.safe_load(file.read_text(encoding="utf-8"))["jobs"].values()
        commands = [step.get("run", "") for step in job["steps"]]
        targets = re.findall(r"make ([a-z-]+)", "\n".join(commands))
        assert targets == ["reproduce", "test"]  # the notebooks' outputs are those of the run
        assert all(f"\n{target}:" in makefile for target in targets)
        matrix = job["strategy"]["matrix"]
        systems = {f"Operating System :: {RUNNERS[runner]}" for runner in matrix["system"]}
        assert systems == {line for line in PROJECT["classifiers"] if "System ::" in line}
        assert set(matrix["python"]) <= set(PYTHONS)


def test_version_is_the_same_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert cbir.__version__ == PROJECT["version"] == citation["version"]

"""What an installation brings, and on which Pythons."""

import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, metadata
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

from cbir.common import ROOT

OLDEST = "3.11.2"  # Debian 12's


def test_the_oldest_python_can_have_every_pinned_package():
    """By what the packages that are installed here say of themselves."""
    refusing = []
    for line in (ROOT / "constraints.txt").read_text().splitlines():
        found = re.match(r"([\w.-]+)==", line)
        if not found:
            continue
        try:
            wanted = metadata(found[1]).get("Requires-Python")
        except PackageNotFoundError:  # of another system, or of an extra
            continue
        if wanted and OLDEST not in SpecifierSet(wanted):
            refusing.append(f"{found[1]} {wanted}")
    assert not refusing
    assert OLDEST in SpecifierSet(metadata("cbir")["Requires-Python"])


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
    environment = {"PYTHONPATH": str(wheel), "HOME": str(folder), "PATH": "/usr/bin:/bin"}
    done = subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_wheel_has_the_whole_project(wheel, tmp_path):
    where = run(wheel, tmp_path, "-c", "import cbir; print(cbir.__file__)")
    assert Path(where.strip()).is_relative_to(wheel)
    assert "max_queries" in run(wheel, tmp_path, "-m", "cbir", "parameters")
    code = "import cbir; print(cbir.load_network(), cbir.Run('mine').path.resolve())"
    assert str(tmp_path / "runs" / "mine") in run(wheel, tmp_path, "-c", code)


@pytest.mark.slow
def test_a_wheel_reproduces_away_from_the_checkout(wheel, tmp_path):
    small = ["--only", "01-03", "-p", "max_queries", "20"]
    run(wheel, tmp_path, "-m", "cbir", "reproduce", *small)
    made = tmp_path / "runs" / "embedded"
    assert (made / "report.html").is_file() and list((made / "figures").glob("*.png"))
    assert not (wheel / "cbir" / "project" / "data" / "embedded").exists()

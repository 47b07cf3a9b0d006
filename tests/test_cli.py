"""The command line by itself: help that teaches, and what it says to a slip of the pen.

test_reproduce.py runs the commands.
"""

import io
import json
import re
import shlex
import subprocess
import sys

import pytest
import yaml

import cbir
from cbir import cli, project
from cbir.common import ROOT
from cbir.sweep import read_sweep


def say(capsys, *words):
    """What a command prints, (stdout, stderr), and how it exits."""
    code = 0
    try:
        cli.main(words)
    except SystemExit as stop:
        code = stop.code
    return *capsys.readouterr(), code


# ---- help ---------------------------------------------------------------------------------------


def test_help_tells_the_story_and_lists_every_command(capsys):
    out, _, code = say(capsys, "--help")
    assert code == 0 and "runs/<name>/" in out and "report.html" in out
    commands = re.findall(r"^    (\w+)  ", out, re.M)
    assert {"reproduce", "evidence", "sweep", "query", "parameters"} <= set(commands)
    for first in ("reproduce ", "reproduce --profile folder", "query photo.jpg"):
        assert f"cbir {first}" in out


@pytest.mark.parametrize(
    "command", ["reproduce", "evidence", "sweep", "report", "query", "parameters"]
)
def test_examples_of_the_help_are_commands_that_exist(command, capsys):
    """Every example is understood, and every name in it is known."""
    out, _, _ = say(capsys, command, "--help")
    examples = []
    for line in out.split("examples:")[1].splitlines():
        if line.startswith("  cbir "):
            words, *_ = re.split(r" {3,}|  +(?=\w+ )", line.strip())
            examples.append(shlex.split(words))
    assert len(examples) >= 2 and all(example[:2] == ["cbir", command] for example in examples)
    selected = cli.PAPER if command == "reproduce" else cli.EVIDENCE
    for example in examples:
        args = cli._parser().parse_args(example[1:])
        if command in ("reproduce", "evidence"):
            project.check_names(args.profile, [name for name, _ in args.parameter], selected)
        if command == "sweep":
            assert (ROOT / args.file).is_file()


def test_the_sweep_of_the_help_is_one(capsys, tmp_path):
    out, _, _ = say(capsys, "sweep", "--help")
    _, rest = out.split("  profile: folder")
    text = "profile: folder" + rest.replace("\n  ", "\n").rstrip()
    grid = tmp_path / "grid.yaml"
    grid.write_text(text)
    assert set(yaml.safe_load(text)) == {"profile", "parameters", "grid"}
    assert len(read_sweep(grid).cells) == 6


def test_profiles_are_described_in_the_help(capsys):
    out, _, _ = say(capsys, "reproduce", "--help")
    for path in (ROOT / "profiles").glob("*.yaml"):
        assert re.search(rf"^  {path.stem} +[A-Z].+", out, re.M)


def test_version(capsys):
    assert say(capsys, "--version") == (f"cbir {cbir.__version__}\n", "", 0)


def test_letters_that_the_terminal_has_not_are_spelt_out(monkeypatch):
    monkeypatch.setattr(cli, "STORY", "η of 写真.jpg, é")
    western = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", western)
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    western.flush()
    assert r"\u03b7 of \u5199\u771f.jpg, é" in western.buffer.getvalue().decode("cp1252")


def test_python_m_cbir():
    command = [sys.executable, "-m", "cbir", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == f"cbir {cbir.__version__}\n"


# ---- parameters ---------------------------------------------------------------------------------


def test_parameters_are_those_of_the_notebooks():
    """Read without papermill, which takes seconds, they are what papermill finds."""
    from papermill import inspect_notebook

    for name in project.notebooks():
        comments = {k: parameter.comment for k, parameter in project.parameters(name).items()}
        known = inspect_notebook(str(ROOT / "notebooks" / f"{name}.ipynb"))
        assert comments and comments == {k: about["help"].strip() for k, about in known.items()}
    assert project.parameters("03_retrieval")["k"] == (5, "images retrieved for a query")
    with pytest.raises(ValueError, match="no notebook '99_none'"):
        project.parameters("99_none")


@pytest.fixture
def parameters_cell(tmp_path, monkeypatch):
    """Makes a notebook "00_mine" with one parameters cell, and reads its parameters."""
    monkeypatch.setattr(project, "ROOT", tmp_path)
    (tmp_path / "notebooks").mkdir()

    def read(source):
        cells = [
            {"metadata": {"tags": ["parameters"]}, "source": source.splitlines(keepends=True)},
            {"metadata": {}, "source": ["x = 1  # no parameter"]},
        ]
        notebook = json.dumps({"cells": cells})
        (tmp_path / "notebooks" / "00_mine.ipynb").write_text(notebook, encoding="utf-8")
        return project.parameters("00_mine")

    return read


def test_parameters_of_every_shape_are_read(parameters_cell):
    source = """# what it needs
a = "#1"    # ends a line, "#" and all
b = [1,
     None]  # over two lines
c = -0.5

d=True # close by
"""
    assert parameters_cell(source) == {
        "a": ("#1", 'ends a line, "#" and all'),
        "b": ([1, None], "over two lines"),
        "c": (-0.5, ""),
        "d": (True, "close by"),
    }


@pytest.mark.parametrize(
    "line, said",
    [
        ("q = 1 / 2  # half", "'q = 1 / 2', whose value is no literal"),
        ("q, k = 0.5, 5  # both", "'q, k = 0.5, 5', which is no parameter"),
        ("q: float = 0.5  # annotated", "'q: float = 0.5', which is no parameter"),
        ("import os", "'import os', which is no parameter"),
        ("%config x = 1", "invalid syntax"),
    ],
)
def test_a_line_that_is_no_parameter_is_not_dropped(parameters_cell, line, said):
    with pytest.raises(ValueError, match="00_mine.ipynb: the parameters cell has") as refused:
        parameters_cell(f"k = 5  # as it should be\n{line}\n")
    assert said in str(refused.value)


def test_parameters_are_listed(capsys):
    out, _, _ = say(capsys, "parameters")
    known = set()
    for notebook in project.notebooks():
        known |= project.parameters(notebook).keys()
    groups, listed = [], set()
    for line in out.splitlines():
        if line.removesuffix(":") in cli.GROUPS:
            groups.append(line.removesuffix(":"))
        elif line and not line.startswith(" "):
            listed.add(line.split()[0])
    assert listed == known
    assert groups == list(cli.GROUPS)
    named = [name for names in cli.GROUPS.values() for name in names]
    assert len(named) == len(set(named)) and set(named) < known
    first, _, _ = say(capsys, "parameters", "k", "depth")
    assert first.startswith(f"{'k':<20}{'5':<13}images retrieved for a query [03 05 ")


# ---- slips of the pen ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, said",
    [
        ("reprodce", "did you mean 'reproduce'?"),
        ("query photo.jpg --metric cosin", "did you mean 'cosine'?"),
        ("query photo.jpg --mtric cosine", "did you mean '--metric'?"),
        ("reproduce --profil embedded --scheduler", "expected one argument"),
    ],
)
def test_misspelt_commands_and_options(words, said, capsys):
    _, err, code = say(capsys, *words.split())
    assert code == 2 and said in err.splitlines()[-1]


@pytest.mark.parametrize(
    "words, said",
    [
        (
            "reproduce --profile foldr",
            "unknown profile 'foldr' (did you mean 'folder'?): choose one of 'embedded', ",
        ),
        (
            "reproduce -p metrc l1",
            "a parameter 'metrc' (did you mean 'metric'?): `cbir parameters` lists",
        ),
        (
            "reproduce -p cutoffs 1",
            "a parameter 'cutoffs', but 05_evidence: see `cbir parameters cutoffs`",
        ),
        ("reproduce -p run_name mine", "named by --name"),
        ("parameters metrc", "did you mean 'metric'?"),
        ("query photo.jpg --run embeded", "no run 'embeded'"),
    ],
)
def test_unknown_names(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path))
    _, _, code = say(capsys, *words.split())
    assert code.startswith("cbir: ") and said in code and "\n" not in code

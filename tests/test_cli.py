"""The command line by itself: its help, and what it says to a slip of the pen."""

import io
import re
import sys

import pytest

from cbir import cli, notebooks
from cbir.run import OPTIONS

COMMANDS = ["reproduce", "evidence", "query", "explore", "sweep", "report", "compare", "parameters"]

MISSPELT = """reprodce|did you mean 'reproduce'?
query photo.jpg --metric cosin|did you mean 'cosine'?
query photo.jpg --mtric=cosine|unrecognized arguments: --mtric=cosine
reproduce --profil slim --scheduler|expected one argument"""


def say(capsys, *words):
    """What a command prints, (stdout, stderr), and how it exits."""
    code = 0
    try:
        cli.main(words)
    except SystemExit as stop:
        code = stop.code
    return *capsys.readouterr(), code


def test_help_lists_every_command(capsys):
    out, _, code = say(capsys, "--help")
    assert code == 0 and "runs/<name>/" in out and "report.html" in out
    assert re.findall(r"^    (\w+)", out, re.M) == COMMANDS
    for command in COMMANDS:
        out, _, code = say(capsys, command, "--help")
        assert code == 0 and out.startswith(f"usage: cbir {command}")


def test_letters_that_the_terminal_has_not_are_spelt_out(monkeypatch):
    monkeypatch.setattr(cli, "__doc__", "η of 写真.jpg, é")
    western = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stdout", western)
    with pytest.raises(SystemExit):
        cli.main(["--help"])
    western.flush()
    assert r"\u03b7 of \u5199\u771f.jpg, é" in western.buffer.getvalue().decode("cp1252")


def test_parameters_are_listed_with_defaults_and_notebooks(capsys):
    out, _, _ = say(capsys, "parameters")
    known = set(OPTIONS)
    for notebook in notebooks.numbered():
        known |= notebooks.parameters(notebook).keys()
    assert {line.split()[0] for line in out.splitlines()} == known
    assert notebooks.parameters("03_retrieval")["k"] == (5, "images retrieved for a query")
    assert [name[:2] for name in notebooks.by_number("02-04,7")] == ["02", "03", "04", "07"]
    first, _, _ = say(capsys, "parameters", "k", "dtype")
    assert f"{'k':<20}{'5':<13}images retrieved for a query [03 " in first
    assert first.startswith("dtype ") and '"float32"' in first
    _, _, code = say(capsys, "parameters", "metrc")
    assert code == "cbir: no notebook has a parameter 'metrc' (did you mean 'metric'?)"


@pytest.mark.parametrize("line", MISSPELT.splitlines())
def test_misspelt_commands_and_options(line, capsys):
    words, said = line.split("|")
    _, err, code = say(capsys, *words.split())
    assert code == 2 and said in err.splitlines()[-1]


def test_an_interrupted_command_ends_with_one_line(monkeypatch, capsys):
    def interrupt(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr("cbir.sweep.sweep", interrupt)
    _, _, code = say(capsys, "sweep", "sweeps/metric.yaml")
    assert code == "\ncbir: interrupted; the same command, given again, goes on"

"""The command line by itself: help that teaches, what it says to a slip of the pen, completion by the Tab key. test_reproduce.py runs the commands."""

import os
import re
import shlex
import subprocess
import sys

import pytest
import yaml

import cbir
from cbir import cli
from cbir.common import ROOT
from cbir.workflow import project
from cbir.workflow.sweep import read_sweep

README = (ROOT / "README.md").read_text(encoding="utf-8")


def say(capsys, *words):
    """What a command prints, (stdout, stderr), and how it exits."""
    code = 0
    try:
        cli.main(words)
    except SystemExit as stop:
        code = stop.code
    return *capsys.readouterr(), code


# ---- help -------------------------------------------------------------------------------------------------------------------

def test_help_tells_the_story_and_lists_every_command(capsys):
    out, _, code = say(capsys, "--help")
    assert code == 0 and "runs/<name>/" in out and "report.html" in out
    commands = re.findall(r"^    (\w+)  ", out, re.M)
    assert {"reproduce", "evidence", "sweep", "query", "parameters"} <= set(commands)
    assert all(f"cbir {first}" in out for first in ("reproduce ", "reproduce --profile folder", "query photo.jpg"))


@pytest.mark.parametrize("command", ["reproduce", "evidence", "sweep", "query", "parameters"])
def test_examples_of_the_help_are_commands_that_exist(command, capsys):
    """Every example is understood, and every name in it is known."""
    out, _, _ = say(capsys, command, "--help")
    examples = [shlex.split(re.split(r" {3,}|  +(?=\w+ )", line.strip())[0]) for line in out.split("examples:")[1].splitlines() if line.startswith("  cbir ")]
    assert len(examples) >= 2 and all(example[:2] == ["cbir", command] for example in examples)
    for example in examples:
        args = cli._parser().parse_args(example[1:])
        if command in ("reproduce", "evidence"):
            project.check_names(args.profile, [name for name, _ in args.parameter], cli.PAPER if command == "reproduce" else cli.EVIDENCE)
        if command == "sweep":
            assert (ROOT / args.file).is_file()


def test_the_sweep_of_the_help_is_one(capsys, tmp_path):
    out, _, _ = say(capsys, "sweep", "--help")
    (tmp_path / "grid.yaml").write_text(out[out.index("  profile: folder"):].replace("\n  ", "\n").strip())
    assert set(yaml.safe_load((tmp_path / "grid.yaml").read_text())) == {"profile", "parameters", "grid"}
    assert len(read_sweep(tmp_path / "grid.yaml").cells) == 6


def test_profiles_are_described_in_the_help(capsys):
    out, _, _ = say(capsys, "reproduce", "--help")
    for path in (ROOT / "profiles").glob("*.yaml"):
        assert re.search(rf"^  {path.stem} +[A-Z].+", out, re.M)


def test_version(capsys):
    assert say(capsys, "--version") == (f"cbir {cbir.__version__}\n", "", 0)


def test_python_m_cbir():
    done = subprocess.run([sys.executable, "-m", "cbir", "--version"], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == f"cbir {cbir.__version__}\n"


# ---- parameters -------------------------------------------------------------------------------------------------------------

def test_parameters_are_those_of_the_notebooks():
    """Read without papermill, which takes seconds, they are what papermill finds."""
    from papermill import inspect_notebook
    for name in project.notebooks():
        known = project.parameters(name)
        assert known and {k: p.comment for k, p in known.items()} == {
            k: about["help"].strip() for k, about in inspect_notebook(str(ROOT / "notebooks" / f"{name}.ipynb")).items()}
    assert project.parameters("03_retrieval")["k"] == (5, "images retrieved for a query")
    with pytest.raises(ValueError, match="no notebook '99_none'"):
        project.parameters("99_none")


def test_parameters_are_listed(capsys):
    out, _, _ = say(capsys, "parameters")
    assert {line.split()[0] for line in out.splitlines() if line[0] != " "} == {
        p for name in project.notebooks() for p in project.parameters(name)} - {"run_name"}
    assert say(capsys, "parameters", "k", "depth")[0].startswith("k                   5            images retrieved for a query [03 05 ")


# ---- slips of the pen -------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("words, said", [
    ("reprodce", "did you mean 'reproduce'?"),
    ("query photo.jpg --metric cosin", "did you mean 'cosine'?"),
    ("query photo.jpg --mtric cosine", "did you mean '--metric'?"),
    ("reproduce --profil embedded --scheduler", "expected one argument"),
])
def test_misspelt_commands_and_options(words, said, capsys):
    _, err, code = say(capsys, *words.split())
    assert code == 2 and said in err.splitlines()[-1]


@pytest.mark.parametrize("words, said", [
    ("reproduce --profile foldr", "unknown profile 'foldr' (did you mean 'folder'?): choose one of 'embedded', "),
    ("reproduce -p metrc l1", "a parameter 'metrc' (did you mean 'metric'?): `cbir parameters` lists"),
    ("reproduce -p cutoffs 1", "a parameter 'cutoffs', but 05_evidence: see `cbir parameters cutoffs`"),
    ("reproduce -p run_name mine", "named by --name"),
    ("parameters metrc", "did you mean 'metric'?"),
    ("query photo.jpg --run embeded", "no run 'embeded'"),
])
def test_unknown_names(words, said, capsys, tmp_path, monkeypatch):
    monkeypatch.setenv("CBIR_RUNS", str(tmp_path))
    _, _, code = say(capsys, *words.split())
    assert code.startswith("cbir: ") and said in code and "\n" not in code


# ---- completion -------------------------------------------------------------------------------------------------------------

def complete(line, runs, words=" "):
    """What the Tab key offers after `line`: the protocol of argcomplete, as bash speaks it."""
    environment = os.environ | {"_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": "\n", "_ARGCOMPLETE_COMP_WORDBREAKS": words, "COMP_LINE": line,
                                "COMP_POINT": str(len(line)), "COMP_TYPE": "9", "CBIR_RUNS": str(runs)}
    done = subprocess.run(["sh", "-c", 'exec "$0" -m cbir 8>&1 9>&2 1>/dev/null', sys.executable], capture_output=True, text=True, env=environment, cwd=ROOT)
    assert not done.stderr
    return {word.strip() for word in done.stdout.split("\n")}


@pytest.fixture
def runs(folder, tiny_net, tmp_path):
    """A folder of runs, one of which can be searched."""
    cbir.extract(folder, tiny_net, tmp_path / "runs" / "mine" / "stores" / "database", extras={"mac": "mac"})
    (tmp_path / "runs" / "other").mkdir()
    return tmp_path / "runs"


@pytest.mark.parametrize("line, offered", [
    ("cbir ", {"reproduce", "evidence", "sweep", "query", "parameters", "--help", "--version"}),
    ("cbir rep", {"reproduce"}),
    ("cbir reproduce --", {"--profile", "--name", "--parameter", "--scheduler", "--help"}),
    ("cbir reproduce --profile ", {"embedded", "folder", "imagenette", "imagenet"}),
    ("cbir reproduce -p me", {"metric"}),
    ("cbir reproduce -p metric ", {"l1", "l2", "cosine"}),
    ("cbir evidence -p q 1 -p crop ", {"True", "False"}),
    ("cbir evidence -p images pro", {"profiles/"}),
    ("cbir sweep sweeps/m", {"sweeps/metric.yaml"}),
    ("cbir query --metric c", {"cosine"}),
    ("cbir query --run ", {"mine"}),
    ("cbir query --run mine --descriptor ", {"h", "eta_conv", "eta", "w_1", "w_2", "w_3", "y_4", "mac"}),
    ("cbir query --run other --descriptor ", {""}),
    ("cbir parameters cut", {"cutoffs"}),
])
def test_the_tab_key(line, offered, runs):
    assert complete(line, runs) >= offered if line == "cbir " else complete(line, runs) == offered


def test_completion_of_descriptors_is_what_the_store_has(runs):
    path = runs / "mine" / "stores" / "database"
    assert project.descriptors(path) == list(cbir.open_store(path).descriptors)


def test_the_readme_sets_completion_up():
    assert all(shell in README for shell in ('eval "$(register-python-argcomplete cbir)"', "register-python-argcomplete --shell fish cbir | source"))

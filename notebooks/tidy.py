"""The metadata of notebooks as they are committed: `notebooks/tidy.py [--check] notebooks/*.ipynb`.

Sources, outputs, execution counts, cell ids and tags stay as they are. Kernel and language are
named as on any machine. What editors and runs leave behind goes: versions, timings, widgets'
states, what was collapsed. With --check nothing is written: it exits with 1 where something would
change.
"""

import sys
from pathlib import Path

import nbformat

KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}
LANGUAGE = {
    "file_extension": ".py",
    "mimetype": "text/x-python",
    "name": "python",
    "nbconvert_exporter": "python",
    "pygments_lexer": "ipython3",
}


def tidy(text: str) -> str:
    """A notebook file's text with its metadata tidied."""
    notebook = nbformat.reads(text, as_version=4)
    notebook.metadata = {"kernelspec": KERNEL, "language_info": LANGUAGE}
    for cell in notebook.cells:
        cell.metadata = {"tags": cell.metadata["tags"]} if cell.metadata.get("tags") else {}
    return nbformat.writes(notebook) + "\n"


def main(arguments: list[str]) -> int:
    """Tidies files, or only names them with --check; returns the exit status."""
    check = "--check" in arguments
    files = [Path(argument) for argument in arguments if argument != "--check"]
    untidy = 0
    for file in files:
        before = file.read_text(encoding="utf-8")
        after = tidy(before)
        if before == after:
            continue
        untidy += 1
        if check:
            print(f"{file}: metadata to tidy: python notebooks/tidy.py {file}")
        else:
            file.write_text(after, encoding="utf-8", newline="\n")
            print(f"{file}: metadata tidied")
    return 1 if check and untidy else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

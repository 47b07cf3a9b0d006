"""`python -m cbir`: the command line."""

from .cli import main

main()

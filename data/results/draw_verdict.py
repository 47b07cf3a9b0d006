"""Draws docs/verdict.png, all cells of data/results/: `python data/results/draw_verdict.py`."""

import matplotlib.pyplot as plt

from cbir import claims, figures, plots
from cbir.common import ROOT

if __name__ == "__main__":
    figures.use_style()
    figure, axes = plt.subplots(1, 3, figsize=(figures.WIDTH, 5.4), sharey=True)
    plots.verdict(axes, claims.read_cells())
    figure.savefig(ROOT / "docs" / "verdict.png")

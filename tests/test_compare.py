"""Two runs side by side on one page."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from conftest import check_self_contained, read_page

import cbir
from cbir import cli
from cbir.report import compare


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    pair = cbir.Run("printed", folder), cbir.Run("released", folder)
    for run, mean in zip(pair, (0.25, 0.5)):
        run.set(recipe=f"as_{run.name}", images="/photos")
        row = {"metric": "same class", "descriptor": "eta", "mean": mean}
        run.record(status="complete", results=[row | {"low": mean - 0.125, "high": mean + 0.125}])
        table = pd.DataFrame({"query": ["mean"], "printed eta": [mean]})
        table.to_csv(run.path / "table1.csv", index=False)
        ranks = np.array([[0, 1, 2], [3, 4, 5]]) + int(run.name == "released")
        run.save_arrays("hits", eta_indices=ranks)
        fig, ax = plt.subplots(figsize=(1, 1))
        ax.plot([0, mean])
        run.save_figure(fig, "fig06", "Fig. 6. <Found>")
        plt.close(fig)
    return pair


def test_the_page_has_what_differs(runs, folder, tiny_net, tmp_path, monkeypatch, capsys):
    for run in runs:
        for part in ("database", "queries"):
            cbir.extract(folder, tiny_net, run.path / "stores" / part)
    monkeypatch.setenv("CBIR_RUNS", str(runs[0].path.parent))
    monkeypatch.chdir(tmp_path)
    cli.main(["compare", "printed", str(runs[1].path)])
    assert capsys.readouterr().out.strip() == "Done: compare_printed_released.html"
    page = read_page("compare_printed_released.html")
    check_self_contained(page)
    text = page.get_text(" ")
    for part in ("printed and released", "as_printed", "as_released", "0.250 [0.125, 0.375]"):
        assert part in text
    assert "b − a" in text and "0.25" in text and "/photos" not in text  # of both: no difference
    common = page.find("h2", string="Common hits").find_next("table")
    assert [cell.text for cell in common.tbody.tr.find_all("td")] == ["0.667", "0.0"]
    assert [image["alt"] for image in page.find_all("img")] == 2 * ["Fig. 6. <Found>"]


def test_numbers_over_other_images_are_not_subtracted(runs, tmp_path):
    other = cbir.Run("elsewhere", tmp_path)
    other.record(results=[])
    (other.path / "table1.csv").write_bytes((runs[0].path / "table1.csv").read_bytes())
    text = read_page(compare(runs[0], other, tmp_path / "page.html")).get_text()
    assert "The runs have other images" in text and "b − a" not in text
    with pytest.raises(SystemExit, match="no run 'nowhere'"):
        cli.main(["compare", "nowhere", "printed"])

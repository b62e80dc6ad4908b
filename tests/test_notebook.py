"""docs/quickstart.ipynb runs from its first cell to its last, and names no machine's folders."""

import pytest

from helpers import ROOT

NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


@pytest.mark.slow
def test_the_notebook_runs():
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    book = nbformat.read(NOTEBOOK, as_version=4)
    place = {"metadata": {"path": str(NOTEBOOK.parent)}}
    client = nbclient.NotebookClient(book, timeout=300, kernel_name="python3", resources=place)
    client.execute()  # CellExecutionError, with the traceback, for a cell that fails
    pictures = [
        out
        for cell in book.cells
        for out in cell.get("outputs", [])
        if "image/png" in out.get("data", {})
    ]
    assert len(pictures) == 1


def test_what_it_shows_is_of_nobodys_machine():
    text = NOTEBOOK.read_text(encoding="utf-8")
    assert "/tmp/" not in text and "/home/" not in text and '"image/png"' in text

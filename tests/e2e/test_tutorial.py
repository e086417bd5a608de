"""The tutorial runs from its first cell to its last."""

import io
from base64 import b64decode
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

NOTEBOOK = Path(__file__).parents[2] / "docs" / "tutorial.ipynb"


@pytest.fixture(scope="module")
def notebook():
    return nbformat.read(NOTEBOOK, as_version=4)


def test_outputs_are_stripped(notebook):
    assert not any(cell.get("outputs") for cell in notebook.cells)


def test_tutorial_runs(notebook, tmp_path, monkeypatch):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path / "runtime"))
    client = NotebookClient(
        notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    shown = [output.data for output in outputs if "data" in output]
    plots = [b64decode(data["image/png"]) for data in shown if "image/png" in data]
    assert len(plots) == 3
    with Image.open(io.BytesIO(plots[-1])) as animation:
        assert animation.n_frames == 47
    assert (tmp_path / "tutorial.nerv").stat().st_size > 1000

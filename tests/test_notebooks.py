import os
from functools import partial
from pathlib import Path

import nbformat
import packages
import pytest
from nbclient import NotebookClient

from moofusion.zoo import build, build_zoo

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A folder with a miniature of lm3, which nobody has built before the tests."""
    folder, archives = tmp_path_factory.mktemp("zoo"), tmp_path_factory.mktemp("archives")
    with pytest.MonkeyPatch.context() as patch:
        packages.expect(patch, packages.language_archives(archives))
        patch.setattr(build, "LanguageRecipe", partial(packages.small_languages, context=128))
        build_zoo("lm3", data=archives, out=folder / "lm3", progress=False, threads=1)
    return folder


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::ResourceWarning")
def test_the_notebook_runs_from_start_to_end(path, zoo, tmp_path, monkeypatch):
    monkeypatch.setenv("MOOFUSION_ZOO", str(zoo))
    monkeypatch.setenv("MOOFUSION_SHORT", "1")
    monkeypatch.setenv("MOOFUSION_WORK", str(tmp_path / "work"))
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    notebook = nbformat.read(path, as_version=4)
    before = path.read_bytes()
    NotebookClient(
        notebook,
        timeout=120,
        kernel_name="python3",
        resources={"metadata": {"path": str(tmp_path)}},
    ).execute()
    assert path.read_bytes() == before
    shown = [
        output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs
    ]
    warned = [o.text for o in shown if o.get("name") == "stderr" and "Warning" in o.text]
    assert not warned
    assert any("image/png" in output.get("data", {}) for output in shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=[path.stem for path in NOTEBOOKS])
def test_the_notebook_is_stored_with_its_results(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error"
            assert output.get("name") != "stderr", output.get("text")
            assert str(Path.home()) not in str(output)
            assert os.sep + "tmp" + os.sep not in str(output)

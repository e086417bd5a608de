"""The documentation builds without a warning, and what it shows of the interfaces is true."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import COMMANDS, moving_square

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "EXECUTE_NOTEBOOKS": "false"},  # test_tutorial.py executes it
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_each_command_has_its_help_on_a_page(site):
    page = (site / "reference" / "cli.html").read_text()
    for command in COMMANDS:
        assert f'id="{command.replace(" ", "-")}"' in page
        assert f"usage: python -m {command} [-h]" in page


@pytest.mark.parametrize(
    "name",
    [
        "encoder.api.fit",
        "encoder.clip.Clip.decode",
        "encoder.config.FitConfig.file_size",
        "encoder.models.base.VideoNetwork.latent_parameters",
        "encoder.training.recipe.Recipe.lambda_",
        "export.engines.base.Engine.frames",
        "export.engines.registry.open_engine",
    ],
)
def test_python_interface_is_on_a_page(site, name):
    assert f'id="{name}"' in (site / "reference" / "python.html").read_text()


def test_links_of_the_readme_lead_to_files():
    links = re.findall(r"\]\((?!https?:)([^)#]+)", README)
    assert len(links) > 10
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_python_lines_of_the_readme_run(tmp_path, monkeypatch, write_video):
    (lines,) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    write_video(moving_square(8, 36, 64), "bunny.mp4")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(lines.replace("epochs=60", "epochs=1"), names)
    assert names["clip"].size == (320, 180)
    assert names["frames"].shape == names["batch"].shape == (8, 3, 180, 320)
    assert names["between"].shape == (2, 3, 180, 320)

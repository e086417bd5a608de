"""The documentation builds without a warning, and what it shows of the interfaces is true."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import COMMANDS, moving_square

from encoder.cli.main import main as encoder_main

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


def test_job_on_kubernetes_is_a_fit(monkeypatch):
    page = (ROOT / "docs" / "how-to" / "long-videos.md").read_text()
    (text,) = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    spec = yaml.safe_load(text)["spec"]
    found = []
    monkeypatch.setattr("encoder.cli.fit._fit", found.append)
    python, flag, package, *arguments = spec["entrypoint"].split()
    assert (python, flag, package) == ("python", "-m", "encoder")
    assert encoder_main(arguments) == 0
    cluster = spec["rayClusterSpec"]
    head = cluster["headGroupSpec"]
    (workers,) = cluster["workerGroupSpecs"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    for group in (head, workers):
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        mounts = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert set(mounts) == {volume["name"] for volume in pod["volumes"]}
        for path in (found[0].video, found[0].output):  # all pods see them
            assert any(path.is_relative_to(folder) for folder in mounts.values())
    assert container["resources"]["limits"]["cpu"] == str(found[0].threads)


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

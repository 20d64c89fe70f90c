"""The folder links of the checkout, and the build that refuses a checkout without them."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINKED = ("export", "runtime", "calibration")


@pytest.mark.parametrize("name", LINKED)
def test_links_are_links(name):
    link = ROOT / "mmcl_edge" / name
    assert link.is_symlink(), (
        f"mmcl_edge/{name} should be a link to ../{name}, but this checkout holds something else there "
        "(git wrote it as a text file?); clone again with 'git clone -c core.symlinks=true'"
    )
    assert os.readlink(link) == f"../{name}"
    assert (link / "__init__.py").is_file()


def test_a_build_takes_every_file_along():
    tomllib = pytest.importorskip("tomllib", reason="Python 3.11 or newer reads pyproject.toml")
    patterns = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]["mmcl_edge"]
    taken = {path for pattern in patterns for path in (ROOT / "mmcl_edge").glob(pattern)}
    there = {path for path in (ROOT / "mmcl_edge").rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert there == taken


@pytest.mark.parametrize("name", LINKED)
def test_linked_folders_are_imported_under_one_name(name):
    code = f"import mmcl_edge.{name} as module; print(module.__name__)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == f"mmcl_edge.{name}\n"


@pytest.mark.parametrize("name", LINKED)
def test_the_build_refuses_a_link_that_became_a_text_file(tmp_path, name):
    shutil.copy(ROOT / "setup.py", tmp_path)
    for other in LINKED:
        (tmp_path / "mmcl_edge" / other).mkdir(parents=True)
        (tmp_path / "mmcl_edge" / other / "__init__.py").touch()
    shutil.rmtree(tmp_path / "mmcl_edge" / name)
    (tmp_path / "mmcl_edge" / name).write_text(f"../{name}")
    command = [sys.executable, "setup.py", "--version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode != 0
    assert f"mmcl_edge/{name} should be a link" in done.stderr
    assert "core.symlinks=true" in done.stderr

"""What distributions get: an archive of the sources that is tested without git, and the wheel that is built of it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from typing import TYPE_CHECKING

import pytest

from tests.internals import PACKAGES, ROOT

if TYPE_CHECKING:
    from pathlib import Path

pytest.importorskip("setuptools", minversion="77")
pytestmark = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="this is no checkout: there is nothing to compare")

BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


@pytest.fixture(scope="module")
def tracked() -> set[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    return {name for name in listed.split("\0") if (ROOT / name).is_file()}


@pytest.fixture(scope="module")
def unpacked(tracked: set[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources as they come out of the archive."""
    checkout, archives, folder = (tmp_path_factory.mktemp(name) for name in ("checkout", "archives", "unpacked"))
    for name in tracked:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, checkout / name)
    run(checkout, "-c", BUILD, "build_sdist", str(archives))
    [archive] = archives.iterdir()
    with tarfile.open(archive) as opened:
        opened.extractall(folder, filter="data")
    [sources] = folder.iterdir()
    return sources


def run(folder: Path, *arguments: str) -> str:
    """Runs Python there, with nothing of this checkout."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST", "PYTHONPATH"))}
    ran = subprocess.run(
        [sys.executable, *arguments], check=False, cwd=folder, env=environment, capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stdout[-3_000:] + ran.stderr[-3_000:]
    return ran.stdout


def test_the_archive_has_all_that_is_tracked(tracked: set[str], unpacked: Path) -> None:
    assert {name for name in tracked if not (unpacked / name).is_file()} == set()


def test_the_archive_is_tested_without_git(unpacked: Path) -> None:
    run(unpacked, "-m", "pytest", "--collect-only", "-q", "tests")
    assert " passed" in run(unpacked, "-m", "pytest", "-q", "tests/unit/test_internals.py")


def test_the_wheel_has_all_files_of_the_packages(tracked: set[str], unpacked: Path, tmp_path: Path) -> None:
    run(unpacked, "-c", BUILD, "build_wheel", str(tmp_path))
    [wheel] = tmp_path.iterdir()

    ours = {name for name in tracked if name.partition("/")[0] in PACKAGES}
    with zipfile.ZipFile(wheel) as opened:
        assert ours - set(opened.namelist()) == set()
        assert {name.partition("/")[0] for name in opened.namelist() if ".dist-info/" not in name} == set(PACKAGES)

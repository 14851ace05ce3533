"""What `pip install` takes along: every package is listed, and every file that is needed is matched by a pattern."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

import omni
from tests.tiny import REPOSITORY

PYPROJECT: dict[str, Any] = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))
SETTINGS: dict[str, Any] = PYPROJECT["tool"]["setuptools"]
FOLDERS: dict[str, str] = SETTINGS["package-dir"]


def folder_of(package: str) -> Path:
    """Where a listed package lies: its own entry in package-dir, or its parent's, and the rest of its name."""
    names = package.split(".")
    for cut in range(len(names), 0, -1):
        if ".".join(names[:cut]) in FOLDERS:
            return REPOSITORY.joinpath(FOLDERS[".".join(names[:cut])], *names[cut:])
    raise AssertionError(f"{package} is in no folder of package-dir")


def taken(path: Path) -> bool:
    """Whether the wheel has a file: as a module of a listed package, or by a pattern of package-data."""
    patterns: dict[str, list[str]] = SETTINGS["package-data"]
    for package in SETTINGS["packages"]:
        folder = folder_of(package)
        if path.suffix == ".py" and path.parent == folder:
            return True
        if path.is_relative_to(folder):
            inside = str(path.relative_to(folder))
            depth = inside.count("/")
            if any(p.count("/") == depth and fnmatch(inside, p) for p in patterns.get(package, [])):
                return True
    return False


def tracked(folder: str) -> list[Path]:
    return sorted(
        p for p in (REPOSITORY / folder).rglob("*") if p.is_file() and "__pycache__" not in p.parts and p.name[0] != "."
    )


def test_every_folder_with_modules_is_a_listed_package() -> None:
    found = {
        "omni." + ".".join(p.parent.relative_to(REPOSITORY / "omni").parts)
        for p in tracked("omni")
        if p.suffix == ".py"
    }
    assert {f.rstrip(".") for f in found} <= set(SETTINGS["packages"])
    assert len(set(SETTINGS["packages"])) == len(SETTINGS["packages"])


def test_every_listed_package_is_there_and_is_no_namespace_by_accident() -> None:
    for package in SETTINGS["packages"]:
        folder = folder_of(package)
        assert folder.is_dir(), package
        if any(p.suffix == ".py" for p in folder.iterdir()):
            assert (folder / "__init__.py").is_file(), package


@pytest.mark.parametrize("folder", ["omni", "checkpoints", "demo", "examples", "recipes"])
def test_every_file_goes_into_the_wheel(folder: str) -> None:
    left_out = [str(p.relative_to(REPOSITORY)) for p in tracked(folder) if not taken(p)]
    assert left_out == []


def test_assets_and_weights_are_found_from_inside() -> None:
    from importlib import resources

    assert (resources.files("omni") / "assets" / "cmudict.txt.gz").is_file()
    assert SETTINGS["package-dir"]["omni.weights"] == "checkpoints"


def test_project_file_names_what_exists() -> None:
    project = PYPROJECT["project"]
    assert (REPOSITORY / project["readme"]).is_file()
    assert all((REPOSITORY / name).is_file() for name in project["license-files"])
    assert project["scripts"]["omni"] == "omni.cli:main"
    assert SETTINGS["dynamic"]["version"]["attr"] == "omni.__version__" if "dynamic" in SETTINGS else True
    assert omni.__version__.count(".") == 2


def test_extras_hold_what_only_training_and_measuring_need() -> None:
    base = " ".join(PYPROJECT["project"]["dependencies"])
    for name in ("matplotlib", "pytest", "gradio", "pocketsphinx", "scikit-learn", "torchmetrics"):
        assert name not in base
    assert any("omni-empathy[" in d for d in PYPROJECT["project"]["optional-dependencies"]["test"])


def test_the_slow_marker_is_registered() -> None:
    markers = PYPROJECT["tool"]["pytest"]["ini_options"]["markers"]
    assert any(m.startswith("slow") for m in markers)


@pytest.mark.slow
def test_an_installed_wheel_has_its_weights_and_recipes(tmp_path: Path) -> None:
    """Build the wheel, unpack it elsewhere, and ask it what it is: the repository must not be needed."""
    build = [sys.executable, "-m", "pip", "wheel", ".", "--no-deps", "--no-build-isolation", "--quiet"]
    environment = {**os.environ, "PIP_NO_INDEX": "1"}
    copied = tmp_path / "source"
    leave_out = shutil.ignore_patterns(
        ".git", ".venv", "build", "dist", "runs", "*.egg-info", "__pycache__", ".*_cache"
    )
    shutil.copytree(REPOSITORY, copied, ignore=leave_out)
    subprocess.run([*build, "-w", str(tmp_path)], cwd=copied, env=environment, check=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    where = {**environment, "PYTHONPATH": str(site)}
    asked = [sys.executable, "-P", "-m", "omni.cli", "info", "--json"]
    told = subprocess.run(asked, cwd=tmp_path, env=where, capture_output=True, text=True, check=True)
    found: dict[str, Any] = json.loads(told.stdout)
    assert Path(found["folder"]).is_relative_to(site)
    assert {"listener.safetensors", "language_model.safetensors"} <= {f["file"] for f in found["files"]}
    assert list((site / "omni" / "recipes" / "mini").glob("*.yaml"))
    assert (site / "omni" / "recipes" / "mini" / "corpus").is_dir()

"""What an installation needs: conda, constraints, make's targets, containers, a wheel by itself."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

TOP = Path(__file__).parents[1]
PROJECT = tomllib.loads((TOP / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DEV = PROJECT["optional-dependencies"]["dev"]
CONDA = {"torch": "pytorch", "matplotlib": "matplotlib-base"}  # other names on conda-forge


def text_of(name: str) -> str:
    return (TOP / name).read_text(encoding="utf-8")


def pins(name: str) -> dict[str, list[str]]:
    """Hashes of each pinned package of a constraints file, "name==version"."""
    found = {}
    for line in text_of(name).splitlines():
        if not line.startswith(" "):
            pin = found.setdefault(line.split(" ")[0], [])
        else:
            pin += re.findall(r"--hash=sha256:[0-9a-f]{64}", line)
    return found


def test_conda_gets_every_dependency_with_its_bounds():
    wanted = [Requirement(text) for text in [*PROJECT["dependencies"], *DEV]]
    environment = yaml.safe_load(text_of("environment.yml"))["dependencies"]
    by_pip = next(entry["pip"] for entry in environment if isinstance(entry, dict))
    entries = [entry for entry in [*environment, *by_pip] if isinstance(entry, str)]
    given = [Requirement(entry) for entry in entries if not entry.startswith("--")]
    there = {requirement.name: requirement.specifier for requirement in given}
    for requirement in wanted:
        name = CONDA.get(requirement.name, requirement.name)
        assert there.get(name) == requirement.specifier, f"environment.yml: {requirement}"
    assert "--editable ." in by_pip


def test_every_dependency_is_pinned_with_hashes_and_no_address():
    pinned = pins("constraints.txt")
    versions = {canonicalize_name(pin.split("==")[0]): pin.split("==")[1] for pin in pinned}
    for requirement in map(Requirement, [*PROJECT["dependencies"], *DEV]):
        assert versions[canonicalize_name(requirement.name)] in requirement.specifier, requirement
    assert "setuptools" in versions  # `make setup` builds with this one
    for name in ("constraints.txt", "constraints-teach.txt", "constraints-browser.txt"):
        assert all(pins(name).values()), name
        assert not re.search(r"://|--index|--find-links", text_of(name)), name
    for extra in ("teach", "browser"):
        names = {pin.split("==")[0] for pin in pins(f"constraints-{extra}.txt")}
        wanted = PROJECT["optional-dependencies"][extra]
        assert {Requirement(text).name for text in wanted} <= names


def test_make_alone_lists_every_target():
    done = subprocess.run(["make", "-C", TOP], capture_output=True, text=True, check=True)
    listed = re.findall(r"^  ([a-z-]+) {2,}\S", done.stdout, re.MULTILINE)
    targets = re.findall(r"^\.PHONY: (.*)$", text_of("Makefile"), re.MULTILINE)
    assert sorted(listed) == sorted({*" ".join(targets).split()} - {"help"})


def test_make_setup_installs_pinned_versions():
    """What would be typed; `--torch-backend` is uv's, and the builds it takes have other hashes."""
    for torch in ("all", "cpu"):
        arguments = ["make", "-C", TOP, "--dry-run", "VENV=nowhere", "setup", f"TORCH={torch}"]
        typed = subprocess.run(arguments, capture_output=True, text=True, check=True).stdout
        assert "--no-deps --no-build-isolation --editable ." in typed
        assert ("--torch-backend cpu" in typed) == (torch == "cpu")
        assert ("--require-hashes --requirement constraints.txt" in typed) == (torch == "all")
        assert "constraints.txt" in typed


def test_containers_set_the_kit_up_and_the_image_checks_it_without_root():
    lines = [line for line in text_of("Dockerfile").splitlines() if not line.startswith("#")]
    assert lines[0] == "FROM python:3.13-slim"
    words = [line.split()[0] for line in lines if line[:1].isalpha()]
    assert words.index("USER") < words.index("CMD")
    assert "RUN make setup TORCH=cpu" in lines
    assert any("reproduce --profile smoke" in line for line in lines)
    command = next(line for line in lines if line.startswith("CMD"))
    assert json.loads(command.removeprefix("CMD "))[0] == "jupyter"
    assert {".venv", "data/runs", "data/cache"} <= set(text_of(".dockerignore").split())
    config = json.loads(text_of(".devcontainer/devcontainer.json"))
    assert config["postCreateCommand"] == "make setup TORCH=cpu"
    assert config["image"].startswith("python:3.")


@pytest.mark.slow
@pytest.mark.skipif(
    shutil.which("docker") is None
    or subprocess.run(["docker", "info"], capture_output=True).returncode,
    reason="no container engine is running",
)
def test_the_image_builds():
    subprocess.run(["docker", "build", "--tag", "ktglite-test", TOP], check=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """A built wheel, unpacked: what somebody has who installed it."""
    folder = tmp_path_factory.mktemp("wheel")
    hidden = shutil.ignore_patterns(".*", "data", "build", "__pycache__", "*.egg-info")
    shutil.copytree(TOP, folder / "source", ignore=hidden)
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "-w", folder, folder / "source"], check=True, timeout=300)
    with zipfile.ZipFile(next(folder.glob("ktglite-*.whl"))) as wheel:
        wheel.extractall(folder / "site")
    return folder / "site"


def test_a_whole_wheel_works_in_an_empty_folder_read_only_and_without_a_home(site, tmp_path):
    """Another user's installation: no checkout, nothing to write to but the folder one is in."""
    files = [path.relative_to(TOP) for path in (TOP / "ktglite").rglob("*") if path.is_file()]
    files = [path for path in files if "__pycache__" not in path.parts]
    assert not [path for path in files if not (site / path).exists()]
    module, function = PROJECT["scripts"]["ktglite"].split(":")
    code = f"import sys; sys.argv = ['ktglite', 'doctor']; import {module} as m; m.{function}()"
    environment = os.environ | {"PYTHONPATH": str(site), "HOME": "/nonexistent"}
    environment |= {"PYTHONDONTWRITEBYTECODE": "1", "MPLCONFIGDIR": str(tmp_path / "mpl")}
    for path in (site, *site.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    # root may write anywhere, unless it gives that up
    drop = ["setpriv", "--inh-caps=-all", "--bounding-set=-all"]
    prefix = drop if os.geteuid() == 0 and shutil.which("setpriv") else []
    empty = tmp_path / "empty"
    empty.mkdir()
    command = [*prefix, sys.executable, "-P", "-c", code]
    done = subprocess.run(command, cwd=empty, env=environment, capture_output=True, text=True)
    assert "Traceback" not in done.stderr, done.stderr[-2000:]
    assert "torch" in done.stdout

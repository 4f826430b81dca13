"""Profiles: YAML files of settings, and how they are read. Nothing here needs torch."""

import ast
import difflib
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.resources import files
from pathlib import Path

import yaml

__all__ = ["NOTEBOOKS", "PROFILES", "load_profile", "parse_overrides", "raw_settings", "run_folder"]

PROFILES = ("smoke", "quick", "photos", "lab", "paper", "cars64")
NOTEBOOKS = (
    "00_knowledge_transfer_graph",
    "01_pretraining",
    "02_table1_ablation",
    "03_asha_graph_search",
    "04_paper_figures",
)


def run_folder(profile: str | Path, out: str | Path | None = None) -> Path:
    """The folder of a run: `out`, or the profile's own, `data/runs/<profile>`."""
    return Path(out or f"data/runs/{Path(profile).stem}").expanduser()


def load_profile(name: str | Path) -> dict[str, dict | None]:
    """A profile of the package, or a YAML file: `shared` settings, and sections of notebooks.

    Raises ValueError naming the file, and what is malformed in it; settings are not looked at.
    """
    path = Path(name).expanduser()
    if str(name) in PROFILES:
        text = files("ktglite").joinpath(f"profiles/{name}.yaml").read_bytes()
    elif path.suffix in (".yaml", ".yml") and path.is_file():
        text = path.read_bytes()
    elif path.suffix in (".yaml", ".yml"):
        raise ValueError(f"profile {name}: there is no such file")
    else:
        allowed = f"{', '.join(PROFILES)} and the path of a .yaml file"
        raise ValueError(f"profile is {str(name)!r}: allowed are {allowed}")
    try:
        sections = read_yaml(text)
    except ValueError as error:
        raise ValueError(f"profile {name}: {error}") from error
    shape = f"profile {name} must be sections of name: value"
    if not isinstance(sections, dict):
        raise ValueError(f"{shape}; it is {type(sections).__name__}")
    for section, values in sections.items():
        if section not in ("shared", *NOTEBOOKS):
            allowed = ", ".join(("shared", *NOTEBOOKS))
            raise ValueError(f"{shape}; there is no section {section!r}: allowed are {allowed}")
        if not isinstance(values, dict | None) or not all(isinstance(v, str) for v in values or ()):
            raise ValueError(f"{shape}; section {section!r} is not")
    return sections


def read_yaml(text: str | bytes) -> object:
    """YAML as values, read safely. Raises ValueError for what is none, and for code in it."""
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"not readable YAML: {' '.join(str(error).split())}") from error
    except RecursionError as error:
        raise ValueError("not readable YAML: it is nested too deeply") from error


def parse_overrides(pairs: Iterable[str]) -> dict[str, str]:
    """["trials=50", ..] as a mapping of texts, which `load_settings` reads by each setting's type.

    Raises ValueError for one without "=".
    """
    overrides = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"--set {pair!r} is not NAME=VALUE")
        overrides[name.strip()] = text.strip()
    return overrides


def raw_settings(number: str, profile: str | Path, overrides: Mapping[str, object]) -> dict:
    """What a profile and overrides say for notebook `number`; the later ones hold.

    Of the overrides, "03.trials" is for notebook 03 alone, and "trials" for all. Raises ValueError
    for names that no setting has, with the nearest; values are not looked at.
    """
    sections = load_profile(profile)
    stem = next(stem for stem in NOTEBOOKS if stem.startswith(number))
    values = (sections.get("shared") or {}) | (sections.get(stem) or {})
    _check_names(values, f"profile {profile}")
    _check_names(overrides, "--set")
    for name, value in overrides.items():
        chosen, _, bare = name.rpartition(".")
        if chosen in ("", number):
            values[bare] = value
    return values


def _check_names(names: Iterable[str], where: str) -> None:
    numbers = {stem[:2] for stem in NOTEBOOKS}
    known = setting_names()
    for name in names:
        number, dot, bare = name.rpartition(".")
        if bare not in known or (dot and number not in numbers):
            near = difflib.get_close_matches(bare, known, n=3)
            hint = f"did you mean {', '.join(near)}?" if near else f"there are {sorted(known)}"
            raise ValueError(f"{where}: there is no setting {name!r}; {hint}")


@cache
def setting_names() -> set[str]:
    """The names of all settings, read from source: to import it takes torch and seconds."""
    names = set()
    for module, owner in (("trainer", "TrainConfig"), ("settings", "Settings")):
        text = files("ktglite").joinpath(f"{module}.py").read_text(encoding="utf-8")
        for node in ast.parse(text).body:
            if isinstance(node, ast.ClassDef) and node.name == owner:
                names |= {part.target.id for part in node.body if isinstance(part, ast.AnnAssign)}
    return names

"""Profiles: YAML files of settings, and how they are read. Nothing here needs torch."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import yaml
from pydantic import TypeAdapter, ValidationError

PROFILES = ("smoke", "quick", "photos", "lab", "paper", "cars64")
NOTEBOOKS = (
    "00_knowledge_transfer_graph",
    "01_pretraining",
    "02_table1_ablation",
    "03_asha_graph_search",
    "04_paper_figures",
)

SECTIONS = TypeAdapter(dict[Literal["shared", *NOTEBOOKS], dict[str, object] | None])


def run_folder(profile: str | Path, out: str | Path | None = None) -> Path:
    """The folder of a run: `out`, or the profile's own, `data/runs/<profile>`."""
    return Path(out or f"data/runs/{Path(profile).stem}").expanduser()


def load_profile(name: str | Path) -> dict[str, dict | None]:
    """A profile of the package, or a YAML file: `shared` settings, and sections of notebooks.

    Raises ValueError naming the file, and what is malformed in it; settings are not looked at.
    """
    ours = str(name) in PROFILES
    path = Path(__file__).with_name(f"{name}.yaml") if ours else Path(name).expanduser()
    if not ours and path.stem in PROFILES:
        mixed = f"its results would lie among those of the kit's profile {path.stem}"
        raise ValueError(f"profile {name}: {mixed}; give the file another name")
    if not path.is_file():
        allowed = f"{', '.join(PROFILES)} and the path of a .yaml file"
        raise ValueError(f"profile is {str(name)!r}: allowed are {allowed}")
    try:
        return SECTIONS.validate_python(yaml.safe_load(path.read_bytes()))
    except ValidationError as error:
        section = error.errors()[0]["loc"][:1]
        shape = f"sections of name: value, in {', '.join(('shared', *NOTEBOOKS))}"
        raise ValueError(f"profile {name} must be {shape}; look at {section or 'it'}") from None
    except Exception as error:  # of YAML; some values end in a TypeError or a RecursionError
        found = " ".join(str(error).split())
        raise ValueError(f"profile {name}: not readable YAML: {found}") from error


def parse_overrides(pairs: Iterable[str]) -> dict[str, str]:
    """["trials=50", ..] as a mapping of texts, which `load_settings` reads by each setting's type.

    Raises ValueError for one without "=", and for what has an option of its own.
    """
    overrides = {}
    for pair in pairs:
        name, equals, text = map(str.strip, pair.partition("="))
        if not equals or not name:
            raise ValueError(f"--set {pair!r} is not NAME=VALUE")
        if (bare := name.rpartition(".")[2]) in ("profile", "out"):
            raise ValueError(f"--set {pair!r}: {bare} is of the whole run, give --{bare}")
        overrides[name] = text
    return overrides


def raw_settings(number: str, profile: str | Path, overrides: Mapping[str, object]) -> dict:
    """What a profile and overrides say for notebook `number`; the later ones hold.

    Of the overrides, "03.trials" is for notebook 03 alone, and "trials" for all. A profile's split
    and limit are for its own data set: another one has the defaults. Raises ValueError for
    notebooks that are not there; names and values of settings are not looked at.
    """
    stems = {stem[:2]: stem for stem in NOTEBOOKS}
    if number not in stems:
        raise ValueError(f"there is no notebook {number!r}: allowed are {', '.join(stems)}")
    sections = load_profile(profile)
    values = (sections.get("shared") or {}) | (sections.get(stems[number]) or {})
    if other := [name for name in overrides if name.rpartition(".")[0] not in ("", *stems)]:
        raise ValueError(f"--set: there is no setting {other[0]!r}: in front is one of {[*stems]}")
    names = [name for name in overrides if name.rpartition(".")[0] in ("", number)]
    given = {name.rpartition(".")[2]: overrides[name] for name in names}
    if given.get("dataset", values.get("dataset")) != values.get("dataset"):
        for name in ("split", "limit"):
            values.pop(name, None)
    return values | given

"""The settings of every step: one model per notebook, filled from a profile and from what is given beside it."""

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import fields
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    StrictInt,
    TypeAdapter,
    ValidationError,
    create_model,
    model_validator,
)  # fmt: skip

from ktglite.data import Data
from ktglite.experiments.space import CONDITIONS, SearchConfig
from ktglite.graph import Node
from ktglite.models import SOURCES
from ktglite.trainer import TrainConfig

__all__ = ["load_profile", "load_settings"]

PROFILES = ("smoke", "quick", "lab", "cars64", "paper")
Count = Annotated[int, Field(ge=1, strict=True)]


def _with(config: type, base: type, *left_out: str) -> type[BaseModel]:
    """`base` with the fields of a dataclass beside its own: their types and defaults stand in one place."""
    chosen = {f.name: (StrictInt if f.type is int else f.type, f.default) for f in fields(config)}
    chosen = {name: kind for name, kind in chosen.items() if name not in left_out}
    return create_model(f"_{config.__name__}", __base__=base, **chosen)


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, coerce_numbers_to_str=True)


class Settings(_with(TrainConfig, _Model)):
    """What every notebook has: where things are, images, what nodes start from, and all of
    `TrainConfig`.

    "{out}" in a text stands for the run's folder.  `seeds`: how many, from 0.  `jobs`, `dask`: see
    `open_pool`.
    """

    profile: str = "quick"
    out: str = ""
    weights: str | tuple[str, ...] = "{out}/weights"
    figures: str = "figures"
    cache: str = "data/cache"
    raw: str = "data/raw"
    dataset: str = "synthcars"
    image_size: Count = 224
    limit: Count | None = None
    split: tuple[float, float, float] = (0.7, 0.15, 0.15)
    split_seed: StrictInt = 0
    fit: Literal["squash", "crop"] = "squash"
    skip_unreadable: bool = False
    arch: str = "resnet18"
    sources: tuple[str, ...] = ("imagenet1k", "fractaldb1k")
    nodes: Count = 3
    seeds: Count = 3
    first_seed: StrictInt = 0
    jobs: Count | None = None
    dask: str | None = None
    keep: Literal["none", "target", "all"] = "none"

    @model_validator(mode="after")
    def _check(self):
        """Refuse what does not fit together before anything runs."""
        for source in ("scratch", *self.sources):
            Node(self.arch, source)
        self.train_config()
        return self

    def load_data(self) -> Data:
        """The images, see `ktglite.sources.datasets.load_data`."""
        from ktglite.sources.datasets import load_data

        split = self.split, self.split_seed, self.fit, self.skip_unreadable
        return load_data(
            self.dataset, self.image_size, self.limit, *split, cache=self.cache, raw=self.raw
        )

    @property
    def seed_numbers(self) -> range:
        """The seeds of every graph's runs."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def train_config(self, **changes: object) -> TrainConfig:
        """The settings of a training, some of them changed."""
        return TrainConfig(**{f.name: getattr(self, f.name) for f in fields(TrainConfig)} | changes)


class PretrainSettings(Settings):
    """Notebook 01. `pretrain_render`: side of the images that are cropped to `pretrain_size`.

    `ready_weights`: folder of finished weights, used where they were made with these settings.
    `imagenet_folder`: None takes torchvision's weights.  `short_images`: of the training that is
    shown.
    """

    imagenet_folder: str | None = None
    pretrain_size: Count = 224
    pretrain_render: Count | None = None
    pretrain_epochs: Count = 90
    pretrain_images: Count | None = None
    pretrain_categories: Count = 1000
    pretrain_batch_size: Count = 256
    pretrain_lr: float = 0.1
    pretrain_schedule: str = "step"
    pretrain_augmentation: str = "auto"
    standin_images: Count = 20_000
    standin_epochs: Count = 6
    ready_weights: str = "data/weights"
    short_images: Count = 6000

    def pretrain_configs(self, **changes: object) -> list:
        """A `PretrainConfig` for every source that is trained here: drawn by formula, or in `imagenet_folder`."""
        from ktglite.sources.pretrain import PretrainConfig

        names = "size", "render", "batch_size", "lr", "schedule", "augmentation", "categories"
        same = {name: getattr(self, f"pretrain_{name}") for name in names}
        same |= {
            "arch": self.arch,
            "images_per_epoch": self.pretrain_images,
            "standin_images": self.standin_images,
        }
        folders = {"imagenet1k": self.imagenet_folder}
        drawn = {s for s in self.sources if folders.get(s) or (s in SOURCES and SOURCES[s].open)}
        epochs = {
            s: self.standin_epochs if s.endswith("_standin") else self.pretrain_epochs
            for s in drawn
        }
        each = {
            s: same | {"folder": folders.get(s), "epochs": epochs[s]} | changes
            for s in self.sources
            if s in drawn
        }
        return [PretrainConfig(source, **given) for source, given in each.items()]


class SearchSettings(_with(SearchConfig, Settings, "condition", "sources", "arch", "nodes")):
    """Notebook 03: `SearchConfig` beside the rest; `epochs` are those of a searched graph.

    Of the re-evaluation: `top_k`, `random_graphs` (None for as many), `fresh_seeds`.  `recorded`:
    whole searches.
    """

    conditions: tuple[str, ...] = tuple(CONDITIONS)
    top_k: Count = 3
    random_graphs: Annotated[int, Field(ge=0, strict=True)] | None = None
    fresh_seeds: Count = 5
    recorded: str = "data/reference_runs/quick_searches"

    def search_config(self, condition: str) -> SearchConfig:
        """What is searched under one of the `conditions`."""
        return SearchConfig(
            condition, **{f.name: getattr(self, f.name) for f in fields(SearchConfig)[1:]}
        )

    @property
    def choices(self) -> dict[str, tuple[str, ...]]:
        """What a node may start from, by condition."""
        return {name: self.search_config(name).choices for name in self.conditions}


class FigureSettings(Settings):
    """Notebook 04.

    `recorded`: searches without pruning; `photographs`: runs of Table 1. Both are shown beside the
    run's own.
    """

    pretrain_categories: Count = 1000
    recorded: str = "data/reference_runs/quick_searches"
    photographs: str = "data/reference_runs/cars64"


NOTEBOOKS: dict[str, type[Settings]] = {
    "00_knowledge_transfer_graph": Settings,
    "01_pretraining": PretrainSettings,
    "02_table1_ablation": Settings,
    "03_asha_graph_search": SearchSettings,
    "04_paper_figures": FigureSettings,
}
_NAMES = {
    stem[:2]: set(model.model_fields) - {"profile", "out"} for stem, model in NOTEBOOKS.items()
}
_SECTIONS = TypeAdapter(dict[Literal["shared", *NOTEBOOKS], dict[str, Any] | None])


def load_settings(
    notebook: str, profile: str | Path = "quick", out: str | Path | None = None, **overrides
) -> Settings:
    """The settings of a notebook: its defaults, the profile's `shared`, its section of the profile,
    `overrides`.

    - `notebook`: its number, such as "02".  `profile`: smoke, quick, lab, paper, or the path of a
      YAML file.
    - `out`: folder of the run, `data/runs/<profile>` by default.

    Raises ValueError for names this notebook does not have, with the nearest it has, and for values
    it does not take.
    """
    stem = next((stem for stem in NOTEBOOKS if stem[:2] == notebook), None)
    if stem is None:
        raise ValueError(f"there is no notebook {notebook!r}: allowed are {', '.join(_NAMES)}")
    sections, where = load_profile(profile), f"notebook {notebook}, profile {profile}"
    values = {key: field.default for key, field in NOTEBOOKS[stem].model_fields.items()}
    values |= select_settings(notebook, sections.get("shared") or {}, f"profile {profile}")
    own = (sections.get(stem) or {}) | overrides
    _check_names(own, _NAMES[notebook], where)
    out = str(out or f"data/runs/{Path(profile).stem}")
    values |= own | {"profile": Path(profile).stem, "out": out}
    try:
        return NOTEBOOKS[stem](**{key: _fill(value, out) for key, value in values.items()})
    except ValidationError as error:
        raise ValueError(f"{where}: {_explain(error)}") from None


def select_settings(
    notebook: str, values: Mapping[str, object], where: str = "--set"
) -> dict[str, object]:
    """Of {"epochs": 3, "03.trials": 50, ..} those this notebook has; a number in front means that
    notebook alone.

    Raises ValueError for a name that no notebook has, with the nearest that exist.
    """
    _check_names(
        values, {f"{n}.{name}" for n in _NAMES for name in _NAMES[n]}.union(*_NAMES.values()), where
    )
    own = {name.removeprefix(f"{notebook}."): value for name, value in values.items()}
    return {name: value for name, value in own.items() if name in _NAMES[notebook]}


def _check_names(names: Iterable[str], known: set[str], where: str) -> None:
    for name in set(names) - known:
        near = (
            ", ".join(difflib.get_close_matches(name, known, n=3))
            or f"one of {', '.join(sorted(known))}"
        )
        raise ValueError(f"{where}: there is no setting {name!r}; did you mean {near}?")


def _fill(value: object, out: str) -> object:
    """ "{out}" replaced in a text, or in a list of them."""
    if isinstance(value, list | tuple):
        return [_fill(entry, out) for entry in value]
    return value.replace("{out}", out) if isinstance(value, str) else value


def _explain(error: ValidationError) -> str:
    """What pydantic found, in a line."""
    found = [
        (".".join(map(str, e["loc"])), e["input"], e["msg"].removeprefix("Value error, "))
        for e in error.errors()
    ]
    return "; ".join(
        f"{name} is {value!r}: {text}" if name else text for name, value, text in found
    )


def load_profile(name: str | Path) -> dict[str, dict | None]:
    """A profile of the package, or a YAML file: sections `shared` and one per notebook, each of
    name: value.

    Raises ValueError naming the file, and what is malformed in it; names and values are not looked
    at.
    """
    if str(name) in PROFILES:
        text = files("ktglite").joinpath(f"profiles/{name}.yaml").read_bytes()
    elif Path(name).suffix in (".yaml", ".yml") and Path(name).is_file():
        text = Path(name).read_bytes()
    else:
        raise ValueError(
            f"profile is {str(name)!r}: allowed are {', '.join(PROFILES)} and the path of a .yaml file"
        )
    try:
        return _SECTIONS.validate_python(_read_yaml(text))
    except ValueError as error:
        told = _explain(error) if isinstance(error, ValidationError) else error
        raise ValueError(f"profile {name} must be sections of name: value; {told}") from None


def _read_yaml(text: str | bytes) -> object:
    """YAML as values, read safely: code in it is refused."""
    try:
        return yaml.safe_load(text)
    except (
        yaml.YAMLError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ValueError(f"not readable YAML: {error}") from error


def parse_overrides(pairs: Iterable[str]) -> dict[str, object]:
    """["trials=50", ..] as a mapping; values are read as YAML. Raises ValueError for one without "="."""
    overrides = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name.strip():
            raise ValueError(f"--set {pair!r} is not name=value")
        overrides[name.strip()] = _read_yaml(text.strip())
    return overrides

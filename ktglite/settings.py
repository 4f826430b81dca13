"""The settings of a run: one flat record for notebooks and commands, from a profile and `--set`."""

import difflib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import Field, TypeAdapter, ValidationError

from ktglite import profiles
from ktglite.data import Data
from ktglite.experiments import ablation, bench
from ktglite.experiments.ready import read_folder, recorded_seeds
from ktglite.experiments.runs import Store
from ktglite.experiments.space import CONDITIONS, SearchConfig
from ktglite.graph import Node
from ktglite.models import SOURCES, file_hash
from ktglite.profiles import PROFILES, parse_overrides
from ktglite.sources.datasets import check_shares, load_data
from ktglite.sources.pretrain import PretrainConfig, adopt
from ktglite.store import write_json
from ktglite.trainer import TrainConfig

__all__ = ["load_settings", "parse_overrides"]

OWN_IMAGES = ("photos", "cars64")  # data sets that stand for a folder of the user's
Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Settings(TrainConfig):
    """All that a profile or `--set` can say; what a notebook does not use it leaves alone.

    In a text "{out}" stands for the run's folder, and "~" in front for the home.

    - `arch`: of every node, or one for each of the `nodes`; a search chooses among them.
    - `sources`: what a node may start from, besides random numbers.  `weights`: the folder of their
      weights, the run's own unless given; or several for repeated pre-trainings, used in turn by
      seed. What is given is only read, trained `teachers` aside.
    - `ready_weights`: finished weights, taken where they were made with these settings.
    - `ready_runs`: the folder of a finished run, whose records are taken instead of training; its
      seeds, too, where neither `seeds` nor `first_seed` is asked for.
    - `lang`: of figures and of what notebooks print.
    - `seeds`: how many, beginning with `first_seed`.  `jobs`, `dask`: see `open_pool`.
    - `keep`: the networks that are written, see `Store`.
    - `pretrain_*`: see `PretrainConfig`; `pretrain_render` is the side of the images that are
      cropped to `pretrain_size`.  `imagenet_folder`: None takes torchvision's weights.
      `short_images`: of the pre-training that notebook 01 shows.
    - `trials` to `select_on`: see `SearchConfig`.  `conditions`: None for all that the sources
      allow.  `top_k`, `random_graphs` (None for as many), `fresh_seeds`: of the re-evaluation.
    - `recorded`, `photographs`: a benchmark of graphs, and a run, for figures beside this run's.

    Raises ValueError for what does not fit together.
    """

    profile: str = "quick"
    out: str = ""
    weights: str | Annotated[tuple[str, ...], Field(min_length=1)] = "{out}/weights"
    ready_weights: str = "data/weights"
    ready_runs: str | None = None
    figures: str = "{out}/figures"
    lang: Literal["en", "ja"] = "en"
    cache: str = "data/cache"
    raw: str = "data/raw"
    dataset: str = "synthcars"
    image_size: Annotated[int, Field(ge=8, le=1024)] = 224
    limit: Count | None = None
    split: tuple[float, float, float] = (0.7, 0.15, 0.15)
    split_seed: int = 0
    fit: Literal["squash", "crop"] = "squash"
    skip_unreadable: bool = False
    arch: str | tuple[str, ...] = "resnet18"
    sources: tuple[str, ...] = ("imagenet1k", "fractaldb1k")
    nodes: Annotated[int, Field(ge=2)] = 3
    seeds: Count = 3
    first_seed: Annotated[int, Field(ge=0)] = 0
    jobs: Count | None = None
    dask: str | None = None
    keep: Literal["none", "target", "all"] = "none"

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
    short_images: Count = 6000

    conditions: tuple[str, ...] | None = None
    trials: Count = 1500
    seed: int = 0
    pruner: Literal["asha", "promote", "none"] = "asha"
    min_resource: Count = 1
    reduction_factor: Annotated[int, Field(ge=2)] = 2
    teachers: Literal["random", "trained"] = "random"
    select_on: Literal["val", "test"] = "val"
    top_k: Count = 3
    random_graphs: Annotated[int, Field(ge=0)] | None = None
    fresh_seeds: Count = 5
    recorded: str = bench.PATH
    photographs: str = "data/reference_runs/cars64"

    def __post_init__(self):
        """Refuse what does not fit together before anything runs."""
        super().__post_init__()
        check_shares(self.split)
        if len(self.archs) != self.nodes:
            found = f"arch names {len(self.arch)} networks, and nodes is {self.nodes}"
            raise ValueError(f"{found}: give one, or one for each")
        if "scratch" in self.sources:
            raise ValueError("sources has 'scratch': nodes start from it anyway, leave it out")
        for arch in self.archs:
            for source in ("scratch", *self.sources):
                Node(arch, source)
        try:
            self.pretrain_configs()
        except ValueError as error:
            raise ValueError(f"pretrain_{error}") from error
        if self.conditions is None:  # all that have a source at hand for each that they need
            at_hand = [f"{source}_" for source in self.sources]
            bases = {base for base in CONDITIONS for name in at_hand if name.startswith(f"{base}_")}
            able = tuple(name for name, used in CONDITIONS.items() if bases.issuperset(used[1:]))
            object.__setattr__(self, "conditions", able)

    @property
    def archs(self) -> tuple[str, ...]:
        """The architecture of each node."""
        return (self.arch,) * self.nodes if isinstance(self.arch, str) else self.arch

    @property
    def seed_numbers(self) -> range:
        """The seeds of every graph's runs."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def load_data(self) -> Data:
        """The images, see `ktglite.sources.datasets.load_data`."""
        if self.dataset in OWN_IMAGES and not Path(self.dataset).is_dir():
            wanted = "--set dataset=FOLDER, a folder with a folder of images for each class"
            raise ValueError(f"profile {self.profile} is for images of your own: give {wanted}")
        names = ("limit", "split", "split_seed", "fit", "skip_unreadable", "cache", "raw")
        return load_data(self.dataset, self.image_size, **{n: getattr(self, n) for n in names})

    def store(self) -> Store:
        """Where the run's trainings are kept, `<out>/runs`, with the records of `ready_runs`.

        The folder is marked as this profile's, and finished weights that come with the kit or lie
        in the profile's own folder are put where nodes look for them.
        """
        mark = Path(self.out) / "profile.json"
        if not mark.exists():
            write_json(mark, {"profile": self.profile})
        for config in self.pretrain_configs():
            given = self.weights, self.cache
            if not adopt(config, self.ready_weights, *given):
                adopt(config, f"data/runs/{self.profile}/weights", *given, same_code=True)
        ready = self.with_these_starts(read_folder(self.ready_runs)) if self.ready_runs else []
        return Store(Path(self.out) / "runs", self.keep, ready=ready)

    def judged_runs(self, live: Sequence[Mapping]) -> list[Mapping]:
        """The runs that verdicts on Table 1 rest on: those recorded of this profile, or live ones,
        see `ablation.judged_runs`; all are live where nodes start from another Step 1."""
        if self._has_usual_starts():
            return ablation.judged_runs(live, f"data/reference_runs/{self.profile}")
        return list(live)

    def with_these_starts(self, records: Sequence[Mapping]) -> list[Mapping]:
        """Of records of runs or searches those that started from the weights files here; all where
        Step 1 is the profile's own, wherever it was done."""
        if self._has_usual_starts():
            return list(records)
        folders = [self.weights] if isinstance(self.weights, str) else self.weights
        files = [path for folder in folders for path in Path(folder).glob("*.safetensors")]
        hashes = set(map(file_hash, files))
        return [record for record in records if hashes.issuperset(record["weights"].values())]

    def _has_usual_starts(self) -> bool:
        """Whether nodes start from the profile's own Step 1."""
        usual = load_settings("02", self.profile, self.out) if self.profile in PROFILES else self
        recorded = {(config.source, config.arch): config for config in usual.pretrain_configs()}
        starts = {(config.source, config.arch): config for config in self.pretrain_configs()}
        return self.weights == usual.weights and starts.items() <= recorded.items()

    def train_config(self, **changes: object) -> TrainConfig:
        """The settings of a training, some of them changed."""
        return TrainConfig(**{f.name: getattr(self, f.name) for f in fields(TrainConfig)} | changes)

    def search_config(self, condition: str) -> SearchConfig:
        """What is searched under one of the `conditions`."""
        names = {f.name for f in fields(self)} & {f.name for f in fields(SearchConfig)} - {"arch"}
        archs = tuple(dict.fromkeys(self.archs))
        chosen = {name: getattr(self, name) for name in names}
        return SearchConfig(condition, arch=archs[0] if len(archs) == 1 else archs, **chosen)

    def pretrain_configs(self) -> list[PretrainConfig]:
        """A `PretrainConfig` for every source that is trained here: drawn by formula, or in
        `imagenet_folder`; and for every architecture. None where `weights` is a folder of the
        user's, which holds finished ones."""
        names = "size", "render", "batch_size", "lr", "schedule", "augmentation", "categories"
        same = {name: getattr(self, f"pretrain_{name}") for name in names}
        same |= {"images_per_epoch": self.pretrain_images, "standin_images": self.standin_images}
        configs = []
        own = self.weights == Settings.weights.replace("{out}", self.out)
        for source in self.sources if own else ():
            folder = self.imagenet_folder if source == "imagenet1k" else None
            if folder or (source in SOURCES and SOURCES[source].open):
                standin = source.endswith("_standin")
                epochs = self.standin_epochs if standin else self.pretrain_epochs
                given = same | {"folder": folder, "epochs": epochs}
                configs += [PretrainConfig(source, a, **given) for a in dict.fromkeys(self.archs)]
        return configs


def load_settings(
    notebook: str, /, profile: str | Path = "quick", out: str | Path | None = None, **overrides
) -> Settings:
    """The settings of a notebook: defaults, the profile's, its section of the profile, `overrides`.

    Args:
        notebook: its number, such as "02".
        profile: a profile of the kit, or the path of a YAML file.
        out: folder of the run, `data/runs/<profile>` by default.
        overrides: settings to change; "03.trials" changes it in notebook 03 alone. Texts are read
            by the setting's type.

    Raises:
        ValueError: for names that do not exist, with the nearest that do; for values that a setting
            does not take; and for a folder that holds the results of another profile.
    """
    values = profiles.raw_settings(notebook, profile, overrides)
    if taken := sorted({"profile", "out"} & values.keys()):
        raise ValueError(f"profile {profile}: {taken[0]} is of the whole run, give --{taken[0]}")
    where = f"notebook {notebook}, profile {profile}"
    kinds = get_type_hints(Settings)
    given = {name: name for name in values}  # a notebook's number is for overrides alone
    given |= {name: name.rpartition(".")[2] for name in overrides}
    if unknown := [name for name, bare in given.items() if bare not in kinds]:
        near = difflib.get_close_matches(given[unknown[0]], kinds)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {sorted(kinds)}"
        origin = "--set" if unknown[0] in overrides else f"profile {profile}"
        raise ValueError(f"{origin}: there is no setting {unknown[0]!r}; {hint}")
    if not {given[name] for name in overrides} & {"seeds", "first_seed"}:
        values |= recorded_seeds(values.get("ready_runs"))
    folder = profiles.run_folder(profile, out)
    values |= {"profile": Path(profile).stem, "out": str(folder)}
    _refuse_other_profile(folder, values["profile"])
    try:
        for name, kind in kinds.items():
            value = values.get(name, getattr(Settings, name))
            values[name] = _fill(_read(name, value, kind), str(folder))
        settings = TypeAdapter(Settings).validate_python(values)
        for condition in settings.conditions if notebook == "03" else ():
            settings.search_config(condition).rungs(settings.epochs)
    except ValidationError as error:
        found = []
        for part in error.errors():
            text = part["msg"].removeprefix("Value error, ")
            found.append(f"{part['loc'][0]} is {part['input']!r}: {text}" if part["loc"] else text)
        raise ValueError(f"{where}: {'; '.join(dict.fromkeys(found))}") from None
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from None
    return settings


def _refuse_other_profile(out: Path, profile: str) -> None:
    """Raise ValueError where `Settings.store` has marked `out` as another profile's."""
    mark = out / "profile.json"
    if not mark.exists():
        return
    try:
        found = json.loads(mark.read_text(encoding="utf-8"))["profile"]
    except (ValueError, KeyError, TypeError) as error:
        way_out = f"delete it if the results here are of profile {profile!r}"
        raise ValueError(f"{mark} is damaged ({error}): {way_out}") from error
    if found != profile:
        way_out = "give another folder (out, --out), or delete this one"
        raise ValueError(f"{out} holds results of profile {found!r}, not {profile!r}: {way_out}")


def _read(name: str, value: object, kind: type) -> object:
    """A text as a setting of this type wants it: nothing, several, or for pydantic to read."""
    kinds = get_args(kind) if get_origin(kind) in (Union, UnionType) else (kind,)
    if isinstance(value, bool) and bool not in kinds:  # True would pass for 1
        raise ValueError(f"{name} is {value}: it takes a number or a text")
    if isinstance(value, list):
        return tuple(value)
    if not isinstance(value, str):
        return value
    absent = ("null", "none") if name != "conditions" else ("null",)  # one of them is called none
    if value in absent and NoneType in kinds:
        return None
    several = any(get_origin(one) is tuple for one in kinds)
    brackets = value[:1] + value[-1:] == "[]"
    if several and (brackets or str not in kinds):  # with brackets, or as one types it
        inside = value[1:-1] if brackets else value
        return tuple(part.strip(" '\"") for part in inside.split(",") if part.strip())
    return value


def _fill(value: object, out: str) -> object:
    """ "{out}" and "~" replaced in a text, or in several."""
    if isinstance(value, tuple):
        return tuple(_fill(entry, out) for entry in value)
    return os.path.expanduser(value.replace("{out}", out)) if isinstance(value, str) else value

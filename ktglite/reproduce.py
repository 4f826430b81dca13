"""Run the numbered notebooks under papermill: every step of the paper in order, what is done already left alone."""

import hashlib
import importlib.metadata
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import nbconvert
import nbformat
import papermill
import yaml
from nbconvert.preprocessors import CoalesceStreamsPreprocessor
from papermill.engines import NBClientEngine, papermill_engines
from papermill.exceptions import PapermillExecutionError
from tqdm import tqdm

import ktglite
from ktglite.notebooks import NOTEBOOKS, sources, static
from ktglite.runs import provenance

PROFILES = ("smoke", "quick", "lab", "paper")


class NotebookError(Exception):
    """A cell failed; the message has its error and how to go on."""


# ---- profiles and parameters


def load_profile(name: str | Path) -> dict[str, dict]:
    """A profile of the package, or a YAML file of one's own: sections `shared` and one per notebook.

    Raises ValueError naming what is unknown or malformed.
    """
    if str(name) in PROFILES:
        text = files("ktglite").joinpath(f"profiles/{name}.yaml").read_text()
    elif Path(name).suffix in (".yaml", ".yml") and Path(name).is_file():
        text = Path(name).read_bytes()
    else:
        raise ValueError(f"profile is {str(name)!r}: allowed are {', '.join(PROFILES)} and the path of a .yaml file")
    try:
        profile = read_yaml(text)
    except ValueError as error:
        raise ValueError(f"profile {name} is not readable YAML: {error}") from error
    if not isinstance(profile, dict) or not all(isinstance(part or {}, dict) for part in profile.values()):
        raise ValueError(f"profile {name} must be sections of name: value")
    plain = all(is_plain(value) for part in profile.values() for value in (part or {}).values())
    if not plain or not all(isinstance(key, str) for part in profile.values() for key in part or {}):
        raise ValueError(f"profile {name} has a value that is no number, text, or list of these")
    unknown = sorted(set(profile) - {"shared", *NOTEBOOKS}, key=str)
    if unknown:
        raise ValueError(
            f"profile {name} has an unknown section {unknown[0]!r}: allowed are shared, {', '.join(NOTEBOOKS)}"
        )
    return {section: dict(values or {}) for section, values in profile.items()}


class Loader(yaml.SafeLoader):
    """Safe YAML that reads 1e-3 as a number, which YAML 1.1 takes for a word, and refuses a name given twice."""

    def construct_mapping(self, node, deep=False):
        names = [self.construct_object(key, deep=True) for key, _ in node.value if not key.tag.endswith(":merge")]
        for i, name in enumerate(names):
            if name in names[:i]:
                raise yaml.constructor.ConstructorError(None, None, f"{name!r} is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


EXPONENT = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$")
Loader.add_implicit_resolver("tag:yaml.org,2002:float", EXPONENT, list("-+0123456789"))


def read_yaml(text: str | bytes) -> object:
    """YAML as values. Raises ValueError for what is none, code among it."""
    try:
        return yaml.load(text, Loader)
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ValueError(str(error) or type(error).__name__) from error


def is_plain(value: object) -> bool:
    """Whether a value may be a parameter: nothing, a number, a text, or a list of these."""
    if isinstance(value, list):
        return all(entry is None or isinstance(entry, bool | int | float | str) for entry in value)
    return value is None or isinstance(value, bool | int | float | str)


def find_notebooks(folder: str | Path | None = None) -> Path:
    """The folder of notebooks: as given, in the working folder, or beside the package in its checkout."""
    places = [Path(folder)] if folder else [Path("notebooks"), Path(ktglite.__file__).parents[1] / "notebooks"]
    for place in places:
        if (place / f"{NOTEBOOKS[0]}.ipynb").is_file():
            return place
    raise FileNotFoundError(f"no notebooks in {' or '.join(map(str, places))}; run this in a checkout of ktglite")


def declared(notebook: Path) -> dict[str, object]:
    """The parameters of a notebook with their defaults: the literals in its cell tagged `parameters`."""
    found = papermill.inspect_notebook(str(notebook))
    return {name: yaml_value(entry["default"]) for name, entry in found.items()}


def yaml_value(text: str) -> object:
    """A Python literal, or a word of YAML, as its value."""
    words = {"None": None, "True": True, "False": False}
    try:
        return words[text] if text in words else read_yaml(text)
    except ValueError as error:
        raise ValueError(f"{text!r} is not a value: {error}") from error


def parameters(profile: str | Path, out: str | Path, overrides: Mapping[str, object], folder: Path) -> dict[str, dict]:
    """The parameters of every notebook: its defaults, then the profile's, then `overrides`.

    An override is named "trials" (every notebook that has it) or "03.trials" (that notebook). "{out}" in a text
    stands for the run's folder. Raises ValueError for names no notebook has, with the nearest that exist, and for
    values of another type than the default's.
    """
    sections = load_profile(profile)
    defaults = {stem: declared(folder / f"{stem}.ipynb") for stem in NOTEBOOKS}
    known = sorted({name for names in defaults.values() for name in names})
    chosen = {stem: dict(values) for stem, values in defaults.items()}
    for name, value in sections.get("shared", {}).items():
        assign(chosen, defaults, name, value, known, f"profile {profile}")
    for stem in NOTEBOOKS:
        for name, value in sections.get(stem, {}).items():
            assign(chosen, defaults, f"{stem[:2]}.{name}", value, known, f"profile {profile}")
    for name, value in overrides.items():
        assign(chosen, defaults, name, value, known, "--set")
    for values in chosen.values():
        values |= {"out": str(out)} if "out" in values else {}
        values |= {"profile": Path(profile).stem} if "profile" in values else {}
        values |= {k: v.replace("{out}", str(out)) for k, v in values.items() if isinstance(v, str)}
    return chosen


def assign(chosen: dict, defaults: dict, name: str, value: object, known: list[str], where: str) -> None:
    """Set one parameter wherever `name` says, its type checked against the default."""
    number, _, bare = name.rpartition(".")
    stems = [stem for stem in NOTEBOOKS if stem.startswith(number) and bare in defaults[stem]]
    if not stems or (number and not re.fullmatch(r"0\d", number)):
        import difflib

        near = difflib.get_close_matches(bare, known, n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"known are {', '.join(known)}"
        raise ValueError(f"{where}: no notebook has a parameter {name!r}; {hint}")
    for stem in stems:
        default = defaults[stem][bare]
        if not same_kind(value, default):
            kind = type(default).__name__
            raise ValueError(f"{where}: {name} is {value!r}, but {stem} takes a value like {default!r} ({kind})")
        chosen[stem][bare] = float(value) if isinstance(default, float) and value is not None else value


def same_kind(value: object, default: object) -> bool:
    """Whether `value` may take the place of `default`; None goes with everything."""
    if value is None or default is None:
        return True
    if isinstance(value, bool) or isinstance(default, bool):
        return isinstance(value, bool) and isinstance(default, bool)
    if isinstance(default, float):
        return isinstance(value, int | float)
    return isinstance(value, type(default))


def parse_overrides(pairs: list[str]) -> dict[str, object]:
    """["trials=50", ..] as a mapping; values are read as YAML. Raises ValueError for one without "="."""
    overrides = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise ValueError(f"--set {pair!r} is not name=value")
        overrides[name.strip()] = yaml_value(text.strip())
    return overrides


# ---- execution


def fingerprint(notebook: Path, values: dict, upstream: str) -> str:
    """Hex over what decides an executed notebook: its cells, parameters, this package, versions, and those before."""
    cells = sources(nbformat.read(notebook, as_version=4))
    code = {str(path.name): path.read_text() for path in sorted(Path(ktglite.__file__).parent.glob("*.py"))}
    versions = [
        importlib.metadata.version(name) for name in ("torch", "torchvision", "optuna", "matplotlib", "seaborn")
    ]
    what = json.dumps([cells, values, code, versions, upstream], sort_keys=True)
    return hashlib.sha256(what.encode()).hexdigest()


def is_current(executed: Path, mark: str) -> bool:
    """Whether an executed notebook was made from exactly this."""
    if not executed.exists():
        return False
    try:
        return nbformat.read(executed, as_version=4).metadata.get("ktglite", {}).get("fingerprint") == mark
    except Exception:  # not a notebook any more: make it again
        return False


def reproduce(
    profile: str | Path = "quick",
    only: list[str] | None = None,
    out: str | Path | None = None,
    overrides: Mapping[str, object] | None = None,
    notebooks: str | Path | None = None,
    force: bool = False,
) -> dict[str, Path]:
    """Execute the notebooks in order into `<out>/notebooks/`, each with an HTML copy; returns their paths.

    - `out`: folder of the run, `data/runs/<profile>` by default.  `only`: numbers such as "02".
    - `overrides`: parameters to change, see `parameters`.  `force`: also what is done and unchanged.

    Raises NotebookError when a cell fails, ValueError for a wrong parameter before anything runs.
    """
    out = Path(out or f"data/runs/{Path(profile).stem}")
    folder = find_notebooks(notebooks)
    chosen = parameters(profile, out, overrides or {}, folder)
    unknown = [number for number in only or () if number not in {stem[:2] for stem in NOTEBOOKS}]
    if unknown:
        raise ValueError(f"--only {unknown[0]!r}: allowed are {', '.join(stem[:2] for stem in NOTEBOOKS)}")
    done, mark = {}, ""
    for stem in NOTEBOOKS:
        mark = fingerprint(folder / f"{stem}.ipynb", chosen[stem], mark)
        executed = out / "notebooks" / f"{stem}.ipynb"
        if only and stem[:2] not in only:
            continue
        if is_current(executed, mark) and not force:
            print(f"{stem}: done and unchanged")
        else:
            execute(folder / f"{stem}.ipynb", executed, chosen[stem], mark, out)
        done[stem] = executed
    return done


def execute(notebook: Path, executed: Path, values: dict, mark: str, out: Path) -> None:
    """One notebook; the final name appears only when every cell has run."""
    executed.parent.mkdir(parents=True, exist_ok=True)
    partial = executed.with_suffix(".partial.ipynb")
    started = time.perf_counter()
    papermill_engines.register("ktglite", Engine)
    try:
        with cell_progress(notebook, out), quiet_kernel():
            papermill.execute_notebook(
                str(notebook),
                str(partial),
                parameters=values,
                engine_name="ktglite",
                kernel_name="python3",
                progress_bar=False,
                iopub_timeout=600,
                extra_arguments=["--IPKernelApp.log_level=40"],  # its warnings are about itself: loopback, no TLS
            )
    except PapermillExecutionError as error:
        traceback = "\n".join(error.traceback)
        raise NotebookError(
            f"{notebook.stem}, cell {error.cell_index} failed:\n\n{error.source}\n\n{traceback}\n\n"
            f"What ran until then is in {partial}. Finished trainings are kept: mend the cause and give the same "
            f"command again to go on."
        ) from error
    finished = nbformat.read(partial, as_version=4)
    finished, _ = CoalesceStreamsPreprocessor().preprocess(finished, {})  # progress bars: only their last state
    seconds = time.perf_counter() - started
    static(finished)
    hardware = provenance()["hardware"]
    machine = ", ".join([f"{hardware['cores']} cores, {hardware['cpu']}", *hardware["gpus"]])
    facts = {"seconds": round(seconds, 1), "profile": values.get("profile", ""), "machine": machine}
    finished.metadata["ktglite"] = {"fingerprint": mark, **facts}
    nbformat.write(finished, partial)
    page, _ = nbconvert.HTMLExporter().from_notebook_node(finished)
    executed.with_suffix(".html").write_text(page)
    os.replace(partial, executed)
    print(f"{notebook.stem}: {seconds / 60:.1f} min, {executed.with_suffix('.html')}")


@contextmanager
def quiet_kernel() -> Iterator[None]:
    """Kernels inherit the environment: no debugger warnings in the notebooks, and text that fits their width."""
    before = dict(os.environ)
    os.environ |= {"PYDEVD_DISABLE_FILE_VALIDATION": "1", "TQDM_NCOLS": "100"}
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


class Engine(NBClientEngine):
    """papermill's own engine, telling `on_cell` when a cell starts."""

    on_cell: Callable[[int], None] = staticmethod(lambda index: None)

    @classmethod
    def execute_managed_notebook(cls, nb_man, kernel_name, **options):
        start = nb_man.cell_start

        def cell_start(cell, cell_index=None, **more):
            cls.on_cell(cell_index)
            return start(cell, cell_index, **more)

        nb_man.cell_start = cell_start
        return super().execute_managed_notebook(nb_man, kernel_name, **options)


@contextmanager
def cell_progress(notebook: Path, out: Path) -> Iterator[None]:
    """One line in the terminal: the notebook, its cell, and what the cell itself writes to `progress.jsonl`."""
    cells = len(nbformat.read(notebook, as_version=4).cells)
    log, over = out / "progress.jsonl", threading.Event()
    position = log.stat().st_size if log.exists() else 0
    with tqdm(
        total=cells, desc=notebook.stem, unit="cell", bar_format="{desc}: cell {n_fmt}/{total_fmt} [{elapsed}]{postfix}"
    ) as bar:

        def on_cell(index: int) -> None:
            bar.n = index + 1
            bar.set_postfix_str("")

        def watch() -> None:
            while not over.wait(2):
                line = last_line(log, position)
                if line and line["time"] > shown["time"]:
                    shown.update(line)
                    bar.set_postfix_str(progress_text(line))

        shown = {"time": 0.0}
        Engine.on_cell = staticmethod(on_cell)
        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        try:
            yield
        finally:
            over.set()
            watcher.join()
            bar.set_postfix_str("")


def last_line(log: Path, position: int) -> dict | None:
    """The newest line of a progress file after `position`, if there is a whole one."""
    if not log.exists() or log.stat().st_size <= position:
        return None
    with open(log, "rb") as file:
        file.seek(max(position, log.stat().st_size - 4096))
        lines = file.read().decode(errors="replace").splitlines()
    try:
        return json.loads(lines[-1])
    except json.JSONDecodeError:
        return None


def progress_text(line: dict) -> str:
    """ "Table 1: 12 of 45, 3:20 left"."""
    left = int(line["seconds_left"])
    return f"{line['what']}: {line['done']} of {line['total']}, {left // 60}:{left % 60:02d} left"

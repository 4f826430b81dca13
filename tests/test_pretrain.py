"""Step 1 on a few small images: done once, what a plain loop does, resumed to the same weights."""

import dataclasses
import importlib
import importlib.metadata
import json
import os
import re
import shutil
import sys
import types
from functools import partial
from importlib.metadata import EntryPoint

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from ktglite import load_settings, sources, store
from ktglite.data import Data, Split, augment
from ktglite.models import SOURCES, build, file_hash, initialise, read_weights
from ktglite.sources import pretrain as step1
from ktglite.sources.pretrain import PretrainConfig, pretrain, read_card
from ktglite.trainer import derive, generator
from ktglite_formulas import synthcars

SMALL = PretrainConfig(
    "imagenet1k_standin", "resnet18_w8", 16, epochs=2, images_per_epoch=96, batch_size=32,
    standin_images=120, augmentation="shift", precision="fp32", device="cpu",
)  # fmt: skip
replace = dataclasses.replace
WAVES = """
import numpy as np
from waves import base
class Waves:
    classes = ("low", "high")
    def __len__(self): return 12
    def batch(self, numbers):
        return np.full((len(numbers), 3, 16, 16), base.HEIGHT, np.uint8), np.asarray(numbers) % 2
def open_source(config, cache): return Waves()
"""


@pytest.fixture
def photographs(tmp_path):
    """Two classes in train/ and val/: dark on the left and bright on the right, or the reverse."""
    root = tmp_path / "images"
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    for part, count in (("train", 16), ("val", 6)):
        for name, line in (("left", ramp), ("right", ramp[::-1])):
            (root / part / name).mkdir(parents=True)
            for i in range(count):
                image = np.tile(line[None, :, None], (40, 1, 3))
                image = np.clip(image + 2 * i, 0, 255).astype(np.uint8)
                Image.fromarray(image).save(root / f"{part}/{name}/{i}.bmp")
    return root


@pytest.fixture
def files(photographs):
    """Settings that train on them."""
    same = {"source": "mine", "folder": str(photographs), "images_per_epoch": None}
    return replace(SMALL, **same, augmentation="none", epochs=1, batch_size=8)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """The weights of SMALL."""
    return pretrain(SMALL, tmp_path_factory.mktemp("made"))


@pytest.fixture
def copied(made, tmp_path):
    """The same, which a test may change."""
    shutil.copytree(made.parent, tmp_path / "copied")
    return tmp_path / "copied" / made.name


@pytest.fixture
def untrained(monkeypatch):
    """Nothing may be trained from now on."""
    return lambda: monkeypatch.setattr(step1, "_train", lambda *a: pytest.fail("trained again"))


def test_weights_card_and_second_call(made, untrained):
    card = read_card(made)
    assert card["standin"] is True
    assert card["source"] == "imagenet1k_standin"
    assert [row["epoch"] for row in card["curve"]] == [1, 2]
    assert card["sha256"] == file_hash(made)
    assert card["images"] == 2 * 96
    assert card["settings"] == dataclasses.asdict(SMALL)
    state, metadata = read_weights(made)
    assert len(json.loads(metadata["ktglite"])["classes"]) == synthcars.STANDIN_MODELS
    model = initialise("resnet18_w8", "imagenet1k_standin", 3, seed=0, weights=made.parent)
    assert torch.equal(model.conv1.weight, state["conv1.weight"])
    assert model.fc.weight.shape[0] == 3
    untrained()
    assert pretrain(SMALL, made.parent) == made


def test_other_settings_are_never_taken_for_done(copied):
    before = file_hash(copied)
    assert pretrain(replace(SMALL, seed=1), copied.parent) == copied
    assert file_hash(copied) != before
    copied.write_bytes(b"broken")
    pretrain(replace(SMALL, seed=1), copied.parent)
    assert file_hash(copied) == read_card(copied)["sha256"] != before
    copied.with_suffix(".json").write_text("{")
    words = r"imagenet1k_standin-resnet18_w8\.json is not a readable card"
    with pytest.raises(ValueError, match=words):
        pretrain(SMALL, copied.parent)


def test_a_key_is_made_of_the_settings_and_the_code_that_a_source_uses():
    fractals = PretrainConfig(arch="resnet18_w8")
    assert step1._settings(fractals) == step1._settings(replace(fractals, standin_images=5))
    assert step1._settings(fractals) != step1._settings(replace(fractals, categories=5))
    assert step1._settings(SMALL) != step1._settings(replace(SMALL, standin_images=5))
    for change, modules in (
        ({"source": "fractaldb1k"}, {"ktglite.sources.fractaldb"}),
        ({"source": "one_fractal"}, {"ktglite_formulas.base", "ktglite_formulas.one_fractal"}),
        ({"source": "one_fractal"}, {"ktglite.sources.fractaldb"}),
        ({}, {"ktglite_formulas.synthcars"}),
        ({"folder": "."}, {"ktglite.sources.datasets"}),
    ):
        assert modules <= {*step1._modules(replace(SMALL, **change))}


def test_finished_weights_are_adopted_where_the_settings_are_the_same(
    copied, tmp_path, untrained, monkeypatch
):
    here = tmp_path / "here"
    ready = copied.parent
    untrained()
    with monkeypatch.context() as patch:  # finished weights are data, of whatever code
        patch.setattr(store, "code_hash", lambda *modules: "other code")
        with pytest.raises(pytest.fail.Exception, match="trained again"):
            pretrain(SMALL, ready)
        assert step1.adopt(SMALL, ready, here)
        assert file_hash(pretrain(SMALL, here)) == file_hash(copied)
        assert not step1.adopt(SMALL, ready, tmp_path / "same", same_code=True)
    assert not step1.adopt(replace(SMALL, seed=1), ready, tmp_path / "there")
    mine = tmp_path / "mine" / copied.name  # of other settings, by the user: set aside
    mine.parent.mkdir()
    mine.write_bytes(b"other weights")
    card = step1.read_card(copied) | {"key": "other", "sha256": file_hash(mine)}
    store.write_json(mine.with_suffix(".json"), card)
    assert step1.adopt(SMALL, ready, mine.parent)
    assert mine.with_name(f"{mine.name}.unused").read_bytes() == b"other weights"
    copied.write_bytes(b"cut")
    assert not step1.adopt(SMALL, ready, tmp_path / "there")


@pytest.mark.parametrize(
    ("older", "agree"),
    [({"label_smoothing": 0.0, "compile": True}, True), ({"label_smoothing": 0.1}, False)],
)
def test_a_card_of_an_earlier_version_counts_where_it_trained_alike(copied, older, agree):
    card = read_card(copied)
    store.write_json(copied.with_suffix(".json"), card | {"settings": card["settings"] | older})
    assert (step1.find_ready(SMALL, copied.parent) is not None) == agree


def test_by_default_the_weights_of_the_kit_stay(tmp_path, monkeypatch):
    """Whoever runs the command in a checkout must not replace what took an hour to make."""
    monkeypatch.chdir(tmp_path)
    path = pretrain(replace(SMALL, epochs=1))
    assert path.parts[:2] == ("data", "runs")
    assert not (tmp_path / "data/weights").exists()


def test_the_kit_brings_the_weights_that_the_quick_profile_asks_for():
    settings = load_settings("01", "quick")
    (config,) = [config for config in settings.pretrain_configs() if config.source == "fractaldb1k"]
    ready = step1.find_ready(config, settings.ready_weights)
    assert ready is not None
    assert read_card(ready)["curve"][-1]["accuracy"] > 60
    assert step1.find_ready(replace(config, epochs=19), settings.ready_weights) is None


def test_a_source_of_one_s_own_is_found_and_known_by_its_whole_package(tmp_path, monkeypatch):
    waves = {
        "waves-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: waves\nVersion: 1",
        "waves-1.dist-info/entry_points.txt": "[ktglite.sources]\nwaves = waves:WAVES",
        "waves/__init__.py": "from ktglite.models import Source\n"
        "WAVES = Source('waves', 'Waves', 'W', '#FFFFFF', 'waves.draw:open_source')",
        "waves/base.py": "HEIGHT = 100",
        "waves/draw.py": WAVES,
    }
    for name, text in waves.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(SOURCES, "waves", None)  # it is forgotten in the end
    importlib.reload(sources)
    config = replace(SMALL, source="waves", epochs=1, batch_size=6)
    path = pretrain(config, tmp_path / "weights")
    assert read_card(path)["images"] == 12
    assert step1._is_done(path, step1._facts(config, tmp_path)["key"])
    (tmp_path / "waves/base.py").write_text("HEIGHT = 200")
    store.code_hash.cache_clear()
    assert not step1._is_done(path, step1._facts(config, tmp_path)["key"])


def test_a_broken_plug_in_is_left_out(monkeypatch, caplog):
    points = [
        EntryPoint("waves", "not_there:WAVES", "ktglite.sources"),
        EntryPoint("table", "json:loads", "ktglite.sources"),
        EntryPoint("scratch", "broken_scratch:SCRATCH", "ktglite.sources"),
    ]
    taken = types.SimpleNamespace(SCRATCH=replace(SOURCES["scratch"], title="Surprise"))
    monkeypatch.setitem(sys.modules, "broken_scratch", taken)
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    importlib.reload(sources)
    assert [record.args[0] for record in caplog.records] == ["waves", "table", "scratch"]
    assert SOURCES["scratch"].title == "no pre-training"


@pytest.mark.parametrize("change", ["content", "added", "class"])
def test_other_images_of_a_folder_are_learned_anew(files, photographs, tmp_path, change):
    first = photographs / "train/left/0.bmp"
    os.utime(first, (1, 1))
    before = read_card(pretrain(files, tmp_path / "w", tmp_path / "cache"))
    if change == "content":  # of the same name, size and time: as uncompressed images have them
        Image.new("RGB", (64, 40), "red").save(first)
        os.utime(first, (1, 1))
    elif change == "added":
        (photographs / "train/left/99.bmp").write_bytes(first.read_bytes())
    else:
        (photographs / "train/left").rename(photographs / "train/lower")
    after = read_card(pretrain(files, tmp_path / "w", tmp_path / "cache"))
    assert after["key"] != before["key"]
    assert after["sha256"] != before["sha256"]


def test_the_same_images_elsewhere_are_not_learned_again(files, photographs, tmp_path, untrained):
    """Train is known by another name, too, and val is left alone."""
    (photographs / "train").rename(photographs / "training")
    path = pretrain(files, tmp_path / "w", tmp_path / "cache")
    assert read_card(path)["images"] == 32
    moved = photographs.rename(tmp_path / "moved")
    untrained()
    elsewhere = replace(files, folder=str(moved))
    assert pretrain(elsewhere, tmp_path / "w", tmp_path / "cache") == path
    assert step1.adopt(elsewhere, tmp_path / "w", tmp_path / "there", tmp_path / "cache")


# ---- what is trained


def test_a_pre_training_is_what_a_plain_loop_does(tmp_path):
    config = replace(SMALL, lr=0.01, weight_decay=0.05, epochs=3, render=20)
    state, _ = read_weights(pretrain(config, tmp_path))
    known = synthcars.car_models(40, synthcars.STANDIN_SEED)
    drawn, labels = synthcars.draw(120, 20, seed=synthcars.STANDIN_SEED, models=known)
    images, labels = torch.from_numpy(np.moveaxis(drawn, 3, 1).copy()), torch.from_numpy(labels)
    torch.manual_seed(derive(0, "init"))
    net = build("resnet18_w8", 40).train()
    optimizer = torch.optim.SGD(net.parameters(), 0.01, momentum=0.9, weight_decay=0.05)
    for epoch in (1, 2, 3):
        optimizer.param_groups[0]["lr"] = (0.01, 0.001, 0.0001)[epoch - 1]
        order = np.random.default_rng(derive(0, "images", epoch)).permutation(120)[:96]
        for k in (1, 2, 3):
            index = order[32 * k - 32 : 32 * k]
            rng = generator(0, "views", epoch, k, 0)
            view = augment(step1.random_crop(images[index], 16, rng), "shift", rng)
            optimizer.zero_grad()
            F.cross_entropy(net(view), labels[index]).backward()
            optimizer.step()
    torch.testing.assert_close(state, net.state_dict(), rtol=1e-3, atol=1e-5)


def test_the_learning_rate_falls_after_each_third_of_the_epochs(tmp_path):
    few = replace(SMALL, epochs=10, images_per_epoch=4, batch_size=2, standin_images=8, lr=0.01)
    rates = [row["lr"] for row in read_card(pretrain(few, tmp_path))["curve"]]
    assert rates == pytest.approx([0.01] * 4 + [0.001] * 3 + [0.0001] * 3)


def test_labels_are_numbers_of_the_classes_that_the_weights_name(files, photographs, tmp_path):
    longer = replace(files, epochs=12, size=32, lr=0.02)
    path = pretrain(longer, tmp_path / "w")
    state, metadata = read_weights(path)
    net = build("resnet18_w8", 2)
    net.load_state_dict(state)
    for number, name in enumerate(json.loads(metadata["ktglite"])["classes"]):
        shown = step1.read_image(photographs / f"val/{name}/3.bmp", 32, step1._central_box)
        view = augment(torch.from_numpy(shown)[None], "none", None)
        assert net.eval()(view).argmax(1).item() == number


def test_labels_are_int64_where_numpy_s_numbers_are_not(files, monkeypatch):
    """With numpy 1 on Windows."""

    def make(real, values, dtype=np.int32):
        return real(values, dtype=dtype)

    with monkeypatch.context() as windows:
        for name in ("array", "arange"):
            windows.setattr(np, name, partial(make, getattr(np, name)))
        found = [step1.open_source(files).labels, synthcars.draw(0, 16)[1]]
    assert [labels.dtype for labels in found] == [np.int64, np.int64]


@pytest.mark.parametrize("arch", ["resnet18_w8", "mobilenet_v3_small"])  # that one has dropout
def test_resuming_gives_the_same_weights(tmp_path, monkeypatch, arch):
    config = replace(SMALL, arch=arch, size=32, lr=0.01)
    whole = pretrain(config, tmp_path / "a")
    original, calls = step1._train_epoch, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(step1, "_train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, tmp_path / "b")
    torch.rand(3)  # whatever else draws from the global generator
    resumed = pretrain(config, tmp_path / "b")
    assert len(calls) == 3
    assert file_hash(whole) == file_hash(resumed)
    assert not list((tmp_path / "b").glob("*.ckpt"))


def test_epochs_draw_each_image_once_and_in_another_order():
    source = step1.open_source(replace(SMALL, standin_images=60, size=8))
    config = replace(SMALL, images_per_epoch=None, batch_size=20, threads=2)
    first, second = (step1._order(config, source, epoch) for epoch in (1, 2))
    assert sorted(first.ravel()) == sorted(second.ravel()) == list(range(60))
    assert (first != second).any()
    drawn = [labels for _, labels in step1._draw_ahead(source, config, 1, first)]
    assert torch.cat(drawn).tolist() == source.labels[first.ravel()].tolist()


def test_files_are_cropped_at_random_as_a_function_of_seed_and_image(photographs):
    files = step1.ImageFiles(photographs / "train", 16, crop=True)
    first, again, other = (files.batch(np.arange(4), seed)[0] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert (files.batch(np.array([2]), 1)[0] == first[2]).all()  # whatever else is in the batch
    slopes = [view[0, 8, -1] > view[0, 8, 0] for k in range(9) for view in files.batch([0], k)[0]]
    assert {*map(bool, slopes)} == {True, False}  # half of them are mirrored
    plain = step1.ImageFiles(photographs / "train", 16).batch(np.arange(4), 1)[0]
    assert (plain == files.batch(np.arange(4))[0]).all()


def test_random_boxes_are_torchvision_s():
    rng = np.random.default_rng(0)
    boxes = np.array([step1._random_box(rng, 80, 60) for _ in range(2000)])
    assert boxes.min() >= 0
    assert (boxes.max(0) <= [80, 60, 80, 60]).all()
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    share, ratio = width * height / (80 * 60), width / height
    assert 0.07 < share.min() < 0.1
    assert share.max() > 0.95
    assert 0.7 < ratio.min() < 0.8
    assert 1.28 < ratio.max() < 1.4
    assert step1._random_box(rng, 400, 10) == step1._central_box(400, 10)  # nothing else fits


def test_every_image_is_cropped_at_a_place_of_its_own():
    images = torch.arange(8 * 3 * 10 * 10).reshape(8, 3, 10, 10) % 251
    cropped = step1.random_crop(images, 7, torch.Generator().manual_seed(0))
    windows = images.unfold(2, 7, 1).unfold(3, 7, 1)  # (8, 3, 4, 4, 7, 7)
    places = (windows == cropped[:, :, None, None]).all(-1).all(-1).all(1)
    assert (places.sum((1, 2)) == 1).all()
    assert places.any(0).sum() > 3
    assert step1.random_crop(images, 10, None) is images


# ---- what is refused


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": "imagenet1k"}, "needs folder"),
        ({"source": "scratch"}, "source is 'scratch'"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"render": 8}, "render is 8"),
        ({"batch_size": 1}, "batch_size is 1"),
        ({"momentum": 1.5}, "momentum is 1.5"),
        ({"images_per_epoch": 1}, "a batch of 1 images"),
        ({"lr": 1e30}, r"epoch 1.* lower lr"),
    ],
)
def test_what_cannot_be_trained_is_named(tmp_path, change, words):
    with pytest.raises((ValueError, FloatingPointError), match=words):
        pretrain(replace(SMALL, **change), tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_every_option_of_the_command_is_explained(capsys):
    with pytest.raises(SystemExit):
        step1.main(["--help"])
    text = re.sub(r"\x1b\[[\d;]*m|[│|]|\n", "  ", capsys.readouterr().out)
    for name in (*(field.name for field in dataclasses.fields(PretrainConfig)), "out", "cache"):
        option = f"--{name.replace('_', '-')}[ ,]"
        assert re.search(rf"{option}[^(]*?  [A-Za-z][^(]{{4,}}\(default: ", text), option


def test_nearest_neighbours_tell_colours_apart():
    def coloured(n: int) -> Split:
        labels = torch.arange(n) % 3
        images = 255 * torch.eye(3, dtype=torch.uint8)[labels][:, :, None, None]
        return Split(images.expand(n, 3, 16, 16).contiguous(), labels)

    data = Data("colours", 16, ("red", "green", "blue"), coloured(30), coloured(9), coloured(9))
    assert step1.nearest_neighbours(initialise("resnet18_w8", "scratch", 3, seed=0), data) == 100

"""Step 1 on a few small images: done once, resumed to the same weights, several processes as one."""

import dataclasses
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from ktglite import load_settings
from ktglite.data import Data, Split
from ktglite.models import build, file_hash, initialise, read_weights
from ktglite.pool import open_pool
from ktglite.sources import pretrain as step1
from ktglite.sources import synthcars
from ktglite.sources.pretrain import PretrainConfig, pretrain, read_card
from ktglite.store import Checkpoint

SMALL = PretrainConfig(
    "imagenet1k_standin",
    "resnet18_w8",
    16,
    epochs=2,
    images_per_epoch=96,
    batch_size=32,
    standin_images=120,
    augmentation="shift",
    precision="fp32",
    device="cpu",
)


def test_weights_card_and_second_call(tmp_path, monkeypatch):
    path = pretrain(SMALL, tmp_path)
    card = read_card(path)
    assert card["standin"] is True
    assert card["source"] == "imagenet1k_standin"
    assert [row["epoch"] for row in card["curve"]] == [1, 2]
    assert card["sha256"] == file_hash(path)
    assert card["images"] == 2 * 96
    _, metadata = read_weights(path)
    assert len(json.loads(metadata["ktglite"])["classes"]) == synthcars.STANDIN_MODELS
    monkeypatch.setattr(step1, "_train", lambda *a: pytest.fail("trained again"))
    assert pretrain(SMALL, tmp_path) == path


def test_finished_weights_are_adopted_where_the_settings_are_the_same(tmp_path, monkeypatch):
    ready = pretrain(SMALL, tmp_path / "ready")
    monkeypatch.setattr(step1, "_train", lambda *a: pytest.fail("trained again"))
    assert step1.adopt(SMALL, tmp_path / "ready", tmp_path / "here")
    assert file_hash(pretrain(SMALL, tmp_path / "here")) == file_hash(ready)
    assert not step1.adopt(
        dataclasses.replace(SMALL, seed=1), tmp_path / "ready", tmp_path / "there"
    )
    assert not (tmp_path / "there").exists()
    ready.write_bytes(b"cut")
    assert not step1.adopt(SMALL, tmp_path / "ready", tmp_path / "there")


def test_the_kit_brings_the_weights_that_the_quick_profile_asks_for():
    settings = load_settings("01", "quick")
    (config,) = [config for config in settings.pretrain_configs() if config.source == "fractaldb1k"]
    ready = step1.find_ready(config, settings.ready_weights)
    assert ready is not None
    assert read_card(ready)["curve"][-1]["accuracy"] > 60


def test_settings_that_a_source_does_not_use_are_not_in_its_key():
    fractals = PretrainConfig(arch="resnet18_w8")
    assert step1._settings_key(fractals) == step1._settings_key(
        dataclasses.replace(fractals, standin_images=5)
    )
    assert step1._settings_key(fractals) != step1._settings_key(
        dataclasses.replace(fractals, categories=5)
    )
    assert step1._settings_key(SMALL) != step1._settings_key(
        dataclasses.replace(SMALL, standin_images=5)
    )


def test_other_settings_are_never_taken_for_done(tmp_path):
    path = pretrain(SMALL, tmp_path)
    before = file_hash(path)
    pretrain(dataclasses.replace(SMALL, seed=1), tmp_path)
    assert file_hash(path) != before
    path.write_bytes(b"broken")
    assert not step1._is_done(dataclasses.replace(SMALL, seed=1), path)


def test_resuming_gives_the_same_weights(tmp_path, monkeypatch):
    whole = pretrain(SMALL, tmp_path / "a")
    original, calls = step1._train_epoch, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(step1, "_train_epoch", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(SMALL, tmp_path / "b")
    monkeypatch.setattr(step1, "_train_epoch", original)
    resumed = pretrain(SMALL, tmp_path / "b")
    assert file_hash(whole) == file_hash(resumed)
    assert not list((tmp_path / "b").glob("*.ckpt"))


@pytest.mark.parametrize(
    "arch", ["resnet18_w8", "mobilenet_v3_small"]
)  # the second one has dropout
def test_resuming_within_an_epoch_gives_the_same_weights(tmp_path, monkeypatch, arch):
    monkeypatch.setattr(step1, "LOOK", 1)
    config = dataclasses.replace(SMALL, checkpoint_minutes=0, arch=arch, size=32, lr=0.01)
    whole = pretrain(config, tmp_path / "a")
    original, steps = Checkpoint.save, []

    def killed(self, state):
        original(self, state)
        steps.append(state["step"])
        if steps == [1, 2]:
            raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoint, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        pretrain(config, tmp_path / "b")
    resumed = pretrain(config, tmp_path / "b")
    assert steps == [
        1,
        2,
        0,
        1,
        2,
        0,
    ]  # three batches an epoch: the third of the first was not trained twice
    assert file_hash(whole) == file_hash(resumed)
    rows = [read_card(path)["curve"][0] for path in (whole, resumed)]
    assert rows[0]["loss"] == rows[1]["loss"]
    assert rows[0]["images"] == rows[1]["images"] == 96


def test_the_stand_in_has_none_of_the_task_s_models():
    own, others = (
        synthcars.car_models(),
        synthcars.car_models(synthcars.STANDIN_MODELS, seed=synthcars.STANDIN_SEED),
    )
    assert not set(own) & set(others)
    assert not set(synthcars.class_names(own)) & set(synthcars.class_names(others))


def test_a_node_starts_from_the_backbone_with_a_new_head(tmp_path):
    path = pretrain(SMALL, tmp_path)
    state, _ = read_weights(path)
    model = initialise("resnet18_w8", "imagenet1k_standin", 3, seed=0, weights=tmp_path)
    assert torch.equal(model.conv1.weight, state["conv1.weight"])
    assert model.fc.weight.shape[0] == 3


def test_a_folder_of_images(tmp_path):
    for name in ("a", "b"):
        (tmp_path / "images/train" / name).mkdir(parents=True)
        for i in range(6):
            Image.fromarray(np.full((20, 30, 3), 40 * i, np.uint8)).save(
                tmp_path / f"images/train/{name}/{i}.png"
            )
    config = dataclasses.replace(
        SMALL, source="mine", folder=str(tmp_path / "images"), images_per_epoch=None, epochs=1
    )
    card = read_card(pretrain(dataclasses.replace(config, batch_size=4), tmp_path / "weights"))
    assert card["classes"] == 2
    assert card["images"] == 12


@pytest.fixture
def photographs(tmp_path):
    """Two classes below train/ and val/: wide pictures, dark on the left and bright on the right, or the reverse."""
    ramp = np.linspace(0, 255, 64).astype(np.uint8)
    for part, count in (("train", 16), ("val", 6)):
        for name, line in (("left", ramp), ("right", ramp[::-1])):
            (tmp_path / part / name).mkdir(parents=True)
            for i in range(count):
                image = np.tile(line[None, :, None], (40, 1, 3))
                Image.fromarray(np.clip(image + 2 * i, 0, 255).astype(np.uint8)).save(
                    tmp_path / f"{part}/{name}/{i}.png"
                )
    return tmp_path


def test_files_are_cropped_at_random_as_a_function_of_seed_and_image(photographs):
    files = step1.ImageFiles(photographs / "train", 16, "crop")
    first, again, other = (files.batch(np.arange(4), seed)[0] for seed in (1, 1, 2))
    assert (first == again).all()
    assert (first != other).any()
    assert (files.batch(np.array([2]), 1)[0] == first[2]).all()  # whatever else is in the batch
    plain = files.batch(np.arange(4))[0]
    assert (plain == step1.ImageFiles(photographs / "train", 16).batch(np.arange(4), 1)[0]).all()


def test_random_boxes_are_torchvision_s():
    rng = np.random.default_rng(0)
    boxes = np.array([step1._random_box(80, 60, rng) for _ in range(2000)])
    width, height = boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]
    assert boxes.min() >= 0
    assert boxes[:, 2].max() <= 80
    assert boxes[:, 3].max() <= 60
    share = width * height / (80 * 60)
    assert 0.07 < share.min() < 0.1
    assert share.max() > 0.95
    assert 0.7 < (width / height).min() < 0.8
    assert 1.28 < (width / height).max() < 1.4
    assert step1._random_box(400, 10, rng) == step1._central_box(400, 10)  # nothing else fits


def test_a_folder_s_val_is_validated_on(photographs, tmp_path):
    config = dataclasses.replace(
        SMALL, source="mine", folder=str(photographs), images_per_epoch=None, batch_size=8
    )
    assert dataclasses.replace(config, augmentation="auto").augmentation == "crop"
    longer = dataclasses.replace(config, augmentation="none", epochs=12, size=32, lr=0.02)
    row = read_card(pretrain(longer, tmp_path / "w"))["curve"][-1]
    assert row["val_accuracy"] == 100
    (photographs / "val/left").rename(photographs / "val/lift")
    with pytest.raises(ValueError, match="class 'left' is not in both"):
        pretrain(config, tmp_path / "x")


def test_epochs_draw_each_image_once_and_in_another_order():
    source = step1.open_source(dataclasses.replace(SMALL, standin_images=60, size=8))
    config = dataclasses.replace(SMALL, images_per_epoch=None, batch_size=20)
    first, second = (
        torch.cat([labels for _, labels in step1._batches(source, config, epoch)])
        for epoch in (1, 2)
    )
    assert sorted(first.tolist()) == sorted(second.tolist()) == sorted(source.labels.tolist())
    assert first.tolist() != second.tolist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": "imagenet1k"}, "needs folder"),
        ({"source": "scratch"}, "source is 'scratch'"),
        ({"schedule": "linear"}, "schedule is 'linear'"),
        ({"epochs": 0}, "epochs is 0"),
        ({"render": 8}, "render is 8"),
    ],
)
def test_wrong_settings_are_named(change, words):
    with pytest.raises(ValueError, match=words):
        dataclasses.replace(SMALL, **change)


def test_a_card_that_cannot_be_read_is_named(tmp_path):
    path = pretrain(dataclasses.replace(SMALL, epochs=1), tmp_path)
    path.with_suffix(".json").write_text("{")
    with pytest.raises(
        ValueError, match=r"imagenet1k_standin-resnet18_w8\.json is not a readable card"
    ):
        pretrain(SMALL, tmp_path)


def test_a_loss_that_is_not_finite_stops(tmp_path):
    with pytest.raises(FloatingPointError, match="epoch"):
        pretrain(dataclasses.replace(SMALL, lr=1e30), tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))


def test_nearest_neighbours_tell_colours_apart():
    def coloured(n: int) -> Split:
        labels = torch.arange(n) % 3
        images = torch.zeros(n, 3, 16, 16, dtype=torch.uint8)
        images[torch.arange(n), labels] = 255
        return Split(images, labels)

    data = Data("colours", 16, ("red", "green", "blue"), coloured(30), coloured(9), coloured(9))
    assert step1.nearest_neighbours(initialise("resnet18_w8", "scratch", 3, seed=0), data) == 100


def test_learning_rates():
    step = dataclasses.replace(SMALL, schedule="step", epochs=90, lr=0.1)
    rates = [round(step1._learning_rate(step, epoch), 6) for epoch in (1, 30, 31, 60, 61, 90)]
    assert rates == [0.1, 0.1, 0.01, 0.01, 0.001, 0.001]


@pytest.mark.slow
def test_two_processes_learn_as_one(tmp_path):
    """Two processes with half batches: the same images in all, a curve as that of one process."""
    command = [
        "--source",
        "imagenet1k_standin",
        "--arch",
        "resnet18_w8",
        "--size",
        "16",
        "--epochs",
        "4",
    ]
    command += [
        "--batch-size",
        "64",
        "--lr",
        "0.05",
        "--standin-images",
        "1280",
        "--precision",
        "fp32",
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    cards = []
    command += ["--checkpoint-minutes", "0.01"]
    for out, launcher in [
        ("one", []),
        ("two", ["torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m"]),
    ]:
        arguments = [
            sys.executable,
            "-m",
            *launcher,
            "ktglite.sources.pretrain",
            *command,
            "--out",
            str(tmp_path / out),
        ]
        subprocess.run(arguments, check=True, env=environment)
        cards.append(read_card(tmp_path / out / "imagenet1k_standin-resnet18_w8.safetensors"))
    one, two = cards
    assert two["processes"] == 2
    assert [row["images"] for row in one["curve"]] == [row["images"] for row in two["curve"]]
    losses = [[row["loss"] for row in card["curve"]] for card in cards]
    assert np.allclose(*losses, rtol=0.05), losses


def test_every_image_is_cropped_at_a_place_of_its_own():
    images = torch.arange(8 * 3 * 10 * 10).reshape(8, 3, 10, 10) % 251
    cropped = step1.random_crop(images, 7, torch.Generator().manual_seed(0))
    places = set()
    for image, view in zip(images, cropped, strict=True):
        found = [
            (y, x)
            for y in range(4)
            for x in range(4)
            if torch.equal(image[:, y : y + 7, x : x + 7], view)
        ]
        places |= set(found)
        assert len(found) == 1
    assert len(places) > 3
    assert step1.random_crop(images, 10, None) is images


def test_dropout_is_drawn_from_the_seed(tmp_path):
    config = dataclasses.replace(SMALL, arch="mobilenet_v3_small", size=32, epochs=1, lr=0.01)
    hashes = []
    for i in range(2):
        torch.manual_seed(i)
        torch.rand(i)  # whatever else draws from the global generator
        hashes.append(file_hash(pretrain(config, tmp_path / str(i))))
    assert hashes[0] == hashes[1]


def test_accumulated_parts_exchange_gradients_once(monkeypatch):
    """With every part but the last, the processes keep their gradients to themselves."""
    exchanges = []

    class Parallel(torch.nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net, self.alone = net, False

        def no_sync(self):
            parallel = self

            class Alone:
                def __enter__(self):
                    parallel.alone = True

                def __exit__(self, *error):
                    parallel.alone = False

            return Alone()

        def forward(self, images):
            exchanges.append(not self.alone)
            return self.net(images)

    monkeypatch.setattr(step1, "DistributedDataParallel", Parallel)
    config = dataclasses.replace(SMALL, accumulate=4, augmentation="none")
    images, labels = torch.randn(8, 3, 16, 16), torch.arange(8) % 3
    net = Parallel(build("resnet18_w8", 3).eval())
    loss, right = step1._accumulate(net, images, labels, config)
    assert exchanges == [False, False, False, True]
    whole, _ = step1._accumulate(net, images, labels, dataclasses.replace(config, accumulate=1))
    assert loss.item() == pytest.approx(whole.item(), rel=1e-5)
    assert 0 <= right <= 8


def test_other_code_is_another_key_and_finished_weights_are_data(tmp_path, monkeypatch):
    ready = pretrain(SMALL, tmp_path / "ready")
    monkeypatch.setattr(step1, "code_hash", lambda *modules: "other code")
    assert not step1._is_done(SMALL, ready)
    assert step1.adopt(SMALL, tmp_path / "ready", tmp_path / "here")
    assert step1._is_done(SMALL, tmp_path / "here" / ready.name)


def test_several_at_once(tmp_path):
    configs = [
        dataclasses.replace(SMALL, epochs=1, arch=arch) for arch in ("resnet18_w8", "resnet18_w16")
    ]
    with open_pool(2) as pool:
        paths = step1.pretrain_all(configs, tmp_path, tmp_path / "cache", pool)
    assert [read_card(path)["arch"] for path in paths] == ["resnet18_w8", "resnet18_w16"]

"""Architectures and the weights nodes start from."""

import json
import os
import pickle
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file

from ktglite import models, sources  # noqa: F401 - registers the sources


@pytest.mark.parametrize(("arch", "width"), models.NARROW.items())
def test_narrow_resnets_are_the_papers_at_another_width(arch, width):
    model, full = models.build(arch, 7), models.build("resnet18", 7)
    images = torch.zeros(2, 3, 48, 48)
    assert model(images).shape == (2, 7)
    assert model.maxpool(model.conv1(images)).shape == (2, width, 12, 12)
    kinds = [[type(module) for module in net.modules()] for net in (model, full)]
    assert kinds[0] == kinds[1]
    shapes = [
        [value.shape for value in net.state_dict().values() if value.ndim == 4]
        for net in (model, full)
    ]
    assert [shape[0] * 64 // width for shape in shapes[0]] == [shape[0] for shape in shapes[1]]
    assert [shape[2:] for shape in shapes[0]] == [shape[2:] for shape in shapes[1]]


def test_a_narrow_resnet_has_torchvision_s_names():
    assert set(models.build("resnet18", 7).state_dict()) == set(
        models.build("resnet18_w8", 7).state_dict()
    )


def test_torchvision_architectures_come_by_name():
    assert models.build("mobilenet_v3_small", 5)(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    with pytest.raises(ValueError, match="unknown arch 'alexnot'"):
        models.build("alexnot", 5)


def test_the_same_seed_gives_the_same_network():
    first, again, other = (
        models.initialise("resnet18_w8", "scratch", 3, seed) for seed in (1, 1, 2)
    )
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def save_weights(folder, classes, seed=5, **change):
    source = models.initialise("resnet18_w8", "scratch", len(classes), seed)
    state = {k: v.contiguous() for k, v in source.state_dict().items()} | change
    save_file(
        state,
        folder / "fractaldb1k-resnet18_w8.safetensors",
        {"ktglite": json.dumps({"classes": classes})},
    )
    return source


def test_backbone_is_loaded_and_the_head_is_the_one_of_the_seed(tmp_path):
    source = save_weights(tmp_path, ["x", "y", "z"])
    fresh = models.initialise("resnet18_w8", "scratch", 3, 1)
    tuned = models.initialise("resnet18_w8", "fractaldb1k", 3, 1, tmp_path, classes=("a", "b", "c"))
    assert torch.equal(tuned.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    assert torch.equal(
        tuned.fc.weight, fresh.fc.weight
    )  # as many classes, but others: the head does not fit


def test_head_is_kept_where_the_classes_are_the_same(tmp_path):
    source = save_weights(tmp_path, ["x", "y", "z"])
    tuned = models.initialise("resnet18_w8", "fractaldb1k", 3, 1, tmp_path, classes=("x", "y", "z"))
    assert torch.equal(tuned.fc.weight, source.fc.weight)


def test_missing_weights_say_how_to_make_them(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="ktglite pretrain --source fractaldb1k --arch resnet18_w8"
    ):
        models.find_weights("resnet18_w8", "fractaldb1k", tmp_path)


def test_a_missing_weights_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="the file .*mine.pt does not exist"):
        models.find_weights("resnet18_w8", f"{tmp_path}/mine.pt", tmp_path)


def test_weights_by_torchvision_s_names(tmp_path, monkeypatch):
    asked = []

    def download(url, path, progress):
        asked.append(url)
        Path(path).write_bytes(b"not what the name says")

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr(models, "_check_hash_in_name", lambda *facts: None)
    for init in ("imagenet1k", "ResNet50_Weights.IMAGENET1K_V1", "ResNet50_Weights.IMAGENET1K_V2"):
        assert models.is_init(init)
        assert models.find_weights("resnet50", init, tmp_path).name == asked[-1].rpartition("/")[2]
    assert len(asked) == 2  # what is there is not asked for again
    for wrong in ("ResNet50_Weights.V9", "ResNet9_Weights.DEFAULT", "resnet50.x", "a.b.c"):
        assert not models.is_init(wrong)
    assert not models.is_init(None)  # null in JSON
    with pytest.raises(ValueError, match="no imagenet1k weights of 'vit_h_14'; it has: ViT_H_14"):
        models.find_weights("vit_h_14", "imagenet1k", tmp_path)


def test_imagenet_weights_placed_by_hand_are_checked_against_the_hash_in_their_name(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    file = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    file.parent.mkdir()
    torch.save(models.build("resnet18", 1000).state_dict(), file)
    with pytest.raises(ValueError, match="is not the file its name says"):
        models.find_weights("resnet18", "imagenet1k", tmp_path)
    right = file.with_name(f"resnet18-{models.file_hash(file)[:8]}.pth")
    os.replace(file, right)
    entry = SimpleNamespace(url=f"somewhere/{right.name}")
    assert models._torchvision_weights(entry, missing=tmp_path) == right


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_taken_off(tmp_path, prefix):
    source = models.build("resnet18_w8", 9)
    torch.save({prefix + k: v for k, v in source.state_dict().items()}, tmp_path / "w.pth")
    loaded = models.initialise("resnet18_w8", str(tmp_path / "w.pth"), 4, 0)
    assert torch.equal(loaded.layer1[0].conv1.weight, source.layer1[0].conv1.weight)


def test_older_names_of_densenets_and_heads_that_are_convolutions_are_known(tmp_path):
    source = models.build("densenet121", 9).state_dict()
    old = {re.sub(r"((norm|conv))([12])\.", r"\1.\3.", name): v for name, v in source.items()}
    assert "features.denseblock1.denselayer1.norm.1.weight" in old
    torch.save(old, tmp_path / "dense.pth")
    loaded = models.initialise("densenet121", str(tmp_path / "dense.pth"), 4, 0)
    name = "features.denseblock1.denselayer1.conv1.weight"
    assert torch.equal(loaded.state_dict()[name], source[name])
    source = models.build("squeezenet1_1", 9)
    torch.save(source.state_dict(), tmp_path / "squeeze.pth")
    loaded = models.initialise("squeezenet1_1", str(tmp_path / "squeeze.pth"), 4, 0)
    assert torch.equal(loaded.features[0].weight, source.features[0].weight)
    assert loaded.classifier[1].out_channels == 4


def test_weights_that_are_not_finite_are_named_at_loading(tmp_path):
    state = models.build("resnet18_w8", 3).state_dict()
    state["layer1.0.conv1.weight"][0] = float("nan")
    torch.save(state, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="layer1.0.conv1.weight has values that are NaN"):
        models.initialise("resnet18_w8", str(tmp_path / "w.pth"), 3, 0)


def test_a_checkpoint_of_more_than_tensors_is_refused_in_a_sentence(tmp_path):
    state = models.build("resnet18_w8", 3).state_dict()
    torch.save({"state_dict": state, "args": SimpleNamespace(lr=1)}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="save net.state_dict") as error:
        models.read_weights(tmp_path / "w.pth")
    assert "weights_only" not in str(error.value)


def test_wrong_shape_is_named(tmp_path):
    save_weights(tmp_path, ["x", "y", "z"], **{"conv1.weight": torch.zeros(4, 3, 7, 7)})
    with pytest.raises(
        ValueError, match=r"conv1.weight is \(4, 3, 7, 7\), the model has \(8, 3, 7, 7\)"
    ):
        models.initialise("resnet18_w8", "fractaldb1k", 3, 1, tmp_path)


def test_missing_and_extra_keys_are_named(tmp_path):
    save_file(
        {"conv1.weight": torch.zeros(8, 3, 7, 7), "extra": torch.zeros(1)},
        tmp_path / "w.safetensors",
    )
    with pytest.raises(ValueError, match="unexpected extra; missing bn1.bias") as error:
        models.initialise("resnet18_w8", str(tmp_path / "w.safetensors"), 3, 1)
    assert "more" in str(error.value)


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_code_in_a_pickle_is_not_run(tmp_path):
    torch.save({"conv1.weight": Bomb(str(tmp_path / "ran"))}, tmp_path / "w.pt")
    with pytest.raises(ValueError, match="w.pt holds more than tensors"):
        models.read_weights(tmp_path / "w.pt")
    (tmp_path / "raw.pth").write_bytes(pickle.dumps(Bomb(str(tmp_path / "ran"))))
    with pytest.raises(ValueError, match="raw.pth"):
        models.read_weights(tmp_path / "raw.pth")
    assert not (tmp_path / "ran").exists()


def test_truncated_file_is_refused(tmp_path):
    save_weights(tmp_path, ["x"])
    path = tmp_path / "fractaldb1k-resnet18_w8.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a readable weights file"):
        models.read_weights(path)


@pytest.mark.parametrize("arch", ["resnet18_w8", "resnet50"])
def test_a_fresh_scale_changes_no_answer(arch):
    torch.manual_seed(0)
    model = models.build(arch, 3).double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight *= 1 + 4 * torch.rand(())
            elif isinstance(module, torch.nn.BatchNorm2d):
                module.momentum, module.eps = (
                    1.0,
                    1e-15,
                )  # the one part of a BatchNorm that has a scale
    images = torch.randn(8, 3, 64, 64, dtype=torch.float64)
    model.train()(images)  # running statistics of these weights
    before = model.eval()(images)
    fresh = models.build(arch, 3).state_dict()
    models._rescale(model)
    after = model(images)
    torch.testing.assert_close(after, before)
    for name, value in model.state_dict().items():
        if value.ndim == 4:
            assert value.std().item() == pytest.approx(fresh[name].std().item(), rel=0.2), name


def test_a_fresh_scale_is_for_resnets():
    with pytest.raises(ValueError, match="scale 'fresh' is for ResNets"):
        models._rescale(models.build("vgg11", 3))


def test_a_node_starts_at_the_scale_that_is_asked_for(tmp_path):
    state = {name: 3 * value for name, value in models.build("resnet18_w8", 5).state_dict().items()}
    save_file(state, tmp_path / "fractaldb1k-resnet18_w8.safetensors")
    kept, fresh = (
        models.initialise("resnet18_w8", "fractaldb1k", 3, 0, tmp_path, scale=scale).conv1.weight
        for scale in ("kept", "fresh")
    )
    assert torch.equal(kept, state["conv1.weight"])
    torch.testing.assert_close(fresh / fresh.norm(), kept / kept.norm())
    assert fresh.norm() < 0.6 * kept.norm()


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 5])
def test_so_many_stages_are_taken_over(tmp_path, stages):
    source = save_weights(tmp_path, ["x", "y", "z"]).state_dict()
    fresh = models.initialise("resnet18_w8", "scratch", 3, 1).state_dict()
    tuned = models.initialise(
        "resnet18_w8", "fractaldb1k", 3, 1, tmp_path, stages=stages
    ).state_dict()
    taken = {"conv1.weight": 1, "layer1.0.conv1.weight": 2, "layer2.0.conv1.weight": 3}
    taken |= {"layer3.0.conv1.weight": 4, "layer4.1.conv2.weight": 5, "fc.weight": 6}
    for name, stage in taken.items():
        assert torch.equal(tuned[name], (source if stage <= stages else fresh)[name]), name


def test_titles_of_starts():
    assert models.title("imagenet1k_standin") == "ImageNet-1k stand-in"
    assert models.title("scratch") == "no pre-training"
    assert models.title("my/cars.safetensors") == "cars"
    assert models.title("ResNet18_Weights.DEFAULT") == "ResNet18_Weights.DEFAULT"

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
    assert [type(m) for m in model.modules()] == [type(m) for m in full.modules()]
    own, others = model.state_dict(), full.state_dict()
    assert list(own) == list(others)
    for name, value in own.items():
        if value.ndim == 4:
            assert value.shape[0] * 64 == others[name].shape[0] * width
            assert value.shape[2:] == others[name].shape[2:]


def test_torchvision_architectures_come_by_name():
    assert models.build("mobilenet_v3_small", 5)(torch.zeros(2, 3, 32, 32)).shape == (2, 5)
    with pytest.raises(ValueError, match="unknown arch 'alexnot'"):
        models.build("alexnot", 5)


def test_the_same_seed_gives_the_same_network():
    first, again, other = (scratch(seed) for seed in (1, 1, 2))
    assert torch.equal(first.conv1.weight, again.conv1.weight)
    assert not torch.equal(first.conv1.weight, other.conv1.weight)


def scratch(seed):
    return models.initialise("resnet18_w8", "scratch", 3, seed)


def tuned(folder, classes=3, **more):
    return models.initialise("resnet18_w8", "fractaldb1k", classes, 1, folder, **more)


def save_weights(folder):
    source = scratch(5)
    card = {"ktglite": json.dumps({"classes": ["x", "y", "z"]})}
    save_file(source.state_dict(), folder / "fractaldb1k-resnet18_w8.safetensors", card)
    return source


@pytest.mark.parametrize("classes", [tuple("xyz"), tuple("abc"), 3])
def test_backbone_is_loaded_and_the_head_only_where_the_classes_are_the_same(tmp_path, classes):
    source = save_weights(tmp_path)
    net = tuned(tmp_path, classes)
    assert torch.equal(net.layer4[1].conv2.weight, source.layer4[1].conv2.weight)
    expected = source if classes == tuple("xyz") else scratch(1)
    assert torch.equal(net.fc.weight, expected.fc.weight)


@pytest.mark.parametrize(
    ("init", "words"),
    [
        ("fractaldb1k", "ktglite pretrain --source fractaldb1k --arch resnet18_w8"),
        ("nowhere/mine.pt", "the file .*mine.pt does not exist"),
    ],
)
def test_missing_weights_are_named(tmp_path, init, words):
    with pytest.raises(FileNotFoundError, match=words):
        models.find_weights("resnet18_w8", init, tmp_path)


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


@pytest.mark.parametrize(
    ("arch", "layer", "pattern", "other"),
    [
        ("resnet18_w8", "layer1.0.conv1", "^", "module."),
        ("resnet18_w8", "layer1.0.conv1", "^", "_orig_mod."),
        ("resnet18_w8", "layer1.0.conv1", "^", "_orig_mod.module."),
        ("resnet18_w8", "layer1.0.conv1", r"(^|layer1\.)", r"\1_fsdp_wrapped_module."),
        ("vit_b_32", "encoder.layers.encoder_layer_0.mlp.3", r"mlp\.3", "mlp.linear_2"),
        ("densenet121", "features.denseblock1.denselayer1.conv1", r"(norm|conv)([12]\.)", r"\1.\2"),
        ("squeezenet1_1", "features.0", "^", ""),  # its head is a convolution
    ],
)
def test_other_names_of_layers_are_known(tmp_path, arch, layer, pattern, other):
    """Prefixes of wrappers are taken off; DenseNets and ViTs had older names."""
    source = models.build(arch, 9).state_dict()
    old = {re.sub(pattern, other, name): value for name, value in source.items()}
    whole = {"model": arch, "model_state_dict": old | {"n_averaged": torch.tensor(1)}}
    torch.save(whole, tmp_path / "w.pth")
    loaded = models.initialise(arch, str(tmp_path / "w.pth"), 4, 0)
    assert torch.equal(loaded.state_dict()[f"{layer}.weight"], source[f"{layer}.weight"])
    assert loaded.get_submodule(models.head_of(loaded)).weight.shape[0] == 4


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"bn1.bias": torch.full((8,), torch.nan)}, "bn1.bias has values that are NaN"),
        (
            {"conv1.weight": torch.zeros(4, 3, 7, 7)},
            r"conv1.weight is \(4, 3, 7, 7\), the model has \(8, 3, 7, 7\)",
        ),
        ({"extra": torch.zeros(1), "bn1.bias": None}, "unexpected extra; missing bn1.bias$"),
        ({"args": SimpleNamespace(lr=1)}, "save net.state_dict"),
        ({"module.bn1.bias": torch.zeros(8)}, "several networks, whose names differ in a prefix"),
        (
            {"bn1.bias": torch.zeros(8, dtype=torch.int8)},
            "bn1.bias is of torch.int8, the model's of torch.float32",
        ),
    ],
)
def test_weights_that_do_not_fit_are_named(tmp_path, given, words):
    path = tmp_path / "w.pth"
    state = models.build("resnet18_w8", 3).state_dict() | given
    torch.save({name: value for name, value in state.items() if value is not None}, path)
    with pytest.raises(ValueError, match=words) as error:
        models.initialise("resnet18_w8", str(path), 3, 0)
    assert "weights_only" not in str(error.value)


def test_a_truncated_file_is_refused(tmp_path):
    save_weights(tmp_path)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match="not a readable weights file"):
        models.read_weights(path)


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


def test_layers_of_another_version_are_loaded_as_saved(tmp_path):
    """MNASNet's refuse a state without its version."""
    source = models.build("mnasnet0_5", 3)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    loaded = models.initialise("mnasnet0_5", str(tmp_path / "w.safetensors"), 3, 0)
    assert torch.equal(loaded.layers[0].weight, source.layers[0].weight)


def test_what_is_no_node_says_why():
    with pytest.raises(ValueError, match="'googlenet' answers with auxiliary logits"):
        models.build("googlenet", 3)


def test_a_fresh_network_is_at_its_scale(monkeypatch):
    model = models.build("resnext50_32x4d", 3)  # its convolutions have groups
    before = model.layer1[0].conv2.weight.clone()
    models._rescale(model)
    torch.testing.assert_close(model.layer1[0].conv2.weight, before, rtol=0.1, atol=0)


@pytest.mark.parametrize("arch", ["resnet18_w8", "resnet50"])
def test_a_fresh_scale_changes_no_answer(arch):
    torch.manual_seed(0)
    model = models.build(arch, 3).double()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.weight *= 1 + 4 * torch.rand(())
            elif isinstance(module, torch.nn.BatchNorm2d):
                module.momentum = 1.0
                module.eps = 1e-15  # the one part of a BatchNorm that has a scale
    images = torch.randn(8, 3, 64, 64, dtype=torch.float64)
    model.train()(images)  # running statistics of these weights
    before = model.eval()(images)
    fresh = models.build(arch, 3).state_dict()
    models._rescale(model)
    torch.testing.assert_close(model(images), before)
    for name, value in model.state_dict().items():
        if value.ndim == 4:
            assert value.std().item() == pytest.approx(fresh[name].std().item(), rel=0.2), name


def test_a_node_starts_at_the_scale_that_is_asked_for(tmp_path):
    state = {name: 3 * value for name, value in scratch(5).state_dict().items()}
    save_file(state, tmp_path / "fractaldb1k-resnet18_w8.safetensors")
    kept, fresh = (tuned(tmp_path, scale=scale).conv1.weight for scale in ("kept", "fresh"))
    assert torch.equal(kept, state["conv1.weight"])
    torch.testing.assert_close(fresh / fresh.norm(), kept / kept.norm())
    assert fresh.norm() < 0.6 * kept.norm()


def test_so_many_stages_are_taken_over(tmp_path):
    source = save_weights(tmp_path).state_dict()
    fresh = scratch(1).state_dict()
    names = ["conv1", "layer1.0.conv1", "layer2.0.conv1", "layer3.0.conv1", "layer4.1.conv2", "fc"]
    for stages in (1, 2, 3, 4, 5):
        state = tuned(tmp_path, stages=stages).state_dict()
        for stage, layer in enumerate(names, 1):
            name = f"{layer}.weight"
            assert torch.equal(state[name], (source if stage <= stages else fresh)[name]), name


def test_titles_of_starts():
    assert models.title("imagenet1k_standin") == "ImageNet-1k stand-in"
    assert models.title("scratch") == "no pre-training"
    assert models.title("my/cars.safetensors") == "cars"
    assert models.title("ResNet18_Weights.DEFAULT") == "ResNet18_Weights.DEFAULT"


@pytest.mark.parametrize(
    ("entry", "prefix"), [("model", ""), ("model_state_dict", "module."), ("state_dict", "model.")]
)
def test_an_entry_of_a_checkpoint_is_read(tmp_path, entry, prefix):
    """As torchvision's references, many tutorials and Lightning write them."""
    state = models.build("resnet18_w8", 3).state_dict()
    named = {prefix + name: value for name, value in state.items()}
    torch.save({entry: named, "epoch": 3, "optimizer": {"lr": 0.1}}, tmp_path / "w.pth")
    found, _ = models.read_weights(tmp_path / "w.pth")
    assert found.keys() == state.keys()
    torch.save({"net": state}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="no state dict of tensors: save net.state_dict"):
        models.read_weights(tmp_path / "w.pth")

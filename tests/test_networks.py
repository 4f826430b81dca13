"""Trained networks to take away: what their files say, and what they answer."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from ktglite import Node, TrainConfig, all_through, cli, load_data, models, trainer
from ktglite.experiments import networks
from ktglite.experiments.networks import classify, load_network
from ktglite.experiments.runs import Run, Store, run
from ktglite.single_run import answers, class_table
from ktglite.store import from_checkout

CONFIG = TrainConfig(epochs=2, batch_size=8, augmentation="shift", precision="fp32", device="cpu")
SHIPPED = "data/networks/table1-standin-all.safetensors"


@pytest.fixture(scope="module")
def trained(tiny_data, tmp_path_factory):
    """The file of a target that a run has kept, and the record of the run."""
    folder = tmp_path_factory.mktemp("runs")
    graph = all_through(Node("resnet18"), Node("resnet18_w8"))
    record = run(Run(graph, tiny_data, CONFIG, 0), Store(folder, "target"))
    return folder / f"{record['key']}.node1.safetensors", record


PLAIN = """
import sys
import torch
from safetensors import safe_open
from torchvision.models import resnet18

file, folder, key = sys.argv[1:]
with safe_open(file, "pt") as file:
    state, card = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()["ktglite"]
net = resnet18(num_classes=3)
net.load_state_dict(state)
images, labels = torch.load(f"{folder}/test.pt")
mean, std = (torch.tensor(v).view(3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
with torch.no_grad():
    found = net.eval()((images / 255 - mean) / std).argmax(1)
assert key in card
print(100 * (found == labels).sum().item() / len(labels))
"""


def test_a_kept_target_gives_its_accuracy_in_plain_torchvision(tiny_data, trained, tmp_path):
    path, record = trained
    torch.save((tiny_data.test.images, tiny_data.test.labels), tmp_path / "test.pt")
    command = [sys.executable, "-c", PLAIN, str(path), str(tmp_path), record["key"]]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert float(done.stdout) == record["test_accuracy"][0]


def test_a_loaded_network_classifies_files_as_the_test_images_were(tiny_data, trained, tmp_path):
    path, record = trained
    net = load_network(path)
    assert (net.classes, net.size, net.fit) == (("a", "b", "c"), 32, "squash")
    assert net.card["test_accuracy"] == record["test_accuracy"]
    assert not net.training
    answers = trainer.predict(net, tiny_data.test)
    assert trainer.accuracy(answers, tiny_data.test.labels) == record["test_accuracy"][0]
    files = []
    for i, image in enumerate(tiny_data.test.images):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(files[-1])
    found = classify(net, files)
    best = answers.softmax(1).max(1)
    assert list(found["file"]) == [str(file) for file in files]
    assert list(found["class"]) == [net.classes[i] for i in best.indices]
    assert found["probability"].to_numpy() == pytest.approx(100 * best.values.numpy(), rel=1e-4)
    assert len(classify(net, [])) == 0
    (tmp_path / "no.png").write_text("no image")
    with pytest.raises(ValueError, match=r"no\.png"):
        classify(net, [tmp_path / "no.png"])


def test_the_network_that_comes_with_the_kit_answers_as_its_card_says():
    """Within three images of 1,440: trained on one kind of processor, and read on another."""
    card = load_network(from_checkout(SHIPPED)).card
    assert load_data(**card["dataset"]).fingerprint == card["data"]["fingerprint"]
    table = class_table(from_checkout(SHIPPED))  # its card says on which images
    assert set(table["class"]) == set(card["classes"])
    found = 100 * table["correct"].sum() / table["images"].sum()
    assert found == pytest.approx(card["test_accuracy"][0], abs=0.21)
    assert found == pytest.approx(74.8, abs=0.3)


def test_a_network_that_is_kept_teaches_with_its_head(tiny_data, trained):
    path, _ = trained
    teacher = load_network(path).state_dict()
    same = models.initialise("resnet18", str(path), tiny_data.classes, 0)
    for name, value in same.state_dict().items():
        assert torch.equal(teacher[name], value)
    other = models.initialise("resnet18", str(path), ("x", "y", "z"), 0)
    assert not torch.equal(other.fc.weight, teacher["fc.weight"])


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("plain.safetensors", "does not say which classes it knows"),
        ("cut.safetensors", r"is damaged \("),
        ("net.pth", "those end in .safetensors"),
    ],
)
def test_a_file_that_is_no_network_of_ours_is_refused_in_a_sentence(tmp_path, name, words):
    state = models.build("resnet18_w8", 3).state_dict()
    save_file(state, tmp_path / "plain.safetensors", {"format": "pt"})
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "plain.safetensors").read_bytes()[:999])
    torch.save(state, tmp_path / "net.pth")
    with pytest.raises(ValueError, match=words) as caught:
        load_network(tmp_path / name)
    assert name in str(caught.value)


@pytest.fixture
def three_classes(tmp_path):
    """A network that was not trained, in a file."""
    net = models.initialise("resnet18_w8", "scratch", 3, 5)
    card = {"arch": "resnet18_w8", "classes": ["a", "b", "c"], "size": 32, "fit": "squash"}
    return networks.save_network(net, tmp_path / "net.safetensors", card)


def test_a_folder_to_predict_is_searched_as_a_data_set_is(three_classes, tmp_path):
    """Links to folders are followed; a folder that is called like an image is one; what a NAS and
    Jupyter put there is left out."""
    for name in ("in/1.png", "far/2.png", "in/album.png/3.png", "in/@eaDir/4.png"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (9, 9)).save(path)
    shutil.copytree(tmp_path / "far", tmp_path / "in/.ipynb_checkpoints")
    (tmp_path / "in/linked").symlink_to("../far")
    table = answers(three_classes, [tmp_path / "in"])
    found = {Path(file).relative_to(tmp_path / "in").as_posix() for file in table["file"]}
    assert found == {"1.png", "linked/2.png", "album.png/3.png"}


def test_an_image_that_cannot_be_read_is_left_out_of_many_and_told_of_one(
    three_classes, tmp_path, caplog
):
    (tmp_path / "in").mkdir()
    (tmp_path / "in/broken.png").write_bytes(b"no image")
    with pytest.raises(ValueError, match=r"broken\.png cannot be read"):
        answers(three_classes, [tmp_path / "in"])
    Image.new("RGB", (9, 9)).save(tmp_path / "in/whole.png")
    assert list(answers(three_classes, [tmp_path / "in"])["file"]) == [f"{tmp_path}/in/whole.png"]
    assert "broken.png cannot be read" in caplog.text


def test_predict_without_an_image_says_what_to_give(three_classes):
    with pytest.raises(ValueError, match="no IMAGE is given: name image files, or folders"):
        answers(three_classes, [])


def test_classify_takes_a_single_file(three_classes, tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / "1.png")
    net = load_network(three_classes)
    for file in (tmp_path / "1.png", str(tmp_path / "1.png")):
        assert list(classify(net, file)["file"]) == [str(tmp_path / "1.png")]


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere names are UTF-8")
def test_answers_on_a_file_whose_name_is_not_utf8_are_written(three_classes, tmp_path):
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(name, "wb") as file:
        Image.new("RGB", (9, 9)).save(file, "png")
    cli.predict(three_classes, (Path(os.fsdecode(name)),), tmp_path / "x/a.csv")
    assert (tmp_path / "x/a.csv").read_bytes().splitlines()[1].startswith(name + b",")


def test_the_images_of_a_network_are_asked_for_where_they_are_not_and_known_by_any_path(
    three_classes, tmp_path, monkeypatch
):
    for name in ("cars", "other"):
        for label in "abc":
            (tmp_path / name / label).mkdir(parents=True)
            for i in range(3):
                Image.new("RGB", (9, 9), (i, 0, len(name))).save(
                    tmp_path / name / label / f"{i}.png"
                )
    monkeypatch.chdir(tmp_path)
    card = networks.read_card(three_classes)
    card |= {"dataset": {"name_or_folder": "cars"}, "data": {"fingerprint": "of before"}}
    networks.save_network(load_network(three_classes), three_classes, card)
    for same in (None, "cars", "./cars", str(tmp_path / "cars")):
        with pytest.raises(
            ValueError, match=r"is not as it was when .*net.safetensors was trained"
        ):
            class_table(three_classes, same)
    assert len(class_table(three_classes, "other")) == 3
    shutil.move("cars", "moved")
    with pytest.raises(FileNotFoundError, match=r"'cars' is neither .* give --dataset FOLDER"):
        class_table(three_classes)

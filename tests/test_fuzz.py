"""Readers fed with what they were not made for: only the exceptions of their documentation come out."""

import io
import json
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save

from ktglite import Graph, Node, Run, TrainConfig, all_through, independent, models, run
from ktglite.profiles import load_profile
from ktglite.sources.images import read_image
from ktglite.sources.pretrain import read_card
from ktglite.store import Checkpoint, read_record

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
json_files = json_values.map(lambda value: json.dumps(value).encode())
any_bytes = st.binary(max_size=200)


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """A file with some bytes changed, taken out, or put in, or cut off at its end."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        piece = draw(st.binary(min_size=1, max_size=8))
        length, put_in = len(piece), piece
        match draw(st.sampled_from(["change", "remove", "insert", "cut"])):
            case "remove":
                put_in = b""
            case "insert":
                length = 0
            case "cut":
                length, put_in = len(content), b""
        content[at : at + length] = put_in
    return bytes(content)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def only_value_error(read, path):
    """What `read` gives, or None after a ValueError that names the file."""
    try:
        return read(path)
    except ValueError as error:
        named = str(path) in str(error)
    assert named
    return None


# ---- readers of files


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


YAML = b"shared:\n  lr: 0.1\n  split: [0.7, 0.15, 0.15]\n02_table1_ablation:\n  seeds: 4\n"
WEIGHTS = save({"conv1.weight": torch.zeros(2, 3), "fc.bias": torch.ones(4)}, {"ktglite": "{}"})
PICTURES = [encoded(kind) for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")]


def is_json(profile):
    return json.dumps(profile) is not None  # papermill writes it as JSON


def has_tensors(weights):
    return all(isinstance(value, torch.Tensor) for value in weights[0].values())


def is_square(image):
    return image.shape == (3, 8, 8) and image.dtype == np.uint8


@pytest.mark.parametrize(
    ("name", "contents", "read", "is_right"),
    [
        ("any.yaml", any_bytes | damaged(YAML), load_profile, is_json),
        ("card.json", any_bytes | json_files, read_card, bool),
        ("w.safetensors", any_bytes | damaged(WEIGHTS), models.read_weights, has_tensors),
        ("w.pt", any_bytes | damaged(WEIGHTS), models.read_weights, has_tensors),
        (
            "x.img",
            st.sampled_from(PICTURES).flatmap(damaged),
            partial(read_image, size=8),
            is_square,
        ),
    ],
)
@given(st.data())
def test_any_bytes_as_a_file(place, name, contents, read, is_right, data):
    path = place / name
    path.write_bytes(data.draw(contents))
    found = only_value_error(read, path)
    assert found is None or is_right(found)


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_is_no_crash(tmp_path, opening):
    path = tmp_path / "deep.yaml"
    path.write_text(opening * 1000)
    with pytest.raises(ValueError, match=r"deep\.yaml"):
        load_profile(path)


@pytest.fixture(scope="module")
def record(tiny_data, place):
    config = TrainConfig(epochs=1, batch_size=16, augmentation="none", device="cpu")
    found = run(Run(independent(Node("resnet18_w8")), tiny_data, config, seed=0), place / "runs")
    return place / "runs" / f"{found['key']}.json"


@given(st.data())
def test_a_damaged_record_is_refused(record, data):
    whole = record.read_bytes()
    path = record.with_name("damaged.json")
    path.write_bytes(data.draw(damaged(whole) | any_bytes | json_files))
    found = only_value_error(partial(read_record, schema=1), path)
    unhashed = {"label": None, "sha256": None}
    assert found is None or found | unhashed == json.loads(whole) | unhashed


@pytest.fixture(scope="module")
def checkpoint(place):
    state = {"records": [], "models": {0: {"w": torch.arange(50.0)}}}
    Checkpoint(place / "good.ckpt", "k").save(state)
    return (place / "good.ckpt").read_bytes()


@given(st.data())
def test_a_damaged_checkpoint_is_never_loaded(place, checkpoint, data):
    content = data.draw(damaged(checkpoint))
    assume(content != checkpoint)
    (place / "bad.ckpt").write_bytes(content)
    assert Checkpoint(place / "bad.ckpt", "k").load() is None


# ---- graphs

GRAPH = all_through(Node("resnet18_w8"), Node("resnet18_w8", "fractaldb1k")).to_dict()
ENTRIES = ["nodes", "gates", "transfer_weight", "nodes.0", "nodes.0.arch", "gates.1", "gates.1.0"]


@given(st.sampled_from(ENTRIES), json_values)
def test_a_graph_with_any_entry_replaced(where, value):
    graph = json.loads(json.dumps(GRAPH))
    *path, last = [int(part) if part.isdigit() else part for part in where.split(".")]
    inner = graph
    for part in path:
        inner = inner[part]
    inner[last] = value
    try:
        found = Graph.from_dict(graph)
    except ValueError:
        return
    assert Graph.from_dict(json.loads(json.dumps(found.to_dict()))) == found

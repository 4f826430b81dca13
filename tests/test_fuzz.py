"""Readers fed with what they were not made for: only the exceptions of their documentation come out."""

import io
import json

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
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)


@st.composite
def damaged(draw, whole: bytes) -> bytes:
    """A file with some bytes changed, taken out, or put in, or cut off at its end."""
    content = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at, kind = (
            draw(st.integers(0, len(content))),
            draw(st.sampled_from(["change", "remove", "insert", "cut"])),
        )
        piece = draw(st.binary(min_size=1, max_size=8))
        if kind == "insert":
            content[at:at] = piece
        elif kind == "cut":
            del content[at:]
        else:
            content[at : at + len(piece)] = piece if kind == "change" else b""
    return bytes(content)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz")


def only(error: type[Exception], read, path=None):
    """What `read` gives, or None after an `error` that names the file."""
    try:
        return read()
    except error as caught:
        named = path is None or str(path) in str(caught)
    assert named
    return None


# ---- graphs

GRAPH = all_through(Node("resnet18_w8"), Node("resnet18_w8", "fractaldb1k")).to_dict()


@given(
    st.sampled_from(
        ["nodes", "gates", "transfer_weight", "nodes.0", "nodes.0.arch", "gates.1", "gates.1.0"]
    ),
    json_values,
)
def test_a_graph_with_any_entry_replaced(where, value):
    graph = json.loads(json.dumps(GRAPH))
    *path, last = [int(part) if part.isdigit() else part for part in where.split(".")]
    inner = graph
    for part in path:
        inner = inner[part]
    inner[last] = value
    found = only(ValueError, lambda: Graph.from_dict(graph))
    if found is not None:
        assert Graph.from_dict(json.loads(json.dumps(found.to_dict()))) == found


# ---- profiles

YAML = b"shared:\n  lr: 0.1\n  epochs: 3\n  split: [0.7, 0.15, 0.15]\n02_table1_ablation:\n  seeds: 4\n"


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode) | damaged(YAML))
def test_any_bytes_as_a_profile(place, content):
    path = place / "any.yaml"
    path.write_bytes(content)
    found = only(ValueError, lambda: load_profile(path), path)
    assert found is None or json.dumps(found) is not None  # papermill writes them as JSON


@pytest.mark.parametrize("opening", ["[", "{a: ", "- "])
def test_deep_nesting_is_no_crash(tmp_path, opening):
    path = tmp_path / "deep.yaml"
    path.write_text(opening * 1000)
    with pytest.raises(ValueError, match=r"deep\.yaml"):
        load_profile(path)


# ---- records and cards


@pytest.fixture(scope="module")
def record(tiny_data, place):
    config = TrainConfig(
        epochs=1, batch_size=16, augmentation="none", precision="fp32", device="cpu"
    )
    found = run(Run(independent(Node("resnet18_w8")), tiny_data, config, seed=0), place / "runs")
    return place / "runs" / f"{found['key']}.json"


@given(st.data())
def test_a_damaged_record_is_refused(record, data):
    whole = record.read_bytes()
    content = data.draw(
        damaged(whole) | st.binary(max_size=200) | json_values.map(lambda v: json.dumps(v).encode())
    )
    path = record.with_name("damaged.json")
    path.write_bytes(content)
    found = only(ValueError, lambda: read_record(path, 1), path)
    unhashed = {"label": None, "sha256": None}
    assert found is None or found | unhashed == json.loads(whole) | unhashed


@given(st.binary(max_size=100) | json_values.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_as_a_card(place, content):
    path = place / "card.json"
    path.write_bytes(content)
    only(ValueError, lambda: read_card(path), path)


# ---- weights and checkpoints

WEIGHTS = save({"conv1.weight": torch.zeros(2, 3), "fc.bias": torch.ones(4)}, {"ktglite": "{}"})


@given(st.binary(max_size=100) | damaged(WEIGHTS))
def test_any_bytes_as_weights(place, content):
    for name in ("w.safetensors", "w.pt"):
        (place / name).write_bytes(content)
        found = only(ValueError, lambda: models.read_weights(place / name), place / name)  # noqa: B023
        assert found is None or all(isinstance(value, torch.Tensor) for value in found[0].values())


@pytest.fixture(scope="module")
def checkpoint(place):
    Checkpoint(place / "good.ckpt", "k").save(
        {"records": [], "models": {0: {"w": torch.arange(50.0)}}}
    )
    return (place / "good.ckpt").read_bytes()


@given(st.data())
def test_a_damaged_checkpoint_is_never_loaded(place, checkpoint, data):
    content = data.draw(damaged(checkpoint))
    assume(content != checkpoint)
    (place / "bad.ckpt").write_bytes(content)
    assert Checkpoint(place / "bad.ckpt", "k").load() is None


# ---- images


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 12, 3), np.uint8)).save(
        file, kind
    )
    return file.getvalue()


@given(
    st.sampled_from(
        [encoded(kind) for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP")]
    ).flatmap(damaged)
)
def test_any_bytes_as_an_image(place, content):
    path = place / "x.img"
    path.write_bytes(content)
    found = only(ValueError, lambda: read_image(path, 8), path)
    assert found is None or (found.shape == (3, 8, 8) and found.dtype == np.uint8)

"""Images as tensors: fingerprints, and augmentation that keeps its promises."""

import dataclasses
import pickle
import tracemalloc

import pytest
import torch

from ktglite.data import Data, Split, apply_views, augment, draw_views, normalise


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def test_images_are_normalised_by_the_constants_of_imagenet():
    pixel = torch.tensor([0, 255, 51], dtype=torch.uint8).reshape(1, 3, 1, 1)
    expected = [-0.485 / 0.229, (1 - 0.456) / 0.224, (0.2 - 0.406) / 0.225]
    assert normalise(pixel).flatten().tolist() == pytest.approx(expected, abs=1e-5)


def test_augmentation_is_seeded_and_keeps_the_shape():
    images = torch.randint(0, 256, (8, 3, 16, 16), dtype=torch.uint8)
    for kind in ("crop", "shift"):
        first, again, other = (augment(images, kind, seeded(seed)) for seed in (0, 0, 1))
        assert first.shape == images.shape
        assert torch.equal(first, again)
        assert not torch.equal(first, other)
        torch.manual_seed(1)  # whatever else draws from the global generator
        views = draw_views(8, 16, kind, seeded(0))
        assert torch.equal(first, apply_views(images, views))
        torch.testing.assert_close(first[3:5], apply_views(images[3:5], views[3:5]))
    assert torch.equal(augment(images, "none", None), normalise(images))
    with pytest.raises(ValueError, match="augmentation is 'flip': allowed are crop"):
        augment(images, "flip", torch.Generator())


def test_images_and_labels_belong_to_the_data(tiny_data):
    labels, images = torch.arange(2), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    for wrong in (torch.rand(2, 3, 8, 8), images.transpose(1, 3)):
        with pytest.raises(ValueError, match="images must be uint8"):
            Split(wrong, labels)
    for wrong in (torch.arange(3), torch.rand(2)):
        with pytest.raises(ValueError, match="labels must be int64"):
            Split(images, wrong)
    small = Split(tiny_data.val.images[..., :16], tiny_data.val.labels)
    with pytest.raises(ValueError, match="val needs images of 32 x 32 px"):
        dataclasses.replace(tiny_data, val=small)
    for label in (-100, 3):
        labels = tiny_data.train.labels.clone()
        labels[0] = label
        with pytest.raises(ValueError, match=r"labels of train must be 0\.\.2"):
            dataclasses.replace(tiny_data, train=Split(tiny_data.train.images, labels))


def test_what_is_changed_in_place_is_refused(tiny_data):
    own = Split(tiny_data.train.images.clone(), tiny_data.train.labels.clone())
    data = dataclasses.replace(tiny_data, train=own)
    data.check_unchanged()
    pickle.loads(pickle.dumps(data)).check_unchanged()
    own.images.numpy()[0, 0, 0, 0] ^= 1
    with pytest.raises(ValueError, match="random were changed in place: dataclasses.replace"):
        data.check_unchanged()


def test_shift_moves_whole_pixels():
    """Every row of a shifted image is a row of the original, moved, flipped or the padding: nothing is blurred."""
    image = torch.randint(1, 256, (1, 3, 16, 16), dtype=torch.uint8)
    known = torch.unique(torch.cat([normalise(image).flatten(), torch.zeros(1)]))
    for seed in range(20):
        view = augment(image, "shift", seeded(seed)).flatten()
        nearest = (view[:, None] - known[None, :]).abs().min(1).values
        assert nearest.max() < 1e-3


def test_fingerprint_sees_one_changed_pixel(tiny_data):
    images = tiny_data.train.images.clone()
    images[0, 0, 0, 0] ^= 1
    train = dataclasses.replace(tiny_data.train, images=images)
    changed = Data("random", 32, tiny_data.classes, train, tiny_data.val, tiny_data.test)
    assert changed.fingerprint != tiny_data.fingerprint
    loaded = dataclasses.replace(tiny_data).loaded_by({"name_or_folder": "synthcars"})
    replaced = dataclasses.replace(loaded, train=train)  # no worker may load the others instead
    assert (replaced.fingerprint, replaced.spec) == (changed.fingerprint, None)
    assert repr(tiny_data).startswith("Data(random: 3 classes, 32 train, ")


def test_the_fingerprint_copies_no_images():
    few = Split(torch.zeros(2, 3, 64, 64, dtype=torch.uint8), torch.arange(2))
    many = Split(torch.zeros(1000, 3, 64, 64, dtype=torch.uint8), torch.arange(1000) % 2)
    tracemalloc.start()
    Data("many", 64, ("a", "b"), many, few, few)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.1 * many.images.numel()


def test_views_are_as_large_as_they_say_and_half_of_them_are_flipped():
    views = draw_views(4000, 48, "crop", seeded(0))
    share = views[:, 0, 0].abs() * views[:, 1, 1]
    assert 0.245 < share.min() < 0.28  # a crop shows at least a quarter of the image
    assert share.max() > 0.95
    assert 0.45 < (views[:, 0, 0] < 0).float().mean() < 0.55
    moved = draw_views(4000, 48, "shift", seeded(0))
    assert 0.45 < (moved[:, 0, 0] < 0).float().mean() < 0.55
    assert moved[:, :, 2].abs().max() == 2 * 6 / 48  # an eighth of the side, in units of half of it

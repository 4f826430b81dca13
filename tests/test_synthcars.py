"""Synthetic cars: seeded, balanced, of every size, and no model in two sets."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ktglite_formulas import synthcars


def models_of(seed, count=40):
    return {replace(model, name="") for model in synthcars.car_models(count, seed)}


def test_models_are_the_same_every_time_differ_and_are_others_for_another_seed():
    models = synthcars.car_models()
    assert len(set(models)) == len(set(synthcars.class_names())) == len(models) >= 20
    assert {model.body for model in models} == set(synthcars.BODY_TYPES)
    assert synthcars.car_models(40)[:20] == synthcars.car_models(20)  # a longer list begins alike
    sedans = [model for model in synthcars.car_models(48) if model.body == "sedan"]
    for field in ("height", "belt", "wheel", "lights", "grille", "spokes", "pillars"):
        assert len({getattr(model, field) for model in sedans}) > 1, field
    names = [set(synthcars.class_names(synthcars.car_models(40, seed))) for seed in range(3)]
    for found in (names, [models_of(seed) for seed in range(3)]):
        assert not found[0] & found[1] | found[0] & found[2] | found[1] & found[2]
    mine = synthcars.car_models(3, seed=7)
    assert synthcars.class_names(mine) == [model.name for model in mine]
    assert set(synthcars.draw(9, 16, models=mine)[1]) == {0, 1, 2}


@pytest.mark.parametrize(("count", "size"), [(47, 16), (24, 32), (24, 64)])
def test_pictures_have_their_shape_fill_the_range_and_are_balanced(count, size):
    images, labels = synthcars.draw(count, size)
    assert images.shape == (count, size, size, 3)
    assert images.dtype == np.uint8
    assert labels.dtype == np.int64
    assert images.min() < 40
    assert images.max() > 215
    assert images.reshape(count, -1).std(axis=1).min() > 5  # none is blank
    counts = np.bincount(labels, minlength=20)
    assert len(counts) == 20
    assert counts.max() - counts.min() <= 1


def test_a_picture_depends_on_its_seed_and_number_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    (images, labels), few = synthcars.draw(60, 16), synthcars.draw(5, 16)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002
    assert (few[0] == images[:5]).all()
    assert (few[1] == labels[:5]).all()
    assert len({image.tobytes() for image in images}) == 60  # those of one class, too
    other = synthcars.draw(20, 16, seed=1)[0]
    assert not any((a == b).all() for a in images for b in other)
    assert synthcars.draw(0, 16)[0].shape == (0, 16, 16, 3)
    with pytest.raises(ValueError, match="negative"):
        synthcars.draw(-1, 16)


def test_the_stand_in_has_other_models_than_the_task():
    """Else a start from the stand-in would have seen the classes it is tested on."""
    config = SimpleNamespace(standin_images=80, render=None, size=16)
    standin = synthcars.open_standin(config, cache=None)
    mine = {replace(model, name="") for model in synthcars.car_models()}
    others = synthcars.car_models(synthcars.STANDIN_MODELS, synthcars.STANDIN_SEED)
    assert standin.classes == tuple(synthcars.class_names(others))
    assert not mine & {replace(model, name="") for model in others}
    drawn = {image.tobytes() for image in np.moveaxis(synthcars.draw(80, 16)[0], 3, 1)}
    assert not drawn & {image.tobytes() for image in standin.batch(np.arange(80))[0]}


def test_a_model_can_be_told_from_its_like():
    """The class is in the picture: from one random stream, two models give two pictures."""
    a, b = (model for model in synthcars.car_models(16) if model.body == "sedan")
    pictures = [synthcars._draw_one(m, 64, np.random.default_rng(5)).astype(float) for m in (a, b)]
    assert np.abs(pictures[0] - pictures[1]).mean() > 1

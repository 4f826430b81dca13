"""Synthetic cars: seeded, balanced, of every size, and no model in two sets."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from ktglite_formulas import synthcars


def test_there_are_at_least_twenty_models_and_no_two_alike():
    models = synthcars.car_models()
    assert len(set(models)) == len(models) >= 20
    assert len(set(synthcars.class_names())) == len(models)
    assert {model.body for model in models} == set(synthcars.BODY_TYPES)


def test_models_are_the_same_every_time_and_a_longer_list_begins_alike():
    assert synthcars.car_models(20) == synthcars.car_models(20)
    assert synthcars.car_models(40)[:20] == synthcars.car_models(20)


def test_other_seeds_give_other_models():
    sets = [
        {replace(model, name="") for model in synthcars.car_models(40, seed)} for seed in range(3)
    ]
    names = [set(synthcars.class_names(synthcars.car_models(40, seed))) for seed in range(3)]
    for found in (sets, names):
        assert not found[0] & found[1]
        assert not found[0] & found[2]
        assert not found[1] & found[2]


def test_models_of_one_body_differ_as_car_models_do():
    sedans = [model for model in synthcars.car_models(48) if model.body == "sedan"]
    for field in ("height", "belt", "wheel", "lights", "grille", "spokes", "pillars"):
        assert len({getattr(model, field) for model in sedans}) > 1, field


@pytest.mark.parametrize("size", [16, 32, 64])
def test_pictures_have_their_shape_and_fill_the_range(size):
    images, labels = synthcars.draw(24, size)
    assert images.shape == (24, size, size, 3)
    assert images.dtype == np.uint8
    assert labels.shape == (24,)
    assert labels.dtype == np.int64
    assert images.min() < 40
    assert images.max() > 215
    assert images.reshape(24, -1).std(axis=1).min() > 5  # none is blank


@pytest.mark.parametrize("count", [40, 47])
def test_labels_are_balanced(count):
    counts = np.bincount(synthcars.draw(count, 16)[1], minlength=20)
    assert len(counts) == 20
    assert counts.max() - counts.min() <= 1


def test_a_picture_depends_on_its_seed_and_number_alone():
    few, many = synthcars.draw(5, 32, seed=3), synthcars.draw(10, 32, seed=3)
    for a, b in zip(few, many, strict=True):
        assert (a == b[:5]).all()


def test_other_seeds_give_other_pictures():
    one, other = synthcars.draw(20, 16, seed=0)[0], synthcars.draw(20, 16, seed=1)[0]
    assert not any((a == b).all() for a in one for b in other)


def test_pictures_of_a_class_differ():
    images, labels = synthcars.draw(60, 16)
    same = images[labels == 0]
    assert len(same) == 3
    assert len({picture.tobytes() for picture in same}) == 3


def test_nothing_is_drawn_from_the_global_random_state():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    synthcars.draw(2, 16)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_none_is_an_empty_array():
    images, labels = synthcars.draw(0, 16)
    assert images.shape == (0, 16, 16, 3)
    assert len(labels) == 0


def test_models_of_ones_own():
    mine = synthcars.car_models(3, seed=7)
    assert synthcars.class_names(mine) == [model.name for model in mine]
    assert set(synthcars.draw(9, 16, models=mine)[1]) == {0, 1, 2}


def test_a_negative_count_is_an_error():
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
    pictures = [
        synthcars._draw_one(model, 64, np.random.default_rng(5)).astype(float) for model in (a, b)
    ]
    assert np.abs(pictures[0] - pictures[1]).mean() > 1

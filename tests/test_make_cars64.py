"""benchmarks/make_cars64.py on a small devkit of our own making."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

SCRIPT = Path(__file__).parents[1] / "benchmarks/make_cars64.py"


@pytest.fixture
def make():
    spec = importlib.util.spec_from_file_location("make_cars64", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.make


def annos(path, rows):
    """`rows` of (x1, y1, x2, y2, class, file name) as the devkit writes them."""
    kinds = [(f"bbox_{name}", "O") for name in ("x1", "y1", "x2", "y2")]
    kinds += [("class", "O"), ("fname", "O")]
    savemat(path, {"annotations": np.array([tuple(row) for row in rows], dtype=kinds)})


@pytest.fixture
def download(tmp_path):
    """Three classes; a red box in a grey picture; one training image that is a test image, too."""
    top = tmp_path / "stanford_cars"
    for folder in ("cars_train", "cars_test", "devkit"):
        (top / folder).mkdir(parents=True)
    picture = np.full((40, 60, 3), 128, np.uint8)
    picture[9:30, 4:50] = (255, 0, 0)  # the devkit's box 5, 10 to 50, 30: it counts from 1
    for name, shade in (("a", 0), ("b", 1), ("c", 2)):
        picture[0, 0] = shade  # no two files alike
        Image.fromarray(picture).save(top / f"cars_train/{name}.png")
    (top / "cars_test/t.png").write_bytes((top / "cars_train/b.png").read_bytes())
    names = np.array(["Audi S5", "BMW M3", "Ram C/V"], dtype=object)
    savemat(top / "devkit/cars_meta.mat", {"class_names": names})
    box = (5, 10, 50, 30)
    rows = [(*box, 1, "a.png"), (*box, 3, "b.png"), (*box, 3, "c.png")]
    annos(top / "devkit/cars_train_annos.mat", rows)
    annos(top / "cars_test_annos_withlabels.mat", [(*box, 3, "t.png"), (*box, 2, "t.png")])
    return tmp_path


def test_crops_are_the_boxes_and_no_training_image_is_a_test_image(make, download, tmp_path):
    out = tmp_path / "cars64"
    assert make(download, out, size=16, every=2) == 3
    found = sorted(str(path.relative_to(out)) for path in out.rglob("*.png"))
    assert found == ["test/Ram C-V/t.png", "train/Audi S5/a.png", "train/Ram C-V/c.png"]
    crop = np.asarray(Image.open(out / found[0]))
    assert crop.shape == (16, 16, 3)
    assert (crop == (255, 0, 0)).all()  # the box and nothing around it


def test_crops_of_other_settings_are_not_mixed(make, download, tmp_path):
    with pytest.raises(FileExistsError):
        make(download, download)

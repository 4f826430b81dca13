"""Box crops of Stanford Cars at 64 px, as folders of classes: the images of the profile cars64.

The download lies as torchvision's `StanfordCars` expects it: ROOT/stanford_cars with cars_train/,
cars_test/, devkit/ and cars_test_annos_withlabels.mat. Every tenth class in label order is taken,
and training images that are also test images, byte by byte, are left out.

    python benchmarks/make_cars64.py data/raw cars64
    ktglite ablation --profile cars64 --set dataset=cars64
"""

import argparse
from hashlib import sha256
from pathlib import Path

from PIL import Image
from scipy.io import loadmat


def annotations(top: Path) -> dict[str, list]:
    """The records of both splits, each with its image's path: a box, a class and a file name."""
    files = {
        "test": top / "cars_test_annos_withlabels.mat",
        "train": top / "devkit/cars_train_annos.mat",
    }
    return {
        split: [
            (top / f"cars_{split}" / str(entry["fname"]), entry)
            for entry in loadmat(path, squeeze_me=True)["annotations"]
        ]
        for split, path in files.items()
    }


def make(root: Path, out: Path, size: int = 64, every: int = 10) -> int:
    """Write the crops to `out`/SPLIT/CLASS/NAME.png and return how many there are.

    A crop is the box that the devkit gives, squashed to `size` x `size` px; PNG loses nothing.

    Raises:
        FileExistsError: `out` is there already; crops of other settings would mix.
        FileNotFoundError: a file of the download is missing.
    """
    top = root / "stanford_cars"
    names = loadmat(top / "devkit/cars_meta.mat", squeeze_me=True)["class_names"]
    found = annotations(top)
    out.mkdir(parents=True)
    tested = set()
    count = 0
    for split, entries in found.items():  # test first: its images are left out of train
        for path, entry in entries:
            label = int(entry["class"]) - 1  # the devkit counts from 1
            content = sha256(path.read_bytes()).digest()
            if split == "test":
                tested.add(content)
            if label % every or (split == "train" and content in tested):
                continue
            box = [int(entry[f"bbox_{name}"]) for name in ("x1", "y1", "x2", "y2")]
            folder = out / split / str(names[label]).replace("/", "-")
            folder.mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                crop = image.convert("RGB").crop((box[0] - 1, box[1] - 1, box[2], box[3]))
            crop.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=3.0).save(
                folder / f"{path.stem}.png"
            )
            count += 1
    return count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("root", type=Path, help="the folder that holds stanford_cars/")
    parser.add_argument("out", type=Path)
    parser.add_argument("--size", type=int, default=64)
    parser.add_argument("--every", type=int, default=10, help="1 takes all 196 classes")
    given = parser.parse_args()
    print(f"{make(given.root, given.out, given.size, given.every)} images in {given.out}")


if __name__ == "__main__":
    main()

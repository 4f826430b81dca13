"""Image files of every bad kind: what each gives. The table in data/README.md is made from the same
cases; print it with `python tests/test_images.py`.
"""

import logging
import os
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ktglite.sources.datasets import image_files, load_data
from ktglite.sources.images import read_image

GREY = np.full((24, 20, 3), 100, np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
LONG = "ö" * 120 + ".png"  # 244 bytes; a file system takes 255


@dataclass(frozen=True)
class Case:
    """A file and what it gives: the mean grey of an image, words of an error, or "left out"."""

    name: str
    write: Callable[[Path], None]
    gives: object
    says: str


def picture(mode: str = "RGB", array: np.ndarray = GREY, **options) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        Image.fromarray(array).convert(mode).save(path, **options)

    return write


def cut(of: Callable[[Path], None], share: float = 0.5) -> Callable[[Path], None]:
    """The beginning of a file."""

    def write(path: Path) -> None:
        of(path)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return write


def content(text: bytes) -> Callable[[Path], None]:
    return lambda path: path.write_bytes(text)


def link(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


def chunk(kind: bytes, body: bytes) -> bytes:
    """A part of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width: int, height: int, rows: bool) -> Callable[[Path], None]:
    """A white picture of 1 bit per pixel, row by row; without `rows`, its size is only claimed."""

    def write(path: Path) -> None:
        line, packer = b"\0" + b"\xff" * -(-width // 8), zlib.compressobj()
        lines = [packer.compress(line) for _ in range(height if rows else 1)]
        body = b"".join(lines) + packer.flush()
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b""))

    return write


def frames(path: Path) -> None:
    first, second = (Image.fromarray(np.full_like(GREY, value)) for value in (100, 255))
    first.save(path, save_all=True, append_images=[second])


def sixteen_bit(path: Path) -> None:
    Image.fromarray(np.full((24, 20), 100 * 257, np.uint16)).save(path)


def floats(path: Path) -> None:
    Image.fromarray(np.full((24, 20), 0.4, np.float32)).save(path)


def heic(path: Path) -> None:
    path.write_bytes(b"\0\0\0\x18ftypheic" + bytes(40))


def upside_down(path: Path) -> None:
    half = np.concatenate([np.zeros_like(GREY), np.full_like(GREY, 200)])
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(half).save(path, exif=exif)


def text_bomb(path: Path) -> None:
    picture()(path)
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))
    whole = path.read_bytes()
    path.write_bytes(whole[:33] + text + whole[33:])  # after the header


def filled(value: int, *shape: int) -> np.ndarray:
    return np.full(shape, value, np.uint8)


BOMB = "decompression bomb"
LATIN = os.fsdecode(b"latin-1 \xe9.png")
ROWS = [
    ("cut.jpg", cut(picture(array=NOISE)), "truncated", "error: JPEG cut short"),
    ("cut.png", cut(picture()), "truncated", "error: PNG cut short"),
    ("cut.gif", cut(frames, 0.2), "cannot be read", "error: GIF cut short"),
    ("empty.jpg", content(b""), "0 bytes", "error: zero bytes"),
    ("notes.jpg", content(b"not an image\n"), "cannot identify", "error: a text file"),
    ("page.png", content(b"<html/>"), "cannot identify", "error: a web page saved as an image"),
    ("bomb.png", png(60_000, 60_000, False), BOMB, "error: claims 60,000 x 60,000 px"),
    ("huge.png", png(20_000, 20_000, True), BOMB, "error: 20,000 x 20,000 px, 60 kB"),
    ("text bomb.png", text_bomb, "too large", "error: 100 MB of text packed into a PNG"),
    ("float.tiff", floats, "agreed", "error: 32 bits a pixel, of which nobody knows the range"),
    ("loop.png", link("loop.png"), "symbolic links", "error: a link to itself"),
    ("dangling.png", link("nowhere.png"), "No such file", "error: a link to nothing"),
    ("photo.heic", heic, "heic cannot.*pillow-heif", "error: HEIC, without pillow-heif"),
    ("photo.dng", picture(format="TIFF"), "raw file.*convert", "error: a camera's raw file"),
    ("logo.svg", content(b"<svg/>"), "convert it to JPEG", "error: SVG"),
    ("a.pdf", content(b"%PDF-1.4"), "left out", "left out: PDF, a video, HDF5 and the like"),
    ("up", link(".."), "left out", "left out: a link to a folder that it lies in"),
    (".hidden.png", picture(), "left out", "left out: a hidden file"),
    ("pipe.png", os.mkfifo, "left out", "left out: a pipe or a device"),
    ("one.png", picture(array=GREY[:1, :1]), 100, "used: 1 x 1 px, as one colour"),
    ("line.png", picture(array=filled(100, 1, 60_000, 3)), 100, "used: 60,000 x 1 px"),
    ("grey.png", picture("L"), 100, "used: grey"),
    ("bits.png", picture("1", filled(255, 24, 20, 3)), 255, "used: black and white, 1 bit"),
    ("deep.png", sixteen_bit, 100, "used: 16 bits, brought to 8"),
    ("print.jpg", picture("CMYK"), 100, "used: CMYK, as RGB"),
    ("palette.png", picture("P"), 100, "used: a palette"),
    ("clear.png", picture("RGBA", filled(0, 9, 9, 4)), 255, "used: transparent, on white"),
    ("moving.gif", frames, 100, "used: an animated GIF, its first frame"),
    ("turned.jpg", upside_down, 100, "used: turned by its EXIF entry, upright"),
    ("a png.jpg", picture(format="PNG"), 100, "used: a wrong suffix, read by its content"),
    ("シトロエン 2CV é.png", picture(), 100, "used: a name outside ASCII"),
    (LATIN, picture(format="PNG"), 100, "used: a name that is not UTF-8"),
    (LONG, picture(), 100, "used: a name of 244 bytes"),
]
CASES = [Case(*row) for row in ROWS]


def table() -> str:
    """The cases in Markdown."""
    rows = [case.says.partition(": ") for case in CASES]
    return "| file | gives |\n| --- | --- |\n" + "".join(
        f"| {what} | {gives} |\n" for gives, _, what in rows
    )


def write_or_skip(case: Case, path: Path) -> None:
    try:
        case.write(path)
    except (OSError, UnicodeEncodeError) as error:
        pytest.skip(f"this file system has no such file: {error}")


@pytest.mark.parametrize(
    "name", ["x.mpg", "x.h5", "x.eps", "x.fits", "x.wmf", "x.db", "x.mp4", "x"]
)
def test_what_is_no_still_image_is_counted(tmp_path, caplog, name):
    """Pillow registers extensions of videos, documents and tables, too."""
    (tmp_path / "car").mkdir()
    picture()(tmp_path / "car" / "good.JPG")
    (tmp_path / "car" / name).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    assert [path.name for path, _ in image_files(tmp_path)] == ["good.JPG"]
    assert "ignored 1 file in" in caplog.text


@pytest.mark.parametrize("fit", ["squash", "crop"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.says)
def test_what_a_file_gives(tmp_path, case, fit):
    (tmp_path / "car").mkdir()
    picture()(tmp_path / "car" / "good.png")
    path = tmp_path / "car" / case.name
    write_or_skip(case, path)
    found = [file for file, _ in image_files(tmp_path)]
    if case.gives == "left out":
        assert path not in found
        return
    assert path in found
    if isinstance(case.gives, str):
        with pytest.raises(ValueError, match=case.gives) as caught:
            read_image(path, 8, fit)
        assert str(path) in str(caught.value)
        assert "--set" not in str(caught.value)  # predict and pretrain have none
    else:
        image = read_image(path, 8, fit)
        assert image.shape == (3, 8, 8)
        assert abs(float(image.mean()) - case.gives) < 3


def test_a_folder_of_all_kinds_trains_on_those_that_can_be_read(tmp_path, caplog):
    """One bad file stops the command and is named; skip_unreadable names all, uses others."""
    good = 0
    for name in ("a", "b"):
        (tmp_path / "cars" / name).mkdir(parents=True)
        for case in CASES:
            if case.name not in ("huge.png", "text bomb.png"):  # slow to write
                write_or_skip(case, tmp_path / "cars" / name / case.name)
                good += not isinstance(case.gives, str)
    with pytest.raises(ValueError, match="cannot be read as an image"):
        load_data(str(tmp_path / "cars"), 8, cache=tmp_path / "cache")
    with caplog.at_level(logging.WARNING):
        data = load_data(str(tmp_path / "cars"), 8, cache=tmp_path / "cache", skip_unreadable=True)
    assert len(data.train) + len(data.val) + len(data.test) == good
    for name in ("cut.jpg", "loop.png", "dangling.png", "bomb.png"):
        assert name in caplog.text


def test_a_class_folder_that_is_a_link_to_nowhere_is_named(tmp_path):
    (tmp_path / "audi").mkdir()
    picture()(tmp_path / "audi" / "1.png")
    (tmp_path / "bmw").symlink_to("bmw")
    with pytest.raises(ValueError, match=r"bmw is a link that leads nowhere"):
        image_files(tmp_path)


def test_the_table_of_the_documentation_is_this_one():
    readme = Path(__file__).parents[1] / "data" / "README.md"
    assert table() in readme.read_text(encoding="utf-8"), (
        "print it with `python tests/test_images.py`"
    )


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("pixels", [np.uint8, np.uint16])
def test_grey_pictures_are_turned_by_their_exif_entry(tmp_path, suffix, pixels):
    """Bringing 16 bits to 8 makes a new picture, without the entry; Pillow maps a TIFF that is
    opened by its name into memory, and then takes its width for its height."""
    left = np.zeros((20, 40), pixels)
    left[:, :10] = np.iinfo(pixels).max
    turned = Image.Exif()
    turned[0x0112] = 6  # the camera was turned: what is on the left belongs to the top
    Image.fromarray(left).save(tmp_path / f"turned.{suffix}", exif=turned)
    found = read_image(tmp_path / f"turned.{suffix}", 16)[0]
    assert found[0].min() > 200
    assert found[-1].max() == 0


if __name__ == "__main__":
    print(table())

"""Image files of every bad kind: what each gives. The table in data/README.md is made from the same
cases; print it with `python tests/test_images.py`.
"""

import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ktglite.sources.datasets import image_files
from ktglite.sources.images import read_image

GREY = np.full((24, 20, 3), 100, np.uint8)
NOISE = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
LONG = "ö" * 120 + ".png"  # 244 bytes; a file system takes 255


# ---- writers: each takes a path


def picture(mode="RGB", array=GREY, **options):
    return lambda path: Image.fromarray(array).convert(mode).save(path, **options)


def cut(write, share=0.5):
    """The beginning of a file."""

    def write_cut(path):
        write(path)
        path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])

    return write_cut


def content(text):
    return lambda path: path.write_bytes(text)


def link(target):
    return lambda path: path.symlink_to(target)


def chunk(kind, body):
    """A part of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png(width, height, rows):
    """A white picture of 1 bit per pixel, row by row; without `rows`, its size is only claimed."""

    def write(path):
        line, packer = b"\0" + b"\xff" * -(-width // 8), zlib.compressobj()
        lines = [packer.compress(line) for _ in range(height if rows else 1)]
        body = b"".join(lines) + packer.flush()
        header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
        path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", body) + chunk(b"IEND", b""))

    return write


def frames(path):
    first, second = (Image.fromarray(np.full_like(GREY, value)) for value in (100, 255))
    first.save(path, save_all=True, append_images=[second])


def of_kind(kind, value):
    return lambda path: Image.fromarray(np.full((24, 20), value, kind)).save(path)


def upside_down(path):
    half = np.concatenate([np.zeros_like(GREY), np.full_like(GREY, 200)])
    exif = Image.Exif()
    exif[0x0112] = 3
    Image.fromarray(half).save(path, exif=exif)


def text_bomb(path):
    picture()(path)
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100_000_000)))
    whole = path.read_bytes()
    path.write_bytes(whole[:33] + text + whole[33:])  # after the header


def filled(value, *shape):
    return np.full(shape, value, np.uint8)


HEIC = b"\0\0\0\x18ftypheic" + bytes(40)
FLOATS = of_kind(np.float32, 0.4)
BOMB = "decompression bomb"
LATIN = os.fsdecode(b"latin-1 \xe9.png")
# name, writer, what it gives (the mean grey of an image, or words of an error), in words
CASES = [
    ("cut.jpg", cut(picture(array=NOISE)), "truncated", "error: JPEG cut short"),
    ("cut.png", cut(picture()), "truncated", "error: PNG cut short"),
    ("cut.gif", cut(frames, 0.2), "cannot be read", "error: GIF cut short"),
    ("empty.jpg", content(b""), "0 bytes", "error: zero bytes"),
    ("notes.jpg", content(b"not an image\n"), "cannot identify", "error: a text file"),
    ("page.png", content(b"<html/>"), "cannot identify", "error: a web page saved as an image"),
    ("bomb.png", png(60_000, 60_000, False), BOMB, "error: claims 60,000 x 60,000 px"),
    ("huge.png", png(20_000, 20_000, True), BOMB, "error: 20,000 x 20,000 px, 60 kB"),
    ("text bomb.png", text_bomb, "too large", "error: 100 MB of text packed into a PNG"),
    ("float.tiff", FLOATS, "agreed", "error: 32 bits a pixel, of which nobody knows the range"),
    ("loop.png", link("loop.png"), "symbolic links", "error: a link to itself"),
    ("dangling.png", link("nowhere.png"), "No such file", "error: a link to nothing"),
    ("photo.heic", content(HEIC), "heic cannot.*pillow-heif", "error: HEIC, without pillow-heif"),
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
    ("deep.pgm", of_kind(np.uint16, 100 * 257), 100, "used: 16 bits in a PGM, brought to 8"),
    ("deep.png", of_kind(np.uint16, 100 * 257), 100, "used: 16 bits, brought to 8"),
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


def table():
    """The cases in Markdown."""
    rows = [says.partition(": ") for *_, says in CASES]
    lines = [f"| {what} | {gives} |\n" for gives, _, what in rows]
    return "".join(["| file | gives |\n", "| --- | --- |\n", *lines])


def write_or_skip(write, path):
    try:
        write(path)
    except (OSError, UnicodeEncodeError) as error:
        pytest.skip(f"this file system has no such file: {error}")


@pytest.mark.parametrize(("name", "write", "gives", "says"), CASES, ids=[row[-1] for row in CASES])
def test_what_a_file_gives(tmp_path, name, write, gives, says):
    (tmp_path / "car").mkdir()
    picture()(tmp_path / "car" / "good.png")
    path = tmp_path / "car" / name
    write_or_skip(write, path)
    assert (path in [file for file, _ in image_files(tmp_path)]) == (gives != "left out")
    if gives == "left out":
        return
    for fit in ("squash", "crop"):
        if isinstance(gives, str):
            with pytest.raises(ValueError, match=gives) as caught:
                read_image(path, 8, fit)
            assert str(path) in str(caught.value)
            assert "--set" not in str(caught.value)  # predict and pretrain have none
        else:
            image = read_image(path, 8, fit)
            assert image.shape == (3, 8, 8)
            assert abs(float(image.mean()) - gives) < 3
            turned = image[:, 0].mean() - image[:, -1].mean()
            assert (turned > 100) == (name == "turned.jpg")


def test_what_is_no_still_image_is_counted_and_a_link_to_nowhere_is_named(tmp_path, caplog):
    """Pillow registers extensions of videos, documents and tables, too."""
    (tmp_path / "audi").mkdir()
    picture()(tmp_path / "audi" / "good.JPG")
    for name in ("x.mpg", "x.h5", "x.eps", "x.fits", "x.wmf", "x.db", "x.mp4", "x"):
        (tmp_path / "audi" / name).write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    assert [path.name for path, _ in image_files(tmp_path)] == ["good.JPG"]
    assert "ignored 8 files in" in caplog.text
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

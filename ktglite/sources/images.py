"""One image file becomes a square of pixels, or an error that names it."""

import struct
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

with suppress(ImportError):  # Pillow reads an iPhone's photographs with it
    import pillow_heif

    pillow_heif.register_heif_opener()

# Extensions of images that Pillow alone does not read; of RAW it would read the thumbnail.
RAW = {".arw", ".cr2", ".cr3", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".raw", ".rw2"}
HEIF = {".heic", ".heics", ".heif", ".heifs", ".hif"}
NO_READER = RAW | HEIF | {".avif", ".exr", ".hdr", ".jxl", ".jxr", ".svg", ".svgz", ".xcf"}
# Formats of still images. Pillow registers extensions of others, too, such as .pdf and .mpg.
STILL = "AVIF BMP DDS DIB GIF HEIF ICO JPEG JPEG2000 MPO PCX PNG PPM PSD QOI SGI TGA TIFF WEBP"
KNOWN = Image.registered_extensions()
READS_HEIF = KNOWN.keys() >= HEIF
SUFFIXES = NO_READER | {extension for extension, kind in KNOWN.items() if kind in STILL.split()}
UNREADABLE = OSError, ValueError, SyntaxError, EOFError, struct.error, Image.DecompressionBombError
Fit = Callable[[int, int], tuple[float, float, float, float]]


def read_image(path: str | Path, size: int, fit: str | Fit = "squash") -> np.ndarray:
    """One image file as uint8 (3, size, size), see `to_square`.

    Raises ValueError naming the file, and the way out, when it cannot be read.
    """
    path = Path(path)
    suffix = path.suffix.lower()
    try:
        if path.stat().st_size == 0:
            raise ValueError("it is empty, 0 bytes")
        if suffix in RAW:
            raise ValueError("it is a camera's raw file")
        with Image.open(path) as picture:
            picture.filename = ""  # by it Pillow maps a TIFF, and misreads one to be turned
            return to_square(picture, size, fit)
    except UNREADABLE as error:
        way = "convert it to JPEG or PNG" if suffix in NO_READER else "replace it"
        way = "pip install pillow-heif" if suffix in HEIF else way
        raise ValueError(f"{path} cannot be read as an image ({error}); {way}") from error


def to_square(picture: Image.Image, size: int, fit: str | Fit) -> np.ndarray:
    """A PIL image as uint8 RGB (3, size, size): upright, on white where it is transparent.

    `fit`: "squash", "crop", or a function of (width, height) that gives the box to show: left, top,
    right, bottom. Raises ValueError for 32-bit pixels, whose range nothing tells.
    """
    kind = picture.format
    picture = ImageOps.exif_transpose(picture)  # first: what is made below has no EXIF
    if picture.mode.startswith("I;16") or (picture.mode == "I" and kind in ("PNG", "PPM")):
        # PIL would clip 16 bits to 255 instead of scaling them
        picture = Image.fromarray((np.asarray(picture) // 256).astype(np.uint8))
    if picture.mode in ("I", "F"):
        raise ValueError("32 bits a pixel have no agreed white: save it with 8 or 16 a channel")
    if picture.has_transparency_data:
        white = Image.new("RGBA", picture.size, "white")
        picture = Image.alpha_composite(white, picture.convert("RGBA"))
    picture = picture.convert("RGB")
    if fit == "crop":
        picture = ImageOps.fit(picture, (size, size), Image.Resampling.BILINEAR)
    else:
        box = fit(*picture.size) if callable(fit) else None
        picture = picture.resize((size, size), Image.Resampling.BILINEAR, box, reducing_gap=3)
    return np.ascontiguousarray(np.moveaxis(np.asarray(picture), 2, 0))

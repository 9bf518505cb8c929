"""The image formats that are decoded: the one list of them, by extension and by content."""

import re
from dataclasses import dataclass

from PIL import ImageFile
from PIL.AvifImagePlugin import AvifImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import TiffImageFile
from PIL.WebPImagePlugin import WebPImageFile

#: The number of bytes from which a format is recognised.
HEAD_BYTES = 64


@dataclass(frozen=True)
class ImageFormat:
    """A format that is decoded.

    Attributes:
        name: Its name, for messages.
        extensions: The endings of its files' names, in lower case.
        start: The pattern that its files start with.
        opener: Pillow's class for it.
    """

    name: str
    extensions: tuple[str, ...]
    start: re.Pattern[bytes]
    opener: type[ImageFile.ImageFile]


def _start(pattern: bytes) -> re.Pattern[bytes]:
    return re.compile(pattern, re.DOTALL)


FORMATS = (
    ImageFormat(
        "JPEG", (".jpg", ".jpeg", ".jpe", ".jfif"), _start(b"\xff\xd8\xff"), JpegImageFile
    ),
    ImageFormat("PNG", (".png",), _start(b"\x89PNG\r\n\x1a\n"), PngImageFile),
    ImageFormat("WebP", (".webp",), _start(b"RIFF....WEBP"), WebPImageFile),
    ImageFormat("TIFF", (".tif", ".tiff"), _start(b"II[*+]\0|MM\0[*+]"), TiffImageFile),
    ImageFormat("BMP", (".bmp",), _start(b"BM.{12}[\x0c-\x7c]\0\0\0"), BmpImageFile),
    ImageFormat("GIF", (".gif",), _start(b"GIF8[79]a"), GifImageFile),
    ImageFormat("AVIF", (".avif",), _start(b"....ftyp(avi[fs]|.{4,48}?avif)"), AvifImageFile),
)

#: The endings of the names of all files that are decoded.
EXTENSIONS = tuple(extension for known in FORMATS for extension in known.extensions)

#: The names of all formats, as in "an image must be …".
NAMES = ", ".join(known.name for known in FORMATS[:-1]) + f" or {FORMATS[-1].name}"

_OTHERS = {
    "HTML or XML": _start(b"<"),
    "HEIC, which is not decoded; convert it to JPEG": _start(b"....ftyp(hei|hev|mif1|msf1)"),
    "JPEG 2000": _start(b"\0\0\0\x0cjP  "),
    "JPEG XL": _start(b"\xff\x0a|\0\0\0\x0cJXL "),
    "a PDF": _start(b"%PDF"),
}


def recognise(head: bytes) -> ImageFormat | None:
    """Return the format of a file that starts with these bytes; None if it is not decoded."""
    return next((known for known in FORMATS if known.start.match(head)), None)


def looks_like(head: bytes) -> str:
    """Describe the start of a file that is in none of the formats."""
    start = head[:HEAD_BYTES].lstrip()
    for name, pattern in _OTHERS.items():
        if pattern.match(start):
            return f"looks like {name}"
    return f"begins with {head[:8].hex(' ')}" if head else "empty"

"""Decode image bytes to uint8 arrays that show the picture as a person sees it.

Pillow does all the decoding. torchvision's decoders, deprecated since 0.29, are faster on small
photographs and slower on large ones (benchmarks/pipeline/decode.txt). Colour profiles are ignored.
"""

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from io import BytesIO

import numpy as np
import numpy.typing as npt
import PIL
from PIL import ExifTags, Image, ImageFile, features
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.TiffImagePlugin import (
    BITSPERSAMPLE,
    PHOTOMETRIC_INTERPRETATION,
    SAMPLEFORMAT,
    TiffImageFile,
)

from baal_ray.errors import ImageError
from baal_ray.image_formats import NAMES, ImageFormat, looks_like, recognise

DECODER = "1"
"""Version of our decoding. Raise it when pixels change, so that the pool is scored again."""

Pixels = npt.NDArray[np.uint8]

# The least ratio of a JPEG draft's size to the target's. A draft is a JPEG decoded directly at
# 1/2, 1/4 or 1/8 of its size. Its mean difference from a full decode is 0.2 of 255 for photographs
# and 3 for thin bars. At a ratio of 1 the difference is twice that.
_DRAFT_MARGIN = 2

# The longest side, in pixels, of thumbnails kept as PNG: JPEG would blur drawings that small.
_EVERY_PIXEL_COUNTS = 40

_PNG_END = b"IEND\xaeB`\x82"
_JPEG_END = b"\xff\xd9"
_JPEG = recognise(b"\xff\xd8\xff")

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIDEWAYS = (5, 6, 7, 8)
_pillow_globals = threading.Lock()


class _PixelBudget:
    """The pixels that the threads of a process decode at once.

    An image with more pixels than that is decoded alone.
    """

    def __init__(self, most: int) -> None:
        self._most, self._held = most, 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, pixels: int) -> Iterator[None]:
        """Wait until there is room for an image."""
        with self._changed:
            self._changed.wait_for(lambda: not self._held or self._held + pixels <= self._most)
            self._held += pixels
        try:
            yield
        finally:
            with self._changed:
                self._held -= pixels
                self._changed.notify_all()


# A pixel takes up to 12 bytes while it is decoded, freed of transparency and resized.
_budget = _PixelBudget(50_000_000)


def decoder_version() -> str:
    """Name everything that determines the pixels, for a score fingerprint."""
    jpeg = features.version("libjpeg_turbo") or features.version("jpg")
    others = " ".join(f"{name} {features.version(name)}" for name in ("webp", "avif", "libtiff"))
    return f"{DECODER} pillow {PIL.__version__} jpeg {jpeg} {others}"


def decode(data: bytes, height: int, width: int, *, max_pixels: int) -> Pixels:
    """Decode one image in any of `image_formats.FORMATS` and squash it to the given size.

    The result is what a person sees: turned as EXIF says, transparency over white, the first frame
    of an animation and the first page of a TIFF, 16 bits scaled to 8. Resizing is antialiased
    bilinear and crops nothing.

    Args:
        data: The encoded image.
        height: Height of the result, in pixels.
        width: Width of the result, in pixels.
        max_pixels: Most pixels that the encoded image may have, according to its header.

    Returns:
        RGB pixels, uint8 of shape [3, height, width].

    Raises:
        ImageError: If the image is unreadable: empty, truncated, in another format, or too large.
    """
    if min(height, width, max_pixels) < 1:
        raise ValueError(f"{height=}, {width=}, {max_pixels=}: each must be at least 1")
    return _decode(data, max_pixels, lambda image: (height, width))


def thumbnail(data: bytes, longest: int, *, max_pixels: int) -> bytes:
    """Return a small copy of an image as a person sees it, with its proportions kept.

    Args:
        data: The encoded image.
        longest: Most pixels of a side. An image that is smaller keeps its size.
        max_pixels: Most pixels that the encoded image may have, as for `decode`.

    Returns:
        An encoded JPEG, or a PNG if the copy is so small that every pixel counts.

    Raises:
        ImageError: As for `decode`.
    """

    def within(image: Image.Image) -> tuple[int, int]:
        if not isinstance(image, JpegImageFile):
            image.load()  # before reading its orientation, as in `_squash`
        width, height = _stored_size(image, image.height, image.width)
        shrunk = min(1.0, longest / max(height, width))
        return max(1, round(height * shrunk)), max(1, round(width * shrunk))

    pixels = _decode(data, max_pixels, within)
    if max(pixels.shape) <= _EVERY_PIXEL_COUNTS:
        return encode_png(pixels)
    buffer = BytesIO()
    Image.fromarray(pixels.transpose(1, 2, 0)).save(buffer, "JPEG", quality=80)
    return buffer.getvalue()


def _decode(
    data: bytes, max_pixels: int, size: Callable[[Image.Image], tuple[int, int]]
) -> Pixels:
    """Return pixels [3, height, width] of the size that `size` computes from the opened image."""
    format_ = _recognise(data)
    # Training code often switches this on, and then half a picture would get a score.
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    try:
        image = _open(data, format_.opener, max_pixels)
        # Closed before others may begin, as that frees its pixels.
        with _budget.hold(image.width * image.height), closing(image):
            return _squash(image, *size(image))
    except ImageError:
        raise
    except Exception as error:  # Pillow raises all kinds: SyntaxError, struct.error, MemoryError
        reason = (str(error) or type(error).__name__).splitlines()[0][:200]
        raise ImageError(
            f"{format_.name} of {len(data)} bytes cannot be decoded: {reason}"
        ) from error


def decode_many(
    images: Sequence[bytes | None], height: int, width: int, *, max_pixels: int, threads: int = 1
) -> tuple[Pixels, list[str | None]]:
    """Decode a mini-batch, some images of which may be unreadable.

    Args:
        images: N encoded images. None counts as unreadable.
        height: Height of the result, in pixels.
        width: Width of the result, in pixels.
        max_pixels: Most pixels that an encoded image may have.
        threads: Number of threads to decode on.

    Returns:
        RGB pixels, uint8 of shape [N, 3, height, width], with zeros for unreadable images; and
        N errors, with None for readable images.
    """
    pixels = np.zeros((len(images), 3, height, width), np.uint8)
    errors: list[str | None] = [None] * len(images)

    def decode_each(numbers: range) -> None:
        for number in numbers:
            try:
                pixels[number] = decode(
                    images[number] or b"", height, width, max_pixels=max_pixels
                )
            except ImageError as error:
                errors[number] = str(error)

    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(decode_each, (range(i, len(images), threads) for i in range(threads))))
    return pixels, errors


def area_of_plain_jpeg(data: bytes, *, max_pixels: int) -> int | None:
    """Return the area of a JPEG that other decoders read as we do.

    Such a JPEG is complete, RGB or grey, and not too large.

    Args:
        data: The encoded image. Only its header and its end marker are read.
        max_pixels: Most pixels that the encoded image may have.

    Returns:
        Its width times its height, or None if only `decode` can handle it.
    """
    if not data.rstrip(b"\0").endswith(_JPEG_END):
        return None
    try:
        if recognise(data) is not _JPEG:
            return None
        image = _open(data, JpegImageFile, max_pixels)
        plain = (
            image.mode in ("RGB", "L")
            and image.info.get("adobe_transform") != 0  # 0: stored as RGB, not YCbCr
            and _orientation(image) == _orientation_in_exif(image.info.get("exif", b""))
        )
    except Exception:  # noqa: BLE001  as in `_decode`, which will report the fault
        return None
    return image.width * image.height if plain else None


def encode_png(image: Pixels) -> bytes:
    """Encode uint8 pixels of shape [3, height, width], or [height, width] for grey, as PNG."""
    buffer = BytesIO()
    Image.fromarray(image if image.ndim == 2 else image.transpose(1, 2, 0)).save(buffer, "PNG")
    return buffer.getvalue()


def _recognise(data: bytes) -> ImageFormat:
    known = recognise(data)
    if known is None:
        raise ImageError(f"{len(data)} bytes, {looks_like(data)}; an image must be {NAMES}")
    return known


def _open(data: bytes, opener: type[ImageFile.ImageFile], max_pixels: int) -> ImageFile.ImageFile:
    """Read the header with the format's own class, as `Image.open` enforces Pillow's limit."""
    if opener is PngImageFile and _PNG_END not in data:
        raise ImageError(f"PNG of {len(data)} bytes is truncated: it has no end marker")
    with _pillow_limit(max_pixels):
        image = opener(BytesIO(data))
    if image.width * image.height > max_pixels:
        raise ImageError(f"{image.width} by {image.height} pixels; max_pixels allows {max_pixels}")
    if opener is PngImageFile:
        _scale_transparent_colour(image, depth=data[24])
    if isinstance(image, TiffImageFile):
        _refuse_unseen(image)
        with _pillow_limit(2 * max_pixels):  # it warns from half of this on
            image.load_prepare()  # the only other step that looks at Pillow's limit
    return image


@contextmanager
def _pillow_limit(max_pixels: int) -> Iterator[None]:
    """Set Pillow's own limit, which is global, to this many pixels while an image is opened."""
    with _pillow_globals:
        before = Image.MAX_IMAGE_PIXELS
        Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2  # Pillow raises at twice this
        try:
            yield
        except Image.DecompressionBombError:
            raise ImageError(f"more pixels than max_pixels allows ({max_pixels})") from None
        finally:
            Image.MAX_IMAGE_PIXELS = before


def _refuse_unseen(image: TiffImageFile) -> None:
    """Refuse a TIFF whose samples do not say how bright a person would see them.

    Accepted are 8 bits or fewer, and 16 bits as in PNG: unsigned, with black at 0.
    """
    tags = image.tag_v2
    bits, kinds = tags.get(BITSPERSAMPLE, (1,)), tags.get(SAMPLEFORMAT, (1,))
    inverted = len(bits) == 1 and tags.get(PHOTOMETRIC_INTERPRETATION, 0) == 0
    if set(kinds) != {1} or not (max(bits) <= 8 or (set(bits) == {16} and not inverted)):
        kind = {1: "unsigned", 2: "signed", 3: "floating-point"}.get(kinds[0], "other")
        raise ImageError(
            f"TIFF of {max(bits)}-bit {kind} samples{', white at 0' * inverted}; it must have 8 "
            "bits, or 16 unsigned with black at 0. Convert it"
        )


def _scale_transparent_colour(image: Image.Image, depth: int) -> None:
    """Scale a PNG's transparent colour to 8 bits, as Pillow scales only the pixels."""
    colour = image.info.get("transparency")
    if image.mode == "RGB" and depth == 16 and colour:
        image.info["transparency"] = tuple(value >> 8 for value in colour)
    elif image.mode == "L" and depth in (2, 4) and colour:
        image.info["transparency"] = colour * 255 // (2**depth - 1)


def _squash(image: ImageFile.ImageFile, height: int, width: int) -> Pixels:
    if isinstance(image, JpegImageFile):
        image.draft(None, _stored_size(image, height * _DRAFT_MARGIN, width * _DRAFT_MARGIN))
    image.load()  # a PNG's orientation may follow its pixels; reading it first hides their faults
    size = _stored_size(image, height, width)
    seen = _opaque(image).resize(size, Image.Resampling.BILINEAR)
    if (orientation := _orientation(image)) in _TURNS:
        seen = seen.transpose(_TURNS[orientation])
    return np.ascontiguousarray(np.asarray(seen.convert("RGB")).transpose(2, 0, 1))


def _stored_size(image: Image.Image, height: int, width: int) -> tuple[int, int]:
    return (height, width) if _orientation(image) in _SIDEWAYS else (width, height)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # noqa: BLE001  like viewers, we do not turn an image with broken EXIF
        return 1


def _orientation_in_exif(exif: bytes) -> int | None:
    """Return the orientation stored in EXIF.

    It is 1 if EXIF has no such entry, and None if the entry is not a SHORT, because not every
    decoder can read other types.
    """
    little = re.search(rb"\x12\x01([\x01-\x0d])\0\x01\0\0\0(..)", exif, re.DOTALL)
    big = re.search(rb"\x01\x12\0([\x01-\x0d])\0\0\0\x01(..)", exif, re.DOTALL)
    found = little or big
    if not found:
        return 1
    kind, value = found.groups()
    return int.from_bytes(value, "little" if little else "big") if kind == b"\x03" else None


def _opaque(image: Image.Image) -> Image.Image:
    """Convert an image of any mode to grey or RGB, with transparency over white."""
    if image.mode in (
        "I;16",
        "I;16B",
    ):  # Pillow's own conversion turns every value above 255 white
        samples = np.asarray(image)
        clear = samples == image.info.get("transparency", -1)
        return Image.fromarray(np.where(clear, 255, samples >> 8).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image if image.mode in ("L", "RGB") else image.convert("RGB")

"""Tests that images decode as people see them. All images are built here."""

import struct
import zlib
from io import BytesIO

import numpy as np
import PIL
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import ExifTags, Image, ImageFile, ImageOps

from baal_ray.errors import ImageError
from baal_ray.images import DECODER, decode, decode_many, decoder_version, encode_png, thumbnail

LIMIT = 10_000_000
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)


def encode(image, format_, **options):
    buffer = BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def corners(height=32, width=48):
    """Return four coloured quarters, red, green above blue, white. No two rotations are alike."""
    pixels = np.zeros((height, width, 3), np.uint8)
    top, left = slice(None, height // 2), slice(None, width // 2)
    bottom, right = slice(height // 2, None), slice(width // 2, None)
    pixels[top, left], pixels[top, right] = RED, GREEN
    pixels[bottom, left], pixels[bottom, right] = BLUE, WHITE
    return pixels


def png(width, depth, colour_type, row, *chunks):
    """Return a PNG of one row, for the kinds that Pillow reads and cannot write."""
    header = struct.pack(">IIBBBBB", width, 1, depth, colour_type, 0, 0, 0)
    body = [(b"IHDR", header), *chunks, (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in body
    )


def row_of(data, width):
    """Decode an image of one row at its own size, so that pixels are not mixed."""
    return decode(data, 1, width, max_pixels=LIMIT)[:, 0].T.tolist()


def colour_of(data):
    """Return the colour in the middle of an image of one colour."""
    return decode(data, 8, 8, max_pixels=LIMIT)[:, 4, 4].astype(int)


def grey(*values):
    return [[value] * 3 for value in values]


LOSSLESS = [
    {"format_": "PNG"},
    {"format_": "WEBP", "lossless": True},
    {"format_": "BMP"},
    *({"format_": "TIFF", "compression": how} for how in (None, "tiff_lzw", "tiff_deflate")),
    {"format_": "TIFF", "big_tiff": True},
]


@pytest.mark.parametrize("options", LOSSLESS, ids=str)
def test_lossless_images_come_back_exactly(options):
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    decoded = decode(encode(Image.fromarray(pixels), **options), 5, 7, max_pixels=LIMIT)
    assert decoded.dtype == np.uint8
    assert decoded.flags.c_contiguous
    np.testing.assert_array_equal(decoded, pixels.transpose(2, 0, 1))


@pytest.mark.parametrize("shape", [(3, 5, 7), (5, 7)])
def test_encode_png_is_undone_by_decode(shape):
    pixels = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    decoded = decode(encode_png(pixels), 5, 7, max_pixels=LIMIT)
    np.testing.assert_array_equal(decoded, np.broadcast_to(pixels, (3, 5, 7)))


# The transform that stores an upright image for each orientation: the inverse of the transform
# that the EXIF standard gives to the number.
STORED = {
    1: lambda upright: upright,
    2: lambda upright: upright[:, ::-1],
    3: lambda upright: upright[::-1, ::-1],
    4: lambda upright: upright[::-1],
    5: lambda upright: upright.transpose(1, 0, 2),
    6: lambda upright: np.rot90(upright, 1),
    7: lambda upright: upright[::-1, ::-1].transpose(1, 0, 2),
    8: lambda upright: np.rot90(upright, -1),
}


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("orientation", STORED)
def test_exif_orientation_is_undone(orientation, format_):
    # Phones store portraits sideways. The sizes differ, so mixing up height and width would show.
    # From 512 by 320 to 16 by 32, a JPEG decodes itself at a smaller size, which also swaps sides.
    upright = corners(320, 512)
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](upright)))
    decoded = decode(encode(stored, format_, exif=exif), 16, 32, max_pixels=LIMIT)
    assert decoded.shape == (3, 16, 32)
    seen = decoded.astype(int)[:, [4, 4, 12, 12], [8, 24, 8, 24]].T
    np.testing.assert_allclose(seen, [RED, GREEN, BLUE, WHITE], atol=6)


TIFF = b"Exif\0\0II*\0"
BROKEN_EXIF = {
    "not TIFF": b"Exif\0\0rubbish",
    "points outside": TIFF + b"\xff\xff\xff\xff",
    "orientation is text": TIFF + struct.pack("<IHHHI8s", 8, 1, 0x0112, 2, 4, b"ab"),
}


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("exif", BROKEN_EXIF.values(), ids=BROKEN_EXIF)
@pytest.mark.filterwarnings("ignore")
def test_broken_exif_leaves_an_image_as_stored(exif, format_):
    data = encode(Image.fromarray(corners()), format_, exif=exif)
    np.testing.assert_allclose(decode(data, 32, 48, max_pixels=LIMIT)[:, 8, 8], RED, atol=6)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_an_impossible_orientation_is_ignored(value):
    exif = Image.Exif()
    exif[0x0112] = value
    data = encode(Image.fromarray(corners()), "JPEG", exif=exif)
    np.testing.assert_allclose(decode(data, 32, 48, max_pixels=LIMIT)[:, 8, 8], RED, atol=6)


def test_16_bit_grey_is_scaled_not_clipped():
    # Pillow's convert("RGB") makes everything above 255 white.
    samples = struct.pack(">4H", 0, 1000, 40_000, 65_535)
    assert row_of(png(4, 16, 0, samples), 4) == grey(0, 3, 156, 255)


def test_16_bit_grey_survives_resizing():
    ramp = np.tile(np.linspace(0, 65_535, 64).astype(np.uint16), (64, 1))
    decoded = decode(encode(Image.fromarray(ramp), "PNG"), 8, 8, max_pixels=LIMIT).astype(int)
    np.testing.assert_allclose(decoded[0, 4], (np.arange(8) + 0.5) * 255 / 8, atol=4)


@pytest.mark.parametrize(
    ("colour_type", "samples", "expected"),
    [
        pytest.param(2, (65_535, 32_896, 0), [255, 128, 0], id="rgb"),
        pytest.param(4, (32_896, 65_535), [128, 128, 128], id="grey and alpha"),
        pytest.param(4, (0, 0), [255, 255, 255], id="transparent grey"),
        pytest.param(6, (65_535, 0, 0, 32_896), [255, 127, 127], id="half red over white"),
    ],
)
def test_16_bit_colour(colour_type, samples, expected):
    data = png(1, 16, colour_type, struct.pack(f">{len(samples)}H", *samples))
    np.testing.assert_allclose(row_of(data, 1)[0], expected, atol=1)


@pytest.mark.parametrize(
    ("depth", "row", "transparent", "expected"),
    [
        pytest.param(1, b"\x50", None, grey(0, 255, 0, 255), id="1 bit"),
        pytest.param(2, b"\x1b", None, grey(0, 85, 170, 255), id="2 bit"),
        pytest.param(4, b"\x05\xaf", None, grey(0, 85, 170, 255), id="4 bit"),
        pytest.param(1, b"\x50", 0, grey(255, 255, 255, 255), id="1 bit, black clear"),
        pytest.param(2, b"\x1b", 1, grey(0, 255, 170, 255), id="2 bit, 1 clear"),
        pytest.param(4, b"\x05\xaf", 5, grey(0, 255, 170, 255), id="4 bit, 5 clear"),
        pytest.param(8, b"\0\x05\xaf\xff", 0, grey(255, 5, 175, 255), id="8 bit, black clear"),
        pytest.param(
            16, struct.pack(">4H", 0, 1000, 1001, 65_535), 1000, grey(0, 255, 3, 255), id="16 bit"
        ),
    ],
)
def test_grey_png_of_every_depth(depth, row, transparent, expected):
    # A transparent shade is given in the file's own depth. Pillow does not scale it.
    chunks = [] if transparent is None else [(b"tRNS", struct.pack(">H", transparent))]
    assert row_of(png(4, depth, 0, row, *chunks), 4) == expected


def test_16_bit_transparent_colour():
    red, green = (65_535, 0, 0), (0, 40_000, 0)
    data = png(2, 16, 2, struct.pack(">6H", *red, *green), (b"tRNS", struct.pack(">3H", *green)))
    assert row_of(data, 2) == [list(RED), list(WHITE)]


@pytest.mark.parametrize("format_", ["PNG", "WEBP"])
def test_alpha_is_seen_over_white(format_):
    # Transparent pixels often hide black. Dropping alpha would show it.
    pixels = np.array([[[0, 0, 0, 0], [0, 0, 0, 128], [255, 0, 0, 255]]], np.uint8)
    options = {"lossless": True, "exact": True} if format_ == "WEBP" else {}
    row = row_of(encode(Image.fromarray(pixels), format_, **options), 3)
    np.testing.assert_allclose(row, [WHITE, (127, 127, 127), RED], atol=1)


def test_hidden_colours_do_not_bleed_when_resized():
    # Black under full transparency must not darken the white around it.
    pixels = np.zeros((64, 64, 4), np.uint8)
    pixels[:, ::2] = 255
    assert decode(encode(Image.fromarray(pixels), "PNG"), 8, 8, max_pixels=LIMIT).min() == 255


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P"])
def test_a_grey_image_has_three_equal_channels(mode):
    data = encode(Image.new("L", (8, 8), 255).convert(mode), "PNG")
    np.testing.assert_array_equal(colour_of(data), WHITE)


def test_grey_jpeg():
    np.testing.assert_allclose(colour_of(encode(Image.new("L", (64, 64), 90), "JPEG")), 90, atol=2)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        pytest.param({}, [RED, GREEN, BLUE], id="opaque"),
        pytest.param({"transparency": 1}, [RED, WHITE, BLUE], id="one entry clear"),
        pytest.param({"transparency": b"\0\xff\x80"}, [WHITE, GREEN, (127, 127, 255)], id="alpha"),
    ],
)
def test_palette(options, expected):
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    np.testing.assert_allclose(row_of(encode(image, "PNG", **options), 3), expected, atol=1)


def adobe_transform(data, transform):
    """Make a JPEG's Adobe marker say CMYK (0) or YCCK (2). None drops the marker."""
    start = data.index(b"\xff\xee\x00\x0eAdobe")
    if transform is None:
        return data[:start] + data[start + 16 :]
    return data[: start + 15] + bytes([transform]) + data[start + 16 :]


CMYK = [
    pytest.param((0, 0, 0, 0), WHITE, id="no ink"),
    pytest.param((0, 255, 255, 0), RED, id="magenta and yellow"),
    pytest.param((0, 0, 0, 255), (0, 0, 0), id="black"),
    pytest.param((255, 0, 0, 128), (0, 127, 127), id="dark cyan"),
]


@pytest.mark.parametrize("transform", [0, None])
@pytest.mark.parametrize(("ink", "expected"), CMYK)
def test_cmyk_jpeg(ink, expected, transform):
    # A CMYK photograph that is read the wrong way round is a negative.
    data = encode(Image.new("CMYK", (64, 64), ink), "JPEG", quality=100)
    data = adobe_transform(data, transform)
    np.testing.assert_allclose(colour_of(data), expected, atol=3)


@pytest.mark.parametrize(("ink", "expected"), CMYK)
def test_ycck_jpeg(ink, expected):
    # Photoshop stores the inks as Y, Cb and Cr, with black inverted. Pillow cannot write it, so
    # the inks become Y, Cb, Cr here. It stores 255 - x of each channel.
    ycc = Image.new("RGB", (1, 1), ink[:3]).convert("YCbCr").getpixel((0, 0))
    stored = (*(255 - value for value in ycc), ink[3])
    data = encode(Image.new("CMYK", (64, 64), stored), "JPEG", quality=100)
    np.testing.assert_allclose(colour_of(adobe_transform(data, 2)), expected, atol=4)


@pytest.mark.parametrize(
    "options",
    [
        {"format_": "PNG", "duration": 100},
        {"format_": "WEBP", "duration": 100, "lossless": True},
        {"format_": "GIF", "duration": 100},
        {"format_": "AVIF", "duration": 100},
        {"format_": "TIFF"},
    ],
    ids=lambda options: options["format_"],
)
def test_an_animation_is_its_first_frame_and_a_document_its_first_page(options):
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN, BLUE)]
    data = encode(frames[0], save_all=True, append_images=frames[1:], **options)
    np.testing.assert_allclose(colour_of(data), RED, atol=3)


def test_a_gif_is_seen_over_white():
    image = Image.new("P", (3, 1))
    image.putpalette([*RED, *GREEN, *BLUE])
    image.putdata([0, 1, 2])
    assert row_of(encode(image, "GIF", transparency=1), 3) == [list(RED), list(WHITE), list(BLUE)]


@pytest.mark.parametrize("order", ["<", ">"])
def test_a_16_bit_grey_tiff_is_scaled_as_a_png_is(order):
    samples = np.array([[0, 1000, 40_000, 65_535]], f"{order}u2")
    mode = {"<": "I;16", ">": "I;16B"}[order]
    image = Image.frombytes(mode, (4, 1), samples.tobytes())
    assert row_of(encode(image, "TIFF"), 4) == grey(0, 3, 156, 255)


@pytest.mark.parametrize(
    ("samples", "tags", "told"),
    [
        (np.float32, {}, "32-bit floating-point samples"),
        (np.int32, {}, "32-bit signed samples"),
        (np.uint16, {262: 0}, "16-bit unsigned samples, white at 0"),
    ],
)
def test_a_tiff_whose_brightness_is_not_known_is_refused(samples, tags, told):
    data = encode(Image.fromarray(np.ones((8, 8), samples)), "TIFF", tiffinfo=tags)
    with pytest.raises(ImageError, match=f"TIFF of {told}; it must have 8 bits, or 16"):
        decode(data, 8, 8, max_pixels=LIMIT)


def test_a_grey_tiff_with_white_at_0_is_no_negative():
    data = encode(Image.new("L", (8, 8), 200), "TIFF", tiffinfo={262: 0})
    assert colour_of(data).tolist() == [200] * 3


def test_squashing_crops_nothing():
    decoded = decode(encode(Image.fromarray(corners(64, 256)), "PNG"), 8, 8, max_pixels=LIMIT)
    np.testing.assert_array_equal(
        decoded[:, [0, 0, 7, 7], [0, 7, 0, 7]].T, [RED, GREEN, BLUE, WHITE]
    )


def test_shrinking_is_antialiased():
    # One-pixel stripes become grey. Without antialiasing they would be black or white.
    stripes = np.zeros((64, 64), np.uint8)
    stripes[:, ::2] = 255
    decoded = decode(encode_png(stripes), 8, 8, max_pixels=LIMIT).astype(int)
    np.testing.assert_allclose(decoded[:, :, 1:-1], 127, atol=2)


@pytest.mark.parametrize(
    ("stored", "orientation", "height", "width"),
    [
        pytest.param((1024, 768), 1, 128, 128, id="upright"),
        pytest.param((1024, 256), 6, 32, 128, id="sideways, height and width told apart"),
    ],
)
def test_a_large_jpeg_is_near_a_full_decode(stored, orientation, height, width):
    # A JPEG decodes itself smaller first. A difference of 1 in 255, which nobody sees, is allowed.
    coarse = np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = Image.fromarray(coarse).resize(stored, Image.Resampling.BICUBIC)
    data = encode(image, "JPEG", quality=95, exif=exif)
    full = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    expected = np.asarray(full.resize((width, height), Image.Resampling.BILINEAR), int)
    difference = decode(data, height, width, max_pixels=LIMIT) - expected.transpose(2, 0, 1)
    assert np.abs(difference).mean() < 1


@pytest.mark.parametrize("format_", ["PNG", "JPEG"])
@pytest.mark.parametrize("size", [(50_000, 1), (1, 50_000)])
def test_a_very_long_image(size, format_):
    data = encode(Image.new("RGB", size, RED), format_)
    np.testing.assert_allclose(colour_of(data), RED, atol=3)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"])
def test_the_pixel_limit_is_inclusive(format_):
    data = encode(Image.new("RGB", (21, 5), RED), format_)
    assert decode(data, 4, 4, max_pixels=105).shape == (3, 4, 4)
    with pytest.raises(ImageError, match="104"):
        decode(data, 4, 4, max_pixels=104)


def test_the_pixel_limit_is_judged_by_the_header():
    # A PNG that claims 60,000 by 60,000 pixels and holds none is refused for its claim.
    data = png(60_000, 8, 2, b"")
    data = data[:20] + struct.pack(">I", 60_000) + data[24:]
    crc = struct.pack(">I", zlib.crc32(data[12:29]))
    with pytest.raises(ImageError, match="60000 by 60000 pixels; max_pixels allows 10000000"):
        decode(data[:29] + crc + data[33:], 4, 4, max_pixels=LIMIT)


def test_the_pixel_limit_holds_before_a_webp_has_its_canvas():
    # An animated WebP of 60 bytes may claim 16384 by 16384 pixels. Its canvas would be 2 GB.
    frames = [Image.new("RGB", (8, 8), colour) for colour in (RED, GREEN)]
    data = bytearray(encode(frames[0], "WEBP", save_all=True, append_images=frames[1:]))
    data[24:30] = b"\xff\x3f\x00\xff\x3f\x00"
    with pytest.raises(ImageError, match=r"max_pixels allows \(10000000\)"):
        decode(bytes(data), 4, 4, max_pixels=LIMIT)


@pytest.mark.parametrize("format_", ["JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF"])
@pytest.mark.filterwarnings("error")
def test_only_our_pixel_limit_counts(format_, monkeypatch):
    # Pillow warns above its own limit and raises at twice that.
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 10)
    data = encode(Image.new("RGB", (32, 32), RED), format_)
    assert decode(data, 4, 4, max_pixels=LIMIT).shape == (3, 4, 4)
    assert Image.MAX_IMAGE_PIXELS == 10


KINDS = {
    "jpeg": {"format_": "JPEG"},
    "progressive": {"format_": "JPEG", "progressive": True},
    "png": {"format_": "PNG"},
    "lossy webp": {"format_": "WEBP"},
    "lossless webp": {"format_": "WEBP", "lossless": True},
    "bmp": {"format_": "BMP"},
    "gif": {"format_": "GIF"},
    "tiff": {"format_": "TIFF"},
    "packed tiff": {"format_": "TIFF", "compression": "tiff_lzw"},
    "avif": {"format_": "AVIF"},
}
NOISE = Image.fromarray(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
SAMPLES = {kind: encode(NOISE, **options) for kind, options in KINDS.items()}


@pytest.mark.parametrize("data", SAMPLES.values(), ids=SAMPLES)
def test_truncated_anywhere_is_an_error(data, monkeypatch):
    # The error comes even if training code has told Pillow, for the whole process, to let it pass.
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    whole = decode(data, 8, 8, max_pixels=LIMIT)
    for length in range(len(data)):
        try:
            decoded = decode(data[:length], 8, 8, max_pixels=LIMIT)
        except ImageError:
            continue
        # Some formats end with bytes that are no part of the picture.
        assert len(data) - length <= 4, length
        np.testing.assert_array_equal(decoded, whole)


@pytest.mark.parametrize("options", KINDS.values(), ids=KINDS)
@pytest.mark.parametrize("kept", [0.2, 0.5, 0.9, 0.99])
def test_a_truncated_photograph_is_an_error(options, kept):
    # Pillow reads files of more than 64 KiB in pieces. A JPEG decodes itself smaller here.
    noise = np.random.default_rng(0).integers(0, 256, (300, 300, 3), np.uint8)
    data = encode(Image.fromarray(noise), **options)
    with pytest.raises(ImageError):
        decode(data[: int(len(data) * kept)], 32, 32, max_pixels=LIMIT)


@pytest.mark.parametrize("data", SAMPLES.values(), ids=SAMPLES)
def test_trailing_bytes_do_not_matter(data):
    # Phones append videos and depth maps.
    expected = decode(data, 8, 8, max_pixels=LIMIT)
    longer = decode(data + b"\0" * 100, 8, 8, max_pixels=LIMIT)
    np.testing.assert_array_equal(longer, expected)


@pytest.mark.parametrize(
    ("data", "match"),
    [
        (b"", "0 bytes, empty; an image must be JPEG, PNG, WebP, TIFF, BMP, GIF or AVIF"),
        (b"<!DOCTYPE html><html>", "looks like HTML"),
        (b"\n\n  <html>Access denied", "looks like HTML"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC, which is not decoded; convert it to JPEG"),
        (encode(NOISE, "JPEG2000"), "looks like JPEG 2000"),
        (b"%PDF-1.7", "looks like a PDF"),
        (b"\0\1\2\3", "4 bytes, begins with 00 01 02 03"),
        (b"RIFF\0\0\0\0WAVEfmt ", "16 bytes, begins with 52 49 46 46"),
        (b"BM and other text", "17 bytes, begins with 42 4d"),
    ],
    ids=["empty", "html", "indented html", "heic", "jpeg 2000", "pdf", "bytes", "wave", "text"],
)
def test_other_files_are_refused_by_name(data, match):
    with pytest.raises(ImageError, match=match):
        decode(data, 8, 8, max_pixels=LIMIT)


def only_image_errors(data):
    """Decode, and fail the test on anything but an ImageError of one line."""
    try:
        decoded = decode(data, 8, 8, max_pixels=100_000)
    except ImageError as error:
        message = str(error)
    else:
        assert decoded.shape == (3, 8, 8)
        message = "none"
    assert len(message.splitlines()) == 1
    assert len(message) < 300


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=200, deadline=None)
@given(
    start=st.sampled_from([b"", b"\xff\xd8\xff", SAMPLES["png"][:33], b"RIFF"]), rest=st.binary()
)
@example(start=SAMPLES["png"][:33], rest=b"\0\0\0\0IEND\xaeB`\x82")
def test_rubbish_only_raises_image_errors(start, rest):
    only_image_errors(start + rest)


@pytest.mark.filterwarnings("ignore")
@settings(max_examples=500, deadline=None)
@given(kind=st.sampled_from(sorted(SAMPLES)), where=st.floats(0, 1), value=st.integers(0, 255))
def test_one_wrong_byte_only_raises_image_errors(kind, where, value):
    data = bytearray(SAMPLES[kind])
    data[int(where * (len(data) - 1))] = value
    only_image_errors(bytes(data))


@pytest.mark.parametrize("failure", [MemoryError(), RecursionError("deep"), struct.error("a\nb")])
def test_whatever_pillow_raises_is_an_image_error(failure, monkeypatch):
    def load(*_):
        raise failure

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    with pytest.raises(ImageError, match=r"^JPEG of \d+ bytes cannot be decoded: \w+$"):
        decode(SAMPLES["jpeg"], 8, 8, max_pixels=LIMIT)


def test_a_wrong_size_is_the_callers_fault_not_the_images():
    with pytest.raises(ValueError, match="height=0"):
        decode(SAMPLES["jpeg"], 0, 8, max_pixels=LIMIT)


def test_decode_many_keeps_rows_in_place():
    good = encode_png(np.full((3, 4, 4), 9, np.uint8))
    pixels, errors = decode_many([good, None, b"", good[:40], good], 4, 4, max_pixels=LIMIT)
    assert pixels.shape == (5, 3, 4, 4)
    assert pixels.dtype == np.uint8
    assert pixels[:, 0, 0, 0].tolist() == [9, 0, 0, 0, 9]
    assert [error is None for error in errors] == [True, False, False, False, True]
    assert "truncated" in errors[3]


def test_decode_many_of_nothing():
    pixels, errors = decode_many([], 4, 6, max_pixels=LIMIT)
    assert pixels.shape == (0, 3, 4, 6)
    assert errors == []


def test_the_decoder_version_names_what_decides_the_pixels():
    assert decoder_version().startswith(DECODER)
    assert f"pillow {PIL.__version__}" in decoder_version()
    assert "None" not in decoder_version()


@pytest.mark.parametrize(
    ("size", "longest", "expected"),
    [((300, 200), 96, (96, 64)), ((50, 100), 96, (48, 96)), ((16, 8), 96, (16, 8))],
)
def test_a_thumbnail_keeps_proportions_and_is_never_larger(size, longest, expected):
    data = encode(Image.new("RGB", size, "red"), "JPEG")
    small = Image.open(BytesIO(thumbnail(data, longest, max_pixels=10**6)))
    assert small.size == expected
    assert small.format == ("PNG" if max(expected) <= 40 else "JPEG")


def test_a_thumbnail_is_turned_as_a_person_sees_it():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    for kind in ("JPEG", "PNG"):
        data = encode(Image.new("RGB", (300, 200), "red"), kind, exif=exif)
        small = Image.open(BytesIO(thumbnail(data, 96, max_pixels=10**6)))
        assert small.size == (64, 96)


def test_an_unreadable_image_has_no_thumbnail():
    whole = encode(Image.new("RGB", (300, 200), "red"), "PNG")
    for data in (b"", b"no image", whole[:-20]):
        with pytest.raises(ImageError):
            thumbnail(data, 96, max_pixels=10**6)

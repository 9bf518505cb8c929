"""Tests of decoding by TorchCodec on a CPU, which covers all but nvJPEG itself."""

from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import PackageNotFoundError
from io import BytesIO

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

from baal_ray import images
from baal_ray.driver.round import _Round
from baal_ray.errors import ConfigError, ResourceError
from baal_ray.pool.decoding_task import with_area
from baal_ray.scoring import gpu_decoding
from pools import round_config

LIMIT = 1_000_000
CPU = torch.device("cpu")


def picture(height, width, mode="RGB"):
    """Return an image that is smooth, as photographs are."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 20, width // 20, 3), np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).convert(mode)


def jpeg(image, **options):
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=95, **options)
    return buffer.getvalue()


def turned(orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return jpeg(picture(200, 300), exif=exif)


def without_quantisation(data):
    """Remove the quantisation tables: Pillow reads the header, but nobody can decode the rest."""
    start = data.index(b"\xff\xdb")
    return data[:start] + data[start + 2 + int.from_bytes(data[start + 2 : start + 4], "big") :]


PLAIN = {
    "colour": jpeg(picture(200, 300)),
    "grey": jpeg(picture(200, 300, "L")),
    "progressive": jpeg(picture(200, 300), progressive=True),
    "smaller than asked for": jpeg(picture(20, 40)),
    "zeros after its end": jpeg(picture(200, 300)) + bytes(100),
    **{f"turned {orientation}": turned(orientation) for orientation in range(2, 9)},
}


def png(image):
    buffer = BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def turned_by(orientation, place):
    """Return a JPEG whose orientation other decoders may not find."""
    if place == "XMP":
        xmp = f"<x:xmpmeta><tiff:Orientation>{orientation}</tiff:Orientation></x:xmpmeta>"
        return jpeg(picture(200, 300), xmp=xmp.encode())
    exif = turned(orientation)
    entry = b"\x01\x12\0\x03\0\0\0\x01\0" + bytes([orientation])
    assert entry in exif
    return exif.replace(entry, b"\x01\x12\0\x01\0\0\0\x01" + bytes([orientation, 0]))


OTHERS = {
    "turned by XMP": turned_by(6, "XMP"),
    "turned by a byte": turned_by(6, "EXIF"),
    "PNG": png(picture(200, 300)),
    "CMYK": jpeg(picture(200, 300, "CMYK")),
    "cut short": PLAIN["colour"][:2000],
    "too large": jpeg(picture(1000, 1001)),
    "junk": b"junk",
    "empty": b"",
    "missing": None,
    "without a table": without_quantisation(PLAIN["colour"]),
}


def rows_of(encoded):
    return with_area(pa.table({"image": pa.array(encoded, pa.binary())}), LIMIT)


def decode(*encoded, size=(64, 48)):
    decoder = gpu_decoding.DeviceDecoder(CPU, *size, max_pixels=LIMIT)
    pixels_N, errors = decoder(rows_of(encoded))
    return pixels_N.numpy(), errors


@pytest.mark.parametrize("data", PLAIN.values(), ids=PLAIN.keys())
def test_a_plain_jpeg_is_what_pillow_makes_of_all_its_pixels(data):
    seen = ImageOps.exif_transpose(Image.open(BytesIO(data))).convert("RGB")
    expected = np.asarray(seen.resize((48, 64), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    (pixels,), errors = decode(data)
    assert errors == [None]
    np.testing.assert_allclose(pixels, expected, atol=1, rtol=0)


def test_a_picture_many_times_too_large_is_reduced_in_two_steps():
    image = picture(900, 1100)
    expected = np.asarray(image.resize((6, 4), Image.Resampling.BILINEAR)).transpose(2, 0, 1)
    (pixels,), _ = decode(jpeg(image), size=(4, 6))
    np.testing.assert_allclose(pixels, expected, atol=2, rtol=0)


@pytest.mark.parametrize("size", [1, 31, 127, 128, 900, 4000, 10_000])
def test_the_second_step_is_never_a_factor_of_32(size):
    # A GPU's kernel has no room for a factor of about a hundred. The CPU's, used here, takes any.
    reduced = gpu_decoding._reduced(size, 4)
    assert reduced < 32 * 4
    assert reduced == size or reduced >= 16 * 4


def test_what_is_no_plain_jpeg_is_left_to_pillow():
    expected, faults = images.decode_many(list(OTHERS.values()), 64, 48, max_pixels=LIMIT)
    plain = PLAIN["colour"]
    pixels, errors = decode(plain, *OTHERS.values(), plain)
    np.testing.assert_array_equal(pixels[1:-1], expected)
    assert errors == [None, *faults, None]
    assert (pixels[0] == pixels[-1]).all()
    assert pixels[0].any()


def test_of_many_only_those_that_are_refused_are_left_to_pillow(caplog):
    data = [PLAIN["colour"]] * 7
    for bad in (2, 5):
        data[bad] = OTHERS["without a table"]
    pixels, errors = decode(*data)
    assert [error is None for error in errors] == [True, True, False, True, True, False, True]
    assert pixels.any(axis=(1, 2, 3)).tolist() == [error is None for error in errors]
    (told,) = caplog.messages
    assert told.startswith("TorchCodec refuses an image")


def test_large_pictures_are_not_all_in_memory_at_once(monkeypatch):
    together = []
    decode_jpegs = gpu_decoding._decode_jpegs
    data = list(PLAIN.values())[:3]
    decoder = gpu_decoding.DeviceDecoder(CPU, 64, 48, max_pixels=LIMIT)
    monkeypatch.setattr(
        gpu_decoding,
        "_decode_jpegs",
        lambda data, device: together.append(len(data)) or decode_jpegs(data, device),
    )
    at_once, _ = decoder(rows_of(data))
    monkeypatch.setattr(gpu_decoding, "_MOST_PIXELS", 2 * 200 * 300)
    parted, _ = decoder(rows_of(data))
    assert together == [3, 2, 1]
    assert torch.equal(at_once, parted)


@pytest.mark.parametrize("kind", [torch.OutOfMemoryError, RuntimeError])
def test_a_lack_of_memory_is_not_taken_for_a_bad_image(monkeypatch, kind):
    decoder = gpu_decoding.DeviceDecoder(CPU, 64, 48, max_pixels=LIMIT)

    def fail(data, device):
        raise kind("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(gpu_decoding, "_decode_jpegs", fail)
    with pytest.raises(ResourceError, match=r"enough memory to decode.*scoring\.decode_on"):
        decoder(rows_of([PLAIN["colour"]]))


def test_a_device_that_cannot_decode_is_told_before_any_image():
    with pytest.raises(ResourceError, match=r"TorchCodec cannot decode on the meta.*fits torch"):
        gpu_decoding.DeviceDecoder(torch.device("meta"), 64, 48, max_pixels=LIMIT)


def test_a_mini_batch_without_a_jpeg():
    assert decode()[0].shape == (0, 3, 64, 48)
    pixels, errors = decode(OTHERS["PNG"])
    assert pixels.any()
    assert errors == [None]
    assert decode(None)[1] == images.decode_many([None], 64, 48, max_pixels=LIMIT)[1]


def test_a_mini_batch_may_be_a_slice_in_several_chunks():
    whole = rows_of([*PLAIN.values(), None, PLAIN["grey"]])
    decoder = gpu_decoding.DeviceDecoder(CPU, 64, 48, max_pixels=LIMIT)
    expected, _ = decoder(whole)
    some = pa.concat_tables([whole.slice(3, 4), whole.slice(9)])
    assert some["image"].num_chunks > 1
    pixels, errors = decoder(some)
    assert torch.equal(pixels, torch.cat([expected[3:7], expected[9:]]))
    assert len(errors) == len(some)


def test_several_threads_may_decode():
    rows = rows_of(list(PLAIN.values()))
    decoder = gpu_decoding.DeviceDecoder(CPU, 64, 48, max_pixels=LIMIT)
    expected, _ = decoder(rows)
    with ThreadPoolExecutor(5) as threads:
        assert all(torch.equal(each, expected) for each, _ in threads.map(decoder, [rows] * 10))


@pytest.fixture
def without_torchcodec(monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    monkeypatch.setattr(gpu_decoding, "version", missing)


def test_its_version_names_both_decoders():
    version = gpu_decoding.decoder_version()
    assert version.startswith("torchcodec ")
    assert images.decoder_version() in version


@pytest.mark.usefixtures("without_torchcodec")
def test_a_round_that_lacks_torchcodec_says_so_before_it_begins(tmp_path):
    settings = {"scoring": {"decode_on": "gpu"}, "resources": {"scoring_gpus": 1}}
    with pytest.raises(ConfigError, match=r"decode_on.*\n.*pip install 'baal-ray\[gpu\]'"):
        _Round(round_config(tmp_path, **settings), "night")._run()

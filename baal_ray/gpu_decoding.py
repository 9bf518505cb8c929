"""Encoded images become pixels on a scoring actor's device: JPEGs on it, the others as everywhere.

TorchCodec decodes them, on an NVIDIA GPU with nvJPEG. Every pixel is decoded, where Pillow takes a
large JPEG at a half, a quarter or an eighth of its size, so pixels differ a little from Pillow's.
"""

from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from baal_ray import images
from baal_ray.errors import ConfigError

# Pixels of the pictures that are on the device at once, about 2 GB with what resizing takes.
_MOST_PIXELS = 100_000_000

# Boxes of pixels are averaged down to this many times the size asked for before the antialiased
# resizing, whose kernel has no room for a factor of a hundred.
_REDUCING_GAP = 16

# For what Pillow decodes.
_THREADS = 4


def decoder_version() -> str:
    """Name all that decides the pixels, for a score fingerprint.

    Raises:
        ConfigError: TorchCodec is not installed.
    """
    try:
        return f"torchcodec {version('torchcodec')}, else {images.decoder_version()}"
    except PackageNotFoundError:
        missing = (
            "is gpu, and TorchCodec, which decodes there, is not installed; pip install "
            "'baal-ray[gpu]', or set it to cpu"
        )
        raise ConfigError("scoring.decode_on", [missing]) from None


class DeviceDecoder:
    """Decodes mini-batches on a device, a GPU's beside what else it does."""

    def __init__(self, device: torch.device, height: int, width: int, *, max_pixels: int) -> None:
        """Nothing is decoded yet.

        Args:
            device: Where JPEGs are decoded.
            height: Height of the results, in pixels.
            width: Width of the results, in pixels.
            max_pixels: Most pixels that an encoded image may have.
        """
        self._device = device
        self._size = height, width
        self._max_pixels = max_pixels
        self._stream = torch.cuda.Stream() if device.type == "cuda" else None

    def __call__(self, encoded: Sequence[bytes | None]) -> tuple[Tensor, list[str | None]]:
        """Decode a mini-batch, as `images.decode_many` does.

        Args:
            encoded: N encoded images; None is unreadable.

        Returns:
            RGB pixels on the device, uint8 of shape [N, 3, height, width], zeros where unreadable,
            and N errors, None where readable.
        """
        with torch.cuda.stream(self._stream):
            decoded = self._decode(encoded)
        if self._stream:
            self._stream.synchronize()
        return decoded

    def _decode(self, encoded: Sequence[bytes | None]) -> tuple[Tensor, list[str | None]]:
        height, width = self._size
        pixels_N = torch.zeros(
            (len(encoded), 3, height, width), dtype=torch.uint8, device=self._device
        )
        areas = {
            number: area
            for number, data in enumerate(encoded)
            if (area := images.area_of_plain_jpeg(data or b"", max_pixels=self._max_pixels))
        }
        left = set(range(len(encoded)))
        for numbers in _within_memory(areas):
            pictures = _decode_jpegs([encoded[number] for number in numbers], self._device)
            for number, picture in zip(numbers, pictures, strict=True):
                if picture is not None:
                    pixels_N[number] = _squash(picture, height, width)
                    left.remove(number)
        errors: list[str | None] = [None] * len(encoded)
        if left:
            others = sorted(left)
            decoded, faults = images.decode_many(
                [encoded[number] for number in others],
                height,
                width,
                max_pixels=self._max_pixels,
                threads=_THREADS,
            )
            pixels_N[others] = torch.from_numpy(decoded).to(self._device)
            for number, fault in zip(others, faults, strict=True):
                errors[number] = fault
        return pixels_N, errors


def _within_memory(areas: dict[int, int]) -> Iterator[list[int]]:
    """The numbers of images, some at a time, by their pixels."""
    together: list[int] = []
    pixels = 0
    for number, area in areas.items():
        if together and pixels + area > _MOST_PIXELS:
            yield together
            together, pixels = [], 0
        together.append(number)
        pixels += area
    if together:
        yield together


def _decode_jpegs(encoded: Sequence[bytes | None], device: torch.device) -> list[Tensor | None]:
    """Pictures [3, H, W] turned as EXIF says; None for those that Pillow is to judge."""
    from torchcodec.decoders import decode_jpeg

    # A copy, as bytes cannot be written to and PyTorch warns of that.
    sources = [torch.from_numpy(np.frombuffer(data or b"", np.uint8).copy()) for data in encoded]
    try:
        pictures: list[Tensor | None] = list(decode_jpeg(sources, mode="RGB", device=device))
    except RuntimeError:
        if len(sources) == 1:
            return [None]
        # It does not say which one is to blame.
        return [picture for data in encoded for picture in _decode_jpegs([data], device)]
    return pictures


def _squash(picture: Tensor, height: int, width: int) -> Tensor:
    """Antialiased bilinear resizing, as Pillow does it: [3, H, W] → uint8 [3, height, width]."""
    pixels = picture.unsqueeze(0).float()
    rows, columns = pixels.shape[2:]
    reduced = (_reduced(rows, height), _reduced(columns, width))
    if reduced != (rows, columns):
        pixels = functional.adaptive_avg_pool2d(pixels, reduced)
    pixels = functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return pixels[0].round_().clamp_(0, 255).to(torch.uint8)


def _reduced(size: int, wanted: int) -> int:
    return size // max(1, size // (_REDUCING_GAP * wanted))

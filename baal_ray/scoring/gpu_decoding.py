"""Encoded images become pixels on a scoring actor's device: JPEGs on it, others as everywhere.

TorchCodec decodes them, on an NVIDIA GPU with nvJPEG. Pixels differ a little from Pillow's: all
are decoded, where Pillow takes a large JPEG at a half, a quarter or an eighth of its size, and
nvJPEG does not interpolate colours.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from baal_ray import images
from baal_ray.errors import ConfigError, ResourceError
from baal_ray.posterior.memory import is_out_of_memory

logger = logging.getLogger(__name__)

_RESIZING = "1"
"""Raise this when the same picture is resized otherwise than before; the pool is scored again."""

# Pixels of the pictures that are on the device at once, about 2 GB with what resizing takes.
_MOST_PIXELS = 100_000_000

# Boxes of pixels are averaged first, where a picture is twice this many times too large or more:
# the kernel of antialiased resizing has no room for a factor of a hundred.
_REDUCING_GAP = 16

# For what Pillow decodes.
_THREADS = 4


def decoder_version() -> str:
    """Name all that decides the pixels, for a score fingerprint.

    Raises:
        ConfigError: TorchCodec is not installed.
    """
    try:
        torchcodec = version("torchcodec")
    except PackageNotFoundError:
        missing = (
            "is gpu, and TorchCodec, which decodes there, is not installed; pip install "
            "'baal-ray[gpu]', or set it to cpu"
        )
        raise ConfigError("scoring.decode_on", [missing]) from None
    return f"torchcodec {torchcodec} resizing {_RESIZING}, else {images.decoder_version()}"


class DeviceDecoder:
    """Decodes mini-batches on a device, a GPU's beside what else it does."""

    def __init__(self, device: torch.device, height: int, width: int, *, max_pixels: int) -> None:
        """Try it on a tiny image.

        Args:
            device: Where JPEGs are decoded.
            height: Height of the results, in pixels.
            width: Width of the results, in pixels.
            max_pixels: Most pixels that an encoded image may have.

        Raises:
            ResourceError: The device cannot decode.
        """
        self._device = device
        self._size = height, width
        self._max_pixels = max_pixels
        self._stream = torch.cuda.Stream() if device.type == "cuda" else None
        self._turn = threading.Lock()
        self._refusal_logged = False
        buffer = BytesIO()
        Image.new("RGB", (16, 16)).save(buffer, "JPEG")
        try:
            _decode_jpegs([buffer.getvalue()], device)
        except Exception as error:  # a library that cannot be loaded raises anything
            raise ResourceError(
                f"scoring.decode_on is gpu, and TorchCodec cannot decode on the {device.type}: "
                f"{error}. Install a TorchCodec that fits torch {torch.__version__}, or decode on "
                "the CPU"
            ) from error

    def __call__(self, encoded: Sequence[bytes | None]) -> tuple[Tensor, list[str | None]]:
        """Decode a mini-batch, as `images.decode_many` does; one at a time.

        Args:
            encoded: N encoded images; None is unreadable.

        Returns:
            RGB pixels on the device, uint8 of shape [N, 3, height, width], zeros where unreadable,
            and N errors, None where readable.

        Raises:
            ResourceError: The device has no memory for it.
        """
        try:
            with self._turn, torch.cuda.stream(self._stream):
                decoded = self._decode(encoded)
                if self._stream:
                    self._stream.synchronize()
        except Exception as error:
            if not _no_memory(error):
                raise
            raise ResourceError(
                f"the {self._device.type} has no memory to decode images beside the model: "
                f"{error}. Set scoring.decode_on to cpu, or scoring.max_pixels or batch_size lower"
            ) from error
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
            left.difference_update(self._decode_some(numbers, encoded, pixels_N))
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

    def _decode_some(
        self, numbers: list[int], encoded: Sequence[bytes | None], pixels_N: Tensor
    ) -> list[int]:
        """Put the pictures with these numbers in their places; gives the numbers of those done.

        What is refused is left to Pillow: which one of several it is, TorchCodec does not say.
        """
        try:
            pictures = _decode_jpegs([encoded[number] or b"" for number in numbers], self._device)
        except RuntimeError as error:
            if _no_memory(error):
                raise
            if len(numbers) == 1:
                if not self._refusal_logged:
                    logger.warning(
                        "TorchCodec refuses an image, so the CPU tries, as for all such: %s", error
                    )
                    self._refusal_logged = True
                return []
            half = len(numbers) // 2
            return [
                done
                for some in (numbers[:half], numbers[half:])
                for done in self._decode_some(some, encoded, pixels_N)
            ]
        for number, picture in zip(numbers, pictures, strict=True):
            pixels_N[number] = _squash(picture, *self._size)
        return numbers


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


def _decode_jpegs(encoded: Sequence[bytes], device: torch.device) -> list[Tensor]:
    """Pictures [3, H, W], turned as EXIF says."""
    from torchcodec.decoders import decode_jpeg

    # A copy, as bytes cannot be written to and PyTorch warns of that.
    sources = [torch.from_numpy(np.frombuffer(data, np.uint8).copy()) for data in encoded]
    return list(decode_jpeg(sources, mode="RGB", device=device))


def _no_memory(error: Exception) -> bool:
    # TorchCodec passes on what PyTorch raises as a plain RuntimeError.
    return is_out_of_memory(error) or "out of memory" in str(error)


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

"""Decoding of JPEGs on a scoring actor's device. Other images are decoded on the CPU, as usual.

TorchCodec decodes them, with nvJPEG on an NVIDIA GPU. Pixels differ a little from Pillow's:
Pillow decodes a large JPEG at a half, a quarter or an eighth of its size, but TorchCodec always at
full size. And nvJPEG does not interpolate colours.
"""

import ctypes
import logging
from collections import defaultdict
from collections.abc import Iterator, Sequence
from importlib.metadata import PackageNotFoundError, version
from io import BytesIO
from queue import SimpleQueue

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from baal_ray import images
from baal_ray.errors import ConfigError, ResourceError
from baal_ray.posterior.memory import is_out_of_memory

logger = logging.getLogger(__name__)

_RESIZING = "1"
"""Version of the resizing. Raise it if results change, so that the pool is scored again."""

# Mini-batches that are decoded at once. Much of TorchCodec's work is done by the CPU.
_AT_ONCE = 2

# Most pixels of the pictures of a mini-batch that are on the device at once: about 1 GB, including
# what resizing needs.
_MOST_PIXELS = 50_000_000
# Most pixels of the pictures that are resized together, as floating-point numbers.
_MOST_RESIZED = 25_000_000

# A picture that is at least twice this many times too large is first reduced by averaging boxes of
# pixels, because the kernel of antialiased resizing has no room for a factor of a hundred.
_REDUCING_GAP = 16

# Threads for the images that Pillow decodes.
_THREADS = 4


def decoder_version() -> str:
    """Return the names and versions of everything that decides the pixels, for a fingerprint.

    Raises:
        ConfigError: If TorchCodec is not installed.
    """
    try:
        torchcodec = version("torchcodec")
    except PackageNotFoundError:
        missing = (
            "is gpu, but TorchCodec, which decodes there, is not installed; run pip install "
            "'baal-ray[gpu]', or set it to cpu"
        )
        raise ConfigError("scoring.decode_on", [missing]) from None
    return f"torchcodec {torchcodec} resizing {_RESIZING}, else {images.decoder_version()}"


class DeviceDecoder:
    """A decoder of mini-batches on a device. On a GPU it runs beside other work.

    Several threads may call it. A few of them are let through at once.
    """

    def __init__(self, device: torch.device, height: int, width: int, *, max_pixels: int) -> None:
        """Check that the device can decode, with a tiny image.

        Args:
            device: Where JPEGs are decoded.
            height: Height of the results, in pixels.
            width: Width of the results, in pixels.
            max_pixels: Maximum number of pixels of an encoded image.

        Raises:
            ResourceError: If the device cannot decode.
        """
        self._device = device
        self._size = height, width
        self._max_pixels = max_pixels
        self._streams: SimpleQueue[torch.cuda.Stream | None] = SimpleQueue()
        for _ in range(_AT_ONCE):
            self._streams.put(torch.cuda.Stream() if device.type == "cuda" else None)
        self._refusal_logged = False
        buffer = BytesIO()
        Image.new("RGB", (16, 16)).save(buffer, "JPEG")
        try:
            _decode_jpegs(_byte_tensors(pa.array([buffer.getvalue()], pa.large_binary())), device)
        except Exception as error:  # a library that cannot be loaded raises anything
            raise ResourceError(
                f"scoring.decode_on is gpu, and TorchCodec cannot decode on the {device.type}: "
                f"{error}. Install a TorchCodec that fits torch {torch.__version__}, or decode on "
                "the CPU"
            ) from error

    def __call__(self, rows: pa.Table) -> tuple[Tensor, list[str | None]]:
        """Decode a mini-batch as `images.decode_many` does.

        Args:
            rows: N encoded images in `image`, null for an unreadable one, and their `area` as
                by `decoding_task.with_area`.

        Returns:
            RGB pixels on the device, uint8 of shape [N, 3, height, width], zeros for unreadable
            images; and N errors, None for readable images.

        Raises:
            ResourceError: If the device does not have enough memory.
        """
        stream = self._streams.get()
        try:
            with torch.cuda.stream(stream):
                decoded = self._decode(rows)
                if stream:
                    stream.synchronize()
        except Exception as error:
            if not _no_memory(error):
                raise
            raise ResourceError(
                f"the {self._device.type} does not have enough memory to decode images "
                f"alongside the model: {error}. Set scoring.decode_on to cpu, or lower "
                "scoring.max_pixels or scoring.batch_size"
            ) from error
        finally:
            self._streams.put(stream)
        return decoded

    def _decode(self, rows: pa.Table) -> tuple[Tensor, list[str | None]]:
        height, width = self._size
        pixels_N = torch.zeros(
            (len(rows), 3, height, width), dtype=torch.uint8, device=self._device
        )
        areas = rows["area"].to_pylist()
        array = rows["image"].combine_chunks().cast(pa.large_binary())
        encoded = _byte_tensors(array)
        left = set(range(len(rows)))
        for numbers in _within_memory({i: area for i, area in enumerate(areas) if area}):
            left.difference_update(self._decode_some(numbers, encoded, pixels_N))
        errors: list[str | None] = [None] * len(rows)
        if left:
            others = sorted(left)
            decoded, faults = images.decode_many(
                array.take(others).to_pylist(),
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
        self, numbers: list[int], encoded: Sequence[Tensor], pixels_N: Tensor
    ) -> list[int]:
        """Decode the pictures with these numbers into `pixels_N`, and return the numbers decoded.

        Pictures that TorchCodec refuses are left to Pillow. TorchCodec does not say which picture
        of several it refused, so they are halved until it is found.
        """
        try:
            pictures = _decode_jpegs([encoded[number] for number in numbers], self._device)
        except RuntimeError as error:
            if _no_memory(error):
                raise
            if len(numbers) == 1:
                if not self._refusal_logged:
                    logger.warning(
                        "TorchCodec refuses an image; the CPU decodes it and others like it: %s",
                        error,
                    )
                    self._refusal_logged = True
                return []
            half = len(numbers) // 2
            return [
                done
                for some in (numbers[:half], numbers[half:])
                for done in self._decode_some(some, encoded, pixels_N)
            ]
        for same in _of_one_size(pictures):
            squashed_N = _squash(torch.stack([pictures[i] for i in same]), *self._size)
            for i, squashed in zip(same, squashed_N, strict=True):
                pixels_N[numbers[i]] = squashed
        return numbers


def _of_one_size(pictures: Sequence[Tensor]) -> Iterator[list[int]]:
    """Yield the places of pictures of one size, as many at a time as are resized together."""
    places: defaultdict[torch.Size, list[int]] = defaultdict(list)
    for i, picture in enumerate(pictures):
        places[picture.shape].append(i)
    for (_, rows, columns), same in places.items():
        step = max(1, _MOST_RESIZED // (rows * columns))
        yield from (same[start : start + step] for start in range(0, len(same), step))


def _within_memory(areas: dict[int, int]) -> Iterator[list[int]]:
    """Yield the numbers of images in groups that fit into memory, given their pixels."""
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


def _byte_tensors(encoded: pa.LargeBinaryArray) -> list[Tensor]:
    """Return the bytes of encoded images as uint8 tensors.

    They are the array's own bytes, and must not be written to.
    """
    _, offsets, data = encoded.buffers()
    if not data:
        return [torch.empty(0, dtype=torch.uint8)] * len(encoded)
    places = np.frombuffer(offsets, np.int64)[encoded.offset :][: len(encoded) + 1]
    # By its address, because PyTorch warns about buffers that are read-only.
    writable = (ctypes.c_uint8 * data.size).from_address(data.address)
    writable.owner = data  # else the memory could be freed before the tensors
    together = torch.frombuffer(writable, dtype=torch.uint8)[places[0] : places[-1]]
    return list(torch.split(together, np.diff(places).tolist()))


def _decode_jpegs(encoded: Sequence[Tensor], device: torch.device) -> list[Tensor]:
    """Decode JPEGs, uint8 [bytes], into pictures [3, H, W], rotated as EXIF says."""
    from torchcodec.decoders import decode_jpeg

    return list(decode_jpeg(list(encoded), mode="RGB", device=device))


def _no_memory(error: Exception) -> bool:
    # TorchCodec reraises PyTorch's error as a plain RuntimeError.
    return is_out_of_memory(error) or "out of memory" in str(error)


def _squash(pictures_N: Tensor, height: int, width: int) -> Tensor:
    """Resize [N, 3, H, W] to uint8 [N, 3, height, width], antialiased as Pillow does it."""
    pixels = pictures_N.float()
    rows, columns = pixels.shape[2:]
    reduced = (_reduced(rows, height), _reduced(columns, width))
    if reduced != (rows, columns):
        pixels = functional.adaptive_avg_pool2d(pixels, reduced)
    pixels = functional.interpolate(pixels, (height, width), mode="bilinear", antialias=True)
    return pixels.round_().clamp_(0, 255).to(torch.uint8)


def _reduced(size: int, wanted: int) -> int:
    return size // max(1, size // (_REDUCING_GAP * wanted))

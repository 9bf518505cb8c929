"""Decoding of a block's encoded images, in tasks that load neither torch nor a model."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from baal_ray import images

# Threads of a task, which requests one CPU. The second thread uses what actors leave of the cores.
_THREADS = 2


def decode(
    rows: pa.Table, height: int, width: int, max_pixels: int
) -> dict[str, npt.NDArray[Any]]:
    """Decode the images of a block to uint8 [N, 3, H, W], each with an `error` ("" for none)."""
    return columns_with(
        rows,
        partial(
            images.decode_many,
            height=height,
            width=width,
            max_pixels=max_pixels,
            threads=_THREADS,
        ),
    )


def columns_with(
    rows: pa.Table,
    decode_many: Callable[[Sequence[bytes | None]], tuple[Any, list[str | None]]],
) -> dict[str, Any]:
    """Return the columns of a mini-batch, with the images as `decode_many` decodes them."""
    pixels, faults = decode_many(rows["image"].to_pylist())
    known = rows["error"].to_pylist() if "error" in rows.column_names else [None] * len(rows)
    sources = rows["source"].to_pylist() if "source" in rows.column_names else [""] * len(rows)
    return {
        "id": np.array(rows["id"].to_pylist(), dtype=object),
        "source": np.array(sources, dtype=object),
        "image": pixels,
        "error": np.array(
            [before or now or "" for before, now in zip(known, faults, strict=True)], dtype=object
        ),
    }

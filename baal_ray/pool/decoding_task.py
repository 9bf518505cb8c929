"""Work of CPU tasks on a block's encoded images. They load neither torch nor a model."""

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
    pixels, faults = images.decode_many(
        *(rows["image"].to_pylist(), height, width), max_pixels=max_pixels, threads=_THREADS
    )
    return columns_with(rows, pixels, faults)


def with_area(rows: pa.Table, max_pixels: int) -> pa.Table:
    """Add a column `area`: width times height of JPEGs that a GPU can decode, else null."""
    areas = [
        images.area_of_plain_jpeg(data or b"", max_pixels=max_pixels)
        for data in rows["image"].to_pylist()
    ]
    return rows.append_column("area", pa.array(areas, pa.int64()))


def columns_with(rows: pa.Table, pixels: Any, faults: list[str | None]) -> dict[str, Any]:
    """Return the columns of a mini-batch, with its images decoded."""
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

"""Work of CPU tasks on a block's encoded images. They load neither torch nor a model."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from baal_ray import images
from baal_ray.deaths import SUSPICIOUS, Work, deaths, killed, refuse_more_deaths, search
from baal_ray.storage.lock import exclusive

# Threads of a task, which requests one CPU. The second thread uses what actors leave of the cores.
_THREADS = 2


def decode(
    rows: pa.Table, height: int, width: int, max_pixels: int
) -> dict[str, npt.NDArray[Any]]:
    """Decode the images of a block to uint8 [N, 3, H, W], each with an `error` ("" for none).

    Raises:
        ResourceError: If this task has died too often.
    """
    work = partial(images.decode_many, height=height, width=width, max_pixels=max_pixels)
    with _spared(rows, work) as spared:
        pixels, faults = work(spared["image"].to_pylist(), threads=1 if deaths() else _THREADS)
        return columns_with(spared, pixels, faults)


def with_area(rows: pa.Table, max_pixels: int) -> pa.Table:
    """Add a column `area`: width times height of JPEGs that a GPU can decode, else null.

    Raises:
        ResourceError: If this task has died too often.
    """
    work = partial(_areas, max_pixels=max_pixels)
    with _spared(rows, work) as spared:
        areas = work(spared["image"].to_pylist())
        return spared.append_column("area", pa.array(areas, pa.int64()))


def _areas(encoded: Sequence[bytes | None], max_pixels: int) -> list[int | None]:
    return [images.area_of_plain_jpeg(data or b"", max_pixels=max_pixels) for data in encoded]


@contextmanager
def _spared(rows: pa.Table, work: Work) -> Iterator[pa.Table]:
    """Give the rows without the images on which `work` dies, if this task has died of some.

    Such tasks take turns on a machine, because its memory may have no room for many at once.
    """
    if deaths() < SUSPICIOUS:
        yield rows
        return
    ids = rows["id"].to_pylist()
    refuse_more_deaths(f"images such as {ids[0]!r}")
    encoded = rows["image"].to_pylist()
    with exclusive("the images of a task that has died"):
        found = search(
            len(ids), partial(partial, work), lambda group: ([encoded[i] for i in group],)
        )
        yield without(rows, found.killers)


def without(rows: pa.Table, killers: Mapping[int, int]) -> pa.Table:
    """Return rows without the images that kill, which have an `error` instead.

    Args:
        rows: Rows with `image`, and perhaps `error`.
        killers: Number of processes that each image killed, by its position.
    """
    if not killers:
        return rows
    errors = rows["error"].to_pylist() if "error" in rows.column_names else [None] * len(rows)
    images_N = rows["image"].to_pylist()
    for row, count in killers.items():
        images_N[row], errors[row] = None, killed(count)
    left = rows.drop_columns([name for name in ("image", "error") if name in rows.column_names])
    left = left.append_column("image", pa.array(images_N, rows.schema.field("image").type))
    return left.append_column("error", pa.array(errors, pa.string()))


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

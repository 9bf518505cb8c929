"""The images of a round, read again from the Parquet files that hold them, and made small."""

from collections.abc import Collection, Iterable

from baal_ray import images
from baal_ray.errors import ImageError
from baal_ray.parquet import open_parquet

_LONGEST_SIDE = 96
_ROWS_AT_A_TIME = 64


def encoded_images(files: Iterable[str], ids: Collection[str]) -> dict[str, bytes]:
    """Encoded images by id, of those ids that the files hold; a few rows are read at a time."""
    wanted, found = set(ids), dict[str, bytes]()
    for file in files:
        if len(found) == len(wanted):
            break
        with open_parquet(file) as parquet:
            for batch in parquet.iter_batches(_ROWS_AT_A_TIME, columns=["id", "image"]):
                rows = zip(batch["id"].to_pylist(), batch["image"].to_pylist(), strict=True)
                found |= {image_id: image for image_id, image in rows if image_id in wanted}
    return found


def thumbnail(image: bytes | None, max_pixels: int) -> tuple[bytes | None, bool]:
    """A small copy, None where it cannot be shown, and whether each of its few pixels counts."""
    try:
        small = images.thumbnail(image or b"", _LONGEST_SIDE, max_pixels=max_pixels)
    except ImageError:
        return None, False
    return small, small.startswith(b"\x89PNG")

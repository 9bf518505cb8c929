"""Encoded images as sets of hashes of their bytes."""

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from baal_ray.ids import IdSet, hash_bytes


class ImageSet:
    """A set of encoded images, at most 20 bytes per image.

    An image is in the set if its bytes are. A picture that was encoded again has other bytes, so
    it is another image. A null and an empty image are in no set.
    """

    def __init__(self, images: Iterable[pa.Array | pa.ChunkedArray]) -> None:
        """Keep the hashes and lengths of images.

        Args:
            images: Arrays of encoded images, read once.
        """
        hashes, lengths = [], [pa.array([], pa.int32())]
        for some in images:
            given = some.filter(pc.greater(_lengths(some), 0))
            hashes.append(hash_bytes(given.to_pylist()))
            lengths.append(pc.unique(_lengths(given)))
        self._hashes = IdSet.of_hashes(hashes)
        self._lengths = pc.unique(pa.chunked_array(lengths))

    def __len__(self) -> int:
        return len(self._hashes)

    def contains(self, images: pa.Array | pa.ChunkedArray) -> npt.NDArray[np.bool_]:
        """Return, for each of these images in order, whether it is in the set.

        Only images as long as one in the set are hashed.
        """
        as_long = pc.is_in(_lengths(images), self._lengths)
        found: npt.NDArray[np.bool_] = as_long.to_numpy(zero_copy_only=False).copy()
        if found.any():
            found[found] = self._hashes.holds(hash_bytes(images.filter(as_long).to_pylist()))
        return found


def _lengths(images: pa.Array | pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    return pc.binary_length(images).cast(pa.int32()).fill_null(0)

"""The labelled set in the workers of a fit. Each worker has the pixels and classes of a share."""

import logging
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from baal_ray import images, storage
from baal_ray.config import ModelConfig
from baal_ray.errors import LabelError, StorageError
from baal_ray.ids import hash_ids
from baal_ray.storage.bounded_rows import MOST_TEXT, bounded_images, bounded_rows, longest
from baal_ray.storage.parquet import open_parquet
from baal_ray.workspace import batch_uri

logger = logging.getLogger(__name__)

#: Class index of an image that cannot be decoded. The image is left out of the fit.
LEFT_OUT = -1

_ROWS_AT_A_TIME = 64
_MOST_NAMED = 5


@dataclass(frozen=True)
class Examples:
    """Labelled images, named by their ids.

    Attributes:
        files: Parquet files of `id` and `image` (encoded bytes) that hold the images, among
            others.
        class_of: Class index of each image, by id.
    """

    files: list[str]
    class_of: dict[str, int]


def labelled_examples(workspace: str, labelled: pa.Table, classes: Sequence[str]) -> Examples:
    """Return the manifest's labelled rows as examples, with images from the batches of rounds.

    Raises:
        LabelError: If a label is not one of the classes.
    """
    class_of = _class_indices(labelled, classes, "the manifest")
    rounds = sorted(set(labelled["round"].to_pylist()))
    folders = [batch_uri(workspace, round_id) for round_id in rounds]
    return Examples(
        [file for folder in folders for file in storage.list_files(folder, ".parquet")], class_of
    )


def evaluation_examples(uri: str, classes: Sequence[str]) -> Examples:
    """Read a fixed evaluation set: `id`, `image` and `label` in one Parquet file or a folder.

    Raises:
        LabelError: If a column is missing, an id is null or duplicated, or a label is null or not
            one of the classes.
        StorageError: If there is no such file.
    """
    files = storage.list_files(uri, ".parquet")
    if not files:
        if not uri.endswith(".parquet") or not storage.exists(uri):
            raise StorageError(
                f"training.evaluation_set is {uri!r}, where there is no Parquet file"
            )
        files = [uri]
    class_of: dict[str, int] = {}
    for file in files:
        where = f"evaluation set {file}"
        with open_parquet(file) as parquet:
            missing = {"id", "image", "label"} - set(parquet.schema_arrow.names)
            if missing:
                raise LabelError(where, [f"has no column {name}" for name in sorted(missing)])
            columns = ["id", "label"]
            schema = pa.schema([field for field in parquet.schema_arrow if field.name in columns])
            batches = _short(bounded_rows(parquet, columns), where)
            rows = pa.Table.from_batches(batches, schema)
        found = _class_indices(rows, classes, where)
        if None in found or len(found) < len(rows) or found.keys() & class_of.keys():
            raise LabelError(where, ["an id is null or duplicated; each image needs its own id"])
        class_of |= found
    return Examples(files, class_of)


def hold_out(examples: Examples, share: float, seed: int) -> tuple[Examples, Examples]:
    """Split examples into those for training and a share held out for evaluation, by class.

    Each class has about the same share of its images held out, by the method of Sainte-Laguë: the
    i-th of n images of a class is placed at (i - 1/2) / n, and the first in this order are held
    out. At least one image of each class is for training, so none is held out if no class has
    two. The order in a class is that of a hash of (id, seed), so hardly any image changes sides
    as labels come in.

    Args:
        examples: Labelled images.
        share: Share to hold out, 0 to 1. At least one image is, if a class has two.
        seed: Seed of the order.

    Returns:
        The examples for training, and those held out.
    """
    ids = sorted(examples.class_of)
    order = [ids[i] for i in np.argsort(hash_ids(ids, seed))]
    size, seen = Counter(examples.class_of.values()), Counter[int]()
    place: dict[str, float] = {}
    for image_id in order:
        of_class = examples.class_of[image_id]
        seen[of_class] += 1
        if seen[of_class] < size[of_class]:
            place[image_id] = (seen[of_class] - 0.5) / size[of_class]
    held = set(sorted(place, key=place.__getitem__)[: max(1, round(share * len(ids)))])
    return _part(examples, [i for i in order if i not in held]), _part(examples, sorted(held))


def load_share(
    examples: Examples, rank: int, workers: int, model: ModelConfig, max_pixels: int
) -> tuple[Tensor, Tensor]:
    """Load and decode one worker's share: every `workers`-th example in the order of ids.

    The pixels lie in a temporary file mapped into memory, so a share may be larger than memory.

    Images that cannot be decoded are reported in a warning. Otherwise a single bad image would
    make every later round fail.

    Returns:
        images_N, uint8 [N, 3, H, W], and labels_N, int64, which is `LEFT_OUT` for an image that
        cannot be decoded.

    Raises:
        StorageError: If an image is in none of the files.
    """
    ids = sorted(examples.class_of)[rank::workers]
    images_N = _mapped(len(ids), *model.image_size)
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    undecodable: dict[str, str] = {}
    for found in _wanted(examples.files, row_of):
        encoded = [image for image, _ in found.values()]
        pixels, faults = images.decode_many(encoded, *model.image_size, max_pixels=max_pixels)
        for image_id, image, fault in zip(found, pixels, faults, strict=True):
            if fault:
                undecodable[image_id] = found[image_id][1] or fault
            images_N[row_of.pop(image_id)] = torch.from_numpy(image)
    if row_of:
        raise StorageError(
            f"{len(row_of)} labelled images, such as {min(row_of)!r}, are in none of the "
            f"{len(examples.files)} files that should hold them; restore rounds/<round>/batch/"
        )
    _warn(undecodable)
    classes = [LEFT_OUT if id in undecodable else examples.class_of[id] for id in ids]
    return images_N, torch.tensor(classes, dtype=torch.int64)


def _warn(undecodable: Mapping[str, str]) -> None:
    if undecodable:
        named = sorted(undecodable.items())[:_MOST_NAMED]
        logger.warning(
            "%d labelled images cannot be decoded and are left out of the fit: %s%s. "
            "`baal-ray forget` permanently removes images from the workspace",
            len(undecodable),
            "; ".join(f"{image_id!r}: {fault}" for image_id, fault in named),
            "; …" if len(undecodable) > _MOST_NAMED else "",
        )


def _wanted(
    files: Sequence[str], row_of: Mapping[str, int]
) -> Iterator[dict[str, tuple[bytes | None, str | None]]]:
    """Yield those images that `row_of` still names, by id, as bytes or the reason for none."""
    for file in files:
        with open_parquet(file) as parquet:
            for found in bounded_images(parquet):
                for start in range(0, len(found), _ROWS_AT_A_TIME):
                    some = found.slice(start, _ROWS_AT_A_TIME).to_pydict()
                    rows = zip(some["id"], some["image"], some["error"], strict=True)
                    yield {id: (image, error) for id, image, error in rows if id in row_of}


def _mapped(rows: int, height: int, width: int) -> Tensor:
    if not rows:
        return torch.empty((0, 3, height, width), dtype=torch.uint8)
    with tempfile.TemporaryFile() as file:
        return torch.from_numpy(np.memmap(file, np.uint8, "w+", shape=(rows, 3, height, width)))


def _part(examples: Examples, ids: Sequence[str]) -> Examples:
    return Examples(examples.files, {image_id: examples.class_of[image_id] for image_id in ids})


def _short(batches: Iterable[pa.RecordBatch], where: str) -> Iterator[pa.RecordBatch]:
    """Yield batches of texts, and refuse one that is too long to be an id or a label."""
    for batch in batches:
        for name in batch.schema.names:
            if longest(batch[name]) > MOST_TEXT:
                told = f"has a value of more than {MOST_TEXT} bytes in the column {name}"
                raise LabelError(where, [f"{told}; make it shorter"])
        yield batch


def _class_indices(rows: pa.Table, classes: Sequence[str], where: str) -> dict[str, int]:
    index = {name: i for i, name in enumerate(classes)}
    _refuse_nulls(rows, where)
    labels = [str(label) for label in rows["label"].to_pylist()]
    unknown = sorted(set(labels) - index.keys())
    if unknown:
        raise LabelError(
            where,
            [f"label {name!r} is not one of the {len(index)} classes; add it" for name in unknown],
        )
    ids = rows["id"].to_pylist()
    return dict(zip(ids, (index[label] for label in labels), strict=True))


def _refuse_nulls(rows: pa.Table, where: str) -> None:
    pairs = zip(rows["id"].to_pylist(), rows["label"].to_pylist(), strict=True)
    unlabelled = [image_id for image_id, label in pairs if label is None or label != label]  # NaN
    if unlabelled:
        named = ", ".join(map(repr, unlabelled[:_MOST_NAMED]))
        raise LabelError(
            where,
            [
                f"{len(unlabelled)} images have a null label, such as {named}; each image needs "
                "one of the classes. Label them, or remove their rows"
            ],
        )

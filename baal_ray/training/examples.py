"""The labelled set in the workers of a fit. Each worker has the pixels and classes of a share."""

import logging
import os
import shutil
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
from baal_ray.errors import LabelError, LostFileError, StorageError
from baal_ray.ids import hash_ids
from baal_ray.storage.bounded_rows import MOST_TEXT, longest
from baal_ray.storage.columns import column_fault
from baal_ray.storage.parquet import open_parquet, utf8_texts
from baal_ray.storage.table_files import TableFile, first_rows
from baal_ray.storage.tables import find_table
from baal_ray.workspace import batch_uri
from baal_ray.workspace.batches import batch_files

logger = logging.getLogger(__name__)

_SAMPLE = pa.schema([("id", pa.string()), ("image", pa.binary()), ("error", pa.string())])

#: Class index of an image that cannot be decoded. The image is left out of the fit.
LEFT_OUT = -1

_ROWS_AT_A_TIME, _LABELS_AT_A_TIME = 64, 100_000
_MOST_NAMED = 5


@dataclass(frozen=True)
class Examples:
    """Labelled images, named by their ids.

    Attributes:
        files: Parquet files of `id` and `image` (encoded bytes) that hold the images, among
            others.
        class_of: Class index of each image, by id.
        batches: Pattern of the files of acquisition batches, if these are such files. Each is
            named by its sha256, and checked against that when it is read.
    """

    files: list[TableFile]
    class_of: dict[str, int]
    batches: str | None = None

    def read(self, file: TableFile) -> Iterator[pa.Table]:
        """Return `id`, `image` and `error` of one of the files, a few rows at a time.

        Raises:
            LostFileError: If a file of a batch is missing or damaged.
            StorageError: If a file is missing or cannot be read.
        """
        return file.image_rows(_ROWS_AT_A_TIME, verified=self.batches is not None)


def labelled_examples(workspace: str, labelled: pa.Table, classes: Sequence[str]) -> Examples:
    """Return the manifest's labelled rows as examples, with images from the batches of rounds.

    Raises:
        LabelError: If a label is not one of the classes.
    """
    class_of = _class_indices(labelled, classes, "the manifest")
    rounds = sorted(set(labelled["round"].to_pylist()))
    folders = [batch_uri(workspace, round_id) for round_id in rounds]
    files = [TableFile(uri=file) for folder in folders for file in batch_files(folder)]
    return Examples(files, class_of, batches=storage.join(batch_uri(workspace, "*"), "*.parquet"))


def evaluation_examples(
    uri: str, classes: Sequence[str], *, integer_ids: bool = False
) -> Examples:
    """Read a fixed evaluation set: a table with `id`, `image` and `label`.

    Args:
        uri: Location of a Parquet file, a folder of such files, or a Delta table.
        classes: Names of the classes.
        integer_ids: Whether ids may be integers, as `pool.integer_ids` says.

    Raises:
        LabelError: If a column is missing, an id is null or duplicated, or a label is null or not
            one of the classes.
        StorageError: If there is no such file.
    """
    files = find_table(uri).files
    if not files:
        raise StorageError(f"training.evaluation_set is {uri!r}, where there is no Parquet file")
    class_of: dict[str, int] = {}
    for file in files:
        where = f"evaluation set {file.uri}"
        with open_parquet(file.uri) as parquet:
            faults = [column_fault(parquet, "id", integer_ids=integer_ids)]
            faults.append(column_fault(parquet, "image"))
            labels = [*parquet.schema_arrow.names, *file.values].count("label")
            if labels != 1:
                there = f"{labels} columns" if labels else "no column"
                faults.append(f"has {there} `label`; there must be one")
        if any(faults):
            raise LabelError(where, [fault for fault in faults if fault])
        with utf8_texts(file.uri):
            texts = list(_short(file.rows(["id", "label"], _LABELS_AT_A_TIME), where))
        if not texts:  # the file has no rows
            continue
        rows = pa.concat_tables(texts)
        found = _class_indices(rows, classes, where)
        if None in found or len(found) < len(rows) or found.keys() & class_of.keys():
            raise LabelError(where, ["an id is null or duplicated; each image needs its own id"])
        class_of |= found
    return Examples(files, class_of)


def sample_examples(examples: Examples, places: int, images: int) -> pa.Table:
    """Return `id`, `image` and `error` of a few images from each of several files.

    Args:
        examples: Labelled images.
        places: Largest number of files.
        images: Largest number of images per file.
    """
    picked = np.linspace(0, len(examples.files) - 1, min(places, len(examples.files))).astype(int)
    reads = (examples.read(examples.files[i]) for i in picked)
    return pa.concat_tables(
        [_SAMPLE.empty_table(), *(rows for read in reads for rows in first_rows(images, read))]
    )


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
        LostFileError: If a file of a batch is damaged, or an image is in none of them.
        StorageError: If the temporary folder has no room.
    """
    ids = sorted(examples.class_of)[rank::workers]
    images_N = _mapped(len(ids), *model.image_size)
    row_of = {image_id: row for row, image_id in enumerate(ids)}
    undecodable: dict[str, str] = {}
    for found in encoded_images(examples, row_of):
        encoded = [image for image, _ in found.values()]
        pixels, faults = images.decode_many(encoded, *model.image_size, max_pixels=max_pixels)
        for image_id, image, fault in zip(found, pixels, faults, strict=True):
            if fault:
                undecodable[image_id] = found[image_id][1] or fault
            images_N[row_of.pop(image_id)] = torch.from_numpy(image)
    if row_of:
        fault = (
            f"lack {len(row_of)} labelled images, such as {min(row_of)!r}: they are in none of "
            f"the {len(examples.files)} files"
        )
        if examples.batches is None:
            raise StorageError(f"the evaluation set changed while it was read: its files {fault}")
        raise LostFileError(examples.batches, fault)
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


def encoded_images(
    examples: Examples, wanted: Mapping[str, int]
) -> Iterator[dict[str, tuple[bytes | None, str | None]]]:
    """Yield those images that `wanted` still names, by id, as bytes or the reason for none."""
    for file in examples.files:
        for found in examples.read(file):
            some = found.to_pydict()
            rows = zip(some["id"], some["image"], some["error"], strict=True)
            encoded = {id: (image, error) for id, image, error in rows if id in wanted}
            if encoded:
                yield encoded


def _mapped(rows: int, height: int, width: int) -> Tensor:
    if not rows:
        return torch.empty((0, 3, height, width), dtype=torch.uint8)
    with tempfile.TemporaryFile() as file:
        _allocate(file.fileno(), rows * 3 * height * width)
        return torch.from_numpy(np.memmap(file, np.uint8, "r+", shape=(rows, 3, height, width)))


def _allocate(file: int, size: int) -> None:
    """Give a temporary file its blocks on disk. Without them, writing to its map is a SIGBUS."""
    try:
        os.posix_fallocate(file, 0, size)
    except OSError as error:
        folder = tempfile.gettempdir()
        raise StorageError(
            f"{folder} has no room for the decoded labelled images of a worker: they need {size} "
            f"bytes, and {shutil.disk_usage(folder).free} are free ({error.strerror}). Free some "
            "space there, or set TMPDIR to a folder on a larger disk, on every node"
        ) from error


def _part(examples: Examples, ids: Sequence[str]) -> Examples:
    class_of = {image_id: examples.class_of[image_id] for image_id in ids}
    return Examples(examples.files, class_of, examples.batches)


def _short(batches: Iterable[pa.Table], where: str) -> Iterator[pa.Table]:
    """Yield tables of texts, and refuse one that is too long to be an id or a label."""
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

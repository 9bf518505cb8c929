"""The evaluation images, which must be neither picked from the pool nor trained on."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial

import pyarrow as pa

from baal_ray.config import RoundConfig
from baal_ray.errors import LabelError
from baal_ray.ids import IdSet
from baal_ray.image_set import ImageSet
from baal_ray.storage.bounded_rows import bounded_images
from baal_ray.storage.parquet import open_parquet
from baal_ray.storage.read_ahead import read_ahead
from baal_ray.training.examples import Examples, evaluation_examples

_MOST_NAMED = 5


@dataclass(frozen=True)
class EvaluationImages:
    """The images of an evaluation set.

    An image of the pool or of the labelled set is one of them if it has the id or the bytes of
    one. A picture that was encoded again, under another id, is not recognised.

    Attributes:
        ids: Their ids.
        images: Their encoded bytes.
    """

    ids: IdSet
    images: ImageSet

    @classmethod
    def of(cls, examples: Examples) -> "EvaluationImages":
        """Read the images of an evaluation set, a few at a time."""
        rows = (some["image"] for file in examples.files for some in _rows(file))
        return cls(IdSet.of(map(str, examples.class_of)), ImageSet(rows))


def read_evaluation(config: RoundConfig) -> EvaluationImages:
    """Return the evaluation images of a round; none if it has no fixed evaluation set.

    Raises:
        LabelError: As for `evaluation_examples`.
        StorageError: If a file is missing or cannot be read.
    """
    uri = config.training.evaluation_set
    if uri is None:
        return EvaluationImages(IdSet.of([]), ImageSet([]))
    return EvaluationImages.of(evaluation_examples(uri, config.classes))


def refuse_labelled(evaluation: EvaluationImages, labelled: Examples, where: str) -> None:
    """Refuse an evaluation set that shares images with the labelled set.

    A model that was trained on an image says nothing about new images by its prediction for it.

    Args:
        evaluation: Evaluation images.
        labelled: Labelled images.
        where: Location of the evaluation set.

    Raises:
        LabelError: If they share an image. The message gives examples.
    """
    shared = shared_images(evaluation, labelled)
    if shared:
        named = ", ".join(map(repr, shared[:_MOST_NAMED]))
        raise LabelError(
            f"evaluation set {where}",
            [
                f"{len(shared)} labelled images, such as {named}, are also in it, by id or by "
                "their bytes; accuracy must be measured on images that the model was not trained "
                "on. Remove them from the labelled set with `baal-ray forget`, or from the "
                "evaluation set. If only the ids are the same, give the evaluation images ids of "
                "their own"
            ],
        )


def shared_images(evaluation: EvaluationImages, labelled: Examples) -> list[str]:
    """Return the ids of the labelled images that are evaluation images, sorted.

    All files of the labelled images are read once.
    """
    shared_in = partial(_shared, evaluation, labelled)
    return sorted({image_id for ids in read_ahead(shared_in, labelled.files) for image_id in ids})


def _shared(evaluation: EvaluationImages, labelled: Examples, file: str) -> list[str]:
    """Return the ids of the labelled images in a file that are evaluation images."""
    shared: list[str] = []
    for rows in _rows(file):
        same = evaluation.ids.contains(rows["id"]) | evaluation.images.contains(rows["image"])
        shared += rows["id"].filter(pa.array(same)).to_pylist()
    return [image_id for image_id in shared if image_id in labelled.class_of]


def _rows(file: str) -> Iterator[pa.Table]:
    """Yield `id` and `image` of a file, a few rows at a time."""
    schema = pa.schema([pa.field("id", pa.string()), pa.field("image", pa.binary())])
    with open_parquet(file) as parquet:
        for rows in bounded_images(parquet):
            yield rows.select(schema.names).cast(schema)

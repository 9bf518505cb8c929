"""JSON files of a workspace: typed, with the number of their format, and checked when read."""

import json
import re
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from baal_ray import storage
from baal_ray.errors import FormatError, LostFileError

#: The task that a workspace's models are fitted for. There is one so far.
Task = Literal["classification"]

_CHECKSUM = "checksum"


def _check_sha256(value: str) -> str:
    if re.fullmatch("[0-9a-f]{64}", value) is None:
        raise ValueError(f"{value!r} names a model; it must be a sha256 of 64 hexadecimal digits")
    return value


def _check_name(value: str) -> str:
    if re.fullmatch(r"[0-9A-Za-z][0-9A-Za-z._-]*", value) is None:
        raise ValueError(f"{value!r} names a file of the same folder; it must not be a path")
    return value


#: The name of a model, and the name of a file in the record's own folder. They become parts of
#: paths, so a record with anything else in their place could lead out of the workspace.
Sha256 = Annotated[str, AfterValidator(_check_sha256)]
FileName = Annotated[str, AfterValidator(_check_name)]


class Record(BaseModel):
    """The content of a JSON file.

    The file's last field, `checksum`, is the sha256 of the others. Files without one are not
    checked.

    A version that only adds fields keeps the number of its format, so unknown fields are
    ignored. Files without a number are of format 1.

    Attributes:
        FORMAT: The number of the format that is written and read here.
        format: The number of the format in the file.
    """

    FORMAT: ClassVar[int] = 1

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore", validate_by_name=True)

    format: int = Field(default=1, validate_default=True)

    @model_validator(mode="after")
    def _known(self) -> Self:
        if self.format != self.FORMAT:
            raise ValueError(f"its format is {self.format}")
        return self

    def to_json(self) -> bytes:
        """Return the content of the file."""
        return encoded(self.model_dump(mode="json", by_alias=True))

    @classmethod
    def read(cls, uri: str, remedy: str) -> Self:
        """Read a file.

        Args:
            uri: Location of the file.
            remedy: Sentence that says what to do if it is damaged.

        Raises:
            LostFileError: If it is missing or damaged, or names something outside of the
                workspace.
            FormatError: If another version wrote it, with another format.
            StorageError: If it cannot be read.
        """
        plain = read_fields(uri, remedy)
        try:
            return cls.model_validate(plain, context={"uri": uri})
        except ValidationError as error:
            fault = error.errors()[0]
            where = ".".join(map(str, fault["loc"]))
            if where and fault["type"] == "value_error":
                raise LostFileError(
                    uri, f"is damaged: {where}: {fault['ctx']['error']}. {remedy}"
                ) from error
            what = f"{where}: {fault['msg']}" if where else fault["msg"]
            raise FormatError(
                f"{uri} cannot be read as format {cls.FORMAT} ({what}). It was probably written "
                "by another version of baal_ray. Use that version, or begin a new workspace"
            ) from error


def read_fields(uri: str, remedy: str = "") -> dict[str, Any]:
    """Return the fields of a record, without their checksum; arguments and errors as `read`."""
    plain = storage.read_json(uri, remedy)
    checksum = plain.pop(_CHECKSUM, None)
    if checksum is not None and checksum != _checksum(plain):
        raise LostFileError(
            uri, f"is damaged or was changed by hand: its checksum is wrong. {remedy}"
        )
    return plain


def encoded(plain: dict[str, Any]) -> bytes:
    """Return the content of a JSON file with these fields and their checksum."""
    fields = {name: value for name, value in plain.items() if name != _CHECKSUM}
    whole = fields | {_CHECKSUM: _checksum(fields)}
    return json.dumps(whole, indent=2, ensure_ascii=False).encode()


def _checksum(plain: dict[str, Any]) -> str:
    return storage.sha256(json.dumps(plain, sort_keys=True).encode())


class ClassCounts(BaseModel):
    """The counts of each class in an evaluation, in the order of the classes.

    Attributes:
        images: The number of images of the class.
        predicted: The number of images that are predicted to be of the class.
        correct: The number of images of the class that are predicted to be of it.
    """

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")

    images: list[int]
    predicted: list[int]
    correct: list[int]


class FitRecord(Record):
    """`fits/<hash>/fit.json`: the checkpoint that was fitted on some labels with some settings.

    Attributes:
        checkpoint: The sha256 that names the checkpoint.
        labels: The number of labelled images.
        history: For each epoch, `epoch` and `train_loss`, and on the evaluation set `accuracy`,
            `nll` and `ece`.
        by_class: The counts of each class on the evaluation set after the last epoch; None in
            files from before they were counted.
    """

    checkpoint: Sha256
    labels: int
    history: list[dict[str, float]]
    by_class: ClassCounts | None = None


class Fingerprint(Record):
    """`scores/<fingerprint>/_fingerprint.json`: everything that scores depend on, except the pool.

    Attributes:
        checkpoint: The sha256 that names the model.
        samples: The number of posterior samples, K.
        masks: Whether images share their masks.
        stochastic_depth: Whether stochastic depth is sampled like dropout.
        precision: The precision of the forward pass.
        mask_seed: The seed of the masks, `seed` in the file.
        batch_size: The number of images in a mini-batch.
        max_pixels: The maximum number of pixels of an encoded image.
        decoder: The decoder and its version.
        engine: The version of the code that draws the samples and computes the scores.
        torch: The version of PyTorch.
        traced: Whether the model was traced. It is, unless that was found to be wrong.
    """

    checkpoint: str
    samples: int
    masks: str
    stochastic_depth: bool
    precision: str
    mask_seed: int = Field(alias="seed")
    batch_size: int
    max_pixels: int
    decoder: str
    engine: int
    torch: str
    traced: bool = True

    @property
    def name(self) -> str:
        """The name of the folder of these scores: a hash of all fields except `format`.

        `traced` counts only if it is False, so that folders from before it keep their names.
        """
        left_out = {"format", "traced"} if self.traced else {"format"}
        plain = self.model_dump(mode="json", by_alias=True, exclude=left_out)
        return storage.sha256(json.dumps(plain, sort_keys=True).encode())[:32]

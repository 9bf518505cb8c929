"""The errors that baal_ray raises.

    BaalRayError
    ├── ConfigError               a configuration is wrong; carries every fault at once
    ├── StorageError              a path cannot be read or written
    │   ├── CorruptFileError      a file does not match the sha256 or the format its name promises
    │   │   └── LostFileError     a file that the workspace needs is missing or damaged
    │   └── FormatError           a file was written by another version of baal_ray
    ├── PoolError                 the pool: a missing column, a wrong type, a null or duplicate id
    ├── ImageError                one image cannot be decoded; becomes its row's `error`
    ├── UnreadableImagesError     more images failed than `scoring.max_unreadable` allows
    ├── ModelError                the model cannot be built, loaded or used
    │   ├── TrainingError         the fit failed in its workers
    │   ├── CheckpointError       a checkpoint does not fit its model or was not written here
    │   │   └── LostCheckpointError   a checkpoint is missing or damaged; also a LostFileError
    │   └── PosteriorError        a model cannot be sampled, or its samples would be wrong
    │       └── TraceError        a traced model no longer agrees with the model itself
    ├── SelectionError            scores cannot be ranked as requested
    ├── ManifestError             the manifest refuses a change
    │   └── AlreadyAcquiredError  another round acquired some of these ids first
    ├── LabelError                a label file is wrong; carries every fault at once
    ├── PlanMismatchError         a round's plan differs from this run; carries every difference
    ├── UnfinishedRoundError      an unfinished round still needs what was about to be changed
    ├── ClusterError              no Ray cluster can be joined or started
    ├── ResourceError             the cluster can never provide what the configuration requests
    └── SubmissionError           a Ray job could not be submitted or followed

Every message names the thing, the value, the rule and the remedy. Every error can be pickled,
because Ray passes errors between processes.
"""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager


class BaalRayError(Exception):
    """The root of every error that baal_ray raises on purpose."""


class _FaultsError(BaalRayError):
    """An error that carries a list of faults, all found before it was raised."""

    def __init__(self, subject: str, faults: Sequence[str]) -> None:
        super().__init__(subject, list(faults))
        self.subject = subject
        self.faults = list(faults)

    def __str__(self) -> str:
        return "\n  - ".join([f"{self.subject}:", *self.faults])


class ConfigError(_FaultsError):
    """A configuration is wrong. `faults` lists everything found in it."""


class StorageError(BaalRayError):
    """A path cannot be read or written."""


class CorruptFileError(StorageError):
    """A file does not match the sha256 or the format that its name promises."""


class LostFileError(CorruptFileError):
    """A file that the workspace needs is missing or damaged.

    A round makes the file again, if it can, so it raises this error only if it cannot.

    Attributes:
        uri: Location of the file.
    """

    def __init__(self, uri: str, fault: str) -> None:
        super().__init__(uri, fault)
        self.uri = uri
        self.fault = fault

    def __str__(self) -> str:
        return f"{self.uri} {self.fault}"


class FormatError(StorageError):
    """A file was written by another version of baal_ray, in a format that this one cannot read."""


class PoolError(BaalRayError):
    """The pool cannot be used in its present state."""


class ImageError(BaalRayError):
    """An image cannot be decoded. The message becomes the row's `error`."""


class UnreadableImagesError(BaalRayError):
    """More images of the pool are unreadable than the configuration allows."""


class ModelError(BaalRayError):
    """A model cannot be built, loaded or used."""


class TrainingError(ModelError):
    """The fit failed: too often in its workers, or its numbers are no longer finite."""


class CheckpointError(ModelError):
    """A checkpoint is missing or damaged, does not fit its model, or was not written here."""


class LostCheckpointError(CheckpointError, LostFileError):
    """A checkpoint is missing or damaged."""


class PosteriorError(ModelError):
    """Posterior samples cannot be drawn from this model, or they would be wrong."""


class TraceError(PosteriorError):
    """A traced model no longer agrees with the model itself."""


class SelectionError(BaalRayError):
    """Scores cannot be ranked as requested."""


class ManifestError(BaalRayError):
    """The manifest refuses a change. Nothing was written."""


class AlreadyAcquiredError(ManifestError):
    """Some ids of a batch now belong to another round. Nothing was written."""

    def __init__(self, ids: Sequence[str]) -> None:
        super().__init__(list(ids))
        self.ids = list(ids)

    def __str__(self) -> str:
        examples = ", ".join(map(repr, self.ids[:5]))
        return (
            f"{len(self.ids)} ids of this batch are already in the manifest ({examples}); "
            "an image is acquired only once. Select again without them."
        )


class LabelError(_FaultsError):
    """A label file is wrong. `faults` lists everything found in it. Nothing was written."""


class PlanMismatchError(_FaultsError):
    """A round's plan differs from the present run. `faults` lists every difference."""


class UnfinishedRoundError(BaalRayError):
    """An unfinished round still needs the data that the command would change.

    Nothing was changed.
    """

    def __init__(self, rounds: Sequence[str]) -> None:
        super().__init__(list(rounds))
        self.rounds = list(rounds)

    def __str__(self) -> str:
        return (
            f"unfinished rounds: {', '.join(self.rounds)}. They need the images, the scores and "
            "the manifest as they were when they began. Finish each of them first. To give up one "
            "whose picks are not in the manifest, delete its folder below rounds/."
        )


class ClusterError(BaalRayError):
    """No Ray cluster can be joined or started. Nothing was begun."""


class ResourceError(BaalRayError):
    """The cluster can never provide what the configuration requests."""


class SubmissionError(BaalRayError):
    """A Ray job could not be submitted or followed."""


@contextmanager
def in_plain_words() -> Iterator[None]:
    """End a command with the message of our own error, however deeply Ray has wrapped it.

    Raises:
        SystemExit: If the block raises one of our errors; its message makes the exit code 1.
    """
    try:
        yield
    except Exception as error:
        ours = our_error(error)
        if ours is None:
            raise
        raise SystemExit(printable(f"Error: {ours}")) from error


def our_error(error: BaseException | None) -> BaalRayError | None:
    """Return the first error of our own along the chain of causes."""
    while error is not None:
        # Ray raises a class that is both its own and ours. `cause` is the error raised originally.
        cause = getattr(error, "cause", None)
        if isinstance(cause, BaalRayError):
            return _without_advice(cause)
        if isinstance(error, BaalRayError):
            return error
        error = cause if isinstance(cause, BaseException) else error.__cause__
    return None


def _without_advice(error: BaalRayError) -> BaalRayError:
    """Remove Ray Data's advice on retrying from a message, because a retry does not help."""
    if len(error.args) == 1 and isinstance(error.args[0], str):
        error.args = (error.args[0].split("\nFailed to apply UDF transform", 1)[0],)
    return error


def printable(text: str) -> str:
    """Return text that cannot move the cursor, change colours or forge a line.

    Ids, labels and column names of strangers reach the terminal and logs in messages. Control
    characters are escaped as in Python. A line break is kept, and indents what follows.
    """
    return re.sub(r"\n(?! )", "\n  ", escaped(text))


def escaped(text: str) -> str:
    """Return text with all characters but line breaks escaped that a terminal may act on."""
    return "".join(char if _is_shown(char) else ascii(char)[1:-1] for char in text)


def _is_shown(char: str) -> bool:
    return char == "\n" or char.isprintable() or unicodedata.category(char) == "Zs"


def described(error: Exception) -> str:
    """Return the type of an error and its message."""
    return f"{type(error).__name__}: {error}"

"""The errors that baal_ray raises.

    BaalRayError
    ├── ConfigError               a configuration; carries every fault at once
    ├── StorageError              a path that cannot be read or written
    │   ├── CorruptFileError      a file that is not what its name promises, by sha256 or by format
    │   └── FormatError           a file that another version of baal_ray wrote
    ├── PoolError                 the pool: a missing column, a wrong type, a null or doubled id
    ├── ImageError                one image that cannot be shown: a row's `error`
    ├── UnreadableImagesError     more images failed than `scoring.max_unreadable` allows
    ├── ModelError                the model cannot be built, loaded or used
    │   ├── TrainingError         the fit failed in its workers
    │   ├── CheckpointError       a checkpoint is missing, corrupt or made for something else
    │   └── PosteriorError        a model that cannot be sampled, or would be wrongly
    ├── SelectionError            scores that cannot be ranked as asked
    ├── ManifestError             the manifest refuses a change
    │   └── AlreadyAcquiredError  another round took some of these ids first
    ├── LabelError                a file of labels; carries every fault at once
    ├── PlanMismatchError         a round was planned otherwise; carries every difference
    ├── UnfinishedRoundError      a round that is not finished needs what was to be changed
    ├── ResourceError             the cluster can never give what the configuration asks for
    └── SubmissionError           a Ray job that could not be submitted or followed

Every message says the thing, the value, the rule and the remedy. All of them survive pickling, as
they cross process borders inside Ray.
"""

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
    """A configuration is wrong; `faults` lists everything found in it."""


class StorageError(BaalRayError):
    """A path cannot be read or written."""


class CorruptFileError(StorageError):
    """A file is not what its name promises: by its sha256, or by its format."""


class FormatError(StorageError):
    """A file was written by another version of baal_ray, in a format that this one cannot read."""


class PoolError(BaalRayError):
    """The pool cannot be used as it is."""


class ImageError(BaalRayError):
    """An image cannot be decoded; the message becomes the row's `error`."""


class UnreadableImagesError(BaalRayError):
    """More of the pool is unreadable than the configuration allows."""


class ModelError(BaalRayError):
    """A model cannot be built, loaded or used."""


class TrainingError(ModelError):
    """The fit failed in its workers, more often than the configuration allows."""


class CheckpointError(ModelError):
    """A checkpoint is missing, corrupt or does not fit."""


class PosteriorError(ModelError):
    """Posterior samples cannot be drawn from this model, or would be wrong."""


class SelectionError(BaalRayError):
    """Scores cannot be ranked as asked."""


class ManifestError(BaalRayError):
    """The manifest refuses a change; nothing was written."""


class AlreadyAcquiredError(ManifestError):
    """Some ids of a batch belong to another round by now; nothing was written."""

    def __init__(self, ids: Sequence[str]) -> None:
        super().__init__(list(ids))
        self.ids = list(ids)

    def __str__(self) -> str:
        examples = ", ".join(map(repr, self.ids[:5]))
        return (
            f"{len(self.ids)} ids of this batch are in the manifest already ({examples}); "
            "an image is acquired once. Select again, leaving them out."
        )


class LabelError(_FaultsError):
    """A file of labels is wrong; `faults` lists everything found in it and nothing was written."""


class PlanMismatchError(_FaultsError):
    """A round was planned otherwise than it is run now; `faults` lists what differs."""


class UnfinishedRoundError(BaalRayError):
    """Rounds that are not finished need what was to be changed; nothing was."""

    def __init__(self, rounds: Sequence[str]) -> None:
        super().__init__(list(rounds))
        self.rounds = list(rounds)

    def __str__(self) -> str:
        return (
            f"rounds that are unfinished: {', '.join(self.rounds)}. They need images, scores and "
            "the manifest as they were when they began. Run each of them to its end first; to "
            "give up one of which the manifest has no picks, delete its folder below rounds/."
        )


class ResourceError(BaalRayError):
    """The cluster can never give what the configuration asks for."""


class SubmissionError(BaalRayError):
    """A Ray job could not be submitted or followed."""


@contextmanager
def in_plain_words() -> Iterator[None]:
    """Let a command end with the message of our own error, wherever Ray has wrapped it.

    Raises:
        SystemExit: with the message, which makes the exit code 1.
    """
    try:
        yield
    except Exception as error:
        ours = our_error(error)
        if ours is None:
            raise
        raise SystemExit(f"Error: {ours}") from error


def our_error(error: BaseException | None) -> BaalRayError | None:
    """The first error of our own along the chain of causes."""
    while error is not None:
        # Ray raises a class that is both its own and ours; `cause` is the one that was raised.
        cause = getattr(error, "cause", None)
        if isinstance(cause, BaalRayError):
            return cause
        if isinstance(error, BaalRayError):
            return error
        error = cause if isinstance(cause, BaseException) else error.__cause__
    return None


def described(error: Exception) -> str:
    """The type of an error and its message."""
    return f"{type(error).__name__}: {error}"

"""The record that a model is wrong when traced, kept with its checkpoint.

Scores from then on are computed by the model as a whole, under another fingerprint.
"""

import logging

from baal_ray import storage
from baal_ray.errors import TraceError
from baal_ray.workspace.records import Record

logger = logging.getLogger(__name__)


class TraceFault(Record):
    """`trace-fault.json` of a checkpoint.

    Attributes:
        error: The error that was raised, which names the image.
    """

    error: str


def record_trace_fault(checkpoint: str, error: TraceError) -> None:
    """Record that a model must not be traced again."""
    storage.create_if_absent(_uri(checkpoint), TraceFault(error=str(error)).to_json())


def may_be_traced(checkpoint: str) -> bool:
    """Return whether a model may be traced: no fault is recorded."""
    uri = _uri(checkpoint)
    if not storage.exists(uri):
        return True
    fault = TraceFault.read(
        uri, "Delete it: if the model is wrong when traced, it is found again."
    )
    logger.warning("the model runs whole for each posterior sample, because of %s", fault.error)
    return False


def _uri(checkpoint: str) -> str:
    return storage.join(checkpoint, "trace-fault.json")

"""Column names and Arrow schemas of the tables that baal_ray reads and writes."""

import pyarrow as pa

from baal_ray.score_names import SCORE_COLUMNS, STABILITY_COLUMNS

TIMESTAMP = pa.timestamp("us", tz="UTC")

#: One row per pool image scored by one model. `error` is null if the image was scored. Otherwise
#: it says why not, and the scores are null. `source` is the pool file that the image came from.
#: `samples` is K. `log_probs` is float32 [K, C], kept only for further stages.
SCORES = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("samples", pa.int32()),
        *(pa.field(name, pa.float32()) for name in (*SCORE_COLUMNS, *STABILITY_COLUMNS)),
        pa.field("predicted", pa.int32()),
        pa.field("error", pa.string()),
        pa.field("log_probs", pa.binary()),
    ]
)

#: The `error` of a pool image that is not scored because it is an evaluation image.
EVALUATION_IMAGE = "its bytes are those of an image in training.evaluation_set"

#: Key in a score file's own metadata for the name of the folder that it was written for.
FINGERPRINT = b"baal_ray.fingerprint"

#: The picks of one round, in order of rank, before their images are fetched. `predicted` is the
#: name of the class that the model predicted.
SELECTION = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("score", pa.float32()),
        pa.field("rule", pa.string(), nullable=False),
        pa.field("model", pa.string()),
        pa.field("predicted", pa.string()),
    ]
)

#: `rounds/<id>/batch/`: the picks with their images, for annotators and for later fits.
BATCH = SELECTION.append(pa.field("image", pa.binary(), nullable=False))

#: The manifest: every image ever acquired or imported with a label, once.
MANIFEST = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("round", pa.string(), nullable=False),
        pa.field("rank", pa.int32()),
        pa.field("score", pa.float32()),
        pa.field("rule", pa.string()),
        pa.field("model", pa.string()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("label", pa.string()),
        pa.field("labelled_by", pa.string()),
        pa.field("acquired_at", TIMESTAMP, nullable=False),
        pa.field("labelled_at", TIMESTAMP),
    ]
)

ACQUIRED, LABELLED, REJECTED, RELEASED = "acquired", "labelled", "rejected", "released"
STATUSES = (ACQUIRED, LABELLED, REJECTED, RELEASED)

"""Column names and Arrow schemas of the tables that baal_ray reads and writes."""

import pyarrow as pa

TIMESTAMP = pa.timestamp("us", tz="UTC")

SCORE_COLUMNS = (
    "bald",
    "predictive_entropy",
    "expected_entropy",
    "variation_ratio",
    "mean_std",
    "margin",
    "confidence",
)

#: Of these scores little is informative; of the others, much.
SMALL_IS_INFORMATIVE = ("margin", "confidence")

#: BALD with each fifth of the posterior samples left out.
BALD_WITHOUT = tuple(f"bald_without_{group}" for group in range(1, 6))

#: How far `bald` may be off, as K is finite; null where that is undefined.
STABILITY_COLUMNS = ("bald_std_error", *BALD_WITHOUT)

#: One row per pool image scored by one model. `error` is null when the image was scored; else it
#: says why not, and the scores are null. `source` is the pool file that the image came from,
#: `samples` is K. `log_probs` is float32 [K, C], kept for further stages where there are any.
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

#: In a score file's own metadata: the name of the folder that it was written for.
FINGERPRINT = b"baal_ray.fingerprint"

#: The picks of one round, in order of rank, before their images are fetched. `predicted` names the
#: class that the model took an image for.
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

#: The labelled manifest: every image ever acquired or brought in with a label, once.
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

#: Rules that draw at random, the rather the higher an image's BALD.
STOCHASTIC = ("power_bald", "softmax_bald", "softrank_bald")


def column_of(rule: str) -> str | None:
    """The score column that a rule ranks by; none for "random"."""
    if rule == "random":
        return None
    return "bald" if rule in STOCHASTIC else rule

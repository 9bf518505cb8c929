"""The actor that scores images, and the Ray Data stage around it."""

from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from baal_ray import storage
from baal_ray.checkpoint import describe
from baal_ray.cluster import actor_cpus, check_resources, runtime_env
from baal_ray.config import ResourcesConfig, ScoringConfig
from baal_ray.errors import ConfigError
from baal_ray.ids import IdSet
from baal_ray.pool.decoding import decode
from baal_ray.scoring.batch_size import with_batch_size
from baal_ray.scoring.fingerprint import decoder_version, fingerprint, fingerprint_uri
from baal_ray.scoring.kept_samples import KeptLogProbs
from baal_ray.scoring.scorer import PoolScorer, kept_share
from baal_ray.storage.datasink import PublishedParquet
from baal_ray.workspace.schema import FINGERPRINT, SCORES, column_of
from baal_ray.workspace.scores import scored_already

# A kill costs the work on the files that are being filled.
_ROWS_PER_FILE, _BYTES_A_ROW = 20_000, 100
_MOST_BYTES_PER_FILE = 128 * 1024**2

# An actor makes one mini-batch ready while its device works on the other.
_CALLS_AT_ONCE = 2

# Of decoded images, which come in blocks of whole mini-batches: an actor pads what is less.
_BYTES_PER_BLOCK = 16 * 1024**2


@dataclass(frozen=True)
class Scores:
    """The scores of one fingerprint.

    Attributes:
        uri: their folder.
        scored: images scored by this call.
        rows: images with a score or an error, from this call and earlier ones.
        unreadable: how many of those have an error, which is always of this call: they are tried
            again each time.
    """

    uri: str
    scored: int
    rows: int
    unreadable: int


def score_pool(
    pool: ray.data.Dataset,
    checkpoint: str,
    scores: str,
    *,
    config: ScoringConfig | None = None,
    resources: ResourcesConfig | None = None,
    seed: int = 0,
    keep_by: str | None = None,
) -> Scores:
    """Score every image that this model has not scored yet, one row an image.

    Args:
        pool: any dataset with `id` (string) and `image` (encoded bytes); `source` and `error` are
            used when there.
        checkpoint: a checkpoint folder, `…/checkpoints/<sha256>`.
        scores: the folder under which each fingerprint has its own.
        config: how to score.
        resources: what to ask of the cluster.
        seed: of the masks.
        keep_by: the rule by which candidates will be chosen, if `config` has further stages: what
            is drawn now for promising images is kept, and not drawn again then.

    Returns:
        Where the scores are, and how many.

    Raises:
        ConfigError: images cannot be decoded as asked.
        ResourceError: the cluster can never run the actors asked for.
        CheckpointError: the checkpoint is missing or corrupt.
        PosteriorError: the model cannot be sampled.
    """
    config, resources = config or ScoringConfig(), resources or ResourcesConfig()
    if config.decode_on == "gpu" and not resources.scoring_gpus:
        unfit = "is gpu, and resources.scoring_gpus is 0; raise that, or set it to cpu"
        raise ConfigError("scoring.decode_on", [unfit])
    decoder_version(config)  # raises if it is not installed
    check_resources(resources)
    config = with_batch_size(config, checkpoint, resources, seed)
    folder = fingerprint_uri(scores, checkpoint, config, seed)
    already = scored_already(folder)
    leave_out = ray.put(already.hashes)

    def not_scored_yet(rows: pa.Table) -> pa.Table:
        return rows.filter(pa.array(~IdSet(ray.get(leave_out)).contains(rows["id"])))

    if len(already):
        pool = pool.map_batches(not_scored_yet, batch_format="pyarrow")
    return score_images(
        pool, checkpoint, folder, already, config, resources, seed, keep_by=keep_by
    )


def score_images(
    pool: ray.data.Dataset,
    checkpoint: str,
    folder: str,
    already: IdSet,
    config: ScoringConfig,
    resources: ResourcesConfig,
    seed: int,
    *,
    keep_by: str | None = None,
    first: KeptLogProbs | None = None,
) -> Scores:
    """Score a dataset that holds only what is not in `folder` yet.

    decode (CPU tasks, or the actors) → `PoolScorer` (actors) → Parquet files, published whole.

    Args:
        pool: as for `score_pool`.
        checkpoint: as for `score_pool`.
        folder: of the fingerprint.
        already: the images that have scores in it.
        config: as for `score_pool`.
        resources: as for `score_pool`.
        seed: as for `score_pool`.
        keep_by: as for `score_pool`.
        first: log-probabilities of the first samples, so that only the others are drawn.
    """
    keep_by = column_of(keep_by) if keep_by and config.further_stages else None
    depends_on = fingerprint(checkpoint, config, seed)
    storage.publish(storage.join(folder, "_fingerprint.json"), depends_on.to_json())
    more = (keep_by, first)
    scored = through_actors(pool, PoolScorer, checkpoint, config, resources, seed, *more)
    schema = SCORES.with_metadata({FINGERPRINT: folder.rsplit("/", 1)[-1]})
    sink = PublishedParquet(folder, schema, _bytes_per_file(checkpoint, config, keep_by))
    scored.write_datasink(sink, ray_remote_args={"num_cpus": 0})
    written = sink.written
    return Scores(
        folder, written.rows - written.errors, written.rows + len(already), written.errors
    )


def through_actors(
    pool: ray.data.Dataset,
    actor: type[PoolScorer],
    checkpoint: str,
    config: ScoringConfig,
    resources: ResourcesConfig,
    seed: int,
    *more: Any,
) -> ray.data.Dataset:
    """Give images in mini-batches to actors that hold the model.

    Args:
        pool: `id` and `image`, as for `score_pool`.
        actor: what is made of a mini-batch.
        checkpoint: as for `score_pool`.
        config: as for `score_pool`.
        resources: as for `score_pool`.
        seed: as for `score_pool`.
        *more: further arguments of the actor.
    """
    image_size = describe(checkpoint).model.image_size
    decoded = config.decode_on == "cpu"
    blocks = (
        _decoded_blocks(pool, image_size, config) if decoded else _encoded_blocks(pool, config)
    )
    return blocks.map_batches(
        actor,
        fn_constructor_args=(checkpoint, config, seed, resources.scoring_gpus > 0, *more),
        batch_format="numpy" if decoded else "pyarrow",
        batch_size=config.mini_batch,
        compute=ActorPoolStrategy(
            min_size=resources.scoring_actors,
            max_size=resources.most_scoring_actors,
            max_concurrent_calls_per_actor=_CALLS_AT_ONCE,
            enable_true_multi_threading=True,
        ),
        num_cpus=actor_cpus(resources),
        num_gpus=resources.scoring_gpus or None,
        runtime_env=runtime_env(resources.scoring_gpus, image_size),
    )


def _decoded_blocks(
    pool: ray.data.Dataset, image_size: list[int], config: ScoringConfig
) -> ray.data.Dataset:
    """Of whole mini-batches, decoded by CPU tasks."""
    height, width = image_size
    decoded = pool.map_batches(
        partial(decode, height=height, width=width, max_pixels=config.max_pixels),
        batch_format="pyarrow",
    )
    mini_batches = max(1, _BYTES_PER_BLOCK // (config.mini_batch * 3 * height * width))
    # Ray Data does this inside the task that decodes, as both ask for one CPU, and runs nothing
    # that comes before it inside the actor.
    return decoded.repartition(target_num_rows_per_block=mini_batches * config.mini_batch)


def _encoded_blocks(pool: ray.data.Dataset, config: ScoringConfig) -> ray.data.Dataset:
    """Of one mini-batch, as read."""
    # Ray Data would not do this inside a task that only reads.
    read = pool.map_batches(lambda rows: rows, batch_format="pyarrow")
    return read.repartition(target_num_rows_per_block=config.mini_batch)


def _bytes_per_file(checkpoint: str, config: ScoringConfig, keep_by: str | None) -> int:
    """Of as many rows as make few files, unless log-probabilities make them too large."""
    a_row: float = _BYTES_A_ROW
    if keep_by is not None:
        log_probs = config.samples * len(describe(checkpoint).classes) * 4
        a_row += kept_share(config) * log_probs
    return min(int(_ROWS_PER_FILE * a_row), _MOST_BYTES_PER_FILE)

"""The Ray Data stage that scores images: decode, score in actors, write Parquet."""

import gc
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

import pyarrow as pa
import ray
from ray.data import ActorPoolStrategy

from baal_ray import storage
from baal_ray.checkpoint import read_architecture
from baal_ray.cluster import actor_cpus, check_resources, runtime_env
from baal_ray.config import ModelConfig, ResourcesConfig, ScoringConfig
from baal_ray.errors import BaalRayError, ConfigError, TraceError, our_error
from baal_ray.ids import IdSet
from baal_ray.pool.decoding_task import decode, with_area
from baal_ray.score_names import column_of
from baal_ray.scoring.actor import ModelActor
from baal_ray.scoring.batch_size import with_batch_size
from baal_ray.scoring.job import ScoringJob, decoder_version
from baal_ray.scoring.kept_samples import KeptLogProbs
from baal_ray.scoring.scorer import PoolScorer, kept_share
from baal_ray.scoring.trace_fault import may_be_traced
from baal_ray.storage.datasink import PublishedParquet
from baal_ray.workspace.scores import scored_already
from baal_ray.workspace.table_schemas import EVALUATION_IMAGE, FINGERPRINT, SCORES

Result = TypeVar("Result")

# The size of a score file. A kill costs the work on the files that are being filled.
_ROWS_PER_FILE, _BYTES_PER_ROW = 20_000, 100
_MOST_BYTES_PER_FILE = 128 * 1024**2

# Mini-batches per actor at once: it prepares one while its device works on the other. An actor
# that decodes has more to prepare.
_CALLS_AT_ONCE = {"cpu": 2, "gpu": 6}

# Bytes per block of decoded images. Blocks hold whole mini-batches, because an actor would pad any
# others.
_BYTES_PER_BLOCK = 16 * 1024**2


@dataclass(frozen=True)
class Scores:
    """The scores of one fingerprint.

    Attributes:
        uri: Location of their folder.
        scored: Number of images scored by this call.
        rows: Number of images with a score or an error, from this call and earlier ones.
        unreadable: Number of those that cannot be read or scored. All are from this call, because
            they are tried again each time.
        evaluation_images: Number of those that have the bytes of an evaluation image, also from
            this call.
        files: Names of the files that hold all of them, sorted.
    """

    uri: str
    scored: int
    rows: int
    unreadable: int
    evaluation_images: int = 0
    files: list[str] = field(default_factory=list)


def score_pool(
    pool: ray.data.Dataset,
    checkpoint: str,
    scores: str,
    *,
    config: ScoringConfig | None = None,
    resources: ResourcesConfig | None = None,
    seed: int = 0,
    keep_by: str | None = None,
    model: ModelConfig | None = None,
) -> Scores:
    """Score every image that this model has not scored yet, one row per image.

    Args:
        pool: Any dataset with `id` (string) and `image` (encoded bytes). `source` and `error` are
            used if they are there.
        checkpoint: Checkpoint folder, `…/checkpoints/<sha256>`.
        scores: Folder under which each fingerprint has its own.
        config: Settings for scoring.
        resources: Resources to request from the cluster.
        seed: Seed of the masks.
        keep_by: Rule by which candidates will be chosen, if `config` has further stages. Samples
            drawn now for promising images are kept, and are not drawn again then.
        model: Configuration of the model, if its factory is one of your own. A checkpoint cannot
            have other code run than that of baal_ray's and torchvision's factories.

    Returns:
        The location of the scores and their number.

    Raises:
        ConfigError: If images cannot be decoded as configured.
        ResourceError: If the cluster can never run the requested actors.
        CheckpointError: If the checkpoint is missing or damaged, or its factory may not be run.
        PosteriorError: If the model cannot be sampled.
        TraceError: If the traced model is found to be wrong. Its scores are withdrawn, and the
            next call runs the model whole.
    """
    job = ScoringJob(
        checkpoint,
        config or ScoringConfig(),
        resources or ResourcesConfig(),
        mask_seed=seed,
        traced=may_be_traced(checkpoint),
        model=model,
    )
    if job.config.decode_on == "gpu" and not job.on_gpu:
        unfit = "is gpu, but resources.scoring_gpus is 0; raise that, or set it to cpu"
        raise ConfigError("scoring.decode_on", [unfit])
    decoder_version(job.config)  # raises if the decoder is not installed
    check_resources(job.resources)
    folder = ScoreFolder(with_batch_size(job, scores), scores)
    leave_out = ray.put(folder.scored.hashes)

    def not_scored_yet(rows: pa.Table) -> pa.Table:
        return rows.filter(pa.array(~IdSet(ray.get(leave_out)).contains(rows["id"])))

    if len(folder.scored):
        pool = pool.map_batches(not_scored_yet, batch_format="pyarrow")
    return folder.add(pool, keep_by=keep_by)


class ScoreFolder:
    """The folder of one job's scores, and the way to add to it.

    Attributes:
        uri: Location of the folder.
        scored: Ids of the images that have scores in the folder. They are to be left out.
        files: The files that hold these scores.
    """

    def __init__(self, job: ScoringJob, scores: str) -> None:
        """Find the images that are already scored.

        Args:
            job: Model and settings of the scores.
            scores: Folder under which each fingerprint has its own.
        """
        self._job = job
        self.uri = job.folder(scores)
        before = scored_already(self.uri)
        self.scored, self.files = before.ids, before.files

    def add(
        self,
        pool: ray.data.Dataset | None,
        *,
        keep_by: str | None = None,
        first: KeptLogProbs | None = None,
    ) -> Scores:
        """Score those images of a dataset that have no scores yet.

        decode (CPU tasks, or the actors) → `PoolScorer` (actors) → Parquet files, published whole.

        Args:
            pool: As for `score_pool`; None if no image is left, so that no actor needs to start.
            keep_by: As for `score_pool`.
            first: Log-probabilities of the first samples, so that only the others are drawn.

        Raises:
            TraceError: As for `score_pool`.
        """
        job = self._job
        keep_by = column_of(keep_by) if keep_by and job.config.further_stages else None
        storage.publish(storage.join(self.uri, "_fingerprint.json"), job.fingerprint.to_json())
        if pool is None:
            return Scores(self.uri, 0, len(self.scored), 0, files=_names(self.files))
        schema = SCORES.with_metadata({FINGERPRINT: storage.name(self.uri)})
        sink = PublishedParquet(self.uri, schema, _bytes_per_file(job, keep_by), EVALUATION_IMAGE)

        def write() -> None:
            rows = through_actors(pool, PoolScorer, job, keep_by, first)
            rows.write_datasink(sink, ray_remote_args={"num_cpus": 0})

        try:
            release_if_failed(write)
        except TraceError as error:
            storage.delete_tree(self.uri)
            raise TraceError(
                f"{error}. All scores by this traced model were deleted. Run this again: it runs "
                "the model whole for each posterior sample, which takes longer"
            ) from error
        written = sink.written
        return Scores(
            self.uri,
            written.rows - written.errors - written.withheld,
            written.rows + len(self.scored),
            written.errors,
            written.withheld,
            _names([*self.files, *written.files]),
        )


def _names(files: list[str]) -> list[str]:
    return sorted({storage.name(file) for file in files})


def through_actors(
    pool: ray.data.Dataset, actor: type[ModelActor], job: ScoringJob, *more: Any
) -> ray.data.Dataset:
    """Run mini-batches of images through the actors, and return their rows.

    Args:
        pool: Images with `id` and `image`, as for `score_pool`.
        actor: Class of the actors.
        job: Model and settings of the actors, and the resources they request.
        *more: Further arguments of the actor's constructor.
    """
    config, resources = job.config, job.resources
    image_size = read_architecture(job.checkpoint).model.image_size
    decoded = config.decode_on == "cpu"
    blocks = (
        _decoded_blocks(pool, image_size, config) if decoded else _encoded_blocks(pool, config)
    )
    # Else Ray Data hides an actor's error, and with it the remedy that its message names.
    blocks.context.raise_original_map_exception = True
    return blocks.map_batches(
        type(actor.__name__, (Worker,), {}),  # Ray shows the name
        fn_constructor_args=(actor, job, *more),
        batch_format="numpy" if decoded else "pyarrow",
        batch_size=config.mini_batch,
        compute=ActorPoolStrategy(
            min_size=resources.scoring_actors,
            max_size=resources.most_scoring_actors,
            max_concurrent_calls_per_actor=_CALLS_AT_ONCE[config.decode_on],
            enable_true_multi_threading=True,
        ),
        num_cpus=actor_cpus(resources),
        num_gpus=resources.scoring_gpus or None,
        runtime_env=runtime_env(resources.scoring_gpus, image_size),
    )


class Worker:
    """An actor of Ray Data around one of ours.

    If a constructor fails, Ray raises an error of its own that has ours only in its text. So the
    error is kept, and raised by the first call.
    """

    def __init__(self, actor: type[ModelActor], job: ScoringJob, *more: Any) -> None:
        """Create the actor; arguments as for `through_actors`."""
        self._fault: BaalRayError | None = None
        try:
            self._actor: Any = actor(job, *more)
        except BaalRayError as error:
            self._fault = error

    def __call__(self, rows: Any) -> pa.Table:
        """Run a mini-batch through the actor."""
        if self._fault is not None:
            raise self._fault
        table: pa.Table = self._actor(rows)
        return table


def release_if_failed(run: Callable[[], Result]) -> Result:
    """Run a dataset through actors to its end, and release the actors if that fails.

    While Ray's error is kept, so are the frames that failed and with them the actors, their CPUs
    and GPUs. So an error of our own is raised without it.

    Args:
        run: Function that makes the dataset and uses it up.
    """
    try:
        return run()
    except Exception as error:
        fault = our_error(error)
        if fault is None:
            raise
    gc.collect()  # the error and its frames refer to each other
    raise fault


def _decoded_blocks(
    pool: ray.data.Dataset, image_size: list[int], config: ScoringConfig
) -> ray.data.Dataset:
    """Decode images in CPU tasks, and return blocks of whole mini-batches."""
    height, width = image_size
    decoded = pool.map_batches(
        partial(decode, height=height, width=width, max_pixels=config.max_pixels),
        batch_format="pyarrow",
    )
    mini_batches = max(1, _BYTES_PER_BLOCK // (config.mini_batch * 3 * height * width))
    # Ray Data does this inside the decoding task, because both request one CPU, and runs nothing
    # that comes before it inside the actor.
    return decoded.repartition(target_num_rows_per_block=mini_batches * config.mini_batch)


def _encoded_blocks(pool: ray.data.Dataset, config: ScoringConfig) -> ray.data.Dataset:
    """Read the headers of images in CPU tasks, and return blocks of one mini-batch each."""
    read = pool.map_batches(
        partial(with_area, max_pixels=config.max_pixels), batch_format="pyarrow"
    )
    return read.repartition(target_num_rows_per_block=config.mini_batch)


def _bytes_per_file(job: ScoringJob, keep_by: str | None) -> int:
    """Return the size to aim for in a score file, in bytes.

    Files with log-probabilities are capped.
    """
    per_row: float = _BYTES_PER_ROW
    if keep_by is not None:
        log_probs = job.config.samples * len(read_architecture(job.checkpoint).classes) * 4
        per_row += kept_share(job.config) * log_probs
    return min(int(_ROWS_PER_FILE * per_row), _MOST_BYTES_PER_FILE)

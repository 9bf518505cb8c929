"""The plan of a round: made once, then followed and compared with the configuration."""

import logging
from collections.abc import Iterator

import baal_ray
from baal_ray import storage
from baal_ray.config import RoundConfig, differences
from baal_ray.errors import PlanMismatchError
from baal_ray.ids import IdSet
from baal_ray.manifest import Manifest
from baal_ray.model import check_model
from baal_ray.pool import PoolListing, check_ids, list_pool
from baal_ray.selection.predictions import check_candidates
from baal_ray.workspace import manifest_uri, round_uri
from baal_ray.workspace.rounds import StageResults
from baal_ray.workspace.stage_files import Plan, ScoresResult

logger = logging.getLogger(__name__)


def follow_plan(
    config: RoundConfig, round_id: str, results: StageResults, evaluation: IdSet
) -> Plan:
    """Return the plan of a round; the first driver makes it.

    Args:
        config: Configuration of the round.
        round_id: Name of the round.
        results: Results of the round's stages.
        evaluation: Ids of the evaluation images.

    Raises:
        PlanMismatchError: If the round was planned with another configuration, or if the files
            of the pool have changed while they are still to be scored.
        BaalRayError: If the pool, its ids or the model cannot be used.
    """
    plan = results.read(Plan)
    if plan is None:
        plan = results.create(_new_plan(config, round_id, evaluation))
        faults = list(_differences(plan, config))
    else:
        faults = [*_differences(plan, config), *_changes(plan, results)]
    if faults:
        raise PlanMismatchError(
            f"round {round_id} was planned differently; restore its configuration and pool, or "
            "use another round id",
            faults,
        )
    return plan


def _new_plan(config: RoundConfig, round_id: str, evaluation: IdSet) -> Plan:
    check_model(config.model, len(config.classes), trained=not config.training.epochs)
    check_candidates(config)
    folder = round_uri(config.workspace, round_id)
    listing = list_pool(config.pool, storage.join(folder, "pool"))
    for note in filter(None, (listing.note, listing.large_groups)):
        logger.warning("%s: %s", config.pool.uri, note)
    evaluation_images = check_ids(listing, evaluation)
    if evaluation_images:
        logger.warning(
            "%d images of the pool have ids of training.evaluation_set and are left out. If they "
            "are different images, give the evaluation images ids of their own",
            evaluation_images,
        )
    return Plan(
        config=config,
        draw_seed=_draw_seed(config.seed, round_id),
        pool=listing,
        targets=_targets(config, folder),
        manifest_version=_version_before(Manifest(manifest_uri(config.workspace)), round_id),
        evaluation_images=evaluation_images,
        baal_ray=baal_ray.__version__,
    )


def _version_before(manifest: Manifest, round_id: str) -> int:
    """Return the version to begin at: the latest, or that before the picks of a lost plan."""
    if not len(manifest.rows(round_id=round_id)):
        return manifest.version
    own = [
        event["version"]
        for event in manifest.history()
        if event["change"] == "acquire" and event["round"] == round_id
    ]
    return min(own) - 1 if own else manifest.version


def is_listed_alike(plan: Plan, config: RoundConfig, round_id: str) -> bool:
    """Write the listings of a plan again, and return whether they are as planned."""
    folder = round_uri(config.workspace, round_id)
    pool = list_pool(config.pool, storage.join(folder, "pool"))
    targets = _targets(config, folder)
    planned = [*plan.pool.files, *(plan.targets.files if plan.targets else ())]
    return [*pool.files, *(targets.files if targets else ())] == planned


def _targets(config: RoundConfig, folder: str) -> PoolListing | None:
    """Return the listing of epig's target images, or None if they are the pool."""
    targets = config.selection.targets
    if targets is None:
        return None
    listing = list_pool(targets, storage.join(folder, "targets"))
    check_ids(listing)
    return listing


def _differences(plan: Plan, config: RoundConfig) -> Iterator[str]:
    return differences(plan.config.planned(), config.planned())


def _changes(plan: Plan, results: StageResults) -> list[str]:
    """Describe how the pool's files have changed since the plan.

    Once the pool is scored, changes do not matter.
    """
    scored = storage.exists(results.uri(ScoresResult))
    return [] if scored else PoolListing.of(plan.pool).changes()


def _draw_seed(seed: int, round_id: str) -> int:
    """Return a seed that differs between rounds, so that no image is unlucky in every round."""
    return int(storage.sha256(f"{seed} {round_id}".encode())[:8], 16)

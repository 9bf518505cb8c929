"""Reports that are made without being asked for, and never in the way of what they report on."""

import logging
from collections.abc import Callable
from importlib.util import find_spec

import pyarrow as pa

from baal_ray import storage
from baal_ray.errors import BaalRayError
from baal_ray.experiment_config import ExperimentConfig
from baal_ray.onlooker import Sight

logger = logging.getLogger(__name__)

_NEEDED = ("matplotlib", "sklearn")

# Two million images at about 20,000 a file; all are read for one page.
_MOST_SCORE_FILES = 100


def require_extra() -> None:
    """Refuse to make a report where it cannot be drawn.

    Raises:
        BaalRayError: the extra is not installed.
    """
    if not _is_installed():
        raise BaalRayError(
            "a report is drawn with matplotlib and scikit-learn, which are not installed; "
            "install baal-ray[report]"
        )


def report_round(workspace: str, round_id: str) -> None:
    """Leave a page in the folder of a round that has just ended, where that is quickly done.

    It has no map of features, which takes the model and images of the pool. Nothing is raised: a
    round without its page is as good, and `baal-ray report` makes it at any time.
    """
    if not _is_installed():
        logger.info("no report.html: baal-ray[report] is not installed")
        return
    try:
        # Only now, as they need the extra.
        from baal_ray.report.round_facts import files_of_scores
        from baal_ray.report.round_report import write_round_report

        files = files_of_scores(workspace, round_id)
        if files > _MOST_SCORE_FILES:
            logger.info("no report.html, as there are %d files of scores: baal-ray report", files)
            return
        logger.info("report: %s", write_round_report(workspace, round_id, with_map=False))
    except Exception as error:  # noqa: BLE001  whatever it is, the round has ended well
        logger.warning("no report.html, as %s: %s", type(error).__name__, error)


def report_experiment(
    config: ExperimentConfig,
    curves: pa.Table,
    labels_needed: pa.Table,
    look: Callable[[], Sight],
) -> None:
    """Leave a page in the folder of an experiment; nothing is raised, as for a round.

    Args:
        config: of the experiment.
        curves: as `experiment_page` takes them.
        labels_needed: likewise.
        look: how a model that took no part sees the picks; called only if the page can be drawn.
    """
    if not _is_installed():
        logger.info("no report.html: baal-ray[report] is not installed")
        return
    try:
        from baal_ray.report.experiment_report import experiment_page
        from baal_ray.report.picks_map import picks_map

        try:
            maps = picks_map(look(), config.classes)
        except Exception as error:  # noqa: BLE001  the curves can be shown without them
            logger.warning("no map of the picks, as %s: %s", type(error).__name__, error)
            maps = []
        page = experiment_page(curves, labels_needed, config.shown(), _NOTES, maps)
        storage.publish(storage.join(config.folder, "report.html"), page.encode())
    except Exception as error:  # noqa: BLE001  the curves are there
        logger.warning("no report.html, as %s: %s", type(error).__name__, error)


_NOTES = (
    "Every point is a model fitted afresh on all labels so far, by the same first weights for all "
    "rules of a seed and round.",
    "All rules of a seed start with the same labelled images, as many of each class: a head start "
    "that an unlabelled pool does not give.",
    "A curve needs as many labels as it has where it first reaches an accuracy, which flatters "
    "curves that jump about, random's included.",
)


def _is_installed() -> bool:
    return all(find_spec(name) is not None for name in _NEEDED)

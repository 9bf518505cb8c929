"""Reports that are made without being asked for, and never in the way of what they report on."""

import logging
from importlib.util import find_spec

from baal_ray.errors import BaalRayError

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
        from baal_ray.report.round_page import write_round_report

        files = files_of_scores(workspace, round_id)
        if files > _MOST_SCORE_FILES:
            logger.info("no report.html, as there are %d files of scores: baal-ray report", files)
            return
        logger.info("report: %s", write_round_report(workspace, round_id, with_map=False))
    except Exception as error:  # noqa: BLE001  whatever it is, the round has ended well
        logger.warning("no report.html, as %s: %s", type(error).__name__, error)


def _is_installed() -> bool:
    return all(find_spec(name) is not None for name in _NEEDED)

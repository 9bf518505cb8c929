"""Report pages that are made automatically, and never disturb the work they report on."""

import logging
from importlib.util import find_spec

from baal_ray.errors import BaalRayError

logger = logging.getLogger(__name__)

_NEEDED = ("matplotlib", "sklearn")  # only an experiment's map needs scikit-learn

# Most score files that are read for an automatic page: two million images.
_MOST_SCORE_FILES = 100


def require_extra() -> None:
    """Refuse to make a report without the libraries that draw it.

    Raises:
        BaalRayError: If the extra `report` is not installed.
    """
    if not extra_is_installed():
        raise BaalRayError(
            "a report is drawn with matplotlib and scikit-learn, which are not installed; "
            "install baal-ray[report]"
        )


def report_round(workspace: str, round_id: str) -> None:
    """Write the page of a round that has just ended, if that is quick.

    Nothing is raised. A round is complete without its page, and `baal-ray report` can make it
    later.
    """
    if not extra_is_installed():
        logger.info("no report.html: baal-ray[report] is not installed")
        return
    try:
        # Imported here, because they need the extra.
        from baal_ray.report.round_facts import files_of_scores
        from baal_ray.report.round_page import write_round_report

        files = files_of_scores(workspace, round_id)
        if files > _MOST_SCORE_FILES:
            logger.info(
                "no report.html: %d score files are too many to read now; run `baal-ray report`",
                files,
            )
            return
        logger.info("report: %s", write_round_report(workspace, round_id))
    except Exception as error:  # noqa: BLE001  the round itself has succeeded
        logger.warning("no report.html: %s: %s", type(error).__name__, error)


def extra_is_installed() -> bool:
    """Return whether the extra `report` is installed."""
    return all(find_spec(name) is not None for name in _NEEDED)

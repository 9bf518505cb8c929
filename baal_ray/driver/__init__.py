"""One acquisition round, from its plan to its commit: the only code that knows the order."""

from baal_ray.driver.round import run_round
from baal_ray.workspace.stage_files import RoundResult

__all__ = ["RoundResult", "run_round"]

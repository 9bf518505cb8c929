"""The pool and a checkpoint → scores."""

from baal_ray.scoring.stage import Scores, score_pool

__all__ = ["Scores", "score_pool"]

"""Ways of drawing K samples from the posterior over a model's weights, one per file in kinds/."""

from baal_ray.posterior.kinds.mc_dropout import MCDropout
from baal_ray.posterior.posterior_sample import PosteriorSample

__all__ = ["MCDropout", "PosteriorSample"]

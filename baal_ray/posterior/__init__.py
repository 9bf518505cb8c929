"""Ways of drawing K samples from the posterior over a model's weights, one per file."""

from baal_ray.posterior.mc_dropout import MCDropout, PosteriorSample

__all__ = ["MCDropout", "PosteriorSample"]

"""The last steps on a part of a traced model, before it runs."""

from torch.fx import GraphModule

from baal_ray.posterior.engine.fused_bias import fuse_biases
from baal_ray.posterior.engine.products import use_faster_products
from baal_ray.posterior.engine.simplify import reuse_memory
from baal_ray.posterior.engine.tracing import forget_shapes


def finish(module: GraphModule) -> None:
    """Choose faster kernels, reuse memory, and drop the shapes seen while tracing."""
    fuse_biases(module)
    reuse_memory(module)
    use_faster_products(module)
    forget_shapes(module)

"""Trace a model into a graph of tensor operations, and cut it where randomness begins.

The graph is PyTorch's own (`torch.fx`, of ATen operations). Its in-place operations are made pure,
so its dependencies are exact, whatever Python the model is written in. Python that looks at the
values of images cannot be traced and raises an exception.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch._subclasses.functional_tensor import (
    FunctionalTensor,
    FunctionalTensorMode,
    dispatch_functionalize,
)
from torch.func import functional_call
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from baal_ray.posterior.dropout.interception import MaskedDropout, apply_mask
from baal_ray.posterior.dropout.mini_batch_axis import MiniBatchAxis
from baal_ray.posterior.dropout.sites import Site
from baal_ray.posterior.outputs import Output


@torch.library.custom_op("baal_ray::drop", mutates_args=())
def drop(
    x: Tensor, keep: Tensor, p: float, alpha: bool, axis: int, rows: int, outer: bool
) -> Tensor:
    """Call `apply_mask` as one node of a graph. An axis of −1 stands for None."""
    return apply_mask(x, keep, p, alpha, MiniBatchAxis(axis, rows, outer) if axis >= 0 else None)


@drop.register_fake
def _(x: Tensor, keep: Tensor, p: float, alpha: bool, axis: int, rows: int, outer: bool) -> Tensor:
    return torch.empty_like(x)


DROP = torch.ops.baal_ray.drop.default


# Ways for Python to read a tensor's memory past PyTorch, for example into NumPy. While a model is
# traced, its tensors have no memory of their own, so what is read there is arbitrary.
_READERS = {
    Tensor.__array__: "NumPy",
    Tensor.__cuda_array_interface__.__get__: "__cuda_array_interface__",
    Tensor.__dlpack__: "DLPack",
    Tensor.data_ptr: "data_ptr()",
    Tensor.numpy: "numpy()",
    Tensor.tolist: "tolist()",
    Tensor.untyped_storage: "untyped_storage()",
}


class _TracedDropout(MaskedDropout):
    """A context that leaves each dropout in the graph as one node.

    It also replaces the model's views by reshapes, because a view may be impossible in a memory
    layout that the model is not used to. And it refuses Python that reads the memory of a tensor,
    which would silently be traced with arbitrary values.
    """

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is Tensor.view and len(args) > 1 and not isinstance(args[1], torch.dtype):
            func = Tensor.reshape
        if func in _READERS and isinstance(args[0], FunctionalTensor):
            how = _READERS[func]
            raise NotImplementedError(f"its Python code reads a tensor's values, with {how}")
        return super().__torch_function__(func, types, args, kwargs)

    def apply(
        self, x: Tensor, keep: Tensor, p: float, alpha: bool, axis: MiniBatchAxis | None
    ) -> Tensor:
        place = (axis.axis, axis.rows, axis.outer) if axis else (-1, 1, True)
        dropped: Tensor = DROP(x, keep, p, alpha, *place)
        return dropped


@dataclass(frozen=True)
class _GivenMasks:
    masks: Sequence[Tensor]

    def keep(self, site: int, shape: tuple[int, ...], p: float, device: torch.device) -> Tensor:
        return self.masks[site]


def trace(
    model: nn.Module,
    images_N: Tensor,
    layout: torch.memory_format,
    sites: Sequence[Site],
    samples: int,
    per_item: bool,
    output: Output,
) -> GraphModule:
    """Trace the model as a graph of (images, *masks), for K samples of N images in one pass.

    Nothing is computed.

    Args:
        model: The model, in evaluation mode.
        images_N: A mini-batch, for its shape and type.
        layout: Memory layout of images.
        sites: The model's dropouts.
        samples: Number of samples, K. The graph's images are [K·N, …].
        per_item: Whether masks are [K, N, …] instead of [K, 1, …].
        output: The place of the predictions, if the model returns an object.

    Raises:
        NotImplementedError: If the model draws random numbers itself, or overwrites tensors that
            depend neither on images nor on its weights.
        Exception: If the model cannot be traced for another reason. It may be of any type.
    """
    axes = [site.axis for site in sites]

    def graph_of(weights: dict[str, Tensor]) -> GraphModule:
        def predict(images_KN: Tensor, *masks_and_weights: Tensor) -> Tensor:
            masks = _GivenMasks(masks_and_weights[: len(sites)])
            given = dict(zip(weights, masks_and_weights[len(sites) :], strict=True))
            images_KN = images_KN.clone()  # in case the model overwrites them
            with _TracedDropout(masks, len(images_N), axes, samples):
                returned = functional_call(model, given, images_KN) if given else model(images_KN)
                return output.predictions_in(returned)

        with FakeTensorMode(allow_non_fake_inputs=True):
            inputs = _inputs(images_N, layout, sites, samples, per_item)
            graph = _pure_graph(predict, [*inputs, *map(torch.empty_like, weights.values())])
        _read_as_attributes(graph, len(inputs), list(weights.values()))
        return graph

    try:
        graph = graph_of({})
    except Exception as error:  # noqa: BLE001  a model's code may raise anything
        # Only what depends on an input can be overwritten, so the weights become inputs. Python
        # cannot read their values then.
        try:
            graph = graph_of({**dict(model.named_parameters()), **dict(model.named_buffers())})
        except Exception:  # noqa: BLE001
            raise error from None
    for node in graph.graph.nodes:
        if node.op == "get_attr":
            node.meta["val"] = getattr(graph, node.target)
        elif _draws_at_random(node.target):
            raise NotImplementedError(f"it draws random numbers itself, with {node.target}")
    given = next(node for node in graph.graph.nodes if node.op == "placeholder")
    for copy in [user for user in given.users if user.target is torch.ops.aten.clone.default]:
        copy.replace_all_uses_with(given)
    return graph


def _inputs(
    images_N: Tensor,
    layout: torch.memory_format,
    sites: Sequence[Site],
    samples: int,
    per_item: bool,
) -> list[Tensor]:
    """Return images and masks of the right shapes and types, without values of their own."""
    images = len(images_N)
    images_KN = images_N[:1].expand(images * samples, *images_N.shape[1:])
    masks = [
        torch.empty(
            (samples, images if per_item else 1, *site.mask_shape),
            dtype=torch.bool,
            device=images_N.device,
        )
        for site in sites
    ]
    return [torch.empty_like(images_KN, memory_format=layout), *masks]


def _pure_graph(function: Callable[..., Tensor], inputs: Sequence[Tensor]) -> GraphModule:
    """Trace a function as a graph that overwrites nothing.

    AOTAutograd's way is used, because `torch.func.functionalize` cannot run a custom
    `autograd.Function`.
    """
    graph: Callable[..., Any] = function
    for _ in range(2):  # a second time for the operations that recurrent layers are made of
        graph = make_fx(dispatch_functionalize(graph, FunctionalTensorMode()))(*inputs)
        if not _overwrites(graph):
            return graph
    raise NotImplementedError("it overwrites tensors that depend neither on images nor on weights")


def _read_as_attributes(graph: GraphModule, first: int, tensors: Sequence[Tensor]) -> None:
    """Replace a graph's inputs from the `first` on by attributes with these tensors."""
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"][first:]
    for number, (node, tensor) in enumerate(zip(inputs, tensors, strict=True)):
        if node.users:
            name = f"_lifted_{number}"
            graph.register_buffer(name, tensor, persistent=False)
            with graph.graph.inserting_before(node):
                node.replace_all_uses_with(graph.graph.get_attr(name))
        graph.graph.erase_node(node)
    graph.graph.eliminate_dead_code()
    graph.recompile()


def _draws_at_random(target: Any) -> bool:
    # Attention has the tag because of its dropout, which is 0 here.
    return torch.Tag.nondeterministic_seeded in getattr(target, "tags", ()) and (
        "attention" not in str(target)
    )


def _overwrites(graph: GraphModule) -> bool:
    return any(
        node.target._schema.is_mutable
        for node in graph.graph.nodes
        if isinstance(node.target, torch._ops.OpOverload)
    )


@dataclass(frozen=True)
class Part:
    """A part of a graph that runs by itself.

    Attributes:
        constants: Module () → the tensors that the part needs and that depend on weights alone.
        module: Module (*inputs, *constants, *masks) → the part's results.
        results: Placeholders for the results, with their shapes and types.
    """

    constants: GraphModule
    module: GraphModule
    results: tuple[Tensor, ...]


@dataclass(frozen=True)
class Cut:
    """A graph in two parts.

    Attributes:
        trunk: Part (images) → the tensors that the tail needs and that no mask touches.
        tail: Part (the trunk's results, masks) → predictions.
    """

    trunk: Part
    tail: Part


def cut(graph: GraphModule) -> Cut:
    """Cut a traced model into the part that depends on masks and the part that does not."""
    images, *masks = (node for node in graph.graph.nodes if node.op == "placeholder")
    (output,) = (node for node in graph.graph.nodes if node.op == "output")
    (predictions,) = output.all_input_nodes
    of_masks = _dependent(graph.graph, masks)
    of_images = _dependent(graph.graph, [images]) - of_masks
    between = [
        node
        for node in graph.graph.nodes
        if node in of_images and (node is predictions or not of_masks.isdisjoint(node.users))
    ]

    def part(inputs: list[Node], nodes: set[Node], masks: list[Node], results: list[Node]) -> Part:
        constants = [
            node
            for node in graph.graph.nodes
            if node.op == "call_function"
            and node not in of_images | of_masks
            and not nodes.isdisjoint(node.users)
        ]
        return Part(
            _module(graph, [], constants),
            _module(graph, [*inputs, *constants, *masks], results),
            tuple(node.meta["val"] for node in results),
        )

    return Cut(
        trunk=part([images], of_images, [], between),
        tail=part(between, of_masks, masks, [predictions]),
    )


def _dependent(graph: Graph, inputs: Iterable[Node]) -> set[Node]:
    dependent = set(inputs)
    for node in graph.nodes:
        if not dependent.isdisjoint(node.all_input_nodes):
            dependent.add(node)
    return dependent


def _module(graph: GraphModule, inputs: Sequence[Node], outputs: Sequence[Node]) -> GraphModule:
    """Return the part of a graph that leads from some nodes to others."""
    needed: set[Node] = set()
    ahead = list(outputs)
    while ahead:
        node = ahead.pop()
        if node not in needed and node not in inputs:
            needed.add(node)
            ahead.extend(node.all_input_nodes)
    part_graph = Graph()
    copies: dict[Node, Node] = {}
    for node in inputs:
        copies[node] = part_graph.placeholder(node.name)
        copies[node].meta = dict(node.meta)
    for node in graph.graph.nodes:
        if node in needed:
            copies[node] = part_graph.node_copy(node, copies.__getitem__)
    part_graph.output([copies[node] for node in outputs])
    return GraphModule(graph, part_graph)


def computes_in_16_bits(graph: GraphModule) -> bool:
    """Return whether an operation of a graph returns bfloat16 or float16, as under autocast."""
    values = (node.meta.get("val") for node in graph.graph.nodes if node.op == "call_function")
    return any(
        isinstance(value, Tensor) and value.dtype in (torch.bfloat16, torch.float16)
        for value in values
    )


def attributes_of(graph: GraphModule) -> list[Tensor]:
    """Return the tensors that a graph reads besides its inputs."""
    names = [str(node.target) for node in graph.graph.nodes if node.op == "get_attr"]
    return [tensor for name in names if isinstance(tensor := getattr(graph, name), Tensor)]


def forget_shapes(graph: GraphModule) -> None:
    """Drop the notes that tracing left at each node, as they keep the model's weights alive."""
    for node in graph.graph.nodes:
        node.meta.clear()

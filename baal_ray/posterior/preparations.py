"""The findings about a model, which a posterior keeps until the model changes."""

from collections.abc import Callable, Hashable, Iterable

from torch import Tensor, nn

from baal_ray.posterior.arguments import check_tensors
from baal_ray.posterior.dropout.sites import Site
from baal_ray.posterior.model_changes import ModelChanges, unchanged
from baal_ray.posterior.traces import Traces


class Preparations:
    """The findings of a model's checks, and its traces, until the model changes.

    Attributes:
        traces: The traces, for each kind of mini-batch.
    """

    def __init__(self, model: nn.Module) -> None:
        """Prepare to look at a model."""
        self.traces = Traces()
        self._model = model
        self._sites: dict[Hashable, tuple[Site, ...]] = {}
        self._changes = ModelChanges(model)
        self._frozen = False

    def notice_changes(self, *, frozen: bool) -> None:
        """Forget what is no longer right since the model has changed.

        Args:
            frozen: Whether the model stays as it was when it was first looked at.

        Raises:
            PosteriorError: If a tensor of the model cannot be used.
        """
        self._frozen = frozen
        if frozen and self._changes.seen:
            return
        check_tensors(self._model)
        change = self._changes.notice(tensors=not frozen)
        if change != "nothing":
            self._sites.clear()
        if change == "structure":
            self.traces.clear()
        elif change == "numbers":
            self.traces.weights_have_changed()

    def known_sites(self, kind: Hashable) -> tuple[Site, ...] | None:
        """Return the model's dropouts for a kind of images, None if they must be found first."""
        return self._sites.get(kind)

    def sites(
        self, kind: Hashable, probe: Tensor, find: Callable[[], tuple[Site, ...]]
    ) -> tuple[Site, ...]:
        """Return the model's dropouts, which are found when a kind of images comes first.

        Args:
            kind: Everything about the images that the checks depend on.
            probe: A few of the images.
            find: Function that checks the model, which is in evaluation mode.

        Raises:
            PosteriorError: If a check fails.
        """
        if kind not in self._sites:
            with unchanged(self._model, probe.device):
                self._sites[kind] = find()
            if not self._frozen:
                probe = probe.clone()
                self._changes.ignore_changes_by(lambda: self._model(probe), probe.device)
        return self._sites[kind]

    def watch(self, tensors: Iterable[Tensor]) -> None:
        """Notice changes of these tensors, too, unless the model is frozen."""
        if not self._frozen:
            self._changes.watch(tensors)

"""Images on which a process dies, such as by a decoder's segmentation fault or for lack of memory.

Ray tries a task again, with the same rows, for as long as its process dies. That is right for
lost nodes, but with an image that kills it never ends. So a task asks how often it has died. After
the second time it looks for the image in a process of its own, which may die in its place.
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

import ray
from ray._private.worker import global_worker
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put

from baal_ray.errors import ResourceError

#: Deaths of a task from which an image is looked for.
SUSPICIOUS = 2
# Deaths of a task, or starts of an actor that end in death, that are not tried again.
_MOST_DEATHS, _MOST_STARTS = 8, 4

Work = Callable[..., object]
Part = Callable[[Sequence[int]], tuple[Any, ...]]


def deaths() -> int:
    """Return how often this Ray task has died and was tried again, with the same rows.

    For the constructor of an actor, it is how often the actor has died.
    """
    if not global_worker.connected:
        return 0
    worker: Any = global_worker
    return int(worker.core_worker.get_current_task_attempt_number())


def refuse_more_deaths(what: str) -> None:
    """Give a task up that has died too often.

    Args:
        what: Description of what the task works on.

    Raises:
        ResourceError: If it has.
    """
    if deaths() >= _MOST_DEATHS:
        raise ResourceError(
            f"the process that worked on {what} was killed {deaths()} times, and no single image "
            "does that; a task must end. Most likely the memory of its node is too small: request "
            "less at a time under resources, or enlarge the nodes. Ray's log of the node says more"
        )


class Starts:
    """The starts of an actor. They are counted over all its processes."""

    def __init__(self) -> None:
        """Give up if the last few starts all ended in death.

        Raises:
            ResourceError: If they did.
        """
        self._died = deaths()
        if self._died - self._died_before() >= _MOST_STARTS:
            raise ResourceError(
                f"the process that loads the model was killed {_MOST_STARTS} times in a row; it "
                "must start. Most likely the memory of its node is too small: use a smaller "
                "model, or enlarge the nodes. Ray's log of the node says more"
            )

    def succeeded(self) -> None:
        """Record that the actor has started."""
        if self._died > self._died_before():
            _internal_kv_put(self._key, str(self._died).encode())

    def _died_before(self) -> int:
        """Return how often the actor had died when it last started."""
        return int(_internal_kv_get(self._key) or 0) if self._died else 0

    @property
    def _key(self) -> bytes:
        return f"baal_ray/starts/{ray.get_runtime_context().get_actor_id()}".encode()


@dataclass(frozen=True)
class Search:
    """The result of a search for images that kill.

    Attributes:
        killers: Number of processes that died with each of them, by their position. Those of
            the task that searches count.
        fewest: Number of images that a process survives with, if there are no killers.
    """

    killers: dict[int, int]
    fewest: int


def killed(deaths: int) -> str:
    """Return the `error` of an image that killed processes."""
    return f"it killed the process {deaths} times"


class Child:
    """A process that does some work, and is made again whenever it has died of it.

    It ends with its parent.
    """

    def __init__(self, make: Callable[[], Work]) -> None:
        """Note how to make the work; the process is made when it is first needed."""
        self._make = make
        self._process: Any = None

    def __enter__(self) -> "Child":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._end()

    def search(self, images: int, part: Part) -> Search:
        """Find the images on which the process dies, by halves.

        Args:
            images: Number of images.
            part: Function from positions of images to the arguments of the work on them.

        Raises:
            ResourceError: If the process dies even without an image.
        """
        died, killers, fewest = [deaths()] * images, dict[int, int](), images
        groups = [range(images)] if images else []
        while groups:
            group = groups.pop()
            # Twice for a single image, because a process may die for other reasons.
            for _ in range(2 if len(group) == 1 else 1):
                if self.survives(*part(group)):
                    break
                for position in group:
                    died[position] += 1
            else:
                if len(group) == 1:
                    killers[group[0]] = died[group[0]]
                    continue
                middle = (len(group) + 1) // 2
                fewest = min(fewest, middle)
                groups += [group[middle:], group[:middle]]
        if killers and not self.survives(*part(range(0))):
            raise ResourceError(
                "a process is killed even without an image to work on; it must survive. Most "
                "likely the memory of its node is too small: enlarge the nodes, or request less "
                "at a time under resources. Ray's log of the node says more"
            )
        return Search(killers, fewest)

    def survives(self, *arguments: Any) -> bool:
        """Return whether the process survives the work. An error that it raises is no death."""
        if self._process is None:
            self._start()
        try:
            self._ours.send(arguments)
            self._ours.recv()
        except (EOFError, OSError):
            self._end()
            return False
        return True

    def _start(self) -> None:
        spawn = get_context("spawn")
        self._ours, theirs = spawn.Pipe()
        self._process = spawn.Process(target=_serve, args=(theirs, self._make), daemon=True)
        self._process.start()
        theirs.close()

    def _end(self) -> None:
        if self._process is not None:
            self._ours.close()
            self._process.kill()
            self._process.join()
            self._process = None


def search(images: int, make: Callable[[], Work], part: Part) -> Search:
    """Find the images on which a process dies, in a process that is made for it.

    Args:
        images: Number of images.
        make: Function that makes the work in the new process. It can be pickled, and so can be
            what `part` returns.
        part: As for `Child.search`.

    Raises:
        ResourceError: As for `Child.search`.
    """
    with Child(make) as child:
        return child.search(images, part)


def _serve(connection: Connection, make: Callable[[], Work]) -> None:
    """Do the work in the child, until the parent closes its end."""
    work: Work | None = None
    with suppress(EOFError):
        while True:
            arguments = connection.recv()
            with suppress(Exception):  # the parent meets the same error, and raises it
                work = work or make()
                work(*arguments)
            connection.send(None)

"""Where the time of a run goes, for those who ask: seconds by phase, arithmetic and memory.

``phase`` marks a phase wherever it is in the code and costs nothing while no run is traced. Seconds of a phase are
without those of phases within it, so phases add up. Threads that work ahead, as the decoding of images does, have
their own account.
"""

from __future__ import annotations

import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_SIDE = {"cpu": 2048, "cuda": 8192}  # of the matrices whose product gives the device's rate


@dataclass
class Trace:
    """An account of a run.

    Attributes:
        device: Where it computes; at the ends of each phase, the account waits for it.
        seconds: Phase -> seconds on the thread of the run.
        beside: Phase -> seconds on other threads at the same time.
        images: Images that were trained on, each as often as it was.
        operations: Floating-point operations of training: convolutions, products, attention.
        rounds: Rounds that were trained.
    """

    device: torch.device
    seconds: Counter[str] = field(default_factory=Counter)
    beside: Counter[str] = field(default_factory=Counter)
    images: int = 0
    operations: int = 0
    rounds: int = 0
    _own: threading.Thread = field(default_factory=threading.current_thread)
    _within: threading.local = field(default_factory=threading.local)
    _counted: dict[Hashable, int] = field(default_factory=dict)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Account for what is done in here under a name."""
        own = threading.current_thread() is self._own
        within: list[float] = self._within.__dict__.setdefault("seconds", [])
        begun = self._now(own)
        within.append(0.0)
        try:
            yield
        finally:
            spent = self._now(own) - begun
            (self.seconds if own else self.beside)[name] += spent - within.pop()  # type: ignore[assignment]
            if within:
                within[-1] += spent

    def _now(self, own: bool) -> float:
        """The time when all that was launched is done; a thread beside does not wait for others' work."""
        import torch

        if own and self.device.type == "cuda" and not torch.cuda.is_current_stream_capturing():
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def step(self, key: Hashable, images: int, call: Callable[[], Any]) -> Any:
        """Make a step of training; its operations are counted at the first of each key.

        Args:
            key: Steps of the same key do the same arithmetic.
            images: How many it trains on.
            call: The step.
        """
        from torch.utils.flop_counter import FlopCounterMode

        self.images += images
        if key in self._counted:
            self.operations += self._counted[key]
            return call()
        with FlopCounterMode(display=False) as counter:
            done = call()
        self._counted[key] = int(counter.get_total_flops())
        self.operations += self._counted[key]
        return done

    def told(self) -> dict[str, Any]:
        """The account as JSON values; the device's matrix rate is measured for it."""
        import resource  # not on every system

        import torch

        training = self.seconds["training"] + self.seconds["optimiser"]
        found: dict[str, Any] = {
            "rounds": self.rounds,
            "seconds": {name: round(value, 4) for name, value in self.seconds.most_common()},
            "beside": {name: round(value, 4) for name, value in self.beside.most_common()},
            "peak_host_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
            * (1 if sys.platform == "darwin" else 1024),
        }
        if self.device.type == "cuda":
            found["peak_device_bytes"] = torch.cuda.max_memory_allocated(self.device)
        if self.images and training:
            found["images_per_second"] = round(self.images / training, 2)
        if self.operations and training:
            rate = matrix_rate(self.device)
            found["operations_per_second"] = round(self.operations / training)
            found["share_of_matrix_rate"] = round(self.operations / training / rate, 4)
        return found


_current: Trace | None = None


@contextmanager
def traced(device: torch.device) -> Iterator[Trace]:
    """Trace what is done in here: the phase ``other`` is all that no other phase is.

    Args:
        device: Where it computes.
    """
    global _current
    import torch

    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    before, _current = _current, Trace(device)
    try:
        with _current.phase("other"):
            yield _current
    finally:
        _current = before


@contextmanager
def phase(name: str) -> Iterator[None]:
    """Account for what is done in here, if the run is traced. No ``yield`` of a generator may be inside."""
    if _current is None:
        yield
    else:
        with _current.phase(name):
            yield


def step(key: Hashable, images: int, call: Callable[[], Any]) -> Any:
    """Make a step of training, and account for it if the run is traced; see ``Trace.step``."""
    return call() if _current is None else _current.step(key, images, call)


def end_of_round() -> None:
    """Count a round."""
    if _current is not None:
        _current.rounds += 1


def matrix_rate(device: torch.device) -> float:
    """Floating-point operations a second of a product of large float32 matrices: the best of five."""
    import torch

    side = _SIDE.get(device.type, 2048)
    left, right = torch.ones(2, side, side, device=device).normal_(generator=torch.Generator(device).manual_seed(0))
    best = float("inf")
    for _ in range(5):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begun = time.perf_counter()
        left @ right
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return 2 * side**3 / best

"""Laws of client sizes, shared by the partitioners that set sizes first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from fedrsic_data.errors import UsageError
from fedrsic_data.partition import draws
from fedrsic_data.partition.base import enough, levelled
from fedrsic_data.settings import at_least, positive

Sizes = NDArray[np.int64]

_PARAMETER = {"dirichlet": "beta", "lognormal": "sigma", "power": "exponent", "zipf": "exponent"}
_DEFAULT = {"dirichlet": 0.5, "lognormal": 1.0, "power": 2.0, "zipf": 1.0}


@dataclass(frozen=True)
class Sized:
    """Settings of a partitioner whose client sizes are drawn before anything else.

    Attributes:
        clients: Number of clients.
        sizes: The law, or the sizes themselves, one a client; rows beyond their sum are left out.
            ``even``: N / clients, within one.
            ``dirichlet``: shares ~ Dir(beta, ..., beta).
            ``lognormal``: shares in proportion to exp(sigma * z), z standard normal.
            ``power``: in proportion to Pareto draws, with density x ** -exponent from 1 upwards; exponent > 1.
            ``zipf``: in proportion to rank ** -exponent, the ranks shuffled over the clients.
        beta: Parameter of ``dirichlet`` (0.5); smaller is more skewed.
        sigma: Parameter of ``lognormal`` (1.0); larger is more skewed.
        exponent: Parameter of ``power`` (2.0; smaller is more skewed) and ``zipf`` (1.0; larger is more skewed).
        min_size: Rows every client must have; sizes below it are raised at the cost of the largest.
    """

    clients: int = 10
    sizes: tuple[int, ...] | Literal["even", "dirichlet", "lognormal", "power", "zipf"] = "even"
    beta: float | None = None
    sigma: float | None = None
    exponent: float | None = None
    min_size: int = 1

    def __post_init__(self) -> None:
        at_least("clients", self.clients, 1)
        at_least("min_size", self.min_size, 0)
        law = self.sizes if isinstance(self.sizes, str) else "a list"
        for name in ("beta", "sigma", "exponent"):
            value = getattr(self, name)
            if value is None:
                continue
            if _PARAMETER.get(law) != name:
                laws = " or ".join(known for known, its in _PARAMETER.items() if its == name)
                raise UsageError(f"{name}={value!r} belongs to sizes={laws}, and sizes is {law}; leave {name} out")
            positive(name, value)
        if law == "power" and self._parameter <= 1:
            raise UsageError(f"exponent={self._parameter!r} should be above 1 for sizes=power")
        if isinstance(self.sizes, tuple):
            self._check_list(self.sizes)

    def _check_list(self, sizes: tuple[int, ...]) -> None:
        if len(sizes) != self.clients:
            raise UsageError(f"sizes lists {len(sizes)} clients and clients={self.clients}; make them agree")
        for k, size in enumerate(sizes):
            at_least(f"sizes[{k}]", size, self.min_size)

    @property
    def _parameter(self) -> float:
        law = str(self.sizes)
        given: float | None = getattr(self, _PARAMETER[law])
        return _DEFAULT[law] if given is None else given

    def draw_sizes(self, total: int, rng: np.random.Generator) -> tuple[Sizes, int]:
        """The client sizes.

        Args:
            total: Number of rows.
            rng: A separate generator.

        Returns:
            int64 [clients], which sum to ``total`` unless listed, and the number of rows that the minimum size took
            from larger clients.

        Raises:
            UsageError: There are too few rows for the minimum size or for the listed sizes.
        """
        if isinstance(self.sizes, tuple):
            listed = np.array(self.sizes, np.int64)
            if listed.sum() > total:
                raise UsageError(
                    f"sizes sum to {listed.sum():,} and there are {total:,} images: "
                    f"{listed.sum() - total:,} too few; lower the sizes"
                )
            return listed, 0
        return self.draw_law(total, self.clients, rng)

    def draw_law(self, total: int, clients: int, rng: np.random.Generator) -> tuple[Sizes, int]:
        """As ``draw_sizes`` where ``sizes`` is a law, for any number of clients: those of one domain, say."""
        enough(total, clients, self.min_size)
        if self.sizes == "even":
            base, odd = divmod(total, clients)
            return base + (rng.permutation(clients) < odd), 0
        return _raised(apportion(self._weights(clients, rng), total), self.min_size)

    def _weights(self, clients: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Weights to which sizes are proportional: float64 [clients]; logarithms keep extreme parameters finite."""
        if self.sizes == "dirichlet":
            return np.asarray(draws.dirichlet(self._parameter, 1, clients, rng)[0])
        if self.sizes == "lognormal":
            logs = self._parameter * rng.standard_normal(clients)
        elif self.sizes == "power":
            logs = -np.log1p(-rng.random(clients)) / (self._parameter - 1)
        else:
            logs = -self._parameter * np.log(rng.permutation(clients) + 1.0)
        return np.asarray(np.exp(logs - logs.max()))


def apportion(weights: NDArray[np.floating[Any]], total: int) -> Sizes:
    """Whole numbers in proportion to weights, by largest remainders.

    Args:
        weights: float64 [M], non-negative, not all zero.
        total: Their sum.

    Returns:
        int64 [M], each the floor or the ceiling of its share.
    """
    shares = weights / weights.sum() * total
    base = np.floor(shares).astype(np.int64)
    short = total - int(base.sum())
    base[np.argsort(base - shares, kind="stable")[:short]] += 1
    return np.asarray(base)


def _raised(sizes: Sizes, least: int) -> tuple[Sizes, int]:
    """Sizes of at least ``least`` each with the same sum, and how many rows the largest gave for it."""
    missing = np.maximum(least - sizes, 0)
    need = int(missing.sum())
    return (sizes + missing - levelled(sizes, need), need) if need else (sizes, 0)


def with_nobody(sizes: Sizes, total: int) -> Sizes:
    """Sizes int64 [clients + 1] that sum to ``total``: the last is nobody, who gets the rows left out."""
    return np.append(sizes, total - sizes.sum())


def without_nobody(owner: NDArray[np.int32], clients: int) -> NDArray[np.int32]:
    """Owners int32 [N] with -1 for the rows that nobody got."""
    return np.where(owner == clients, np.int32(-1), owner)

"""Differential privacy by Flower's own modules; see ``config.Privacy``.

Flower draws its noise from NumPy's global generator. If a run asks for noise that repeats, ``seeded`` seeds that
generator while noise is drawn, and puts it back as it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch
from flwr.app import ArrayRecord, ConfigRecord, Message
from flwr.serverapp import Grid
from flwr.serverapp.strategy import DifferentialPrivacyClientSideFixedClipping, FedAvg

from fedtrain.config import Privacy
from fedtrain.engines.flower import wire
from fedtrain.methods.base import State
from fedtrain.seeds import generator

Build = Callable[[ArrayRecord, ConfigRecord], list[Message]]
"""Makes a round's messages from the server's state and the strategy's config for the sites."""


@contextmanager
def seeded(privacy: Privacy, *purpose: str | int) -> Iterator[None]:
    """Within it, noise repeats for the same ``dp.seed`` and purpose; without a seed nothing changes.

    Args:
        privacy: Has the seed.
        purpose: Identifies the noise and its round.
    """
    if privacy.seed is None:
        yield
        return
    before = np.random.get_state()  # noqa: NPY002 - Flower draws from it
    np.random.seed(generator(privacy.seed, "noise", *purpose).initial_seed() % 2**32)  # noqa: NPY002
    try:
        yield
    finally:
        np.random.set_state(before)  # noqa: NPY002


class _Asking(FedAvg):
    """Flower's averaging, every client the same, with clients that were chosen already."""

    def __init__(self, build: Build) -> None:
        super().__init__(weighted_by_key="weight")
        self._build = build

    def configure_train(
        self,
        server_round: int,  # noqa: ARG002
        arrays: ArrayRecord,
        config: ConfigRecord,
        grid: Grid,  # noqa: ARG002
    ) -> Iterable[Message]:
        """The messages of the clients that were chosen."""
        return self._build(arrays, config)


class Central:
    """One round of central privacy: Flower's wrapper says what to clip to, and averages and adds noise."""

    def __init__(self, privacy: Privacy, round_: int, clients: int, build: Build) -> None:
        assert privacy.noise is not None
        self._round, self._privacy = round_, privacy
        self._strategy = DifferentialPrivacyClientSideFixedClipping(
            _Asking(build), privacy.noise, privacy.clipping, max(clients, 1)
        )

    def messages(self, arrays: ArrayRecord, grid: Grid) -> list[Message]:
        """The round's messages."""
        return list(self._strategy.configure_train(self._round, arrays, ConfigRecord(), grid))

    def noisy(self, replies: Sequence[Message], device: torch.device) -> State:
        """The mean of clipped updates with noise for as many as came."""
        self._strategy.num_sampled_clients = len(replies)
        with seeded(self._privacy, self._round):
            arrays, _ = self._strategy.aggregate_train(self._round, replies)
        assert arrays is not None, "there are replies, and none is an error"
        return wire.state(arrays, device)


def spent(privacy: Privacy, releases: Sequence[int], population: int) -> dict[str, Any]:
    """Privacy of a run, as reported by Flower.

    Args:
        privacy: How noise was added.
        releases: Clients in the mean of each round, rounds without any left out.
        population: Clients that can be asked.

    Returns:
        Nothing without privacy; else ``kind`` and ``epsilon`` at ``delta``: of the whole run for central noise, None
        where Flower's accountant is not installed (``pip install 'flwr[dp]'``) or no round took part; of each round a
        client takes part in for local noise.
    """
    if privacy.epsilon is not None:
        return {"privacy": {"kind": "local, a round", "epsilon": privacy.epsilon, "delta": privacy.delta}}
    if privacy.noise is None:
        return {}
    epsilon = _epsilon(privacy, releases, population) if releases and find_spec("dp_accounting") else None
    return {"privacy": {"kind": "central", "epsilon": epsilon, "delta": privacy.delta}}


def _epsilon(privacy: Privacy, releases: Sequence[int], population: int) -> float:
    """By Flower's accountant, without credit for sampling: any client may be in every round."""
    from flwr.supercore import privacy_accounting as accounting
    from flwr.supercore.privacy_accounting.rdp_accountant import RdpAccountant

    config = accounting.PrivacyConfig(
        target_delta=privacy.delta,
        population_size=population,
        sampling_method=accounting.SamplingMethod.NO_AMPLIFICATION,
        neighboring_relation=accounting.NeighboringRelation.ADD_OR_REMOVE_ONE,
    )
    accountant = RdpAccountant(config)
    assert privacy.noise is not None
    for count in releases:
        accountant.compose(
            accounting.GaussianPrivacyEvent(
                noise_multiplier=privacy.noise, sample_size=count, population_size=population
            )
        )
    return float(accountant.get_privacy_spent().epsilon)

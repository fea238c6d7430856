"""Flower's simulation: every client is a node, run by Ray workers on this machine or a cluster."""

from __future__ import annotations

import logging
import os
import socket
import sys
from dataclasses import dataclass, replace
from threading import Event
from typing import Any, ClassVar

from flwr.app import Context as FlowerContext
from flwr.serverapp import Grid, ServerApp

from fedrsic_data import interrupts
from fedrsic_data.errors import FedkitError, UsageError
from fedtrain.config import RunConfig
from fedtrain.engines.base import Outcome, Training
from fedtrain.engines.flower import anywhere, server
from fedtrain.engines.flower.server import Deployment, Link
from fedtrain.engines.flower.site import Node, client_app
from fedtrain.runs.files import CHECKPOINT

_NODES = 256  # most nodes; beyond, a node has several clients


@dataclass(frozen=True)
class Simulation:
    """Trains in Flower's simulation, over nodes that are made for the run; see ``engines.base.Engine``."""

    name: ClassVar[str] = "simulation"
    at_sites: ClassVar[bool] = False

    def check(self, config: RunConfig) -> None:
        """Refuse a config that cannot be simulated.

        Raises:
            UsageError: It holds out a domain, or names a Ray cluster that does not answer.
        """
        server.check(config)
        address = config.flower.ray_address
        if address and address != "auto":
            host, _, port = address.rpartition(":")
            try:  # Ray itself would try for minutes
                socket.create_connection((host, int(port)), timeout=10).close()
            except (OSError, ValueError, OverflowError) as error:
                raise UsageError(f"flower.ray_address={address}: no Ray cluster answers there ({error})") from None

    def run(self, training: Training) -> Outcome:
        """Train round by round; see ``server.Deployment.run``.

        Raises:
            UsageError: The method and the dataset do not work over Flower.
            FedkitError: A worker failed, or the simulation could not be started.
            OutputError: The checkpoint is damaged or belongs to another run, or the disk is full.
        """
        for variable in ("FLWR_TELEMETRY_ENABLED", "RAY_USAGE_STATS_ENABLED", "RAY_ENABLE_UV_RUN_RUNTIME_ENV"):
            os.environ.setdefault(variable, "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
        logging.getLogger("flwr").setLevel(logging.CRITICAL + 1)  # errors are raised, and reported in one line
        import ray
        from flwr.simulation import run_simulation

        context, config = training.context, training.config
        nodes, stop = min(len(context.clients), _NODES), Event()
        shared = Node(
            manifest=anywhere(config.manifest),
            states=str((training.folder / CHECKPOINT / "personal").resolve()),
            cache=str(context.cache.resolve()) if context.cache else None,
            device=config.device,
            simulated=True,
        )
        names, done, failed = context.clients, [], []
        app = ServerApp()

        @app.main()
        def main(grid: Grid, _: FlowerContext) -> None:
            try:
                done.append(Deployment(Link(grid, stop)).run(training))
            except BaseException as error:
                failed.append(error)
                raise

        def place(at: FlowerContext) -> Node:
            own = names[int(at.node_config["partition-id"]) :: nodes]
            return replace(shared, clients=own)

        try:
            _begin(config)
            run_simulation(app, client_app(place), nodes, backend_config=_resources(config))
        except Exception as error:
            if not failed:
                raise FedkitError(f"the simulation broke off ({' '.join(str(error).split())[:300]})") from error
        finally:
            stop.set()
            ray.shutdown()  # also where Flower was stopped before it could
        if failed:
            raise failed[0]
        if not done:
            raise FedkitError("the simulation ended before the run did; run the same command again to resume")
        return done[0]


def _begin(config: RunConfig) -> None:
    """Starts or joins Ray, as Flower would, and takes back the signal handlers that Ray sets."""
    import ray

    address = config.flower.ray_address
    # unasked, Ray would join whatever cluster was last started on this machine
    where: dict[str, Any] = {"address": address} if address else {"address": "local", "include_dashboard": False}
    if not ray.is_initialized():
        path = os.pathsep.join([*sys.path, *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {"env_vars": {"PYTHONPATH": path}}
        ray.init(**where, logging_level=logging.ERROR, log_to_driver=False, runtime_env=environment)
    interrupts.take_back()


def _resources(config: RunConfig) -> Any:
    return {"client_resources": {"num_cpus": config.flower.cpus, "num_gpus": config.flower.gpus}}

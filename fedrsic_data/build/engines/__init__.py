"""Where shards are written: threads of this process, several processes, or a Ray cluster. The bytes are the same."""

from __future__ import annotations

from importlib.util import find_spec

from fedrsic_data.build.engines.base import BuildEngine
from fedrsic_data.build.engines.processes import Processes
from fedrsic_data.build.engines.threads import Threads
from fedrsic_data.distribution import install
from fedrsic_data.errors import UsageError
from fedrsic_data.settings import at_least

ENGINES = ("local", "ray")

_MOST = 1024  # processes


def chosen(name: str = "local", jobs: int | None = None, ray_address: str | None = None) -> BuildEngine:
    """The engine for command-line options.

    Args:
        name: One of ``ENGINES``.
        jobs: Processes of ``local``, of which 1 is threads of this one; CPUs of a Ray that is started for this build.
        ray_address: A running Ray cluster, ``HOST:PORT`` or ``auto``.

    Raises:
        UsageError: The options do not fit each other, or Ray is not installed.
    """
    if name not in ENGINES:
        raise UsageError(f"--engine {name}: should be one of {', '.join(ENGINES)}")
    if jobs is not None:
        if type(jobs) is not int:
            raise UsageError(f"--jobs={jobs!r} should be a whole number")
        at_least("--jobs", jobs, 1)
        if jobs > _MOST:
            raise UsageError(f"--jobs {jobs} should be at most {_MOST:,}")
    if ray_address == "":
        raise UsageError("--ray-address '': is empty; give HOST:PORT of a cluster's head, or auto")
    if name == "local":
        if ray_address is not None:
            raise UsageError(f"--ray-address {ray_address}: works only with --engine ray; add it, or leave this out")
        return Threads() if jobs in (None, 1) else Processes(jobs or 1)
    if find_spec("ray") is None:
        raise UsageError(f"--engine ray: Ray is not installed; {install('ray')}")
    if jobs is not None and ray_address is not None:
        raise UsageError(f"--jobs {jobs}: the cluster at {ray_address} has its own CPUs; leave --jobs out")
    from fedrsic_data.build.engines.ray import Ray

    return Ray(ray_address, jobs)

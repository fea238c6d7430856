"""A federation of real sites: the app for ``flwr run``, and its server and site functions.

The app holds no code of its own. Server and sites have fedkit installed, and the app's modules import it.
"""

from __future__ import annotations

import json
import shlex
import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrsic_data.answer import Shown, plain, together
from fedrsic_data.errors import FedkitError, OutputError, UsageError, translated
from fedrsic_data.files import atomic, ownership
from fedrsic_data.settings import local
from fedtrain.engines.flower import anywhere

PACKAGE = "fedkit_federation"
OURS = "fedkit: "
"""Begins the lines of a server's log that are ours."""

_SERVER = '''"""The server's side."""

from fedrsic_data.files.cache import cache_folder
from fedtrain.federation.app import server_app

app = server_app(cache_folder())
'''
_SITE = '''"""The side of a site."""

from fedrsic_data.files.cache import cache_folder
from fedtrain.federation.app import site_app

app = site_app(cache_folder())
'''
_PROJECT = """# A federation, for: flwr run
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "{name}"
version = "1.0.0"
description = "A federation of fedkit; its server and sites have fedrsic[flower] installed."
license = "Apache-2.0"
dependencies = []

[tool.hatch.build.targets.wheel]
packages = ["."]

[tool.flwr.app]
publisher = "fedkit"

[tool.flwr.app.components]
serverapp = "{package}.server:app"
clientapp = "{package}.site:app"

[tool.flwr.app.config]
{config}
"""


@dataclass(frozen=True)
class Wanted:
    """Settings of a federation; ``flwr run --run-config`` changes any of them.

    Attributes:
        method: Name of a method.
        manifest: The server's own: ``server/manifest.json`` of ``fedkit split-sites``, or the whole dataset.
        subset: Which subset; empty: all.
        sets: ``key=value`` texts, as words of a shell.
        out: The run's folder, on the server.
        overwrite: Replace an existing run.
    """

    method: str = "fedpgp"
    manifest: str = ""
    subset: str = ""
    sets: str = ""
    out: str = ""
    overwrite: bool = False


def write_app(
    folder: Path,
    method: str,
    manifest: str,
    subset: str | None,
    sets: Sequence[str],
    out: Path | None,
    *,
    overwrite: bool = False,
) -> Shown:
    """Write the app, and report the next steps.

    Args:
        folder: Folder to create.
        method: Name of a method.
        manifest: The server's: a built ``manifest.json`` or its folder, or ``hf://USER/NAME[@REVISION]``.
        subset: Which subset; None: all.
        sets: ``key=value`` texts; see ``config.changed``.
        out: The run's folder; None: one named like the app, in ``runs`` beside it.
        overwrite: Replace an existing app.

    Raises:
        UsageError: There is no such method, subset or setting, or a folder is an address.
        ManifestError: The dataset cannot be read.
        OutputError: The folder holds something else, or cannot be written.
    """
    from fedtrain import resolve, run

    local("folder", folder)
    local("--out", out or "")
    for config in run.configs(method, manifest, [subset] if subset else [], sets):
        resolve.prepared(config)  # report impossible settings now
    wanted = Wanted(
        method,
        anywhere(manifest),
        subset or "",
        shlex.join(sets),
        str((out or folder.parent / "runs" / folder.absolute().name).resolve()),
    )
    entries = "\n".join(f"{key} = {_toml(value)}" for key, value in vars(wanted).items())
    project = _PROJECT.format(name=PACKAGE.replace("_", "-"), package=PACKAGE, config=entries)
    files = {  # the project first: it says whose the rest is
        "pyproject.toml": project,
        f"{PACKAGE}/__init__.py": '"""A federation of fedkit."""\n',
        f"{PACKAGE}/server.py": _SERVER,
        f"{PACKAGE}/site.py": _SITE,
    }
    with translated(OutputError, str(folder), "cannot be written", "choose another folder"):
        _ours(folder, files)
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            path = folder / name
            if path.exists() and path.read_bytes() != text.encode() and not overwrite:
                raise OutputError(f"{folder}: holds another app; choose another folder, or replace it with --overwrite")
        for name, text in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            with atomic.replacing(folder / name) as file:
                file.write(text.encode())
    words = [f"{folder}: the app of {method} on {manifest}", f"  its run will be in {wanted.out}, on the server"]
    words += ["next:", f"  fedkit flower run {shlex.quote(str(folder))} CONNECTION"]
    return Shown({"app": str(folder), **vars(wanted)}, together(words))


def _ours(folder: Path, files: Collection[str]) -> None:
    """Refuses a folder that holds anything but an app of fedkit, so that nothing else is written over.

    Python keeps what it compiled of an app in ``__pycache__``, which is left alone.
    """
    if not folder.exists():
        return
    ours = ownership.only(files)
    known = ours if _is_app(folder / "pyproject.toml") else ownership.only([])
    compiled = f"{PACKAGE}/__pycache__/"
    if found := ownership.foreign(folder, lambda name: known(name) or (known is ours and name.startswith(compiled))):
        raise OutputError(f"{folder}: is not empty and holds no fedkit app ({found.name}); choose another folder")


def _is_app(path: Path) -> bool:
    if not path.is_file() or path.is_symlink():
        return False
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
        return bool(
            data["tool"]["flwr"]["app"]["publisher"] == "fedkit"
            and PACKAGE in data["tool"]["flwr"]["app"]["components"]["serverapp"]
        )
    except (ValueError, LookupError, TypeError):
        return False


def _toml(value: str | bool) -> str:
    """A value as TOML spells it: as JSON, but with characters beyond the first plane as they are."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def server_app(cache: Path) -> Any:
    """Flower's app of the server: trains what the run's config says, over the nodes that are there.

    Args:
        cache: Folder for results that can be recomputed.
    """
    from flwr.app import Context
    from flwr.serverapp import Grid, ServerApp

    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        from fedtrain import run
        from fedtrain.engines.flower.server import Deployment, Link
        from fedtrain.progress import Listener
        from fedtrain.runs.results import story

        def tell(words: str) -> None:
            print(OURS + plain(words), flush=True)

        changed: Mapping[str, Any] = context.run_config
        wanted = Wanted(**{key: type(value)(changed[key]) for key, value in vars(Wanted()).items()})
        listener = Listener(
            say=tell,
            note=tell,
            round=lambda line, total: tell(
                f"round {line['round']} of {total}: {line['clients']} clients, loss {line['loss']}"
            ),
        )
        try:
            results = run.train_all(
                run.configs(
                    wanted.method, wanted.manifest, [wanted.subset] if wanted.subset else [], shlex.split(wanted.sets)
                ),
                Path(wanted.out),
                overwrite=wanted.overwrite,
                cache=cache,
                listener=listener,
                engine=Deployment(Link(grid)),
            )
        except FedkitError as error:
            tell(f"error: {error}")
            raise
        for result in results:
            tell(f"{result.folder}, on the server: {story(result)}")
        tell(f"next, on the server: fedkit compare {shlex.quote(wanted.out)}")

    return app


def site_app(cache: Path) -> Any:
    """Flower's app of a site; the node's own config says which dataset it has.

    Args:
        cache: Folder for results that can be recomputed, unless the node's config names one.
    """
    from flwr.app import Context

    from fedtrain.engines.flower.site import Node, client_app

    def place(context: Context) -> Node:
        told: Mapping[str, Any] = context.node_config
        known = ("manifest", "client", "state-dir", "cache-dir", "device")
        if not told.get("manifest"):
            raise UsageError("the node's config has no manifest; start it with --node-config 'manifest=\"PATH\"'")
        for key in told:
            if key not in known and not key.startswith(("partition-id", "num-partitions")):
                raise UsageError(f"the node's config: unknown key {key!r}; known: {', '.join(known)}")
        for key in ("state-dir", "cache-dir"):
            local(f"the node's config: {key}", str(told.get(key, "")))
        return Node(
            manifest=str(told["manifest"]),
            clients=tuple(str(told["client"]).split(",")) if told.get("client") else (),
            states=str(told["state-dir"]) if told.get("state-dir") else None,
            cache=str(told.get("cache-dir") or cache),
            device=str(told.get("device", "cpu")),
            several=True,
        )

    return client_app(place)

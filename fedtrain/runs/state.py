"""States on disk, and the personal states of clients: in memory or not, always restorable."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fedrsic_data.errors import OutputError
from fedrsic_data.files.atomic import write
from fedtrain.methods.base import State
from fedtrain.methods.lazy import torch
from fedtrain.runs.files import PERSONAL

_META = "fedkit"


def save_state(path: Path, state: State, facts: Mapping[str, Any]) -> None:
    """Writes tensors and facts about them as one safetensors file, atomically.

    Args:
        path: The file.
        state: Tensors by name, on any device; their order is kept.
        facts: Plain JSON values.
    """
    from safetensors.torch import save

    # copies: the rows of a stacked cohort share their memory, and safetensors refuses that
    tensors = {name: value.detach().to("cpu", copy=True).contiguous() for name, value in state.items()}
    meta = {"facts": json.dumps(facts), "order": json.dumps(list(state))}
    meta["sha256"] = _digest(tensors, meta)
    # under one key: safetensors writes several in an order of chance
    write(path, save(tensors, {_META: json.dumps(meta)}))


def load_state(path: Path, device: torch.device) -> tuple[State, dict[str, Any]]:
    """Load the tensors that ``save_state`` wrote.

    Raises:
        OutputError: It is missing, truncated or no such file.
    """
    with _opened(path) as file:
        meta = _meta(file)
        facts = json.loads(meta["facts"])
        tensors = {name: file.get_tensor(name) for name in json.loads(meta["order"])}
        whole = _digest(tensors, meta) == meta["sha256"]
    if not whole:
        raise OutputError(f"{path}: is damaged (its digest differs); start the run anew with --overwrite")
    return placed(tensors, device), facts


def facts_of(path: Path) -> dict[str, Any]:
    """The facts that ``save_state`` wrote, without the tensors.

    Raises:
        OutputError: It is missing, truncated or no such file.
    """
    with _opened(path) as file:
        facts: dict[str, Any] = json.loads(_meta(file)["facts"])
    return facts


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; what is wrong with it is one line."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (OSError, SafetensorError, KeyError, TypeError, ValueError) as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise OutputError(f"{path}: is missing or damaged ({words}); start the run anew with --overwrite") from None


def _meta(file: Any) -> dict[str, str]:
    meta: dict[str, str] = file.metadata()
    return json.loads(meta[_META]) if _META in meta else meta  # as before 0.2


def _digest(tensors: State, meta: Mapping[str, str]) -> str:
    """sha256 of tensors on the CPU, in their order, and of what is said about them."""
    found = hashlib.sha256(f"{meta['facts']} {meta['order']} ".encode())
    for value in tensors.values():
        found.update(f"{value.dtype} {tuple(value.shape)} ".encode())
        found.update(value.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def placed(state: State, device: torch.device) -> State:
    """The state on a device."""
    return {name: value.to(device) for name, value in state.items()}


class PersonalStore:
    """The personal states of clients, by client number.

    Only clients that trained have one here; the others still have the one they started with. Each state is in its
    own file, named by client and round, so that an older one stays until a checkpoint names the newer. In memory,
    files are written at checkpoints; on disk, they are written at once and nothing is kept.
    """

    def __init__(
        self,
        folder: Path,
        initial: Callable[[int], State],
        device: torch.device,
        *,
        in_memory: bool,
        rounds: Mapping[int, int] | None = None,
        key: str = "",
        only: int | None = None,
        prune: bool = True,
    ) -> None:
        """Goes on where a checkpoint left off.

        Args:
            folder: Where the files are; made if need be.
            initial: The state a client starts with.
            device: Where states are wanted.
            in_memory: Keep states in memory between rounds.
            rounds: From a checkpoint: client -> the round its state is of.
            key: Digest of what the run is; a state of another run is refused.
            only: The one client whose states this is about; those of others in the folder are left alone.
            prune: Remove the files of other states. Not where ``rounds`` are ahead of the newest checkpoint.
        """
        self._folder = folder
        self._initial = initial
        self._device = device
        self._in_memory = in_memory
        self._key = key
        self._own = "client-" if only is None else f"client-{only:05d}-round-"
        self._rounds = dict(rounds or {})
        self._held: dict[int, State] = {}
        self._unsaved: set[int] = set()
        folder.mkdir(parents=True, exist_ok=True)
        if prune:
            self.prune()

    def get(self, client: int) -> State:
        """A client's state, not to be changed in place.

        Raises:
            OutputError: Its file is gone or damaged.
        """
        if client not in self._rounds:
            return placed(self._initial(client), self._device)
        if client not in self._held:
            state, facts = load_state(self._path(client), self._device)
            if facts != self._facts(client):
                raise OutputError(
                    f"{self._path(client)}: is the state of another client, round or run; "
                    "start the run anew with --overwrite"
                )
            if not self._in_memory:
                return state
            self._held[client] = placed(state, torch.device("cpu"))
        return placed(self._held[client], self._device)

    def put(self, client: int, state: State, round_: int) -> None:
        """Keeps the state a client has after a round; an empty one is nothing to keep."""
        if not state:
            return
        self._rounds[client] = round_
        if self._in_memory:
            # a copy in the host's memory: a row of a stacked cohort would keep all of the stack
            self._held[client] = {name: value.detach().to("cpu", copy=True) for name, value in state.items()}
            self._unsaved.add(client)
        else:
            save_state(self._path(client), state, self._facts(client))

    def flush(self) -> dict[int, int]:
        """Sees that all states are on disk.

        Returns:
            Client -> the round its state is of, for the checkpoint.
        """
        for client in sorted(self._unsaved):
            save_state(self._path(client), self._held[client], self._facts(client))
        self._unsaved.clear()
        return dict(self._rounds)

    def prune(self) -> None:
        """Removes the files that the newest checkpoint does not name; call it once that checkpoint is written."""
        named = {self._path(client).name for client in self._rounds}
        for path in self._folder.glob(f"{self._own}*"):
            if path.name not in named and PERSONAL.fullmatch(path.name) and not path.is_symlink():
                path.unlink()

    def _facts(self, client: int) -> dict[str, Any]:
        return {"key": self._key, "client": client, "round": self._rounds[client]}

    def _path(self, client: int) -> Path:
        return self._folder / f"client-{client:05d}-round-{self._rounds[client]:05d}.safetensors"

"""Puts a dataset into a repository of the Hub: bytes first, then one commit that changes everything at once.

Shards are uploaded before anything refers to them, and a single commit then adds them together with manifest and card
and removes what is stale. So there is no moment, and no way to be interrupted, at which a repository shows a manifest
whose shards are others or are not there. What was uploaded before an interruption is not sent again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedrsic_data.dataset import manifest
from fedrsic_data.dataset.hub import TIMEOUT, Address, lost, patiently, response, speaking
from fedrsic_data.errors import HubError, UsageError

if TYPE_CHECKING:
    from huggingface_hub import CommitOperationAdd, HfApi

_AT_ONCE = 50  # files uploaded between two words of progress
_MOST = 20_000  # files that the Hub takes in one commit: 25,000, with some room
_HARMLESS = {".gitattributes", ".gitignore", "README.md", "LICENSE"}  # what a new repository may hold
_ABSENT = 404


@dataclass(frozen=True)
class Target:
    """Where to publish.

    Attributes:
        repo: ``user/name``.
        revision: The branch, made if need be; None: the main one.
        private: Make the repository private if it is new.
        create_pr: Open a pull request instead of changing the branch.
    """

    repo: str
    revision: str | None = None
    private: bool = False
    create_pr: bool = False

    @property
    def address(self) -> Address:
        """The same as an address."""
        return Address(self.repo, self.revision)


@dataclass(frozen=True)
class Item:
    """A file to publish: its path in the repository, its bytes or where they are, their number and sha256."""

    path: str
    source: bytes | Path
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Changes:
    """Changes to make to a repository.

    Attributes:
        head: The commit that it is at; None if it is not there yet.
        send: Files to add or replace.
        delete: Paths of stale files.
    """

    head: str | None
    send: tuple[Item, ...]
    delete: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.send or self.delete)


@dataclass(frozen=True)
class Sent:
    """Result of a publication.

    Attributes:
        changes: What was done; false where nothing had to be.
        commit: Where the dataset is; None for a pull request.
        pull_request: Its address, where one was opened.
    """

    changes: Changes
    commit: str | None
    pull_request: str | None = None


def plan(target: Target, items: Iterable[Item]) -> Changes:
    """Compares with what the repository holds; changes nothing.

    Raises:
        UsageError: The repository holds something that fedkit did not publish.
        HubError: The Hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    return patiently(lambda: _plan(HfApi(), target, list(items)))


def send(
    target: Target,
    items: Iterable[Item],
    tag: str,
    message: str,
    progress: Callable[[int, int], None] = lambda _done, _total: None,
) -> Sent:
    """Makes the repository hold these files, and names the commit.

    What passes is tried again; if the branch moved meanwhile, the new state is looked at first.

    Args:
        target: Where to.
        items: All files of the dataset.
        tag: Name for the commit; taken over from an older commit that has it.
        message: Title of the commit.
        progress: Called with ``(bytes uploaded, bytes to upload)``.

    Raises:
        UsageError: The repository holds something that fedkit did not publish.
        HubError: The Hub cannot be reached, or refuses.
    """
    from huggingface_hub import HfApi

    api, wanted = HfApi(), list(items)
    made: dict[str, CommitOperationAdd] = {}  # they remember what was uploaded already

    def attempt() -> Sent:
        changes = _plan(api, target, wanted)
        if changes.head is None:
            with speaking(target.address):
                _make(api, target)
            changes = _plan(api, target, wanted)
        if not changes:
            return Sent(changes, changes.head)
        with speaking(target.address):
            return _commit(api, target, changes, made, message, progress)

    sent = patiently(attempt, whatever_it_took=True)
    if sent.commit is not None:
        patiently(lambda: _tag(api, target, tag, sent.commit or ""))
    return sent


def _plan(api: HfApi, target: Target, items: list[Item]) -> Changes:
    if len(items) > _MOST:
        raise UsageError(
            f"{target.repo}: {len(items):,} files are too many for the Hub; pack the clients: --set layout.files=packed"
        )
    with speaking(target.address):
        head = _head(api, target)
        if head is None:
            return Changes(None, tuple(items), ())
        tree = api.list_repo_tree(target.repo, repo_type="dataset", revision=head, recursive=True)
        there = {entry.path: entry for entry in tree if hasattr(entry, "blob_id")}
        _ours(api, target, head, there)
    kept = {item.path for item in items}
    stale = (path for path in there if path not in kept and _is_ours(path))
    changed = tuple(item for item in items if not _same(item, there.get(item.path)))
    return Changes(head, changed, tuple(sorted(stale)))


def _head(api: HfApi, target: Target) -> str | None:
    """The commit that the branch is at; None where repository or branch are not there.

    Raises:
        UsageError: The repository should be private, and is not.
    """
    try:
        info = api.dataset_info(target.repo, revision=target.revision, expand=["sha", "private"], timeout=TIMEOUT)
    except Exception as error:
        if getattr(response(error), "status_code", None) == _ABSENT:
            return None
        raise
    if target.private and info.private is False:
        raise UsageError(f"--private: {target.repo} is public already; change that in its settings, or leave it out")
    return info.sha


def _make(api: HfApi, target: Target) -> None:
    """Makes the repository, the branch, or both, whichever is not there; a branch begins where the main one is."""
    if _head(api, replace(target, revision=None)) is None:
        api.create_repo(target.repo, repo_type="dataset", private=target.private or None, exist_ok=True)
    if target.revision is not None and not target.revision.startswith("refs/"):
        api.create_branch(target.repo, branch=target.revision, repo_type="dataset", exist_ok=True)


def _ours(api: HfApi, target: Target, head: str, there: Mapping[str, Any]) -> None:
    """Refuses to write over what fedkit did not publish."""
    if not set(there) - _HARMLESS:
        return
    foreign = UsageError(f"--repo {target.repo}: exists, but is not a fedkit dataset; choose another --repo")
    if manifest.NAME not in there:
        raise foreign
    path = api.hf_hub_download(target.repo, manifest.NAME, repo_type="dataset", revision=head)
    try:
        data = json.loads(Path(path).read_bytes())
    except ValueError:
        raise foreign from None
    if not isinstance(data, dict) or "fedkit" not in data:
        raise foreign


def _is_ours(path: str) -> bool:
    """Whether it is of the kinds of files that a publication writes, and readers would take for part of it."""
    return path.endswith(".parquet") or (path.startswith("figures/") and path.endswith(".png"))


def _same(item: Item, there: Any) -> bool:
    if there is None or there.size != item.bytes:
        return False
    if there.lfs is not None:
        return bool(there.lfs.sha256 == item.sha256)
    data = item.source if isinstance(item.source, bytes) else item.source.read_bytes()
    return bool(there.blob_id == hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest())


def _commit(
    api: HfApi,
    target: Target,
    changes: Changes,
    made: dict[str, CommitOperationAdd],
    message: str,
    progress: Callable[[int, int], None],
) -> Sent:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete

    for item in changes.send:
        if item.path not in made:
            source = item.source if isinstance(item.source, bytes) else str(item.source)
            made[item.path] = CommitOperationAdd(path_in_repo=item.path, path_or_fileobj=source)
    adding = [made[item.path] for item in changes.send]
    total, done = sum(item.bytes for item in changes.send), 0
    where: dict[str, Any] = {
        "repo_id": target.repo,
        "repo_type": "dataset",
        "revision": target.revision,
        "create_pr": target.create_pr,
    }
    for start in range(0, len(adding), _AT_ONCE):
        api.preupload_lfs_files(additions=adding[start : start + _AT_ONCE], free_memory=False, **where)
        done += sum(item.bytes for item in changes.send[start : start + _AT_ONCE])
        progress(done, total)
    deleting = [CommitOperationDelete(path_in_repo=path) for path in changes.delete]
    try:
        info = api.create_commit(
            operations=[*adding, *deleting], commit_message=message, parent_commit=changes.head, **where
        )
    except Exception as error:
        if target.create_pr and lost(error):  # a further try might open a second one
            raise HubError(
                f"{target.address}: the connection broke while the pull request was opened; check whether it exists "
                "before running this again"
            ) from None
        raise
    return Sent(changes, None, info.pr_url) if target.create_pr else Sent(changes, info.oid)


def _tag(api: HfApi, target: Target, tag: str, commit: str) -> None:
    """Names a commit; another one that had the name loses it."""
    with speaking(target.address):
        refs = api.list_repo_refs(target.repo, repo_type="dataset")
        at = {ref.name: ref.target_commit for ref in refs.tags}.get(tag)
        if at == commit:
            return
        if at is not None:
            api.delete_tag(target.repo, tag=tag, repo_type="dataset")
        api.create_tag(target.repo, tag=tag, revision=commit, repo_type="dataset", exist_ok=True)

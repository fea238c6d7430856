"""Parquet mirrors on the Hugging Face Hub, pinned to a commit."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fedrsic_data.errors import DownloadError, discreet
from fedrsic_data.files import atomic
from fedrsic_data.files.cache import caching
from fedrsic_data.sources.base import HubMirror

_CARD = "README.md"  # says which files are of which config and split
_ASKED = ".card-asked"
_COMMIT = re.compile(r"[0-9a-f]{40}")


def mirror(repo: HubMirror, cache: Path, *, offline: bool = False) -> Path:
    """The Parquet files of a dataset repository, downloaded once.

    A mirror without a pinned revision is resolved at first use; the commit is recorded in
    ``revisions.json`` beside the files and kept to from then on.

    Args:
        repo: The repository and its commit.
        cache: Folder of the source in the cache.
        offline: Use only what is there.

    Returns:
        A folder of Parquet files.

    Raises:
        DownloadError: The repository cannot be reached, or holds no Parquet files.
    """
    with caching(DownloadError, cache):
        return _mirror(repo, cache, offline)


def _mirror(repo: HubMirror, cache: Path, offline: bool) -> Path:
    atomic.refuse_pipes(cache)
    record = cache / "revisions.json"
    known = _commits(record)
    revision = repo.revision or known.get(repo.repo)
    if revision is not None:
        folder = _folder(cache, repo.repo, revision)
        if folder.is_dir():
            return folder
    if offline:
        raise DownloadError(f"hf://{repo.repo}: not in the cache and --offline is set")
    commit = _resolve(repo.repo, revision)
    folder = _folder(cache, repo.repo, commit)
    if not folder.is_dir():
        _download(repo.repo, commit, folder)
    known[repo.repo] = commit
    atomic.write(record, (json.dumps(known, indent=1, sort_keys=True) + "\n").encode())
    return folder


def card(repo: HubMirror | None, folder: Path) -> None:
    """Download a dataset's README if it is missing, since earlier downloads left it out.

    Args:
        repo: The repository.
        folder: From ``mirror``.

    Raises:
        DownloadError: The Hub cannot be reached.
    """
    if repo is None or (folder / _ASKED).exists() or (folder / _CARD).exists():
        return
    with _asking(f"{repo.repo}@{folder.name.rpartition('@')[2]}", "README.md cannot be fetched"):
        _fetch(repo.repo, folder.name.rpartition("@")[2], [_CARD], folder)


@contextmanager
def _asking(where: str, problem: str, fix: str = "") -> Iterator[None]:
    """Report whatever the Hub's client raises, its own errors and the HTTP library's, in one line."""
    try:
        yield
    except Exception as error:
        raise DownloadError(f"hf://{where}: {problem} ({discreet(error)}){fix}") from None


def _fetch(repo: str, commit: str, patterns: list[str], folder: Path) -> None:
    from huggingface_hub import snapshot_download

    snapshot_download(repo, repo_type="dataset", revision=commit, allow_patterns=patterns, local_dir=folder)
    (folder / _ASKED).touch()


def _commits(record: Path) -> dict[str, str]:
    """The recorded commit of each repository."""
    try:
        known = json.loads(record.read_text("utf-8"))
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        known = None
    if not isinstance(known, dict) or not all(isinstance(commit, str) for commit in known.values()):
        raise DownloadError(f"{record}: not a record of repositories and commits; remove it")
    return known


def _folder(cache: Path, repo: str, revision: str) -> Path:
    return cache / f"{repo.replace('/', '--')}@{revision}"


def _resolve(repo: str, revision: str | None) -> str:
    with _asking(repo, "cannot be reached"):
        from huggingface_hub import HfApi  # it reads its settings, which may be wrong

        commit = HfApi().dataset_info(repo, revision=revision, timeout=30).sha
    if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):  # it becomes part of a path
        raise DownloadError(f"hf://{repo}: the Hub has no commit for revision {revision!r}")
    return commit


def _download(repo: str, commit: str, folder: Path) -> None:
    partial = folder.with_name(folder.name + ".incomplete")
    with _asking(f"{repo}@{commit}", "download failed", "; run it again to resume"):
        _fetch(repo, commit, ["*.parquet", "**/*.parquet", _CARD], partial)
    if not any(partial.rglob("*.parquet")):
        raise DownloadError(f"hf://{repo}@{commit}: holds no Parquet files; name another mirror")
    os.replace(partial, folder)

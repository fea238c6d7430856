"""``fedkit publish``: prove, describe, send, and say how to load it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fedrsic_data.answer import Shown, together
from fedrsic_data.build.verify import verify
from fedrsic_data.dataset.hub import address, is_revision, speaking
from fedrsic_data.dataset.reader import Dataset
from fedrsic_data.errors import HubError, UsageError, VerificationError
from fedrsic_data.publish.contents import Contents, contents
from fedrsic_data.publish.rebuild import command
from fedrsic_data.publish.upload import Changes, Sent, Target, plan, send

_LISTED = 20  # files of a dry run that are shown to a person


@dataclass(frozen=True)
class PublishListener:
    """Receives progress. The default ignores every call.

    Attributes:
        step: Called with a description of the next step.
        verified: Called with ``(bytes verified, total bytes)``.
        uploaded: Called with ``(bytes uploaded, bytes to upload)``.
    """

    step: Callable[[str], None] = lambda _: None
    verified: Callable[[int, int], None] = lambda _done, _total: None
    uploaded: Callable[[int, int], None] = lambda _done, _total: None


def publish(
    path: Path,
    target: Target,
    *,
    reference_only: bool = False,
    redistribute: bool = False,
    dry_run: bool = False,
    listener: PublishListener = PublishListener(),
) -> Shown:
    """Publishes a built dataset; one that is there already costs a few questions and nothing else.

    Args:
        path: Its ``manifest.json`` or folder.
        target: Where to.
        reference_only: Who has which image, without the images.
        redistribute: The images too, though a source does not say that they may be published again.
        dry_run: Only say what would be sent.
        listener: Receives progress.

    Raises:
        UsageError: The repository's name cannot be one, or it holds something else.
        VerificationError: The dataset is not what its manifest says.
        HubError: The Hub cannot be reached, or refuses.
    """
    if address(target.repo).repo != target.repo:
        raise UsageError(f"--repo {target.repo}: should look like USER/NAME")
    if target.revision is not None and not is_revision(target.revision):
        raise UsageError(
            f"--revision {target.revision!r}: should be a branch of letters, digits, '.', '_', '-' and '/'"
        )
    if target.create_pr and target.revision is not None:
        raise UsageError(
            f"--revision {target.revision}: a pull request is opened against the main branch; leave it out"
        )
    with speaking(target.address):
        from huggingface_hub import get_token

        stranger = get_token() is None
    if stranger and not dry_run:
        raise HubError(f"{target.address}: you are not logged in to the Hub; run: hf auth login, or set HF_TOKEN")
    listener.step(f"verifying {path}")
    _, problems = verify(path, listener.verified)
    if problems:
        raise VerificationError(f"{path}: {problems[0].file} {problems[0].words}; see: fedkit verify {path}")
    what = contents(Dataset(path), target.repo, reference_only=reference_only, redistribute=redistribute)
    if what.kept_back:
        listener.step(
            f"publishing without images: no licence is known to let {', '.join(what.kept_back)} be published again "
            "(--redistribute, if you hold the right to)"
        )
    if dry_run:
        return _planned(target, what, plan(target, what.items))
    listener.step(f"comparing with {target.address}")
    sent = send(target, what.items, what.tag, f"{what.manifest.name}, {what.tag}", listener.uploaded)
    return _sent(target, what, sent)


def _facts(target: Target, what: Contents, changes: Changes) -> dict[str, Any]:
    return {
        "repo": target.repo,
        "reference": what.manifest.reference,
        "kept_back": list(what.kept_back),
        "digest": what.manifest.digest,
        "plan": what.manifest.plan.digest,
        "tag": what.tag,
        "sent": [{"path": item.path, "bytes": item.bytes} for item in changes.send],
        "deleted": list(changes.delete),
    }


def _planned(target: Target, what: Contents, changes: Changes) -> Shown:
    data = {"dry_run": True, **_facts(target, what, changes)}
    size = sum(item.bytes for item in changes.send)
    lines = [f"{target.address}: {len(changes.send)} files of {size / 1e6:,.1f} MB would be sent, nothing was"]
    lines += [f"  {item.path}  {item.bytes:,} bytes" for item in changes.send[-_LISTED:]]
    lines += [f"  ... and {len(changes.send) - _LISTED} more"] if len(changes.send) > _LISTED else []
    lines += [f"  {path}  would be removed" for path in changes.delete]
    return Shown(data, together(lines))


def _sent(target: Target, what: Contents, sent: Sent) -> Shown:
    changes, first = sent.changes, next(iter(what.manifest.subsets))
    data = {**_facts(target, what, changes), "commit": sent.commit, "pull_request": sent.pull_request}
    size = sum(item.bytes for item in changes.send)
    done = f"{len(changes.send)} files, {size / 1e6:,.1f} MB" if changes else "was already published, nothing sent"
    lines = [f"{target.address}: {done}" + (f", {len(changes.delete)} removed" if changes.delete else "")]
    if sent.pull_request is not None:
        return Shown(data, together([*lines, "next:", f"  merge {sent.pull_request}"]))
    lines += [f"  commit {sent.commit}, tag {what.tag}", "next:"]
    if what.manifest.reference:
        lines += [f"  {command(what.manifest.recipe, str(target.address))}", f"  fedkit inspect {target.address}"]
    else:
        at = f", revision={target.revision!r}" if target.revision else ""
        code = f"from datasets import load_dataset; load_dataset({target.repo!r}, {first!r}{at})"
        lines += [f'  python -c "{code}"', f"  fedkit inspect {target.address}"]
    return Shown(data, together(lines))

"""Contents of a Hub repository: the dataset's files, a card for the Hub, and a manifest that lists them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from dataclasses import dataclass

from fedrsic_data.dataset import manifest
from fedrsic_data.dataset.manifest import File, Manifest
from fedrsic_data.dataset.reader import Dataset
from fedrsic_data.errors import UsageError
from fedrsic_data.publish import card, croissant
from fedrsic_data.publish.upload import Item
from fedrsic_data.report import figures

CROISSANT = "croissant.json"


@dataclass(frozen=True)
class Contents:
    """A dataset as it is published.

    Attributes:
        manifest: With the card's digest, and the mark of a reference.
        items: All files, shards first, manifest and card last.
        tag: Name for the commit: the beginning of the plan's digest.
        kept_back: Titles of the sources whose images are not among the files because they must not be.
    """

    manifest: Manifest
    items: tuple[Item, ...]
    tag: str
    kept_back: tuple[str, ...] = ()


def contents(dataset: Dataset, repo: str, *, reference_only: bool, redistribute: bool) -> Contents:
    """The files to publish of a dataset.

    Images go with it if all of its sources may be published again, or if ``redistribute`` says that they may.

    Args:
        dataset: Verified.
        repo: ``user/name``.
        reference_only: No images, whatever the sources.
        redistribute: Images, whatever the sources.

    Raises:
        UsageError: Both are wanted, or images of a dataset that has none.
    """
    built = dataset.manifest
    barred = tuple(source.title for source in built.sources.values() if not source.redistributable)
    if reference_only and redistribute:
        raise UsageError("--reference-only and --redistribute contradict each other; give one of them")
    if redistribute and built.reference:
        raise UsageError(f"{dataset.where}: holds no images to publish; build them first, then give --redistribute")
    reference = reference_only or built.reference or (bool(barred) and not redistribute)
    tag = f"plan-{built.plan.digest[:12]}"
    drawn = figures.for_card(dataset)
    published = dataclasses.replace(built, reference=reference)
    text = card.render(published, repo, tag, drawn).encode()
    digest = hashlib.sha256(text).hexdigest()
    published = manifest.sealed(dataclasses.replace(published, card=File(built.card.path, len(text), digest)))
    described = json.dumps(croissant.describe(published, repo), indent=1, ensure_ascii=False) + "\n"
    made = {
        **{picture.name: picture.png for picture in drawn},
        CROISSANT: described.encode(),
        built.card.path: text,
        manifest.NAME: manifest.dumps(published).encode(),
    }
    files = [entry for entry in manifest.files(published)[::-1] if entry.path not in made]
    items = [Item(f.path, manifest.safe(dataset.folder, f.path), f.bytes, f.sha256) for f in files]
    items += [Item(path, data, len(data), hashlib.sha256(data).hexdigest()) for path, data in made.items()]
    kept_back = barred if reference and not reference_only and not built.reference else ()
    return Contents(published, tuple(items), tag, kept_back)

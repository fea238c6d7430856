"""The images of a federation as features, in the label space of the run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from fedrsic_data.errors import UsageError
from fedrsic_data.settings import suggest
from fedtrain.methods.base import Context
from fedtrain.methods.prompts.features import Features, features
from fedtrain.models.clip import Clip

TRAIN, NOVEL = "train", "novel"


@dataclass(frozen=True)
class Rows:
    """Rows of a split, those of a client side by side.

    Attributes:
        images: Features, float32 ``[N, embed_dim]``, L2-normalised.
        labels: int64 ``[N]``, places in the label space they are judged in.
        starts: First row of each client and the end, int64 ``[clients + 1]`` on the CPU.
    """

    images: torch.Tensor
    labels: torch.Tensor
    starts: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.labels)

    def of(self, client: int) -> slice:
        """A client's rows."""
        return slice(self.starts[client], self.starts[client + 1])

    def counts(self) -> list[int]:
        """Rows of each client."""
        return [end - start for start, end in zip(self.starts[:-1], self.starts[1:], strict=True)]


class Images:
    """The rows of a subset by split: base and novel classes each labelled from 0, a held-out domain apart."""

    def __init__(self, context: Context, clip: Clip) -> None:
        """Binds a subset to a CLIP; images are encoded when they are first asked for.

        Raises:
            UsageError: Several labels an image, fewer than two classes to tell apart, or no such domain.
        """
        entry, subset = context.subset.entry, context.subset
        if entry.multi_label:
            raise UsageError(f"{subset.name} is multi-label; prompt methods need one label per image")
        self.classes = tuple(name for name in entry.classes if name not in entry.novel)
        self.novel = entry.novel
        if len(self.classes) < 2:
            raise UsageError(f"{subset.name} has {len(self.classes)} class to train on; at least 2 are needed")
        if context.held_out is not None:
            lists = subset.client_table.column("domains").to_pylist()
            domains = sorted({domain for held in lists for domain in held})
            if context.held_out not in domains:
                raise UsageError(
                    f"held_out={context.held_out!r}: {subset.name} has no such domain"
                    f"{suggest(context.held_out, domains)}"
                )
        self._context = context
        self._clip = clip
        self._splits: dict[str, Features] = {}
        self._rows: dict[tuple[str, bool], Rows] = {}

    def rows(self, split: str, *, held_out: bool = False) -> Rows:
        """Rows of a split.

        Args:
            split: The split ``novel`` has labels among the novel classes, every other among the base classes.
            held_out: Those of the held-out domain instead of all others.
        """
        if (split, held_out) not in self._rows:
            self._rows[split, held_out] = self._select(split, held_out)
        return self._rows[split, held_out]

    def _select(self, split: str, held_out: bool) -> Rows:
        context = self._context
        if split not in self._splits:
            say = context.say
            self._splits[split] = features(self._clip, context.subset, split, cache=context.cache, say=say)
        found = self._splits[split]
        values, labels, client = found.values, found.labels.cpu(), found.client.cpu()
        if context.held_out is not None:
            apart = torch.tensor([name == context.held_out for name in found.domains], dtype=torch.bool)
            mask = apart[found.domain.cpu()] == held_out
            values, labels, client = values[mask.to(values.device)], labels[mask], client[mask]
        names = self.novel if split == NOVEL else self.classes
        place = {name: i for i, name in enumerate(names)}
        codes = torch.tensor([place.get(name, -1) for name in context.subset.classes])[labels]
        assert bool((codes >= 0).all()), f"{split}: a row of a class that is not of the split"
        starts = torch.searchsorted(client, torch.arange(len(context.clients) + 1)).tolist()
        return Rows(values.to(context.device), codes.to(context.device), tuple(starts))


def few_shot(labels: torch.Tensor, shots: int, generator: torch.Generator) -> torch.Tensor:
    """Places of at most ``shots`` rows of each class, drawn at random, in rising order.

    Args:
        labels: int64 ``[n]`` on the CPU.
        shots: At least 1.
        generator: On the CPU.

    Returns:
        int64 ``[at most shots x classes]``.
    """
    shuffled = torch.randperm(len(labels), generator=generator)
    by_class = shuffled[torch.argsort(labels[shuffled], stable=True)]
    ordered = labels[by_class]
    rank = torch.arange(len(labels)) - torch.searchsorted(ordered, ordered)
    return by_class[rank < shots].sort().values

"""Centralised: one context learned on the rows of all clients together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import ClassVar

from fedrsic_data.errors import UsageError
from fedtrain.methods.base import Context, State, Update
from fedtrain.methods.lazy import torch
from fedtrain.methods.prompts.cohort import Steps, gather
from fedtrain.methods.prompts.inputs import TRAIN
from fedtrain.methods.prompts.judge import stacked
from fedtrain.methods.prompts.prompt import PromptMethod, PromptSettings


class Centralised(PromptMethod[PromptSettings]):
    """CoOp (Zhou et al. 2022, arXiv 2109.01134) on all training rows in one place: the bound for one shared prompt.

    In each round the server takes as many steps as the clients of the round would take together, in batches drawn from
    the rows of all clients, so it computes as much as ``promptfl`` and nothing is averaged. Clients send nothing; each
    gives the loss of the context on its rows before the round, and the mean of these is the loss of the round.

    No paper fixes the budget or the optimiser of such a bound; ours are those of ``PromptSettings``, with momentum that
    starts anew each round, as it does at clients. ``shots`` are drawn per client, as they are for every method.
    """

    Settings = PromptSettings
    rounds: ClassVar[int] = 50
    fixed: ClassVar[frozenset[str]] = frozenset({"round"})
    gathers_rows: ClassVar[bool] = True

    def __init__(self, context: Context, settings: PromptSettings) -> None:
        super().__init__(context, settings)
        if settings.loss_over == "own":
            raise UsageError("loss_over=own: the rows of all clients are in one batch here; use loss_over=all")

    def shared(self) -> State:
        """The context, ``[m, d]``, on multi-label data a bias or a negative context, and the number of rounds done."""
        return {**super().shared(), "round": torch.zeros(1, dtype=torch.long, device=self.context.device)}

    def sent_back(self, server: State) -> State:  # noqa: ARG002
        """Nothing."""
        return {}

    def train(self, shared: State, personal: Sequence[State], clients: Sequence[int], round_: int) -> Iterator[Update]:  # noqa: ARG002
        """The loss of each client's rows; the server trains on them in ``aggregate``."""
        rows, live = self.images.rows(TRAIN), stacked(shared, [{}])
        text = self.text(live, self.base)
        for client in clients:
            mine = self.trained_rows(client)[None]
            views = [] if self.settings.views == 1 else [torch.zeros_like(mine)]
            batch = gather([mine], 0, rows.images, rows.labels, views)
            yield Update(client, mine.shape[1], {}, {}, float(self.label_loss(batch, text, live)))

    def aggregate(self, server: State, updates: Iterable[Update]) -> State:
        """Trains on the rows of all clients, for the steps that the clients of the round would take together."""
        settings = self.settings
        steps = sum(settings.epochs * -(-update.rows // settings.batch) for update in updates)
        rows = torch.cat([self.trained_rows(client) for client, count in enumerate(self.context.rows) if count])
        plan = self.planned(rows, -(-steps // -(-len(rows) // settings.batch)), "centralised", int(server["round"]))
        cut = Steps(plan.rows[:steps], None if plan.views is None else plan.views[:steps])
        ((state, _),) = self.learned(server, [{}], [cut], self.optimiser, tuple(range(len(self.base))))
        return {**state, "round": server["round"] + 1}

"""pFedMoAP: the server keeps a prompt of every client, and a personal gate mixes those of others as experts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal

from fedrsic_data.errors import UsageError
from fedrsic_data.settings import at_least, positive
from fedtrain.methods.aggregate import WeightedMean
from fedtrain.methods.base import Context, State, Update
from fedtrain.methods.lazy import torch
from fedtrain.methods.prompts.cohort import Optimiser, Sgd
from fedtrain.methods.prompts.inputs import Classes
from fedtrain.methods.prompts.prompt import PromptMethod, PromptSettings
from fedtrain.seeds import generator

_GATE = ("gate", "offset")
_POOL = ("pool", "held")
_KEPT = 128  # prompts of others whose texts are kept


@dataclass(frozen=True)
class PFedMoAPSettings(PromptSettings):
    """Settings of ``pfedmoap``: those of ``PromptSettings`` with the few-shot values of its authors, and its own.

    Attributes:
        lr: Learning rate of the prompt.
        schedule: Its course over a client's local epochs, the same in every round: ``cosine``, falling from ``lr``
            along half a cosine, one step an epoch; or ``constant``.
        epochs: Passes over a client's rows in a round.
        batch: Images in a batch; as many as shots.
        shots: Maximum training rows per class and client.
        experts: Maximum number of prompts that a client classifies with, its own among them.
        gate_width: Channels of the gate, D: every (embed_dim / D)-th of the CLIP's; all of these, where they are fewer.
        heads: Heads of the gate's attention; they divide its channels.
        scaling: Factor of attention scores, in place of 1 / sqrt(channels of a head).
        lam: Weight of the logits of a client's own prompt, lambda.
        gate_lr: Learning rate of the gate, constant.
    """

    lr: float = 2e-3
    schedule: Literal["cosine", "constant"] = "cosine"
    batch: int = 16
    epochs: int = 5
    shots: int | None = 16
    experts: int = 10
    gate_width: int = 128
    heads: int = 8
    scaling: float = 10.0
    lam: float = 0.5
    gate_lr: float = 0.01

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("experts", "gate_width", "heads"):
            at_least(name, getattr(self, name), 1)
        for name in ("scaling", "gate_lr"):
            positive(name, getattr(self, name))
        at_least("lam", self.lam, 0)


@dataclass(frozen=True)
class Cosine:
    """SGD whose rate falls along half a cosine, one step an epoch; see ``fedtrain.methods.prompts.cohort.Optimiser``.

    Attributes:
        sgd: With the first epoch's rate.
        steps: Steps of an epoch.
        epochs: The rate would be 0 after as many.
    """

    sgd: Sgd
    steps: int
    epochs: int
    moments: ClassVar[int] = Sgd.moments

    def step(self, value: torch.Tensor, grad: torch.Tensor, moments: Sequence[torch.Tensor], count: int) -> None:
        """Moves a value at the rate of the step's epoch."""
        part = (1 + math.cos(math.pi * ((count - 1) // self.steps) / self.epochs)) / 2
        replace(self.sgd, lr=part * self.sgd.lr).step(value, grad, moments, count)


class PFedMoAP(PromptMethod[PFedMoAPSettings]):
    """pFedMoAP (Luo et al., ICLR 2025, arXiv 2410.10114).

    A client trains a prompt ``[m, d]`` from the mean of those of the last round, and classifies with the texts of its
    own prompt, t, and of the K - 1 prompts of others that are nearest to its last one in the Frobenius norm. A gate
    that never leaves it, an attention over the K experts in D of the channels, mixes them anew for each image v and
    class c. With ``pool`` every (embed_dim / D)-th channel, and e_1 = t::

        o_c = W_o sum_i softmax_i(scaling <W_q pool(v), W_k pool(e_i,c)>) W_v pool(e_i,c)
        logit_c = lambda logit_scale <v, t_c> + logit_scale <pool(v), o_c>, and the loss is its cross-entropy

    with several heads, and an offset at each W. Gradients reach the prompt and the gate; experts are fixed in a round.
    A client that never trained has none, and classifies by logit_scale <v, t_c>. The server averages the prompts and
    keeps the last one of each client: the pool, clients x m x d floats. Every client is evaluated with the prompt that
    it trained last, its gate, and the experts that it would receive next; one that never trained, with the mean.

    Speed-ups, exact: an expert's texts are encoded once, whichever clients receive it; and W_o is applied to images,
    <pool(v), W_o x> = <W_o' pool(v), x>, and not to each pair of an image and a class.

    Deviations: the learning rate falls anew at each client in each round, where in the authors' code one schedule runs
    on through all clients, and its first epoch, a warm-up at 1e-5, is left out. Every gate starts from the same draw.
    Multi-label data are ours: cross-entropy becomes ``label_loss``; with ``score=pair`` every expert's texts are less
    those of the negative context.
    """

    Settings = PFedMoAPSettings
    rounds: ClassVar[int] = 10
    has_personal: ClassVar[bool] = True
    fixed: ClassVar[frozenset[str]] = frozenset({"experts"})
    at_once: ClassVar[int | None] = 256  # images x experts x classes x heads numbers

    def __init__(self, context: Context, settings: PFedMoAPSettings) -> None:
        """Binds the method; see ``ClipMethod``.

        Raises:
            UsageError: The gate does not divide the CLIP's channels, or the heads not those of the gate.
        """
        super().__init__(context, settings)
        self._texts: dict[tuple[Classes, bytes], torch.Tensor] = {}
        channels = self.clip.embed_dim
        self._width = min(settings.gate_width, channels)
        if channels % self._width:
            raise UsageError(f"gate_width={self._width} should divide the {channels} channels of clip {self.clip.name}")
        if self._width % settings.heads:
            raise UsageError(f"heads={settings.heads} should divide the {self._width} channels of the gate")

    def shared(self) -> State:
        """The mean prompt, ``[m, d]``, and on multi-label data a bias or a negative context; the server has a pool."""
        start, clients = super().shared(), len(self.context.clients)
        pool = start["context"].new_zeros(clients, *start["context"].shape)
        return {**start, "pool": pool, "held": torch.zeros(clients, dtype=torch.bool, device=pool.device)}

    def personal(self, client: int) -> State:  # noqa: ARG002
        """The gate, ``[4, D, D]`` and ``[4, D]`` for query, key, value and output; and what the client sent last."""
        draws, bound = generator(self.context.seed, "initial", "gate"), self._width**-0.5
        maps = [
            ((2 * torch.rand(4, *shape, generator=draws) - 1) * bound).to(self.context.device)
            for shape in ((self._width, self._width), (self._width,))
        ]
        last = {f"last.{name}": value for name, value in super().shared().items()}
        return {
            **dict(zip(_GATE, maps, strict=True)),
            **last,
            "trained": torch.zeros_like(maps[1][0, :1], dtype=torch.bool),
        }

    def sent_to(self, client: int, server: State) -> State:
        """The mean, and the prompts of others that are nearest to the client's last; equal distances by number."""
        pool, others = server["pool"], server["held"].clone()
        sent = self.sent_back(server)
        if not others[client]:
            return {**sent, "experts": pool[:0]}
        others[client] = False
        numbers = others.nonzero()[:, 0]
        distance = (pool[numbers] - pool[client]).square().sum((1, 2))
        nearest = numbers[distance.argsort(stable=True)[: self.settings.experts - 1]]
        return {**sent, "experts": pool[nearest]}

    def sent_back(self, server: State) -> State:
        """All but the pool."""
        return {name: value for name, value in server.items() if name not in _POOL}

    def train(self, shared: State, personal: Sequence[State], clients: Sequence[int], round_: int) -> Iterator[Update]:
        """Trains a client, which alone received these experts; see ``Method``."""
        ((client, mine),) = zip(clients, personal, strict=True)
        ((_, places),) = self.stacks(clients)
        received = {**shared, "experts": self._encoded(shared["experts"], self.over(places).base)}
        steps = self.plan(client, self.settings.epochs, round_)
        epoch = len(steps.rows) // self.settings.epochs

        def optimiser(name: str) -> Optimiser:
            rule = self.optimiser(name)
            falls = self.settings.schedule == "cosine" and name not in _GATE
            return Cosine(rule, epoch, self.settings.epochs) if falls else rule

        gate = {name: mine[name] for name in _GATE}
        ((state, loss),) = self.learned(received, [gate], [steps], optimiser, places)
        sent = {name: state[name] for name in shared if name not in self.fixed}
        last = {f"last.{name}": value.clone() for name, value in sent.items()}
        own = {name: state[name] for name in _GATE} | last | {"trained": torch.ones_like(mine["trained"])}
        yield Update(client, len(self.trained_rows(client)), sent, own, loss)

    def optimiser(self, name: str) -> Sgd:
        """SGD with the rate of the gate or of the prompt, in its first epoch."""
        settings = self.settings
        decay = 0.0 if name == "bias" else settings.weight_decay
        return Sgd(settings.gate_lr if name in _GATE else settings.lr, settings.momentum, decay)

    def aggregate(self, server: State, updates: Iterable[Update]) -> State:
        """The mean by rows; and the pool, in which each prompt takes the place of the client's earlier one."""
        mean, pool, held = WeightedMean(), server["pool"].clone(), server["held"].clone()
        for update in updates:
            mean.add(update.shared, update.weight)
            pool[update.client] = update.shared["context"]
            held[update.client] = True
        return {**mean.over(server), "pool": pool, "held": held}

    def judged(self, client: int, received: State, personal: State) -> State:  # noqa: ARG002
        """The gate; and what the client sent last in place of the mean, if it ever trained."""
        last = {name: personal[f"last.{name}"] for name in received if name not in self.fixed}
        gate = {name: personal[name] for name in _GATE}
        return {**gate, **(last if personal["trained"] else {name: received[name] for name in last})}

    def classifier(self, state: State, classes: Classes) -> torch.Tensor:
        """The texts of all experts of one client, see ``text``."""
        (experts,) = state["experts"]
        return super().classifier({**state, "experts": self._encoded(experts, classes)[None]}, classes)

    def text(self, state: State, classes: Classes) -> torch.Tensor:
        """Text features ``[K, experts, C, embed_dim]``, the client's own first; ``experts`` are texts already."""
        return torch.cat((classes.under(state["context"])[:, None], state["experts"]), dim=1)

    def shared_text(self, shared: State, classes: Classes) -> torch.Tensor | None:
        """Text features under the mean prompt, ``[1, C, embed_dim]``."""
        return classes.under(shared["context"][None])

    def logits(self, images: torch.Tensor, text: torch.Tensor, state: State) -> torch.Tensor:
        """Logits of images ``[..., B, embed_dim]`` by texts of experts ``[..., E, C, embed_dim]``, see the class."""
        plain = super().logits(images, text[..., 0, :, :], state)
        if text.shape[-3] == 1:  # no experts but its own
            return plain
        step = images.shape[-1] // self._width
        seen, said = images[..., ::step], text[..., ::step]
        query, key, value, output = state["gate"].unbind(-3)
        offsets = [offset[..., None, :] for offset in state["offset"].unbind(-2)]

        def heads(x: torch.Tensor) -> torch.Tensor:
            return torch.unflatten(x, -1, (self.settings.heads, self._width // self.settings.heads))

        asked, read = heads(seen @ query.mT + offsets[0]), heads(seen @ output)
        keys, values = (
            heads(torch.einsum("...ecd,...fd->...ecf", said, each) + offset[..., None, :])
            for each, offset in ((key, offsets[1]), (value, offsets[2]))
        )
        weight = (self.settings.scaling * torch.einsum("...bhd,...echd->...bech", asked, keys)).softmax(-3)
        mixed = (weight * torch.einsum("...bhd,...echd->...bech", read, values)).sum((-3, -1))
        mixed = mixed + (seen * offsets[3]).sum(-1, keepdim=True)
        return self.settings.lam * plain + self.clip.scale * mixed

    def _encoded(self, prompts: torch.Tensor, classes: Classes) -> torch.Tensor:
        """Text features ``[E, C, embed_dim]`` of experts ``[E, m, d]``, one by one: the same bits in any company."""
        found = [prompts.new_zeros(0, len(classes), self.clip.embed_dim)]
        for prompt in prompts:
            key = classes, prompt.cpu().numpy().tobytes()
            if key not in self._texts:
                if len(self._texts) == _KEPT:
                    del self._texts[next(iter(self._texts))]
                with torch.no_grad():
                    self._texts[key] = classes.under(prompt[None])
            found.append(self._texts[key])
        return torch.cat(found)

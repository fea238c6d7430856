"""FedTPG: a generator, shared by all clients, makes the prompt from the names of the classes."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from fedrsic_data.errors import UsageError
from fedrsic_data.settings import at_least
from fedtrain.methods.base import Context, State
from fedtrain.methods.lazy import functional, torch
from fedtrain.methods.prompts.inputs import Classes
from fedtrain.methods.prompts.prompt import PromptMethod, PromptSettings
from fedtrain.seeds import generator

_NAME = "{}"  # no words around it


@dataclass(frozen=True)
class FedTPGSettings(PromptSettings):
    """Settings of ``fedtpg``: those of ``PromptSettings`` with the values of the authors' code, and its own.

    Attributes:
        length: Context vectors, m.
        lr: Learning rate of SGD, the same in all rounds.
        weight_decay: Weight decay of SGD.
        batch: Images in a batch; with 20 classes of 8 shots a client, one batch is all of them.
        epochs: Passes over a client's rows in a round.
        shots: Maximum training rows per class and client.
        loss_over: Classes that a client's loss is over, and whose names the generator reads in training.
        heads: Heads of the attention; they divide the width of the CLIP's text encoder.
        widening: Width of the feed-forward block, in widths of the text encoder.
    """

    length: int = 4
    lr: float = 3e-3
    weight_decay: float = 1e-5
    batch: int = 200
    epochs: int = 1
    shots: int | None = 8
    loss_over: Literal["all", "own"] = "own"
    heads: int = 4
    widening: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        at_least("heads", self.heads, 1)
        at_least("widening", self.widening, 1)


class FedTPG(PromptMethod[FedTPGSettings]):
    """FedTPG (Qiu et al., ICLR 2024, arXiv 2310.06123): the server averages a generator of prompts.

    E ``[C, e]`` are CLIP's text features of the bare names of C classes, Q ``[m, d]`` learned queries. One context for
    all C classes, P ``[m, d]``, comes before each of their names::

        x = attention(LN(Q), LN(E), LN(E))
        P = x + W_2 (a * GELU(b)) + b_2   with   [a, b] = W_1 LN(x) + b_1

    so that other classes, those of another client or never trained ones, get another context. In training, E are the
    classes of the client's own rows and the loss is their cross-entropy; in evaluation, E are the classes that images
    are classified among. Nothing is personal. With a text encoder of width 512 a client sends 4,206,080 numbers.

    Deviations: the generator is in float32, not float16. The learning rate is the same in all rounds, not a cosine, and
    the momentum starts from zero in every round, where the authors' clients keep theirs. With one step a round it does
    nothing here: their steps are up to ten times as long, and ``lr=0.015`` makes a path of about the same length.
    Linear layers start uniform in ±1/√inputs, the attention by Glorot's law without a bias, our choice. The server's
    mean is that of the run; the authors' is ``weighting=equal``. Multi-label data are ours: the loss is over all
    labels, since an absent label teaches too.
    """

    Settings = FedTPGSettings
    rounds: ClassVar[int] = 500

    def __init__(self, context: Context, settings: FedTPGSettings) -> None:
        """Binds the method; see ``ClipMethod``."""
        super().__init__(context, settings)
        if self.clip.width % settings.heads:
            raise UsageError(
                f"heads={settings.heads}: the text encoder of clip {self.clip.name} is {self.clip.width} wide, which "
                "is no multiple of it"
            )

    def check_names(self, classes: Classes) -> None:
        """Checks class names under a context and by themselves; see ``ClipMethod.check_names``."""
        classes.check(length=self.settings.length, template=_NAME)

    def shared(self) -> State:
        """The generator, and on multi-label data a bias or a negative context."""
        width, names = self.clip.width, self.clip.embed_dim
        hidden = self.settings.widening * width
        state = {"queries": self.drawn("queries", self.settings.length, width)}
        for name, size in (("queries", width), ("names", names), ("attended", width)):
            state |= {f"norm.{name}.gain": torch.ones(size), f"norm.{name}.bias": torch.zeros(size)}
        for name, inputs in (("query", width), ("key", names), ("value", names), ("out", width)):
            bound = math.sqrt(6 / (inputs + width))
            state |= {f"{name}.weight": self._uniform(name, width, inputs, bound), f"{name}.bias": torch.zeros(width)}
        for name, outputs, inputs in (("up", 2 * hidden, width), ("down", width, hidden)):
            bound = 1 / math.sqrt(inputs)
            state[f"{name}.weight"] = self._uniform(name, outputs, inputs, bound)
            state[f"{name}.bias"] = self._uniform(f"{name}.bias", 1, outputs, bound)[0]
        return {name: value.to(self.context.device) for name, value in state.items()} | self.offset()

    def text(self, state: State, classes: Classes) -> torch.Tensor:
        """Text features under the context that the generator makes of these classes."""
        return classes.under(self.generated(state, classes.fixed(_NAME)))

    def shared_text(self, shared: State, classes: Classes) -> torch.Tensor | None:
        """As ``text``, for the server's generator."""
        return self.text({name: value[None] for name, value in shared.items()}, classes)[0]

    def generated(self, state: State, names: torch.Tensor) -> torch.Tensor:
        """Contexts ``[K, m, d]`` of K generators for text features of names ``[C, e]``."""
        queries = self._split(_linear(state, "query", _norm(state, "queries", state["queries"])))
        names = _norm(state, "names", names.expand(len(queries), *names.shape))
        keys, values = (self._split(_linear(state, name, names)) for name in ("key", "value"))
        seen = functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        attended = _linear(state, "out", seen)
        value, gate = _linear(state, "up", _norm(state, "attended", attended)).chunk(2, dim=-1)
        return attended + _linear(state, "down", value * functional.gelu(gate))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        """The heads of ``[K, n, d]``: ``[K, heads, n, d / heads]``."""
        return x.reshape(*x.shape[:2], self.settings.heads, -1).transpose(1, 2)

    def _uniform(self, purpose: str, rows: int, width: int, bound: float) -> torch.Tensor:
        draws = generator(self.context.seed, "initial", "generator", purpose)
        return (2 * torch.rand(rows, width, generator=draws) - 1) * bound


def _linear(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    """A linear layer of each of K clients on ``[K, n, inputs]``."""
    return x @ state[f"{name}.weight"].mT + state[f"{name}.bias"][:, None]


def _norm(state: State, name: str, x: torch.Tensor) -> torch.Tensor:
    """A layer normalisation of each of K clients on ``[K, n, inputs]``."""
    plain = functional.layer_norm(x, x.shape[-1:])
    return plain * state[f"norm.{name}.gain"][:, None] + state[f"norm.{name}.bias"][:, None]

"""FedTPG as an example of a method in one file: a generator makes the prompt from the names of the classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn
from torch.func import functional_call
from torch.nn import functional

from fedtrain.methods.base import Context, State
from fedtrain.methods.prompts.inputs import Classes
from fedtrain.methods.prompts.prompt import PromptMethod, PromptSettings
from fedtrain.seeds import generator


@dataclass(frozen=True)
class GeneratorSettings(PromptSettings):
    """Settings of FedTPG.

    Attributes:
        heads: Of the attention.
        hidden: Width of the feed-forward block.
    """

    length: int = 4
    lr: float = 0.003
    weight_decay: float = 1e-5
    heads: int = 4
    hidden: int = 64


class PromptGenerator(nn.Module):
    """Learned queries attend to the texts of the bare class names; a gated feed-forward block follows."""

    def __init__(self, settings: GeneratorSettings, width: int, embed_dim: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.randn(settings.length, width) * settings.std)
        self.norms = nn.ModuleList([nn.LayerNorm(width), nn.LayerNorm(embed_dim), nn.LayerNorm(width)])
        self.attention = nn.MultiheadAttention(width, settings.heads, kdim=embed_dim, vdim=embed_dim, batch_first=True)
        self.up = nn.Linear(width, 2 * settings.hidden)
        self.down = nn.Linear(settings.hidden, width)

    def forward(self, names: torch.Tensor) -> torch.Tensor:
        """Context vectors ``[m, width]`` for text features of names ``[C, embed_dim]``."""
        names = self.norms[1](names)[None]
        x = self.attention(self.norms[0](self.queries)[None], names, names, need_weights=False)[0][0]
        value, gate = self.up(self.norms[2](x)).chunk(2, dim=-1)
        return x + self.down(value * functional.gelu(gate))  # type: ignore[no-any-return]


class Generator(PromptMethod[GeneratorSettings]):
    """FedTPG (Qiu et al., ICLR 2024, arXiv 2310.06123): the server averages a generator of prompts.

    Deviations: cross-entropy over all classes of the run; a constant learning rate.
    """

    Settings = GeneratorSettings
    rounds: ClassVar[int] = 500

    def __init__(self, context: Context, settings: GeneratorSettings) -> None:
        super().__init__(context, settings)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(generator(context.seed, "initial", "generator").initial_seed())
            self.module = PromptGenerator(settings, self.clip.width, self.clip.embed_dim).to(context.device)

    def shared(self) -> State:
        return {name: value.detach().clone() for name, value in self.module.named_parameters()}

    def text(self, state: State, classes: Classes) -> torch.Tensor:
        each = [{name: value[k] for name, value in state.items()} for k in range(len(state["queries"]))]
        return classes.under(torch.stack([functional_call(self.module, one, classes.fixed("{}")) for one in each]))

    def shared_text(self, shared: State, classes: Classes) -> torch.Tensor:
        return self.text({name: value[None] for name, value in shared.items()}, classes)[0]

"""The classifier of FedLGT: image tokens and label tokens through one transformer, a logit a label.

C-Tran (Lanchantin et al., "General Multi-label Image Classification with Transformers", CVPR 2021, arXiv 2011.14027)
as FedLGT (AAAI 2024, arXiv 2312.07165) federates it. No tensor has both the batch and the square of the number of
labels in its shape: attention is fused, and every label is read out by its own row.
"""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional as F
from torchvision.models import resnet18

UNKNOWN, POSITIVE, NEGATIVE = 0, 1, 2
"""States of a label: rows of the state table."""

_CHANNELS = 512  # of ResNet-18's last stage


class LabelTransformer(nn.Module):
    """ResNet-18, then a transformer over ``[h w image tokens; L label tokens]``.

    A label's token is its embedding plus the embedding of its state: unknown, positive or negative.

    Attributes:
        labels: Label embeddings, float32 ``[L, d]``; frozen if they were given.
        states: State embeddings, float32 ``[3, d]``, frozen: zeros for unknown.
    """

    labels: torch.Tensor
    states: torch.Tensor

    def __init__(
        self,
        count: int,
        labels: torch.Tensor | None,
        states: torch.Tensor,
        *,
        heads: int = 4,
        layers: int = 3,
        hidden: int = 512,
        dropout: float = 0.1,
    ) -> None:
        """Fresh weights, drawn from torch's default generator as the authors of C-Tran and FedLGT draw them.

        Learned label embeddings, the head and its bias, and the weights and biases of all linear layers but those named
        next are uniform in +-1 / sqrt(inputs). Query, key and value are one ``[3 d, d]`` matrix of Glorot's uniform
        law with biases of zero. Norms start as the identity; the backbone as torchvision draws it.

        Args:
            count: L, the number of labels.
            labels: Frozen label embeddings ``[L, d]``; None: learned ones (FedC-Tran).
            states: State embeddings ``[3, d]``.
            heads: Attention heads.
            layers: Encoder layers.
            hidden: Width of the feed-forward layers.
            dropout: Rate; see ``Layer``.
        """
        super().__init__()
        width = states.shape[1]
        self.backbone = backbone()
        self.project = nn.Identity() if width == _CHANNELS else nn.Conv2d(_CHANNELS, width, 1)
        self.register_buffer("states", states.clone(), persistent=False)
        if labels is None:
            self.labels = nn.Parameter(_uniform(count, width, inputs=width))
        else:
            self.register_buffer("labels", labels.clone(), persistent=False)
        self.norm = nn.LayerNorm(width)
        self.layers = nn.ModuleList(Layer(width, heads, hidden, dropout) for _ in range(layers))
        self.weight = nn.Parameter(_uniform(count, width, inputs=width))
        self.bias = nn.Parameter(_uniform(count, inputs=width))

    def forward(
        self, images: torch.Tensor, state: torch.Tensor | None = None, generator: torch.Generator | None = None
    ) -> torch.Tensor:
        """Logits of all labels.

        Args:
            images: float32 ``[B, 3, H, W]``, normalised.
            state: int64 ``[B, L]`` of ``UNKNOWN``, ``POSITIVE``, ``NEGATIVE``; None: all unknown.
            generator: Draws the dropout in training.

        Returns:
            float32 ``[B, L]``.
        """
        tokens = self.project(self.backbone(images)).flatten(2).transpose(1, 2)  # [B, hw, d]
        batch = len(tokens)
        labels = self.labels.expand(batch, -1, -1) if state is None else self.labels + self.states[state]
        tokens = self.norm(torch.cat([tokens, labels], 1))  # [B, hw + L, d]
        *inner, last = self.layers
        for layer in inner:
            tokens = layer(tokens, tokens, generator)
        read = last(tokens[:, -len(self.weight) :], tokens, generator)  # image tokens are not read out: [B, L, d]
        logits: torch.Tensor = (read * self.weight).sum(-1) + self.bias
        return logits


class Layer(nn.Module):
    """A post-norm transformer encoder layer: attention, then a ReLU feed-forward block.

    Dropout follows the attention and is inside and after the feed-forward block; it is drawn from a generator.

    Deviations: none on the attention weights themselves, so that fused attention keeps memory linear in the number
    of tokens on every device and draws are reproducible. ``out``, ``up`` and ``down`` start as PyTorch starts a linear
    layer, which is uniform in +-1 / sqrt(inputs).
    """

    def __init__(self, width: int, heads: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.up = nn.Linear(width, hidden)
        self.down = nn.Linear(hidden, width)
        self.norm1 = nn.LayerNorm(width)
        self.norm2 = nn.LayerNorm(width)
        bound = math.sqrt(6 / (width + 3 * width))  # Glorot's, of the three matrices as one
        for linear in (self.query, self.key_value):
            nn.init.uniform_(linear.weight, -bound, bound)
            nn.init.zeros_(linear.bias)

    def forward(self, x: torch.Tensor, tokens: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Let ``x`` ``[B, n, d]`` attend to ``tokens`` ``[B, N, d]``: ``[B, n, d]``."""
        batch, count, width = x.shape
        query = self.query(x).view(batch, count, self.heads, -1).transpose(1, 2)
        key, value = self.key_value(tokens).view(batch, tokens.shape[1], 2, self.heads, -1).permute(2, 0, 3, 1, 4)
        seen = F.scaled_dot_product_attention(query, key, value).transpose(1, 2).reshape(batch, count, width)
        x = self.norm1(x + self._drop(self.out(seen), generator))
        inner = self._drop(F.relu(self.up(x)), generator)
        return torch.as_tensor(self.norm2(x + self._drop(self.down(inner), generator)))

    def _drop(self, x: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        if not self.training or self.dropout == 0:
            return x
        kept = torch.empty_like(x).bernoulli_(1 - self.dropout, generator=generator)
        return x * kept.div_(1 - self.dropout)


def _uniform(*shape: int, inputs: int) -> torch.Tensor:
    """Uniform in +-1 / sqrt(inputs)."""
    return torch.empty(*shape).uniform_(-1 / math.sqrt(inputs), 1 / math.sqrt(inputs))


class LinearHead(nn.Module):
    """ResNet-18 with a linear layer a label behind average pooling: the baseline model."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.backbone = backbone()
        self.head = nn.Linear(_CHANNELS, count)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits float32 ``[B, L]`` of images float32 ``[B, 3, H, W]``."""
        logits: torch.Tensor = self.head(self.backbone(images).mean((2, 3)))
        return logits


def backbone() -> nn.Sequential:
    """ResNet-18 up to its last stage, without pooling and classifier: ``[B, 3, H, W] -> [B, 512, H/32, W/32]``."""
    whole = resnet18(weights=None)
    names = ("conv1", "bn1", "relu", "maxpool", "layer1", "layer2", "layer3", "layer4")
    stages = nn.Sequential()
    for name in names:  # under torchvision's own names, so its weights load as they are
        stages.add_module(name, getattr(whole, name))
    return stages

"""FedOTP: a shared and a personal prompt, between which optimal transport divides the patches of an image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, Literal

from fedrsic_data.errors import UsageError
from fedrsic_data.settings import at_least, positive
from fedtrain.methods.base import State
from fedtrain.methods.lazy import torch
from fedtrain.methods.prompts.inputs import TEMPLATE, Classes
from fedtrain.methods.prompts.prompt import PromptMethod, PromptSettings


@dataclass(frozen=True)
class FedOTPSettings(PromptSettings):
    """Settings of ``fedotp``: those of ``PromptSettings`` with the few-shot values of its authors, and its own.

    Attributes:
        epochs: Passes over a client's rows in a round.
        batch: Images in a batch; as many as shots.
        shots: Maximum training rows per class and client.
        eps: Weight of the entropy of a plan. The authors' few-shot script has 0.01, which 16-bit kernels cannot
            represent; 0.1 is that of their CIFAR-100 script.
        mass: Part of the patches that is transported, above 0 to 1; 1 transports all of each patch.
        iterations: Iterations of Sinkhorn's algorithm.
        patches: Numbers that features of patches are kept in, on disk and in memory: ``float16``, 2 x patches x the
            CLIP's embed_dim bytes an image, 0.2 MB with ViT-B/16, which changes no cosine by more than 0.0005; or
            ``float32``, twice as many bytes. A split that does not fit the machine's memory is refused.
    """

    batch: int = 16
    epochs: int = 5
    shots: int | None = 16
    eps: float = 0.1
    mass: float = 0.8
    iterations: int = 100
    patches: Literal["float16", "float32"] = "float16"

    def __post_init__(self) -> None:
        super().__post_init__()
        positive("eps", self.eps)
        if not 0 < self.mass <= 1:
            raise UsageError(f"mass={self.mass} should be above 0 to 1: the part of the patches that is transported")
        at_least("iterations", self.iterations, 1)


class FedOTP(PromptMethod[FedOTPSettings]):
    """FedOTP (Li et al., CVPR 2024, arXiv 2403.00041).

    The server averages a general prompt ``[m, d]``; an own prompt ``[m, d]`` never leaves its client. With S the
    cosines of an image's M patches and a class's N = 2 texts, a plan T moves ``mass`` from patches to prompts: exactly
    mass / N to each prompt, at most 1 / M from each patch, at cost 1 - S and with ``eps`` of entropy::

        logit = logit_scale sum_mn T_mn S_mn, and the loss is its cross-entropy

    No gradient passes through T. Every client classifies with the new general prompt and its own one; the shared state
    alone is the general prompt, with all of ``mass``.

    Deviations: Sinkhorn's algorithm makes a fixed number of iterations. The authors stop when the mean change over a
    batch is small, and an image's logits then depend on the images beside it. It runs in the logarithmic domain and in
    float32; theirs runs in 16 bits, where a kernel of eps=0.01 is 0 everywhere and a plan 0 / 0. We take their code
    as the source, and have not read the paper's body. Multi-label data are ours: cross-entropy becomes ``label_loss``;
    with ``score=pair``, S is what is left of the cosines after those of the negative context.
    """

    Settings = FedOTPSettings
    rounds: ClassVar[int] = 10
    has_personal: ClassVar[bool] = True
    features: ClassVar[Literal["global", "patches"]] = "patches"

    def shared(self) -> State:
        """The general prompt, ``[m, d]``, and on multi-label data a bias or a negative context."""
        return {"general": self.drawn("general", self.settings.length, self.clip.width), **self.offset()}

    def personal(self, client: int) -> State:  # noqa: ARG002
        """The own prompt, ``[m, d]``."""
        return {"own": self.drawn("own", self.settings.length, self.clip.width)}

    def text(self, state: State, classes: Classes) -> torch.Tensor:
        """Text features under both prompts, ``[K, 2, C, embed_dim]``."""
        both = classes.under(torch.cat((state["general"], state["own"])))
        return torch.stack(both.chunk(2), dim=1)

    def shared_text(self, shared: State, classes: Classes) -> torch.Tensor | None:
        """Text features under the general prompt, ``[1, C, embed_dim]``."""
        return classes.under(shared["general"][None])

    def first_logits(self, images: torch.Tensor) -> torch.Tensor:
        """Logits with the names in fixed words, as those of one prompt."""
        return self.logits(images, self.base.fixed(TEMPLATE)[None], {})

    def logits(self, images: torch.Tensor, text: torch.Tensor, state: State) -> torch.Tensor:  # noqa: ARG002
        """Logits of images ``[..., B, 1 + M, embed_dim]`` by texts ``[..., N, C, embed_dim]``, see the class."""
        settings, patches = self.settings, images[..., 1:, :]
        every = text.flatten(-3, -2)[..., None, :, :] @ patches.mT  # [..., B, N C, M]
        similarity = torch.unflatten(every, -2, text.shape[-3:-1]).transpose(-3, -2)
        plan = transport(similarity.detach(), settings.eps, settings.mass, settings.iterations)
        moved: torch.Tensor = (plan * similarity).sum((-1, -2))
        return self.clip.scale * moved


def transport(similarity: torch.Tensor, eps: float, mass: float, iterations: int) -> torch.Tensor:
    """Plans of unbalanced optimal transport with an entropy.

    With kernel K = exp((S - 1) / eps), from q = 1::

        p = min(1 / (M K q), 1);  q = mass / (N K^T p);  T = diag(p) K diag(q)

    in logarithms, so that no kernel is too small. The last step is that of q, so a plan has all of ``mass`` however
    few the iterations are. They end early where one changes no bit, since every later one would repeat it.

    Args:
        similarity: S, cosines of N prompts and M patches, ``[..., N, M]``.
        eps: Weight of the entropy, above 0.
        mass: How much is transported, from 0 to 1.
        iterations: At least 1.

    Returns:
        T, ``[..., N, M]``: each row has mass / N, and each column tends to at most 1 / M.
    """
    prompts, patches = similarity.shape[-2:]
    kernel = (similarity - 1) / eps
    most, each = -math.log(patches), math.log(mass / prompts) if mass else -math.inf
    q = torch.zeros_like(kernel[..., :1])
    for _ in range(iterations):
        held = reduce(torch.logaddexp, (kernel + q).unbind(-2)).unsqueeze(-2)
        p = (most - held).clamp(max=0)
        last, q = q, each - (kernel + p).logsumexp(-1, keepdim=True)
        if torch.equal(last, q):
            break
    return (p + kernel + q).exp()

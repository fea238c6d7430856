"""A label space as texts: what a frozen CLIP makes of class names, under learned contexts or fixed words."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from fedrsic_data.errors import UsageError
from fedtrain.models.clip import Clip
from fedtrain.models.prompts import PromptEncoder, class_tokens

TEMPLATE = "a photo of a {}."
"""The words that CLIP's authors put around a class name."""


class Classes:
    """Class names in index order, and their text features."""

    def __init__(self, clip: Clip, names: Sequence[str], precision: str = "float32") -> None:
        """Binds names to a CLIP.

        Args:
            clip: Frozen.
            names: In index order; underscores are read as spaces.
            precision: ``bfloat16`` for autocast of the text encoder under learned contexts.
        """
        self.names = tuple(names)
        self._clip = clip
        self._autocast = precision == "bfloat16"
        self._encoders: dict[int, PromptEncoder] = {}
        self._fixed: dict[str, torch.Tensor] = {}

    def __len__(self) -> int:
        return len(self.names)

    def under(self, context: torch.Tensor) -> torch.Tensor:
        """Text features under learned contexts.

        Args:
            context: float32 ``[K, m, d]``; any m.

        Returns:
            float32 ``[K, C, embed_dim]``, L2-normalised, differentiable in ``context``.
        """
        length = context.shape[1]
        if length not in self._encoders:
            self._encoders[length] = PromptEncoder(self._clip, self.names, length)
        with torch.autocast(context.device.type, dtype=torch.bfloat16, enabled=self._autocast):
            return self._encoders[length](context).float()

    def fixed(self, template: str) -> torch.Tensor:
        """Text features of the names in fixed words; encoded once.

        Args:
            template: With ``{}`` for the name.

        Returns:
            float32 ``[C, embed_dim]``, L2-normalised.
        """
        if template not in self._fixed:
            self._fixed[template] = self._clip.encode_texts(self._texts(template))
        return self._fixed[template]

    def check(self, *, length: int | None = None, template: str | None = None) -> None:
        """Checks that the names are not too long, before any image is encoded.

        Args:
            length: Of the contexts that they are to stand under.
            template: The fixed words that they are to stand in.

        Raises:
            UsageError: A text is too long for the CLIP; the message names it.
        """
        if length is not None:
            class_tokens(self._clip, self.names, length)
        if template is not None:
            self._clip.tokenize(self._texts(template))

    def _texts(self, template: str) -> list[str]:
        return [template.replace("{}", name.replace("_", " ")) for name in self.names]


def check_template(name: str, template: str) -> None:
    """Checks a setting that is to hold a class name.

    Raises:
        UsageError: There is not exactly one ``{}`` in it.
    """
    if template.count("{}") != 1:
        raise UsageError(f"{name}={template!r} should have one {{}} for the class name, e.g. {TEMPLATE!r}")


def cosine_loss(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Mean over classes of 1 - cosine: ``[K, C, e]`` and ``[K, C, e]`` or ``[C, e]``, L2-normalised, to ``[K]``."""
    return (1 - (left * right).sum(-1)).mean(-1)

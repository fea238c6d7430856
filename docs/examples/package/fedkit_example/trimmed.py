"""PromptFL with a trimmed mean at the server."""

from dataclasses import dataclass

from fedrsic_data.errors import UsageError
from fedtrain.methods.lazy import torch
from fedtrain.methods.promptfl import PromptFL
from fedtrain.methods.prompts.prompt import PromptSettings


@dataclass(frozen=True)
class TrimmedSettings(PromptSettings):
    """Settings of ``trimmed``: those of ``PromptSettings``, and the part that is left out.

    Attributes:
        trim: The part of the clients left out at each end, for each number by itself; from 0 to below 0.5.
    """

    trim: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        if not 0 <= self.trim < 0.5:
            raise UsageError(f"trim={self.trim} should be from 0 to below 0.5")


class Trimmed(PromptFL):
    """Coordinate-wise trimmed mean (Yin et al. 2018, arXiv 1803.01498) of the tensors of PromptFL."""

    Settings = TrimmedSettings

    def aggregate(self, server, updates):
        """The mean of each number without its largest and smallest values; weights do not count."""
        sent = [update.shared for update in updates]  # updates can be read once
        out = int(self.settings.trim * len(sent))
        values = {name: torch.stack([one[name] for one in sent]).sort(dim=0).values for name in server}
        return {name: value[out : len(sent) - out].mean(dim=0) for name, value in values.items()}

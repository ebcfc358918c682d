"""Replace the learned position embeddings of a transformer: is it they that carry position?

What `--padding none` is for a CNN. Only absolute embeddings, one for each patch, can be replaced; relative ones (Swin) and
rotations of queries and keys say how patches lie to each other.
"""

import torch
from torch import nn

from posenet_store.backbones.maps import find_format
from posenet_store.errors import UsageError, unknown
from posenet_store.specs import LEARNED, POSITIONS

NAMES = ("pos_embed", "pos_embedding")
"""What timm and torchvision call the parameter, float32 [1, tokens, C]."""
SEED = 0


def check_positions(positions: str) -> None:
    """Raise UsageError if position embeddings can't be replaced so."""
    if positions not in POSITIONS:
        raise unknown("position embeddings", positions, POSITIONS)


@torch.no_grad()
def replace_positions(module: nn.Module, positions: str, name: str) -> None:
    """Set the patches' position embeddings to zero or shuffle them, in place; those of class and register tokens stay.

    Raises UsageError if the network `name` has none.
    """
    if positions == LEARNED:
        return
    parameters = [value for key, value in module.named_parameters() if key.rpartition(".")[2] in NAMES and value.dim() == 3]
    if not parameters:
        raise UsageError(f"{name} has no position embedding for each patch; --positions {positions} is for ViT and its kin")
    prefix = len(find_format(module).prefix)
    for parameter in parameters:
        count = parameter.shape[1]
        first = prefix if round((count - prefix) ** 0.5) ** 2 == count - prefix else 0
        patches = parameter[:, first:]
        order = torch.randperm(count - first, generator=torch.Generator().manual_seed(SEED)).to(parameter.device)
        patches.copy_(patches[:, order] if positions == "shuffled" else torch.zeros_like(patches))

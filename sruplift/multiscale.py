"""Networks of several scales with one trunk, trained together and released one by one.

SRRAM's light network was trained so (Kim et al., 2018, section 4.4), as were CARN and MDSR.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from sruplift.models.layers import SuperResolver

# The modules that come after the trunk, whatever the network; each scale has its own.
TAIL = frozenset({"upsample", "last", "tail3", "tail5", "scale3", "scale5"})


class MultiScale(nn.Module):
    """One network for each scale; their trunks are the same modules, those of the first one.

    ``forward(lr, scale)`` is the network of ``scale``'s. ``parameters()`` has what is shared once.
    """

    def __init__(self, networks: Iterable[SuperResolver]) -> None:
        """Takes over the networks: they are changed.

        Raises:
            ValueError: the trunks have different tensors.
        """
        super().__init__()
        first, *others = networks
        for other in others:
            share_trunk(first, other)
        self.networks = nn.ModuleDict({str(n.scale): n for n in (first, *others)})

    def forward(self, lr: Tensor, scale: int) -> Tensor:
        """LR (B, 3, H, W) in [0, 1] -> SR (B, 3, H * scale, W * scale)."""
        return self.networks[str(scale)](lr)


def by_scale(network: nn.Module) -> Mapping[int, SuperResolver]:
    """The networks of a ``MultiScale``, or a network alone, by their scale."""
    if isinstance(network, MultiScale):
        members = (m for m in network.networks.values() if isinstance(m, SuperResolver))
        return {member.scale: member for member in members}
    assert isinstance(network, SuperResolver)
    return {network.scale: network}


def share_trunk(source: nn.Module, target: nn.Module) -> None:
    """Put the trunk's modules of ``source`` into ``target``, in place of its own."""
    for name, module in list(target.named_children()):
        if name in TAIL:
            continue
        shared = source.get_submodule(name)
        if _shapes(shared) != _shapes(module):
            raise ValueError(f"the networks of several scales differ in {name!r}")
        setattr(target, name, shared)


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}

"""Modules whose merged parameters are views of one flat buffer."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from moofusion.weights.layout import STATIC, ParameterLayout, Partition

__all__ = ["FlatModel"]


class FlatModel:
    """One flat buffer of weights, and the modules that read it.

    Writing to :attr:`weights` changes every module at once: no copy, no state dict. The modules
    share the same parameter objects and differ only in what is not merged (their heads).

    Args:
        layout: Places of the merged tensors.
        weights: Flat buffer, shape ``(D,)``; used as it is, not copied.
        modules: Modules by name; their merged parameters are replaced by views of the buffer.
        names: For a module, the merged tensors: own name to name in the layout.

    Example:
        >>> module = nn.Linear(2, 1, bias=False)
        >>> layout = ParameterLayout({"weight": (1, 2)})
        >>> flat = FlatModel(layout, torch.ones(layout.size), {"m": module},
        ...                  lambda m: {"weight": "weight"})
        >>> module(torch.ones(1, 2)).item()
        2.0
    """

    def __init__(
        self,
        layout: ParameterLayout,
        weights: Tensor,
        modules: Mapping[str, nn.Module],
        names: Callable[[nn.Module], dict[str, str]],
    ) -> None:
        self.layout = layout
        self.weights = weights
        self.modules = dict(modules)
        self._gradient: Tensor | None = None
        views = {e.name: weights[e.slice].view(e.shape) for e in layout.entries}
        self._views = views
        self._parameters = {k: nn.Parameter(v, requires_grad=False) for k, v in views.items()}
        for module in self.modules.values():
            merged = {f: s for f, s in names(module).items() if s in views}
            _rebind(module, merged, self._parameters, views)
            module.to(weights.device)
            module.requires_grad_(False)
            module.eval()

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.weights.device

    def head_names(self, module: nn.Module) -> list[str]:
        """Names of what `module` holds beside the merged weights: its head."""
        shared = {id(value) for value in (*self._parameters.values(), *self._views.values())}
        return [k for k, v in module.state_dict(keep_vars=True).items() if id(v) not in shared]

    def merged_names(self) -> dict[int, str]:
        """Names in the layout by the ``id`` of the shared parameters."""
        return {id(value): name for name, value in self._parameters.items()}

    def gradient_buffer(self, partition: Partition) -> Tensor:
        """Zeroed flat gradient ``(D,)`` into which ``backward()`` accumulates.

        Only parameters in a group of `partition` take gradients; those of the static part do not.
        Call :meth:`release_gradients` afterwards.
        """
        if self._gradient is None:
            self._gradient = torch.zeros_like(self.weights)
        else:
            self._gradient.zero_()
        for entry, group in zip(self.layout.entries, partition.groups, strict=True):
            if group != STATIC and entry.name in self._parameters:
                parameter = self._parameters[entry.name]
                parameter.requires_grad_(True)
                parameter.grad = self._gradient[entry.slice].view(entry.shape)
        return self._gradient

    def release_gradients(self) -> None:
        """Stop tracking gradients, so that evaluation runs without a graph."""
        for parameter in self._parameters.values():
            parameter.grad = None
            parameter.requires_grad_(False)


def _rebind(
    module: nn.Module,
    merged: Mapping[str, str],
    parameters: Mapping[str, nn.Parameter],
    views: Mapping[str, Tensor],
) -> None:
    """Replace the merged tensors of `module`, wherever they are tied, by the shared ones."""
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    shared = {id(own[full]): short for full, short in merged.items()}
    for owner in module.modules():
        for key, old in list(owner._parameters.items()):
            if old is not None and id(old) in shared:
                owner._parameters[key] = parameters[shared[id(old)]]
        for key, buffer in list(owner._buffers.items()):
            if buffer is not None and id(buffer) in shared:
                owner._buffers[key] = views[shared[id(buffer)]]

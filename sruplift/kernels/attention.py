"""Attention of patches: ``attention.c`` called from PyTorch."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from sruplift.kernels.library import AttentionCall, Kernels


def attend(kernels: Kernels, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """``softmax(query key^T) value`` of each patch, float32. Scale the queries before.

    Args:
        kernels: from ``load_kernels``.
        query: (..., N, D).
        key: (..., M, D).
        value: (..., M, C).

    Returns:
        (..., N, C).

    Raises:
        ValueError: sizes that do not go together.
        MemoryError: there is not enough of it.
    """
    query, key, value = (x.float().contiguous() for x in (query, key, value))
    result = query.new_empty((*query.shape[:-1], value.shape[-1]))
    patches = query.shape[:-2].numel()
    sizes = patches, query.shape[-2], key.shape[-2], query.shape[-1], value.shape[-1]
    before = query.shape[:-2]
    if key.shape != (*before, *sizes[2:4]) or value.shape != (*before, sizes[2], sizes[4]):
        raise ValueError("queries, keys and values of sizes that do not go together")
    places = (x.data_ptr() for x in (query, key, value, result))
    call = AttentionCall(*places, *sizes)
    if kernels.library.sruplift_attend(ctypes.byref(call), torch.get_num_threads()):
        raise MemoryError("not enough memory for an attention")
    return result

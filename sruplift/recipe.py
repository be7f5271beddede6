"""What a training config asks for: network, loss, optimizer and learning rate."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from sruplift.color import WEIGHTS, rgb_to_y
from sruplift.config import TrainConfig
from sruplift.errors import ConfigError, WeightsError
from sruplift.importer import others_source, read_tensors, recognise
from sruplift.models import create_model
from sruplift.models.layers import SuperResolver
from sruplift.multiscale import MultiScale, by_scale
from sruplift.optim import AdamP, Muon
from sruplift.weights import locate

CHARBONNIER_EPSILON = 1e-3
# A patch whose mean squared error is this (50 dB) has little left to learn.
PSNR_EPSILON = 1e-5


def learning_rate(config: TrainConfig, iteration: int) -> float:
    """The rate of ``iteration`` (from 0).

    In each cosine cycle a linear warm-up, then half a cosine; with steps one warm-up, then halves.
    """
    optimizer = config.optimizer
    low, high = optimizer.final_learning_rate, optimizer.learning_rate
    if optimizer.halve_every:
        length, position = float(config.iterations), float(iteration)
        rate = high * 0.5 ** (iteration // optimizer.halve_every)
    else:
        length = config.iterations / optimizer.cycles
        position = iteration % length
        rate = low + (high - low) * 0.5 * (1 + math.cos(math.pi * position / length))
    warmup = min(optimizer.warmup, length / 2)
    return rate * min(1.0, (position + 1) / warmup) if warmup else rate


def loss_of(name: str, sr: Tensor, hr: Tensor, luma: float = 0) -> Tensor:
    """The loss ``name`` of patches (B, 3, H, W) in [0, 1].

    ``luma``: how much of the error is that of BT.601 luma, in [0, 1]; the rest is that of RGB.
    """
    difference = sr - hr
    errors = _errors(name, difference)
    if luma:
        # As large as RGB's where all channels are wrong by as much.
        grey = (rgb_to_y(sr) - rgb_to_y(hr)) * (255 / sum(WEIGHTS))
        errors = luma * _errors(name, grey) + (1 - luma) * errors
    # A patch that is wrong by more than all of [0, 1] was amplified from block to block: which way
    # its gradients point says nothing, and they are a million times as long as the others.
    errors = errors.where(errors < 1, errors.detach())
    if name == "psnr":
        # Of each patch by itself, as papers measure each image: in L1 and L2 the errors of fine
        # texture, which nothing can restore, outweigh those of edges in smooth images.
        return 10 * (errors + PSNR_EPSILON).log10().mean()
    return errors.mean()


def is_hopeless(name: str, loss: float) -> bool:
    """Whether pixels are, on average, wrong by more than they can be: by all of [0, 1]."""
    return loss > (0 if name == "psnr" else 1)


def _errors(name: str, difference: Tensor) -> Tensor:
    """The mean error of each patch (B,), before a logarithm is taken."""
    if name == "l1":
        each = difference.abs()
    elif name == "charbonnier":
        each = (difference.square() + CHARBONNIER_EPSILON**2).sqrt()
    else:
        each = difference.square()
    return each.mean((1, 2, 3))


def build_optimizer(config: TrainConfig, network: nn.Module) -> torch.optim.Optimizer:
    """The optimizer of all the network's parameters.

    A group's ``initial_lr`` is its share at the config's full learning rate. Parameters with a
    step size of their own (``SuperResolver``) make up more groups, Adam's if Muon has the others.
    """
    options = config.optimizer
    rate, betas = options.learning_rate, options.betas
    apart = _step_sizes(network)
    usual = [p for p in network.parameters() if p not in apart]
    optimizer: torch.optim.Optimizer
    extra: dict[str, Any] = {"lr": rate}
    if options.name == "muon":
        optimizer = Muon(
            usual,
            rate,
            adam_learning_rate=options.adam_learning_rate,
            betas=betas,
            weight_decay=options.weight_decay,
        )
        extra = {"lr": options.adam_learning_rate, "orthogonal": False}
    elif options.name == "adamp":
        optimizer = AdamP(usual, rate, betas=betas)
    else:
        optimizer = torch.optim.Adam(usual, rate, betas=betas)
    for size in sorted(set(apart.values())):
        members = [parameter for parameter, own in apart.items() if own == size]
        optimizer.add_param_group({**extra, "params": members, "lr": extra["lr"] * size})
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


def _step_sizes(network: nn.Module) -> dict[nn.Parameter, float]:
    """The parameters whose steps are larger or smaller than the others', and how much."""
    return {
        member.get_parameter(name): size
        for member in by_scale(network).values()
        for name, size in member.step_sizes.items()
    }


def build_network(config: TrainConfig) -> nn.Module:
    """The network with the weights that the run starts from; of several scales a ``MultiScale``.

    Raises:
        ConfigError: unknown model or scale, or patches that are too small for it.
        UsageError: ``init`` names released weights, or an address, that there cannot be.
        WeightsError: ``init`` cannot be read, or is of another network.
    """
    networks = [_build(config, scale) for scale in config.every_scale]
    return MultiScale(networks) if config.scales else networks[0]


def _build(config: TrainConfig, scale: int) -> SuperResolver:
    try:
        network = create_model(config.model, scale)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    patch_size, least = min(config.patch_sizes), network.needs.min_size
    if patch_size < least:
        # It would mirror them to that size: slower than larger patches, and less to learn from.
        raise ConfigError(
            f"patches of {patch_size}x{patch_size} LR pixels are too small for"
            f" {config.model}, which needs {least}x{least} or more"
        )
    if config.init is None:
        return network
    init = config.init.replace("{scale}", str(scale))
    source = _init_tensors(init)
    own = network.state_dict()
    shared = {k: v for k, v in source.items() if k in own and own[k].shape == v.shape}
    if len(shared) < len(own) / 2:
        raise WeightsError(
            f"{init} shares only {len(shared)} of {len(own)} tensors with"
            f" {config.model} x{scale}: it cannot be the start of this run"
        )
    at_random = network.step_sizes
    network.load_state_dict(shared, strict=False)
    if at_random and not network.step_sizes:
        # What reads features that are not large is not to be small.
        with torch.no_grad():
            for name in at_random.keys() - shared.keys():
                network.get_parameter(name).div_(at_random[name])
    return network


def _init_tensors(init: str) -> dict[str, Tensor]:
    """The tensors of weights that a config names."""
    return dict(recognise(read_tensors(locate(init))[0], init).tensors)


def imported_from(config: TrainConfig) -> str:
    """Which file of others' weights the run begins with or is taught by; "" where all are ours.

    Of imported weights it is the file that they came from: so it is of runs that began with them.

    Raises:
        UsageError: released weights, or an address, that there cannot be.
        WeightsError: the weights cannot be read.
    """
    taught = config.teacher.weights if config.teacher is not None else ()
    for name in filter(None, (config.init, *taught)):
        for scale in config.every_scale:
            path = locate(name.replace("{scale}", str(scale)))
            if source := others_source(read_tensors(path)[1], path):
                return source
    return ""

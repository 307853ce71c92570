"""Log-densities as textbooks write them, for the references."""

import math

from torch import Tensor


def gaussian_log_prob(x: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of a diagonal normal distribution, (..., B)."""
    variance = (2 * log_std).exp()
    per_dim = -((x - mean) ** 2) / (2 * variance) - 0.5 * (2 * math.pi * variance).log()
    return per_dim.sum(-1)


def tanh_gaussian_log_prob(z: Tensor, mean: Tensor, log_std: Tensor) -> Tensor:
    """Log-density of ``tanh z`` by change of variables; z must not be large, (..., B)."""
    return gaussian_log_prob(z, mean, log_std) - (1 - z.tanh() ** 2).log().sum(-1)

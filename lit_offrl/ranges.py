"""Where the numbers that options take must lie."""

from collections.abc import Mapping, Sequence
from typing import Any

from lit_offrl.errors import InputError

COUNTS = ("n_actions", "n_candidates", "n_critics", "n_quantiles")
PERIODS = ("policy_delay", "policy_period", "target_period")
WEIGHTS = (
    "bc_alpha",
    "choice_inverse_temperature",
    "cql_alpha",
    "critic_penalty",
    "inverse_temperature",
    "kl_weight",
    "logit_penalty",
    "max_perturbation",
    "policy_noise",
    "policy_penalty",
    "regularizer_weight",
)
RANGES = {
    **dict.fromkeys((*COUNTS, *PERIODS), "[1, inf)"),
    **dict.fromkeys(WEIGHTS, "[0, inf)"),
    **dict.fromkeys(("lr", "policy_lr", "q_lr", "adam_eps"), "(0, inf)"),
    **dict.fromkeys(("awr_temperature", "temperature"), "(0, inf)"),
    **dict.fromkeys(("lagrange_gap", "target_entropy"), "(-inf, inf)"),
    **dict.fromkeys(("bcq_threshold", "clipped_weight"), "[0, 1]"),
    **dict.fromkeys(("min_weight", "polyak"), "(0, 1]"),
    "dropout": "[0, 1)",
    "expectile": "(0, 1)",
    "noise_clip": "[0, inf]",
}
"""Interval of each number that an algorithm takes, by its name, which means one thing in all."""


def within(interval: str, **named: float) -> None:
    """Refuse numbers outside an interval, and NaN.

    Args:
        interval: Its bounds as one writes them.
        **named: The numbers, under the names of their options.

    Raises:
        InputError: If one lies outside.

    >>> within("(0, 1]", polyak=1.0)
    >>> within("(0, 1]", polyak=0.0)
    Traceback (most recent call last):
    lit_offrl.errors.InputError: `polyak` must lie in (0, 1], not 0.0.
    """
    low, high = map(float, interval[1:-1].split(","))
    for name, value in named.items():
        above = value >= low if interval.startswith("[") else value > low
        below = value <= high if interval.endswith("]") else value < high
        if not (above and below):
            raise InputError(f"`{name}` must lie in {interval}, not {value}.")


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse arguments of an algorithm that lie outside :data:`RANGES`; None is none."""
    for name, interval in RANGES.items():
        if arguments.get(name) is not None:
            within(interval, **{name: arguments[name]})


def check_widths(hidden: Sequence[int], least: int = 0) -> None:
    """Refuse hidden layers without units, and fewer layers than a network needs."""
    if len(hidden) < least or any(width < 1 for width in hidden):
        layers = "at least one layer" if least else "layers"
        raise InputError(f"Hidden layers must be {layers} of width 1 or more, not {tuple(hidden)}.")

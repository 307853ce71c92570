"""From a policy that was trained offline to the algorithm that goes on with it online."""

import copy
from collections.abc import Mapping
from typing import Any, Literal, get_args

from torch import nn

from lit_offrl.algorithms import (
    CQL,
    IQL,
    RLPD,
    CalQL,
    DiscreteCalQL,
    DiscreteCQL,
    OfflineAlgorithm,
)
from lit_offrl.algorithms.pex import PEX
from lit_offrl.checkpoint import LoadedPolicy
from lit_offrl.errors import InputError

Mode = Literal["continue", "calql", "rlpd", "wsrl", "pex"]

DEFAULTS: Mapping[Mode, Mapping[str, Any]] = {
    "continue": {},
    "calql": {"offline_fraction": 0.5},
    "rlpd": {"offline_fraction": 0.5, "random_steps": 5_000},
    "wsrl": {"offline_fraction": 0.0, "warmup_steps": 5_000, "utd": 4.0},
    "pex": {"offline_fraction": 0.5, "warmup_steps": 5_000},
}
"""What the authors of a mode do otherwise than `continue`."""


def finetuned(
    policy: LoadedPolicy, mode: Mode, arguments: Mapping[str, Any] | None = None
) -> OfflineAlgorithm:
    """Make the algorithm that is trained online.

    ``continue`` keeps algorithm and networks; ``calql`` bounds the penalty of a CQL by the returns
    seen (Nakamoto et al. 2023); ``rlpd`` starts anew, with the log as a help (Ball et al. 2023);
    ``wsrl`` goes on from a CQL's networks with SAC (Zhou et al. 2024); ``pex`` freezes an IQL's
    policy and learns a second one beside it (Zhang et al. 2023). A cosine schedule is dropped.

    Args:
        policy: What was trained offline.
        mode: How to go on.
        arguments: Arguments of the algorithm that differ from the checkpoint's.

    Raises:
        InputError: If the mode does not fit the algorithm, or an argument is unknown.
    """
    old, given = policy.algorithm, dict(arguments or {})
    if mode not in get_args(Mode):
        raise InputError(f"There is no mode `{mode}`: choose from {', '.join(get_args(Mode))}.")
    if mode == "continue":
        return _successor(old, type(old), given)
    if mode == "calql":
        return _successor(old, _fitting(old, mode, {CQL: CalQL, DiscreteCQL: DiscreteCalQL}), given)
    if mode == "pex":
        kind = _fitting(old, mode, {IQL: PEX})
        if isinstance(old, PEX):
            return _successor(old, kind, given)
        expanded = _successor(old, kind, given, anew="policy.")
        _copy_weights(old.policy, expanded.offline_policy, "policy")  # type: ignore[arg-type]
        return expanded
    spec = policy.spec
    if spec.discrete:
        raise InputError(f"Mode `{mode}` is for Box actions: use `continue` or `calql`.")
    known = {"obs_dim": spec.obs_dim, "action_dim": spec.action_dim, "discount": old.discount}
    if mode == "rlpd":
        return _make(RLPD, {**known, **given})
    _fitting(old, mode, {CQL: RLPD, RLPD: RLPD})
    if isinstance(old, RLPD):
        return _successor(old, RLPD, given)
    hyper = dict(old.hparams)
    n = int(hyper["n_critics"])
    kept = {name: hyper[name] for name in ("hidden", "critic_hidden", "policy_lr", "polyak")}
    kept["lr"] = hyper["q_lr"]
    # what values and temperature were learned for: CQL's hold no entropy
    kept |= {"entropy_backup": False, "target_entropy": old.target_entropy}
    shape = {"n_critics": n, "n_target_critics": min(2, n), "layer_norm": False}
    new = _make(RLPD, {**known, **kept, **shape, **given})
    for name in ("policy", "q", "target_q", "log_alpha_entropy"):
        _copy_weights(getattr(old, name), getattr(new, name), name)
    return new


def frozen(algorithm: OfflineAlgorithm) -> OfflineAlgorithm:
    """Copy an algorithm as it is, without gradients."""
    return copy.deepcopy(algorithm).eval().requires_grad_(False)


def _successor(
    old: OfflineAlgorithm,
    kind: type[OfflineAlgorithm],
    given: Mapping[str, Any],
    anew: str = " ",
) -> OfflineAlgorithm:
    """Make one of the same networks, with the weights of the old but those named ``anew...``."""
    hyper = {key: value for key, value in dict(old.hparams).items() if not key.startswith("_")}
    if "cosine_schedule" in hyper:
        hyper["cosine_schedule"] = False
    new = _make(kind, {**hyper, **given})
    state = {k: v for k, v in old.state_dict().items() if not k.startswith(anew)}
    missing = set(state) - set(new.state_dict())
    if missing:
        raise InputError(f"{kind.__name__} has no `{sorted(missing)[0]}` of the checkpoint.")
    for name, own in new.state_dict().items():
        if name in state and own.shape != state[name].shape:
            raise InputError(
                f"`{name}` of the checkpoint has shape {tuple(state[name].shape)}, not "
                f"{tuple(own.shape)}: leave network sizes as they were trained."
            )
    new.load_state_dict(state, strict=False)
    return new


def _make(kind: type[OfflineAlgorithm], arguments: Mapping[str, Any]) -> OfflineAlgorithm:
    try:
        return kind(**arguments)
    except TypeError as error:
        reason = str(error).partition(") ")[2] or str(error)
        raise InputError(f"{kind.__name__}: {reason}: see its arguments in the docs.") from None


def _fitting(
    old: OfflineAlgorithm,
    mode: str,
    kinds: Mapping[type[OfflineAlgorithm], type[OfflineAlgorithm]],
) -> type[OfflineAlgorithm]:
    for kind, successor in kinds.items():
        if isinstance(old, kind):
            return type(old) if isinstance(old, successor) else successor
    names = " or ".join(kind.__name__ for kind in kinds)
    raise InputError(
        f"Mode `{mode}` goes on from {names}, not from {type(old).__name__}: use `continue`."
    )


def _copy_weights(old: nn.Module, new: nn.Module, name: str) -> None:
    try:
        new.load_state_dict(old.state_dict())
    except RuntimeError:
        raise InputError(
            f"`{name}` of the checkpoint has another shape than the new one: leave `hidden`, "
            "`critic_hidden` and `n_critics` as they were trained."
        ) from None

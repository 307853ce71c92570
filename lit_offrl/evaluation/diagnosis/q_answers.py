"""What a critic answers about a probe: the columns that verdicts on it are made of."""

import math
from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from lit_offrl.ensembles import Layer, hidden_layer
from lit_offrl.evaluation.columns import Columns
from lit_offrl.evaluation.probe import Probe
from lit_offrl.networks import DiscreteQNetwork, QNetwork

N_RANDOM = 10
"""Random Box actions that are asked about at each observation."""


class Critic(Protocol):
    """The part of an algorithm's public face that is asked."""

    discount: float

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values of actions, (n, B), in transformed reward."""

    def act(self, obs: Tensor) -> Tensor:
        """Greedy actions, (B, A) or (B,)."""


def random_actions(probe: Probe, n_actions: int | None, seed: int) -> Tensor:
    """Actions to compare the log's with: (10, M, A) from U(-1, 1), or all discrete ones, (K, M).

    Args:
        probe: The whole probe, of which each rank takes its columns.
        n_actions: Number K of discrete actions; None for Box actions.
        seed: Which ones.
    """
    if n_actions is not None:
        return torch.arange(n_actions).unsqueeze(1).expand(n_actions, len(probe.action))
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(N_RANDOM, *probe.action.shape, generator=generator) - 1


def ask(critic: Critic, probe: Probe, others: Tensor, reward_scale: float) -> dict[str, Tensor]:
    """Columns about the rows of a probe, (M,) each, in float64.

    Q is the smallest of the ensemble, in raw scale: divided by ``reward_scale``. In training scale
    are ``lse_gap``, as CQL's penalty is ``log mean_a exp Q(s, a) - Q(s, a_D)``, and ``advantage``,
    ``Q(s, a_D) - V(s)`` of a module with ``v``. Columns that need an ensemble, ``v`` or visible
    features are left out where there are none.

    Args:
        critic: What is asked.
        probe: Rows, on the critic's device.
        others: Actions of :func:`random_actions` for these rows, on the same device.
        reward_scale: Of the reward transform.
    """
    next_action = critic.act(probe.next_obs)  # (M, A) or (M,)
    q_data = critic.q_values(probe.obs, probe.action).double()  # (n, M)
    q_policy = critic.q_values(probe.obs, critic.act(probe.obs)).double()  # (n, M)
    q_others = torch.stack(
        [critic.q_values(probe.obs, action).amin(0).double() for action in others]
    )  # (K, M)
    soft_max = q_others.logsumexp(0) - math.log(len(q_others))  # (M,)
    columns = {
        "q_data": q_data.amin(0) / reward_scale,
        "q_policy": q_policy.amin(0) / reward_scale,
        "q_random": q_others.mean(0) / reward_scale,
        "std_random": q_others.std(0, correction=0) / reward_scale,
        "lse_gap": soft_max - q_data.amin(0),
        "td_error": td_errors(critic, probe, next_action, reward_scale),
        "mc_return": probe.mc_return.double(),
    }
    if len(q_data) > 1:
        columns["disagreement_data"] = q_data.std(0) / reward_scale
        columns["disagreement_policy"] = q_policy.std(0) / reward_scale
    if callable(v := getattr(critic, "v", None)):
        columns["advantage"] = q_data.amin(0) - v(probe.obs).double()
    return columns | _feature_columns(getattr(critic, "q", None), probe, next_action)


def td_errors(critic: Critic, probe: Probe, next_action: Tensor, reward_scale: float) -> Tensor:
    """``r + γ (1 - terminated) min_j Q_j(s', a') - min_j Q_j(s, a)`` in raw scale, (M,).

    Args:
        critic: What is asked.
        probe: Rows, on the critic's device.
        next_action: a', the policy's, (M, A) or (M,).
        reward_scale: Of the reward transform.
    """
    q = critic.q_values(probe.obs, probe.action).amin(0).double() / reward_scale  # (M,)
    next_q = critic.q_values(probe.next_obs, next_action).amin(0).double() / reward_scale  # (M,)
    return probe.reward + critic.discount * (1 - probe.terminated) * next_q - q


def ask_all(
    critic: Critic, probe: Probe, others: Tensor, trained: Probe | None, reward_scale: float
) -> dict[str, Tensor]:
    """Answers of all ranks to what each is asked: :func:`ask`, ``q_start``, ``train_td_error``.

    Args:
        critic: What is asked.
        probe: This rank's rows.
        others: Actions of :func:`random_actions` for them.
        trained: Rows that are trained on, where those of ``probe`` are held out.
        reward_scale: Of the reward transform.
    """
    answers = _gathered(ask(critic, probe, others, reward_scale))
    answers |= _gathered({"q_start": start_values(critic, probe.start_obs, reward_scale)})
    if trained is not None:
        error = td_errors(critic, trained, critic.act(trained.next_obs), reward_scale)
        answers |= _gathered({"train_td_error": error})
    return answers


def _gathered(columns: dict[str, Tensor]) -> dict[str, Tensor]:
    """Columns of all ranks."""
    metric = Columns(*columns).to(next(iter(columns.values())).device)
    metric.update(**columns)
    return metric.compute()


def start_values(critic: Critic, obs: Tensor, reward_scale: float) -> Tensor:
    """``min_j Q_j(s, π(s))`` in raw scale, (S,); a rank may have no row to ask about."""
    if not len(obs):
        return obs.new_zeros(0, dtype=torch.float64)
    return critic.q_values(obs, critic.act(obs)).amin(0).double() / reward_scale


def critic_features(network: object, obs: Tensor, action: Tensor) -> Tensor | None:
    """Last hidden layer of an ensemble's first member, (B, H); None if it cannot be seen.

    A forward hook would see nothing on a CPU, where members run without their modules.

    Args:
        network: A :class:`QNetwork` or :class:`DiscreteQNetwork`; of another type, None.
        obs: Normalized observations, (B, O).
        action: Actions; a discrete critic's features do not depend on them.
    """
    layers: tuple[Layer, ...]
    if isinstance(network, QNetwork):
        x, layers = torch.cat([network.encoder(obs), action], -1), network.members()[0]
        relu_first = network.trunk.relu_first
    elif isinstance(network, DiscreteQNetwork):
        x, layers, relu_first = network.encoder(obs), network.net.members()[0], False
    else:
        return None
    for layer in layers[:-1]:
        x = hidden_layer(x, layer, relu_first)
    return x


def _feature_columns(network: object, probe: Probe, next_action: Tensor) -> dict[str, Tensor]:
    """Features ``feature_0`` and so on, and ``φ(s, a)ᵀ φ(s', a')`` as ``feature_product``."""
    features = critic_features(network, probe.obs, probe.action)  # (M, H)
    following = critic_features(network, probe.next_obs, next_action)  # (M, H)
    if features is None or following is None:
        return {}
    columns = {f"feature_{i}": column for i, column in enumerate(features.unbind(1))}
    return columns | {"feature_product": (features * following).sum(1)}


def features_of(columns: Mapping[str, Tensor]) -> Tensor | None:
    """Put the columns ``feature_0`` and so on side by side, (M, H); None if there are none."""
    names = [name for name in columns if name.startswith("feature_") and name[8:].isdigit()]
    return torch.stack([columns[name] for name in names], 1) if names else None


def all_finite(module: nn.Module) -> bool:
    """Whether no parameter of a module is NaN or infinite."""
    return all(bool(parameter.isfinite().all()) for parameter in module.parameters())

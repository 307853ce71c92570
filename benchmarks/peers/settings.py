"""Settings that lit_offrl and d3rlpy share in the benchmarks.

Both libraries' processes read this file, so it imports nothing but the standard library.
"""

from dataclasses import dataclass, field
from typing import Any

BATCH_SIZE = 256
HIDDEN = (256, 256)
D3RLPY, AS_SHIPPED = "d3rlpy", "d3rlpy as shipped"
"""Peers; the second without what this file mends."""
Settings = dict[str, Any]


@dataclass(frozen=True)
class Algorithm:
    """One algorithm under the names and arguments of both libraries.

    Args:
        model: Arguments of the class in ``lit_offrl.algorithms``.
        data: Arguments of ``OfflineDataModule``.
        peer: Name of the class in ``d3rlpy.algos``; empty if it is not compared.
        peer_config: Arguments of that class's config. Networks of two hidden layers of 256,
            discount 0.99 and target rate 0.005 are its own defaults.
        peer_cosine: Whether the actor's learning rate falls to 0 as lit_offrl's does.
        peer_squash: Whether d3rlpy's decoder gets the tanh that BCQ's authors have: its
            ``VAEDecoder.forward`` reads ``with_squash`` the wrong way round, and so has none.
            Such an algorithm is compared with d3rlpy :data:`AS_SHIPPED` too.
    """

    model: Settings
    data: Settings = field(default_factory=dict)
    peer: str = ""
    peer_config: Settings = field(default_factory=dict)
    peer_cosine: bool = False
    peer_squash: bool = False


ALGORITHMS: dict[str, Algorithm] = {
    "BC": Algorithm(
        model={"policy": "deterministic", "hidden": HIDDEN, "lr": 3e-4},
        peer="BC",
        peer_config={"policy_type": "deterministic", "learning_rate": 3e-4},
    ),
    "TD3BC": Algorithm(
        model={"hidden": HIDDEN, "lr": 3e-4, "bc_alpha": 2.5, "policy_delay": 2},
        peer="TD3PlusBC",
        peer_config={
            "actor_learning_rate": 3e-4,
            "critic_learning_rate": 3e-4,
            "alpha": 2.5,
            "update_actor_interval": 2,
        },
    ),
    "IQL": Algorithm(
        model={"hidden": HIDDEN, "lr": 3e-4, "expectile": 0.7, "inverse_temperature": 3.0},
        data={"reward_range": 1000.0},
        peer="IQL",
        peer_config={
            "actor_learning_rate": 3e-4,
            "critic_learning_rate": 3e-4,
            "expectile": 0.7,
            "weight_temp": 3.0,
            "max_weight": 100.0,
        },
        peer_cosine=True,
    ),
    "CQL": Algorithm(
        # d3rlpy's policy has no offset of log σ and its layers no orthogonal weights.
        model={
            "hidden": HIDDEN,
            "critic_hidden": HIDDEN,
            "policy_lr": 3e-4,
            "q_lr": 3e-4,
            "cql_alpha": 5.0,
            "n_actions": 10,
            "orthogonal_init": False,
        },
        peer="CQL",
        peer_config={
            "actor_learning_rate": 3e-4,
            "critic_learning_rate": 3e-4,
            "temp_learning_rate": 3e-4,
            "alpha_learning_rate": 0.0,  # no Lagrange multiplier
            "conservative_weight": 5.0,
            "n_action_samples": 10,
        },
    ),
    "BCQ": Algorithm(
        # d3rlpy has one number of proposals for the target and for acting.
        model={
            "hidden": HIDDEN,
            "vae_hidden": HIDDEN,
            "lr": 1e-3,
            "max_perturbation": 0.05,
            "n_actions": 10,
            "n_candidates": 10,
        },
        peer="BCQ",
        peer_config={
            "actor_learning_rate": 1e-3,
            "critic_learning_rate": 1e-3,
            "imitator_learning_rate": 1e-3,
            "action_flexibility": 0.05,
            "n_action_samples": 10,
        },
        peer_squash=True,
    ),
    "DiscreteBC": Algorithm(model={"policy": "categorical", "hidden": HIDDEN, "lr": 3e-4}),
    "DiscreteIQL": Algorithm(model={"hidden": HIDDEN, "lr": 3e-4}),
    "DiscreteBCQ": Algorithm(model={"hidden": HIDDEN, "lr": 3e-4}),
    "DiscreteCQL": Algorithm(
        model={"hidden": HIDDEN, "lr": 3e-4, "cql_alpha": 1.0, "polyak": 1.0, "target_period": 500},
        peer="DiscreteCQL",
        peer_config={"learning_rate": 3e-4, "alpha": 1.0, "target_update_interval": 500},
    ),
}
"""Every algorithm of the benchmarks; ``DiscreteBC`` is BC with a categorical policy."""

"""Behavior cloning (BC): Pomerleau (1988), https://doi.org/10.1184/R1/6603146.v1."""

from typing import Literal

from torch import Tensor

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.batch import Batch
from lit_offrl.encoders import EncoderName, Image, observed
from lit_offrl.policies import (
    Categorical,
    CategoricalPolicy,
    DeterministicPolicy,
    GaussianPolicy,
    TanhGaussianPolicy,
)
from lit_offrl.ranges import check_arguments

PolicyKind = Literal["gaussian", "tanh_gaussian", "deterministic", "categorical"]


class BC(OfflineAlgorithm):
    """``max_π E_D log π(a|s)``, or ``min_π E_D |π(s) - a|²`` for a deterministic policy.

    The top-k% variant is this with ``data.top_fraction``. There is no critic.

    Args:
        obs_dim: O.
        action_dim: A.
        policy: ``gaussian`` (σ free of the state), ``tanh_gaussian`` (σ of the state),
            ``deterministic``, or ``categorical`` for discrete actions.
        hidden: Widths of the hidden layers.
        lr: Learning rate.
        dropout: Dropout of the gaussian policy.
        logit_penalty: Weight of ``E mean_a logit²`` for the categorical policy.
        discount: γ, which plays no part in training.
        images: Where images lie in an observation, given by the data.
        encoder: What looks at them, a copy for each network: ``nature`` (DQN's) or ``impala``.
    """

    policy: GaussianPolicy | TanhGaussianPolicy | DeterministicPolicy | CategoricalPolicy

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        policy: PolicyKind = "gaussian",
        hidden: tuple[int, ...] = (256, 256),
        lr: float = 3e-4,
        dropout: float = 0.0,
        logit_penalty: float = 0.0,
        discount: float = 0.99,
        images: tuple[Image, ...] = (),
        encoder: EncoderName = "nature",
    ) -> None:
        super().__init__(discount)
        self.save_hyperparameters()
        check_arguments(self.hparams)
        seen = observed(obs_dim, images, encoder)
        self.actions = "discrete" if policy == "categorical" else "box"
        self.hint = f"BC with `policy` {'gaussian' if policy == 'categorical' else 'categorical'}"
        if policy == "gaussian":
            self.policy = GaussianPolicy(seen, action_dim, hidden, dropout)
        elif policy == "tanh_gaussian":
            self.policy = TanhGaussianPolicy(seen, action_dim, hidden, (-5.0, 2.0), 0.0)
        elif policy == "deterministic":
            self.policy = DeterministicPolicy(seen, action_dim, hidden)
        else:
            self.policy = CategoricalPolicy(seen, action_dim, hidden)
        self.logit_penalty = logit_penalty
        self.optimize(self.policy, lr)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Update π once."""
        policy = self.policy(batch.obs)
        policy_loss = policy.imitation_loss(batch.action).mean()
        if isinstance(policy, Categorical) and self.logit_penalty > 0:
            policy_loss = policy_loss + self.logit_penalty * policy.logits.square().mean()

        self.minimize(policy_loss, self.policy)
        return {"loss/policy": policy_loss.detach()}

"""CQL on discrete actions: Kumar et al. (2020), https://arxiv.org/abs/2006.04779."""

from typing import Literal

import torch
from torch import Tensor

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.batch import Batch
from lit_offrl.encoders import EncoderName, Image, observed
from lit_offrl.losses import prior_weight, quantile_td_loss
from lit_offrl.networks import DiscreteQNetwork
from lit_offrl.policies import CategoricalPolicy, Distribution, Greedy
from lit_offrl.ranges import check_arguments
from lit_offrl.targets import (
    double_q_action,
    polyak_update,
    quantile_target,
    soft_quantile_target,
    take_action,
    target_copy,
)


class DiscreteCQL(OfflineAlgorithm):
    """Q-learning with the conservative penalty ``α E [log mean_a exp Q(s, a) - Q(s, a_D)]``.

    The TD loss is Huber's on double DQN's target, or the quantile Huber loss of QR-DQN with
    ``n_quantiles`` > 1 (Dabney et al., 2018, https://arxiv.org/abs/1710.10044), Q then being the
    mean of the quantiles.

    Args:
        obs_dim: O.
        action_dim: Number of actions.
        hidden: Widths of the hidden layers.
        lr: Learning rate.
        cql_alpha: α.
        n_quantiles: Quantiles per action.
        backup: ``max`` bootstraps from the best action, ``soft_pi`` from softmax(Q), which is
            the variant that owns the lower bound of theorem 3.2.
        double: Let the online network choose the action of the ``max`` backup.
        penalty_prior: ``behavior`` weights actions in the sum by how unlikely they are in the
            data, (1 - b) / (1 + b) with b the behavior probability relative to the largest.
        min_weight: Lower bound of that weight.
        n_critics: Size n of the Q ensemble.
        discount: γ.
        polyak: Step of the target network; 1 copies it.
        target_period: Updates between steps of the target network.
        adam_eps: ε of Adam.
        images: Where images lie in an observation, given by the data.
        encoder: What looks at them, a copy for each network: ``nature`` (DQN's) or ``impala``.
    """

    actions = "discrete"
    hint = "CQL"

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: tuple[int, ...] = (256, 256),
        lr: float = 3e-4,
        cql_alpha: float = 1.0,
        n_quantiles: int = 1,
        backup: Literal["max", "soft_pi"] = "max",
        double: bool = True,
        penalty_prior: Literal["uniform", "behavior"] = "uniform",
        min_weight: float = 0.1,
        n_critics: int = 1,
        discount: float = 0.99,
        polyak: float = 0.005,
        target_period: int = 1,
        adam_eps: float = 1e-8,
        images: tuple[Image, ...] = (),
        encoder: EncoderName = "nature",
    ) -> None:
        super().__init__(discount)
        self.save_hyperparameters()
        check_arguments(self.hparams)
        seen = observed(obs_dim, images, encoder)
        self.n_actions, self.cql_alpha = action_dim, cql_alpha
        self.backup, self.double_dqn = backup, double
        self.penalty_prior, self.min_weight = penalty_prior, min_weight
        self.polyak, self.target_period = polyak, target_period
        self.q = DiscreteQNetwork(seen, action_dim, hidden, n_critics, n_quantiles)
        self.target_q = target_copy(self.q)
        self.optimize(self.q, lr, eps=adam_eps)
        if penalty_prior == "behavior":
            self.behavior = CategoricalPolicy(seen, action_dim, hidden)
            self.optimize(self.behavior, lr, eps=adam_eps)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Update Q and the target network once."""
        q_target = self._q_target(batch)  # (B, M)
        log_weight = self._log_prior_weight(batch)  # (B, A)

        quantiles = self.q.quantiles(batch.obs)  # (n, B, A, M)
        all_q = quantiles.mean(-1)  # (n, B, A)
        q = take_action(all_q, batch.action)  # (n, B)
        td_loss = quantile_td_loss(take_action(quantiles, batch.action), q_target)
        penalized, bound_metrics = self.penalized(all_q, batch)
        gap = (penalized + log_weight).logsumexp(-1) - log_weight.logsumexp(-1) - q
        q_loss = td_loss + self.cql_alpha * gap.mean(-1).sum()

        self.minimize(q_loss, self.q)
        if self.due(self.target_period):
            polyak_update(self.q, self.target_q, self.polyak)
        return {
            "loss/q": q_loss.detach(),
            "loss/td": td_loss.detach(),
            "cql/gap": gap.detach().mean(),
            "q/data": q.detach().mean(),
            "q/max": all_q.detach().amax(-1).mean(),
            **bound_metrics,
        }

    def penalized(self, q: Tensor, batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Values of all actions (n, B, A) that the penalty sees, and what to log."""
        return q, {}

    @torch.no_grad()
    def _q_target(self, batch: Batch) -> Tensor:
        """TD target, (B, M)."""
        next_quantiles = self.target_q.quantiles(batch.next_obs)  # (n, B, A, M)
        if self.backup == "soft_pi":
            probs = self.q(batch.next_obs).amin(0).softmax(-1)  # (B, A)
            return soft_quantile_target(batch, self.discount, probs, next_quantiles)
        chooser = self.q(batch.next_obs) if self.double_dqn else next_quantiles.mean(-1)
        return quantile_target(batch, self.discount, double_q_action(chooser), next_quantiles)

    def _log_prior_weight(self, batch: Batch) -> Tensor:
        """Log-weights of actions in the log-sum-exp, (B, A); updates the behavior policy."""
        if self.penalty_prior == "uniform":
            return batch.reward.new_zeros(len(batch.reward), self.n_actions)
        behavior = self.behavior(batch.obs)
        relative = (behavior.log_probs - behavior.log_probs.amax(-1, keepdim=True)).exp().detach()
        self.minimize(behavior.imitation_loss(batch.action).mean(), self.behavior)
        return prior_weight(relative, self.min_weight).log()

    def policy(self, obs: Tensor) -> Distribution:
        """Greedy policy at obs (B, O)."""
        return Greedy(double_q_action(self.q(obs)), self.n_actions)

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values of actions, (n, B)."""
        return take_action(self.action_values(obs), action)

    def action_values(self, obs: Tensor) -> Tensor:
        """Values of all actions, (n, B, A)."""
        return self.q(obs)  # type: ignore[no-any-return]

"""Discrete BCQ: Fujimoto et al. (2019), https://arxiv.org/abs/1910.01708."""

import torch
from torch import Tensor

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.batch import Batch
from lit_offrl.encoders import EncoderName, Image, observed
from lit_offrl.losses import ensemble_huber
from lit_offrl.networks import DiscreteQNetwork
from lit_offrl.policies import Categorical, CategoricalPolicy, Distribution, Greedy
from lit_offrl.ranges import check_arguments
from lit_offrl.targets import double_q_action, polyak_update, take_action, target_copy, td_target


def in_support(behavior: Categorical, bcq_threshold: float) -> Tensor:
    """``G(a|s) / max_a G(a|s) >= threshold``, (B, A): actions likely enough in the data.

    >>> in_support(Categorical(torch.tensor([[0.6, 0.3, 0.1]]).log()), 0.3)
    tensor([[ True,  True, False]])
    """
    log_probs = behavior.log_probs
    return (log_probs - log_probs.amax(-1, keepdim=True)).exp() >= bcq_threshold


class DiscreteBCQ(OfflineAlgorithm):
    """Double DQN restricted to actions that the data's policy G is likely enough to take.

    ``a' = argmax_{a: G(a|s') / max G >= threshold} min_j Q_j(s', a)``
    ``L_Q = Σ_j E Huber(Q_j(s, a) - r - γ (1 - terminated) min_j Q̄_j(s', a'))``
    ``L_G = -E log G(a|s) + penalty E mean_a logit²``

    Args:
        obs_dim: O.
        action_dim: Number of actions.
        hidden: Widths of the hidden layers.
        lr: Learning rate of Q and G.
        bcq_threshold: Relative probability below which an action is masked; 0 is double DQN, 1
            imitates the most likely action.
        logit_penalty: Weight of the squared logits of G.
        n_critics: Size n of the Q ensemble.
        discount: γ.
        polyak: Step of the target network; 1 copies it.
        target_period: Updates between steps of the target network.
        adam_eps: ε of Adam.
        images: Where images lie in an observation, given by the data.
        encoder: What looks at them, a copy for each network: ``nature`` (DQN's) or ``impala``.
    """

    actions = "discrete"
    hint = "BCQ"

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: tuple[int, ...] = (256, 256),
        lr: float = 3e-4,
        bcq_threshold: float = 0.3,
        logit_penalty: float = 1e-2,
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
        self.n_actions = action_dim
        self.bcq_threshold, self.logit_penalty = bcq_threshold, logit_penalty
        self.polyak, self.target_period = polyak, target_period
        self.q = DiscreteQNetwork(seen, action_dim, hidden, n_critics)
        self.target_q = target_copy(self.q)
        self.behavior = CategoricalPolicy(seen, action_dim, hidden)
        self.optimize(self.q, lr, eps=adam_eps)
        self.optimize(self.behavior, lr, eps=adam_eps)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Update Q, G and the target network once."""
        with torch.no_grad():
            next_action = self._choose(batch.next_obs)  # (B,)
            next_q = take_action(self.target_q(batch.next_obs), next_action).amin(0)  # (B,)
            q_target = td_target(batch, self.discount, next_q)

        q = take_action(self.q(batch.obs), batch.action)  # (n, B)
        q_loss = ensemble_huber(q, q_target)
        behavior = self.behavior(batch.obs)
        behavior_loss = (
            behavior.imitation_loss(batch.action).mean()
            + self.logit_penalty * behavior.logits.square().mean()
        )

        self.minimize(q_loss, self.q)
        self.minimize(behavior_loss, self.behavior)
        if self.due(self.target_period):
            polyak_update(self.q, self.target_q, self.polyak)
        return {
            "loss/q": q_loss.detach(),
            "loss/behavior": behavior_loss.detach(),
            "q/data": q.detach().mean(),
        }

    def _choose(self, obs: Tensor) -> Tensor:
        """Best action within the data's support, (B,)."""
        return double_q_action(self.q(obs), in_support(self.behavior(obs), self.bcq_threshold))

    def policy(self, obs: Tensor) -> Distribution:
        """Greedy policy within the data's support at obs (B, O)."""
        return Greedy(self._choose(obs), self.n_actions)

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values of actions, (n, B)."""
        return take_action(self.action_values(obs), action)

    def action_values(self, obs: Tensor) -> Tensor:
        """Values of all actions, (n, B, A); trustworthy only within the data's support."""
        return self.q(obs)  # type: ignore[no-any-return]

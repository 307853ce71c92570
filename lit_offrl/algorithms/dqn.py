"""Deep Q-network (DQN): Mnih et al. (2015), https://doi.org/10.1038/nature14236."""

import torch
from torch import Tensor

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.batch import Batch
from lit_offrl.encoders import EncoderName, Image, observed
from lit_offrl.losses import ensemble_huber
from lit_offrl.networks import DiscreteQNetwork
from lit_offrl.policies import Distribution, Greedy
from lit_offrl.ranges import check_arguments
from lit_offrl.targets import double_q_action, polyak_update, take_action, target_copy, td_target


class DQN(OfflineAlgorithm):
    """Q-learning without any pessimism: the baseline that overestimates on a fixed log.

    ``L_Q = Σ_j E Huber(Q_j(s, a) - y)``, ``y = r + γ (1 - terminated) min_j Q̄_j(s', a')`` with
    ``a' = argmax_a min_j Q̄_j(s', a)``, or with ``double`` the argmax of the online network.

    Args:
        obs_dim: O.
        action_dim: Number of actions.
        hidden: Widths of the hidden layers.
        lr: Learning rate.
        double: Double DQN (van Hasselt et al., 2016, https://arxiv.org/abs/1509.06461).
        n_critics: Size n of the Q ensemble.
        discount: γ.
        polyak: Step of the target network; 1 copies it.
        target_period: Updates between steps of the target network.
        adam_eps: ε of Adam.
        images: Where images lie in an observation, given by the data.
        encoder: What looks at them, a copy for each network: ``nature`` (DQN's) or ``impala``.
    """

    actions = "discrete"
    hint = "CQL with `cql_alpha` 0 (offline SAC) as the baseline for Box actions"

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: tuple[int, ...] = (256, 256),
        lr: float = 3e-4,
        double: bool = False,
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
        self.n_actions, self.double_dqn = action_dim, double
        self.polyak, self.target_period = polyak, target_period
        self.q = DiscreteQNetwork(seen, action_dim, hidden, n_critics)
        self.target_q = target_copy(self.q)
        self.optimize(self.q, lr, eps=adam_eps)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Update Q and the target network once."""
        with torch.no_grad():
            next_q = self.target_q(batch.next_obs)  # (n, B, A)
            next_action = double_q_action(self.q(batch.next_obs) if self.double_dqn else next_q)
            q_target = td_target(batch, self.discount, take_action(next_q, next_action).amin(0))

        q = take_action(self.q(batch.obs), batch.action)  # (n, B)
        q_loss = ensemble_huber(q, q_target)

        self.minimize(q_loss, self.q)
        if self.due(self.target_period):
            polyak_update(self.q, self.target_q, self.polyak)
        return {"loss/q": q_loss.detach(), "q/data": q.detach().mean()}

    def policy(self, obs: Tensor) -> Distribution:
        """Greedy policy at obs (B, O)."""
        return Greedy(double_q_action(self.q(obs)), self.n_actions)

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values of actions, (n, B)."""
        return take_action(self.action_values(obs), action)

    def action_values(self, obs: Tensor) -> Tensor:
        """Values of all actions, (n, B, A)."""
        return self.q(obs)  # type: ignore[no-any-return]

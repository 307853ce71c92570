"""Fitted Q evaluation: Le, Voloshin and Yue (2019), https://arxiv.org/abs/1903.08738."""

from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.batch import Batch
from lit_offrl.evaluation.target import TargetPolicy
from lit_offrl.networks import DiscreteQNetwork, QNetwork
from lit_offrl.targets import polyak_update, take_action, target_copy, td_target


class FQE(OfflineAlgorithm):
    """Ensemble of values Q^π of a fixed policy π, learned from a log, in raw reward.

    ``L = Σ_k E w_k (Q_k(s, a) - clip(r + γ (1 - terminated) E_{a' ~ π(s')} Q̄_k(s', a')))²``

    The network learns ``(Q - offset) / scale``. Expectations over discrete actions are sums.

    Args:
        obs_dim: O.
        action_dim: A, or the number of actions if ``discrete``.
        discrete: Whether an action is one index.
        target_policy: π.
        hidden: Widths of the hidden layers.
        members: Size K of the ensemble.
        lr: Learning rate.
        discount: γ.
        polyak: Step of the target network.
        offset: Return that an output of 0 stands for.
        scale: Return that an output of 1 adds to it.
        q_range: What targets are clipped to.
    """

    hint = "a policy of the same action space"

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        discrete: bool,
        target_policy: TargetPolicy,
        hidden: tuple[int, ...] = (256, 256),
        members: int = 5,
        lr: float = 3e-4,
        discount: float = 0.99,
        polyak: float = 0.1,
        offset: float = 0.0,
        scale: float = 1.0,
        q_range: tuple[float, float] = (-torch.inf, torch.inf),
    ) -> None:
        super().__init__(discount)
        self.actions = "discrete" if discrete else "box"
        self.target_policy, self.polyak = target_policy, polyak
        self.offset, self.scale, self.q_range = offset, scale, q_range
        network = DiscreteQNetwork if discrete else QNetwork
        self.q: nn.Module = network(obs_dim, action_dim, hidden, members)
        self.target_q = target_copy(self.q)
        self.optimize(self.q, lr)

    def update(
        self, batch: Batch, weight: Tensor | None = None, choice: Tensor | None = None
    ) -> dict[str, Tensor]:
        """Update Q and the target network once.

        Args:
            batch: Transitions with raw rewards.
            weight: w, (K, B); 1 if None.
            choice: What :meth:`choose` gave at ``next_obs``; asked for anew if None.
        """
        with torch.no_grad():
            choice = self.choose(batch.next_obs) if choice is None else choice
            next_v = self.expected(self.target_q, batch.next_obs, choice)  # (K, B)
            q_target = td_target(batch, self.discount, next_v)  # (K, B)
            clipped = q_target.clamp(*self.q_range)
        error = self.taken(self.q, batch.obs, batch.action) - clipped  # (K, B)
        loss = (error / self.scale).square()
        loss = (loss if weight is None else weight * loss).mean(-1).sum()

        self.minimize(loss, self.q)
        polyak_update(self.q, self.target_q, self.polyak)
        return {"loss/q": loss.detach(), "q/clipped": (clipped != q_target).float().mean()}

    def choose(self, obs: Tensor, samples: int = 1) -> Tensor:
        """What π does at obs: probabilities (B, A), or drawn Box actions (samples, B, A)."""
        if self.actions == "discrete":
            return self.target_policy.probs(obs)
        if self.target_policy.deterministic:
            return self.target_policy.sample(obs).unsqueeze(0)
        return torch.stack([self.target_policy.sample(obs) for _ in range(samples)])

    def expected(self, net: nn.Module, obs: Tensor, choice: Tensor) -> Tensor:
        """``E_{a ~ π} Q(s, a)`` for what :meth:`choose` gave, (K, B)."""
        if self.actions == "discrete":
            return self.offset + self.scale * cast(Tensor, choice * net(obs)).sum(-1)
        return self.offset + self.scale * cast(Tensor, net(obs, choice)).mean(1)

    def taken(self, net: nn.Module, obs: Tensor, action: Tensor) -> Tensor:
        """``Q(s, a)``, (K, B)."""
        q = take_action(net(obs), action) if self.actions == "discrete" else net(obs, action)
        return self.offset + self.scale * cast(Tensor, q)

    def member(self, k: int) -> "Member":
        """Member ``k`` of the target network, as an ensemble of one."""
        return Member(self.target_q, k)


class Member(nn.Module):
    """One member of an ensemble, called as the ensemble is.

    Args:
        ensemble: Networks whose parameters stack members on axis 0.
        k: Which one.
    """

    def __init__(self, ensemble: nn.Module, k: int) -> None:
        super().__init__()
        self.ensemble = ensemble
        self.own = {name: p[k : k + 1] for name, p in ensemble.named_parameters()}

    def forward(self, *inputs: Tensor) -> Tensor:
        """Return what the member gives, with an ensemble axis of 1."""
        return cast(Tensor, functional_call(self.ensemble, self.own, inputs))

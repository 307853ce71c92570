"""The policy that is evaluated: asked for actions and, where it has them, probabilities."""

import abc
from collections.abc import Callable

import torch
import torch.nn.functional as F
from lightning import LightningModule
from torch import Tensor

from lit_offrl.errors import NotApplicableError
from lit_offrl.evaluation.raw_policy import eval_mode
from lit_offrl.policies import Distribution

NO_DENSITY = (
    "A deterministic policy of Box actions has no density, so logged actions have no weight under "
    "it: take FQE or the model, or evaluate the sampled policy."
)


class TargetPolicy(abc.ABC):
    """A policy to evaluate off-policy; observations are normalized, Box actions in [-1, 1]."""

    name: str
    """What the policy is called in reports: ``greedy``, ``sampled``, ``0.1-soft``."""
    deterministic: bool
    """Whether the same observation always gives the same action."""

    @abc.abstractmethod
    def sample(self, obs: Tensor) -> Tensor:
        """Draw an action at each of obs (B, O): (B, A) or (B,)."""

    @abc.abstractmethod
    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log-probability or density of actions in nats, (B,); -inf where it is 0.

        Raises:
            NotApplicableError: If the policy has no density.
        """

    def probs(self, obs: Tensor) -> Tensor:
        """Probabilities of all discrete actions, (B, A).

        Raises:
            NotApplicableError: If actions are not discrete.
        """
        raise NotApplicableError("Only discrete actions have probabilities.")


class GreedyPolicy(TargetPolicy):
    """What is deployed: the action that ``act`` gives.

    Args:
        algorithm: Module with the public face of an algorithm.
        n_actions: Number of discrete actions; None for Box actions.
    """

    name = "greedy"
    deterministic = True

    def __init__(self, algorithm: LightningModule, n_actions: int | None = None) -> None:
        self.algorithm, self.n_actions = algorithm, n_actions
        self._act: Callable[[Tensor], Tensor] = algorithm.act  # type: ignore[assignment]

    @torch.no_grad()
    def sample(self, obs: Tensor) -> Tensor:
        """Return the greedy action, (B, A) or (B,)."""
        with eval_mode(self.algorithm):
            return self._act(obs)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return 0 for the greedy discrete action and -inf for others, (B,)."""
        if self.n_actions is None:
            raise NotApplicableError(NO_DENSITY)
        return torch.where(self.sample(obs) == action, 0.0, -torch.inf)

    def probs(self, obs: Tensor) -> Tensor:
        """One-hot probabilities, (B, A)."""
        if self.n_actions is None:
            return super().probs(obs)
        return F.one_hot(self.sample(obs), self.n_actions).to(obs.dtype)


class SampledPolicy(TargetPolicy):
    """Draws from ``policy(obs)``, or as ``explore(obs)`` does where that is more than the policy.

    Args:
        algorithm: Module with the public face of an algorithm.
    """

    name = "sampled"
    deterministic = False

    def __init__(self, algorithm: LightningModule) -> None:
        self.algorithm = algorithm
        self.has_density: bool = getattr(algorithm, "draws_from_policy", True)

    @torch.no_grad()
    def sample(self, obs: Tensor) -> Tensor:
        """Draw actions, (B, A) or (B,)."""
        with eval_mode(self.algorithm):
            if not self.has_density:
                return self.algorithm.explore(obs)  # type: ignore[operator, no-any-return]
            return self._policy(obs).sample()

    @torch.no_grad()
    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log-probability or density of actions, (B,)."""
        with eval_mode(self.algorithm):
            return self._policy(obs).log_prob(action)

    @torch.no_grad()
    def probs(self, obs: Tensor) -> Tensor:
        """Probabilities of all discrete actions, (B, A)."""
        with eval_mode(self.algorithm):
            probs: Tensor | None = getattr(self._policy(obs), "probs", None)
        return super().probs(obs) if probs is None else probs

    def _policy(self, obs: Tensor) -> Distribution:
        if not self.has_density:
            raise NotApplicableError(
                f"{type(self.algorithm).__name__} draws actions by a rule of its own, and has no "
                "probabilities of them."
            )
        return self.algorithm.policy(obs)  # type: ignore[operator, no-any-return]


class SoftPolicy(TargetPolicy):
    """``(1 - ε) greedy + ε behavior``, a policy of its own that overlaps with the log.

    Its value is not that of the greedy policy, and reports must name it.

    Args:
        greedy: Policy of discrete actions.
        behavior: ``behavior(obs)``: probabilities of the logged actions, (B, A).
        softening: ε, in (0, 1).
    """

    deterministic = False

    def __init__(
        self, greedy: GreedyPolicy, behavior: Callable[[Tensor], Tensor], softening: float
    ) -> None:
        self.greedy, self.behavior, self.softening = greedy, behavior, softening
        self.name = f"{softening:g}-soft"

    def sample(self, obs: Tensor) -> Tensor:
        """Draw actions, (B,)."""
        return torch.multinomial(self.probs(obs), 1).squeeze(-1)

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        """Log-probability of actions, (B,)."""
        return self.probs(obs).gather(-1, action.unsqueeze(-1)).squeeze(-1).log()

    def probs(self, obs: Tensor) -> Tensor:
        """Probabilities of all actions, (B, A)."""
        return torch.lerp(self.greedy.probs(obs), self.behavior(obs), self.softening)

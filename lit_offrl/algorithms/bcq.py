"""Batch-constrained Q-learning (BCQ): Fujimoto et al. (2019), https://arxiv.org/abs/1812.02900."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lit_offrl.algorithms.base import OfflineAlgorithm
from lit_offrl.batch import Batch
from lit_offrl.losses import ensemble_mse
from lit_offrl.networks import MLP, QNetwork
from lit_offrl.policies import Deterministic, Distribution
from lit_offrl.ranges import check_arguments
from lit_offrl.targets import polyak_update, target_copy, td_target


class ConditionalVAE(nn.Module):
    """Generative model G(a|s) of the data's actions.

    Args:
        obs_dim: O.
        action_dim: A.
        hidden: Widths of the hidden layers of encoder and decoder.
    """

    def __init__(self, obs_dim: int, action_dim: int, hidden: tuple[int, ...]) -> None:
        super().__init__()
        self.latent_dim = 2 * action_dim
        self.encoder = MLP(obs_dim + action_dim, hidden, 2 * self.latent_dim)
        self.decoder = MLP(obs_dim + self.latent_dim, hidden, action_dim)

    def encode(self, obs: Tensor, action: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log σ of the latent variable, both (B, 2A)."""
        mean, log_std = self.encoder(torch.cat([obs, action], -1)).chunk(2, -1)
        return mean, log_std.clamp(-4, 15)

    def decode(self, obs: Tensor, latent: Tensor) -> Tensor:
        """Map obs (B, O) and latent variables (..., B, 2A) to actions (..., B, A)."""
        obs = obs.expand(*latent.shape[:-1], obs.shape[-1])
        return self.decoder(torch.cat([obs, latent], -1)).tanh()  # type: ignore[no-any-return]


class Perturbation(nn.Module):
    """``ξ(s, a)`` in [-Φ, Φ]: the correction of a generated action.

    Args:
        obs_dim: O.
        action_dim: A.
        hidden: Widths of the hidden layers.
        max_perturbation: Φ.
    """

    def __init__(
        self, obs_dim: int, action_dim: int, hidden: tuple[int, ...], max_perturbation: float
    ) -> None:
        super().__init__()
        self.net = MLP(obs_dim + action_dim, hidden, action_dim)
        self.max_perturbation = max_perturbation

    def forward(self, obs: Tensor, action: Tensor) -> Tensor:
        """Return ``a + ξ(s, a)`` within [-1, 1] for obs (B, O) and actions (..., B, A)."""
        obs = obs.expand(*action.shape[:-1], obs.shape[-1])
        shift = self.max_perturbation * self.net(torch.cat([obs, action], -1)).tanh()
        return (action + shift).clamp(-1, 1)  # type: ignore[no-any-return]


class BCQ(OfflineAlgorithm):
    """Q-learning over actions that a generative model of the data proposes.

    ``a_i = G(s', z_i) + ξ̄(s', ·)``, z_i ~ N(0, 1) clipped to ±0.5
    ``y = r + γ (1 - terminated) max_i [λ min_j Q̄_j(s', a_i) + (1 - λ) max_j Q̄_j(s', a_i)]``
    ``L_Q = Σ_j E (Q_j(s, a) - y)²``, ``L_ξ = -E Q_1(s, a_G + ξ(s, a_G))``

    Acting takes the best of ``n_candidates`` by Q_1, so it is random, as the authors have it.

    Args:
        obs_dim: O.
        action_dim: A.
        hidden: Widths of the hidden layers of Q and ξ.
        vae_hidden: Widths of the hidden layers of G.
        lr: Learning rate of all networks.
        max_perturbation: Φ; 0 with one candidate is behavior cloning.
        clipped_weight: λ, the weight of the minimum over the ensemble.
        n_actions: Actions proposed in the target.
        n_candidates: Actions proposed when acting.
        kl_weight: Weight of the latent prior in the loss of G.
        n_critics: Size n of the Q ensemble.
        discount: γ.
        polyak: Step of the target networks.
    """

    actions = "box"
    hint = "DiscreteBCQ"

    def __init__(
        self,
        obs_dim: int,
        action_dim: int,
        hidden: tuple[int, ...] = (400, 300),
        vae_hidden: tuple[int, ...] = (750, 750),
        lr: float = 1e-3,
        max_perturbation: float = 0.05,
        clipped_weight: float = 0.75,
        n_actions: int = 10,
        n_candidates: int = 100,
        kl_weight: float = 0.5,
        n_critics: int = 2,
        discount: float = 0.99,
        polyak: float = 0.005,
    ) -> None:
        super().__init__(discount)
        self.save_hyperparameters()
        check_arguments(self.hparams)
        self.clipped_weight, self.kl_weight = clipped_weight, kl_weight
        self.n_actions, self.n_candidates = n_actions, n_candidates
        self.polyak = polyak
        self.vae = ConditionalVAE(obs_dim, action_dim, vae_hidden)
        self.q = QNetwork(obs_dim, action_dim, hidden, n_critics)
        self.perturbation = Perturbation(obs_dim, action_dim, hidden, max_perturbation)
        self.target_q = target_copy(self.q)
        self.target_perturbation = target_copy(self.perturbation)
        self.optimize(self.vae, lr)
        self.optimize(self.q, lr)
        self.optimize(self.perturbation, lr)

    def update(self, batch: Batch) -> dict[str, Tensor]:
        """Update G, Q, ξ and the target networks once."""
        vae_loss = self._vae_loss(batch)
        self.minimize(vae_loss, self.vae)

        with torch.no_grad():
            proposed = self._propose(batch.next_obs, self.n_actions)  # (N, B, A)
            next_action = self.target_perturbation(batch.next_obs, proposed)
            next_q = self.target_q(batch.next_obs, next_action)  # (n, N, B)
            next_q = torch.lerp(next_q.amax(0), next_q.amin(0), self.clipped_weight).amax(0)
            q_target = td_target(batch, self.discount, next_q)  # (B,)
        q = self.q(batch.obs, batch.action)  # (n, B)
        q_loss = ensemble_mse(q, q_target)
        self.minimize(q_loss, self.q)

        with torch.no_grad():
            generated = self._propose(batch.obs, 1)[0]  # (B, A)
        q_policy = self.q(batch.obs, self.perturbation(batch.obs, generated))[0]  # (B,)
        policy_loss = -q_policy.mean()
        self.minimize(policy_loss, self.perturbation)

        polyak_update(self.q, self.target_q, self.polyak)
        polyak_update(self.perturbation, self.target_perturbation, self.polyak)
        return {
            "loss/vae": vae_loss.detach(),
            "loss/q": q_loss.detach(),
            "loss/policy": policy_loss.detach(),
            "q/data": q.detach().mean(),
            "q/policy": q_policy.detach().mean(),
        }

    def _vae_loss(self, batch: Batch) -> Tensor:
        """``E |G(s, z) - a|² + w KL(q(z|s, a) ‖ N(0, 1))``, means over dimensions, ()."""
        mean, log_std = self.vae.encode(batch.obs, batch.action)
        latent = mean + log_std.exp() * self.randn(*mean.shape)
        kl = -0.5 * (1 + 2 * log_std - mean.square() - (2 * log_std).exp()).mean()
        return F.mse_loss(self.vae.decode(batch.obs, latent), batch.action) + self.kl_weight * kl

    def _propose(self, obs: Tensor, n: int) -> Tensor:
        """Draw actions of G, (n, B, A)."""
        # not len(obs), which torch.export takes for a constant
        latent = self.randn(n, obs.shape[0], self.vae.latent_dim).clamp(-0.5, 0.5)
        return self.vae.decode(obs, latent)

    @torch.no_grad()
    def policy(self, obs: Tensor) -> Distribution:
        """Best of ``n_candidates`` drawn and perturbed actions at obs (B, O); has no density."""
        candidates = self.perturbation(obs, self._propose(obs, self.n_candidates))  # (N, B, A)
        best = self.q(obs, candidates)[0].argmax(0)  # (B,)
        return Deterministic(candidates[best, torch.arange(obs.shape[0], device=obs.device)])

    def q_values(self, obs: Tensor, action: Tensor) -> Tensor:
        """Values of actions, (n, B)."""
        return self.q(obs, action)  # type: ignore[no-any-return]

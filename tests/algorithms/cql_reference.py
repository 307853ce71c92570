"""Continuous CQL from its equations, one critic and one proposal at a time."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from lit_offrl.batch import Batch
from tests.algorithms.helpers import Params, ReferenceAdam, critics, mlp, polyak
from tests.algorithms.reference_policies import gaussian_log_prob, tanh_gaussian_log_prob


class Settings(NamedTuple):
    """Arguments of CQL, by their names there."""

    policy_lr: float = 3e-3
    q_lr: float = 1e-2
    cql_alpha: float = 5.0
    n_actions: int = 4
    temperature: float = 1.0
    gap_clip: tuple[float, float] = (-math.inf, math.inf)
    lagrange_gap: float | None = None
    max_target_backup: bool = False
    penalty_prior: str = "uniform"
    min_weight: float = 0.1
    policy_regularizer: str = "none"
    regularizer_weight: float = 0.7
    n_critics: int = 2
    discount: float = 0.9
    polyak: float = 0.1


class Normal(NamedTuple):
    """The variable before tanh."""

    mean: Tensor
    log_std: Tensor

    def draw(self, noise: Tensor) -> Tensor:
        return self.mean + self.log_std.exp() * noise


def policy(p: Params, obs: Tensor) -> Normal:
    mean, log_std = mlp(p, "policy.net", obs).chunk(2, -1)
    return Normal(mean, (log_std - 1).clip(-20, 2))


def behavior(p: Params, obs: Tensor) -> Normal:
    mean, log_std = mlp(p, "behavior.net", obs).chunk(2, -1)
    return Normal(mean, log_std.clip(-5, 2))


def atanh(action: Tensor) -> Tensor:
    inner = action.clip(-1 + 1e-5, 1 - 1e-5)
    return ((1 + inner) / (1 - inner)).log() / 2


def minimum(values: list[Tensor]) -> Tensor:
    return torch.stack(values).min(0).values


class CQLReference:
    """One update as science has it: all losses from the parameters before the update."""

    def __init__(self, settings: Settings, p: Params, noise: list[Tensor]) -> None:
        self.c, self.p, self.noise = settings, p, noise
        c = settings
        rates = {"log_alpha_entropy": c.policy_lr, "policy": c.policy_lr, "q": c.q_lr}
        if c.lagrange_gap is not None:
            rates["log_multiplier"] = c.q_lr
        if "behavior.net.0.weight" in p:
            rates["behavior"] = c.q_lr
        self.adam = {net: ReferenceAdam(p, net, lr) for net, lr in rates.items()}

    def update(self, batch: Batch) -> dict[str, Tensor]:
        c, p, s, a = self.c, self.p, batch.obs, batch.action
        d = a.shape[-1]
        here, there = policy(p, s), policy(p, batch.next_obs)
        z = here.draw(self.noise.pop(0))
        log_pi = tanh_gaussian_log_prob(z, *here)
        uniform = 2 * self.noise.pop(0) - 1
        z_here = here.draw(self.noise.pop(0)).detach()
        z_there = there.draw(self.noise.pop(0)).detach()  # N for the penalty and one for the target

        backups = z_there[: c.n_actions] if c.max_target_backup else z_there[c.n_actions :]
        values = [minimum(critics(p, "target_q", batch.next_obs, x.tanh())) for x in backups]
        next_q = torch.stack(values).max(0).values
        y = (batch.reward + c.discount * (1 - batch.terminated) * next_q).detach()

        proposals = [
            (x, torch.full((len(s),), d * math.log(0.5), dtype=torch.float64)) for x in uniform
        ]
        proposals += [(x.tanh(), tanh_gaussian_log_prob(x, *here)) for x in z_here]
        z_there = z_there[: c.n_actions]
        proposals += [(x.tanh(), tanh_gaussian_log_prob(x, *there)) for x in z_there]
        weights = [self.prior_weight(s, action) for action, _ in proposals]
        q_data = critics(p, "q", s, a)
        td = sum((((q - y) ** 2).mean() for q in q_data), torch.zeros((), dtype=torch.float64))
        gaps = []
        for j in range(c.n_critics):
            total = torch.zeros(len(s), dtype=torch.float64)
            for (action, log_density), weight in zip(proposals, weights, strict=True):
                q = critics(p, "q", s, action)[j]
                total = total + weight * ((q - log_density.detach()) / c.temperature).exp()
            soft_max = c.temperature * (total / (3 * c.n_actions)).log()
            gaps.append((soft_max - q_data[j]).clip(*c.gap_clip).mean())
        gap = torch.stack(gaps)

        multiplier = torch.ones((), dtype=torch.float64)
        if c.lagrange_gap is not None:
            multiplier = p["log_multiplier.value"].exp()
            excess = sum(g.item() - c.lagrange_gap for g in gaps) / c.n_critics
            self.adam["log_multiplier"].step(-multiplier * c.cql_alpha * excess)
        q_loss = td + multiplier.detach() * c.cql_alpha * gap.sum()

        log_alpha = p["log_alpha_entropy.value"]
        alpha = log_alpha.exp().detach()
        alpha_loss = -(log_alpha * (log_pi.detach() - d)).mean()
        q_pi = minimum(critics(p, "q", s, z.tanh()))
        policy_loss = self.policy_loss(batch, here, z, alpha * log_pi, q_pi)

        self.adam["log_alpha_entropy"].step(alpha_loss)
        self.adam["policy"].step(policy_loss)
        self.adam["q"].step(q_loss)
        polyak(p, "q", "target_q", c.polyak)
        return {
            "loss/q": q_loss,
            "loss/td": td,
            "loss/policy": policy_loss,
            "cql/gap": gap.mean(),
            "cql/multiplier": multiplier,
            "q/data": torch.stack(q_data).mean(),
            "q/policy": q_pi.mean(),
            "policy/log_prob": log_pi.mean(),
            "policy/alpha_entropy": alpha,
        }

    def prior_weight(self, s: Tensor, action: Tensor) -> Tensor:
        """w = max(w_min, (1 - b) / (1 + b)), b the density relative to the mode's."""
        if self.c.penalty_prior == "uniform":
            return torch.ones(len(s), dtype=torch.float64)
        beta = behavior(self.p, s)
        b = (-(((atanh(action) - beta.mean) / beta.log_std.exp()) ** 2).sum(-1) / 2).exp()
        return ((1 - b) / (1 + b)).clip(min=self.c.min_weight).detach()

    def policy_loss(
        self, batch: Batch, here: Normal, z: Tensor, entropy_cost: Tensor, q: Tensor
    ) -> Tensor:
        c, s, a = self.c, batch.obs, batch.action
        if "behavior" in self.adam:
            fit = -tanh_gaussian_log_prob(atanh(a), *behavior(self.p, s)).mean()
            self.adam["behavior"].step(fit)
        scaled_q = q.mean() / q.abs().mean().item()
        if c.policy_regularizer == "kl":  # contains the entropy, which is not counted again
            ratio = gaussian_log_prob(z, *here) - gaussian_log_prob(z, *behavior(self.p, s))
            return c.regularizer_weight * ratio.clip(-20, 20).mean() - scaled_q
        if c.policy_regularizer == "bc":
            imitation = -tanh_gaussian_log_prob(atanh(a), *here).mean()
            return entropy_cost.mean() - scaled_q + c.regularizer_weight * imitation
        return (entropy_cost - q).mean()


def reference(
    settings: Settings,
) -> Callable[[Params, list[Tensor]], Callable[[Batch], dict[str, Tensor]]]:
    return lambda p, noise: CQLReference(settings, p, noise).update

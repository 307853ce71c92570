"""The policy that is evaluated: what it draws, and whether draws have a density."""

import pytest
import torch

from lit_offrl.algorithms import IQL
from lit_offrl.algorithms.pex import PEX
from lit_offrl.errors import NotApplicableError
from lit_offrl.evaluation.target import SampledPolicy
from lit_offrl.rng import seeded


def test_a_policy_that_draws_by_a_rule_of_its_own_has_no_density() -> None:
    obs, action = torch.randn(16, 3), torch.zeros(16, 2)
    pex = PEX(3, 2, hidden=(8,))
    with seeded(0):
        drawn = SampledPolicy(pex).sample(obs)
    with seeded(0):
        assert torch.equal(drawn, pex.explore(obs))
    with pytest.raises(NotApplicableError, match="PEX draws actions by a rule of its own"):
        SampledPolicy(pex).log_prob(obs, action)
    with pytest.raises(NotApplicableError, match="PEX draws actions by a rule of its own"):
        SampledPolicy(pex).probs(obs)


def test_another_policy_is_drawn_from_and_has_its_density() -> None:
    obs, action = torch.randn(16, 3), torch.zeros(16, 2)
    iql = IQL(3, 2, hidden=(8,))
    with torch.no_grad():
        policy = iql.policy(obs)
    with seeded(0):
        drawn = SampledPolicy(iql).sample(obs)
    with seeded(0):
        assert torch.equal(drawn, policy.sample())
    assert torch.equal(SampledPolicy(iql).log_prob(obs, action), policy.log_prob(action))

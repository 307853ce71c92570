import pytest
import torch
from torch import Tensor

from lit_offrl.algorithms.bc import BC
from lit_offrl.algorithms.discrete_iql import DiscreteIQL
from lit_offrl.algorithms.td3_bc import TD3BC
from lit_offrl.batch import Layout
from lit_offrl.errors import InputError
from lit_offrl.evaluation.behavior.policy import BehaviorPolicy
from lit_offrl.evaluation.diagnosis.divergence import log_prob
from lit_offrl.online.weights import importance

LAYOUT = Layout(3, 2, False)


class Fixed(BehaviorPolicy):
    """Says that every action has this density."""

    def __init__(self, nats: float) -> None:
        torch.nn.Module.__init__(self)
        self.nats = nats

    def log_prob(self, obs: Tensor, action: Tensor) -> Tensor:
        return torch.full((len(obs),), self.nats, dtype=torch.float64)


def rows() -> Tensor:
    torch.manual_seed(0)
    obs, action = torch.randn(200, 3), torch.rand(200, 2) * 1.8 - 0.9
    zeros = torch.zeros(200)
    return LAYOUT.pack(obs, action, zeros, obs, zeros)


@pytest.mark.parametrize("power", [0.0, 0.5, 1.0])
def test_weights_are_capped_powers_of_the_ratio(power: float) -> None:
    policy = BC(3, 2, hidden=(8,))
    weight = importance(policy, Fixed(-2.0), LAYOUT, power)(rows())
    batch = LAYOUT.unpack(rows())
    ratio = (log_prob(policy.policy(batch.obs), batch.action) + 2.0).exp().detach()
    torch.testing.assert_close(weight, ratio.pow(power).clamp(max=1).float())

    if power:
        assert (weight == 1).any() and (weight < 0.9).any()


def test_no_power_weights_all_rows_the_same_even_of_a_greedy_policy() -> None:
    weight = importance(DiscreteIQL(3, 2), Fixed(-2.0), LAYOUT, 0.0)(rows())
    assert (weight == 1).all() and weight.shape == (200,)


def test_a_policy_without_density_is_refused() -> None:
    with pytest.raises(InputError, match="TD3BC's policy has not"):
        importance(TD3BC(3, 2, hidden=(8,)), Fixed(0.0), LAYOUT, 1.0)(rows())
    with pytest.raises(InputError, match="must not be negative"):
        importance(BC(3, 2, hidden=(8,)), Fixed(0.0), LAYOUT, -1.0)

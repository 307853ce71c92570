"""Batched networks against one network at a time, and their initial weights."""

import math

import pytest
import torch
from torch import Tensor, nn

from lit_offrl.ensembles import EnsembleLinear, EnsembleMLP
from lit_offrl.errors import InputError
from lit_offrl.networks import (
    MLP,
    DiscreteQNetwork,
    QNetwork,
    Scalar,
    ValueNetwork,
    orthogonal_,
)
from tests.algorithms.helpers import critic, ensemble_mlp, snapshot

N, B, OBS, A, HIDDEN = 3, 5, 4, 2, (8, 7)


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


def some(*shape: int) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64)


def test_an_ensemble_layer_is_one_linear_layer_per_member() -> None:
    layer = EnsembleLinear(N, OBS, 6).double()
    shared, own = some(B, OBS), some(N, B, OBS)
    for j in range(N):
        linear = nn.Linear(OBS, 6).double()
        assert layer.bias is not None
        linear.weight.data, linear.bias.data = layer.weight[j].T, layer.bias[j, 0]
        torch.testing.assert_close(layer(shared)[j], linear(shared))
        torch.testing.assert_close(layer(own)[j], linear(own[j]))


def test_an_ensemble_network_is_one_network_per_member() -> None:
    net = EnsembleMLP(N, OBS, HIDDEN, 6).double()
    p = {f"net.{k}": v for k, v in snapshot(net).items()}
    x = some(B, OBS)
    for j in range(N):
        torch.testing.assert_close(net(x)[j], ensemble_mlp(p, "net", x, j))


@pytest.mark.parametrize("cpu_rows", [1, 2 * B, 2048])
@pytest.mark.parametrize("hidden", [(8,), HIDDEN])
@pytest.mark.parametrize("lead", [(), (1,), (6,), (B,), (2, 3)])
def test_critics_value_any_number_of_actions_per_observation(
    hidden: tuple[int, ...], lead: tuple[int, ...], cpu_rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lit_offrl.networks.CPU_ROWS", cpu_rows)
    net = QNetwork(OBS, A, hidden, N).double()
    p = {f"q.{k}": v for k, v in snapshot(net).items()}
    obs, action = some(B, OBS), some(*lead, B, A)
    q = net(obs, action)
    assert q.shape == (N, *lead, B)
    for j in range(N):
        flat = action.reshape(-1, B, A)
        expected = torch.stack([critic(p, "q", obs, a, j) for a in flat])
        torch.testing.assert_close(q[j], expected.reshape(*lead, B))


def test_a_gpus_batched_networks_agree_with_a_cpus_member_by_member() -> None:
    net, obs, action = QNetwork(OBS, A, HIDDEN, N).double(), some(B, OBS), some(6, B, A)
    torch.testing.assert_close(net.batched(obs, action).view(N, 6, B), net(obs, action))
    heads = EnsembleMLP(N, OBS, HIDDEN, 3).double()
    torch.testing.assert_close(heads.batched(obs), heads(obs))


def test_ensemble_members_start_different_within_the_range_of_linear_layers() -> None:
    net = QNetwork(OBS, A, (512, 512), 2)
    first = torch.cat([net.obs_layer.weight, net.action_layer.weight], 1)
    bound = 1 / math.sqrt(OBS + A)  # that of one layer that sees both
    assert 0.98 * bound < first.abs().max() <= bound
    assert not torch.allclose(first[0], first[1])
    second = net.trunk.layers[0].weight
    assert isinstance(second, Tensor)
    assert 0.98 / math.sqrt(512) < second.abs().max() <= 1 / math.sqrt(512)


def test_the_value_network_returns_one_number_per_observation() -> None:
    net = ValueNetwork(OBS, HIDDEN)
    x = torch.randn(B, OBS)
    assert net(x).shape == (B,)
    torch.testing.assert_close(net(x), net.net(x)[:, 0])


def test_discrete_values_are_means_of_quantiles() -> None:
    net = DiscreteQNetwork(OBS, 6, HIDDEN, N, n_quantiles=4)
    x = torch.randn(B, OBS)
    assert net.quantiles(x).shape == (N, B, 6, 4)
    torch.testing.assert_close(net(x), net.quantiles(x).mean(-1))
    flat = net.net(x)  # quantiles of one action lie side by side
    torch.testing.assert_close(net(x)[..., 1], flat[..., 4:8].mean(-1))


def test_dropout_follows_each_hidden_layer_and_rests_in_evaluation() -> None:
    net = MLP(OBS, HIDDEN, 3, dropout=0.5)
    kinds = [type(layer).__name__ for layer in net]
    assert kinds == ["Linear", "ReLU", "BatchDropout"] * 2 + ["Linear"]
    x = torch.randn(B, OBS)
    assert not torch.equal(net(x), net(x))
    net.eval()
    assert torch.equal(net(x), net(x))
    assert len(MLP(OBS, HIDDEN, 3)) == 5


def test_orthogonal_weights_have_their_gains_and_no_bias() -> None:
    net, critics = MLP(OBS, HIDDEN, 3), QNetwork(OBS, A, HIDDEN, N)
    orthogonal_(net)
    orthogonal_(critics)
    first, last = net[0], net[-1]
    assert isinstance(first, nn.Linear)
    assert isinstance(last, nn.Linear)
    torch.testing.assert_close(first.weight.T @ first.weight, 2 * torch.eye(OBS))
    torch.testing.assert_close(last.weight @ last.weight.T, 1e-4 * torch.eye(3))
    for j in range(N):
        weight = critics.obs_layer.weight[j]
        torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(OBS))
        out = critics.trunk.layers[-1].weight
        assert isinstance(out, Tensor)
        torch.testing.assert_close(out[j].norm(), torch.tensor(1e-2))
    for module in (net, critics):
        assert all(not p.any() for name, p in module.named_parameters() if name.endswith("bias"))


def test_a_scalar_starts_at_its_value() -> None:
    scalar = Scalar(1.5)
    assert scalar().item() == 1.5
    assert scalar().requires_grad


@pytest.mark.parametrize("relu_first", [False, True])
@pytest.mark.parametrize("actions", [1, 3])
def test_layer_norms_are_the_same_one_by_one_and_at_once(relu_first: bool, actions: int) -> None:
    torch.manual_seed(0)
    net = QNetwork(3, 2, (8, 7), 4, layer_norm=True, relu_first=relu_first).double()
    for parameter in net.parameters():
        parameter.data += 0.3 * torch.randn_like(parameter)
    obs, action = torch.randn(5, 3).double(), torch.rand(actions, 5, 2).double()
    one, batched = net(obs, action), net.batched(obs, action).view(4, actions, 5)
    torch.testing.assert_close(one, batched, rtol=1e-12, atol=1e-12)
    plain = QNetwork(3, 2, (8, 7), 4).double()
    plain.load_state_dict(net.state_dict(), strict=False)
    assert (plain(obs, action) - one).abs().max() > 1e-3
    other = QNetwork(3, 2, (8, 7), 4, layer_norm=True, relu_first=not relu_first).double()
    other.load_state_dict(net.state_dict())
    assert (other(obs, action) - one).abs().max() > 1e-3


def test_only_critics_of_box_actions_need_a_hidden_layer() -> None:
    assert MLP(OBS, (), 3)(torch.ones(B, OBS)).shape == (B, 3)
    assert DiscreteQNetwork(OBS, 3, (), N)(torch.ones(B, OBS)).shape == (N, B, 3)
    with pytest.raises(InputError, match=r"at least one layer of width 1 or more, not \(\)"):
        QNetwork(OBS, A, (), N)

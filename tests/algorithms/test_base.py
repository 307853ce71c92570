"""What all algorithms share: isolation, randomness, schedules and refusals."""

import math
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, get_type_hints

import pytest
import torch
import torch.distributed as dist
from lightning import Trainer
from torch import Tensor, nn

from lit_offrl import algorithms
from lit_offrl.algorithms import (
    BC,
    BCQ,
    CQL,
    DQN,
    IQL,
    TD3BC,
    DiscreteBCQ,
    DiscreteCQL,
    DiscreteIQL,
    OfflineAlgorithm,
    update_path,
)
from lit_offrl.algorithms.pex import PEX
from lit_offrl.algorithms.replicas import Replicas
from lit_offrl.batch import Batch, Layout
from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.rng import stream_seed
from tests.algorithms.helpers import (
    ACTION_DIM,
    BATCH_SIZE,
    N_ACTIONS,
    OBS_DIM,
    close,
    moved,
    random_batch,
    ready,
    run_updates,
    snapshot,
)

SMALL: dict[str, Any] = {"hidden": (8, 7)}
BOX: dict[str, Callable[..., OfflineAlgorithm]] = {
    "BC": lambda **k: BC(OBS_DIM, ACTION_DIM, **SMALL, **k),
    "IQL": lambda **k: IQL(OBS_DIM, ACTION_DIM, **SMALL, **k),
    "TD3BC": lambda **k: TD3BC(OBS_DIM, ACTION_DIM, **SMALL, policy_delay=1, **k),
    "BCQ": lambda **k: BCQ(OBS_DIM, ACTION_DIM, **SMALL, vae_hidden=(8,), **k),
    "CQL": lambda **k: CQL(
        OBS_DIM,
        ACTION_DIM,
        **SMALL,
        critic_hidden=(8,),
        n_actions=3,
        lagrange_gap=1.0,
        penalty_prior="behavior",
        policy_regularizer="kl",
        **k,
    ),
}
DISCRETE: dict[str, Callable[..., OfflineAlgorithm]] = {
    "BC of discrete actions": lambda **k: BC(OBS_DIM, N_ACTIONS, "categorical", **SMALL, **k),
    "DQN": lambda **k: DQN(OBS_DIM, N_ACTIONS, **SMALL, **k),
    "DiscreteIQL": lambda **k: DiscreteIQL(OBS_DIM, N_ACTIONS, **SMALL, **k),
    "DiscreteCQL": lambda **k: DiscreteCQL(OBS_DIM, N_ACTIONS, **SMALL, **k),
    "DiscreteBCQ": lambda **k: DiscreteBCQ(OBS_DIM, N_ACTIONS, **SMALL, **k),
}
ALL = BOX | DISCRETE


def stack(batches: list[Batch]) -> Batch:
    return Batch(*(torch.stack(fields) for fields in zip(*(b[:5] for b in batches), strict=True)))


def trained(algorithm: OfflineAlgorithm, per_step: int, updates: int = 8) -> OfflineAlgorithm:
    """Train in float32 with ``per_step`` updates per training step."""
    layout = Layout(OBS_DIM, ACTION_DIM, discrete=False)
    batches = [
        layout.unpack(layout.pack(*random_batch(i)[:5]))  # to float32
        for i in range(updates)
    ]
    blocks = [stack(batches[i : i + per_step]) for i in range(0, updates, per_step)]
    trainer = Trainer(
        max_steps=updates,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        barebones=False,
    )
    trainer.fit(algorithm, torch.utils.data.DataLoader(blocks, batch_size=None))  # type: ignore[arg-type]
    assert trainer.global_step == updates
    return algorithm


# Isolation.


@pytest.mark.parametrize("name", ALL)
def test_each_loss_moves_only_its_own_network(name: str) -> None:
    algorithm = ready(ALL[name]())
    minimize, seen = algorithm.minimize, set()

    def watched(loss: Tensor, net: nn.Module) -> None:
        before = snapshot(algorithm)
        minimize(loss, net)
        (own,) = (key for key, child in algorithm.named_children() if child is net)
        assert moved(before, snapshot(algorithm)) == {own}
        seen.add(own)

    algorithm.minimize = watched  # type: ignore[method-assign]
    run_updates(algorithm, [random_batch(0, discrete=name in DISCRETE)])
    networks = {key for key, _ in algorithm.named_children()}
    assert seen == {key for key in networks if not key.startswith("target")}


@pytest.mark.parametrize("name", ALL)
def test_target_networks_take_no_gradients_and_start_as_copies(name: str) -> None:
    algorithm = ALL[name]()
    children = dict(algorithm.named_children())
    for key in [k for k in children if k.startswith("target")]:
        online = snapshot(children[key.removeprefix("target_")])
        for parameter, value in snapshot(children[key]).items():
            assert torch.equal(value, online[parameter])
    algorithm.double()
    run_updates(algorithm, [random_batch(i, discrete=name in DISCRETE) for i in range(2)])
    for path, tensor in algorithm.named_parameters():
        assert tensor.requires_grad != path.startswith("target")
        assert tensor.grad is None


@pytest.mark.parametrize("name", ALL)
def test_losses_are_detached_scalars_and_all_networks_have_moved(name: str) -> None:
    algorithm = ready(ALL[name]())
    before = snapshot(algorithm)
    metrics = run_updates(algorithm, [random_batch(i, discrete=name in DISCRETE) for i in range(2)])
    for values in metrics:
        assert all(v.shape == () and not v.requires_grad for v in values.values())
        assert all(v.isfinite() for v in values.values())
    if name != "DQN":  # may copy its target more rarely
        online = {key for key, _ in algorithm.named_children() if not key.startswith("target")}
        assert online <= moved(before, snapshot(algorithm))


def test_minimize_takes_the_steps_of_adam() -> None:
    algorithm = ready(BC(OBS_DIM, ACTION_DIM, **SMALL, lr=0.05))
    start = {k: v.clone() for k, v in algorithm.policy.state_dict().items()}
    batches = [random_batch(i) for i in range(3)]
    run_updates(algorithm, batches)
    found = snapshot(algorithm.policy)

    algorithm.policy.load_state_dict(start)
    optimizer = torch.optim.Adam(algorithm.policy.parameters(), lr=0.05)
    for batch in batches:
        optimizer.zero_grad()
        algorithm.policy(batch.obs).imitation_loss(batch.action).mean().backward()
        optimizer.step()
    for name, value in snapshot(algorithm.policy).items():
        close(found[name], value, name)
    ours = algorithm._optimizers[algorithm.policy].state_dict()["state"]
    theirs = optimizer.state_dict()["state"]
    assert ours.keys() == theirs.keys()
    for i, state in theirs.items():
        for key, value in state.items():
            close(ours[i][key], value, key)


# Randomness.


def splitmix64(x: int) -> int:
    """The finalizer of Steele et al. (2014), by its published constants."""
    x = (x + 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_the_mixer_of_seeds_is_splitmix64() -> None:
    assert splitmix64(0) == 0xE220A8397B1DCDAF  # the first number of the published generator
    expected = splitmix64(splitmix64(splitmix64(3) + 1) + 7)
    assert stream_seed(3, 7, 1) == expected >> 1


def test_seeds_differ_in_every_argument_and_fit_a_generator() -> None:
    seeds = {stream_seed(s, u, t) for s in range(20) for u in range(100) for t in range(3)}
    assert len(seeds) == 20 * 100 * 3
    assert 0 <= min(seeds) <= max(seeds) < 2**63
    assert stream_seed(-1, 2**40) >= 0


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[int, int], None]]:
    def become(rank: int, world_size: int) -> None:
        monkeypatch.setattr(OfflineAlgorithm, "_world_size", world_size)
        monkeypatch.setattr(dist, "get_rank", lambda: rank)
        torch.manual_seed(0)

    yield become


@pytest.mark.parametrize("draw", ["randn", "rand"])
@pytest.mark.parametrize("lead", [(), (3,)])
def test_ranks_draw_their_rows_of_one_global_draw(
    ranks: Callable[[int, int], None], draw: str, lead: tuple[int, ...]
) -> None:
    algorithm = BOX["BC"]()
    ranks(0, 1)
    whole = getattr(algorithm, draw)(*lead, 6, ACTION_DIM)
    parts = []
    for rank in range(3):
        ranks(rank, 3)
        parts.append(getattr(algorithm, draw)(*lead, 2, ACTION_DIM))
    assert torch.equal(torch.cat(parts, -2), whole)


def test_noise_is_standard_normal_and_uniform() -> None:
    algorithm = BOX["BC"]()
    normal, uniform = algorithm.randn(20000, 2), algorithm.rand(20000, 2)
    assert abs(normal.mean()) < 0.02
    assert abs(normal.std() - 1) < 0.02
    assert uniform.min() >= 0
    assert uniform.max() < 1
    assert abs(uniform.mean() - 0.5) < 0.02


def test_gradients_and_batch_means_are_averaged_over_ranks(
    ranks: Callable[[int, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other rank's gradients are three times ours, so the mean is twice ours."""
    ranks(0, 2)
    monkeypatch.setattr(update_path, "_sum_over_ranks", lambda flat: 4 * flat)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    algorithm = ready(BC(OBS_DIM, ACTION_DIM, **SMALL))
    assert algorithm.batch_mean(torch.tensor([1.0, 2.0])) == 3
    parameters = list(algorithm.policy.parameters())
    loss = algorithm.policy(random_batch(0).obs).imitation_loss(random_batch(0).action).mean()
    gradients = torch.autograd.grad(loss, parameters, retain_graph=True)
    algorithm.minimize(loss, algorithm.policy)
    state = algorithm._optimizers[algorithm.policy].state
    for parameter, gradient in zip(parameters, gradients, strict=True):
        close(state[parameter]["exp_avg"], 0.1 * 2 * gradient)


# Training.


@pytest.mark.parametrize("name", ["IQL", "CQL"])
def test_the_same_seed_gives_the_same_bits_however_updates_are_grouped(name: str) -> None:
    start = BOX[name]().state_dict()
    runs: list[dict[str, Tensor]] = []
    for per_step in (1, 1, 8):
        algorithm = BOX[name]()
        algorithm.load_state_dict(start)
        torch.manual_seed(per_step + len(runs))  # must not matter
        runs.append(snapshot(trained(algorithm, per_step)))
    for other in runs[1:]:
        assert all(torch.equal(value, other[key]) for key, value in runs[0].items())


def test_another_seed_gives_another_run() -> None:
    runs = []
    for seed in (0, 1):
        torch.manual_seed(0)
        algorithm = BOX["TD3BC"]()
        algorithm.seed = seed
        runs.append(snapshot(trained(algorithm, 4)))
    assert moved(*runs) == {"q", "policy", "target_q", "target_policy"}


def test_only_the_policys_learning_rate_falls_on_a_cosine() -> None:
    algorithm = BOX["IQL"](lr=1e-3)
    rates = []
    update = algorithm.update

    def watched(batch: Batch) -> dict[str, Tensor]:
        nets = (algorithm.policy, algorithm.q, algorithm.v)
        rates.append([float(algorithm._optimizers[n].param_groups[0]["lr"]) for n in nets])  # type: ignore[index]
        return update(batch)

    algorithm.update = watched  # type: ignore[method-assign]
    trained(algorithm, 4)
    for i, (policy, q, v) in enumerate(rates):
        assert policy == pytest.approx(1e-3 * (1 + math.cos(math.pi * i / 8)) / 2)
        assert q == v == 1e-3


# The public face.


def test_acting_takes_the_mode_without_gradients() -> None:
    algorithm, obs = ready(BOX["BC"]()), random_batch(0).obs
    action = algorithm.act(obs)
    assert torch.equal(action, algorithm.policy(obs).mode)
    assert not action.requires_grad


def test_questions_without_an_answer_say_so() -> None:
    batch = random_batch(0)
    with pytest.raises(NotApplicableError, match="BC learns no critic"):
        ready(BOX["BC"]()).q_values(batch.obs, batch.action)
    with pytest.raises(NotApplicableError, match="discrete"):
        ready(BOX["IQL"]()).action_values(batch.obs)


@pytest.mark.parametrize("name", BOX)
def test_values_come_from_every_critic(name: str) -> None:
    algorithm, batch = ready(BOX[name]()), random_batch(0)
    if name != "BC":
        q = algorithm.q_values(batch.obs, batch.action)
        assert q.shape == (2, BATCH_SIZE)
        assert torch.equal(q, algorithm.q(batch.obs, batch.action))  # type: ignore[operator]


def test_held_out_scores_are_the_likelihood_and_the_td_error_of_the_policys_action() -> None:
    algorithm, batch = ready(IQL(OBS_DIM, ACTION_DIM, **SMALL, discount=0.9)), random_batch(0)
    scores = algorithm.held_out_scores(batch)
    assert set(scores) == {"val/nll", "val/td_error"}
    close(scores["val/nll"], -algorithm.policy(batch.obs).log_prob(batch.action).mean())
    next_action = algorithm.policy(batch.next_obs).mode
    next_q = algorithm.q(batch.next_obs, next_action).min(0).values
    q = algorithm.q(batch.obs, batch.action).min(0).values
    target = batch.reward + 0.9 * (1 - batch.terminated) * next_q
    close(scores["val/td_error"], ((target - q) ** 2).mean())


@pytest.mark.parametrize(
    ("name", "metric"),
    [("BC", "nll"), ("TD3BC", "action_mse"), ("DQN", "error_rate")],
)
def test_imitation_is_scored_as_the_policy_allows(name: str, metric: str) -> None:
    batch = random_batch(0, discrete=name in DISCRETE)
    assert f"val/{metric}" in ready(ALL[name]()).held_out_scores(batch)


# Refusals.


@pytest.mark.parametrize("name", ALL)
def test_an_algorithm_for_other_actions_is_refused_with_what_fits(name: str) -> None:
    algorithm = ALL[name]()
    kinds = ("box", "discrete") if name in BOX else ("discrete", "box")
    assert algorithm.actions == kinds[0]
    algorithm._check_action_space(kinds[0] == "discrete", "some/set-v0")
    with pytest.raises(InputError, match=f"some/set-v0.*{kinds[1]}.*use ") as error:
        algorithm._check_action_space(kinds[1] == "discrete", "some/set-v0")
    assert "\n" not in str(error.value)


def setup_with(algorithm: OfflineAlgorithm, **trainer: Any) -> None:
    usual = {"precision": "32-true", "max_epochs": -1, "log_every_n_steps": 50}
    algorithm._trainer = SimpleNamespace(**{**usual, **trainer})  # type: ignore[assignment]
    algorithm.setup("fit")
    algorithm.configure_optimizers()


def test_a_data_set_of_other_actions_is_refused_before_training() -> None:
    data = SimpleNamespace(spec=SimpleNamespace(discrete=True, dataset_id="some/set-v0"))
    with pytest.raises(InputError, match="IQL does not fit"):
        setup_with(BOX["IQL"](), datamodule=data, max_steps=5)


def test_precision_that_spoils_training_is_refused() -> None:
    for precision in ("16-mixed", "16-true", "bf16-true"):
        with pytest.raises(InputError, match=f"bf16-mixed, not {precision}: "):
            setup_with(BOX["BC"](), precision=precision, max_steps=5)
    for precision in ("bf16-mixed", "32-true", "64-true"):
        setup_with(BOX["BC"](), precision=precision, max_steps=5)


def test_a_cosine_schedule_needs_the_number_of_updates() -> None:
    with pytest.raises(InputError, match="max_steps"):
        setup_with(BOX["IQL"](), max_steps=-1)
    setup_with(BOX["IQL"](cosine_schedule=False), max_steps=-1)


INTERVALS = {
    "[0, 1)": "dropout",
    "(0, 1)": "expectile",
    "(0, 1]": "min_weight polyak",
    "[0, 1]": "bcq_threshold clipped_weight discount",
    "(0, inf)": "adam_eps awr_temperature lr policy_lr q_lr temperature",
    "[0, inf)": "bc_alpha choice_inverse_temperature cql_alpha critic_penalty inverse_temperature "
    "kl_weight logit_penalty max_perturbation policy_noise policy_penalty regularizer_weight",
    "[0, inf]": "noise_clip",
    "[1, inf)": "n_actions n_candidates n_critics n_quantiles policy_delay policy_period "
    "target_period",
    "[1, 10]": "n_target_critics",
    "(-inf, inf)": "lagrange_gap target_entropy",
}
"""Where the arguments of algorithms must lie."""
KINDS = [getattr(algorithms, n) for n in algorithms.__all__ if n != "OfflineAlgorithm"] + [PEX]


def arguments(*hints: Any) -> list[Any]:
    """Each algorithm with each of its arguments of these types."""
    return [
        pytest.param(kind, name, id=f"{kind.__name__} {name}")
        for kind in KINDS
        for name, hint in get_type_hints(kind.__init__).items()
        if hint in hints and name not in ("obs_dim", "action_dim")
    ]


@pytest.mark.parametrize(("kind", "name"), arguments(int, float, float | None))
def test_a_number_out_of_its_range_is_refused(
    kind: Callable[..., OfflineAlgorithm], name: str
) -> None:
    (interval,) = (interval for interval, names in INTERVALS.items() if name in names.split())
    low, high = map(float, interval[1:-1].split(","))
    outside = [math.nan, low if interval.startswith("(") else low - 1]
    outside += [high if interval.endswith(")") else high + 1] * (interval != "[0, inf]")
    for value in outside:
        with pytest.raises(InputError) as error:
            kind(OBS_DIM, ACTION_DIM, **{name: value})
        assert str(error.value) == f"`{name}` must lie in {interval}, not {value}."


@pytest.mark.parametrize(("kind", "name"), arguments(tuple[int, ...]))
def test_hidden_layers_without_units_are_refused(
    kind: Callable[..., OfflineAlgorithm], name: str
) -> None:
    for hidden in ((0,), (8, -1)):
        with pytest.raises(InputError, match="of width 1 or more"):
            kind(OBS_DIM, ACTION_DIM, **{name: hidden})


def test_a_learning_rate_of_ones_own_algorithm_must_be_positive() -> None:
    with pytest.raises(InputError, match="positive"):
        BOX["IQL"]().optimize(nn.Linear(1, 1), 0.0)


def checkpoint_of(algorithm: OfflineAlgorithm) -> dict[str, Any]:
    checkpoint: dict[str, Any] = {"state_dict": algorithm.state_dict()}
    algorithm.on_save_checkpoint(checkpoint)
    return checkpoint


def test_a_checkpoint_of_the_same_algorithm_brings_its_seed() -> None:
    saved, loaded = BOX["IQL"](), BOX["IQL"]()
    saved.seed = 7
    loaded.on_load_checkpoint(checkpoint_of(saved))
    assert loaded.seed == 7


def test_a_checkpoint_of_another_algorithm_is_refused() -> None:
    with pytest.raises(InputError, match=r"holds .*\.IQL, not .*\.BC"):
        BOX["BC"]().on_load_checkpoint(checkpoint_of(BOX["IQL"]()))
    with pytest.raises(InputError, match="another model"):
        BOX["BC"]().on_load_checkpoint({"state_dict": {}})


def test_a_checkpoint_of_several_seeds_is_no_run_of_one() -> None:
    saved: dict[str, Any] = {}
    members = BOX["IQL"](), BOX["IQL"]()
    for seed, member in enumerate(members, 3):
        member.seed = seed
        setup_with(member, max_steps=1)
    Replicas(members).on_save_checkpoint(saved)
    with pytest.raises(InputError, match="set `--seeds` to 2 and `--seed_everything` to 3"):
        BOX["IQL"]().on_load_checkpoint(saved)


def test_a_checkpoint_of_other_sizes_is_refused() -> None:
    wider = IQL(OBS_DIM + 1, ACTION_DIM, **SMALL)
    with pytest.raises(InputError, match=r"v\.net.*\(8, 4\), expected \(8, 3\)"):
        BOX["IQL"]().on_load_checkpoint(checkpoint_of(wider))
    deeper = IQL(OBS_DIM, ACTION_DIM, hidden=(8, 7, 1))
    with pytest.raises(InputError, match="shape missing, expected"):
        deeper.on_load_checkpoint(checkpoint_of(IQL(OBS_DIM, ACTION_DIM, hidden=(8, 7))))


def test_a_checkpoint_with_networks_to_spare_is_refused() -> None:
    with pytest.raises(InputError, match=r"behavior\..*expected missing"):
        CQL(OBS_DIM, ACTION_DIM, **SMALL, critic_hidden=(8,)).on_load_checkpoint(
            checkpoint_of(BOX["CQL"]())
        )

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lit_offrl.data import OfflineDataModule, Transitions
from lit_offrl.data.sampler import UpdateSampler
from lit_offrl.data.weighting import Sampling, effective_share, row_weights
from lit_offrl.errors import InputError

LENGTHS = [2, 3, 1, 4, 2, 3]
RETURNS = [10.0, -5.0, 3.0, 0.0, 7.0, 10.0]
ALL = np.arange(len(LENGTHS))
EPISODE = np.repeat(ALL, LENGTHS)
UNIFORM = np.full(len(EPISODE), 1 / len(EPISODE))


def log() -> Transitions:
    """Episodes of known length and return, whose first observation is twice the return plus 1."""
    n = len(EPISODE)
    reward, obs = np.zeros(n, np.float32), np.zeros((n, 2), np.float32)
    first = np.append(0, np.cumsum(LENGTHS)[:-1])
    reward[first] = RETURNS
    obs[first, 0] = 2 * np.array(RETURNS) + 1
    flags = np.zeros(n, np.bool_)
    return Transitions(obs, np.zeros((n, 1), np.float32), reward, obs, flags, flags, EPISODE)


def weights(sampling: Sampling, episodes: NDArray[np.int64] = ALL) -> NDArray[np.float64]:
    found = row_weights(sampling, log(), episodes)
    assert found is not None
    assert found.sum() == pytest.approx(1)
    return found


def normalized(values: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(values / values.sum())


def test_uniform_has_no_weights() -> None:
    assert row_weights(Sampling(), log(), ALL) is None


@pytest.mark.parametrize("temperature", [0.1, 2.0])
def test_return_weights_are_the_softmax_of_the_scaled_return(temperature: float) -> None:
    scaled = (np.array(RETURNS) + 5) / 15
    wanted = normalized(np.exp(scaled / temperature)[EPISODE])
    np.testing.assert_allclose(weights(Sampling("return", temperature)), wanted)


@pytest.mark.parametrize("temperature", [1e-3, 1e-300, 5e-324])
def test_a_small_temperature_leaves_the_best_episodes(temperature: float) -> None:
    best = np.isin(EPISODE, [0, 5])
    found = weights(Sampling("return", temperature))
    np.testing.assert_allclose(found, normalized(best), atol=1e-12)


def test_advantage_weights_forget_what_the_first_observation_explains() -> None:
    # the return is a linear function of it, so nothing is left
    np.testing.assert_allclose(weights(Sampling("advantage")), UNIFORM)


def test_advantage_weights_are_those_of_the_residual() -> None:
    plain = log()
    plain.obs[:] = 0  # nothing to explain the return with but its mean
    found = row_weights(Sampling("advantage"), plain, ALL)
    assert found is not None
    np.testing.assert_allclose(found, weights(Sampling("return")), rtol=1e-9)


def test_strata_of_the_return_are_drawn_equally_often() -> None:
    found = weights(Sampling("stratified", strata=3))
    # quantiles of -5, 0, 3, 7, 10, 10: two episodes each
    for episodes in ([1, 3], [2, 4], [0, 5]):
        assert found[np.isin(EPISODE, episodes)].sum() == pytest.approx(1 / 3)


def test_labels_are_drawn_equally_often(tmp_path: Path) -> None:
    np.save(tmp_path / "labels.npy", np.array([0, 0, 0, 7, 7, 0]))
    found = weights(Sampling("stratified", path=str(tmp_path / "labels.npy")))
    assert found[np.isin(EPISODE, [3, 4])].sum() == pytest.approx(0.5)


@pytest.mark.parametrize("per_row", [True, False])
def test_weights_of_a_file_are_those_of_the_training_split(tmp_path: Path, per_row: bool) -> None:
    given = np.arange(len(EPISODE) if per_row else len(LENGTHS)) + 1.0
    np.save(tmp_path / "weights.npy", given)
    rows = given if per_row else given[EPISODE]
    kept = np.array([4, 1])
    wanted = normalized(np.concatenate([rows[EPISODE == 4], rows[EPISODE == 1]]))
    path = str(tmp_path / "weights.npy")
    np.testing.assert_allclose(weights(Sampling("file", path=path), kept), wanted)


def test_equal_returns_are_drawn_alike() -> None:
    flat = log()
    flat.reward[:] = 0
    found = row_weights(Sampling("return"), flat, ALL)
    assert found is not None
    np.testing.assert_allclose(found, UNIFORM)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (np.ones(5), "one number per row"),
        (-np.ones(6), "not negative"),
        (np.zeros(6), "not all 0"),
        (np.full(6, np.nan), "finite"),
        (np.full(6, 1e308), "sum to inf"),
        (np.array(["a"] * 6, dtype=object), "cannot be read"),
        (np.array(["a"] * 6), "must be numbers"),
    ],
)
def test_wrong_files_are_named(tmp_path: Path, content: NDArray[Any], message: str) -> None:
    np.save(tmp_path / "weights.npy", content, allow_pickle=True)
    with pytest.raises(InputError, match=message):
        weights(Sampling("file", path=str(tmp_path / "weights.npy")))


@pytest.mark.parametrize("cut", [0, 30])
def test_an_archive_of_weights_is_named(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "weights.npz"
    np.savez(path, np.ones(6))
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) - cut])
    with pytest.raises(InputError, match="cannot be read: give a"):
        weights(Sampling("file", path=str(path)))


def test_a_fit_that_goes_through_every_return_is_refused() -> None:
    wide = log()
    obs = np.random.default_rng(0).normal(size=(len(EPISODE), 5)).astype(np.float32)
    with pytest.raises(InputError, match="5 numbers explain the returns of 6 episodes"):
        row_weights(Sampling("advantage"), replace(wide, obs=obs), ALL)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"kind": "return", "temperature": 0.0}, "temperature"),
        ({"kind": "stratified", "strata": 0}, "strata"),
        ({"kind": "file"}, "needs `sampling.path`"),
        ({"kind": "return", "path": "x.npy"}, "takes no"),
        ({"temperature": 0.5}, "uniform takes no `sampling.temperature`"),
        ({"kind": "stratified", "temperature": 0.5}, "takes no `sampling.temperature`"),
        ({"kind": "return", "strata": 3}, "strata` is for"),
        ({"kind": "stratified", "strata": 3, "path": "x.npy"}, "without a path"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Sampling(**settings)


def test_rows_are_drawn_with_their_probabilities() -> None:
    wanted = torch.tensor([0.0, 0.5, 0.3, 0.0, 0.2, 0.0], dtype=torch.float64)
    sampler = UpdateSampler(torch.zeros(6, 1), 256, 0, weights=wanted)
    drawn = torch.cat([sampler.indices(update) for update in range(100)])
    counts = torch.bincount(drawn, minlength=6).double()
    assert (counts[wanted == 0] == 0).all()
    expected = wanted * len(drawn)
    chi_square = ((counts - expected).square() / expected.clamp(min=1)).sum().item()
    assert chi_square < 13.8  # the 99.9 % quantile of 2 degrees of freedom


def test_weighted_batches_are_a_function_of_seed_and_update_and_shared_by_ranks() -> None:
    p = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = torch.arange(50.0).unsqueeze(1)
    whole = UpdateSampler(matrix, 16, 3, weights=p)
    ranks = [UpdateSampler(matrix, 16, 3, rank, 2, p) for rank in range(2)]
    assert torch.equal(torch.cat([r.block(5, 2) for r in ranks], 1), whole.block(5, 2))
    assert torch.equal(whole.block(5, 2)[1], whole.block(6, 1)[0])


def test_the_effective_share_is_logged_once_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, float]] = []

    class Logger:
        def log_metrics(self, metrics: dict[str, float], step: int) -> None:
            logged.append(metrics)

    class Trainer:
        loggers = (Logger(),)
        global_step = global_rank = 0
        world_size = 1

    data = OfflineDataModule("pendulum/mixed", sampling=Sampling("return"))
    rows = Transitions(*(getattr(log(), name) for name in Transitions.__dataclass_fields__))
    data.__dict__["_loaded"] = (rows, None)
    data.trainer = Trainer()  # type: ignore[assignment]
    found = data._train_weights()
    assert found is not None
    assert logged == [{"data/effective_share": effective_share(found.numpy())}]
    assert 0 < logged[0]["data/effective_share"] < 1
    monkeypatch.setattr(Trainer, "global_step", 20)  # it goes on
    again = data._train_weights()
    assert again is not None
    assert torch.equal(again, found)
    assert len(logged) == 1

from pathlib import Path

import pytest
import torch

from lit_offrl.errors import InputError
from lit_offrl.online.mixing import MixedSampler, Mixing
from lit_offrl.online.replay import ReplayBuffer

B = 64


def sampler(path: Path, rows: int, seed: int = 0, **options: object) -> MixedSampler:
    """Logged rows hold their number, collected ones -1 and less."""
    buffer = ReplayBuffer(100, 1, path)
    buffer.add(-1 - torch.arange(rows).float().unsqueeze(1))
    log = torch.arange(50).float().unsqueeze(1)
    return MixedSampler(log, buffer, B, seed, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize(("fraction", "logged"), [(0.5, 32), (0.25, 16), (0.0, 0), (1.0, 64)])
def test_a_batch_has_the_share_asked_for(tmp_path: Path, fraction: float, logged: int) -> None:
    batch = sampler(tmp_path, 10).batch(3, fraction)
    assert batch.shape == (B, 1)
    assert (batch[:logged] >= 0).all() and (batch[logged:] < 0).all()


@pytest.mark.parametrize("fraction", [0.0, None])
def test_without_collected_rows_all_are_logged(tmp_path: Path, fraction: float | None) -> None:
    assert (sampler(tmp_path, 0).batch(0, fraction) >= 0).all()


@pytest.mark.parametrize("collected", [3, 100])
def test_a_union_draws_all_rows_alike(tmp_path: Path, collected: int) -> None:
    both = sampler(tmp_path, collected)
    drawn = torch.cat([both.batch(i, None) for i in range(500)]).flatten().long()
    counts = torch.bincount(drawn + collected, minlength=50 + collected)
    expected = 500 * B / len(counts)
    assert len(counts) == 50 + collected
    assert ((counts - expected).square() / expected).sum().item() < 1.5 * len(counts)


def test_a_batch_is_a_function_of_seed_and_update(tmp_path: Path) -> None:
    first, again = sampler(tmp_path, 10), sampler(tmp_path, 10)
    first.batch(1, 0.5)
    assert torch.equal(first.batch(7, 0.5), again.batch(7, 0.5))
    assert not torch.equal(first.batch(8, 0.5), again.batch(7, 0.5))
    assert not torch.equal(sampler(tmp_path, 10, seed=1).batch(7, 0.5), again.batch(7, 0.5))


def test_both_parts_are_drawn_uniformly(tmp_path: Path) -> None:
    both = sampler(tmp_path, 10)
    drawn = torch.cat([both.batch(i, 0.5) for i in range(500)]).flatten()
    logged = torch.bincount(drawn[drawn >= 0].long(), minlength=50)
    collected = torch.bincount(-1 - drawn[drawn < 0].long(), minlength=10)
    for counts in (logged, collected):
        expected = 16_000 / len(counts)
        chi_square = ((counts - expected).square() / expected).sum().item()
        assert chi_square < 2 * len(counts)


def test_weights_decide_on_logged_rows_alone(tmp_path: Path) -> None:
    weighted = sampler(tmp_path, 10, row_weight=lambda rows: (rows[:, 0] < 25).float())
    batch = weighted.batch(0, 0.5)
    assert ((batch[:32] >= 0) & (batch[:32] < 25)).all()
    assert (batch[32:] < 0).all()


def test_the_share_moves_along_a_line() -> None:
    mixing = Mixing(0.5, 0.1, 1000)
    assert [mixing.fraction(step) for step in (0, 500, 1000, 5000)] == pytest.approx(
        [0.5, 0.3, 0.1, 0.1]
    )
    assert Mixing(0.4).fraction(10**6) == 0.4
    assert Mixing("union").fraction(10**6) is None


def test_wrong_shares_are_refused() -> None:
    with pytest.raises(InputError, match="must lie in"):
        Mixing(1.5)
    with pytest.raises(InputError, match="must lie in"):
        Mixing(0.5, -0.1)
    with pytest.raises(InputError, match="to start from"):
        Mixing("union", 0.1)
    with pytest.raises(InputError, match="anneal_steps"):
        Mixing(0.5, 0.1, 0)

"""What a critic is asked about at every diagnosis: the same rows of the log, of all ranks."""

from collections.abc import Sequence

from torch import Tensor

from lit_offrl.data import Transitions
from lit_offrl.errors import InputError
from lit_offrl.evaluation.diagnosis.q_answers import Critic, ask_all, random_actions
from lit_offrl.evaluation.diagnosis.q_sanity import Answers
from lit_offrl.evaluation.probe import make_probe
from lit_offrl.scaling import Scaling


class Questions:
    """This rank's share of a fixed sample of the log.

    Args:
        parts: Held-out transitions and those of training, or the latter alone.
        scaling: What the critic sees.
        discount: γ.
        n_actions: Number of discrete actions; None for Box actions.
        rows: Most transitions to ask about.
        starts: Most first observations.
        seed: Which ones, and which random actions.
        rank: This rank and the number of ranks.

    Raises:
        InputError: If there are fewer rows than ranks.
    """

    def __init__(
        self,
        parts: Sequence[Transitions],
        scaling: Scaling,
        discount: float,
        n_actions: int | None,
        rows: int,
        starts: int,
        seed: int,
        rank: tuple[int, int],
    ) -> None:
        probes = [make_probe(part, scaling, discount, rows, starts, seed) for part in parts]
        own, world = rank
        if (fewest := min(len(probe.reward) for probe in probes)) < world:
            raise InputError(
                f"QValueSanity: {world} devices cannot share {fewest} rows: raise `rows` or "
                "`data.held_out`."
            )
        self._reward_scale = scaling.reward_scale
        self._others = random_actions(probes[0], n_actions, seed)[:, own::world]  # (K, M, ...)
        shares = [probe.share(own, world) for probe in probes]
        self._probe, self._trained = shares[0], shares[1] if len(shares) > 1 else None

    def ask(self, critic: Critic, like: Tensor) -> Answers:
        """Return the columns of all ranks, asked on the device and in the precision of ``like``."""
        others = self._others.to(like if self._others.is_floating_point() else like.device)
        trained = None if self._trained is None else self._trained.to(like)
        return ask_all(critic, self._probe.to(like), others, trained, self._reward_scale)

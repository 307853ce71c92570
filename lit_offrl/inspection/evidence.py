"""The measures that the recommendation looks at, and the rules that read them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from lit_offrl.data.spec import DatasetSpec
from lit_offrl.evaluation.finding import Finding
from lit_offrl.inspection.questions import Answers
from lit_offrl.inspection.thresholds import (
    DETERMINISTIC,
    GOOD_EPISODES,
    HIGH_QUALITY,
    MIN_EPISODES,
    NARROW_SPREAD,
    POOR_EPISODES,
    SPARSE,
    TREND,
    VARIED,
    WIDE_SPREAD,
)

Returns = Literal["tiny", "fine", "alike", "uneven", "few good", "many good"]
EXCLUDED = -100
"""Points that no others outweigh."""
ANSWERED = 50
"""Points of an answer: more than all measures together."""


@dataclass(frozen=True)
class Evidence:
    """What is known of a log; shares and qualities are those of the findings.

    Args:
        discrete: Whether actions are discrete.
        n_actions: A.
        episodes: Number of episodes.
        zero: Share of zero rewards.
        quality: Trajectory quality.
        spread: Spread of the returns above their mean, on their scale.
        good: Share of good episodes.
        poor: Share of poor episodes.
        trend: Rank correlation of return and order; 0 if unknown.
        actions: Effective actions per state.
        determinism: Share of deterministic states; 0 if unknown.
        answers: What the user said.
        images: Whether observations hold images.
        obs_dim: O.
    """

    discrete: bool
    n_actions: int
    episodes: float
    zero: float
    quality: float
    spread: float
    good: float
    poor: float
    trend: float
    actions: float
    determinism: float
    answers: Answers
    images: bool = False
    obs_dim: int = 0

    @property
    def returns(self) -> Returns:
        """What the returns look like; exactly one of these.

        ``tiny``, too few to say; ``fine``, nearly all as good as the best; ``alike``, one policy's;
        ``uneven``; ``few good`` and ``many good``, mixed ones.
        """
        if self.episodes < MIN_EPISODES:
            return "tiny"
        if self.spread >= WIDE_SPREAD:
            return "few good" if self.good < GOOD_EPISODES else "many good"
        if self.quality >= HIGH_QUALITY:
            return "fine"
        alike = self.spread < NARROW_SPREAD and self.poor < POOR_EPISODES
        return "alike" if alike else "uneven"

    @property
    def narrow(self) -> bool:
        """Whether one discrete action is taken in most states."""
        return self.discrete and (self.determinism > DETERMINISTIC or self.actions < VARIED)

    @property
    def stands_out(self) -> str:
        """How often one discrete action does, where that was measured."""
        share = f"{self.determinism:.0%} of the states"
        return f", and one stands out in {share}" if self.determinism else ""

    @property
    def weights(self) -> str:
        """Kind of sampling: a fit of the return by the first observation needs episodes."""
        return "return" if self.images or self.episodes < 2 * self.obs_dim else "advantage"

    @property
    def replay(self) -> bool:
        """Whether the log looks like the replay buffer of a training run."""
        return self.trend >= TREND and self.poor >= POOR_EPISODES


def read_evidence(findings: Sequence[Finding], spec: DatasetSpec, answers: Answers) -> Evidence:
    """Collect the values of the findings; those that are missing speak for nothing."""
    values = {one.name: one.value for one in findings if one.value is not None}
    return Evidence(
        discrete=spec.discrete,
        n_actions=spec.action_dim,
        episodes=values.get("episodes", 0.0),
        zero=values.get("reward_sparsity", 0.0),
        quality=values.get("trajectory_quality", 0.0),
        spread=values.get("return_spread", 0.0),
        good=values.get("expert_share", 0.0),
        poor=values.get("poor_share", 0.0),
        trend=values.get("return_trend", 0.0),
        actions=values.get("actions_per_state", 0.0),
        determinism=values.get("determinism", 0.0),
        answers=answers,
        images=bool(spec.images),
        obs_dim=spec.obs_dim,
    )


BLIND = ("AWAC", "BCQ", "CQL", "CalQL", "RLPD", "ReBRAC", "TD3BC")
"""Algorithms of Box actions whose networks have no encoder for images."""


@dataclass(frozen=True)
class Rule:
    """One line of the table: what is seen, and which algorithms it speaks for.

    Args:
        holds: Whether it applies.
        why: The evidence in words; ``{e.quality:.0%}`` stands for a value of it.
        points: Points of each algorithm; those of discrete actions count for their discrete form.
        starts: Where these algorithms start then, if not where they do otherwise.
        option: What to add to the config, in the same form.
    """

    holds: Callable[[Evidence], bool]
    why: str
    points: Mapping[str, int]
    starts: Mapping[str, str] = field(default_factory=dict)
    option: str = ""


RULES = (
    Rule(
        lambda e: e.images and not e.discrete,
        "observations hold images, which of the algorithms for Box actions BC and IQL take",
        {"IQL": 2, "BC": 2} | dict.fromkeys(BLIND, EXCLUDED),
    ),
    Rule(
        lambda e: e.returns == "tiny",
        "{e.episodes:.0f} episodes, as few as Adroit's human sets, where BC and IQL lead and "
        "TD3+BC fails (CORL's table)",
        {"BC": 20, "IQL": 10, "BCQ": 8, "AWAC": 5, "ReBRAC": 2}
        | dict.fromkeys(("CQL", "CalQL", "DQN"), EXCLUDED),
    ),
    Rule(
        lambda e: e.zero >= SPARSE,
        "{e.zero:.0%} of the rewards are zero: good parts of episodes must be joined (CORL's "
        "AntMaze table)",
        {"IQL": 9, "CalQL": 8, "ReBRAC": 6},
        starts={"IQL": "`expectile` 0.9", "ReBRAC": "`discount` 0.999"},
    ),
    Rule(
        lambda e: e.replay,
        "returns rise in the order of recording (rank correlation {e.trend:.2f}) from failure "
        "({e.poor:.0%} poor episodes): the broad coverage of a replay buffer",
        {"CQL": 8, "ReBRAC": 6},
    ),
    Rule(
        lambda e: e.discrete and not e.narrow,
        "{e.actions:.1f} of {e.n_actions} actions are tried in similar states: the coverage that "
        "the DQN family needs",
        {"CQL": 6, "IQL": 2, "BCQ": 2, "DQN": 1},
    ),
    Rule(
        lambda e: e.narrow,
        "{e.actions:.1f} of {e.n_actions} actions are tried in similar states{e.stands_out}: "
        "values of the others are guesses",
        {"BCQ": 6, "IQL": 4, "BC": 2},
    ),
    Rule(
        lambda e: e.returns == "fine",
        "the mean return is {e.quality:.0%} of the way up, and returns spread by {e.spread:.0%}: "
        "imitation is hard to beat",
        {"BC": 5, "TD3BC": 4, "ReBRAC": 3},
    ),
    Rule(
        lambda e: e.returns == "alike",
        "episodes are alike (returns spread by {e.spread:.0%}), at {e.quality:.0%} of the way up: "
        "there is no good one to pick, so stay near them and improve by values",
        {"TD3BC": 4, "ReBRAC": 3, "IQL": 2},
    ),
    Rule(
        lambda e: e.returns == "uneven",
        "returns are uneven (they spread by {e.spread:.0%})",
        {"IQL": 3, "TD3BC": 2, "ReBRAC": 1},
    ),
    Rule(
        lambda e: e.returns == "few good",
        "returns are mixed (they spread by {e.spread:.0%}) and {e.good:.0%} of the episodes are "
        "good: draw these more often (Hong et al. 2023)",
        {"IQL": 4, "TD3BC": 3, "AWAC": 2, "ReBRAC": 1},
        option="with `--data.sampling.kind {e.weights}`",
    ),
    Rule(
        lambda e: e.returns == "many good",
        "returns are mixed (they spread by {e.spread:.0%}) and {e.good:.0%} of the episodes are "
        "good: staying near the data pays",
        {"TD3BC": 4, "IQL": 3, "ReBRAC": 2},
    ),
    Rule(
        lambda e: e.answers.dangerous is True,
        "a bad action can do harm, and it hardly leaves what was done",
        {"BC": ANSWERED, "BCQ": 6},
    ),
    Rule(
        lambda e: e.answers.cheap_and_safe,
        "data are cheap and safe: learn online, with the log as a help",
        {"RLPD": ANSWERED, "DQN": ANSWERED},
    ),
    Rule(
        lambda e: e.answers.can_afford_some,
        "data can be collected at a price: its values are made for `lit-offrl finetune` afterwards",
        {"CalQL": ANSWERED},
    ),
)

"""Made-up reports, as they come from a training run on a D4RL-like set."""

import numpy as np

from lit_offrl.evaluation.estimate import Estimate, inapplicable
from lit_offrl.evaluation.finding import Finding, not_applicable
from lit_offrl.report import Curve, KnownValue, Report, Scatter

UPDATES = list(range(10_000, 210_000, 10_000))
LEDGER: dict[str, str | int | float] = {
    "data set": "mujoco/hopper/medium-v0",
    "data hash (SHA-256)": "5b1cf0a3d7c95bb1e1bd2d4c3f6a1e58d0a5ce3fe0f4f6a9a41b8f1f3b9e7a10",
    "split": "episode 90 / 10, seed 42",
    "episodes trained on": 1943,
    "episodes held out": 215,
    "seed": 42,
    "updates": 200_000,
    "discount": 0.99,
    "online episodes consumed": 50,
    "versions": "lit_offrl 0.1.0, torch 2.13.0, lightning 2.6.0, Python 3.12",
}
ASSUMPTIONS = [
    "No unobserved confounding: the logged actions depended on nothing but the observations.",
    "The environment has not changed since the data were recorded.",
    "Episodes are independent of each other; the intervals are approximate and rather too narrow.",
]


def failing_findings() -> list[Finding]:
    return [
        Finding(
            "kl_to_behavior",
            "ok",
            "The policy takes actions that the log supports: 0.31 bits per dimension.",
            value=0.31,
            interval=(0.28, 0.35),
            unit="bits per dimension",
        ),
        Finding(
            "q_policy_gap",
            "watch",
            "Q of the policy's actions is 0.71 return scales above Q of the logged ones.",
            "The policy exploits the critic: raise `cql_alpha` or take an earlier checkpoint.",
            value=0.71,
            interval=(0.66, 0.77),
        ),
        Finding(
            "q_bounds",
            "fail",
            "14.2 % of the Q values exceed 612, which is more than any policy could earn.",
            "Lower the learning rate, raise `cql_alpha`, and check the reward scale and terminals.",
            value=0.142,
            interval=(0.12, 0.164),
        ),
        Finding(
            "offline_online_gap",
            "fail",
            "The critic promises 448, 50 online episodes returned 241: 86 % too optimistic.",
            "Raise the conservatism (`cql_alpha` from 1 to 5) and train again.",
            value=0.86,
            interval=(0.71, 1.02),
        ),
        Finding(
            "ess",
            "watch",
            "The weights leave 7 effective episodes of 215, which is too few for WIS.",
            "Do not read WIS; collect data nearer to the policy, or evaluate a softened policy.",
            value=7.1,
            unit="episodes",
        ),
        Finding("q_drift", "ok", "Mean Q moves by 0.02 return scales per 10,000 updates."),
        Finding("q_constant", "ok", "Q differs between observations and actions.", value=0.83),
        Finding("dead_grad", "ok", "Gradients were finite and not 0 at every check."),
        Finding(
            "td_error",
            "watch",
            "The TD error on held-out data is 2.3 times that on training data.",
            "Train for fewer updates or take smaller networks.",
            value=2.3,
        ),
        Finding("behavior_calibration", "ok", "KS distance of the PIT histogram is 0.03."),
        not_applicable("q_sign", "Rewards of both signs are possible, so a negative Q is no sign."),
        not_applicable("awr_weights", "CQL does not weight actions by their advantage."),
        not_applicable("cal_bound_rate", "Only Cal-QL has a calibration bound."),
    ]


def estimates() -> list[Estimate]:
    deterministic = "the policy is deterministic, so logged actions have no weight under it."
    return [
        Estimate("FQE", "FQE", 262.4, (231.0, 290.3), 15.1, 236.9, details={"unseen": 0.021}),
        Estimate("model", "model-based", 248.9, (212.7, 281.4), 17.5, 219.8, details={"H": 459}),
        Estimate(
            "WDR",
            "doubly robust",
            255.1,
            (219.8, 287.9),
            17.4,
            225.6,
            details={"ess": 61.8, "max_weight": 0.083},
        ),
        Estimate(
            "WIS",
            "importance sampling",
            310.4,
            (118.2, 402.5),
            72.5,
            status="dropped",
            reason="the effective sample size 7.1 is below 30.",
            details={"ess": 7.1, "max_weight": 0.412, "k_hat": 0.94},
        ),
        Estimate(
            "IS",
            "importance sampling",
            1912.7,
            (-20.3, 9120.0),
            2310.0,
            status="dropped",
            reason="the effective sample size 7.1 is below 30.",
            details={"ess": 7.1, "max_weight": 0.412, "k_hat": 0.94},
        ),
        inapplicable("PDIS", "importance sampling", deterministic),
        inapplicable("kernel IS", "importance sampling", "episodes have 459 > 20 steps."),
    ]


def curves() -> list[Curve]:
    rng = np.random.default_rng(7)
    x = np.array(UPDATES) / 2e5  # (20,)
    returns = 250 * (1 - np.exp(-5 * x)) - 40 * x + rng.normal(0, 7, x.size)
    q = 180 + 270 * x**1.5 + rng.normal(0, 4, x.size)
    mc = np.full(x.size, 231.0)
    kl = 1.4 * np.exp(-4 * x) + 0.31 + rng.normal(0, 0.02, x.size)
    weight = np.clip(0.6 - 0.55 * x + rng.normal(0, 0.02, x.size), 0.03, 1)
    return [
        Curve(
            "Return in the environment",
            "discounted return (raw reward)",
            UPDATES,
            {"policy, 10 episodes": list(returns)},
            {"policy, 10 episodes": (list(returns - 18), list(returns + 18))},
            {"behavior policy": 231.0},
        ),
        Curve(
            "Q against Monte-Carlo return",
            "return (raw reward)",
            UPDATES,
            {
                "Q of logged actions": list(q),
                "Monte-Carlo return": list(mc),
                "Q of policy": list(q + 30),
            },
        ),
        Curve(
            "Distance to the behavior policy",
            "KL (bits per dimension)",
            UPDATES,
            {"mean": list(kl), "95th percentile": list(2.1 * kl)},
            hlines={"watch": 0.5, "fail": 2.0},
        ),
        Curve(
            "Effective share of the weights",
            "ESS / episodes",
            UPDATES,
            {"WIS": list(weight), "WDR": [*(1.3 * weight[:-1]), float("nan")]},
        ),
    ]


def q_scatter() -> Scatter:
    rng = np.random.default_rng(3)
    returns = rng.normal(230, 60, 20_480)  # (20480,)
    q = 260 + 0.6 * (returns - 230) + rng.normal(0, 30, returns.size)
    return Scatter.of(
        "Q against return-to-go",
        "Monte-Carlo return-to-go (raw reward)",
        "Q of the logged action (raw reward)",
        list(returns),
        list(q),
        max_points=600,
    )


def failing_report() -> Report:
    return Report(
        title="CQL on mujoco/hopper/medium-v0, update 200,000",
        conclusion="do not use",
        headline="This policy is not shown to be better than the behavior policy.",
        why=(
            "At worst it returns 219.8, the behavior policy 231.4; and its critic promises 86 % "
            "more than the environment gave."
        ),
        findings=failing_findings(),
        estimates=estimates(),
        lower_bound=219.8,
        behavior_value=KnownValue(231.4, (224.1, 238.8), "2,158 logged episodes"),
        online_value=KnownValue(241.0, (228.3, 253.9), "50 episodes"),
        estimand=(
            "Estimated is the return discounted with 0.99, in raw reward, of the greedy policy "
            "from the first observations of the log."
        ),
        curves=curves(),
        scatters=[q_scatter()],
        ledger=LEDGER,
        assumptions=ASSUMPTIONS,
        command="lit-offrl evaluate runs/cql/checkpoints/last.ckpt --episodes 50 --seed 42",
    )


def passing_report() -> Report:
    return Report(
        title="IQL on mujoco/hopper/medium-v0, update 500,000",
        conclusion="use",
        headline="This policy returns more than the behavior policy.",
        why="At worst it returns 219.8, the behavior policy 201.4, and three families agree.",
        findings=[one for one in failing_findings() if one.verdict == "ok"],
        estimates=estimates()[:3],
        lower_bound=219.8,
        behavior_value=KnownValue(201.4, (194.1, 208.8), "2,158 logged episodes"),
    )


def empty_report() -> Report:
    return Report(
        title="BC on mujoco/hopper/medium-v0",
        conclusion="not shown",
        headline="Nothing is known of this policy.",
        why="It was neither run in an environment nor evaluated on held-out episodes.",
    )

"""Off-policy evaluation of a policy: every estimator that applies, and one answer."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property, partial

import numpy as np
import torch
from gymnasium import spaces
from lightning import LightningModule
from minari.serialization import deserialize_space
from numpy.typing import NDArray

from lit_offrl.data import DatasetSpec, Transitions
from lit_offrl.errors import InputError, NotApplicableError
from lit_offrl.evaluation.behavior.cache import cached_behavior
from lit_offrl.evaluation.behavior.fit import BehaviorFit, fit_behavior
from lit_offrl.evaluation.behavior.policy import logged_propensities
from lit_offrl.evaluation.behavior.support import support
from lit_offrl.evaluation.diagnosis.gap import episode_spread
from lit_offrl.evaluation.estimate import Estimate, inapplicable
from lit_offrl.evaluation.estimators.dynamics import DynamicsEnsemble, fit_dynamics
from lit_offrl.evaluation.estimators.fqe_values import QValues, network_values, tabular_values
from lit_offrl.evaluation.estimators.intervals import student_t_interval
from lit_offrl.evaluation.estimators.model_rollout import default_horizon, evaluate_in_model
from lit_offrl.evaluation.estimators.weighted import (
    WeightedLog,
    padded,
    refused,
    weighted_estimates,
)
from lit_offrl.evaluation.logged import LoggedData, in_chunks, logged_data
from lit_offrl.evaluation.policy_evaluation import (
    OffPolicyOptions,
    PolicyEvaluation,
    fqe_finding,
)
from lit_offrl.evaluation.probe import return_facts
from lit_offrl.evaluation.target import GreedyPolicy, SampledPolicy, SoftPolicy, TargetPolicy
from lit_offrl.evaluation.verdict import assess, screen
from lit_offrl.scaling import Scaling

Array = NDArray[np.float64]
Progress = Callable[[str, float], None]
"""Called with what is being done and the share of it that is done."""
NEGLIGIBLE_TAIL = 0.01
"""Mean weight γ^T of what lies behind a truncation that is not worth a model."""


class LogEvaluator:
    """Evaluates policies on one log; what does not depend on the policy is made once.

    Args:
        transitions: All episodes of the log, raw and unweighted.
        spec: What is known of the data set.
        scaling: What the policies were trained with.
        discount: γ.
        options: How they are evaluated.
        progress: Told how far the work is.
    """

    def __init__(
        self,
        transitions: Transitions,
        spec: DatasetSpec,
        scaling: Scaling,
        discount: float,
        options: OffPolicyOptions | None = None,
        progress: Progress | None = None,
    ) -> None:
        spec.refuse_images("Off-policy evaluation")
        self.transitions, self.spec, self.scaling = transitions, spec, scaling
        self.discount = discount
        self.options = options or OffPolicyOptions()
        self.progress = progress or (lambda stage, share: None)
        self.tabular = isinstance(deserialize_space(spec.obs_space), spaces.Discrete)
        self.facts = return_facts(transitions, Scaling(scaling.obs_mean, scaling.obs_std), discount)
        self.spread = episode_spread(transitions, discount) or self.facts.spread

    def evaluate(self, algorithm: LightningModule) -> PolicyEvaluation:
        """Evaluate the policy of a module that has the public face of an algorithm."""
        policy = self.target(algorithm)
        supported = support(
            policy,
            self.behavior.policy,
            self.data.obs[self.data.first],
            self.data.next_obs[self.data.terminated == 0],  # after an end nobody acts
            self.transitions,
            self.discount,
        )
        values = self._values(policy, "FQE")
        estimates = [
            values.estimate,
            *self._weighted(policy, values),
            self._regression(policy, values),
            self._model(policy),
        ]
        estimates = [self._stamped(e) for e in screen(estimates, self.transitions.n_episodes)]
        behavior = self.behavior_value
        assert behavior.value is not None
        assessment = assess(
            estimates,
            supported.compounded,
            self.spread,
            behavior.value,
            self.facts.value_low,
            1 - self.options.level,
        )
        return PolicyEvaluation(
            policy.name,
            self.discount,
            estimates,
            assessment,
            behavior,
            [supported.finding(), *self.behavior.findings(), fqe_finding(values.estimate)],
            self.spread,
            self.transitions.n_episodes,
            values.state_value,
        )

    def _stamped(self, estimate: Estimate) -> Estimate:
        """Note γ, so that returns of another one are not compared with the estimate."""
        if estimate.value is None:
            return estimate
        return replace(estimate, details={**estimate.details, "discount": self.discount})

    def target(self, algorithm: LightningModule) -> TargetPolicy:
        """Return the policy that the options ask for.

        Raises:
            InputError: If Box actions are to be softened.
        """
        greedy = GreedyPolicy(algorithm, self.data.n_actions)
        if self.options.policy == "greedy":
            return greedy
        if self.options.policy == "sampled":
            return SampledPolicy(algorithm)
        if self.data.n_actions is None:
            raise InputError(
                "Only policies of discrete actions can be softened with the behavior: evaluate "
                "the `sampled` policy instead."
            )
        return SoftPolicy(greedy, self.behavior.policy.probs, self.options.softening)

    @cached_property
    def data(self) -> LoggedData:
        """The log as networks see it."""
        n_actions = self.spec.action_dim if self.spec.discrete else None
        return logged_data(self.transitions, self.scaling, n_actions)

    @cached_property
    def behavior(self) -> BehaviorFit:
        """The estimated behavior policy, scored on held-out episodes."""
        self.progress("behavior policy", 0.0)
        return cached_behavior(
            self.transitions,
            self.scaling,
            self.spec,
            updates=self.options.behavior_updates,
            seed=self.options.seed,
        )

    @cached_property
    def dynamics(self) -> DynamicsEnsemble:
        """The learned dynamics."""
        updates = self.options.model_updates
        return fit_dynamics(
            self.data,
            updates,
            seed=self.options.seed,
            progress=lambda done: self.progress("dynamics model", done / updates),
        )

    @cached_property
    def behavior_value(self) -> Estimate:
        """Value of the logged behavior: the mean return, or FQE where truncation hides a part."""
        transitions = self.transitions
        last = transitions.episode_bounds[1:] - 1
        length = np.diff(transitions.episode_bounds)
        hidden = float((transitions.truncated[last] * self.discount**length).mean())
        if hidden > NEGLIGIBLE_TAIL:
            policy = SampledPolicy(self.behavior.policy)  # type: ignore[arg-type]
            return self._values(policy, "value of the behavior").estimate
        returns = transitions.mc_returns(self.discount)[transitions.episode_bounds[:-1]]
        interval = student_t_interval(returns, self.options.level)
        return Estimate(
            "logged returns", "FQE", float(returns.mean()), interval.bounds, interval.std_error
        )

    def _values(self, policy: TargetPolicy, stage: str) -> QValues:
        options = self.options
        if self.tabular:
            self.progress(stage, 0.0)
            return tabular_values(
                self.data, policy, self.scaling, self.discount, options.level, options.seed
            )
        return network_values(
            self.data,
            policy,
            self.discount,
            options.fqe_updates,
            options.fqe_members,
            options.level,
            options.seed,
            lambda done: self.progress(stage, done / options.fqe_updates),
        )

    @cached_property
    def _log_behavior(self) -> Array:
        """Log-probabilities of the logged actions, (N,): as logged, else as estimated."""
        logged = logged_propensities(self.transitions, self.scaling)
        if logged is not None:
            return logged.double().numpy()
        return self._log_prob(self.behavior)

    @cached_property
    def _log_regression(self) -> Array:
        """The same from a model that was fitted on these very rows, (N,)."""
        self.progress("regression importance sampling", 0.0)
        fitted = fit_behavior(
            self.transitions,
            self.scaling,
            self.spec,
            updates=self.options.behavior_updates,
            seed=self.options.seed,
            held_out_fraction=0.0,
        )
        return self._log_prob(fitted)

    @torch.no_grad()
    def _log_prob(self, fitted: BehaviorFit) -> Array:
        log_prob = in_chunks(fitted.policy.log_prob, self.data.obs, self.data.action)
        return log_prob.double().numpy()

    def _weighted(self, policy: TargetPolicy, values: QValues) -> list[Estimate]:
        """IS, WIS, PDIS, WPDIS, DR, WDR and MAGIC."""
        self.progress("importance sampling", 0.0)
        return self._reweighted(policy, values, lambda: self._log_behavior)

    def _regression(self, policy: TargetPolicy, values: QValues) -> Estimate:
        """Regression importance sampling: WIS with a behavior model of the same data.

        Hanna, Niekum and Stone (2019), https://arxiv.org/abs/1806.01347.
        """
        found = self._reweighted(policy, values, lambda: self._log_regression)
        wis = next(estimate for estimate in found if estimate.name == "WIS")
        return Estimate(**{**vars(wis), "name": "RIS"})

    def _reweighted(
        self, policy: TargetPolicy, values: QValues, log_behavior: Callable[[], Array]
    ) -> list[Estimate]:
        data, log = self.data, self.transitions
        try:
            log_policy = in_chunks(policy.log_prob, data.obs, data.action).double().numpy()  # (N,)
        except NotApplicableError as error:
            return refused(str(error))
        by_episode = partial(padded, transitions=log)
        weighted = WeightedLog(
            log_ratio=by_episode(log_policy - log_behavior()),
            reward=by_episode(log.reward.astype(np.float64)),
            length=np.diff(log.episode_bounds),
            q=by_episode(values.q),
            v=by_episode(values.v),
            tail_v=values.tail_v,
        )
        low, high = self.facts.value_low, self.facts.value_high
        return weighted_estimates(
            weighted,
            self.discount,
            (low, high),
            self.options.level,
            self.options.resamples,
            self.options.seed,
        )

    def _model(self, policy: TargetPolicy) -> Estimate:
        """Rollouts in learned dynamics."""
        options = self.options
        if self.tabular or not options.model_updates:
            reason = "On a table of states the model is FQE's own." if self.tabular else "Left out."
            return inapplicable("model", "model-based", reason)
        result = evaluate_in_model(
            self.dynamics,
            policy,
            self.data.obs[self.data.first],
            self.discount,
            self._horizon(),
            options.rollouts,
            options.seed,
        )
        return result.estimate(options.level)

    def _horizon(self) -> int:
        """Steps to imagine: until γ^t < 0.01, past time limits, which FQE's values do not know."""
        if 0 < self.discount < 1:
            return math.ceil(math.log(NEGLIGIBLE_TAIL) / math.log(self.discount))
        return default_horizon(self.transitions, self.discount)

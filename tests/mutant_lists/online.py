"""Mistakes in the algorithms that go on online, in fine-tuning, and in what surrounds it."""
# ruff: noqa: E501  # excerpts of code

from tests.mutant_lists import Mutant

MUTANTS: dict[str, list[Mutant]] = {}


def _add(document: str, file: str, tests: tuple[str, ...], *mutants: tuple[str, str, str]) -> None:
    for name, old, new in mutants:
        MUTANTS.setdefault(document, []).append(Mutant(name, file, old, new, tests))


_add(
    "awac",
    "algorithms/awac.py",
    ("algorithms/test_awac.py",),
    ("advantage of the other sign", "of_data - of_policy)", "of_policy - of_data)"),
    (
        "target from the online critic",
        "self.target_q(batch.next_obs, next_action)",
        "self.q(batch.next_obs, next_action)",
    ),
    ("draws not clipped", ".clamp(-1, 1)", ""),
    (
        "temperature not inverted",
        "awr_weight(advantage, 1 / self.awr_temperature)",
        "awr_weight(advantage, self.awr_temperature)",
    ),
    ("softmax without its mean", "return weight / self.batch_mean(weight)", "return weight"),
    ("exponents not cut", ".clamp(max=MAX_LOGIT)", ""),
    (
        "target of logged actions",
        "next_action = self._draw(self.policy(batch.next_obs), batch.action)",
        "next_action = batch.action",
    ),
    (
        "targets do not move",
        "polyak_update(self.q, self.target_q, self.polyak)",
        "pass",
    ),
    ("λ of 0 accepted", "check_arguments(self.hparams)", "pass"),
)
_add(
    "rebrac",
    "algorithms/rebrac.py",
    ("algorithms/test_rebrac.py",),
    ("penalty added to the target", "next_q - self.critic_penalty", "next_q + self.critic_penalty"),
    (
        "penalty where there is no next action",
        'distance = distance * batch.needed("has_next_action")',
        "pass",
    ),
    ("penalty against the action before", 'batch.needed("next_action"))', "batch.action)"),
    (
        "mean for sum of the distance",
        "(policy.mode - batch.action).square().sum(-1).mean()",
        "(policy.mode - batch.action).square().mean(-1).mean()",
    ),
    (
        "first critic in the policy's loss",
        "self.q(batch.obs, policy.mode).amin(0)",
        "self.q(batch.obs, policy.mode)[0]",
    ),
    ("layer norm before the ReLU", "relu_first=True", "relu_first=False"),
    ("Q not scaled", "weight = 1 / self.batch_mean(q.detach().abs())", "weight = 1.0"),
    (
        "target from the online critics",
        "self.target_q(batch.next_obs, next_action)",
        "self.q(batch.next_obs, next_action)",
    ),
    ("target from the online policy", "self.target_policy(batch", "self.policy(batch"),
    ("target noise not clipped", "noise = noise.clamp(-self.noise_clip, self.noise_clip)", "pass"),
    (
        "target policy does not move",
        "polyak_update(self.policy, self.target_policy, self.polyak)",
        "pass",
    ),
    ("policy steps always", "if self.due(self.policy_delay):", "if True:"),
)
_add(
    "rebrac",
    "data/packing.py",
    ("data/test_datamodule.py",),
    (
        "next action of the row itself",
        "np.minimum(rows + 1,",
        "np.minimum(rows,",
    ),
    (
        "ends of episodes not seen",
        "transitions.episode[rows] == transitions.episode[following]",
        "transitions.episode[rows] >= 0",
    ),
    (
        "a next action after the last row",
        "(rows < following)",
        "(rows <= following)",
    ),
)
_add(
    "cal_ql",
    "algorithms/cal_ql.py",
    ("algorithms/test_cal_ql.py",),
    (
        "uniform actions bounded too",
        "[uniform, bounded]",
        "[torch.maximum(uniform, batch.mc_return), bounded]",
    ),
    ("policy's actions not bounded", "[uniform, bounded]", "[uniform, drawn]"),
)
_add(
    "cal_ql",
    "losses.py",
    ("algorithms/test_cal_ql.py",),
    ("smaller of value and return", "torch.maximum(q, mc_return)", "torch.minimum(q, mc_return)"),
    ("rate of the others", "(mc_return > q.detach())", "(mc_return < q.detach())"),
)
_add(
    "discrete_cal_ql",
    "algorithms/discrete_cal_ql.py",
    ("algorithms/test_cal_ql.py",),
    ("bound of the wrong row", ".unsqueeze(-1))", ".flip(0).unsqueeze(-1))"),
)
_add(
    "rlpd",
    "algorithms/rlpd.py",
    ("algorithms/test_rlpd.py",),
    (
        "smallest of all target critics",
        "return q.masked_fill((order < last).unsqueeze(-1), torch.inf).amin(0)",
        "return q.amin(0)",
    ),
    ("largest of the subset", "torch.inf).amin(0)", "-torch.inf).amax(0)"),
    (
        "smallest critic in the policy's loss",
        "self.q(batch.obs, action).mean(0)",
        "self.q(batch.obs, action).amin(0)",
    ),
    ("no entropy in the target", "next_q = next_q - alpha * next_log_prob", "pass"),
    (
        "entropy of the other sign",
        "next_q - alpha * next_log_prob",
        "next_q + alpha * next_log_prob",
    ),
    ("policy steps always", "if self.due(self.policy_period):", "if True:"),
    (
        "temperature against its target",
        "log_prob.detach() + self.target_entropy",
        "log_prob.detach() - self.target_entropy",
    ),
    (
        "target from the online critics",
        "self.target_q(batch.next_obs, next_action)",
        "self.q(batch.next_obs, next_action)",
    ),
    ("target entropy -A", "-action_dim / 2 if", "-action_dim if"),
    ("targets do not move", "polyak_update(self.q, self.target_q, self.polyak)", "pass"),
)
_add(
    "finetuning",
    "online/replay.py",
    ("online/test_replay.py",),
    (
        "ring not filled from its start",
        "% len(self.rows)\n        self.rows[at]",
        ".clamp(max=len(self.rows) - 1)\n        self.rows[at]",
    ),
    (
        "rows written again",
        "first = max(self._saved, self.count - len(self.rows))",
        "first = max(0, self.count - len(self.rows))",
    ),
    (
        "pieces of other times read",
        'self._pieces = list(state["pieces"])',
        'self._pieces = sorted(int(p.stem[5:]) for p in self.folder.glob("rows-*.npy"))',
    ),
    ("tail forgotten", "self._saved = settled\n        self.add(tail)", "self._saved = settled"),
    ("dropped rows written", "held = every >= self.count - len(self.rows)", "held = every >= 0"),
)
_add(
    "finetuning",
    "online/mixing.py",
    ("online/test_mixing.py",),
    (
        "shares swapped",
        "round(fraction * self._batch_size)",
        "round((1 - fraction) * self._batch_size)",
    ),
    (
        "the same batch at each update",
        "stream_seed(self._seed, update, BATCH_STREAM)",
        "stream_seed(self._seed, 0, BATCH_STREAM)",
    ),
    ("share does not move", "self.offline_fraction + progress *", "self.offline_fraction + 0 *"),
    ("collected rows in place of logged", "of_all < len(self._log)", "of_all >= len(self._log)"),
    ("a union of halves", "len(self._log) + len(self._buffer)", "2 * len(self._log)"),
    (
        "weights ignored",
        "weight = self._row_weight(rows).clamp(min=1e-12)",
        "weight = torch.ones(len(rows))",
    ),
)
_add(
    "finetuning",
    "online/exploration.py",
    ("online/test_exploration.py",),
    ("budget in bits", "self.kl_budget * math.log(2) /", "self.kl_budget /"),
    ("budget does not grow", "(1 - step / self.kl_relax_steps)", "1"),
    (
        "KL of the other direction",
        "nats = 0.5 * ((2 * gap).exp() + shift.square() - 1) - gap",
        "nats = 0.5 * ((-2 * gap).exp() + shift.square() - 1) + gap",
    ),
    ("mean alone is moved", "torch.lerp(other, log_std, share)", "log_std"),
    (
        "noise as variance",
        "torch.full_like(policy.action, self.noise).log()",
        "torch.full_like(policy.action, self.noise).log() / 2",
    ),
    (
        "epsilon on the policy's side",
        "(1 - self.epsilon) * probs + self.epsilon * uniform",
        "self.epsilon * probs + (1 - self.epsilon) * uniform",
    ),
    (
        "reference ignored",
        "self.exploration.widened(self.offline.policy(obs)), budget)",
        "policy, budget)",
    ),
)
_add(
    "finetuning",
    "online/episodes.py",
    ("online/test_episodes.py",),
    ("returns in raw reward", "* self._scaling.reward_scale + self._scaling.reward_shift", ""),
    ("returns not discounted", "reward + self._discount * total", "reward + total"),
    (
        "returns of a truncated episode left open",
        "np.flatnonzero(step.terminated | step.truncated)",
        "np.flatnonzero(step.terminated)",
    ),
    (
        "obs not normalized",
        "self._scaling.normalize_obs(torch.from_numpy(step.obs))",
        "torch.from_numpy(step.obs)",
    ),
    (
        "reward not transformed",
        "self._scaling.transform_reward(torch.from_numpy(step.reward))",
        "torch.from_numpy(step.reward)",
    ),
    (
        "settled too early",
        "return min((rows[0] for rows in self._rows if rows), default=self._buffer.count)",
        "return self._buffer.count",
    ),
)
_add(
    "finetuning",
    "online/environments.py",
    ("online/test_environments.py",),
    (
        "next obs of the next episode",
        "return Step(before, reward, after, terminated, truncated)",
        "return Step(before, reward, self.obs, terminated, truncated)",
    ),
    ("time limits as ends", "truncated = (np.array(x)", "truncated = (np.array(x) | False"),
    (
        "every episode from the same seed",
        "stream_seed(self.seed, self._episodes[i].number, EPISODE_STREAM)",
        "stream_seed(self.seed, 0, EPISODE_STREAM)",
    ),
    (
        "NaN let through",
        "refuse_not_finite(float(reward))",
        "pass",
    ),
    (
        "actions not played anew",
        'for action in episode["actions"].numpy().astype(kind.dtype):',
        "for action in ():",
    ),
    (
        "episodes not given new numbers",
        "self._episodes[i] = _Episode(self.started)\n            self.started += 1\n\n    def restart",
        "pass\n\n    def restart",
    ),
)
_add(
    "finetuning",
    "online/datamodule.py",
    ("online/test_datamodule.py",),
    ("one step late", "math.ceil((update + 1) / self.utd)", "math.ceil(update / self.utd)"),
    (
        "random steps forgotten",
        "policy.random = self.env_steps < self.collecting.random_steps",
        "policy.random = False",
    ),
    (
        "the same draws at each step",
        "stream_seed(self.seed, self.env_steps, ACTION_STREAM)",
        "stream_seed(self.seed, 0, ACTION_STREAM)",
    ),
    (
        "another log accepted",
        "if self.spec.content_hash != self.known_spec.content_hash:",
        "if False:",
    ),
    ("steps not restored", 'self.env_steps = int(state["env_steps"])', "pass"),
)
_add(
    "finetuning",
    "online/measures.py",
    ("online/test_measures.py",),
    ("dip of single evaluations", "window = min(MOVING, early)", "window = 1"),
    ("dip of every second evaluation", "smooth[: early - window + 1]", "smooth[: early : 2]"),
    ("dips at any time", "np.sum(steps <= max(DIP_WINDOW, steps[0]))", "len(steps)"),
    (
        "recovery before the lowest",
        "np.flatnonzero(smooth[bottom:] >= before)",
        "np.flatnonzero(smooth >= before)",
    ),
    (
        "regret of the best evaluation",
        "missed = [(best - value) / span",
        "missed = [(best - max(returns)) / span",
    ),
)
_add(
    "finetuning",
    "online/modes.py",
    ("online/test_modes.py",),
    ("cosine schedule kept", 'hyper["cosine_schedule"] = False', "pass"),
    ("pex starts from the old policy", 'anew="policy."', 'anew=" "'),
    ("discount of the class", '"discount": old.discount}', '"discount": 0.99}'),
    (
        "target critics not taken over",
        '("policy", "q", "target_q", "log_alpha_entropy")',
        '("policy", "q", "log_alpha_entropy")',
    ),
)
_add(
    "sampling",
    "data/weighting.py",
    ("data/test_weighting.py",),
    ("temperature multiplies", "/ sampling.temperature)", "* sampling.temperature)"),
    (
        "weights per episode",
        "return np.asarray(weights / total)",
        "return np.asarray(weights)",
    ),
    ("strata by size", "1.0 / counts[which]", "1.0 * counts[which]"),
    (
        "fit without a constant",
        "np.column_stack([np.ones(len(first)), first.astype(np.float64)])",
        "first",
    ),
    (
        "file of the split's rows",
        "values = values[transitions.rows_of(episodes)]",
        "values = values[: len(transitions.rows_of(episodes))]",
    ),
)
_add(
    "export",
    "deploy/graph.py",
    ("deploy/test_export.py",),
    ("obs not normalized", "self.scaling.normalize_obs(obs)", "obs"),
    (
        "actions not scaled back",
        "self.scaling.unscale_action(action)",
        "action",
    ),
    (
        "start forgotten",
        "torch.stack(codes[::-1], -1) + self.start",
        "torch.stack(codes[::-1], -1)",
    ),
    ("digits in the other order", "torch.stack(codes[::-1], -1)", "torch.stack(codes, -1)"),
    (
        "bounds rounded past",
        "np.where(passed, np.nextafter(near, np.float32(inward)), near)",
        "near",
    ),
    (
        "noise of each row its own",
        "noise[key] = torch.randn(*lead, 1, width, generator=generator)",
        "return torch.randn(*lead, rows, width)",
    ),
)

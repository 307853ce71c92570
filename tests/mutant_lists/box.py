"""Mistakes in the algorithms for Box actions and in what all algorithms share."""
# ruff: noqa: E501  # excerpts of code

from tests.mutant_lists import Mutant

_LOSSES = ("test_losses.py",)
_POLICIES = ("test_policies.py",)
_NETWORKS = ("test_networks.py",)
_BASE = ("algorithms/test_base.py",)
_BC = ("algorithms/test_bc.py",)
_IQL = ("algorithms/test_iql.py",)
_TD3_BC = ("algorithms/test_td3_bc.py",)
_CQL = ("algorithms/test_cql.py",)
_BCQ = ("algorithms/test_bcq.py",)

MUTANTS: dict[str, list[Mutant]] = {}


def _add(
    document: str, file: str, tests: tuple[str, ...], *mutants: tuple[str, str, str] | Mutant
) -> None:
    for mutant in mutants:
        entry = (
            mutant if isinstance(mutant, Mutant) else Mutant(mutant[0], file, *mutant[1:], tests)
        )
        MUTANTS.setdefault(document, []).append(entry)


def _polyak(net: str, target: str) -> list[tuple[str, str, str]]:
    call = f"polyak_update(self.{net}, self.{target}, self.polyak)"
    return [
        (f"`{target}` never moves", call, "pass"),
        (
            f"{net} and {target} swapped",
            call,
            f"polyak_update(self.{target}, self.{net}, self.polyak)",
        ),
        (f"`{target}` moves by 1 - polyak", call, call.replace("self.polyak)", "1 - self.polyak)")),
    ]


_add(
    "bc",
    "algorithms/bc.py",
    _BC,
    (
        "sign of the loss",
        "policy.imitation_loss(batch.action).mean()",
        "-policy.imitation_loss(batch.action).mean()",
    ),
    (
        "sum over the batch",
        "policy.imitation_loss(batch.action).mean()",
        "policy.imitation_loss(batch.action).sum()",
    ),
    ("clones next observations", "self.policy(batch.obs)", "self.policy(batch.next_obs)"),
    ("logit penalty forgotten", "self.logit_penalty > 0", "self.logit_penalty < 0"),
    (
        "logit penalty summed over actions",
        "policy.logits.square().mean()",
        "policy.logits.square().sum(-1).mean()",
    ),
    (
        "logit penalty without the square",
        "policy.logits.square().mean()",
        "policy.logits.abs().mean()",
    ),
    ("log σ of tanh_gaussian shifted", "hidden, (-5.0, 2.0), 0.0)", "hidden, (-5.0, 2.0), -1.0)"),
    (
        "gaussian instead of tanh_gaussian",
        'elif policy == "tanh_gaussian":',
        'elif policy == "never":',
    ),
    ("learning rate ignored", "self.optimize(self.policy, lr)", "self.optimize(self.policy, 3e-4)"),
    Mutant(
        "loss keeps its graph", "algorithms/bc.py", "policy_loss.detach()", "policy_loss", _BASE
    ),
)

_add(
    "iql",
    "algorithms/iql.py",
    _IQL,
    *_polyak("q", "target_q"),
    ("online Q for target Q", "q_min = self.target_q(", "q_min = self.q("),
    (
        "mean for min over critics",
        "batch.action).amin(0)  # (B,)\n            q_target",
        "batch.action).mean(0)  # (B,)\n            q_target",
    ),
    (
        "max for min over critics",
        "batch.action).amin(0)  # (B,)\n            q_target",
        "batch.action).amax(0)  # (B,)\n            q_target",
    ),
    ("V of s for V of s'", "self.v(batch.next_obs))", "self.v(batch.obs))"),
    ("sign of the advantage", "advantage = q_min - v", "advantage = v - q_min"),
    Mutant(
        "weight not detached",
        "algorithms/iql.py",
        "advantage.detach()",
        "advantage",
        _IQL,
        survives="the weight does not depend on π, and `minimize` moves π alone",
    ),
    ("weight forgotten", "(weight * self.policy(", "(self.policy("),
    ("normalized weight", "(weight * self.policy(", "(weight / weight.mean() * self.policy("),
    (
        "expectile and its complement swapped",
        "expectile_loss(advantage, self.expectile)",
        "expectile_loss(advantage, 1 - self.expectile)",
    ),
    (
        "V steps on the Q target",
        "expectile_loss(advantage, self.expectile)",
        "expectile_loss(q_target - v, self.expectile)",
    ),
    (
        "target network moves before Q",
        "        self.minimize(q_loss, self.q)\n",
        "        polyak_update(self.q, self.target_q, self.polyak)\n        self.minimize(q_loss, self.q)\n",
    ),
    (
        "Q loss averaged over critics",
        "q_loss = ensemble_mse(q, q_target)",
        "q_loss = ensemble_mse(q, q_target) / len(q)",
    ),
    Mutant(
        "cosine on no network", "algorithms/iql.py", "lr, cosine=cosine_schedule)", "lr)", _BASE
    ),
    ("discount not handed on", "super().__init__(discount)", "super().__init__()"),
)
_add(
    "td3_bc",
    "algorithms/td3_bc.py",
    _TD3_BC,
    *_polyak("q", "target_q"),
    *_polyak("policy", "target_policy"),
    ("online Q in the target", "self.target_q(batch.next_obs", "self.q(batch.next_obs"),
    (
        "online policy in the target",
        "self.target_policy(batch.next_obs)",
        "self.policy(batch.next_obs)",
    ),
    ("mean for min over critics", "next_action).amin(0)", "next_action).mean(0)"),
    (
        "noise not clipped",
        "noise = noise.clamp(-self.noise_clip, self.noise_clip)",
        "noise = noise + 0",
    ),
    ("noise not scaled", "self.policy_noise * self.randn", "self.randn"),
    ("no noise", ".mode + noise)", ".mode + 0 * noise)"),
    ("next action leaves the box", "+ noise).clamp(-1, 1)", "+ noise)"),
    ("target at s", "self.target_policy(batch.next_obs)", "self.target_policy(batch.obs)"),
    ("the last critic in the policy loss", "policy.mode)[0]", "policy.mode)[-1]"),
    ("min of critics in the policy loss", "policy.mode)[0]", "policy.mode).amin(0)"),
    ("sign of Q in the policy loss", "-weight * q.mean()", "weight * q.mean()"),
    ("mean|Q| not detached", "q.detach().abs()", "q.abs()"),
    ("mean Q for mean |Q|", "q.detach().abs()", "q.detach()"),
    (
        "λ multiplied by mean|Q|",
        "self.bc_alpha / self.batch_mean",
        "self.bc_alpha * self.batch_mean",
    ),
    ("λ on the imitation term", "-weight * q.mean() + bc_loss", "-q.mean() + weight * bc_loss"),
    (
        "policy delayed by one update more",
        "self.due(self.policy_delay)",
        "self.due(self.policy_delay + 1)",
    ),
    ("policy updated each time", "self.due(self.policy_delay)", "self.due(1)"),
    (
        "policy before Q",
        "        self.minimize(q_loss, self.q)\n        metrics = ",
        "        self._update_policy(batch)\n        self.minimize(q_loss, self.q)\n        metrics = ",
    ),
)

_add(
    "cql",
    "algorithms/cql.py",
    _CQL,
    *_polyak("q", "target_q"),
    ("online Q in the target", "self.target_q(batch.next_obs", "self.q(batch.next_obs"),
    (
        "mean for min over critics in the target",
        "candidates).amin(0).amax(0)",
        "candidates).mean(0).amax(0)",
    ),
    (
        "min over critics after the max over actions",
        "candidates).amin(0).amax(0)",
        "candidates).amax(1).amin(0)",
    ),
    (
        "max-target backup always on",
        "following[:n] if self.max_target_backup else following[n:]",
        "following[:n]",
    ),
    (
        "max-target backup always off",
        "following[:n] if self.max_target_backup else following[n:]",
        "following[n:]",
    ),
    ("uniform in [0, 1]", "2 * self.rand(n, *shape) - 1", "self.rand(n, *shape)"),
    ("uniform density 1", "-shape[-1] * math.log(2)", "0.0"),
    ("uniform density of one dimension", "-shape[-1] * math.log(2)", "-math.log(2)"),
    (
        "log-densities forgotten",
        "logits = (q - log_density) / temperature",
        "logits = q / temperature",
    ),
    (
        "log-densities added",
        "logits = (q - log_density) / temperature",
        "logits = (q + log_density) / temperature",
    ),
    (
        "log-density of π(·|s) for π(·|s')",
        "log_current, log_next[:n]])",
        "log_current, log_current])",
    ),
    ("next actions from s", "self.policy(batch.next_obs)", "self.policy(batch.obs)"),
    ("temperature not multiplied back", "return temperature * (logits", "return (logits"),
    ("log 3N not subtracted", " - math.log(q.shape[1]))", ")"),
    ("log-sum-exp over critics", "logits.logsumexp(1)", "logits.logsumexp(1) * 0 + logits.amax(1)"),
    ("sign of the gap", "(soft_max - q).clamp", "(q - soft_max).clamp"),
    ("data action not pushed up", "(soft_max - q).clamp", "(soft_max - q.detach()).clamp"),
    (
        "gap clipped after the mean",
        ".clamp(*self.gap_clip).mean(-1)",
        ".mean(-1).clamp(*self.gap_clip)",
    ),
    ("gap not clipped", ".clamp(*self.gap_clip).mean(-1)", ".mean(-1)"),
    ("penalty averaged over critics", "* gap.sum()", "* gap.mean()"),
    (
        "α doubled",
        "multiplier * self.cql_alpha * gap.sum()",
        "2 * multiplier * self.cql_alpha * gap.sum()",
    ),
    (
        "½ of the squared error",
        "td_loss = ensemble_mse(q, q_target)",
        "td_loss = ensemble_mse(q, q_target) / 2",
    ),
    ("sign of the entropy bonus", "(entropy_cost - q).mean()", "(-entropy_cost - q).mean()"),
    (
        "mean for min in the policy loss",
        "self.q(batch.obs, action).amin(0)",
        "self.q(batch.obs, action).mean(0)",
    ),
    (
        "target Q in the policy loss",
        "self.q(batch.obs, action).amin(0)",
        "self.target_q(batch.obs, action).amin(0)",
    ),
    (
        "sign of the entropy target",
        "log_prob.detach() + self.target_entropy",
        "log_prob.detach() - self.target_entropy",
    ),
    ("sign of the loss of α_ent", "alpha_loss = -log_alpha", "alpha_loss = log_alpha"),
    (
        "entropy in the backup",
        "next_q = self.target_q(batch.next_obs, candidates)",
        "next_q = -log_next[n:] + self.target_q(batch.next_obs, candidates)",
    ),
    (
        "policy steps before Q's loss",
        "        policy_loss = self._policy_loss(batch, policy, noise, alpha * log_prob, q_policy)\n",
        "        policy_loss = self._policy_loss(batch, policy, noise, alpha * log_prob, q_policy)\n        self.minimize(q_policy.sum() * 0 + ensemble_mse(self.q(batch.obs, batch.action), q_target), self.q)\n",
    ),
    (
        "multiplier after its step",
        "return multiplier.detach()",
        "return self.log_multiplier().exp().detach()",
    ),
    ("multiplier unbounded", ".exp().clamp(0, 1e6)", ".exp()"),
    (
        "sign of the multiplier's loss",
        "-multiplier * self.cql_alpha * excess",
        "multiplier * self.cql_alpha * excess",
    ),
    ("gap target ignored", "gap - self.lagrange_gap", "gap"),
    ("multiplier starts at 1", "Scalar(0.0), Scalar(1.0)", "Scalar(0.0), Scalar(0.0)"),
    (
        "behavior weights not in the log-sum-exp",
        "log_density - self.temperature * weight.log()",
        "log_density",
    ),
    (
        "behavior weights inverted",
        "log_density - self.temperature * weight.log()",
        "log_density + self.temperature * weight.log()",
    ),
    ("behavior weights without temperature", "self.temperature * weight.log()", "weight.log()"),
    (
        "behavior density not relative to its mode",
        "(base.log_prob(z) - base.log_prob(base.mean)).exp()",
        "base.log_prob(z).exp()",
    ),
    (
        "behavior model not learned",
        "-self.behavior(batch.obs).log_prob(batch.action).mean(), self.behavior",
        "0 * self.behavior(batch.obs).log_prob(batch.action).mean(), self.behavior",
    ),
    (
        "sign of the KL",
        "policy.base.log_prob(z) - self.behavior",
        "-policy.base.log_prob(z) + self.behavior",
    ),
    (
        "KL from the squashed action",
        "policy.base.log_prob(z) - self.behavior(batch.obs).base.log_prob(z)",
        "policy.log_prob(z.tanh()) - self.behavior(batch.obs).log_prob(z.tanh())",
    ),
    (
        "entropy counted twice with KL",
        "* ratio.clamp(-20, 20).mean() - value",
        "* ratio.clamp(-20, 20).mean() - value + entropy_cost.mean()",
    ),
    (
        "Q not scaled beside a regularizer",
        "q.mean() / self.batch_mean(q.detach().abs())",
        "q.mean()",
    ),
    ("mean|Q| not detached", "self.batch_mean(q.detach().abs())", "self.batch_mean(q.abs())"),
    ("no weight on the BC term", "+ self.regularizer_weight * imitation", "+ imitation"),
    ("orthogonal only in π", "            orthogonal_(self.q)\n", ""),
    ("Q learns at π's rate", "self.optimize(self.q, q_lr)", "self.optimize(self.q, policy_lr)"),
)
_add(
    "cql",
    "losses.py",
    _CQL,
    ("behavior weights without their floor", ".clamp(min=min_weight)", ".clamp(min=0)"),
)

_add(
    "bcq",
    "algorithms/bcq.py",
    _BCQ,
    *_polyak("q", "target_q"),
    *_polyak("perturbation", "target_perturbation"),
    ("online Q in the target", "self.target_q(batch.next_obs", "self.q(batch.next_obs"),
    (
        "online ξ in the target",
        "self.target_perturbation(batch.next_obs",
        "self.perturbation(batch.next_obs",
    ),
    (
        "λ and 1 - λ swapped",
        "torch.lerp(next_q.amax(0), next_q.amin(0)",
        "torch.lerp(next_q.amin(0), next_q.amax(0)",
    ),
    ("min alone", "self.clipped_weight).amax(0)", "1.0).amax(0)"),
    ("mean over candidates", "self.clipped_weight).amax(0)", "self.clipped_weight).mean(0)"),
    ("candidates of s in the target", "self._propose(batch.next_obs", "self._propose(batch.obs"),
    ("KL weight ignored", "+ self.kl_weight * kl", "+ kl"),
    ("sign of the KL", "kl = -0.5 *", "kl = 0.5 *"),
    (
        "KL summed over dimensions",
        "(2 * log_std).exp()).mean()",
        "(2 * log_std).exp()).sum(-1).mean()",
    ),
    ("σ for σ² in the KL", "(1 + 2 * log_std -", "(1 + log_std -"),
    ("latent noise not clipped", ".clamp(-0.5, 0.5)", ".clamp(-50, 50)"),
    (
        "encoder without noise",
        "mean + log_std.exp() * self.randn(*mean.shape)",
        "mean + 0 * log_std.exp() * self.randn(*mean.shape)",
    ),
    ("log σ of the encoder unbounded", "log_std.clamp(-4, 15)", "log_std"),
    (
        "decoder without tanh",
        "torch.cat([obs, latent], -1)).tanh()",
        "torch.cat([obs, latent], -1))",
    ),
    ("Φ ignored", "self.max_perturbation * self.net", "self.net"),
    ("ξ not squashed", "torch.cat([obs, action], -1)).tanh()", "torch.cat([obs, action], -1))"),
    ("perturbed action leaves the box", "(action + shift).clamp(-1, 1)", "action + shift"),
    ("sign of the policy loss", "policy_loss = -q_policy.mean()", "policy_loss = q_policy.mean()"),
    (
        "the last critic in the policy loss",
        "self.perturbation(batch.obs, generated))[0]",
        "self.perturbation(batch.obs, generated))[-1]",
    ),
    (
        "min of critics in acting",
        "self.q(obs, candidates)[0].argmax(0)",
        "self.q(obs, candidates).amin(0).argmax(0)",
    ),
    (
        "worst candidate acted",
        "self.q(obs, candidates)[0].argmax(0)",
        "self.q(obs, candidates)[0].argmin(0)",
    ),
    (
        "candidates not perturbed",
        "candidates = self.perturbation(obs, self._propose(obs, self.n_candidates))",
        "candidates = self._propose(obs, self.n_candidates)",
    ),
    (
        "as many candidates when acting as in the target",
        "self._propose(obs, self.n_candidates)",
        "self._propose(obs, self.n_actions)",
    ),
    ("the VAE steps last", "        self.minimize(vae_loss, self.vae)\n\n", "\n"),
)

_add(
    "shared",
    "targets.py",
    (*_LOSSES, *_IQL, *_TD3_BC, *_CQL, *_BCQ),
    (
        "terminal states bootstrap",
        "discount * (1 - batch.terminated) * next_value",
        "discount * next_value",
    ),
    ("terminated for 1 - terminated", "(1 - batch.terminated)", "batch.terminated"),
    (
        "truncation cuts the bootstrap",
        "(1 - batch.terminated)",
        "(1 - batch.terminated - (0 if batch.truncated is None else batch.truncated))",
    ),
    ("discount forgotten", "discount * (1 - batch.terminated)", "(1 - batch.terminated)"),
    (
        "target shares its network's weights",
        "copy.deepcopy(net).requires_grad_(False)",
        "copy.copy(net)",
    ),
    ("target takes gradients", "copy.deepcopy(net).requires_grad_(False)", "copy.deepcopy(net)"),
    (
        "Polyak replaced by a copy",
        "net.parameters()], polyak\n",
        "net.parameters()], 1.0\n",
    ),
)
_add(
    "shared",
    "losses.py",
    (*_LOSSES, *_IQL),
    (
        "expectile of the wrong side",
        "(u < 0).to(u.dtype)).abs() * u.square()).mean()",
        "(u > 0).to(u.dtype)).abs() * u.square()).mean()",
    ),
    ("quantile for expectile", "abs() * u.square()).mean()", "abs() * u.abs()).mean()"),
    (
        "AWR weights not clipped",
        "(inverse_temperature * advantage).exp().clamp(max=clip)",
        "(inverse_temperature * advantage).exp()",
    ),
    (
        "AWR weights divided by β",
        "(inverse_temperature * advantage).exp()",
        "(advantage / max(inverse_temperature, 1e-9)).exp()",
    ),
    (
        "AWR exponent clipped instead",
        "(inverse_temperature * advantage).exp().clamp(max=clip)",
        "(inverse_temperature * advantage).clamp(max=3).exp()",
    ),
    (
        "½ of the squared error",
        "(q - target).square().mean(-1).sum()",
        "(q - target).square().mean(-1).sum() / 2",
    ),
    ("mean over critics", "(q - target).square().mean(-1).sum()", "(q - target).square().mean()"),
    ("sum over the batch", "(q - target).square().mean(-1).sum()", "(q - target).square().sum()"),
)
_add(
    "shared",
    "policies.py",
    (*_POLICIES, *_BC, *_CQL),
    ("normal density without its constant", " - 0.5 * math.log(2 * math.pi)).sum(-1)", ").sum(-1)"),
    ("normal density without log σ", "-0.5 * z.square() - self.log_std -", "-0.5 * z.square() -"),
    (
        "mean over action dimensions",
        "0.5 * math.log(2 * math.pi)).sum(-1)",
        "0.5 * math.log(2 * math.pi)).mean(-1)",
    ),
    (
        "tanh slope forgotten for samples",
        "self.base.log_prob(z) - _log_tanh_slope(z)\n\n    def log_prob",
        "self.base.log_prob(z)\n\n    def log_prob",
    ),
    (
        "tanh slope forgotten for logged actions",
        "self.base.log_prob(z) - _log_tanh_slope(z)\n\n    def sample",
        "self.base.log_prob(z)\n\n    def sample",
    ),
    (
        "tanh slope added",
        "self.base.log_prob(z) - _log_tanh_slope(z)\n\n    def log_prob",
        "self.base.log_prob(z) + _log_tanh_slope(z)\n\n    def log_prob",
    ),
    (
        "logged actions not kept from the bounds",
        "action.clamp(-ACTION_BOUND, ACTION_BOUND).atanh()",
        "action.atanh()",
    ),
    ("slope with the wrong exponent", "F.softplus(-2 * z)", "F.softplus(-z)"),
    ("slope without log 2", "(2 * (math.log(2) - z -", "(2 * (-z -"),
    (
        "samples not clipped",
        "torch.randn_like(self.mean)).clamp(-1, 1)",
        "torch.randn_like(self.mean))",
    ),
    ("mode before tanh", "return self.base.mean.tanh()", "return self.base.mean"),
    (
        "gaussian policy's mean not squashed",
        "Gaussian(self.net(self.encoder(obs)).tanh(),",
        "Gaussian(self.net(self.encoder(obs)),",
    ),
    ("log σ unbounded", "self.log_std.clamp(*self.log_std_range))", "self.log_std)"),
    (
        "log σ shifted after its bounds",
        "(log_std + self.log_std_offset).clamp(*self.log_std_range)",
        "log_std.clamp(*self.log_std_range) + self.log_std_offset",
    ),
    (
        "sum for mean of the squared error",
        "(self.action - action).square().mean(-1)",
        "(self.action - action).square().sum(-1)",
    ),
    (
        "deterministic policy not squashed",
        "Deterministic(self.net(self.encoder(obs)).tanh())",
        "Deterministic(self.net(self.encoder(obs)))",
    ),
)
_add(
    "shared",
    "networks.py",
    _NETWORKS,
    (
        "critics of n observations mixed up, batched",
        "from_obs = self.obs_layer(obs).unsqueeze(1)",
        "from_obs = self.obs_layer(obs).flip(0).unsqueeze(1)",
    ),
    (
        "critics of n observations mixed up",
        "strict=True))\n        if self.norm is not None:",
        "strict=True))[::-1]\n        if self.norm is not None:",
    ),
    (
        "observation part ignored",
        "torch.cat([obs, action[0]], -1)",
        "torch.cat([0 * obs, action[0]], -1)",
    ),
    (
        "observation part ignored for many actions",
        "(product.view(len(rows), *x.shape) + x)",
        "(product.view(len(rows), *x.shape) + 0 * x)",
    ),
    ("action part ignored", "(from_obs + from_action)", "(from_obs + 0 * from_action)"),
    (
        "last layer with the gain of the others",
        "gain = last_gain if i == len(layers) - 1 else math.sqrt(2)",
        "gain = math.sqrt(2)",
    ),
    ("biases kept", "nn.init.zeros_(layer.bias)", "pass"),
    (
        "dropout behind the last hidden layer only",
        "            if dropout > 0:",
        "            if dropout > 0 and width == hidden[-1]:",
    ),
    ("sum for mean of quantiles", "self.quantiles(obs).mean(-1)", "self.quantiles(obs).sum(-1)"),
)
_add(
    "shared",
    "ensembles.py",
    _NETWORKS,
    (
        "no activation in a member",
        "        return x.relu_()\n    scale",
        "        return x\n    scale",
    ),
    (
        "layer norm before the ReLU in both orders",
        "F.layer_norm(x.relu_(), x.shape[-1:], scale, shift)",
        "F.layer_norm(x, x.shape[-1:], scale, shift).relu_()",
    ),
    (
        "layer norm before the ReLU in both orders, batched",
        "norm(F.relu(x)) if relu_first else",
        "F.relu(norm(x)) if relu_first else",
    ),
    (
        "one layer norm for all members",
        "scale.unbind(), shift.unbind()",
        "[scale[0]] * len(scale), shift.unbind()",
    ),
    ("no bias in a one-wide head", ".unsqueeze(-1) + bias", ".unsqueeze(-1) + 0 * bias"),
    ("initial range of each part of the first layer its own", "fan_in or n_in", "n_in"),
    (
        "activation behind the last layer",
        "return last(x)",
        "return F.relu(last(x))",
    ),
    ("no activation", "        return F.relu(x)\n", "        return x\n"),
)
_add(
    "shared",
    "algorithms/base.py",
    (*_BASE, *_TD3_BC),
    (
        "only the first update of a block",
        "self.train_update(batch.at(k))",
        "self.train_update(batch.at(0))",
    ),
    (
        "TD error of the online action at s",
        "self.act(batch.next_obs)).amin(0)",
        "self.act(batch.obs)).amin(0)",
    ),
    ("seed not restored", '        self.seed = saved["seed"]\n', ""),
    ("other classes' checkpoints accepted", 'if saved.get("class_path") != name:', "if False:"),
    ("other shapes accepted", "if found != expected:", 'if "missing" in (found, expected):'),
    ("spare networks accepted", "for key in {**own, **held}:", "for key in own:"),
    ("action spaces not checked", "if self.actions != kind:", "if False:"),
)
_add(
    "shared",
    "rng.py",
    _BASE,
    (
        "the stream plays no part",
        "for part in (seed, stream, update):",
        "for part in (seed, update):",
    ),
    (
        "streams and updates interchangeable",
        "for part in (seed, stream, update):",
        "for part in (seed, stream + update):",
    ),
    ("seed of 64 bits", "return state >> 1", "return state"),
)

"""Mistakes in the discrete algorithms."""

from tests.mutant_lists import Mutant

DQN_FILE = "algorithms/dqn.py"
DQN_TESTS = ("algorithms/test_dqn.py",)
CQL_FILE = "algorithms/discrete_cql.py"
CQL_TESTS = ("algorithms/test_discrete_cql.py",)
IQL_FILE = "algorithms/discrete_iql.py"
IQL_TESTS = ("algorithms/test_discrete_iql.py",)
BCQ_FILE = "algorithms/discrete_bcq.py"
BCQ_TESTS = ("algorithms/test_discrete_bcq.py",)
EXACT_TESTS = ("algorithms/test_chain5.py",)

PERIOD = "if self.due(self.target_period):"
POLYAK = "polyak_update(self.q, self.target_q, self.polyak)"
GREEDY = "return Greedy(double_q_action(self.q(obs)), self.n_actions)"

DQN = [
    Mutant(
        "online network for the target value",
        DQN_FILE,
        "next_q = self.target_q(batch.next_obs)",
        "next_q = self.q(batch.next_obs)",
        DQN_TESTS,
    ),
    Mutant("no step of the target network", DQN_FILE, POLYAK, "pass", DQN_TESTS),
    Mutant(
        "target steps towards the wrong network",
        DQN_FILE,
        POLYAK,
        "polyak_update(self.target_q, self.q, self.polyak)",
        DQN_TESTS,
    ),
    Mutant(
        "polyak counts the old part",
        "targets.py",
        "net.parameters()], polyak\n",
        "net.parameters()], 1 - polyak\n",
        DQN_TESTS,
    ),
    Mutant(
        "target stepped before minimize",
        DQN_FILE,
        f"self.minimize(q_loss, self.q)\n        {PERIOD}\n            {POLYAK}",
        f"{PERIOD}\n            {POLYAK}\n        self.minimize(q_loss, self.q)",
        DQN_TESTS,
    ),
    Mutant(
        "period off by one", DQN_FILE, PERIOD, PERIOD.replace("_period)", "_period + 1)"), DQN_TESTS
    ),
    Mutant("period ignored", DQN_FILE, PERIOD, "if True:  # no period", DQN_TESTS),
    Mutant(
        "termination ignored",
        "targets.py",
        "return batch.reward + discount * (1 - batch.terminated) * next_value",
        "return batch.reward + discount * next_value",
        DQN_TESTS,
    ),
    Mutant(
        "truncation cuts the bootstrap too",
        "targets.py",
        "(1 - batch.terminated) * next_value",
        "(1 - batch.terminated) * (1 - (0 if batch.truncated is None else batch.truncated))"
        " * next_value",
        DQN_TESTS,
    ),
    Mutant(
        "double switched",
        DQN_FILE,
        "if self.double_dqn else next_q",
        "if not self.double_dqn else next_q",
        DQN_TESTS,
    ),
    Mutant(
        "mean over critics in the target",
        DQN_FILE,
        "take_action(next_q, next_action).amin(0)",
        "take_action(next_q, next_action).mean(0)",
        DQN_TESTS,
    ),
    Mutant(
        "greedy on the mean over critics",
        "targets.py",
        "q_min = q.amin(0)",
        "q_min = q.mean(0)",
        DQN_TESTS,
    ),
    Mutant(
        "squared error for Huber's",
        "losses.py",
        'F.huber_loss(q, target.expand_as(q), reduction="none")',
        "(0.5 * (q - target).square())",
        DQN_TESTS,
    ),
    Mutant(
        "half of Huber's loss",
        "losses.py",
        'F.huber_loss(q, target.expand_as(q), reduction="none").mean(-1).sum()',
        '0.5 * F.huber_loss(q, target.expand_as(q), reduction="none").mean(-1).sum()',
        DQN_TESTS,
    ),
    Mutant(
        "Q-loss averaged over critics",
        "losses.py",
        'reduction="none").mean(-1).sum()',
        'reduction="none").mean()',
        DQN_TESTS,
    ),
    Mutant(
        "gradient through the target",
        DQN_FILE,
        "with torch.no_grad():",
        "with torch.enable_grad():",
        DQN_TESTS,
        survives="the target network takes no gradients and an argmax has none",
    ),
    Mutant(
        "values of the next observation",
        DQN_FILE,
        "q = take_action(self.q(batch.obs), batch.action)",
        "q = take_action(self.q(batch.next_obs), batch.action)",
        DQN_TESTS,
    ),
    Mutant("Adam's ε ignored", DQN_FILE, "lr, eps=adam_eps)", "lr)", DQN_TESTS),
    Mutant(
        "policy of the target network",
        DQN_FILE,
        GREEDY,
        GREEDY.replace("self.q", "self.target_q"),
        DQN_TESTS,
    ),
]

CQL = [
    Mutant(
        "log-sum-exp without the data term",
        CQL_FILE,
        "log_weight.logsumexp(-1) - q\n",
        "log_weight.logsumexp(-1) + 0 * q\n",
        CQL_TESTS,
    ),
    Mutant(
        "sign of the penalty flipped",
        CQL_FILE,
        "td_loss + self.cql_alpha * gap",
        "td_loss - self.cql_alpha * gap",
        CQL_TESTS,
    ),
    Mutant(
        "mean over actions for the log-sum-exp",
        CQL_FILE,
        "(penalized + log_weight).logsumexp(-1)",
        "(penalized + log_weight).mean(-1)",
        CQL_TESTS,
    ),
    Mutant(
        "maximum for the log-sum-exp",
        CQL_FILE,
        "(penalized + log_weight).logsumexp(-1)",
        "(penalized + log_weight).amax(-1)",
        CQL_TESTS,
    ),
    Mutant(
        "constant of the weights left out",
        CQL_FILE,
        " - log_weight.logsumexp(-1)",
        "",
        CQL_TESTS,
    ),
    Mutant(
        "penalty at the next observation",
        CQL_FILE,
        "all_q = quantiles.mean(-1)  # (n, B, A)",
        "all_q = self.q(batch.next_obs)",
        CQL_TESTS,
    ),
    Mutant(
        "penalty averaged over critics",
        CQL_FILE,
        "gap.mean(-1).sum()",
        "gap.mean()",
        CQL_TESTS,
    ),
    Mutant(
        "online network for the target value",
        CQL_FILE,
        "next_quantiles = self.target_q.quantiles",
        "next_quantiles = self.q.quantiles",
        CQL_TESTS,
    ),
    Mutant(
        "double switched",
        CQL_FILE,
        "if self.double_dqn else next_quantiles",
        "if not self.double_dqn else next_quantiles",
        CQL_TESTS,
    ),
    Mutant(
        "soft backup by the target network's policy",
        CQL_FILE,
        "probs = self.q(batch.next_obs)",
        "probs = self.target_q(batch.next_obs)",
        CQL_TESTS,
    ),
    Mutant(
        "soft backup by the mean over critics",
        CQL_FILE,
        "probs = self.q(batch.next_obs).amin(0)",
        "probs = self.q(batch.next_obs).mean(0)",
        CQL_TESTS,
    ),
    Mutant(
        "soft backup ignored",
        CQL_FILE,
        'if self.backup == "soft_pi":',
        'if self.backup == "never":',
        CQL_TESTS,
    ),
    Mutant(
        "minimum over critics before the soft expectation",
        "targets.py",
        "(probs.unsqueeze(-1) * next_quantiles).sum(-2).amin(0)",
        "(probs.unsqueeze(-1) * next_quantiles.amin(0)).sum(-2)",
        CQL_TESTS,
    ),
    Mutant(
        "mean over critics in the quantile target",
        "targets.py",
        "next_value = take_action(next_quantiles, next_action).amin(0)",
        "next_value = take_action(next_quantiles, next_action).mean(0)",
        CQL_TESTS,
    ),
    Mutant("quantile levels without ½", "losses.py", " + 0.5) / m", ") / m", CQL_TESTS),
    Mutant(
        "asymmetry of the quantile loss flipped",
        "losses.py",
        "weight = (level.unsqueeze(-1) - (u < 0).to(u.dtype)).abs()",
        "weight = (level.unsqueeze(-1) - (u > 0).to(u.dtype)).abs()",
        CQL_TESTS,
    ),
    Mutant(
        "levels along the targets",
        "losses.py",
        "weight = (level.unsqueeze(-1) -",
        "weight = (level.unsqueeze(-2) -",
        CQL_TESTS,
    ),
    Mutant(
        "quantile loss summed over targets",
        "losses.py",
        "(weight * huber).mean(-1).sum(-1)",
        "(weight * huber).sum(-1).mean(-1)",
        CQL_TESTS,
        survives="the two are the same: there are as many targets as quantiles",
    ),
    Mutant(
        "quantile loss averaged over quantiles",
        "losses.py",
        "(weight * huber).mean(-1).sum(-1)",
        "(weight * huber).mean(-1).mean(-1)",
        CQL_TESTS,
    ),
    Mutant("no step of the target network", CQL_FILE, POLYAK, "pass", CQL_TESTS),
    Mutant(
        "period off by one", CQL_FILE, PERIOD, PERIOD.replace("_period)", "_period + 1)"), CQL_TESTS
    ),
    Mutant(
        "gradient through the prior",
        CQL_FILE,
        ".exp().detach()\n",
        ".exp()\n",
        CQL_TESTS,
    ),
    Mutant(
        "prior absolute instead of relative",
        CQL_FILE,
        "(behavior.log_probs - behavior.log_probs.amax(-1, keepdim=True)).exp()",
        "behavior.log_probs.exp()",
        CQL_TESTS,
    ),
    Mutant(
        "prior for likely actions",
        "losses.py",
        "((1 - relative_density) / (1 + relative_density))",
        "(relative_density / (1 + relative_density))",
        CQL_TESTS,
    ),
    Mutant(
        "prior without its floor",
        "losses.py",
        ".clamp(min=min_weight)",
        ".clamp(min=1e-9)",
        CQL_TESTS,
    ),
    Mutant(
        "weights multiply Q",
        CQL_FILE,
        "(penalized + log_weight)",
        "(penalized * log_weight.exp())",
        CQL_TESTS,
    ),
    Mutant(
        "behavior policy not trained",
        CQL_FILE,
        "self.minimize(behavior.imitation_loss(batch.action).mean(), self.behavior)",
        "pass",
        CQL_TESTS,
    ),
    Mutant(
        "policy of the target network",
        CQL_FILE,
        GREEDY,
        GREEDY.replace("self.q", "self.target_q"),
        CQL_TESTS,
    ),
    Mutant(
        "no gradient of the log-sum-exp (the guide's penalty in the target)",
        CQL_FILE,
        "gap = (penalized + log_weight).logsumexp(-1) - log_weight.logsumexp(-1) - q",
        "gap = (penalized.detach() + log_weight).logsumexp(-1) - log_weight.logsumexp(-1) - q",
        EXACT_TESTS,
    ),
]

IQL = [
    Mutant(
        "expectile flipped",
        "losses.py",
        "(expectile - (u < 0).to(u.dtype))",
        "(expectile - (u > 0).to(u.dtype))",
        IQL_TESTS,
    ),
    Mutant(
        "constant weight abs(2τ - 1) (the guide's)",
        "losses.py",
        "(expectile - (u < 0).to(u.dtype)).abs() * u.square()",
        "abs(2 * expectile - 1) * u.square()",
        EXACT_TESTS,
    ),
    Mutant(
        "absolute for squared error in the V-loss",
        "losses.py",
        ".abs() * u.square()).mean()",
        ".abs() * u.abs()).mean()",
        IQL_TESTS,
    ),
    Mutant(
        "advantage negated in the V-loss",
        IQL_FILE,
        "expectile_loss(advantage, self.expectile)",
        "expectile_loss(-advantage, self.expectile)",
        IQL_TESTS,
    ),
    Mutant(
        "online critic for V and the weights",
        IQL_FILE,
        "q_min = take_action(self.target_q(batch.obs)",
        "q_min = take_action(self.q(batch.obs)",
        IQL_TESTS,
    ),
    Mutant(
        "mean over critics",
        IQL_FILE,
        "batch.action).amin(0)  # (B,)",
        "batch.action).mean(0)  # (B,)",
        IQL_TESTS,
    ),
    Mutant(
        "V of the current observation in the target",
        IQL_FILE,
        "td_target(batch, self.discount, self.v(batch.next_obs))",
        "td_target(batch, self.discount, self.v(batch.obs))",
        IQL_TESTS,
    ),
    Mutant(
        "max of Q for V in the target",
        IQL_FILE,
        "td_target(batch, self.discount, self.v(batch.next_obs))",
        "td_target(batch, self.discount, self.target_q(batch.next_obs).amin(0).amax(-1))",
        IQL_TESTS,
    ),
    Mutant(
        "termination ignored",
        IQL_FILE,
        "q_target = td_target(batch, self.discount, self.v(batch.next_obs))",
        "q_target = batch.reward + self.discount * self.v(batch.next_obs)",
        IQL_TESTS,
    ),
    Mutant(
        "half of the squared error of Q",
        IQL_FILE,
        "q_loss = ensemble_mse(q, q_target)",
        "q_loss = 0.5 * ensemble_mse(q, q_target)",
        IQL_TESTS,
    ),
    Mutant(
        "gradient of the policy loss through the weights",
        IQL_FILE,
        "awr_weight(advantage.detach(),",
        "awr_weight(advantage,",
        IQL_TESTS,
    ),
    Mutant("weights not clipped", "losses.py", ".exp().clamp(max=clip)", ".exp()", IQL_TESTS),
    Mutant(
        "temperature instead of its inverse",
        "losses.py",
        "(inverse_temperature * advantage)",
        "(advantage / inverse_temperature)",
        IQL_TESTS,
    ),
    Mutant(
        "weights normalized over the batch",
        IQL_FILE,
        "policy_loss = (weight * ",
        "policy_loss = (weight / weight.mean() * ",
        IQL_TESTS,
    ),
    Mutant(
        "policy loss without weights",
        IQL_FILE,
        "policy_loss = (weight * ",
        "policy_loss = (",
        IQL_TESTS,
    ),
    Mutant("no step of the target network", IQL_FILE, POLYAK, "pass", IQL_TESTS),
    Mutant(
        "gradient through the target",
        IQL_FILE,
        "with torch.no_grad():",
        "with torch.enable_grad():",
        IQL_TESTS,
    ),
    Mutant(
        "V stepped twice and Q never",
        IQL_FILE,
        "self.minimize(v_loss, self.v)\n        self.minimize(q_loss, self.q)",
        "self.minimize(v_loss + q_loss.detach(), self.v)\n        self.minimize(v_loss, self.v)",
        IQL_TESTS,
    ),
]

BCQ = [
    Mutant(
        "absolute threshold",
        BCQ_FILE,
        "(log_probs - log_probs.amax(-1, keepdim=True)).exp() >= bcq_threshold",
        "log_probs.exp() >= bcq_threshold",
        BCQ_TESTS,
    ),
    Mutant(
        "strict threshold",
        BCQ_FILE,
        ".exp() >= bcq_threshold",
        ".exp() > bcq_threshold",
        BCQ_TESTS,
    ),
    Mutant(
        "mask inverted",
        "targets.py",
        "q_min.masked_fill(~allowed",
        "q_min.masked_fill(allowed",
        BCQ_TESTS,
    ),
    Mutant(
        "no mask in the target",
        BCQ_FILE,
        "next_action = self._choose(batch.next_obs)",
        "next_action = double_q_action(self.q(batch.next_obs))",
        BCQ_TESTS,
    ),
    Mutant(
        "no mask when acting",
        BCQ_FILE,
        "return Greedy(self._choose(obs), self.n_actions)",
        "return Greedy(double_q_action(self.q(obs)), self.n_actions)",
        BCQ_TESTS,
    ),
    Mutant(
        "mask of the current observation in the target",
        BCQ_FILE,
        "next_action = self._choose(batch.next_obs)",
        "next_action = double_q_action(self.q(batch.next_obs),"
        " in_support(self.behavior(batch.obs), self.bcq_threshold))",
        BCQ_TESTS,
    ),
    Mutant(
        "target network chooses the action",
        BCQ_FILE,
        "return double_q_action(self.q(obs), in_support",
        "return double_q_action(self.target_q(obs), in_support",
        BCQ_TESTS,
    ),
    Mutant(
        "online network for the target value",
        BCQ_FILE,
        "next_q = take_action(self.target_q(batch.next_obs)",
        "next_q = take_action(self.q(batch.next_obs)",
        BCQ_TESTS,
    ),
    Mutant(
        "mean over critics in the target",
        BCQ_FILE,
        "next_action).amin(0)",
        "next_action).mean(0)",
        BCQ_TESTS,
    ),
    Mutant(
        "termination ignored",
        BCQ_FILE,
        "q_target = td_target(batch, self.discount, next_q)",
        "q_target = batch.reward + self.discount * next_q",
        BCQ_TESTS,
    ),
    Mutant(
        "no penalty on the logits",
        BCQ_FILE,
        "+ self.logit_penalty * behavior.logits.square().mean()",
        "+ 0.0",
        BCQ_TESTS,
    ),
    Mutant(
        "penalty on the log-probabilities",
        BCQ_FILE,
        "behavior.logits.square().mean()",
        "behavior.log_probs.square().mean()",
        BCQ_TESTS,
    ),
    Mutant(
        "penalty summed over actions",
        BCQ_FILE,
        "behavior.logits.square().mean()",
        "behavior.logits.square().sum(-1).mean()",
        BCQ_TESTS,
    ),
    Mutant(
        "G not trained", BCQ_FILE, "self.minimize(behavior_loss, self.behavior)", "pass", BCQ_TESTS
    ),
    Mutant(
        "G trained before the target is made",
        BCQ_FILE,
        "        with torch.no_grad():\n            next_action = self._choose(batch.next_obs)",
        "        self.minimize(self.behavior(batch.obs).imitation_loss(batch.action).mean(),"
        " self.behavior)\n"
        "        with torch.no_grad():\n            next_action = self._choose(batch.next_obs)",
        BCQ_TESTS,
    ),
    Mutant("no step of the target network", BCQ_FILE, POLYAK, "pass", BCQ_TESTS),
    Mutant(
        "period off by one", BCQ_FILE, PERIOD, PERIOD.replace("_period)", "_period + 1)"), BCQ_TESTS
    ),
    Mutant(
        "squared error for Huber's",
        BCQ_FILE,
        "q_loss = ensemble_huber(q, q_target)",
        "q_loss = 0.5 * (q - q_target).square().mean(-1).sum()",
        BCQ_TESTS,
    ),
]

MUTANTS = {"dqn": DQN, "discrete_cql": CQL, "discrete_iql": IQL, "discrete_bcq": BCQ}

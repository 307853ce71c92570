"""Mistakes in how an update runs: eager, compiled, stacked, on several ranks."""
# ruff: noqa: E501  # excerpts of code

from tests.mutant_lists import Mutant

_BASE = ("algorithms/test_base.py", "algorithms/test_td3_bc.py")
_COMPILED = ("algorithms/test_compiled.py", "algorithms/test_base.py")
_REPLICAS = ("algorithms/test_replicas.py", "cli/test_seeds.py")

PATH, ADAM, COMPILED = "algorithms/update_path.py", "adam.py", "compiled.py"
STACK, REPLICAS = "algorithms/stack.py", "algorithms/replicas.py"

MUTANTS: dict[str, list[Mutant]] = {
    "update_path": [
        Mutant(name, file, old, new, tests)
        for file, tests, entries in (
            (
                PATH,
                _BASE,
                (
                    (
                        "every network moves",
                        'parameters = optimizer.param_groups[0]["params"]',
                        'parameters = [p for o in self._optimizers.values() for p in o.param_groups[0]["params"]]',
                    ),
                    ("each rank draws the same rows", "dist.get_rank() * rows, rows)", "0, rows)"),
                    (
                        "ranks not averaged",
                        "            gradients = _mean_over_ranks(gradients)\n",
                        "            pass\n",
                    ),
                    ("ranks summed", "total / dist.get_world_size()", "total"),
                    (
                        "batch mean of one rank",
                        "return _mean_over_ranks((mean,))[0] if self._world_size > 1 else mean",
                        "return mean",
                    ),
                    (
                        "the seed plays no part",
                        "stream_seed(self.seed, self._update_number",
                        "stream_seed(0, self._update_number",
                    ),
                    (
                        "the update plays no part",
                        "stream_seed(self.seed, self._update_number",
                        "stream_seed(self.seed, 0",
                    ),
                    (
                        "no seeding",
                        "            self._seed_draws()\n            metrics = self.update(batch)",
                        "            metrics = self.update(batch)",
                    ),
                    ("updates not counted", "        self.update_number += 1\n", ""),
                    ("no annealing", "        self.anneal()\n", ""),
                    (
                        "annealing one update ahead",
                        "progress = self.update_number / self._max_updates",
                        "progress = (self.update_number + 1) / self._max_updates",
                    ),
                    (
                        "linear annealing",
                        "(1 + math.cos(math.pi * progress)) / 2",
                        "(1 - progress)",
                    ),
                    (
                        "period off by one",
                        "return (self._update_number + 1) % period == 0",
                        "return self._update_number % period == 0",
                    ),
                ),
            ),
            (
                PATH,
                _COMPILED,
                (
                    (
                        "periods not noted",
                        "self._tape.periods[period] = self.is_due(period)",
                        "pass",
                    ),
                    (
                        "draws not noted",
                        "        self._tape.draws.append((draw, shape))\n",
                        "",
                    ),
                    ("given noise not used", "return next(self._tape.noise)", "pass"),
                    (
                        "compiled draws not seeded",
                        "        self._seed_draws()\n        return [self._rows",
                        "        return [self._rows",
                    ),
                    (
                        "the tape stays in",
                        "        finally:\n            self._tape = None",
                        "        finally:\n            pass",
                    ),
                    (
                        "the update number becomes a constant",
                        'raise InputError("`update_number` changes',
                        'print("`update_number` changes',
                    ),
                    ("buffers left out", "[*algorithm.parameters(), *algorithm.buffers()]", "[]"),
                    (
                        "learning rate a constant of the graph",
                        'found.append(optimizer.param_groups[0]["lr"])',
                        "pass",
                    ),
                    (
                        "auto compiles short runs",
                        "not 0 <= max_updates < COMPILE_FROM",
                        "not 0 <= max_updates < 1",
                    ),
                    ("endless runs not compiled", "not 0 <= max_updates <", "not max_updates <"),
                    ("numbers not watched", "if type(value) in PLAIN", "if type(value) in ()"),
                ),
            ),
            (
                ADAM,
                _COMPILED,
                (
                    ("β1 for β2", 'beta2=group["betas"][1]', 'beta2=group["betas"][0]'),
                    ("strides not made the parameter's", "gradient.contiguous()", "gradient"),
                    (
                        "traced: no bias correction of the mean",
                        "/ (1 - torch.exp(step * math.log(beta1)))",
                        "/ (step / step)",
                    ),
                    (
                        "traced: no bias correction of the square",
                        "/ (1 - torch.exp(step * math.log(beta2)))",
                        "/ (step / step)",
                    ),
                    ("traced: steps not counted", '        state["step"].add_(1)\n', ""),
                    ("traced: ε within the root", '(deviation + group["eps"])', "deviation"),
                    (
                        "traced: gradient not squared",
                        "addcmul_(gradient, gradient,",
                        "addcmul_(gradient, gradient.abs(),",
                    ),
                    ("traced: step up", "parameter.sub_(", "parameter.add_("),
                    (
                        "traced: bias correction in float32",
                        'states[0]["step"].double()',
                        'states[0]["step"].float()',
                    ),
                    (
                        "traced: bias correction one step behind",
                        'states[0]["step"].double() + 1',
                        'states[0]["step"].double() + 1e-9',
                    ),
                    ("traced: correction forgotten", '["exp_avg_sq"] * scale', '["exp_avg_sq"]'),
                ),
            ),
            (
                COMPILED,
                _COMPILED,
                (
                    ("numbers not compared", "graph.numbers == numbers", "True"),
                    ("shapes not compared", "and graph.shapes == shapes", ""),
                    (
                        "periods not compared",
                        "all(self._update.is_due(p) == due for p, due in graph.periods.items())",
                        "True",
                    ),
                    ("recording moves the weights", "tensor.copy_(value)", "pass"),
                    (
                        "recording draws from the run's generator",
                        "with seeded(0):",
                        "with torch.no_grad() if False else torch.enable_grad():",
                    ),
                    (
                        "recorded without biases",
                        "torch.mm(x, weight)[None] + bias",
                        "torch.mm(x, weight)[None] + 0 * bias",
                    ),
                    ("graphs without end", "if len(self.graphs) >= MAX_GRAPHS:", "if False:"),
                    ("runs not counted", "        self.runs += 1\n", ""),
                    ("compiled anew each time", "            self.graphs.append(graph)\n", ""),
                    ("failures hidden", "        if self._required:\n", "        if False:\n"),
                ),
            ),
        )
        for name, old, new in entries
    ],
    "replicas": [
        Mutant(name, file, old, new, _REPLICAS)
        for file, entries in (
            (
                STACK,
                (
                    (
                        "all members draw the first's noise",
                        "self.template.seed = member.seed",
                        "pass",
                    ),
                    (
                        "members are copies",
                        "        tensor.data = view\n",
                        "        tensor.data = view.clone()\n",
                    ),
                    (
                        "optimizer states are copies",
                        '"exp_avg": _stack([state["exp_avg"] for state in states])',
                        '"exp_avg": torch.stack([state["exp_avg"] for state in states])',
                    ),
                    ("learning rates not shared", "        self._share_learning_rates()\n", ""),
                    ("updates not counted", "self.template.update_number += 1", "pass"),
                    ("no annealing", "self.template.anneal()", "pass"),
                    ("dropout accepted", "isinstance(m, nn.Dropout) and m.p > 0", "False"),
                    (
                        "other options of Adam",
                        "        stacked.param_groups[0].update(options)\n",
                        "",
                    ),
                ),
            ),
            (
                REPLICAS,
                (
                    (
                        "standard error for an interval",
                        "float(stats.t.ppf(0.975, n - 1)) * error",
                        "error",
                    ),
                    ("one-sided interval", "0.975", "0.95"),
                    ("variance of the population", "ddof=1", "ddof=0"),
                    (
                        "all members of one seed",
                        "            seed_everything(seed, verbose=False)\n",
                        "            seed_everything(before, verbose=False)\n",
                    ),
                    ("checkpoint of another member", 'f"members.{i}."', '"members.0."'),
                    ("optimizers of another member", "[i * n : (i + 1) * n]", "[:n]"),
                    ("batches of another seed", 'own[name] = {**state, "seed": seed}', "pass"),
                    ("a file per member holds the stack", "return value.clone()", "return value"),
                    (
                        "other seeds accepted",
                        "if {name: saved.get(name) for name in own} != own:",
                        "if False:",
                    ),
                    (
                        "only the first update of a block",
                        "self.train_update(batch.at(k))",
                        "self.train_update(batch.at(0))",
                    ),
                    (
                        "updates not counted in the trainer",
                        "            count_update(self.trainer)\n",
                        "",
                    ),
                ),
            ),
            (
                "data/sampler.py",
                (
                    (
                        "every seed sees the first's batches",
                        "[sampler.block(first_update, k) for sampler in self._samplers]",
                        "[self._samplers[0].block(first_update, k) for _ in self._samplers]",
                    ),
                ),
            ),
            (
                "stacking.py",
                (
                    (
                        "the stack is not found",
                        "return get_unwrapped(tensor) if is_batchedtensor(tensor) else tensor",
                        "return tensor",
                    ),
                ),
            ),
        )
        for name, old, new in entries
    ],
}

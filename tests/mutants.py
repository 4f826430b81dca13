"""`make mutation`: wrong behaviours put in on purpose, one at a time; every one must be caught.

Each mutant is a change of one text in one file; one of the tests named beside the file must fail
by it. They run on a copy of the checkout. Exit code 1 names those that survived.

    python tests/mutants.py                 all
    python tests/mutants.py nesterov KL     those whose name holds one of these words
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
# (file, tests that must fail): {name: (text, what it becomes)}
MUTANTS = {
    ("trainer.py", "plain_loop trainer"): {
        "weight decay never reaches SGD": (
            '"weight_decay": config.weight_decay',
            '"weight_decay": 0.0',
        ),
        "no Nesterov": ('"nesterov": nesterov', '"nesterov": False'),
        "no momentum": ('"momentum": config.momentum', '"momentum": 0.0'),
        "progress begins at 0": (
            "progress = torch.tensor(iterations, device=device) /",
            "progress = (torch.tensor(iterations, device=device) - 1) /",
        ),
        "training without augmentation": (
            "apply_views(train.images[index], views)",
            "apply_views(train.images[index], None)",
        ),
        "the same views in every epoch": (
            'generator(seed, "augmentation", epoch)',
            'generator(seed, "augmentation")',
        ),
        "the same order in every epoch": (
            'generator(seed, "order", epoch)',
            'generator(seed, "order")',
        ),
        "validation on the training images": (
            "_evaluate(nets, data.val,",
            "_evaluate(nets, data.train,",
        ),
        "test on the validation images": (
            "_evaluate(nets, data.test,",
            "_evaluate(nets, data.val,",
        ),
        "dropout not seeded": ("torch.manual_seed(derive(seed, *purpose))", "pass"),
        "BatchNorm of a learner in eval mode": ("nets[i].train(graph.learns(i))", "nets[i].eval()"),
        "a fixed teacher in training mode": ("nets[i].train(graph.learns(i))", "nets[i].train()"),
        "the learning rate is never set": ("set_learning_rate(optimizers.values(), lr)", "pass"),
        "warm-up of half its length": ("min(1.0, k / ramp)", "min(1.0, 2 * k / ramp)"),
        "the worst epoch is kept": (
            'record["val_accuracy"][0] > best["val"]',
            'record["val_accuracy"][0] < best["val"] or not best["states"]',
        ),
        "steps at 60 % of the step schedule only": ("(0.3, 0.6, 0.9)", "(0.6,)"),
        "momentum is lost at a resume": ("restore(optimizers[i], state)", "pass"),
        "all nodes start alike": ('derive(seed, "init", i)', 'derive(seed, "init")'),
    },
    ("losses.py", "losses gates"): {
        "a source is not detached": ("log_p[s].detach()", "log_p[s]"),
        "temperature is not squared": ("temperature**2 *", ""),
        "no temperature in the softmax": (".float() / temperature,", ".float(),"),
        "Correct asks the target": (
            "gate(losses, right[s], progress)",
            "gate(losses, right[t], progress)",
        ),
        "KL the other way round": (
            "(log_p_s.exp() * (log_p_s - log_p[t]))",
            "(log_p[t].exp() * (log_p[t] - log_p_s))",
        ),
        "transfer weight ignored": ("graph.transfer_weight * gate", "gate"),
    },
    ("gates.py", "losses gates"): {
        "Linear is Through": ("progress * losses.mean()", "losses.mean()"),
        "Correct averages over right samples only": (
            "(losses * source_right).mean()",
            "losses[source_right].mean()",
        ),
    },
    ("graph.py", "graph trainer"): {
        "an unreachable node counts": (
            "new = set(self.sources(frontier.pop())) - reached",
            "new = set(range(self.size)) - reached; frontier.pop()",
        )
    },
    ("data.py", "data"): {
        "crops of 8 % of the area": ("uniform_(0.25, 1,", "uniform_(0.08, 1,"),
        "never a flip": (
            "1 - 2 * torch.randint(2, (n,), generator=generator).float()",
            "torch.ones(n)",
        ),
        "other images keep the fingerprint": (
            "    spec: dict | None = field(init=False, default=None)",
            "    spec: dict | None = None",
        ),
    },
    ("data.py", "data models images"): {
        "channels of the mean swapped": ("(0.485, 0.456, 0.406)", "(0.406, 0.456, 0.485)")
    },
    ("models.py", "models"): {
        "a head for other classes is kept": (
            "fits = classes is not None and known == list(classes)",
            "fits = classes is not None and len(known or ()) == len(classes)",
        ),
        "weights kept where they should be rescaled": ('if scale == "fresh":', "if False:"),
        "ImageNet weights are not checked": (
            "_check_hash_in_name(cached, facts.st_size, facts.st_mtime_ns)",
            "pass",
        ),
    },
    ("experiments/stats.py", "stats"): {
        "an interval with n degrees of freedom": (
            "quantile(n - 1) * std / np.sqrt(n)",
            "quantile(n) * std / np.sqrt(n)",
        ),
        "an interval of one side": ("(1 + LEVEL) / 2", "LEVEL"),
        "rounding taken for a spread": ("variance > ROUNDING**2", "variance > 0"),
        "a p of one side": ("2 * stdtr(", "stdtr("),
        "a variance by n": ("np.var(v, ddof=1)", "np.var(v)"),
        "unpaired where seeds are shared": (
            "strata[names].append(sum(shares))",
            "[strata[n].append(share) for n, share in zip(names, shares)]",
        ),
        "degrees of freedom are added up": (
            "variance**2 / sum(value**2 / df for value, df in terms)",
            "sum(df for _, df in terms)",
        ),
        "Holm off by one": ("np.arange(len(order), 0, -1)", "np.arange(len(order) - 1, -1, -1)"),
        "Holm's p may fall": ("np.maximum.accumulate(steps)", "steps"),
        "a prediction as if the mean were known": (
            "np.sqrt(1 / runs + 1 / n)",
            "np.sqrt(1 / runs)",
        ),
    },
    ("experiments/ablation.py", "ablation"): {
        "the row without pre-training stands under no source": (
            'if pattern == "none" else ()',
            "if False else ()",
        ),
        "a run predicts itself": ('and r["seed"] not in seeds]', "]"),
        "runs of other settings predict": ("return same and all(", "return same or all("),
        "live runs count beside the recorded": ('if seeds[record["label"]] < 2]', "]"),
    },
    ("experiments/ablation.py", "ablation claims"): {
        "the last node is the target": (
            'return record["test_accuracy"][0]',
            'return record["test_accuracy"][-1]',
        )
    },
    ("experiments/claims.py", "claims"): {
        "C0 against the graph without pre-training": (
            '"C0": {everything: 1.0, "alone": -1.0}',
            '"C0": {everything: 1.0, "none": -1.0}',
        ),
        "C1 against one row": ("dict.fromkeys(scratch, -1 / len(scratch))", '{"none": -1.0}'),
        "C2 over all rows": ('"C2": _slope(scratch)', '"C2": _slope(names)'),
        "one family of all claims": ('FAMILIES = {"C0": "C0",', 'FAMILIES = {"C0": "C1-C3",'),
        "verdicts without correction": ("pd.Series(stats.holm(p), p.index)", "p"),
        "S3 counts from epoch 0": ("enumerate(curve, 1) if", "enumerate(curve) if"),
        "C4 against the target alone": (
            '("C4", name, "top 1", "none")',
            '("C4", name, "independent", "none")',
        ),
        "a target alone of another training": (
            "if ablation.same_training(run, searched)]",
            "if run]",
        ),
    },
    ("store.py", "store"): {"blocks do not count in a key": ('MARKS.get(token.type, ""))', '""))')},
    ("data.py", "data runs"): {
        "images changed in place keep their record": (
            "if self._digest() != self.fingerprint:",
            "if False:",
        )
    },
    ("single_run.py", "cli"): {
        "a network is tested on images it was trained on": (
            "if own and known",
            "if False and known",
        ),
        "and on those that were moved": ('{*net.card.get("seen", ())}', "()"),
    },
    ("sources/pretrain.py", "pretrain"): {
        "weights of other code are today's": (
            'same_code and read_card(path)["key"] != facts["key"]',
            "False",
        )
    },
    ("experiments/ready.py", "ready"): {
        "recorded searches of other images": (
            'return same and same_training({"data": own["data"], "config": own["training"]}, asked)',
            "return same",
        )
    },
    ("settings.py", "settings"): {
        "the kit's weights replace the user's": (
            "for source in self.sources if own else ():",
            "for source in self.sources:",
        ),
        "recorded runs from other weights": (
            'hashes.issuperset(record["weights"].values())',
            "True",
        ),
    },
    ("experiments/search.py", "search"): {
        "another search's winner, trained again": ("if same and before[", "if before[")
    },
}


def survives(file: str, tests: str, text: str, change: str, copy: Path) -> bool:
    """Whether all these tests pass although `text` has become `change`."""
    path = copy / "ktglite" / file
    original = path.read_text(encoding="utf-8")
    if original.count(text) != 1:
        raise SystemExit(f"{file} has {text!r} {original.count(text)} times: update {__file__}")
    path.write_text(original.replace(text, change), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
    files = [str(copy / f"tests/test_{name}.py") for name in tests.split()]
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
    how = {"cwd": copy, "env": environment, "capture_output": True, "timeout": 900}
    try:
        return subprocess.run(command, **how).returncode == 0
    finally:
        path.write_text(original, encoding="utf-8")


def main() -> None:
    words = sys.argv[1:]
    every = {
        name: (*where, *change)
        for where, group in MUTANTS.items()
        for name, change in group.items()
    }
    chosen = {n: m for n, m in every.items() if not words or any(word in n for word in words)}
    survivors = []
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "checkout"
        shutil.copytree(
            ROOT, copy, ignore=shutil.ignore_patterns(".git", ".venv", "runs", "cache", "raw")
        )
        for name, mutant in chosen.items():
            started = time.perf_counter()
            alive = survives(*mutant, copy)
            survivors += [name] * alive
            seconds = time.perf_counter() - started
            print(f"{'SURVIVED' if alive else 'caught  '} {name} ({seconds:.0f} s)", flush=True)
    print(f"{len(chosen) - len(survivors)} of {len(chosen)} caught")
    if survivors:
        raise SystemExit(f"not caught: {', '.join(survivors)}")


if __name__ == "__main__":
    main()

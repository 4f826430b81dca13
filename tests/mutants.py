"""`make mutation`: wrong behaviours put in on purpose, one at a time; every one must be caught.

Each mutant is a change of one text in one file and the tests that are to fail by it. They run on a
copy of the checkout. Exit code 1 names those that survived.

    python tests/mutants.py                 all
    python tests/mutants.py nesterov KL     those whose name holds one of these words
"""

import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
LOOP = ("test_plain_loop.py", "test_trainer.py")
LOSSES = ("test_losses.py", "test_gates.py")
STATS = ("test_stats.py",)
TABLE1 = ("test_ablation.py",)
CLAIMS = ("test_claims.py",)
# name: file, text, what it becomes, tests that must fail
MUTANTS = {
    # ---- the loop
    "weight decay never reaches SGD": (
        "trainer.py",
        '"weight_decay": config.weight_decay',
        '"weight_decay": 0.0',
        LOOP,
    ),
    "no Nesterov": ("trainer.py", '"nesterov": nesterov', '"nesterov": False', LOOP),
    "no momentum": ("trainer.py", '"momentum": config.momentum', '"momentum": 0.0', LOOP),
    "progress begins at 0": (
        "trainer.py",
        "progress = torch.tensor(iterations, device=device) /",
        "progress = (torch.tensor(iterations, device=device) - 1) /",
        LOOP,
    ),
    "training without augmentation": (
        "trainer.py",
        "apply_views(train.images[index], views)",
        "apply_views(train.images[index], None)",
        LOOP,
    ),
    "the same views in every epoch": (
        "trainer.py",
        'generator(seed, "augmentation", epoch)',
        'generator(seed, "augmentation")',
        LOOP,
    ),
    "the same order in every epoch": (
        "trainer.py",
        'generator(seed, "order", epoch)',
        'generator(seed, "order")',
        LOOP,
    ),
    "validation on the training images": (
        "trainer.py",
        "_evaluate(nets, data.val,",
        "_evaluate(nets, data.train,",
        LOOP,
    ),
    "test on the validation images": (
        "trainer.py",
        "_evaluate(nets, data.test,",
        "_evaluate(nets, data.val,",
        LOOP,
    ),
    "dropout not seeded": ("trainer.py", "torch.manual_seed(derive(seed, *purpose))", "pass", LOOP),
    "BatchNorm of a learner in eval mode": (
        "trainer.py",
        "nets[i].train(graph.learns(i))",
        "nets[i].eval()",
        LOOP,
    ),
    "a fixed teacher in training mode": (
        "trainer.py",
        "nets[i].train(graph.learns(i))",
        "nets[i].train()",
        LOOP,
    ),
    "the learning rate is never set": (
        "trainer.py",
        "set_learning_rate(optimizers.values(), lr)",
        "pass",
        LOOP,
    ),
    "warm-up of half its length": (
        "trainer.py",
        "min(1.0, k / ramp)",
        "min(1.0, 2 * k / ramp)",
        LOOP,
    ),
    "the worst epoch is kept": (
        "trainer.py",
        'record["val_accuracy"][0] > best["val"]',
        'record["val_accuracy"][0] < best["val"] or not best["states"]',
        LOOP,
    ),
    "steps at 60 % of the step schedule only": ("trainer.py", "(0.3, 0.6, 0.9)", "(0.6,)", LOOP),
    "momentum is lost at a resume": ("trainer.py", "restore(optimizers[i], state)", "pass", LOOP),
    "all nodes start alike": (
        "trainer.py",
        'derive(seed, "init", i)',
        'derive(seed, "init")',
        LOOP,
    ),
    # ---- losses and gates
    "a source is not detached": ("losses.py", "log_p[s].detach()", "log_p[s]", LOSSES),
    "temperature is not squared": ("losses.py", "temperature**2 *", "", LOSSES),
    "no temperature in the softmax": ("losses.py", ".float() / temperature,", ".float(),", LOSSES),
    "Correct asks the target": (
        "losses.py",
        "gate(losses, right[s], progress)",
        "gate(losses, right[t], progress)",
        LOSSES,
    ),
    "KL the other way round": (
        "losses.py",
        "(log_p_s.exp() * (log_p_s - log_p[t]))",
        "(log_p[t].exp() * (log_p[t] - log_p_s))",
        LOSSES,
    ),
    "transfer weight ignored": ("losses.py", "graph.transfer_weight * gate", "gate", LOSSES),
    "Linear is Through": ("gates.py", "progress * losses.mean()", "losses.mean()", LOSSES),
    "Correct averages over right samples only": (
        "gates.py",
        "(losses * source_right).mean()",
        "losses[source_right].mean()",
        LOSSES,
    ),
    # ---- graph
    "an unreachable node counts": (
        "graph.py",
        "new = set(self.sources(frontier.pop())) - reached",
        "new = set(range(self.size)) - reached; frontier.pop()",
        ("test_graph.py", "test_trainer.py"),
    ),
    # ---- images
    "crops of 8 % of the area": (
        "data.py",
        "uniform_(0.25, 1,",
        "uniform_(0.08, 1,",
        ("test_data.py",),
    ),
    "never a flip": (
        "data.py",
        "1 - 2 * torch.randint(2, (n,), generator=generator).float()",
        "torch.ones(n)",
        ("test_data.py",),
    ),
    "channels of the mean swapped": (
        "data.py",
        "(0.485, 0.456, 0.406)",
        "(0.406, 0.456, 0.485)",
        ("test_data.py", "test_models.py", "test_images.py"),
    ),
    # ---- starts
    "a head for other classes is kept": (
        "models.py",
        "fits = classes is not None and known == list(classes)",
        "fits = classes is not None and len(known or ()) == len(classes)",
        ("test_models.py",),
    ),
    "weights kept where they should be rescaled": (
        "models.py",
        'if scale == "fresh":',
        "if False:",
        ("test_models.py",),
    ),
    "ImageNet weights are not checked": (
        "models.py",
        "_check_hash_in_name(cached, facts.st_size, facts.st_mtime_ns)",
        "pass",
        ("test_models.py",),
    ),
    # ---- statistics
    "an interval with n degrees of freedom": (
        "experiments/stats.py",
        "quantile(n - 1) * std / np.sqrt(n)",
        "quantile(n) * std / np.sqrt(n)",
        STATS,
    ),
    "an interval of one side": ("experiments/stats.py", "(1 + LEVEL) / 2", "LEVEL", STATS),
    "a p of one side": ("experiments/stats.py", "2 * stdtr(", "stdtr(", STATS),
    "a variance by n": ("experiments/stats.py", "np.var(v, ddof=1)", "np.var(v)", STATS),
    "unpaired where seeds are shared": (
        "experiments/stats.py",
        "strata[names].append(sum(shares))",
        "[strata[n].append(share) for n, share in zip(names, shares)]",
        STATS,
    ),
    "degrees of freedom are added up": (
        "experiments/stats.py",
        "variance**2 / sum(value**2 / df for value, df in terms)",
        "sum(df for _, df in terms)",
        STATS,
    ),
    "Holm off by one": (
        "experiments/stats.py",
        "np.arange(len(order), 0, -1)",
        "np.arange(len(order) - 1, -1, -1)",
        STATS,
    ),
    "Holm's p may fall": ("experiments/stats.py", "np.maximum.accumulate(steps)", "steps", STATS),
    "a prediction as if the mean were known": (
        "experiments/stats.py",
        "np.sqrt(1 / runs + 1 / n)",
        "np.sqrt(1 / runs)",
        STATS,
    ),
    # ---- Table 1
    "the row without pre-training stands under no source": (
        "experiments/ablation.py",
        'if pattern == "none" else ()',
        "if False else ()",
        TABLE1,
    ),
    "the last node is the target": (
        "experiments/ablation.py",
        'return record["test_accuracy"][0]',
        'return record["test_accuracy"][-1]',
        (*TABLE1, *CLAIMS),
    ),
    "a run predicts itself": (
        "experiments/ablation.py",
        'and r["seed"] not in seeds]',
        "]",
        TABLE1,
    ),
    "runs of other settings predict": (
        "experiments/ablation.py",
        "return same and all(",
        "return same or all(",
        TABLE1,
    ),
    # ---- claims
    "C0 against the graph without pre-training": (
        "experiments/claims.py",
        '"C0": {everything: 1.0, "alone": -1.0}',
        '"C0": {everything: 1.0, "none": -1.0}',
        CLAIMS,
    ),
    "C1 against one row": (
        "experiments/claims.py",
        "dict.fromkeys(scratch, -1 / len(scratch))",
        '{"none": -1.0}',
        CLAIMS,
    ),
    "C2 over all rows": (
        "experiments/claims.py",
        '"C2": _slope(scratch)',
        '"C2": _slope(names)',
        CLAIMS,
    ),
    "one family of all claims": (
        "experiments/claims.py",
        'FAMILIES = {"C0": "C0",',
        'FAMILIES = {"C0": "C1-C3",',
        CLAIMS,
    ),
    "verdicts without correction": (
        "experiments/claims.py",
        "pd.Series(stats.holm(p), p.index)",
        "p",
        CLAIMS,
    ),
    "S3 counts from epoch 0": (
        "experiments/claims.py",
        "enumerate(curve, 1) if",
        "enumerate(curve) if",
        CLAIMS,
    ),
    "C4 against the target alone": (
        "experiments/claims.py",
        '("C4", name, "top 1", "none")',
        '("C4", name, "independent", "none")',
        CLAIMS,
    ),
    # ---- what is found again
    "blocks do not count in a key": (
        "store.py",
        'MARKS.get(token.type, ""))',
        '""))',
        ("test_store.py",),
    ),
    "other images keep the fingerprint": (
        "data.py",
        "    spec: dict | None = field(init=False, default=None)",
        "    spec: dict | None = None",
        ("test_data.py",),
    ),
    "live runs count beside the recorded": (
        "experiments/ablation.py",
        'if seeds[record["label"]] < 2]',
        "]",
        TABLE1,
    ),
    "images changed in place keep their record": (
        "data.py",
        "if self._count_writes() != self._writes:",
        "if False:",
        ("test_data.py", "test_runs.py"),
    ),
    "a network is tested on images it was trained on": (
        "single_run.py",
        "known != data.fingerprint",
        "False",
        ("test_cli.py",),
    ),
    "weights of other code are today's": (
        "sources/pretrain.py",
        'same_code and read_card(path)["key"] != facts["key"]',
        "False",
        ("test_pretrain.py",),
    ),
    "recorded searches of other images": (
        "experiments/ready.py",
        'return same and same_training({"data": own["data"], "config": own["training"]}, asked)',
        "return same",
        ("test_ready.py",),
    ),
    "the kit's weights replace the user's": (
        "settings.py",
        "for source in self.sources if own else ():",
        "for source in self.sources:",
        ("test_settings.py",),
    ),
    "a target alone of another training": (
        "experiments/claims.py",
        "if ablation.same_training(run, searched)]",
        "if run]",
        CLAIMS,
    ),
}


def survives(file: str, text: str, change: str, tests: tuple[str, ...], copy: Path) -> bool:
    """Whether all these tests pass although `text` has become `change`."""
    path = copy / "ktglite" / file
    original = path.read_text(encoding="utf-8")
    if original.count(text) != 1:
        raise SystemExit(
            f"{file} has {text!r} {original.count(text)} times: update tests/mutants.py"
        )
    path.write_text(original.replace(text, change), encoding="utf-8")
    try:
        files = [str(copy / "tests" / name) for name in tests]
        command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *files]
        run = subprocess.run(
            command, cwd=copy, env=environment(copy), capture_output=True, text=True, timeout=900
        )
    finally:
        path.write_text(original, encoding="utf-8")
    return run.returncode == 0


def environment(copy: Path) -> dict:
    import os

    return os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}


def main() -> None:
    words = sys.argv[1:]
    chosen = {n: m for n, m in MUTANTS.items() if not words or any(word in n for word in words)}
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

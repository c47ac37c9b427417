"""Does a search with Optuna find better settings than the defaults? On 3,000 training rows of California

Each search draws 3,000 training rows, of which 15% are validation rows, and tries `suggest(trial)` on them, with the
defaults as its first trial and `PruneTrial`. The best settings and the defaults are then fitted to all 3,000 rows with
three seeds, and compared on the test rows.

    python benchmarks/tune.py FOLDER --out results/tune

Searches and fits go to OUT/runs.jsonl, a line for each, and the table to OUT/tune.md. What is there is not repeated.
"""
import numpy as np
import pandas as pd
from fastai.tabular.all import set_seed
from files import at_most, markdown, once, options, write_study
from threadpoolctl import threadpool_limits

from dropconnect_tab.bench.datasets import dataset_dls, load_dataset
from dropconnect_tab.bench.files import read_jsonl
from dropconnect_tab.learner import dropconnect_learner
from dropconnect_tab.tune import DEFAULTS, PruneTrial, suggest

ROWS, EPOCHS, BS = 3000, 15, 256


def rmse(dataset, seed, cbs=None, **settings):
    "That of a fit, on the test rows of `dataset`"
    set_seed(seed, reproducible=True)
    learn = dropconnect_learner(dataset_dls(dataset, BS, 'cpu', 'tensors'), seed=seed, cbs=cbs, **settings)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(EPOCHS)
        return learn.validate()[0]**.5


def search(dataset, seed, n_trials):
    "Trials, each with its settings, its epochs and its error on validation rows"
    import optuna
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    valid = dataset.slice()
    study = optuna.create_study(sampler=optuna.samplers.TPESampler(seed=seed),
                                pruner=optuna.pruners.MedianPruner(n_warmup_steps=EPOCHS//2))
    study.enqueue_trial(DEFAULTS)
    study.optimize(lambda trial: rmse(valid, seed, PruneTrial(trial), **suggest(trial)), n_trials)
    return [dict(params=o.params, epochs=len(o.intermediate_values), pruned=o.state.name == 'PRUNED', error=o.value)
            for o in study.trials]


def best(trials): return min((o for o in trials if not o['pruned']), key=lambda o: o['error'])


def settings_of(params):
    "The arguments that `suggest` makes of a trial's parameters"
    from optuna.trial import FixedTrial
    return suggest(FixedTrial(params))


def tune_table(out):
    "For each search what it took, what it found, and how the best settings compare with the defaults"
    lines = read_jsonl(out/'runs.jsonl')
    tests = pd.DataFrame([o for o in lines if 'trials' not in o])
    mean, rows = tests.pivot_table(index='search', columns='settings', values='error'), []
    for line in (o for o in lines if 'trials' in o):
        trials = line['trials']
        found, (best_error, error) = best(trials), mean.loc[line['search'], ['best', 'defaults']]
        other = ', '.join(f"{k}={v:.2g}" if isinstance(v, float) else f'{k}={v}' for k, v in found['params'].items()
                          if v != DEFAULTS[k])
        rows.append([line['search'], f"{sum(o['pruned'] for o in trials)} of {len(trials)}", other or 'none',
                     f"{100*(found['error']/trials[0]['error']-1):+.1f}%", f'{error:.4f}', f'{best_error:.4f}',
                     f'{100*(best_error/error-1):+.1f}%'])
    total = 100*(np.exp(np.log(mean.best/mean.defaults).mean())-1)
    head = ['search', 'pruned trials', 'best settings, other than the defaults', 'on validation rows',
            'test RMSE, defaults', 'test RMSE, best', 'on test rows']
    return (f"California, {ROWS:,} training rows for each search, {EPOCHS} epochs, {tests.seed.nunique()} seeds for each "
            f"test. Percentages: the RMSE of the best settings against that of the defaults.\n\n" +
            '\n'.join(markdown(head, rows)) + f"\nOn test rows, geometric mean: {total:+.1f}%.\n")


def main():
    args = options(__doc__, out='folder', searches=3, trials=16, seeds=3).parse_args()

    def fill(file):
        for i in range(args.searches):
            dataset = at_most(load_dataset('california', args.folder), ROWS, 10**9, i)
            once(file, dict(search=i, settings='searched'), lambda: dict(trials=search(dataset, i, args.trials)))
            trials = next(o['trials'] for o in read_jsonl(file) if o['search'] == i and 'trials' in o)
            for settings, params in dict(defaults=DEFAULTS, best=best(trials)['params']).items():
                for seed in range(args.seeds):
                    once(file, dict(search=i, settings=settings, seed=seed),
                         lambda: dict(error=rmse(dataset, seed, **settings_of(params))))
    with threadpool_limits(1): write_study(args.out, 'tune', fill, tune_table)


if __name__ == '__main__': main()

"""Are the probabilities of the classifier calibrated? Log loss and calibration error, before and after

`DropConnectClassifier` on at most 3,000 training rows of eleven datasets: without a temperature, with the temperature of
rows that are held out (the default), and with that of out-of-bag rows (`calibrate=True`). Next to them XGBoost, stopped
early on validation rows as in `thirty.py`. A dataset's first split is its own; others are random ones of the same size.

    python benchmarks/calibration.py FOLDER --out results/calibration --splits 6 --datasets splice
    python benchmarks/calibration.py FOLDER --out results/calibration

Results go to OUT/runs.jsonl, a line for each fit, and the table to OUT/calibration.md. What is there is not repeated.
"""
import numpy as np
import pandas as pd
import torch
from files import markdown, once, options, split_again, write_study
from oob import calibration_error, load
from thirty import fit_estimator, methods_for

from dropconnect_tab.bench.files import read_jsonl
from dropconnect_tab.bench.runs import errors

DATASETS = ['splice', 'chess', 'hpc', 'credit', 'caravan', 'optdigits', 'satimage', 'marketing', 'lending', 'letter',
            'adult']
OURS = {'no temperature': dict(calibrate=False), 'default': {}, 'out-of-bag rows': dict(calibrate=True)}
XGB = 'xgb'


def probabilities(dataset, method, seed):
    "Those that a method gives to the classes of the test rows"
    if method == XGB: return methods_for(dataset)[XGB].fit(dataset, seed)['pred']
    return fit_estimator(dataset, seed, **OURS[method])['pred']


def fit(dataset, method, seed):
    "Log loss and expected calibration error on the test rows"
    probs, y = probabilities(dataset, method, seed), dataset.targets(dataset.test_idx)
    return dict(loss=errors(probs, y, 'logloss')['logloss'], n_test=len(y),
                ece=calibration_error(torch.as_tensor(probs, dtype=torch.float), torch.as_tensor(y)))


def calibration_table(out):
    "Mean log loss, and mean calibration error, of each method: a row for each dataset and kind of split"
    runs = pd.DataFrame(read_jsonl(out/'runs.jsonl'))
    runs['split_name'] = np.where(runs.split == 0, 'its own', 'random')
    rows = []
    for (name, kind), some in runs.groupby(['dataset', 'split_name'], sort=False):
        mean = some.groupby('method')[['loss', 'ece']].mean()
        best = mean.loss.min()
        losses = [f"{'**' if o == best else ''}{o:.4f}{'**' if o == best else ''}" for o in mean.loss[[*OURS, XGB]]]
        n = some.split.nunique()
        rows.append([name, kind if n == 1 else f'{kind}, {n}', *losses, *(f'{o:.3f}' for o in mean.ece[[*OURS, XGB]])])
    head = ['dataset', 'split', *(f'log loss, {o}' for o in [*OURS, XGB]), *(f'ECE, {o}' for o in [*OURS, XGB])]
    mean = runs[runs.split == 0].groupby('method').ece.mean()
    said = ', '.join(f'{o} {mean[o]:.3f}' for o in [*OURS, XGB])
    return (f"Log loss and expected calibration error (ECE, 15 bins) of test rows, at most 3,000 training rows, seeds: "
            f"{runs.seed.nunique()}.\n\n" + '\n'.join(markdown(head, rows)) +
            f"\nMean ECE of {runs.dataset.nunique()} datasets, with their own splits: {said}.\n")


def main():
    p = options(__doc__, out='folder', seeds=1, splits=1)
    p.add_argument('--datasets', nargs='+', default=DATASETS)
    args = p.parse_args()

    def fill(file):
        for name in args.datasets:
            dataset = load(name, args.folder)
            for split in range(args.splits):
                part = split_again(dataset, split)
                for seed in range(args.seeds):
                    for method in [*OURS, XGB]:
                        once(file, dict(dataset=name, split=split, method=method, seed=seed),
                             lambda: fit(part, method, seed))
    write_study(args.out, 'calibration', fill, calibration_table)


if __name__ == '__main__': main()

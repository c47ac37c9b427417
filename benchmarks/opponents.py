"""Each opponent at work, on a few rows of two tables: TabM, RealMLP, boosted trees, and our default beside them.

Says that they run, and how long; what they are worth is asked on whole tables (defaults.py). Results go to
OUT/<table>-few/, as those of every experiment.

    python benchmarks/opponents.py FOLDER --out results/opponents

FOLDER has california/ and adult/. Runs that are there are not repeated.
"""
from dataclasses import replace

import numpy as np
from files import options

from dropconnect_tab.bench.methods import METHODS
from dropconnect_tab.bench.report import report
from dropconnect_tab.bench.runs import run_methods, dataset_folder
from dropconnect_tab.bench.datasets import load_dataset

ARMS = ['tabm', 'tabm-small', 'realmlp', 'lgbm', 'xgb', 'catboost', 'default']


def few(table, n_train, n_test):
    "Some of the rows of `table`"
    rng = np.random.default_rng(0)
    train, test = (np.sort(rng.choice(idx, n, replace=False))
                   for idx, n in ((table.train_idx, n_train), (table.test_idx, n_test)))
    return replace(table, split='few', train_idx=train, test_idx=test)


def main():
    p = options(__doc__, out='folder', rows=2000, seeds=2, jobs=1)
    args = p.parse_args()
    for name in ('california', 'adult'):
        table = few(load_dataset(name, args.folder), args.rows, args.rows)
        run_methods(table, [METHODS[o] for o in ARMS], args.seeds, args.out, jobs=args.jobs, bs=256)
        print(report(dataset_folder(args.out, table.name, table.split)), '\n')


if __name__ == '__main__': main()

"""Each opponent at work, on a few rows of two tables: TabM, RealMLP, boosted trees, and our default beside them.

Says that they run, and how long; what they are worth is asked on whole tables (defaults.py). Results go to
OUT/<table>-few/, as those of every experiment.

    python benchmarks/opponents.py FOLDER --out results/opponents

FOLDER has california/ and adult/. Runs that are there are not repeated.
"""
import argparse
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np

from dropconnect_tab.bench.methods import METHODS
from dropconnect_tab.bench.report import report
from dropconnect_tab.bench.runs import run_methods, table_folder
from dropconnect_tab.bench.tables import load_table

warnings.filterwarnings('ignore', 'The given NumPy array is not writable')  # fastai under pandas 3

ARMS = ['tabm', 'tabm-small', 'realmlp', 'lgbm', 'xgb', 'catboost', 'default']


def few(table, n_train, n_test):
    "Some of the rows of `table`"
    rng = np.random.default_rng(0)
    train, test = (np.sort(rng.choice(idx, n, replace=False))
                   for idx, n in ((table.train_idx, n_train), (table.test_idx, n_test)))
    return replace(table, split='few', train_idx=train, test_idx=test)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('folder', type=Path)
    p.add_argument('--rows', type=int, default=2000, help="rows to train on, and as many to test on")
    p.add_argument('--seeds', type=int, default=2)
    p.add_argument('--jobs', type=int, default=1, help="runs side by side")
    p.add_argument('--out', type=Path, required=True)
    args = p.parse_args()
    for name in ('california', 'adult'):
        table = few(load_table(name, args.folder), args.rows, args.rows)
        run_methods(table, [METHODS[o] for o in ARMS], args.seeds, args.out, jobs=args.jobs, bs=256)
        print(report(table_folder(args.out, table.name, table.split)), '\n')


if __name__ == '__main__': main()

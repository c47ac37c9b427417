"""Should boosted trees be told which columns are categories, or take their codes as numbers?

Asked of each package on slices of training rows, without test rows; the answer is its default (`METHODS`). A line for
each fit goes to OUT/runs.jsonl, and the table of mean errors to OUT/native.md. What is there is not repeated.

    python benchmarks/native.py FOLDER --out results/native

FOLDER has california/, bike/, adult/, bulldozers-2012/ and bulldozers-codes/.
"""
import warnings

import numpy as np
import pandas as pd
from defaults import load
from fastprogress.fastprogress import progress_bar
from files import markdown, once, options, write_study

from dropconnect_tab.bench.files import read_jsonl
from dropconnect_tab.bench.methods import METHODS
from dropconnect_tab.bench.runs import dataset_errors

warnings.filterwarnings('ignore')

TABLES = ['california', 'bike', 'adult', 'bulldozers', 'codes']
PACKAGES = ['xgb', 'lgbm', 'catboost']


def fit(table, name, native, seed):
    "Error and seconds of one fit"
    found = METHODS[name].variant(native=native).fit(table, seed)
    return dict(error=dataset_errors(table, found['pred'])[table.measure], seconds=round(found['seconds'], 1))


def native_table(out):
    "Mean errors of each package with codes and with categories, and by how much those differ, as Markdown"
    runs = pd.DataFrame(read_jsonl(out/'runs.jsonl'))
    tables = [o for o in TABLES if o in set(runs.table)]
    mean = runs.pivot_table(index=['method', 'native'], columns='table', values=['error', 'seconds'])
    rows = []
    for name in [o for o in PACKAGES if o in set(runs.method)]:
        by_codes, native = (mean.loc[name, o] for o in (False, True))
        diff = [100*(native['error', o]/by_codes['error', o]-1) for o in tables]
        for label, errs in (('codes', by_codes), ('native', native)):
            rows.append([f'{name}, {label}', *(f"{errs['error', o]:.4f}" for o in tables), '',
                         f"{sum(errs['seconds', o] for o in tables):.0f}"])
        rows.append(['native against codes', *(f'{o:+.1f}%' for o in diff), f'{np.mean(diff):+.1f}%', ''])
    seeds = runs.groupby(['table', 'method', 'native']).size().min()
    return (f"Errors on validation rows (RMSE; adult: log loss), means of {seeds} seeds, and seconds of one "
            "fit of each dataset.\n\n" + '\n'.join(markdown(['', *tables, 'mean', 'seconds'], rows)))


def main():
    p = options(__doc__, out='folder', seeds=3)
    p.add_argument('--tables', nargs='+', default=TABLES)
    args = p.parse_args()
    tables = {o: load(o, args.folder).slice() for o in args.tables}
    todo = [(o, name, native, seed) for seed in range(args.seeds) for o in tables for name in PACKAGES
            for native in (False, True)]

    def fill(file):
        for o, name, native, seed in (bar := progress_bar(todo)):
            bar.comment = f'{name} on {o}'
            once(file, dict(table=o, method=name, native=native, seed=seed), lambda: fit(tables[o], name, native, seed))
    write_study(args.out, 'native', fill, native_table)


if __name__ == '__main__': main()

"""Is this tree slower than another commit? The same tasks in both, in turns, and the ratio of each pair.

    python benchmarks/compare.py COMMIT --repeats 7

A process for each turn imports the package from one of the trees, and takes the best of a few times for each task, on
made-up tables. Printed are the median ratio of the pairs (above 1: this tree is slower) and the pairs' range: a change
smaller than the range of a comparison with itself (`HEAD`) says nothing.
"""
import argparse
import json
import os
import subprocess
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
from fastprogress.fastprogress import progress_bar
from files import apart, markdown, options, write_page

root = Path(__file__).resolve().parent.parent


def made_up(n_cat, n_cont, rows):
    "A table of random codes and numbers"
    import pandas as pd
    rng = np.random.default_rng(0)
    df = pd.DataFrame({**{f'k{i}': rng.integers(0, 30, rows) for i in range(n_cat)},
                       **{f'x{i}': rng.normal(size=rows) for i in range(n_cont)}})
    return df.assign(y=rng.normal(size=rows)), [f'k{i}' for i in range(n_cat)], [f'x{i}' for i in range(n_cont)]


def seconds(f, times):
    "The best of a few times"
    found = []
    for _ in range(times):
        start = time.perf_counter()
        f()
        found.append(time.perf_counter()-start)
    return min(found)


def tasks():
    "Task → seconds, with the package that is on the path"
    warnings.filterwarnings('ignore')
    start = time.perf_counter()
    import dropconnect_tab.all as package
    res = {'import': time.perf_counter()-start}
    from fastai.tabular.all import Categorify, FillMissing, Normalize, TabularDataLoaders
    for name, n_cat, n_cont in (('40 categories', 40, 2), ('40 numbers', 1, 40), ('few columns', 2, 3)):
        df, cats, conts = made_up(n_cat, n_cont, 10_000)
        dls = TabularDataLoaders.from_df(df, procs=[Categorify, FillMissing, Normalize], cat_names=cats,
                                         cont_names=conts, y_names='y', bs=256, valid_idx=range(2000), device='cpu')
        learn = package.dropconnect_learner(package.fast_dls(dls))
        with learn.no_bar(), learn.no_logging():
            learn.fit_one_cycle(1)
            res[f'epoch, {name}'] = seconds(lambda: learn.fit_one_cycle(1), 3)
        answer, row = learn.predictor(), df.iloc[0].to_dict()
        res[f'10,000 rows, {name}'] = seconds(lambda: answer(df), 3)
        res[f'one row, {name}'] = seconds(lambda: answer(row), 30)
    return res


def turn(tree):
    "`tasks` in a new process, with the package of a tree"
    return apart(__file__, '--tasks', env={**os.environ, 'PYTHONPATH': str(tree)})


def main():
    p = options(__doc__, folder=None, repeats=5)  # pairs of turns
    p.add_argument('commit', nargs='?', default='HEAD', help="what this tree is compared with")
    p.add_argument('--tasks', action='store_true', help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.tasks: return print(json.dumps(tasks()))
    with tempfile.TemporaryDirectory() as folder:
        there = Path(folder)/'tree'
        subprocess.run(['git', 'worktree', 'add', '-q', '--detach', there, args.commit], cwd=root, check=True)
        try: pairs = [(turn(root), turn(there)) for _ in progress_bar(range(args.repeats))]
        finally: subprocess.run(['git', 'worktree', 'remove', '--force', there], cwd=root, check=True)
    rows = []
    for task in pairs[0][0]:
        here, other = (np.array([o[i][task] for o in pairs]) for i in range(2))
        ratios = here/other
        rows.append([task, f'{np.median(here)*1e3:.1f}', f'{np.median(other)*1e3:.1f}', f'{np.median(ratios):.2f}',
                     f'{ratios.min():.2f} to {ratios.max():.2f}'])
    write_page('\n'.join(markdown(['task', 'here, ms', f'{args.commit}, ms', 'ratio', 'range'], rows)), args.out)


if __name__ == '__main__': main()

"""Time of a fit of `dropconnect_learner` with its defaults, over that of fastai's `tabular_learner`.

Both are fitted for one epoch on the training rows of each table, in batches of the same size, one after the other and
again and again in one process, with fastai's own loader and with `TabTensorDL`. Medians, and their ratio. Besides, two
tables of random numbers with many columns.

    python benchmarks/fit_time.py FOLDER --out benchmarks/fit_time.md

FOLDER has california/, bike/, adult/ and bulldozers-2012/.
"""
import argparse
import platform
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from defaults import TABLES, load
from ensembles import times
from fastprogress.fastprogress import progress_bar
from files import markdown

from dropconnect_tab.bench.files import write_whole
from dropconnect_tab.bench.methods import METHODS
from dropconnect_tab.bench.tables import Table

warnings.filterwarnings('ignore', 'The given NumPy array is not writable')  # fastai under pandas 3

WIDE = {f'{n} random numbers': n for n in (50, 300)}


def wide(n, rows=6000):
    "A table of `n` columns of random numbers"
    df = pd.DataFrame(np.random.default_rng(0).normal(size=(rows, n+1))).add_prefix('c')
    train, test = np.split(np.arange(rows), [5000])
    return Table(f'wide-{n}', 'random', 'all', df, 'c0', [], list(df)[1:], train, test)


def fits_of(bs):
    "The fits that stand side by side"
    common = dict(epochs=1, bs=bs)
    return {'fastai': METHODS['fastai'].variant(**common).fit,
            'default': METHODS['default'].variant(**common, loader='fastai').fit,
            'default, TabTensorDL': METHODS['default'].variant(**common, loader='tensors').fit}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('folder', type=Path)
    p.add_argument('--repeats', type=int, default=5)
    p.add_argument('--tables', nargs='+', default=list(TABLES))
    p.add_argument('--out', type=Path, help="file for the table, else it is printed only")
    args = p.parse_args()
    names = list(fits_of(1))
    head = ['table', 'rows', *(f'{o}, seconds' for o in names), *(f'{o}, ratio' for o in names[1:])]
    rows = []
    for name in (bar := progress_bar([*args.tables, *WIDE])):
        table = wide(WIDE[name]) if name in WIDE else load(name, args.folder)
        _, bs = TABLES.get(name, (None, 256))
        found = times(table, fits_of(bs), args.repeats, lambda o: setattr(bar, 'comment', f'{name}, {o}'))
        base, *others = found.values()
        times_ratios = [*(f'{v:.2f}' for v in found.values()), *(f'{v/base:.1f}' for v in others)]
        rows.append([name, f'{len(table.train_idx):,}', *times_ratios])
    text = '\n'.join([
        '# Time of a fit', '', f'One epoch, validation included; medians of {args.repeats} interleaved repeats; '
        f'{torch.get_num_threads()} threads, {platform.system()}, torch {torch.__version__}.',
        '', *markdown(head, rows)])
    print(text)
    if args.out: write_whole(args.out, lambda f: f.write_text(text, encoding='utf-8'))


if __name__ == '__main__': main()

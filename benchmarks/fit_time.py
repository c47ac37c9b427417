"""Time of a fit of `dropconnect_learner` with its defaults, over that of fastai's `tabular_learner`.

Both are fitted for one epoch on the training rows of each table, in batches of the same size, one after the other and
again and again in one process, with fastai's own loader and with `TabTensorDL`. Medians, and their ratio. Besides, two
tables of random numbers with many columns.

    python benchmarks/fit_time.py FOLDER --out benchmarks/fit_time.md

FOLDER has california/, bike/, adult/ and bulldozers-2012/.
"""
import numpy as np
import pandas as pd
from defaults import TABLES, load
from files import interleaved, machine, markdown, options, write_page

from dropconnect_tab.bench.methods import METHODS
from dropconnect_tab.bench.datasets import Dataset

WIDE = {f'{n} random numbers': n for n in (50, 300)}


def wide(n, rows=6000):
    "A table of `n` columns of random numbers"
    df = pd.DataFrame(np.random.default_rng(0).normal(size=(rows, n+1))).add_prefix('c')
    train, test = np.split(np.arange(rows), [5000])
    return Dataset(f'wide-{n}', 'random', 'all', df, 'c0', [], list(df)[1:], train, test)


def fits_of(bs):
    "The fits that stand side by side"
    common = dict(epochs=1, bs=bs)
    return {'fastai': METHODS['fastai'].variant(**common).fit,
            'default': METHODS['default'].variant(**common, loader='fastai').fit,
            'default, TabTensorDL': METHODS['default'].variant(**common, loader='tensors').fit}


def main():
    p = options(__doc__, repeats=5)
    p.add_argument('--tables', nargs='+', default=list(TABLES))
    args = p.parse_args()
    names = list(fits_of(1))
    head = ['dataset', 'rows', *(f'{o}, seconds' for o in names), *(f'{o}, ratio' for o in names[1:])]
    rows = []
    for name in [*args.tables, *WIDE]:
        table = wide(WIDE[name]) if name in WIDE else load(name, args.folder)
        _, bs = TABLES.get(name, (None, 256))
        fits = {k: lambda fit=fit: fit(table, 0)['seconds'] for k, fit in fits_of(bs).items()}
        found = interleaved(fits, args.repeats, name)
        base, *others = found.values()
        times_ratios = [*(f'{v:.2f}' for v in found.values()), *(f'{v/base:.1f}' for v in others)]
        rows.append([name, f'{len(table.train_idx):,}', *times_ratios])
    text = '\n'.join([
        '# Time of a fit', '', f'One epoch, validation included; medians of {args.repeats} interleaved repeats; '
        f'{machine()}.', '', *markdown(head, rows)])
    write_page(text, args.out)


if __name__ == '__main__': main()

"""How much dropout do the learner's nets want, by the number of training rows? And what do few inputs per neuron do there?

Tried on slices of training rows, with few inputs per neuron and with all (`weight_p=0`).

The small tables are cut into training rows and slice eight times, at random; of the larger ones, random rows are taken,
and the latest where rows have times are the slice. Three of them are there twice, with their numbers to predict cut
into three classes. Results go to OUT/runs.jsonl, a line for each fit, and the table to OUT/dropout.md. What is there is
not repeated.

    python benchmarks/dropout.py FOLDER --out results/dropout --jobs 2
"""
from dataclasses import replace

import numpy as np
import pandas as pd
from files import markdown, options, side_by_side, write_study
from settings import TABLES, fit
from thirty import load

from dropconnect_tab.bench.files import read_jsonl

SMALL = ['diabetes', 'breast_cancer', 'wine']
LARGE = ['california', 'bike', 'adult', 'bulldozers-2012', 'bulldozers-codes']
CUT = [f'{o}-classes' for o in ('california', 'bike', 'bulldozers-2012')]
ROWS = {1000: (30, 64), 3000: (20, 128), 8000: (12, 256)}  # epochs, rows in a batch
PS = (0., .1, .3, .5)
STARTS = {'few inputs': None, 'dense': 0.}  # and their `weight_p`


def in_classes(table):
    "`table` with thirds of the training rows' targets in place of numbers"
    y = table.df[table.y_name]
    thirds = np.searchsorted(y.iloc[table.train_idx].quantile([1/3, 2/3]), y)
    return replace(table, df=table.df.assign(**{table.y_name: np.array(['low', 'middle', 'high'])[thirds]}))


def whole(name, folder):
    "The training rows of a large table, with a slice of them as its test rows"
    if name in CUT: return in_classes(whole(name.removesuffix('-classes'), folder))
    return load(name, folder).slice()


def cuts():
    "Name, rows (None: as many as there are) and seed of each cut, the first seeds first"
    small = [(name, None, seed) for seed in range(8) for name in SMALL]
    return small + [(name, rows, seed) for seed in range(2) for name in LARGE+CUT for rows in ROWS]


def cut(name, rows, seed, folder):
    "The table of a cut, its epochs and the rows in a batch"
    rng = np.random.default_rng(seed)
    if name in SMALL:
        table = load(name, folder)
        held = rng.permutation(table.train_idx)[:round(.2*len(table.train_idx))]
        return replace(table, slice_idx=np.sort(held)).slice(), *TABLES[name]
    table = whole(name, folder)
    train, test = (np.sort(rng.permutation(o)[:n]) for o, n in ((table.train_idx, rows), (table.test_idx, 3000)))
    return replace(table, train_idx=train, test_idx=test), *ROWS[rows]


def fits(name, rows, seed, folder):
    "A line for each start and each amount of dropout on a cut"
    table, epochs, bs = cut(name, rows, seed, folder)
    return [dict(table=name, cut=rows, rows=len(table.train_idx), start=start, seed=seed, ps=ps,
                 **fit(table, seed, epochs, bs, ps=ps, weight_p=weight_p))
            for start, weight_p in STARTS.items() for ps in PS]


def key(line): return line['table'], line['cut'], line['seed']  # a table may have fewer rows than are asked for


def dropout_table(out):
    "Mean error of each amount of dropout on each cut, over that of none; few inputs over dense. As Markdown"
    runs = pd.DataFrame(read_jsonl(out/'runs.jsonl'))
    mean = runs.pivot_table(index=['rows', 'table'], columns=['start', 'ps'], values='error')
    fits = runs.groupby(['rows', 'table']).seed.nunique()
    head = ['dataset', 'rows', 'fits', 'error at 0', *(f'at {o}' for o in PS[1:]), *(f'dense at {o}' for o in PS)]
    rows = []
    for (n, name), row in mean.iterrows():
        few, dense = row['few inputs'], row['dense']
        rows.append([name, str(n), str(fits[n, name]), f'{few[0.]:.4f}',
                     *(f'{100*(few[o]/few[0.]-1):+.1f}%' for o in PS[1:]),
                     *(f'{100*(few[o]/dense[o]-1):+.1f}%' for o in PS)])
    return ('Error on validation rows by dropout (`ps`): the mean without dropout, and the difference from it with '
            'dropout. Then the difference of a sparse initialization from a dense one with the same dropout. In '
            'datasets whose name ends in `-classes`, the target is cut into thirds: low, middle or high.\n\n'
            + '\n'.join(markdown(head, rows)))


def main():
    args = options(__doc__, out='folder', jobs=1).parse_args()
    from dropout import fits  # by its name: what a script has of its own cannot go to other processes

    def fill(file):
        there = {key(o) for o in read_jsonl(file)}
        todo = [(*o, args.folder.resolve()) for o in cuts() if o not in there]
        side_by_side(file, fits, todo, args.jobs)
    write_study(args.out, 'dropout', fill, dropout_table)


if __name__ == '__main__': main()

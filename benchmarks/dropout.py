"""How much dropout do the learner's nets want, by the number of training rows? And what do few inputs a unit do there?

Tried on slices of training rows, with few inputs a unit and with all (`weight_p=0`).

The small tables are cut into training rows and slice eight times, at random; of the larger ones, random rows are taken,
and the latest where rows have times are the slice. Results go to OUT/runs.jsonl, a line for each fit, and the table
to OUT/dropout.md. What is there is not repeated.

    python benchmarks/dropout.py FOLDER --out results/dropout
"""
import argparse
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
from defaults import TABLES, load
from fastprogress.fastprogress import progress_bar
from files import markdown, once
from settings import fit

from dropconnect_tab.bench.files import lock_folder, read_jsonl, write_whole

warnings.filterwarnings('ignore')

SMALL = ['diabetes', 'breast_cancer', 'wine']
LARGE = ['california', 'bike', 'adult', 'bulldozers', 'bulldozers-codes']
ROWS = {1000: (30, 64), 3000: (20, 128), 8000: (12, 256)}  # epochs, rows in a batch
PS = (0., .1, .3, .5)
STARTS = {'few inputs': None, 'dense': 0.}  # and their `weight_p`


def cuts(folder):
    "Name, rows, seed, epochs, batch size and table of each cut"
    for name in SMALL:
        whole, (epochs, bs) = load(name, folder), TABLES[name]
        for seed in range(8):
            held = np.random.default_rng(seed).permutation(whole.train_idx)[:round(.2*len(whole.train_idx))]
            table = replace(whole, slice_idx=np.sort(held)).slice()
            yield name, len(table.train_idx), seed, epochs, bs, table
    for name in LARGE:
        whole = load(name, folder).slice()
        for seed in range(2):
            for rows, (epochs, bs) in ROWS.items():
                rng = np.random.default_rng(seed)
                train, test = (np.sort(rng.permutation(o)[:n])
                               for o, n in ((whole.train_idx, rows), (whole.test_idx, 3000)))
                yield name, rows, seed, epochs, bs, replace(whole, train_idx=train, test_idx=test)


def dropout_table(out):
    "Mean error of each amount of dropout on each cut, over that of none; few inputs over dense. As Markdown"
    runs = pd.DataFrame(read_jsonl(out/'runs.jsonl'))
    mean = runs.pivot_table(index=['rows', 'table'], columns=['start', 'ps'], values='error')
    fits = runs.groupby(['rows', 'table']).seed.nunique()
    head = ['table', 'rows', 'fits', 'error at 0', *(f'at {o}' for o in PS[1:]), *(f'dense at {o}' for o in PS)]
    rows = []
    for (n, name), row in mean.iterrows():
        few, dense = row['few inputs'], row['dense']
        rows.append([name, str(n), str(fits[n, name]), f'{few[0.]:.4f}', *(f'{100*(few[o]/few[0.]-1):+.1f}%' for o in PS[1:]),
                     *(f'{100*(few[o]/dense[o]-1):+.1f}%' for o in PS)])
    return ('Error on slices of training rows by dropout (`ps`): the mean at none, and by how much others differ. Then by '
            'how much a start with few inputs differs from a dense one with the same dropout.\n\n'
            + '\n'.join(markdown(head, rows)))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('folder', type=Path)
    p.add_argument('--out', type=Path, required=True)
    args = p.parse_args()
    with lock_folder(args.out):
        for name, rows, seed, epochs, bs, table in progress_bar(list(cuts(args.folder))):
            for start, weight_p in STARTS.items():
                for ps in PS:
                    once(args.out/'runs.jsonl', dict(table=name, rows=rows, start=start, seed=seed, ps=ps),
                         lambda: fit(table, seed, epochs, bs, ps=ps, weight_p=weight_p))
        text = dropout_table(args.out)
        write_whole(args.out/'dropout.md', lambda f: f.write_text(text, encoding='utf-8'))
    print(text)


if __name__ == '__main__': main()

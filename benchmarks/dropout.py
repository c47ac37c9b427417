"""How much dropout do the learner's nets want, by the number of training rows? Tried on slices of training rows.

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
LARGE = ['california', 'bike', 'adult', 'bulldozers']
ROWS = {1000: (30, 64), 3000: (20, 128)}  # epochs, rows in a batch
PS = (.1, .3, .5)


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
        for rows, (epochs, bs) in ROWS.items():
            for seed in range(2):
                rng = np.random.default_rng(seed)
                train, test = (np.sort(rng.permutation(o)[:n])
                               for o, n in ((whole.train_idx, rows), (whole.test_idx, 3000)))
                yield name, rows, seed, epochs, bs, replace(whole, train_idx=train, test_idx=test)


def dropout_table(out):
    "Mean error of each amount of dropout on each cut, over that of the least, as Markdown"
    runs = pd.DataFrame(read_jsonl(out/'runs.jsonl'))
    mean = runs.pivot_table(index=['rows', 'table'], columns='ps', values='error')
    head, rows = ['table', 'rows', 'fits', f'error at {PS[0]}', *(f'at {o}' for o in PS[1:])], []
    for (n, name), row in mean.iterrows():
        fits = len(runs[(runs.rows == n) & (runs.table == name) & (runs.ps == PS[0])])
        more = [f'{100*(row[o]/row[PS[0]]-1):+.1f}%' for o in PS[1:]]
        rows.append([name, str(n), str(fits), f'{row[PS[0]]:.4f}', *more])
    said = 'Error on slices of training rows by dropout (`ps`): the mean at the least, and by how much others differ.'
    return said+'\n\n'+'\n'.join(markdown(head, rows))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('folder', type=Path)
    p.add_argument('--out', type=Path, required=True)
    args = p.parse_args()
    with lock_folder(args.out):
        for name, rows, seed, epochs, bs, table in progress_bar(list(cuts(args.folder))):
            for ps in PS:
                once(args.out/'runs.jsonl', dict(table=name, rows=rows, seed=seed, ps=ps),
                     lambda: fit(table, seed, epochs, bs, ps=ps))
        text = dropout_table(args.out)
        write_whole(args.out/'dropout.md', lambda f: f.write_text(text, encoding='utf-8'))
    print(text)


if __name__ == '__main__': main()

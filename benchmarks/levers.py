"""Which settings of `dropconnect_learner` pay on many datasets? One change at a time, judged on validation rows.

At most 4,000 training rows (`--rows`) of 29 of the datasets of thirty.py, split off their training rows, and the
epochs that thirty.py gives them. `grants`, with 1,502 columns, is left out: it takes as long as all others together. A
setting is worth having if it gains on both halves of the datasets, every second one by size, and costs little on its
worst.
All fits have `FusedAdam`, but for those with Muon, which is the default of classifiers.

    python benchmarks/levers.py FOLDER --out results/levers --jobs 2

FOLDER has what thirty.py needs. Results go to OUT/runs.jsonl, a line for each fit, and the table to OUT/levers.md. What
is there is not repeated.
"""
from dataclasses import replace
from functools import lru_cache, partial

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from fastai.tabular.all import set_seed, tabular_learner
from files import at_most, markdown, options, percent, side_by_side, write_study
from scipy.stats import gmean
from thirty import DATASETS, load, usual_epochs
from torch import nn

from dropconnect_tab.all import best_temperature, dropconnect_learner
from dropconnect_tab.bench.datasets import dataset_dls
from dropconnect_tab.bench.files import read_jsonl
from dropconnect_tab.bench.runs import errors
from dropconnect_tab.embeddings import ContEmbedding, _n_bins
from dropconnect_tab.layers import MemberDropout, _each_layer
from dropconnect_tab.learner import _defaults, _opt_func
from dropconnect_tab.masks import few_inputs
from dropconnect_tab.optimizer import FusedAdam

FASTAI = 'fastai'
VARIANTS = {
    'default': {}, FASTAI: {},
    'one member': dict(members=1), 'shared embeddings': dict(own_embeds=False), 'no bins': dict(n_bins=0),
    'dense': dict(weight_p=0), **{f'{n} columns a neuron': dict(columns=n) for n in (2, 8, 16)},
    'outliers as they are': dict(cont_scale=False), 'half the bins': dict(bins=.5), 'twice the bins': dict(bins=2),
    'bins of 200 rows': dict(rows_of_bin=200),
    **{f'ps={o}': dict(ps=o) for o in (0, .1, .3, .5)}, **{f'lr={o}': dict(lr=o) for o in (.005, .02)},
    'wd=0.1': dict(wd=.1), 'batches of 128': dict(bs=128), 'batches of 512': dict(bs=512),
    'Muon': dict(muon=True), **{f'Muon, ps={o}': dict(muon=True, ps=o) for o in (.1, .5)},
    'Muon, wd=0.1': dict(muon=True, wd=.1),
    **{f'adapters, {n} members': dict(adapters=1., members=n) for n in (8, 16, 32)},
    'adapters for half of the columns, 32 members': dict(adapters=.5, members=32),
    'rows of a batch by member': dict(apart=8), 'embeddings that extrapolate': dict(extrapolate=True),
    'dropout by member': dict(own_dropout=True)}
# Settings that are not the learner's arguments
OF_LEARNER = 'bs', 'muon', 'adapters', 'apart', 'extrapolate', 'own_dropout'


def few_columns(n, dls):
    "The mask by which a neuron of the first layer starts with `n` columns; in the next layer it is the default's"
    n_cols = len(dls.cat_names)+len(dls.cont_names)
    first = dict(weight_p={'layers.0.0': 1-n/n_cols}, unit='feature') if n < n_cols else dict(weight_p={})
    return first | dict(weight_p={**first['weight_p'], 'layers.1.0': few_inputs(200)})


def at_least_two(n): return dict(n_bins=n if n > 1 else 0)


def some_bins(times, dls):
    "So many times the number of bins that is the default"
    return at_least_two(round(times*_n_bins(dls.train_ds)) if dls.cont_names else 0)


def bins_of(rows, dls):
    "Bins of `rows` rows, 48 at most, as in regression"
    return at_least_two(min(48, len(dls.train_ds)//rows))


CHOSEN = dict(columns=few_columns, bins=some_bins, rows_of_bin=bins_of)  # what a setting of this name makes of the data


class Adapted(nn.Module):
    "A layer that members share, but for a factor of each input and of each output, and a bias (Wen et al. 2020)"
    def __init__(self, members, n_in, n_out, factors=None):
        super().__init__()
        self.weight = nn.Linear(n_in, n_out).weight
        self.of_inputs = nn.Parameter(torch.ones(members, n_in, 1) if factors is None else factors[..., None])
        self.of_outputs = nn.Parameter(torch.ones(members, n_out, 1))
        self.bias = nn.Parameter(torch.empty(members, n_out, 1).uniform_(-n_in**-.5, n_in**-.5))

    def forward(self, x):  # (1, K·I, B)
        x = x.unflatten(1, (len(self.bias), -1))[0]*self.of_inputs  # (K, I, B)
        return torch.addcmul(self.bias, self.weight @ x, self.of_outputs).flatten(0, 1)[None]


def share_layers(model, share):
    """Put adapted layers in the place of the hidden ones. Factors of a column's inputs start at -1 or 1, as in TabM
    (Gorishniy et al. 2024), for `share` of the columns, and at 0 for the others"""
    blocks, groups = model.layers[:-1], torch.tensor(model.column_groups)
    for i, block in enumerate(blocks):
        old, factors = block[0], None
        if i == 0:
            signs = torch.randint(0, 2, (model.members, len(groups)))*2.-1
            kept = torch.rand_like(signs).argsort(1) < max(1, round(share*len(groups)))
            factors = (signs*kept/share**.5).repeat_interleave(groups, 1)
        block[0] = Adapted(model.members, old.in_features, old.out_features, factors)


class Extrapolating(ContEmbedding):
    "Beyond the training rows, where the embeddings are constant, their linear part goes on"
    def forward(self, x):
        beyond = (x - x.clamp(self.low, self.high)).T[:, None]*self.embed.linear0.weight[..., None]
        k = self.members
        return super().forward(x) + (beyond.unflatten(1, (k, -1)).permute(3, 1, 0, 2) if k else beyond.permute(2, 0, 1))


def drop_by_member(layer):
    "A layer of members, whose dropout drops other positions in each"
    return nn.Dropout(layer.p) if isinstance(layer, MemberDropout) else layer


def learner_for(variant, dls, seed):
    if variant == FASTAI: return tabular_learner(dls, lr=1e-2)
    more = VARIANTS[variant]
    given = {k: v for k, v in more.items() if k not in OF_LEARNER}
    for k in [o for o in given if o in CHOSEN]: given.update(CHOSEN[k](given.pop(k), dls))
    if 'adapters' in more: given.update(own_embeds=False, weight_p=0)
    if 'apart' in more: given.update(members=1, config=dict(
        cont_emb_sz=_defaults(len(dls.train_ds), len(dls.cont_names), [], True)['cont_emb_sz']))
    learn = dropconnect_learner(dls, seed=seed, opt_func=FusedAdam, **given)
    if 'adapters' in more: share_layers(learn.model, more['adapters'])
    if 'own_dropout' in more: _each_layer(learn.model.layers, drop_by_member)
    if 'extrapolate' in more and learn.model.cont_embed: learn.model.cont_embed.__class__ = Extrapolating
    if 'muon' in more: learn.opt_func = _opt_func(learn.model, float('inf'), classes=True)  # however few rows
    return learn


@lru_cache
def part_of(name, folder, rows):
    "The slice of a dataset, with at most `rows` rows to train on, and as many to judge by"
    return replace(at_most(load(name, folder).slice(), rows, rows), times=None)


def predict(variant, dataset, seed):
    "Fit, and predict the validation rows"
    learn = learner_for(variant, dataset_dls(dataset, VARIANTS[variant].get('bs'), 'cpu', 'tensors'), seed)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(usual_epochs(len(dataset.train_idx)))
        return learn.get_preds()


def fit(name, variant, seed, folder, rows):
    "The error on the validation rows, and for classes that after the temperature that suits them best"
    torch.set_num_threads(1)
    dataset, apart = part_of(name, folder, rows), VARIANTS[variant].get('apart', 1)
    set_seed(seed, reproducible=True)
    # Members that share nothing, each with its own rows in a batch, are networks that are trained apart
    preds, targs = map(torch.stack, zip(*(predict(variant, dataset, seed*apart+i) for i in range(apart))))
    preds, targs = preds.mean(0), targs[0]
    key = dict(dataset=name, variant=variant, seed=seed, rows=rows)
    if not dataset.classes:
        return [{**key, **errors(preds.numpy(), dataset.targets(dataset.test_idx), 'rmse')}]
    logs, targs = preds.clamp_min(1e-9).log(), targs.flatten().long()
    cooled = (logs/best_temperature(logs, targs)).log_softmax(1)
    return [dict(**key, logloss=float(F.nll_loss(logs, targs)), calibrated=float(F.nll_loss(cooled, targs)))]


def ratios(runs, measure, base='default'):
    """Error over that of the default with the same seed, geometric mean over seeds. A row for each dataset, in their
    order by size, and a column for each variant"""
    error = runs.pivot_table(index=['dataset', 'seed'], columns='variant', values=measure).dropna(how='all')
    res = np.exp(np.log(error.div(error[base], axis=0)).groupby(level='dataset').mean())
    return res.loc[sorted(res.index, key=DATASETS.index), [o for o in VARIANTS if o in res]]


def summary(ratio, seeds):
    "Each variant, with its number of seeds, over all datasets, and over each half of them"
    rows = []
    for name, x in ratio.drop(columns='default').items():
        x = x.dropna()
        means = [percent(gmean(o)) if len(o) else '' for o in (x, x[::2], x[1::2])]
        rows.append([name, len(x), seeds[name], *means, (x < .995).sum(), (x > 1.005).sum(),
                     f'{percent(x.max())} ({x.idxmax()})', f'{percent(x.min())} ({x.idxmin()})'])
    return markdown(['instead of the default', 'datasets', 'seeds', 'geometric mean', 'half', 'other half', 'over .5% lower',
                     'over .5% higher', 'highest', 'lowest'], rows)


def levers_table(out):
    "For each variant its error over the default's, regression and classification apart"
    runs = pd.DataFrame(read_jsonl(out/'runs.jsonl'))
    head = (f"At most {runs.rows.max():,} training rows. All but Muon with `FusedAdam`. Halves: every second dataset by "
            "size.")
    res, each = ['Error on validation rows over that of the default.', head, ''], []
    for measure, title in (('rmse', 'Regression: RMSE'), ('logloss', 'Classification: log loss'),
                           ('calibrated', 'Classification: log loss at the best temperature')):
        if measure not in runs: continue
        ratio, seeds = ratios(runs, measure), runs.dropna(subset=measure).groupby('variant').seed.nunique()
        res += [f'## {title}', '', *summary(ratio, seeds)]
        each += [f'## By dataset. {title}', '', *markdown(
            ['dataset', *ratio.columns[1:]], [[k, *map(percent, o[1:])] for k, o in ratio.iterrows()])]
    return '\n'.join(res+each)


def main():
    p = options(__doc__, out='folder', seeds=1, jobs=1, rows=4000)
    p.add_argument('--datasets', nargs='+', default=[o for o in DATASETS if o != 'grants'])
    p.add_argument('--variants', nargs='+', default=list(VARIANTS))
    args = p.parse_args()

    def fill(file):
        runs = read_jsonl(file)
        if other := {o['rows'] for o in runs} - {args.rows}: raise SystemExit(
            f"{file} has fits of at most {other.pop()} rows, and --rows is {args.rows}: give another --out")
        there = {(o['dataset'], o['variant'], o['seed']) for o in runs}
        todo = [(n, v, s) for s in range(args.seeds) for v in args.variants for n in args.datasets]
        run = partial(fit, folder=args.folder, rows=args.rows)
        side_by_side(file, run, [o for o in todo if o not in there], args.jobs)
    write_study(args.out, 'levers', fill, levers_table)


if __name__ == '__main__': main()

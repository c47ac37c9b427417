"""How many bins of numerical embeddings, and how much dropout, for classifiers with few rows?

`dropconnect_learner` on at most 4,000 training rows of ten datasets, judged on validation rows, next to fastai's model with
the same epochs. Variants: more dropout, the bins of a regression (200 rows each), both of these, and no bins.

    python benchmarks/bins.py --out results/bins

Results go to OUT/runs.jsonl, a line for each fit, and the table to OUT/bins.md. What is there is not repeated.
"""
from dataclasses import replace

import numpy as np
import pandas as pd
import torch.nn.functional as F
from fastai.tabular.all import *
from files import at_most, markdown, once, options, write_study

from dropconnect_tab.all import best_temperature, dropconnect_learner
from dropconnect_tab.bench.datasets import dataset_dls
from dropconnect_tab.bench.files import read_jsonl
from dropconnect_tab.bench.packaged import load_packaged

DATASETS = ['splice', 'chess', 'hpc', 'credit', 'optdigits', 'satimage', 'marketing', 'lending', 'caravan', 'letter']
ROWS, EPOCHS = 4000, 20
VARIANTS = ['default', 'dropout .5', 'bins of 200 rows', 'both', 'no bins', 'fastai']


def load(name):
    "The slice of a dataset, with at most `ROWS` rows to train on and as many to judge by"
    return replace(at_most(load_packaged(name).slice(), ROWS, ROWS), times=None)


def learner_for(variant, dls, n, seed):
    if variant == 'fastai': return tabular_learner(dls, lr=1e-2)
    bins = dict(n_bins=min(48, n//200)) if variant in ('bins of 200 rows', 'both') else {}
    return dropconnect_learner(dls, seed=seed, ps=.5 if variant in ('dropout .5', 'both') else None,
                               **(dict(n_bins=0) if variant == 'no bins' else bins))


def fit(dataset, variant, seed):
    "Log loss on the validation rows, before and after the temperature that suits them best"
    set_seed(seed, reproducible=True)
    dls = dataset_dls(dataset, None, 'cpu', 'tensors')
    learn = learner_for(variant, dls, len(dataset.train_idx), seed)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(EPOCHS)
        probs, targs = learn.get_preds()
    logs, targs = probs.clamp_min(1e-9).log(), targs.flatten().long()
    t = best_temperature(logs, targs)
    return dict(loss=float(F.nll_loss(logs, targs)), cooled=float(F.nll_loss((logs/t).log_softmax(1), targs)),
                temperature=t)


def bins_table(out):
    "Log loss of each variant over that of the default, and the geometric mean"
    runs = pd.DataFrame(read_jsonl(out/'runs.jsonl'))
    loss = runs.pivot_table(index='dataset', columns='variant', values='loss', sort=False)
    ratio = loss.div(loss['default'], axis=0)[[o for o in VARIANTS if o in loss]]
    rows = [[k, f"{loss['default'][k]:.4f}", *(f'{100*(v-1):+.1f}%' for v in o[1:])] for k, o in ratio.iterrows()]
    rows.append(['geometric mean', '', *(f'{100*(v-1):+.1f}%' for v in np.exp(np.log(ratio).mean())[1:])])
    rows.append(['highest', '', *(f'{100*(v-1):+.1f}%' for v in ratio.max()[1:])])
    return (f"Log loss of validation rows after {EPOCHS} epochs on at most {ROWS:,} training rows, and how much higher or "
            f"lower it is with other settings. Seeds: {runs.seed.nunique()}.\n\n" +
            '\n'.join(markdown(['dataset', *ratio], rows)))


def main():
    p = options(__doc__, folder=None, out='folder', seeds=1)
    p.add_argument('--datasets', nargs='+', default=DATASETS)
    args = p.parse_args()

    def fill(file):
        for seed in range(args.seeds):
            for name in args.datasets:
                dataset = load(name)
                for variant in VARIANTS:
                    once(file, dict(dataset=name, variant=variant, seed=seed), lambda: fit(dataset, variant, seed))
    write_study(args.out, 'bins', fill, bins_table)


if __name__ == '__main__': main()

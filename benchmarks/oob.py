"""What do out-of-bag rows cost, how near is their score to the test's, and what do temperatures and intervals give?

On at most 3,000 training rows of sixteen datasets. A variant says which fraction of the rows is left out, and by how many
of the eight members. `off` is the learner with all rows. Seed 0 has the dataset's own split, other seeds random ones
(Bike keeps its days). `kept rows' statistics` is the second variant with batch statistics of each member that leave these
rows out, too. Of classifiers, several ways to fit a temperature are compared, with probmetrics as reference.

    python benchmarks/oob.py FOLDER --out results/oob

FOLDER has california/, bike/ and adult/; the other datasets come with packages. Results go to OUT/runs.jsonl, a line for
each fit, and the tables to OUT/oob.md. What is there is not repeated.
"""
import time
from importlib.util import find_spec

import numpy as np
import pandas as pd
from fastai.tabular.all import *
from files import at_most, interleaved, markdown, once, options, percent, split_again, write_study
from scipy.stats import gmean

from dropconnect_tab.all import best_temperature, dropconnect_learner
from dropconnect_tab.bench.datasets import dataset_dls, load_dataset
from dropconnect_tab.bench.files import read_jsonl
from dropconnect_tab.bench.packaged import load_packaged, packaged
from dropconnect_tab.members import average_members, no_average
from dropconnect_tab.oob import _collect, _left_out

DATASETS = ['splice', 'letter', 'lending', 'credit', 'satimage', 'marketing', 'optdigits', 'chess', 'hpc', 'adult',
            'california', 'cps1988', 'deliveries', 'diabetes', 'insteval', 'bike']
ROWS, EPOCHS, BS = 3000, 15, 256
VARIANTS = {'off': {}, 'all by 1': dict(oob=1., oob_members=1), '1/2 by 2': dict(oob=.5, oob_members=2),
            '1/4 by 4': dict(oob=.25, oob_members=4), 'all by 2': dict(oob=1., oob_members=2),
            "kept rows' statistics": dict(oob=.5, oob_members=2, kept_norm=True)}
TIMED = 'off', '1/2 by 2'  # variants whose epochs are timed, on datasets of all kinds of columns
EPOCHS_OF = 'california', 'adult', 'letter'
REFERENCES = {'probmetrics, temperature': 'guo-ts', 'probmetrics, by class': 'svs'}


class KeptNorm(nn.BatchNorm1d):
    "Batch normalization of members, (1, members × neurons, rows), whose statistics in training are of the rows they keep"
    kept = None  # (members, rows): which member learns from which row

    def forward(self, x):
        if not self.training: return super().forward(x)
        weight = (self.kept/self.kept.sum(1, keepdim=True)).repeat_interleave(x.shape[1]//len(self.kept), 0)
        mean = (x*weight).sum((0, 2))
        var = ((x-mean[:, None]).square()*weight).sum((0, 2))
        for stat, new in ((self.running_mean, mean), (self.running_var, var)): stat.lerp_(new.detach(), self.momentum)
        return (x-mean[:, None])*((var+self.eps).rsqrt()*self.weight)[:, None] + self.bias[:, None]


def norm_of_kept_rows(model):
    "Leave the rows that a member does not learn from out of its batch statistics"
    norms = [o for o in model.layers.modules() if isinstance(o, nn.BatchNorm1d)]
    for o in norms: o.__class__ = KeptNorm

    def tell(_, xb):
        if not model.training: return
        for o in norms: o.kept = (~model.leave_out(*xb)).float().T
    model.register_forward_pre_hook(tell)


def load(name, folder, n_train=ROWS, n_test=ROWS):
    "A dataset with at most so many rows to train and to test on"
    return at_most(load_packaged(name) if name in packaged else load_dataset(name, folder), n_train, n_test)


def calibration_error(probs, targs, n_bins=15):
    "Expected calibration error of the most probable class"
    sure, best = probs.max(1)
    right, bins = (best == targs).float(), (sure*n_bins).long().clamp(max=n_bins-1)
    return float(sum((right[bins == i].mean()-sure[bins == i].mean()).abs()*(bins == i).float().mean()
                     for i in bins.unique()))


def members_outputs(learn):
    "Outputs of each member for the test rows, (rows, members, outputs), and targets"
    with no_average(learn.model): outputs, _, targs, _ = _collect(learn, learn.dls.valid)
    return outputs, targs if targs.is_floating_point() else targs.long()


def score(outputs, targs, classes):
    "Log loss, or mean squared error, of the average of members"
    if not classes: return float(((outputs.mean(1).flatten()-targs.flatten())**2).mean())
    return float(F.cross_entropy(average_members(outputs, 'softmax'), targs.flatten()))


def score_of(n, outputs, targs, classes):
    "Mean score of the averages of `n` members each"
    return float(np.mean([score(o, targs, classes) for o in outputs.split(n, 1) if o.shape[1] == n]))


def temperature_of_members(outputs, targs):
    "The temperature by which each member's outputs are divided before they are averaged"
    grid = torch.linspace(-1.5, 1.5, 61).exp()
    return float(min(grid, key=lambda t: score(outputs/t, targs, True)))


def temperatures(learn, test, y):
    "Log loss of the test rows with temperatures that are fitted in several ways, each on out-of-bag rows"
    outputs, left, targs, _ = _left_out(learn)
    targs, each = targs[left.any(1)].flatten().long(), outputs.shape[1]
    averaged, of_test = average_members(outputs, 'softmax'), average_members(test, 'softmax')

    def at(t): return float(F.cross_entropy(of_test/t, y))
    res = {'none': at(1), 'of single members': at(best_temperature(outputs.flatten(0, 1), targs.repeat_interleave(each))),
           'of averages': at(best_temperature(averaged, targs)), 'extrapolated': at(learn.model.temperature.item()),
           'before averaging': score(test/temperature_of_members(outputs, targs), y, True)}
    if find_spec('probmetrics'): res |= {k: reference(v, averaged, targs, of_test, y) for k, v in REFERENCES.items()}
    return res


def reference(name, averaged, targs, of_test, y):
    "Log loss after probmetrics has calibrated"
    from probmetrics.calibrators import get_calibrator
    calibrator = get_calibrator(name)
    calibrator.fit(averaged.softmax(1).double().numpy(), targs.numpy())
    probs = torch.as_tensor(calibrator.predict_proba(of_test.softmax(1).double().numpy()))
    return float(F.nll_loss(probs.clamp(min=1e-12).log(), y))


def of_classes(learn, test, y):
    "What a temperature gives: fitted on out-of-bag rows, and the best on the test rows"
    probs = average_members(test, 'softmax').softmax(1)
    res = dict(ece=calibration_error(probs, y), best_temperature=best_temperature(probs.log(), y))
    if learn.model.leave_out is None or learn.model.leave_out.each < 2: return res
    res['temperature'] = learn.calibrate()
    probs = learn.get_preds()[0]
    return res | dict(calibrated=learn.validate()[0], calibrated_ece=calibration_error(probs, y),
                      ways=temperatures(learn, test, y))


def of_numbers(learn, y):
    "Fraction of the test rows' targets in intervals of 90%, and their mean width"
    if learn.model.leave_out is None: return {}
    low, high = learn.oob_intervals()
    return dict(coverage=float(((low <= y) & (y <= high)).float().mean()), width=float((high-low).mean()))


def fit(dataset, seed, kept_norm=False, **kwargs):
    "The test's loss of one fit, the out-of-bag rows', and what comes of these"
    set_seed(seed, reproducible=True)
    learn = dropconnect_learner(dataset_dls(dataset, BS, 'cpu', 'tensors'), seed=seed, **kwargs)
    if kept_norm: norm_of_kept_rows(learn.model)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(EPOCHS)
        test, y = members_outputs(learn)
        res = dict(loss=score(test, y, dataset.classes))
        if leave_out := learn.model.leave_out:
            res |= dict(oob=learn.oob_score(), as_many=score_of(leave_out.each, test, y, dataset.classes))
        return res | (of_classes(learn, test, y.flatten()) if dataset.classes else of_numbers(learn, y))


def epoch_seconds(dataset):
    "Median processor seconds of an epoch, nearly all of it training, with all rows and with some left out, in turns"
    def epoch(**kwargs):
        set_seed(0)
        learn = dropconnect_learner(dataset_dls(dataset, BS, 'cpu', 'tensors'), seed=0, **kwargs)

        def one():
            start = time.process_time()
            with learn.no_bar(), learn.no_logging(): learn.fit(1)
            return time.process_time()-start
        return one
    return interleaved({k: epoch(**VARIANTS[k]) for k in TIMED}, 7)


def number(v): return f'{v:.3f}' if v == v else ''


def variants_table(runs):
    "For each dataset and variant the loss, that of out-of-bag rows, and what temperatures and intervals give"
    found = 'loss', 'oob', 'as_many', 'calibrated', 'temperature', 'best_temperature', 'ece', 'calibrated_ece', 'coverage'
    mean = runs.reindex(columns=['dataset', 'variant', *found]).groupby(['dataset', 'variant'], sort=False).mean()
    rows = []
    for (name, variant), o in mean.iterrows():
        off = mean.loc[name, 'off']
        rows.append([name, variant, f'{o.loss:.4g}', percent(o.loss, off.loss), percent(o.oob, o.loss),
                     percent(o.oob, o.as_many), percent(o.calibrated, off.loss),
                     *map(number, (o.temperature, o.best_temperature, o.ece, o.calibrated_ece, o.coverage))])
    return markdown(['dataset', 'left out', 'loss', 'over off', 'out-of-bag loss over it',
                     'over that of as many members', 'calibrated, over off', 'temperature', 'best of the test', 'ECE',
                     'ECE, calibrated', 'in 90% intervals'], rows)


def summary_table(runs):
    "Each variant over all datasets"
    mean = runs.groupby(['dataset', 'variant'], sort=False)[['loss', 'oob', 'as_many', 'calibrated']].mean().unstack()
    rows = []
    for o in [o for o in VARIANTS if o in mean.loss and o != 'off']:
        cost, near, fair = (mean[a][o]/mean[b][c] for a, b, c in (('loss', 'loss', 'off'), ('oob', 'loss', o),
                                                                 ('oob', 'as_many', o)))
        calibrated = (mean.calibrated[o]/mean.loss.off).dropna()
        def within(x): return f'{(abs(x-1) <= .03).sum()} of {len(x)}'
        rows.append([o, percent(gmean(cost)), percent(cost.max()), within(near), within(fair),
                     percent(gmean(calibrated)) if len(calibrated) else '',
                     percent(calibrated.max()) if len(calibrated) else ''])
    return markdown(['left out', 'loss over off, geometric mean', 'worst', 'out-of-bag loss within 3% of the test\'s',
                     'within 3% of that of as many members', 'calibrated over off, geometric mean', 'worst'], rows)


def ways_table(runs):
    "Log loss with temperatures of several kinds over that without"
    some = runs[runs.ways.notna()]
    if not len(some): return []
    ways = pd.DataFrame(list(some.ways), index=pd.MultiIndex.from_frame(some[['variant', 'dataset']]))
    ratios = (mean := ways.groupby(level=[0, 1], sort=False).mean()).div(mean['none'], axis=0).drop(columns='none')
    rows = [[v, o, percent(gmean(x[o].dropna())), percent(x[o].max()), x[o].idxmax()[1]]
            for v, x in ratios.groupby(level=0, sort=False) for o in x.dropna(axis=1, how='all')]
    return markdown(['left out', 'temperature', 'log loss over none, geometric mean', 'worst', 'on'], rows)


def oob_table(out):
    "The three tables of the study"
    runs = pd.DataFrame(read_jsonl(out/'runs.jsonl'))
    epochs = [(o['dataset'], o['1/2 by 2'], o['off']) for o in read_jsonl(out/'epochs.jsonl')]
    timed = ['Processor time of an epoch with half of the rows left out by two members, over that with all rows: '
             f"{', '.join(f'{n} {percent(*o)}' for n, *o in epochs)}.", ''] if epochs else []
    return '\n'.join([f"Log loss, or mean squared error, of test rows after {EPOCHS} epochs on at most {ROWS:,} training "
                      f"rows. Splits, each with its seed: {runs.seed.nunique()}.", '', '## Variants', '',
                      *summary_table(runs), *timed, '## Temperatures', '', *ways_table(runs), '## Datasets', '',
                      *variants_table(runs)])


def main():
    p = options(__doc__, out='folder', seeds=3)
    p.add_argument('--datasets', nargs='+', default=DATASETS)
    p.add_argument('--variants', nargs='+', default=list(VARIANTS))
    args = p.parse_args()

    def fill(file):
        for seed in range(args.seeds):
            for name in args.datasets:
                dataset = split_again(load(name, args.folder), 0 if name == 'bike' else seed)
                for variant in args.variants:
                    once(file, dict(dataset=name, variant=variant, seed=seed),
                         lambda: fit(dataset, seed, **VARIANTS[variant]))
        for name in EPOCHS_OF:
            once(file.with_name('epochs.jsonl'), dict(dataset=name),
                 lambda: epoch_seconds(load(name, args.folder, 8000, 100)))
    write_study(args.out, 'oob', fill, oob_table)


if __name__ == '__main__': main()

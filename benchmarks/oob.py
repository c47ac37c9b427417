"""What does it cost that members leave rows out, how near is their score to the test's, and what does a temperature give?

On slices of at most 3,000 training rows. Each variant says which share of the rows is left out, and by how many of eight
members. `off` is the learner with all rows. Results go to OUT/runs.jsonl, a line for each fit, and the table to
OUT/oob.md. What is there is not repeated.

    python benchmarks/oob.py FOLDER --out results/oob

FOLDER has california/, bike/ and adult/; the other datasets come with packages.
"""
import pandas as pd
from fastai.tabular.all import *
from files import at_most, markdown, once, options, write_study

from dropconnect_tab.all import best_temperature, dropconnect_learner
from dropconnect_tab.bench.datasets import dataset_dls, load_dataset
from dropconnect_tab.bench.files import read_jsonl
from dropconnect_tab.bench.packaged import load_packaged

FILES = ['california', 'bike', 'adult']
PACKAGED = ['splice', 'letter', 'lending', 'credit', 'satimage', 'marketing', 'optdigits']
ROWS, EPOCHS, BS = 3000, 15, 256
VARIANTS = {'off': {}, '1/2 by 2': dict(oob=.5, oob_members=2), '1/4 by 4': dict(oob=.25, oob_members=4),
            'all by 2': dict(oob=1., oob_members=2)}


def load(name, folder):
    "A dataset with at most `ROWS` rows to train on, and as many to test on"
    return at_most(load_dataset(name, folder) if name in FILES else load_packaged(name), ROWS, ROWS)


def calibration_error(probs, targs, n_bins=15):
    "Expected calibration error of the most probable class"
    sure, best = probs.max(1)
    right, bins = (best == targs).float(), (sure*n_bins).long().clamp(max=n_bins-1)
    return float(sum((right[bins == i].mean()-sure[bins == i].mean()).abs()*(bins == i).float().mean()
                     for i in bins.unique()))


def of_classes(learn, loss):
    "What a temperature gives: found on rows that members left out, and the best on the test rows"
    probs, targs = learn.get_preds()
    targs = targs.flatten()
    res = dict(ece=calibration_error(probs, targs), best_temperature=best_temperature(probs.log(), targs))
    if learn.model.leave_out is None: return res
    res['temperature'] = learn.calibrate()
    probs = learn.get_preds()[0]
    return res | dict(calibrated=learn.validate()[0], calibrated_ece=calibration_error(probs, targs))


def of_numbers(learn):
    "How many of the test rows' targets are in intervals of 90%"
    if learn.model.leave_out is None: return {}
    (low, high), targs = learn.oob_intervals(), learn.get_preds()[1]
    return dict(coverage=float(((low <= targs) & (targs <= high)).float().mean()), width=float((high-low).mean()))


def fit(table, seed, **kwargs):
    "The test's loss of one fit, the left-out rows', and what comes of these"
    set_seed(seed, reproducible=True)
    learn = dropconnect_learner(dataset_dls(table, BS, 'cpu', 'tensors'), seed=seed, **kwargs)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(EPOCHS)
        loss = learn.validate()[0]
        res = dict(loss=loss, oob=learn.oob_score()) if learn.model.leave_out else dict(loss=loss)
        return res | (of_classes(learn, loss) if table.classes else of_numbers(learn))


def oob_table(out):
    "For each dataset and variant the loss, that of left-out rows, and what temperatures and intervals give"
    runs = pd.DataFrame(read_jsonl(out/'runs.jsonl'))
    mean = runs.groupby(['table', 'variant'], sort=False).mean(numeric_only=True).drop(columns='seed')
    rows = []
    for (name, variant), o in mean.iterrows():
        off = mean.loc[name, 'off']

        def differs(v, of=off.loss): return f'{100*(v/of-1):+.1f}%' if v == v else ''
        def number(v): return f'{v:.3f}' if v == v else ''
        rows.append([name, variant, f'{o.loss:.4f}', differs(o.loss), differs(o.oob, o.loss), differs(o.calibrated),
                     *map(number, (o.temperature, o.best_temperature, o.ece, o.calibrated_ece, o.coverage))])
    head = ['dataset', 'left out', 'loss', 'over off', 'left-out loss over it', 'calibrated, over off', 'temperature',
            'best of the test', 'calibration error', 'calibrated', 'in 90% intervals']
    return (f"Log loss, or squared error, of test rows after {EPOCHS} epochs on at most {ROWS:,} training rows. "
            f"Seeds: {runs.seed.nunique()}.\n\n" + '\n'.join(markdown(head, rows)))


def main():
    p = options(__doc__, out='folder', seeds=1)
    p.add_argument('--tables', nargs='+', default=PACKAGED+FILES)
    p.add_argument('--variants', nargs='+', default=list(VARIANTS))
    args = p.parse_args()

    def fill(file):
        for seed in range(args.seeds):
            for name in args.tables:
                table = load(name, args.folder)
                for variant in args.variants:
                    once(file, dict(table=name, variant=variant, seed=seed),
                         lambda: fit(table, seed, **VARIANTS[variant]))
    write_study(args.out, 'oob', fill, oob_table)


if __name__ == '__main__': main()

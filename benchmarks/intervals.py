"""Do 90% intervals from masks that stay on cover 90% of the test rows?

A net with resampled masks is fitted on the training rows without a slice (`Dataset.slice`: March for the sales of 2012,
a random 15% for California); the slice gives the one number of the calibration; the test rows are asked about once.

    python benchmarks/intervals.py FOLDER --out benchmarks/intervals.md

FOLDER has bulldozers-2012/TrainAndValid.zip and california/california_housing.csv.gz.
"""
import numpy as np
import torch
from fastai.tabular.all import MSELossFlat, set_seed
from fastprogress.fastprogress import progress_bar
from files import markdown, options, write_page

from dropconnect_tab.bench.bulldozers import bulldozers_dataset
from dropconnect_tab.bench.methods import y_limits
from dropconnect_tab.bench.datasets import load_dataset, dataset_dls
from dropconnect_tab.learner import dropconnect_learner, only_masks
from dropconnect_tab.predict import calibrate_spread, interval_coverage


def answer(table, seed, weight_p, n):
    "Distributions of the slice's rows and of the test rows"
    part = table.slice()
    set_seed(seed, reproducible=True)
    dls = dataset_dls(part, 256)
    learn = dropconnect_learner(dls, layers=[500, 250], n_out=1, y_range=y_limits(part.targets(part.train_idx)),
                                loss_func=MSELossFlat(), mask='resampled', weight_p=weight_p,
                                **only_masks)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(10, .01, wd=.1)
        test = dls.test_dl(table.df.iloc[table.test_idx].reset_index(drop=True), with_labels=True)
        return learn.get_preds_dist(n=n, seed=seed), learn.get_preds_dist(dl=test, n=n, seed=seed)


def main():
    p = options(__doc__, seeds=5, n=32)  # `n` predictions for each row
    p.add_argument('--weight-p', type=float, nargs='+', default=[.2])
    args = p.parse_args()
    tables = [load_dataset('california', args.folder), bulldozers_dataset(args.folder/'bulldozers-2012', '2012', 'own')]
    lines = []
    head = ['dataset', 'weight_p', 'RMSE', 'raw coverage', 'calibrated coverage', 'factor']
    for table, weight_p in progress_bar([(t, q) for t in tables for q in args.weight_p]):
        rows = []
        for seed in range(args.seeds):
            held, test = answer(table, seed, weight_p, args.n)
            factor = calibrate_spread(*held)
            rmse = float((test.mean-test.targs).square().mean().sqrt())
            rows.append([rmse, interval_coverage(*test), interval_coverage(*test, factor=factor), factor])
        (e, raw, cal, f), (_, raw_sd, cal_sd, _) = np.mean(rows, 0), np.std(rows, 0, ddof=1)
        lines.append([f'{table.name} {table.split}', weight_p, f'{e:.4f}', f'{raw:.1%} ± {raw_sd:.1%}',
                      f'{cal:.1%} ± {cal_sd:.1%}', f'{f:.2f}'])
    said = f'Mean ± sd over {args.seeds} seeds; {args.n} predictions for each row; torch {torch.__version__}.'
    write_page('\n'.join(['# Coverage of 90% intervals', '', said, '', *markdown(head, lines)]), args.out)


if __name__ == '__main__': main()

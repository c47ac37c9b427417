r"""The learner and its opponents on thirty datasets: errors and fit times of the same runs.

Each method's settings are chosen on a slice of the training rows, and then fitted on all of them: rounds of boosted
trees by early stopping, and whether they read native categories; learning rate and epochs of fastai's net; epochs of
`learner-epochs`. `learner` and `estimator` are `dropconnect_learner` and the estimators as they come, TabM and RealMLP
are as their authors recommend them. `fastai-untuned` is fastai's net with the learner's epochs and a rate of 0.01, and
`one-word` is what its user gets from changing one word: the learner with fastai's loader and the same epochs.

    python benchmarks/thirty.py FOLDER --out results/thirty

    python benchmarks/thirty.py --datasets hpc credit --methods fastai learner xgb --seeds 1 --out runs/thirty

FOLDER has california/, bike/, adult/, bulldozers-2012/ and bulldozers-codes/; the other datasets come with packages.
Runs that are there are not repeated. OUT/<dataset>-<split>/ has a line for each run, OUT has the tables and pictures. The
learner with other numbers of epochs, or of members, is compared apart from the other methods, in OUT/settings.md:

    python benchmarks/thirty.py FOLDER --methods fastai-untuned learner learner-half learner-twice learner-four-times \
        learner-members-1 learner-members-4 learner-members-16 learner-members-32 --seeds 1 --out results/epochs-members

Fits with two threads, nothing else running, and a picture of both, OUT/threads.png:

    python benchmarks/thirty.py FOLDER --methods fastai-untuned one-word learner estimator xgb lgbm hgb --seeds 1 \
        --threads 2 --out results/two-threads --beside results/thirty
"""
import argparse
import time
import warnings
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from inspect import signature
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from files import write_page
from sklearn.ensemble import HistGradientBoostingRegressor
from sklearn.metrics import roc_auc_score
from threadpoolctl import threadpool_limits

from dropconnect_tab.bench.bulldozers import bulldozers_dataset
from dropconnect_tab.bench.files import write_figure
from dropconnect_tab.bench.many import format_many, mean_errors, plot_error_time, read_many, report_many
from dropconnect_tab.bench.methods import METHODS as BENCH, coded_frames
from dropconnect_tab.bench.packaged import load_packaged, packaged
from dropconnect_tab.bench.runs import errors, run_methods
from dropconnect_tab.bench.datasets import load_dataset
from dropconnect_tab.sklearn import DropConnectClassifier, DropConnectRegressor

warnings.filterwarnings('ignore', 'The given NumPy array is not writable')  # fastai under pandas 3

warnings.filterwarnings('ignore', "The argument 'eval_set' is deprecated")  # by LightGBM alone, from 4.7 on

# From few training rows to many
IN_FILES = ['bulldozers-2012', 'bike', 'california', 'bulldozers-codes', 'adult']
DATASETS = ['wine', 'diabetes', 'breast_cancer', 'splice', 'chess', 'hpc', 'credit', 'optdigits', 'chicago', 'caravan',
            'satimage', 'marketing', 'txhousing', 'lending', 'deliveries', 'grants', 'bulldozers-2012', 'bike',
            'hotel_rates', 'magic', 'stops', 'storms', 'letter', 'california', 'bulldozers-codes', 'cps1988', 'nlswork',
            'adult', 'insteval', 'flights']
ROUNDS, PATIENCE = 5000, 50  # of boosted trees: at most, and without a gain on the slice
# Module, name of the class without 'Regressor' or 'Classifier', argument for the rounds, other arguments
BOOSTED = dict(
    xgb=('xgboost', 'XGB', 'n_estimators', dict(learning_rate=.05, max_depth=6, subsample=.8, colsample_bytree=.5)),
    lgbm=('lightgbm', 'LGBM', 'n_estimators', dict(learning_rate=.05, num_leaves=63, subsample=.8, subsample_freq=1,
                                                   colsample_bytree=.5, verbosity=-1)),
    catboost=('catboost', 'CatBoost', 'n_estimators', dict(learning_rate=.05, max_depth=6, verbose=False,
                                                           allow_writing_files=False)),
    hgb=('sklearn.ensemble', 'HistGradientBoosting', 'max_iter', dict(learning_rate=.05)))
AUTHORS = ['realmlp', 'tabm']  # hours on a large dataset, so one seed, after all others
SETTINGS = {'learner-half': (.5, {}), 'learner-twice': (2, {}), 'learner-four-times': (4, {}),
            **{f'learner-members-{n}': (1, dict(members=n)) for n in (1, 4, 16, 32)}}
PAIRS = [('one-word', 'fastai-untuned'), ('learner', 'fastai'),
         *(('estimator', o) for o in ('fastai', 'xgb', 'lgbm', 'catboost', 'hgb', 'realmlp', 'tabm'))]
METHODS = ['fastai', 'fastai-untuned', 'one-word', 'learner', 'learner-epochs', 'estimator', *BOOSTED, *AUTHORS]


def load(name, folder):
    if name in packaged: return load_packaged(name)
    if name != 'bulldozers-2012': return load_dataset(name, folder)
    return bulldozers_dataset(folder/'bulldozers-2012', '2012', 'own')


def usual_epochs(n):
    "Epochs for `n` training rows, the same for all nets: 200,000 rows seen, in 6 to 30 epochs"
    return int(np.clip(round(200_000/n), 6, 30))


def fit_net(name, dataset, seed, **settings):
    "Fit a method of the bench"
    return BENCH[name].variant(**settings).fit(dataset, seed, 'cpu')


def fit_estimator(dataset, seed, **settings):
    "Fit the estimator with the dataset's columns, and `settings`: as it comes it sets rows aside that say when to stop"
    cls = DropConnectClassifier if dataset.classes else DropConnectRegressor
    model = cls(cat_names=list(dataset.cat_names), cont_names=list(dataset.cont_names), random_state=seed,
                **settings)
    X = dataset.df[[*dataset.cat_names, *dataset.cont_names]]
    start = time.perf_counter()
    model.fit(X.iloc[dataset.train_idx], dataset.targets(dataset.train_idx))
    seconds = time.perf_counter()-start
    test = X.iloc[dataset.test_idx]
    if not dataset.classes: return dict(pred=model.predict(test)[:, None], seconds=seconds)
    pred = np.zeros((len(test), len(dataset.classes)))
    pred[:, model.classes_] = model.predict_proba(test)
    return dict(pred=pred, seconds=seconds)


def hgb_takes_a_slice(): return 'X_val' in signature(HistGradientBoostingRegressor.fit).parameters


def how_to_stop(name, test, y):
    "Arguments of the class and of `fit` that stop boosting where the error on these rows no longer falls"
    if name == 'hgb': return dict(early_stopping=True, n_iter_no_change=PATIENCE), dict(X_val=test, y_val=y)
    quiet = {} if name == 'lgbm' else dict(verbose=False)
    return dict(early_stopping_rounds=PATIENCE), dict(eval_set=[(test, y)], **quiet)


def how_to_read(name, sizes):
    "Arguments of the class and of `fit` for columns of codes, which come first, that are categories"
    every = list(range(len(sizes)))
    if name == 'hgb': return dict(categorical_features=[i for i in every if sizes[i] <= 255]), {}  # it has no more bins
    if name == 'xgb': return dict(enable_categorical=True), {}
    return {}, {'cat_features' if name == 'catboost' else 'categorical_feature': every}


def fit_boosted(name, dataset, seed, native=False, rounds=None):
    "Fit boosted trees. Without `rounds` the test rows, which are a slice then, stop the training and say how many"
    module, stem, rounds_name, kwargs = BOOSTED[name]
    train, test, sizes = coded_frames(dataset)
    if native and name == 'xgb':
        types = {i: pd.CategoricalDtype(range(n)) for i, n in enumerate(sizes)}
        train, test = train.astype(types), test.astype(types)
    of_class, of_fit = how_to_stop(name, test, dataset.targets(dataset.test_idx)) if rounds is None else (
        dict(early_stopping=False) if name == 'hgb' else {}, {})
    if native: of_class, of_fit = ({**a, **b} for a, b in zip((of_class, of_fit), how_to_read(name, sizes)))
    if name != 'hgb': of_class['thread_count' if name == 'catboost' else 'n_jobs'] = torch.get_num_threads()
    cls = getattr(import_module(module), stem + ('Classifier' if dataset.classes else 'Regressor'))
    model = cls(random_state=seed, **{**kwargs, rounds_name: rounds or ROUNDS, **of_class})
    start = time.perf_counter()
    model.fit(train, dataset.targets(dataset.train_idx), **of_fit)
    seconds = time.perf_counter()-start
    pred = model.predict_proba(test) if dataset.classes else model.predict(test)[:, None]
    return dict(pred=pred, seconds=seconds, **({} if rounds else dict(rounds=best_round(name, model))))


def best_round(name, model):
    "The number of rounds with the lowest error on the slice"
    if name == 'hgb': return max(1, int(np.argmax(model.validation_score_)))  # the first score is that of no round
    if name == 'lgbm': return int(model.best_iteration_)
    return int(model.best_iteration if name == 'xgb' else model.get_best_iteration()) + 1


@dataclass
class Tuned:
    "A method that fits with those of several settings which are the best on a slice of the training rows"
    label: str  # What it is called in results
    fit_with: object  # `fit_with(dataset, seed, **settings)`
    tried: list  # Settings to choose from
    stops: bool = False  # Does a fit on the slice say more settings, such as its rounds?
    threads: int = 1
    requires: tuple = ()  # Packages whose versions are recorded
    parts, space, searched_as, n_ticks = (), {}, None, 1  # no search but its own

    @property
    def settings(self): return dict(tried=self.tried, threads=self.threads)

    def with_shared(self, **_): return self

    def choose(self, dataset, seed):
        "The settings with the lowest error on the slice, and the errors of all"
        if len(self.tried) == 1 and not self.stops: return self.tried[0], []
        part, measure = dataset.slice(), 'logloss' if dataset.classes else 'rmse'
        y, found = part.targets(part.test_idx), []
        for settings in self.tried:
            fit = self.fit_with(part, seed, **settings)
            more = {k: fit[k] for k in ('rounds',) if k in fit}
            found.append(({**settings, **more}, errors(fit['pred'], y, measure)[measure]))
        return min(found, key=lambda o: o[1])[0], [o[1] for o in found]

    def fit(self, dataset, seed, device=None, tick=None):
        "Choose, fit all training rows, and predict: a fit of the bench, with its processor time and the choice"
        torch.set_num_threads(self.threads)
        with threadpool_limits(self.threads):
            began = time.process_time()
            chosen, slice_errors = self.choose(dataset, seed)
            cpu, wall = time.process_time(), time.perf_counter()
            fit = self.fit_with(dataset, seed, **chosen)
            found = dict(cpu_seconds=time.process_time()-cpu, wall_seconds=time.perf_counter()-wall,
                         search_cpu_seconds=cpu-began, chosen=chosen, slice_errors=slice_errors)
        if len(dataset.classes or []) == 2:
            found['auc'] = float(roc_auc_score(dataset.targets(dataset.test_idx), fit['pred'][:, 1]))
        if tick: tick()
        return dict(pred=fit['pred'], seconds=fit['seconds'], **found)


def methods_for(dataset, threads=1):
    "Name → method, with the settings that it chooses from on this dataset"
    usual = usual_epochs(len(dataset.train_idx))
    def times(*factors): return [max(1, round(f*usual)) for f in factors]
    def net(label, tried, name='default', requires=()):
        return Tuned(label, partial(fit_net, name), tried, threads=threads, requires=requires)
    natives = [dict(native=o) for o in ([False, True] if dataset.cat_names else [False])]
    found = [net('fastai', [dict(epochs=e, lr=lr) for lr in (.003, .01) for e in times(.5, 1, 2)], 'fastai'),
             net('fastai-untuned', [dict(epochs=usual)], 'fastai'),
             net('one-word', [dict(epochs=usual, loader='fastai')]),
             net('learner', [dict(epochs=usual)]),
             Tuned('estimator', fit_estimator, [{}], threads=threads),
             net('learner-epochs', [dict(epochs=e) for e in times(.5, 1, 2)]),
             *(net(k, [dict(epochs=times(f)[0], **more)]) for k, (f, more) in SETTINGS.items()),
             *(Tuned(k, partial(fit_boosted, k), natives, True, threads, (BOOSTED[k][0],) if k != 'hgb' else ())
               for k in BOOSTED),
             *(net(o, [{}], o, ('pytabkit',)) for o in AUTHORS)]
    return {o.label: o for o in found}


def report_settings(out):
    "Write a table and a picture of the learner with other settings, on the datasets where all of them ran"
    names, runs = ['fastai-untuned', 'learner', *SETTINGS], read_many(out)
    ran = mean_errors(runs).reindex(columns=names).dropna().index
    runs = runs[runs.dataset.isin(ran) & runs.method.isin(names)]
    if not len(runs): return
    parts = [f'# Epochs and members, {len(ran)} datasets', *(f'## Epochs and members, {task}\n\n'
             + format_many(some, 'learner', 'fastai-untuned') for task, some in runs.groupby('task', sort=False))]
    write_page('\n\n'.join(parts)+'\n', out/'settings.md')
    fig = plot_error_time(runs, 'fastai-untuned', f'Epochs and members, {len(ran)} datasets')
    write_figure(out/'settings.png', fig)


def plot_threads(out, beside):
    "A picture of the runs in `out`, and of those in `beside` of the same datasets and methods, with other threads"
    runs, others = read_many(out), read_many(beside)
    others = others[others.dataset.isin(runs.dataset) & others.method.isin(runs.method)]
    fig = plot_error_time(pd.concat([others, runs]), 'fastai-untuned', f'{runs.dataset.nunique()} datasets')
    write_figure(out/'threads.png', fig)


def check(args, known):
    "A `ValueError` that names an argument that cannot be"
    for kind, names, choices in (('dataset', args.datasets, DATASETS), ('method', args.methods, known)):
        for o in names:
            if o not in choices: raise ValueError(f"{kind} {o!r} is unknown: choose some of {', '.join(choices)}")
    if 'hgb' in args.methods and not hgb_takes_a_slice():
        raise ValueError("hgb needs scikit-learn 1.7, whose `fit` takes a slice: update it, or give other --methods")
    if args.folder is None and (needed := [o for o in args.datasets if o in IN_FILES]):
        raise ValueError(f"{needed[0]} is in a file: give the folder that holds it, or other --datasets")


def main(args=None):
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('folder', type=Path, nargs='?')
    p.add_argument('--datasets', nargs='+', default=DATASETS)
    p.add_argument('--methods', nargs='+', default=METHODS, help=f"also {', '.join(SETTINGS)}")
    p.add_argument('--seeds', type=int, default=3, help=f"{' and '.join(AUTHORS)} have one")
    p.add_argument('--threads', type=int, default=1, help="threads of a fit; other threads, another OUT")
    p.add_argument('--beside', type=Path, help="an OUT of runs with other threads, for a picture of both")
    p.add_argument('--jobs', type=int, default=1, help="runs side by side")
    p.add_argument('--out', type=Path, required=True)
    args = p.parse_args(args)
    try: check(args, [*METHODS, *SETTINGS])
    except ValueError as e: p.error(str(e))
    for authors in (False, True):
        for name in sorted(args.datasets, key=DATASETS.index):
            if not (labels := [o for o in args.methods if (o in AUTHORS) == authors]): continue
            dataset = load(name, args.folder)
            known = methods_for(dataset, args.threads)
            run_methods(dataset, [known[o] for o in labels], 1 if authors else args.seeds, args.out, 'cpu',
                        jobs=args.jobs, preds=False)
    ran = {*read_many(args.out).method}
    ours, base = (next((o for o in some if o in ran), None) for some in (('estimator', 'learner'),
                                                                       ('fastai-untuned', 'fastai')))
    if ours and base: print(report_many(args.out, ours, base, PAIRS, METHODS))
    report_settings(args.out)
    if args.beside: plot_threads(args.out, args.beside)


if __name__ == '__main__': main()

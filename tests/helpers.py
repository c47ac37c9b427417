"A small table, loaders for every kind of target, and learners with nothing but a mask."
import multiprocessing
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from fastai.tabular.all import CategoryBlock, Categorify, FillMissing, Normalize, RegressionBlock, TabularDataLoaders

from dropconnect_tab.bench.datasets import Dataset
from dropconnect_tab.learner import dropconnect_learner, only_masks
from dropconnect_tab.masks import find_linears

side_by_side = pytest.mark.xdist_group('joblib')  # one process starts joblib's workers, for all tests that need them
root = Path(__file__).resolve().parent.parent


def fork_server():
    "Makes processes that have torch, fastai and this package at hand, and nothing else of this one"
    ctx = multiprocessing.get_context('forkserver')
    ctx.set_forkserver_preload(['fastai.tabular.all', 'fastai.distributed', 'accelerate', 'dropconnect_tab.all', 'helpers'])
    return ctx


wide_cats = 'shop', 'day', 'band', 'cheap'  # with two numbers more columns than a neuron starts with


def make_df(n=400, seed=0):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame({'shop': rng.choice(list('abcdef'), n), 'day': rng.choice(list('mtwhf'), n),
                       'size': rng.normal(size=n), 'age': rng.normal(size=n)})
    df['price'] = df['size']*(df.shop < 'c') + df.age*(df.day == 't') + 0.1*rng.normal(size=n)
    df['cost'] = df['price'] + rng.normal(size=n)
    df['cheap'] = np.where(df.price < 0, 'yes', 'no')
    df['band'] = pd.cut(df.price, [-99, -.5, .5, 99], labels=['low', 'mid', 'high']).astype(str)
    return df


def make_dls(y='price', cat=('shop', 'day'), cont=('size', 'age'), n=400, bs=64, path='.', **kwargs):
    block = CategoryBlock() if y in ('cheap', 'band') else RegressionBlock()
    return TabularDataLoaders.from_df(make_df(n), path=path, procs=[Categorify, FillMissing, Normalize],
                                      cat_names=list(cat), cont_names=list(cont), y_names=y, y_block=block,
                                      valid_idx=list(range(n*4//5, n)), bs=bs, device='cpu', **kwargs)


def make_table(y='price', n=200, **kwargs):
    "The first 80% for training, the rest for the test"
    rows = dict(df=make_df(n), train_idx=np.arange(n*4//5), test_idx=np.arange(n*4//5, n))
    return Dataset('shops', 'random', 'all', y_name=y, cont_names=['size', 'age'],
                 **{**rows, 'cat_names': ['shop', 'day'], **kwargs})


def plain_learner(dls, *args, config=None, **kwargs):
    "`dropconnect_learner` with nothing but the mask: the extras off, unless the caller or `config` says otherwise"
    off = {k: v for k, v in dict(only_masks, lr=1e-3).items() if k not in (config or {})}
    return dropconnect_learner(dls, *args, config=config, **{**off, **kwargs})


def hidden(model):
    "Name → `nn.Linear`, all but the output layer"
    return dict(list(find_linears(model).items())[:-1])

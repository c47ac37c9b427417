"A small table, loaders for every kind of target, and where the real data is."
import os
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.tabular.all import (CategoryBlock, Categorify, FillMissing, Normalize, RegressionBlock, TabularDataLoaders,
                                set_seed)

from dropconnect_tab.bench.tables import Table
from dropconnect_tab.learner import dropconnect_learner, only_masks
from dropconnect_tab.masks import find_linears

matplotlib.use('Agg')
root = Path(__file__).resolve().parent.parent


wide_cats = 'shop', 'day', 'band', 'cheap'  # with two numbers more columns than a unit starts with


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
    return Table('shops', 'random', 'all', y_name=y, cont_names=['size', 'age'],
                 **{**rows, 'cat_names': ['shop', 'day'], **kwargs})


def plain_learner(dls, *args, config=None, **kwargs):
    "`dropconnect_learner` with nothing but the mask: the extras off, unless the caller or `config` says otherwise"
    off = {k: v for k, v in dict(only_masks, lr=1e-3).items() if k not in (config or {})}
    return dropconnect_learner(dls, *args, config=config, **{**off, **kwargs})


def hidden(model):
    "Name → `nn.Linear`, all but the output layer"
    return dict(list(find_linears(model).items())[:-1])


def pytest_runtest_setup(item):
    if item.get_closest_marker('cuda') and not torch.cuda.is_available(): pytest.skip("no GPU")


@pytest.fixture(autouse=True)
def quiet_and_seeded(monkeypatch):
    import fastprogress.fastprogress as fp
    monkeypatch.setattr(fp, 'NO_BAR', True)
    set_seed(0)


@pytest.fixture
def dls(tmp_path): return make_dls(path=tmp_path)


@pytest.fixture(scope='session')
def data_path():
    "Folder of the real tables; tests that need them skip without"
    path = Path(os.environ.get('DROPCONNECT_TAB_DATA', root.parent/'shared'/'data'))
    if not path.exists(): pytest.skip(f"no real data at {path}: set DROPCONNECT_TAB_DATA to its folder")
    return path

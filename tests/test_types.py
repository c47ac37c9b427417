"Annotations: a type checker accepts correct scripts, and finds a mistake"
import json
import os
import re
import shutil
import subprocess
import sys
from importlib.resources import files

import pytest
from helpers import root

import dropconnect_tab.all

SCRIPTS = dict(
    learner='''
from fastai.tabular.all import TabularDataLoaders, Categorify, FillMissing, Normalize, pd, rmse
from dropconnect_tab.all import dropconnect_config, dropconnect_learner, calibrate_spread, pred_intervals, fast_dls
df = pd.DataFrame({'shop': ['a', 'b']*50, 'size': range(100), 'price': range(100)})
dls = TabularDataLoaders.from_df(df, procs=[Categorify, FillMissing, Normalize], cat_names=['shop'],
                                 cont_names=['size'], y_names=['price'], bs=64)
learn = dropconnect_learner(fast_dls(dls), layers=[20, 10], weight_p=0.5, members=4, ps=[.1, .2], metrics=rmse,
                            config=dropconnect_config(embed_p=.1))
learn.fit_one_cycle(3)
mean, std, targs = learn.get_preds_dist()
low, high = pred_intervals(mean, std, factor=calibrate_spread(mean, std, targs))
learn.predictor().export('price.pt2')
print(learn.sparsity(), learn.feature_importance(groups={'both': ['shop', 'size']}), learn.member_preds().shape)
''',
    estimators='''
import pandas as pd
from dropconnect_tab.sklearn import DropConnectClassifier, DropConnectRegressor
from sklearn.model_selection import cross_val_score
df = pd.DataFrame({'shop': ['a', 'b']*50, 'size': range(100)})
model = DropConnectRegressor(n_epoch=5, layers=[20], weight_p=0.5, y_range=(0, 1), random_state=0)
prices = model.fit(df, df['size']).predict(df)
mean, std = model.predict_dist(df)
classifier = DropConnectClassifier(early_stopping=True, class_weight='balanced')
classifier.fit(df, df['shop'], X_val=df, y_val=df['shop'])
probs = classifier.predict_proba(df).round(2)
scores = cross_val_score(model, df, df['size'], cv=3)
print(prices.shape, classifier.classes_, model.learner_.sparsity(), model.history_.valid_loss, model.columns_)
''',
    any_net='''
import torch
from torch import nn
from dropconnect_tab.all import DropConnectCallback, DropConnectLinear, DropConnectTabularModel, WeightMasks, draw_mask
net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
masks = WeightMasks(net, weight_p=[0.5], mask='frozen', seed=0)
masks.apply()
masks.restore_zeros()
model = DropConnectTabularModel([(3, 2)], 2, 1, [10, 5], members=3, ps=0.1)
member = model.member(2)
out = DropConnectLinear(10, 5, weight_p=0.2)(torch.randn(4, 10))
print(out.shape, draw_mask((4, 5), 0.5).sum(), masks.report(), DropConnectCallback(weight_p=0.5), member)
''')


SCRIPTS['mistake'] = SCRIPTS['estimators'].replace('.history_', '.histories_')


@pytest.fixture(scope='module')
def complaints(tmp_path_factory):
    "What pyright says of each script, of a package that it finds among those that are installed"
    if not (pyright := shutil.which('pyright')): pytest.skip("no pyright")
    folder = tmp_path_factory.mktemp('scripts')
    for k, v in SCRIPTS.items(): (folder/f'{k}.py').write_text(v)
    found = subprocess.run([pyright, '--outputjson', '--pythonpath', sys.executable], cwd=folder, capture_output=True,
                           text=True, env={**os.environ, 'PYTHONPATH': str(root)})
    messages = json.loads(found.stdout)['generalDiagnostics']
    return {k: [o['message'] for o in messages if o['severity'] == 'error' and o['file'].endswith(f'{k}.py')] for k in SCRIPTS}


def test_the_package_says_that_it_is_annotated(): assert files('dropconnect_tab').joinpath('py.typed').is_file()


def test_all_names_are_public():
    imported = re.findall(r'^from \S+ import (.+)$', (root/'dropconnect_tab'/'all.py').read_text(), re.M)
    assert sorted(dropconnect_tab.all.__all__) == sorted(o for line in imported for o in line.split(', '))


@pytest.mark.slow
@pytest.mark.parametrize('name', ['learner', 'estimators', 'any_net'])
def test_correct_scripts_are_accepted(name, complaints): assert complaints[name] == []


@pytest.mark.slow
def test_a_mistake_is_found(complaints): assert len(complaints['mistake']) == 1 and 'histories_' in complaints['mistake'][0]

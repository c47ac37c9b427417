"What the net looks at: importance of columns by shuffling, partial dependence, and the same with scikit-learn"
import copy

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.tabular.all import (
    BCEWithLogitsLossFlat, Categorify, FillMissing, MultiCategoryBlock, Normalize, RegressionBlock,
    TabularDataLoaders, TabularPandas, tabular_learner)
from helpers import make_df, make_dls, plain_learner
from sklearn.inspection import PartialDependenceDisplay, permutation_importance

from dropconnect_tab.data import TabTensorDL, fast_dls
from dropconnect_tab.interpret import plot_importance
from dropconnect_tab.learner import dropconnect_learner
from dropconnect_tab.sklearn import DropConnectClassifier, DropConnectRegressor


def trained(dls, **kwargs):
    learn = dropconnect_learner(dls, layers=[20], **{'members': 2, 'n_bins': 0, 'ps': 0., 'lr': .05, **kwargs})
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(5)
    return learn


def gappy_dls(gap=0., **kwargs):
    "Every seventh size is missing, which adds `gap` to the price"
    df = make_df(400)
    df.loc[::7, 'size'] = np.nan
    df['price'] += gap*df['size'].isna()
    to = TabularPandas(df, [Categorify, FillMissing, Normalize], ['shop', 'day'], ['size', 'age'], 'price',
                       RegressionBlock(), [list(range(320)), list(range(320, 400))])
    return df, to.dataloaders(bs=64, device='cpu', **kwargs)


def validate(learn, dl=None):
    with learn.no_bar(): return learn.validate(dl=dl)[0]


def test_importance_is_the_rise_of_the_loss():
    learn = trained(make_dls(bs=64))
    found = learn.feature_importance(n_repeats=3, seed=1)
    assert list(found) == ['importance', 'std'] and found.index.name == 'column'
    assert {*found.index} == {'shop', 'day', 'size', 'age'} and found.importance.is_monotonic_decreasing
    rng, rises = torch.Generator().manual_seed(1), []
    for column in ('shop',)*3:  # the first one to be shuffled
        df = make_df()[320:].reset_index(drop=True)
        df[column] = df[column].to_numpy()[torch.randperm(80, generator=rng)]
        rises.append(validate(learn, learn.dls.test_dl(df, with_labels=True)) - validate(learn))
    assert np.allclose(found.loc['shop'], [np.mean(rises), np.std(rises)], atol=1e-5)
    assert found.index[0] == 'size' and found.importance['size'] > 3*found['std']['size']


def test_importance_leaves_all_as_it_was():
    learn = trained(make_dls(dl_type=TabTensorDL))
    table, state = [o.clone() for o in learn.dls.valid.table], copy.deepcopy(learn.model.state_dict())
    torch.manual_seed(3)
    learn.model.train()
    first = learn.feature_importance(seed=0)
    assert torch.rand(1) == torch.rand(1, generator=torch.Generator().manual_seed(3)) and learn.model.training
    assert all(map(torch.equal, learn.dls.valid.table, table))
    assert all(torch.equal(v, state[k]) for k, v in learn.model.state_dict().items())
    assert learn.feature_importance(seed=0).equals(first) and not learn.feature_importance(seed=1).equals(first)


def test_importance_is_the_same_with_each_loader():
    learn = trained(make_dls(bs=64))
    wanted = learn.feature_importance(seed=0)
    learn.dls = fast_dls(learn.dls, bs=33)
    assert np.allclose(learn.feature_importance(seed=0).loc[wanted.index], wanted, atol=1e-5)
    train = learn.feature_importance(0, seed=0)
    assert not np.allclose(train.loc[wanted.index], wanted)
    again = learn.feature_importance(dl=learn.dls.test_dl(make_df()[:320], with_labels=True), seed=0)
    assert np.allclose(again.loc[train.index], train, atol=1e-5)


@pytest.mark.parametrize('make', [lambda dls: dls, fast_dls], ids=['fastai', 'tensors'])
def test_importance_of_some_rows(make):
    learn, inputs, targs = trained(make(make_dls(bs=33))), [], []
    learn.model.register_forward_pre_hook(lambda _, args: inputs.append(args[1].clone()))
    loss = learn.loss_func
    learn.loss_func = lambda pred, y: (targs.append(y), loss(pred, y))[1]
    def rows(max_rows, seed=0):
        inputs.clear(), targs.clear()
        found = learn.feature_importance(n_repeats=1, seed=seed, max_rows=max_rows)
        assert [*map(len, inputs)] == [min(max_rows, 80)]*5  # as they are, and with each of four columns shuffled
        return found, [*map(tuple, torch.cat([inputs[0], targs[0]], 1).tolist())]
    found, every = rows(1000)
    assert found.equals(learn.feature_importance(n_repeats=1, seed=0)) and len({*every}) == 80
    found, some = rows(50)
    assert len({*some}) == 50 and {*some} < {*every} and some != every[:50]
    assert found.equals(rows(50)[0]) and rows(50, 1)[1] != some


def test_importance_of_rows_in_files_reads_those_alone(tmp_path):
    pytest.importorskip('pyarrow')
    from dropconnect_tab.parquet import parquet_dls
    make_df(4000).to_parquet(tmp_path/'rows.parquet')
    dls = parquet_dls(tmp_path/'rows.parquet', ['shop'], ['size', 'age'], 'price', valid=.5, seed=0, limit=0, bs=64,
                      folder=tmp_path, device='cpu')
    learn, read, make = trained(dls), [], type(dls.valid).create_batches
    with pytest.MonkeyPatch.context() as mp:
        mp.setattr(type(dls.valid), 'create_batches', lambda self, samps: (read.append(len(samps)), make(self, samps))[1])
        found = learn.feature_importance(max_rows=100, seed=0)
    assert read == [100] and found.index[0] == 'size'


def test_groups_and_flags_are_shuffled_together():
    learn = trained(gappy_dls()[1])
    assert list(learn.dls.cat_names) == ['shop', 'day', 'size_na']
    assert {*learn.feature_importance(n_repeats=1).index} == {'shop', 'day', 'size', 'age'}
    found = learn.feature_importance(n_repeats=2, groups={'place': ['shop', 'size'], 'when': 'day'})
    assert {*found.index} == {'place', 'when', 'age'}
    alone = learn.feature_importance(groups={'flag': ['size_na']})
    assert {*alone.index} == {'shop', 'day', 'size', 'age', 'flag'}
    everything = learn.feature_importance(groups={'all': ['shop', 'day', 'size', 'age']})
    assert everything.shape == (1, 2) and everything.importance['all'] > 0


@pytest.mark.parametrize('loader', [{}, dict(dl_type=TabTensorDL)], ids=['fastai', 'tensors'])
def test_missing_values_are_shuffled_with_their_column(loader):
    df, dls = gappy_dls(gap=3., **loader)
    learn, rows = trained(dls), df[320:].copy()
    found = learn.feature_importance(n_repeats=1, seed=1, groups={'size': 'size', 'flag': 'size_na'})
    base = validate(learn, dls.test_dl(rows, with_labels=True))
    rows['size'] = rows['size'].to_numpy()[torch.randperm(80, generator=torch.Generator().manual_seed(1))]
    assert found.importance['size'] == pytest.approx(validate(learn, dls.test_dl(rows, with_labels=True))-base, abs=1e-5)
    assert found.importance['flag'] > .1  # alone, where the group says so


def test_a_column_that_is_called_like_a_flag():
    df = make_df(200).rename(columns={'shop': 'size_na'})
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, FillMissing, Normalize], cat_names=['size_na', 'day'],
                                     cont_names=['size', 'age'], y_names='price', bs=64, device='cpu')
    learn = trained(dls)
    assert {*learn.feature_importance(n_repeats=1).index} == {'size_na', 'day', 'size', 'age'}
    assert len(learn.partial_dependence('size', n_points=4)) == 4


def test_one_permutation_keeps_a_group_together():
    "Twin columns that always agree: apart, a shuffle makes pairs that there never were"
    df = make_df(200)
    df['twin'], df['price'] = df['size'], 0.
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, Normalize], cat_names=['shop'], cont_names=['size', 'twin'],
                                     y_names='price', bs=64, device='cpu')
    learn = plain_learner(dls, weight_p=0)
    learn.model.forward = lambda cats, conts: (conts[:, :1]-conts[:, 1:]).abs()
    found = learn.feature_importance(groups={'both': ['size', 'twin']})
    assert found.importance['both'] == 0 and found['std']['both'] == 0
    assert learn.feature_importance().importance['twin'] > .5


@pytest.mark.parametrize('kwargs', [dict(members=1), dict(mask='frozen'), dict(mask='resampled', weight_p=.2), dict(n_bins=None)])
@pytest.mark.parametrize('y', ['price', ['price', 'cost'], 'cheap', 'band'])
def test_every_net_and_target(kwargs, y):
    learn = trained(make_dls(y), **kwargs)
    importance = learn.feature_importance(seed=0).importance
    assert importance.idxmax() in ('shop', 'size') and importance['size'] > 0
    found = learn.partial_dependence('size', n_points=4)
    assert list(found) == ([y] if y == 'price' else y if isinstance(y, list) else list(learn.dls.vocab))
    if isinstance(y, str) and y != 'price': assert np.allclose(found.sum(1), 1, atol=1e-5)


def test_several_labels_a_row():
    df = make_df(200).assign(dear=lambda o: o.price > 1, low=lambda o: o.price < 0)
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, Normalize], cat_names=['shop', 'day'], cont_names=['size', 'age'],
                                     y_names=['dear', 'low'], y_block=MultiCategoryBlock(encoded=True, vocab=['dear', 'low']),
                                     bs=64, device='cpu')
    learn = trained(dls, loss_func=BCEWithLogitsLossFlat(), n_out=2)
    found = learn.partial_dependence('size', n_points=5)
    assert list(found) == ['dear', 'low'] and found.dear.iloc[-1] > found.dear.iloc[0] and found.low.iloc[-1] < found.low.iloc[0]
    assert learn.feature_importance().importance['size'] > 0


def test_a_learner_of_fastai_without_numbers_or_categories():
    for cat, cont in ((['shop', 'day'], []), ([], ['size', 'age'])):
        learn = tabular_learner(make_dls(cat=cat, cont=cont), layers=[10])
        assert {*learn.feature_importance(n_repeats=1).index} == {*cat, *cont}
        assert len(learn.partial_dependence([*cat, *cont][0])) > 2


def test_one_row_has_nothing_to_shuffle():
    learn = trained(make_dls())
    dl = learn.dls.test_dl(make_df()[:1], with_labels=True)
    assert (learn.feature_importance(dl=dl) == 0).all(None)
    assert learn.partial_dependence('size', dl=dl).shape == (1, 1)


def test_what_cannot_be_asked():
    learn = plain_learner(make_dls())
    for ask in (lambda: learn.partial_dependence('colour'), lambda: learn.feature_importance(groups={'a': ['colour']})):
        with pytest.raises(ValueError, match="'colour' is unknown: choose one of 'shop', 'day', 'size', 'age'"): ask()
    with pytest.raises(ValueError, match='n_repeats=0'): learn.feature_importance(n_repeats=0)
    with pytest.raises(ValueError, match='max_rows=1: give a number of rows, 2 or more'): learn.feature_importance(max_rows=1)
    with pytest.raises(ValueError, match='n_points=1'): learn.partial_dependence('size', n_points=1)
    with pytest.raises(ValueError, match='no targets.*with_labels=True'):
        learn.feature_importance(dl=learn.dls.test_dl(make_df()[:9].drop(columns='price')))
    alone = plain_learner(TabularPandas(make_df(), [Categorify, Normalize], ['shop'], ['size'], 'price').dataloaders(bs=64))
    for ask in (alone.feature_importance, lambda: alone.partial_dependence('size')):
        with pytest.raises(ValueError, match='no validation rows.*or ds_idx=0'): ask()
    assert len(alone.feature_importance(0)) == 2


@pytest.mark.parametrize('loader', [{}, dict(dl_type=TabTensorDL)])
def test_partial_dependence_is_the_mean_prediction(loader):
    df, dls = gappy_dls(**loader)
    learn, rows = trained(dls), df[320:]
    def mean(**values):
        with learn.no_bar(): return learn.get_preds(dl=dls.test_dl(rows.assign(**values)))[0].mean().item()
    for column in ('shop', 'size', 'age'):
        found = learn.partial_dependence(column, n_points=5)
        assert list(found) == ['price'] and found.index.name == column
        for value, pred in found.price.items(): assert pred == pytest.approx(mean(**{column: value}), abs=1e-4)
    assert sorted(learn.partial_dependence('shop').index) == list('abcdef')
    for column in ('age', 'size'):  # of those that are not missing
        grid = learn.partial_dependence(column, n_points=5).index
        assert np.allclose(grid, rows[column].quantile(np.linspace(0, 1, 5)), atol=1e-5)


def test_plots():
    learn = trained(make_dls('band'))
    importance = learn.feature_importance()
    ax = plot_importance(importance, n=3)
    assert [o.get_text() for o in ax.get_yticklabels()] == [*importance.index[:3]][::-1]
    assert [o.get_width() for o in ax.patches] == importance.importance[:3].tolist()[::-1]
    axs = learn.plot_partial_dependence(['size', 'shop'], n_points=6)
    assert [len(o.lines) for o in axs] == [3, 3] and axs[0].get_ylim() == axs[1].get_ylim()
    assert np.allclose(axs[0].lines[1].get_ydata(), learn.partial_dependence('size', n_points=6)['low'])
    mine = plt.subplots(1, 1, squeeze=False)[1][0]
    assert learn.plot_partial_dependence('age', axs=mine)[0] is mine[0] and plot_importance(importance, ax=mine[0]) is mine[0]
    plt.close('all')


@pytest.mark.parametrize('cls', [DropConnectRegressor, DropConnectClassifier])
def test_estimators(cls):
    df = make_df(200)
    X, y = df[['shop', 'size', 'age']], df.price if cls is DropConnectRegressor else df.cheap
    est = cls(n_epoch=5, layers=[10], members=2, n_bins=0, lr=.05, random_state=0).fit(X, y, np.linspace(.5, 2, 200))
    assert est.learner_.feature_importance(0, seed=0).index[0] == 'size'
    theirs = permutation_importance(est, X, y, n_repeats=2, random_state=0)
    assert X.columns[theirs.importances_mean.argmax()] == 'size'
    shown = PartialDependenceDisplay.from_estimator(est, X, ['size', 'shop'], categorical_features=['shop'], grid_resolution=8)
    ours = est.learner_.partial_dependence('shop', 0)
    ours = ours.iloc[:, -1][sorted(ours.index)]
    assert np.allclose(shown.pd_results[1]['average'][0], ours, atol=1e-4)
    plt.close('all')


@pytest.mark.parametrize('cls', [DropConnectRegressor, DropConnectClassifier])
def test_missing_values_of_estimators(cls):
    "To shuffle inputs of the net is to shuffle the column: what is missing is shuffled with it"
    df = gappy_dls(gap=3.)[0]
    X, y = df[['shop', 'size', 'age']], df.price if cls is DropConnectRegressor else df.price > 1
    est = cls(n_epoch=8, layers=[20], members=2, n_bins=0, ps=0., lr=.05, random_state=0).fit(X, y)
    found = est.learner_.feature_importance(0, n_repeats=20, seed=0)
    assert 'size_na' in est.learner_.dls.cat_names and {*found.index} == {*X}
    measure = 'neg_mean_squared_error' if cls is DropConnectRegressor else 'neg_log_loss'
    theirs = permutation_importance(est, X, y, n_repeats=20, random_state=0, scoring=measure)
    assert found.importance['size'] == pytest.approx(theirs.importances_mean[1], rel=.1)

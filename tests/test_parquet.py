"Rows from files, chunk by chunk: the numbers are those of a `TabularPandas`, and all that takes loaders takes these."
import copy
import gc
import pickle
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.tabular.all import (CategoryBlock, Categorify, FillMissing, FillStrategy, MultiCategoryBlock, Normalize,
                                RegressionBlock, TabularPandas, TabularProc, load_learner, tabular_learner)

from dropconnect_tab.all import FillGaps, TabTensorDL, dropconnect_learner, fast_dls

pa = pytest.importorskip('pyarrow')
pc, pads = pytest.importorskip('pyarrow.compute'), pytest.importorskip('pyarrow.dataset')

from dropconnect_tab.parquet import StoredDL, _block_order, _tables, parquet_dls  # noqa: E402

CAT, CONT = ['shop', 'floor', 'grade', 'open', 'since'], ['size', 'age', 'rooms']


def make_df(n=1000, seed=0):
    "Every type of column, with missing values, and validation rows with a category that no training row has"
    rng = np.random.default_rng(seed)
    df = pd.DataFrame({
        'shop': rng.choice(list('fabcde'), n), 'floor': rng.integers(-1, 4, n).astype(float),
        'grade': pd.Categorical(rng.choice(['low', 'mid', 'high'], n), ['low', 'mid', 'high', 'top'], ordered=True),
        'open': rng.random(n) < .5, 'since': [date(2020, 1, 1+o) for o in rng.integers(0, 5, n)],
        'size': rng.normal(30, 4, n).astype(np.float32), 'age': rng.exponential(9, n), 'rooms': rng.integers(1, 9, n),
        'late': np.arange(n) >= n*4//5})
    df['price'] = df['size'] - df['age']*df['open'] + rng.normal(size=n)
    df['band'] = pd.cut(df['price'], [-99, 20, 28, 999], labels=['mid', 'low', 'high']).astype(str)
    df['dear'], df['old'] = df['price'] > 25, df['age'] > 9
    for name, share in dict(floor=.1, age=.2, grade=.05).items(): df.loc[rng.random(n) < share, name] = None
    df.loc[n-3:, 'shop'] = 'new'
    return df


@pytest.fixture(scope='module')
def df(): return make_df()


@pytest.fixture(scope='module')
def files(df, tmp_path_factory):
    "The rows in four files, in row groups of 50"
    folder = tmp_path_factory.mktemp('rows')
    for i in range(4): df[i*250:(i+1)*250].to_parquet(folder/f'{i}.parquet', row_group_size=50, index=False)
    return folder


def load(source, y='price', cat=CAT, cont=CONT, **kwargs):
    kwargs = dict(valid=pc.field('late'), chunk=70, bs=64, device='cpu', seed=0) | kwargs
    return parquet_dls(source, list(cat), list(cont), y, **kwargs)


def in_memory(df, y='price', cat=CAT, cont=CONT, procs=(Categorify, FillMissing, Normalize), y_block=None):
    splits = [np.flatnonzero(o).tolist() for o in (~df['late'], df['late'])]
    return TabularPandas(df, procs, list(cat), list(cont), y, y_block=y_block, splits=splits, reduce_memory=False)


def assert_same(dls, to):
    "The tables of the loaders are those of training and validation rows of a `TabularPandas`"
    for dl, rows in zip(dls.loaders, (to.train, to.valid)):
        cats, conts, y = dl.table
        assert dl.n == len(rows) and dl.dataset.cat_names == rows.cat_names
        assert torch.equal(cats.long(), torch.tensor(rows.cats.to_numpy(np.int64)))
        np.testing.assert_allclose(conts, rows.conts.to_numpy(float), atol=1e-5, rtol=1e-5)
        np.testing.assert_allclose(y, rows.targ.to_numpy(float), rtol=1e-6)


def fitted(dls, make=dropconnect_learner, **kwargs):
    learn = make(dls, layers=[20], **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit(1, 1e-2)
    return learn


# --- the same numbers -------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('limit', [4, 0], ids=['memory', 'mapped'])
@pytest.mark.parametrize('y', ['price', 'band', 'open', ['price', 'rooms']], ids=str)
def test_the_numbers_are_those_in_memory(files, df, y, limit):
    columns = dict(cat=[o for o in CAT if o != y], cont=[o for o in CONT if o not in y])
    dls, to = load(files, y, limit=limit, **columns), in_memory(df, y, **columns)
    assert_same(dls, to)
    for n in to.cat_names: assert list(dls.classes[n]) == list(to.classes[n])
    assert dls.c == to.c and dls.train.table[0].dtype == torch.uint8
    if y == 'band': assert list(dls.vocab) == list(to.vocab) == ['high', 'low', 'mid']


def test_the_default_of_fastai_which_shrinks_columns_gives_the_same(files, df):
    splits = [np.flatnonzero(o).tolist() for o in (~df['late'], df['late'])]
    to = TabularPandas(df, [Categorify, FillMissing, Normalize], ['floor', 'open'], CONT, 'price', splits=splits)
    assert_same(load(files, cat=['floor', 'open']), to)


@pytest.mark.parametrize('procs', [
    [Categorify, FillMissing(FillStrategy.constant, fill_vals=dict(age=-1)), Normalize],
    [Categorify, FillMissing(add_col=False)], [FillGaps, Categorify, Normalize],
    [Normalize, FillMissing(FillStrategy.mode), Categorify]], ids=lambda o: str(len(o)))
def test_procs_and_their_settings(files, df, procs):
    dls, to = (f(o, procs=copy.deepcopy(procs)) for f, o in ((load, files), (in_memory, df)))
    assert_same(dls, to)
    rows = df[:9].assign(age=np.nan)
    if FillGaps in procs: rows['size'] = np.nan  # which training rows have all
    a, b = (o.dataloaders(device='cpu', dl_type=TabTensorDL) if o is to else o for o in (dls, to))
    for x, y in zip(*(o.test_dl(rows).one_batch() for o in (a, b))): torch.testing.assert_close(x.float(), y.float())


def test_only_numbers_and_only_categories(files, df):
    numbers = dict(cat=[], cont=['size'], procs=[Normalize])
    assert_same(load(files, **numbers), in_memory(df, **numbers))
    assert_same(load(files, cont=[], procs=Categorify), in_memory(df, cont=[], procs=[Categorify]))
    fitted(load(files, cont=[]))


def test_labels_that_do_not_exclude_each_other(files, df):
    block = MultiCategoryBlock(encoded=True, vocab=['dear', 'old'])
    dls = load(files, ['dear', 'old'], y_block=block)
    labels = df.loc[~df['late'], ['dear', 'old']].to_numpy(np.float32)
    assert dls.c == 2 and torch.equal(dls.train.table[2], torch.tensor(labels))


def test_categories_of_a_target_keep_their_order_without_the_unused(files, df):
    dls, to = (f(o, 'grade', cat=['shop'], **k) for f, o, k in (
        (load, pads.dataset(files).filter(pc.field('grade').is_valid()), {}), (in_memory, df[df['grade'].notna()], {})))
    assert list(dls.vocab) == list(to.vocab) == ['low', 'mid', 'high']
    assert_same(dls, to)


def test_a_vocab_that_is_given_keeps_its_order(files):
    dls = load(files, 'band', y_block=CategoryBlock(vocab=['low', 'mid', 'high'], sort=False))
    assert list(dls.vocab) == ['low', 'mid', 'high'] and set(dls.train.table[2].unique().tolist()) == {0, 1, 2}


def test_chunks_and_batches_in_the_file_do_not_matter(files):
    a, b, c = (load(files, chunk=o).train.table for o in (9, 33, 10**6))
    for o in (b, c):
        for x, y in zip(a, o): torch.testing.assert_close(x, y)


def test_many_categories_take_two_bytes():
    table = pa.table(dict(id=np.arange(1000)[::-1] % 500, y=np.arange(1000.)))
    dls = load(table, 'y', ['id'], [], valid=.2, chunk=100)
    assert dls.train.table[0].dtype == torch.int16 and len(dls.classes['id']) > 256
    ids, ys = (dls.train.table[i][:, 0].tolist() for i in (0, 2))
    assert [dls.classes['id'][o] for o in ids] == [(999-y) % 500 for y in ys]


# --- sources and splits -----------------------------------------------------------------------------------------------

def test_other_sources(files, df, tmp_path):
    table = pa.Table.from_pandas(df)
    df.to_feather(tmp_path/'rows.arrow')
    for source, kwargs in ((sorted(files.glob('*')), {}), (pads.dataset(files), {}), (table, {}), (str(files), {}),
                           (tmp_path/'rows.arrow', dict(format='feather'))):
        assert_same(load(source, **kwargs), in_memory(df))


def test_validation_rows_in_other_files(files, df):
    paths = sorted(files.glob('*'))
    assert_same(load(paths[:3], valid=paths[3:]), in_memory(df.assign(late=df.index >= 750)))


def test_a_random_share_is_the_same_in_both_passes_and_with_the_same_seed(files):
    a, b, other = (load(files, valid=.3, seed=o, chunk=c) for o, c in ((1, 70), (1, 99), (2, 70)))
    assert 250 < a.valid.n < 350 and a.train.n + a.valid.n == 1000
    first, again, third = (o.valid.table[2] for o in (a, b, other))
    assert torch.equal(first, again) and not torch.equal(first[:200], third[:200])
    np.random.seed(3)
    first = load(files, valid=.3, seed=None).valid.table[2]
    np.random.seed(3)
    assert torch.equal(first, load(files, valid=.3, seed=None).valid.table[2])


def test_where_a_condition_is_missing_rows_are_for_training(files, df):
    assert load(files, valid=pc.field('floor') > 1).valid.n == (df['floor'] > 1).sum() < df['floor'].notna().sum()


def test_a_sample_stands_for_the_rows(files, df):
    dls = load(files, sample=100)
    assert [len(o.dataset) for o in dls.loaders] == [100, 100] and dls.train.n == dls.train.n_rows == 800
    for o in dls.loaders: assert np.isin(o.dataset.items['size'].astype(np.float32), o.table[1][:, 0]).all()
    proc = {type(o): o for o in dls.train_ds.procs.fs}
    train, drawn = df[~df['late']], dls.train_ds.items['age_na'] == 1  # not missing
    assert proc[Normalize].means['size'] == pytest.approx(train['size'].mean(), rel=1e-6)  # of all rows
    median = proc[FillMissing].na_dict['age']
    assert median != train['age'].median() and median == pytest.approx(train['age'].median(), rel=.4)
    scaled = (median - proc[Normalize].means['age'])/proc[Normalize].stds['age']
    assert dls.train_ds.items['age'][drawn].median() == pytest.approx(scaled)


def test_the_defaults_of_a_learner_go_by_all_rows():
    rng = np.random.default_rng(0)
    n = 12_000
    table = pa.table(dict(shop=rng.integers(0, 5, n), x=rng.normal(size=n), y=rng.normal(size=n)))
    few, many = (dropconnect_learner(load(o, 'y', ['shop'], ['x'], valid=.2, sample=300))
                 for o in (table[:3000], table))
    assert few.model.embeds[0].weight.std() < .05 < many.model.embeds[0].weight.std()


def test_what_was_read_does_not_stay_in_memory(tmp_path):
    rng, path = np.random.default_rng(0), tmp_path/'rows.parquet'
    table = pa.table({f'x{i}': rng.normal(size=100_000) for i in range(10)})
    pytest.importorskip('pyarrow.parquet').write_table(table, path, row_group_size=5000)
    names, before = table.column_names, pa.total_allocated_bytes()
    def most(): return max(pa.total_allocated_bytes() for _ in _tables(pads.dataset(path), names, names, None, 5000)) - before
    # Arrow's threads may be ahead, the more so on a busy machine; what stays is there in every pass
    assert path.stat().st_size > 7e6 and min(most() for _ in range(10)) < 4e6


# --- what takes loaders -----------------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize('make', [dropconnect_learner, tabular_learner])
@pytest.mark.parametrize('y', ['price', 'band'])
def test_a_learner_trains_predicts_and_exports(files, df, tmp_path, make, y):
    learn = fitted(load(files, y, path=tmp_path), make)
    preds, targs = learn.get_preds()
    rows = df[df['late']].drop(columns=['price', 'band'])
    again = learn.get_preds(dl=learn.dls.test_dl(rows))[0]
    torch.testing.assert_close(preds, again, atol=1e-5, rtol=1e-5)
    assert len(learn.get_preds(ds_idx=0)[0]) == 800 and len(targs) == 200
    decoded, _, one = learn.predict(rows.iloc[3])
    torch.testing.assert_close(one, preds[3], atol=1e-5, rtol=1e-5)
    assert decoded.decode().items['shop'].item() == rows['shop'].iloc[3]
    learn.export('net.pkl')
    assert (tmp_path/'net.pkl').stat().st_size < 400_000
    loaded = load_learner(tmp_path/'net.pkl')
    torch.testing.assert_close(loaded.get_preds(dl=loaded.dls.test_dl(rows))[0], preds, atol=1e-5, rtol=1e-5)
    assert len(learn.dls.train.table[0]) == 800


@pytest.mark.slow
def test_what_the_package_adds_to_a_learner(files, df):
    learn = fitted(load(files), oob=.5)
    assert learn.oob_preds()[0].shape == (800, 1) and len(learn.feature_importance(n_repeats=1)) > 0
    rows = df[df['late']]
    np.testing.assert_allclose(learn.predictor()(rows), learn.get_preds()[0], atol=1e-4)


def test_an_epoch_sees_each_row_once_in_a_new_order(files):
    for limit in (4, 0):
        train = load(files, limit=limit).train.new(drop_last=False)
        a, b = (torch.cat([o[2] for o in train])[:, 0] for _ in range(2))
        assert not torch.equal(a, b) and torch.equal(a.sort()[0], b.sort()[0]) and len(a.unique()) > 790


def test_blocks_come_in_a_random_order_and_are_mixed():
    order = _block_order(100_000, np.random.default_rng(0), 100, 10)
    assert np.array_equal(np.sort(order), np.arange(100_000))
    first = order[:1000]
    assert len(np.unique(first//100)) == 10 and np.ptp(first) > 10_000  # ten blocks, from all over the file
    assert len(np.unique(first[:100]//100)) > 5  # mixed


def test_other_settings_and_copies_keep_the_rows(files):
    dls = load(files, limit=0)
    train = dls.train
    for o in (train.new(bs=7), copy.deepcopy(train), pickle.loads(pickle.dumps(train)), fast_dls(dls).train):
        assert type(o) is StoredDL and o.n == 800 and torch.equal(o.table[1], dls.train.table[1])
    assert dls.train.new(n=100).n == 100 and type(dls.valid.new(dls.valid_ds.iloc[:5])) is TabTensorDL
    with pytest.raises(ValueError, match="wgts: rows that are read from files have no weights"):
        dls.train.new(wgts=[1]*800)


def test_a_pickle_of_mapped_rows_is_small(files):
    sizes = [len(pickle.dumps(load(files, limit=o, sample=10).train.rows)) for o in (4, 0)]
    assert sizes[1] < 2000 < sizes[0]


def test_the_files_of_a_map_go_with_the_rows(files, tmp_path):
    dls = load(files, limit=0, folder=tmp_path)
    assert len(list(tmp_path.iterdir())) == 2 and not list(tmp_path.glob('*/3'))
    del dls
    gc.collect()
    assert not list(tmp_path.iterdir())
    load(files, limit=1, folder=tmp_path)
    assert not list(tmp_path.iterdir())


# --- errors -----------------------------------------------------------------------------------------------------------

class Other(TabularProc): pass


@pytest.mark.parametrize('kwargs, error', [
    (dict(cat=['nowhere']), "the files have no column 'nowhere'; they have \\['shop'"),
    (dict(cat=['floor'], cont=['size', 'shop']), "column 'shop' is of type .*string, not of numbers: make numbers"),
    (dict(y='band', y_block=RegressionBlock), "column 'band' is of type .*string, not of numbers"),
    (dict(cat=['shop', 'size']), "column 'size' is in cat_names and in cont_names: leave it out of one of them"),
    (dict(cat=[], cont=[]), "give columns, and a target"), (dict(y=None), "give columns, and a target"),
    (dict(valid=pc.field('size') > 999), "leaves no validation rows: give another fraction, condition or files"),
    (dict(valid=pc.field('size') < 999), "leaves no training rows"),
    (dict(valid=0), "valid=0: give a fraction of the rows above 0 and below 1"),
    (dict(valid=1.5), "valid=1.5: give a fraction"),
    (dict(procs=[Categorify, FillMissing, Other]), "procs has Other, which is not fitted chunk by chunk"),
    (dict(procs=[Categorify, Normalize]), "continuous column 'age' has missing values: put FillMissing among"),
    (dict(procs=[FillMissing, Normalize]), "column 'shop' needs Categorify among the procs"),
    (dict(y='grade', cat=['shop']), "target 'grade' has missing values: leave out their rows, as in pyarrow"),
    (dict(y='age', cont=['size']), "target 'age' has missing values"),
    (dict(y='shop', cat=['floor']), "target 'shop' has labels that no training row has"),
    (dict(y='band', y_block=CategoryBlock(vocab=['low', 'mid'])), "or that are not in the vocab"),
    (dict(chunk=0), 'chunk=0'), (dict(sample=2.5), 'sample=2.5')], ids=lambda o: str(o)[:40])
def test_errors_name_what_is_wrong(files, kwargs, error):
    with pytest.raises(ValueError, match=error): load(files, **kwargs)


def test_errors_of_files(tmp_path):
    with pytest.raises(FileNotFoundError, match='nowhere'): load(tmp_path/'nowhere')
    with pytest.raises(ValueError, match='has no files with columns: give a file, a folder'): load(tmp_path)


@pytest.mark.parametrize('change, error', [
    (dict(size=np.inf), "column 'size' has infinite values"),
    (dict(price=np.inf), "column 'price' has infinite values"),
    (dict(size=np.nan), "continuous column 'size' has missing values in validation rows alone: put FillGaps")], ids=str)
def test_values_that_cannot_be(df, change, error):
    for name, value in change.items(): bad = df.assign(**{name: df[name].where(df.index != 990, value)})
    with pytest.raises(ValueError, match=error): load(pa.Table.from_pandas(bad))


def test_a_column_without_values(df):
    empty = pa.Table.from_pandas(df.assign(age=df['age'].where(df['late'])))
    with pytest.raises(ValueError, match="column 'age' has no values in the training rows: leave it out"): load(empty)
    rare = pa.Table.from_pandas(df.assign(age=df['age'].where(df.index == 7, np.nan)))
    with pytest.raises(ValueError, match="column 'age' has no values in a sample of 5 rows"): load(rare, sample=5)


def test_without_pyarrow(monkeypatch):
    monkeypatch.setattr('dropconnect_tab.parquet.pa', None)
    with pytest.raises(ImportError, match="pip install 'dropconnect_tab\\[parquet\\]'"): parquet_dls('rows.parquet')


def write(path, **columns):
    pytest.importorskip('pyarrow.parquet').write_table(pa.table(columns), path)
    return path


def test_large_ids_stay_apart_or_are_an_error(tmp_path):
    "float64, in which pandas has integers with missing values, holds whole numbers up to 2**53"
    x = np.random.default_rng(0).normal(size=400)
    ids = (2**53 + 1 + np.arange(400) % 4).tolist()

    def load(ids):
        rows = write(tmp_path/'a.parquet', id=pa.array(ids), x=x, y=x)
        return parquet_dls(rows, ['id'], ['x'], 'y', seed=0, device='cpu')
    assert len(load(ids).classes['id']) == 5
    with pytest.raises(ValueError, match=r"'id' has missing values, and categories such as 90071992547409"):
        load([None, *ids[1:]])
    assert len(load([None, *(list(range(10))*40)[1:]]).classes['id']) == 11


def test_minus_zero_is_zero(tmp_path):
    x = np.arange(600.)
    rows = write(tmp_path/'a.parquet', c=np.array([0., -0., 1.]*200), x=x, y=x)
    dls = parquet_dls(rows, ['c'], ['x'], 'y', seed=0, device='cpu')
    assert torch.cat([o.table[0].flatten() for o in dls.loaders]).long().bincount().tolist() == [0, 400, 200]


def test_files_of_different_types_are_read_with_one(tmp_path):
    "Missing values alone, whole numbers, and others: the type is that of all files"
    x = np.arange(50.)
    for i, (c, n) in enumerate([(pa.nulls(50), np.arange(50)), (pa.array(['a', 'b']*25), x+.5)]):
        write(tmp_path/f'{i}.parquet', c=c, n=n, y=x)
    dls = parquet_dls(tmp_path, ['c'], ['n'], 'y', seed=0, device='cpu')
    assert list(dls.classes['c']) == ['#na#', 'a', 'b'] and sum(len(o.dataset) for o in dls.loaders) == 100
    write(tmp_path/'2.parquet', c=x, n=x, y=x)
    with pytest.raises(ValueError, match='columns are of different types: .*c.*write them with one type'):
        parquet_dls(tmp_path, ['c'], ['n'], 'y', seed=0, device='cpu')


def test_what_cannot_be_read_is_named_with_its_type(tmp_path):
    x = np.arange(60.)
    good = dict(c=pa.array(['a', 'b']*30), x=x, y=x)
    def load(valid=.2, **columns):
        rows = write(tmp_path/'a.parquet', **good | columns)
        return parquet_dls(rows, ['c'], ['x'], 'y', valid=valid, seed=0, device='cpu')
    other = write(tmp_path/'b.parquet', **good | dict(c=pa.array([1, 2]*30)))
    assert load(np.float32(.2)).train.n and load(pc.field('x') > 40).valid.n == 19
    for bad, match in ((dict(valid=other), "'c' is of type string in the training files, and int64 in those for validation"),
                       (dict(c=pa.array([[1]]*60)), r"'c' is of type list<.*>, of which there are no categories"),
                       (dict(valid=pc.field('x')), r'valid=x is of type double, neither true nor false'),
                       (dict(valid=None), 'valid=None: give a fraction'),
                       (dict(y=x*1e300), r"target 'y' has values up to 5.9e\+301, which float32 cannot hold")):
        with pytest.raises(ValueError, match=match): load(**bad)
    source = pads.dataset(write(tmp_path/'a.parquet', **good | dict(y=np.r_[np.nan, x[1:]])))
    with pytest.raises(ValueError, match=r"filter\(~pyarrow.compute.field\('y'\).is_null\(nan_is_null=True\)\)"):
        parquet_dls(source, ['c'], ['x'], 'y', seed=0, device='cpu')
    rows = source.filter(~pc.field('y').is_null(nan_is_null=True))
    assert sum(o.n for o in parquet_dls(rows, ['c'], ['x'], 'y', seed=0, device='cpu').loaders) == 59

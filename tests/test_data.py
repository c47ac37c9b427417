"The table as tensors: the batches are fastai's, an epoch is a permutation, and all that takes a loader takes this one."
import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.distributed import DistributedDL
from fastai.tabular.all import (Categorify, FillMissing, Normalize, RegressionBlock, TabDataLoader, TabularPandas,
                                TabWeightedDL, Transform, load_learner, rmse, set_seed, tabular_learner)
from helpers import make_df, make_dls

import dropconnect_tab.data as data
from dropconnect_tab.all import TabTensorDL, dropconnect_learner, fast_dls
from dropconnect_tab.data import _fits_on, _smallest_int

PROCS = [Categorify, FillMissing, Normalize]
KINDS = [dict(), dict(y='cheap'), dict(y='band'), dict(y=['price', 'cost']), dict(cat=()), dict(cont=()),
         dict(cat=(), y='band'), dict(cont=(), y=['price', 'cost'])]


def fast(**kwargs): return make_dls(dl_type=TabTensorDL, **kwargs)


def make_to(df=None, cat=('shop', 'day'), cont=('size', 'age'), y='price'):
    df = make_df() if df is None else df
    return TabularPandas(df, PROCS, list(cat), list(cont), y, y_block=RegressionBlock(),
                         splits=[list(range(len(df)*4//5)), list(range(len(df)*4//5, len(df)))])


def rows(dl):
    "The rows of an epoch, each as its number of `size`, which no two rows share"
    batches = list(dl)
    return torch.cat([b[1][:, 0] for b in batches]).tolist() if batches else []


def assert_same(a, b):
    "Batch by batch"
    a, b = list(a), list(b)
    assert len(a) == len(b) > 0
    for x, y in zip(a, b):
        assert isinstance(y, tuple) and len(x) == len(y)
        for o, p in zip(x, y): assert o.dtype == p.dtype and o.shape == p.shape and torch.equal(o, p)


def fitted(dls, make=tabular_learner, n=1, **kwargs):
    learn = make(dls, layers=[20], **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit(n, 1e-2)
    return learn


def x_df(n=50, seed=3): return make_df(n, seed)[['shop', 'day', 'size', 'age']]


@pytest.fixture
def builds(monkeypatch):
    "One entry for each table that is built"
    res = []
    def counted(codes):
        res.append(len(codes))
        return _smallest_int(codes)
    monkeypatch.setattr(data, '_smallest_int', counted)
    return res


@pytest.fixture
def shown(monkeypatch):
    "The tables that fastai displays"
    res = []
    for module in ('core', 'learner'): monkeypatch.setattr(f'fastai.tabular.{module}.display_df', res.append)
    return res


class Double(Transform):
    "A batch transform: the numbers, and not the codes, times two"
    def encodes(self, x: torch.Tensor): return x*2 if x.is_floating_point() else x


# --- batches --------------------------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize('kind', KINDS, ids=str)
def test_batches_are_those_of_fastai(kind):
    stock, ours = make_dls(**kind), fast(**kind)
    assert_same(stock.valid, ours.valid)
    assert_same(*(o.train.new(shuffle=False, drop_last=False) for o in (stock, ours)))
    assert_same(stock.test_dl(x_df()), ours.test_dl(x_df()))  # without targets
    assert_same(stock.test_dl(make_df(50, 3)), ours.test_dl(make_df(50, 3)))  # with them
    assert_same([stock.valid.one_batch()], [ours.valid.one_batch()])


def test_missing_values_and_their_flags_are_those_of_fastai():
    df = make_df()
    df.loc[::7, 'size'], df.loc[::5, 'shop'] = np.nan, None
    to = make_to(df)
    stock, ours = (to.dataloaders(device='cpu', dl_type=t) for t in (None, TabTensorDL))
    assert stock.valid.one_batch()[0].shape[1] == 3  # shop, day, size_na
    assert_same(stock.valid, ours.valid)
    assert_same(*(o.test_dl(df.drop(columns='price')) for o in (stock, ours)))


def test_no_rows_no_batches():
    for dls in (make_dls(), fast()):
        dl = dls.test_dl(x_df().iloc[:0])
        assert len(dl) == 0 and list(dl) == []


def test_decode_is_that_of_fastai():
    stock, ours = make_dls('cheap'), fast(y='cheap')
    a, b = (o.valid.decode(o.valid.one_batch()) for o in (stock, ours))
    assert type(a) is type(b)
    pd.testing.assert_frame_equal(a.items, b.items)


# --- order ----------------------------------------------------------------------------------------------------------

def test_an_epoch_is_a_permutation_and_the_next_another():
    dl = fast(bs=50).train.new(drop_last=False)
    ordered, a, b = rows(dl.new(shuffle=False)), rows(dl), rows(dl)
    assert len(set(ordered)) == 320
    assert sorted(a) == sorted(b) == sorted(ordered)
    assert a != b and a != ordered and b != ordered


@pytest.mark.slow
@pytest.mark.parametrize('wgts', [None, np.arange(1, 321)])
def test_the_seed_decides_the_order(wgts):
    def epochs(seed):
        set_seed(seed)
        dl = TabTensorDL(make_dls().train_ds, bs=64, shuffle=True, wgts=wgts)
        return rows(dl), rows(dl)
    assert epochs(1) == epochs(1)
    assert epochs(1) != epochs(2)
    assert epochs(1)[0] != epochs(1)[1]


@pytest.mark.slow
@pytest.mark.parametrize('kwargs', [dict(), dict(drop_last=False), dict(drop_last=True), dict(shuffle=False),
                                    dict(bs=1000), dict(bs=1000, drop_last=False), dict(bs=328), dict(bs=1)], ids=str)
def test_sizes_of_batches_are_those_of_fastai(kwargs):
    stock, ours = make_dls(n=410, **kwargs), fast(n=410, **kwargs)
    for a, b in zip(stock.loaders, ours.loaders):
        assert len(a) == len(b)
        assert [len(o[0]) for o in a] == [len(o[0]) for o in b]


def test_training_drops_the_rest_and_validation_does_not():
    ours = fast(n=410)
    assert [len(o[0]) for o in ours.train] == [64]*5 and [len(o[0]) for o in ours.valid] == [64, 18]
    assert [len(o[0]) for o in fast(n=410, drop_last=False).train] == [64]*5 + [8]


@pytest.mark.parametrize('shuffle', [False, True])
def test_the_first_n_rows(shuffle):
    to = make_dls().train_ds
    stock = TabDataLoader(to, bs=30, n=100, device='cpu')
    ours = TabTensorDL(to, bs=30, n=100, shuffle=shuffle, device='cpu')
    assert len(ours) == len(stock) == 4
    assert len(set(rows(ours))) == 100 and sorted(rows(ours)) == sorted(rows(stock))
    assert (rows(ours) == rows(stock)) != shuffle


# --- weights of rows ------------------------------------------------------------------------------------------------

def test_rows_are_drawn_in_proportion_to_their_weights():
    to = make_dls().train_ds
    ordered, wgts = rows(TabTensorDL(to)), np.tile([0, 1, 3, 4], 80)
    dl = TabTensorDL(to, bs=64, shuffle=True, wgts=wgts)
    kind = dict(zip(ordered, wgts.tolist()))
    drawn = np.array([kind[r] for _ in range(40) for r in rows(dl)])
    assert len(drawn) == 40*320
    shares = [(drawn == w).mean() for w in (0, 1, 3, 4)]
    assert shares[0] == 0
    assert shares[1:] == pytest.approx([1/8, 3/8, 4/8], abs=.02)


def test_rows_of_large_weight_come_again():
    wgts = np.ones(320)
    wgts[7] = 1e6
    dl = TabTensorDL(make_dls().train_ds, shuffle=True, wgts=wgts)
    assert len(set(rows(dl))) < 20


def test_weights_do_not_matter_without_shuffling():
    to = make_dls().train_ds
    assert rows(TabTensorDL(to, wgts=np.arange(320))) == rows(TabTensorDL(to))


def test_weights_belong_to_their_rows():
    dl = TabTensorDL(make_dls().train_ds, shuffle=True, wgts=[1.]+[0.]*319, bs=64)
    assert len(set(rows(dl))) == len(set(rows(dl.new()))) == len(set(rows(dl.new(bs=10)))) == 1
    other = make_dls().valid_ds
    assert len(set(rows(dl.new(other)))) == 80


@pytest.mark.parametrize('wgts, says', [([1.]*319, r'\(319,\).*320'), (np.ones((320, 1)), r'\(320, 1\)'),
                                        ([-1.]+[1.]*319, 'below 0'), ([np.nan]+[1.]*319, 'not finite'),
                                        ([np.inf]+[1.]*319, 'not finite'), ([0.]*320, 'only zeros')])
def test_weights_that_cannot_be(wgts, says):
    with pytest.raises(ValueError, match=says): TabTensorDL(make_dls().train_ds, wgts=wgts)


def test_weights_for_the_training_rows_through_fastais_own_door():
    wgts = [1.]*20 + [0.]*300
    kwargs = dict(dl_kwargs=[dict(wgts=wgts), {}], device='cpu')
    dls = make_to().dataloaders(dl_type=TabTensorDL, **kwargs)
    assert set(rows(dls.train)) <= set(rows(dls.train.new(shuffle=False))[:20]) and len(set(rows(dls.valid))) == 80


# --- creation -------------------------------------------------------------------------------------------------------

def test_both_doors_of_fastai():
    for dls in (fast(), make_to().dataloaders(dl_type=TabTensorDL, bs=64, device='cpu')):
        assert [type(o) for o in dls.loaders] == [TabTensorDL]*2
        assert dls.train.shuffle and not dls.valid.shuffle
        assert_same(make_dls().valid, dls.valid)


def test_workers_have_nothing_to_do():
    with pytest.raises(ValueError, match='num_workers=2'): fast(num_workers=2)


@pytest.mark.parametrize('dataset', [[1, 2, 3], make_df(5)], ids=['list', 'DataFrame'])
def test_only_a_tabular_pandas(dataset):
    with pytest.raises(ValueError, match=type(dataset).__name__): TabTensorDL(dataset)


@pytest.mark.parametrize('n', [1, 2])
def test_transforms_of_batches_given_at_creation_all_run(n):
    to = make_dls().valid_ds
    plain, ours = TabTensorDL(to, bs=80).one_batch(), TabTensorDL(to, bs=80, after_batch=[Double()]*n).one_batch()
    assert torch.equal(ours[1], plain[1]*2**n)


# --- loaders that exist already -------------------------------------------------------------------------------------

def test_fast_dls_keeps_the_settings(tmp_path):
    stock = make_dls(n=410, bs=50, val_bs=30, path=tmp_path)
    ours = fast_dls(stock)
    assert type(ours) is type(stock) and [type(o) for o in ours.loaders] == [TabTensorDL]*2
    assert (ours.path, ours.device) == (tmp_path, stock.device)
    for name in ('bs', 'shuffle', 'drop_last', 'device', 'dataset'):
        assert [getattr(o, name) for o in ours.loaders] == [getattr(o, name) for o in stock.loaders]
    assert [o.bs for o in ours.loaders] == [50, 30]
    assert_same(stock.valid, ours.valid)
    assert not fast_dls(make_dls(shuffle=False)).train.shuffle
    assert not fast_dls(make_dls(drop_last=False)).train.drop_last


def test_fast_dls_passes_its_arguments_to_all_loaders():
    assert [o.table_device for o in fast_dls(make_dls(), table_device='cpu').loaders] == ['cpu', 'cpu']


def test_fast_dls_leaves_the_original_as_it_is():
    stock = make_dls()
    loaders, tfms = list(stock.loaders), [list(o.after_batch.fs) for o in stock.loaders]
    before = list(stock.valid)
    ours = fast_dls(stock)
    ours.add_tfms([Double()], 'after_batch')
    list(ours.train), list(ours.valid)
    assert all(a is b for a, b in zip(stock.loaders, loaders))
    assert [list(o.after_batch.fs) for o in stock.loaders] == tfms
    assert_same(before, stock.valid)


def test_fast_dls_takes_the_batch_transforms_along():
    stock = make_dls()
    stock.add_tfms([Double()], 'after_batch')
    assert_same(stock.valid, fast_dls(stock).valid)
    assert torch.equal(stock.valid.one_batch()[1], make_dls().valid.one_batch()[1]*2)


def test_fast_dls_keeps_weights_that_differ():
    wgts = np.array([3.]*10 + [0.]*310)
    stock = make_to().dataloaders(dl_kwargs=[dict(wgts=wgts), {}], device='cpu')
    assert type(stock.train) is TabWeightedDL
    ours = fast_dls(stock)
    assert np.allclose(ours.train.wgts, wgts/wgts.sum()) and ours.valid.wgts is None
    assert set(rows(ours.train)) == set(rows(ours.train.new(shuffle=False))[:10])
    assert np.allclose(fast_dls(ours).train.wgts, wgts/wgts.sum())


def test_fast_dls_of_equal_weights_sees_each_row_once():
    stock = make_dls(bs=32)
    assert len(set(rows(stock.train))) < 320 and len(set(rows(fast_dls(stock).train))) == 320


def test_fast_dls_only_of_tabular_loaders():
    with pytest.raises(ValueError, match='not a DataLoader'): fast_dls(DataLoaders(DataLoader([1, 2], bs=1)))


def test_and_back():
    ours = fast()
    back = ours.valid.new(cls=TabWeightedDL)
    assert type(back) is TabWeightedDL
    assert_same(ours.valid, back)


# --- the table ------------------------------------------------------------------------------------------------------

def test_the_table_is_built_when_first_needed_and_once(builds):
    dls = fast_dls(fast())
    len(dls.train), dls.test_dl(x_df()), dls.new_empty()
    assert builds == []
    for _ in range(3): list(dls.train)
    dls.train.one_batch()
    assert builds == [320]
    list(dls.valid)
    assert builds == [320, 80]


def permuted(dl): dl.items[['size']] = np.random.default_rng(0).permutation(dl.items[['size']])
def replaced(dl): dl.dataset.conts = np.zeros((len(dl.dataset), 2), dtype=np.float32)
def one_cell(dl): dl.items.iloc[3, dl.items.columns.get_loc('size')] = 9.
def one_code(dl): dl.items.loc[dl.items.index[5], 'shop'] = 0
def one_target(dl): dl.items.loc[dl.items.index[5], 'price'] = 99.


@pytest.mark.parametrize('change', [permuted, replaced, one_cell, one_code, one_target])
def test_a_change_of_the_table_in_place_shows(change, builds):
    dl = fast().valid
    before = list(dl)
    assert_same(before, dl.new())
    change(dl)
    builds.clear()
    after, stock = list(dl), list(dl.new(cls=TabDataLoader))
    assert_same(stock, after)
    assert any(not torch.equal(x, y) for a, b in zip(before, after) for x, y in zip(a, b))
    list(dl)
    assert len(builds) == 1


def test_a_permuted_column_is_worth_something():
    "Permutation importance, as fastai users write it"
    learn = fitted(fast(), n=3)
    with learn.no_bar():
        before = learn.validate()[0]
        dl = learn.dls.valid
        dl.items[['size']] = np.random.default_rng(0).permutation(dl.items[['size']])
        assert learn.validate()[0] > before


def test_columns_may_be_named_in_another_order():
    "fastai's own loader fails here under pandas 3"
    a, b = (make_to(cont=o).dataloaders(bs=50, dl_type=TabTensorDL, device='cpu').valid for o in (['size', 'age'], ['age', 'size']))
    for x, y in zip(a, b): assert torch.equal(x[1], y[1].flip(1)) and torch.equal(x[0], y[0])


def test_loaders_of_the_same_rows_share_the_table(builds):
    dl = fast().train
    list(dl)
    for other in (dl.new(shuffle=False), dl.new(bs=7), dl.new(shuffle=False).new(), dl.new(dl.dataset)):
        list(other)
        assert other.table is dl.table
    assert builds == [320]


def test_predictions_after_training_build_no_more_tables(builds):
    learn = fitted(fast())
    assert sorted(builds) == [80, 320]
    for _ in range(3): learn.get_preds(), learn.get_preds(ds_idx=0), learn.validate()
    assert sorted(builds) == [80, 320]


def test_the_device_it_is_on_already(builds):
    dls = fast()
    list(dls.valid)
    dls.to('cpu'), dls.cpu(), dls.valid.to(torch.device('cpu'))
    list(dls.valid)
    assert builds == [80]


def test_another_dataset_is_another_table(builds):
    dls = fast()
    list(dls.valid)
    assert_same(dls.valid.new(dls.train_ds), make_dls().valid.new(make_dls().train_ds))
    dls.valid.dataset = dls.train_ds
    assert len(dls.valid.table[0]) == 320 and 320 in builds


def test_new_items_are_seen():
    dls, stock = fast(), make_dls()
    list(dls.train)
    for o in (dls, stock):
        items = o.train.dataset.items.copy()
        items['size'], items['price'] = items['size']+1, 5.
        o.train.dataset.items = items
    assert_same(*(o.train.new(shuffle=False) for o in (stock, dls)))
    assert dls.train.one_batch()[2].eq(5).all()
    dls.train.dataset.items = dls.train.dataset.items.iloc[:100]
    assert len(dls.train.table[0]) == 100


def test_another_device_is_another_table():
    dls = fast()
    assert [o.device.type for o in dls.train.table] == ['cpu']*3
    dls.to('meta')
    assert [o.device.type for o in dls.train.table] == ['meta']*3
    dls.to('cpu')
    assert_same(dls.valid, make_dls().valid)


@pytest.mark.parametrize('n, dtype', [(5, torch.uint8), (255, torch.uint8), (256, torch.int16), (400, torch.int16)])
def test_codes_are_kept_small_and_given_long(n, dtype):
    df = make_df(1000)
    df['kind'] = np.arange(1000) % n
    dls = make_to(df, cat=['shop', 'kind']).dataloaders(bs=64, device='cpu')
    ours = fast_dls(dls)
    assert ours.train.table[0].dtype == dtype and ours.train.table[0][:, 1].max() == n
    assert ours.train.one_batch()[0].dtype == torch.long
    assert_same(dls.train.new(shuffle=False), ours.train.new(shuffle=False))


@pytest.mark.parametrize('low, high, dtype', [
    (0, 255, torch.uint8), (0, 256, torch.int16), (-1, 127, torch.int8), (-1, 128, torch.int16),
    (-129, 0, torch.int16), (0, 2**15-1, torch.int16), (0, 2**15, torch.int32), (0, 2**31-1, torch.int32),
    (0, 2**31, torch.int64), (-2**31-1, 0, torch.int64)])
def test_smallest_int(low, high, dtype):
    codes = torch.tensor([[low, high]])
    small = _smallest_int(codes)
    assert small.dtype == dtype and torch.equal(small.long(), codes)


def test_smallest_int_of_nothing(): assert _smallest_int(torch.empty(7, 0, dtype=torch.long)).shape == (7, 0)


def test_a_table_fits_into_a_quarter_of_what_is_free(monkeypatch):
    asked = []
    monkeypatch.setattr(torch.cuda, 'mem_get_info', lambda device: asked.append(device) or (4000, 10**9))
    gpu = torch.device('cuda', 1)
    assert _fits_on(1000, gpu) and not _fits_on(1001, gpu) and asked == [gpu, gpu]
    assert _fits_on(10**18, torch.device('cpu')) and len(asked) == 2


@pytest.mark.parametrize('fits, home', [(True, 'meta'), (False, 'cpu')])
def test_a_table_that_does_not_fit_stays_with_the_host(monkeypatch, fits, home):
    asked = []
    monkeypatch.setattr(data, '_fits_on', lambda *args: asked.append(args) or fits)
    dls = fast()
    dls.to('meta')
    table = dls.train.table
    assert {o.device.type for o in table} == {home}
    assert asked == [(320*2 + 320*2*4 + 320*table[2].element_size(), torch.device('meta'))]
    assert {o.device.type for o in dls.train.one_batch()} == {'meta'}


def test_table_device_decides_without_asking(monkeypatch):
    monkeypatch.setattr(data, '_fits_on', lambda *args: pytest.fail('asked'))
    dls = fast(table_device='meta')
    assert {o.device.type for o in dls.train.table} == {'meta'}
    dls = fast(table_device='cpu')
    dls.to('meta')
    assert {o.device.type for o in dls.train.table} == {'cpu'}
    assert {o.device.type for o in dls.train.one_batch()} == {'meta'}


def test_table_device_goes_along_and_can_be_changed():
    dl = fast(table_device='cpu').train
    assert len(dl.table) == 3
    assert dl.new().table_device == dl.new(make_dls().valid_ds).table_device == 'cpu'
    assert dl.new(table_device='meta').table[0].device.type == 'meta'


# --- what fastai does with a loader -----------------------------------------------------------------------------------

def test_new_keeps_what_it_is_not_told():
    dl = fast(bs=50).train.new(bs=7)
    assert (type(dl), dl.bs, dl.shuffle, dl.drop_last) == (TabTensorDL, 7, True, True)
    assert rows(dl.new(shuffle=False)) == rows(make_dls().train.new(shuffle=False, bs=7))


def test_show_batch(shown):
    df, dls = make_df(), fast(y='band')
    dls.valid.show_batch(max_n=4)
    assert list(shown[0].columns) == ['shop', 'day', 'size', 'age', 'band']
    wanted = df.iloc[320:330][shown[0].columns.tolist()].reset_index(drop=True)
    pd.testing.assert_frame_equal(shown[0].reset_index(drop=True), wanted, check_dtype=False, rtol=1e-4)


def test_show_batch_of_one_row(shown):
    dls = fast()
    dls.show_batch(unique=True)
    assert len(shown[0]) == 10 and len(shown[0].drop_duplicates()) == 1
    assert len(set(rows(dls.train))) == 320


def test_one_batch():
    dls = fast()
    assert [tuple(o.shape) for o in dls.one_batch()] == [(64, 2), (64, 2), (64, 1)]
    with pytest.raises(ValueError, match='does not contain any batches'): fast(bs=1000).one_batch()


def test_transforms_added_later_run():
    dls = fast()
    before = list(dls.valid)
    dls.add_tfms([Double()], 'after_batch')
    for dl in (dls.valid, dls.valid.new()):
        for a, b in zip(before, dl): assert torch.equal(b[0], a[0]) and torch.equal(b[1], a[1]*2)


def test_answers_do_not_depend_on_the_loader(tmp_path):
    learn = fitted(fast(path=tmp_path), metrics=rmse)
    ours = learn.dls
    def asked():
        test = learn.dls.test_dl(x_df())
        return learn.get_preds(), learn.get_preds(ds_idx=0), learn.get_preds(dl=test), learn.validate()
    a, learn.dls = asked(), make_dls(path=tmp_path)
    b, learn.dls = asked(), ours
    for x, y in zip(a[:2], b[:2]): assert torch.allclose(x[0], y[0], atol=1e-6) and torch.equal(x[1], y[1])
    assert torch.allclose(a[2][0], b[2][0], atol=1e-6) and a[2][1] is b[2][1] is None
    assert list(a[3]) == pytest.approx(list(b[3]))


def test_predictions_are_in_the_order_of_the_table():
    learn = fitted(fast())
    preds, targs = learn.get_preds(ds_idx=0)
    assert len(preds) == 320 and np.allclose(targs[:, 0], make_df().price[:320], atol=1e-6)
    ordered = learn.get_preds()
    shuffled = learn.get_preds(dl=learn.dls.valid.new(shuffle=True))
    for a, b in zip(ordered, shuffled): assert torch.allclose(a, b, atol=1e-6)
    raw = learn.get_preds(dl=learn.dls.valid.new(shuffle=True), reorder=False)[1]
    assert not torch.equal(raw, ordered[1])


@pytest.mark.parametrize('y', ['price', 'band'])
def test_predict_one_row(y):
    learn = fitted(fast(y=y))
    row = x_df().iloc[0]
    wanted = learn.get_preds(dl=learn.dls.test_dl(x_df().iloc[:1]))[0][0]
    full, decided, preds = learn.predict(row)
    assert torch.allclose(preds, wanted, atol=1e-6)
    assert decided == (wanted if y == 'price' else wanted.argmax())
    assert full.decode().items[['shop', 'day']].values.tolist() == [[row.shop, row.day]]


def test_show_results(shown):
    learn = fitted(fast(y='cheap'))
    learn.show_results(max_n=6)
    assert list(shown[0].columns) == ['shop', 'day', 'size', 'age', 'cheap', 'cheap_pred'] and len(shown[0]) == 6


def test_validate_another_loader():
    learn = fitted(fast())
    test = learn.dls.test_dl(make_df(50, 3))
    preds, targs = learn.get_preds(dl=test)
    assert learn.validate(dl=test)[0] == pytest.approx(float((preds-targs).square().mean()), rel=1e-4)


def test_lr_find(tmp_path):
    learn = tabular_learner(fast(path=tmp_path), layers=[20])
    before = {k: v.clone() for k, v in learn.model.state_dict().items()}
    assert learn.lr_find(num_it=20, show_plot=False).valley > 0
    assert len(learn.recorder.lrs) > 5
    assert all(torch.equal(v, before[k]) for k, v in learn.model.state_dict().items())


def test_training_learns():
    learn = tabular_learner(fast(bs=32), layers=[50], metrics=rmse)
    before = learn.validate()[0]
    learn.fit(5, 1e-2)
    losses = [float(o) for o in learn.recorder.losses]
    assert learn.validate()[0] < .7*before
    assert len(losses) == 50 and np.mean(losses[-5:]) < .7*np.mean(losses[:5])


def test_training_members_under_frozen_masks():
    learn = dropconnect_learner(fast(bs=32), layers=[50, 20], members=3, mask='frozen', seed=1, ps=0)
    before = learn.validate()[0]
    learn.fit(5, 1e-2)
    assert learn.validate()[0] < .7*before
    for l in learn.model.weight_masks.linears.values():
        assert not l.keep.all() and not l.weight[~l.keep].any()


def test_losses_are_those_of_fastais_loader():
    "Without shuffling, both loaders train the same net"
    def losses(dl_type):
        set_seed(1)
        learn = tabular_learner(make_dls(shuffle=False, dl_type=dl_type), layers=[20])
        learn.fit(2, 1e-2)
        return [float(o) for o in learn.recorder.losses]
    assert losses(None) == pytest.approx(losses(TabTensorDL), rel=1e-4)


# --- storing and moving ---------------------------------------------------------------------------------------------

def exported(path, n, dl_type):
    learn = fitted(make_dls(n=n, path=path, dl_type=dl_type, bs=64))
    learn.get_preds()
    learn.export('net.pkl')
    return learn, path/'net.pkl'


@pytest.mark.parametrize('y', ['price', 'cheap'])
def test_export_and_load(tmp_path, y):
    learn = fitted(fast(y=y, path=tmp_path))
    wanted = learn.get_preds(dl=learn.dls.test_dl(x_df()))[0]
    learn.export('net.pkl')
    again = load_learner(tmp_path/'net.pkl')
    assert [type(o) for o in again.dls.loaders] == [TabTensorDL]*2
    assert [len(o.dataset) for o in again.dls.loaders] == [0, 0]
    assert torch.allclose(again.get_preds(dl=again.dls.test_dl(x_df()))[0], wanted, atol=1e-6)
    assert torch.allclose(again.predict(x_df().iloc[0])[2], wanted[0], atol=1e-6)
    assert len(learn.dls.train_ds) == 320 and len(learn.get_preds()[0]) == 80


@pytest.mark.slow
def test_an_export_does_not_grow_with_the_table(tmp_path):
    sizes = {t: [exported(tmp_path, n, t)[1].stat().st_size for n in (400, 4000)] for t in (None, TabTensorDL)}
    assert sizes[TabTensorDL][1]-sizes[TabTensorDL][0] <= max(sizes[None][1]-sizes[None][0], 0) + 500
    assert sizes[TabTensorDL][1] <= sizes[None][1] + 5000


@pytest.mark.parametrize('copied', [lambda o: pickle.loads(pickle.dumps(o)), copy.deepcopy], ids=['pickle', 'deepcopy'])
def test_a_copy_builds_its_own_table(copied, builds):
    dls = fast()
    list(dls.valid)
    again = copied(dls.valid)
    assert builds == [80]
    assert_same(dls.valid, again)
    assert again.table is not dls.valid.table and builds == [80, 80]


def test_the_table_is_not_pickled():
    dl = fast(n=4000).train
    before = len(pickle.dumps(dl))
    list(dl)
    assert len(pickle.dumps(dl)) == pytest.approx(before, abs=500)


def test_batches_are_copies():
    dls = fast()
    for b in dls.valid: [o.zero_() for o in b]
    assert_same(make_dls().valid, dls.valid)


# --- several processes, a GPU -----------------------------------------------------------------------------------------

class OneProcess(DistributedDL):
    "The order of the rows goes from rank 0 to the others through a list"
    def _broadcast(self, t, rank):
        if self.rank == rank: OneProcess.sent = list(t)
        return list(OneProcess.sent)


@pytest.mark.parametrize('world', [2, 4])
def test_ranks_share_the_rows_of_an_epoch(world):
    dls = fast(bs=16)
    wanted, epochs = sorted(rows(dls.train.new(shuffle=False))), []
    for _ in range(2):
        ranks = [rows(OneProcess(dls.train, rank=i, world_size=world)) for i in range(world)]
        assert [len(o) for o in ranks] == [320//world]*world
        assert sorted(sum(ranks, [])) == wanted  # all rows, and none twice
        epochs.append(ranks)
    assert epochs[0] != epochs[1]


def test_ranks_share_rows_that_cannot_be_divided():
    dls = fast(n=415, bs=16)
    dl = dls.valid
    assert len(dl.dataset) == 83
    ranks = [rows(OneProcess(dl, rank=i, world_size=2)) for i in range(2)]
    assert [len(o) for o in ranks] == [42, 42] and set(sum(ranks, [])) == set(rows(dl))


def test_ranks_see_the_transforms():
    dls = fast()
    dls.add_tfms([Double()], 'after_batch')
    ours = OneProcess(dls.valid, rank=0, world_size=1)
    assert_same(dls.valid, ours)


@pytest.mark.cuda
@pytest.mark.parametrize('table_device', [None, 'cpu'])
def test_on_a_gpu(table_device):
    dls = fast(table_device=table_device, bs=32)
    dls.to('cuda')
    assert {o.device.type for o in dls.train.table} == {'cpu' if table_device else 'cuda'}
    assert {o.device.type for o in dls.train.one_batch()} == {'cuda'}
    assert_same(make_dls(bs=32).valid, [tuple(o.cpu() for o in b) for b in dls.valid])
    learn = tabular_learner(dls, layers=[50])
    learn.model.to('cuda')
    before = learn.validate()[0]
    learn.fit(5, 1e-2)
    assert learn.validate()[0] < .7*before
    assert torch.allclose(*(learn.get_preds(dl=learn.dls.valid.new(shuffle=s))[0] for s in (False, True)), atol=1e-5)
    dls.cpu()
    assert {o.device.type for o in dls.train.table} == {'cpu'}
    assert_same(make_dls(bs=32).valid, dls.valid)

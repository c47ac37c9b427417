"A predictor answers as its learner does, for rows and tables of every kind, and carries nothing of the training along."
import copy
import datetime
import decimal
import io
import pickle
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.data.core import DataLoaders
from fastai.data.load import DataLoader
from fastai.tabular.all import (BCEWithLogitsLossFlat, Categorify, CategoryBlock, CrossEntropyLossFlat, FillMissing,
                                FillStrategy, LabelSmoothingCrossEntropyFlat, Learner, MSELossFlat, MultiCategoryBlock,
                                Normalize, TabularModel, TabularPandas, TabularProc, Transform, load_learner,
                                set_seed, tabular_learner)
from helpers import make_df, make_dls, plain_learner
from torch import nn

from dropconnect_tab.all import DropConnectCallback, TabTensorDL, dropconnect_learner, fast_dls
from dropconnect_tab.exported import RowEncoder
from dropconnect_tab.fold import FoldedNet
from dropconnect_tab.serve import Predictor

PROCS = [Categorify, FillMissing, Normalize]


def fitted(dls, make=plain_learner, layers=(20,), n=1, **kwargs):
    learn = make(dls, layers=list(layers), **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit(n, 1e-2)
    return learn


def x_df(n=30, seed=3): return make_df(n, seed)[['shop', 'day', 'size', 'age']]


def dls_of(df, y='price', cat=('shop', 'day'), cont=('size', 'age'), procs=PROCS, reduce_memory=True, **kwargs):
    n = len(df)
    to = TabularPandas(df, list(procs), list(cat), list(cont), y, reduce_memory=reduce_memory,
                       splits=[list(range(n*4//5)), list(range(n*4//5, n))], **kwargs)
    return to.dataloaders(bs=64, device='cpu')


def gappy(**kwargs):
    "A learner whose `size` had missing values"
    df = make_df()
    df.loc[::7, 'size'] = np.nan
    return fitted(dls_of(df, procs=[Categorify, FillMissing(**kwargs), Normalize]))


def with_kind(kind, **kwargs):
    "A learner with one more category"
    df = make_df()
    df['kind'] = kind
    return fitted(dls_of(df, cat=['shop', 'kind'], **kwargs))


def asked(learn, df): return learn.get_preds(dl=learn.dls.test_dl(df))[0].numpy()


def assert_close(a, b): np.testing.assert_allclose(a, b, atol=2e-6, rtol=1e-5)


def assert_agree(learn, df, n_rows=5):
    "A table, its rows as Series, and its rows as dicts are answered as by `get_preds`"
    wanted, answer = asked(learn, df), learn.predictor()
    got = answer(df)
    assert got.dtype == np.float32 and got.shape == wanted.shape
    assert_close(got, wanted)
    assert len(np.unique(wanted, axis=0)) > 1  # else all answers would do
    dicts = df.to_dict('records')
    for i in range(min(n_rows, len(df))):
        for row in (df.iloc[i], dicts[i]):
            one = answer(row)
            assert one.dtype == np.float32 and one.shape == wanted.shape[1:]
            assert_close(one, wanted[i])


@pytest.fixture(scope='module')
def learn(tmp_path_factory):
    set_seed(0)
    return fitted(make_dls(path=tmp_path_factory.mktemp('p')))


@pytest.fixture(scope='module')
def answer(learn): return learn.predictor()


@pytest.fixture
def row(): return x_df().to_dict('records')[0]


# --- targets, nets and losses ---------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize('y, n_out', [('price', 1), (['price', 'cost'], 2), ('cheap', 2), ('band', 3)])
@pytest.mark.parametrize('make', [dropconnect_learner, plain_learner, tabular_learner])
def test_answers_are_those_of_get_preds(make, y, n_out):
    learn = fitted(make_dls(y), make)
    assert learn.predictor()(x_df()).shape == (30, n_out)
    assert_agree(learn, x_df())


@pytest.mark.slow
@pytest.mark.parametrize('members', [1, 3])
@pytest.mark.parametrize('mask', ['trainable', 'frozen', 'resampled'])
@pytest.mark.parametrize('y', ['price', 'band'])
def test_masks_and_members(y, mask, members):
    assert_agree(fitted(make_dls(y), layers=[20, 10], mask=mask, members=members), x_df())


@pytest.mark.parametrize('mask', ['trainable', 'frozen', 'resampled'])
def test_masks_of_the_callback(mask):
    assert_agree(fitted(make_dls(), tabular_learner, cbs=DropConnectCallback(mask=mask)), x_df())


@pytest.mark.slow
@pytest.mark.parametrize('members', [1, 3])
@pytest.mark.parametrize('y', ['cheap', 'price'])
def test_one_logit(y, members):
    df = make_df()
    df['price'] = (df.price > 0).astype(np.float32)
    block = CategoryBlock() if y == 'cheap' else None
    learn = fitted(dls_of(df, y, y_block=block), n_out=1, loss_func=BCEWithLogitsLossFlat(), members=members)
    preds = learn.predictor()(x_df())
    assert preds.shape == (30, 1) and preds.min() > 0 and preds.max() < 1
    assert_agree(learn, x_df())


def test_y_range():
    for members in (1, 3):
        learn = fitted(make_dls(), y_range=(-.2, .2), members=members)
        assert abs(learn.predictor()(x_df())).max() < .2
        assert_agree(learn, x_df())


@pytest.mark.slow
@pytest.mark.parametrize('loss', [CrossEntropyLossFlat(weight=torch.tensor([1., 5., 2.])),
                                  LabelSmoothingCrossEntropyFlat(eps=.2)], ids=['weights', 'smoothing'])
@pytest.mark.parametrize('members', [1, 3])
def test_losses_with_settings(loss, members):
    learn = fitted(make_dls('band'), loss_func=loss, members=members)
    assert learn.predictor()(x_df()).sum(1) == pytest.approx(np.ones(30), abs=1e-5)
    assert_agree(learn, x_df())


def test_a_loss_that_is_a_function(): assert_agree(fitted(make_dls(), loss_func=nn.functional.l1_loss), x_df())


def test_loaders_of_both_kinds(): assert_agree(fitted(fast_dls(make_dls('band'))), x_df())


@pytest.mark.parametrize('kwargs', [dict(cat=()), dict(cont=())], ids=str)
def test_no_categories_or_no_numbers(kwargs): assert_agree(fitted(make_dls(**kwargs)), x_df())


@pytest.mark.slow
@pytest.mark.parametrize('procs, cat', [([], []), ([Normalize], []), ([Categorify], ['shop', 'day']),
                                        ([Categorify, Normalize], ['shop']), ([Categorify, FillMissing], ['shop'])])
def test_procs_that_are_left_out(procs, cat): assert_agree(fitted(dls_of(make_df(), cat=cat, procs=procs)), x_df())


def test_codes_without_categorify():
    df = make_df()
    df['kind'] = np.arange(400) % 3
    dls = dls_of(df, cat=['kind'], procs=[Normalize])
    learn = Learner(dls, TabularModel([(3, 2)], 2, 1, [20]), loss_func=MSELossFlat())
    assert_agree(learn, df.iloc[:30].drop(columns='price'))


# --- what is decided ------------------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize('y, kwargs', [('cheap', {}), ('band', {}), ('band', dict(members=3)),
                                       ('cheap', dict(n_out=1, loss_func=BCEWithLogitsLossFlat()))], ids=str)
def test_the_class_is_that_of_predict(y, kwargs):
    df, learn = x_df(), fitted(make_dls(y, bs=16), n=4, **kwargs)
    answer = learn.predictor()
    decided = answer.predict(df)
    assert len(decided) == 30 and len(set(decided)) > 1 and set(decided) <= set(make_df()[y])
    for i in range(5):
        full, _, probs = learn.predict(df.iloc[i])
        assert answer.predict(df.iloc[i]) == answer.predict(dict(df.iloc[i])) == decided[i]
        assert full.decode().items[y].iloc[0] == decided[i]
        assert_close(answer(df.iloc[i]), probs)


def test_the_number_is_that_of_predict(learn, answer):
    df = x_df()
    decided = answer.predict(df)
    assert isinstance(decided, list) and {type(o) for o in decided} == {float}
    for i in range(5):
        _, number, _ = learn.predict(df.iloc[i])
        assert type(answer.predict(df.iloc[i])) is float
        assert_close([answer.predict(df.iloc[i]), decided[i]], [float(number)]*2)


def test_several_targets_are_several_numbers():
    df, learn = x_df(), fitted(make_dls(['price', 'cost']))
    answer = learn.predictor()
    assert_close(answer.predict(df.iloc[0]), learn.predict(df.iloc[0])[1])
    assert_close(answer.predict(df), answer(df))


def test_several_labels():
    df = make_df()
    df['dear'], df['large'] = df.price < 0, df['size'] > 0
    learn = fitted(dls_of(df, ['dear', 'large'], y_block=MultiCategoryBlock(encoded=True, vocab=['dear', 'large'])),
                   tabular_learner, layers=[50])
    assert_agree(learn, x_df())
    df, answer = x_df(), learn.predictor()
    wanted = [learn.predict(df.iloc[i])[1].tolist() for i in range(10)]
    assert len({tuple(o) for o in wanted}) > 1
    named = [[n for n, o in zip(['dear', 'large'], w) if o] for w in wanted]
    decided = [answer.predict(df.iloc[i]) for i in range(10)]
    assert decided in (wanted, named)  # whether each, or which
    assert answer.predict(df.iloc[:10]) == decided


def test_the_threshold_of_the_loss():
    learn = fitted(make_dls('cheap'), n_out=1, loss_func=BCEWithLogitsLossFlat(thresh=.95))
    answer = learn.predictor()
    p, decided = answer(x_df())[:, 0], answer.predict(x_df())
    assert ((p > .5) & (p < .95)).any()
    assert decided == ['yes' if o > .95 else 'no' for o in p]


# --- categories -----------------------------------------------------------------------------------------------------

def test_unseen_categories(learn, answer):
    df = x_df()
    df.loc[:9, 'shop'] = 'zebra'
    assert_agree(learn, df)
    assert not np.allclose(answer(df)[:10], answer(x_df())[:10])


@pytest.mark.parametrize('missing', [None, np.nan, pd.NA, pd.NaT, float('nan')], ids=repr)
def test_missing_categories(learn, answer, row, missing):
    df = pd.DataFrame([{**row, 'shop': missing}, row]).astype({'shop': object})
    wanted = asked(learn, df)
    assert_close(answer(df), wanted)
    assert_close(answer({**row, 'shop': missing}), wanted[0])
    assert_close(answer(pd.Series({**row, 'shop': missing})), wanted[0])
    assert_close(answer({**row, 'shop': 'zebra'}), wanted[0])


def test_missing_categories_of_the_training():
    kind = pd.Series(np.arange(400) % 3).map({0: 'a', 1: 'b', 2: None})
    df = x_df(4)
    df['kind'] = ['a', 'b', None, 'c']
    assert_agree(with_kind(kind), df)


days = pd.Timestamp('2024-01-01') + pd.to_timedelta(np.arange(400) % 3, 'D')
some_days = pd.Timestamp('2024-01-01') + pd.to_timedelta([0, 1, 2, 9], 'D')
letters = np.array(list('xyz'))[np.arange(400) % 3]
KINDS = dict(
    integers=(np.arange(400) % 3, [0, 1, 2, 7]),
    integers_with_gaps=(np.arange(400) % 3, [0., 1., np.nan, 7.]),
    nullable_integers=(np.arange(400) % 3, pd.array([0, 1, None, 7], dtype='Int64')),
    trained_on_nullable_integers=(pd.array([0, 1, 2, 7]*100, dtype='Int64'), [0, 1, 7, 9]),
    integers_as_objects=(np.arange(400) % 3, pd.Series([0, 1, None, 'x'], dtype=object)),
    large_integers=(np.arange(400) % 3 + 2**40, [2**40, 2**40+1, 2**40+2, 7]),
    halves=(np.arange(400) % 3 + .5, [.5, 1.5, np.nan, 7]),
    booleans=(np.arange(400) % 3 == 1, [True, False, True, False]),
    nullable_booleans=(np.arange(400) % 3 == 1, pd.array([True, False, None, True], dtype='boolean')),
    booleans_with_gaps=(np.arange(400) % 3 == 1, pd.Series([True, False, None, 'x'], dtype=object)),
    days=(days, some_days), days_with_gaps=(days, [*some_days[:3], pd.NaT]),
    dates=(days, [datetime.date(2024, 1, i) for i in (1, 2, 3, 9)]),
    durations=(pd.to_timedelta(np.arange(400) % 3, 'D'), pd.to_timedelta([0, 1, 2, 9], 'D')),
    months=(pd.period_range('2024-01', periods=3, freq='M')[np.arange(400) % 3],
            pd.period_range('2024-01', periods=4, freq='M')),
    text=(letters, list('xyzw')), nullable_text=(letters, pd.array(['x', 'y', None, 'w'], dtype='string')),
    trained_on_nullable_text=(pd.array(letters, dtype='string'), ['x', 'y', None, 'w']),
    categorical=(pd.Categorical(letters), pd.Categorical(['x', 'y', None, 'z'], categories=list('xyz'))),
    ordered=(pd.Categorical(letters, categories=list('zyx'), ordered=True), list('xyzw')),
    unused_categories=(pd.Categorical(letters, categories=list('wxyz')), list('xyzw')),
    mixed=(np.array(['a', 1, 2.5], dtype=object)[np.arange(400) % 3], pd.Series(['a', 1, 2.5, None], dtype=object)))


@pytest.mark.slow
@pytest.mark.parametrize('name', KINDS)
def test_categories_of_every_dtype(name):
    kind, test = KINDS[name]
    df = x_df(4)
    df['kind'] = test
    assert_agree(with_kind(kind), df)


def test_numpy_scalars_in_a_dict():
    learn = with_kind(np.arange(400) % 3 == 1)
    answer, plain = learn.predictor(), dict(shop='b', kind=True, size=.25, age=-1.)
    scalars = dict(shop=np.str_('b'), kind=np.bool_(True), size=np.float32(.25), age=np.int8(-1))
    assert np.array_equal(answer(scalars), answer(plain))
    assert not np.array_equal(answer({**plain, 'kind': np.bool_(False)}), answer(plain))
    codes, numbers = with_kind(np.arange(400) % 3).predictor(), dict(shop='b', kind=2, size=.25, age=-1)
    for two in (np.int64(2), np.uint8(2), np.float64(2), 2.):
        assert np.array_equal(codes({**numbers, 'kind': two}), codes(numbers))
    on_days, day = with_kind(days).predictor(), dict(shop='b', kind=some_days[1], size=.25, age=-1)
    for same in (np.datetime64('2024-01-02'), datetime.datetime(2024, 1, 2)):
        assert np.array_equal(on_days({**day, 'kind': same}), on_days(day))


def test_categories_are_known_by_value_and_not_by_code(learn, answer):
    "A column of category dtype whose categories are others than those of the training"
    df = x_df()
    other = df.astype({'shop': pd.CategoricalDtype(list('zfedcba')), 'day': 'category'})
    assert np.array_equal(answer(other), answer(df))


def test_a_row_is_answered_as_a_table_of_one_row():
    answer = with_kind(np.arange(400) % 3 == 1).predictor()
    for kind in (True, False, 'x', None):
        row = dict(shop='b', kind=kind, size=.25, age=-1)
        assert np.array_equal(answer(row), answer(pd.DataFrame([row]))[0]), kind


# --- numbers --------------------------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize('kwargs', [dict(), dict(add_col=False), dict(fill_strategy=FillStrategy.mode),
                                    dict(fill_strategy=FillStrategy.constant, fill_vals=dict(size=5.))],
                         ids=['median', 'no column', 'mode', 'constant'])
def test_missing_numbers(kwargs):
    learn, df = gappy(**kwargs), x_df()
    assert_agree(learn, df)
    gaps = df.copy()
    gaps.loc[::2, 'size'] = np.nan
    assert_agree(learn, gaps)
    answer = learn.predictor()
    assert not np.allclose(answer(df)[::2], answer(gaps)[::2]) and np.allclose(answer(df)[1::2], answer(gaps)[1::2])
    for missing in (None, np.nan, pd.NA, np.float32('nan')):
        for kind in (dict, pd.Series): assert_close(answer(kind({**df.iloc[0], 'size': missing})), answer(gaps)[0])
    assert_close(answer(gaps.iloc[0]), learn.predict(gaps.iloc[0])[2])


def test_the_fill_and_its_flag():
    df, train = x_df(), make_df()['size']
    train[::7] = np.nan
    gaps, median = df.assign(size=np.nan), df.assign(size=np.float32(train[:320].median()))
    alone, flagged = gappy(add_col=False).predictor(), gappy().predictor()
    assert_close(alone(gaps), alone(median))
    assert not np.allclose(flagged(gaps), flagged(median))


def test_several_columns_with_gaps():
    df, test = make_df(), x_df()
    df.loc[::7, 'size'], df.loc[::5, 'age'] = np.nan, np.nan
    test.loc[::2, 'age'], test.loc[::3, 'size'] = np.nan, np.nan
    learn = fitted(dls_of(df))
    assert list(learn.dls.cat_names) == ['shop', 'day', 'size_na', 'age_na']
    assert_agree(learn, test, n_rows=7)


@pytest.mark.parametrize('missing', [None, np.nan, pd.NA])
def test_a_gap_where_training_had_none(answer, row, missing):
    for kind in (dict, pd.Series, lambda o: pd.DataFrame([o])):
        with pytest.raises(ValueError, match="'age' has missing values"): answer(kind({**row, 'age': missing}))
    with pytest.raises(ValueError, match="'age' has missing values"): gappy().predictor()({**row, 'age': missing})


def test_nullable_numbers(learn, answer):
    df = x_df().round(1)
    assert_close(answer(df.astype({'size': 'Float64', 'age': 'Float32'})), answer(df))
    whole = df.assign(size=np.arange(30) % 3, age=1)
    assert_close(answer(whole.astype({'size': 'Int64', 'age': 'int8'})), asked(learn, whole))
    gaps = whole.assign(size=pd.array([None, 1, 2]*10, dtype='Int64'))
    gaps_as_floats = gaps.assign(size=gaps['size'].astype('float64'))
    filling = gappy()
    assert_close(filling.predictor()(gaps), asked(filling, gaps_as_floats))
    assert_close(filling.predictor()(gaps.iloc[0]), asked(filling, gaps_as_floats)[0])


def test_numbers_as_objects(answer):
    df = x_df()
    assert np.array_equal(answer(df.astype({'size': object})), answer(df))


def test_booleans_as_numbers(answer):
    df = x_df().assign(age=lambda o: o.age > 0)
    assert np.array_equal(answer(df), answer(df.astype({'age': float})))
    assert_close(answer(df.iloc[0]), answer(df)[0])


@pytest.mark.parametrize('value', ['much', '', [1.], pd.Timestamp('2024-01-01')], ids=repr)
def test_what_is_no_number(answer, row, value):
    bad = {**row, 'size': value}
    for kind in (dict, pd.Series):
        with pytest.raises(ValueError, match='size.* is not a number'): answer(kind(bad))
    with pytest.raises(ValueError, match="'size' is not made of numbers"): answer(pd.DataFrame([bad]))


def test_large_numbers_keep_their_digits():
    df = make_df()
    df['size'] += 1e8
    train = df['size'][:320]
    learn = fitted(dls_of(df, procs=[Categorify, Normalize], reduce_memory=False))
    answer, test = learn.predictor(), x_df().assign(size=lambda o: o['size']+1e8)
    assert_agree(learn, test)
    learn.model.eval()
    codes = learn.dls.test_dl(test).one_batch()[0]
    scaled = np.stack([(test['size']-train.mean())/train.std(ddof=0),
                       (test.age-df.age[:320].mean())/df.age[:320].std(ddof=0)], axis=1)
    with torch.no_grad(): wanted = learn.model(codes, torch.tensor(scaled).float()).numpy()
    assert_close(answer(test), wanted)
    rounded = answer(test.assign(size=test['size'].astype('float32')))
    assert abs(rounded-wanted).max() > 1e-3  # what a float32 leaves of them is another answer


# --- rows and tables ------------------------------------------------------------------------------------------------

def test_extra_columns_and_the_order_of_columns(answer):
    df = x_df()
    other = make_df(30, 3).assign(note='?', many=[[1]]*30)[['note', 'age', 'price', 'day', 'many', 'size', 'shop']]
    assert np.array_equal(answer(other), answer(df))
    assert np.array_equal(answer(other.iloc[0]), answer(df.iloc[0]))
    assert np.array_equal(answer(dict(reversed(dict(df.iloc[0]).items()), note=None)), answer(df.iloc[0]))


def test_any_index(answer):
    df = x_df()
    assert np.array_equal(answer(df.set_axis([7]*30)), answer(df))
    assert_close(answer(df.iloc[::-1]), answer(df)[::-1])


@pytest.mark.parametrize('y, n_out', [('price', 1), ('band', 3)])
@pytest.mark.parametrize('members', [1, 3])
def test_a_table_without_rows(y, n_out, members):
    answer = fitted(make_dls(y), members=members).predictor()
    for empty in (x_df().iloc[:0], pd.DataFrame(columns=list(x_df().columns))):
        assert answer(empty).shape == (0, n_out) and answer(empty).dtype == np.float32
        assert answer.predict(empty) == []


@pytest.mark.parametrize('bs', [1, 7, 30, 1000])
def test_size_of_batches(answer, bs):
    seen = []
    hook = answer.model.register_forward_hook(lambda m, args, out: seen.append(len(out)))
    res = answer(x_df(), bs=bs)
    hook.remove()
    assert seen == [bs]*(30//bs) + ([30 % bs] if 30 % bs else [])
    assert_close(res, answer(x_df()))


@pytest.mark.parametrize('kind', [dict, pd.Series, lambda o: pd.DataFrame([o])], ids=['dict', 'Series', 'DataFrame'])
def test_columns_that_are_not_there(answer, row, kind):
    def renamed(**names): return kind({names.get(k, k): v for k, v in row.items()})
    with pytest.raises(ValueError, match=r"column 'size' is missing \(there is 'sise'\)"): answer(renamed(size='sise'))
    with pytest.raises(ValueError, match="column 'shop' is missing: give all of"): answer(renamed(shop='q'))
    with pytest.raises(ValueError, match="'shop' is missing.*'age' is missing"): answer(renamed(shop='q', age='z'))
    with pytest.raises(ValueError, match="'size' is missing.*'shop', 'day', 'size', 'age'"): answer(renamed(size=0))


def test_flags_need_not_be_given(row):
    learn = gappy()
    assert learn.predictor().x_names == ['shop', 'day', 'size', 'age']
    assert np.array_equal(learn.predictor()({**row, 'size_na': True}), learn.predictor()(row))


def test_what_it_is_given_is_left_as_it_was(answer):
    df = x_df().assign(size=np.arange(30))
    df.loc[3, 'shop'] = 'zebra'
    filling, gaps = gappy().predictor(), df.assign(size=[np.nan, 1.]*15)
    for a, o in ((answer, df), (filling, gaps)):
        before, series, as_dict = o.copy(deep=True), o.iloc[0].copy(), dict(o.iloc[0])
        given = o.iloc[0]
        a(o), a(given), a(as_dict), a.predict(o)
        pd.testing.assert_frame_equal(o, before)
        pd.testing.assert_series_equal(given, series)
        assert list(as_dict) == list(o.columns) and pd.Series(as_dict, name=series.name).equals(series)


def test_silence(answer, capfd):
    answer(x_df()), answer(x_df().iloc[0]), answer.predict(x_df())
    assert capfd.readouterr() == ('', '')


# --- learners it does not know --------------------------------------------------------------------------------------

class Squares(TabularProc):
    order = 3
    def encodes(self, to): to.conts = to.conts**2


class MyNormalize(Normalize): pass


class Shift(Transform):
    def encodes(self, x: torch.Tensor): return x


@pytest.mark.parametrize('proc', [Squares, MyNormalize])
def test_other_procs(proc):
    learn = tabular_learner(dls_of(make_df(), procs=[Categorify, FillMissing, proc]), layers=[20])
    with pytest.raises(ValueError, match=f'not {proc.__name__}.*get_preds'): learn.predictor()


@pytest.mark.parametrize('dl_type', [None, TabTensorDL])
def test_other_batch_transforms(dl_type):
    learn = tabular_learner(make_dls(dl_type=dl_type), layers=[20])
    learn.predictor()
    learn.dls.add_tfms([Shift()], 'after_batch')
    with pytest.raises(ValueError, match='Shift'): learn.predictor()


def test_other_learners():
    dls = DataLoaders(*(DataLoader([(torch.ones(2), torch.ones(1))]*4, bs=2) for _ in range(2)))
    with pytest.raises(ValueError, match='TabularPandas.*list'):
        Learner(dls, nn.Linear(2, 1), loss_func=MSELossFlat()).predictor()


# --- on its own -----------------------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize('y', ['price', 'band'])
@pytest.mark.parametrize('fast', [False, True])
def test_a_loaded_learner(tmp_path, y, fast):
    dls = make_dls(y, path=tmp_path)
    learn = fitted(fast_dls(dls) if fast else dls, members=3, mask='frozen')
    learn.export('net.pkl')
    again = load_learner(tmp_path/'net.pkl').predictor()
    assert np.array_equal(again(x_df()), learn.predictor()(x_df()))
    assert again.predict(x_df()) == learn.predictor().predict(x_df())


TASKS = dict(number=('price', {}), y_range=('price', dict(y_range=(-1, 1))), a_function=('price', dict(
             loss_func=nn.functional.l1_loss)), frozen_members=('band', dict(members=3, mask='frozen')),
             number_of_members=('price', dict(members=3)), defaults=('price', dict(make=dropconnect_learner, n_bins=6)),
             one_logit=('cheap', dict(n_out=1, loss_func=BCEWithLogitsLossFlat())),
             a_lambda=('price', dict(members=3, loss_func=lambda p, y: (p-y).abs().mean())))


def test_a_row_with_its_target():
    answer, row = fitted(make_dls()).predictor(), make_df(5).iloc[0]
    assert 'price' in row and np.array_equal(answer(row), answer(row.drop('price')))


@pytest.mark.slow
@pytest.mark.parametrize('name', TASKS)
def test_the_pickle_answers_the_same(name):
    y, kwargs = TASKS[name]
    answer = fitted(make_dls(y), **kwargs).predictor()
    again = pickle.loads(pickle.dumps(answer))
    assert np.array_equal(again(x_df()), answer(x_df()))
    assert again.predict(x_df()) == answer.predict(x_df())


SERVE = """
import pickle, sys
answers, df = pickle.load(open(sys.argv[1], 'rb'))
res = [(o(df), o.predict(df), o(df.iloc[0])) for o in map(pickle.loads, answers)]
pickle.dump(res, open(sys.argv[2], 'wb'))
"""


@pytest.mark.slow
def test_another_process_gives_the_same_answers(tmp_path):
    names = 'frozen_members', 'one_logit', 'number', 'y_range', 'defaults'
    answers, df = [fitted(make_dls(TASKS[n][0]), **TASKS[n][1]).predictor() for n in names], x_df()
    (tmp_path/'in').write_bytes(pickle.dumps(([pickle.dumps(o) for o in answers], df)))
    run = subprocess.run([sys.executable, '-W', 'ignore', '-c', SERVE, tmp_path/'in', tmp_path/'out'], text=True,
                         stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert run.returncode == 0, run.stdout
    for answer, (table, decided, one) in zip(answers, pickle.loads((tmp_path/'out').read_bytes()), strict=True):
        assert table.dtype == np.float32
        assert_close(table, answer(df))
        assert_close(one, answer(df.iloc[0]))
        if answer.vocab is None: assert_close(decided, answer.predict(df))
        else: assert decided == answer.predict(df)


def marked(n):
    "The pickle of a predictor; marks stand in a column that is not used, and in the index of the table"
    df = make_df(n)
    df['note'] = 'do-not-tell'
    df.index = [f'keep-quiet-{i}' for i in range(n)]
    learn = fitted(dls_of(df))
    learn.get_preds()
    return pickle.dumps(learn.predictor())


@pytest.mark.slow
def test_nothing_of_the_training_is_carried_along():
    small, large = marked(400), marked(4000)
    for o in (small, large): assert b'do-not-tell' not in o and b'keep-quiet' not in o
    assert len(large) <= len(small) + 100
    assert len(small) < 60_000


@pytest.mark.parametrize('y', ['price', 'band'])
def test_no_learner_is_carried_along(y):
    seen, learn = set(), fitted(make_dls(y))
    class Watch(pickle._Pickler):
        def save(self, o, *args, **kwargs):
            seen.add(type(o))
            return super().save(o, *args, **kwargs)
    Watch(io.BytesIO()).dump(learn.predictor())
    assert FoldedNet in seen and type(learn.model) not in seen
    assert not any(issubclass(t, (Learner, TabularPandas, DataLoader, DataLoaders, pd.DataFrame)) for t in seen)


def test_training_goes_on_and_the_predictor_stays():
    def trained_twice(between):
        set_seed(1)
        learn = fitted(make_dls(), mask='resampled')
        between(learn)
        learn.fit(1, 1e-2)
        return learn
    df, kept = x_df(), []
    def ask(learn): kept.extend([answer := learn.predictor(), answer(df), answer.predict(df)])
    learn, twin = trained_twice(ask), trained_twice(lambda learn: None)
    for a, b in zip(learn.model.state_dict().values(), twin.model.state_dict().values()): assert torch.equal(a, b)
    answer, preds, decided = kept
    assert np.array_equal(answer(df), preds) and answer.predict(df) == decided
    assert not np.allclose(learn.predictor()(df), preds)


def memory(model): return {o.data_ptr() for o in model.state_dict().values() if o.numel()}


@pytest.mark.parametrize('training', [True, False])
def test_the_model_stays_in_its_mode(training):
    learn = fitted(make_dls(), mask='resampled')
    learn.model.train(training)
    state = {k: v.clone() for k, v in learn.model.state_dict().items()}
    answer = learn.predictor()
    assert np.array_equal(answer(x_df()), answer(x_df()))  # no mask and no dropout
    assert {m.training for m in learn.model.modules()} == {training}
    assert {m.training for m in answer.model.modules()} == {False}
    assert all(torch.equal(v, state[k]) for k, v in learn.model.state_dict().items())
    assert not memory(learn.model) & memory(answer.model)


def test_the_class_itself_and_copies(learn, answer):
    assert isinstance(answer, Predictor)
    for other in (Predictor(learn), Predictor(learn, device='cpu'), copy.deepcopy(answer)):
        assert np.array_equal(other(x_df()), answer(x_df()))


@pytest.mark.cuda
@pytest.mark.parametrize('device', ['cpu', 'cuda'])
def test_on_a_gpu(device):
    learn = fitted(make_dls('band').to('cuda'), members=3, mask='frozen',
                   loss_func=CrossEntropyLossFlat(weight=torch.tensor([1., 5., 2.], device='cuda')))
    answer = learn.predictor(device)
    assert {o.device.type for o in answer.model.state_dict().values()} == {device}
    np.testing.assert_allclose(answer(x_df()), asked(learn, x_df()), atol=1e-4)
    np.testing.assert_allclose(pickle.loads(pickle.dumps(answer))(x_df()), answer(x_df()), atol=1e-6)
    assert device == 'cuda' or b'cuda' not in pickle.dumps(answer)


# Nothing wrong in silence

def both(row): return row, pd.DataFrame([row, row])


@pytest.mark.parametrize('value', [np.inf, -np.inf])
def test_infinite_numbers_are_an_error(answer, row, value):
    for rows in both({**row, 'size': value}):
        with pytest.raises(ValueError, match="size.* infinite.*: give (a number|numbers), or"): answer(rows)


def test_a_column_that_is_there_twice_is_an_error(answer):
    df = x_df()
    with pytest.raises(ValueError, match="column 'size' appears twice"): answer(pd.concat([df, df[['size']]], axis=1))
    with pytest.raises(ValueError, match="column 'shop' appears twice"): answer(pd.concat([df.iloc[0], df.iloc[0]]))


def test_strings_for_a_category_of_numbers_are_an_error():
    df = make_df().assign(code=lambda d: np.arange(len(d)) % 5)
    learn = fitted(dls_of(df, cat=('code',)))
    answer, row = learn.predictor(), dict(code=4, size=.1, age=.2)
    assert_agree(learn, df[['code', 'size', 'age']])
    for rows in both({**row, 'code': '4'}):
        with pytest.raises(ValueError, match="column 'code' has '4', and its categories are numbers such as 0: convert it to a"):
            answer(rows)
    assert np.isfinite(answer({**row, 'code': 77}))  # a number that training did not see


# The other type: JSON has 2 where a CSV had '2', and pandas makes 2.0 of it where there is a gap

def code_of(values, v):
    "The code that a column with `values` gives `v`: the same for a dict, a Series, and frames"
    encoder = RowEncoder([dict(name='kind', values=pd.Index(values))], [])
    rows = dict(kind=v), pd.Series(dict(kind=v), dtype=object), pd.DataFrame(dict(kind=[v])), pd.DataFrame(
        dict(kind=pd.Series([None, v, 'q!', v], dtype=object))).iloc[[1]]
    found = {int(encoder(o)[0][0, 0]) for o in rows}
    assert len(found) == 1
    return found.pop()


DIGITS = ['1', '2', '10', '-3', '2.5']
DAYS = pd.to_datetime(['2024-01-01', '2024-01-02'])
READ = [*((DIGITS, o, 2) for o in ('2', 2, 2., np.int64(2), np.uint8(2), np.float32(2), decimal.Decimal(2), np.str_('2'))),
        (DIGITS, True, 1), (DIGITS, np.bool_(True), 1), (DIGITS, -3, 4), (DIGITS, 2.5, 5), (DIGITS, 10., 3),
        (['1.0', '2.0'], 2, 2), (['False', 'True'], True, 2), (['False', 'True'], np.bool_(False), 1),
        (['true', 'false'], True, 1), (['FALSE', 'TRUE'], np.bool_(True), 2), (['yes', 'no'], True, 0),
        (['a', 2, '7'], 7, 3), (['a', 2, '7'], 2., 2), (['a', 'nan', 'inf'], 3, 0), ([1, 2], True, 1), ([1, 2], 2., 2),
        ([0, 1], np.bool_(False), 1), ([False, True], 1, 2), ([False, True], 0., 1), ([False, True], 2, 0),
        (['12345678901234567890', '7'], 12345678901234567890, 1), (DIGITS, 3, 0), (DIGITS, 2.25, 0), (DIGITS, False, 0),
        (['2024-01-01'], datetime.date(2024, 1, 1), 1), (DAYS, '2024-01-02', 2), (DAYS, 'zebra', 0)]


@pytest.mark.parametrize('values, v, code', READ, ids=[f'{type(v).__name__} {v} in {list(o)[:2]}' for o, v, _ in READ])
def test_a_category_is_found_by_its_other_type(values, v, code): assert code_of(values, v) == code


NOT_READ = [(['02139', '10001'], 2139, "'02139'"), (['02139', '2139'], 2139, "'02139'"), (['2', '02'], 2., "'2'"),
            (['2.50'], 2.5, "'2.50'"), (['1', 'True'], True, "'1'"), (['1', '1.0'], 1, "'1'"), (['true', 'True'], True, 'true'),
            ([4, 5], '4', '4'), ([-4, 5], '-4', '-4'), ([4., 5.5], '5.5', '4.0'), ([False, True], 'True', 'False'),
            ([False, True], 'true', 'False'), ([False, True], '1', 'False'),
            (DAYS, 1704067200000, '2024-01-01'), (['a'], [1], 'a')]


@pytest.mark.parametrize('values, v, named', NOT_READ, ids=[f'{v!r} in {list(o)[:2]}' for o, v, _ in NOT_READ])
def test_what_may_be_another_category_is_an_error(values, v, named):
    encoder = RowEncoder([dict(name='kind', values=pd.Index(values))], [])
    for rows in (dict(kind=v), pd.DataFrame(dict(kind=[v])), pd.DataFrame(dict(kind=pd.Series([None, v], dtype=object)))):
        with pytest.raises(ValueError) as e: encoder(rows)
        assert "'kind'" in str(e.value) and str(v) in str(e.value) and named in str(e.value)


FRAMES = dict(ints=[2, 10, 77], floats=[2., 10., 77.], gaps=[2., np.nan, 77.], nullable=pd.array([2, None, 77], 'Int64'),
              categories=pd.Categorical([2, 10, 77]), strings=['2', '10', '77'], small=np.array([2, 10, 77], np.uint8),
              nullable_strings=pd.array(['2', None, '77'], 'string'), objects=np.array([2, '10', None], object))


@pytest.mark.parametrize('name', FRAMES)
def test_a_frame_of_the_other_type(name):
    encoder = RowEncoder([dict(name='zip', values=pd.Index(['10', '2']))], [])
    df = pd.DataFrame(dict(zip=FRAMES[name]))
    wanted = [2, 0 if pd.isna(df.zip.iloc[1]) else 1, 0]
    assert encoder(df)[0][:, 0].tolist() == wanted
    assert [int(encoder(o)[0][0, 0]) for o in df.to_dict('records')] == wanted
    assert encoder(df.iloc[:0])[0].shape == (0, 1)


def test_digits_from_json_are_answered_as_strings():
    answer, row = with_kind((np.arange(400) % 3).astype(str)).predictor(), dict(shop='a', size=.1, age=.2)
    wanted = answer({**row, 'kind': '2'})
    assert np.array_equal(answer({**row, 'kind': 2}), wanted) and not np.array_equal(answer({**row, 'kind': 77}), wanted)


def test_large_ids_from_a_row_of_floats():
    df = make_df().assign(id=2**53+1+2*np.arange(400) % 10)
    learn = fitted(TabularPandas(df, [Categorify, Normalize], ['id'], ['size'], 'price', splits=None).dataloaders(bs=64))
    answer = learn.predictor()
    row = df[['id', 'size']].iloc[0]  # a Series of float64, which has lost the last digit
    with pytest.raises(ValueError, match="column 'id' has .*9007199254740992.0.*, which may be one of several of its categories, which are integers"): answer(row)
    assert np.allclose(answer(row.to_dict() | {'id': int(df.id[0])}), answer(df)[0], atol=1e-6)

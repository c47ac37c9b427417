"Continuous columns with outliers, in training and afterwards, wherever a net answers."
import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.tabular.all import Categorify, FillMissing, Normalize, RegressionBlock, TabularDataLoaders, set_seed
from sklearn.metrics import r2_score

from dropconnect_tab.all import (
    DropConnectTabularModel, TabTensorDL, dropconnect_config, dropconnect_learner, get_cont_scale, only_masks)
from dropconnect_tab.embeddings import ContScale, _col_scale, _sparse_weight, bin_edges
from dropconnect_tab.exported import load_predictor
from dropconnect_tab.fold import FoldedNet
from dropconnect_tab.sklearn import DropConnectRegressor


def smooth(n, seed=0):
    "Four normal columns, and a target that none of them tells alone"
    X = pd.DataFrame(np.random.default_rng(seed).normal(size=(n, 4)), columns=list('abcd'))
    return X, np.sin(X.a) + X.b*X.c + .5*X.d


def with_outliers(X, value=999):
    X = X.copy()
    X.iloc[0, 0] = X.iloc[1, 1] = value
    return X


def make_learner(X, y, **kwargs):
    dls = TabularDataLoaders.from_df(X.assign(y=y), procs=[Categorify, FillMissing, Normalize], cat_names=[], bs=32,
                                     cont_names=[*X], y_names='y', y_block=RegressionBlock(), valid_idx=range(20, 40),
                                     device='cpu')
    set_seed(0)
    return dropconnect_learner(dls, layers=[20, 10], **{**dict(seed=0), **kwargs})


def fitted(X, y, n_epoch=1, **kwargs):
    learn = make_learner(X, y, **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(n_epoch)
    return learn


def score(X, y, X_test, y_test, n_epoch=12):
    made = DropConnectRegressor(n_epoch=n_epoch, members=2, random_state=0).fit(X, y)
    return r2_score(y_test, made.predict(X_test))


@pytest.fixture(scope='module')
def clean():
    "Rows, and what they are worth without outliers"
    rows = *smooth(600), *smooth(300, 1)
    return rows, score(*rows)


@pytest.mark.slow
@pytest.mark.parametrize('value', [999, -1e8, 1e12, 1e38])
def test_an_outlier_in_two_columns_costs_little(clean, value):
    (X, *rest), r2 = clean
    assert score(with_outliers(X, value), *rest) > r2-.05 > .6


@pytest.mark.slow
def test_a_date_far_away_costs_little():
    days = pd.Series(pd.date_range('2012-01-01', periods=450, freq='9D')).sample(frac=1, random_state=0)
    y = np.sin((days-days.min()).dt.days/900).to_numpy()
    X = pd.DataFrame(dict(when=days.to_numpy().astype('datetime64[us]')))
    far = X.copy()
    far.loc[0, 'when'] = pd.Timestamp('9999-12-31').as_unit('us')
    clean, with_far = (score(o[:350], y[:350], X[350:], y[350:], 20) for o in (X, far))
    assert with_far > clean-.05 > .8


# --- What comes later ---

@pytest.fixture(scope='module')
def learn():
    "Trained on a constant column, one with an outlier and one without; all are embedded"
    X, y = smooth(200)
    X.iloc[0, 0] = 999
    return fitted(X.assign(e=20.), y, 3, n_bins=4)


@pytest.fixture(scope='module')
def rows(): return smooth(5, 1)[0].assign(e=20.)


def preds(learn, df):
    with learn.no_bar(), learn.no_logging(): return learn.get_preds(dl=learn.dls.test_dl(df))[0].numpy()


@pytest.fixture(scope='module')
def way(learn, tmp_path_factory):
    "A function that gives what answers rows, by its name"
    p, folder = learn.predictor(), tmp_path_factory.mktemp('net')
    assert isinstance(p.model, FoldedNet)
    res = {'learner': lambda df: preds(learn, df), 'predictor': p, 'pickle': pickle.loads(pickle.dumps(p)),
           'row': lambda df: np.stack([p(o) for o in df.to_dict('records')])}
    def get(name):
        if name == '.onnx': pytest.importorskip('onnxruntime')
        if name not in res:
            p.export(folder/f'net{name}')
            res[name] = load_predictor(folder/f'net{name}')
        return res[name]
    return get


FILES = [pytest.param(o, marks=pytest.mark.slow) for o in ('.pt2', '.onnx')]
NAMES = ['learner', 'predictor', 'pickle', 'row', *FILES]


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('col, far', [('e', 20.1), ('e', -1e6), ('e', 1e30), ('a', 50), ('a', 1e6), ('a', -1e20),
                                      ('a', 1e38), ('b', 9), ('b', -1e6), ('b', 1e38)])
def test_a_number_beyond_those_of_training_is_answered_soberly(way, learn, rows, name, col, far):
    X, y = smooth(200)
    df = rows.assign(**{col: float(far)})
    got = way(name)(df)
    assert np.isfinite(got).all() and abs(got).max() < 3*abs(y).max()
    assert np.allclose(got, preds(learn, df), atol=1e-4)
    if col == 'e': assert np.allclose(got, preds(learn, rows), atol=1e-5), "what was constant says nothing"
    else: assert abs(got-preds(learn, rows)).max() > 1e-4


@pytest.mark.parametrize('name', NAMES[1:])
@pytest.mark.parametrize('col, far', [('a', 1e45), ('d', -1e39), ('e', 1e33)])
def test_a_number_that_float32_cannot_hold_is_refused_by_name(way, rows, name, col, far):
    with pytest.raises(ValueError, match=f"column '{col}' has a value that is too large for float32"):
        way(name)(rows.assign(**{col: far}))


@pytest.mark.parametrize('far, match', [(1e305, "'a' has a value that is too large"), (np.inf, "'a'.*infinite")])
def test_estimators_refuse_it_as_well(far, match):
    X, y = smooth(60)
    made = DropConnectRegressor(n_epoch=1, random_state=0).fit(with_outliers(X), y)
    assert np.isfinite(made.predict(X.assign(a=1e38))).all()
    with pytest.raises(ValueError, match=match): made.predict(X.assign(a=far))


@pytest.mark.parametrize('name', ['predictor', *FILES])
def test_no_rows_and_one(way, rows, name):
    assert way(name)(rows[:0]).shape == (0, 1) and way(name)(rows[:1]).shape == (1, 1)


def test_a_missing_value_stays_one(learn, rows):
    x = torch.full((2, 5), float('nan'))
    assert learn.model.cont_scale(x).isnan().all()


# --- The scale of a column ---

NORMAL = np.random.default_rng(0).normal(size=3000)


def scaled(col): return get_scale(col)(torch.tensor(np.asarray(col, np.float32))[:, None])[:, 0]


def get_scale(col): return ContScale(*([o] for o in _col_scale(np.asarray(col, np.float32))))


def with_share(value, n):
    col = NORMAL.copy()
    col[:n] = value
    return col


@pytest.mark.parametrize('value', [999, -1e6, 1e38])
@pytest.mark.parametrize('n', [1, 20, 300, 900])
def test_outliers_are_next_to_the_others(value, n):
    col = with_share(value, n)
    out = scaled(col)
    assert np.corrcoef(out[n:], col[n:])[0, 1] > .999 and out[n:].std() > .25
    assert out.isfinite().all() and abs(out).max() < 9
    assert (out[:n]*np.sign(value) > (out[n:]*np.sign(value)).max()).all(), "and yet farther out"


@pytest.mark.parametrize('n', [2, 3, 10, 30])
def test_few_rows(n):
    out = scaled(with_share(999, 1)[:n])
    assert out.isfinite().all() and (n < 10 or out[1:].std() > .2)


COLUMNS = dict(
    normal=NORMAL, skewed=np.random.default_rng(0).exponential(size=3000), flag=NORMAL > 0, rare=np.arange(3000) < 1,
    ratings=np.arange(3000)%5, mostly_zero=np.where(NORMAL > 1.5, NORMAL, 0),
    parts=NORMAL + 1000*(np.arange(3000)%5 == 0))


@pytest.mark.parametrize('name', COLUMNS)
def test_a_column_without_outliers_is_what_it_was(name):
    col = np.asarray(COLUMNS[name], float)
    col = torch.tensor(((col-col.mean())/(col.std()+1e-7)).astype(np.float32))
    if name == 'parts': assert np.corrcoef(scaled(col)[::5], col[::5])[0, 1] > .8, "a fifth of the rows are no outliers"
    else: assert torch.equal(scaled(col), col)


def test_a_column_that_was_not_normalized_is():
    out = scaled(1e6 + 1e5*NORMAL)
    assert abs(out.mean()) < 1e-3 and abs(out.std()-1) < 1e-3


@pytest.mark.parametrize('rest, value', [(np.arange(3000)%2, 999), (np.random.default_rng(0).geometric(.5, 3000), 999),
                                         (np.where(NORMAL > 1, np.exp(NORMAL), 0), 1e6), (np.arange(3000)%5, -999),
                                         (2012+np.sqrt(np.arange(3000)/21)//1, 9999)])
def test_outliers_among_few_values(rest, value):
    col = np.r_[value, rest].astype(float)
    out = scaled(col)
    assert np.corrcoef(out[1:], col[1:])[0, 1] > .999 and out[1:].std() > .5
    assert len(out.unique()) == len(np.unique(col)) or value == 1e6


def test_values_of_many_rows_stay_apart():
    col = np.r_[np.zeros(2000), np.ones(2000), NORMAL[:200]+1000]
    assert scaled(col)[0] != scaled(col)[2000]


def test_a_constant_column_is_constant_for_ever():
    scale = get_scale(np.full(100, 20.))
    x = torch.tensor([20., 20.1, -1e38, float('inf')])[:, None]
    assert scale(x).eq(0).all() and get_scale([])(x).eq(0).all() and get_scale([3.])(x).eq(0).all()


def test_order_is_kept_and_gradients_are_finite():
    x = torch.linspace(-1e4, 1e4, 4001)[:, None].requires_grad_()
    out = get_scale(with_share(999, 3))(x)
    assert (out.diff(dim=0) >= 0).all()
    out.sum().backward()
    assert x.grad.isfinite().all() and x.grad[2000] > 0


@pytest.mark.parametrize('args', [([1.], [0.]), ([0.], [1.], 0., 0.), ([0.], [float('inf')]), (0., 1.)])
def test_a_scale_that_is_none(args):
    with pytest.raises(ValueError, match='give finite values, one for each column'): ContScale(*args)


# --- The net ---

def test_what_is_embedded_is_what_enters(learn):
    scale, embed = learn.model.cont_scale, learn.model.cont_embed
    x = torch.tensor(learn.dls.train_ds.conts.to_numpy(np.float32))
    inside = scale(x).clamp(scale.low, scale.high)
    assert torch.allclose(embed.low, inside.amin(0)) and torch.allclose(embed.high[:4], inside.amax(0)[:4])
    found = bin_edges(inside[:, :1], 4)[0]
    assert torch.allclose(scale.edges(bin_edges(x, 4))[0], found, atol=1e-3)


def test_edges_that_are_given_are_moved():
    scale = ContScale([-3., 0.], [3., 9.], [1., 0.], [2., 1.])
    a, b = scale.edges([torch.tensor([-50., -3., 1., 3., 50.]), torch.tensor([0., 5., 9.])])
    assert a.tolist() == [-2., 0., 1.] and b.tolist() == [0., 5., 9.]
    assert DropConnectTabularModel([], 2, 1, [5], cont_scale=scale, cont_edges=[a, b]).cont_embed is not None


def test_without_outliers_nothing_changes():
    X, y = smooth(450)
    a, b = (fitted(X, y, seed=1, cont_scale=o) for o in (None, False))
    assert b.model.cont_scale is None
    for k, v in b.model.state_dict().items(): assert torch.equal(v, a.model.state_dict()[k]), k


@pytest.mark.parametrize('members', [1, 3])
def test_the_scale_is_part_of_the_net(members, tmp_path):
    X, y = smooth(100)
    learn = fitted(with_outliers(X), y, members=members)
    own = {k: v for k, v in learn.model.state_dict().items() if k.startswith('cont_scale')}
    assert {*own} == {f'cont_scale.{o}' for o in ('low', 'high', 'mean', 'std', 'room')}
    other = make_learner(X, y, members=members, cont_scale=get_cont_scale(learn.dls.train_ds))
    for v in other.model.cont_scale.buffers(): v.add_(1)
    other.model.load_state_dict(learn.model.state_dict())
    x = torch.randn(3, 4)*100
    with torch.no_grad():
        wanted = learn.model.eval()(torch.empty(3, 0).long(), x)
        assert torch.equal(other.model.eval()(torch.empty(3, 0).long(), x), wanted)
        assert torch.equal(copy.deepcopy(learn.model)(torch.empty(3, 0).long(), x), wanted)
        if members == 1: return
        parts = [learn.model.member(i)(torch.empty(3, 0).long(), x) for i in range(members)]
    assert torch.allclose(torch.stack(parts).mean(0), wanted, atol=1e-5)


def test_who_says_what():
    X, y = smooth(100)
    def made(**kwargs): return make_learner(with_outliers(X), y, **kwargs).model.cont_scale
    scale = ContScale([-1.]*4, [1.]*4)
    assert isinstance(made(), ContScale) and made(cont_scale=False) is made(**only_masks) is None
    assert made(cont_scale=scale) is made(config=dropconnect_config(cont_scale=scale)) is scale
    assert made(config=dict(cont_scale=False)) is made(config=dict(cont_scale=None)) is None
    assert made(config=dict(cont_scale=False), cont_scale=scale) is scale
    with pytest.raises(ValueError, match='cont_scale=True: give False'): made(cont_scale=True)
    with pytest.raises(ValueError, match='cont_scale is for 4 columns, but n_cont=3'):
        DropConnectTabularModel([], 3, 1, [5], cont_scale=scale)
    with pytest.raises(ValueError, match='cont_scale=False: give a ContScale'):
        DropConnectTabularModel([], 3, 1, [5], cont_scale=False)
    assert get_cont_scale(None) is None


@pytest.mark.parametrize('kwargs', [{}, dict(dl_type=TabTensorDL)], ids=str)
def test_only_training_rows_count(kwargs):
    X, y = smooth(100)
    X.iloc[25, 0] = 999  # among the validation rows
    learn = make_learner(X, y)
    assert learn.model.cont_scale.std.eq(1).all() and learn.model.cont_scale.high.max() < 5


def test_the_estimator_says_it():
    X, y = smooth(60)
    def scale(**kwargs): return DropConnectRegressor(n_epoch=1, **kwargs).fit(X, y).learner_.model.cont_scale
    assert isinstance(scale(), ContScale) and scale(cont_scale=False) is scale(config=dict(cont_scale=False)) is None


def test_an_answer_that_is_not_finite_is_refused_by_name():
    X, y = smooth(60)
    learn = fitted(X, y, **only_masks)
    learn.model.layers[-1][0].weight.data.mul_(1e6)
    with pytest.raises(ValueError, match=r"no finite prediction for row 2: column 'b' is .*e\+38 standard deviations"):
        learn.predictor()(X[:4].assign(b=[0, 0, 3e38, 0.]))


# --- Sparse columns ---

def flags(n, n_flags, n_rows=5, seed=0):
    "Flags that `n_rows` of `n` rows have, beside four columns that say what y is"
    rng = np.random.default_rng(seed)
    X, y = smooth(n)
    rare = np.zeros((n, n_flags), np.float32)
    for o in rare.T: o[rng.permutation(n)[:n_rows]] = 1
    return X.join(pd.DataFrame(rare, columns=[f'flag{i}' for i in range(n_flags)])), y


@pytest.mark.parametrize('n, others, n_rows, wanted', [
    (6400, 400, 6400, 1), (6400, 100, 6400, 1/9), (6400, 100, 64_000, 1), (100_000, 100, 100_000, 1/9), (80, 5, 80, 1),
    (400, 5, 400, .04), (400, 0, 400, 0)])
def test_how_much_a_sparse_column_weighs(n, others, n_rows, wanted):
    col = np.zeros(n)
    col[:others] = np.arange(others)+1
    assert _sparse_weight(col, n_rows) == pytest.approx(wanted)
    assert _sparse_weight(-3-col[::-1], n_rows) == pytest.approx(wanted), "where it is not 0 either"


@pytest.mark.parametrize('kwargs', [{}, dict(n_bins=0), dict(n_bins=0, members=1), dict(config=dict(bn_cont=False))], ids=str)
def test_all_that_is_made_of_a_sparse_column_has_its_weight(kwargs):
    X, y = flags(800, 3)
    learn = make_learner(X, y, seed=0, **kwargs)
    model, x = learn.model.eval(), torch.tensor(X.to_numpy(np.float32))
    none = torch.empty(len(x), 0).long()
    weight = model.cont_scale.weight[4:]
    assert model.cont_scale.weight[:4].eq(1).all() and (weight < .1).all()
    weighed = model._columns(none, x)
    model.cont_scale.weight = None
    plain = model._columns(none, x)
    width = plain.shape[-1]//7
    assert torch.equal(weighed[..., :4*width], plain[..., :4*width])
    assert torch.equal(weighed[..., 4*width:], plain[..., 4*width:]*weight.repeat_interleave(width))


def test_rare_flags_do_not_hide_the_columns_that_matter():
    X, y = flags(1000, 300)
    new, y_new = flags(1000, 300, seed=1)
    def error(cont_scale=None):
        learn = fitted(X, y, 4, cont_scale=cont_scale)
        return float(((preds(learn, new)[:, 0]-y_new)**2).mean()), copy.deepcopy(learn.model.cont_scale)
    with_weight, scale = error()
    scale.weight = None
    assert with_weight < .7*error(scale)[0]


@pytest.mark.parametrize('kwargs', [{}, dict(n_bins=0, members=1)], ids=str)
def test_whatever_predicts_has_the_weight_of_sparse_columns(kwargs, tmp_path):
    X, y = flags(800, 3)
    learn = fitted(X, y, **kwargs)
    rows = X[X.flag0 == 1]
    wanted, predictor = preds(learn, rows), learn.predictor()
    assert isinstance(predictor.model, FoldedNet)
    predictor.export(tmp_path/'net.pt2')
    for o in predictor, load_predictor(tmp_path/'net.pt2'): assert np.allclose(o(rows), wanted, atol=1e-3)
    other = make_learner(X, y, **kwargs)
    other.model.load_state_dict(learn.model.state_dict())
    assert np.allclose(preds(other, rows), wanted, atol=1e-5)
    other.model.cont_scale.weight.fill_(1)
    assert not np.allclose(preds(other, rows), wanted, atol=1e-3), "it matters for these rows"

"Predictive distributions: what each argument does, and that nothing is left behind."
import math

import pandas as pd
import pytest
import torch
from fastai.tabular.all import (BCEWithLogitsLossFlat, Categorify, CrossEntropyLossFlat, MultiCategoryBlock, Normalize, TabularPandas, accuracy)
from helpers import hidden, make_df, make_dls, plain_learner

from dropconnect_tab.all import (calibrate_spread, dropconnect_learner, interval_coverage, pred_intervals, plot_coverage,
                                 plot_error_spread, plot_reliability)
from dropconnect_tab.predict import _summarise_classes, _summarise_labels


def trained(y='price', tmp_path='.', **kwargs):
    learn = plain_learner(make_dls(y, path=tmp_path), layers=[30, 20], mask='resampled', weight_p=.3, **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return learn


@pytest.fixture(scope='module')
def learn(tmp_path_factory): return trained(tmp_path=tmp_path_factory.mktemp('p'))


def dist(learn, **kwargs):
    with learn.no_bar(): return learn.get_preds_dist(**kwargs)


@pytest.mark.parametrize('y', ['band', 'cheap'])
def test_probabilities_of_a_calibrated_learner(y):
    learn = dropconnect_learner(make_dls(y), layers=[20], members=3)
    with learn.no_bar(), learn.no_logging(): learn.fit(3, 1e-2)
    before = dist(learn)
    learn.model.temperature = torch.tensor(2.)
    after, (probs, _) = dist(learn), learn.get_preds()
    assert torch.allclose(after.probs, probs, atol=1e-6) and not torch.allclose(after.probs, before.probs, atol=.01)
    assert torch.allclose(after.entropy, -(probs*probs.log()).sum(1), atol=1e-5) and (after.entropy > before.entropy).all()
    assert torch.equal(after.mutual_info, before.mutual_info) and torch.equal(after.targs, before.targs)


def test_probabilities_of_calibrated_labels():
    learn = dropconnect_learner(make_dls('cheap'), layers=[20], members=3, n_out=1, loss_func=BCEWithLogitsLossFlat())
    with learn.no_bar(), learn.no_logging(): learn.fit(3, 1e-2)
    learn.model.temperature = torch.tensor(2.)
    after, probs = dist(learn), learn.get_preds()[0]
    assert torch.allclose(after.probs, probs, atol=1e-6)
    assert torch.allclose(after.entropy, torch.distributions.Bernoulli(probs[:, 0]).entropy(), atol=1e-4)


@pytest.mark.parametrize('n', [0, -3, True, 2.5])
def test_a_number_of_draws_that_is_none(learn, n):
    with pytest.raises(ValueError, match=f'n={n}'): dist(learn, n=n)


def test_mean_and_std_are_those_of_answers_by_hand(learn):
    ours = dist(learn, n=5, seed=3)
    layers = list(hidden(learn.model).values())
    learn.model.eval()
    for l in layers: l.inference = 'mc'
    torch.manual_seed(3)
    with torch.no_grad():
        answers = torch.cat([torch.stack([learn.model(*b[:2]) for _ in range(5)]) for b in learn.dls.valid], dim=1)
    for l in layers: l.inference = 'mean'
    assert torch.allclose(ours.mean, answers.mean(0)) and torch.allclose(ours.std, answers.std(0), atol=1e-6)


def test_seeds(learn):
    before = torch.get_rng_state()
    a, b, c = (dist(learn, n=4, seed=s) for s in (0, 0, 1))
    assert torch.equal(a.mean, b.mean) and torch.equal(a.std, b.std) and not torch.equal(a.mean, c.mean)
    assert torch.equal(torch.get_rng_state(), before)
    d, e = dist(learn, n=4), dist(learn, n=4)
    assert not torch.equal(d.mean, e.mean) and not torch.equal(torch.get_rng_state(), before)


def test_rows_keep_their_order_and_none_is_left_out(learn):
    train = dist(learn, ds_idx=0, n=2)
    assert len(train.mean) == 320 and torch.equal(train.targs.flatten(), torch.tensor(learn.dls.train_ds.ys.price.values))
    valid = dist(learn, n=2)
    assert torch.equal(valid.targs, learn.get_preds(reorder=True)[1])
    some = learn.dls.test_dl(learn.dls.valid_ds.items.iloc[:7].drop(columns='price'))
    res = dist(learn, dl=some, n=2)
    assert res.mean.shape == (7, 1) and res.targs is None


def as_numpy(x): return x.numpy()
def as_series(x): return pd.Series(x.flatten().numpy())


@pytest.mark.parametrize('kind', [as_numpy, as_series])
def test_arrays_and_series_do_as_well_as_tensors(learn, kind):
    d = dist(learn, n=8, seed=0)
    mean, std, targs = (kind(o) for o in d)
    factor = calibrate_spread(*d)
    assert calibrate_spread(mean, std, targs) == pytest.approx(factor)
    assert interval_coverage(mean, std, targs, factor=factor) == interval_coverage(*d, factor=factor)
    assert torch.allclose(pred_intervals(mean, std)[0].flatten(), pred_intervals(*d[:2])[0].flatten())
    for plot in (plot_coverage, plot_error_spread): assert plot(mean, std, targs) is not None


@pytest.mark.parametrize('f', [calibrate_spread, interval_coverage, plot_coverage, plot_error_spread])
def test_shapes_that_would_be_broadcast_are_an_error(learn, f):
    d = dist(learn, n=8, seed=0)
    with pytest.raises(ValueError, match=r"targs has shape \(80,\), and mean \(80, 1\): give them the same shape"):
        f(d.mean, d.std, d.targs.flatten())
    with pytest.raises(ValueError, match=r"std has shape \(80,\), and mean \(80, 1\)"): pred_intervals(d.mean, d.std[:, 0])


@pytest.mark.parametrize('level', [90, 1, 0, -.1, float('nan')])
def test_levels_are_shares(learn, level):
    d = dist(learn, n=8, seed=0)
    for f, args in ((pred_intervals, d[:2]), (interval_coverage, d), (calibrate_spread, d)):
        with pytest.raises(ValueError, match=f"level={level}: give a fraction between 0 and 1"): f(*args, level=level)


def test_labels_do_not_exclude_each_other():
    "The entropy of independent labels is the sum of theirs, and so is the mutual information"
    p = torch.rand(5, 7, 3)
    probs, entropy, information = _summarise_labels(p)
    each = [_summarise_classes(torch.stack([1-o, o], -1)) for o in p.unbind(-1)]
    assert torch.equal(probs, p.mean(0))
    assert torch.allclose(entropy, sum(o[1] for o in each), atol=1e-6)
    assert torch.allclose(information, sum(o[2] for o in each), atol=1e-6)


def test_a_net_for_several_labels_has_their_entropy():
    df = make_df().assign(up=lambda d: d.price > 0, big=lambda d: d['size'] > 0)
    to = TabularPandas(df, [Categorify, Normalize], ['shop'], ['size', 'age'], ['up', 'big'],
                       MultiCategoryBlock(encoded=True, vocab=['up', 'big']), [list(range(320)), list(range(320, 400))])
    learn = dropconnect_learner(to.dataloaders(bs=50, device='cpu'), layers=[20], members=3)
    d = dist(learn)
    p = d.probs.clamp(1e-6, 1-1e-6)
    assert torch.allclose(d.entropy, -(p*p.log() + (1-p)*(1-p).log()).sum(1), atol=1e-4)


@pytest.mark.slow
def test_more_answers_are_steadier(learn):
    def wobble(n): return torch.stack([dist(learn, n=n, seed=s).mean for s in range(6)]).std(0).mean()
    assert 2*wobble(64) < wobble(2)


def test_nothing_is_left_behind(learn):
    state = {k: v.clone() for k, v in learn.model.state_dict().items()}
    training, cbs, before = learn.model.training, [type(o) for o in learn.cbs], learn.get_preds()[0]
    dist(learn)
    assert all(torch.equal(v, state[k]) for k, v in learn.model.state_dict().items())
    assert learn.model.training == training and [type(o) for o in learn.cbs] == cbs
    assert torch.equal(learn.get_preds()[0], before)
    with pytest.raises(RuntimeError, match='broken'):
        class Broken:
            def __iter__(self): raise RuntimeError('broken')
            def __len__(self): return 1
            def new(self, **kwargs): return self
        dist(learn, dl=Broken())
    assert {l.inference for l in hidden(learn.model).values()} == {'mean'}


@pytest.mark.parametrize('y, n_classes', [('cheap', 2), ('band', 3)])
def test_classes(tmp_path, y, n_classes):
    learn = trained(y, tmp_path, metrics=accuracy, loss_func=CrossEntropyLossFlat())
    probs, entropy, info, targs = dist(learn, n=16, seed=0)
    assert probs.shape == (80, n_classes) and torch.allclose(probs.sum(1), torch.ones(80), atol=1e-5)
    assert torch.allclose(entropy, -(probs*probs.log()).sum(1), atol=1e-5) and entropy.max() <= math.log(n_classes)+1e-5
    assert (info >= 0).all() and (info <= entropy).all() and info.max() > 0
    assert set(targs.unique().tolist()) <= set(range(n_classes))


def test_several_targets(tmp_path):
    res = dist(trained(['price', 'cost'], tmp_path), n=3)
    assert res.mean.shape == res.std.shape == res.targs.shape == (80, 2)


@pytest.mark.parametrize('kwargs', [dict(), dict(mask='frozen'), dict(mask='resampled', weight_p=0)])
def test_a_net_with_one_answer_says_so(dls, kwargs):
    with pytest.raises(ValueError, match="neither members nor layers with resampled masks.*members=8 or mask='resampled'"):
        plain_learner(dls, **kwargs).get_preds_dist()


def test_one_answer_has_no_spread(learn):
    with pytest.raises(ValueError, match='n=1: a spread needs at least 2'): learn.get_preds_dist(n=1)


# --- calibration ----------------------------------------------------------------------------------------------------

def test_calibration_finds_the_factor_of_a_normal():
    torch.manual_seed(0)
    targs = 3*torch.randn(50_000, 1)
    mean, std = torch.zeros_like(targs), torch.ones_like(targs)
    for level in (.5, .9): assert abs(calibrate_spread(mean, std, targs, level)-3) < .06
    assert abs(interval_coverage(mean, std, targs, .9, factor=3)-.9) < .01 and interval_coverage(mean, std, targs, .9) < .5


def test_calibrated_rows_are_covered_exactly():
    torch.manual_seed(0)
    mean, std, targs = torch.randn(999), torch.rand(999)+.1, torch.randn(999)
    for level in (.1, .5, .9, .95):
        covered = interval_coverage(mean, std, targs, level, calibrate_spread(mean, std, targs, level)*(1+1e-6))
        assert round(covered*999) == round(1000*level)


def test_intervals_are_central():
    low, high = pred_intervals(torch.tensor([1., 2.]), torch.tensor([1., .5]), .95, factor=2)
    assert torch.allclose(low, torch.tensor([1-3.92, 2-1.96]), atol=.01) and torch.allclose(high+low, torch.tensor([2., 4.]))


@pytest.mark.parametrize('level', [0, 1, -.5, 90])
def test_bad_levels(level):
    with pytest.raises(ValueError, match=f'level={level}'): calibrate_spread(*torch.ones(3, 20), level)


def test_too_few_rows():
    with pytest.raises(ValueError, match='8 rows are too few for level=0.9: give at least 9'):
        calibrate_spread(*torch.ones(3, 8), .9)
    calibrate_spread(*torch.ones(3, 9), .9)


# --- pictures -------------------------------------------------------------------------------------------------------

def test_plot_coverage():
    mean, std, targs = torch.zeros(500), torch.ones(500), torch.randn(500)
    ax = plot_coverage(mean, std, targs, 2., label='mine')
    levels, shares = ax.lines[1].get_data()
    assert [round(float(o), 6) for o in shares] == [round(interval_coverage(mean, std, targs, float(p), 2.), 6) for p in levels]
    assert plot_coverage(mean, std, targs, ax=ax) is ax and len(ax.lines) == 4
    assert ax.get_legend().get_texts()[0].get_text() == 'mine'


def test_plot_error_spread():
    std = torch.arange(1., 101)
    ax = plot_error_spread(torch.zeros(100), std, 2*std, bins=4)
    x, y = ax.lines[0].get_data()
    assert len(x) == 4 and x[0] == std[:25].mean() and y[3] == pytest.approx(float(2*std[75:].square().mean().sqrt()))


def test_plot_reliability():
    probs = torch.tensor([[.9, .1]]*10 + [[.35, .65]]*10)
    targs = torch.tensor([0]*9 + [1] + [1]*5 + [0]*5)
    x, y = plot_reliability(probs, targs, bins=10, label='a').lines[1].get_data()
    assert sorted(zip([round(float(o), 2) for o in x], [round(float(o), 2) for o in y])) == [(.65, .5), (.9, .9)]
    assert len(plot_reliability(probs, targs, bins=2).lines[1].get_xdata()) == 1

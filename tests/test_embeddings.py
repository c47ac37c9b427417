"Numbers at both ends of a net: embeddings of continuous columns, and the scale of the target"
import copy
import pickle
from functools import cache, partial

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from fastai.tabular.all import (BCEWithLogitsLossFlat, Categorify, CategoryBlock, CrossEntropyLossFlat,
                                FillMissing, L1LossFlat, LabelSmoothingCrossEntropyFlat, MSELossFlat, MultiCategoryBlock,
                                Normalize, RegressionBlock, TabularDataLoaders, TabularPandas, load_learner, rmse,
                                set_seed, tabular_learner)
from helpers import make_df, make_dls
from torch import nn

from dropconnect_tab.all import (DropConnectTabularModel, MemberLoss, dropconnect_config, dropconnect_learner, fast_dls,
                                 only_masks)
from dropconnect_tab.data import TabTensorDL
from dropconnect_tab.masks import find_linears
from dropconnect_tab.embeddings import (ContEmbedding, TargetScale, _check_target, bin_edges, get_cont_edges,
                                        get_y_scale, get_y_start, start_outputs)
from dropconnect_tab.members import loss_power


# --- bins -----------------------------------------------------------------------------------------------------------

def test_bins_hold_the_same_number_of_rows():
    x = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0)).exp()
    edges = bin_edges(x, 10)[0]
    assert len(edges) == 11 and (edges.diff() > 0).all()
    assert edges[0] == x.min() and edges[-1] == x.max()
    counts = torch.bucketize(x[:, 0], edges[1:-1]).bincount()
    assert counts.min() >= 98 and counts.max() <= 102


def test_a_value_that_fills_a_bin_has_an_edge_and_leaves_bins_to_the_rest():
    x = torch.cat([torch.zeros(900), torch.linspace(1, 100, 100)])[:, None]
    edges = bin_edges(x, 20)[0]
    assert edges[0] == 0 and len(edges) >= 18 and (edges.diff() > 0).all()
    assert bin_edges(torch.arange(7.).repeat(50)[:, None], 20)[0].tolist() == list(range(7))


@pytest.mark.parametrize('col, n', [([1., 1., 1.], 2), ([0., 1., 1.], 2), ([3., 1., 2., 2.], None),
                                    ([1., float('nan'), 2., float('inf')], 2), ([float('nan')]*3, 2)])
def test_bins_of_odd_columns(col, n):
    edges = bin_edges(torch.tensor(col)[:, None], 48)[0]
    assert edges.isfinite().all() and (edges.diff() > 0).all()
    assert n is None or len(edges) == n


@pytest.mark.parametrize('value', [0., -3., 1e9])
def test_a_column_of_one_value_can_be_embedded(value):
    edges = bin_edges(torch.full((60, 1), value), 48)
    assert edges[0].diff() > 0 and ContEmbedding(edges, 4)(torch.full((5, 1), value)).isfinite().all()


def test_edges_of_a_table():
    rng = np.random.default_rng(0)
    df = pd.DataFrame({'a': rng.normal(5, 3, 3000), 'b': rng.integers(4, size=3000), 'y': 0.})
    def made(n, *names):
        return TabularPandas(df, [Normalize], [], names, y_names='y', splits=[[*range(n)], [*range(n, 3000)]]).train
    to = made(2500, 'a', 'b')
    def n_edges(*args): return [len(o) for o in get_cont_edges(to, *args)]
    assert n_edges() == [13, 4] and n_edges(8) == [9, 4]
    assert n_edges(np.int64(8)) == [9, 4] and get_cont_edges(to, 0) is None
    assert get_cont_edges(made(399, 'a')) is None, "a bin has 200 rows at least"
    assert [len(get_cont_edges(made(n, 'a'))[0]) for n in (400, 1000)] == [3, 6]
    found = get_cont_edges(to)[0]
    assert found[0].item() == pytest.approx(to.conts.a.min()) and found[-1].item() == pytest.approx(to.conts.a.max())
    assert found.abs().max() < 5, "as they enter the net: normalised"
    assert get_cont_edges(TabularPandas(df, [], ['b'], [], y_names='y')) is None and get_cont_edges(None) is None
    with pytest.raises(ValueError, match='n_bins=False'): get_cont_edges(to, False)


@pytest.mark.parametrize('n', [1, -3, 2.5, True, 'x'])
def test_bad_bins_are_named(n):
    with pytest.raises(ValueError, match=f"n_bins={n!r}"): bin_edges(torch.randn(9, 1), n)


# --- embeddings -----------------------------------------------------------------------------------------------------

def edges_of(n=2): return bin_edges(torch.randn(500, n, generator=torch.Generator().manual_seed(1)), 8)


def test_an_embedding_starts_linear_and_learns_to_bend():
    emb, line = ContEmbedding(edges_of(), 5), torch.linspace(-1, 1, 21)[:, None].repeat(1, 2)
    out = emb(line)
    assert out.shape == (21, 2, 5)
    assert out.diff(dim=0).diff(dim=0).abs().max() < 1e-5
    with torch.no_grad(): emb.embed.linear.weight.normal_()
    assert emb(line).diff(dim=0).diff(dim=0).abs().max() > 1e-2


@pytest.mark.slow
def test_one_product_gives_what_the_package_of_the_paper_does():
    torch.manual_seed(0)
    x = torch.randn(500, 4)*torch.tensor([1., 100., 1e-3, 1.])
    x[:, 3] = (x[:, 3] > 0).float()  # one bin, where others have ten
    emb, reference = (ContEmbedding(bin_edges(x, 10), 5) for _ in range(2))
    with torch.no_grad(): emb.embed.linear.weight.normal_()
    reference.load_state_dict(emb.state_dict())
    inside = x.clamp(emb.low, emb.high)
    for out, net in ((emb(x), emb), (reference.embed(inside), reference)): out.square().sum().backward()
    torch.testing.assert_close(emb(x), reference.embed(inside), rtol=1e-4, atol=1e-4)
    for p, q in zip(emb.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(p.grad, q.grad, rtol=1e-3, atol=1e-2)
    assert torch.equal(emb(torch.full((1, 4), torch.inf)), emb(torch.full((1, 4), 1e9)))


def test_an_embedding_stays_what_it_is_beyond_the_edges():
    emb = ContEmbedding(edges_of(), 3)
    with torch.no_grad(): emb.embed.linear.weight.normal_()
    for edge, beyond in ((emb.high, 9), (emb.low, -9)): assert torch.equal(emb(edge[None]+beyond), emb(edge[None]))


@pytest.mark.parametrize('emb_sz', [0, -1, 2.5, True])
def test_bad_widths_are_named(emb_sz):
    with pytest.raises(ValueError, match=f"cont_emb_sz={emb_sz!r}"): ContEmbedding(edges_of(), emb_sz)


def test_copies_and_state_dicts():
    emb, other, x = ContEmbedding(edges_of(), 3), ContEmbedding(edges_of(), 3), torch.randn(7, 2)
    assert not torch.equal(emb(x), other(x))
    other.load_state_dict(emb.state_dict())
    for o in (other, copy.deepcopy(emb), pickle.loads(pickle.dumps(emb))): assert torch.equal(emb(x), o(x))


def test_a_column_is_dropped_with_its_embedding():
    model = DropConnectTabularModel([(5, 3)], 2, 1, [40, 10], cont_edges=edges_of(), cont_emb_sz=4, weight_p=.5,
                                    unit='feature', seed=0)
    assert model.column_groups == [3, 5, 5]
    first = model.layers[0][0].weight
    assert first.shape == (40, 13)
    for part in first.split([3, 5, 5], 1):
        dropped = (part == 0).all(1)
        assert dropped.any() and not dropped.all() and ((part != 0).all(1) | dropped).all()


@pytest.mark.parametrize('bn_cont', [True, False])
def test_the_number_goes_on_beside_its_embedding(bn_cont):
    model = DropConnectTabularModel([], 2, 1, [6], cont_edges=edges_of(), weight_p=0, bn_cont=bn_cont).eval()
    assert (model.bn_cont is None) != bn_cont
    far = torch.full((1, 2), 50.)  # where embeddings do not change any more
    assert not torch.equal(model(None, far), model(None, 2*far))


def test_edges_have_to_fit():
    with pytest.raises(ValueError, match="bins of 2 columns, but n_cont=3"):
        DropConnectTabularModel([], 3, 1, [6], cont_edges=edges_of())


@pytest.mark.parametrize('members', [1, 3])
def test_embeddings_and_scale_add_their_own_keys_and_nothing_else(members):
    kwargs = dict(weight_p=.5, seed=0, members=members)
    plain = DropConnectTabularModel([(5, 3)], 2, 1, [40, 10], **kwargs)
    more = DropConnectTabularModel([(5, 3)], 2, 1, [40, 10], **kwargs, cont_edges=edges_of(), y_scale=(3, 2))
    new = more.state_dict().keys()-plain.state_dict().keys()
    assert not plain.state_dict().keys()-more.state_dict().keys()
    assert {o.split('.')[0] for o in new} == {'cont_embed', 'y_scale'}


# --- the target's scale ---------------------------------------------------------------------------------------------

@pytest.mark.parametrize('loss, power', [(MSELossFlat(), 2), (L1LossFlat(), 1)])
@pytest.mark.parametrize('unit', [1e-6, 1., 1e6])
def test_gradients_are_those_of_a_target_of_size_1(unit, loss, power):
    y = torch.tensor([[1.], [-2.], [.5]])
    def gradient(scale, y):
        x = torch.tensor([[.3], [.1], [-.7]], requires_grad=True)
        loss(scale(x) if scale else x, y).backward()
        return x.grad
    assert loss_power(loss) == power
    assert torch.allclose(gradient(TargetScale(7*unit, unit, power), unit*(y+7)), gradient(None, y), atol=1e-4)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('unit', [1e-6, 1., 1e6])
def test_gradients_of_other_kinds_of_numbers(unit, dtype):
    "As mixed precision has them: no unit is too large or too small for them"
    x, y = torch.tensor([[.3], [.1], [-.7]]), torch.tensor([[1.], [-2.], [.5]])
    half = x.to(dtype).requires_grad_()
    out = TargetScale(7*unit, unit)(half)
    MSELossFlat()(out.float(), unit*(y+7)).backward()
    assert out.dtype in (torch.float32, torch.float64) and half.grad.dtype == dtype
    assert torch.allclose(half.grad.float(), 2*(x-y)/3, rtol=.02)


def test_each_target_has_its_own_gradient():
    "Two targets of unlike units, of each of three members, count as they would alone"
    unit, y = torch.tensor([1e6, 1e-4]), torch.randn(8, 2)
    def gradient(scale, y):
        x = torch.linspace(-1, 1, 48).view(8, 3, 2).requires_grad_()
        MemberLoss(MSELossFlat())(scale(x) if scale else x, y).backward()
        return x.grad
    assert torch.allclose(gradient(TargetScale(3*unit, unit), unit*(y+3)), gradient(None, y), rtol=1e-3, atol=1e-5)


def test_copies_of_the_scale():
    scale, other, x = TargetScale([5, 3], [2, 4]), TargetScale([0, 0], [1, 1]), torch.randn(4, 2)
    other.load_state_dict(scale.state_dict())
    for o in (other, copy.deepcopy(scale), pickle.loads(pickle.dumps(scale))):
        assert torch.equal(o(x), torch.tensor([5, 3]) + torch.tensor([2, 4])*x) and o.power == 2
    assert 'mean=[5.0, 3.0], std=[2.0, 4.0]' in repr(scale) and scale.double()(x.double()).dtype == torch.float64


def test_the_gradient_is_the_true_one_in_evaluation():
    x = torch.ones(2, 1, requires_grad=True)
    TargetScale(0, 5).eval()(x).sum().backward()
    assert (x.grad == 5).all()


@pytest.mark.parametrize('mean, std', [(0, 0), (0, -1), (float('nan'), 1), (0, float('inf')), ([0, 1], [1]), ([0], [1, 1])])
def test_bad_scales_are_named(mean, std):
    with pytest.raises(ValueError, match="y_scale="): TargetScale(mean, std)


def table(y, **kwargs):
    df = pd.DataFrame({'a': np.random.default_rng(0).normal(size=100), **y})
    return TabularPandas(df, [Normalize], [], ['a'], y_names=list(y), splits=[[*range(80)], [*range(80, 100)]],
                         **kwargs).train


def test_scales_come_from_the_training_rows():
    y = np.r_[np.linspace(1, 3, 80), [1e9]*20]
    found = get_y_scale(table({'y': y}), 1)
    assert found.mean.item() == pytest.approx(2) and found.std.item() == pytest.approx(y[:80].std())
    two = get_y_scale(table({'y': y, 'z': 10*y}), 2)
    assert two.mean.tolist() == pytest.approx([2, 20]) and two.std[1] == pytest.approx(10*two.std[0])
    assert get_y_scale(table({'y': np.ones(100)}), 1).std.item() == 1


@pytest.mark.parametrize('loss', [CrossEntropyLossFlat(), BCEWithLogitsLossFlat(), nn.PoissonNLLLoss(),
                                  MemberLoss(nn.PoissonNLLLoss()), F.binary_cross_entropy_with_logits,
                                  F.poisson_nll_loss, partial(F.poisson_nll_loss, full=True), lambda p, y: (p-y).abs().mean()])
def test_no_scale_where_outputs_are_something_else(loss):
    assert get_y_scale(table({'y': np.arange(100.)}), 1, loss) is None


def test_no_scale_for_classes_and_for_other_outputs():
    assert get_y_scale(table({'y': np.arange(100) % 2}, y_block=CategoryBlock()), 2) is None
    assert get_y_scale(table({'y': np.arange(100.)}), 3) is None
    assert get_y_scale(None, 1) is None
    assert get_y_scale(table({'y': np.arange(100)}, y_block=RegressionBlock()), 1).mean.item() == pytest.approx(39.5)


def test_no_scale_for_several_labels():
    y = {'y': np.arange(100) % 2 == 0, 'z': np.arange(100) % 3 == 0}
    assert get_y_scale(table(y, y_block=MultiCategoryBlock(encoded=True, vocab=list(y))), 2) is None


def test_targets_that_nobody_can_learn():
    y = np.r_[np.nan, np.arange(99.)]
    assert get_y_scale(table({'y': y}), 1) is None
    assert get_y_scale(table({'y': np.r_[np.arange(80.), [np.nan]*20]}), 1).mean.item() == 39.5  # the test's own gaps


@pytest.mark.parametrize('loss, power', [(None, 2), (nn.MSELoss(), 2), (nn.functional.mse_loss, 2), (L1LossFlat(), 1),
                                          (MemberLoss(MSELossFlat()), 2), (nn.HuberLoss(), 1), (partial(F.smooth_l1_loss, beta=2.), 1),
                                          (partial(F.mse_loss, reduction='sum'), 2), (MemberLoss(F.l1_loss), 1),
                                          (MemberLoss(nn.MSELoss()), 2), (F.l1_loss, 1)])
def test_powers_of_losses(loss, power):
    assert loss_power(loss) == power
    assert get_y_scale(table({'y': np.arange(100.)}), 1, loss).power == power


def poisson(pred, y): return (pred.exp() - y*pred).mean()
def gamma(pred, y): return (pred + y*(-pred).exp()).mean()
def tweedie(pred, y): return (-y*(-.5*pred).exp()/-.5 + (.5*pred).exp()/.5).mean()


@pytest.mark.slow
@pytest.mark.parametrize('loss, members', [(poisson, 1), (poisson, 3), (gamma, 3), (tweedie, 1)])
def test_a_loss_with_a_link_of_its_own_is_fitted_as_fastai_fits_it(loss, members):
    "The net gives the log of the mean; a scale of the target in front of the link would make 20 of 3"
    rng = np.random.default_rng(0)
    x = rng.normal(size=800)
    df = pd.DataFrame({'x': x, 'y': rng.poisson(20*np.exp(.3*x)) + 1.})
    dls = TabularDataLoaders.from_df(df, procs=[Normalize], cont_names=['x'], y_names='y', bs=50, device='cpu',
                                     valid_idx=list(range(700, 800)))
    set_seed(0)
    learn = dropconnect_learner(dls, loss_func=loss, members=members, n_bins=0, layers=[20])
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(10, .05)
    preds, y = learn.get_preds()
    assert learn.model.y_scale is None and torch.corrcoef(torch.stack([preds.exp()[:, 0], y[:, 0]]))[0, 1] > .7


# --- through the learner --------------------------------------------------------------------------------------------

def loaders(y, n=400, valid=100, bs=50, **kwargs):
    rng = np.random.default_rng(0)
    df = pd.DataFrame(rng.normal(size=(n, 3)), columns=list('abc'))
    df = df.assign(**y(df)) if callable(y) else df
    names = [o for o in df if o not in 'abc']
    return TabularDataLoaders.from_df(df, procs=[Normalize], cont_names=list('abc'), y_names=names, bs=bs, device='cpu',
                                      valid_idx=list(range(n-valid, n)), **kwargs)


def signal(df): return np.sin(2*df.a) + df.b*(df.c > 0)


def trained(dls, epochs=3, make=dropconnect_learner, **kwargs):
    set_seed(0)
    learn = make(dls, layers=[50, 20], **kwargs)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(epochs, 1e-2)
    return learn


def preds(learn):
    with learn.no_bar(): return learn.get_preds()[0]


TARGETS = {'millions': lambda d: {'y': 3e6 + 1e6*signal(d)}, 'tiny': lambda d: {'y': 1e-4*signal(d)},
           'skewed': lambda d: {'y': np.exp(3*signal(d))}, 'two': lambda d: {'y': 5e5+1e6*signal(d), 'z': 1e-3*d.a-7}}


@pytest.mark.parametrize('y', TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize('members', [1, 4])
def test_a_net_starts_where_the_target_is(y, members):
    dls = loaders(y)
    ys = dls.train_ds.ys.to_numpy(np.float64)
    start = preds(dropconnect_learner(dls, layers=[50, 20], members=members, seed=0))
    assert start.shape == (100, ys.shape[1])
    assert ((start.numpy()-ys.mean(0))/ys.std(0)).__abs__().max() < 2.5
    assert abs((start.numpy().mean(0)-ys.mean(0))/ys.std(0)).max() < .5


@pytest.mark.slow
@pytest.mark.parametrize('loss', [None, L1LossFlat()])
def test_units_change_nothing_else(loss):
    def standardised(mean, unit):
        learn = trained(loaders(lambda d: {'y': mean+unit*signal(d)}), loss_func=loss, members=2, seed=0)
        return (preds(learn)-mean)/unit
    one = standardised(0, 1)
    for mean, unit in ((3e6, 1e6), (0, 1e-4)): assert torch.allclose(standardised(mean, unit), one, atol=.02)
    assert one.std() > .15


@pytest.mark.slow
def test_every_target_is_learned():
    learn = trained(loaders(TARGETS['two']), epochs=8, members=2, seed=0)
    ys = learn.dls.valid_ds.ys.to_numpy(np.float64)
    errors = preds(learn).numpy()-ys
    assert (np.sqrt((errors**2).mean(0))/ys.std(0) < [.75, .6]).all()


@pytest.mark.slow
def test_a_small_table_of_log_prices():
    dls = loaders(lambda d: {'y': 10+.39*signal(d)}, n=300)
    makes = dropconnect_learner, tabular_learner
    ours, stock = (trained(dls, 15, make, metrics=rmse).validate()[1] for make in makes)
    assert ours < .4 and stock > 2*ours


def test_what_the_learner_is_told():
    dls = loaders(TARGETS['millions'])
    assert dropconnect_learner(dls, y_range=(0, 1e7)).model.y_scale is None
    assert dropconnect_learner(dls, y_scale=False).model.y_scale is None
    given = dropconnect_learner(dls, y_scale=(5, 2)).model.y_scale
    assert (given.mean.item(), given.std.item(), given.power) == (5, 2, 2)
    assert dropconnect_learner(dls, y_scale=(5, 2), loss_func=L1LossFlat()).model.y_scale.power == 1
    config = dropconnect_config(y_scale=(5, 2))
    assert dropconnect_learner(dls, config=config).model.y_scale.mean.item() == 5 and config == dict(y_scale=(5, 2))
    with pytest.raises(ValueError, match="both set the range"): dropconnect_learner(dls, y_scale=(5, 2), y_range=(0, 1))
    for bad in (3, True, (1,), (1, 2, 3)):
        with pytest.raises(ValueError, match="give the target's"): dropconnect_learner(dls, y_scale=bad)
    with pytest.raises(ValueError, match="3 means, but the model has 1"): dropconnect_learner(dls, y_scale=([0]*3, [1]*3))


def test_bins_of_the_learner():
    dls = loaders(TARGETS['millions'])
    assert dropconnect_learner(dls).model.cont_embed is None  # 300 training rows, and 200 of them in a bin
    dls = loaders(TARGETS['millions'], n=1500)
    def n_edges(**kwargs): return len(dropconnect_learner(dls, **kwargs).model.cont_embed.embed.impl.weight[0])
    assert n_edges() == 7
    assert n_edges(n_bins=20) == 20
    assert dropconnect_learner(dls, n_bins=0).model.cont_embed is None
    with pytest.raises(ValueError, match="n_bins=1"): dropconnect_learner(dls, n_bins=1)
    config = dropconnect_config(cont_edges=get_cont_edges(dls.train_ds, 3), cont_emb_sz=2)
    model = dropconnect_learner(dls, config=config).model
    assert (model.cont_embed.emb_sz, len(model.cont_embed.embed.impl.weight[0])) == (2, 3)
    with pytest.raises(ValueError, match="n_bins=5, and cont_edges"): dropconnect_learner(dls, config=config, n_bins=5)


@pytest.mark.slow
@pytest.mark.parametrize('kwargs', [{}, dict(mask='frozen', members=1), dict(mask='frozen'),
                                    dict(weight_p=.5, unit='feature'), dict(mask='resampled', weight_p=.1)], ids=str)
def test_saved_exported_served_and_taken_apart(kwargs, tmp_path):
    kwargs = {**kwargs, 'n_bins': 6}
    learn = trained(loaders(TARGETS['millions'], path=tmp_path), 2, **kwargs)
    assert learn.model.cont_embed is not None and learn.model.y_scale is not None
    want = preds(learn)
    learn.save('net')
    learn.export('net.pkl')
    again = load_learner(tmp_path/'net.pkl')
    rows = learn.dls.valid_ds.items[list('abc')]
    raw = pd.DataFrame(np.random.default_rng(0).normal(size=(400, 3)), columns=list('abc')).iloc[300:]
    with again.no_bar(): found = again.get_preds(dl=again.dls.test_dl(raw))[0]
    assert torch.allclose(found, want, rtol=1e-5)
    other = dropconnect_learner(loaders(lambda d: {'y': signal(d)}, path=tmp_path), layers=[50, 20], **kwargs)
    other.load('net')
    assert torch.allclose(preds(other), want, rtol=1e-5)
    answers = learn.predictor()(raw)
    assert np.allclose(np.asarray(answers, dtype=np.float64).reshape(-1), want[:, 0], rtol=1e-5)
    if learn.model.members > 1:
        x = torch.tensor(rows.to_numpy(np.float32))
        each = [learn.model.member(i).eval()(torch.zeros(100, 0).long(), x) for i in range(learn.model.members)]
        assert torch.allclose(torch.stack(each).mean(0), want, rtol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize('members', [1, 3])
@pytest.mark.parametrize('mask', ['trainable', 'frozen'])
def test_by_column_a_number_and_its_embedding_are_dropped_together(mask, members):
    learn = dropconnect_learner(make_dls(n=1000), layers=[40, 20], weight_p=.5, unit='feature', mask=mask,
                                members=members, seed=0)
    groups = learn.model.column_groups
    width = 1 + (16 if members == 1 else 8)
    assert groups == [*(e.embedding_dim for e in learn.model.embeds), width, width] and list(find_linears(learn.model)) == [
        'layers.0.0', 'layers.1.0', 'layers.2.0'], "embeddings are not masked"
    with learn.no_bar(), learn.no_logging():
        if mask == 'frozen': learn.fit(2)
    for part in (learn.model.layers[0][0].weight != 0).split(groups, -1):
        assert torch.equal(part.any(-1), part.all(-1))
        assert 0 < part.float().mean() < 1
    each = [learn.model] if members == 1 else [learn.model.member(i) for i in range(members)]
    assert {tuple(o.column_groups) for o in each} == {tuple(groups)}


@pytest.mark.slow
@pytest.mark.parametrize('mask', ['trainable', 'frozen', 'resampled'])
def test_embeddings_and_the_scale_train_with_every_mask(mask):
    learn = trained(loaders(TARGETS['millions'], n=900), 3, mask=mask, members=2)
    bends = learn.model.cont_embed.embed.linear.weight
    assert bends.ne(0).float().mean() > .9 and bends.isfinite().all()
    if mask == 'frozen':
        for l in learn.model.weight_masks.linears.values():
            assert (~l.keep).float().mean() == .5 and not l.weight[~l.keep].any() and l.weight[l.keep].all()
    y, scale = learn.dls.train_ds.ys.y, learn.model.y_scale
    assert scale.mean.item() == pytest.approx(y.mean()) and not [n for n, _ in scale.named_parameters()]


@pytest.mark.slow
@pytest.mark.parametrize('kwargs', [
    dict(n_bins=3), dict(n_bins=0), dict(y_scale=False), dict(y_scale=(0, 1)), dict(ps=0.), dict(ps=[.1, .6]),
    dict(members=3), dict(y_range=(0, 1e7)), dict(lr=.1), dict(config=dropconnect_config(embed_p=.5)),
    dict(layers=[50]), dict(config=dropconnect_config(cont_emb_sz=3)), dict(loss_func=L1LossFlat())], ids=str)
def test_each_argument_has_an_effect(kwargs): assert losses(**kwargs) != losses_by_default()


def losses(**kwargs):
    set_seed(0)
    learn = dropconnect_learner(make_dls(n=1000), **{'layers': [50, 20], 'seed': 0, **kwargs})
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    return [float(o) for o in learn.recorder.losses]


losses_by_default = cache(losses)


def test_a_seed_gives_the_same_losses(): assert losses() == losses_by_default()


def embeddings(make, dls, **kwargs):
    "The untrained embeddings of categories, and the next random number"
    set_seed(0)
    model = make(dls, **kwargs).model
    return [e.weight.detach() for e in model.embeds], torch.rand(1)


def test_embeddings_of_categories_start_as_large_as_told(dls):
    (theirs, after), kwargs = embeddings(tabular_learner, dls), dict(only_masks, weight_p=0)
    for std in (.01, .3, 2):
        for told in (dict(emb_std=std), dict(emb_std=None, config=dict(emb_std=std))):
            ours, drawn = embeddings(dropconnect_learner, dls, **{**kwargs, **told})
            assert drawn == after
            for a, b in zip(ours, theirs, strict=True): torch.testing.assert_close(a, b*std/.01)
    ours, _ = embeddings(dropconnect_learner, dls, **{**kwargs, 'emb_std': [.1, .5]})
    for a, b, std in zip(ours, theirs, (.1, .5), strict=True): torch.testing.assert_close(a, b*std/.01)


@pytest.mark.parametrize('rows,shops,std', [(4999, 6, .01), (5000, 6, .3), (5000, 49, .3), (5000, 99, .15)])
def test_embeddings_start_smaller_where_categories_or_rows_are_few(rows, shops, std, tmp_path):
    "0.3 where a category, what is unknown among them, has 100 rows on average; fastai's below 5,000 rows"
    df = make_df(rows+50).assign(shop=[f's{i%shops}' for i in range(rows+50)])
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, Normalize], cat_names=['shop'], y_names='price',
                                     cont_names=['size'], valid_idx=list(range(rows, rows+50)), path=tmp_path, device='cpu')
    (default,), _ = embeddings(dropconnect_learner, dls, **{**only_masks, 'emb_std': None})
    (theirs,), _ = embeddings(tabular_learner, dls)
    torch.testing.assert_close(default, theirs*std/.01)


@pytest.mark.parametrize('std', [0, -1, float('nan'), float('inf'), '0.3', [.3, 0]])
def test_embeddings_of_no_size_are_an_error(dls, std):
    with pytest.raises(ValueError, match='emb_std=.*give a number above 0'): dropconnect_learner(dls, emb_std=std)
    with pytest.raises(ValueError, match='1 values for 2 categorical columns'): dropconnect_learner(dls, emb_std=[.3])


@pytest.mark.parametrize('y', ['cheap', 'band'])
def test_classes_have_embeddings_and_no_scale(y):
    learn = dropconnect_learner(make_dls(y, n=1000), layers=[50, 20])
    assert learn.model.y_scale is None and learn.model.cont_embed is not None and learn.model.average == 'softmax'
    assert abs(preds(learn)-1/learn.dls.c).max() < .4


@pytest.mark.slow
def test_with_everything_off_it_is_fastais_net(tmp_path):
    dls = make_dls(path=tmp_path, n=600)
    def losses(make, **kwargs):
        set_seed(0, reproducible=True)
        learn = make(dls, layers=[50, 20], **kwargs)
        with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-3)
        return [float(o) for o in learn.recorder.losses]
    theirs = losses(tabular_learner)
    assert losses(dropconnect_learner, weight_p=0, **only_masks) == theirs
    # `emb_std` is fastai's where rows are few, and `cont_scale` changes nothing where there are no outliers
    for o in only_masks.keys() - {'emb_std', 'cont_scale'}:
        rest = {k: v for k, v in only_masks.items() if k != o}
        assert losses(dropconnect_learner, weight_p=0, **rest) != theirs, o


@pytest.mark.slow
@pytest.mark.parametrize('y,rows,ps', [
    ('price', 999, .3), ('price', 4999, .3), ('price', 5000, .1),
    ('band', 119, .5), ('band', 120, .3), ('band', 9999, .3), ('band', 10_000, .1)])  # of two columns
def test_few_rows_get_more_dropout_and_classifiers_by_their_columns(y, rows, ps, tmp_path):
    valid = list(range(rows, rows+50))
    dls = TabularDataLoaders.from_df(make_df(rows+50), procs=[Categorify, Normalize], cat_names=['shop'], y_names=y,
                                     cont_names=['size'], valid_idx=valid, path=tmp_path, device='cpu')
    def drops(**kwargs):
        model = dropconnect_learner(dls, layers=[10, 10], **kwargs).model
        return {m.p for m in model.layers.modules() if isinstance(m, nn.Dropout)} or {0}
    assert drops() == {ps} and drops(ps=.2) == drops(config=dict(ps=.2)) == {.2} and drops(ps=0) == {0}


@pytest.mark.parametrize('loss', [nn.BCEWithLogitsLoss(), BCEWithLogitsLossFlat(), MemberLoss(nn.CrossEntropyLoss()),
                                  LabelSmoothingCrossEntropyFlat()], ids=lambda o: type(o).__name__)
def test_a_target_is_classes_by_its_loss_or_by_itself(loss, tmp_path):
    of_category = 'Entropy' in str(loss)
    df = make_df(6100).assign(sold=lambda d: (d.price > 0).astype(float))
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, Normalize], cat_names=['shop'], cont_names=['size'],
                                     y_names='band' if of_category else 'sold', valid_idx=list(range(6000, 6100)),
                                     path=tmp_path, device='cpu')
    def ps(**kwargs): return dropconnect_learner(dls, layers=[10], **kwargs).model.layers[0][3].p
    assert ps(loss_func=loss) == .3 and ps() == (.3 if of_category else .1)


@pytest.mark.slow
@pytest.mark.parametrize('n,width', [(1, 8), (16, 8), (17, 7), (32, 4), (200, 2)])
def test_many_numbers_get_narrow_embeddings(n, width, tmp_path):
    df = pd.DataFrame(np.random.default_rng(0).normal(size=(500, n+1))).add_prefix('c')
    dls = TabularDataLoaders.from_df(df, procs=[Normalize], cont_names=list(df)[1:], y_names='c0', path=tmp_path, bs=64,
                                     device='cpu')
    def of(**kwargs): return dropconnect_learner(dls, layers=[10], **kwargs).model.cont_embed.emb_sz
    assert of() == width and of(config=dropconnect_config(cont_emb_sz=3)) == 3
    assert of(own_embeds=False) == max(2, min(16, 256//n))


@pytest.mark.parametrize('far, match', [
    (lambda y: y+1e7, r"target 'price' is 9999999|1e\+07 with a spread of .*: subtract .* from it"),
    (lambda y: y*1e20, r"target 'price' has a spread of .*e\+19, .*: divide it by .*e\+19"),
    (lambda y: y*1e-23, "target 'price' has a spread of .*e-24, .*: divide it by .*e-24")])
def test_targets_that_float32_cannot_hold(far, match, tmp_path):
    def dls(df): return TabularDataLoaders.from_df(df, procs=[Categorify, Normalize], cat_names=['shop'], y_names='price',
                                                   cont_names=['size'], path=tmp_path, device='cpu')
    df = make_df()
    with pytest.raises(ValueError, match=match): dropconnect_learner(dls(df.assign(price=far(df.price))))
    dropconnect_learner(dls(df.assign(price=far(df.price))), y_scale=False)  # as fastai does
    for same in (.1, df.price+1e9):  # fastai makes float32 of them
        with pytest.warns(UserWarning, match="'price' is .* in all training rows"):
            dropconnect_learner(dls(df.assign(price=same)))


def test_how_small_a_spread_float32_can_hold():
    with pytest.warns(UserWarning, match="in all training rows"): _check_target('y', 1e9, 1e-4)
    for std in (1e-2, 999):
        with pytest.raises(ValueError, match="subtract 1e"): _check_target('y', 1e9, std)
    _check_target('y', 1, 1e-6)
    _check_target('y', 1e9, 1000)


@pytest.mark.parametrize('name', ['c', 'n_inp', 'loss_func'])
def test_categories_that_hide_what_fastai_looks_for(name, tmp_path):
    df = make_df().rename(columns={'shop': name})
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, Normalize], cat_names=[name], y_names='price',
                                     cont_names=['size'], path=tmp_path, bs=64, device='cpu')
    with pytest.raises(ValueError, match=f"categorical column '{name}' hides"): dropconnect_learner(dls)
    learn = dropconnect_learner(fast_dls(dls), layers=[10], n_out=1, loss_func=MSELossFlat())
    with learn.no_bar(), learn.no_logging(): learn.fit(1)


@pytest.mark.parametrize('value', ['gap', np.inf, 'all'])
def test_numbers_that_would_make_the_loss_nan(value, tmp_path):
    df, procs = make_df(), [Categorify, *([] if value == 'gap' else [FillMissing]), Normalize]
    df.loc[slice(None) if value == 'all' else 3, 'age'] = np.inf if value == np.inf else np.nan
    dls = TabularDataLoaders.from_df(df, procs=procs, cat_names=['shop'], cont_names=['size', 'age'], y_names='price',
                                     valid_idx=list(range(320, 400)), path=tmp_path, device='cpu')
    with pytest.raises(ValueError, match="column 'age' has missing or infinite values"): dropconnect_learner(dls)


def test_one_scale_for_several_outputs():
    model = DropConnectTabularModel([], 2, 3, [4], weight_p=0, y_scale=(100, 5))
    with torch.no_grad(): model.layers[-1][0].weight.zero_(), model.layers[-1][0].bias.fill_(1)
    assert torch.equal(model.eval()(None, torch.zeros(1, 2)), torch.full((1, 3), 105.))


@pytest.mark.parametrize('n_cols, for_classes, n_bins', [(5, True, 10), (12, True, 8), (12, False, 10), (60, True, 6)])
def test_bins_need_more_rows_where_a_classifier_has_many_columns(n_cols, for_classes, n_bins):
    rng = np.random.default_rng(0)
    df = pd.DataFrame(rng.normal(size=(2000, n_cols))).rename(columns=str).assign(y=rng.integers(3, size=2000))
    to = TabularPandas(df, [Normalize], [], list(map(str, range(n_cols))), y_names='y',
                       y_block=CategoryBlock() if for_classes else RegressionBlock())
    edges = get_cont_edges(to)
    assert {len(o)-1 for o in edges} == {n_bins}
    assert len(get_cont_edges(to, 30)[0]) == 31


# --- classes start from their rates -------------------------------------------------------------------------------------

def start_of(learn):
    "Probabilities of an untrained net for all rows, but for what random weights say of the columns"
    model = learn.model.eval()
    with torch.no_grad(): [*find_linears(model).values()][-1].weight.zero_()
    return model(*learn.dls.train.one_batch()[:2])[0]


@pytest.mark.parametrize('kwargs', [{}, only_masks | dict(y_scale=None)])
def test_classes_start_from_their_rates(kwargs):
    dls = make_dls('band')
    rates = dls.train_ds.ys.band.value_counts(normalize=True).sort_index()
    start = dropconnect_learner(dls, **kwargs)
    assert start_of(start).softmax(-1).tolist() == pytest.approx(rates.tolist(), abs=.2)
    off = start_of(dropconnect_learner(dls, y_scale=False)).softmax(-1)
    assert (off - 1/3).abs().max() < (start_of(start).softmax(-1) - 1/3).abs().max()


def test_rates_know_weights_of_rows_of_classes_and_of_labels():
    dls, n = make_dls('band'), 3
    counts = dls.train_ds.ys.band.value_counts().sort_index().to_numpy()
    plain = get_y_start(dls.train, n)
    assert np.exp(plain) == pytest.approx((counts+.1)/320.1)
    weighted = get_y_start(dls.train, n, CrossEntropyLossFlat(weight=torch.tensor([1., 2., .5])))
    assert weighted - plain == pytest.approx(np.log([1, 2, .5]))
    first = (dls.train_ds.ys.band == 0).to_numpy(float)
    drawn = TabTensorDL(dls.train_ds, bs=64, wgts=first)
    assert np.exp(get_y_start(drawn, n)) == pytest.approx(np.array([320.1, .1, .1])/320.1)


def test_labels_start_from_their_own_rates():
    y = {'a': np.arange(100) < 10, 'b': np.arange(100) < 90}
    dl = TabTensorDL(table(y, y_block=MultiCategoryBlock(encoded=True, vocab=list(y))), bs=20)
    rates = dl.dataset.ys.mean().to_numpy()
    loss = BCEWithLogitsLossFlat(pos_weight=torch.tensor([3., 1.]))
    start = get_y_start(dl, 2)
    assert 1/(1+np.exp(-start)) == pytest.approx(rates, abs=.02)
    assert get_y_start(dl, 2, loss) - start == pytest.approx([np.log(3), 0])
    assert get_y_start(dl, 3) is None


def test_what_has_no_rates_starts_as_it_did():
    assert get_y_start(make_dls('price').train, 1) is None
    assert get_y_start(make_dls('band').train, 3, nn.MultiMarginLoss()) is None
    net = DropConnectTabularModel([(5, 3)], 2, 3, [8], lin_first=False)
    before = copy.deepcopy(net.state_dict())
    start_outputs(net, None)
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())

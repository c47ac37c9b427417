"Numbers at both ends of a net: embeddings of continuous columns, and the scale of the target"
import copy
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_dls
from fastai.tabular.all import (BCEWithLogitsLossFlat, CategoryBlock, CrossEntropyLossFlat, L1LossFlat, MSELossFlat,
                                Normalize, RegressionBlock, TabularDataLoaders, TabularPandas, load_learner, rmse,
                                set_seed, tabular_learner)
from torch import nn

from dropconnect_tab.all import (DropConnectTabularModel, MemberLoss, dropconnect_config, dropconnect_learner,
                                 only_masks)
from dropconnect_tab.numeric import (ContEmbedding, TargetScale, bin_edges, loss_degree, table_edges, target_scale)


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
    model = DropConnectTabularModel([(5, 3)], 2, 1, [40, 10], cont_edges=edges_of(), cont_emb_sz=4, unit='feature',
                                    seed=0)
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

@pytest.mark.parametrize('loss, degree', [(MSELossFlat(), 2), (L1LossFlat(), 1)])
@pytest.mark.parametrize('unit', [1e-6, 1., 1e6])
def test_gradients_are_those_of_a_target_of_size_1(unit, loss, degree):
    y = torch.tensor([[1.], [-2.], [.5]])
    def gradient(scale, y):
        x = torch.tensor([[.3], [.1], [-.7]], requires_grad=True)
        loss(scale(x) if scale else x, y).backward()
        return x.grad
    assert loss_degree(loss) == degree
    assert torch.allclose(gradient(TargetScale(7*unit, unit, degree), unit*(y+7)), gradient(None, y), atol=1e-4)


def test_the_gradient_is_the_true_one_in_evaluation():
    x = torch.ones(2, 1, requires_grad=True)
    TargetScale(0, 5).eval()(x).sum().backward()
    assert (x.grad == 5).all()


@pytest.mark.parametrize('mean, std', [(0, 0), (0, -1), (float('nan'), 1), (0, float('inf')), ([0, 1], [1])])
def test_bad_scales_are_named(mean, std):
    with pytest.raises(ValueError, match="y_scale="): TargetScale(mean, std)


def table(y, **kwargs):
    df = pd.DataFrame({'a': np.random.default_rng(0).normal(size=100), **y})
    return TabularPandas(df, [Normalize], [], ['a'], y_names=list(y), splits=[[*range(80)], [*range(80, 100)]],
                         **kwargs).train


def test_scales_come_from_the_training_rows():
    y = np.r_[np.linspace(1, 3, 80), [1e9]*20]
    found = target_scale(table({'y': y}), 1)
    assert found.mean.item() == pytest.approx(2) and found.std.item() == pytest.approx(y[:80].std())
    two = target_scale(table({'y': y, 'z': 10*y}), 2)
    assert two.mean.tolist() == pytest.approx([2, 20]) and two.std[1] == pytest.approx(10*two.std[0])
    assert target_scale(table({'y': np.ones(100)}), 1).std.item() == 1


@pytest.mark.parametrize('loss', [CrossEntropyLossFlat(), BCEWithLogitsLossFlat(), nn.PoissonNLLLoss(),
                                  MemberLoss(nn.PoissonNLLLoss())])
def test_no_scale_where_outputs_are_something_else(loss):
    assert target_scale(table({'y': np.arange(100.)}), 1, loss) is None


def test_no_scale_for_classes_and_for_other_outputs():
    assert target_scale(table({'y': np.arange(100) % 2}, y_block=CategoryBlock()), 2) is None
    assert target_scale(table({'y': np.arange(100.)}), 3) is None
    assert target_scale(None, 1) is None
    assert target_scale(table({'y': np.arange(100)}, y_block=RegressionBlock()), 1).mean.item() == pytest.approx(39.5)


@pytest.mark.parametrize('loss, degree', [(None, 2), (nn.MSELoss(), 2), (nn.functional.mse_loss, 2), (L1LossFlat(), 1),
                                          (MemberLoss(MSELossFlat()), 2), (lambda a, b: (a-b).abs().mean(), 1)])
def test_degrees_of_losses(loss, degree):
    assert loss_degree(loss) == degree
    assert target_scale(table({'y': np.arange(100.)}), 1, loss).degree == degree


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


@pytest.mark.parametrize('loss', [None, L1LossFlat()])
def test_units_change_nothing_else(loss):
    def standardised(mean, unit):
        learn = trained(loaders(lambda d: {'y': mean+unit*signal(d)}), loss_func=loss, members=2, seed=0)
        return (preds(learn)-mean)/unit
    one = standardised(0, 1)
    for mean, unit in ((3e6, 1e6), (0, 1e-4)): assert torch.allclose(standardised(mean, unit), one, atol=.02)
    assert one.std() > .15


def test_every_target_is_learned():
    learn = trained(loaders(TARGETS['two']), epochs=8, members=2, seed=0)
    ys = learn.dls.valid_ds.ys.to_numpy(np.float64)
    errors = preds(learn).numpy()-ys
    assert (np.sqrt((errors**2).mean(0))/ys.std(0) < [.75, .6]).all()


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
    assert (given.mean.item(), given.std.item(), given.degree) == (5, 2, 2)
    assert dropconnect_learner(dls, y_scale=(5, 2), loss_func=L1LossFlat()).model.y_scale.degree == 1
    config = dropconnect_config(y_scale=(5, 2))
    assert dropconnect_learner(dls, config=config).model.y_scale.mean.item() == 5 and config == dict(y_scale=(5, 2))
    with pytest.raises(ValueError, match="both say where"): dropconnect_learner(dls, y_scale=(5, 2), y_range=(0, 1))
    for bad in (3, True, (1, 2, 3)):
        with pytest.raises(ValueError, match="y_scale="): dropconnect_learner(dls, y_scale=bad)
    with pytest.raises(ValueError, match="3 means, but the net has 1"): dropconnect_learner(dls, y_scale=([0]*3, [1]*3))


def test_bins_of_the_learner():
    dls = loaders(TARGETS['millions'])
    def n_edges(**kwargs): return len(dropconnect_learner(dls, **kwargs).model.cont_embed.embed.impl.weight[0])
    assert n_edges() == 6  # 300 training rows, 50 of them at least in each
    assert n_edges(n_bins=20) == 20
    assert dropconnect_learner(dls, n_bins=0).model.cont_embed is None
    with pytest.raises(ValueError, match="n_bins=1"): dropconnect_learner(dls, n_bins=1)
    config = dropconnect_config(cont_edges=table_edges(dls.train_ds, 3), cont_emb_sz=2)
    model = dropconnect_learner(dls, config=config).model
    assert (model.cont_embed.emb_sz, len(model.cont_embed.embed.impl.weight[0])) == (2, 3)
    with pytest.raises(ValueError, match="n_bins=5, and cont_edges"): dropconnect_learner(dls, config=config, n_bins=5)


@pytest.mark.parametrize('kwargs', [{}, dict(mask='frozen', members=1), dict(mask='frozen'), dict(unit='feature'),
                                    dict(mask='resampled', weight_p=.1)], ids=str)
def test_saved_exported_served_and_taken_apart(kwargs, tmp_path):
    learn = trained(loaders(TARGETS['millions'], path=tmp_path), 2, **kwargs)
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


def test_with_everything_off_it_is_fastais_net(tmp_path):
    dls = make_dls(path=tmp_path)
    def losses(make, **kwargs):
        set_seed(0, reproducible=True)
        learn = make(dls, layers=[50, 20], **kwargs)
        with learn.no_bar(), learn.no_logging(): learn.fit(2, 1e-3)
        return [float(o) for o in learn.recorder.losses]
    theirs = losses(tabular_learner)
    assert losses(dropconnect_learner, weight_p=0, **only_masks) == theirs
    for o in only_masks:
        rest = {k: v for k, v in only_masks.items() if k != o}
        assert losses(dropconnect_learner, weight_p=0, **rest) != theirs, o

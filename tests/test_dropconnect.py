"DropConnect proper: the paper's moments, and a layer that is an nn.Linear in every other way."
import copy
import io
import pickle

import pytest
import torch
import torch.nn.functional as F
from fastai.tabular.all import CancelFitException, Callback, tabular_learner
from fastai.text.models.awdlstm import WeightDropout
from helpers import hidden, make_dls, plain_learner
from torch import nn

from dropconnect_tab.all import DropConnectCallback, DropConnectTabularModel
from dropconnect_tab.layers import DropConnectLinear, FrozenLinear, dropconnect

N = 40_000


@pytest.fixture
def xwb():
    torch.manual_seed(0)
    return torch.randn(2, 30), torch.randn(5, 30), torch.randn(5)


def moments(x, w, b, p):
    "Mean and variance of the pre-activations over random masks (Wan et al. 2013, section 3.2)"
    return F.linear(x, w, b), F.linear(x.square(), w.square()*p/(1-p))


@pytest.mark.slow
def test_samples_have_the_moments_of_the_paper(xwb):
    "Within five standard errors"
    mean, var = moments(*xwb, .3)
    torch.manual_seed(1)
    u = torch.stack([dropconnect(*xwb, .3) for _ in range(N)])
    assert ((u.mean(0)-mean).abs() < 5*(var/N).sqrt()).all()
    se = ((u-mean).pow(4).mean(0) - var**2).div(N).sqrt()
    assert ((u.var(0)-var).abs() < 5*se).all()


def test_rows_of_a_batch_have_one_mask(xwb):
    x, w, b = xwb
    one = dropconnect(x[:1].repeat(8, 1), w, b, .5)
    assert torch.allclose(one, one[:1].repeat(8, 1), atol=1e-5) and not torch.equal(one, dropconnect(x[:1].repeat(8, 1), w, b, .5))


def test_nothing_dropped_is_a_linear_bit_for_bit(xwb):
    x, w, b = xwb
    for kwargs in (dict(weight_p=0.), dict(weight_p=.5, training=False)):
        assert torch.equal(dropconnect(x, w, b, **kwargs), F.linear(x, w, b))
    lin = nn.Linear(30, 5)
    layer = DropConnectLinear(30, 5, weight_p=0)
    layer.load_state_dict(lin.state_dict())
    for inference in ('mean', 'mc'):
        layer.inference = inference
        for mode in (True, False): assert torch.equal(layer.train(mode)(x), lin(x))


def test_per_batch_equals_weight_dropout(xwb):
    x = xwb[0]
    lin = nn.Linear(30, 5)
    ours = DropConnectLinear.from_linear(copy.deepcopy(lin), .4)
    theirs = WeightDropout(copy.deepcopy(lin), .4, 'weight')
    res = []
    for m in (ours, theirs):
        torch.manual_seed(3)
        y = m(x)
        y.square().sum().backward()
        res.append((y, getattr(m, 'weight_raw', getattr(m, 'weight', None)).grad))
    assert torch.equal(res[0][0], res[1][0]) and torch.equal(res[0][1], res[1][1])
    assert torch.equal(ours.eval()(x), theirs.eval()(x))


def test_a_generator_of_its_own(xwb):
    before = torch.get_rng_state()
    a, b, c = (dropconnect(*xwb, .5, generator=torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert torch.equal(torch.get_rng_state(), before)


def test_any_leading_shape(xwb):
    x = xwb[0].repeat(6, 1).view(2, 2, 3, 30)
    assert dropconnect(x, *xwb[1:], .5).shape == (2, 2, 3, 5)
    assert dropconnect(x[0, 0, 0], *xwb[1:], .5).shape == (5,)
    assert dropconnect(x, xwb[1], None, 0.).shape == (2, 2, 3, 5)


def test_gradients_reach_kept_weights_only(xwb):
    lin = DropConnectLinear(30, 5, weight_p=.5)
    lin(torch.ones(1, 30)).sum().backward()
    assert set(lin.weight.grad.unique().tolist()) == {0., 2.} and lin.bias.grad.eq(1).all()


# --- the layer ------------------------------------------------------------------------------------------------------

def test_it_is_an_nn_linear_to_everybody_else():
    lin, layer = nn.Linear(6, 4), DropConnectLinear(6, 4, weight_p=.3)
    assert layer.state_dict().keys() == lin.state_dict().keys()
    layer.load_state_dict(lin.state_dict(), strict=True)
    lin.load_state_dict(layer.state_dict(), strict=True)
    x = torch.randn(3, 6)
    f = io.BytesIO()
    torch.save(layer, f)
    f.seek(0)
    for o in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer)), torch.load(f, weights_only=False)):
        assert type(o) is DropConnectLinear and o.weight_p == .3 and torch.equal(o.eval()(x), lin(x))
    exported = torch.export.export(layer.eval(), (x,)).module()
    assert torch.equal(exported(x), lin(x))


def test_train_eval_train():
    layer, x = DropConnectLinear(6, 4), torch.randn(3, 6)
    assert not torch.equal(layer(x), layer(x))
    assert torch.equal(layer.eval()(x), layer(x))
    assert not torch.equal(layer.train()(x), layer(x))


def test_from_linear_and_back():
    lin, x = nn.Linear(6, 4), torch.randn(3, 6)
    weight, attrs = lin.weight, set(vars(lin))
    layer = DropConnectLinear.from_linear(lin, .2, inference='mc')
    assert layer is lin and lin.weight is weight
    assert (lin.weight_p, lin.inference) == (.2, 'mc')
    assert repr(lin).startswith('DropConnectLinear(') and "weight_p=0.2, inference='mc'" in repr(lin)
    assert type(lin.to_linear()) is nn.Linear and set(vars(lin)) == attrs and lin.weight is weight
    assert torch.equal(lin(x), F.linear(x, lin.weight, lin.bias)) and 'weight_p' not in repr(lin)


@pytest.mark.parametrize('kwargs, match', [
    (dict(weight_p=1.), 'weight_p=1.0'), (dict(weight_p=-.1), 'weight_p=-0.1'), (dict(weight_p=[.1]), 'weight_p='),
    (dict(inference='max'), "inference='max'")])
def test_bad_settings(kwargs, match):
    with pytest.raises(ValueError, match=match): DropConnectLinear(3, 4, **kwargs)
    lin = nn.Linear(3, 4)
    with pytest.raises(ValueError, match=match): DropConnectLinear.from_linear(lin, **kwargs)
    assert type(lin) is nn.Linear


# --- in the model, the callback and the learner ---------------------------------------------------------------------

def test_weight_p_per_layer(dls):
    learn = plain_learner(dls, layers=[30, 20], mask='resampled', weight_p=[.1, .4])
    assert [l.weight_p for l in hidden(learn.model).values()] == [.1, .4]
    learn = plain_learner(dls, layers=[30, 20], mask='resampled', weight_p={'layers.1.0': .3})
    assert [getattr(l, 'weight_p', 0) for l in hidden(learn.model).values()] == [0, .3]


def test_the_model_is_dense_at_its_start_and_at_inference(dls):
    torch.manual_seed(0)
    ours = plain_learner(dls, layers=[30, 20], mask='resampled').model.eval()
    torch.manual_seed(0)
    plain = tabular_learner(dls, layers=[30, 20]).model.eval()
    x = dls.one_batch()[:2]
    assert torch.equal(ours(*x), plain(*x))
    assert not torch.equal(ours.train()(*x), plain.train()(*x))


@pytest.mark.parametrize('kwargs, match', [
    (dict(unit='feature'), "unit='feature' does not go with mask='resampled'"),
    (dict(seed=3), 'seed=3 does not go with'), (dict(rescale=False), 'rescale=False does not go with')])
def test_what_does_not_go_with_resampled_masks(dls, kwargs, match):
    with pytest.raises(ValueError, match=match): DropConnectTabularModel([], 3, 1, [9], mask='resampled', **kwargs)
    with pytest.raises(ValueError, match=match): DropConnectCallback(mask='resampled', **kwargs)


def kinds(learn): return {type(l).__name__ for l in hidden(learn.model).values()}


class Look(Callback):
    def __init__(self, stop=None): self.seen, self.stop = set(), stop
    def after_batch(self):
        self.seen.add((self.training, *kinds(self.learn)))
        if self.stop is not None: raise self.stop


def fit(learn, *cbs):
    with learn.no_bar(), learn.no_logging(): learn.fit(1, cbs=cbs)


def test_the_callback_puts_the_layers_back(dls):
    learn = tabular_learner(dls, layers=[30, 20])
    look = Look()
    fit(learn, DropConnectCallback(.5, 'resampled'), look)
    assert look.seen == {(True, 'DropConnectLinear'), (False, 'DropConnectLinear')} and kinds(learn) == {'Linear'}
    assert not hasattr(learn.model, 'weight_masks')
    fit(learn, again := Look())
    assert again.seen == {(True, 'Linear'), (False, 'Linear')}


@pytest.mark.parametrize('stop', [KeyboardInterrupt(), RuntimeError('boom'), CancelFitException()])
def test_also_when_the_fit_is_stopped(dls, stop):
    learn = tabular_learner(dls, layers=[30, 20])
    if isinstance(stop, CancelFitException): fit(learn, DropConnectCallback(.5, 'resampled'), Look(stop))
    else:
        with pytest.raises(type(stop)): fit(learn, DropConnectCallback(.5, 'resampled'), Look(stop))
    assert kinds(learn) == {'Linear'}


def test_predictions_in_the_middle_of_an_epoch(dls):
    class Ask(Callback):
        order = 50
        def after_batch(self):
            if self.training and self.train_iter == 2:
                assert kinds(self.learn) == {'DropConnectLinear'}
                self.learn.get_preds(inner=True)
                self.learn.model.train()
        def after_pred(self): assert not self.training or kinds(self.learn) == {'DropConnectLinear'}
    learn = tabular_learner(dls, layers=[30, 20])
    fit(learn, DropConnectCallback(.5, 'resampled'), Ask())
    assert kinds(learn) == {'Linear'}


def test_a_layer_that_cannot_change_is_named_before_training(dls):
    class Scaled(nn.Linear): pass
    learn = tabular_learner(dls)
    learn.model = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), Scaled(4, 4), nn.ReLU(), nn.Linear(4, 1))
    with pytest.raises(ValueError, match="'2' is a Scaled.*leave it out with `layers`"):
        fit(learn, DropConnectCallback(.5, 'resampled'))


def test_the_callback_contradicts_a_model_with_another_mask(dls):
    with pytest.raises(ValueError, match="mask='resampled' contradicts"):
        plain_learner(dls, mask='frozen', cbs=DropConnectCallback(mask='resampled'))


def test_set_seed_governs_the_masks(dls):
    from fastai.torch_core import set_seed
    def run():
        set_seed(5, reproducible=True)
        learn = plain_learner(make_dls(path=dls.path), layers=[30, 20], mask='resampled')
        fit(learn)
        return learn.model.layers[0][0].weight.detach()
    assert torch.equal(run(), run())


def test_a_frozen_layer_tells_what_it_drops():
    keep = torch.tensor([[True, True, True, False]])
    assert repr(FrozenLinear.from_linear(nn.Linear(4, 1), keep)).endswith('bias=True, weight_p=0.25)')
    assert repr(DropConnectLinear(4, 1)).endswith("inference='mean')")
    assert DropConnectLinear(4, 1).bias is not None


def test_a_frozen_layer_takes_the_mask_of_rank_0(monkeypatch):
    "As `DistributedDataParallel` puts its weights into the parameters, past `load_state_dict`"
    keeps = [torch.rand(8, 10, generator=torch.Generator().manual_seed(i)).argsort(1) < 5 for i in range(2)]
    layer, other = (FrozenLinear.from_linear(nn.Linear(10, 8), o) for o in keeps)
    with torch.no_grad(): layer.weight.copy_(other.weight)
    assert torch.equal(copy.deepcopy(layer).train().keep, keeps[0])  # one process alone
    monkeypatch.setattr('dropconnect_tab.layers.is_distributed', lambda: True)
    assert torch.equal(layer.train().keep, keeps[1]) and torch.equal(layer.weight, other.weight)
    with torch.no_grad(): layer.weight.normal_()  # no mask at all: its own holds
    assert torch.equal(layer.train().keep, keeps[1]) and not layer.weight[~keeps[1]].any()


def test_half_is_dropped_unless_told_otherwise():
    x, w = torch.randn(5, 4), torch.randn(3, 4)
    def gen(): return torch.Generator().manual_seed(0)
    assert torch.equal(dropconnect(x, w, generator=gen()), dropconnect(x, w, weight_p=.5, generator=gen()))
    assert DropConnectLinear(4, 3).weight_p == .5

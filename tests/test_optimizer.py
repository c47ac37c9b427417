"`FusedAdam` takes fastai's own steps."
import pytest
import torch
from fastai.tabular.all import Adam, Callback, set_seed, tabular_learner, trainable_params
from helpers import make_dls
from torch import nn

from dropconnect_tab.learner import dropconnect_learner
from dropconnect_tab.optimizer import FusedAdam


def trained(opt_func, dls, splitter=None, **kwargs):
    "Weights after two epochs, the first with a part of the net frozen if there is a `splitter`"
    set_seed(0)
    learn = tabular_learner(dls, layers=[20, 10], opt_func=opt_func, lr=1e-2, splitter=splitter or trainable_params)
    if splitter: learn.freeze()
    with learn.no_bar(), learn.no_logging():
        learn.fit_one_cycle(1, **kwargs)
        learn.unfreeze()
        learn.fit(1, **kwargs)
    return learn


def halves(model):
    "Two groups of parameters"
    first, second = list(model.embeds.parameters()), [*model.bn_cont.parameters(), *model.layers.parameters()]
    return [first, second]


def assert_alike(a, b):
    for p, q in zip(a.parameters(), b.parameters(), strict=True): torch.testing.assert_close(p, q, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('splitter', [None, halves])
@pytest.mark.parametrize('kwargs', [{}, dict(wd=.3)], ids=str)
def test_a_training_ends_where_it_does_with_fastais_adam(dls, splitter, kwargs):
    ours, fastais = (trained(o, dls, splitter, **kwargs) for o in (FusedAdam, Adam))
    assert_alike(ours.model, fastais.model)
    assert all(ours.opt.state[p]['step'] > 0 for p in ours.model.parameters())


@pytest.mark.parametrize('name,value', [('mom', .5), ('sqr_mom', .9), ('eps', .1), ('wd', .9), ('decouple_wd', False)])
def test_every_argument_is_adams(name, value):
    def weights(opt_func, **kwargs):
        torch.manual_seed(0)
        net, x = nn.Linear(5, 3), torch.randn(20, 5)
        opt = opt_func(net.parameters(), lr=.01, **{'wd': .1, **kwargs})
        for _ in range(10):
            net(x).square().sum().backward()
            opt.step()
            opt.zero_grad()
        return net
    changed = weights(FusedAdam, **{name: value})
    assert_alike(changed, weights(Adam, **{name: value}))
    assert not torch.allclose(changed.weight, weights(FusedAdam).weight, rtol=1e-3, atol=1e-5)


@pytest.mark.slow
def test_one_goes_on_where_the_other_stopped(dls, tmp_path):
    def halfway(first, then):
        learn = trained(first, dls)
        learn.save('half')
        learn = tabular_learner(dls, layers=[20, 10], opt_func=then, lr=1e-2)
        learn.load('half')
        set_seed(1)
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        return learn.model
    expected = halfway(Adam, Adam)
    assert_alike(halfway(FusedAdam, Adam), expected)
    assert_alike(halfway(Adam, FusedAdam), expected)


def test_what_has_no_gradient_is_left_alone():
    net = nn.ModuleList([nn.Linear(2, 1), nn.Linear(2, 1)])
    before, opt = net[1].weight.clone(), FusedAdam(net.parameters(), lr=.1)
    for i in range(3):
        net[0](torch.ones(1, 2)).sum().backward()
        if i == 2: net[1](torch.ones(1, 2)).sum().backward()  # joins late, with steps of its own
        if i < 2: assert torch.equal(net[1].weight, before)
        opt.step()
        opt.zero_grad()
    assert not net[0].weight.grad.any() and not torch.equal(net[1].weight, before)
    assert (opt.state[net[0].weight]['step'], opt.state[net[1].weight]['step']) == (3, 1)
    with pytest.raises(NotImplementedError, match='closure'): opt.step(lambda: None)


def test_the_learner_takes_it_unless_told_otherwise(dls):
    def optimizer(**kwargs):
        learn = dropconnect_learner(dls, **kwargs)
        learn.create_opt()
        return type(learn.opt)
    fused, fastais = (type(o([nn.Parameter(torch.zeros(1))], .1)) for o in (FusedAdam, Adam))
    assert (optimizer(), optimizer(members=1)) == (fused, fastais)
    assert (optimizer(opt_func=Adam), optimizer(members=1, opt_func=FusedAdam)) == (fastais, fused)


@pytest.mark.cuda
def test_on_a_gpu(tmp_path):
    dls = make_dls(path=tmp_path).to('cuda')
    assert_alike(trained(FusedAdam, dls).model, trained(Adam, dls).model)


def test_a_frozen_parameter_rests():
    "One that is frozen after some steps stays where it is; momentum and weight decay do not move it"
    a, b = (nn.Parameter(torch.ones(3)) for _ in range(2))
    opt = FusedAdam([[a, b]], lr=.1, wd=.1)
    (a.sum() + b.sum()).backward()
    opt.step()
    opt.zero_grad()
    a_before, b_before = a.detach().clone(), b.detach().clone()
    b.requires_grad_(False)
    a.sum().backward()
    opt.step()
    assert torch.equal(b, b_before) and not torch.equal(a, a_before)


def test_a_callback_finds_the_gradients_that_fastai_leaves(dls):
    def seen(opt_func):
        res = {}

        class Look(Callback):
            def look(self): return [p.grad.abs().sum().item() for p in self.model.parameters()]
            def before_step(self): res['before_step'] = self.look()
            def after_batch(self):
                if self.training: res['after_batch'] = self.look()
        set_seed(0)
        learn = tabular_learner(dls, layers=[20], opt_func=opt_func, cbs=Look())
        with learn.no_bar(), learn.no_logging(): learn.fit(1)
        return res
    ours, fastais = seen(FusedAdam), seen(Adam)
    assert ours['after_batch'] == fastais['after_batch'] == [0.]*len(ours['after_batch'])
    assert any(ours['before_step'])

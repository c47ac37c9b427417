"`FusedAdam` takes fastai's own steps; `Muon` has others for the weights of hidden layers."
import copy
import pickle
from functools import partial

import pytest
import torch
from fastai.tabular.all import Adam, Callback, set_seed, tabular_learner, trainable_params
from helpers import hidden, make_dls
from torch import nn

from dropconnect_tab.learner import dropconnect_learner
from dropconnect_tab.optimizer import FusedAdam, Muon, _n_blocks, orthogonalize


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


def test_orthogonalized_matrices_keep_their_directions():
    torch.manual_seed(0)
    x = torch.randn(3, 20, 30) @ torch.linspace(.1, 1, 30).diag()
    u, _, vh = torch.linalg.svd(x, full_matrices=False)
    for steps, low in ((2, .25), (5, .65)):
        res = orthogonalize(x, steps)
        along = u.mT @ res @ vh.mT  # a diagonal matrix where the singular vectors are the same
        assert (along - torch.diag_embed(along.diagonal(dim1=-2, dim2=-1))).abs().max() < 1e-4
        assert along.diagonal(dim1=-2, dim2=-1).min() > low and along.max() < 1.25
    torch.testing.assert_close(orthogonalize(x.mT), orthogonalize(x).mT)
    torch.testing.assert_close(orthogonalize(x)[1], orthogonalize(x[1]))  # each by itself
    torch.testing.assert_close(orthogonalize(1e-3*x), orthogonalize(x), rtol=1e-3, atol=1e-4)
    assert not orthogonalize(torch.zeros(4, 5)).any()


def two_layers(opt_func, n_steps=3, net=None, **kwargs):
    "A net after some steps, and its optimizer"
    torch.manual_seed(0)
    net, x = net or nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(20, 5)
    opt = opt_func(net.parameters(), lr=.01, **kwargs)
    for _ in range(n_steps):
        net(x).square().sum().backward()
        opt.step()
        opt.zero_grad()
    return net, opt


def muon(*args, **kwargs):
    "`Muon` for the first of two weights"
    params = list(args[0])
    return Muon(params, *args[1:], matrices=params[:1], **kwargs)


def test_muon_is_adam_but_for_its_matrices():
    none, adams = (two_layers(o)[0] for o in (partial(Muon, matrices=[]), FusedAdam))
    assert all(torch.equal(a, b) for a, b in zip(none.parameters(), adams.parameters()))
    one, before = two_layers(muon, 1)[0], two_layers(muon, 0)[0]
    assert torch.equal(one[0].bias, two_layers(FusedAdam, 1)[0][0].bias)
    before[0].weight.data.mul_(1 - .01*.01)  # weight decay
    step = (before[0].weight - one[0].weight).detach()/(.02*(8/5)**.5)
    values = torch.linalg.svdvals(step)
    assert 0 < values.min() and values.max() < 1.25 and (values > .5).sum() > 1


@pytest.mark.parametrize('name,value', [('lr_times', 1.), ('momentum', .5), ('steps', 5), ('block', 4), ('wd', .9),
                                        ('mom', .5)])
def test_every_argument_of_muon_has_an_effect(name, value):
    def after(n_steps, **kwargs): return two_layers(partial(muon, **kwargs), n_steps)[0]
    a, b = after(2), after(2, **{name: value})
    assert torch.allclose(a[0].weight, b[0].weight, atol=1e-5) == (name == 'mom')  # of the other parameters alone
    if name in ('wd', 'mom'): assert not torch.allclose(a[2].weight, b[2].weight, atol=1e-5)
    a, b = after(1), after(1, **{name: value})
    if name != 'wd': assert torch.allclose(a[2].weight, b[2].weight, atol=1e-5)


@pytest.mark.parametrize('n_neurons, block, n', [(200, 50, 4), (100, 50, 2), (100, 60, 1), (8, 50, 1), (101, 50, 1),
                                                 (120, 50, 2)])
def test_blocks_have_the_same_size(n_neurons, block, n): assert _n_blocks(n_neurons, block) == n


def test_muon_goes_on_where_it_stopped():
    "From a copy, from a pickle, and from the state in a checkpoint; frozen weights rest"
    whole = two_layers(muon, 6)[0]

    def resumed(net, opt):
        torch.manual_seed(0)
        nn.Linear(5, 8), nn.Linear(8, 2)
        x = torch.randn(20, 5)
        for _ in range(3):
            net(x).square().sum().backward()
            opt.step()
            opt.zero_grad()
        return net
    for again in (copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))):
        assert_alike(resumed(*again(two_layers(muon))), whole)
    net, opt = two_layers(muon)
    new = muon(net.parameters(), lr=.01)
    new.load_state_dict(opt.state_dict())
    assert_alike(resumed(net, new), whole)
    net[0].weight.requires_grad_(False)
    before = net[0].weight.clone()
    assert torch.equal(resumed(net, new)[0].weight, before)


def test_classifiers_have_muon_from_1000_rows(tmp_path):
    def opt_func(y, n, **kwargs): return dropconnect_learner(make_dls(y, n=n*5//4, path=tmp_path), **kwargs).opt_func
    assert opt_func('cheap', 995) is FusedAdam and opt_func('price', 1000) is FusedAdam
    assert opt_func('cheap', 1000, members=1) is Adam and opt_func('cheap', 1000, opt_func=FusedAdam) is FusedAdam
    learn = dropconnect_learner(make_dls('band', n=1250, path=tmp_path), layers=[20, 10], mask='frozen', weight_p=.5)
    assert learn.opt_func.func is Muon
    assert [id(o) for o in learn.opt_func.keywords['matrices']] == [id(o.weight) for o in hidden(learn.model).values()]
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    assert all((o.weight == 0).float().mean() == .5 for o in hidden(learn.model).values())
    assert all('sqr_avg' not in learn.opt.state[o.weight] for o in hidden(learn.model).values())


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


def test_what_muon_refuses(dls):
    net, other = nn.Linear(5, 3), nn.Linear(5, 3)
    with pytest.raises(ValueError, match='decouple_wd=False'): Muon(net.parameters(), .01, [net.weight], decouple_wd=False)
    with pytest.raises(ValueError, match='not among the params'): Muon(net.parameters(), .01, [other.weight])
    learn = dropconnect_learner(make_dls('band', n=1300), layers=[10], members=2)
    learn.model = learn.model.member(0)
    learn.opt = None
    with pytest.raises(ValueError, match='not among the params'): learn.fit(1)

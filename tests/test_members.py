"Members: several nets in one pass, and each is the net that it would be alone."
import copy
import math
import pickle
import warnings
from functools import partial

import pytest
import torch
import torch.nn.functional as F
from fastai.callback.hook import ActivationStats
from fastai.interpret import ClassificationInterpretation
from fastai.losses import (BCELossFlat, BCEWithLogitsLossFlat, CrossEntropyLossFlat, FocalLossFlat, L1LossFlat,
                           LabelSmoothingCrossEntropyFlat, MSELossFlat)
from fastai.tabular.all import (RocAucBinary, TabularLearner, TabularModel, accuracy, get_emb_sz, load_learner, rmse,
                                set_seed, tabular_learner)
from helpers import hidden, make_df, make_dls, plain_learner
from torch import nn

from dropconnect_tab.all import (
    DropConnectCallback, DropConnectTabularModel, calibrate_spread, interval_coverage, dropconnect, dropconnect_config,
    dropconnect_learner, pred_intervals)
from dropconnect_tab.layers import DropConnectLinear, FrozenLinear, MemberLinear, linear
from dropconnect_tab.masks import find_linears
from dropconnect_tab.members import MemberOutputs, MemberLoss, average_for, average_members, no_average

K, emb_szs, layers = 3, [(7, 3), (6, 2)], [30, 20]


def batch(seed=0, n_out=None, dtype=None):
    "32 rows, with targets where `n_out` is given"
    gen = torch.Generator().manual_seed(seed)
    cats = torch.stack([torch.randint(n, (32,), generator=gen) for n, _ in emb_szs], 1)
    x = cats, torch.randn(32, 2, generator=gen).to(dtype)
    return x if n_out is None else (x, torch.randn(32, n_out, generator=gen).to(dtype))


def make(n_out=1, layers=layers, members=K, **kwargs):
    seed = {} if kwargs.get('mask') == 'resampled' else {'seed': 1}
    return DropConnectTabularModel(emb_szs, 2, n_out, layers, members=members, **{'weight_p': .5, **seed, **kwargs})


def lived(**kwargs):
    "A model whose normalising layers have weights and statistics of their own"
    torch.manual_seed(0)
    model = make(**kwargs)
    for m in model.modules():
        if isinstance(m, nn.BatchNorm1d) and m.affine: nn.init.uniform_(m.weight, .5, 1.5), nn.init.normal_(m.bias)
    for seed in (1, 2): model.train()(*batch(seed))
    return model


def part(t, like, i, name):
    "What of a parameter or statistic is member `i`'s"
    if t.shape == like.shape: return t
    if name.startswith('cont_embed'): return t.unflatten(-1, (K, -1))[..., i, :]
    return t[:, i] if name.startswith('embeds') else t.reshape(K, -1)[i].view_as(like)


def state_of(model, i, one):
    "The state of `one` from that of `model`, whose members share no weight and bias of `bn_cont` where they share nothing"
    state = model.state_dict()
    return {n: part(state[n], t, i, n) if n in state else t for n, t in one.state_dict().items()}


def alone(model, i, **kwargs):
    "Member `i` as a net of its own, filled by hand"
    one = make(members=1, **kwargs)
    one.load_state_dict(state_of(model, i, one))
    return one


def outputs(model, x):
    with no_average(model), torch.no_grad(): return model(*x)


def close(a, b, tol=1e-5): return torch.allclose(a, b, rtol=tol, atol=tol)
def weights(model): return [l.weight.detach().clone() for l in find_linears(model).values()]
def keeps(model): return [l.weight != 0 for l in hidden(model).values()]
def same(a, b): return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def fit(learn, n=1, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, **kwargs)
    return learn


# --- several nets in one pass ---------------------------------------------------------------------------------------

drawn_once = {
    'trainable': {}, 'frozen': dict(mask='frozen'), 'dense': dict(weight_p=0), 'feature': dict(unit='feature'),
    'frozen, feature': dict(mask='frozen', unit='feature'), 'by layer': dict(weight_p=[.2, .8]),
    'frozen, by layer': dict(mask='frozen', weight_p=[.2, .8]), 'lin_first=False': dict(lin_first=False),
    'frozen, lin_first=False': dict(mask='frozen', lin_first=False), 'use_bn=False': dict(use_bn=False),
    'use_bn=False, lin_first=False': dict(use_bn=False, lin_first=False), 'bn_cont=False': dict(bn_cont=False),
    'bn_final': dict(bn_final=True), 'bn_final, lin_first=False': dict(bn_final=True, lin_first=False),
    'y_range': dict(y_range=(-2, 3)), 'no hidden layer': dict(layers=[], weight_p=0), 'three outputs': dict(n_out=3),
    'three outputs, bn_final': dict(n_out=3, bn_final=True), 'another activation': dict(act_cls=nn.Mish()),
    'own embeddings': dict(own_embeds=True), 'own embeddings, frozen': dict(own_embeds=True, mask='frozen'),
    'own embeddings, lin_first=False': dict(own_embeds=True, lin_first=False),
    'own embeddings, bn_cont=False': dict(own_embeds=True, bn_cont=False),
    'own embeddings, embedded numbers': dict(own_embeds=True, cont_edges=[torch.tensor([-1., 0., 2.])]*2)}
resampled = {'resampled': dict(mask='resampled'), 'resampled, by layer': dict(mask='resampled', weight_p=[.2, .8]),
             'resampled, own embeddings': dict(mask='resampled', own_embeds=True)}
single_nets = pytest.mark.parametrize('take', [alone, lambda model, i, **kwargs: model.member(i)],
                                      ids=['by hand', 'member'])


@pytest.mark.slow
@single_nets
@pytest.mark.parametrize('kind', drawn_once | resampled)
def test_in_evaluation_each_member_is_the_net_it_would_be_alone(kind, take):
    settings, x = (drawn_once | resampled)[kind], batch()
    model = lived(**settings).eval()
    several = outputs(model, x)
    assert several.shape == (32, K, settings.get('n_out', 1)) and several.std(1).min() > 0
    for i in range(K): assert close(take(model, i, **settings).eval()(*x), several[:, i])
    assert close(model(*x), several.mean(1))


@pytest.mark.slow
@single_nets
@pytest.mark.parametrize('kind', drawn_once)
def test_in_training_each_member_is_the_net_it_would_be_alone(kind, take):
    settings = drawn_once[kind]
    model, (x, _) = lived(**settings), batch(0, settings.get('n_out', 1), torch.float64)
    ones = [take(model, i, **settings).double().train() for i in range(K)]
    several = model.double().train()(*x)
    assert type(several) is MemberOutputs
    for i, one in enumerate(ones):
        assert close(one(*x), several[:, i])
        state = state_of(model, i, one)  # with the statistics of this batch
        for n, t in one.state_dict().items(): assert close(t, state[n]), n


@pytest.mark.slow
@pytest.mark.parametrize('kind', drawn_once)
def test_gradients_are_those_of_each_net_over_the_number_of_nets(kind):
    settings = drawn_once[kind]
    model, (x, y) = lived(**settings), batch(0, settings.get('n_out', 1), torch.float64)
    ones = [alone(model, i, **settings).double().train() for i in range(K)]
    model.double()
    MemberLoss(nn.MSELoss())(model.train()(*x), y).backward()
    for one in ones: F.mse_loss(one(*x), y).backward()
    for n, p in model.named_parameters():
        own = [dict(one.named_parameters())[n].grad for one in ones]
        if p.grad.shape == own[0].shape: assert close(p.grad, torch.stack(own).mean(0), 1e-9), n
        else: assert all(close(K*part(p.grad, o, i, n), o, 1e-9) for i, o in enumerate(own)), n


@pytest.mark.slow
@single_nets
@pytest.mark.parametrize('kind', drawn_once)
def test_members_train_as_they_would_alone(kind, take):
    "With shared layers that stay as they are, and the rate times the number of nets, as the loss is their mean"
    settings = drawn_once[kind]
    model = lived(**settings)
    ones = [take(model, i, **settings).double() for i in range(K)]
    model.double()
    def train(net, lr, loss):
        shared = [p for n, p in net.named_parameters() if not n.startswith('layers')]
        for p in shared: p.requires_grad_(False)
        opt = torch.optim.SGD([p for p in net.parameters() if p.requires_grad], lr, momentum=.9)
        for seed in range(4):
            x, y = batch(seed, settings.get('n_out', 1), torch.float64)
            opt.zero_grad()
            loss(net.train()(*x), y).backward()
            opt.step()
    train(model, .01*K, MemberLoss(nn.MSELoss()))
    for i, one in enumerate(ones):
        before = weights(one)
        train(one, .01, nn.MSELoss())
        assert not any(torch.equal(a, b) for a, b in zip(before, weights(one)))
        state = state_of(model.eval(), i, one.eval())
        for n, t in one.state_dict().items(): assert close(t, state[n], 1e-9), n


@pytest.mark.parametrize('lin_first', [True, False])
@pytest.mark.parametrize('settings', [{}, dict(ps=[.5]*2), dict(embed_p=.5)], ids=str)
def test_members_share_what_dropout_drops(lin_first, settings):
    "With the same weights, behind shared embeddings, they agree in every pass, and passes differ"
    model = make(weight_p=0, lin_first=lin_first, **settings)
    with torch.no_grad():
        for l in find_linears(model).values():
            for p in l.parameters(): p.copy_(p[:1].expand_as(p))
    rows, model = batch(), model.train()
    several = outputs(model, rows)
    assert close(several, several[:, :1].expand_as(several))
    assert close(several, outputs(model, rows)) == (not settings)


@pytest.mark.parametrize('settings', [{}, dict(embed_p=.5)], ids=str)
def test_each_member_has_embeddings_of_its_own(settings):
    "With the same weights behind them, members differ, and by the dropout of their embeddings alone"
    model = make(weight_p=0, own_embeds=True, **settings)
    with torch.no_grad():
        for l in find_linears(model).values():
            for p in l.parameters(): p.copy_(p[:1].expand_as(p))
        assert outputs(model.eval(), batch()).std(1).min() > 0
        for e in model.embeds: e.weight.copy_(e.weight[:, :1].expand_as(e.weight))
    several = outputs(model.train(), batch())
    assert close(several, several[:, :1].expand_as(several)) == (not settings)


@pytest.mark.parametrize('own', [False, True])
def test_members_with_their_own_embeddings_share_no_parameters(own):
    "A step for one member changes the others by what they share"
    model = make(own_embeds=own, cont_edges=[torch.tensor([-1., 0., 2.])]*2).eval()
    before = outputs(model, batch())
    with no_average(model): model(*batch())[:, 0].sum().backward()
    torch.optim.SGD(model.parameters(), .1).step()
    after = outputs(model, batch())
    assert not close(before[:, 0], after[:, 0]) and close(before[:, 1:], after[:, 1:]) == own


def test_own_embeddings_start_like_shared_ones():
    for emb_std in (None, .3, [.1, .5]):
        torch.manual_seed(0)
        own, shared = (DropConnectTabularModel([(500, 4), (300, 7)], 2, 1, layers, members=K, emb_std=emb_std,
                                               own_embeds=o) for o in (True, False))
        for a, b in zip(own.embeds, shared.embeds):
            a, b = a.weight.detach(), b.weight.detach()
            assert a.shape == (len(b), K, b.shape[1]) and a.std().item() == pytest.approx(b.std().item(), rel=.1)
            assert a.abs().max().item() == pytest.approx(b.abs().max().item(), rel=.1)  # no outliers, in either
            assert a.std(1).min() > 0


def test_what_is_alone_has_nothing_of_its_own():
    plain = TabularModel(emb_szs, 2, 1, layers).state_dict()
    one = make(members=1, own_embeds=True)
    numbers = DropConnectTabularModel([], 2, 1, layers, members=K, own_embeds=True)
    assert not one.own_embeds and not numbers.own_embeds
    assert {n: t.shape for n, t in one.state_dict().items()} == {n: t.shape for n, t in plain.items()}


@pytest.mark.parametrize('own_embeds', [False, True])
@pytest.mark.parametrize('sizes', [dict(emb_szs=[]), dict(n_cont=0)], ids=str)
def test_tables_of_one_kind_of_columns(sizes, own_embeds):
    sizes = {'emb_szs': emb_szs, 'n_cont': 2, **sizes}
    model = DropConnectTabularModel(*sizes.values(), 1, layers, members=K, own_embeds=own_embeds).eval()
    assert close(model(*batch()), torch.stack([model.member(i)(*batch()) for i in range(K)]).mean(0))


def test_a_member_is_a_copy():
    model = make(mask='frozen', own_embeds=True)
    before, one = [o.clone() for o in model.state_dict().values()], model.member(1)
    with torch.no_grad():
        for p in one.parameters(): p.fill_(1.)
    assert all(p.requires_grad for p in one.parameters()) and same(before, model.state_dict().values())
    assert model.members == K and one.members == 1
    assert one.weight_masks.keeps['layers.0.0'].ndim == 2 and one.weight_masks.mask == 'frozen'


@pytest.mark.parametrize('mask', ['trainable', 'frozen', 'resampled'])
def test_a_member_of_a_net_in_double_precision(mask):
    model, x = make(mask=mask).double().eval(), batch(dtype=torch.float64)
    one = model.member(1)
    assert {p.dtype for p in one.parameters()} == {torch.float64} and close(one(*x), outputs(model, x)[:, 1], 1e-12)


@pytest.mark.cuda
@pytest.mark.parametrize('mask', ['trainable', 'frozen', 'resampled'])
def test_a_member_of_a_net_on_the_gpu(mask):
    model, x = make(mask=mask).cuda().eval(), [o.cuda() for o in batch()]
    one = model.member(1)
    assert all(o.is_cuda for o in one.state_dict().values()) and close(one(*x), outputs(model, x)[:, 1])
    assert torch.equal(one.weight_masks.keeps['layers.0.0'].cpu(), model.weight_masks.keeps['layers.0.0'][1].cpu())


@pytest.mark.slow
@pytest.mark.parametrize('kind', drawn_once)
def test_a_member_has_its_mask_and_its_rate(kind):
    settings = drawn_once[kind]
    masks = make(**settings).weight_masks
    for i in range(K):
        own = make(**settings).member(i).weight_masks
        assert own.keeps.keys() == masks.keeps.keys() == own.linears.keys()
        assert all(torch.equal(own.keeps[n], keep[i]) for n, keep in masks.keeps.items())
        assert own.weight_p == masks.weight_p


def test_a_member_that_is_not_there():
    for i in (K, -1):
        with pytest.raises(ValueError, match=f"member {i} does not exist: there are 3, from 0 to 2"): make().member(i)


def test_a_member_of_a_net_that_keeps_its_few_columns():
    model = make(unit='feature', weight_p=None)
    masks = model.member(1).weight_masks
    assert masks.weight_p == model.weight_masks.weight_p == {'layers.0.0': 0, 'layers.1.0': 1-2/30}
    assert torch.equal(masks.keeps['layers.1.0'], model.weight_masks.keeps['layers.1.0'][1])


# --- where they start -----------------------------------------------------------------------------------------------

def test_one_member_is_fastais_net(dls):
    def losses(learner, **kwargs):
        set_seed(1)
        learn = fit(learner(dls, layers=layers, **kwargs), 2)
        return learn, [float(l) for l in learn.recorder.losses]
    (ours, a), (theirs, b) = losses(plain_learner, weight_p=0), losses(tabular_learner)
    assert a == b and type(ours.loss_func) is type(theirs.loss_func) and type(ours.model.layers) is nn.Sequential
    assert list(ours.model.state_dict()) == list(theirs.model.state_dict())


def test_one_member_has_the_mask_of_a_net_without_members():
    torch.manual_seed(0)
    one = make(members=1, weight_p=.8)
    torch.manual_seed(0)
    assert same(weights(one), weights(DropConnectTabularModel(emb_szs, 2, 1, layers, weight_p=.8, seed=1)))


@pytest.mark.parametrize('mask', ['trainable', 'frozen', 'resampled'])
def test_the_checkpoint_has_plain_names(mask):
    plain, state = TabularModel(emb_szs, 2, 1, layers).state_dict(), make(mask=mask).state_dict()
    assert list(state) == list(plain)
    for n, t in plain.items():
        shared = not n.startswith('layers') or not t.ndim
        stacked = (K, *t.shape) if n in ('layers.0.0.weight', 'layers.1.0.weight', 'layers.2.0.weight',
                                         'layers.2.0.bias') else (K*len(t),) if t.ndim else ()
        assert state[n].shape == (t.shape if shared else stacked), n


def test_checkpoints_go_between_members_of_all_kinds():
    models = [make(mask=o) for o in ('trainable', 'frozen', 'resampled')]
    for a in models:
        for b in models:
            b.load_state_dict(a.state_dict())
            assert same(weights(a), weights(b))


def test_dense_members_start_apart_as_linears_do():
    torch.manual_seed(0)
    model = make(weight_p=0, layers=[200, 100])
    for l in find_linears(model).values():
        w, bound = l.weight.detach(), l.in_features**-.5
        assert type(l) is MemberLinear and w.ne(0).all() and w.abs().max() <= bound
        for i in range(K):
            assert not any(torch.isclose(w[i], w[j]).float().mean() > .01 for j in range(i))
            assert torch.isclose(w[i].std(), torch.tensor(bound/3**.5), rtol=.15)


def test_the_global_seed_gives_the_same_members():
    models = []
    for seed in (3, 3, 4):
        torch.manual_seed(seed)
        models.append(weights(make(seed=None)))
    assert same(models[0], models[1]) and not torch.equal(models[0][0], models[2][0])


def test_member_linear_is_each_members_linear():
    for bias in (True, False):
        l, x = MemberLinear(K, 6, 4, bias), torch.randn(5, 6)
        shared, own = l(x.T[None]), l(torch.cat([x, 2*x, 3*x], 1).T[None])
        for i in range(K):
            b = l.bias[i] if bias else None
            assert close(shared[0].view(K, 4, 5)[i].T, F.linear(x, l.weight[i], b))
            assert close(own[0].view(K, 4, 5)[i].T, F.linear((i+1)*x, l.weight[i], b))
    assert 'members=3, in_features=6, out_features=4' in repr(l)
    with pytest.raises(ValueError, match=r'not \(6, 6\): give x.T\[None\]'): l(torch.randn(6, 6))


# --- masks ----------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize('n_in', [K*4, 4])
@pytest.mark.parametrize('bias', [True, False])
def test_an_activation_in_place_costs_the_backward_pass_no_copies(bias, n_in):
    out = nn.ReLU(inplace=True)(MemberLinear(K, 4, 5, bias)(torch.randn(1, n_in, 7)))
    assert out.shape == (1, K*5, 7)
    steps, todo = [], [out.grad_fn]
    while todo:
        steps.append(node := todo.pop())
        todo += [o for o, _ in node.next_functions if o is not None]
    assert not [o for o in steps if 'CopySlices' in o.name()]


@pytest.mark.parametrize('weight_p', [.5, .77])
def test_each_member_has_a_mask_of_its_own_with_the_exact_count(weight_p):
    for keep in keeps(make(weight_p=weight_p)):
        n = keep[0].numel()
        assert [int((~k).sum()) for k in keep] == [round(weight_p*n)]*K
        for i in range(K): assert all(not torch.equal(keep[i], keep[j]) for j in range(i))


def test_by_column_each_member_drops_exact_pairs():
    keep = keeps(make(unit='feature'))[0]
    by_column = keep.split([3, 2, 1, 1], -1)
    assert all(torch.equal(k.all(-1), k.any(-1)) for k in by_column)
    pairs = torch.stack([k.any(-1) for k in by_column], -1)
    assert [int((~k).sum()) for k in pairs] == [60]*K and not torch.equal(pairs[0], pairs[1])


def test_no_unit_and_no_input_of_a_member_is_left_without_a_weight():
    for keep in keeps(make(weight_p=.85)): assert keep.any(1).all() and keep.any(2).all()


def test_one_seed_draws_the_masks_of_all_members():
    a, b, c = (keeps(make(seed=s)) for s in (5, 5, 6))
    masks = make(seed=5).weight_masks
    assert same(a, b) and not any(torch.equal(x, y) for x, y in zip(a, c))
    assert same(a, keeps(make(seed=5, mask='frozen', weight_p=masks.weight_p, unit=masks.unit)))
    assert same(masks.draw().values(), a) and same(masks.keeps.values(), a)


def test_masks_leave_the_global_generator_as_it_was():
    def after(**kwargs):
        torch.manual_seed(3)
        make(**kwargs)
        return torch.get_rng_state()
    assert torch.equal(after(weight_p=0, seed=None), after(seed=1))
    assert torch.equal(after(weight_p=0, seed=None), after(seed=1, weight_p=[.2, .8], mask='frozen'))
    assert not torch.equal(after(weight_p=0, seed=None), after(seed=None))


def dropped(model): return [[int((~k).sum()) for k in keep] for keep in keeps(model)]


@pytest.mark.parametrize('weight_p, expected', [
    ([.2, .5], [[42]*3, [300]*3]), ((0, .8), [[0]*3, [480]*3]), ({'layers.0': .2, 'layers.1': .5}, [[42]*3, [300]*3]),
    ({'layers.1': .8}, [[0]*3, [480]*3])], ids=str)
@pytest.mark.parametrize('mask', ['trainable', 'frozen'])
def test_a_list_is_by_layer_for_members_too(weight_p, expected, mask):
    assert dropped(make(weight_p=weight_p, mask=mask)) == expected


def test_a_list_reaches_the_net_through_the_learner(dls):
    learn = dropconnect_learner(dls, layers=[40, 20], members=K, weight_p=[.2, .5])
    assert dropped(learn.model)[1] == [400]*3 and list(learn.sparsity()['weight_p']) == [.2, .5, 0]
    config = dropconnect_config(weight_p=[.2, .5], members=K)
    assert dropped(dropconnect_learner(dls, layers=[40, 20], config=config).model)[1] == dropped(learn.model)[1]


@pytest.mark.parametrize('weight_p', [.5, [.2, .8]], ids=str)
def test_kept_weights_are_scaled_by_the_weight_p_of_their_layer(weight_p):
    def made(**kwargs):
        torch.manual_seed(0)
        return [l.weight.detach() for l in hidden(make(**kwargs)).values()]
    dense, masked, raw = made(weight_p=0), made(weight_p=weight_p), made(weight_p=weight_p, rescale=False)
    for l, (d, m, r) in enumerate(zip(dense, masked, raw, strict=True)):
        for i in range(K):
            p, kept = weight_p if isinstance(weight_p, float) else weight_p[l], m[i] != 0
            assert close(m[i][kept], d[i][kept]/(1-p)**.5) and torch.equal(r[i][kept], d[i][kept])


@pytest.mark.parametrize('kwargs, match', [
    (dict(weight_p=[.5]*3), r"weight_p=\[0.5, 0.5, 0.5\] has 3 values for the 2 layers .*: give one each"),
    (dict(weight_p={'layers.0': [.5], 'layers.1': .5}), r"weight_p=\[0.5\] is not the fraction"),
    (dict(weight_p=[.2, 1.]), "weight_p=1.0 is not"), (dict(weight_p=[.2, None]), "weight_p=None"),
    (dict(members=0), "members=0: give a number of nets, 1 or more"), (dict(members=True), "members=True: give"),
    (dict(members=2.5), "members=2.5: give a number of nets"), (dict(members='3'), "members='3': give a number"),
    (dict(average='max'), "average='max' is unknown: choose one of 'mean', 'softmax', 'sigmoid'")], ids=str)
def test_bad_settings(dls, kwargs, match):
    kwargs = {'members': K, **kwargs}
    for door in (lambda: make(**kwargs),
                 lambda: dropconnect_learner(dls, layers=layers, config=dropconnect_config(**kwargs))):
        with pytest.raises(ValueError, match=match): door()
    if 'average' not in kwargs:
        with pytest.raises(ValueError, match=match): dropconnect_learner(dls, layers=layers, **kwargs)


@pytest.mark.parametrize('weight_p', [.5, [.2, .8]], ids=str)
@pytest.mark.parametrize('opt', [partial(torch.optim.SGD, momentum=.9, weight_decay=.1), torch.optim.AdamW])
def test_frozen_members_in_a_bare_pytorch_loop(weight_p, opt):
    model = make(mask='frozen', weight_p=weight_p)
    zeros, loss, before = keeps(model), MemberLoss(nn.MSELoss()), weights(model)
    opt = opt(model.parameters(), lr=1e-2)
    for seed in range(4):
        x, y = batch(seed, 1)
        opt.zero_grad()
        loss(model.train()(*x), y).backward()
        for l, keep in zip(hidden(model).values(), zeros): assert not l.weight.grad[~keep].any()
        opt.step()
    saved = model.state_dict()
    assert all(torch.equal(saved[f'{n}.weight'] != 0, keep) for n, keep in zip(hidden(model), zeros))
    assert all(isinstance(l, FrozenLinear) for l in hidden(model).values()) and same(zeros, keeps(model.eval()))
    assert all((a[k] != b[k]).all() for a, b, k in zip(before, weights(model), zeros))


def test_a_frozen_checkpoint_brings_the_masks_of_all_members():
    ours, other = make(mask='frozen', weight_p=[.2, .8]), make(mask='frozen', weight_p=[.2, .8], seed=2)
    other.load_state_dict(ours.state_dict())
    assert same(keeps(ours), keeps(other)) and same(keeps(ours), other.weight_masks.keeps.values())
    x, y = batch(0, 1)
    MemberLoss(nn.MSELoss())(other.train()(*x), y).backward()
    for l, keep in zip(hidden(other).values(), keeps(ours)): assert not l.weight.grad[~keep].any()


def test_a_dense_checkpoint_does_not_move_the_masks_of_frozen_members():
    ours = make(mask='frozen')
    before = keeps(ours)
    ours.load_state_dict(make(weight_p=0).state_dict())
    assert same(before, keeps(ours))


def around(dls, model, *cbs, loss_func=None, **kwargs):
    return TabularLearner(dls, model, loss_func=loss_func or MemberLoss(MSELossFlat()), cbs=list(cbs), **kwargs)


def for_dls(dls, n_out=1, **kwargs):
    return DropConnectTabularModel(get_emb_sz(dls.train_ds), 2, n_out, layers, members=K, **kwargs)


@pytest.mark.parametrize('kwargs', [
    dict(weight_p=.5), dict(weight_p=[.2, .7]), dict(weight_p={'layers.0': .2, 'layers.1': .5}),
    dict(mask='trainable'), dict(mask='resampled'), dict(unit='feature'), dict(seed=8), dict(layers='layers.0'),
    dict(rescale=False)], ids=str)
def test_a_callback_that_contradicts_the_members_masks(dls, kwargs):
    model, name = for_dls(dls, mask='frozen', weight_p=[.2, .8], seed=7), list(kwargs)[0]
    with pytest.raises(ValueError, match=f"{name}=.* contradicts the masks that the model has.*leave {name} out"):
        around(dls, model, DropConnectCallback(**kwargs))


def test_a_callback_with_values_for_another_number_of_layers(dls):
    with pytest.raises(ValueError, match="has 3 values for the 2 layers"):
        around(dls, for_dls(dls, mask='frozen'), DropConnectCallback(weight_p=[.2, .5, .8]))


@pytest.mark.parametrize('weight_p', [[.2, .8], (.2, .8), {'layers.0': .2, 'layers.1': .8}], ids=str)
def test_a_callback_that_says_what_the_members_are(dls, weight_p):
    model = for_dls(dls, mask='frozen', weight_p=[.2, .8], seed=7)
    cb = DropConnectCallback(weight_p=weight_p, mask='frozen', unit='weight', seed=7, layers=['layers.0', 'layers.1'])
    zeros = keeps(model)
    fit(around(dls, model, cb, lr=1e-2), 2)
    assert same(zeros, keeps(model))


# --- masks that are drawn anew --------------------------------------------------------------------------------------

N, B = 20_000, torch.tensor([[.1, -.2], [.3, 0.], [-.4, 1.]])


@pytest.fixture(params=['shared inputs', 'own inputs'])
def xw(request):
    "Two rows, weights of three members with two neurons, and a function that gives the inputs of `n` copies of the rows"
    gen = torch.Generator().manual_seed(0)
    x, w = torch.randn(2, K, 6, generator=gen), torch.randn(K, 2, 6, generator=gen)
    if request.param == 'shared inputs': x = x[:, :1].expand(-1, K, -1)
    def inputs(n):
        many = x.repeat(n, 1, 1)
        return (many[:, 0].T if request.param == 'shared inputs' else many.permute(1, 2, 0).reshape(K*6, 2*n))[None]
    return x, w, inputs


def each_moment(x, w, p):
    "Moments of each member alone, (rows, members, neurons): Wan et al. 2013, section 3.2"
    means = [F.linear(x[:, i], w[i], B[i]) for i in range(K)]
    return torch.stack(means, 1), torch.stack([F.linear(x[:, i]**2, w[i]**2*p/(1-p)) for i in range(K)], 1)


def rows_first(u, n): return u.reshape(K, 2, n, 2).permute(2, 3, 0, 1)


@pytest.mark.slow
def test_samples_have_the_moments_of_each_member_alone(xw):
    "Within five standard errors"
    x, w, inputs = xw
    mean, var = each_moment(x, w, .3)
    torch.manual_seed(1)
    u = torch.cat([rows_first(dropconnect(inputs(1), w, B, .3), 1) for _ in range(N//4)])
    assert ((u.mean(0)-mean).abs() < 5*(var/len(u)).sqrt()).all()
    se = ((u-mean).pow(4).mean(0) - var**2).div(len(u)).sqrt()
    assert ((u.var(0)-var).abs() < 5*se).all()
    # Members are independent of each other, rows are not
    related = torch.corrcoef(u.reshape(len(u), -1).T).abs().view(2, K, 2, 2, K, 2)
    for i in range(K):
        for j in range(i): assert related[:, i, :, :, j].max() < 5/len(u)**.5
        assert related[0, i, range(2), 1, i, range(2)].max() > 5/len(u)**.5


def test_nothing_dropped_is_the_linear_map(xw):
    _, w, inputs = xw
    for kwargs in (dict(weight_p=0.), dict(weight_p=.5, training=False)):
        assert torch.equal(dropconnect(inputs(4), w, B, **kwargs), linear(inputs(4), w, B))


@pytest.mark.slow
def test_gradients_of_resampled_members(xw):
    "On average those of the linear map"
    _, w, inputs = xw
    def grad(f):
        v = w.clone().requires_grad_()
        f(v).sum().backward()
        return v.grad
    torch.manual_seed(0)
    drawn = torch.stack([grad(lambda v: dropconnect(inputs(1), v, B, .5)) for _ in range(1500)])
    expected = grad(lambda v: linear(inputs(1), v, B))
    assert ((drawn.mean(0)-expected).abs() < 5*drawn.std(0)/1500**.5 + 1e-5).all()


def test_resampled_members_are_dense_at_inference():
    model = make(mask='resampled', weight_p=[.2, .8])
    assert [(type(l), l.weight_p) for l in hidden(model).values()] == [(DropConnectLinear, .2), (DropConnectLinear, .8)]
    x = batch()
    assert not torch.equal(model.train()(*x), model(*x)) and torch.equal(model.eval()(*x), model(*x))
    dense = DropConnectTabularModel(emb_szs, 2, 1, layers, weight_p=0, members=K).eval()
    dense.load_state_dict(model.state_dict())
    assert torch.equal(outputs(model, x), outputs(dense, x))


def test_a_resampled_layer_of_members_and_back():
    lin, x = MemberLinear(K, 6, 4), torch.randn(5, 6).T[None]
    before, layer = lin(x), DropConnectLinear.from_linear(lin, .2, inference='mc')
    assert not torch.equal(layer.eval()(x), before) and 'weight_p=0.2' in repr(layer)
    assert type(layer.to_linear()) is MemberLinear and torch.equal(lin(x), before)
    with pytest.raises(ValueError, match='is not the fraction'): DropConnectLinear.from_linear(lin, [.1, .2, .3])
    assert type(lin) is MemberLinear


def test_a_model_of_resampled_members_trains(dls):
    learn = dropconnect_learner(dls, layers=layers, members=K, mask='resampled', weight_p=[.2, .5])
    before = weights(learn.model)
    assert all((a != b).any((1, 2)).all() for a, b in zip(before, weights(fit(learn).model)))


# --- the loss -------------------------------------------------------------------------------------------------------

w3 = torch.tensor([1., 2., 5.])


class Asymmetric(nn.Module):
    "Knows no reductions"
    def forward(self, pred, targ): return torch.where(pred > targ, pred-targ, 3*(targ-pred)).mean()


def root(pred, targ): return (pred-targ).pow(2).mean().sqrt()
def flat_entropy(pred, targ): return F.cross_entropy(pred, targ.flatten())


losses = {
    'MSELossFlat': (MSELossFlat(), 'numbers'), 'L1LossFlat': (L1LossFlat(), 'numbers'),
    'nn.MSELoss': (nn.MSELoss(), 'numbers'), 'nn.SmoothL1Loss': (nn.SmoothL1Loss(), 'numbers'),
    'F.mse_loss': (F.mse_loss, 'numbers'), 'root of mean': (root, 'numbers'), 'module': (Asymmetric(), 'numbers'),
    'partial': (partial(F.smooth_l1_loss, reduction='sum'), 'numbers'),
    'CrossEntropyLossFlat': (CrossEntropyLossFlat(), 'classes'),
    'CrossEntropyLossFlat, weight': (CrossEntropyLossFlat(weight=w3), 'classes'),
    'CrossEntropyLossFlat, ignore_index': (CrossEntropyLossFlat(ignore_index=1), 'classes'),
    'CrossEntropyLossFlat, axis=1': (CrossEntropyLossFlat(axis=1), 'classes'),
    'CrossEntropyLossFlat, label_smoothing': (CrossEntropyLossFlat(label_smoothing=.2, weight=w3), 'classes'),
    'LabelSmoothingCrossEntropyFlat': (LabelSmoothingCrossEntropyFlat(eps=.2), 'classes'),
    'LabelSmoothingCrossEntropyFlat, weight': (LabelSmoothingCrossEntropyFlat(weight=w3), 'classes'),
    'FocalLossFlat': (FocalLossFlat(gamma=3.), 'classes'),
    'FocalLossFlat, weight': (FocalLossFlat(weight=w3), 'classes'),
    'nn.CrossEntropyLoss': (nn.CrossEntropyLoss(weight=w3), 'flat classes'),
    'F.cross_entropy': (F.cross_entropy, 'flat classes'), 'function': (flat_entropy, 'classes'),
    'nn.NLLLoss': (nn.NLLLoss(), 'flat classes'),
    'BCEWithLogitsLossFlat': (BCEWithLogitsLossFlat(), 'binary'), 'BCELossFlat': (BCELossFlat(), 'probabilities'),
    'BCEWithLogitsLossFlat, pos_weight': (BCEWithLogitsLossFlat(pos_weight=torch.tensor([3.])), 'binary'),
    'nn.BCEWithLogitsLoss': (nn.BCEWithLogitsLoss(), 'binary')}


def loss_case(name):
    "A copy of the loss, outputs of three members, and a target"
    torch.manual_seed(0)
    base, kind = losses[name]
    pred = torch.randn(32, K, dict(numbers=2, classes=3).get(kind.split()[-1], 1))
    if kind == 'probabilities': pred = pred.sigmoid()
    y = torch.randint(3, (32, 1)) if 'classes' in kind else torch.randn(32, 2) if kind == 'numbers' else (
        torch.randint(2, (32, 1)).float())
    return copy.deepcopy(base), pred, y[:, 0] if kind == 'flat classes' else y


def mean_of_members(base, pred, y, **kwargs):
    return torch.stack([base(o, y, **kwargs) for o in pred.unbind(1)]).mean(0)


@pytest.mark.parametrize('name', losses)
def test_the_loss_is_the_mean_of_the_members_losses(name):
    base, pred, y = loss_case(name)
    loss, expected = MemberLoss(base)(pred, y), mean_of_members(base, pred, y)
    assert loss.shape == expected.shape == () and close(loss, expected)
    assert close(MemberLoss(base)(pred.as_subclass(MemberOutputs), y), expected)


class Root(nn.Module):
    "Has a reduction, but is no mean over the rows"
    reduction = 'mean'
    def forward(self, pred, targ): return root(pred, targ)


def test_the_loss_of_members_of_unlike_errors():
    pred, y = torch.randn(32, K, 1)*torch.tensor([1., 5., 25.])[:, None], torch.randn(32, 1)
    for base in (root, Root()): assert close(MemberLoss(base)(pred, y), mean_of_members(base, pred, y))


@pytest.mark.parametrize('name', losses)
def test_the_loss_has_the_members_gradients(name):
    base, pred, y = loss_case(name)
    grads = []
    for f in (MemberLoss(base), partial(mean_of_members, base)):
        p = pred.clone().requires_grad_()
        f(p, y).backward()
        grads.append(p.grad)
    assert close(*grads) and grads[0].abs().amax((0, 2)).min() > 0


@pytest.mark.parametrize('reduction', ['none', 'sum', 'mean'])
@pytest.mark.parametrize('name', [k for k, v in losses.items() if hasattr(v[0], 'reduction')])
def test_reductions(name, reduction):
    base, pred, y = loss_case(name)
    loss = MemberLoss(base)
    loss.reduction = reduction
    assert base.reduction == loss.reduction == reduction
    found, expected = loss(pred, y), mean_of_members(base, pred, y)
    assert found.shape == expected.shape and close(found, expected, 1e-4)
    assert (found.ndim > 0) == (reduction == 'none')


@pytest.mark.parametrize('reduction', ['none', 'sum', 'mean'])
@pytest.mark.parametrize('name', ['F.mse_loss', 'F.cross_entropy'])
def test_reductions_that_are_asked_for_in_the_call(name, reduction):
    base, pred, y = loss_case(name)
    found, expected = (f(pred, y, reduction=reduction) for f in (MemberLoss(base), partial(mean_of_members, base)))
    assert found.shape == expected.shape and close(found, expected, 1e-4)


@pytest.mark.parametrize('name', losses)
def test_one_answer_a_row_goes_through_as_it_is(name):
    base, pred, y = loss_case(name)
    assert torch.equal(MemberLoss(base)(pred[:, 0], y), base(pred[:, 0], y))


@pytest.mark.parametrize('name', losses)
def test_activation_and_decodes_are_those_of_a_single_net(name):
    base, x = losses[name][0], torch.randn(4, 3)
    for f in ('activation', 'decodes'):
        expected = getattr(base, f)(x) if hasattr(base, f) else x
        assert torch.equal(torch.as_tensor(getattr(MemberLoss(base), f)(x)), torch.as_tensor(expected))


def test_other_attributes_are_those_of_the_loss_inside():
    loss = MemberLoss(CrossEntropyLossFlat(weight=w3))
    assert loss.y_int is True and loss.func is loss.base.func and 'MemberLoss(FlattenedLoss of' in repr(loss)
    assert not hasattr(MemberLoss(root), 'reduction') and not hasattr(loss, 'nothing')


def test_the_loss_moves_with_its_weights():
    loss = MemberLoss(CrossEntropyLossFlat(weight=w3))
    loss.to('meta')
    assert loss.func.weight.device.type == 'meta'
    MemberLoss(root).to('meta')


@pytest.mark.parametrize('name', losses)
@pytest.mark.parametrize('again', [copy.deepcopy, lambda o: pickle.loads(pickle.dumps(o))], ids=['deepcopy', 'pickle'])
def test_copies_of_the_loss(name, again):
    base, pred, y = loss_case(name)
    loss = MemberLoss(base)
    other = again(loss)
    assert type(other) is MemberLoss and torch.equal(other(pred, y), loss(pred, y))
    if hasattr(base, 'reduction'):
        other.reduction = 'sum'
        assert loss.reduction == 'mean'


# --- a loss that does not know of members ---------------------------------------------------------------------------

bare_numbers = {
    'none given': None, 'MSELossFlat': MSELossFlat(), 'L1LossFlat': L1LossFlat(), 'nn.MSELoss': nn.MSELoss(),
    'nn.HuberLoss': nn.HuberLoss(), 'F.mse_loss': F.mse_loss, 'F.l1_loss': F.l1_loss, 'root of mean': root,
    'by keyword': lambda p, t: F.mse_loss(input=p, target=t), 'target first': lambda p, t: (t-p).abs().mean(),
    'flattened': lambda p, t: (p.flatten()-t.flatten()).pow(2).mean(),
    'squeezed': lambda p, t: F.mse_loss(p.squeeze(-1), t.squeeze(-1))}
bare_classes = {
    'none given': None, 'CrossEntropyLossFlat': CrossEntropyLossFlat(), 'FocalLossFlat': FocalLossFlat(),
    'LabelSmoothingCrossEntropyFlat': LabelSmoothingCrossEntropyFlat(), 'F.cross_entropy': flat_entropy,
    'by hand': lambda p, t: -p.log_softmax(-1).gather(1, t).mean()}


@pytest.mark.slow
@pytest.mark.parametrize('y, name', [('price', o) for o in bare_numbers] + [('band', o) for o in bare_classes])
def test_a_loss_that_does_not_know_of_members_is_an_error_in_training(y, name, tmp_path):
    dls, loss = make_dls(y, path=tmp_path), (bare_numbers if y == 'price' else bare_classes)[name]
    learn = TabularLearner(dls, for_dls(dls, dls.c if y == 'band' else 1), loss_func=loss)
    before = weights(learn.model)
    with pytest.raises(ValueError, match="in training: put MemberLoss around the loss, as in"): fit(learn)
    assert same(before, weights(learn.model))


def test_as_many_rows_as_members(dls):
    "Where shapes alone would not tell"
    dls = make_dls(bs=K, path=dls.path)
    learn = TabularLearner(dls, for_dls(dls), loss_func=lambda p, t: F.mse_loss(p.squeeze(), t.squeeze()))
    with pytest.raises(ValueError, match="put MemberLoss around the loss"): fit(learn)


def test_after_training_any_loss_will_do(dls):
    learn = TabularLearner(dls, for_dls(dls))
    preds, targs, each = learn.get_preds(with_loss=True)
    assert torch.allclose(each.flatten(), (preds-targs).square().flatten())
    assert learn.validate()[0] == pytest.approx(float(each.mean()), rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize('name', ['MSELossFlat', 'L1LossFlat', 'nn.MSELoss', 'F.mse_loss', 'root of mean', 'squeezed'])
def test_around_a_loss_members_train(dls, name):
    learn = around(dls, for_dls(dls, seed=1), loss_func=MemberLoss(bare_numbers[name]))
    preds, targs = fit(learn, 20, lr=1e-2).get_preds()
    assert (preds-targs).square().mean().sqrt() < .7*targs.std()


# --- the average ----------------------------------------------------------------------------------------------------

def test_averages():
    x = torch.randn(16, K, 4)
    assert close(average_members(x), x.mean(1)) and close(average_members(x, 'mean'), x.mean(1))
    log_p = average_members(x, 'softmax')
    assert close(log_p.exp(), x.softmax(-1).mean(1)) and close(log_p.softmax(-1), x.softmax(-1).mean(1))
    assert close(average_members(x, 'sigmoid').sigmoid(), x.sigmoid().mean(1))
    with pytest.raises(ValueError, match="average='median' is unknown: choose one of"): average_members(x, 'median')


@pytest.mark.parametrize('average', ['softmax', 'sigmoid'])
def test_averages_of_sure_members_are_numbers(average):
    x = torch.tensor([[[200., -200.], [200., -200.]], [[200., -200.], [-200., 200.]]], requires_grad=True)
    one = average_members(x, average)
    one.sum().backward()
    assert one.isfinite().all() and x.grad.isfinite().all()
    assert one[0, 0] > one[0, 1] and close(one[1, 0], one[1, 1])


class Tanh(nn.MSELoss):
    def activation(self, x): return x.tanh()


@pytest.mark.parametrize('loss, average', [
    *((losses[k][0], 'mean') for k, v in losses.items() if v[1] in ('numbers', 'probabilities')),
    *((losses[k][0], 'softmax') for k, v in losses.items() if v[1] == 'classes' and k != 'function'),
    (nn.CrossEntropyLoss(), 'softmax'), (BCEWithLogitsLossFlat(), 'sigmoid'), (nn.BCEWithLogitsLoss(), 'sigmoid'),
    (partial(F.cross_entropy, label_smoothing=.1), 'softmax'),
    (partial(F.binary_cross_entropy_with_logits, pos_weight=torch.ones(1)), 'sigmoid')],
    ids=lambda o: o if isinstance(o, str) else type(o).__name__)
def test_the_average_that_goes_with_a_loss(loss, average): assert average_for(loss) == average


def test_an_average_that_nobody_knows():
    with pytest.raises(ValueError, match=r"Tanh\(\) has an activation that is neither.*average='mean', 'softmax' or"):
        average_for(Tanh())


@pytest.mark.parametrize('y, loss, average', [
    ('price', None, 'mean'), ('band', None, 'softmax'), ('price', L1LossFlat(), 'mean'),
    ('band', LabelSmoothingCrossEntropyFlat(), 'softmax'), ('cheap', BCEWithLogitsLossFlat(), 'sigmoid'),
    ('band', MemberLoss(FocalLossFlat()), 'softmax')], ids=str)
def test_the_learner_chooses_the_average_and_the_loss(y, loss, average, tmp_path):
    learn = dropconnect_learner(make_dls(y, path=tmp_path), members=K, loss_func=loss)
    assert learn.model.average == average and type(learn.loss_func) is MemberLoss
    assert not isinstance(learn.loss_func.base, MemberLoss)
    if loss: assert learn.loss_func.base is getattr(loss, 'base', loss)


def test_an_average_in_the_config_wins(tmp_path):
    dls = make_dls('band', path=tmp_path)
    config = dropconnect_config(average='mean')
    assert dropconnect_learner(dls, members=K, config=config).model.average == 'mean' and config == {'average': 'mean'}
    dls = make_dls(path=tmp_path)
    with pytest.raises(ValueError, match='choose how members are averaged'):
        dropconnect_learner(dls, members=K, loss_func=Tanh())
    assert dropconnect_learner(dls, members=K, loss_func=Tanh(), config=config).model.average == 'mean'


def test_a_learner_without_a_loss(dls, monkeypatch):
    monkeypatch.setattr(type(dls.train_ds), 'loss_func', None, raising=False)
    with pytest.raises(ValueError, match="the data does not determine a loss: pass `loss_func`"):
        dropconnect_learner(dls, members=K)


# --- in a learner ---------------------------------------------------------------------------------------------------

kinds = {'price': dict(metrics=rmse), 'costs': dict(metrics=rmse), 'band': dict(metrics=accuracy),
         'cheap': dict(metrics=[accuracy, RocAucBinary()]),
         'logit': dict(n_out=1, loss_func=BCEWithLogitsLossFlat()),
         'weights': dict(metrics=accuracy, loss_func=CrossEntropyLossFlat(weight=w3)),
         'resampled': dict(mask='resampled'), 'frozen': dict(mask='frozen', weight_p=[.2, .8])}
columns = dict(costs=['price', 'cost'], band='band', cheap='cheap', logit='cheap', weights='band')
classes = [k for k, y in columns.items() if y in ('band', 'cheap')]


@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    "A function that gives the trained learner of a kind, always the same one"
    made = {}
    def learner(kind):
        if kind not in made:
            set_seed(0)
            dls = make_dls(columns.get(kind, 'price'), path=tmp_path_factory.mktemp(kind))
            made[kind] = fit(dropconnect_learner(dls, layers=layers, members=K, **copy.deepcopy(kinds[kind])), lr=1e-2)
        return made[kind]
    return learner


def by_hand(learn, ds_idx=1):
    "Answers of each member alone, (rows, members, outputs), and targets"
    dl, ones = learn.dls[ds_idx].new(shuffle=False, drop_last=False), [learn.model.member(i).eval() for i in range(K)]
    with torch.no_grad(): res = [(torch.stack([o(*b[:2]) for o in ones], 1), b[2]) for b in dl]
    return [torch.cat(o) for o in zip(*res)]


def quietly(learn, f, **kwargs):
    with learn.no_bar(), learn.no_logging(): return getattr(learn, f)(**kwargs)


activations = dict.fromkeys(classes, partial(torch.softmax, dim=-1)) | {'logit': torch.sigmoid}


@pytest.mark.slow
@pytest.mark.parametrize('ds_idx', [0, 1])
@pytest.mark.parametrize('kind', kinds)
def test_predictions_are_the_average_of_the_members_in_the_order_of_the_rows(trained, kind, ds_idx):
    learn = trained(kind)
    expected, y = by_hand(learn, ds_idx)
    expected = activations.get(kind, lambda o: o)(expected)
    preds, targs = quietly(learn, 'get_preds', ds_idx=ds_idx)
    assert close(preds, expected.mean(1)) and torch.equal(targs, y)
    assert close(quietly(learn, 'member_preds', ds_idx=ds_idx), expected)
    assert len(preds) == (320, 80)[ds_idx]


@pytest.mark.parametrize('kind', kinds)
def test_losses_and_metrics_are_those_of_the_average(trained, kind):
    learn = trained(kind)
    loss, *metrics = quietly(learn, 'validate')
    apart, y = by_hand(learn)
    one = average_members(apart, learn.model.average)
    assert loss == pytest.approx(float(learn.loss_func.base(one, y)), rel=1e-4) or kind == 'weights'
    if kind in ('price', 'costs'): assert metrics == [pytest.approx(float((one-y).square().mean().sqrt()), rel=1e-4)]
    if kind in ('band', 'cheap'): assert metrics[0] == pytest.approx(float((one.argmax(1) == y[:, 0]).float().mean()))
    if kind == 'cheap':
        p, y = one.softmax(1)[:, 1], y[:, 0].bool()
        higher = (p[y][:, None] > p[~y]).float().mean()  # area under the curve: share of pairs in the right order
        assert metrics[1] == pytest.approx(float(higher), abs=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize('kind', kinds)
def test_losses_and_decoded_predictions_of_each_row(trained, kind):
    learn = trained(kind)
    preds, targs, decoded, each = quietly(learn, 'get_preds', with_loss=True, with_decoded=True)
    apart, y = by_hand(learn)
    base = copy.deepcopy(learn.loss_func.base)
    base.reduction = 'none'
    assert close(each, base(average_members(apart, learn.model.average), y).view(80, -1).mean(1), 1e-4)
    assert learn.loss_func.reduction == 'mean'
    if kind == 'logit': assert torch.equal(decoded, preds > .5)
    elif kind in classes: assert torch.equal(decoded, preds.argmax(1))
    else: assert torch.equal(decoded, preds)


@pytest.mark.parametrize('kind', kinds)
def test_predict_is_the_prediction_of_a_row(trained, kind):
    learn = trained(kind)
    row = make_df().iloc[320][learn.dls.x_names.items]
    with learn.no_bar(), warnings.catch_warnings():
        warnings.simplefilter('ignore')
        _, _, pred = learn.predict(row)
    assert close(pred, quietly(learn, 'get_preds')[0][0])


@pytest.mark.parametrize('kind', ['price', 'costs', 'band', 'cheap'])
def test_show_results(trained, kind, monkeypatch):
    learn, shown = trained(kind), []
    monkeypatch.setattr('fastai.tabular.learner.display_df', shown.append)
    preds = quietly(learn, 'get_preds')[0][:9]
    quietly(learn, 'show_results', shuffle=False)
    for i, name in enumerate(learn.dls.y_names):
        expected = preds.argmax(1) if kind in classes else preds[:, i]
        assert shown[0][f'{name}_pred'].tolist() == pytest.approx(expected.tolist(), rel=1e-4)


@pytest.mark.parametrize('kind', ['band', 'cheap'])
def test_interpretation(trained, kind):
    learn = trained(kind)
    with learn.no_bar(): interp = ClassificationInterpretation.from_learner(learn)
    preds, targs, _, each = quietly(learn, 'get_preds', with_loss=True, with_decoded=True)
    pairs = list(zip(targs[:, 0].tolist(), preds.argmax(1).tolist()))
    with learn.no_bar(): found = interp.confusion_matrix()
    n = len(learn.dls.vocab)
    assert found.tolist() == [[pairs.count((i, j)) for j in range(n)] for i in range(n)]
    assert torch.allclose(interp.top_losses(5)[0], each.sort(descending=True).values[:5])


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['price', 'band', 'frozen', 'resampled'])
def test_export_and_load(trained, kind):
    learn = trained(kind)
    before = quietly(learn, 'member_preds')
    learn.export('e.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        again = load_learner(learn.path/'e.pkl')
    again.dls = learn.dls
    assert type(again.loss_func) is MemberLoss and close(quietly(again, 'member_preds'), before, 1e-6)
    zeros = keeps(again.model)
    fit(again)
    if kind == 'frozen': assert same(zeros, keeps(again.model))


def test_summary_counts_all_members(dls):
    learn = dropconnect_learner(dls, layers=layers, members=K)
    text = str(learn.summary())
    assert f"Total params: {sum(p.numel() for p in learn.model.parameters()):,}" in text and 'MemberLinear' in text


def test_sparsity_has_the_shapes_of_all_members(dls):
    learn = dropconnect_learner(dls, layers=[40, 20], members=K, weight_p=[.2, .5])
    df, n_in = learn.sparsity(), learn.model.layers[0][0].in_features
    assert list(df['shape']) == [(K, 40, n_in), (K, 20, 40), (K, 1, 20)]
    assert list(df['zeros']) == [K*round(.2*40*n_in), 1200, 0] and df['zero fraction'][1] == .5


def test_activation_stats(dls):
    learn = dropconnect_learner(dls, layers=layers, members=K)
    fit(learn, cbs=(stats := ActivationStats(modules=list(hidden(learn.model).values()))))
    assert len(stats.stats) == 5 and all(math.isfinite(o['std']) and o['std'] > 0 for b in stats.stats for o in b)


def test_metrics_of_training(dls):
    learn = dropconnect_learner(dls, layers=layers, members=K, metrics=rmse)
    learn.recorder.train_metrics = True
    assert len(fit(learn).recorder.values[0]) == 4


# --- what each member says ------------------------------------------------------------------------------------------

def test_member_preds_of_new_rows(trained):
    learn = trained('band')
    dl = learn.dls.test_dl(make_df().iloc[[325, 322, 329]].drop(columns='band'))
    preds = quietly(learn, 'member_preds', dl=dl)
    assert preds.shape == (3, K, 3) and close(preds.sum(-1), torch.ones(3, K))
    assert close(preds, quietly(learn, 'member_preds')[[5, 2, 9]])


def test_member_preds_of_a_loss_over_another_axis(tmp_path):
    learn = dropconnect_learner(make_dls('band', path=tmp_path), members=K, loss_func=CrossEntropyLossFlat(axis=1))
    preds = quietly(learn, 'member_preds')
    assert close(preds.sum(-1), torch.ones(80, K)) and close(preds.mean(1), quietly(learn, 'get_preds')[0])


def test_member_preds_with_a_loss_that_does_not_know_of_members(trained):
    learn = trained('price')
    other = TabularLearner(learn.dls, learn.model, loss_func=MSELossFlat())
    assert close(quietly(other, 'member_preds'), quietly(learn, 'member_preds'))


def test_one_net_has_no_member_to_take_out(dls):
    with pytest.raises(ValueError, match='without members to extract'): dropconnect_learner(dls, members=1).model.member(0)


def test_member_preds_of_one_net(dls):
    for learn in (dropconnect_learner(dls, members=1), tabular_learner(dls)):
        with pytest.raises(ValueError, match='the model is a single network, without members: make it with members=8'):
            learn.member_preds()


def test_the_average_comes_back(trained):
    learn = trained('price')
    before = quietly(learn, 'get_preds')[0]
    quietly(learn, 'member_preds')
    with pytest.raises(RuntimeError, match='broken'):
        with no_average(learn.model): raise RuntimeError('broken')
    assert learn.model.average == 'mean' and torch.equal(quietly(learn, 'get_preds')[0], before)
    with no_average(learn.model):
        with no_average(learn.model): pass
        assert learn.model.average is False


@pytest.mark.parametrize('kind', ['price', 'costs', 'frozen'])
def test_the_spread_of_members(trained, kind):
    learn = trained(kind)
    mean, std, targs = quietly(learn, 'get_preds_dist')
    each = quietly(learn, 'member_preds')
    assert close(mean, each.mean(1)) and close(std, each.std(1)) and close(mean, quietly(learn, 'get_preds')[0])
    assert torch.equal(targs, by_hand(learn)[1])
    covered = interval_coverage(mean, std, targs, .9, calibrate_spread(mean, std, targs, .9)*(1+1e-5))
    n = targs.numel()
    assert round(covered*n) == math.ceil(.9*(n+1))
    low, high = pred_intervals(mean, std, .9)
    assert (low < mean).all() and (mean < high).all()


@pytest.mark.parametrize('kind', ['band', 'cheap', 'logit'])
def test_the_entropies_of_members(trained, kind):
    learn = trained(kind)
    probs, entropy, info, _ = quietly(learn, 'get_preds_dist')
    each = quietly(learn, 'member_preds')
    assert close(probs, each.mean(1)) and close(probs, quietly(learn, 'get_preds')[0])
    if kind == 'logit': each = torch.cat([1-each, each], -1)
    def of(p): return -(p*p.log()).sum(-1)
    assert close(entropy, of(each.mean(1))) and close(info, of(each.mean(1))-of(each).mean(1))
    assert (info >= 0).all() and info.max() > 0


@pytest.mark.parametrize('ds_idx', [0, 1])
def test_the_spread_is_in_the_order_of_the_rows(trained, ds_idx):
    learn = trained('price')
    res = quietly(learn, 'get_preds_dist', ds_idx=ds_idx)
    preds, targs = quietly(learn, 'get_preds', ds_idx=ds_idx)
    assert close(res.mean, preds) and torch.equal(res.targs, targs)


@pytest.mark.parametrize('kwargs', [dict(n=5), dict(seed=3), dict(n=5, seed=3), dict(n=1), dict(seed=0)], ids=str)
def test_there_is_nothing_to_draw_for_members_with_one_answer_each(trained, kwargs):
    given = ', '.join(f'{k}={kwargs.get(k)}' for k in ('n', 'seed'))
    with pytest.raises(ValueError, match=f"{given}: the masks are not resampled.*Leave both out"):
        trained('price').get_preds_dist(**kwargs)


@pytest.mark.parametrize('n', [1, 4])
def test_resampled_members_answer_n_times_each(trained, n):
    learn = trained('resampled')
    ours, ls = quietly(learn, 'get_preds_dist', n=n, seed=3), list(hidden(learn.model).values())
    learn.model.eval()
    for l in ls: l.inference = 'mc'
    torch.manual_seed(3)
    several = torch.cat([torch.cat([outputs(learn.model, b[:2]) for _ in range(n)], 1) for b in learn.dls.valid])
    for l in ls: l.inference = 'mean'
    assert several.shape == (80, n*K, 1) and close(ours.mean, several.mean(1)) and close(ours.std, several.std(1))


def test_seeds_of_resampled_members(trained):
    learn = trained('resampled')
    state = torch.get_rng_state()
    a, b, c = (quietly(learn, 'get_preds_dist', n=2, seed=s).mean for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c) and torch.equal(torch.get_rng_state(), state)
    assert not torch.equal(quietly(learn, 'get_preds_dist').mean, quietly(learn, 'get_preds_dist').mean)
    assert {l.inference for l in hidden(learn.model).values()} == {'mean'} and learn.model.average == 'mean'

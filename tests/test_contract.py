"The contract of the three doors: what a mask does, and what never happens to it."
import ast
import copy
import inspect
import re
import warnings
from functools import partial

import pytest
import torch
from fastai.callback.training import GradientClip
from fastai.tabular.all import (Callback, Learner, OptimWrapper, SGD, TabularLearner, get_emb_sz, rmse, set_seed,
                                tabular_config, tabular_learner)
from fastcore.docments import docments
from habits import optimizers
from helpers import hidden, make_dls, plain_learner, wide_cats
from torch import nn

from dropconnect_tab.all import *
from dropconnect_tab.embeddings import ContScale
from dropconnect_tab.layers import FrozenLinear
from dropconnect_tab.learner import only_masks
from dropconnect_tab.masks import few_inputs, find_linears
from dropconnect_tab.optimizer import FusedAdam

layers = [30, 20]


def weights(model): return [l.weight.detach().clone() for l in find_linears(model).values()]
def same(a, b): return all(torch.equal(x, y) for x, y in zip(a, b))
def keeps(model): return [l.weight != 0 for l in hidden(model).values()]


def fit(learn, *args, f='fit', **kwargs):
    with learn.no_bar(), learn.no_logging(): getattr(learn, f)(*args, **kwargs)
    return learn


def plain(dls, *cbs, **kwargs): return tabular_learner(dls, layers=layers, cbs=list(cbs), **kwargs)


def through_model(dls, mask='frozen', weight_p=.5, seed=7, **kwargs):
    return plain_learner(dls, layers=layers, mask=mask, weight_p=weight_p, seed=seed, **kwargs)


def through_callback(dls, mask='frozen', weight_p=.5, seed=7, **kwargs):
    return plain(dls, DropConnectCallback(weight_p=weight_p, mask=mask, seed=seed), **kwargs)


doors = pytest.mark.parametrize('door', [through_model, through_callback])
kinds = pytest.mark.parametrize('mask', ['trainable', 'frozen'])


# 1. Checkpoints are plain

@kinds
@doors
def test_state_dict_keys_are_fastais(dls, door, mask):
    learn = fit(door(dls, mask), 1)
    assert list(learn.model.state_dict()) == list(plain(dls).model.state_dict())


@kinds
def test_state_dict_round_trip_with_a_plain_model(dls, mask):
    ours, theirs = through_model(dls, mask).model, plain(dls).model
    theirs.load_state_dict(ours.state_dict())
    assert same(weights(ours), weights(theirs))
    other = through_model(dls, mask, seed=8).model
    other.load_state_dict(theirs.state_dict())
    assert same(weights(ours), weights(other))
    if mask == 'frozen':  # the mask came along with the zeros
        assert same(keeps(ours), [l.keep for l in other.weight_masks.linears.values()])


def test_a_dense_checkpoint_does_not_move_a_frozen_mask(dls):
    ours, theirs = through_model(dls).model, plain(dls).model
    before = keeps(ours)
    ours.load_state_dict(theirs.state_dict())
    assert same(before, keeps(ours))
    assert same([w[k] for w, k in zip(weights(ours), before)], [w[k] for w, k in zip(weights(theirs), before)])


# 2. A mask starts once

class Recorded(Callback):
    "Counts the exact zeros at each event of interest"
    def __init__(self): self.zeros = {}
    def before_batch(self):
        if self.training:
            weight = find_linears(self.model)['layers.0.0'].weight
            self.zeros.setdefault(self.epoch, int((weight == 0).sum()))


def test_naive_events_move_no_mask(dls):
    learn = plain(dls, DropConnectCallback(seed=1))
    before = weights(learn.model)
    with learn.no_bar():
        learn.validate()
        learn.get_preds()
        learn.summary()
        learn.lr_find(show_plot=False, num_it=10)
    assert same(before, weights(learn.model))
    assert not hasattr(learn.model, 'weight_masks')


@kinds
def test_lr_find_searches_on_the_masked_net_that_training_starts_with(dls, mask):
    seen = {}
    class Spy(Callback):
        order = 100
        def before_batch(self):
            if self.training and self.train_iter == 0: seen[hasattr(self.learn, 'lr_finder')] = keeps(self.model)
    learn = plain(dls, DropConnectCallback(.5, mask), Spy())
    with learn.no_bar(): learn.lr_find(show_plot=False, num_it=10)
    fit(learn, 1)
    assert same(seen[True], seen[False])
    assert [int((~k).sum()) for k in seen[True]] == [int(k.numel()/2) for k in seen[True]]


def test_a_mask_starts_with_the_first_training_batch(dls):
    learn = plain(dls, cb := Recorded(), DropConnectCallback(.5, seed=1))
    fit(learn, 2)
    n = find_linears(learn.model)['layers.0.0'].weight.numel()
    assert cb.zeros[0] == n//2 and cb.zeros[1] < n//20


def test_callback_for_one_fit_leaves_a_frozen_net_behind(dls):
    learn = fit(plain(dls), 1, cbs=DropConnectCallback(mask='frozen'))
    zeros = keeps(learn.model)
    fit(learn, 2)
    assert same(zeros, keeps(learn.model))
    assert sum(int((~k).sum()) for k in zeros) > 0


# 3. Resuming is not starting

def test_resuming_frozen_needs_zeros(dls):
    learn = plain(dls, DropConnectCallback(mask='frozen', start=False))
    with pytest.raises(ValueError, match="no frozen mask to resume with"): fit(learn, 1)
    with pytest.raises(ValueError, match="no frozen mask to resume with"):
        fit(plain(dls, DropConnectCallback(mask='frozen')), 3, start_epoch=1)


def test_fresh_frozen_learner_finds_the_zeros_of_a_checkpoint(dls):
    learn = fit(through_callback(dls), 1)
    learn.save('m')
    zeros = keeps(learn.model)
    again = through_callback(dls, seed=8)
    again.load('m')
    fit(again, 1)
    assert same(zeros, keeps(again.model))


# 4. Frozen is exact

class Muonlike(torch.optim.Optimizer):
    "Mixes the entries of each matrix, as orthogonalised updates do"
    def __init__(self, params, lr): super().__init__(params, dict(lr=lr))
    @torch.no_grad()
    def step(self):
        for g in self.param_groups:
            for p in g['params']:
                if p.grad is not None: p.sub_(p.grad + p.grad.mean() + 1e-3, alpha=g['lr'])


class Exact(Callback):
    "After every step the dropped weights are +0.0, bit for bit, and gradients that clipping sees are live"
    order = 100
    def __init__(self): self.steps = 0
    def masks(self):
        masks = self.learn.model.weight_masks
        return zip(masks.linears.values(), masks.keeps.values())
    def before_step(self): assert all(not l.weight.grad[~k].any() for l, k in self.masks())
    def after_step(self):
        self.steps += 1
        for l, k in self.masks(): assert not l.weight.view(torch.int32)[~k].any()


@pytest.mark.slow
@pytest.mark.parametrize('opt', [*optimizers, 'mixing'])
def test_frozen_zeros_are_exact_over_an_old_state(dls, opt):
    "After an epoch without a mask; from the start they are in the lifecycle matrix"
    mixing = partial(OptimWrapper, opt=Muonlike)
    learn = fit(plain(dls, opt_func=optimizers.get(opt, mixing), lr=1e-2), 1)
    fit(learn, 2, cbs=[DropConnectCallback(mask='frozen', seed=1), exact := Exact()])
    assert exact.steps == 10
    assert [int((~k).sum()) for k in keeps(learn.model)] == [k.numel()//2 for k in keeps(learn.model)]


@pytest.mark.parametrize('opt', [partial(torch.optim.SGD, momentum=.9, weight_decay=.1), torch.optim.AdamW, Muonlike])
def test_frozen_model_in_a_bare_pytorch_loop(dls, opt):
    model = through_model(dls).model
    zeros = keeps(model)
    opt = opt(model.parameters(), lr=1e-2)
    for _ in range(2):
        model.train()
        for xcat, xcont, y in dls.train:
            nn.functional.mse_loss(model(xcat, xcont), y.float()).backward()
            opt.step()
            opt.zero_grad()
        model.eval()
        assert same(zeros, keeps(model))
    saved = [v for n, v in model.state_dict().items() if n.endswith('.0.weight')]
    assert all(torch.equal(v != 0, k) for v, k in zip(saved, zeros) if v.shape == k.shape)


def test_clipping_sees_live_gradients_only(dls):
    def norm_at_clipping(mask):
        norms = []
        class Norm(Callback):
            order = GradientClip.order
            def before_step(self):
                w = [l.weight for l in list(find_linears(self.model).values())[:-1]]
                norms.append([bool(p.grad[p == 0].any()) for p in w])
        fit(through_callback(dls, mask), 1, cbs=[GradientClip(1.), Norm()])
        return norms[0]
    assert norm_at_clipping('trainable') == [True, True]
    assert norm_at_clipping('frozen') == [False, False]


def test_same_seed_same_mask_through_every_door(dls):
    masks = [through_model(dls, 'frozen').model, through_model(dls, 'trainable').model,
             fit(through_callback(dls, 'frozen'), 1).model]
    assert same(keeps(masks[0]), keeps(masks[1]))
    assert same(keeps(masks[0]), keeps(masks[2]))
    assert not same(keeps(masks[0]), keeps(through_model(dls, seed=8).model))


def test_a_mask_leaves_the_global_rng_as_it_was(dls):
    def after(build):
        set_seed(3)
        build()
        return torch.get_rng_state()
    assert torch.equal(after(lambda: plain(dls)), after(lambda: through_model(dls, seed=1)))
    assert not torch.equal(after(lambda: plain(dls)), after(lambda: through_model(dls, seed=None)))
    assert torch.equal(after(lambda: plain(dls)), after(lambda: through_model(dls, weight_p=0, seed=None)))


# 6, 7. Counts and scale are tested with the masks; here: what reaches the net

@doors
def test_counts_and_scale_reach_the_net(dls, door):
    learn = fit(door(dls, 'frozen', weight_p=.8, opt_func=partial(SGD), lr=1e-30), 1)
    set_seed(0)
    for l, keep in zip(hidden(learn.model).values(), keeps(learn.model)):
        assert int((~keep).sum()) == round(.8*keep.numel())
        var = torch.tensor(1/(3*l.in_features))  # kaiming_uniform of nn.Linear
        assert torch.isclose(l.weight.var(correction=0), var, rtol=.25)


# 8. Nothing is silent

@pytest.mark.parametrize('kwargs, match', [
    (dict(weight_p=-0.1), "weight_p=-0.1 is not the fraction"),
    (dict(weight_p=1.0), "weight_p=1.0 is not the fraction"),
    (dict(weight_p='half'), "weight_p='half' is not the fraction"),
    (dict(mask='frosen'), "mask='frosen' is unknown: choose one of"),
    (dict(mask='resampled', unit='feature'), "unit='feature' does not go with mask='resampled'"),
    (dict(mask='resampled', seed=1), "seed=1 does not go with mask='resampled'"),
    (dict(unit='column'), "unit='column' is unknown: choose one of 'weight', 'feature'"),
    (dict(weight_p=[.5]), "1 values for the 2 layers"), (dict(weight_p={'layers.9': .5}), "'layers.9'")])
def test_bad_settings_in_every_door(dls, kwargs, match):
    model = plain(dls).model
    emb_szs = get_emb_sz(dls.train_ds)
    for door in (lambda: plain_learner(dls, layers=layers, **kwargs),
                 lambda: plain_learner(dls, layers=layers, config=dropconnect_config(**kwargs)),
                 lambda: DropConnectTabularModel(emb_szs, 2, 1, layers, **kwargs),
                 lambda: TabularLearner(dls, model, cbs=DropConnectCallback(**kwargs))):
        with pytest.raises(ValueError, match=match): door()
    assert all(k.all() for k in keeps(model))


def test_a_learner_without_a_linear(dls):
    model = nn.Sequential(nn.ReLU(), nn.BatchNorm1d(2))
    with pytest.raises(ValueError, match="no nn.Linear with a weight of its own"):
        Learner(dls, model, loss_func=nn.MSELoss(), cbs=DropConnectCallback())
    with pytest.raises(ValueError, match="the only nn.Linear, 'layers.0.0', is the output layer"):
        tabular_learner(dls, config=dict(), layers=[], cbs=DropConnectCallback())


@pytest.mark.parametrize('kwargs', [dict(weight_p=.8), dict(mask='trainable'), dict(unit='feature'), dict(seed=8),
                                    dict(layers='layers.0'), dict(rescale=False)])
def test_contradictions(dls, kwargs):
    model = through_model(dls).model
    name = list(kwargs)[0]
    with pytest.raises(ValueError, match=f"{name}=.* contradicts the masks that the model has.*leave {name} out"):
        TabularLearner(dls, model, cbs=DropConnectCallback(**kwargs))
    TabularLearner(dls, model, cbs=DropConnectCallback(weight_p=.5, mask='frozen', unit='weight', seed=7,
                                                       layers=['layers.0', 'layers.1']))


def test_rescale_is_the_models_own_unless_the_callback_says_otherwise(dls):
    model = plain_learner(dls, rescale=False).model
    TabularLearner(dls, model, cbs=DropConnectCallback())
    with pytest.raises(ValueError, match="rescale=True contradicts the masks that the model has, with rescale=False"):
        TabularLearner(dls, model, cbs=DropConnectCallback(rescale=True))


# 9. Nearly free

def test_trainable_learner_has_no_callback(dls):
    assert not through_model(dls, 'trainable')._grab_cbs(DropConnectCallback)
    assert len(through_model(dls, 'frozen')._grab_cbs(DropConnectCallback)) == 1
    assert len(through_model(dls, 'frozen', cbs=DropConnectCallback)._grab_cbs(DropConnectCallback)) == 1


# The doors' arguments

def test_learner_arguments_reach_the_model(dls):
    config = dropconnect_config(ps=.2, embed_p=.1, use_bn=False, weight_p=.8, y_range=(-5, 5), rescale=False)
    given = copy.deepcopy(config)
    model = dropconnect_learner(dls, layers=[7], emb_szs={'shop': 3}, config=config, n_out=2, mask='frozen',
                                seed=3).model
    assert config == given
    assert model.embeds[0].embedding_dim == 3 and model.emb_drop.p == .1 and model.layers[0][2].p == .2
    assert model.layers[0][0].out_features == 7 and model.layers[1][0].out_features == 2
    assert not any(isinstance(m, nn.BatchNorm1d) for m in model.layers.modules())
    assert (model.layers[-1].low, model.layers[-1].high) == (-5, 5)
    masks = model.weight_masks
    assert (masks.weight_p['layers.0.0'], masks.mask, masks.seed, masks.rescale) == (.8, 'frozen', 3, False)
    rescaled = dropconnect_learner(dls, config=config, weight_p=.2, y_range=(0, 1), rescale=True)
    assert rescaled.model.weight_masks.rescale is True
    by_column = dropconnect_learner(dls, metrics=rmse, unit='feature')
    assert by_column.model.weight_masks.unit == 'feature' and len(by_column.metrics) == 1
    assert [l.out_features for l in find_linears(by_column.model).values()] == [200, 100, 1]
    linear = dropconnect_learner(dls, layers=[], weight_p=0).model
    assert [l.out_features for l in find_linears(linear).values()] == [1] and not linear.weight_masks.linears
    with pytest.raises(ValueError, match="the only nn.Linear"): dropconnect_learner(dls, layers=[])
    with pytest.raises(ValueError, match="the data does not determine n_out"):
        dls.c = 0
        dropconnect_learner(dls)


def test_signatures_are_fastais_plus_ours():
    both = {'weight_p', 'mask', 'unit', 'seed', 'rescale', 'members', 'own_embeds', 'emb_std', 'cont_scale',
            'y_scale', 'oob', 'oob_members', 'oob_groups'}
    for a, b, ours, other in (
            (tabular_learner, dropconnect_learner, both | {'n_bins', 'ps'}, {'lr', 'opt_func'}),
            (tabular_config, dropconnect_config, both | {'average', 'cont_edges', 'cont_emb_sz'}, {'act_cls'})):
        a, b = (inspect.signature(o).parameters for o in (a, b))
        assert set(b) - set(a) == ours and set(a) <= set(b)
        assert [n for n in b if n not in ours | other] == [n for n in a if n not in other]
        positional = [n for n, p in a.items() if p.kind != p.KEYWORD_ONLY]
        assert list(b)[:len(positional)] == positional
        for n in set(a) - other: assert a[n].default == b[n].default, n


def test_each_default_is_what_its_comment_says(tmp_path):
    dls = make_dls(cat=wide_cats, n=12_100, path=tmp_path)
    found = {k: re.search(r'None: (\[[^]]+]|[^,;]+)', v or '') for k, v in docments(dropconnect_learner).items()}
    says = {k: v[1] for k, v in found.items() if v}
    learn = dropconnect_learner(dls)
    model, y = learn.model, dls.train_ds.ys.price
    drops = {m.p for m in model.layers.modules() if isinstance(m, nn.Dropout)} or {0.}
    assert model.cont_embed.embed.linear.weight.shape == (2, int(says.pop('n_bins')), 8*8)  # columns, bins, members × width
    assert [l.out_features for l in hidden(model).values()] == ast.literal_eval(says.pop('layers'))
    assert model.members == int(says.pop('members')) and drops == {float(says.pop('ps'))}
    assert says.pop('own_embeds') == "if one's categorical ones have under 2 million parameters" and model.own_embeds
    assert says.pop('emb_std') == '0.3'
    assert says.pop('oob_members') == 'a quarter of all' and model.leave_out is None
    assert dropconnect_learner(dls, oob=True).model.leave_out.each == 2
    assert learn.lr == float(says.pop('lr')) and says.pop('y_scale') == "the target's"
    assert says.pop('cont_scale') == "the training rows'" and isinstance(model.cont_scale, ContScale)
    assert model.y_scale.mean.item() == pytest.approx(y.mean(), abs=1e-6)
    assert model.y_scale.std.item() == pytest.approx(y.std(ddof=0))
    assert learn.opt_func is FusedAdam and says.pop('opt_func') == '`Muon` or `FusedAdam` for members'
    masks = model.weight_masks
    assert (masks.mask, masks.unit, masks.rescale) == ('trainable', 'feature', True)
    assert says.pop('weight_p') == 'half' and list(masks.weight_p.values()) == [few_inputs(0, [1]*6), few_inputs(200)]
    assert says.pop('unit') == 'as `few_inputs` counts' and not says
    assert all(e.weight.std().item() == pytest.approx(.3, rel=.3) for e in model.embeds)
    assert learn.wd is None and model.emb_drop.p == 0  # fastai's


@pytest.mark.slow
def test_embeddings_that_would_be_large_are_shared(dls):
    def own(width, **kwargs):
        return dropconnect_learner(dls, layers=[10], emb_szs={'shop': width}, **kwargs).model.own_embeds
    n = len(dls.train_ds.classes['shop'])
    assert own(1_900_000//n) and not own(2_100_000//n)
    assert own(2_100_000//n, own_embeds=True) and not own(3, own_embeds=False)
    assert not own(3, config=dict(own_embeds=False)) and own(3, config=dict(own_embeds=False), own_embeds=True)


def test_numerical_embeddings_are_narrower_where_each_member_has_its_own(dls):
    def found(**kwargs):
        embed = dropconnect_learner(dls, layers=[10], n_bins=6, **kwargs).model.cont_embed
        return embed.members, embed.emb_sz
    assert found() == (8, 8) and found(members=3) == (3, 8) and found(oob=.5) == (8, 8)
    assert found(own_embeds=False) == found(members=1) == (None, 16)
    assert found(config=dict(own_embeds=False)) == found(config=dict(members=1)) == (None, 16)


def test_no_whole_batch_is_an_error(tmp_path):
    "fastai's loaders drop what is left of an epoch: with fewer rows than a batch has, nothing is learned"
    with pytest.raises(ValueError, match="bs=256, and 80 training rows: too few for one whole batch"):
        dropconnect_learner(make_dls(n=100, bs=256, path=tmp_path))


@pytest.mark.parametrize('lr', [-.01, float('nan')])
def test_a_rate_that_learns_nothing_is_an_error(dls, lr):
    with pytest.raises(ValueError, match=f"lr={lr}: give a rate above 0"): dropconnect_learner(dls, lr=lr)


def losses_of(dls, learner, **kwargs):
    set_seed(1)
    learn = fit(learner(dls, layers=layers, **kwargs), 2)
    return [float(l) for l in learn.recorder.losses]


@pytest.mark.slow
def test_without_mask_and_extras_it_is_fastais_net(dls):
    fastais = losses_of(dls, tabular_learner)
    assert fastais == losses_of(dls, plain_learner, weight_p=0)
    assert fastais == losses_of(dls, dropconnect_learner, weight_p=0, lr=1e-3, **only_masks)
    assert fastais != losses_of(dls, plain_learner, weight_p=.5)
    nets = []
    for learner, kwargs in ((tabular_learner, {}), (dropconnect_learner, dict(weight_p=0, **only_masks))):
        set_seed(1)
        nets.append(learner(dls, layers=[200, 100], **kwargs).model)
    a, b = (o.state_dict() for o in nets)
    assert list(a) == list(b) and same(a.values(), b.values())


@pytest.mark.slow
@pytest.mark.parametrize('extra', [dict(members=8), dict(members=2), dict(n_bins=4), dict(ps=.1),
                                   dict(y_scale=None), dict(y_scale=(1., 2.)), dict(lr=None), dict(lr=.02)], ids=str)
def test_each_extra_alone_makes_another_net(dls, extra):
    assert losses_of(dls, plain_learner, weight_p=0, **extra) != losses_of(dls, plain_learner, weight_p=0)


def test_sparsity(dls):
    learn = through_model(dls, weight_p=[.8, .5])
    df = learn.sparsity()
    assert list(df.columns) == ['layer', 'shape', 'weight_p', 'zeros', 'zero fraction']
    assert list(df['layer']) == ['layers.0.0', 'layers.1.0', 'layers.2.0'] and list(df['weight_p']) == [.8, .5, 0]
    assert list(df['zeros']) == [round(.8*30*df['shape'][0][1]), 300, 0] and df['zero fraction'][1] == .5
    assert list(plain(dls).sparsity()['weight_p']) == [0, 0, 0]


# Copies

def test_callback_warns_of_nothing(dls):
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'You are shadowing an attribute')
        fit(through_model(dls), 1)
        fit(through_callback(dls), 1, cbs=None)
        fit(plain(dls), 1, cbs=DropConnectCallback(layers='layers.0', unit='feature', weight_p=.5))


def masked_by(dls, **kwargs):
    "A net after one epoch at a learning rate of 0 with the callback, and its weights before"
    set_seed(5)
    learn = plain(dls, DropConnectCallback(**{'seed': 7, 'weight_p': .5, **kwargs}), opt_func=SGD)
    before = weights(learn.model)
    return fit(learn, 1, lr=0.), before


@pytest.mark.slow
def test_each_argument_of_the_callback(dls):
    base, dense = masked_by(dls)
    zeros = list(base.sparsity()['zeros'])
    n_in = base.model.layers[0][0].in_features
    assert zeros == [15*n_in, 300, 0] and base.model.weight_masks.mask == 'trainable'
    assert list(masked_by(dls, weight_p=.8)[0].sparsity()['zeros']) == [24*n_in, 480, 0]
    assert list(masked_by(dls, layers='layers.1')[0].sparsity()['zeros']) == [0, 300, 0]
    assert masked_by(dls, mask='frozen')[0].model.weight_masks.mask == 'frozen'
    assert same(keeps(masked_by(dls, seed=7)[0].model), keeps(base.model))
    assert not same(keeps(masked_by(dls, seed=8)[0].model), keeps(base.model))
    groups = [e.embedding_dim for e in base.model.embeds] + [1, 1]
    by_column = keeps(masked_by(dls, unit='feature')[0].model)[0].split(groups, 1)
    assert all(torch.equal(k.all(1), k.any(1)) for k in by_column)
    for rescale, scale in ((True, .5**-.5), (False, 1.)):
        learn, before = masked_by(dls, rescale=rescale)
        for w, b, k in zip(weights(learn.model), before, keeps(learn.model)): assert torch.allclose(w[k], b[k]*scale)
    assert same(weights(masked_by(dls, start=False)[0].model), dense)


@pytest.mark.slow
@pytest.mark.parametrize('door', [partial(plain_learner, layers=layers), lambda dls, **kw: plain(dls, DropConnectCallback(**kw))])
@pytest.mark.parametrize('mask', ['trainable', 'frozen', 'resampled'])
def test_what_is_dropped_unless_told_otherwise(tmp_path, door, mask):
    "A start leaves a neuron four table columns, or two neurons; masks that stay on drop half of the weights"
    learn = door(make_dls(cat=wide_cats, path=tmp_path), mask=mask)
    seen = []
    class Spy(Callback):
        order = 100
        def before_batch(self): seen.append([getattr(l, 'weight_p', None) for l in find_linears(self.model).values()])
    fit(learn, 1, cbs=Spy())
    masks = getattr(learn.model, 'weight_masks', None)
    if mask == 'resampled': assert seen[0][:2] == [.5, .5]
    elif mask == 'frozen': assert {*masks.weight_p.values()} == {.5} and masks.unit == 'weight'
    else:
        assert masks.unit == 'feature' and list(masks.weight_p.values()) == [1-4/6, 1-2/30]
        assert int(masks.keeps['layers.1.0'].sum()) == 2*20


def test_a_callback_belongs_to_one_learner(dls):
    "fastai tells a callback of the learner that it was given to last, and so a fit of the first would mask the second"
    cb = DropConnectCallback(.5)
    first = plain(dls, cb)
    with pytest.raises(ValueError, match="belongs to another learner.*: give each learner a callback of its own"):
        plain(dls, cb)
    assert not any((w == 0).any() for w in weights(first.model))
    fit(first, 1)
    first.remove_cb(cb)
    second = fit(plain(dls, cb), 1)
    assert second.model.weight_masks is not first.model.weight_masks
    for_a_fit = DropConnectCallback(.5)
    for learn in (plain(dls), plain(dls)): assert fit(learn, 1, cbs=for_a_fit).model.weight_masks.weight_p


def test_models_own_masks_need_no_settings(dls):
    model = DropConnectTabularModel(get_emb_sz(dls.train_ds), 2, 1, layers, weight_p=.8, mask='frozen')
    zeros = keeps(model)
    fit(TabularLearner(dls, model, cbs=DropConnectCallback()), 2)
    assert same(zeros, keeps(model)) and isinstance(model.layers[0][0], FrozenLinear)


def test_any_learner(dls):
    "A model that is not tabular, and a predicate for its layers"
    class Conts(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 1))
        def forward(self, cat, cont): return self.net(cont)
    learn = Learner(dls, Conts(), loss_func=nn.MSELoss(), cbs=DropConnectCallback(mask='frozen', seed=0))
    assert [int((w == 0).sum()) for w in weights(fit(learn, 1).model)] == [16, 128, 0]
    cb = DropConnectCallback(mask='frozen', layers=lambda n, m: n == 'net.2')
    learn = Learner(dls, Conts(), loss_func=nn.MSELoss(), cbs=cb)
    assert [int((w == 0).sum()) for w in weights(fit(learn, 1).model)] == [0, 128, 0]

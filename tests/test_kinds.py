"""A kind of mask is one class, and a frozen mask is what was drawn.

The kind that the notebook on masks shows runs through the matrix of `test_lifecycle` as two more columns."""
import copy
import io
import json
import pickle
from functools import partial

import pytest
import torch
from fastai.tabular.all import Adam, Callback, Learner, MSELossFlat, SGD, Transform, set_seed, tabular_learner
from habits import Watch
from helpers import hidden, make_dls, plain_learner, root
from test_lifecycle import Column, MaskWatch, cells, check_cell
from torch import nn

from dropconnect_tab.all import (
    DropConnectCallback, TabTensorDL, WeightMasks, dropconnect_learner, fast_dls, only_masks)
from dropconnect_tab.layers import DropConnectLinear, FrozenLinear
from dropconnect_tab.masks import KINDS, Frozen, find_linears
from test_contract import Muonlike

notebook = json.loads((root/'nbs'/'02_masks.ipynb').read_text(encoding='utf-8'))['cells']
exec(next(s for o in notebook if (s := ''.join(o['source'])).startswith('class Pruned')))


# --- a kind of one's own --------------------------------------------------------------------------------------------

class PrunedWatch(MaskWatch):
    "Looks for the smallest weights of the net as it is now"
    def __init__(self, learn):
        Watch.__init__(self)
        masks = getattr(learn.model, 'weight_masks', None)
        self.mask, self.keeps = 'frozen', masks.keeps if masks else WeightMasks(learn.model, .5, mask='pruned').draw()

    def go_on_from(self, watch):
        super().go_on_from(watch)
        self.keeps = watch.keeps


class PrunedColumn(Column):
    "Held as a frozen mask is, and so with all that is asked of one"
    def __init__(self, door):
        super().__init__('frozen', door)
        self.settings, self.has_callback = dict(mask='pruned', weight_p=.5), door == 'callback'

    def watched(self, learn): return learn.add_cb(PrunedWatch(learn))


columns = {f'pruned, {door}': PrunedColumn(door) for door in ('model', 'callback')}


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:CUDA is not available', 'ignore:torch.cuda.amp.GradScaler is enabled')
@pytest.mark.parametrize('row, col', cells(columns, repeats=False))
def test_a_kind_of_ones_own_in_the_lifecycle_matrix(row, col, tmp_path): check_cell(row, col, columns[col], tmp_path)


def test_the_smallest_weights_of_a_trained_net_are_dropped(dls):
    learn = fit(tabular_learner(dls, layers=[30, 20]))
    sizes = {n: l.weight.detach().abs() for n, l in hidden(learn.model).items()}
    fit(learn, cbs=DropConnectCallback(.8, 'pruned', rescale=False), lr=0.)
    for n, l in hidden(learn.model).items():
        kept = l.weight != 0
        assert int((~kept).sum()) == round(.8*kept.numel()) and sizes[n][kept].min() > sizes[n][~kept].max()


def test_members_of_a_net_with_a_kind_of_ones_own(dls):
    learn = fit(dropconnect_learner(dls, layers=[30, 20], members=3, mask='pruned'))
    one = learn.model.member(1)
    assert one.weight_masks.mask == 'pruned' and isinstance(one.layers[0][0], FrozenLinear)
    for n, keep in learn.model.weight_masks.keeps.items(): assert torch.equal(one.weight_masks.keeps[n], keep[1])
    with pytest.raises(ValueError, match="nothing grows back"): learn.plot_regrowth()
    learn.predictor()


def test_a_class_without_a_name_is_no_kind():
    before = dict(KINDS)
    class Half(Frozen): weight_p = .5
    assert KINDS == before and KINDS['frozen'].watches_steps and not KINDS['trainable'].watches_steps


@pytest.mark.parametrize('kwargs, match', [
    (dict(mask='prunde'), "mask='prunde' is unknown: choose one of 'trainable', 'frozen', 'resampled', 'pruned'"),
    (dict(mask='pruned', unit='feature'), "mask='pruned' drops single weights")])
def test_its_settings_are_checked_at_every_door(dls, kwargs, match):
    for door in (plain_learner, lambda dls, **kw: tabular_learner(dls, cbs=DropConnectCallback(**kw)),
                 lambda dls, **kw: WeightMasks(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1)), **kw)):
        with pytest.raises(ValueError, match=match): door(dls, **kwargs)


# --- a frozen mask is what was drawn --------------------------------------------------------------------------------

def fit(learn, n=1, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit(n, **kwargs)
    return learn


def frozen(dls, **kwargs): return plain_learner(dls, **{**dict(layers=[30, 20], mask='frozen', weight_p=.5, seed=7), **kwargs})
def by_callback(dls, **kwargs): return tabular_learner(dls, layers=[30, 20], cbs=DropConnectCallback(.5, 'frozen', seed=7, **kwargs))
def masks_of(learn): return {n: k.clone() for n, k in learn.model.weight_masks.keeps.items()}
def same(a, b): return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)
def dead(model, keeps): return all(not l.weight[~keeps[n]].any() for n, l in hidden(model).items())


doors = pytest.mark.parametrize('door', [frozen, by_callback])
copies = {'deepcopy': copy.deepcopy, 'pickle': lambda o: pickle.loads(pickle.dumps(o))}


def zero_some(model, n=3):
    "As an optimizer with an L1 penalty does: `n` kept weights of each hidden layer are exactly 0"
    for l in hidden(model).values():
        at = (l.weight != 0).nonzero()[::3][:n]  # some of a neuron's, so that it lives
        l.weight.data[tuple(at.T)] = 0.


class Zeroing(Callback):
    "Leaves kept weights at exactly 0 after each step"
    order = -10
    def after_step(self): zero_some(self.learn.model)


@doors
def test_kept_weights_at_zero_are_no_part_of_the_mask(dls, door):
    learn = fit(door(dls))
    keeps = masks_of(learn)
    fit(learn, cbs=Zeroing())
    assert same(masks_of(learn), keeps)
    fit(learn)
    assert same(masks_of(learn), keeps) and dead(learn.model, keeps)
    for n, l in hidden(learn.model).items(): assert torch.equal(l.weight != 0, keeps[n]), 'a kept weight stayed at 0'


@pytest.mark.parametrize('n', [1, 3])
def test_an_optimizer_that_moves_all_weights_and_leaves_one_at_zero(n):
    "Without a callback, what it has moved is put back"
    set_seed(0)
    net = nn.Sequential(nn.Linear(12, 20), nn.ReLU(), nn.Linear(20, 1))
    keep = WeightMasks(net, .5, mask='frozen').apply().keeps['0'].clone()
    with torch.no_grad(): net[0].weight.add_(.1)
    zero_some(net, n)
    net.train()
    assert torch.equal(net[0].keep, keep) and not net[0].weight[~keep].any()


@pytest.mark.slow
@pytest.mark.parametrize('where', ['save and load', 'SaveModel', 'export', *copies])
def test_kept_weights_at_zero_come_back_from_anywhere(dls, where):
    learn = fit(frozen(dls))
    keeps = masks_of(learn)
    zero_some(learn.model, 40)
    if where == 'save and load': learn = learn.save('m') and learn.load('m')
    elif where == 'SaveModel':
        state = copy.deepcopy(learn.model.state_dict())
        fit(learn)
        learn.model.load_state_dict(state)
    elif where == 'export':
        f = io.BytesIO()
        torch.save(learn.model, f)
        f.seek(0)
        learn.model, learn.opt = torch.load(f, weights_only=False), None
    else: learn = copies[where](learn)
    assert same(masks_of(learn), keeps)
    fit(learn, 2)
    assert same(masks_of(learn), keeps) and dead(learn.model, keeps)
    for n, l in hidden(learn.model).items(): assert torch.equal(l.weight != 0, keeps[n])


def dense_with_zeros(dls, n):
    model = tabular_learner(dls, layers=[30, 20]).model
    zero_some(model, n)
    return model


@pytest.mark.slow
@doors
@pytest.mark.parametrize('n', [0, 1, 2])
def test_a_dense_checkpoint_with_accidental_zeros_moves_no_mask(dls, door, n):
    learn = fit(door(dls))
    keeps = masks_of(learn)
    learn.model.load_state_dict(dense_with_zeros(dls, n).state_dict())
    assert same(masks_of(learn), keeps) and dead(learn.model, keeps)
    fit(learn)
    assert same(masks_of(learn), keeps) and dead(learn.model, keeps)


@pytest.mark.parametrize('n', [30, 100])
def test_a_checkpoint_whose_zeros_cannot_be_told_is_an_error(dls, n):
    model = frozen(dls).model
    with pytest.raises(ValueError, match="'layers.0.0' was masked before: .*% of its weights are exactly 0, but weight_p=0.5"):
        model.load_state_dict(dense_with_zeros(dls, n).state_dict())


@pytest.mark.parametrize('kwargs', [dict(), dict(unit='feature'), dict(members=3), dict(members=2, unit='feature')], ids=str)
def test_a_frozen_checkpoint_of_the_same_settings_brings_its_mask(dls, kwargs):
    a, b = (frozen(dls, seed=s, **kwargs).model for s in (1, 2))
    assert not same(a.weight_masks.keeps, b.weight_masks.keeps)
    zero_some(a, 1)
    b.load_state_dict(a.state_dict())
    assert all(torch.equal(l.weight == 0, b.weight_masks.keeps[n] == 0) or kwargs.get('unit') == 'feature'
               for n, l in hidden(b).items())
    for n, keep in a.weight_masks.keeps.items(): assert int((keep != b.weight_masks.keeps[n]).sum()) <= 1


@pytest.mark.parametrize('n, match', [(0, 'no frozen mask to resume with'), (1, 'no frozen mask to resume with'),
                                      (100, 'was masked before')])
def test_going_on_without_a_mask_is_an_error(dls, n, match):
    learn = by_callback(dls, start=False)
    learn.model = dense_with_zeros(dls, n)
    with pytest.raises(ValueError, match=match): fit(learn)


@pytest.mark.parametrize('n', [0, 1])
def test_a_net_with_accidental_zeros_starts(dls, n):
    learn = by_callback(dls)
    learn.model = dense_with_zeros(dls, n)
    fit(learn, lr=0.)
    for l in hidden(learn.model).values(): assert int((l.weight == 0).sum()) == l.weight.numel()//2


def eval_mode_callback():
    class EvalMode(Callback):
        "Fine-tunes with the statistics of batch norm as they are"
        order = 100
        def before_train(self): self.model.eval()
    return EvalMode()


@pytest.mark.slow
@doors
@pytest.mark.parametrize('opt', [SGD, Adam, partial(SGD, mom=.9)], ids=['sgd', 'adam', 'momentum'])
def test_frozen_in_eval_mode(dls, door, opt):
    learn = fit(door(dls, **(dict(opt_func=opt, lr=1e-2) if door is frozen else {})))
    keeps = masks_of(learn)
    fit(learn, 2, cbs=eval_mode_callback())
    assert same(masks_of(learn), keeps) and dead(learn.model, keeps)


@pytest.mark.parametrize('opt', [partial(torch.optim.SGD, momentum=.9), torch.optim.AdamW, Muonlike])
def test_frozen_in_eval_mode_in_a_bare_loop(dls, opt):
    model = frozen(dls).model.eval()
    keeps = {n: k.clone() for n, k in model.weight_masks.keeps.items()}
    opt = opt(model.parameters(), lr=1e-2)
    for xcat, xcont, y in dls.train:
        MSELossFlat()(model(xcat, xcont), y).backward()
        for n, l in hidden(model).items(): assert not l.weight.grad[~keeps[n]].any()
        opt.step()
        opt.zero_grad()
    with torch.no_grad(): now = model(xcat, xcont)  # before anything restores a zero
    plain = tabular_learner(dls, layers=[30, 20]).model.eval()
    plain.load_state_dict(model.state_dict())
    assert dead(plain, keeps) and torch.allclose(plain(xcat, xcont), now, atol=1e-6)


def test_a_factor_made_for_inference_serves_training():
    layer = FrozenLinear.from_linear(nn.Linear(4, 3), torch.rand(3, 4) > .5).eval()
    layer.keep = layer.keep  # forgets the factor
    with torch.inference_mode(): layer(torch.randn(2, 4))
    layer(torch.randn(2, 4)).sum().backward()
    assert not layer.weight.grad[~layer.keep].any()


# --- layers that a mask cannot hold, or no longer has ---------------------------------------------------------------

class Doubled(nn.Linear):
    def forward(self, x): return 2*super().forward(x)


def net(make=nn.Linear):
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), make(8, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))


@pytest.mark.parametrize('mask, cls', [('frozen', 'FrozenLinear'), ('resampled', 'DropConnectLinear')])
def test_a_subclass_is_refused_by_name(dls, mask, cls):
    match = f"'2' is a Doubled, which cannot become a {cls}: leave it out with `layers`"
    with pytest.raises(ValueError, match=match): WeightMasks(net(Doubled), .5, mask=mask)
    with pytest.raises(ValueError, match=match): Learner(dls, net(Doubled), loss_func=MSELossFlat(), cbs=DropConnectCallback(.5, mask))
    WeightMasks(net(Doubled), .5, mask=mask, layers=['0', '4']).apply()


def test_a_subclass_can_start():
    model = net(Doubled)
    WeightMasks(model, .5).apply()
    assert type(model[2]) is Doubled and int((model[2].weight == 0).sum()) == 32


@pytest.mark.parametrize('mask', KINDS)
def test_tied_weights_are_refused_by_name(mask):
    model = net()
    model[4].weight = model[2].weight
    with pytest.raises(ValueError, match="'2' and '4' share one weight.*leave them out with `layers`"): WeightMasks(model, .5, mask=mask)
    WeightMasks(model, .5, mask=mask, layers='0').apply()
    embed = nn.ModuleDict(dict(embed=nn.Embedding(8, 8), hidden=nn.Linear(8, 8), out=nn.Linear(8, 1)))
    embed.embed.weight = embed.hidden.weight
    with pytest.raises(ValueError, match="'embed' and 'hidden' share one weight"): WeightMasks(embed, .5, mask=mask)


@doors
def test_weights_that_are_tied_after_the_start_are_refused(dls, door):
    learn = fit(door(dls, **(dict(layers=[20, 20, 20], seed=1) if door is frozen else {})))
    last = list(hidden(learn.model).values())
    last[-1].weight = last[-2].weight if door is frozen else last[-1].weight
    if door is by_callback: learn.model.twin = last[-1].weight
    with pytest.raises(ValueError, match="share one weight"): fit(learn)


@doors
def test_a_layer_that_is_replaced_is_held(dls, door):
    learn = fit(door(dls))
    keeps = masks_of(learn)
    new = learn.model.layers[1][0] = nn.Linear(30, 20, bias=False)
    learn.opt = None
    fit(learn)
    assert isinstance(new, FrozenLinear) and same(masks_of(learn), keeps) and dead(learn.model, keeps)
    assert learn.model.weight_masks.linears['layers.1.0'] is new


@doors
def test_a_layer_of_another_shape_in_its_place_is_an_error(dls, door):
    learn = fit(door(dls))
    learn.model.layers[1] = nn.Sequential(nn.Linear(30, 25), nn.ReLU(), nn.Linear(25, 20))
    learn.opt = None
    with pytest.raises(ValueError, match=r"'layers.1.0' is no longer the layer \(20, 30\) that is masked"): fit(learn)


def test_a_layer_replaced_before_the_first_fit_is_masked(dls):
    learn = by_callback(dls)
    new = learn.model.layers[0][0] = nn.Linear(learn.model.layers[0][0].in_features, 30, bias=False)
    fit(learn)
    assert isinstance(new, FrozenLinear) and int((new.weight == 0).sum()) == new.weight.numel()//2


def test_a_start_does_not_mind_what_is_replaced_later(dls):
    learn = fit(tabular_learner(dls, layers=[30, 20], cbs=DropConnectCallback(.5, seed=1)))
    learn.model.layers[1] = nn.Sequential(nn.Linear(30, 25), nn.ReLU(), nn.Linear(25, 20))
    learn.opt = None
    fit(learn)
    assert list(learn.model.weight_masks.linears) == ['layers.0.0'] and learn.model.layers[1][0].weight.ne(0).all()


def test_resampled_layers_that_are_replaced_are_resampled(dls):
    learn = plain_learner(dls, layers=[30, 20], mask='resampled', weight_p=.3, cbs=DropConnectCallback())
    new = learn.model.layers[1][0] = nn.Linear(30, 20, bias=False)
    fit(learn)
    assert type(new) is DropConnectLinear and new.weight_p == .3


# --- masks that are lent for one fit --------------------------------------------------------------------------------

@pytest.mark.parametrize('mask', KINDS)
def test_an_interrupted_search_leaves_nothing_that_the_fit_minds(dls, mask):
    class Stop(Callback):
        def after_batch(self):
            if self.training: raise KeyboardInterrupt
    learn = tabular_learner(dls, layers=[30, 20], cbs=DropConnectCallback(.5, mask))
    learn.add_cb(stop := Stop())
    with learn.no_bar(), pytest.raises(KeyboardInterrupt): learn.lr_find(show_plot=False, num_it=10)
    learn.remove_cb(stop)
    fit(learn)
    assert hasattr(learn.model, 'weight_masks') == KINDS[mask].drawn_once


def test_masks_that_are_never_drawn_leave_the_global_generator_alone(dls):
    model = plain_learner(dls, mask='resampled', members=3, seed=None).model
    before = torch.get_rng_state()
    assert model.weight_masks.keeps == model.weight_masks.draw() == {} and torch.equal(torch.get_rng_state(), before)
    assert model.member(1).weight_masks.keeps == {}


def test_find_linears_of_a_net_of_one_layer(): assert list(find_linears(nn.Linear(2, 2))) == ['']


# --- the learner's settings -----------------------------------------------------------------------------------------

def test_none_in_a_config_is_the_models_own(tmp_path):
    dls = make_dls(n=7000, path=tmp_path)
    def made(config, **kwargs): return dropconnect_learner(dls, layers=[9], config=config, **kwargs).model
    def std(model): return model.embeds[0].weight.std().item()
    default = made(None)
    own = made(dict.fromkeys(['emb_std', 'members', 'y_scale', 'cont_scale', 'cont_edges', 'ps', 'own_embeds']))
    assert default.members == 8 and default.y_scale and default.cont_scale and default.cont_embed and std(default) > .1
    assert own.members == 1 and own.y_scale is own.cont_scale is own.cont_embed is None and std(own) < .02
    assert made(dict(average=None, members=2)).average == 'mean'
    given = made(dict(emb_std=None, members=None, y_scale=None), emb_std=.3, members=2, y_scale=(1., 2.))
    assert given.members == 2 and given.y_scale.mean == 1 and std(given) > .1
    with pytest.raises(ValueError, match="n_bins=6, and cont_edges in the config"): made(dict(cont_edges=None), n_bins=6)


@pytest.mark.parametrize('config, match', [
    (only_masks, "the config has 'n_bins', which the learner takes, not the model: pass them to dropconnect_learner"),
    (dict(lr=.1, layers=[3]), "the config has 'lr', 'layers'")], ids=str)
def test_a_config_with_what_belongs_to_the_learner(dls, config, match):
    with pytest.raises(ValueError, match=match): dropconnect_learner(dls, config=config)


@pytest.mark.parametrize('kwargs, width', [(dict(members=1), 4), (dict(members=3), 12), (dict(members=3, own_embeds=False), 4)],
                         ids=str)
def test_embeddings_of_a_column(dls, kwargs, width):
    learn = fit(dropconnect_learner(dls, layers=[9], emb_szs={'day': 4}, **kwargs))
    found, weight = learn.embeddings('day'), learn.model.embeds[1].weight
    assert found.shape == (len(learn.dls.classes['day']), width) and not isinstance(found, torch.Tensor)
    assert found[2].tolist() == weight[2].flatten().tolist()
    with pytest.raises(ValueError, match="column='size' is unknown: choose one of 'shop', 'day'"): learn.embeddings('size')


@pytest.mark.parametrize('event', ['before_batch', 'after_item'])
def test_a_loader_of_tensors_refuses_what_it_would_not_run(dls, event):
    tfm = Transform(lambda o: o)
    with pytest.raises(ValueError, match=f"{event}=.*put it into after_batch"): dls.train.new(cls=TabTensorDL, **{event: tfm})
    fast = fast_dls(dls)
    fast.add_tfms([tfm], event)
    with pytest.raises(ValueError, match=f"{event}="): fast.train.one_batch()

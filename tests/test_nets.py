"""Masks, nets and learners where users bring something else: compiled nets, frozen bodies, other activations, frames
with categories of their own, no validation rows, columns with odd names."""
import copy
import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.tabular.all import (Callback, Categorify, FillMissing, Normalize, TabularDataLoaders, TabularLearner, TabularModel,
                                TabularPandas, load_learner, params, tabular_learner)
from helpers import make_df, make_dls, plain_learner
from torch import nn
from torch.func import functional_call, grad, vmap

from dropconnect_tab.all import (DropConnectCallback, DropConnectTabularModel, TabTensorDL, WeightMasks,
                                 dropconnect_config, dropconnect_learner, fast_dls, load_predictor)
from dropconnect_tab.layers import MemberDropout, MemberEmbedding, MemberLayers, MemberNorm
from dropconnect_tab.masks import find_linears, unwrap

layers = [12, 8]


def quiet(learn, do):
    with learn.no_bar(), learn.no_logging(): return do(learn)


def fit(learn, n=1, lr=None): return quiet(learn, lambda o: o.fit(n, lr)) or learn


def kinds(learn): return [type(o).__name__ for o in find_linears(unwrap(learn.model)).values()]


def zeros(learn): return [round(float((o.weight == 0).float().mean()), 2) for o in find_linears(learn.model).values()]


# --- compiled nets, and several callbacks -----------------------------------------------------------------------------

def resampled(p=.5, **kwargs): return DropConnectCallback(p, 'resampled', **kwargs)


class Dropped(Callback):
    "Which weights of the first layer took no part in each step"
    run_valid = False
    def before_fit(self): self.seen = []
    def after_backward(self):
        self.seen.append(next(iter(find_linears(unwrap(self.learn.model)).values())).weight.grad == 0)


def compiled(learn, how, backend):
    torch._dynamo.reset()
    if how == 'in place': learn.model.compile(backend=backend)
    else: learn.model = torch.compile(learn.model, backend=backend)


@pytest.mark.slow
@pytest.mark.parametrize('when, how, backend', [('before', 'wrapped', 'inductor'), ('before', 'in place', 'aot_eager'),
                                                ('after', 'wrapped', 'aot_eager'), ('after a fit', 'in place', 'aot_eager')])
def test_a_compiled_net_draws_other_masks_at_every_step(when, how, backend):
    """In three ways to be compiled: with the callback, before it is there, and after the net was trained without it"""
    learn, masks, watch = tabular_learner(make_dls(n=250, bs=40), layers=layers), resampled(), Dropped()
    if when == 'before': learn.add_cb(masks)
    compiled(learn, how, backend)
    if when == 'after a fit': fit(learn)
    if when != 'before': learn.add_cb(masks)
    fit(learn.add_cb(watch), 2)
    shares = torch.stack(watch.seen).float().mean((1, 2))
    assert len({o.numpy().tobytes() for o in watch.seen}) == len(watch.seen) == 10
    assert (.3 < shares).all() and (shares < .8).all() and kinds(learn) == ['Linear']*3


@pytest.mark.slow
@pytest.mark.parametrize('members', [1, 3])
def test_a_compiled_net_of_our_own_draws_other_masks_at_every_step(members):
    learn, watch = plain_learner(make_dls(n=250, bs=40), layers=layers, mask='resampled', members=members), Dropped()
    compiled(learn, 'wrapped', 'aot_eager')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        fit(learn.add_cb(watch), 2)
        if members == 1: assert (quiet(learn, lambda o: o.get_preds_dist(n=4).std) > 0).all()
    assert len({o.numpy().tobytes() for o in watch.seen}) == len(watch.seen)


@pytest.mark.parametrize('others', [(resampled(), resampled()), (resampled(.2), resampled(.8)),
                                    (resampled(), DropConnectCallback(.5)),
                                    (resampled(), resampled(layers='layers.0')),
                                    (resampled(), DropConnectCallback(.5, 'frozen'))])
def test_two_callbacks_on_one_layer(others):
    one, two = copy.deepcopy(others)
    learn = tabular_learner(make_dls(), layers=layers, cbs=[one, two])
    wrong = "'layers.0.0' is (masked by another DropConnectCallback|a DropConnectLinear)"
    for _ in range(2):  # the same at the second try
        with pytest.raises(ValueError, match=wrong): fit(learn)
    learn.remove_cb(two)
    assert kinds(fit(learn)) == ['Linear']*3


def test_two_callbacks_share_a_net():
    """Each has layers of its own"""
    seen = []
    class Look(Callback):
        def after_batch(self):
            seen.append([getattr(o, 'weight_p', None) for o in find_linears(self.learn.model).values()])
    cbs = [resampled(.2, layers='layers.0'), resampled(.6, layers='layers.1'), Look()]
    assert kinds(fit(tabular_learner(make_dls(), layers=layers, cbs=cbs))) == ['Linear']*3
    assert seen[0] == [.2, .6, None]


def test_layers_that_draw_their_own_masks():
    """The callback neither overrides their weight_p nor makes them plain"""
    learn = tabular_learner(make_dls(), layers=layers)
    WeightMasks(learn.model, .2, mask='resampled').apply()
    with pytest.raises(ValueError, match="'layers.0.0' is a DropConnectLinear, which draws masks of its own"):
        fit(learn.add_cb(resampled(.8)))
    assert kinds(learn) == ['DropConnectLinear']*2 + ['Linear'] and learn.model.layers[0][0].weight_p == .2


# --- frozen bodies ----------------------------------------------------------------------------------------------------

def body_and_head(m): return [params(m.embeds)+params(m.layers[:-1]), params(m.layers[-1])]


def fine_tuned(learn): return quiet(learn, lambda o: o.fine_tune(1))


def gradually(learn):
    learn.freeze_to(-1)
    fit(learn)
    learn.unfreeze()
    fit(learn)


def searched(learn):
    learn.freeze()
    quiet(learn, lambda o: o.lr_find(num_it=12, show_plot=False))
    fit(learn)
    learn.unfreeze()
    fit(learn)


@pytest.mark.parametrize('do', [fine_tuned, gradually, searched])
@pytest.mark.parametrize('mask', ['trainable', 'frozen', 'resampled'])
def test_a_mask_waits_for_a_layer_that_is_trained(mask, do):
    learn, seen = tabular_learner(make_dls(), layers=layers, splitter=body_and_head), []
    class Look(Callback):
        run_valid = False
        def before_batch(self):
            masked = hasattr(self.learn.model, 'weight_masks') or 'DropConnectLinear' in kinds(self.learn)
            seen.append((masked, bool(self.learn.model.layers[0][0].weight.requires_grad)))
    learn.add_cbs([DropConnectCallback(.5, mask), Look()])
    with pytest.warns(UserWarning, match="no mask yet.*'layers.0.0', 'layers.1.0' do not require gradients"): do(learn)
    assert set(seen) == {(False, False), (True, True)}
    if mask == 'frozen': assert zeros(learn)[:2] == [.5, .5]


def test_a_mask_that_never_starts_says_so():
    learn = tabular_learner(make_dls(), layers=layers, splitter=body_and_head)
    learn.freeze()
    before = copy.deepcopy(learn.model.layers[0][0].weight.data)
    with pytest.warns(UserWarning, match='no mask yet'):
        quiet(learn, lambda o: o.fit(1, cbs=DropConnectCallback(mask='frozen', weight_p=.5)))
    assert torch.equal(learn.model.layers[0][0].weight, before) and not hasattr(learn.model, 'weight_masks')


def test_a_mask_on_a_net_that_was_frozen_before():
    """By another learner, say: the learner is made, and the mask starts once a fit has a layer for it"""
    dls = make_dls()
    model = TabularModel([(7, 3), (6, 3)], 2, 1, layers).requires_grad_(False)
    learn = TabularLearner(dls, model, splitter=body_and_head, cbs=DropConnectCallback(.5, 'frozen'))
    learn.freeze()
    with pytest.warns(UserWarning, match='no mask yet'): fit(learn)
    learn.unfreeze()
    assert zeros(fit(learn))[:2] == [.5, .5]


def test_a_layer_that_does_not_exist_is_no_reason_to_wait():
    learn = tabular_learner(make_dls(), layers=layers, splitter=body_and_head)
    learn.freeze()
    with pytest.raises(ValueError, match="no nn.Linear is called 'head'"):
        quiet(learn, lambda o: o.fit(1, cbs=DropConnectCallback(layers='head')))


# --- inference_mode ---------------------------------------------------------------------------------------------------

def test_a_slice_of_rates():
    learn = dropconnect_learner(make_dls(), layers=[4], members=2, lr=slice(1e-3, 1e-2))
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1)
    for lr in (0, -1, True, 'fast', slice(1e-3, 0), slice(None)):
        with pytest.raises(ValueError, match='lr=.*give a rate above 0'): dropconnect_learner(make_dls(), lr=lr)


@pytest.mark.parametrize('value', [np.nan, np.inf])
@pytest.mark.parametrize('row', [3, 399])
def test_a_target_that_is_not_there(row, value):
    df = make_df()
    df.loc[row, 'price'] = value
    dls = TabularDataLoaders.from_df(df, procs=[Categorify, Normalize], cat_names=['shop'], cont_names=['size'], y_names='price',
                                     valid_idx=range(320, 400), bs=64)
    with pytest.raises(ValueError, match="target 'price' has 1 missing or infinite values: leave out these rows"):
        dropconnect_learner(dls)


@pytest.mark.parametrize('mask', ['trainable', 'frozen', 'resampled'])
def test_a_learner_loaded_in_inference_mode(mask, tmp_path):
    """It predicts, inside and outside; a fit says why it cannot"""
    dls = make_dls()
    learn = fit(dropconnect_learner(dls, layers=layers, members=2, mask=mask, weight_p=.5))
    wanted, rows = quiet(learn, lambda o: o.get_preds()[0]), make_df()[320:]
    learn.export(tmp_path/'l.pkl')
    with torch.inference_mode():
        new = load_learner(tmp_path/'l.pkl')
        inside = quiet(new, lambda o: o.get_preds(dl=o.dls.test_dl(rows))[0])
    outside = quiet(new, lambda o: o.get_preds(dl=o.dls.test_dl(rows))[0])
    assert torch.allclose(inside, wanted, atol=1e-5) and torch.allclose(outside, wanted, atol=1e-5)
    assert np.allclose(new.predictor()(rows), wanted, atol=1e-4)
    new.dls = dls
    with pytest.raises(ValueError, match=r"loaded in torch.inference_mode\(\), so it can predict"): fit(new)


@pytest.mark.parametrize('mask', ['trainable', 'frozen', 'resampled'])
def test_a_plain_net_made_in_inference_mode(mask):
    with torch.inference_mode(): learn = tabular_learner(make_dls(), layers=layers, cbs=DropConnectCallback(.5, mask))
    with pytest.raises(ValueError, match='was made or loaded in torch.inference_mode'): fit(learn)


def test_a_net_made_in_inference_mode_may_be_in_training_mode_there():
    with torch.inference_mode():
        net = member_net().train()
        assert net(*rows_of(4)).shape == (4, 3, 2)
    with pytest.raises(ValueError, match='was made or loaded in torch.inference_mode'): net.train()


@pytest.mark.parametrize('mask', ['trainable', 'frozen', 'resampled'])
def test_predictions_in_inference_mode_leave_a_learner_to_be_trained(mask):
    dls = make_dls(n=100)
    for learn in (dropconnect_learner(dls, layers=layers, members=2, mask=mask, weight_p=.5),
                  tabular_learner(dls, layers=layers, cbs=DropConnectCallback(.5, mask))):
        with torch.inference_mode():
            quiet(learn, lambda o: (o.get_preds(), o.validate(), o.predictor()))
        fit(learn)


@pytest.mark.parametrize('members', [1, 2])
def test_weights_loaded_in_inference_mode(members, tmp_path):
    """Into a net and an optimizer that were made outside"""
    dls = make_dls(path=tmp_path)
    fit(dropconnect_learner(dls, layers=layers, members=members, mask='frozen')).save('m')
    learn = dropconnect_learner(dls, layers=layers, members=members, mask='frozen')
    with torch.inference_mode(): learn.load('m')
    fit(learn)


# --- activations of members, and members under torch.func -------------------------------------------------------------

def member_net(act=None, **kwargs):
    settings = dict(members=3, own_embeds=True, use_bn=False, **kwargs)
    return DropConnectTabularModel([(7, 3), (5, 2)], 2, 2, [6, 6], act_cls=copy.deepcopy(act or nn.ReLU()), **settings)


def rows_of(n): return torch.randint(5, (n, 2)), torch.randn(n, 2)


ACTS = [nn.ReLU(inplace=True), nn.PReLU(), nn.PReLU(6), nn.LayerNorm(6), nn.LayerNorm(6, elementwise_affine=False),
        nn.RMSNorm(6), nn.GroupNorm(2, 6), nn.Softmax(-1), nn.Softmax(1), nn.LogSoftmax(), nn.Softmin(),
        nn.InstanceNorm1d(6), nn.GELU(), nn.RReLU(), nn.Sequential(nn.PReLU(), nn.Tanh()),
        nn.Sequential(nn.ReLU(), nn.BatchNorm1d(6)), nn.Identity()]


@pytest.mark.filterwarnings('ignore')
@pytest.mark.parametrize('act', ACTS, ids=str)
def test_an_activation_gives_each_member_what_it_gives_a_single_net(act):
    """For 4 rows, 6 (as many as neurons) and none; gradients reach the parameters of each member"""
    net = member_net(act)
    for o in net.modules():
        if isinstance(o, (nn.PReLU, nn.LayerNorm)) and o.weight is not None: o.weight.data.uniform_(.1, 2)
    for n in (4, 6, 0):
        rows = rows_of(n)
        assert net.eval()(*rows).shape == (n, 2)
        net.average = False
        for i, o in enumerate(net(*rows).unbind(1)): assert torch.allclose(net.member(i).eval()(*rows), o, atol=1e-5)
        net.average = 'mean'
    net.train().average = False
    net(*rows_of(8)).square().mean().backward()
    assert all(o.grad is not None for o in net.parameters())


@pytest.mark.parametrize('p', [.1, .5, .9])
def test_members_drop_as_many_values_as_a_single_net(p):
    "Each with the same probability, independently of the others of its member; all but the mean is 0 or scaled"
    torch.manual_seed(0)
    kept = MemberDropout(5, p)(torch.ones(1, 5*40, 20_000, dtype=torch.double))[0]
    assert set(kept.unique().tolist()) == {0, float(kept.max())} and abs(float(kept.max())*(1-p) - 1) < 1e-3
    assert torch.equal(kept.view(5, 40, -1), kept[:40].expand(5, -1, -1))
    one = kept[:40].ne(0).double()
    assert (one.mean(1) - (1-p)).abs().max() < .02 and (one.mean(0) - (1-p)).abs().mean() < .1
    assert torch.corrcoef(one).fill_diagonal_(0).abs().max() < .04


@pytest.mark.parametrize('dtype', [torch.float, torch.bfloat16])
@pytest.mark.parametrize('p, n', [(0, 5), (.3, 5), (1, 5), (.3, 0)])
def test_dropout_of_members_at_its_limits(p, n, dtype):
    x, layer = torch.ones(1, 3, n, dtype=dtype), MemberDropout(3, p)
    assert layer(x).dtype == dtype and layer(x).shape == x.shape and layer(x).isfinite().all()
    assert torch.equal(layer.eval()(x), x)
    if p in (0, 1): assert (layer.train()(x) == 1-p).all()


@pytest.mark.parametrize('n, dtype', [(2, torch.float), (64, torch.float), (64, torch.double), (256, torch.half)])
@pytest.mark.parametrize('settings', [{}, dict(affine=False), dict(momentum=None), dict(momentum=.5, eps=.1),
                                      dict(track_running_stats=False)], ids=str)
def test_batch_norm_of_members_is_batch_norm(settings, n, dtype):
    "Outputs, gradients and statistics, in training and afterwards; with half of the digits also after large values"
    torch.manual_seed(0)
    ours, usual = (cls(6, **settings).to(dtype) for cls in (MemberNorm, nn.BatchNorm1d))
    wide = 300 if dtype == torch.half else 3
    for scale in (wide, 1.):
        x = [(scale*o).to(dtype).requires_grad_() for o in [torch.randn(1, 6, n)+.5]*2]
        res = [m(o) for m, o in zip((ours, usual), x)]
        for o in res: o.square().mul(torch.arange(n, dtype=dtype)/n).sum().backward()
        pairs = [res, [o.grad for o in x], *zip([o.grad for o in ours.parameters()], [o.grad for o in usual.parameters()]),
                 *zip(ours.state_dict().values(), usual.state_dict().values())]
        for a, b in pairs: assert torch.allclose(a, b, rtol=1e-3, atol=1e-3) and a.dtype == b.dtype
    assert torch.allclose(*(m.eval()(x[0]) for m in (ours, usual)), atol=1e-3)


def test_batch_norm_of_members_refuses_what_batch_norm_does():
    with pytest.raises(ValueError, match='more than 1 value'): MemberNorm(6)(torch.randn(1, 6, 1))
    with pytest.raises(RuntimeError): MemberNorm(6)(torch.randn(6, 64))
    with pytest.raises(ValueError, match='members=0.3'): MemberDropout(.3)


def test_the_net_of_a_member_has_a_plain_dropout():
    net = nn.Sequential(nn.Linear(4, 3), nn.Dropout(.3))
    members = MemberLayers.from_layers(net, 2)
    assert isinstance(members[1], MemberDropout)
    assert repr(members.member(0)) == repr(net)


def test_members_with_parameters_in_their_activations_do_not_share_them():
    """A row that one member does not see moves none of its slopes"""
    net = member_net(nn.PReLU()).train()
    net.average = False
    net(*rows_of(8))[:, 0].square().mean().backward()
    slopes = [o.weight.grad for o in net.layers.modules() if isinstance(o, nn.PReLU)]
    assert len(slopes) == 3 and [o is not None and bool(o.any()) for o in slopes] == [True, False, False]


def test_an_activation_that_changes_the_width():
    stack = nn.Sequential(nn.Linear(3, 8), nn.GLU(), nn.Linear(4, 2))
    net, x = MemberLayers.from_layers(stack, 3), torch.randn(5, 3)
    for i in range(3): assert torch.allclose(net.member(i)(x), net(x)[:, i], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize('act', [nn.Sequential(nn.PReLU(), nn.Tanh()), nn.Softmax(-1)], ids=str)
def test_other_activations_are_exported(act, tmp_path):
    """And read again, for one row and for none"""
    learn = fit(dropconnect_learner(make_dls(), layers=layers, members=3, config=dropconnect_config(act_cls=act)))
    df, p = make_df(20), learn.predictor()
    wanted = quiet(learn, lambda o: o.get_preds(dl=o.dls.test_dl(df))[0].numpy())
    assert np.allclose(p(df), wanted, atol=1e-5) and p(df[:0]).shape == (0, 1)
    for suffix in ('pt2', 'onnx'):
        p.export(path := tmp_path/f'net.{suffix}')
        q = load_predictor(path)
        assert np.allclose(q(df), wanted, atol=1e-4) and q(df[:1]).shape == (1, 1) and q(df[:0]).shape == (0, 1)


@pytest.mark.parametrize('mask', ['trainable', 'frozen'])
@pytest.mark.parametrize('y_scale', [None, ((3., 1.), (2., 5.))])
def test_torch_func_has_the_gradients_of_autograd(y_scale, mask):
    net, rows = member_net(bn_cont=False, emb_std=1., y_scale=y_scale, mask=mask), rows_of(9)
    net.average, weights = False, dict(net.named_parameters())
    def loss(weights, *rows): return functional_call(net, weights, rows).pow(3).mean()
    for mode in (True, False):
        net.train(mode)
        found, wanted = grad(loss)(weights, *rows), torch.autograd.grad(loss(weights, *rows), list(weights.values()))
        for n, o in zip(weights, wanted): assert torch.allclose(found[n], o, atol=1e-5), n
        each = vmap(grad(lambda w, a, b: loss(w, a[None], b[None])), (None, 0, 0))(weights, *rows)
        for n, o in zip(weights, wanted): assert torch.allclose(each[n].mean(0), o, rtol=1e-3, atol=1e-4), n


@pytest.mark.parametrize('shape', [(), (5,), (2, 3), (0,)])
def test_codes_of_any_shape(shape):
    """As `nn.Embedding` takes them, also one code at a time under `vmap`"""
    embed, codes = MemberEmbedding(3, 10, 4), torch.randint(10, shape)
    assert embed(codes).shape == (*shape, 3, 4)
    for i in range(3): assert torch.equal(embed(codes)[..., i, :], embed.member(i)(codes))
    if len(shape) != 1 or not shape[0]: return
    def loss(w, code): return functional_call(embed, {'weight': w}, (code,)).square().sum()
    each = vmap(grad(loss), (None, 0))(embed.weight, codes)
    assert torch.allclose(each.sum(0), torch.autograd.grad(loss(embed.weight, codes), embed.weight)[0])


# --- frames with categories of their own ------------------------------------------------------------------------------

own_types = dict(fewer='bcdef', more='abcdefxyz', turned='fedcba', other='123abcf', one='c', ordered='bcdef')


def as_type(values, levels, how): return pd.Categorical(values, categories=list(levels), ordered=how == 'ordered')


@pytest.fixture(scope='module', params=[True, False], ids=['fast', 'stock'])
def trained(request):
    dls = make_dls()
    return fit(dropconnect_learner(fast_dls(dls) if request.param else dls, layers=layers, members=2), 2, 1e-2)


@pytest.mark.parametrize('how', own_types)
def test_categories_of_a_frame_of_their_own(trained, how):
    """The predictions are those of the strings; what is not among the levels is a gap, as it is for pandas"""
    df = make_df(60, seed=1)
    df['shop'] = df['shop'].where(df['shop'].isin(list(own_types[how])), None)
    df.loc[3, 'shop'] = None
    typed = df.assign(shop=as_type(df['shop'], own_types[how], how), day=df['day'].astype('category'))
    def preds(df): return quiet(trained, lambda o: o.get_preds(dl=o.dls.test_dl(df))[0])
    wanted = preds(df)
    assert torch.equal(preds(typed), wanted)
    assert torch.allclose(trained.get_preds_dist(dl=trained.dls.test_dl(typed)).mean, wanted, atol=1e-5)
    assert np.allclose(trained.predictor()(typed), wanted, atol=1e-4)
    x = typed.drop(columns='price')
    for i in (0, 3):
        *_, row = quiet(trained, lambda o: o.predict(x.iloc[i]))
        assert torch.allclose(row, wanted[i], atol=1e-5)
    assert isinstance(typed['shop'].dtype, pd.CategoricalDtype)  # the frame is left as it was


def test_categories_of_a_row_alone(trained):
    """A frame of categories of one type makes rows of that type"""
    df = pd.DataFrame({'shop': ['f', 'b'], 'day': ['m', 'w']}).astype(pd.CategoricalDtype(list('wmfb')))
    dl = trained.dls.test_dl(df.assign(size=0., age=0.))
    assert dl.dataset.cats.to_numpy().tolist() == [[6, 3], [2, 5]]


@pytest.mark.parametrize('cat', [('shop', 'day'), ()])
@pytest.mark.parametrize('fast', [True, False])
def test_classes_of_a_frame_of_their_own(fast, cat):
    """Targets too, or the metric of a test set is of other classes"""
    dls = make_dls('band', cat=cat)
    learn = dropconnect_learner(fast_dls(dls) if fast else dls, layers=layers, members=2)
    df = make_df(50, seed=1)
    df = df[df.band != 'high']
    dl = learn.dls.test_dl(df.assign(band=df['band'].astype('category')))
    assert dl.dataset['band'].tolist() == [list(learn.dls.vocab).index(o) for o in df['band']]


@pytest.mark.parametrize('values', [[1, 2, 3], [1.5, 2.5, 0.5], [True, False], pd.interval_range(0, 3),
                                    pd.date_range('2024', periods=3)], ids=lambda o: str(o[0]))
def test_categories_that_are_no_strings(values):
    df = make_df(80)
    df['shop'] = pd.Categorical([values[i%len(values)] for i in range(80)], categories=list(values))
    splits = [list(range(60)), list(range(60, 80))]
    to = TabularPandas(df, [Categorify, Normalize], ['shop'], ['size'], 'price', splits=splits)
    learn = dropconnect_learner(to.dataloaders(bs=20, device='cpu'), layers=layers, members=2)
    codes = learn.dls.train_ds['shop'].tolist()[:12]
    test = df[:12].assign(shop=pd.Categorical(df['shop'][:12].tolist(), categories=list(values)[::-1]))
    assert learn.dls.test_dl(test).dataset['shop'].tolist() == codes


def test_a_learner_from_a_file_reads_values(trained, tmp_path):
    trained.export(tmp_path/'l.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        new = load_learner(tmp_path/'l.pkl')
    df = make_df(5).assign(shop=pd.Categorical(list('fbfbf')))
    assert new.dls.test_dl(df).dataset['shop'].tolist() == [6, 2, 6, 2, 6]


def test_codes_without_categorify_stay_codes():
    """Whole numbers of a category type that no proc has made: they are what the net looks up"""
    df = make_df(80).assign(shop=pd.Categorical(np.arange(80)%4))
    to = TabularPandas(df, [Normalize], ['shop'], ['size'], 'price', splits=[list(range(60)), list(range(60, 80))])
    dls = fast_dls(to.dataloaders(bs=20, device='cpu'))
    assert dls.test_dl(df).one_batch()[0][:, 0].tolist() == [o%4 for o in range(20)]


# --- learners without validation rows ---------------------------------------------------------------------------------

def without_valid(fast, **kwargs):
    df = make_df(100)
    to = TabularPandas(df, [Categorify, FillMissing, Normalize], ['shop'], ['size'], 'price', **kwargs)
    dls = to.dataloaders(bs=20, device='cpu', **(dict(dl_type=TabTensorDL) if fast is True else {}))
    if fast == 'made fast': dls = fast_dls(dls)
    return fit(dropconnect_learner(dls, layers=layers, members=3))


calls = dict(dist=lambda o, **kw: o.get_preds_dist(**kw).mean, member=lambda o, **kw: o.member_preds(**kw).mean(1),
             plot=lambda o, **kw: o.plot_members(**kw))


@pytest.mark.parametrize('name', calls)
@pytest.mark.parametrize('fast', [True, False, 'made fast'])
def test_a_learner_without_validation_rows(fast, name):
    learn, call = without_valid(fast), calls[name]
    with learn.no_bar():
        with pytest.raises(ValueError, match=r"no validation rows: give dl=learn.dls.test_dl\(df\), or ds_idx=0"):
            call(learn)
        with pytest.raises(ValueError, match="ds_idx=2: the learner has no such rows"): call(learn, ds_idx=2)
        empty = learn.dls.test_dl(make_df(9)[:0])
        with pytest.raises(ValueError, match="the loader in `dl` has no rows"): call(learn, dl=empty)
        call(learn, ds_idx=0)
        rows = make_df(9).drop(columns='price')
        dl = learn.dls.test_dl(rows)
        if name == 'plot':
            with pytest.raises(ValueError, match='no targets'): call(learn, dl=dl)
            call(learn, dl=learn.dls.test_dl(make_df(9)))
        else: assert np.allclose(call(learn, dl=dl), learn.predictor()(rows), atol=1e-4)


def test_a_loaded_learner_has_no_rows(tmp_path):
    without_valid(True).export(tmp_path/'l.pkl')
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        learn = load_learner(tmp_path/'l.pkl')
    for i in (0, 1):
        with pytest.raises(ValueError, match=r'rows: give dl=learn.dls.test_dl\(df\)$'): learn.get_preds_dist(i)
    assert learn.get_preds_dist(dl=learn.dls.test_dl(make_df(9))).targs.shape == (9, 1)


# --- columns with names that fastai looks for -------------------------------------------------------------------------

@pytest.mark.parametrize('name', ['to_detach', 'vocab', 'wgts', 'table_device', '_device'])
@pytest.mark.parametrize('y', ['price', 'band'])
def test_categories_with_names_of_attributes(name, y):
    """What fastai asks of a loader is not taken for a category, in a fast loader, nor what we ask of any"""
    df = make_df(100).rename(columns={'shop': name})
    to = TabularPandas(df, [Categorify, Normalize], [name], ['size'], y, splits=[list(range(80)), list(range(80, 100))])
    learn = fit(dropconnect_learner(fast_dls(to.dataloaders(bs=20, device='cpu')), layers=layers, members=2))
    with learn.no_bar(): dist, preds = learn.get_preds_dist(), learn.get_preds()[0]
    assert hasattr(dist, 'probs') == (y == 'band') and torch.allclose(dist[0], preds, atol=1e-5)
    p = learn.predictor()
    assert np.allclose(p(df[80:]), preds, atol=1e-4) and p.vocab == (['high', 'low', 'mid'] if y == 'band' else None)
    with learn.no_bar(): learn.plot_members()


def test_categories_that_hide_an_attribute_of_a_stock_loader():
    df = make_df(100).rename(columns={'shop': 'to_detach'})
    dls = TabularPandas(df, [Categorify], ['to_detach'], ['size'], 'price').dataloaders(bs=20, device='cpu')
    with pytest.raises(ValueError, match="categorical column 'to_detach' hides an attribute"): dropconnect_learner(dls)
    fit(dropconnect_learner(fast_dls(dls), layers=layers, members=2))

"A table, and every way to fit it."
import argparse
import json
import pickle
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
from fastai.tabular.all import set_seed
from helpers import hidden, make_df, make_table, wide_cats
from torch.nn import functional as F

from dropconnect_tab.bench import methods as bench_methods
from dropconnect_tab.bench.methods import (
    METHODS, _read_value, _text, fit_deep_ensemble, fit_default, fit_fastai, fit_net, fit_small_tabm, fit_tabm,
    fit_trees, read_method, read_setting, y_limits)
from dropconnect_tab.bench.datasets import Dataset, dataset_dls
from dropconnect_tab.data import TabTensorDL
from dropconnect_tab.learner import dropconnect_learner
from dropconnect_tab.members import MemberLoss

quick = dict(epochs=1, bs=64, lr=.01, wd=.01, layers=(20, 10))
tiny = dict(epochs=1, bs=64, layers=(20, 10), n_estimators=10, k=2, d_block=16, members=3, nets=2, max_epochs=1,
            n_epochs=1)
small_tabm = dict(epochs=1, bs=64, lr=.01, wd=.01, k=3, n_blocks=1, d_block=16, dropout=0., bins=0)
tabm = dict(max_epochs=2, patience=16, bs=64, lr=.002, wd=.0003, k=3, n_blocks=0, d_block=16, dropout=0., bins=8,
            d_embedding=4)
single = [o for o in METHODS if not METHODS[o].parts]


def need(name):
    "Skip where a package of the method is missing, or cannot be imported"
    for package in METHODS[name].requires:
        if package != 'pytabkit': pytest.importorskip(package)
        elif bench_methods.find_spec(package) is None: pytest.skip('needs pytabkit')


def method(name, **settings):
    "The method with those `settings` that it has"
    return METHODS[name].variant(**{k: v for k, v in settings.items() if k in METHODS[name].examples})


def fit_arm(name, table, **settings): return method(name, **settings).fit(table, 0, 'cpu')


def shared(name, **settings):
    "Settings of a method that is called `name`, where `settings` are those of all arms"
    return read_method(name).with_shared(**settings).settings


@pytest.fixture
def table(): return make_table()


@pytest.fixture(params=['price', 'band'])
def either(request): return make_table(request.param)


# --- Table ---

def test_a_slice_by_time_holds_the_latest_times_whole():
    times = np.random.default_rng(0).permutation(np.arange(200)//7)
    table = make_table(times=pd.Series(times, index=np.arange(200)+5))
    part = table.slice()
    kept, held = times[part.train_idx], times[part.test_idx]
    assert kept.max() < held.min() and len(held) >= 24 > (held > held.min()).sum()
    assert np.array_equal(np.union1d(part.train_idx, part.test_idx), table.train_idx)


def test_a_slice_without_times_is_random_and_always_the_same(table):
    part = table.slice()
    assert (len(part.train_idx), len(part.test_idx)) == (136, 24)
    assert np.array_equal(np.union1d(part.train_idx, part.test_idx), table.train_idx)
    assert part.test_idx.max() - part.test_idx.min() > 100
    assert np.array_equal(part.test_idx, table.slice().test_idx)


def test_slice_idx_says_what_is_held_out():
    rows = np.array([7, 3, 90])
    table = make_table(slice_idx=rows, times=pd.Series(np.arange(200)))
    part = table.slice('search')
    assert part.test_idx.tolist() == [3, 7, 90] and not set(part.train_idx) & {3, 7, 90}
    assert len(part.train_idx) == 157 and part.split == 'random-search' and part.slice_idx is None
    assert table.slice().split == 'random-slice'
    assert part.slice().test_idx.min() > 90


def test_fingerprint_sees_names_values_and_split(table):
    one, df = table.fingerprint, table.df
    assert one == replace(table, df=df.copy(), split='other', times=pd.Series(np.arange(200))).fingerprint
    assert one == replace(table, df=df.assign(cost=0.)).fingerprint
    last_digit = np.nextafter(df.price, np.inf)  # of a logarithm: processors differ in it
    assert one == replace(table, df=df.assign(price=last_digit)).fingerprint
    renamed = df.rename(columns={'size': 'age', 'age': 'size'})
    others = [dict(df=df.assign(age=0.)), dict(df=df.assign(price=df.price+1)), dict(y_name='cost'),
              dict(df=renamed, cont_names=['age', 'size']), dict(cat_names=['shop', 'day', 'size'], cont_names=['age']),
              dict(train_idx=np.arange(159)), dict(test_idx=np.arange(161, 200))]
    assert len({one, *(replace(table, **o).fingerprint for o in others)}) == 8
    assert isinstance(Dataset(**vars(table)).fingerprint, str)


@pytest.mark.parametrize('y, classes', [('price', None), ('cheap', ['no', 'yes']), ('band', ['high', 'low', 'mid']),
                                        ('shop', list('abcdef'))])
def test_classes_are_those_of_the_training_rows_in_order(y, classes):
    table = make_table(y)
    assert table.classes == classes
    if classes: assert [classes[i] for i in table.targets([3, 170])] == table.df[y].iloc[[3, 170]].tolist()
    else: assert np.array_equal(table.targets([3, 170]), table.df.price.iloc[[3, 170]].to_numpy(np.float32))
    assert table.targets([3]).dtype == (np.int64 if classes else np.float32)


def test_true_and_false_are_classes():
    table = make_table(df=make_df(200).assign(price=lambda d: d.price > 0))
    assert table.classes == [False, True] and set(table.targets(table.train_idx)) == {0, 1}
    assert fit_net(table, 0, 'cpu', **quick)['pred'].shape == (40, 2)


def test_classes_of_categoricals_are_those_that_occur():
    df = make_df(200)
    df['band'] = pd.Categorical(df.band, ['low', 'mid', 'high', 'never'])
    assert make_table('band', df=df).classes == ['high', 'low', 'mid']


def test_a_class_that_no_training_row_has_is_an_error():
    df = make_df(200)
    df.loc[170, 'band'] = 'huge'
    table = make_table('band', df=df)
    assert len(table.targets(table.train_idx)) == 160
    with pytest.raises(ValueError, match='huge'): table.targets(table.test_idx)


def test_loaders(table):
    assert [dataset_dls(table, o, 'cpu').bs for o in (None, 16, 5000)] == [16, 16, len(table.train_idx)]
    dls = dataset_dls(table, 16, 'cpu')
    assert dls.train.bs == 16 and str(dls.device) == 'cpu' and (len(dls.train_ds), len(dls.valid_ds)) == (160, 40)
    assert dataset_dls(make_table('band'), 16, 'cpu').vocab == ['high', 'low', 'mid']


@pytest.mark.slow
@pytest.mark.parametrize('name', ['dense', 'rf', 'tabm'])
def test_gaps_and_categories_of_the_test_rows_alone(name):
    need(name)
    df = make_df(200)
    df.loc[170, 'size'], df.loc[171, 'shop'], df.loc[5:20, 'age'] = np.nan, 'new', np.nan
    pred = fit_arm(name, make_table(df=df), **tiny)['pred']
    assert pred.shape == (40, 1) and np.isfinite(pred).all()
    assert df['size'].isna().sum() == 1


def test_y_limits(table):
    y = table.df.price
    assert np.allclose(y_limits(y, 0), [y.min(), y.max()])
    assert np.isclose(np.ptp(y_limits(y, .5)), 2*np.ptp(y))
    assert np.isclose(np.ptp(y_limits(y)), 1.2*np.ptp(y))


# --- Nets ---

@pytest.fixture
def built(monkeypatch, table):
    "A function that gives the learner of a fit, before it trains, and what it would train with"
    def fit(learn, table, epochs, lr, wd, tick, **logged): return learn, epochs, lr, wd
    monkeypatch.setattr(bench_methods, '_fit', fit)
    return lambda fit=fit_net, table=table, **kwargs: fit(table, 0, 'cpu', **{**quick, **kwargs})


def weights(learn): return {n: o.weight.detach() for n, o in hidden(learn.model).items()}


def test_without_a_mask_the_net_is_fastais(either):
    a, b = (f(either, 3, 'cpu', **quick) for f in (fit_net, fit_fastai))
    assert np.array_equal(a['pred'], b['pred']) and a['curve'] == b['curve']


def test_seeds_repeat_and_differ(table):
    a, b, c = (fit_net(table, s, 'cpu', weight_p=.5, **quick)['pred'] for s in (1, 1, 2))
    assert np.array_equal(a, b) and not np.allclose(a, c)


@pytest.mark.slow
@pytest.mark.parametrize('base, change', [
    ({}, dict(epochs=2)), ({}, dict(bs=32)), ({}, dict(lr=.03)), ({}, dict(wd=1.)), ({}, dict(layers=(10, 10))),
    ({}, dict(weight_p=.5)), (dict(weight_p=.5), dict(mask='frozen')), (dict(weight_p=.5), dict(unit='feature')),
    (dict(weight_p=.5), dict(weight_p=.6)), ({}, dict(scale_p=.5)), ({}, dict(ps=.5)), ({}, dict(embed_p=.5)),
    ({}, dict(l1=.01))], ids=str)
def test_each_setting_of_a_net_has_an_effect(table, base, change):
    a, b = (fit_net(table, 0, 'cpu', **{**quick, **o})['pred'] for o in (base, {**base, **change}))
    assert not np.allclose(a, b, atol=1e-6)


def test_settings_reach_the_net(built, table):
    learn, *fit = built(epochs=3, bs=32, lr=.02, wd=.3, layers=(7, 5), weight_p=.8, mask='frozen', ps=.3, embed_p=.2)
    assert fit == [3, .02, .3] and learn.dls.train.bs == 32
    assert [len(o) for o in weights(learn).values()] == [7, 5]
    masks = learn.model.weight_masks
    assert masks.mask == 'frozen' and masks.unit == 'weight' and masks.weight_p == {'layers.0.0': .8, 'layers.1.0': .8}
    drops = [m.p for m in learn.model.modules() if isinstance(m, torch.nn.Dropout) and m.p]
    assert drops == [.2, .3, .3] and learn.model.emb_drop.p == .2
    assert built(weight_p=.5, unit='feature')[0].model.weight_masks.unit == 'feature'
    y = table.targets(table.train_idx)
    limits = next(m for m in learn.model.modules() if hasattr(m, 'low'))
    assert np.allclose([limits.low, limits.high], [y.min()-.1*np.ptp(y), y.max()+.1*np.ptp(y)])


def test_scale_p_scales_hidden_weights_as_a_mask_does(built):
    dense, scaled, masked = (built(**o)[0] for o in ({}, dict(scale_p=.75), dict(weight_p=.75)))
    for n, w in weights(dense).items():
        assert torch.allclose(weights(scaled)[n], 2*w)
        kept = weights(masked)[n] != 0
        assert torch.allclose(weights(masked)[n][kept], weights(scaled)[n][kept])
    last = [o.state_dict() for o in (dense.model.layers[-2:], scaled.model.layers[-2:])]
    assert all(torch.equal(last[0][k], last[1][k]) for k in last[0])


@pytest.mark.slow
def test_l1_makes_hidden_weights_smaller(table, monkeypatch):
    seen, real = [], bench_methods.dropconnect_learner
    monkeypatch.setattr(bench_methods, 'dropconnect_learner', lambda *a, **k: seen.append(real(*a, **k)) or seen[-1])
    fits = [fit_net(table, 0, 'cpu', **{**quick, 'epochs': 4, 'bs': 16, 'l1': l1}) for l1 in (0, .1)]
    plain, l1 = ([w.abs().sum() for w in weights(o).values()] for o in seen)
    assert all(b < .7*a for a, b in zip(plain, l1))
    rmse = np.sqrt(np.mean((fits[1]['pred'][:, 0]-table.targets(table.test_idx))**2))
    assert np.isclose(fits[1]['curve'][-1], rmse), "the penalty is no part of the error that is logged"


@pytest.mark.parametrize('weight_p, mask, logged', [(.5, 'trainable', True), (.5, 'frozen', False),
                                                    (0, 'trainable', False)])
def test_regrowth_of_trainable_masks_alone(table, weight_p, mask, logged):
    fit = fit_net(table, 0, 'cpu', weight_p=weight_p, mask=mask, **{**quick, 'epochs': 3})
    assert ('regrowth' in fit) == logged and len(fit['curve']) == 3
    assert fit['zeros'] == (.5 if mask == 'frozen' else 0)
    if logged: assert len(fit['regrowth']) == 3 and all(0 < o <= 1.5 for o in fit['regrowth'])


def test_regrowth_is_zero_where_nothing_grows_back(table):
    kwargs = dict(weight_p=.5, **{**quick, 'lr': 1e-7, 'wd': 0.})
    assert fit_net(table, 0, 'cpu', **kwargs)['regrowth'][0] < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize('y, error', [
    ('price', lambda p, y: np.sqrt(np.mean((p[:, 0]-y)**2))),
    ('band', lambda p, y: -np.mean(np.log(p[np.arange(len(y)), y])))])
@pytest.mark.parametrize('fit, kwargs', [(fit_net, quick), (fit_fastai, quick), (fit_small_tabm, small_tabm)])
def test_the_curve_is_the_error_after_each_epoch(fit, kwargs, y, error):
    if fit is fit_small_tabm: pytest.importorskip('tabm')
    table, ticks = make_table(y), []
    res = fit(table, 0, 'cpu', lambda: ticks.append(1), **{**kwargs, 'epochs': 2})
    assert len(res['curve']) == len(ticks) == 2 and res['seconds'] > 0
    assert np.isclose(res['curve'][-1], error(res['pred'], table.targets(table.test_idx)), rtol=1e-4)


# --- Ensembles ---

@pytest.fixture
def arm_learner(built, table):
    "A function that gives the untrained learner of an arm or a variant"
    def learner(name, table=table, **settings):
        found = read_method(name).with_shared(**settings)
        return built(found.fitter, table, **found.settings)[0]
    return learner


@pytest.mark.parametrize('name, settings, mask, weight_p', [
    ('members-dense', {}, 'trainable', 0), ('members-masked', dict(weight_p=.5), 'trainable', .5),
    ('members-masked', dict(mask='frozen', weight_p=.8), 'frozen', .8),
    ('members-masked,mask=frozen,unit=feature', {}, 'frozen', .5)], ids=str)
def test_an_arm_with_members_is_a_net_with_members(arm_learner, name, settings, mask, weight_p):
    learn = arm_learner(name, **settings)
    assert learn.model.members == 8 and isinstance(learn.loss_func, MemberLoss)
    assert [o.shape[:2] for o in weights(learn).values()] == [(8, 200), (8, 100)]
    dropped = [float((w == 0).float().mean()) for w in weights(learn).values()]
    by_column = 'feature' in name
    assert dropped == [pytest.approx(weight_p, abs=.1 if by_column else 1e-3), pytest.approx(weight_p, abs=1e-3)]
    assert learn.model.weight_masks.mask == mask and (learn.model.weight_masks.unit == 'feature') == by_column
    assert arm_learner(name, members=3).model.members == 3


def test_members_of_a_classification_vote_by_probabilities(arm_learner):
    assert arm_learner('members-dense', make_table('band')).model.average == 'softmax'
    assert arm_learner('members-dense').model.average == 'mean'


@pytest.mark.slow
@pytest.mark.parametrize('mask', ['trainable', 'frozen', 'resampled'])
def test_a_fit_of_members(either, mask):
    fit = fit_net(either, 0, 'cpu', **{**quick, 'epochs': 2}, weight_p=.5, mask=mask, members=3)
    pred = fit['pred']
    assert pred.shape == (40, 3 if either.classes else 1) and np.isfinite(pred).all() and len(fit['curve']) == 2
    if either.classes: assert np.allclose(pred.sum(1), 1, atol=1e-5)
    assert fit['zeros'] == (.5 if mask == 'frozen' else 0) and ('regrowth' in fit) == (mask == 'trainable')


@pytest.mark.slow
def test_a_deep_ensemble_is_the_mean_of_nets_of_its_own_seeds(either):
    ticks = []
    fit = fit_deep_ensemble(either, 2, 'cpu', lambda: ticks.append(1), nets=3, weight_p=.5, **{**quick, 'epochs': 2})
    preds = [fit_net(either, seed, 'cpu', weight_p=.5, **{**quick, 'epochs': 2})['pred'] for seed in (6, 7, 8)]
    assert np.allclose(fit['pred'], np.mean(preds, axis=0), atol=1e-6) and fit['pred'].dtype == np.float32
    assert not np.allclose(preds[0], preds[1]) and len(ticks) == 6 and fit['seconds'] > 0


def test_the_members_arms_search_what_nets_search():
    assert METHODS['members-dense'].space.keys() == METHODS['dense'].space.keys()
    assert METHODS['members-masked'].space.keys() == METHODS['frozen'].space.keys() | {'mask'}
    ensemble = METHODS['deep-ensemble']
    assert ensemble.searched_as == METHODS['dense'] and not ensemble.space
    assert ensemble.settings.keys() == METHODS['dense'].settings.keys() | {'nets'}
    found = METHODS['deep-ensemble'].variant(lr=.5).with_shared(epochs=3).searched_as
    assert found == METHODS['dense'].with_shared(epochs=3) and METHODS['dense'].searched_as is None


# --- The learner's defaults ---

six_columns = make_table(n=12_100, cat_names=[*wide_cats])


@pytest.fixture
def default(built):
    "A function that gives the untrained learner of the arm or a variant of it, and what it would train with"
    return lambda name='default', table=six_columns: fit_default(table, 3, 'cpu', **read_method(name).settings)


def described(learn, epochs, lr, wd):
    "What the settings of the arm are about, read from the learner"
    model, masks = learn.model, learn.model.weight_masks
    drops = {m.p for m in model.layers.modules() if isinstance(m, torch.nn.Dropout)} or {0}
    learn.create_opt()
    return dict(
        epochs=epochs, bs=learn.dls.train.bs, layers=tuple(o.out_features for o in hidden(model).values()),
        weight_p=next(iter(masks.weight_p.values()), 0), mask=masks.mask, unit=masks.unit, members=model.members,
        own_embeds=model.own_embeds or model.members == 1,
        emb_std=min((.01, .1, .3, 1.), key=lambda o: abs(np.log(float(model.embeds[0].weight.detach().std())/o))),
        n_bins=0 if model.cont_embed is None else model.cont_embed.embed.linear.weight.shape[1],
        y_scale=model.y_scale is not None, ps=drops.pop(), embed_p=model.emb_drop.p, lr=lr,
        wd=learn.opt.hypers[0]['wd'] if wd is None else wd,
        loader='tensors' if isinstance(learn.dls.train, TabTensorDL) else 'fastai')


def test_the_default_arm_is_the_learner_with_its_defaults(default):
    learn, epochs, lr, wd = default()
    set_seed(3, reproducible=True)
    users = dropconnect_learner(dataset_dls(six_columns, 256, 'cpu', 'tensors'), seed=3)
    assert (epochs, lr, wd) == (8, users.lr, users.wd) and repr(learn.model) == repr(users.model)
    a, b = learn.model.state_dict(), users.model.state_dict()
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert repr(learn.loss_func) == repr(users.loss_func)


def test_the_default_arm_says_what_the_defaults_are(default):
    recipe = METHODS['default']
    found = described(*default())
    by_rule = dict(weight_p=1-4/6, unit='feature', bs=256)  # for six columns and 12,100 rows
    assert recipe.optional['weight_p'] is None and recipe.optional['unit'] is None and not recipe.space
    assert {k: found[k] for k in recipe.examples} == {**recipe.settings, **recipe.optional, **by_rule}


variants = [('epochs', 3), ('bs', 64), ('layers', (30, 20)), ('weight_p', .8), ('weight_p', 0), ('mask', 'frozen'),
            ('mask', 'resampled'), ('unit', 'weight'), ('members', 2), ('members', 1), ('own_embeds', False),
            ('emb_std', .1), ('n_bins', 5), ('n_bins', 0), ('y_scale', False), ('ps', .3), ('embed_p', .2), ('lr', .02),
            ('wd', .3), ('loader', 'fastai')]


@pytest.mark.slow
@pytest.mark.parametrize('k, v', variants)
def test_a_variant_of_the_default_arm_changes_what_it_names(default, k, v):
    found = described(*default(f"default,{k}={str(v).replace(' ', '')}"))
    # What is not given follows from what is
    n_in = sum(default()[0].model.column_groups)
    follows = dict(mask=dict(weight_p=.5, unit='weight'), weight_p=dict(unit='weight'), unit=dict(weight_p=1-2/n_in))
    assert found == {**described(*default()), k: v, **follows.get(k, {})}


def test_every_setting_of_the_default_arm_is_varied_above():
    assert METHODS['default'].examples.keys() == {k for k, _ in variants}


@pytest.mark.slow
@pytest.mark.parametrize('name', ['default', 'default,mask=resampled', 'default,members=1', 'default,mask=frozen'])
def test_a_fit_of_the_default_arm(name, either):
    fit = read_method(name).with_shared(epochs=2, bs=64, layers=(20, 10)).fit
    (a, b, c), n_out = (fit(either, seed, 'cpu') for seed in (1, 1, 2)), 3 if either.classes else 1
    assert np.array_equal(a['pred'], b['pred']) and not np.allclose(a['pred'], c['pred'], atol=1e-4)
    assert a['pred'].shape == (40, n_out) and np.isfinite(a['pred']).all() and len(a['curve']) == 2
    if either.classes: assert np.allclose(a['pred'].sum(1), 1, atol=1e-5)


def test_the_default_arm_of_classes(default):
    learn = default(table=make_table('band'))[0]
    assert learn.model.average == 'softmax' and learn.model.y_scale is None and isinstance(learn.loss_func, MemberLoss)


def test_the_default_arm_answers_in_the_units_of_the_target():
    table = make_table(df=make_df(200).assign(price=lambda d: 3e6 + 1e6*d.price))
    pred = fit_arm('default', table, epochs=1, layers=(20, 10))['pred']
    assert abs(pred.mean()-3e6) < 5e5


@pytest.mark.parametrize('name, match', [
    ('default,y_scale=1', 'y_scale=1: give a value such as True'), ('default,n_bins=.5', 'n_bins=0.5: give a value'),
    ('default,members=0', 'members=0: give at least 1'), ('default,mask=froze', "mask='froze' is unknown"),
    ('default,loader=fast', "loader='fast' is unknown"), ('default,rescale=False', "has no setting 'rescale'"),
    ('default,weight_p=1', 'weight_p=1 is not the fraction'), ('default,layers=20', r'layers=20: give a value such')])
def test_bad_variants_of_the_default_arm(name, match):
    with pytest.raises(ValueError, match=match): read_method(name)


# --- TabM, small ---

@pytest.fixture
def members(built, either):
    "An untrained TabM, a batch, and its members' outputs"
    pytest.importorskip('tabm')
    learn = built(fit=lambda *a, **k: fit_small_tabm(*a, **small_tabm), table=either)[0]
    *xs, y = learn.dls.valid.one_batch()
    return learn, xs, y, learn.model.train()(*xs).detach()


def test_small_tabm_predicts_the_mean_of_its_members(members, either):
    learn, xs, _, several = members
    assert several.shape == (40, 3, 3 if either.classes else 1) and several.std(1).min() > 0
    with torch.no_grad(): one = learn.model.eval()(*xs)
    expected = several.softmax(-1).mean(1).log() if either.classes else several.mean(1)
    assert torch.allclose(one, expected, atol=1e-5)


def test_small_tabm_trains_by_the_mean_of_the_losses(members, either):
    learn, _, y, several = members
    losses = [F.cross_entropy(o, y[:, 0].long()) if either.classes else F.mse_loss(o, y) for o in several.unbind(1)]
    loss = learn.loss_func(several, y)
    assert torch.isclose(loss, torch.stack(losses).mean())
    assert not torch.isclose(loss, learn.loss_func(several.mean(1), y), rtol=1e-3)


def test_small_tabm_standardizes_its_target(built, table):
    pytest.importorskip('tabm')
    y = table.targets(table.train_idx)
    scaled = replace(table, df=table.df.assign(price=1000+5*table.df.price))
    for o, mean, std in ((table, y.mean(), y.std()), (scaled, 1000+5*y.mean(), 5*y.std())):
        model = fit_small_tabm(o, 0, 'cpu', **small_tabm)[0].model
        assert (model.mean, model.std) == pytest.approx((mean, std), rel=1e-4)
    assert abs(fit_small_tabm(scaled, 0, 'cpu', **small_tabm)[0].get_preds()[0].mean()-1000) < 50


@pytest.mark.slow
@pytest.mark.parametrize('change', [dict(k=2), dict(n_blocks=2), dict(d_block=8), dict(dropout=.5), dict(bins=4),
                                    dict(epochs=2), dict(lr=.03)], ids=str)
def test_each_setting_of_small_tabm_has_an_effect(table, change):
    pytest.importorskip('tabm')
    a, b = (fit_small_tabm(table, 0, 'cpu', **{**small_tabm, **o})['pred'] for o in ({}, change))
    assert not np.allclose(a, b, atol=1e-6)


# --- TabM as its authors recommend it ---

@pytest.fixture
def estimators(monkeypatch):
    "What `pytabkit`'s estimators are made with"
    need('realmlp')
    pytabkit, seen = bench_methods._import_pytabkit(), []
    for name in ('RealMLP_TD_Regressor', 'RealMLP_TD_Classifier', 'TabM_D_Regressor', 'TabM_D_Classifier'):
        cls = getattr(pytabkit, name)
        made = lambda cls=cls, **kwargs: seen.append(dict(kwargs, cls=cls.__name__)) or cls(**kwargs)
        monkeypatch.setattr(pytabkit, name, made)
    return seen


@pytest.mark.slow
def test_tabm_is_what_its_authors_recommend(estimators, either, monkeypatch):
    from pytabkit.models.alg_interfaces import tabm_interface
    nets, steps, real = [], [], tabm_interface.Model
    monkeypatch.setattr(tabm_interface, 'Model', lambda **k: nets.append(real(**k)) or nets[-1])
    adamw = torch.optim.AdamW
    monkeypatch.setattr(torch.optim, 'AdamW', lambda *a, **k: steps.append(k) or adamw(*a, **k))
    fit_arm('tabm', either, max_epochs=1)
    net, emb = nets[0], nets[0].num_module
    assert steps == [dict(lr=.002, weight_decay=.0003)] and net.k == 32 and not net.share_training_batches
    assert len(net.backbone.blocks) == 2 and net.backbone.blocks[0][0].out_features == 512
    assert type(emb).__name__ == 'PiecewiseLinearEmbeddings' and emb.linear.weight.shape[1:] == (48, 16)
    assert (estimators[0]['batch_size'], estimators[0]['patience'], estimators[0]['n_epochs']) == (256, 16, 1)
    assert estimators[0].get('val_metric_name') == ('cross_entropy' if either.classes else None)
    assert METHODS['tabm'].settings['max_epochs'] == 1000


@pytest.mark.slow
def test_tabm_learns_also_without_numbers_or_categories(either):
    need('tabm')
    for wanted in (either, replace(either, cont_names=[]), replace(either, cat_names=[])):
        pred = fit_tabm(wanted, 3, 'cpu', **{**tabm, 'max_epochs': 40, 'd_block': 64, 'bs': 32})['pred']
        assert pred.shape == (40, 3 if either.classes else 1) and np.isfinite(pred).all()
        y = either.targets(either.test_idx)
        if wanted is not either: continue
        if either.classes: assert np.mean(pred.argmax(1) == y) > np.bincount(y).max()/len(y)
        else: assert np.mean((pred[:, 0]-y)**2) < .7*np.var(y)


@pytest.mark.slow
@pytest.mark.parametrize('change', [dict(k=2), dict(n_blocks=1), dict(d_block=8), dict(dropout=.5), dict(bins=0),
                                    dict(d_embedding=8), dict(max_epochs=1), dict(lr=.03), dict(wd=3.), dict(bs=32),
                                    dict(patience=0)], ids=str)
def test_each_setting_of_tabm_has_an_effect(table, change):
    need('tabm')
    longer = dict(max_epochs=40, lr=.05) if 'patience' in change else {}
    a, b = (fit_tabm(table, 0, 'cpu', **{**tabm, **longer, **o})['pred'] for o in ({}, change))
    assert not np.allclose(a, b, atol=1e-6)


# --- RealMLP ---

def test_realmlp_is_what_its_authors_recommend(estimators, either):
    fit_arm('realmlp', either, n_epochs=1, hidden_sizes=(8, 8))
    log_loss = dict(val_metric_name='cross_entropy', use_ls=False) if either.classes else {}
    assert estimators == [dict(
        device='cpu', random_state=0, n_threads=torch.get_num_threads(), verbosity=0, n_epochs=1, batch_size=256,
        hidden_sizes=[8, 8], cls=f"RealMLP_TD_{'Classifier' if log_loss else 'Regressor'}", **log_loss)]
    assert METHODS['realmlp'].settings == dict(n_epochs=256, batch_size=256)


@pytest.mark.slow
@pytest.mark.parametrize('y_name', ['price', 'band'])
def test_realmlp_learns_and_seeds_repeat(estimators, y_name):
    table = make_table(y_name, n=800)
    a, b, c = (METHODS['realmlp'].variant(n_epochs=20).fit(table, o, 'cpu')['pred'] for o in (1, 1, 2))
    y = table.targets(table.test_idx)
    assert np.array_equal(a, b) and not np.allclose(a, c)
    if table.classes: assert np.mean(a.argmax(1) == y) > np.bincount(y).max()/len(y)
    else: assert np.mean((a[:, 0]-y)**2) < .7*np.var(y)


def test_realmlp_is_told_which_columns_are_categories(estimators, monkeypatch):
    import pytabkit
    seen, cls = {}, pytabkit.models.sklearn.sklearn_interfaces.AlgInterfaceRegressor
    real = cls.fit
    monkeypatch.setattr(cls, 'fit', lambda self, *a, **k: seen.update(k) or real(self, *a, **k))
    fit_arm('realmlp', make_table(), n_epochs=1)
    assert seen == dict(cat_col_names=[0, 1])
    for table in (replace(make_table(), cont_names=[]), replace(make_table(), cat_names=[])):
        assert np.isfinite(fit_arm('realmlp', table, n_epochs=1)['pred']).all()


def test_realmlp_fits_categories_with_gaps():
    need('realmlp')
    df = make_df(200)
    df.loc[df.index % 7 == 0, 'shop'] = None
    assert np.isfinite(fit_arm('realmlp', make_table(df=df), n_epochs=1)['pred']).all()


def test_realmlp_says_nothing_and_leaves_no_files(tmp_path, monkeypatch, capfd, recwarn):
    need('realmlp')
    monkeypatch.chdir(tmp_path)
    threads, loaded = torch.get_num_threads(), 'torchvision' in sys.modules
    fit_arm('realmlp', make_table('band'), n_epochs=2)
    assert capfd.readouterr() == ('', '') and not recwarn.list and not list(tmp_path.iterdir())
    assert torch.get_num_threads() == threads and sys.modules.get('torchvision', 'absent') is not None


def test_a_package_that_is_hidden_looks_absent(monkeypatch):
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec
    with bench_methods._hidden('tabm'):
        assert find_spec('tabm') is None and version('fastai')
        with pytest.raises(PackageNotFoundError): version('tabm')
    assert 'tabm' not in sys.modules or sys.modules['tabm'] is not None


def test_ctrl_c_stays_what_it_is_where_lightning_makes_an_exit_of_it():
    import signal
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), bench_methods._lightning():
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        sys.exit(1)
    assert signal.getsignal(signal.SIGINT) == before


# --- Trees ---

@pytest.fixture
def fake(monkeypatch):
    "A package of trees that notes what it is given, and predicts 0"
    seen = {}
    class Fake:
        def __init__(self, **kwargs): seen['init'] = kwargs
        def fit(self, x, y, **kwargs): seen.update(x=x, y=y, fit=kwargs)
        def predict(self, x): return np.zeros(len(seen.setdefault('test', x)))
        def predict_proba(self, x): return np.full((len(x), 3), 1/3)
    fakes = {o: type(o, (Fake,), {}) for o in ('FakeRegressor', 'FakeClassifier', 'CatBoostRegressor', 'XGBRegressor')}
    monkeypatch.setitem(sys.modules, 'fake_trees', SimpleNamespace(**fakes))
    return seen


@pytest.mark.parametrize('stem, key', [('Fake', 'n_jobs'), ('CatBoost', 'thread_count')])
def test_trees_use_as_many_threads_as_torch(table, fake, monkeypatch, stem, key):
    monkeypatch.setattr(torch, 'get_num_threads', lambda: 3)
    fit_trees(table, 7, package='fake_trees', stem=stem, depth=2)
    assert fake['init'] == {'random_state': 7, key: 3, 'depth': 2}


def test_trees_see_the_training_rows(fake, either):
    ticks = []
    res = fit_trees(either, 0, tick=lambda: ticks.append(1), package='fake_trees', stem='Fake')
    assert fake['x'].shape == (160, 4) and np.array_equal(fake['y'], either.targets(either.train_idx))
    assert np.allclose(fake['x'][2], either.df['size'][:160]), "numbers are as they are"
    assert res['pred'].shape == (40, 3 if either.classes else 1) and len(ticks) == 1 and fake['fit'] == {}


@pytest.mark.parametrize('name, key', [('lgbm', 'categorical_feature'), ('catboost', 'cat_features')])
@pytest.mark.parametrize('native', [True, False])
def test_native_tells_which_columns_are_categories(table, monkeypatch, name, key, native):
    need(name)
    told, seen = METHODS[name].fitter.keywords, []
    cls = getattr(sys.modules[told['package']], f"{told['stem']}Regressor")
    real = cls.fit
    monkeypatch.setattr(cls, 'fit', lambda self, *a, **k: seen.append(k) or real(self, *a, **k))
    pred = fit_arm(name, table, n_estimators=10, native=native)['pred']
    assert seen == [{key: [0, 1]} if native else {}] and np.isfinite(pred).all()


@pytest.mark.parametrize('native', [True, False])
def test_xgboost_reads_which_columns_are_categories_from_their_type(table, fake, monkeypatch, native):
    fit_trees(table, 0, package='fake_trees', stem='XGB', native=native)
    assert [isinstance(o, pd.CategoricalDtype) for o in fake['x'].dtypes] == [native, native, False, False]
    assert fake['init'].get('enable_categorical', False) == native and fake['fit'] == {}
    if native: assert fake['test'].dtypes.equals(fake['x'].dtypes) and len(fake['x'][0].cat.categories) == 7


@pytest.mark.parametrize('name', ['xgb', 'lgbm', 'catboost'])
def test_native_categories_split_where_codes_cannot(name):
    need(name)
    df = make_df(600)
    df['price'] = df.shop.isin(['a', 'c', 'e']).astype(float)
    table = make_table(df=df, n=600)
    native, codes = (fit_arm(name, table, n_estimators=1, learning_rate=1., native=o)['pred'] for o in (True, False))
    assert not np.allclose(native, codes)


@pytest.mark.slow
@pytest.mark.parametrize('name', [o for o in single if getattr(METHODS[o].fitter, 'func', None) is fit_trees])
def test_trees_learn(name, either):
    need(name)
    pred, y = fit_arm(name, either, n_estimators=50)['pred'], either.targets(either.test_idx)
    if either.classes: assert np.mean(pred.argmax(1) == y) > np.bincount(y).max()/len(y)
    else: assert np.mean((pred[:, 0]-y)**2) < .9*np.var(y)


# --- Arms ---

@pytest.mark.slow
@pytest.mark.parametrize('name', single)
def test_every_arm_runs(name, either):
    need(name)
    fit = fit_arm(name, either, **tiny)
    assert fit['pred'].shape == (40, 3 if either.classes else 1) and np.isfinite(fit['pred']).all()
    if either.classes: assert np.allclose(fit['pred'].sum(1), 1, atol=1e-5) and fit['pred'].min() >= 0
    has_curve = 'epochs' in METHODS[name].settings and name != 'deep-ensemble'
    assert fit['pred'].dtype == np.float32
    assert fit['seconds'] > 0 and ('curve' in fit) == has_curve


@pytest.mark.slow
@pytest.mark.parametrize('name', single)
def test_drawn_settings_can_be_run(name, table):
    need(name)
    for i in (1, 2, 3):
        drawn = method(name, **tiny).draw(i)
        assert json.loads(json.dumps(drawn.settings)).keys() == drawn.settings.keys()
        assert np.isfinite(drawn.fit(table, 0, 'cpu')['pred']).all()


def test_every_setting_to_search_is_one_that_the_method_has_and_its_own_is_not_the_only_one():
    for name, arm in METHODS.items():
        assert not set(arm.space) & set(getattr(arm.fitter, 'keywords', ())), name
        assert all(len(set(map(str, v))) == len(v) > 1 for v in arm.space.values()), name
        assert {*arm.space, *arm.settings, *arm.optional} == {*arm.examples}


def test_nets_share_their_space():
    for name in ('dropout', 'scaled', 'trainable', 'frozen'):
        assert METHODS['dense'].space.items() <= METHODS[name].space.items()
    assert METHODS['fastai'].space.items() <= METHODS['dense'].space.items()
    trainable, frozen = METHODS['trainable'], METHODS['frozen']
    assert trainable.space == frozen.space and trainable.settings == frozen.settings


@pytest.mark.parametrize('text, value', [
    ('0.8', .8), ('3', 3), ('(200,100)', (200, 100)), ('[20, 10]', [20, 10]), ('feature', 'feature'),
    ('None', None), ("''", ''), ('1e-3', .001), ('a b', 'a b')])
def test_read_value(text, value):
    found = _read_value(text)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize('value', [.8, 1e-5, 3, True, (200, 100), (5,), 'feature', '', '3', 'None', 'a b'])
def test_the_text_of_a_value_is_read_as_the_value(value):
    found = _read_value(_text(value))
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize('text, name, changed', [
    ('dense', 'dense', {}), ('trainable,weight_p=0.8', 'trainable', dict(weight_p=.8)),
    ('frozen,layers=(50,20),unit=feature,lr=0.001', 'frozen', dict(layers=(50, 20), unit='feature', lr=.001)),
    ('rf,max_features=sqrt', 'rf', dict(max_features='sqrt')),
    ('default,y_scale=False', 'default', dict(y_scale=False)),
    ('trainable,wd=0,l1=1e-05', 'trainable', dict(wd=0, l1=1e-5))])
def test_read_method(text, name, changed):
    found = read_method(text)
    assert (found.name, found.given, found.label) == (name, changed, text)
    assert found == METHODS[name].variant(**changed) and hash(found) == hash(METHODS[name].variant(**changed))
    assert found.settings == {**METHODS[name].settings, **changed}


def test_one_label_for_all_ways_to_write_a_setting():
    for text in ('dense,lr=1e-3,layers=[50,20]', 'dense,lr=.001,layers=(50, 20)'):
        assert read_method(text).label == 'dense,lr=0.001,layers=(50,20)'
    assert METHODS['dense'].variant(lr=np.float64(.001), bs=np.int64(64)).label == 'dense,lr=0.001,bs=64'


@pytest.mark.parametrize('text', ['wd', 'wd=', '=3', 'a b=3', ''])
def test_what_is_no_setting(text):
    with pytest.raises(argparse.ArgumentTypeError, match='write name=value, such as wd=0.1'): read_setting(text)
    assert read_setting('layers=(200,100)') == ('layers', (200, 100)) and read_setting('a=b=c') == ('a', 'b=c')


def test_a_variants_own_settings_come_first_then_the_shared_ones_then_the_methods():
    given = dict(lr=.1, wd=.2, n_estimators=5, nothing=1)
    assert shared('trainable,lr=.5', **given) == {**METHODS['trainable'].settings, 'lr': .5, 'wd': .2}
    assert shared('rf', lr=.1) == METHODS['rf'].settings
    assert METHODS['trainable'].settings['lr'] == .01
    again = read_method('trainable,lr=.5').with_shared(wd=.2).with_shared(epochs=3, lr=.1)
    assert (again.settings['wd'], again.settings['epochs'], again.settings['lr']) == (.2, 3, .5)
    assert METHODS['dense'].with_shared(wd=0).with_shared(wd=.1).settings['wd'] == .1
    assert again.label == 'trainable,lr=0.5' and again != METHODS['trainable'].variant(lr=.5)


def test_a_blend_hands_shared_settings_to_its_parts():
    need('blend')
    blend = METHODS['blend'].with_shared(lr=.1, n_estimators=5)
    assert [o.label for o in blend.parts] == ['rf', 'et', 'xgb', 'fastai'] and blend.settings == {}
    assert [o.settings.get('n_estimators') for o in blend.parts] == [5, 5, 5, None]
    assert blend.parts[3].settings['lr'] == .1 and METHODS['blend'].parts[3].settings['lr'] == .01
    assert blend.takes >= {'lr', 'n_estimators'} and blend.requires == ('xgboost',) and blend.n_ticks == 1
    assert not blend.space and blend != METHODS['blend']


def test_a_blend_is_the_mean_of_its_parts(table):
    need('blend')
    blend = METHODS['blend'].with_shared(**tiny)
    fits = [o.fit(table, 2, 'cpu') for o in blend.parts]
    found = blend.combine(fits)
    assert np.allclose(found['pred'], np.mean([o['pred'] for o in fits], axis=0)) and found['pred'].shape == (40, 1)
    assert found['seconds'] == sum(o['seconds'] for o in fits)
    with pytest.raises(ValueError, match="'blend' is the mean of rf, et, xgb, fastai: fit those"): blend.fit(table, 2)


@pytest.mark.parametrize('name', [o for o in METHODS if METHODS[o].authors])
def test_settings_for_all_arms_leave_alone_what_follows_its_authors(name):
    need(name)
    recipe = METHODS[name]
    everything = {k: v for k, v in recipe.examples.items()} | dict(lr=.5, wd=.5, bs=7, epochs=2)
    assert METHODS[name].with_shared(**everything) == METHODS[name] and METHODS[name].takes == set()
    drawn, free = (o.draw(3) for o in (METHODS[name].with_shared(**everything), METHODS[name]))
    assert drawn == free != METHODS[name] and METHODS[name].variant(lr=.5).settings['lr'] == .5


@pytest.mark.parametrize('name, n', [('dense', 8), ('rf', 1), ('deep-ensemble', 64), ('default', 8), ('tabm', 1),
                                     ('deep-ensemble,nets=2,epochs=3', 6), ('realmlp', 1)])
def test_n_ticks(name, n):
    need(name.split(',')[0])
    assert read_method(name).n_ticks == n


@pytest.mark.slow
@pytest.mark.parametrize('name', single)
def test_a_fit_ticks_as_often_as_it_says(name, table):
    need(name)
    found, ticks = method(name, **{**tiny, 'epochs': 2}), []
    found.fit(table, 0, 'cpu', lambda: ticks.append(1))
    assert len(ticks) == found.n_ticks


def test_methods_survive_pickling_and_say_what_they_are():
    found = pickle.loads(pickle.dumps(read_method('trainable,weight_p=0.8').with_shared(epochs=3)))
    assert found == read_method('trainable,weight_p=0.8').with_shared(epochs=3) and len({found, found}) == 1
    assert repr(found).startswith('Method trainable,weight_p=0.8 (epochs=3, bs=None,') and found != 'trainable'


@pytest.mark.parametrize('name, settings, match', [
    ('rf2', {}, "method='rf2' is unknown: choose one of 'fastai', 'dense'"), ('', {}, "method='' is unknown"),
    ('dense,wd', {}, "method='dense,wd' is unknown"),
    ('rf,epochs=3', {}, "'rf,epochs=3': 'rf' has no setting 'epochs': choose some of 'n_estimators'"),
    ('rf,self=3', {}, "'rf' has no setting 'self'"),
    ('blend,lr=1', {}, "'blend' has no setting 'lr': choose some of none"),
    ('trainable,mask=frozen', {}, "'trainable' has no setting 'mask'"),
    ('trainable,weight_p=1', {}, 'weight_p=1 is not the fraction'), ('frozen', dict(weight_p=-.1), 'weight_p=-0.1'),
    ('frozen', dict(weight_p='half'), "weight_p='half' is not"), ('scaled,scale_p=1.5', {}, '=1.5 is not the fraction'),
    ('members-dense,members=0', {}, 'members=0: give at least 1'), ('members-dense', dict(members=.5), 'members=0.5: '),
    ('deep-ensemble,nets=0', {}, 'nets=0: give at least 1'), ('deep-ensemble,members=2', {}, "no setting 'members'"),
    ('members-masked,mask=froze', {}, "mask='froze' is unknown"), ('members-dense,mask=frozen', {}, "setting 'mask'"),
    ('dense,bs=0', {}, 'bs=0: give a whole number, 1 or more'), ('default,bs=1.5', {}, 'bs=1.5: give a whole number'),
    ('dense,epochs=0', {}, 'epochs=0: give at least 1'), ('dense', dict(epochs=-1), 'epochs=-1: give at least 1'),
    ('dense,epochs=many', {}, "epochs='many': "), ('dense', dict(epochs=1.5), 'epochs=1.5: '),
    ('lgbm,native=cat', {}, "native='cat': give a value such as"), ('catboost,native=1', {}, 'native=1: give a value'),
    ('tabm,max_epochs=0', {}, 'max_epochs=0: give at least'), ('realmlp,n_epochs=0', {}, 'n_epochs=0: give at least'),
    ('tabm,epochs=3', {}, "'tabm' has no setting 'epochs'"), ('realmlp,hidden_sizes=64', {}, 'hidden_sizes=64: give')])
def test_what_cannot_be(name, settings, match):
    if name.split(',')[0] in METHODS: need(name.split(',')[0])
    with pytest.raises(ValueError, match=match): read_method(name).with_shared(**settings)


def test_a_package_that_is_not_installed(monkeypatch):
    monkeypatch.setattr(bench_methods, 'find_spec', lambda o: None)
    for name, package in (('xgb,max_depth=4', 'xgboost'), ('lgbm', 'lightgbm'), ('catboost', 'catboost'),
                          ('tabm-small', 'tabm'), ('tabm', 'pytabkit'), ('realmlp', 'pytabkit'), ('blend', 'xgboost')):
        with pytest.raises(ValueError, match=rf"needs {package}, .* pip install 'dropconnect_tab\[bench\]'"):
            read_method(name)
    for name in ('dense', 'rf', 'fastai'): read_method(name)


@pytest.fixture
def all_installed(monkeypatch): monkeypatch.setattr(bench_methods, 'find_spec', lambda o: True)


def draws(name, n, **settings):
    "Settings of the first `n` trials, with `settings` for all arms"
    found = read_method(name).with_shared(**settings)
    return [found.draw(i).settings for i in range(n)]


def test_the_first_draw_is_the_arms_own(all_installed):
    for name in METHODS: assert METHODS[name].draw(0) == METHODS[name]
    assert draws('rf,min_samples_leaf=9', 1, n_estimators=7) == [shared('rf,min_samples_leaf=9', n_estimators=7)]


def test_draws_are_always_the_same_and_keep_the_label():
    assert draws('frozen', 9) == draws('frozen', 9)
    assert len({str(o) for o in draws('frozen', 30)}) > 25
    assert read_method('frozen,lr=.5').draw(3).label == 'frozen,lr=0.5'


def test_draws_are_values_of_the_space(all_installed):
    for name, arm in METHODS.items():
        drawn = draws(name, 100)
        for k, values in arm.space.items():
            assert {o[k] for o in drawn[1:]} == set(values), (name, k)
        assert all(o[k] == v for o in drawn for k, v in arm.settings.items() if k not in arm.space)


def test_a_trial_has_the_same_shared_settings_in_all_arms(all_installed):
    drawn = {o: draws(o, 20)[1:] for o in METHODS}
    nets = ['dense', 'dropout', 'scaled', 'trainable', 'frozen']
    for keys, names in ((('epochs', 'bs', 'wd'), [*nets, 'fastai', 'tabm-small']), (('lr',), [*nets, 'fastai']),
                        (('layers',), nets), (('weight_p', 'unit'), ['trainable', 'frozen']),
                        (('max_features', 'min_samples_leaf'), ['rf', 'et']), (('n_estimators',), ['xgb', 'lgbm']),
                        (('native',), ['xgb', 'lgbm', 'catboost'])):
        for k in keys:
            assert len({str([o[k] for o in drawn[n]]) for n in names}) == 1, k


def test_settings_that_are_shared_or_the_variants_are_not_drawn():
    drawn = draws('trainable,weight_p=0.35', 20, lr=.5, n_estimators=3)
    assert all(o['weight_p'] == .35 and o['lr'] == .5 and 'n_estimators' not in o for o in drawn)
    assert len({o['wd'] for o in drawn}) > 2
    free = draws('trainable', 20)
    assert [o['wd'] for o in drawn] == [o['wd'] for o in free], "what is fixed does not change the other draws"
    with pytest.raises(ValueError, match='weight_p=2'): draws('frozen', 2, weight_p=2)

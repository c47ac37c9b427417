"""Whatever the sizes and the order of events, a mask is drawn once and stays where it was.

`HYPOTHESIS_PROFILE=long pytest tests/test_properties.py` generates 2,000 cases; the default is a short look."""
import copy
import os
import tempfile
from pathlib import Path

import pytest
import torch
from conftest import hidden, make_dls, plain_learner
from fastai.tabular.all import SGD, Adam, set_seed, tabular_learner
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from dropconnect_tab.all import DropConnectCallback, WeightMasks

health = dict(deadline=None, suppress_health_check=list(HealthCheck))
settings.register_profile('short', max_examples=60, derandomize=True, **health)
settings.register_profile('long', max_examples=2000, **health)
profile = settings.get_profile(os.environ.get('HYPOTHESIS_PROFILE', 'short'))


@pytest.fixture(scope='module')
def dls():
    with tempfile.TemporaryDirectory() as d: yield make_dls(n=80, bs=32, path=Path(d))


sizes = st.lists(st.integers(2, 40), min_size=1, max_size=3)
ps = st.one_of(st.sampled_from([.2, .5, .8]), st.floats(0.01, .95))
events = st.lists(st.sampled_from(['validate', 'get_preds', 'lr_find', 'fit', 'one_cycle', 'save_load', 'deepcopy',
                                   'second callback', 'fresh learner', 'new optimizer']), min_size=1, max_size=6)


def weights(learn): return {n: l.weight.detach().clone() for n, l in hidden(learn.model).items()}
def same(a, b): return all(torch.equal(a[n], b[n]) for n in a)


class Case:
    "One learner, and what is known of its mask"
    def __init__(self, dls, layers, weight_p, mask, unit, door, opt):
        self.given = dict(weight_p=weight_p, unit=unit, seed=3, mask=mask)
        self.dls, self.layers, self.door, self.opt = dls, layers, door, opt
        self.trained, self.learn = False, self.make()
        self.keeps = WeightMasks(self.learn.model, weight_p, unit=unit, seed=3).draw()

    def make(self, start=True):
        kwargs = dict(layers=list(self.layers), opt_func=self.opt)
        if self.door == 'model': return plain_learner(self.dls, **self.given, **kwargs)
        return tabular_learner(self.dls, cbs=DropConnectCallback(start=start, **self.given), **kwargs)

    def do(self, event):
        learn, before = self.learn, weights(self.learn)
        with learn.no_bar(), learn.no_logging():
            if event == 'validate': learn.validate()
            elif event == 'get_preds': learn.get_preds()
            elif event == 'lr_find': learn.lr_find(show_plot=False, num_it=6, suggest_funcs=None)
            elif event == 'save_load':
                learn.save('m', with_opt=learn.opt is not None)
                learn.load('m', with_opt=learn.opt is not None)
            elif event == 'deepcopy':
                # What lr_find leaves behind, and no learner of fastai's can be copied with
                vars(learn.dls.train).pop('it', None)
                learn.loss_grad = None
                self.learn = copy.deepcopy(learn)
            elif event == 'fresh learner' and self.trained:
                learn.save('m', with_opt=False)
                self.learn = self.make(start=False)
                self.learn.load('m')
            if event in ('validate', 'get_preds', 'lr_find', 'save_load', 'deepcopy', 'fresh learner'):
                assert same(before, weights(self.learn)) or (event == 'fresh learner' and not self.trained), event
                return
            if event == 'new optimizer': learn.fit(1, reset_opt=True)
            elif event == 'second callback': learn.fit(1, cbs=DropConnectCallback(mask=self.given['mask']))
            else: getattr(learn, {'fit': 'fit', 'one_cycle': 'fit_one_cycle'}[event])(1, 1e-2)
            self.trained = True

    def check(self):
        for n, w in weights(self.learn).items():
            keep, frozen = self.keeps[n], self.given['mask'] == 'frozen'
            if self.door == 'model' and not self.trained or self.trained and frozen:
                assert torch.equal(w != 0, keep), n
                assert not w.view(torch.int32)[~keep].any(), n
            elif not self.trained: assert w.all(), n
            starts = torch.tensor([0, *self.groups[:-1]]).cumsum(0)
            pairs = keep[:, starts] if self.given['unit'] == 'feature' and n == 'layers.0.0' else keep
            assert int((~pairs).sum()) == round(self.given['weight_p']*pairs.numel())

    @property
    def groups(self): return [e.embedding_dim for e in self.learn.model.embeds] + [1]*self.learn.model.n_cont


@pytest.mark.slow
@settings(profile)
@given(sizes, ps, st.sampled_from(['trainable', 'frozen']), st.sampled_from(['weight', 'feature']),
       st.sampled_from(['model', 'callback']), st.sampled_from([Adam, SGD]), events)
def test_events_in_any_order(dls, layers, weight_p, mask, unit, door, opt, events):
    set_seed(0)
    try: case = Case(dls, layers, weight_p, mask, unit, door, opt)
    except ValueError as e:
        assert 'drops all' in str(e)
        assume(False)
    case.check()
    for event in events:
        case.do(event)
        case.check()


@pytest.mark.slow
@settings(profile)
@given(sizes, ps, st.integers(1, 3))
def test_a_trainable_start_is_drawn_once(dls, layers, weight_p, n_fits):
    "With a learning rate of 0 nothing grows back, so a second draw would show as a second scaling"
    set_seed(0)
    learn = tabular_learner(dls, layers=list(layers), opt_func=SGD, cbs=DropConnectCallback(weight_p, seed=3))
    before = weights(learn)
    try:
        with learn.no_bar(), learn.no_logging():
            for _ in range(n_fits): learn.fit(1, lr=0.)
    except ValueError as e:
        assert 'drops all' in str(e)
        assume(False)
    for n, keep in learn.model.weight_masks.keeps.items():
        assert torch.allclose(weights(learn)[n], before[n]*keep/(1-weight_p)**.5, atol=1e-6)

"""Random lives of a learner: what is done to it is drawn by hypothesis, the contract is checked after each step.

`HYPOTHESIS_PROFILE=soak pytest tests/test_soak.py` lives 1,000 lives; the default is a short look. A life that fails is
printed step by step, with the seed that brings it back (`--hypothesis-seed`)."""
import copy
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from fastai.tabular.all import (SGD, Adam, Callback, CancelEpochException, CancelFitException, load_learner, set_seed,
                                tabular_learner)
from helpers import hidden, make_df, make_dls, plain_learner
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule, run_state_machine_as_test

from dropconnect_tab.all import DropConnectCallback, WeightMasks
from dropconnect_tab.layers import DropConnectLinear

pytestmark = pytest.mark.slow

health = dict(deadline=None, suppress_health_check=list(HealthCheck))
lives = dict(short=settings(max_examples=24, stateful_step_count=8, derandomize=True, **health),
             soak=settings(max_examples=1000, stateful_step_count=12, print_blob=True, **health))


class Stop(Callback):
    "Ends a fit in the middle, after `n` batches"
    def __init__(self, n, error): self.n, self.error = n, error

    def after_step(self):
        if self.train_iter >= self.n: raise self.error


def weights(learn): return {n: l.weight.detach().clone() for n, l in hidden(learn.model).items()}


class Life(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.dls = make_dls(n=80, bs=16, path=Path(self.folder.name))

    def teardown(self): self.folder.cleanup()

    def make(self, start=True, mask=None):
        kwargs = {**self.settings, 'mask': mask or self.settings['mask']}
        net = dict(layers=list(self.layers), opt_func=self.opt)
        if self.door == 'model': return plain_learner(self.dls, members=self.members, **net, **kwargs)
        return tabular_learner(self.dls, cbs=DropConnectCallback(start=start, **kwargs), **net)

    @initialize(mask=st.sampled_from(['trainable', 'frozen', 'resampled']), door=st.sampled_from(['model', 'callback']),
                members=st.integers(1, 3), unit=st.sampled_from(['weight', 'feature']), opt=st.sampled_from([Adam, SGD]),
                weight_p=st.one_of(st.sampled_from([.2, .5, .8]), st.floats(.1, .9)),
                layers=st.lists(st.integers(4, 40), min_size=1, max_size=3))
    def born(self, mask, door, members, unit, opt, weight_p, layers):
        set_seed(0)
        self.door, self.opt, self.members, self.layers = door, opt, members if door == 'model' else 1, layers
        self.settings = dict(mask=mask, weight_p=weight_p)
        if mask != 'resampled': self.settings |= dict(seed=3, unit=unit)
        self.learn, self.steps, self.aborted = self.make(), 0, False
        self.keeps = {} if mask == 'resampled' else WeightMasks(self.learn.model, weight_p, unit=unit, seed=3).draw()
        self.keys = list(self.learn.model.state_dict())
        groups = [e.embedding_dim for e in self.learn.model.embeds] + [1]*self.learn.model.n_cont
        for n, keep in self.keeps.items():  # weights, or pairs of a neuron and a column, are counted
            first = torch.tensor([0, *groups[:-1]]).cumsum(0)
            for k in keep if keep.ndim == 3 else [keep]:
                pairs = k[:, first] if unit == 'feature' and n == 'layers.0.0' else k
                assert int((~pairs).sum()) == round(weight_p*pairs.numel())

    @property
    def mask(self): return self.settings['mask']

    @property
    def started(self): return self.door == 'model' or self.steps > 0

    def fit(self, fit, **kwargs):
        before, started = weights(self.learn), self.started
        with self.learn.no_bar(), self.learn.no_logging():
            try: fit(1, 1e-2, **kwargs)
            except KeyboardInterrupt: self.aborted = True  # fastai runs no `after_fit` then
            else: self.aborted = False
        self.steps += 1
        if self.mask == 'trainable' and started:  # what has grown back is not dropped again
            for n, w in weights(self.learn).items(): assert not (w.eq(0) & before[n].ne(0)).any(), n
        assert any(not torch.equal(w, before[n]) for n, w in weights(self.learn).items())

    @rule(how=st.sampled_from(['fit', 'fit_one_cycle', 'with a second callback', 'with a new optimizer']))
    def train(self, how):
        if self.mask == 'resampled' and 'second' in how: return  # a net is resampled by one callback
        more = {'with a second callback': dict(cbs=DropConnectCallback(mask=self.mask)),
                'with a new optimizer': dict(reset_opt=True)}
        self.fit(getattr(self.learn, how, self.learn.fit), **more.get(how, {}))

    @rule(n=st.integers(0, 2), error=st.sampled_from([CancelFitException, CancelEpochException, KeyboardInterrupt]))
    def interrupted(self, n, error): self.fit(self.learn.fit, cbs=Stop(n, error))

    @rule(with_opt=st.booleans())
    def save_and_load(self, with_opt):
        before, with_opt = weights(self.learn), with_opt and self.learn.opt is not None
        self.learn.save('life', with_opt=with_opt)
        with torch.no_grad():
            for l in hidden(self.learn.model).values(): l.weight.fill_(1.)
        self.learn.load('life', with_opt=with_opt)
        self.unchanged(before)

    @precondition(lambda self: self.started)
    @rule()
    def taken_up_by_another(self):
        before = weights(self.learn)
        self.learn.save('life', with_opt=False)
        self.learn = self.make(start=False)
        self.learn.load('life')
        self.unchanged(before)

    @precondition(lambda self: self.started and self.mask == 'frozen')
    @rule()
    def set_free(self):
        "From here on, dropped weights may grow back"
        before = weights(self.learn)
        self.learn.save('life', with_opt=False)
        self.learn = self.make(start=False, mask='trainable')
        self.learn.load('life')
        self.settings['mask'] = 'trainable'
        self.unchanged(before)

    @rule()
    def copied(self):
        before = weights(self.learn)
        # what fastai leaves of a batch that was cut short cannot be copied, with or without masks
        for k in ('pred', 'loss', 'loss_grad', 'yb', 'xb'): vars(self.learn).pop(k, None)
        for dl in self.learn.dls: vars(dl).pop('it', None)
        self.learn = copy.deepcopy(self.learn)
        self.unchanged(before)

    @rule()
    def exported(self):
        self.learn.export('life.pkl')
        other, df = load_learner(Path(self.folder.name)/'life.pkl'), make_df(20, seed=1)
        preds = []
        for learn in (self.learn, other):
            with learn.no_bar(): preds.append(learn.get_preds(dl=learn.dls.test_dl(df))[0])
        assert torch.equal(*preds)

    @rule()
    def searched_and_validated(self):
        before = weights(self.learn)
        with self.learn.no_bar(), self.learn.no_logging():
            self.learn.lr_find(show_plot=False, num_it=4, suggest_funcs=None)
            a, b = (self.learn.get_preds()[0] for _ in range(2))
            self.learn.validate()
        assert torch.equal(a, b) and np.isfinite(a).all()
        self.unchanged(before)

    def unchanged(self, before):
        for n, w in weights(self.learn).items(): assert torch.equal(w, before[n]), n

    @invariant()
    def contract(self):
        if not hasattr(self, 'learn'): return
        model = self.learn.model
        assert list(model.state_dict()) == self.keys
        for p in model.parameters(): assert p.isfinite().all()
        for n, l in hidden(model).items():
            if self.mask == 'resampled':
                assert l.weight.ne(0).all()
                assert self.aborted or (type(l) is DropConnectLinear) == (self.door == 'model')
            elif self.mask == 'frozen' and self.started or self.door == 'model' and self.steps == 0:
                assert torch.equal(l.weight != 0, self.keeps[n]), n
                assert not l.weight.detach().view(torch.int32)[~self.keeps[n]].any(), f'{n}: -0.0'
            elif not self.started: assert l.weight.ne(0).all(), n


@settings(max_examples=30, derandomize=True, **health)
@given(st.lists(st.integers(2, 40), min_size=1, max_size=3), st.one_of(st.sampled_from([.2, .5, .8]), st.floats(0.01, .95)),
       st.integers(1, 3))
def test_a_trainable_start_is_drawn_once(dls, layers, weight_p, n_fits):
    "With a learning rate of 0 nothing grows back, so a second draw would show as a second scaling"
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


def test_lives():
    run_state_machine_as_test(Life, settings=lives[os.environ.get('HYPOTHESIS_PROFILE', 'short')])

"Averaged weights: what is averaged, when the average is there, when the rate is lowered, and when training stops."
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.tabular.all import (
    Callback, CancelFitException, GradientAccumulation, LabelSmoothingCrossEntropyFlat, SaveModelCallback,
    TrackerCallback, set_seed, tabular_learner, trainable_params)
from helpers import hidden, make_df, make_dls, plain_learner

from dropconnect_tab.averaging import AverageWeights, KeepBest, LowerRate, TimeLimit, max_epochs
from dropconnect_tab.learner import dropconnect_learner
from dropconnect_tab.sklearn import DropConnectClassifier, DropConnectRegressor


def weights(model): return {k: v.clone() for k, v in model.state_dict().items()}


class Watch(Callback):
    "The weights after each step, at each validation, and at the end of each epoch"
    order = 56
    def before_fit(self): self.steps, self.validated, self.ended = [], [], []
    def after_step(self): self.steps.append(weights(self.learn.model))
    def before_validate(self): self.validated.append(weights(self.learn.model))
    def after_epoch(self): self.ended.append(weights(self.learn.model))


class Losses(Callback):
    "Validation losses as they are given, in place of those of the net"
    order = 59
    def __init__(self, losses): self.losses, self.rates = losses, []
    def before_epoch(self): self.rates.append(None)
    def after_batch(self): self.rates[-1] = self.learn.opt.hypers[-1]['lr']
    def after_epoch(self): self.learn.recorder.values[-1][1] = self.losses[self.epoch]


def quiet(learn):
    learn.remove_cbs([o for o in learn.cbs if o.name in ('progress', 'progress_callback')])
    learn.logger = lambda o: None
    return learn


def learner(dls=None, make=tabular_learner, **kwargs):
    set_seed(0, reproducible=True)
    return quiet(make(dls or make_dls(), layers=[10], **kwargs))


@pytest.mark.parametrize('power', [0., 3.])
def test_the_average_is_what_the_paper_says(power):
    learn, watch = learner(), Watch()
    learn.fit(3, 1e-2, cbs=[AverageWeights(power, times=100), watch])
    expected = watch.steps[0]
    for t, o in enumerate(watch.steps, 1):
        a = (power+1)/(t+power)
        expected = {k: (1-a)*v + a*o[k] if v.is_floating_point() else o[k] for k, v in expected.items()}
    for k, v in learn.model.state_dict().items(): torch.testing.assert_close(v, expected[k])
    if power == 0:
        mean = torch.stack([o['layers.0.0.weight'] for o in watch.steps]).mean(0)
        torch.testing.assert_close(learn.model.layers[0][0].weight.data, mean)


def test_times_says_how_often_weights_enter():
    a, b = learner(), learner()
    for o, times in ((a, 1), (b, 5)): o.fit(2, 1e-2, cbs=AverageWeights(times=times))
    assert not torch.equal(a.model.layers[0][0].weight, b.model.layers[0][0].weight)


def test_gradients_that_are_accumulated():
    "Of five batches the second and the fourth take a step"
    learn, watch = learner(), Watch()
    learn.fit(1, 1e-2, cbs=[GradientAccumulation(2*64), AverageWeights(power=0, times=4), watch])
    assert len(watch.steps) == 2
    mean = torch.stack([o['layers.0.0.weight'] for o in watch.steps]).mean(0)
    torch.testing.assert_close(learn.model.layers[0][0].weight.data, mean)


def test_training_goes_on_as_if_nothing_were_averaged():
    plain, averaged = Watch(), Watch()
    learner().fit(3, 1e-2, cbs=plain)
    learn = learner()
    learn.fit(3, 1e-2, cbs=[AverageWeights(), averaged])
    for a, b in zip(plain.steps, averaged.steps, strict=True):
        for k, v in a.items(): assert torch.equal(v, b[k])
    for a, b in zip(averaged.validated, averaged.ended, strict=True):  # and what a callback would save is the average
        for k, v in a.items(): assert torch.equal(v, b[k])
    assert not torch.equal(averaged.ended[0]['layers.0.0.weight'], averaged.steps[4]['layers.0.0.weight'])
    for k, v in weights(learn.model).items(): assert torch.equal(v, averaged.ended[-1][k])


def test_a_saved_model_has_the_average(tmp_path):
    learn = learner(make_dls(path=tmp_path))
    learn.fit(2, 1e-2, cbs=[AverageWeights(), SaveModelCallback(every_epoch=True, with_opt=False)])
    last = weights(learn.model)
    learn.load('model_1', with_opt=False)
    for k, v in weights(learn.model).items(): assert torch.equal(v, last[k])


@pytest.mark.parametrize('mask', ['trainable', 'frozen', 'resampled'])
@pytest.mark.parametrize('members', [1, 3])
def test_members_and_masks_are_averaged(mask, members):
    learn = learner(make=plain_learner, mask=mask, members=members, weight_p=.5)
    learn.fit_averaged(2)
    zeros = [float((o.weight == 0).float().mean()) for o in hidden(learn.model).values()]
    assert all(o == pytest.approx(.5, abs=.05) for o in zeros) if mask == 'frozen' else max(zeros) < .1
    assert np.isfinite(learn.validate()[0])


def test_a_cancelled_fit_ends_with_the_average():
    class Cancel(Callback):
        def before_batch(self):
            if self.training and self.epoch == 1 and self.iter == 2: raise CancelFitException
    learn, watch, cb = learner(), Watch(), AverageWeights()
    learn.fit(3, 1e-2, cbs=[cb, watch, Cancel()])
    assert not torch.equal(learn.model.layers[0][0].weight, watch.steps[-1]['layers.0.0.weight'])
    assert cb.mean is None and cb.own is None  # nothing is held after the fit


def test_lr_find_and_predictions_leave_it_alone():
    learn = learner(cbs=AverageWeights())
    before = weights(learn.model)
    learn.lr_find(show_plot=False, num_it=5)
    learn.get_preds()
    for k, v in weights(learn.model).items(): assert torch.equal(v, before[k])


@pytest.mark.parametrize('kwargs, message', [(dict(power=-1), 'power=-1'), (dict(times=0), 'times=0'),
                                             (dict(times=1.5), 'times=1.5')])
def test_wrong_averages(kwargs, message):
    with pytest.raises(ValueError, match=message): AverageWeights(**kwargs)


def with_settings(cb, **settings):
    for k, v in settings.items(): setattr(cb, k, v)
    return cb


def keep_best(*args, slow=0., fall=0., **kwargs): return with_settings(KeepBest(*args, **kwargs), slow=slow, fall=fall)


@pytest.mark.parametrize('kwargs, epochs, best', [
    (dict(patience=2), 5, 3), (dict(patience=3), 9, 7), (dict(patience=2, start=.5), 9, 7),
    (dict(patience=1, slow=1.), 10, 7), (dict(patience=2, fall=.5), 3, 3)])
def test_when_it_stops_and_what_it_keeps(kwargs, epochs, best):
    losses, watch = [5., 4., 3., 3.1, 3.2, 2.9, 2.5, 2.6, 2.7, 2.8], Watch()
    learn = learner()
    learn.fit(10, 1e-2, cbs=[Losses(losses), watch, keep_best(**kwargs)])
    assert len(learn.recorder.values) == (10 if kwargs == dict(patience=3) else epochs)
    for k, v in weights(learn.model).items(): assert torch.equal(v, watch.ended[best-1][k])


def test_negative_losses_and_losses_that_are_no_number():
    learn, watch = learner(), Watch()
    learn.fit(9, 1e-2, cbs=[Losses([-1., -2., -3., -2.9, -2.8, 0., 0., 0., 0.]), watch, keep_best(2, fall=.1)])
    assert len(learn.recorder.values) == 5
    for k, v in weights(learn.model).items(): assert torch.equal(v, watch.ended[2][k])
    learn = learner()
    learn.fit_averaged(cbs=Losses([float('nan')]*60))
    assert len(learn.recorder.values) < 10
    for first in (float('nan'), float('inf')):  # a later fall counts
        learn, losses = learner(), Losses([first]+[1/i for i in range(1, 60)])
        learn.fit_averaged(lr=1e-2, cbs=losses)
        assert len(learn.recorder.values) > 30 and np.allclose(losses.rates[1:], 1e-2)


def test_the_rate_is_lowered_before_training_stops():
    learn, losses = learner(), Losses([5., 4., 3., 3., 3., 3., 2., 2., 2., 2., 2., 2., 2.] + [2.]*50)
    learn.fit_averaged(lr=1e-2, cbs=losses)
    rates = np.round(losses.rates, 6).tolist()
    assert rates[1:6] == [1e-2]*5 and rates[6:10] == [2e-3]*4 and rates[10:] == [4e-4]*4


@pytest.mark.parametrize('kwargs', [dict(patience=2), dict(slow=1.), dict(fall=.9), dict(times=1), dict(factor=.5)], ids=str)
def test_each_setting_of_the_lowered_rate(kwargs):
    def rates(patience=3, **settings):
        learn, losses, average = learner(), Losses([5., 4., 3., 2.9, 2.8, 2.7] + [2.7]*54), AverageWeights()
        best = with_settings(LowerRate(average, patience), **settings)
        class Rate(Callback):
            def before_batch(self):
                if self.training: self.learn.opt.set_hyper('lr', 1e-2*best.scale)
        learn.fit(60, 1e-2, cbs=[average, best, losses, Rate()])
        return losses.rates
    assert rates(**kwargs) != rates()


def test_a_number_of_epochs_is_kept_to():
    learn, losses = learner(), Losses([1.] + [9.]*11)
    learn.fit_averaged(12, cbs=losses)
    assert len(learn.recorder.values) == 12 and len({round(o, 6) for o in losses.rates[1:]}) == 1


def test_epochs_that_are_done_are_skipped():
    learn = learner()
    learn.fit_averaged(start_epoch=2, patience=1)
    losses = [o[1] for o in learn.recorder.values if len(o)]
    assert len(losses) == len(learn.recorder.values)-2 > 2 and learn.validate()[0] == pytest.approx(min(losses))


def test_the_rate_rises_in_the_first_epoch():
    learn = learner(lr=.02)
    learn.fit_averaged(2)
    rates = learn.recorder.hps['lr']
    assert rates[0] == pytest.approx(.02/25) and rates[5:] == [pytest.approx(.02)]*5 and rates == sorted(rates)


def test_rates_of_groups_and_what_is_passed_on():
    def split(model): return [trainable_params(model.layers[0]), trainable_params(model.layers[1])]
    learn = learner(splitter=split)
    seen = []
    class Hypers(Callback):
        def after_batch(self): seen.append([(o['lr'], o['wd']) for o in self.learn.opt.hypers])
    learn.fit_averaged(2, slice(1e-4, 1e-2), wd=.3, cbs=Hypers(), start_epoch=1)
    assert seen[-1] == [(pytest.approx(1e-4), .3), (pytest.approx(1e-2), .3)] and not learn.recorder.values[0]
    opt = learn.opt
    learn.fit_averaged(1)
    assert learn.opt is opt
    learn.fit_averaged(1, reset_opt=True)
    assert learn.opt is not opt


@pytest.mark.parametrize('kwargs, message', [
    (dict(n_epoch=0), 'n_epoch=0'), (dict(n_epoch=1.5), 'n_epoch=1.5'), (dict(patience=0), 'patience=0')])
def test_wrong_settings_of_a_fit(kwargs, message):
    with pytest.raises(ValueError, match=message): learner().fit_averaged(**kwargs)


def test_without_validation_rows_it_must_know_the_epochs():
    dls = make_dls()
    dls.loaders[1] = dls.valid.new(dls.valid_ds.iloc[:0])
    with pytest.raises(ValueError, match='n_epoch=None needs validation rows'): learner(dls).fit_averaged()
    learner(dls).fit_averaged(1)


def test_how_long_it_may_take():
    assert [max_epochs(o) for o in (10, 8333, 20_000, 10**7)] == [60, 60, 25, 10]


@pytest.fixture
def clock(monkeypatch):
    "A second passes each time that the callback looks at the time: at the start of a fit, and after each training batch"
    now = iter(range(10**6))
    monkeypatch.setattr('dropconnect_tab.averaging.monotonic', lambda: next(now))


def test_a_fit_ends_when_its_time_is_over(clock):
    learn, watch = learner(cbs=TimeLimit(7)), Watch()
    for _ in range(2):  # the time is that of each fit
        learn.fit(3, 1e-2, cbs=[watch, AverageWeights()])
        assert len(watch.steps) == 8 and len(watch.ended) == 1  # of five steps an epoch
        assert not torch.equal(learn.model.layers[0][0].weight, watch.steps[-1]['layers.0.0.weight'])


def test_the_best_weights_are_there_when_the_time_is_over(clock):
    learn, watch = learner(), Watch()
    learn.fit_averaged(lr=1e-2, cbs=[TimeLimit(12), watch])
    best = watch.ended[np.argmin([o[1] for o in learn.recorder.values])]
    assert len(watch.ended) == 2
    for k, v in weights(learn.model).items(): assert torch.equal(v, best[k])


def test_predictions_have_all_the_time(clock):
    learn = learner(cbs=TimeLimit(.5))
    assert len(learn.get_preds()[0]) == len(learn.dls.valid_ds) and len(learn.get_preds(0)[0]) == len(learn.dls.train_ds)


@pytest.mark.parametrize('seconds', [0, -1, float('nan')])
def test_no_time_is_an_error(seconds):
    with pytest.raises(ValueError, match=f'seconds={seconds}: give'): TimeLimit(seconds)


# --- estimators ---

SMALL = dict(layers=[8], members=2, n_bins=0, random_state=0)


@pytest.fixture
def few(monkeypatch): monkeypatch.setattr('dropconnect_tab.sklearn._FEW_TO_JUDGE', 200)


def estimate(cls=DropConnectRegressor, n=200, fit={}, **kwargs):
    df = make_df(n)
    y = df.price if cls is DropConnectRegressor else df.cheap
    return cls(**{**SMALL, **kwargs}).fit(df[['shop', 'size', 'age']], y, **fit)


@pytest.mark.slow
@pytest.mark.parametrize('cls', [DropConnectRegressor, DropConnectClassifier])
def test_rows_that_were_set_aside_join_at_the_end(cls, few):
    est = estimate(cls)
    judged = est.history_.valid_loss.notna()
    epochs, best = int(judged.sum()), int(est.history_.valid_loss.argmin()) + 1
    assert len(est.history_) - epochs == max(2, round(best/4)) and not judged[epochs:].any()
    assert len(est.learner_.dls.train_ds) == 200 and len(est.learner_.dls.valid_ds) == 0
    assert len(est.learner_.recorder.lrs) == len(est.learner_.recorder.losses)


@pytest.mark.slow
def test_valid_pct_and_patience_have_effects(few):
    usual, more, patient = (estimate(**o) for o in ({}, dict(valid_pct=.4), dict(patience=9)))
    assert not np.allclose(usual.history_.valid_loss[0], more.history_.valid_loss[0])
    assert patient.history_.valid_loss.count() > usual.history_.valid_loss.count()


@pytest.mark.slow
def test_few_rows_are_all_trained_on(few):
    est = estimate(n=199)
    assert len(est.history_) == 30 and est.history_.valid_loss.isna().all()


@pytest.mark.slow
def test_a_thousand_rows_are_enough_to_set_some_aside():
    from dropconnect_tab.sklearn import _FEW_TO_JUDGE
    assert _FEW_TO_JUDGE == 1000


@pytest.mark.slow
def test_validation_rows_that_are_given_say_when_to_stop_and_do_not_join():
    df = make_df(300, seed=1)
    est = estimate(n=400, fit=dict(X_val=df[['shop', 'size', 'age']], y_val=df.price))
    assert len(est.learner_.dls.train_ds) == 400 and est.history_.valid_loss.notna().all()
    assert len(est.history_) != 30


@pytest.mark.slow
def test_trackers_see_losses_alone(few):
    class Tracker(TrackerCallback):
        def after_epoch(self):
            super().after_epoch()
            seen.append(self.recorder.values[-1][1])
    seen = []
    est = estimate(cbs=Tracker())
    assert len(seen) == est.history_.valid_loss.count() and all(isinstance(o, float) for o in seen)


@pytest.mark.slow
def test_weights_of_rows_stay_with_their_rows(few):
    "Rows of no use have nearly no weight, before and after the others join"
    df = make_df(600)
    X, spoiled = df[['shop', 'size', 'age']], np.random.default_rng(0).random(600) < .5
    y = df.price.where(~spoiled, -df.price)
    est = DropConnectRegressor(**SMALL).fit(X, y, np.where(spoiled, 1e-6, 1.))
    assert est.score(X[~spoiled], df.price[~spoiled]) > .5


@pytest.mark.slow
def test_a_fit_is_the_same_each_time(few):
    a, b = estimate(), estimate()
    pd.testing.assert_frame_equal(a.history_, b.history_)
    X = make_df(50, seed=2)[['shop', 'size', 'age']]
    assert np.array_equal(a.predict(X), b.predict(X))


@pytest.mark.slow
def test_the_learner_has_the_same_fit():
    learn = learner(make=dropconnect_learner)
    learn.fit_averaged()
    losses = [o[1] for o in learn.recorder.values]
    assert learn.validate()[0] == pytest.approx(min(losses), rel=1e-4)


@pytest.mark.slow
def test_rows_that_were_set_aside_calibrate_a_classifier(few):
    def temperature(**kwargs): return estimate(DropConnectClassifier, n=400, **kwargs).learner_.model.temperature
    assert temperature() > 0
    assert temperature(calibrate=False) is None and temperature(n_epoch=2) is None
    assert temperature(loss_func=LabelSmoothingCrossEntropyFlat()) is None
    assert estimate().learner_.model.temperature is None


@pytest.mark.parametrize('seconds, epochs', [(3, 0), (40, 3)])
def test_an_estimator_whose_time_is_over(few, clock, seconds, epochs):
    "The rows that were set aside join the others only where an epoch is complete"
    est = estimate(cbs=TimeLimit(seconds), bs=16)
    judged = 0 if est.history_.empty else est.history_.valid_loss.count()
    assert judged == epochs and np.isfinite(est.predict(make_df(20)[['shop', 'size', 'age']])).all()
    assert len(est.learner_.dls.valid_ds) == (0 if epochs else 20)

"Estimators as people use them: targets of every type, losses, callbacks of searches, and what is said of a useless net"
import pickle
import threading
import warnings
from decimal import Decimal

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from fastai.callback.tracker import TrackerCallback
from fastai.tabular.all import (
    BCEWithLogitsLossFlat, Callback, CancelFitException, Categorify, CategoryBlock, CrossEntropyLossFlat, CSVLogger, FocalLoss,
    FocalLossFlat, L1LossFlat, LabelSmoothingCrossEntropy, LabelSmoothingCrossEntropyFlat, MSELossFlat, Normalize, TabularPandas)
from helpers import make_df
from sklearn.base import clone
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.class_weight import compute_sample_weight
from torch import nn
from torch.nn import functional as F

from dropconnect_tab.callback import DropConnectCallback
from dropconnect_tab.data import TabTensorDL
from dropconnect_tab.learner import dropconnect_learner
from dropconnect_tab.sklearn import DropConnectClassifier, DropConnectRegressor

SMALL = dict(n_epoch=1, layers=[4], members=1, n_bins=0, bs=16, random_state=0)
BOTH = [DropConnectRegressor, DropConnectClassifier]
X = make_df(60)[['shop', 'size']]
number = X['size'].to_numpy()
label = np.where(number > 0, 'dear', 'cheap')


def make(cls=DropConnectRegressor, **kwargs): return cls(**{**SMALL, **kwargs})


def regress(y, **kwargs): return make().fit(X, y, **kwargs).predict(X)


def classify(y, **kwargs): return make(DropConnectClassifier).fit(X, y, **kwargs)


def target(cls): return number if cls is DropConnectRegressor else label


# Targets

span = pd.Series(pd.to_timedelta((number*3600).round(), unit='s'))
day = pd.Series(pd.Timestamp('2024-01-01') + pd.to_timedelta(np.arange(60), 'D'))
with_units = dict(
    lengths=span, array=span.to_numpy(), objects=span.astype(object), arrow=span.astype('duration[s][pyarrow]'), dates=day,
    zone=day.dt.tz_localize('UTC'), dates_arrow=day.astype('timestamp[s][pyarrow]'), days=day.dt.date,
    day_array=day.to_numpy(), categories=day.astype('category'), periods=day.dt.to_period('D'), clock=day.dt.time, with_gap=span.mask(number > 1),
    second_of_two=pd.DataFrame({'u': number, 'v': span}), a_list=span.tolist())


@pytest.mark.parametrize('name', with_units)
def test_targets_without_a_unit_are_refused(name):
    with pytest.raises(ValueError, match='y is made of (date|time|period).*unit of your choice'): regress(with_units[name])


short = [f'{o:.2f}' for o in number]
rounded = pd.Series(short).astype(float)
as_numbers = dict(strings=pd.Series(short), a_list=short, array=np.array(short), decimals=pd.Series([*map(Decimal, short)]),
                  objects=rounded.astype(object), nullable=rounded.astype('Float64'), arrow=rounded.astype('double[pyarrow]'),
                  categories=pd.Series(short).astype('category'), sparse=rounded.astype('Sparse[float]'))


@pytest.mark.slow
def test_targets_that_are_numbers_in_any_type():
    wanted = regress(rounded.to_numpy())
    for name, y in as_numbers.items(): assert np.array_equal(regress(y), wanted), name
    truth = regress((number > 0).astype(float))
    for y in (number > 0, pd.Series(number > 0, dtype='boolean'), pd.Series(number > 0, dtype=object)):
        assert np.array_equal(regress(y), truth)


@pytest.mark.parametrize('y, message', [
    (label, "y is not made of numbers: .*'cheap'|'dear'.*take DropConnectClassifier"),
    (pd.Series(short).where(number < 1, '12,5'), "y is not made of numbers: .*'12,5'"),
    (number+1j, 'Complex data not supported'), (pd.Series(number).astype('Float64').mask(number > 1), 'y contains NaN'),
    (pd.Series(number > 0, dtype='boolean').mask(number > 1), 'y contains NaN'),
    (np.where(number > 1, np.inf, number), 'infinity'), (pd.Series(pd.interval_range(0, 60)), 'y is not made of numbers')])
def test_targets_that_are_no_numbers(y, message):
    with pytest.raises(ValueError, match=message): regress(y)


@pytest.mark.slow
def test_targets_of_polars_and_arrow():
    pa, pl = pytest.importorskip('pyarrow'), pytest.importorskip('polars')
    for y in (pa.array(number), pa.chunked_array([number]), pl.Series('y', number)):
        assert np.array_equal(regress(y), regress(number))
    for y in (pa.array(span), pl.Series(span), pl.Series(day)):
        with pytest.raises(ValueError, match='unit of your choice'): regress(y)
    wanted = classify(label).predict_proba(X)
    for y in (pa.array(label), pl.Series(label), pl.Series(label, dtype=pl.Categorical)):
        assert np.array_equal(classify(y).predict_proba(X), wanted)
    with pytest.raises(ValueError, match='missing labels'): classify(pl.Series(label.tolist()[:-1] + [None]))


truths = number > 0


@pytest.mark.parametrize('y, classes', [
    (pd.Series(label).astype(pd.CategoricalDtype(['never', 'dear', 'cheap'])), ['cheap', 'dear']),
    (pd.Categorical(label, ['never', 'dear', 'cheap'], ordered=True), ['cheap', 'dear']),
    (pd.Series(truths.astype(int)).astype(pd.CategoricalDtype([2, 1, 0])), [0, 1]),
    (pd.Series(truths).astype('category'), [False, True]), (pd.Series(truths, dtype='boolean'), [False, True]),
    (pd.Series(truths.astype(int)).astype('Int64'), [0, 1]), (pd.Series(truths, dtype=object), [False, True]),
    (truths.astype(int).astype(object), [0, 1]), (truths.astype(float), [0., 1.]),
    (pd.Series(label, dtype='string'), ['cheap', 'dear']), (pd.Series(truths).astype('bool[pyarrow]'), [False, True]),
    (pd.Series(truths, dtype='boolean').to_frame('k'), [False, True]), (pd.array(truths, dtype='boolean'), [False, True]),
    (pd.Index(label), ['cheap', 'dear'])])
def test_labels_of_every_type_come_back(y, classes):
    est = classify(y)
    assert est.classes_.tolist() == classes and {*map(type, est.classes_.tolist())} == {*map(type, classes)}
    assert est.predict_proba(X).shape == (60, 2) and 0 <= est.score(X, y) <= 1
    assert classify(y, X_val=X, y_val=y).classes_.tolist() == classes
    assert est.predict(X[:1]).tolist()[0] in classes


@pytest.mark.parametrize('y, message', [
    (pd.cut(number, 3), 'labels of type Interval: convert them to strings'), (day.dt.to_period('M'), 'labels of type Period'),
    (pd.Series(np.where(truths, 1, 0), dtype=object).mask(number > 1, 'x'), 'labels of type int, str'),
    (day.dt.date, 'type date'), (pd.Series(truths, dtype='boolean').mask(number > 1), 'missing labels'),
    (np.where(number > 1, np.nan, truths), 'missing labels'),
    (pd.Series(label).astype('category').mask(number > 1), 'missing labels'), (number, 'continuous')])
def test_labels_that_are_none(y, message):
    with pytest.raises(ValueError, match=message): classify(y)


def test_a_class_without_weight_is_still_a_class():
    est = classify(np.where(number > 1, 'rare', label), sample_weight=np.where(number > 1, 0., 1.))
    assert est.classes_.tolist() == ['cheap', 'dear', 'rare'] and est.predict_proba(X).shape == (60, 3)


@pytest.mark.parametrize('y, message', [
    (pd.Series(label).astype(pd.CategoricalDtype(['never', 'cheap', 'dear'])),
     r"'y' has categories that no training row has.*df\['y'\]"),
    (pd.Series(label, dtype=object).mask(number > 1), "'y' has .* labels that are missing"),
    (pd.Series(label).where(np.arange(60) < 50, 'new'), "'y' has categories that no training row has.*leave out rows")])
def test_learners_name_a_target_with_codes_outside_its_classes(y, message):
    to = TabularPandas(X.assign(y=y), [Categorify, Normalize], ['shop'], ['size'], 'y', CategoryBlock(),
                       [list(range(50)), list(range(50, 60))])
    with pytest.raises(ValueError, match=message): dropconnect_learner(to.dataloaders(bs=16, dl_type=TabTensorDL))


# Losses

@pytest.mark.parametrize('loss', [
    CrossEntropyLossFlat(), nn.CrossEntropyLoss(), F.cross_entropy, FocalLossFlat(), FocalLoss(), LabelSmoothingCrossEntropyFlat(),
    LabelSmoothingCrossEntropy(), CrossEntropyLossFlat(weight=torch.tensor([1., 1.5])), lambda p, t: F.cross_entropy(p, t)])
@pytest.mark.parametrize('members', [1, 2])
def test_losses_of_classes(loss, members):
    est = make(DropConnectClassifier, loss_func=loss, members=members, n_epoch=20, lr=.03).fit(X, label)
    p = est.predict_proba(X)
    assert np.allclose(p.sum(1), 1) and (p >= 0).all() and est.score(X, label) > .7
    if hasattr(loss, 'reduction'): make(DropConnectClassifier, loss_func=loss, members=members).fit(X, label, np.ones(60))
    same = pickle.loads(pickle.dumps(est)) if 'lambda' not in repr(loss) else est
    assert np.array_equal(same.predict_proba(X), p)


@pytest.mark.parametrize('loss', [BCEWithLogitsLossFlat(), nn.BCEWithLogitsLoss(), F.binary_cross_entropy_with_logits,
                                  MSELossFlat(), nn.L1Loss(), nn.NLLLoss()])
def test_losses_that_are_not_for_classes(loss):
    with pytest.raises(ValueError, match=r'logit for each of several classes: leave it out, or take CrossEntropyLossFlat\(\)'):
        make(DropConnectClassifier, loss_func=loss).fit(X, label)


@pytest.mark.parametrize('loss', [CrossEntropyLossFlat(), nn.CrossEntropyLoss(), F.cross_entropy, FocalLossFlat()])
def test_losses_that_are_not_for_numbers(loss):
    with pytest.raises(ValueError, match='is for classification: take DropConnectClassifier'): make(loss_func=loss).fit(X, number)


@pytest.mark.parametrize('cls', BOTH)
def test_a_loss_is_an_object(cls):
    est = make(cls, loss_func=CrossEntropyLossFlat)
    with pytest.raises(ValueError, match=r'as in CrossEntropyLossFlat\(\)'): est.fit(X, target(cls))


@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('loss', [L1LossFlat(), nn.L1Loss(), nn.HuberLoss(), nn.SmoothL1Loss(), F.l1_loss, MSELossFlat()])
def test_losses_of_numbers(loss):
    est = make(loss_func=loss, n_epoch=20, lr=.03).fit(X, 1000*number)
    assert est.score(X, 1000*number) > .3
    make(loss_func=loss).fit(X, np.c_[number, number])


# Callbacks

class Pruner(TrackerCallback):
    "What optuna_integration.FastAIPruningCallback does"
    def __init__(self, trial):
        super().__init__(monitor='valid_loss')
        self.trial = trial

    def after_epoch(self):
        super().after_epoch()
        self.trial.append(self.recorder.final_record[self.idx])
        if len(self.trial) == 3: raise CancelFitException

    def after_fit(self):
        super().after_fit()
        if len(self.trial) == 3: raise InterruptedError('pruned')


class Locked(Callback):
    "Cannot be copied"
    def __init__(self, path):
        self.lock, self.file, self.epochs = threading.Lock(), open(path, 'w'), 0

    def after_epoch(self): self.epochs += 1


@pytest.mark.parametrize('cls', BOTH)
def test_a_search_sees_what_its_callback_reports(cls):
    trial = []
    est = make(cls, n_epoch=9, cbs=Pruner(trial))
    with pytest.raises(InterruptedError): est.fit(X, target(cls), X_val=X, y_val=target(cls))
    assert len(trial) == 3 and est.cbs.learn is None
    est = make(cls, n_epoch=9, early_stopping=True, cbs=[Pruner(seen := [])])
    with pytest.raises(InterruptedError): est.fit(X, target(cls))
    assert len(seen) == 3


@pytest.mark.parametrize('as_given', [lambda o: o, lambda o: [o], lambda o: (o,)])
def test_callbacks_are_used_as_they_are(as_given, tmp_path):
    cb = Locked(tmp_path/'log')
    est = make(n_epoch=2, cbs=as_given(cb)).fit(X, number)
    assert cb.epochs == 2 and cb.learn is None and cb not in est.learner_.cbs and not hasattr(est.learner_, 'locked')
    est.learner_.validate(0)  # which fires after_epoch
    assert cb.epochs == 2
    est.fit(X, number)
    other = make(cbs=cb).fit(X, number)
    assert cb.epochs == 5 and est.get_params()['cbs'] == as_given(cb) and len(other.learner_.cbs) == len(est.learner_.cbs)
    with pytest.warns(UserWarning, match='without cbs=.*cannot be pickled'): same = pickle.loads(pickle.dumps(est))
    assert same.cbs is None and np.array_equal(same.predict(X), est.predict(X))
    same.fit(X, number)


def test_callbacks_that_can_be_pickled_are():
    est = make(cbs=Pruner([])).fit(X, number, X_val=X, y_val=number)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        same = pickle.loads(pickle.dumps(est))
    assert len(same.cbs.trial) == 1 and clone(same).cbs.trial == same.cbs.trial


def test_a_class_of_callbacks_does_as_well(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    est = make(cbs=CSVLogger).fit(X, number).fit(X, number)
    assert (tmp_path/'history.csv').exists() and est.cbs is CSVLogger and not hasattr(est.learner_, 'csv_logger')
    est = make(mask='frozen', cbs=DropConnectCallback).fit(X, number)
    assert est.learner_.sparsity() is not None


def test_a_callback_goes_back_to_its_learner():
    first = make().fit(X, number).learner_
    first.add_cb(cb := Pruner([]))
    make(cbs=cb).fit(X, number, X_val=X, y_val=number)
    assert cb.learn is first and len(cb.trial) == 1


def test_a_callback_is_free_after_a_fit_that_fails():
    class Fails(Callback):
        def before_epoch(self): raise RuntimeError('ours')
    cb = Fails()
    with pytest.raises(RuntimeError, match='ours'): make(cbs=cb).fit(X, number)
    assert cb.learn is None


# What is said of a net that is no use

rng = np.random.default_rng(0)
noise, coin, wild = pd.DataFrame(rng.normal(size=(80, 8))).add_prefix('c'), rng.integers(0, 2, 80), rng.normal(size=80)
memory = dict(n_epoch=20, lr=.05, layers=[50], ps=0.)  # enough to learn rows by heart


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore:float32 cannot hold')
@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('weights', [None, np.linspace(.1, 1, 40)])
def test_a_net_worse_than_a_constant_is_said(weights):
    rows = noise[:40], coin[:40], weights, noise[40:], coin[40:]
    def said(what): return rf"has a {what}, [\d.]+: try fewer epochs than n_epoch=20, a lower lr than 0.05"
    worse = said("log loss of [\\d.]+ on 40 validation rows, worse than the base rate's")
    with pytest.warns(UserWarning, match="'target' "+worse) as found: est = make(BOTH[1], **memory).fit(*rows)
    assert len(found) == 1
    p, base = est.predict_proba(noise[40:]), np.average(coin[:40], weights=weights)
    for o in (-np.log(p[np.arange(40), coin[40:]]).mean(), -np.log(np.where(coin[40:], base, 1-base)).mean()):
        assert f'{o:.4g}' in str(found[0].message)
    with pytest.warns(UserWarning, match="root mean squared error of .* worse than the mean's"): make(**memory).fit(*rows)
    with pytest.warns(UserWarning, match="mean absolute error of .* worse than the median's"):
        make(loss_func=L1LossFlat(), **memory).fit(noise[:40], wild[:40], weights, noise[40:], wild[40:])
    two = [np.c_[noise['c0'].iloc[o], 1e6+1e15*coin[o]] for o in (slice(40), slice(40, 80))]
    with pytest.warns(UserWarning, match="'target_1' has a .*e\\+1[45]"):
        make(**memory).fit(noise[:40], two[0], weights, noise[40:], two[1])


@pytest.mark.slow
@pytest.mark.filterwarnings('error')
@pytest.mark.parametrize('cls', BOTH)
def test_a_net_of_use_says_nothing(cls):
    y = target(cls)
    make(cls, n_epoch=30, lr=.03).fit(X, y, X_val=X, y_val=y)
    make(cls, n_epoch=30, lr=.03).fit(X, y)


def test_a_target_that_is_constant_is_not_compared():
    with pytest.warns(UserWarning) as found: make().fit(X, np.full(60, .1), X_val=X, y_val=np.full(60, .1))
    assert not [o for o in found if 'worse' in str(o.message)]


@pytest.mark.filterwarnings('error')
def test_losses_with_other_probabilities_are_not_compared():
    for loss in (CrossEntropyLossFlat(weight=torch.tensor([1., 99.])), FocalLossFlat()):
        make(BOTH[1], loss_func=loss, **memory).fit(noise[:40], coin[:40], X_val=noise[40:], y_val=coin[40:])


# Arrays that pandas shares

@pytest.fixture
def every_warning():
    "PyTorch gives this warning once in a process"
    before = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.filterwarnings('error', 'The given NumPy array is not writable')
        yield
    torch.set_warn_always(before)


@pytest.mark.parametrize('cols', [['shop', 'size'], ['shop'], ['size']])
@pytest.mark.parametrize('cls', BOTH)
def test_no_array_that_cannot_be_written(cls, cols, every_warning):
    df, y = make_df(500)[cols], np.resize(target(cls), 500)
    est = make(cls, members=2, n_bins=None, early_stopping=True).fit(df, y)
    est.predict(X[cols])
    est.predict_dist(X[cols])
    est.learner_.predictor()(X[cols])


# Weights of classes

three = np.where(number > 1, 'rare', label)  # cheap, dear, rare
own = np.linspace(.5, 2, 60)


def probs(sample_weight=None, **kwargs):
    return make(DropConnectClassifier, n_epoch=4, lr=.05, **kwargs).fit(X, three, sample_weight).predict_proba(X)


def test_balanced_classes_have_the_same_total():
    assert np.allclose(probs(class_weight='balanced'), probs(compute_sample_weight('balanced', three)))
    total = pd.Series(own).groupby(three).transform('sum').to_numpy()
    assert np.allclose(probs(own, class_weight='balanced'), probs(own/total))
    assert probs(class_weight='balanced')[:, 2].mean() > probs()[:, 2].mean()


@pytest.mark.parametrize('kwargs', [
    {}, dict(members=2), dict(loss_func=FocalLossFlat()), dict(mask='frozen', weight_p=.5), dict(config=dict(bn_final=True)),
    dict(early_stopping=True)])
def test_weights_of_classes_multiply_those_of_rows(kwargs):
    est = make(DropConnectClassifier, class_weight=dict(rare=9, cheap=.5), **kwargs).fit(X, three, own)
    wanted = own*np.select([three == 'rare', three == 'cheap'], [9, .5], 1)
    found = np.concatenate([o.row_weights for o in est.learner_.dls.loaders if o.n])
    assert np.allclose(np.sort(found), np.sort(wanted/wanted.mean()))  # rows set aside come last


def test_outputs_start_from_the_rates_of_weighted_classes():
    weights = dict(cheap=1000, dear=1e-4, rare=0)
    assert probs(class_weight=weights)[:, 0].min() > .99 and probs(class_weight=weights, members=3)[:, 0].min() > .99
    few = make_df(60)[['size']]
    true = make(DropConnectClassifier, class_weight={True: 50}).fit(few, number > 0)
    assert true.predict_proba(few)[:, 1].mean() > .9 and clone(true).class_weight == {True: 50}


@pytest.mark.parametrize('cls', BOTH)
def test_weights_of_validation_rows(cls):
    "They hold for the losses and for the comparison with a constant, with and without weights of training rows"
    y, weights = target(cls), np.r_[np.zeros(20), np.full(len(X)-20, 5.)]
    def losses(*args, **kwargs): return make(cls, n_epoch=2).fit(X, y, *args, **kwargs).history_
    for train in (None, np.ones(len(X))):
        weighted = losses(train, X, y, weights)
        pd.testing.assert_frame_equal(weighted, losses(train, X[20:], y[20:]))  # rows of weight 0 are left out
        assert not np.allclose(weighted.valid_loss, losses(train, X, y).valid_loss)
        uneven = losses(train, X, y, np.arange(len(X))+1)
        assert not np.allclose(uneven.valid_loss, losses(train, X, y).valid_loss)
    doubled = losses(None, X, y, np.r_[np.full(20, 2.), np.ones(len(X)-20)])
    rows = np.r_[:20, :len(X)]
    assert np.allclose(doubled.valid_loss, losses(None, X.iloc[rows], y[rows]).valid_loss, rtol=1e-4)


@pytest.mark.parametrize('kwargs, message', [
    (dict(sample_weight_val=[1.]*60), 'sample_weight_val has weights of validation rows, which are missing'),
    (dict(X_val=X[:2], y_val=number[:2], sample_weight_val=[0, 0]), 'is 0 for all rows|at least one non-zero'),
    (dict(X_val=X[:2], y_val=number[:2], sample_weight_val=[1, -1]), 'egative')])
def test_weights_that_validation_rows_cannot_have(kwargs, message):
    with pytest.raises(ValueError, match=message): make().fit(X, number, **kwargs)


def test_weights_of_classes_hold_for_validation_rows():
    def losses(**kwargs): return make(DropConnectClassifier, **kwargs).fit(X, three, X_val=X[:30], y_val=three[:30]).history_
    assert losses().valid_loss[0] != losses(class_weight='balanced').valid_loss[0]
    est = make(DropConnectClassifier, class_weight=dict(rare=3)).fit(X, three, X_val=X[:30], y_val=three[:30])
    wanted = np.where(three[:30] == 'rare', 3, 1)
    assert np.allclose(est.learner_.dls.valid.row_weights, wanted/wanted.mean())


@pytest.mark.parametrize('class_weight, message', [
    (dict(rarer=2), "class_weight has 'rarer', which is not among the classes in y, such as 'cheap'"),
    (dict(rare=-1), 'at least one class more than 0'), (dict(rare=np.nan), 'give each class 0 or more'),
    (dict(rare=0, cheap=0, dear=0), 'at least one class more than 0'), ('even', "class_weight='even': give a dict such as {'cheap': 2}"),
    (2, "class_weight=2: give"), ([1, 2, 3], "give a dict"), (True, "class_weight=True: give")])
def test_weights_that_classes_cannot_have(class_weight, message):
    with pytest.raises(ValueError, match=message):
        make(DropConnectClassifier, class_weight=class_weight, cbs=Callback()).fit(X, three)


# Losses of epochs, progress and threads

def test_losses_of_each_epoch_are_kept():
    est = make(n_epoch=3).fit(X, number, X_val=X, y_val=number)
    assert est.history_.shape == (3, 2) and est.history_.index.name == 'epoch' and est.history_.notna().all(None)
    assert np.allclose(est.history_, est.learner_.recorder.values)
    assert pickle.loads(pickle.dumps(est)).history_.equals(est.history_)
    ax = est.history_.plot()
    assert [o.get_label() for o in ax.lines] == ['train_loss', 'valid_loss']
    alone = make(DropConnectClassifier, n_epoch=2).fit(X, label).history_
    assert alone.train_loss.notna().all() and alone.valid_loss.isna().all() and not hasattr(make(), 'history_')
    stopped = make(n_epoch=20, early_stopping=True, patience=1, lr=.5).fit(X, noise.c0[:60]).history_
    assert 10 < len(stopped) < 20


def test_progress_in_a_log_is_a_line_for_each_epoch(capsys):
    est = make(n_epoch=2, verbose=True).fit(X, number, X_val=X, y_val=number)
    train, valid = est.history_.iloc[1]
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2 and lines[1] == f'epoch 2 of 2: train_loss {train:.4g}, valid_loss {valid:.4g}, time 00:00'
    assert est.learner_.logger is print
    make(verbose=True).fit(X, number)
    assert 'valid_loss' not in capsys.readouterr().out


def test_progress_in_a_notebook_is_that_of_fastai(capsys, monkeypatch):
    monkeypatch.setattr('dropconnect_tab.sklearn.IN_NOTEBOOK', True)
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # fastai's bar for the validation rows that there are not
        make(verbose=True).fit(X, number)
    assert 'epoch 1 of 1' not in capsys.readouterr().out


class Threads(Callback):
    def after_batch(self): self.found = torch.get_num_threads()


@pytest.mark.parametrize('n_jobs', [None, 3, -1])
def test_threads_are_set_for_the_fit_alone(n_jobs):
    before, cb = torch.get_num_threads(), Threads()
    make(n_jobs=n_jobs, cbs=cb).fit(X, number)
    assert cb.found == {None: before, -1: joblib.effective_n_jobs(-1)}.get(n_jobs, 3)
    assert torch.get_num_threads() == before
    with pytest.raises(ValueError, match='no longer finite'): make(n_jobs=n_jobs, lr=1e30).fit(X, number)
    assert torch.get_num_threads() == before


@pytest.mark.parametrize('n_jobs', [0, 1.5, True, '2'])
def test_threads_that_cannot_be(n_jobs):
    with pytest.raises(ValueError, match=f'n_jobs={n_jobs!r}: give'): make(n_jobs=n_jobs).fit(X, number)


# Columns in another order

@pytest.mark.parametrize('cls', BOTH)
@pytest.mark.parametrize('names', [['shop', 'size', 'age'], [0, 2, 1]])
def test_columns_of_a_frame_go_by_name(cls, names):
    df = make_df(60)[['shop', 'size', 'age']].set_axis(names, axis=1)
    turned = df[df.columns[::-1]]
    est = make(cls, n_epoch=2).fit(df, target(cls), X_val=turned, y_val=target(cls))
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert np.array_equal(est.predict(turned), est.predict(df)) and est.score(turned, target(cls)) == est.score(df, target(cls))
        assert np.array_equal(est.predict(turned[:1]), est.predict(df[:1]))
    assert np.array_equal(est.learner_.dls.valid_ds.items.iloc[:, :3], est.learner_.dls.train_ds.items.iloc[:, :3])


def test_columns_that_are_new_or_missing_are_named():
    est = make().fit(X, number)
    with pytest.raises(ValueError, match='unseen at fit time:\n- colour'): est.predict(X.assign(colour=1))
    with pytest.raises(ValueError, match='now missing:\n- size'): est.predict(X[['shop']])


def test_polars_columns_go_by_name():
    pl = pytest.importorskip('polars')
    est, df = make().fit(X, number), pl.DataFrame({k: v.tolist() for k, v in X.items()})
    assert np.array_equal(est.predict(df.select('size', 'shop')), est.predict(X))


def test_predictions_stay_arrays_where_others_give_frames():
    pipe = make_pipeline(FunctionTransformer(), make()).set_output(transform='pandas')
    assert isinstance(pipe.fit(X, number).predict(X), np.ndarray) and [*pipe[-1].feature_names_in_] == ['shop', 'size']

"A search with Optuna: its settings are those that nets take, and it prunes by epoch"
import ast

import numpy as np
import pytest
from helpers import make_df, make_dls, root
from torch import nn

from dropconnect_tab.averaging import TimeLimit
from dropconnect_tab.learner import dropconnect_learner
from dropconnect_tab.sklearn import DropConnectClassifier, DropConnectRegressor
from dropconnect_tab.tune import DEFAULTS, PruneTrial, suggest

optuna = pytest.importorskip('optuna')
optuna.logging.set_verbosity(optuna.logging.WARNING)
FixedTrial = optuna.trial.FixedTrial
df = make_df(120)
X, number, label = df[['shop', 'size', 'age']], df.price, df.cheap
SMALL = dict(members=1, layers=[4], n_bins=0, random_state=0)


def pruner(after=1): return optuna.pruners.ThresholdPruner(upper=-1, n_warmup_steps=after)  # every loss is above


def study(**kwargs): return optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0), **kwargs)


def test_the_defaults_are_those_of_the_learner():
    found = suggest(FixedTrial(DEFAULTS))
    assert found == dict(layers=[200, 100], lr=.01, weight_p=None, ps=None, n_bins=None, emb_std=None, wd=None)
    with_defaults = dropconnect_learner(dls := make_dls(), **found, seed=0)
    without = dropconnect_learner(dls, seed=0)
    assert repr(with_defaults.model) == repr(without.model) and with_defaults.wd == without.wd and with_defaults.lr == without.lr
    assert [o.p for o in with_defaults.model.modules() if isinstance(o, nn.Dropout)] == [
        o.p for o in without.model.modules() if isinstance(o, nn.Dropout)]


def test_the_search_begins_with_the_defaults_where_they_are_enqueued():
    search = study()
    search.enqueue_trial(DEFAULTS)
    search.optimize(lambda trial: float(suggest(trial)['layers'][0]), n_trials=3)
    assert search.trials[0].params == DEFAULTS and search.trials[1].params != DEFAULTS


@pytest.mark.slow
@pytest.mark.parametrize('cls', [DropConnectRegressor, DropConnectClassifier])
def test_all_settings_fit_learners_and_estimators(cls):
    y = number if cls is DropConnectRegressor else label
    dls = make_dls('price' if cls is DropConnectRegressor else 'cheap', n=120)
    def error(trial):
        settings = suggest(trial)
        settings['layers'] = [o//20 for o in settings['layers']]
        learn = dropconnect_learner(dls, members=2, **settings)
        assert [len(learn.model.layers)-1, learn.lr, learn.wd] == [trial.params['depth'], trial.params['lr'], trial.params['wd']]
        est = cls(n_epoch=1, members=2, random_state=0, **settings).fit(X, y)
        return 1-est.score(X, y)
    search = study()
    search.optimize(error, n_trials=6)
    assert len({o.value for o in search.trials}) == 6


@pytest.mark.parametrize('early_stopping', [False, True])
@pytest.mark.parametrize('cls', [DropConnectRegressor, DropConnectClassifier])
def test_estimators_are_pruned_by_epoch(cls, early_stopping):
    y = number if cls is DropConnectRegressor else label
    def error(trial):
        valid = {} if early_stopping else dict(X_val=X[90:], y_val=y[90:])
        est = cls(n_epoch=6, early_stopping=early_stopping, cbs=PruneTrial(trial), **SMALL)
        return est.fit(X[:90], y[:90], **valid).score(X[90:], y[90:])
    search = study(pruner=pruner(2))
    search.optimize(error, n_trials=2)
    assert [o.state.name for o in search.trials] == ['PRUNED', 'PRUNED']
    assert [[*o.intermediate_values] for o in search.trials] == [[0, 1, 2], [0, 1, 2]]


def test_an_estimator_that_stops_by_out_of_bag_rows_is_pruned():
    trial = study(pruner=pruner(2)).ask()
    X = make_df(1200)[['shop', 'day', 'size', 'age']]
    DropConnectRegressor(oob_score=True, cbs=[PruneTrial(trial), TimeLimit(2)], **{k: v for k, v in SMALL.items() if k != 'n_epoch'}).fit(
        X, make_df(1200).price)
    assert len(trial.storage.get_trial(trial._trial_id).intermediate_values) > 0


def test_learners_are_pruned_by_epoch():
    seen = []
    def error(trial):
        learn = dropconnect_learner(make_dls(n=120), layers=[4], members=2, cbs=PruneTrial(trial))
        with learn.no_bar(), learn.no_logging():
            seen.append(learn)
            learn.fit_one_cycle(3)
            return learn.validate()[0]
    search = study(pruner=pruner(1))
    search.optimize(error, n_trials=1)
    trial, values = search.trials[0], seen[0].recorder.values
    assert trial.state.name == 'PRUNED' and len(values) == 2
    assert np.allclose(list(trial.intermediate_values.values()), [o[1] for o in values])


def test_a_trial_that_is_not_pruned_goes_to_its_end():
    def error(trial): return DropConnectRegressor(n_epoch=3, cbs=PruneTrial(trial), **SMALL).fit(
        X, number, X_val=X, y_val=number).history_.valid_loss.iloc[-1]
    search = study(pruner=optuna.pruners.NopPruner())
    search.optimize(error, n_trials=1)
    assert search.best_value == pytest.approx(search.trials[0].intermediate_values[2])


def test_only_epochs_of_trainings_are_reported():
    def error(trial):
        learn = dropconnect_learner(make_dls(n=120), layers=[4], members=2, cbs=PruneTrial(trial))
        with learn.no_bar(), learn.no_logging():
            learn.lr_find(show_plot=False, num_it=5)
            learn.fit_one_cycle(2)
            learn.get_preds()
            return learn.validate()[0]
    search = study(pruner=optuna.pruners.NopPruner())
    search.optimize(error, n_trials=1)
    assert len(search.trials[0].intermediate_values) == 2


def test_without_validation_rows_there_is_nothing_to_compare():
    with pytest.raises(ValueError, match='no validation rows.*X_val and y_val'):
        DropConnectRegressor(n_epoch=1, cbs=PruneTrial(FixedTrial({})), **SMALL).fit(X, number)


def test_optuna_is_not_imported_with_the_module():
    code = ast.parse((root/'dropconnect_tab'/'tune.py').read_text()).body
    assert [ast.unparse(o) for o in code if isinstance(o, (ast.Import, ast.ImportFrom))] == ['from fastai.callback.core import Callback']

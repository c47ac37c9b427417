"AutoGluon's predictor with `DropConnectModel`: what it hands over arrives, and its own check of models passes."
import importlib.util
import json
import runpy
import sys

import numpy as np
import pytest
from helpers import make_df, root

from dropconnect_tab.autogluon import DropConnectModel, random_settings
from dropconnect_tab.sklearn import DropConnectClassifier, DropConnectRegressor

pytestmark = pytest.mark.slow
SMALL = dict(layers=[8], members=2, n_bins=0, n_epoch=3)
COLUMNS = ['shop', 'day', 'size', 'age']


@pytest.fixture
def tabular(): return pytest.importorskip('autogluon.tabular')


@pytest.fixture
def fit(tabular, tmp_path):
    "Fits a predictor with this model alone"
    def fit(y='price', df=None, settings=SMALL, verbosity=0, raises=True, **kwargs):
        of_predictor = {k: kwargs.pop(k) for k in ('problem_type', 'quantile_levels', 'sample_weight') if k in kwargs}
        predictor = tabular.TabularPredictor(y, path=tmp_path/'predictor', verbosity=verbosity, **of_predictor)
        df = make_df() if df is None else df
        return predictor.fit(df[[o for o in df if o in COLUMNS or o in (y, of_predictor.get('sample_weight'))]],
                             hyperparameters={DropConnectModel: settings}, fit_weighted_ensemble=False,
                             ag_args_fit=dict(num_cpus=1), raise_on_model_failure=raises, **kwargs)
    return fit


def estimators(predictor):
    "The estimators of a predictor: one, or that of each fold"
    name, = predictor.model_names()
    model = predictor._trainer.load_model(name)
    return [o.model for o in map(model.load_child, model.models)] if hasattr(model, 'models') else [model.model]


def test_autogluons_own_check(tabular, tmp_path, monkeypatch):
    "All kinds of problems, columns of all kinds, bags, stacks, refits, and what models leave behind in the process"
    monkeypatch.chdir(tmp_path)
    from autogluon.tabular.testing.fit_helper import FitHelper
    FitHelper.verify_model(model_cls=DropConnectModel, model_hyperparameters=SMALL)


@pytest.mark.parametrize('y, cls', [('price', DropConnectRegressor), ('cheap', DropConnectClassifier), ('band', DropConnectClassifier)])
def test_predictions_are_those_of_the_estimator_also_when_loaded(fit, tabular, y, cls):
    predictor, new = fit(y, settings={**SMALL, 'n_epoch': 10}), make_df(200, seed=1)
    est, = estimators(predictor)
    assert isinstance(est, cls) and predictor.evaluate(new)[predictor.eval_metric.name] > -1
    codes = predictor.transform_features(new)
    if y == 'price': assert np.allclose(predictor.predict(new), est.predict(codes))
    else: assert np.allclose(predictor.predict_proba(new), est.predict_proba(codes))
    again = tabular.TabularPredictor.load(predictor.path)
    assert np.array_equal(again.predict(new), predictor.predict(new))


def test_columns_that_are_missing_values_or_new(fit):
    df = make_df()
    df.loc[::7, 'shop'], df.loc[::5, 'size'] = None, np.nan
    predictor, new = fit(df=df), make_df(50, seed=1).assign(shop='elsewhere', size=np.nan)
    assert np.isfinite(predictor.predict(new)).all()
    kinds = estimators(predictor)[0].columns_.kinds
    assert (kinds['shop'], kinds['size']) == ('category', 'number')


def test_validation_rows_say_when_to_stop(fit):
    settings = {k: v for k, v in SMALL.items() if k != 'n_epoch'}
    est, = estimators(fit(df=make_df(1200), settings=settings, tuning_data=make_df(77, seed=1)[[*COLUMNS, 'price']]))
    assert est.n_epoch is None and est.history_.valid_loss.notna().all()  # and no rows were set aside to join


def test_what_autogluon_hands_over_arrives(fit, monkeypatch):
    seen, own = {}, DropConnectRegressor.fit
    def spy(self, X, y, sample_weight, X_val, *args):
        seen.update(train=len(X), valid=len(X_val), settings=self.get_params())
        return own(self, X, y, sample_weight, X_val, *args)
    monkeypatch.setattr(DropConnectRegressor, 'fit', spy)
    fit(tuning_data=make_df(77, seed=1)[[*COLUMNS, 'price']])
    settings = seen['settings']
    assert (seen['train'], seen['valid'], settings['n_jobs'], settings['device']) == (400, 77, 1, 'cpu')
    assert settings['cat_names'] == ['shop', 'day'] and settings['random_state'] == 0 and settings['cbs'] is None


def test_time(fit):
    "The net is told of its share, and stops in it"
    settings = {k: v for k, v in SMALL.items() if k not in ('n_epoch', 'members')}
    est, = estimators(fit(df=make_df(20_000), settings={**settings, 'patience': 99}, time_limit=4))
    limit, = est.cbs
    assert 1 < limit.seconds < .95*4 and len(est.history_) < 25


def test_callbacks_stay_next_to_the_time_limit(fit):
    from fastai.callback.training import GradientClip
    est, = estimators(fit(settings={**SMALL, 'cbs': [GradientClip()]}, time_limit=1000))
    assert [type(o).__name__ for o in est.cbs] == ['GradientClip', 'TimeLimit']


def test_a_bag_of_eight_folds(fit):
    predictor = fit('band', num_bag_folds=8, num_bag_sets=1, num_stack_levels=0,
                    ag_args_ensemble=dict(fold_fitting_strategy='sequential_local', vary_seed_across_folds=True))
    nets = estimators(predictor)
    assert len(nets) == 8 and [o.random_state for o in nets] == [*range(8)]
    assert predictor.predict_proba_oof().notna().all(None)
    refitted = predictor.refit_full()  # a copy of the first fold: there is no number of epochs to refit with
    new = make_df(50, seed=1)
    full = predictor.predict_proba(new, model=next(iter(refitted.values())))
    assert np.allclose(full, nets[0].predict_proba(predictor.transform_features(new)))


def test_weights_of_rows(fit):
    "Rows of no use have nearly no weight, in training and in validation"
    df = make_df(600)
    spoiled = np.random.default_rng(0).random(600) < .5
    df['price'], df['weight'] = df.price.where(~spoiled, -df.price), np.where(spoiled, 1e-6, 1.)
    predictor = fit(df=df, sample_weight='weight', settings={**SMALL, 'n_epoch': 20},
                    num_bag_folds=2, num_bag_sets=1, num_stack_levels=0,
                    ag_args_ensemble=dict(fold_fitting_strategy='sequential_local'))
    assert predictor.evaluate(make_df(200, seed=1).assign(weight=1.))['r2'] > .5
    for o in estimators(predictor): assert o.history_.valid_loss.iloc[-1] < .5*df.price.var()


def test_quantiles_are_refused(fit):
    with pytest.raises(ValueError, match="problem_type='quantile': DropConnectModel supports binary, multiclass, regression"):
        fit(problem_type='quantile', quantile_levels=[.1, .9])


def test_a_setting_that_is_none(fit):
    with pytest.raises(TypeError, match='depth'): fit(settings=dict(depth=3))


def test_several_settings(fit):
    predictor = fit(settings=[{**o, 'layers': [8], 'members': 2, 'n_epoch': 1} for o in random_settings(2)])
    assert len(predictor.model_names()) == 2


def test_without_autogluon_the_model_says_what_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, 'autogluon.tabular.models.abstract.abstract_torch_model', None)
    monkeypatch.setitem(sys.modules, 'autogluon', None)
    spec = importlib.util.spec_from_file_location('dropconnect_tab.again', root/'dropconnect_tab'/'autogluon.py')
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    assert module.random_settings(3) == random_settings(3)
    with pytest.raises(ImportError, match=r"needs AutoGluon .*pip install 'dropconnect_tab\[autogluon\]'"):
        module.DropConnectModel(path='x')


def test_settings_for_a_search():
    found = random_settings()
    assert len(found) == len({json.dumps(o) for o in found}) == 200  # different, and of types that a file can hold
    assert found[:5] == random_settings(5) and random_settings(5, seed=0) != random_settings(5)
    assert {len(o['layers']) for o in found} == {1, 2, 3} and all(.002 <= o['lr'] <= .05 for o in found)
    assert .005 < np.median([o['lr'] for o in found]) < .02
    df = make_df(100)
    for o in found[:4]: DropConnectRegressor(**o, n_epoch=1, members=2, random_state=0).fit(df[COLUMNS], df.price)


@pytest.fixture
def entry(tabular, tmp_path, monkeypatch, capsys):
    "The files of an entry in TabArena"
    monkeypatch.setattr(sys, 'argv', ['tabarena_entry.py', str(tmp_path), '--date', '2026-12-01'])
    runpy.run_path(str(root/'benchmarks'/'tabarena_entry.py'), run_name='__main__')
    assert 'pyproject.toml' in capsys.readouterr().out
    return tmp_path


def test_the_model_of_an_entry(entry):
    spec = importlib.util.spec_from_file_location('entry_model', entry/'dropconnect'/'model.py')
    spec.loader.exec_module(module := importlib.util.module_from_spec(spec))
    assert module.DropConnectModel.ag_key == 'TA-DROPCONNECT' and 'License: Apache-2.0' in module.DropConnectModel.__doc__
    df = make_df()
    model = module.DropConnectModel(path=str(entry/'model'), hyperparameters=SMALL, problem_type='regression')
    model.fit(X=df[['size', 'age']][:300], y=df.price[:300], X_val=df[['size', 'age']][300:], y_val=df.price[300:], num_cpus=1)
    assert np.isfinite(model.predict(df[['size', 'age']])).all()


def test_tabarena_finds_the_entry(entry, monkeypatch):
    models = pytest.importorskip('tabarena.models')
    monkeypatch.setattr(models, '__path__', [*models.__path__, str(entry)])
    info = importlib.import_module('tabarena.models.dropconnect').dropconnect_info
    experiments = info.search_space.generate_all_bag_experiments(num_random_configs=200)
    assert len(experiments) == 201 and info.method_metadata.ag_key == info.model_cls.ag_key

"The experiment on thirty datasets: what each method chooses, that it chooses on a slice, and that it goes on"
from dataclasses import replace
from functools import partial

import numpy as np
import pytest
from helpers import make_table, root

from dropconnect_tab.bench.runs import errors, read_runs


@pytest.fixture
def thirty(monkeypatch):
    pytest.importorskip('sklearn', '1.7', reason="hgb has no slice before scikit-learn 1.7")
    monkeypatch.syspath_prepend(str(root/'benchmarks'))
    import thirty
    return thirty


def table_of(task): return make_table('price' if task == 'regression' else 'band' if task == 'classes' else 'cheap', n=400)


@pytest.mark.slow
@pytest.mark.parametrize('task, native', [('regression', False), ('two classes', True), ('classes', True)])
@pytest.mark.parametrize('name', ['xgb', 'lgbm', 'catboost', 'hgb'])
def test_boosted_trees_stop_where_the_slice_is_best(thirty, monkeypatch, name, native, task):
    if name != 'hgb': pytest.importorskip(thirty.BOOSTED[name][0])
    monkeypatch.setattr(thirty, 'PATIENCE', 5)
    dataset = table_of(task)
    part, measure = dataset.slice(), 'logloss' if dataset.classes else 'rmse'
    fit = partial(thirty.fit_boosted, name, part, 0, native=native)
    def error(rounds): return errors(fit(rounds=rounds)['pred'], part.targets(part.test_idx), measure)[measure]
    rounds = fit()['rounds']
    assert 1 <= rounds < thirty.ROUNDS
    few, more = (error(o) for o in (max(1, rounds//4), rounds+5))
    assert error(rounds) <= min(few, more)*1.02  # CatBoost's trees depend on their number
    pred = thirty.fit_boosted(name, dataset, 0, native=native, rounds=rounds)['pred']
    assert pred.shape == (80, len(dataset.classes or [0])) and np.isfinite(pred).all()


@pytest.mark.slow
def test_the_test_rows_choose_nothing(thirty, monkeypatch):
    "Other targets of the test rows change neither the choice nor the predictions"
    monkeypatch.setattr(thirty, 'PATIENCE', 3)
    dataset = table_of('regression')
    other = replace(dataset, df=dataset.df.copy())
    other.df.loc[other.test_idx, 'price'] = 99.
    hgb = thirty.methods_for(dataset)['hgb']
    a, b = (hgb.fit(o, 0) for o in (dataset, other))
    assert a['chosen'] == b['chosen'] and a['slice_errors'] == b['slice_errors'] and (a['pred'] == b['pred']).all()
    assert len(a['slice_errors']) == 2 and a['chosen']['rounds'] > 1


def test_the_lowest_error_on_the_slice_is_chosen(thirty):
    dataset, seen = make_table(), []
    def fit_with(dataset, seed, add):
        seen.append((len(dataset.test_idx), add))
        return dict(pred=dataset.targets(dataset.test_idx)[:, None]+add, seconds=1.)
    method = thirty.Tuned('made-up', fit_with, [dict(add=2.), dict(add=-.5), dict(add=1.)])
    found = method.fit(dataset, 0)
    assert found['chosen'] == dict(add=-.5) and found['slice_errors'] == pytest.approx([2, .5, 1])
    assert seen == [(24, 2.), (24, -.5), (24, 1.), (40, -.5)] and 'auc' not in found
    alone = thirty.Tuned('made-up', fit_with, [dict(add=3.)]).fit(dataset, 0)
    assert alone['chosen'] == dict(add=3.) and alone['slice_errors'] == []


def test_all_nets_have_the_same_usual_epochs(thirty):
    assert [thirty.usual_epochs(n) for n in (128, 16_498, 60_000)] == [30, 12, 6]
    found = thirty.methods_for(make_table())
    assert found.keys() == {*thirty.METHODS, *thirty.SETTINGS}
    assert found['learner'].tried == [dict(epochs=30)] and found['learner-four-times'].tried == [dict(epochs=120)]
    assert [o['epochs'] for o in found['learner-epochs'].tried] == [15, 30, 60]
    assert len(found['fastai'].tried) == 6 and found['learner-members-16'].tried == [dict(epochs=30, members=16)]


def test_the_datasets_are_thirty(thirty):
    assert len({*thirty.DATASETS}) == 30 == len(thirty.packaged)+8


@pytest.mark.parametrize('args, message', [
    (['--datasets', 'wines'], "dataset 'wines' is unknown: choose some of wine, "),
    (['--methods', 'xgboost'], "method 'xgboost' is unknown: choose some of fastai, "),
    (['--datasets', 'wine', 'bike'], 'bike is in a file: give the folder')])
def test_wrong_arguments_are_named(thirty, tmp_path, capsys, args, message):
    with pytest.raises(SystemExit): thirty.main([*args, '--out', str(tmp_path)])
    assert message in capsys.readouterr().err


@pytest.mark.slow
def test_one_command_runs_reports_and_goes_on(thirty, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(thirty, 'usual_epochs', lambda n: 1)
    monkeypatch.setattr(thirty, 'ROUNDS', 5)
    command = ['--datasets', 'wine', '--methods', 'fastai', 'learner', 'hgb', '--out', str(tmp_path)]
    thirty.main([*command, '--seeds', '1'])
    first = read_runs(tmp_path/'wine-random')
    assert [o['arm'] for o in first] == ['fastai', 'hgb', 'learner'] and all(o['threads'] == 1 for o in first)
    assert all({'logloss', 'accuracy', 'cpu_seconds', 'wall_seconds', 'chosen'} <= {*o} for o in first)
    assert not (tmp_path/'wine-random'/'preds.npz').exists()
    thirty.main([*command, '--seeds', '2'])
    again = read_runs(tmp_path/'wine-random')
    assert len(again) == 6 and [o for o in again if o['seed'] == 0] == first
    assert 'wine-random*' in (tmp_path/'many.md').read_text() and (tmp_path/'error_time.png').exists()
    assert not (tmp_path/'settings.md').exists()


@pytest.mark.slow
def test_other_settings_are_compared_where_all_ran(thirty, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(thirty, 'usual_epochs', lambda n: 1)
    def run(dataset, *methods): thirty.main(['--datasets', dataset, '--seeds', '1', '--out', str(tmp_path), '--methods', *methods])
    run('wine', 'fastai-untuned', 'learner', 'hgb', *thirty.SETTINGS)
    run('breast_cancer', 'fastai-untuned', 'learner', 'learner-twice')
    text = (tmp_path/'settings.md').read_text()
    assert '1 datasets' in text and all(f'| {o} | 1 |' in text for o in thirty.SETTINGS) and 'hgb' not in text
    assert (tmp_path/'settings.png').exists() and 'learner-twice' not in (tmp_path/'many.md').read_text()


@pytest.mark.slow
def test_a_picture_of_one_thread_and_two(thirty, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(thirty, 'usual_epochs', lambda n: 1)
    plot, drawn = thirty.plot_error_time, []
    monkeypatch.setattr(thirty, 'plot_error_time', lambda runs, *args: drawn.append(runs) or plot(runs, *args))
    def run(threads, *args):
        thirty.main([*args, '--seeds', '1', '--threads', str(threads), '--out', str(tmp_path/str(threads))])
    run(1, '--datasets', 'wine', 'breast_cancer', '--methods', 'fastai-untuned', 'learner', 'hgb')
    run(2, '--datasets', 'wine', '--methods', 'fastai-untuned', 'learner', '--beside', str(tmp_path/'1'))
    runs = drawn[-1]
    assert sorted(zip(runs.dataset, runs.method, runs.threads)) == sorted(
        ('wine-random', method, threads) for method in ('fastai-untuned', 'learner') for threads in (1, 2))
    assert (tmp_path/'2'/'threads.png').exists() and not (tmp_path/'1'/'threads.png').exists()


@pytest.mark.slow
def test_two_classes_have_an_auc(thirty):
    dataset = table_of('two classes')
    found = replace(thirty.methods_for(dataset)['hgb'], tried=[dict(rounds=20)], stops=False).fit(dataset, 0)
    assert .5 < found['auc'] <= 1

"Runs, their files, searches, and what stops them."
import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_df, make_table, root

import dropconnect_tab.bench.runs as arena
from dropconnect_tab.bench.cli import arena_main as main, check_device, check_settings, run_table
from dropconnect_tab.bench.files import write_whole
from dropconnect_tab.bench.runs import (
    errors, load_preds, load_run, row_losses, run_arm, run_arms, run_path, search_settings, with_parts)
from dropconnect_tab.bench.methods import arm_params, arms

quick = dict(epochs=1, layers=(20, 10))
forest = dict(n_estimators=10)


@pytest.fixture
def table(): return make_table()


@pytest.fixture
def fitted(monkeypatch):
    "(arm, seed, table, params) of each fit of these arms"
    seen = []
    def spy(name, fit):
        def f(table, seed, device, tick, **params):
            seen.append((name, seed, table, params))
            return fit(table, seed, device, tick, **params)
        return f
    for o in ('dense', 'trainable', 'frozen', 'rf'):
        monkeypatch.setitem(arms, o, replace(arms[o], fit=spy(o, arms[o].fit)))
    return seen


def run(table, name, seed, out, **kwargs):
    return run_arm(table, name, seed, arm_params(name, **{**quick, **kwargs}), out, 'cpu')


def files(folder): return sorted(str(o.relative_to(folder)) for o in folder.rglob('*') if o.is_file())


# --- The error ---

def test_squared_errors_and_their_root():
    pred, y = np.array([[1.], [3.], [5.]]), np.array([1, 1, 1], dtype=np.float32)
    assert row_losses(pred, y).tolist() == [0, 4, 16]
    assert errors(pred, y) == {'rmse': pytest.approx((20/3)**.5)}


def test_log_loss_and_accuracy():
    pred, y = np.array([[.5, .25, .25], [.125, .5, .375], [1., 0, 0]]), np.array([0, 2, 1])
    losses = row_losses(pred, y, 'logloss')
    assert np.allclose(losses[:2], -np.log([.5, .375])) and 15 < losses[2] < np.inf
    assert errors(pred, y, 'logloss') == {'logloss': pytest.approx(losses.mean()), 'accuracy': pytest.approx(1/3)}


# --- Runs and their files ---

def test_a_run_leaves_its_files(table, tmp_path):
    res = run(table, 'frozen', 1, tmp_path)
    path = run_path(tmp_path, table, 'frozen', 1)
    assert path == tmp_path/'shops-random'/'frozen'/'1.json'
    assert files(tmp_path) == ['shops-random/frozen/1.json', 'shops-random/frozen/1.npz']
    assert json.loads(path.read_text()) == json.loads(json.dumps(res))
    assert {'arm', 'seed', 'dataset', 'split', 'rmse', 'seconds', 'columns', 'params', 'versions', 'device',
            'threads', 'rows'} <= set(res)
    assert res['params'] == {**arm_params('frozen', **quick), 'data': table.fingerprint}
    assert res['rows'] == dict(train=160, test=40) and res['device'] == 'cpu'
    data = load_preds(path)
    assert set(data) == {'pred', 'y'} and data['pred'].shape == (40, 1)
    assert np.array_equal(data['y'], table.targets(table.test_idx))
    assert np.isclose(res['rmse'], np.sqrt(np.mean((data['pred'][:, 0]-data['y'])**2)))
    assert res['zeros'] == .5 and len(res['curve']) == 1


@pytest.mark.parametrize('name', ['dense', 'rf'])
def test_a_run_of_a_classification(name, tmp_path):
    table = make_table('band')
    res = run(table, name, 0, tmp_path, **forest)
    data = load_preds(run_path(tmp_path, table, name, 0))
    p, y = data['pred'].astype(float), data['y']
    assert p.shape == (40, 3) and np.allclose(p.sum(1), 1, atol=1e-5) and p.min() >= 0
    assert [['high', 'low', 'mid'][i] for i in y] == table.df.band[160:].tolist()
    assert res['logloss'] == pytest.approx(-np.log(p[np.arange(40), y].clip(1e-7)).mean(), rel=1e-4)
    assert res['accuracy'] == np.mean(p.argmax(1) == y) and 'rmse' not in res


def test_rows_of_one_time_have_one_group(tmp_path):
    days = pd.Series(pd.Timestamp('2012-01-01') + pd.to_timedelta(np.random.default_rng(0).integers(9, size=200), 'D'))
    table = make_table(times=days)
    run(table, 'rf', 0, tmp_path, **forest)
    group = load_preds(run_path(tmp_path, table, 'rf', 0))['group']
    held = days[160:].to_numpy()
    assert group.shape == (40,) and np.array_equal(group[:, None] == group, held[:, None] == held)
    assert (np.diff(held[np.argsort(group, kind='stable')]) >= np.timedelta64(0)).all()


def test_a_run_is_repeatable_and_seeds_differ(table, tmp_path):
    a, b, c = (run(table, 'trainable', s, tmp_path/o)['rmse'] for s, o in ((0, 'a'), (0, 'b'), (1, 'b')))
    assert a == b != c


def test_settings_reach_the_fit(table, tmp_path, fitted):
    given = dict(epochs=2, bs=32, lr=.02, layers=(7, 5), weight_p=.8, n_estimators=7)
    names = ['dense', 'trainable', 'frozen', 'frozen,weight_p=0.3', 'rf']
    res = run_arms(table, names, 1, tmp_path, 'cpu', **given)
    assert [r['arm'] for r in res] == names
    for (name, seed, t, params), r in zip(fitted, res):
        assert params == {**arms[name].fixed, **arm_params(r['arm'], **given)} and t is table
        assert {**r['params'], **arms[name].fixed} == {**params, 'data': table.fingerprint}
    assert [len(r['curve']) for r in res[:4]] == [2]*4
    assert [round(r['zeros'], 1) for r in res[:4]] == [0, 0, .8, .3]
    assert res[4]['params']['n_estimators'] == 7 and 'epochs' not in res[4]['params']


def test_ticks_notes_and_runs_without_predictions(table, tmp_path):
    ticks = []
    res = run_arm(table, 'dense', 0, arm_params('dense', epochs=2, layers=(20, 10)), tmp_path, 'cpu',
                  tick=lambda: ticks.append(1), preds=False, search=dict(tried=3))
    assert len(ticks) == 2 and res['search'] == dict(tried=3)
    assert files(tmp_path) == ['shops-random/dense/0.json']


def test_versions_name_what_made_the_run(table, tmp_path):
    found = run(table, 'rf', 0, tmp_path, **forest)['versions']
    assert {'python', 'torch', 'fastai', 'dropconnect_tab', 'scikit-learn'} <= set(found)
    pytest.importorskip('xgboost')
    assert 'xgboost' in run(table, 'xgb', 0, tmp_path, **forest)['versions']


def test_what_is_there_is_not_run_again(table, tmp_path, fitted):
    first = run_arms(table, ['dense'], 2, tmp_path, 'cpu', **quick)
    run_path(tmp_path, table, 'dense', 1).unlink()
    fitted.clear()
    res = run_arms(table, ['dense', 'frozen'], 2, tmp_path, 'cpu', **quick)
    assert [o[:2] for o in fitted] == [('frozen', 0), ('dense', 1), ('frozen', 1)]
    assert [(r['arm'], r['seed']) for r in res] == [('dense', 0), ('frozen', 0), ('dense', 1), ('frozen', 1)]
    assert res[0] == json.loads(json.dumps(first[0])) and res[2]['rmse'] == first[1]['rmse']


def test_load_run_compares_all_settings(table, tmp_path):
    path = run_path(tmp_path, table, 'frozen', 0)
    stamp = {**arm_params('frozen', **quick), 'data': table.fingerprint}
    assert load_run(path, stamp) is None
    run(table, 'frozen', 0, tmp_path)
    assert load_run(path, stamp)['seed'] == 0 and load_run(str(path), dict(reversed(stamp.items())))
    fewer = {k: v for k, v in stamp.items() if k != 'l1'}
    for params, match in (({**stamp, 'new': 3}, 'new=None, not 3:'), (fewer, 'l1=0.0, not None:'),
                          ({**stamp, 'lr': .02, 'wd': 1}, 'lr=0.01, not 0.02; wd=0.01, not 1:')):
        with pytest.raises(ValueError, match=f'0.json holds a run with {match} give another folder'):
            load_run(path, params)


def test_other_settings_or_data_are_an_error_before_any_run(table, tmp_path, fitted):
    run(table, 'frozen', 0, tmp_path)
    fitted.clear()
    for given, match in ((dict(epochs=2, layers=(20, 10)), 'epochs=1, not 2'),
                         (dict(epochs=1, layers=(9, 9)), r'layers=\[20, 10\], not \[9, 9\]')):
        with pytest.raises(ValueError, match=f"0.json holds a run with {match}: give another folder"):
            run_arms(table, ['dense', 'frozen'], 1, tmp_path, 'cpu', **given)
    table.df.loc[0, 'price'] += 1
    with pytest.raises(ValueError, match='holds a run with data='):
        run_arms(table, ['dense', 'frozen'], 1, tmp_path, 'cpu', **quick)
    assert not fitted and len(files(tmp_path)) == 2


@pytest.mark.parametrize('kwargs, match', [
    (dict(names=['dense', 'rf2']), "arm='rf2' is unknown: choose one of 'fastai', 'dense'"),
    (dict(names=['dense', 'rf,lr=1']), "'rf' has no setting 'lr'"),
    (dict(seeds=0), "seeds=0: give at least 1"), (dict(epochs=0), "epochs=0: give at least 1"),
    (dict(names=['dense', 'frozen'], weight_p=1.5), "weight_p=1.5 is not the fraction"),
    (dict(search=-1), "search=-1: give the number of settings to try, or 0"),
    (dict(names=[]), "no arm to run: choose some of 'fastai', 'dense'")])
def test_bad_experiments(table, tmp_path, kwargs, match):
    with pytest.raises(ValueError, match=match):
        run_arms(table, out=tmp_path, **{**dict(names=['dense'], seeds=1, **quick), **kwargs})
    assert not list(tmp_path.iterdir())


def test_interrupted_runs_leave_nothing_half_written(table, tmp_path, monkeypatch):
    def stop(*a, **k): raise KeyboardInterrupt
    monkeypatch.setattr(arena.json, 'dumps',
                        lambda *a, **k: stop() if 'indent' in k else json.JSONEncoder().encode(*a))
    with pytest.raises(KeyboardInterrupt): run(table, 'dense', 0, tmp_path)
    monkeypatch.undo()
    assert not run_path(tmp_path, table, 'dense', 0).exists()
    assert not list(tmp_path.rglob('.*'))
    assert run(table, 'dense', 0, tmp_path)['rmse'] > 0


def test_predictions_that_cannot_be_written_leave_no_run(table, tmp_path, monkeypatch):
    def full(f, **k):
        f.write(b'half')
        raise OSError('disk full')
    monkeypatch.setattr(np, 'savez_compressed', full)
    with pytest.raises(OSError, match='disk full'): run(table, 'rf', 0, tmp_path, **forest)
    assert files(tmp_path) == []


def test_write_whole_keeps_the_old_file(tmp_path):
    path = tmp_path/'new'/'a.txt'
    write_whole(path, lambda p: p.write_text('old'))
    def broken(p):
        p.write_text('ne')
        raise OSError('disk full')
    with pytest.raises(OSError): write_whole(path, broken)
    assert path.read_text() == 'old' and list(path.parent.iterdir()) == [path]


# --- The blend ---

def test_parts_come_along_once_and_first():
    pytest.importorskip('xgboost')
    assert with_parts(['dense', 'frozen,weight_p=0.3', 'dense']) == ['dense', 'frozen,weight_p=0.3']
    assert with_parts(['xgb', 'blend', 'rf', 'dense']) == ['xgb', 'rf', 'et', 'fastai', 'blend', 'dense']


@pytest.mark.parametrize('y', ['price', 'band'])
def test_the_blend_is_the_mean_of_its_parts_of_the_same_seed(tmp_path, y, fitted):
    pytest.importorskip('xgboost')
    table, parts = make_table(y), ['rf', 'et', 'xgb', 'fastai']
    res = run_arms(table, ['blend'], 2, tmp_path, 'cpu', **quick, **forest)
    assert [(r['arm'], r['seed']) for r in res] == [(o, s) for s in (0, 1) for o in [*parts, 'blend']]
    for seed in (0, 1):
        preds = {o: load_preds(run_path(tmp_path, table, o, seed))['pred'] for o in [*parts, 'blend']}
        assert np.allclose(preds['blend'], np.mean([preds[o] for o in parts], axis=0), atol=1e-6)
        one = {r['arm']: r for r in res if r['seed'] == seed}
        assert one['blend']['seconds'] == pytest.approx(sum(one[o]['seconds'] for o in parts))
        assert one['blend']['params']['xgb'] == arm_params('xgb', **forest)
    measure = 'logloss' if y == 'band' else 'rmse'
    assert res[4][measure] != res[9][measure]
    fitted.clear()
    run_path(tmp_path, table, 'blend', 0).unlink()
    run_arms(table, ['blend'], 2, tmp_path, 'cpu', **quick, **forest)
    assert not fitted and run_path(tmp_path, table, 'blend', 0).exists()


def test_a_blend_of_other_parts_is_an_error_before_any_run(table, tmp_path, fitted):
    pytest.importorskip('xgboost')
    run_arms(table, ['blend'], 1, tmp_path, 'cpu', **quick, **forest)
    for o in ('rf', 'et', 'xgb', 'fastai'): run_path(tmp_path, table, o, 0).unlink()
    fitted.clear()
    with pytest.raises(ValueError, match='blend.*0.json holds a run with'):
        run_arms(table, ['blend'], 1, tmp_path, 'cpu', **{**quick, 'epochs': 2}, **forest)
    assert not fitted


# --- Search ---

def trials(out, name, n):
    return [json.loads((out/'shops-random-search'/name/f'{i}.json').read_text()) for i in range(n)]


def search(table, names, n, out, seeds=1, **given):
    return run_arms(table, names, seeds, out, 'cpu', n, **{'epochs': 1, **given})


def test_all_arms_get_the_same_number_of_trials_and_leave_no_predictions(table, tmp_path):
    search(table, ['dense', 'frozen,weight_p=0.3', 'rf'], 3, tmp_path)
    names = ['dense', 'frozen,weight_p=0.3', 'rf']
    assert files(tmp_path/'shops-random-search') == [f'{o}/{i}.json' for o in names for i in range(3)]
    assert files(tmp_path/'shops-random') == [f'{o}/0.{kind}' for o in names for kind in ('json', 'npz')]
    assert [t['params']['weight_p'] for t in trials(tmp_path, 'frozen,weight_p=0.3', 3)] == [.3]*3
    assert [t['seed'] for t in trials(tmp_path, 'rf', 3)] == [0, 1, 2]


@pytest.mark.parametrize('y', ['price', 'band'])
def test_the_settings_with_the_lowest_error_are_what_the_final_run_is_fitted_with(tmp_path, fitted, y):
    table, measure = make_table(y), 'logloss' if y == 'band' else 'rmse'
    res = search(table, ['dense', 'rf'], 4, tmp_path, seeds=2)
    for name in ('dense', 'rf'):
        found = trials(tmp_path, name, 4)
        best = min(range(4), key=lambda i: found[i][measure])
        final = [r for r in res if r['arm'] == name]
        for r in final:
            assert r['search'] == dict(tried=4, chosen=best, error=found[best][measure])
            assert json.loads(run_path(tmp_path, table, name, r['seed']).read_text())['search'] == r['search']
        expected = {k: v for k, v in found[best]['params'].items() if k != 'data'}
        used = [params for o, _, t, params in fitted if o == name and t is table]
        for params in used:
            assert json.loads(json.dumps(params)) == {**expected, **json.loads(json.dumps(arms[name].fixed))}
        assert len(used) == len(final) == 2


def test_the_first_of_two_equal_trials_is_taken(table, tmp_path, monkeypatch):
    flat = replace(arms['rf'], fit=lambda table, *a, **k: dict(pred=np.zeros((len(table.test_idx), 1)), seconds=0.))
    monkeypatch.setitem(arms, 'rf', flat)
    assert search(table, ['rf'], 3, tmp_path)[0]['search']['chosen'] == 0


@pytest.mark.parametrize('change', [dict(price=1000.), dict(size=1000., age=np.nan), dict(shop='new')], ids=str)
def test_the_search_never_sees_the_test_rows(tmp_path, fitted, change):
    df = make_df(200)
    for k, v in change.items(): df.loc[160:, k] = v
    tables = [make_table(times=pd.Series(np.arange(200)//3), df=o) for o in (make_df(200), df)]
    best = [search_settings(t, ['dense', 'rf'], 2, tmp_path/str(i), 'cpu', epochs=1) for i, t in enumerate(tables)]
    for _, _, part, _ in fitted:
        assert np.array_equal(np.union1d(part.df.index[part.train_idx], part.df.index[part.test_idx]), np.arange(160))
        assert part.df.index[part.test_idx].min() == part.df.index[part.train_idx].max()+1
    assert len(fitted) == 8 and best[0] == best[1]
    for name in ('dense', 'rf'):
        for a, b in zip(*(trials(tmp_path/o, name, 2) for o in '01')): assert a['rmse'] == b['rmse']


def test_given_settings_are_not_searched(table, tmp_path):
    res = search(table, ['dense', 'rf'], 4, tmp_path, lr=.02, layers=(7, 5), min_samples_leaf=4)
    found = trials(tmp_path, 'dense', 4)
    assert {(t['params']['lr'], *t['params']['layers'], t['params']['epochs']) for t in found} == {(.02, 7, 5, 1)}
    assert len({(t['params']['wd'], t['params']['bs']) for t in found}) > 1
    assert {t['params']['min_samples_leaf'] for t in trials(tmp_path, 'rf', 4)} == {4}
    assert res[0]['params']['lr'] == .02 and res[1]['params']['min_samples_leaf'] == 4


def test_a_search_goes_on_where_it_was(table, tmp_path, fitted):
    first = search(table, ['dense', 'rf'], 3, tmp_path)
    assert [o[:2] for o in fitted] == [(o, i) for i in range(3) for o in ('dense', 'rf')] + [('dense', 0), ('rf', 0)]
    fitted.clear()
    assert search(table, ['dense', 'rf'], 3, tmp_path) == json.loads(json.dumps(first)) and not fitted
    run_path(tmp_path, table.slice('search'), 'rf', 1).unlink()
    search(table, ['dense', 'rf'], 3, tmp_path)
    assert [o[:2] for o in fitted] == [('rf', 1)]


def test_more_trials_add_to_those_that_are_there(table, tmp_path, fitted):
    search_settings(table, ['rf'], 2, tmp_path, 'cpu')
    fitted.clear()
    _, note = search_settings(table, ['rf'], 4, tmp_path, 'cpu')['rf']
    assert [o[:2] for o in fitted] == [('rf', 2), ('rf', 3)] and note['tried'] == 4


def test_the_note_says_how_many_were_tried_also_where_the_choice_stays(table, tmp_path, monkeypatch):
    "The runs of a smaller search fit, but their note does not"
    flat = replace(arms['rf'], fit=lambda table, *a, **k: dict(pred=np.zeros((len(table.test_idx), 1)), seconds=0.))
    monkeypatch.setitem(arms, 'rf', flat)
    search(table, ['rf'], 2, tmp_path)
    res = search(table, ['rf'], 3, tmp_path)[0]
    assert res['search']['tried'] == 3
    assert json.loads(run_path(tmp_path, table, 'rf', 0).read_text())['search']['tried'] == 3


@pytest.mark.parametrize('names', [['deep-ensemble'], ['deep-ensemble', 'dense']], ids=str)
def test_a_deep_ensemble_takes_the_settings_of_its_net(table, tmp_path, fitted, names):
    res = {r['arm']: r for r in search(table, names, 3, tmp_path, nets=2, layers=(20, 10))}
    assert list(res) == names
    assert files(tmp_path/'shops-random-search') == [f'dense/{i}.json' for i in range(3)]
    found = trials(tmp_path, 'dense', 3)
    best = min(range(3), key=lambda i: found[i]['rmse'])
    assert res['deep-ensemble']['search'] == dict(tried=3, chosen=best, error=found[best]['rmse'])
    expected = {**found[best]['params'], 'nets': 2, 'data': table.fingerprint}
    assert json.loads(json.dumps(res['deep-ensemble']['params'])) == expected
    assert [o[:2] for o in fitted] == [('dense', i) for i in range(3)] + [('dense', 0)]*('dense' in names)


def test_a_variant_of_a_deep_ensemble_keeps_its_own_settings(table, tmp_path):
    names = ['deep-ensemble,lr=0.5', 'deep-ensemble,nets=3']
    best = search_settings(table, [*names, 'dense'], 2, tmp_path, 'cpu', epochs=1, layers=(20, 10))
    dense = best['dense'][0]
    assert best[names[0]][0] == {**dense, 'lr': .5, 'nets': 8} and best[names[1]][0] == {**dense, 'nets': 3}


def test_progress_counts_the_epochs_of_each_net(table, tmp_path, monkeypatch):
    totals, real = [], arena.progress_bar
    monkeypatch.setattr(arena, 'progress_bar', lambda o: totals.append(len(o)) or real(o))
    run_arms(table, ['deep-ensemble', 'dense'], 2, tmp_path, 'cpu', epochs=2, nets=3, layers=(20, 10))
    assert totals == [2*(2*3 + 2)]


def test_a_blend_is_made_of_searched_parts(table, tmp_path):
    pytest.importorskip('xgboost')
    res = {r['arm']: r for r in search(table, ['blend'], 2, tmp_path, **forest)}
    assert 'search' not in res['blend'] and not (tmp_path/'shops-random-search'/'blend').exists()
    for o in ('rf', 'et', 'xgb', 'fastai'):
        assert res[o]['search']['tried'] == 2
        assert res['blend']['params'][o] == {k: v for k, v in res[o]['params'].items() if k != 'data'}


# --- From a shell ---

def failure(capsys, *args):
    "What is said on stderr: one line"
    with pytest.raises(SystemExit) as e: main([*map(str, args)])
    err = capsys.readouterr().err
    assert e.value.code == 2 and err.count('\n') == 1 and err.startswith('dropconnect-arena: '), err
    return err


@pytest.fixture
def houses(tmp_path):
    "What describes a CSV"
    make_df(200).to_csv(tmp_path/'houses.csv', index=False)
    file = tmp_path/'houses.toml'
    file.write_text('path = "houses.csv"\ntarget = "price"\ndrop = ["cost", "cheap", "band"]')
    return file


def test_a_run_on_wine(tmp_path, capsys):
    main(['--table', 'wine', '--arms', 'default', 'rf', '--seeds', '2', '--epochs', '1', '--device', 'cpu', '--set',
          'layers=(20,10)', 'n_estimators=10', '--out', str(tmp_path)])
    folder = tmp_path/'wine-random'
    assert {o for o in files(folder) if '/' in o} == {f'{o}/{i}.{k}' for o in ('default', 'rf') for i in (0, 1)
                                                      for k in ('json', 'npz')}
    assert {'table.md', 'arms.png'} <= {*files(folder)}
    out, res = capsys.readouterr().out, json.loads((folder/'default'/'1.json').read_text())
    assert 'wine, split random: 128 rows to train on, 50 to test on' in out and 'log loss:' in out
    assert (folder/'table.md').read_text() in out and str(folder) in out
    assert (res['dataset'], res['seed'], res['device'], len(res['curve'])) == ('wine', 1, 'cpu', 1)
    assert res['params'] == dict(epochs=1, bs=256, layers=[20, 10], data=res['params']['data'])
    assert load_preds(folder/'default'/'1.json')['pred'].shape == (50, 3)


@pytest.mark.parametrize('command', ['module', 'script'])
def test_a_table_of_ones_own_from_a_shell(houses, command):
    assert 'dropconnect-arena=dropconnect_tab.bench.runs:main' in (root/'settings.ini').read_text()
    call = 'import dropconnect_tab.bench.runs as a; a.main()'  # as a script that pip makes
    done = subprocess.run([sys.executable, *(['-m', 'dropconnect_tab.bench.runs'] if command == 'module' else ['-c', call]),
                           '--table', 'houses.toml', '--arms', 'rf', '--seeds', '1', '--set', 'n_estimators=10'],
                          cwd=houses.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert 'houses, split random: 163 rows to train on, 37 to test on' in done.stdout and 'RMSE:' in done.stdout
    assert (houses.parent/'runs'/'houses-random'/'rf'/'0.json').exists()


def test_a_table_in_a_folder(data_path, tmp_path):
    res = run_table('california', data_path, ['rf'], 1, tmp_path, 'cpu', n_estimators=2)
    assert [(r['dataset'], r['rows']) for r in res] == [('california', dict(train=16498, test=4142))]


class Stop(Exception): pass


@pytest.fixture
def asked(monkeypatch):
    "What `main` asks `run_arms` for, which does not run"
    def ask(*args):
        seen = {}
        def spy(table, names, seeds, out, device, search=0, **given):
            seen.update(table=table.name, names=list(names), seeds=seeds, out=out, device=device, search=search,
                        given=given)
            raise Stop
        monkeypatch.setattr(arena, 'run_arms', spy)
        with pytest.raises(Stop): main([*map(str, args)])
        return seen
    return ask


def test_the_command_line_reaches_the_runs(asked, houses):
    plain = asked('--table', 'wine')
    assert plain == dict(table='wine', names=['default', 'fastai', 'rf'], seeds=3, out='runs', device=None, search=0,
                         given={})
    told = asked('--table', houses, '--arms', 'frozen', 'default,members=2', '--seeds', 5, '--search', 4, '--epochs',
                 2, '--weight-p', .7, '--set', 'wd=0.1', 'layers=(20,10)', '--out', 'mine', '--device', 'cpu')
    assert told == dict(table='houses', names=['frozen', 'default,members=2'], seeds=5, out='mine', device='cpu',
                        search=4, given=dict(wd=.1, layers=(20, 10), epochs=2, weight_p=.7))


@pytest.mark.parametrize('args, match', [
    (['--table', 'mnist'], "table='mnist': give a .toml file"), (['--table', 'no.toml'], 'no.toml does not exist'),
    (['--table', 'california'], 'california is in a file: give the folder that holds it'),
    (['--table', 'california', '--folder', 'nowhere'], 'does not exist: give the folder that holds california'),
    (['--arms', 'rf2'], "arm='rf2' is unknown: choose one of 'fastai'"),
    (['--arms', 'default', 'rf,lr=1'], "'rf' has no setting 'lr': choose some of 'n_estimators'"),
    (['--set', 'nothing=3'], "no arm of default, fastai, rf has a setting 'nothing': choose some of"),
    (['--arms', 'rf', '--epochs', 1], "no arm of rf has a setting 'epochs'"),
    (['--arms', 'fastai', '--weight-p', .5], "no arm of fastai has a setting 'weight_p'"),
    (['--set', 'table=x'], "has a setting 'table'"), (['--set', 'names=x'], "has a setting 'names'"),
    (['--set', 'title=x'], "has a setting 'title'"), (['--set', 'members=0'], 'members=0: give at least 1'),
    (['--seeds', 0], 'seeds=0: give at least 1'), (['--search', -1], 'search=-1: give the number'),
    (['--device', 'abacus'], "device='abacus' is not to be had here"), (['--weight-p', 1], 'weight_p=1.0 is not')],
    ids=str)
def test_what_the_command_refuses(capsys, tmp_path, monkeypatch, args, match):
    monkeypatch.chdir(tmp_path)
    assert match in failure(capsys, *([] if '--table' in args else ['--table', 'wine']), *args)
    assert not list(tmp_path.rglob('*.json'))


@pytest.mark.parametrize('text, match', [
    ('target = "price"', "lacks 'path'"), ('path = "houses.csv"\ntarget = "prise"', "no column 'prise'"),
    ('path = ', 'is not TOML'), ('path = "broken.csv"\ntarget = "price"', 'broken.csv'),
    ('path = "empty.csv"\ntarget = "price"', 'empty.csv')])
def test_tables_that_the_command_refuses(capsys, houses, text, match):
    (houses.parent/'broken.csv').write_text('price,size\n1,2\n1,2,3,4\n')
    (houses.parent/'empty.csv').write_text('')
    houses.write_text(text)
    assert match in failure(capsys, '--table', houses, '--out', houses.parent)


def test_the_command_needs_a_table(capsys):
    with pytest.raises(SystemExit) as e: main([])
    assert e.value.code == 2 and '--table' in capsys.readouterr().err


def test_help_names_the_tables_and_the_arms(capsys):
    with pytest.raises(SystemExit) as e: main(['--help'])
    text = capsys.readouterr().out
    assert e.value.code == 0
    for o in ('--table', '--folder', '--arms', '--set', 'california', 'wine', 'default', '.toml'): assert o in text


def test_a_stopped_command_goes_on(tmp_path, capsys, monkeypatch):
    args = ['--table', 'diabetes', '--arms', 'rf', 'et', '--seeds', '1', '--set', 'n_estimators=5', '--out']
    args.append(str(tmp_path))
    def stop(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setitem(arms, 'et', replace(arms['et'], fit=stop))
    with pytest.raises(SystemExit) as e: main(args)
    assert e.value.code == 130 and 'the same command goes on from there' in capsys.readouterr().err
    assert files(tmp_path) == ['diabetes-random/rf/0.json', 'diabetes-random/rf/0.npz']
    monkeypatch.undo()
    main(args)
    assert 'diabetes-random/et/0.json' in files(tmp_path)


def test_errors_are_errors_in_python(tmp_path):
    for kwargs, match in ((dict(table='mnist'), "table='mnist': give"), (dict(nothing=1), "a setting 'nothing'"),
                          (dict(device='abacus'), "device='abacus'"), (dict(names=[]), 'no arm to run')):
        with pytest.raises(ValueError, match=match): run_table(**{'table': 'wine', 'out': tmp_path, **kwargs})
    assert not list(tmp_path.iterdir())


def test_devices():
    assert check_device('auto') is None and check_device('cpu') == 'cpu'
    for o in ('abacus', '', *(['cuda'] if not torch.cuda.is_available() else [])):
        with pytest.raises(ValueError, match=f"device='{o}' is not to be had here .*: use 'cpu' or 'auto'"):
            check_device(o)


def test_settings_that_some_arm_has():
    check_settings(['dense', 'rf'], dict(lr=.1, n_estimators=3))
    check_settings(['default'], dict(n_bins=8, embed_p=.1))
    with pytest.raises(ValueError, match="no arm of dense, rf has a setting 'n_bins': choose some of bs, epochs"):
        check_settings(['dense', 'rf'], dict(lr=.1, n_bins=8))
    pytest.importorskip('xgboost')
    check_settings(['blend'], dict(max_depth=3, lr=.1))  # the parts have them

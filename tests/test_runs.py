"Runs, the file they leave, searches, jobs side by side, and what stops them."
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import joblib
import numpy as np
import pandas as pd
import pytest
from helpers import make_df, make_table, side_by_side

from dropconnect_tab.bench import runs as bench_runs
from dropconnect_tab.bench.files import lock_folder, read_arrays, read_jsonl, write_arrays, write_jsonl, write_whole
from dropconnect_tab.bench.methods import METHODS, Method, read_method
from dropconnect_tab.bench.runs import (
    errors, fit_one, preds_file, read_runs, row_losses, run_methods, runs_file, search_methods, with_parts)

pytestmark = pytest.mark.slow

quick = dict(epochs=1, layers=(20, 10))
forest = dict(n_estimators=10)


@pytest.fixture
def table(): return make_table()


@pytest.fixture
def fitted(monkeypatch):
    "(name, seed, table, settings) of each fit"
    seen, fit = [], Method.fit
    def spy(self, table, seed, device=None, tick=None):
        seen.append((self.name, seed, table, self.settings))
        return fit(self, table, seed, device, tick)
    monkeypatch.setattr(Method, 'fit', spy)
    return seen


def zeros(self, table, seed, device=None, tick=None):
    "A fit that finds nothing, but at once"
    return dict(pred=np.zeros((len(table.test_idx), 1)), seconds=0.)


def methods(*names): return [read_method(o) for o in names]


def run(table, name, out, seeds=1, **kwargs):
    return run_methods(table, methods(name), seeds, out, 'cpu', **{**quick, **kwargs})


def folder_of(out): return out/'shops-random'


def lines(out): return {(r['arm'], r['seed']): r for r in read_jsonl(runs_file(folder_of(out)))}


def preds(out): return read_arrays(preds_file(folder_of(out)))


def forget(out, *keys, folder=None):
    "Remove the lines of these (arm, seed)"
    file = runs_file(folder or folder_of(out))
    rows = [o for o in file.read_text().splitlines(True) if (json.loads(o)['arm'], json.loads(o)['seed']) not in keys]
    file.write_text(''.join(rows))


def files(folder):
    return sorted(str(o.relative_to(folder)) for o in folder.rglob('*') if o.is_file() and o.name != '.lock')


def as_json(o): return json.loads(json.dumps(o))


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


# --- Runs and their file ---

def test_a_run_leaves_a_line_and_its_predictions(table, tmp_path):
    res, = run(table, 'frozen', tmp_path)
    assert files(tmp_path) == ['shops-random/preds.npz', 'shops-random/runs.jsonl']
    assert read_jsonl(tmp_path/'shops-random'/'runs.jsonl') == [res]
    assert {'arm', 'seed', 'dataset', 'split', 'rmse', 'seconds', 'columns', 'params', 'versions', 'device',
            'threads', 'rows'} <= set(res)
    assert (res['arm'], res['seed']) == ('frozen', 0)
    assert res['params'] == as_json({**METHODS['frozen'].with_shared(**quick).settings, 'data': table.fingerprint})
    assert res['rows'] == dict(train=160, test=40) and res['device'] == 'cpu'
    data = preds(tmp_path)
    assert set(data) == {'frozen/0', 'y'} and data['frozen/0'].shape == (40, 1)
    assert data['frozen/0'].dtype == np.float32 and np.array_equal(data['y'], table.targets(table.test_idx))
    assert np.isclose(res['rmse'], np.sqrt(np.mean((data['frozen/0'][:, 0]-data['y'])**2)))
    assert res['zeros'] == .5 and len(res['curve']) == 1


@pytest.mark.parametrize('name', ['dense', 'rf'])
def test_a_run_of_a_classification(name, tmp_path):
    table = make_table('band')
    res, = run(table, name, tmp_path, **forest)
    data = preds(tmp_path)
    p, y = data[f'{name}/0'].astype(float), data['y']
    assert p.shape == (40, 3) and np.allclose(p.sum(1), 1, atol=1e-5) and p.min() >= 0
    assert [['high', 'low', 'mid'][i] for i in y] == table.df.band[160:].tolist()
    assert res['logloss'] == pytest.approx(-np.log(p[np.arange(40), y].clip(1e-7)).mean(), rel=1e-4)
    assert res['accuracy'] == np.mean(p.argmax(1) == y) and 'rmse' not in res


def test_rows_of_one_time_have_one_group(tmp_path):
    days = pd.Series(pd.Timestamp('2012-01-01') + pd.to_timedelta(np.random.default_rng(0).integers(9, size=200), 'D'))
    run(make_table(times=days), 'rf', tmp_path, **forest)
    group, held = preds(tmp_path)['group'], days[160:].to_numpy()
    assert group.shape == (40,) and np.array_equal(group[:, None] == group, held[:, None] == held)
    assert (np.diff(held[np.argsort(group, kind='stable')]) >= np.timedelta64(0)).all()


def test_a_run_is_repeatable_and_seeds_differ(table, tmp_path):
    (a,), (b, c) = run(table, 'trainable', tmp_path/'a'), run(table, 'trainable', tmp_path/'b', 2)
    assert a['rmse'] == b['rmse'] != c['rmse'] and np.array_equal(preds(tmp_path/'a')['trainable/0'],
                                                                   preds(tmp_path/'b')['trainable/0'])


def test_settings_reach_the_fit(table, tmp_path, fitted):
    shared = dict(epochs=2, bs=32, lr=.02, layers=(7, 5), weight_p=.8, n_estimators=7)
    names = ['dense', 'trainable', 'frozen', 'frozen,weight_p=0.3', 'rf']
    res = run_methods(table, methods(*names), 1, tmp_path, 'cpu', **shared)
    assert [r['arm'] for r in res] == names
    for (name, seed, t, settings), r in zip(fitted, res):
        assert settings == read_method(r['arm']).with_shared(**shared).settings and t is table
        assert r['params'] == as_json({**settings, 'data': table.fingerprint})
    assert [len(r['curve']) for r in res[:4]] == [2]*4
    assert [round(r['zeros'], 1) for r in res[:4]] == [0, 0, .8, .3]
    assert res[4]['params']['n_estimators'] == 7 and 'epochs' not in res[4]['params']


def test_runs_without_predictions(table, tmp_path):
    run(table, 'dense', tmp_path, preds=False)
    assert files(tmp_path) == ['shops-random/runs.jsonl']
    run(table, 'dense', tmp_path, seeds=2)
    assert set(preds(tmp_path)) == {'dense/1', 'y'}


def test_a_blend_without_predictions(table, tmp_path):
    pytest.importorskip('xgboost')
    assert len(run(table, 'blend', tmp_path, preds=False, **forest)) == 5
    assert files(tmp_path) == ['shops-random/runs.jsonl']


def test_a_tick_for_each_epoch(table):
    ticks = []
    net = METHODS['dense'].with_shared(epochs=2, layers=(20, 10))
    res, pred = fit_one(net, table, 0, 'cpu', lambda: ticks.append(1))
    assert len(ticks) == 2 and len(res['curve']) == 2 and pred.shape == (40, 1)


def test_versions_name_what_made_the_run(table, tmp_path):
    found = run(table, 'rf', tmp_path, **forest)[0]['versions']
    assert {'python', 'torch', 'fastai', 'dropconnect_tab', 'scikit-learn'} <= set(found)
    pytest.importorskip('xgboost')
    assert 'xgboost' in run(table, 'xgb', tmp_path, **forest)[0]['versions']


def test_what_is_there_is_not_run_again(table, tmp_path, fitted):
    first = run(table, 'dense', tmp_path, 2)
    forget(tmp_path, ('dense', 1))
    fitted.clear()
    res = run_methods(table, methods('dense', 'frozen'), 2, tmp_path, 'cpu', **quick)
    assert [o[:2] for o in fitted] == [('frozen', 0), ('dense', 1), ('frozen', 1)]
    assert [(r['arm'], r['seed']) for r in res] == [('dense', 0), ('frozen', 0), ('dense', 1), ('frozen', 1)]
    assert res[0] == first[0] and res[2]['rmse'] == first[1]['rmse']


def test_all_settings_are_compared(table, tmp_path):
    run(table, 'frozen', tmp_path)
    file = runs_file(folder_of(tmp_path))
    line = json.loads(file.read_text())
    def there(**params): file.write_text(json.dumps({**line, 'params': params})+'\n')
    fewer = {k: v for k, v in line['params'].items() if k != 'l1'}
    there(**dict(reversed(line['params'].items())))
    run(table, 'frozen', tmp_path)
    for params, match in (({**line['params'], 'new': 3}, 'new=3, not None:'), (fewer, 'l1=None, not 0.0:'),
                          ({**line['params'], 'lr': .02, 'wd': 1}, 'lr=0.02, not 0.01; wd=1, not 0.01:')):
        there(**params)
        with pytest.raises(ValueError, match=f'runs.jsonl holds frozen, seed 0, with {match} give another folder'):
            run(table, 'frozen', tmp_path)


def test_other_settings_or_data_are_an_error_before_any_run(table, tmp_path, fitted):
    run(table, 'frozen', tmp_path)
    fitted.clear()
    both = methods('dense', 'frozen')
    for shared, match in ((dict(epochs=2, layers=(20, 10)), 'epochs=1, not 2'),
                          (dict(epochs=1, layers=(9, 9)), r'layers=\[20, 10\], not \[9, 9\]')):
        with pytest.raises(ValueError, match=f"holds frozen, seed 0, with {match}: give another folder"):
            run_methods(table, both, 1, tmp_path, 'cpu', **shared)
    table.df.loc[0, 'price'] += 1
    with pytest.raises(ValueError, match='holds frozen, seed 0, with data='):
        run_methods(table, both, 1, tmp_path, 'cpu', **quick)
    assert not fitted and len(lines(tmp_path)) == 1


@pytest.mark.parametrize('kwargs, match', [
    (dict(seeds=0), "seeds=0: give at least 1"), (dict(epochs=0), "epochs=0: give at least 1"),
    (dict(weight_p=1.5), "weight_p=1.5 is not the fraction"),
    (dict(search=-1), "search=-1: give the number of settings to try, or 0"),
    (dict(jobs=0), "jobs=0: give the number of runs to fit side by side, or -1"),
    (dict(methods=[]), "no method to run: choose some of 'fastai', 'dense'")])
def test_bad_experiments(table, tmp_path, kwargs, match):
    with pytest.raises(ValueError, match=match):
        run_methods(table, out=tmp_path, **{**dict(methods=methods('dense', 'frozen'), seeds=1, **quick), **kwargs})
    assert not list(tmp_path.iterdir())


# --- Kills, damage, other writers ---

@pytest.mark.parametrize('step', ['write_arrays', 'write_jsonl'])
def test_a_run_that_is_stopped_while_it_is_written_is_run_again(table, tmp_path, monkeypatch, fitted, step):
    def stop(*a, **k): raise KeyboardInterrupt
    first = run(table, 'dense', tmp_path/'whole', 2)
    run(table, 'dense', tmp_path)
    monkeypatch.setattr(bench_runs, step, stop)
    with pytest.raises(KeyboardInterrupt): run(table, 'dense', tmp_path, 2)
    monkeypatch.setattr(bench_runs, step, dict(write_arrays=write_arrays, write_jsonl=write_jsonl)[step])
    assert list(lines(tmp_path)) == [('dense', 0)]
    fitted.clear()
    res = run(table, 'dense', tmp_path, 2)
    assert [o[1] for o in fitted] == [1] and [r['rmse'] for r in res] == [r['rmse'] for r in first]
    assert {o.name for o in tmp_path.rglob('.*')} == {'.lock'}
    for k, v in preds(tmp_path/'whole').items(): assert np.array_equal(v, preds(tmp_path)[k])


def test_predictions_without_any_line_are_forgotten(table, tmp_path):
    "Those of a first run that was killed: the next may be of another table"
    run(table, 'rf', tmp_path, **forest)
    runs_file(folder_of(tmp_path)).unlink()
    table.df['price'] += 1
    run(table, 'rf', tmp_path, **forest)
    assert np.array_equal(preds(tmp_path)['y'], table.targets(table.test_idx))


@pytest.mark.parametrize('name', ['preds.npz', 'runs.jsonl'])
def test_a_kill_while_a_file_is_written_leaves_the_old_one(table, tmp_path, name):
    "Half of the new one lies beside it, and means nothing"
    run(table, 'rf', tmp_path, **forest)
    script = f"""
import os, signal, sys
from pathlib import Path
sys.path.insert(0, {str(Path(__file__).parent)!r})
from test_runs import forest, make_table, methods, run_methods
fsync = os.fsync
def killed(fd):
    if {name!r} in os.readlink(f'/proc/self/fd/{{fd}}'): os.kill(os.getpid(), signal.SIGKILL)
    fsync(fd)
os.fsync = killed
run_methods(make_table(), methods('rf'), 2, {str(tmp_path)!r}, 'cpu', **forest)
"""
    if not Path('/proc/self/fd').exists(): pytest.skip("needs /proc")
    assert subprocess.run([sys.executable, '-c', script]).returncode == -signal.SIGKILL
    assert [(r['arm'], r['seed']) for r in read_runs(folder_of(tmp_path))] == [('rf', 0)] and 'rf/0' in preds(tmp_path)
    run(table, 'rf', tmp_path, 2, **forest)
    assert list(lines(tmp_path)) == [('rf', 0), ('rf', 1)] and set(preds(tmp_path)) == {'rf/0', 'rf/1', 'y'}


def test_predictions_of_a_killed_run_are_not_those_of_a_later_one(table, tmp_path):
    run(table, 'rf', tmp_path, 2, **forest)
    forget(tmp_path, ('rf', 1))
    run(table, 'rf', tmp_path, 2, preds=False, **forest)
    assert set(preds(tmp_path)) == {'rf/0', 'y'}


@pytest.mark.parametrize('line, match', [
    ('{"arm": "de', 'line 2 is damaged'), ('[]', 'line 2 is not a JSON object'), ('', 'line 2 is damaged'),
    ('{}', "line 2 holds no run .no 'arm'"), ('{"arm": "a", "seed": 0, "params": 3}', 'line 2 holds no run')])
def test_damaged_lines_are_named(table, tmp_path, line, match):
    run(table, 'dense', tmp_path)
    with runs_file(folder_of(tmp_path)).open('a') as f: f.write(f'{line}\n')
    with pytest.raises(ValueError, match=f'runs.jsonl, {match}'): run(table, 'dense', tmp_path, 2)
    with pytest.raises(ValueError, match=f'runs.jsonl, {match}'): read_runs(folder_of(tmp_path))


def test_a_run_is_in_one_line(table, tmp_path):
    run(table, 'dense', tmp_path)
    file = runs_file(folder_of(tmp_path))
    file.write_text(2*file.read_text())
    with pytest.raises(ValueError, match='line 2 has dense, seed 0 again: remove one of the lines'):
        run(table, 'dense', tmp_path)


def test_predictions_that_cannot_be_written_leave_no_run(table, tmp_path, monkeypatch):
    def full(f, *a, **k):
        f.write(b'half')
        raise OSError('disk full')
    monkeypatch.setattr(np.lib.format, 'write_array', full)
    with pytest.raises(OSError, match='disk full'): run(table, 'rf', tmp_path, **forest)
    assert files(tmp_path) == []


def test_write_whole_keeps_the_old_file(tmp_path):
    path = tmp_path/'new'/'a.txt'
    write_whole(path, lambda p: p.write_text('old'))
    def broken(p):
        p.write_text('ne')
        raise OSError('disk full')
    with pytest.raises(OSError): write_whole(path, broken)
    assert path.read_text() == 'old' and list(path.parent.iterdir()) == [path]


def hold(folder, held, leave):
    with lock_folder(folder):
        held.set()
        leave.wait(60)


def test_a_folder_has_one_writer(table, tmp_path, fitted):
    run(table, 'dense', tmp_path)
    ctx = multiprocessing.get_context('fork')
    held, leave = ctx.Event(), ctx.Event()
    other = ctx.Process(target=hold, args=(folder_of(tmp_path), held, leave))
    other.start()
    try:
        assert held.wait(60)
        fitted.clear()
        with pytest.raises(ValueError, match='another process is writing to .*shops-random: wait until it is done, or'):
            run(table, 'dense', tmp_path, 2)
        assert not fitted and len(read_runs(folder_of(tmp_path))) == 1, "others may read"
        other.kill()  # the lock ends with its process
        other.join()
        assert len(run(table, 'dense', tmp_path, 2)) == 2
    finally: other.kill()


# --- Side by side ---

@side_by_side
def test_jobs_find_what_one_finds(table, tmp_path):
    names = ['dense', 'default,members=2', 'rf']
    one, two = (run_methods(table, methods(*names), 2, tmp_path/str(o), 'cpu', jobs=o, **quick, **forest) for o in (1, 2))
    assert [(r['arm'], r['seed']) for r in one] == [(r['arm'], r['seed']) for r in two]
    for a, b in zip(one, two): assert {**a, 'seconds': 0} == {**b, 'seconds': 0}
    a, b = (preds(tmp_path/o) for o in '12')
    assert set(a) == set(b) and all(np.array_equal(a[k], b[k]) for k in a)


def test_a_folder_that_cannot_be_written_to_is_an_error_before_any_work(table, tmp_path, monkeypatch):
    (tmp_path/'file').touch()
    monkeypatch.setattr(Method, 'fit', None)
    with pytest.raises(ValueError, match=r"file/runs/.* cannot be written to \(Not a directory\): give another folder"):
        run_methods(table, methods('rf'), 1, tmp_path/'file'/'runs')


def diverging(self, table, seed, *args):
    "A fit whose predictions are not finite for one seed or one setting"
    pred = np.zeros((len(table.test_idx), 1))
    if seed == 1: pred[3] = np.nan
    return dict(pred=pred, seconds=0.)


def test_a_run_that_diverged_is_an_error_and_leaves_nothing_behind(table, tmp_path, monkeypatch):
    monkeypatch.setattr(Method, 'fit', diverging)
    with pytest.raises(ValueError, match="rf, seed 1: predictions are not finite, so its training diverged; lower"):
        run_methods(table, methods('rf'), 2, tmp_path)
    assert {k for k in lines(tmp_path)} == {('rf', 0)} and 'rf/1' not in preds(tmp_path)


def test_a_trial_that_diverged_is_not_the_best(table, tmp_path, monkeypatch):
    monkeypatch.setattr(Method, 'fit', diverging)
    best = search_methods(table, methods('rf'), 2, tmp_path)
    assert best['rf'][1]['chosen'] == 0
    monkeypatch.setattr(Method, 'fit', lambda self, table, *args: diverging(self, table, 1))
    with pytest.raises(ValueError, match="rf: all 2 trials diverged"): search_methods(table, methods('rf'), 2, tmp_path/'new')


def test_damaged_predictions_are_named(table, tmp_path):
    run_methods(table, methods('rf'), 1, tmp_path, **forest)
    file, = tmp_path.glob('*/preds.npz')
    for junk in (b'junk', b'PK\x03\x04 junk', b''):
        file.write_bytes(junk)
        with pytest.raises(ValueError, match=f"{file} is damaged .*: remove it, and the lines of its runs"): read_arrays(file)


@side_by_side
def test_only_the_parent_writes(table, tmp_path, monkeypatch):
    seen = []
    for step in (write_arrays, write_jsonl):
        def spy(*args, step=step, **kwargs):
            seen.append((step.__name__, os.getpid()))
            return step(*args, **kwargs)
        monkeypatch.setattr(bench_runs, step.__name__, spy)
    run_methods(table, methods('rf', 'et'), 2, tmp_path, jobs=2, **forest)
    assert seen == [('write_arrays', os.getpid()), ('write_jsonl', os.getpid())]*4
    assert len(lines(tmp_path)) == 4 and len(preds(tmp_path)) == 5


@side_by_side
def test_workers_share_the_cores(table, tmp_path):
    "loky gives each its part of the threads, and a run says how many it had"
    with joblib.parallel_config(backend='loky', inner_max_num_threads=2):
        res = run_methods(table, methods('rf', 'et'), 1, tmp_path, jobs=2, **forest)
    assert [r['threads'] for r in res] == [2, 2]


@side_by_side
def test_stopped_jobs_go_on(table, tmp_path, monkeypatch):
    def stop(*args):
        write_jsonl(*args)
        raise KeyboardInterrupt
    monkeypatch.setattr(bench_runs, 'write_jsonl', stop)
    with pytest.raises(KeyboardInterrupt): run_methods(table, methods('rf', 'et'), 3, tmp_path, jobs=2, **forest)
    there, = lines(tmp_path)
    monkeypatch.setattr(bench_runs, 'write_jsonl', write_jsonl)
    before = lines(tmp_path)[there]
    res = run_methods(table, methods('rf', 'et'), 3, tmp_path, jobs=2, **forest)
    assert before in res and len(res) == len(lines(tmp_path)) == 6
    one = run_methods(table, methods('rf', 'et'), 3, tmp_path/'one', **forest)
    assert [r['rmse'] for r in res] == [r['rmse'] for r in one]


def test_an_interrupted_process_keeps_what_is_finished(tmp_path):
    "Ctrl-C while two jobs are at work, as a shell sends it; then the same call goes on"
    code = f"""
import signal, sys; sys.path.insert(0, {str(os.path.dirname(__file__))!r})
from helpers import make_table
from dropconnect_tab.bench.methods import METHODS
from dropconnect_tab.bench.runs import run_methods
signal.signal(signal.SIGINT, signal.default_int_handler)  # a process in the background has it ignored
run_methods(make_table(), [METHODS['rf']], 40, {str(tmp_path)!r}, jobs=2, n_estimators=300)"""
    p = subprocess.Popen([sys.executable, '-W', 'ignore', '-c', code], stdout=subprocess.DEVNULL,
                         stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        while p.poll() is None and len(lines(tmp_path)) < 3: time.sleep(.02)
        os.killpg(p.pid, signal.SIGINT)
        err = p.communicate(timeout=60)[1]
    finally:
        if p.poll() is None: os.killpg(p.pid, signal.SIGKILL)
    assert p.returncode and 'KeyboardInterrupt' in err
    there = lines(tmp_path)
    assert 3 <= len(there) < 40 and set(preds(tmp_path)) >= {f'{a}/{s}' for a, s in there}
    res = run_methods(make_table(), methods('rf'), len(there), tmp_path, n_estimators=300)
    for r in res: assert there.get(('rf', r['seed']), r) == r


def double(x): return 2*x


@side_by_side
@pytest.mark.parametrize('backend', ['loky', 'threading', 'multiprocessing'])
def test_backends(backend):
    "That of multiprocessing, and so Ray's, which is made of it, returns lists only"
    with joblib.parallel_config(backend=backend):
        found = bench_runs._as_they_finish(2, [joblib.delayed(double)(o) for o in range(5)])
        assert sorted(found) == [0, 2, 4, 6, 8]


# --- The blend ---

def test_parts_come_along_once_and_first():
    pytest.importorskip('xgboost')
    def labels(*names): return [o.label for o in with_parts(methods(*names))]
    assert labels('dense', 'frozen,weight_p=0.3', 'dense') == ['dense', 'frozen,weight_p=0.3']
    assert labels('xgb', 'blend', 'rf', 'dense') == ['xgb', 'rf', 'et', 'fastai', 'blend', 'dense']


@side_by_side
@pytest.mark.parametrize('y, jobs', [('price', 1), ('band', 1), ('price', 2)])
def test_the_blend_is_the_mean_of_its_parts_of_the_same_seed(tmp_path, y, jobs, fitted):
    pytest.importorskip('xgboost')
    table, parts = make_table(y), ['rf', 'et', 'xgb', 'fastai']
    def blend(): return run_methods(table, methods('blend'), 2, tmp_path, 'cpu', jobs=jobs, **quick, **forest)
    res = blend()
    assert [(r['arm'], r['seed']) for r in res] == [(o, s) for s in (0, 1) for o in [*parts, 'blend']]
    for seed in (0, 1):
        one, pred = {r['arm']: r for r in res if r['seed'] == seed}, preds(tmp_path)
        assert np.allclose(pred[f'blend/{seed}'], np.mean([pred[f'{o}/{seed}'] for o in parts], axis=0), atol=1e-6)
        assert one['blend']['seconds'] == pytest.approx(sum(one[o]['seconds'] for o in parts))
        assert one['blend']['params']['xgb'] == METHODS['xgb'].with_shared(**forest).settings
    measure = 'logloss' if y == 'band' else 'rmse'
    assert res[4][measure] != res[9][measure]
    fitted.clear()
    forget(tmp_path, ('blend', 0))
    again = blend()
    assert not fitted and again[4][measure] == res[4][measure] and ('blend', 0) in lines(tmp_path)


def test_a_blend_of_other_parts_is_an_error_before_any_run(table, tmp_path, fitted):
    pytest.importorskip('xgboost')
    run(table, 'blend', tmp_path, **forest)
    forget(tmp_path, *((o, 0) for o in ('rf', 'et', 'xgb', 'fastai')))
    fitted.clear()
    with pytest.raises(ValueError, match='holds blend, seed 0, with fastai='):
        run(table, 'blend', tmp_path, **{**quick, 'epochs': 2}, **forest)
    assert not fitted


def test_a_blend_needs_its_parts_predictions(table, tmp_path, fitted):
    pytest.importorskip('xgboost')
    run(table, 'rf', tmp_path, preds=False, **forest)
    fitted.clear()
    with pytest.raises(ValueError, match='preds.npz has no predictions of rf, seed 0: give another folder'):
        run(table, 'blend', tmp_path, **forest)
    assert not fitted


# --- Search ---

def trials(out, name, n):
    found = {(r['arm'], r['seed']): r for r in read_jsonl(out/'shops-random-search'/'runs.jsonl')}
    return [found[name, i] for i in range(n)]


def search(table, names, n, out, seeds=1, **shared):
    return run_methods(table, methods(*names), seeds, out, 'cpu', n, **{'epochs': 1, **forest, **shared})


def best_of(table, names, n, out, **shared):
    return search_methods(table, [o.with_shared(**{**forest, **shared}) for o in methods(*names)], n, out, 'cpu')


def test_all_arms_get_the_same_number_of_trials_and_leave_no_predictions(table, tmp_path):
    names = ['dense', 'frozen,weight_p=0.3', 'rf']
    search(table, names, 3, tmp_path)
    assert files(tmp_path) == ['shops-random-search/runs.jsonl', 'shops-random/preds.npz', 'shops-random/runs.jsonl']
    assert len(read_runs(tmp_path/'shops-random-search')) == 9 and set(lines(tmp_path)) == {(o, 0) for o in names}
    assert [t['params']['weight_p'] for t in trials(tmp_path, 'frozen,weight_p=0.3', 3)] == [.3]*3
    assert [t['seed'] for t in trials(tmp_path, 'rf', 3)] == [0, 1, 2]


@side_by_side
def test_jobs_search_too(table, tmp_path):
    a, b = (search(table, ['rf', 'et'], 3, tmp_path/str(o), jobs=o) for o in (1, 2))
    assert [(r['params'], r['search'], r['rmse']) for r in a] == [(r['params'], r['search'], r['rmse']) for r in b]


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
            assert lines(tmp_path)[name, r['seed']]['search'] == r['search']
        expected = {k: v for k, v in found[best]['params'].items() if k != 'data'}
        used = [settings for o, _, t, settings in fitted if o == name and t is table]
        for settings in used: assert as_json(settings) == expected
        assert len(used) == len(final) == 2


def test_the_first_of_two_equal_trials_is_taken(table, tmp_path, monkeypatch):
    monkeypatch.setattr(Method, 'fit', zeros)
    assert search(table, ['rf'], 3, tmp_path)[0]['search']['chosen'] == 0


@pytest.mark.parametrize('change', [dict(price=1000.), dict(size=1000., age=np.nan), dict(shop='new')], ids=str)
def test_the_search_never_sees_the_test_rows(tmp_path, fitted, change):
    df = make_df(200)
    for k, v in change.items(): df.loc[160:, k] = v
    tables = [make_table(times=pd.Series(np.arange(200)//3), df=o) for o in (make_df(200), df)]
    best = [best_of(t, ['dense', 'rf'], 2, tmp_path/str(i), epochs=1) for i, t in enumerate(tables)]
    for _, _, part, _ in fitted:
        assert np.array_equal(np.union1d(part.df.index[part.train_idx], part.df.index[part.test_idx]), np.arange(160))
        assert part.df.index[part.test_idx].min() == part.df.index[part.train_idx].max()+1
    assert len(fitted) == 8
    for name in ('dense', 'rf'):
        assert best[0][name][0].settings == best[1][name][0].settings and best[0][name][1] == best[1][name][1]
        for a, b in zip(*(trials(tmp_path/o, name, 2) for o in '01')): assert a['rmse'] == b['rmse']


def test_shared_settings_are_not_searched(table, tmp_path):
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
    assert search(table, ['dense', 'rf'], 3, tmp_path) == first and not fitted
    forget(tmp_path, ('rf', 1), folder=tmp_path/'shops-random-search')
    search(table, ['dense', 'rf'], 3, tmp_path)
    assert [o[:2] for o in fitted] == [('rf', 1)]


def test_more_trials_add_to_those_that_are_there(table, tmp_path, fitted):
    best_of(table, ['rf'], 2, tmp_path)
    fitted.clear()
    _, note = best_of(table, ['rf'], 4, tmp_path)['rf']
    assert [o[:2] for o in fitted] == [('rf', 2), ('rf', 3)] and note['tried'] == 4


def test_the_note_says_how_many_were_tried_also_where_the_choice_stays(table, tmp_path, monkeypatch):
    "The runs of a smaller search fit, but their note does not"
    monkeypatch.setattr(Method, 'fit', zeros)
    search(table, ['rf'], 2, tmp_path)
    res = search(table, ['rf'], 3, tmp_path)[0]
    assert res['search']['tried'] == 3 and lines(tmp_path)['rf', 0] == res


@pytest.mark.parametrize('names', [['deep-ensemble'], ['deep-ensemble', 'dense']], ids=str)
def test_a_deep_ensemble_takes_the_settings_of_its_net(table, tmp_path, fitted, names):
    res = {r['arm']: r for r in search(table, names, 3, tmp_path, nets=2, layers=(20, 10))}
    assert list(res) == names
    tried = read_runs(tmp_path/'shops-random-search')
    assert [(r['arm'], r['seed']) for r in tried] == [('dense', i) for i in range(3)]
    found = trials(tmp_path, 'dense', 3)
    best = min(range(3), key=lambda i: found[i]['rmse'])
    assert res['deep-ensemble']['search'] == dict(tried=3, chosen=best, error=found[best]['rmse'])
    assert res['deep-ensemble']['params'] == {**found[best]['params'], 'nets': 2, 'data': table.fingerprint}
    again = [('dense', 0)] if 'dense' in names else []
    assert [o[:2] for o in fitted if o[0] == 'dense'] == [('dense', i) for i in range(3)] + again


def test_a_variant_of_a_deep_ensemble_keeps_its_own_settings(table, tmp_path):
    names = ['deep-ensemble,lr=0.5', 'deep-ensemble,nets=3']
    best = best_of(table, [*names, 'dense'], 2, tmp_path, epochs=1, layers=(20, 10))
    dense = best['dense'][0].settings
    assert best[names[0]][0].settings == {**dense, 'lr': .5, 'nets': 8}
    assert best[names[1]][0].settings == {**dense, 'nets': 3}


@side_by_side
def test_progress_counts_the_epochs_of_each_net_or_the_runs_of_jobs(table, tmp_path, monkeypatch):
    totals, real = [], bench_runs.progress_bar
    monkeypatch.setattr(bench_runs, 'progress_bar', lambda o: totals.append(len(o)) or real(o))
    monkeypatch.setattr(bench_runs, '_is_watched', lambda: True)
    run_methods(table, methods('deep-ensemble', 'dense'), 2, tmp_path, 'cpu', epochs=2, nets=3, layers=(20, 10))
    run_methods(table, methods('rf'), 3, tmp_path, 'cpu', jobs=2, **forest)
    assert totals == [2*(2*3 + 2), 3]


def test_where_nobody_watches_a_run_is_a_line(table, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench_runs, 'progress_bar', None)
    res = run_methods(table, methods('dense', 'rf'), 1, tmp_path, 'cpu', epochs=2, layers=(20, 10), **forest)
    assert capsys.readouterr().out.splitlines() == [
        f"{r['arm']}, seed 0: {r['rmse']:.4f} in {r['seconds']:.1f} s" for r in res]
    search(table, ['rf'], 2, tmp_path/'search', **forest)
    said = capsys.readouterr().out.splitlines()
    assert [o.split(':')[0] for o in said] == ['searching rf, setting 0', 'searching rf, setting 1', 'rf, seed 0']


def test_a_blend_is_made_of_searched_parts(table, tmp_path):
    pytest.importorskip('xgboost')
    res = {r['arm']: r for r in search(table, ['blend'], 2, tmp_path, **forest)}
    assert 'search' not in res['blend'] and 'blend' not in {r['arm'] for r in read_runs(tmp_path/'shops-random-search')}
    for o in ('rf', 'et', 'xgb', 'fastai'):
        assert res[o]['search']['tried'] == 2
        assert res['blend']['params'][o] == {k: v for k, v in res[o]['params'].items() if k != 'data'}

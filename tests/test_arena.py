"Runs, their files, and what stops them."
import json

import numpy as np
import pytest
from conftest import make_df

import dropconnect_tab.arena as arena
from dropconnect_tab.arena import (Settings, Table, arms, load_run, run_arm, run_arms, run_params, run_path, summarise,
                                   write_whole)

quick = Settings(epochs=1, layers=(20, 10))


@pytest.fixture
def table():
    df = make_df(200)
    return Table('shops', 'random', 'all', df, 'price', ['shop', 'day'], ['size', 'age'],
                 np.arange(160), np.arange(160, 200))


def test_a_run_leaves_its_files(table, tmp_path):
    res = run_arm(table, 'frozen', 1, quick, tmp_path, 'cpu')
    path = run_path(tmp_path, table, 'frozen', 1)
    assert path == tmp_path/'shops-random'/'frozen'/'1.json'
    assert json.loads(path.read_text()) == json.loads(json.dumps(res))
    assert {'arm', 'seed', 'dataset', 'split', 'rmse', 'seconds', 'columns', 'params', 'versions', 'device',
            'threads'} <= set(res)
    with np.load(path.with_suffix('.npz')) as f: pred, y = f['pred'], f['y']
    assert pred.shape == (40, 1) and y.shape == (40,)
    assert np.isclose(res['rmse'], np.sqrt(np.mean((pred[:, 0] - y)**2)))
    assert res['zeros'] == .5 and len(res['curve']) == 1


def test_a_run_is_repeatable_and_seeds_differ(table, tmp_path):
    a, b, c = (run_arm(table, 'trainable', s, quick, tmp_path/o, 'cpu')['rmse']
               for s, o in ((0, 'a'), (0, 'b'), (1, 'b')))
    assert a == b != c


def test_settings_reach_the_net(table, tmp_path, monkeypatch):
    seen = []
    real = arena.dropconnect_learner
    def spy(dls, **kwargs):
        seen.append((learn := real(dls, **kwargs), kwargs, dls))
        return learn
    monkeypatch.setattr(arena, 'dropconnect_learner', spy)
    s = Settings(epochs=3, bs=32, lr=.02, layers=(7, 5), weight_p=.8)
    for arm in arms: run_arm(table, arm, 0, s, tmp_path, 'cpu')
    for (learn, kwargs, dls), arm in zip(seen, arms):
        assert dls.train.bs == 32 and kwargs['layers'] == [7, 5]
        masks = learn.model.weight_masks
        assert masks.weight_p['layers.0.0'] == (0 if arm == 'dense' else .8)
        assert masks.mask == ('frozen' if arm == 'frozen' else 'trainable')
        assert np.isclose(max(np.max(lr) for lr in learn.recorder.hps['lr']), .02, rtol=.1)
        lo, hi = table.df.price[:160].min(), table.df.price[:160].max()
        assert np.allclose(kwargs['y_range'], [lo-.1*(hi-lo), hi+.1*(hi-lo)], atol=1e-4)
    runs = [load_run(run_path(tmp_path, table, arm, 0), run_params(table, arm, s)) for arm in arms]
    assert [len(r['curve']) for r in runs] == [3, 3, 3]
    assert [round(r['zeros'], 1) for r in runs] == [0, 0, .8]


def test_what_is_there_is_not_run_again(table, tmp_path, monkeypatch):
    run_arms(table, ['dense'], 2, quick, tmp_path, 'cpu')
    run_path(tmp_path, table, 'dense', 1).unlink()
    fitted = []
    real = arena.fit_net
    def spy(t, arm, seed, *a):
        fitted.append((arm, seed))
        return real(t, arm, seed, *a)
    monkeypatch.setattr(arena, 'fit_net', spy)
    res = run_arms(table, ['dense', 'frozen'], 2, quick, tmp_path, 'cpu')
    assert fitted == [('frozen', 0), ('dense', 1), ('frozen', 1)]
    assert [(r['arm'], r['seed']) for r in res] == [('dense', 0), ('frozen', 0), ('dense', 1), ('frozen', 1)]


def test_other_settings_or_data_are_an_error_before_any_run(table, tmp_path, monkeypatch):
    run_arm(table, 'frozen', 0, quick, tmp_path, 'cpu')
    monkeypatch.setattr(arena, 'fit_net', lambda *a: pytest.fail('a run was started'))
    for s, match in ((Settings(epochs=2, layers=(20, 10)), 'epochs=1, not 2'),
                     (Settings(epochs=1, layers=(9, 9)), r'layers=\[20, 10\], not \[9, 9\]')):
        with pytest.raises(ValueError, match=f"0.json holds a run with {match}: give another folder"):
            run_arms(table, ['dense', 'frozen'], 1, s, tmp_path, 'cpu')
    table.df.loc[0, 'price'] += 1
    with pytest.raises(ValueError, match='holds a run with data='):
        run_arms(table, ['dense', 'frozen'], 1, quick, tmp_path, 'cpu')


def test_fingerprint_sees_values_and_split(table):
    one = table.fingerprint
    assert one == Table(**{**vars(table), 'df': table.df.copy()}).fingerprint
    assert one != Table(**{**vars(table), 'train_idx': np.arange(159)}).fingerprint
    assert one != Table(**{**vars(table), 'df': table.df.assign(age=0.)}).fingerprint


@pytest.mark.parametrize('kwargs, match', [
    (dict(names=['rf2']), "arm='rf2' is unknown: choose one of 'dense', 'trainable', 'frozen'"),
    (dict(seeds=0), "seeds=0: give at least 1"), (dict(settings=Settings(epochs=0)), "epochs=0: give at least 1"),
    (dict(settings=Settings(weight_p=1.5)), "weight_p=1.5 is not the fraction"),
    (dict(names=[]), "no arm to run: choose some of 'dense', 'trainable', 'frozen'")])
def test_bad_experiments(table, tmp_path, kwargs, match):
    with pytest.raises(ValueError, match=match):
        run_arms(table, **{**dict(names=['dense'], seeds=1, settings=quick), **kwargs}, out=tmp_path)
    assert not list(tmp_path.iterdir())


def test_interrupted_runs_leave_nothing_half_written(table, tmp_path, monkeypatch):
    def stop(*a, **k): raise KeyboardInterrupt
    monkeypatch.setattr(arena.json, 'dumps',
                        lambda *a, **k: stop() if 'indent' in k else json.JSONEncoder().encode(*a))
    with pytest.raises(KeyboardInterrupt): run_arm(table, 'dense', 0, quick, tmp_path, 'cpu')
    monkeypatch.undo()
    assert not run_path(tmp_path, table, 'dense', 0).exists()
    assert not list(tmp_path.rglob('.*'))
    assert run_arm(table, 'dense', 0, quick, tmp_path, 'cpu')['rmse'] > 0


def test_write_whole_keeps_the_old_file(tmp_path):
    path = tmp_path/'new'/'a.txt'
    write_whole(path, lambda p: p.write_text('old'))
    def broken(p):
        p.write_text('ne')
        raise OSError('disk full')
    with pytest.raises(OSError): write_whole(path, broken)
    assert path.read_text() == 'old' and list(path.parent.iterdir()) == [path]


def test_report_is_made_of_the_results(table, tmp_path):
    res = run_arms(table, list(arms), 2, quick, tmp_path, 'cpu')
    text = arena.report(res, tmp_path)
    folder = tmp_path/'shops-random'
    assert (folder/'table.md').read_text() == text + '\n'
    assert (folder/'arms.png').read_bytes()[:4] == b'\x89PNG'
    s = summarise(res)
    vals = [r['rmse'] for r in res if r['arm'] == 'frozen']
    assert list(s.index) == list(arms)
    assert np.isclose(s.rmse['frozen'], np.mean(vals)) and np.isclose(s.sd['frozen'], np.std(vals, ddof=1))
    assert f"{np.mean(vals):.4f} ± {np.std(vals, ddof=1):.4f} | 50%" in text
    assert '±' not in arena.report(res[:1], tmp_path)


def test_small_arguments(table, tmp_path):
    y = table.df.price
    assert np.allclose(arena.y_limits(y, 0), [y.min(), y.max()])
    assert np.isclose(np.ptp(arena.y_limits(y, .5)), 2*np.ptp(y))
    dls = arena.table_dls(table, bs=16, device='cpu')
    assert dls.train.bs == 16 and str(dls.device) == 'cpu' and (len(dls.train_ds), len(dls.valid_ds)) == (160, 40)
    res = [run_arm(table, 'dense', 0, quick, tmp_path, 'cpu')]
    assert '| MAE ' in arena.format_summary(summarise(res), 'MAE') and '| MAE ' in arena.report(res, tmp_path, 'MAE')
    ax = arena.plot_arms(res, 'a title', 'MAE').axes[0]
    assert ax.get_title() == 'a title' and ax.get_xlabel().startswith('MAE')
    ticks = []
    run_arm(table, 'dense', 1, quick, tmp_path, 'cpu', tick=lambda: ticks.append(1))
    assert len(ticks) == quick.epochs

"The three commands, as a shell calls them."
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_df, make_table

import dropconnect_tab.bench.cli as cli
from dropconnect_tab.bench.__main__ import main as bench_main
from dropconnect_tab.bench.bulldozers import COLUMNS
from dropconnect_tab.bench.cli import (
    arena_main, bulldozers_main as main, check_device, check_settings, run_bulldozers, run_dataset)
from dropconnect_tab.bench.files import read_arrays, read_jsonl
from dropconnect_tab.bench.methods import METHODS, Method, read_method
from dropconnect_tab.bench.report import format_masks
from dropconnect_tab.bench.synthetic import synthetic_sales, write_synthetic

pytestmark = pytest.mark.slow


def results(out):
    return {(r['arm'], r['seed']): r for p in Path(out).rglob('runs.jsonl') for r in read_jsonl(p)}


def quick(*args): main([*args, '--epochs', '1', '--seeds', '1', '--device', 'cpu'])


def failure(capsys, *args):
    with pytest.raises(SystemExit) as e: main([*map(str, args)])
    assert e.value.code == 2
    err = capsys.readouterr().err
    assert 'Traceback' not in err
    return err


class Stop(Exception): pass


@pytest.fixture
def asked(monkeypatch):
    "What a command asks `run_methods` for, which does not run; arms as label → settings"
    def ask(*args, main=main):
        seen = {}
        def spy(dataset, methods, seeds, out, device, search, jobs, **more):
            arms = {o.label: o.with_shared(**more).settings for o in methods}
            seen.update(dataset=dataset, methods=arms, seeds=seeds, out=out, device=device, search=search, jobs=jobs)
            raise Stop
        monkeypatch.setattr(cli, 'run_methods', spy)
        with pytest.raises(Stop): main([*map(str, args)])
        return seen
    return ask


def settings(*names, **shared): return {o: read_method(o).with_shared(**shared).settings for o in names}


def stop_at(monkeypatch, name):
    "Ctrl-C while an arm is fitted"
    fit = Method.fit
    def stop(self, *args, **kwargs):
        if self.name == name: raise KeyboardInterrupt
        return fit(self, *args, **kwargs)
    monkeypatch.setattr(Method, 'fit', stop)


# --- Bulldozers ---

@pytest.fixture(scope='module')
def sales(tmp_path_factory):
    path = tmp_path_factory.mktemp('sales')/'TrainAndValid.zip'
    return write_synthetic(path, 2000, start='2010-01-01', end='2012-04-30')


def shell(cwd, *command): return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True)


def test_defaults_end_to_end(tmp_path, capsys, monkeypatch):
    "With no data at all; fewer epochs and seeds than by default, which take a minute or two"
    done = shell(tmp_path, Path(sys.executable).parent/'dropconnect-bulldozers', '--epochs', 1, '--seeds', 1)
    assert done.returncode == 0 and 'Error' not in done.stderr, done.stderr
    assert done.stderr == '' and 'these are synthetic sales' in done.stdout and '12,000 sales' in done.stdout
    folder = tmp_path/'runs'/'synthetic-bulldozers-book'
    res = results(folder)
    assert set(res) == {(o, 0) for o in ('dense', 'trainable', 'frozen', 'default')}
    assert [round(res[a, 0]['zeros'], 3) for a in ('dense', 'frozen')] == [0, .5]
    assert (folder/'table.md').exists() and (folder/'arms.png').stat().st_size > 5000
    # A line for each run, where a terminal has a bar; then what made-up sales can show, and what to do next
    assert len(done.stdout.splitlines()) < 45 and len(re.findall(r'^default, seed \d: [\d.]+ in', done.stdout, re.M)) == 1
    masks = format_masks(list(res.values()))
    assert masks in done.stdout and re.search(r'^\| frozen +\| 50%', masks, re.M) and 'RMSE' not in done.stdout
    assert 'dropconnect-arena --dataset' in done.stdout.split(masks)[1]
    monkeypatch.chdir(tmp_path)
    main(['--epochs', '1', '--seeds', '1'])
    again = capsys.readouterr().out
    assert masks in again and 'seed' not in again.split('| method')[0]


def test_module_is_the_same_command(tmp_path, sales, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bench_main(['bulldozers', '--path', str(sales), '--arms', 'dense', '--seeds', '1', '--epochs', '1'])
    assert len(results(tmp_path/'runs')) == 1


def test_arguments_do_what_they_say(tmp_path, sales, capsys):
    main(['--path', str(sales), '--split', 'kaggle', '--arms', 'frozen', 'dense', '--seeds', '2', '--epochs', '2',
          '--weight-p', '.8', '--out', str(tmp_path/'mine'), '--device', 'cpu'])
    res = results(tmp_path)
    assert set(res) == {(a, s) for a in ('dense', 'frozen') for s in range(2)}
    one = res['frozen', 1]
    assert one['split'] == 'kaggle' and one['device'] == 'cpu'
    assert len(one['curve']) == 2 and one['params']['epochs'] == 2
    assert round(one['zeros'], 3) == .8 and one['params']['weight_p'] == .8
    assert one['dataset'] == 'synthetic-bulldozers' and one['columns'] == 'book'
    assert 'frozen/1' in read_arrays(tmp_path/'mine'/'synthetic-bulldozers-kaggle'/'preds.npz')


def test_defaults(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = asked()
    assert {k: v for k, v in seen.items() if k != 'dataset'} == dict(
        methods=settings('dense', 'trainable', 'frozen', 'default'), seeds=3, out='runs', device=None, search=0, jobs=1)
    assert (seen['dataset'].split, seen['dataset'].columns, len(seen['dataset'].df)) == ('book', 'book', 12_000)
    assert seen['methods']['dense']['epochs'] == 8 and seen['methods']['frozen']['weight_p'] is None


def test_settings_of_the_command_line(asked, sales):
    names = ['frozen', 'rf', 'trainable,weight_p=0.8']
    seen = asked('--path', sales, '--arms', *names, '--set', 'wd=0.1', 'layers=(20,10)', 'unit=feature',
                 'max_features=sqrt', '--epochs', 3, '--weight-p', .7, '--jobs', 2)
    assert seen['methods'] == settings(*names, wd=.1, layers=(20, 10), unit='feature', max_features='sqrt', epochs=3,
                                    weight_p=.7)
    assert seen['methods']['trainable,weight_p=0.8']['weight_p'] == .8 and seen['jobs'] == 2


def test_settings_add_up(asked, sales):
    seen = asked('--path', sales, '--set', 'wd=0.1', '--set', 'lr=0.02')
    assert (seen['methods']['dense']['wd'], seen['methods']['dense']['lr']) == (.1, .02)


def test_all_arms(asked, sales):
    for o in METHODS:
        try: read_method(o)
        except ValueError: pytest.skip(f'{o} is not installed')
    assert list(asked('--path', sales, '--arms', 'all')['methods']) == list(METHODS)
    more = 'frozen,weight_p=0.8'
    assert list(asked('--path', sales, '--arms', more, 'all')['methods']) == [more, *METHODS]


@pytest.mark.parametrize('n, told, bs', [(100_000, None, None), (100_001, None, 1024), (100_001, 64, 64)])
def test_large_tables_get_large_batches_unless_told_otherwise(asked, monkeypatch, n, told, bs):
    table = make_table(n=n+9, train_idx=np.arange(n), test_idx=np.arange(n, n+9))
    monkeypatch.setattr(cli, 'bulldozers_dataset', lambda *a: table)
    more = [] if told is None else ['--set', f'bs={told}']
    assert {o['bs'] for o in asked('--path', 'anything', *more)['methods'].values()} == {bs}


def test_own_columns_and_a_slice(tmp_path, sales):
    quick('--path', str(sales), '--split', '2012-slice', '--columns', 'own', '--arms', 'dense', '--out', str(tmp_path))
    one = results(tmp_path/'synthetic-bulldozers-2012-slice')['dense', 0]
    assert one['columns'] == 'own' and one['split'] == '2012-slice'


def test_other_columns_are_other_results(tmp_path, sales, capsys):
    quick('--path', str(sales), '--arms', 'dense', '--out', str(tmp_path))
    err = failure(capsys, '--path', sales, '--columns', 'own', '--arms', 'dense', '--epochs', 1, '--out', tmp_path)
    assert 'runs.jsonl holds dense, seed 0, with data=' in err and 'give another folder' in err


def test_search_and_variants(tmp_path, sales, capsys):
    quick('--path', str(sales), '--search', '2', '--arms', 'dense', 'frozen,weight_p=0.8', '--set', 'layers=(20,10)',
          '--out', str(tmp_path))
    folder, tried = tmp_path/'synthetic-bulldozers-book', results(tmp_path/'synthetic-bulldozers-book-search')
    assert set(tried) == {(a, i) for a in ('dense', 'frozen,weight_p=0.8') for i in range(2)}
    res = results(folder)
    assert set(res) == {('dense', 0), ('frozen,weight_p=0.8', 0)}
    for (name, _), r in res.items():
        assert r['search']['tried'] == 2 and r['params']['layers'] == [20, 10] and r['params']['epochs'] == 1
        assert r['search']['error'] == min(tried[name, i]['rmse'] for i in range(2))
    assert round(res['frozen,weight_p=0.8', 0]['zeros'], 2) == .8
    assert 'frozen,weight_p=0.8' in (folder/'settings.md').read_text()
    assert (folder/'table.md').exists() and 'frozen,weight_p=0.8' in capsys.readouterr().out


@pytest.mark.parametrize('split, expected', [('auto', 'book'), ('book', 'book'), ('kaggle', 'kaggle'),
                                             ('2012', '2012')])
def test_splits(tmp_path, sales, split, expected):
    quick('--path', str(sales), '--split', split, '--arms', 'dense', '--out', str(tmp_path))
    assert [p.name for p in tmp_path.iterdir()] == [f'synthetic-bulldozers-{expected}']


@pytest.mark.parametrize('form', ['csv', 'folder'])
def test_forms_of_the_data(tmp_path, sales, form):
    shutil.unpack_archive(sales, tmp_path)
    path = next(tmp_path.glob('*.csv'))
    quick('--path', str(path if form == 'csv' else tmp_path), '--arms', 'dense', '--out', str(tmp_path/'runs'))
    quick('--path', str(sales), '--arms', 'dense', '--out', str(tmp_path/'zip'))
    a, b = results(tmp_path/'runs'), results(tmp_path/'zip')
    assert a['dense', 0]['rmse'] == b['dense', 0]['rmse']


def test_the_real_sales_of_2012(tmp_path, data_path, capsys):
    quick('--path', str(data_path/'bulldozers-2012'), '--arms', 'frozen', '--out', str(tmp_path))
    assert '9,877 rows to train on, 1,696 to test on' in capsys.readouterr().out
    assert results(tmp_path/'bulldozers-2012')['frozen', 0]['rows'] == dict(train=9877, test=1696)


def csv(tmp_path, df):
    df.to_csv(tmp_path/'bad.csv', index=False)
    return tmp_path/'bad.csv'


@pytest.mark.parametrize('bad, parts', [
    ('missing', ['nowhere.zip does not exist', 'download TrainAndValid.zip']),
    ('empty', ['empty.csv needs column SalesID', 'download TrainAndValid.zip']),
    ('no zip', ['bad.zip', 'zip']), ('SalePrice', ['SalePrice']), ('saledate', ['saledate']),
    ('price 0', ['row 3', 'SalePrice 0', 'dollars above 0']), ('no test rows', ["split='kaggle' leaves", 'choose'])])
def test_bad_data(tmp_path, capsys, bad, parts):
    df = synthetic_sales(200)
    assert list(df) == COLUMNS
    (tmp_path/'empty.csv').touch()
    (tmp_path/'bad.zip').write_text('no zip')
    path = {'missing': lambda: tmp_path/'nowhere.zip', 'empty': lambda: tmp_path/'empty.csv',
            'no zip': lambda: tmp_path/'bad.zip',
            'SalePrice': lambda: csv(tmp_path, df.drop(columns='SalePrice')),
            'saledate': lambda: csv(tmp_path, df.drop(columns='saledate')),
            'price 0': lambda: csv(tmp_path, df.assign(SalePrice=df.SalePrice.where(df.index != 2, 0))),
            'no test rows': lambda: csv(tmp_path, df)}[bad]()
    err = failure(capsys, '--path', path, '--split', 'kaggle', '--out', tmp_path/'runs')
    assert all(p in err for p in parts), err
    assert not (tmp_path/'runs').exists()


@pytest.mark.parametrize('args, parts', [
    (['--weight-p', '-0.1'], ['weight_p=-0.1', 'below 1']), (['--weight-p', '1.0'], ['weight_p=1.0']),
    (['--weight-p', 'half'], ['half']), (['--split', '2013'], ["split='2013'", 'book']),
    (['--arms', 'rf2'], ["method='rf2'", "'dense'", "'trainable'", "'frozen'", "'rf'"]),
    (['--arms', 'dense', 'dense,ps=.1'], ["'dense,ps=0.1'", "no setting 'ps'", "'epochs'"]),
    (['--arms', 'frozen,weight_p=2'], ['weight_p=2']), (['--split', '2012-slic'], ["split='2012-slic'", '-slice']),
    (['--columns', 'x'], ["columns='x'", "'book', 'own'"]), (['--search', '-1'], ['search=-1', 'or 0']),
    (['--search', 'many'], ['many']), (['--jobs', '0'], ['jobs=0', 'or -1 for all']),
    (['--set', 'wd'], ["'wd'", 'name=value']), (['--set', 'wd='], ['name=value']),
    (['--set', '3=4'], ['name=value']), (['--set', 'nothing=3'], ["a setting 'nothing'", 'wd']),
    (['--set', 'weight_p=x'], ["weight_p='x'"]), (['--set', 'epochs=x'], ["epochs='x'"]),
    (['--set', 'epochs=1.5'], ['epochs=1.5']), (['--set', 'seeds=3'], ["a setting 'seeds'"]),
    (['--set', 'name=x'], ["a setting 'name'"]), (['--set', 'path=x'], ["a setting 'path'"]),
    (['--seeds', '0'], ['seeds=0', 'at least 1']), (['--epochs', '0'], ['epochs=0', 'at least 1']),
    (['--device', 'abacus'], ["device='abacus'", "'cpu' or 'auto'"])])
def test_bad_arguments(tmp_path, capsys, args, parts, monkeypatch):
    monkeypatch.chdir(tmp_path)
    err = failure(capsys, *args)
    assert all(p in err for p in parts), err
    assert not list(tmp_path.rglob('*.jsonl'))


def test_errors_of_bulldozers_in_python(tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist'): run_bulldozers(tmp_path/'nowhere')
    with pytest.raises(ValueError, match='weight_p=2'): run_bulldozers(weight_p=2)


def test_stopped_runs_go_on(tmp_path, sales, capsys, monkeypatch):
    stop_at(monkeypatch, 'frozen')
    with pytest.raises(SystemExit) as e: quick('--path', str(sales), '--out', str(tmp_path))
    assert e.value.code == 130 and 'the same command goes on from there' in capsys.readouterr().err
    assert set(results(tmp_path)) == {('dense', 0), ('trainable', 0)}
    before = results(tmp_path)
    monkeypatch.undo()
    quick('--path', str(sales), '--out', str(tmp_path))
    assert {**results(tmp_path), **before} == results(tmp_path) and ('frozen', 0) in results(tmp_path)


def test_help(capsys):
    with pytest.raises(SystemExit): main(['--help'])
    text = capsys.readouterr().out
    assert all(o in text for o in ('--path', '--split', '--seeds', '--epochs', '--arms', '--weight-p', '--device',
                                   '--out', '--columns', '--search', '--set', '--jobs'))


# --- Any table ---

def arena_failure(capsys, *args):
    "What is said on stderr: one line"
    with pytest.raises(SystemExit) as e: arena_main([*map(str, args)])
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
    arena_main(['--table', 'wine', '--arms', 'default', 'rf', '--seeds', '2', '--epochs', '1', '--device', 'cpu',
                '--set', 'layers=(20,10)', 'n_estimators=10', '--out', str(tmp_path)])
    folder = tmp_path/'wine-random'
    found, preds = results(folder), read_arrays(folder/'preds.npz')
    assert set(found) == {(o, i) for o in ('default', 'rf') for i in (0, 1)} == {*(
        (o.split('/')[0], int(o.split('/')[1])) for o in preds if o != 'y')}
    assert {'table.md', 'arms.png'} <= {o.name for o in folder.iterdir()}
    out, res = capsys.readouterr().out, found['default', 1]
    assert 'wine, split random: 128 rows to train on, 50 to test on' in out and 'log loss, mean of 2 seeds:' in out and '95% interval' in out
    assert (folder/'table.md').read_text() in out and str(folder) in out
    assert (res['dataset'], res['seed'], res['device'], len(res['curve'])) == ('wine', 1, 'cpu', 1)
    assert res['params'] == dict(epochs=1, bs=None, layers=[20, 10], data=res['params']['data'])
    assert preds['default/1'].shape == (50, 3)


def test_a_table_of_ones_own_may_be_called_synthetic(houses, capsys):
    "Its errors are shown all the same"
    named = houses.with_name('synthetic-houses.toml')
    named.write_text(houses.read_text())
    arena_main(['--table', str(named), '--arms', 'rf', '--seeds', '1', '--set', 'n_estimators=10', '--out', str(houses.parent)])
    out = capsys.readouterr().out
    assert 'RMSE, mean of 1 seeds' in out and 'made-up' not in out


def test_a_table_of_ones_own_from_a_shell(houses):
    people = [f'person {i}' for i in range(200)]
    make_df(200).assign(who=people).to_csv(houses.with_suffix('.csv'), index=False)
    done = shell(houses.parent, Path(sys.executable).parent/'dropconnect-arena', '--table', 'houses.toml', '--arms', 'rf',
                 '--seeds', 2, '--set', 'n_estimators=10', '--jobs', 2)
    assert done.returncode == 0, done.stderr
    assert 'houses, split random: 163 rows to train on, 37 to test on' in done.stdout and 'RMSE, mean of 2 seeds:' in done.stdout
    assert set(results(houses.parent/'runs'/'houses-random')) == {('rf', 0), ('rf', 1)}
    assert re.search("^dropconnect-arena: UserWarning: column 'who' has 200 distinct strings", done.stderr, re.M)


@pytest.mark.parametrize('args', [[], ['race'], ['--help']], ids=str)
def test_the_module_names_its_commands(args):
    with pytest.raises(SystemExit, match=r'bulldozers\|arena\|report') as e: bench_main(args)
    assert e.value.code


def test_a_table_in_a_folder(data_path, tmp_path):
    res = run_dataset('california', data_path, [METHODS['rf']], 1, tmp_path, 'cpu', n_estimators=2)
    assert [(r['dataset'], r['rows']) for r in res] == [('california', dict(train=16498, test=4142))]


def test_the_command_line_reaches_the_runs(asked, houses):
    plain = asked('--table', 'wine', main=arena_main)
    assert plain.pop('dataset').name == 'wine'
    assert plain == dict(methods=settings('default', 'fastai', 'rf'), seeds=3, out='runs', device=None, search=0, jobs=1)
    told = asked('--table', houses, '--arms', 'frozen', 'default,members=2', '--seeds', 5, '--search', 4, '--epochs',
                 2, '--weight-p', .7, '--set', 'wd=0.1', 'layers=(20,10)', '--out', 'mine', '--device', 'cpu', '--jobs',
                 -1, main=arena_main)
    assert told.pop('dataset').name == 'houses'
    shared = dict(wd=.1, layers=(20, 10), epochs=2, weight_p=.7)
    assert told == dict(methods=settings('frozen', 'default,members=2', **shared), seeds=5, out='mine', device='cpu',
                        search=4, jobs=-1)


@pytest.mark.parametrize('args, match', [
    (['--table', 'mnist'], "dataset='mnist': give a .toml file"), (['--table', 'no.toml'], 'no.toml does not exist'),
    (['--table', 'california'], 'california is in a file: give the folder that holds it'),
    (['--table', 'california', '--folder', 'nowhere'], 'does not exist: give the folder that holds california'),
    (['--arms', 'rf2'], "method='rf2' is unknown: choose one of 'fastai'"),
    (['--arms', 'default', 'rf,lr=1'], "'rf' has no setting 'lr': choose some of 'n_estimators'"),
    (['--set', 'nothing=3'], "no method of default, fastai, rf has a setting 'nothing': choose some of"),
    (['--arms', 'rf', '--epochs', 1], "no method of rf has a setting 'epochs'"),
    (['--arms', 'fastai', '--weight-p', .5], "no method of fastai has a setting 'weight_p'"),
    (['--set', 'dataset=x'], "has a setting 'dataset'"), (['--set', 'arms=x'], "has a setting 'arms'"),
    (['--set', 'title=x'], "has a setting 'title'"), (['--set', 'members=0'], 'members=0: give at least 1'),
    (['--seeds', 0], 'seeds=0: give at least 1'), (['--search', -1], 'search=-1: give the number'),
    (['--device', 'abacus'], "device='abacus' is not available here"), (['--weight-p', 1], 'weight_p=1.0 is not')],
    ids=str)
def test_what_the_command_refuses(capsys, tmp_path, monkeypatch, args, match):
    monkeypatch.chdir(tmp_path)
    assert match in arena_failure(capsys, *([] if '--table' in args else ['--table', 'wine']), *args)
    assert not list(tmp_path.rglob('*.jsonl'))


@pytest.mark.parametrize('text, match', [
    ('target = "price"', "lacks 'path'"), ('path = "houses.csv"\ntarget = "prise"', "no column 'prise'"),
    ('path = ', 'is not TOML'), ('path = "broken.csv"\ntarget = "price"', 'broken.csv'),
    ('path = "empty.csv"\ntarget = "price"', 'empty.csv')])
def test_tables_that_the_command_refuses(capsys, houses, text, match):
    (houses.parent/'broken.csv').write_text('price,size\n1,2\n1,2,3,4\n')
    (houses.parent/'empty.csv').write_text('')
    houses.write_text(text)
    assert match in arena_failure(capsys, '--table', houses, '--out', houses.parent)


def test_the_command_needs_a_table(capsys):
    with pytest.raises(SystemExit) as e: arena_main([])
    assert e.value.code == 2 and '--table' in capsys.readouterr().err


def test_help_names_the_tables_and_the_arms(capsys):
    with pytest.raises(SystemExit) as e: arena_main(['--help'])
    text = capsys.readouterr().out
    assert e.value.code == 0
    for o in ('--table', '--folder', '--arms', '--set', 'california', 'wine', 'default', '.toml'): assert o in text


def test_a_stopped_command_goes_on(tmp_path, capsys, monkeypatch):
    args = ['--table', 'diabetes', '--arms', 'rf', 'et', '--seeds', '1', '--set', 'n_estimators=5', '--out']
    args.append(str(tmp_path))
    stop_at(monkeypatch, 'et')
    with pytest.raises(SystemExit) as e: arena_main(args)
    assert e.value.code == 130 and 'the same command goes on from there' in capsys.readouterr().err
    assert set(results(tmp_path)) == {('rf', 0)}
    monkeypatch.undo()
    arena_main(args)
    assert set(results(tmp_path)) == {('rf', 0), ('et', 0)}


def test_errors_are_errors_in_python(tmp_path):
    for kwargs, match in ((dict(dataset='mnist'), "dataset='mnist': give"), (dict(nothing=1), "a setting 'nothing'"),
                          (dict(device='abacus'), "device='abacus'"), (dict(methods=[]), 'no method to run')):
        with pytest.raises(ValueError, match=match): run_dataset(**{'dataset': 'wine', 'out': tmp_path, **kwargs})
    assert not list(tmp_path.iterdir())


def test_devices():
    assert check_device('auto') is None and check_device('cpu') == 'cpu'
    for o in ('abacus', '', *(['cuda'] if not torch.cuda.is_available() else [])):
        with pytest.raises(ValueError, match=f"device='{o}' is not available here .*: use 'cpu' or 'auto'"):
            check_device(o)


def test_settings_that_some_arm_has():
    def check(names, **shared): check_settings([read_method(o) for o in names], shared)
    check(['dense', 'rf'], lr=.1, n_estimators=3)
    check(['default'], n_bins=8, embed_p=.1)
    with pytest.raises(ValueError, match="no method of dense, rf has a setting 'n_bins': choose some of bs, emb_std, epochs"):
        check(['dense', 'rf'], lr=.1, n_bins=8)
    pytest.importorskip('xgboost')
    check(['blend'], max_depth=3, lr=.1)  # the parts have them

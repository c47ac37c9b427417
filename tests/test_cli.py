"The main job: `dropconnect-bulldozers`, as a shell calls it."
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import make_table

import dropconnect_tab.bench.runs as arena
import dropconnect_tab.bench.bulldozers as bulldozers
from dropconnect_tab.bench.bulldozers import COLUMNS
from dropconnect_tab.bench.cli import bulldozers_main as main, run_bulldozers
from dropconnect_tab.bench.synthetic import synthetic_sales, write_synthetic
from dropconnect_tab.bench.methods import arm_params, arms


def results(out):
    return {(r['arm'], r['seed']): r for r in (json.loads(p.read_text()) for p in Path(out).rglob('*.json'))}


def quick(*args): main([*args, '--epochs', '1', '--seeds', '1', '--device', 'cpu'])


def failure(capsys, *args):
    with pytest.raises(SystemExit) as e: main([*map(str, args)])
    assert e.value.code == 2
    err = capsys.readouterr().err
    assert 'Traceback' not in err
    return err


@pytest.fixture(scope='module')
def sales(tmp_path_factory):
    path = tmp_path_factory.mktemp('sales')/'TrainAndValid.zip'
    return write_synthetic(path, 2000, start='2010-01-01', end='2012-04-30')


def shell(cwd, *command): return subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True)


def test_defaults_end_to_end(tmp_path):
    "With no data at all; fewer epochs than by default, as CI has other things to do"
    script = Path(sys.executable).parent/'dropconnect-bulldozers'
    done = shell(tmp_path, script, '--epochs', 1)
    assert done.returncode == 0 and 'Error' not in done.stderr, done.stderr
    assert 'these are synthetic sales' in done.stdout and '12,000 sales' in done.stdout and '[12/12' in done.stdout
    folder = tmp_path/'runs'/'synthetic-bulldozers-book'
    res = results(folder)
    assert set(res) == {(a, s) for a in ('dense', 'trainable', 'frozen', 'default') for s in range(3)}
    assert [round(res[a, 0]['zeros'], 3) for a in ('dense', 'frozen')] == [0, .5]
    assert (folder/'table.md').read_text() in done.stdout and (folder/'arms.png').stat().st_size > 5000
    again = shell(tmp_path, script, '--epochs', 1)
    assert (folder/'table.md').read_text() in again.stdout and 'seed' not in again.stdout.split('| arm')[0]


def test_module_is_the_same_command(tmp_path, sales):
    done = shell(tmp_path, sys.executable, '-m', 'dropconnect_tab.bench.bulldozers', '--path', sales, '--arms', 'dense',
                 '--seeds', 1, '--epochs', 1)
    assert done.returncode == 0 and len(results(tmp_path/'runs')) == 1, done.stderr


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
    assert (tmp_path/'mine'/'synthetic-bulldozers-kaggle'/'frozen'/'1.npz').exists()


class Stop(Exception): pass


@pytest.fixture
def asked(monkeypatch):
    "What `main` asks `run_arms` for, which does not run"
    seen = {}
    def spy(table, names, seeds, out, device, search=0, **given):
        seen.update(table=table, names=list(names), seeds=seeds, out=out, device=device, search=search, given=given)
        raise Stop
    monkeypatch.setattr(arena, 'run_arms', spy)
    def ask(*args):
        with pytest.raises(Stop): main([*map(str, args)])
        return seen
    return ask


def test_defaults(asked, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seen = asked()
    assert {k: v for k, v in seen.items() if k != 'table'} == dict(
        names=['dense', 'trainable', 'frozen', 'default'], seeds=3, out='runs', device=None, search=0, given={})
    assert (seen['table'].split, seen['table'].columns, len(seen['table'].df)) == ('book', 'book', 12_000)
    assert arm_params('dense')['epochs'] == 8 and arm_params('frozen')['weight_p'] == .5


def test_settings_of_the_command_line(asked, sales):
    seen = asked('--path', sales, '--arms', 'frozen', 'rf', 'trainable,weight_p=0.8', '--set', 'wd=0.1',
                 'layers=(20,10)', 'unit=feature', 'max_features=sqrt', '--epochs', 3, '--weight-p', .7)
    assert seen['names'] == ['frozen', 'rf', 'trainable,weight_p=0.8']
    assert seen['given'] == dict(wd=.1, layers=(20, 10), unit='feature', max_features='sqrt', epochs=3, weight_p=.7)


def test_settings_add_up(asked, sales):
    seen = asked('--path', sales, '--set', 'wd=0.1', '--set', 'lr=0.02')
    assert seen['given'] == dict(wd=.1, lr=.02)


def test_all_arms(asked, sales):
    for o in arms.values():
        for package in o.needs: pytest.importorskip(package)
    assert asked('--path', sales, '--arms', 'all')['names'] == list(arms)
    names = asked('--path', sales, '--arms', 'frozen,weight_p=0.8', 'all')['names']
    assert names == ['frozen,weight_p=0.8', *arms]


@pytest.mark.parametrize('n, given', [(100_000, {}), (100_001, dict(bs=1024)), (100_001, dict(bs=64))])
def test_large_tables_get_large_batches_unless_told_otherwise(asked, monkeypatch, n, given):
    rows = np.arange(n)
    monkeypatch.setattr(bulldozers, 'bulldozers_table', lambda *a: make_table(train_idx=rows))
    told = ['--set', 'bs=64'] if given.get('bs') == 64 else []
    assert asked('--path', 'anything', *told)['given'] == given


def test_own_columns_and_a_slice(tmp_path, sales):
    quick('--path', str(sales), '--split', '2012-slice', '--columns', 'own', '--arms', 'dense', '--out', str(tmp_path))
    one = results(tmp_path/'synthetic-bulldozers-2012-slice')['dense', 0]
    assert one['columns'] == 'own' and one['split'] == '2012-slice'


def test_other_columns_are_other_results(tmp_path, sales, capsys):
    quick('--path', str(sales), '--arms', 'dense', '--out', str(tmp_path))
    err = failure(capsys, '--path', sales, '--columns', 'own', '--arms', 'dense', '--epochs', 1, '--out', tmp_path)
    assert '0.json holds a run with data=' in err and 'give another folder' in err


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
    assert (folder/'table.md').read_text() in capsys.readouterr().out


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
    ('empty', ['empty.csv is empty', 'download it again']),
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
    (['--arms', 'rf2'], ["arm='rf2'", "'dense'", "'trainable'", "'frozen'", "'rf'"]),
    (['--arms', 'dense', 'dense,ps=.1'], ["'dense,ps=.1'", "no setting 'ps'", "'epochs'"]),
    (['--arms', 'frozen,weight_p=2'], ['weight_p=2']), (['--split', '2012-slic'], ["split='2012-slic'", '-slice']),
    (['--columns', 'x'], ["columns='x'", "'book', 'own'"]), (['--search', '-1'], ['search=-1', 'or 0']),
    (['--search', 'many'], ['many']), (['--set', 'wd'], ["'wd'", 'name=value']), (['--set', 'wd='], ['name=value']),
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
    assert not list(tmp_path.rglob('*.json'))


def test_errors_are_errors_in_python(tmp_path):
    with pytest.raises(FileNotFoundError, match='does not exist'): run_bulldozers(tmp_path/'nowhere')
    with pytest.raises(ValueError, match='weight_p=2'): run_bulldozers(weight_p=2)


def test_stopped_runs_go_on(tmp_path, sales, capsys, monkeypatch):
    def stop(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setitem(arms, 'frozen', replace(arms['frozen'], fit=stop))
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
                                   '--out', '--columns', '--search', '--set'))

"The main job: `dropconnect-bulldozers`, as a shell calls it."
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from dropconnect_tab.bulldozers import COLUMNS, main, run_bulldozers, synthetic_sales, write_synthetic


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
    assert 'these are synthetic sales' in done.stdout and '12,000 sales' in done.stdout and '[9/9' in done.stdout
    folder = tmp_path/'runs'/'synthetic-bulldozers-book'
    res = results(folder)
    assert set(res) == {(a, s) for a in ('dense', 'trainable', 'frozen') for s in range(3)}
    assert [round(res[a, 0]['zeros'], 3) for a in ('dense', 'frozen')] == [0, .5]
    assert (folder/'table.md').read_text() in done.stdout and (folder/'arms.png').stat().st_size > 5000
    again = shell(tmp_path, script, '--epochs', 1)
    assert (folder/'table.md').read_text() in again.stdout and 'seed' not in again.stdout.split('| arm')[0]


def test_module_is_the_same_command(tmp_path, sales):
    done = shell(tmp_path, sys.executable, '-m', 'dropconnect_tab.bulldozers', '--path', sales, '--arms', 'dense',
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
    assert '9,877 sales to train on, 1,696 to test on' in capsys.readouterr().out
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
    (['--arms', 'rf'], ["arm='rf'", "'dense', 'trainable', 'frozen'"]),
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
    import dropconnect_tab.arena as arena
    real = arena.fit_net
    def stop(table, arm, *args):
        if arm == 'frozen': raise KeyboardInterrupt
        return real(table, arm, *args)
    monkeypatch.setattr(arena, 'fit_net', stop)
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
                                   '--out'))

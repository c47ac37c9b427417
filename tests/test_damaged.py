"Damaged files of the bench: one error each, which names the file, the line and the remedy."
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from helpers import make_df, make_table, root

from dropconnect_tab.bench.__main__ import arena
from dropconnect_tab.bench.cli import report_main
from dropconnect_tab.bench.files import read_arrays, read_jsonl, write_arrays, write_jsonl
from dropconnect_tab.bench.methods import read_method
from dropconnect_tab.bench.report import read_results, report
from dropconnect_tab.bench.runs import preds_file, read_runs, run_methods, runs_file
from dropconnect_tab.bench.datasets import load_dataset, read_dataset

Y = np.arange(12.)
LINE = dict(arm='dense', seed=0, dataset='shops', split='random', rmse=1., seconds=2., zeros=0., curve=[2., 1.],
            regrowth=[.1, .2], search=dict(tried=3, chosen=1, error=.5), params=dict(data='abc', weight_p=.5))


@pytest.fixture
def folder(tmp_path):
    "Two runs with predictions"
    out = tmp_path/'shops-random'
    write_jsonl(runs_file(out), [{**LINE, 'seed': o} for o in (0, 1)])
    write_arrays(preds_file(out), {'y': Y, 'dense/0': (Y+1)[:, None], 'dense/1': (Y-1)[:, None]})
    return out


@pytest.fixture
def classified(tmp_path):
    "A run of a classification"
    out, line = tmp_path/'shops-band', {k: v for k, v in LINE.items() if k != 'rmse'}
    write_jsonl(runs_file(out), [{**line, 'logloss': np.log(2)}])
    write_arrays(preds_file(out), {'y': np.arange(12) % 2, 'dense/0': np.full((12, 2), .5)})
    return out


def refused(folder, capsys):
    "What the command says of a folder: one line, which is also what is said in Python"
    with pytest.raises(ValueError) as e: report(folder)
    with pytest.raises(SystemExit) as exit: report_main([str(folder)])
    said = capsys.readouterr().err
    assert exit.value.code == 2 and said == f'dropconnect-report: {e.value}\n' and said.count('\n') == 1
    return said


# --- Lines ---

@pytest.mark.parametrize('key, value', [
    ('rmse', '1.0'), ('rmse', None), ('rmse', [1.]), ('rmse', {}), ('rmse', True), ('seconds', None), ('seconds', '2'),
    ('arm', 3), ('arm', None), ('arm', ['dense']), ('arm', {'name': 'dense'}), ('seed', '1'), ('seed', 1.5),
    ('seed', None), ('seed', True), ('params', None), ('params', [1]), ('params', 'x'), ('zeros', 'none'),
    ('accuracy', 'high'), ('curve', 3), ('curve', [1., None]), ('curve', [[1.], [2.]]), ('curve', ['1']),
    ('regrowth', {'a': 1}), ('search', 3), ('search', {}), ('search', {'tried': 3, 'error': None}),
    ('dataset', None), ('split', 3)], ids=str)
def test_a_value_of_the_wrong_kind_names_its_line(folder, capsys, key, value):
    first, second = read_jsonl(runs_file(folder))
    write_jsonl(runs_file(folder), [first, {**second, key: value}])
    said = refused(folder, capsys)
    assert f'{runs_file(folder)}, line 2 holds no run ({key}=' in said and said.endswith('remove it, and run again\n')
    with pytest.raises(ValueError, match='line 2 holds no run'): read_runs(folder)
    with pytest.raises(ValueError, match='line 2 holds no run'):
        run_methods(make_table(), [read_method('rf')], 1, folder.parent)


@pytest.mark.parametrize('key', ['arm', 'seed', 'seconds', 'params', 'dataset', 'split', 'rmse'])
def test_a_value_that_is_missing_names_its_line(folder, capsys, key):
    first, second = read_jsonl(runs_file(folder))
    write_jsonl(runs_file(folder), [first, {k: v for k, v in second.items() if k != key}])
    said = refused(folder, capsys)
    assert f'line 2 holds no run (no {key!r}' in said


@pytest.mark.parametrize('line', [
    b'3', b'null', b'"dense"', b'[{}]', b'{"arm": "\xff"}', b'\x00\x00\x00{', b'['*100_000, b'{"a":'*100_000, b'{} {}',
    b'\xef\xbb\xbf', b"{'arm': 'dense'}"], ids=lambda o: str(o[:20]))
def test_a_line_that_is_no_object_is_named(folder, capsys, line):
    whole = runs_file(folder).read_bytes()
    runs_file(folder).write_bytes(whole + line + b'\n')
    said = refused(folder, capsys)
    assert f'{runs_file(folder)}, line 3 ' in said and 'correct or remove it' in said


def test_a_line_of_another_measure_is_named(folder, capsys):
    first, second = read_jsonl(runs_file(folder))
    write_jsonl(runs_file(folder), [first, {**{k: v for k, v in second.items() if k != 'rmse'}, 'logloss': .1}])
    assert f'{runs_file(folder)}, line 2 was made from other rows' in refused(folder, capsys)


@pytest.mark.parametrize('change', [
    dict(params=dict(data='abc', weight_p={'a': 1})), dict(params=dict(data='abc', weight_p=[.5, .3])),
    dict(params=dict(data='abc', weight_p='half')), dict(curve=[2., 1., .5]), dict(curve=[]), dict(rmse=1),
    dict(more={'nested': [[{}]]})], ids=str)
def test_what_a_report_has_no_need_of_does_not_stop_it(folder, change):
    first, second = read_jsonl(runs_file(folder))
    write_jsonl(runs_file(folder), [first, {**second, **change}])
    assert 'dense' in report(folder)


@pytest.mark.parametrize('name', ['runs.jsonl', 'preds.npz'])
def test_a_folder_in_place_of_a_file_is_named(folder, capsys, name):
    (folder/name).unlink()
    (folder/name).mkdir()
    assert f'{folder/name} cannot be read (Is a directory)' in refused(folder, capsys)


def test_a_report_that_cannot_be_written_is_one_line(folder, capsys):
    (folder/'table.md'/'x').mkdir(parents=True)
    with pytest.raises(SystemExit) as e: report_main([str(folder)])
    assert e.value.code == 2 and 'Is a directory' in (said := capsys.readouterr().err) and said.count('\n') == 1


# --- Predictions ---

@pytest.mark.parametrize('change', [
    {'y': None}, {'y': np.ones(11)}, {'y': np.ones((12, 1))}, {'y': np.array(3.)}, {'y': np.full(12, 'a')},
    {'dense/0': np.ones(12)}, {'dense/0': np.ones((11, 1))}, {'dense/0': np.ones((1, 1))}, {'dense/0': np.ones((12, 0))},
    {'dense/0': np.full((12, 1), 'a')}, {'dense/0': np.array(1.)}, {'dense/0': np.ones((12, 1, 1))},
    {'group': np.arange(11)}, {'group': np.ones((12, 2))}, {'group': np.full(12, None)}], ids=str)
def test_arrays_that_do_not_fit_are_named(folder, capsys, change):
    arrays = {**read_arrays(preds_file(folder)), **change}
    np.savez(preds_file(folder), **{k: v for k, v in arrays.items() if v is not None})
    said = refused(folder, capsys)
    assert f'{preds_file(folder)} is damaged (' in said and said.endswith('remove it, and the lines of its runs\n')


@pytest.mark.parametrize('change', [
    {'y': np.arange(12)}, {'y': np.linspace(0, 1, 12)}, {'y': np.full(12, -1)}, {'dense/0': np.ones((12, 1))}], ids=str)
def test_classes_that_do_not_fit_are_named(classified, capsys, change):
    assert '0.6931' in report(classified)
    np.savez(preds_file(classified), **{**read_arrays(preds_file(classified)), **change})
    assert f'{preds_file(classified)} is damaged (' in refused(classified, capsys)


def test_predictions_of_other_rows_are_named_before_any_run(tmp_path):
    table, method = make_table(), read_method('rf').with_shared(n_estimators=2)
    run_methods(table, [method], 1, tmp_path)
    file = preds_file(tmp_path/'shops-random')
    write_arrays(file, {k: v[:30] for k, v in read_arrays(file).items()})
    with pytest.raises(ValueError, match=f'{file} is damaged'): run_methods(table, [method], 2, tmp_path)


def test_every_cut_and_every_flipped_bit_is_an_error_that_names_the_file_or_changes_nothing(folder):
    file, there = preds_file(folder), read_arrays(preds_file(folder))
    whole, rng = file.read_bytes(), np.random.default_rng(0)
    cuts = [whole[:o] for o in range(0, len(whole), 7)]
    flips = []
    for bit in rng.choice(8*len(whole), 400, replace=False):
        raw = bytearray(whole)
        raw[bit//8] ^= 1 << bit % 8
        flips.append(bytes(raw))
    refused = 0
    for raw in cuts + flips:
        file.write_bytes(raw)
        try: found = read_arrays(file)
        except ValueError as e:
            refused += 1
            assert str(e).startswith(f'{file} is damaged (') and '\n' not in str(e), e
        else: assert found.keys() == there.keys() and all(np.array_equal(found[k], there[k]) for k in there)
    assert refused > len(cuts) + 200


@pytest.mark.parametrize('damage', [
    lambda o: np.save(o.open('wb'), Y), lambda o: np.savez(o, y=np.array([{}], dtype=object)),
    lambda o: zipfile.ZipFile(o, 'w').writestr('y.npy', b''), lambda o: zipfile.ZipFile(o, 'w').writestr('y', b'12')],
    ids=['one array', 'objects', 'an empty member', 'no array'])
def test_other_files_of_numpy_are_named(folder, capsys, damage):
    damage(preds_file(folder))
    assert f'{preds_file(folder)} is damaged (' in refused(folder, capsys)


# --- Descriptions of a dataset ---

@pytest.fixture
def houses(tmp_path):
    make_df(200).to_csv(tmp_path/'houses.csv', index=False)
    file = tmp_path/'houses.toml'
    file.write_text('path = "houses.csv"\ntarget = "price"')
    return file


@pytest.mark.parametrize('text, match', [
    ('drop = [["cost"]]', r"has drop=\[\['cost'\]\]: give a list, such as"),
    ('categorical = [["shop"]]', 'has categorical='), ('continuous = [{a = 1}]', 'has continuous='),
    ('drop = [{}]', 'has drop='), ('name = "a/b"', "has name='a/b': give a name without slashes"),
    ('split = ["sold"]', 'has split='), ('[target]', 'is not TOML'), ('x = ' + '['*5000, 'is not TOML'),
    ('name = ["houses"]', 'has name='), ('drop = 3', 'has drop=3')])
def test_descriptions_that_cannot_be(houses, text, match):
    with houses.open('a') as f: f.write(f'\n{text}\n')
    with pytest.raises(ValueError, match=f'{houses} {match}'): read_dataset(houses)


def test_folders_and_other_files_in_place_of_a_description(houses, tmp_path):
    folder = tmp_path/'folder.toml'
    folder.mkdir()
    with pytest.raises(ValueError, match=f'{folder} cannot be read .Is a directory.'): read_dataset(folder)
    houses.write_bytes(b'path = "\xff"')
    with pytest.raises(ValueError, match=f'{houses} is not TOML'): read_dataset(houses)
    for path in ('.', '', 'folder.toml', '..'):
        houses.write_text(f'path = "{path}"\ntarget = "price"')
        with pytest.raises(ValueError, match=f"is not a file: correct 'path' in {houses}"): read_dataset(houses)


@pytest.mark.parametrize('name', ['houses.csv', 'houses.csv.zip', 'houses.csv.gz', 'houses.csv.xz', 'houses.csv.bz2'])
def test_rows_that_cannot_be_read(houses, name):
    path = houses.with_name(name)
    make_df(200).to_csv(path, index=False)
    houses.write_text(f'path = "{name}"\ntarget = "price"')
    whole = path.read_bytes()
    assert len(read_dataset(houses).df) == 200
    for raw in (b'', b'\xff\xfe\x00junk', b'PK\x03\x04 junk', whole[:20], *(
            [] if name.endswith('csv') else [whole[:-30], whole[:40] + b'\xff'*9 + whole[49:]])):
        path.write_bytes(raw)
        with pytest.raises(ValueError, match=f'{path} (is not a CSV|has no column)') as e: read_dataset(houses)
        assert '\n' not in str(e.value)


def test_a_file_of_a_public_dataset_that_is_damaged(tmp_path):
    (tmp_path/'bike').mkdir()
    (tmp_path/'bike'/'hour.csv.gz').write_bytes(b'\x1f\x8b junk')
    with pytest.raises(ValueError, match='hour.csv.gz is not a CSV'): load_dataset('bike', tmp_path)


@pytest.mark.parametrize('text, match', [
    ('target = ', 'is not TOML'), ('target = "prise"\npath = "houses.csv"', "has no column 'prise'"),
    ('target = "price"\npath = "gone.csv"', 'gone.csv is not a file'),
    ('target = "price"\npath = "houses.csv"\ndrop = [["a"]]', 'has drop=')])
def test_a_wrong_description_is_refused_before_anything_heavy_is_imported(houses, text, match):
    houses.write_text(text)
    code = ("import sys; from dropconnect_tab.bench.__main__ import main\n"
            "try: main(sys.argv[1:])\n"
            "finally: print(*[o for o in ('torch', 'fastai', 'sklearn', 'matplotlib') if o in sys.modules])")
    for given in (['--table', str(houses)], [f'--table={houses}']):
        done = subprocess.run([sys.executable, '-c', code, 'arena', *given], capture_output=True, text=True,
                              env={**os.environ, 'PYTHONPATH': str(root)})
        assert done.returncode == 2 and done.stdout == '\n', (done.stdout, done.stderr)
        assert done.stderr.startswith('dropconnect-arena: ') and match in done.stderr and done.stderr.count('\n') == 1


# --- Home ---

def test_paths_of_the_command_line_start_at_home(houses, monkeypatch, tmp_path, capsys):
    home = tmp_path/'home'
    (home/'data').mkdir(parents=True)
    houses.rename(home/'data'/'houses.toml')
    houses.with_name('houses.csv').rename(home/'houses.csv')
    (home/'data'/'houses.toml').write_text('path = "~/houses.csv"\ntarget = "price"')
    monkeypatch.setenv('HOME', str(home))
    monkeypatch.chdir(tmp_path)
    arena(['--table', '~/data/houses.toml', '--arms', 'rf', '--seeds', '1', '--set', 'n_estimators=2', '--out', '~/runs'])
    assert sorted(o.name for o in (home/'runs').iterdir()) == ['houses-random'] and not (tmp_path/'~').exists()
    report_main(['~/runs/houses-random'])
    assert (home/'runs'/'houses-random'/'table.md').read_text() in capsys.readouterr().out
    assert read_results('~/runs/houses-random')[0]['arm'] == 'rf'
    with pytest.raises(ValueError, match=f'{home}/bike/hour.csv.gz does not exist'): load_dataset('bike', '~')

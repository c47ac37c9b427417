"The committed results: complete, by the protocol, and what the report makes of them."
import re
import runpy
import sys

import numpy as np
import pandas as pd
import pytest
from helpers import root

import dropconnect_tab.bench.methods as bench_methods
from dropconnect_tab.bench.files import read_arrays, read_jsonl
from dropconnect_tab.bench.many import mean_errors, rank_many, read_many
from dropconnect_tab.bench.methods import METHODS, read_method
from dropconnect_tab.bench.report import (
    compare, format_settings, format_summary, read_results, summarise)
from dropconnect_tab.bench.runs import read_runs

folder = root/'results'/'bulldozers-2012'
LATER = {'tabm', 'realmlp'}  # arms that are younger than these results
KEYS = {'arm', 'seed', 'dataset', 'split', 'rmse', 'seconds', 'columns', 'params', 'versions', 'device', 'threads'}


@pytest.fixture(scope='module', autouse=True)
def all_installed():
    "Arms are looked up here, never fitted: that takes none of their packages"
    with pytest.MonkeyPatch.context() as mp:
        mp.setattr(bench_methods, 'find_spec', lambda name: True)
        yield


@pytest.fixture(scope='module')
def results(): return read_results(folder)  # compares each line with its predictions


def test_every_arm_has_five_seeds(results):
    arms = {r['arm'] for r in results}
    assert arms == set(METHODS)-LATER
    for arm in arms: assert {r['seed'] for r in results if r['arm'] == arm} >= set(range(5)), arm


def test_runs_say_what_made_them(results):
    for r in results:
        assert KEYS <= set(r) and r['rows'] == dict(train=9877, test=1696)
        assert (r['dataset'], r['split'], r['columns'], r['threads']) == ('bulldozers', '2012', 'own', 2)
        assert 'losses' in r and len(np.unique(r['group'])) == 23


def test_the_same_budget_for_every_arm(results):
    tried = {r['arm']: r['search']['tried'] for r in results if 'search' in r}
    searched = {o for o in set(METHODS)-LATER if METHODS[o].space or METHODS[o].searched_as}
    assert set(tried.values()) == {12} and set(tried) == searched


def test_the_best_of_the_search_was_tested(results):
    tried = read_runs(folder.parent/'bulldozers-2012-search')
    for r in results:
        if 'search' not in r: continue
        searched = (METHODS[r['arm']].searched_as or METHODS[r['arm']]).label
        trials = [o for o in tried if o['arm'] == searched]
        best = min(trials, key=lambda o: o['rmse'])
        assert len(trials) == 12 and best['rmse'] == r['search']['error'] and best['seed'] == r['search']['chosen']
        more = {'nets': 8} if r['arm'] == 'deep-ensemble' else {}
        assert {**best['params'], **more, 'data': 0} == {**r['params'], 'data': 0} and best['rows']['test'] == 4779


def test_the_blend_is_the_mean_of_its_parts():
    preds = read_arrays(folder/'preds.npz')  # rounded to 17 bits, which are 6e-5 of a log price
    parts = [preds[f'{o.label}/3'] for o in METHODS['blend'].parts]
    assert np.allclose(preds['blend/3'], np.mean(parts, axis=0), atol=1e-4)


def numbers(text): return [[float(o) for o in re.findall(r'[-+]?\d+\.\d+', l)] for l in text.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize('name', ['bulldozers-2012', 'weight_p/bulldozers-2012-slice',
                                  'regrowth/bulldozers-2012-slice', 'columns-own/bulldozers-2012-slice'])
def test_tables_come_from_the_files(name):
    "Ends of intervals may differ in the last digits with another numpy, whose draws are others"
    res = read_results(root/'results'/name)
    made, there = format_summary(summarise(res), compare(res)), (root/'results'/name/'table.md').read_text()
    assert [l.split('|')[1:3] for l in made.splitlines()] == [l.split('|')[1:3] for l in there.splitlines()]
    for a, b in zip(numbers(made), numbers(there), strict=True): assert np.allclose(a, b, atol=.003)


def test_the_table_of_settings(results):
    assert (folder/'settings.md').read_text() == format_settings(results) + '\n'


def test_no_sales_are_in_the_results():
    "Aggregates, predictions and log prices: nothing that tells which machine was sold, or when"
    runs = {f"{r['arm']}/{r['seed']}" for r in read_runs(folder)}
    assert set(read_arrays(folder/'preds.npz')) == {'y', 'group', *runs}


# --- What is said of results, and scripts ---

@pytest.fixture(scope='module')
def said_by():
    "The names in a file of benchmarks/"
    sys.path.insert(0, str(root/'benchmarks'))
    yield lambda name: runpy.run_path(root/'benchmarks'/f'{name}.py')
    sys.path.pop(0)


@pytest.mark.parametrize('name', sorted(o.stem for o in (root/'benchmarks').glob('*.py')))
def test_what_benchmarks_import_is_there(said_by, name):
    if name == 'lifecycle': pytest.importorskip('fasterai')
    said_by(name)


@pytest.mark.slow
def test_scripts_find_their_tables(said_by, data_path):
    said = said_by('settings')
    for o in said['SLICED']: assert len(said['load'](said['RENAMED'].get(o, o), data_path).slice().test_idx)


def test_the_table_of_autogluon_comes_from_its_runs(said_by):
    out = root/'results'/'autogluon'
    assert said_by('through_autogluon')['autogluon_table'](out) == (out/'autogluon.md').read_text()


def test_what_is_said_of_a_search(said_by):
    out, said = root/'results'/'tune', said_by('tune')
    assert said['tune_table'](out) == (out/'tune.md').read_text()
    lines = read_jsonl(out/'runs.jsonl')
    searches = [o['trials'] for o in lines if 'trials' in o]
    assert [o[0]['params'] for o in searches] == [said['DEFAULTS']]*3 and [*map(len, searches)] == [16]*3
    assert sum(t['pruned'] for o in searches for t in o) == 21
    valid = [100*(1-said['best'](o)['error']/o[0]['error']) for o in searches]
    mean = pd.DataFrame([o for o in lines if 'error' in o]).pivot_table(index='search', columns='settings', values='error')
    test = 100*(1-mean.best/mean.defaults)
    assert (round(max(valid), 1), round(test.min(), 1), round(test.max(), 1), round(test.mean(), 1)) == (6., .4, 1.6, 1.2)


@pytest.mark.parametrize('folder', ['epochs', 'epochs/dropout', 'epochs/larger'])
def test_what_is_said_of_epochs(said_by, folder):
    out = root/'results'/folder
    assert said_by('epochs')['epochs_table'](out) == (out/'epochs.md').read_text()
    runs = pd.DataFrame(read_jsonl(out/'runs.jsonl'))
    errs = runs.pivot_table(index='dataset', columns='fit', values='error')
    over = errs.div(errs.min(axis=1), axis=0)
    mean = np.exp(np.log(over).mean())
    if folder == 'epochs':
        two, fixed = ['estimator', 'out-of-bag'], [f'one-cycle {o}' for o in (6, 12, 24, 48)]
        rows = runs.groupby('dataset').train.first()
        assert errs.shape == (30, 6) and (over['out-of-bag'] <= 1.05).sum() == 27
        assert round(float(mean['out-of-bag']/mean['estimator']), 3) == .978
        some = over.drop('chess')
        mean, large = np.exp(np.log(some).mean()), some[rows.drop('chess') >= 1000]
        assert [round(float(o), 3) for o in mean[two]] == [1.043, 1.009] and mean[fixed].idxmin() == 'one-cycle 24'
        assert [round(float(o), 3) for o in (mean['one-cycle 24'], some['out-of-bag'].max(), some['estimator'].max())] == [
            1.121, 1.076, 1.279]
        mean = np.exp(np.log(large).mean())
        assert [round(float(o), 3) for o in mean[two]] == [1.029, 1.009] and mean[fixed].idxmin() == 'one-cycle 12'
        assert [round(float(o), 2) for o in (mean['one-cycle 12'], large['one-cycle 12'].max(), large['estimator'].max())] == [
            1.07, 1.53, 1.12]
        assert [round(float(o), 4) for o in errs.loc['chess', [*two, 'one-cycle 48']]] == [.0119, .0163, .0003]
    elif folder == 'epochs/larger': assert len(errs) == 6 and round(float(mean['out-of-bag']/mean['estimator']), 3) == .967
    else:
        usual, none = (errs[f'one-cycle 6, ps={o}'] for o in (.1, .0))
        assert len(errs) == 9 and (round((usual/none).max(), 3), round((usual/none)['hotel_rates'], 2)) == (1.009, .96)


@pytest.mark.parametrize('folder', ['settings', 'dropout', 'theory', 'levers', 'levers/before', 'levers/larger',
                                    'levers/extrapolation', 'levers/dropout', 'oob', 'oob/kept'])
def test_tables_of_slices_come_from_the_files(said_by, folder):
    out, name = root/'results'/folder, folder.split('/')[0]
    assert said_by(name)[f'{name}_table'](out) == (out/f'{name}.md').read_text()


def test_what_is_said_of_a_sparse_start(said_by):
    "Fewer rows for the parity of 4 and, where rows are few, for a product beside noise; about as many elsewhere"
    said = said_by('theory')
    found = said['needed'](read_jsonl(root/'results'/'theory'/'runs.jsonl'))
    def fewer(name, arm, error, nets=1):
        "By how many percent"
        return round(100*(1-said['mean_ratio'](said['ratios'](found[name, nets, error], arm))))
    three, four, friedman = 'parity of 3 among 40', 'parity of 4 among 30', 'Friedman, 60 noise'
    assert [fewer(four, o, .1) for o in ('2', '4', '8', '16', '4, later 2')] == [21, 27, 20, 7, 17]
    by_seed = said['ratios'](found[four, 1, .1], '4')
    assert len(by_seed) == 3 and [round(100*(1-f(by_seed))) for f in (max, min)] == [17, 33]
    assert fewer(three, '2', .1) == 9 and max(said['ratios'](found[three, 1, .1], '2')) < 1
    assert all(min(r) < 1 < max(r) for o in ('4', '8', '16', '4, later 2')
               for r in [said['ratios'](found[three, 1, .1], o)])
    assert [[fewer(friedman, o, e) for o in ('2', '4, later 2')] for e in (.3, .15)] == [[42, 29], [12, 4]]
    sparse = [o for o in said['ARMS'] if not o.startswith('dense')]
    controls = ('majority of 5 among 40', .1), ('RiskAversion of insurance', .15), ('LungParench of child', .05)
    found_there = [fewer(name, o, e) for name, e in controls for o in sparse]
    assert (min(found_there), max(found_there)) == (-24, 10)
    assert [fewer(name, '4, later 2', e) for name, e in controls] == [-2, -1, -10]
    assert [fewer('additive, 5 among 40', o, .15) for o in ('2', '4, later 2')] == [26, 22]
    assert [fewer(o, '4, later 2', e) for o, e in (('Friedman, 480 noise', .3), ('classification, 60 noise', .15),
                                                   ('classification, 480 noise', .3))] == [26, 10, -25]
    alone = {k: v for k, v in found.items() if k[1] == 1}
    quiet = [('Friedman, 0 noise', 1, .15), ('classification, 0 noise', 1, .07)]  # all columns count
    assert [fewer(k[0], 'dense, scaled', k[2]) for k in quiet] == [25, 52]
    scaled = [-fewer(k[0], 'dense, scaled', k[2]) for k in alone if k not in quiet]
    assert (min(scaled), max(scaled)) == (4, 90)
    default = [said['mean_ratio'](said['ratios'](v, '4, later 2')) for v in alone.values()]
    assert len(default) == 13 and round(100*(1-said['mean_ratio'](default))) == 15
    assert [fewer(o, '4, later 2', .1, nets=8) for o in (three, four)] == [0, 7]
    trees = {k: np.array(said['ratios'](v, 'trees')) for k, v in alone.items()}
    assert np.isinf(trees.pop((three, 1, .1))).all() and np.isinf(trees.pop((four, 1, .1))).sum() == 2
    assert all(np.isinf(trees.pop(o)).all() for o in quiet)
    ahead = {k: (o <= [min(r) for r in zip(*(said['ratios'](found[k], a) for a in said['ARMS'] if a != 'dense'))]).all()
             for k, o in trees.items()}
    assert sum(ahead.values()) >= len(ahead)-1 and round(min(o.min() for o in trees.values()), 1) == .2


def test_what_is_said_of_dropout(said_by):
    "Below 10,000 rows a net for classes gains from dropout, and nearly everywhere more than one for numbers"
    def errors(start):
        return runs[runs.start == start].pivot_table(index=['table', 'cut'], columns='ps', values='error')
    said = said_by('dropout')
    lines = read_jsonl(root/'results'/'dropout'/'runs.jsonl')
    assert {said['key'](o) for o in lines} <= {*said['cuts']()}
    runs = pd.DataFrame(lines)
    mean, dense = errors('few inputs'), errors('dense')
    gain = (100*(mean[.5]/mean[.3]-1)).unstack()
    assert {*gain.index} == {*said['LARGE'], *said['CUT']}
    classes = [o for o in gain.index if o == 'adult' or o in said['CUT']]
    assert (gain.loc[classes, [1000, 3000]].mean() < -3).all()
    assert gain.loc[classes, [1000, 3000]].max(axis=None) < 2 < gain.loc[classes, 8000].max()
    assert (mean[.3]/mean[0.]-1).unstack().loc[classes, 8000].mean() < -.02
    numbers = gain.drop(classes)
    assert (numbers[[1000, 3000]].mean() > 0).all()
    assert (mean[.3]/mean[0.]-1).unstack().loc[numbers.index, 8000].min() > 0
    masks = (100*(mean/dense-1)).xs(1000, level='cut')
    assert runs[runs.cut == 1000].groupby(['table', 'start', 'ps']).seed.nunique().eq(2).all()
    assert masks.loc[['adult', 'bike-classes', 'bulldozers-2012-classes'], .5].round(1).tolist() == [-4.8, -4.5, -4.7]
    assert masks.loc[['bike', 'bulldozers-codes'], .3].round(1).tolist() == [-1.6, -1.0]
    assert masks.loc[['california', 'bulldozers-2012'], .3].abs().max() < .5 > abs(masks.loc['california-classes', .5])


def test_what_is_said_of_few_inputs(said_by):
    "The README's words, and the table that they come from"
    said, out = said_by('inputs'), root/'results'/'inputs'
    assert said['inputs_table'](out) == (out/'inputs.md').read_text()
    found = said['by_seed'](read_jsonl(out/'runs.jsonl'))
    mean = {t: said['relative'](found, t, 'few inputs').mean() for t in said['TABLES']}
    assert len(found['adult', 'few inputs']) == 5
    codes = {k: said['relative'](found, 'bulldozers-codes', f'{k} inputs').mean() for k in (2, 4, 8, 16, 64)}
    assert [round(o, 1) for o in codes.values()] == [-3.9, -3.2, -2.2, -1.3, -.2]
    assert round(said['relative'](found, 'california', '2 inputs').mean(), 1) == 1.2
    assert {t: round(mean[t], 1) for t in ('bulldozers-codes', 'bike-crossed', 'bike', 'adult-crossed')} == {
        'bulldozers-codes': -3.9, 'bike-crossed': -3.9, 'bike': -1.2, 'adult-crossed': .5}
    assert all(abs(mean[t]) < .5 for t in ('adult', 'california', 'bulldozers-2012'))
    def fastais(t, against): return round(said['relative'](found, t, 'layers=[200,100]', against).mean(), 1)
    own = {t: fastais(t, 'dense, layers=[200,100]') for t in said['STEADY']}
    assert [own.pop(t) for t in ('bulldozers-codes', 'bike-crossed', 'california')] == [-3.2, -3.6, -.7]
    assert max(map(abs, own.values())) <= .1
    assert [fastais(t, 'few inputs') for t in ('bulldozers-codes', 'adult-crossed')] == [.6, -.5]
    on_codes = {'2 columns, later all': -3, 'rescale=False': -.3, 'frozen, 2 columns': 8.6, 'frozen, 8 columns': -2.9}
    for method, percent in on_codes.items():
        assert round(said['relative'](found, 'bulldozers-codes', method).mean(), 1) == percent
    for method in ('all, later 2', 'dense, as large as few inputs'):
        assert said['relative'](found, 'bulldozers-codes', method).mean() > 0
    resampled = {t: said['relative'](found, t, 'resampled, 0.5').mean() for t in ('bulldozers-codes', 'california')}
    assert min(resampled.values()) > 0
    assert round(said['relative'](found, 'bike-crossed', 'resampled, 0.5').mean(), 1) == -10.2


@pytest.fixture
def on_slices(said_by):
    "Two functions: the changes from one arm of `benchmarks/inputs.py` to another, by table; which of them are clear"
    said = said_by('inputs')
    found = said['by_seed'](read_jsonl(root/'results'/'inputs'/'runs.jsonl'))
    def changes(arm, reference): return {t: said['relative'](found, t, arm, reference) for t in said['STEADY']}
    def clear(changes): return {t for t, o in changes.items() if '**' in said['interval'](o)}
    return changes, clear


def test_what_is_said_of_larger_embeddings(on_slices):
    "Lower errors on slices of tables as they were found, with a mask or without; the mask adds nothing to them"
    changes, clear = on_slices
    for prefix in ('', 'dense, '):
        larger = changes(f'{prefix}larger embeddings', f'{prefix}layers=[200,100]')
        assert all(len(o) == 3 for o in larger.values())
        assert all(o.mean() < 0 for t, o in larger.items() if not t.endswith('-crossed'))
        assert clear(larger) == {'bulldozers-codes', 'bulldozers-2012', 'bike'}
    assert not clear(changes('larger embeddings', 'dense, larger embeddings'))


def test_what_is_said_of_members_embeddings(on_slices):
    "On slices of training rows, embeddings of each member's own pay on the sales of 2012, and cost nothing clearly"
    changes, clear = on_slices
    own = changes('own embeddings', 'larger embeddings')
    assert all(len(o) == 3 for o in own.values())
    assert clear(own) == {'bulldozers-2012'}
    assert [round(own[t].mean(), 1) for t in ('bulldozers-2012', 'bulldozers-codes')] == [-1.9, -1.7]
    assert max(o.mean() for o in own.values()) < .5


def test_what_is_said_of_how_many_columns(on_slices):
    "Beside embeddings of each member's own: four columns per neuron, two, and what else was tried"
    changes, clear = on_slices
    dense = 'dense, own embeddings'
    two, four = (changes(o, dense) for o in ('own embeddings', 'own embeddings, 4 columns'))
    assert all(len(o) == 3 for o in [*two.values(), *four.values()])
    assert max(o.mean() for o in four.values()) < .1
    assert round(two['bulldozers-codes'].mean(), 1) == .6 and not clear(two)
    for o in ('8 columns', 'half'):
        found = {t: o for t, o in changes(f'own embeddings, {o}', dense).items() if len(o)}
        assert len(found) == 4 and not clear(found) and max(o.mean() for o in found.values()) < .5
    small = {k: changes(f'{k} columns', 'dense') for k in (4, 8)}
    assert [round(small[k]['bulldozers-codes'].mean(), 1) for k in small] == [-4.0, -4.1]
    assert round(small[4]['bike-crossed'].mean(), 1) == -1.1


def test_every_arm_can_be_run_again():
    "Its name in the results is what `--arms` takes"
    for file in (root/'results').rglob('runs.jsonl'):
        if {'thirty', 'epochs-members', 'two-threads'} & {*file.parts}: continue  # its methods are those of benchmarks/thirty.py
        for arm in {r['arm'] for r in read_jsonl(file) if 'arm' in r}: assert read_method(arm).label == arm


def test_results_fit_in_a_repository():
    files = [o for o in (root/'results').rglob('*') if o.is_file()]
    assert len(files) < 160 and sum(o.stat().st_size for o in files) < 13e6


def test_what_is_said_of_thirty_datasets():
    "In docs/when.md and the README, and the files that it comes from"
    runs = read_many(root/'results'/'thirty')
    errors, n_test = mean_errors(runs), runs.groupby('dataset').n_test.first()
    task = runs.groupby('dataset').task.first()
    def by_task(ratio): return np.exp(np.log(ratio).groupby(task).mean()).round(2)
    ratio = errors['estimator']/errors[['xgb', 'lgbm', 'hgb', 'catboost']].min(axis=1)
    behind = ratio[(ratio > 1.04) & (n_test >= 500)]
    assert {*behind.index} == {'grants-random', 'splice-random', 'chess-random', 'bulldozers-2012'}
    ahead = ['letter-random', 'optdigits-random', 'txhousing-latest']
    assert ratio[ahead].max() < .95 < 1.04 > ratio[n_test >= 500].drop([*ahead, *behind.index]).max()
    assert ratio[n_test >= 500].drop([*ahead, *behind.index]).min() > .95
    every = ['estimator', 'learner', 'xgb', 'lgbm', 'hgb', 'fastai-untuned']
    fewest = errors['one-word']/errors['fastai-untuned']
    assert fewest[fewest > 1.01].index.tolist() == ['txhousing-latest']
    assert runs.groupby('dataset').seed.nunique().value_counts().to_dict() == {1: 14, 2: 13, 3: 3}
    ran = errors.notna().sum()
    assert (ran['tabm'], ran['realmlp'], ran['catboost']) == (17, 18, 30)
    tabm = by_task(errors['estimator']/errors['tabm'])
    assert tabm['classification'] == .90 and tabm['regression'] in (1.01, 1.02)
    for _, some in runs.groupby('task'): assert rank_many(some, every).mean.index[0] == 'estimator'
    def without_grants(method, other): return by_task((errors[method]/errors[other]).drop('grants-random'))['classification']
    assert [without_grants('one-word', 'fastai-untuned'), without_grants('learner', 'fastai')] == [.76, .92]
    assert [without_grants('estimator', o) for o in ('fastai', 'xgb', 'lgbm', 'catboost', 'hgb')] == [
        .86, .88, .85, .90, .90]
    assert by_task(fewest).to_dict() == dict(regression=.92, classification=.69) and (fewest < .99).sum() == 28


def test_what_is_said_of_epochs_and_members():
    "In docs/training.md and the README"
    runs = read_many(root/'results'/'epochs-members')
    errors, tasks = mean_errors(runs), runs.groupby('dataset').task.first()
    ratio = np.exp(np.log(errors.div(errors['learner'], axis=0)).groupby(tasks).mean())
    assert errors.shape == (10, 9) and errors.notna().all(axis=None)
    found = {k: ratio[f'learner-{k}'].round(3).tolist() for k in ('twice', 'half')}  # classification, regression
    assert found == dict(twice=[1.181, 1.017], half=[.913, 1.007])
    seconds = runs.groupby(['dataset', 'method']).seconds.mean().unstack()
    assert .95 < (seconds['learner-members-1']/seconds['fastai-untuned']).median() < 1.05


def test_what_is_said_of_levers(said_by):
    "In docs/settings.md, docs/when.md and the tutorial on ensembles"
    said, runs = said_by('levers'), pd.DataFrame(read_jsonl(root/'results'/'levers'/'runs.jsonl'))
    found = {o: said['ratios'](runs, o) for o in ('rmse', 'logloss', 'calibrated')}
    def percent(name): return [round(100*(float(np.exp(np.log(o[name]).mean()))-1), 1) for o in found.values()]
    for name in ('dense', 'shared embeddings', 'one member', 'no bins', 'lr=0.005', 'lr=0.02', 'wd=0.1', 'Muon'):
        assert [len(o[name].dropna()) for o in found.values()] == [14, 15, 15]
    assert percent('fastai') == [12.0, 34.5, 12.1] and percent('dense') == [.8, 1.0, -.3]
    assert percent('shared embeddings') == [1.6, 7.3, 1.8] and percent('no bins')[:2] == [3.6, .3]
    assert percent('one member')[0] == 1.9 and percent('Muon') == [1.7, -11.1, -12.5]
    dense, one, shared = (found['logloss'][o] for o in ('dense', 'one member', 'shared embeddings'))
    assert (dense.idxmin(), dense.idxmax()) == ('breast_cancer', 'chess')
    assert [round(float(o), 2) for o in (dense.min(), dense.max())] == [.87, 1.14]
    assert ((one > 1.005).sum(), (found['rmse']['one member'] > 1.005).sum(), (shared > 1.005).sum()) == (12, 10, 12)
    assert [round(float(o), 2) for o in (one['chess'], one['wine'], one.max())] == [.31, .61, 1.64]
    assert round(float(found['rmse']['no bins']['hotel_rates']), 2) == 1.26
    muon = found['logloss']['Muon']
    assert (muon < .995).sum() == 11 and round(float(muon['chess']), 2) == .24
    small = ['wine', 'breast_cancer']
    assert [round(float(o), 2) for o in (muon.drop(small).max(), *muon[small])] == [1.01, 1.09, 1.11]
    bins, by_muon = found['logloss']['bins of 200 rows'], said['ratios'](runs, 'logloss', 'Muon')
    assert [round(float(bins[o]), 2) for o in ('optdigits', 'satimage')] == [1.12, 1.19]
    half, tenth, decay = (by_muon[f'Muon, {o}'] for o in ('ps=0.5', 'ps=0.1', 'wd=0.1'))
    assert [round(float(half[o]), 2) for o in ('credit', 'stops', 'lending', 'letter')] == [.89, .84, .77, 1.53]
    assert half['chess'] > 4 and (tenth > 1.005).sum() == 13 and decay.drop(small).idxmax() == 'chess'
    assert round(float(np.exp(np.log(decay.drop(small)).mean())), 3) == 1.037 and np.exp(np.log(decay.drop([*small, 'chess'])).mean()) < 1
    apart = found['logloss']['adapters, 8 members'], found['logloss']['adapters, 32 members']
    assert all(.6 < o[['splice', 'credit', 'lending']].max() < .93 for o in apart) and min(o['chess'] for o in apart) > 2.9
    assert (found['rmse']['Muon'].idxmax(), round(float(found['rmse']['Muon'].max()), 2)) == ('hotel_rates', 1.11)


def test_what_is_said_of_out_of_bag_rows():
    "In docs/uncertainty.md"
    runs = pd.DataFrame(read_jsonl(root/'results'/'oob'/'runs.jsonl')).drop(columns='ways')
    mean = runs.groupby(['variant', 'dataset']).mean(numeric_only=True)
    off, half = mean.loc['off'], mean.loc['1/2 by 2']
    cost, calibrated = (half[o]/off.loss for o in ('loss', 'calibrated'))
    assert (len(cost), runs.seed.nunique()) == (16, 3) and cost.idxmax() == 'bike'
    assert [round(float(o), 3) for o in (np.exp(np.log(cost).mean()), cost.max())] == [1.013, 1.099]
    assert round(float(np.exp(np.log(calibrated.dropna()).mean())), 3) == .996
    covered = half.coverage.dropna()
    assert round(covered.pop('bike'), 2) == .86 and len(covered) == 5
    assert (round(covered.min(), 2), round(covered.max(), 2)) == (.89, .92)
    off_by = (half.oob/half.loss-1).drop('bike')
    assert round(float(off_by.abs().median()), 2) == .04
    assert (round(off_by['chess'], 2), round(off_by['optdigits'], 2)) == (.66, .28)
    epochs = read_jsonl(root/'results'/'oob'/'epochs.jsonl')
    assert [round(100*(o['1/2 by 2']/o['off']-1)) for o in epochs] == [5, 3, 12]

"The committed results: complete, by the protocol, and what the report makes of them."
import json
import re
import runpy
import sys

import numpy as np
import pytest
from conftest import root

from dropconnect_tab.bench.runs import load_preds
from dropconnect_tab.bench.methods import arms
from dropconnect_tab.bench.report import (
    across, compare, format_across, format_settings, format_summary, read_results, summarise)

folder = root/'results'/'bulldozers-2012'
KEYS = {'arm', 'seed', 'dataset', 'split', 'rmse', 'seconds', 'columns', 'params', 'versions', 'device', 'threads'}


@pytest.fixture(scope='module')
def results(): return read_results(folder)  # compares each JSON file with its predictions


def test_every_arm_has_five_seeds(results):
    assert {r['arm'] for r in results} == set(arms)
    for arm in arms: assert {r['seed'] for r in results if r['arm'] == arm} >= set(range(5)), arm


def test_runs_say_what_made_them(results):
    for r in results:
        assert KEYS <= set(r) and r['rows'] == dict(train=9877, test=1696)
        assert (r['dataset'], r['split'], r['columns'], r['threads']) == ('bulldozers', '2012', 'own', 2)
        assert 'losses' in r and len(np.unique(r['group'])) == 23


def test_the_same_budget_for_every_arm(results):
    tried = {r['arm']: r['search']['tried'] for r in results if 'search' in r}
    assert set(tried.values()) == {12} and set(tried) == {k for k, a in arms.items() if a.space or a.like}


def test_the_best_of_the_search_was_tested(results):
    for r in results:
        if 'search' not in r: continue
        searched = arms[r['arm']].like or r['arm']
        trials = [json.loads(p.read_text()) for p in (folder.parent/'bulldozers-2012-search'/searched).glob('*.json')]
        best = min(trials, key=lambda o: o['rmse'])
        assert len(trials) == 12 and best['rmse'] == r['search']['error'] and best['seed'] == r['search']['chosen']
        more = {'nets': 8} if r['arm'] == 'deep-ensemble' else {}
        assert {**best['params'], **more, 'data': 0} == {**r['params'], 'data': 0} and best['rows']['test'] == 4779


def test_the_blend_is_the_mean_of_its_parts():
    parts = [load_preds(folder/o/'3.json')['pred'] for o in arms['blend'].parts]
    assert np.allclose(load_preds(folder/'blend'/'3.json')['pred'], np.mean(parts, axis=0), atol=1e-6)


def numbers(text): return [[float(o) for o in re.findall(r'[-+]?\d+\.\d+', l)] for l in text.splitlines()]


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
    for p in folder.rglob('*.npz'): assert set(load_preds(p)) == {'pred', 'y', 'group'}


# --- The learner's defaults, on seven tables ---

@pytest.fixture(scope='module')
def defaults():
    "What `benchmarks/defaults.py` says, and the folders of the tables"
    sys.path.insert(0, str(root/'benchmarks'))
    try: said = runpy.run_path(root/'benchmarks'/'defaults.py')
    finally: sys.path.pop(0)
    folders = {o: next((root/'results'/'defaults').glob(f'{o}-*')) for o in said['TABLES']}
    return said, folders


def test_every_arm_has_five_seeds_on_every_table(defaults):
    said, folders = defaults
    for name, o in folders.items():
        for arm in [*said['ARMS'], 'blend', *said['variants'](name)]:
            assert {int(p.stem) for p in (o/arm).glob('*.json')} >= set(range(5)), (name, arm)


def test_all_nets_had_the_same_epochs_and_batches(defaults):
    said, folders = defaults
    for name, o in folders.items():
        for arm in ('default', 'fastai', 'tabm', said['ONE_WORD']):
            for p in (o/arm).glob('*.json'):
                params = json.loads(p.read_text())['params']
                assert (params['epochs'], params['bs']) == said['TABLES'][name], p


def test_tables_of_the_defaults_come_from_the_files(defaults):
    said, folders = defaults
    made = format_across(across(list(folders.values()), said['ARMS']))
    assert made + '\n' == (root/'results'/'defaults'/'ranks.md').read_text()
    assert said['ablations'](folders) + '\n' == (root/'results'/'defaults'/'ablation.md').read_text()


def test_what_is_said_of_the_defaults(defaults):
    "The README's and the tutorial's words"
    said, folders = defaults
    found = across(list(folders.values()), [*said['ARMS'], 'blend'])
    def mean(table, arm): return found.loc[arm, (folders[table].name, 'mean')]
    over = {o: mean(o, 'default')/mean(o, 'fastai')-1 for o in folders}
    assert max(over.values()) < 0 and sum(o < -.05 for o in over.values()) >= 4
    assert all(mean(o, 'default') < mean(o, 'blend') for o in ('california', 'bike', 'adult'))
    ranks = across(list(folders.values()), said['ARMS'])
    assert ranks.index[0] == 'default' or list(ranks.index).index('default') == 1

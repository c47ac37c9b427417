"The README's examples run, in one go, as a reader would type them."
import re
from dataclasses import replace

import pytest
from conftest import root
from new_user import blocks, train, write_houses

from dropconnect_tab.bench.methods import Method
from dropconnect_tab.bench.runs import read_runs, run_methods
from dropconnect_tab.bench.tables import load_table
from dropconnect_tab.masks import find_linears

pytestmark = pytest.mark.slow

text = (root/'README.md').read_text(encoding='utf-8')


def test_ten_lines_to_a_model_of_ones_own_csv(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_houses(tmp_path)
    assert train()['model'].columns_.kinds == dict(town='category', rooms='category', area='number', sold='date')


def test_examples(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_houses(tmp_path)
    snippets, learners, ns = blocks('python'), [], {}
    assert len(snippets) == 12
    for s in snippets:
        exec(s, ns)
        if 'learn' in ns and 'GridSearchCV' not in s: learners.append(ns['learn'])
    assert ns['search'].cv_results_['params'][0].keys() == {'weight_p', 'mask'} and ns['search'].n_features_in_ == 4
    zeros = [[int((l.weight == 0).sum()) for l in find_linears(learn.model).values()] for learn in learners]
    n_in = learners[1].model.layers[0][0].in_features
    total = sum(l.weight.numel() for l in find_linears(learners[0].model).values())
    assert sum(zeros[0]) < .02*total  # trainable: what is left belongs to units that no row has reached
    assert zeros[1] == [round(.8*200*n_in), 10_000, 0]
    assert zeros[2] == [100*n_in, 0, 0]
    assert [getattr(learn.model, 'members', 1) for learn in learners[:5]] == [8, 1, 1, 1, 16]
    assert ns['answer'](dict(shop='a', size=.3, age=-1.)).shape == (1,)


def test_runs_are_handed_to_a_backend_of_joblib(tmp_path, monkeypatch):
    "The two lines for a cluster, with the processes that joblib brings in the cluster's place"
    import joblib
    monkeypatch.chdir(tmp_path)
    client, run = re.search(r'^```\n(client = .+)\n(with joblib.+)\n```', text, re.M).groups()
    table = replace(load_table('diabetes'), train_idx=range(60), test_idx=range(60, 90))
    ns = dict(joblib=joblib, run_methods=run_methods, table=table, methods=[Method('rf', dict(n_estimators=2))])
    assert "'dask'" in run and 'dask' in client
    exec(run.replace("'dask'", "'loky'"), ns)
    assert [o['seed'] for o in read_runs('runs/diabetes-random')] == [0, 1, 2, 3, 4]


def test_the_two_commands_come_first():
    first, second = [b.strip() for b in blocks('bash')[:2]]
    assert first == 'pip install -e . && dropconnect-bulldozers'
    assert second == "pip install -e '.[dev,bench]' && nbdev-test && pytest"
    ci = (root/'.ci'/'run').read_text()
    assert "grep -m1 -F 'nbdev-test' README.md" in ci
    assert next(l for l in text.splitlines() if 'nbdev-test' in l) == second


@pytest.mark.parametrize('link', re.findall(r'\]\((?!https?:|#)([^)]+)\)', text))
def test_links_lead_somewhere(link): assert (root/link).exists()


def test_settings_are_the_defaults():
    import inspect
    from dropconnect_tab.all import DropConnectTabularModel
    params = inspect.signature(DropConnectTabularModel).parameters
    rows = re.findall(r'^\| `(\w+)` \| `([^`]+)` \|', text, re.M)
    assert [n for n, _ in rows] == [n for n, p in params.items() if p.kind == p.KEYWORD_ONLY]
    assert all(repr(params[n].default) == d for n, d in rows)

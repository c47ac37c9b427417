"Where a sparse start must pay: the targets of `benchmarks/theory.py`, its fits and its counting of rows"
import json
from functools import partial
from importlib.util import find_spec
from itertools import product

import numpy as np
import pytest
import torch
from helpers import root

from dropconnect_tab.masks import find_linears
from dropconnect_tab.model import DropConnectTabularModel


@pytest.fixture
def theory(monkeypatch):
    pytest.importorskip('sklearn', '1.7', reason="boosted trees cannot hold rows out before scikit-learn 1.7")
    monkeypatch.syspath_prepend(str(root/'benchmarks'))
    import theory
    return theory


@pytest.fixture
def tiny(theory, monkeypatch):
    "Few steps, on one target with two row counts"
    for k, v in dict(TEST=50, STEPS=8, LOOKS=2, BATCH=8, LAYERS=[6, 5]).items(): monkeypatch.setattr(theory, k, v)
    monkeypatch.setattr(theory, 'TARGETS', {'parity': ('parity', partial(theory.parity, 2, 20), [60, 80], [-1.])})
    return theory


def test_parity_and_majority(theory):
    a, b = theory.parity(3, 5, 0, 200), theory.majority(3, 5, 0, 200)
    assert a.x.shape == (200, 5) and {*a.x.flat} == {-1., 1.} and a.n_classes == b.n_classes == 2
    odd = (a.x[:, :3] < 0).sum(1) % 2
    assert (a.y == 1-odd).all() and (b.y == ((b.x[:, :3] > 0).sum(1) >= 2)).all()
    assert (theory.parity(3, 5, 0, 100).x == a.x[:100]).all() and (theory.parity(3, 5, 1, 200).x != a.x).any()


@pytest.mark.parametrize('name, informative', [('classification', 5), ('friedman', 5), ('additive', 5)])
def test_only_the_first_columns_tell_of_the_target(theory, name, informative):
    "By a statistic that sees each column alone: its squares and products are those of noise in the others"
    rows = theory.additive(5, 12, 0, 3000) if name == 'additive' else getattr(theory, name)(7, 0, 3000)
    assert rows.x.shape == (3000, 12) and bool(rows.n_classes) == (name == 'classification')
    z = (rows.x-rows.x.mean(0))/rows.x.std(0)
    z = np.concatenate([z, z**2-(z**2).mean(0)], 1)
    y = (rows.y-rows.y.mean())/rows.y.std()
    tells = np.abs(z.T @ y/len(y)).reshape(2, 12).max(0) > .08
    if name != 'classification': assert tells.nonzero()[0].tolist() == [0, 1, 2, 3, 4]
    else: assert 0 < tells.sum() <= 5  # scikit-learn shuffles them


@pytest.fixture
def small_network():
    "a → b ← c, and b → d: tables over the values of the parents, then of the node"
    p = np.random.default_rng(0).dirichlet
    return {'b': (['a', 'c'], p(np.ones(3), (2, 2))), 'a': ([], p(np.ones(2))), 'c': ([], p(np.ones(2))),
            'd': (['b'], p(np.ones(2), 3))}


def test_draws_from_a_network_have_its_probabilities(theory, small_network):
    drawn = theory.sample(small_network, 0, 40_000)
    (_, a), (_, b), (_, c), (_, d) = (small_network[o] for o in 'abcd')
    for i, j, k, l in product(range(2), range(3), range(2), range(2)):
        at = (drawn['a'] == i) & (drawn['b'] == j) & (drawn['c'] == k) & (drawn['d'] == l)
        assert abs(at.mean() - a[i]*c[k]*b[i, k, j]*d[j, l]) < .01


@pytest.mark.parametrize('node', list('abcd'))
def test_probabilities_of_a_node_given_all_others(theory, small_network, node):
    "Against Bayes' rule on the whole joint distribution"
    (_, a), (_, b), (_, c), (_, d) = (small_network[o] for o in 'abcd')
    joint = np.einsum('a,c,acb,bd->abcd', a, c, b, d)
    drawn = theory.sample(small_network, 1, 30)
    found = theory.probabilities(small_network, node, drawn)
    for i in range(30):
        at = tuple(slice(None) if o == node else drawn[o][i] for o in 'abcd')
        assert np.allclose(found[i], joint[at]/joint[at].sum())


def test_networks_are_read(theory):
    if not find_spec('pgmpy'): pytest.skip("its files are not there")  # it need not be imported
    nodes = theory.read_network('asia')
    assert len(nodes) == 8 and nodes['either'][0] == ['lung', 'tub']
    assert np.allclose(nodes['lung'][1], [[.1, .9], [.01, .99]]) and nodes['lung'][0] == ['smoke']
    assert all(np.allclose(p.sum(-1), 1, atol=1e-6) for _, p in nodes.values())
    rows = theory.node('asia', 'dysp', 0, 20)
    assert rows.x.shape == (20, 7) and rows.sizes == [2]*7 and np.allclose(rows.known.sum(1), 1)


def test_members_start_as_their_arms_say(theory):
    arms = list(theory.ARMS)
    model = DropConnectTabularModel([], 20, 2, [30, 10], weight_p=0., members=2*len(arms))
    theory.start_members(model, arms, 2, 0)
    first, second, last = find_linears(model).values()
    at = {k: slice(2*i, 2*i+2) for i, k in enumerate(arms)}
    dense = first.weight[at['dense']]
    assert (dense != 0).all() and (dense[0] != dense[1]).all()
    for k in (2, 4, 8, 16):
        w = first.weight[at[str(k)]]
        assert ((w != 0).sum(-1) == k).all()
        assert torch.allclose(w[w != 0], dense[w != 0]*(20/k)**.5)
        assert (second.weight[at[str(k)]] == second.weight[at['dense']]).all()
    assert ((second.weight[at['4, later 2']] != 0).sum(-1) == 2).all()
    assert torch.allclose(first.weight[at['dense, scaled']], dense*5**.5)
    assert (last.weight[at['2']] == last.weight[at['dense']]).all()


def test_errors_are_those_of_the_target(theory):
    x = np.zeros((4, 1))
    classes, numbers = theory.Rows(x, np.array([0, 1, 1, 0])), theory.Rows(x, np.array([1., 2., 3., 4.]))
    pred = torch.tensor([[2., 1.], [1., 2.], [3., 0.], [1., 0.]])
    assert theory.error(classes, slice(0, 4), pred) == .25
    assert theory.error(numbers, slice(0, 4), torch.full((4, 1), 2.5)) == 1
    p = np.array([[.25, .75]]*4)
    known = theory.Rows(x, classes.y, [1], p)
    assert theory.error(known, slice(0, 4), torch.tensor(p).log()) == pytest.approx(0)
    assert theory.error(known, slice(0, 4), torch.zeros(4, 2)) == pytest.approx(np.log(2)+(p[0]*np.log(p[0])).sum())


def test_test_rows_choose_nothing(tiny):
    "Other targets of the test rows change the errors, and not the steps"
    rows = tiny.parity(2, 20, 0, 110)
    one = tiny.fit_nets(rows, 60, 0, ['2', 'dense'])
    rows.y[-50:] = 1-rows.y[-50:]
    other = tiny.fit_nets(rows, 60, 0, ['2', 'dense'])
    assert all(o[0] == pytest.approx(1-one[k][0]) and o[1] == one[k][1] for k, o in other.items())


def test_rows_needed(theory):
    assert theory.rows_needed([100, 200, 400], [.5, .3, .1], .3) == pytest.approx(200)
    assert theory.rows_needed([100, 400], [.5, .1], .3) == pytest.approx(200)  # half of the way, in the logarithm
    assert theory.rows_needed([100, 200, 400], [.2, .5, .1], .3) == 100
    assert theory.rows_needed([100, 200], [.5, .4], .3) == float('inf')


def test_ratios_are_paired_by_seed(theory):
    arms = {'dense': [100., 200., float('inf')], '4': [50., 400., 100.]}
    assert theory.ratios(arms, '4') == [.5, 2.] and theory.mean_ratio([.5, 2.]) == pytest.approx(1)
    assert theory.shown([.5, 2.]) == '1.00 (0.50–2.00)' and theory.shown([.5, float('inf')]) == '0.50 to ∞'


def test_what_is_there_is_not_repeated(tiny, tmp_path):
    "Nor is a fit with more time; one that is stopped is continued"
    file = tmp_path/'runs.jsonl'
    tiny.run(file, ['parity'], 1, 0)
    assert not file.exists() or not file.read_text()
    assert tiny.run(file, ['parity'], 1, 9)
    lines = [json.loads(o) for o in file.read_text().splitlines()]
    assert [(o['rows'], o['seed'], o['nets']) for o in lines] == [(60, 0, 1), (80, 0, 1), (60, 0, 8), (80, 0, 8)]
    assert {*lines[0]['errors']} == {*tiny.ARMS, 'trees'} and {*lines[2]['errors']} == {*tiny.VOTES}
    before = file.read_text()
    assert tiny.run(file, ['parity'], 1, 9) and file.read_text() == before
    file.write_text('\n'.join(before.splitlines()[:1])+'\n')
    tiny.run(file, ['parity'], 1, 9)
    assert len(file.read_text().splitlines()) == 4


def test_no_more_rows_than_it_takes(tiny, tmp_path, monkeypatch):
    "A target is done when each net has reached the error; later seeds start below the first count that was enough"
    monkeypatch.setitem(tiny.TARGETS, 'parity', (*tiny.TARGETS['parity'][:2], [60, 80, 90, 99], [.1]))
    def fits(name, n, seed, nets=1):
        return dict(target=name, rows=n, seed=seed, nets=nets, seconds=0,
                    errors={'4': float(n < 90), 'dense': float(n < 90), 'trees': 1.})
    monkeypatch.setattr(tiny, 'fits', fits)
    tiny.run(tmp_path/'runs.jsonl', ['parity'], 2, 9)
    lines = [json.loads(o) for o in (tmp_path/'runs.jsonl').read_text().splitlines()]
    assert [o['rows'] for o in lines if o['nets'] == 1] == [60, 80, 90, 80, 90]
    table = tiny.theory_table(tmp_path)
    assert '1.00 (1.00–1.00)' in table and '∞' in table
    tiny.draw(tmp_path)
    assert (tmp_path/'theory.png').stat().st_size

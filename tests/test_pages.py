"The pages of the site: their examples run, as a reader would type them after those of the home page."
import ast
import copy
import inspect
import re
from dataclasses import replace
from functools import cache

import pytest
from helpers import root, side_by_side
from new_user import blocks, write_houses

from dropconnect_tab.all import DropConnectTabularModel
from dropconnect_tab.bench.methods import METHODS
from dropconnect_tab.bench.runs import read_runs, run_methods
from dropconnect_tab.bench.datasets import load_dataset
from dropconnect_tab.masks import find_linears

pytestmark = pytest.mark.slow


def read(page): return (root/'docs'/f'{page}.md').read_text(encoding='utf-8')


def examples(page): return blocks('python', root/'docs'/f'{page}.md')


SHOWN = re.compile(r'^```python\n(.*?)^```\n(?:\n```text\n(.*?)^```)?', re.M | re.S)
NUMBER = re.compile(r'\d+(?:\.\d+)?(?:e[-+]\d+)?')


def check_shown(returned, shown, code):
    "Are the words the same, and the numbers, which depend on seeds and processors, similar? Times may be any"
    words, numbers = zip(*((NUMBER.sub('#', o), [*map(float, NUMBER.findall(o))])
                           for t in (returned, shown) for o in [re.sub(r'\b\d\d:\d\d\b', 'TIME', ' '.join(t.split()))]))
    assert words[0] == words[1], code
    assert all(a == b or max(a, b) < 3*min(a, b) for a, b in zip(*numbers)), f'{code}returns {returned}, not {shown}'


def run(text, ns):
    "Run the examples of `text` in turn; what their last lines return is the output shown below them"
    for code, shown in SHOWN.findall(text):
        *body, last = ast.parse(code).body
        if not shown: exec(code, ns)
        else:
            exec(compile(ast.Module(body, []), 'example', 'exec'), ns)
            check_shown(repr(eval(compile(ast.Expression(last.value), 'example', 'eval'), ns)), shown, code)
        yield code


@cache
def home():
    "What the example of the home page leaves"
    exec('\n'.join(examples('index')), ns := {})
    return ns


def run_examples(page):
    "What the examples of the home page and then of `page` leave, and the learners that they leave on the way"
    ns = {**home(), 'learn': copy.deepcopy(home()['learn'])}
    learners = [ns['learn']]
    for _ in run(read(page), ns): learners.append(ns['learn'])
    return ns, learners


def zeros(learn): return [int((o.weight == 0).sum()) for o in find_linears(learn.model).values()]


def test_examples_of_the_first_hour(tmp_path, monkeypatch):
    import matplotlib.pyplot as plt
    monkeypatch.chdir(tmp_path)
    before = len(plt.get_fignums())
    run_examples('start')
    assert len(plt.get_fignums()) == before + 3
    plt.close('all')


def test_examples_of_entry_points():
    learner, model, callback = run_examples('entry_points')[1][1:]
    n_in = model.model.layers[0][0].in_features
    assert sum(zeros(learner)) < .02*sum(o.weight.numel() for o in find_linears(learner.model).values())
    assert zeros(model) == [round(.8*200*n_in), 10_000, 0]
    assert zeros(callback) == [100*n_in, 0, 0]
    assert [getattr(o.model, 'members', 1) for o in (learner, model, callback)] == [8, 1, 1]


def test_examples_of_settings():
    masks, own = run_examples('settings')[1][1:]
    assert [masks.model.members, own.model.members] == [1, 8]
    assert own.model.embeds[0].weight.std().item() == pytest.approx(.1, rel=.5)


def test_examples_of_training(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ns, learners = run_examples('training')
    assert learners[1].model.members == 16 and ns['mean'].shape == ns['std'].shape == (200, 1)
    assert type(ns['fast'].train).__name__ == 'TabTensorDL'
    assert ns['predictor'](dict(shop='a', size=.3, age=-1.)).shape == (1,)


def test_examples_of_estimators(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_houses(tmp_path)
    ns = {}
    for _ in run(read('estimators'), ns): pass
    assert ns['search'].cv_results_['params'][0].keys() == {'weight_p', 'mask'} and ns['search'].n_features_in_ == 4
    assert ns['mean'].shape == ns['std'].shape == (100,) and ns['std'].min() > 0
    assert len(ns['scores']) == 3 and ns['model'].history_.notna().all(None)


def test_examples_of_uncertainty():
    ns, _ = run_examples('uncertainty')
    assert ns['factor'] > 0 and ns['std'].min() > 0 and (ns['low'] < ns['high']).all()
    left_out = ns['preds'].isfinite()
    assert left_out.any() and not left_out.all() and ns['learn'].model.leave_out.share == .5


def test_examples_of_when_to_use_it():
    differences = run_examples('when')[0]['differences']
    assert len(set(differences)) == 3 and max(map(abs, differences)) < 1


def test_examples_of_the_questions(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    ns, _ = run_examples('faq')
    assert ns['again'].sparsity().zeros.sum() > 0  # continued, and still frozen
    assert not [o for o in ns['plain'].sparsity().weight_p if o]
    assert ns['probs'].shape == (200, 2) and ns['std'].shape == (200, 1) and ns['std'].min() > 0
    assert ns['several'].c == 2


RECIPES = re.split(r'^## ', read('recipes'), flags=re.M)[1:]
NEEDS = {'Optuna': 'optuna', 'AutoGluon': 'autogluon.tabular', 'dask': 'distributed', 'Ray': 'ray', '100 million': 'pyarrow',
         'TensorBoard': 'tensorboard', 'Weights': 'wandb', 'MLflow': 'mlflow', 'SHAP': 'shap'}


@pytest.mark.parametrize('recipe', RECIPES, ids=lambda o: o.splitlines()[0])
def test_recipes(recipe, tmp_path, monkeypatch):
    "Each stands alone, and skips where its package is not installed"
    for word, package in NEEDS.items():
        if word in recipe.splitlines()[0]: pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('WANDB_SILENT', 'true')
    ns = {**home(), 'df': home()['df'].copy()}
    assert [*run(recipe, ns)]


@pytest.mark.parametrize('page', sorted(o.stem for o in (root/'docs').glob('*.md')))
def test_every_output_is_compared(page):
    "An output is a block of text right below the example: no other place, and no block without a language"
    text = read(page)
    assert len(re.findall('^```text$', text, re.M)) == sum(bool(shown) for _, shown in SHOWN.findall(text))
    assert not re.search(r'^```python\n(?:(?!```).*\n)*```\n\n```$', text, re.M)


@pytest.mark.parametrize('returned,shown,same', [
    ('[0.5, 12]', '[0.4,  11]', True), ('(1746, 64)', '(17, 64)', False), ("['large']", "['old']", False),
    ('0 1 00:01', '0 1 00:59', True), ('True', 'False', False), ('0 0.3', '0 -0.3', False)])
def test_what_is_shown(returned, shown, same):
    if same: check_shown(returned, shown, '')
    else:
        with pytest.raises(AssertionError): check_shown(returned, shown, '')


def test_no_other_page_has_examples():
    run = {'index', 'start', 'entry_points', 'settings', 'training', 'estimators', 'uncertainty', 'when', 'faq',
           'serving', 'recipes'}
    assert {o.stem for o in (root/'docs').glob('*.md') if examples(o.stem)} == run


@side_by_side
def test_runs_are_handed_to_a_backend_of_joblib(tmp_path, monkeypatch):
    "The two lines for a cluster, with the processes that joblib brings in the cluster's place"
    import joblib
    monkeypatch.chdir(tmp_path)
    client, run = re.search(r'^```\n(client = .+)\n(with joblib.+)\n```', read('bench'), re.M).groups()
    table = replace(load_dataset('diabetes'), train_idx=range(60), test_idx=range(60, 90))
    ns = dict(joblib=joblib, run_methods=run_methods, dataset=table, methods=[METHODS['rf'].variant(n_estimators=2)])
    assert "'dask'" in run and 'dask' in client
    exec(run.replace("'dask'", "'loky'"), ns)
    assert [o['seed'] for o in read_runs('runs/diabetes-random')] == [0, 1, 2, 3, 4]


def test_settings_are_the_defaults():
    params = inspect.signature(DropConnectTabularModel).parameters
    text = read('settings').split('## What the learner adds')[0]
    rows = re.findall(r'^\| `(\w+)` \| `([^`]+)` \|', text, re.M)
    assert [n for n, _ in rows] == [n for n, p in params.items() if p.kind == p.KEYWORD_ONLY]
    assert all(repr(params[n].default) == d for n, d in rows)


def test_examples_of_serving(tmp_path, monkeypatch):
    for o in ('onnxscript', 'onnxruntime'): pytest.importorskip(o)
    monkeypatch.chdir(tmp_path)
    ns, _ = run_examples('serving')
    assert {o.name for o in tmp_path.iterdir()} == {'price.pt2', 'price.onnx'}
    assert abs(ns['served'](ns['df']) - ns['predictor'](ns['df'])).max() < 1e-5

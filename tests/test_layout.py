"The layout: imports point one way, the library does without the bench, and notebooks come in short steps"
import ast
import configparser
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from helpers import root

import dropconnect_tab

notebooks = sorted((root/'nbs').glob('*.ipynb')) + sorted((root/'nbs'/'bench').glob('*.ipynb'))


def read(path): return json.loads(path.read_text(encoding='utf-8'))['cells']


def name(path): return str(path.relative_to(root/'nbs').with_suffix(''))


def module_of(path):
    "The module that a notebook exports to, as in `dropconnect_tab.bench.datasets`"
    found = (re.match(r'#\| default_exp (\S+)', ''.join(c['source'])) for c in read(path))
    return 'dropconnect_tab.' + next(o[1] for o in found if o)


modules = {module_of(o): o for o in notebooks}  # in the order of reading


def imports(module):
    "The modules of this package that `module` imports, anywhere in its code"
    res = set()
    for o in ast.walk(ast.parse((root/Path(*module.split('.'))).with_suffix('.py').read_text(encoding='utf-8'))):
        if isinstance(o, ast.Import): res |= {a.name for a in o.names}
        elif isinstance(o, ast.ImportFrom):
            parent = module.rsplit('.', o.level)[0].split('.') if o.level else []
            base = '.'.join(parent + ([o.module] if o.module else []))
            res |= {base, *(f'{base}.{a.name}' for a in o.names)}
    return res & modules.keys()


def test_each_module_has_its_notebook():
    files = {'.'.join(o.relative_to(root).with_suffix('').parts) for o in (root/'dropconnect_tab').rglob('*.py')}
    written = {'dropconnect_tab.all', *(o for o in files if o.split('.')[-1].startswith('_'))}
    assert files - written == modules.keys()


def test_numbers_of_notebooks_have_no_gaps():
    for folder in ('nbs', 'nbs/bench'):
        names = [o.name for o in notebooks if o.parent == root/folder]
        assert all(re.match(r'\d\d[a-z]?_', o) for o in names)
        numbers = list(dict.fromkeys(o[:2] for o in names))  # 01a comes after 01
        assert numbers == [f'{i:02}' for i in range(len(numbers))]


@pytest.mark.parametrize('module', modules)
def test_imports_point_upwards(module):
    "A module imports those that are read before it, and no other: there is no circle"
    order = list(modules)
    later = [o for o in imports(module) if order.index(o) >= order.index(module)]
    assert not later, f"{module} imports {later}"


def test_imports_are_found():
    assert imports('dropconnect_tab.masks') >= {'dropconnect_tab.checks'}
    assert imports('dropconnect_tab.sklearn') >= {'dropconnect_tab.interpret', 'dropconnect_tab.frame'}
    assert imports('dropconnect_tab.bench.datasets') >= {'dropconnect_tab.checks'}


def test_the_library_does_without_the_bench():
    assert not [(m, o) for m in modules for o in imports(m) if '.bench.' in o and '.bench.' not in m]
    assert '.bench' not in (root/'dropconnect_tab'/'all.py').read_text()


@pytest.mark.slow
def test_no_entry_point_imports_a_module_of_the_bench():
    code = ("import sys, dropconnect_tab.all, dropconnect_tab.sklearn; "
            "print([o for o in sys.modules if 'dropconnect_tab.bench' in o])")
    out = subprocess.run([sys.executable, '-W', 'ignore', '-c', code], capture_output=True, text=True, cwd=root)
    assert out.stdout.strip() == '[]', out.stderr


def test_all_brings_what_errors_name():
    "A name in an error message that a user is told to use is there after `from dropconnect_tab.all import *`"
    brought = {}
    exec('from dropconnect_tab.all import *', brought)
    wanted = {'dropconnect_learner', 'DropConnectCallback', 'MemberLoss', 'AverageMembers', 'FillGaps'}
    assert wanted <= brought.keys()
    assert {o.__module__.split('.')[0] for k, o in brought.items() if hasattr(o, '__module__')} == {'dropconnect_tab'}


@pytest.mark.parametrize('path', notebooks, ids=name)
def test_exported_cells_are_short(path):
    long = {c['id']: n for c in read(path) if re.match(r'#\| exporti?\b', ''.join(c['source']))
            and (n := len(''.join(c['source']).splitlines())) > 60}
    assert not long


@pytest.mark.parametrize('path', notebooks, ids=name)
def test_no_warnings_are_stored(path):
    outputs = [o for c in read(path) for o in c.get('outputs', [])]
    bad = [o for o in outputs if o.get('name') == 'stderr' or o['output_type'] == 'error']
    assert not bad


def test_the_address_of_the_repository_is_the_one_of_the_settings():
    "A notebook's button for Colab and its clone cannot read it from there"
    there = configparser.ConfigParser(delimiters=['='])
    there.read(root/'settings.ini')
    address = there['DEFAULT']['repository'].removeprefix('https://github.com/')
    for path in (root/'nbs'/'tutorials').glob('*.ipynb'):
        text = path.read_text(encoding='utf-8')
        found = re.findall(r'(?:research\.google\.com/github|clone [^"]*github\.com)/([\w-]+/[\w-]+)', text)
        assert len(found) > 1 and {*found} == {address}, path.name


@pytest.mark.parametrize('name', ['release', 'site', 'test'])
def test_workflows_run_what_is_there(name):
    "Files that a workflow names exist, and each step has something to do"
    flow = yaml.safe_load((root/'.github'/'workflows'/f'{name}.yml').read_text())
    steps = [o for job in flow['jobs'].values() for o in job['steps']]
    assert all(('run' in o) != ('uses' in o) for o in steps)
    for path in re.findall(r'[\w.]+/[\w./]+\.(?:sh|py)|\.ci/run', ' '.join(o.get('run', '').replace('$GITHUB_WORKSPACE/', '') for o in steps)):
        assert (root/path).exists(), path


def test_only_the_tagged_version_is_published():
    flow = yaml.safe_load((root/'.github'/'workflows'/'release.yml').read_text())
    check = next(o['run'] for o in flow['jobs']['build']['steps'] if 'GITHUB_REF_NAME' in o.get('run', ''))
    def passes(tag):
        return not subprocess.run(['bash', '-c', check], cwd=root, env={**os.environ, 'GITHUB_REF_NAME': tag}).returncode
    assert passes(f'v{dropconnect_tab.__version__}') and not passes('v99.0.0')
    assert flow['jobs']['publish']['needs'] == 'test' and flow['jobs']['publish']['permissions'] == {'id-token': 'write'}

"The layout: imports point one way, the library does without the bench, and notebooks come in short steps"
import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import root

notebooks = sorted((root/'nbs').glob('*.ipynb')) + sorted((root/'nbs'/'bench').glob('*.ipynb'))


def read(path): return json.loads(path.read_text(encoding='utf-8'))['cells']


def name(path): return str(path.relative_to(root/'nbs').with_suffix(''))


def module_of(path):
    "The module that a notebook exports to, as in `dropconnect_tab.bench.tables`"
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
        numbers = [o.name[:3] for o in notebooks if o.parent == root/folder]
        assert numbers == [f'{i:02}_' for i in range(len(numbers))]


@pytest.mark.parametrize('module', modules)
def test_imports_point_upwards(module):
    "A module imports those that are read before it, and no other: there is no circle"
    order = list(modules)
    later = [o for o in imports(module) if order.index(o) >= order.index(module)]
    assert not later, f"{module} imports {later}"


def test_imports_are_found():
    assert imports('dropconnect_tab.masks') >= {'dropconnect_tab.checks'}
    assert imports('dropconnect_tab.sklearn') >= {'dropconnect_tab.interpret', 'dropconnect_tab.frame'}
    assert imports('dropconnect_tab.bench.tables') >= {'dropconnect_tab.checks'}


def test_the_library_does_without_the_bench():
    assert not [(m, o) for m in modules for o in imports(m) if '.bench.' in o and '.bench.' not in m]
    assert '.bench' not in (root/'dropconnect_tab'/'all.py').read_text()


@pytest.mark.slow
@pytest.mark.parametrize('module', ['all', 'sklearn'])
def test_an_entry_point_imports_no_module_of_the_bench(module):
    code = f"import sys, dropconnect_tab.{module}; print([o for o in sys.modules if 'dropconnect_tab.bench' in o])"
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

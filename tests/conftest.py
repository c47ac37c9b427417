"How the tests run: one thread a process, quiet, seeded, in groups that share what is costly, and within a budget."
import os

# Read when torch loads, here and in every process that a test starts: two cores have enough with two processes
os.environ.update(OMP_NUM_THREADS='1', MPLBACKEND='Agg')

from collections import Counter  # noqa: E402
from pathlib import Path  # noqa: E402

import pytest  # noqa: E402

pytest.register_assert_rewrite('habits', 'helpers')

root = Path(__file__).resolve().parent.parent


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    "Tests that share a fixture of their module run in one process, which makes it once"
    for o in items:
        fixtures = (defs[-1] for defs in o._fixtureinfo.name2fixturedefs.values())
        if any(f.scope != 'function' and f.baseid.endswith('.py') for f in fixtures):
            o.add_marker(pytest.mark.xdist_group(o.path.stem))


def pytest_runtest_setup(item):
    if not item.get_closest_marker('cuda'): return
    import torch
    if not torch.cuda.is_available(): pytest.skip("no GPU")


@pytest.fixture(autouse=True)
def quiet_and_seeded(monkeypatch):
    import fastprogress.fastprogress as fp
    from fastai.torch_core import set_seed
    monkeypatch.setattr(fp, 'NO_BAR', True)
    set_seed(0)


@pytest.fixture
def dls(tmp_path):
    from helpers import make_dls
    return make_dls(path=tmp_path)


@pytest.fixture(scope='session')
def data_path():
    "Folder of the real tables; tests that need them skip without"
    path = Path(os.environ.get('DROPCONNECT_TAB_DATA', root.parent/'shared'/'data'))
    if not path.exists(): pytest.skip(f"no real data at {path}: set DROPCONNECT_TAB_DATA to its folder")
    return path


# --- a budget, told at the end and never a failure ----------------------------------------------------------------

SECONDS, MINUTES = 20, 20  # of one test; of the processor, for all
took, cpu = Counter(), []


def pytest_runtest_logreport(report): took[report.nodeid] += report.duration


def pytest_sessionfinish(session):
    "A worker's time, with that of the processes that it has waited for"
    if hasattr(session.config, 'workeroutput'): session.config.workeroutput['cpu'] = sum(os.times()[:4])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node): cpu.append(getattr(node, 'workeroutput', {}).get('cpu', 0.))


def pytest_terminal_summary(terminalreporter):
    total = sum(cpu) + sum(os.times()[:2 if cpu else 4])
    over = [f"{s:.0f} s, more than {SECONDS}: {o}" for o, s in took.most_common() if s > SECONDS]
    if total > 60*MINUTES: over.append(f"{total/60:.0f} minutes of processor time, more than {MINUTES}: all tests")
    for o in over: terminalreporter.write_line(o, yellow=True)

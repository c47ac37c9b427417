"The GPU kit, as far as a CPU can run it"
import json
import sys
import time

import pytest
import torch
from helpers import root

from dropconnect_tab.model import DropConnectTabularModel


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.syspath_prepend(str(root/'benchmarks'))
    import gpu
    return gpu


@pytest.fixture
def kit(gpu): return gpu.Kit('cpu', small=True)


@pytest.mark.slow
def test_a_trial_on_a_cpu(gpu, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    gpu.main(['--small', '--out', str(tmp_path)])
    assert {o.name for o in tmp_path.iterdir()} == {'gpu.md', 'gpu.json'}
    found, page = json.loads((tmp_path/'gpu.json').read_text()), (tmp_path/'gpu.md').read_text()
    assert 'a trial on a CPU' in page and all(f"## {o['title']}" in page for o in found['parts'])
    for part in found['parts']:
        assert (part['not_run'] == 'needs a CUDA device') != bool(part['rows']), part
        assert all(len(row) == len(part['head']) for row in part['rows'])
        if part['not_run']: assert f"- {part['title']}: needs a CUDA device" in page
    assert {row[0] for row in found['parts'][-1]['rows']} > {'default', 'dense', 'frozen', 'members-masked'}


def test_without_a_gpu_it_asks_for_a_trial(gpu, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    with pytest.raises(SystemExit): gpu.main(['--out', str(tmp_path)])
    assert '--small' in capsys.readouterr().err and not list(tmp_path.iterdir())


def failing(kit, limit):
    yield ['before', 1]
    raise torch.OutOfMemoryError("CUDA out of memory\nand more")


def fine(kit, limit): yield ['fine', 2]


def endless(kit, limit):
    yield ['begun', 3]
    time.sleep(60)


def test_a_part_that_fails_leaves_the_others_alone(gpu, kit):
    a, b = gpu.run_parts(kit, [('A', 50, failing, ['', 'n']), ('B', 50, fine, ['', 'n'])])
    assert a['rows'] == [['before', 1]] and a['not_run'] == 'OutOfMemoryError: CUDA out of memory'
    assert b['rows'] == [['fine', 2]] and b['not_run'] is None
    page = gpu.page(gpu.about(kit), [a, b])
    assert '- A: OutOfMemoryError' in page and '- B' not in page and '| before | 1 |' in page


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == 'win32', reason="no alarms")
def test_a_part_is_bounded(gpu, kit):
    part = gpu.run_part(kit, 'A', 5, endless, ['', 'n'])
    assert part['rows'] == [['begun', 3]] and part['not_run'] == 'stopped after 5 s'


def test_no_part_starts_late(gpu, kit):
    part, = gpu.run_parts(kit, [('A', 50, fine, ['', 'n'])], total=1)
    assert part['rows'] == [] and part['not_run'] == 'no time left'


def test_an_interrupt_writes_nothing(gpu, tmp_path, monkeypatch):
    def interrupted(kit, limit): raise KeyboardInterrupt
    monkeypatch.setattr(gpu, 'PARTS', [('A', 50, fine, ['', 'n']), ('B', 50, interrupted, ['', 'n'])])
    with pytest.raises(KeyboardInterrupt): gpu.main(['--small', '--out', str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_what_pytest_counts(gpu):
    out = "FAILED tests/test_a.py::test_b - x\nERROR tests/test_c.py\n1 failed, 7 passed, 2 skipped, 1 error in 2s\n"
    assert [*gpu.pytest_counts(out)] == [['passed', 7], ['failed', 1], ['skipped', 2], ['error', 1],
        ['not passed: tests/test_a.py::test_b', ''], ['not passed: tests/test_c.py', '']]
    with pytest.raises(gpu.NotRun, match='No module named pytest'): [*gpu.pytest_counts('No module named pytest')]


@pytest.mark.parametrize('members', [1, 3])
@pytest.mark.parametrize('mask', ['trainable', 'frozen', 'resampled'])
def test_a_pass_makes_no_tensor_elsewhere(mask, members):
    "On the device that holds nothing, a constant made on the CPU is an error, as on a GPU"
    edges = [torch.tensor([-1., 0., 1.])]*2
    model = DropConnectTabularModel([(6, 4)], 2, 1, [16, 8], weight_p=.5, mask=mask, members=members, ps=.1,
                                    cont_edges=edges, y_scale=(5., 2.)).to('meta')
    cat, cont = torch.zeros(4, 1, dtype=torch.long, device='meta'), torch.zeros(4, 2, device='meta')
    out = model(cat, cont)  # a new model is in training
    out.sum().backward()
    assert out.is_meta and all(p.grad.is_meta for p in model.parameters() if p.requires_grad)

"Two processes, gloo: `learn.distrib_ctx` keeps masks and weights equal. This file is also what each process runs."
import os
import socket
import subprocess
import sys

import pytest
import torch
from conftest import make_dls, plain_learner
from fastai.tabular.all import tabular_learner

from dropconnect_tab.all import DropConnectCallback
from dropconnect_tab.masks import find_linears, unwrap

pytestmark = pytest.mark.slow

layers = [30, 20]


def make(door, mask, seed, dls):
    if door == 'model': return plain_learner(dls, layers=layers, weight_p=.5, mask=mask, seed=seed)
    return tabular_learner(dls, layers=layers, cbs=DropConnectCallback(.5, mask, seed=seed))


def worker(out, door, mask, seed):
    from fastai.distributed import DistributedDL
    from fastai.learner import Callback
    # fastai sends the order of rows through a GPU, as nccl needs it; gloo does without
    def broadcast(self, t, rank):
        t = torch.as_tensor(t)
        torch.distributed.broadcast(t, rank)
        return t.tolist()
    DistributedDL._broadcast = broadcast

    class First(Callback):
        "The net of the first training batch, after DistributedDataParallel has wrapped it"
        order = 100
        def before_batch(self):
            if self.training and not hasattr(self, 'weights'): self.weights = grab(self.learn.model)
        def after_step(self):
            if mask == 'frozen':
                for l in unwrap(self.learn.model).weight_masks.linears.values(): assert not l.weight[~l.keep].any()

    rank = int(os.environ['RANK'])
    torch.manual_seed(rank)  # without a seed, each process would draw masks and weights of its own
    learn = make(door, mask, None if seed == 'None' else int(seed), make_dls(path=out))
    first = First()
    with learn.distrib_ctx(sync_bn=False, cpu=True), learn.no_bar(): learn.fit(2, cbs=first)
    torch.save(dict(first=first.weights, last=grab(learn.model)), f'{out}/{rank}.pth')


def grab(model): return {n: l.weight.detach().clone() for n, l in find_linears(model).items()}


@pytest.mark.parametrize('seed', [7, None])
@pytest.mark.parametrize('mask', ['trainable', 'frozen'])
@pytest.mark.parametrize('door', ['model', 'callback'])
def test_two_processes(door, mask, seed, tmp_path):
    pytest.importorskip('accelerate')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    env = {**os.environ, 'WORLD_SIZE': '2', 'MASTER_ADDR': '127.0.0.1', 'MASTER_PORT': str(port)}
    procs = [subprocess.Popen([sys.executable, '-W', 'ignore', __file__, tmp_path, door, mask, str(seed)], text=True,
                              env={**env, 'RANK': str(r), 'LOCAL_RANK': str(r), 'OMP_NUM_THREADS': '1'},
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT) for r in range(2)]
    try: outs = [p.communicate(timeout=300)[0] for p in procs]
    finally: [p.kill() for p in procs]
    assert [p.returncode for p in procs] == [0, 0], '\n'.join(outs)
    a, b = (torch.load(tmp_path/f'{r}.pth') for r in range(2))
    for when in ('first', 'last'): assert all(torch.equal(a[when][n], b[when][n]) for n in a[when])
    for n in list(a['first'])[:-1]:
        dropped = a['first'][n] == 0
        assert int(dropped.sum()) == dropped.numel()//2  # the mask, on both
        assert bool((a['last'][n][dropped] == 0).all()) == (mask == 'frozen')
        assert not torch.equal(a['first'][n], a['last'][n])
    if seed is not None:  # the same masks as in a single process
        learn = make(door, mask, seed, make_dls(path=tmp_path))
        with learn.no_bar(), learn.no_logging(): learn.fit(1, lr=0.)
        keeps = learn.model.weight_masks.keeps
        assert all(torch.equal(a['first'][n] != 0, keeps[n]) for n in keeps)


if __name__ == '__main__':
    worker(*sys.argv[1:])
    sys.stdout.flush()
    os._exit(0)  # gloo's threads may abort a process that ends while its peer is still there

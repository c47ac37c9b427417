"Two processes, gloo: `learn.distrib_ctx` keeps masks and weights equal."
import os
import socket
import traceback

import pytest
import torch
from fastai.tabular.all import tabular_learner
from helpers import fork_server, make_dls, plain_learner

from dropconnect_tab.all import DropConnectCallback
from dropconnect_tab.masks import find_linears, unwrap

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('serial')]

layers = [30, 20]


def make(door, mask, seed, dls):
    if door == 'model': return plain_learner(dls, layers=layers, weight_p=.5, mask=mask, seed=seed)
    return tabular_learner(dls, layers=layers, cbs=DropConnectCallback(.5, mask, seed=seed))


def worker(rank, port, out, *args):
    os.environ.update(WORLD_SIZE='2', MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank))
    status = 1
    try:
        train(rank, out, *args)
        status = 0
    except Exception: (out/f'{rank}.txt').write_text(traceback.format_exc())
    finally: os._exit(status)  # gloo's threads may abort a process that ends while its peer is still there


def train(rank, out, door, mask, seed):
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

    torch.manual_seed(rank)  # without a seed, each process would draw masks and weights of its own
    learn = make(door, mask, seed, make_dls(path=out))
    first = First()
    with learn.distrib_ctx(sync_bn=False, cpu=True), learn.no_bar(): learn.fit(2, cbs=first)
    torch.save(dict(first=first.weights, last=grab(learn.model)), out/f'{rank}.pth')


def grab(model): return {n: l.weight.detach().clone() for n, l in find_linears(model).items()}


@pytest.mark.parametrize('door, mask, seed', [('model', 'trainable', None), ('model', 'frozen', 7),
                                              ('callback', 'trainable', 7), ('callback', 'frozen', None)])
def test_two_processes(door, mask, seed, tmp_path):
    pytest.importorskip('accelerate')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    procs = [fork_server().Process(target=worker, args=(r, port, tmp_path, door, mask, seed)) for r in range(2)]
    for p in procs: p.start()
    try:
        for p in procs: p.join(300)
    finally:
        for p in procs: p.kill()
    assert [p.exitcode for p in procs] == [0, 0], '\n'.join(o.read_text() for o in tmp_path.glob('*.txt'))
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

"""Two and three processes, gloo: `learn.distrib_ctx` keeps masks and weights equal, also where rows do not divide, and
after a training is resumed, and each member leaves out the same rows"""
import os
import socket
import traceback

import pytest
import torch
from fastai.callback.core import Callback
from fastai.metrics import rmse
from fastai.tabular.all import set_seed, tabular_learner
from helpers import fork_server, make_dls, plain_learner

from dropconnect_tab.all import DropConnectCallback, TabTensorDL, dropconnect_learner
from dropconnect_tab.masks import find_linears, unwrap
from dropconnect_tab.members import no_average

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('serial')]

layers = [30, 20]


def make(door, mask, seed, dls):
    if door == 'model': return plain_learner(dls, layers=layers, weight_p=.5, mask=mask, seed=seed)
    return tabular_learner(dls, layers=layers, cbs=DropConnectCallback(.5, mask, seed=seed))


def worker(job, rank, n, port, out, *args):
    os.environ.update(WORLD_SIZE=str(n), MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port), RANK=str(rank), LOCAL_RANK=str(rank))
    status = 1
    try:
        without_a_gpu()
        torch.save(job(rank, out, *args), out/f'{rank}.pth')
        status = 0
    except Exception: (out/f'{rank}.txt').write_text(traceback.format_exc())
    finally: os._exit(status)  # gloo's threads may abort a process that ends while its peer is still there


def without_a_gpu():
    "fastai sends the order of rows through a GPU, as nccl needs it; gloo does without"
    from fastai.distributed import DistributedDL
    def broadcast(self, t, rank):
        t = torch.as_tensor(t)
        torch.distributed.broadcast(t, rank)
        return t.tolist()
    DistributedDL._broadcast = broadcast


def in_processes(job, n, out, *args):
    "What `job` returns in each of `n` processes"
    pytest.importorskip('accelerate')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    procs = [fork_server().Process(target=worker, args=(job, r, n, port, out, *args)) for r in range(n)]
    for p in procs: p.start()
    try:
        for p in procs: p.join(300)
    finally:
        for p in procs: p.kill()
    assert [p.exitcode for p in procs] == [0]*n, '\n'.join(o.read_text() for o in out.glob('*.txt'))
    return [torch.load(out/f'{r}.pth') for r in range(n)]


def train(rank, out, door, mask, seed):
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
    return dict(first=first.weights, last=grab(learn.model))


def grab(model): return {n: l.weight.detach().clone() for n, l in find_linears(model).items()}


@pytest.mark.parametrize('door, mask, seed', [('model', 'trainable', None), ('model', 'frozen', 7),
                                              ('callback', 'trainable', 7), ('callback', 'frozen', None)])
def test_two_processes(door, mask, seed, tmp_path):
    a, b = in_processes(train, 2, tmp_path, door, mask, seed)
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


class Rows(Callback):
    "The training rows of the first epoch, by their continuous columns"
    def before_fit(self): self.rows = []
    def before_batch(self):
        if self.training and self.epoch == 0: self.rows += map(tuple, self.xb[1].tolist())


def uneven(rank, out):
    "328 training rows and 82 validation rows; a training that is interrupted after the first epoch, and another one resumed"
    torch.manual_seed(rank)
    def learner(): return dropconnect_learner(make_dls(n=410, bs=32, path=out, dl_type=TabTensorDL), layers=[20, 10],
                                              members=3, mask='frozen', n_bins=0, metrics=rmse)
    first, rows = learner(), Rows()
    with first.distrib_ctx(sync_bn=False, cpu=True), first.no_bar():
        first.fit(1, cbs=rows)
        first.save('net')  # in the first process
        torch.distributed.barrier()
        again = learner().load('net')
        with again.distrib_ctx(sync_bn=False, cpu=True), again.no_bar(): again.fit(2, start_epoch=1)
    together = again.recorder.values[-1][2]
    os.environ['WORLD_SIZE'] = '1'  # fastai gathers the predictions of all processes else
    with again.no_bar(): preds, targs = again.get_preds()
    return dict(rows=rows.rows, first=grab(first.model), again=grab(again.model), rmse=together,
                alone=float((preds-targs).square().mean().sqrt()), files=len([*out.glob('models/*')]))


def test_three_processes_whose_rows_do_not_divide(tmp_path):
    found = in_processes(uneven, 3, tmp_path)
    a = found[0]
    for b in found[1:]:
        for when in ('first', 'again'): assert all(torch.equal(a[when][n], b[when][n]) for n in a[when])
    # Each has a third of the rows, of which two are there twice, and of these the whole batches
    assert [len(o['rows']) for o in found] == [96]*3 and len({r for o in found for r in o['rows']}) >= 3*96-2
    assert a['rmse'] == pytest.approx(a['alone'], abs=1e-5) and {o['rmse'] for o in found} == {a['rmse']}
    assert a['files'] == 1
    for n in list(a['first'])[:-1]:
        assert torch.equal(a['first'][n] == 0, a['again'][n] == 0) and (a['first'][n] == 0).any()
        assert not torch.equal(a['first'][n], a['again'][n])


def left_out(rank, out):
    "Outputs of members for the training rows, after a training with the targets as they are and with others; who left what"
    res = []
    for change in (False, True):
        set_seed(0, reproducible=True)  # the loader draws the seed of its order
        dls = make_dls(n=410, bs=32, path=out, dl_type=TabTensorDL)
        learn = dropconnect_learner(dls, layers=[20], members=4, oob=1., oob_members=1, n_bins=0, y_scale=([0.], [1.]),
                                    seed=0)
        batches = list(dls.train.new(shuffle=False, drop_last=False))
        left = torch.cat([learn.model.leave_out(*o[:2]) for o in batches])
        if change: dls.train_ds.items.loc[left[:, 1].numpy(), 'price'] = 100.
        with learn.distrib_ctx(sync_bn=False, cpu=True), learn.no_bar(): learn.fit_one_cycle(2, 1e-2)
        with no_average(learn.model.eval()), torch.no_grad(): res.append(torch.cat([learn.model(*o[:2]) for o in batches]))
    with learn.no_bar(): return *res, left, learn.oob_preds()[0]


def test_three_processes_leave_out_the_same_rows(tmp_path):
    found = in_processes(left_out, 3, tmp_path)
    a, b, left, preds = found[0]
    for o in found[1:]: assert torch.equal(o[2], left) and torch.equal(o[0], a) and torch.equal(o[1], b)
    assert (left.sum(1) == 1).all() and torch.allclose(preds[:, 0], b[..., 0][left])
    assert torch.equal(a[:, 1], b[:, 1])  # the other targets were those of rows that it left out
    assert all(not torch.equal(a[:, i], b[:, i]) for i in (0, 2, 3))

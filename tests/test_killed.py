"A training that is killed again and again, and resumed from its newest readable checkpoint, keeps its mask."
import random
import time
import warnings

import pytest
import torch
from fastai.tabular.all import Callback, SaveModelCallback, tabular_learner
from helpers import fork_server, make_dls, plain_learner

from dropconnect_tab.all import DropConnectCallback
from dropconnect_tab.masks import find_linears

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group('serial')]

n_epoch, kills, layers = 40, 5, [60, 40]


def make(door, mask, path):
    "A fresh process draws other masks, as it has no seed: only the checkpoint can bring the old ones back"
    dls = make_dls(path=path, bs=32)
    if door == 'model': return plain_learner(dls, layers=layers, weight_p=.5, mask=mask)
    return tabular_learner(dls, layers=layers, cbs=DropConnectCallback(.5, mask))


class Diary(Callback):
    "Notes in a file that the net of an epoch's first batch is masked, and the epoch"
    order = 100
    def __init__(self, file): self.file = file
    def before_batch(self):
        if not self.training or self.iter: return
        zeros = [int((l.weight == 0).sum()) for l in find_linears(self.learn.model).values()]
        with open(self.file, 'a') as f: print(self.epoch, *zeros, file=f, flush=True)


def newest(path):
    "The epoch of the newest checkpoint that can be read, or None: the last may have been cut off while it was written"
    for file in sorted(path.glob('models/model_*.pth'), key=lambda p: -int(p.stem.split('_')[1])):
        try: torch.load(file, weights_only=False)
        except Exception: continue
        return int(file.stem.split('_')[1])


def train(door, mask, path, done):
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    torch.seed()
    learn, epoch = make(door, mask, path), newest(path)
    if epoch is not None: learn.load(f'model_{epoch}', with_opt=True, weights_only=False)
    save = SaveModelCallback(every_epoch=True, with_opt=True)
    with learn.no_bar(), learn.no_logging():
        learn.fit(n_epoch, 1e-2, start_epoch=0 if epoch is None else epoch+1, cbs=[save, Diary(path/'log.txt')])
    torch.save(learn.model.state_dict(), done)


@pytest.mark.parametrize('mask', ['trainable', 'frozen'])
@pytest.mark.parametrize('door', ['model', 'callback'])
def test_killed_and_resumed(door, mask, tmp_path):
    ctx, rng, done = fork_server(), random.Random(0), tmp_path/'done.pth'
    killed, first = 0, None
    while not done.exists():
        p = ctx.Process(target=train, args=(door, mask, tmp_path, done))
        p.start()
        before = newest(tmp_path)
        while killed < kills and p.is_alive() and newest(tmp_path) == before: time.sleep(.02)  # it has got somewhere
        if killed < kills:
            time.sleep(rng.random()*.3)
            p.kill()
            killed += 1
        p.join()
        assert p.exitcode in (0, -9)
        if first is None: first = torch.load(sorted(tmp_path.glob('models/*.pth'))[0], weights_only=False)['model']
    assert killed >= kills
    lines = (tmp_path/'log.txt').read_text().splitlines()
    epochs, *zeros = torch.tensor([[int(o) for o in l.split()] for l in lines]).T
    assert int(epochs.max()) == n_epoch-1 and len(epochs) >= n_epoch
    last = torch.load(done)
    for i, n in enumerate(list(find_linears(make(door, mask, tmp_path).model))[:-1]):
        w0, w = first[f'{n}.weight'], last[f'{n}.weight']
        assert int(zeros[i][0]) == w.numel()//2
        if mask == 'frozen':
            assert torch.equal(w0 == 0, w == 0) and int((w == 0).sum()) == w.numel()//2
            assert (zeros[i] == w.numel()//2).all()
        else:  # only epoch 0 may see a start, as often as it was begun anew without a checkpoint to go on with
            assert (zeros[i][epochs > 0] < w.numel()//4).all()



"""Where the time of an epoch goes, and how long an answer takes: side by side, in one run.

Synthetic sales in the form of the Bulldozers file: its number of rows, its cardinalities, and all of its columns that
say something of a machine (`own_features`), in batches of 1,024, through a net with layers of 500 and 250 neurons.
Everything is measured in interleaved repeats, and medians are reported:

- the loaders alone, over an epoch of all rows;
- an epoch of training on the first --epoch-rows of them: fastai's own learner and loader, ours with a `TabTensorDL`,
  with each mask and with 8 members, over the step floor: forward, backward and optimizer of the same net on a batch
  that is in memory;
- what a mask costs: the time that its own code takes in a step (timers around it; what it adds to the backward pass is
  not in there, but in the ratio of whole epochs beside it), ours and others';
- `learn.predict` and `get_preds` beside `learn.predictor()`, for a single network and for the learner with its defaults;
- peak memory of an epoch with each loader, each in a process of its own.

    python benchmarks/speed.py --out benchmarks/speed.md
    python benchmarks/speed.py --answers  # only the predictions, which are printed
"""
import argparse
import json
import tempfile
import time
import warnings
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from unittest import mock

import torch
from fastai.tabular.all import *
from fastai.text.models.awdlstm import WeightDropout
from files import added_mb, apart, interleaved, markdown, options, write_page
from lifecycle import Masked, fasterai_callback
from torch.nn.utils import parametrize, prune

from dropconnect_tab.all import DropConnectCallback, draw_mask, dropconnect_learner, fast_dls, only_masks
from dropconnect_tab.bench.bulldozers import bulldozers_dataset
from dropconnect_tab.bench.synthetic import write_synthetic
from dropconnect_tab.bench.methods import y_limits
from dropconnect_tab.bench.datasets import dataset_dls
from dropconnect_tab.layers import FrozenLinear

warnings.filterwarnings('ignore')

ROWS, BS, LAYERS = 412_698, 1024, [500, 250]


def synchronize(device):
    if torch.device(device).type == 'cuda': torch.cuda.synchronize()


class Clock(Callback):
    "Seconds of the training part of an epoch"
    order = -100
    def before_train(self):
        synchronize(self.dls.device)
        self.start = time.perf_counter()
    def after_train(self):
        synchronize(self.dls.device)
        self.seconds = time.perf_counter()-self.start


def drain(dl):
    "Read all batches of a loader"
    for _ in dl: pass
    synchronize(dl.device)


def quiet(f, learn, *args, **kwargs):
    with learn.no_bar(), learn.no_logging(): return f(*args, **kwargs)


def epoch(learn):
    "A function that trains for one epoch, without validation, and returns its seconds"
    learn.remove_cbs([ProgressCallback, Recorder])
    learn.add_cb(Clock())
    few = learn.dls.valid_ds.new(learn.dls.valid_ds.items.iloc[:BS])
    learn.dls = type(learn.dls)(learn.dls.train, learn.dls.valid.new(few), device=learn.dls.device)

    def run():
        learn.fit(1, 1e-3)
        return learn.clock.seconds
    return run


def floor(learn):
    "A function that does an epoch's steps on one batch that is in memory, and returns their seconds"
    learn.model.to(learn.dls.device)
    *xb, y = learn.dls.train.one_batch()
    opt, n = Adam(trainable_params(learn.model), lr=1e-3), len(learn.dls.train)
    def run():
        learn.model.train()
        synchronize(learn.dls.device)
        start = time.perf_counter()
        for _ in range(n):
            learn.loss_func(learn.model(*xb), y).backward()
            opt.step()
            opt.zero_grad()
        synchronize(learn.dls.device)
        return time.perf_counter()-start
    return run


# What a mask costs

class Timer:
    "Adds up the seconds of functions"
    seconds = 0.
    def of(self, f):
        def timed(*args, **kwargs):
            start = time.perf_counter()
            try: return f(*args, **kwargs)
            finally: self.seconds += time.perf_counter()-start
        return timed


def hidden(model): return [block for block in model.layers if isinstance(block, LinBnDrop)][:-1]


def stock(dls, y_range, wrap=noop, cbs=None, layers=LAYERS):
    "fastai's learner, its hidden layers changed by `wrap`"
    learn = tabular_learner(dls, layers=layers, y_range=y_range, cbs=cbs)
    for block in hidden(learn.model): wrap(block)
    return learn


def pruned(block): prune.random_unstructured(block[0], 'weight', .5)


def parametrized(block):
    keep = draw_mask(block[0].weight.shape, .5).float()  # a product of numbers is many times faster than with bools
    parametrize.register_parametrization(block[0], 'weight', Masked(keep))


def weight_dropped(block): block[0] = WeightDropout(block[0], .5, 'weight')


@contextmanager
def timed(timer, cls, names):
    "Methods of `cls` are timed while it lasts"
    with ExitStack() as stack:
        for n in names: stack.enter_context(mock.patch.object(cls, n, timer.of(getattr(cls, n))))
        yield


@contextmanager
def ours_timed(timer):
    "The callback's events, and what a frozen layer does beside its linear map"
    def forward(self, x):
        start = time.perf_counter()
        w = self.weight * self.keep_factor
        timer.seconds += time.perf_counter()-start
        return torch.nn.functional.linear(x, w, self.bias)
    with timed(timer, DropConnectCallback, ['before_batch', 'after_step']):
        with mock.patch.object(FrozenLinear, 'forward', forward): yield


def masks(dls, y_range):
    "Name → learner, and what times the mask's own code"
    def ours(**kwargs): return dropconnect_learner(dls, layers=LAYERS, y_range=y_range, **only_masks, **kwargs)
    res = {
        'none': (ours(weight_p=0), None),
        'ours, trainable': (ours(), ours_timed),
        'ours, frozen': (ours(mask='frozen'), ours_timed),
        'ours, resampled': (ours(mask='resampled'), None),
        'torch prune': (stock(dls, y_range, pruned), partial(timed, cls=prune.BasePruningMethod, names=['__call__'])),
        'torch parametrize': (stock(dls, y_range, parametrized),
                              partial(timed, cls=parametrize.ParametrizationList, names=['forward'])),
        'fastai WeightDropout': (stock(dls, y_range, weight_dropped),
                                 partial(timed, cls=WeightDropout, names=['_setweights'])),
    }
    try: from fasterai.sparse.sparsify_callback import SparsifyCallback
    except (ImportError, RuntimeError) as e: print(f"fasterai is left out: {e}")  # it needs a torchvision that works
    else:
        events = [o for o in ('before_batch', 'after_backward', 'after_step') if hasattr(SparsifyCallback, o)]
        res['fasterai'] = (stock(dls, y_range, cbs=[fasterai_callback()]),
                           partial(timed, cls=SparsifyCallback, names=events))
    return res


def mask_costs(dls, y_range, repeats):
    "Rows of the table: whole epoch over one without a mask, and the mask's own share of it"
    learns, own = masks(dls, y_range), {}
    runs = {k: epoch(learn) for k, (learn, _) in learns.items()}
    seconds = interleaved(runs, repeats, 'epochs with masks')
    for k, (_, timing) in learns.items():
        if timing is None: continue
        shares = []
        for _ in range(repeats):
            timer = Timer()
            with timing(timer): whole = runs[k]()
            shares.append(timer.seconds/whole)
        own[k] = median(shares)
    def row(k, v): return [k, f'{v:.2f}', f"{v/seconds['none']:.2f}", f'{own[k]:.4f}' if k in own else '']
    return [row(k, v) for k, v in seconds.items()]


# Answers

def latency(net, learn, df, repeats):
    "Rows for one model: rows, seconds of fastai and ours, ratio"
    answer, rows = learn.predictor(), []
    def preds(n): return lambda: quiet(learn.get_preds, learn, dl=learn.dls.test_dl(df.iloc[:n]))
    cases = {1: (dict(df.iloc[0]), 'learn.predict', lambda: quiet(learn.predict, learn, df.iloc[0])),
             **{n: (df.iloc[:n], 'get_preds', preds(n)) for n in (100, 10_000)}}
    for n, (given, name, theirs) in cases.items():
        secs = interleaved({'ours': lambda: answer(given), 'theirs': theirs}, 4*repeats, f'{n} rows')
        rows.append([net, f'{n:,}', name, f"{1000*secs['theirs']:.1f}", f"{1000*secs['ours']:.2f}",
                     f"{secs['theirs']/secs['ours']:.1f}"])
    return rows


def answers(table, dls, y_range, repeats):
    "Rows for untrained models, whose predictions take as long"
    df = table.df.drop(columns=table.y_name).iloc[np.resize(table.test_idx, 10_000)].reset_index(drop=True)
    nets = {f'one, {LAYERS}': dropconnect_learner(dls, layers=LAYERS, y_range=y_range, **only_masks),
            'the defaults: 8 members': dropconnect_learner(dls)}
    rows = [o for k, v in nets.items() for o in latency(k, v, df, repeats)]
    return markdown(['model', 'rows', 'fastai', 'ms', '`learn.predictor()`, ms', 'times faster'], rows)


def table_of(rows):
    with tempfile.TemporaryDirectory() as tmp:
        path = write_synthetic(Path(tmp)/'TrainAndValid.zip', rows, start='1989-01-17', end='2012-04-30')
        return bulldozers_dataset(path, 'book', 'own')


def peak(kind, rows, device):
    "Peak memory in MB that an epoch with a loader adds to what is there before"
    table = table_of(rows)
    dls = dataset_dls(table, BS, device, kind)
    learn = dropconnect_learner(dls, layers=LAYERS, y_range=y_limits(table.targets(table.train_idx)),
                                weight_p=0, **only_masks)
    run = epoch(learn)
    if torch.device(device).type == 'cuda':
        run()
        return torch.cuda.max_memory_allocated()/2**20
    return added_mb(run)[1]


def first_rows(dls, n):
    "Loaders of the first `n` training rows, with the vocabularies of all"
    return type(dls)(dls.train.new(dls.train_ds.new(dls.train_ds.items.iloc[:n])), dls.valid, device=dls.device)


def main():
    p = options(__doc__, folder=None, rows=ROWS, epoch_rows=25_000, repeats=5)
    p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    p.add_argument('--answers', action='store_true', help="print the predictions only")
    p.add_argument('--peak', help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.peak: return print(json.dumps(peak(args.peak, args.rows, args.device)))
    table = table_of(args.rows)
    y_range = y_limits(table.targets(table.train_idx))
    theirs = dataset_dls(table, BS, args.device)
    ours = fast_dls(theirs)
    if args.answers: return print('\n'.join(answers(table, ours, y_range, args.repeats)))

    loaders = interleaved({'fastai': partial(drain, theirs.train), 'TabTensorDL': partial(drain, ours.train)},
                          args.repeats, 'loaders')

    theirs, ours = (first_rows(o, args.epoch_rows) for o in (theirs, ours))

    def learner(**kwargs):
        return dropconnect_learner(ours, layers=LAYERS, y_range=y_range, **{**only_masks, **kwargs})
    stocks, net, k = 'fastai: tabular_learner', 'one net', '8 members'
    learns = {stocks: stock(theirs, y_range), 'ours, dense': learner(weight_p=0), 'ours, trainable': learner(),
              'ours, frozen': learner(mask='frozen'), 'ours, resampled': learner(mask='resampled'),
              'ours, 8 members': learner(members=8)}
    floors = {net: floor(learner(weight_p=0)), k: floor(learner(members=8))}
    secs = interleaved({**{o: epoch(v) for o, v in learns.items()}, **floors}, args.repeats, 'epochs')

    def row(o):
        of = secs[k if k in o else net]
        return [o, f'{secs[o]:.2f}', f'{secs[o]/secs[stocks]:.2f}', f'{secs[o]/of:.2f}']
    epochs = [row(o) for o in learns]
    costs = mask_costs(ours, y_range, args.repeats)
    given = '--rows', args.rows, '--device', args.device
    peaks = {k: apart(__file__, '--peak', k, *given) for k in ('fastai', 'tensors')}
    name = torch.cuda.get_device_name() if args.device == 'cuda' else 'CPU'
    text = '\n'.join([
        '# Speed', '', f'{len(table.train_idx):,} training rows, {len(table.cat_names)} categorical and '
        f"{len(table.cont_names)} continuous columns, epochs of {len(ours.train_ds):,} rows, batches of {BS:,}, "
        f"layers {LAYERS}; {name}, "
        f'{torch.get_num_threads()} threads, torch {torch.__version__}. Medians of {args.repeats} interleaved runs.',
        '',
        '## An epoch of the loader alone', '', *markdown(['loader', 'seconds', 'ratio'], [
            [k, f'{v:.2f}', f"{v/loaders['fastai']:.3f}"] for k, v in loaders.items()]),
        '## An epoch of training', '', *markdown(['model', 'seconds', 'over fastai', 'over its step floor'], epochs),
        f"The step floor is {secs[net]:.2f} s for a single network, {secs[k]:.2f} s for 8 members.", '',
        '## What a mask costs', '', *markdown(['mask', 'seconds of an epoch', 'over none', 'own code, share'], costs),
        '## Predictions', '', *answers(table, ours, y_range, args.repeats),
        '## Memory', '', 'What an epoch adds to the peak of the process, in MB (on a GPU: peak of its memory).', '',
        *markdown(['loader', 'MB'], [[k, f'{v:.0f}'] for k, v in peaks.items()])])
    write_page(text, args.out)


if __name__ == '__main__': main()

"""What a GPU does with the package: its tests, speed and memory, on one page.

Synthetic sales in the form of the Bulldozers file, with its number of rows (as `speed.py`). Each part has a bound in
seconds and is on its own: one that fails or runs out of memory or time is named on the page, with the rows that it had
until then, and the next one starts. All parts together take eight minutes at most.

    python benchmarks/gpu.py --out FOLDER      # writes FOLDER/gpu.md and FOLDER/gpu.json
    python benchmarks/gpu.py --small --out FOLDER      # a trial on few rows, which runs on a CPU too
"""
import gc
import json
import platform
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from functools import cached_property, partial
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from fastai.tabular.all import trainable_params
from ensembles import steps_of
from files import interleaved, markdown, options, write_page
from speed import BS, LAYERS, ROWS, drain, epoch, quiet, stock, synchronize, table_of

from dropconnect_tab.all import dropconnect_learner, fast_dls, only_masks
from dropconnect_tab.bench.files import write_whole
from dropconnect_tab.bench.methods import METHODS, y_limits
from dropconnect_tab.bench.datasets import dataset_dls

TOTAL = 480  # seconds of all parts
PACKAGES = 'torch', 'fastai', 'numpy', 'pandas', 'scikit-learn', 'rtdl_num_embeddings', 'triton'
PRECISIONS = 'fp32', 'bf16', 'fp16'


class NotRun(Exception):
    "A part that cannot run here; the message says why"


class Kit:
    "What the parts share: the table and its loaders, and how much is done"
    def __init__(self, device, small):
        self.device, self.small, self.cuda = torch.device(device), small, torch.device(device).type == 'cuda'
        self.rows, self.repeats, self.epochs = (4_000, 1, 1) if small else (ROWS, 3, 5)
        self.layers = [16, 8] if small else LAYERS

    @cached_property
    def table(self): return table_of(self.rows)
    @cached_property
    def y_range(self): return y_limits(self.table.targets(self.table.train_idx))
    @cached_property
    def theirs(self): return dataset_dls(self.table, BS, self.device)
    @cached_property
    def ours(self): return fast_dls(self.theirs)

    def stock(self): return stock(self.theirs, self.y_range, layers=self.layers)
    def learner(self, **kwargs):
        return dropconnect_learner(self.ours, layers=self.layers, y_range=self.y_range, **{**only_masks, **kwargs})

    def learners(self):
        "Name → learner: fastai's first, which the others stand beside"
        return {'fastai: tabular_learner': self.stock(), 'ours, dense': self.learner(weight_p=0),
                **{f'ours, {o}': self.learner(mask=o) for o in ('trainable', 'frozen', 'resampled')},
                'ours, 8 members': self.learner(members=8)}

    def needs_cuda(self):
        if not self.cuda: raise NotRun("needs a CUDA device")


def beside_first(seconds):
    "Rows of a table: name, seconds, ratio to the first"
    first = next(iter(seconds.values()))
    return [[k, round(v, 4), round(v/first, 4)] for k, v in seconds.items()]


# The parts: each yields the rows of its table

def table(kit, limit):
    "What the other parts train on"
    found = kit.table
    yield ['training rows', len(found.train_idx)]
    yield ['test rows', len(found.test_idx)]
    yield ['columns', len(found.cat_names)+len(found.cont_names)]
    kit.ours


def cuda_tests(kit, limit):
    kit.needs_cuda()
    command = [sys.executable, '-m', 'pytest', '-o', 'addopts=-q', '-m', 'cuda', '-rfE', '--tb=line',  # in this process
               '-p', 'no:cacheprovider', '--continue-on-collection-errors']  # tests of optional packages
    out = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True).stdout
    yield from pytest_counts(out)


def pytest_counts(out):
    "Rows of what pytest has printed: counts, and the tests that failed"
    last = out.strip().splitlines()[-1] if out.strip() else ''
    counts = {kind.rstrip('s'): int(n) for n, kind in re.findall(r'(\d+) (passed|failed|skipped|errors?)', last)}
    if not counts: raise NotRun(f"pytest counted no tests: {last or 'it printed nothing'}")
    for kind in ('passed', 'failed', 'skipped', 'error'): yield [kind, counts.get(kind, 0)]
    for o in re.findall(r'^(?:FAILED|ERROR) (\S+)', out, re.M): yield [f'not passed: {o}', '']


def loaders(kit, limit):
    runs = {'fastai': partial(drain, kit.theirs.train), 'TabTensorDL': partial(drain, kit.ours.train)}
    yield from beside_first(interleaved(runs, kit.repeats, 'loaders', limit=limit/3))


def epochs(kit, limit, precision):
    if precision != 'fp32': kit.needs_cuda()
    learns = kit.learners()
    if precision != 'fp32':
        for o in learns.values(): getattr(o, f'to_{precision}')()
    runs = {k: epoch(o) for k, o in learns.items()}
    yield from beside_first(interleaved(runs, kit.repeats, f'epochs, {precision}', limit=limit/3))


def book(kit, limit):
    "The net of the fast.ai book; validation after each epoch is in the time, as in a user's fit"
    first = None
    for name, make in {'fastai: tabular_learner': kit.stock, 'ours, dense': partial(kit.learner, weight_p=0),
                       'ours, trainable': kit.learner, 'ours, 8 members': partial(kit.learner, members=8)}.items():
        learn = make()
        learn.model.to(kit.device)
        *xb, y = learn.dls.train.one_batch()
        learn.loss_func(learn.model(*xb), y).backward()  # what a first step loads is not in the time
        learn.model.zero_grad()
        synchronize(kit.device)
        start = time.perf_counter()
        quiet(learn.fit_one_cycle, learn, kit.epochs, 1e-2)
        synchronize(kit.device)
        seconds = time.perf_counter()-start
        first = first or seconds
        yield [name, round(seconds, 3), round(seconds/first, 4), round(float(learn.recorder.values[-1][1])**.5, 4)]


def stepper(learn, compiled):
    "A function that takes a training step on a batch in memory"
    model = torch.compile(learn.model, mode='reduce-overhead') if compiled else learn.model
    *xb, y = learn.dls.train.one_batch()
    params = trainable_params(learn.model)
    opt = learn.opt_func(params, lr=1e-3)
    def step():
        # A gradient that a CUDA graph wrote may not outlive the next replay
        if compiled: torch.compiler.cudagraph_mark_step_begin()
        for p in params: p.grad = None
        learn.loss_func(model(*xb), y).backward()
        opt.step()
    return step


def compiled(kit, limit):
    kit.needs_cuda()
    n = kit.epochs*len(kit.ours.train)
    def timed(step, times):
        synchronize(kit.device)
        start = time.perf_counter()
        for _ in range(times): step()
        synchronize(kit.device)
        return time.perf_counter()-start
    for name, kwargs in {'dense': dict(weight_p=0), '8 members': dict(members=8)}.items():
        steps, first = {}, {}
        for kind in ('eager', 'compiled'):
            learn = kit.learner(**kwargs)
            learn.model.to(kit.device).train()
            steps[kind] = stepper(learn, kind == 'compiled')
            first[kind] = timed(steps[kind], 5)  # compiling, and recording of the graphs
        runs = {k: partial(timed, o, 50) for k, o in steps.items()}
        each = {k: v/50 for k, v in interleaved(runs, 5, f'steps, {name}', limit=limit/6).items()}
        whole = {k: first[k] + max(0, n-5)*each[k] for k in steps}
        for k in steps:
            yield [f'{name}, {k}', round(first[k], 3), round(1000*each[k], 3), round(whole[k], 2),
                   round(whole[k]/whole['eager'], 3)]


def memory(kit, limit):
    kit.needs_cuda()
    nets = {'one net': (1, 1), '8 nets': (1, 8), '8 members': (8, 1)}
    for mask in ('', 'trainable', 'frozen', 'resampled'):
        for name, (members, n) in nets.items():
            steps = steps_of(members, n, mask, kit.device, kit.layers if kit.small else (1000, 500))
            steps()  # workspaces of the libraries are there from here on
            gc.collect()
            synchronize(kit.device)
            torch.cuda.reset_peak_memory_stats()
            before = torch.cuda.memory_allocated()
            kept = steps()
            synchronize(kit.device)
            after, top = torch.cuda.memory_allocated(), torch.cuda.max_memory_allocated()
            del kept
            yield [mask or 'none', name, round((after-before)/2**20, 1), round((top-before)/2**20, 1)]


def experiment(kit, limit):
    "One seed, few epochs: the order of the arms is no result"
    # Those that can take the fast loader do, and come first
    nets = [k for k, o in METHODS.items() if {'epochs', 'bs'} <= o.examples.keys() and not o.parts]
    fast = [o for o in nets if 'loader' in METHODS[o].examples]
    deadline = time.perf_counter()+limit
    for name in [*fast, *(o for o in nets if o not in fast)]:
        try:
            if time.perf_counter() > deadline-5: raise TimeoutError
            loader = 'tensors' if name in fast else 'fastai'
            settings = dict(epochs=1 if kit.small else 2, bs=BS, **({'loader': loader} if name in fast else {}))
            if kit.small and 'layers' in METHODS[name].examples: settings['layers'] = tuple(kit.layers)
            found = METHODS[name].with_shared(**settings).fit(kit.table, 0, kit.device)
        except TimeoutError:
            deadline = 0  # the others are named, too
            yield [name, '', '', 'not run: no time left']
        except Exception as e: yield [name, '', '', f'not run: {said(e)}']
        else:
            error = found['pred'][:, 0]-kit.table.targets(kit.table.test_idx)
            yield [name, round(float((error**2).mean()**.5), 4), round(found['seconds'], 2), f'{loader} loader']
    for name in (k for k, o in METHODS.items() if o.authors):
        yield [name, '', '', 'left out: as its authors advise, it trains for hundreds of epochs']


SECONDS = ['', 'seconds', 'over fastai']
PARTS = [  # title, seconds at most, function, head of its table
    ('Table', 120, table, ['', '']),
    ('Tests that need CUDA', 90, cuda_tests, ['', 'tests']),
    ('An epoch of the loader alone', 60, loaders, SECONDS),
    ('Memory of a step', 30, memory, ['masks', 'nets', 'MB after a step', 'MB at the peak']),
    ('torch.compile, CUDA graphs', 75, compiled, ['step', 'first 5 steps, s', 'ms a step', 'a fit, s', 'over eager']),
    *((f'An epoch of training, {o}', 60, partial(epochs, precision=o), SECONDS) for o in PRECISIONS),
    ("Training the fast.ai book's net", 75, book, [*SECONDS, 'RMSE']),
    ('Nets on synthetic sales, book split', 240, experiment, ['arm', 'RMSE', 'seconds', ''])]


@contextmanager
def bounded(seconds):
    "A `TimeoutError` after `seconds`, where the system has alarms"
    if not hasattr(signal, 'setitimer'): return (yield)
    def late(*_): raise TimeoutError(f"stopped after {seconds:.0f} s")
    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def said(e):
    "An exception in one line"
    lines = str(e).strip().splitlines()
    text = ' '.join(lines[:1])[:200]
    return text if isinstance(e, (NotRun, TimeoutError)) else f'{type(e).__name__}: {text}'.rstrip(': ')


def run_part(kit, title, limit, f, head):
    "What a part found, as a dict: rows, seconds, and why it stopped early (None where it did not)"
    start, rows, why = time.perf_counter(), [], None
    try:
        if limit < 5: raise NotRun("no time left")
        with bounded(limit):
            for row in f(kit, limit): rows.append(row)
    except Exception as e: why = said(e)
    gc.collect()
    if kit.cuda: torch.cuda.empty_cache()
    return dict(title=title, head=head, rows=rows, seconds=round(time.perf_counter()-start, 1), not_run=why)


def run_parts(kit, parts, total=TOTAL):
    "All parts, within `total` seconds"
    end = time.perf_counter()+total
    for title, limit, f, head in parts:
        yield run_part(kit, title, min(limit, end-time.perf_counter()), f, head)


def installed(name):
    try: return version(name)
    except PackageNotFoundError: return 'not installed'


def about(kit):
    "What all this ran on"
    card = torch.cuda.get_device_name() if kit.cuda else 'none: a trial on a CPU, which says nothing of a GPU'
    return dict(card=card, cuda=torch.version.cuda if kit.cuda else None, python=platform.python_version(),
                packages={o: installed(o) for o in PACKAGES}, rows=kit.rows, batch=BS, layers=kit.layers,
                epochs=kit.epochs, repeats=kit.repeats, small=kit.small)


def page(head, parts):
    "The page, in Markdown"
    left = [f"- {o['title']}: {o['not_run']}" for o in parts if o['not_run']]
    lines = ['# On a GPU', '', f"Card: {head['card']}.", '',
             ', '.join(f'{k} {v}' for k, v in head['packages'].items()) + f"; CUDA {head['cuda']}, Python "
             f"{head['python']}.", '',
             f"{head['rows']:,} synthetic sales, batches of {head['batch']:,}, layers {head['layers']}; a fit has "
             f"{head['epochs']} epochs. Medians of up to {head['repeats']} interleaved repeats after one "
             "that warms up.",
             '', *(['Trial on few rows: no number here is a result.', ''] if head['small'] else []),
             *(['Not run, or stopped early:', '', *left, ''] if left else ['All parts ran.', ''])]
    for o in parts:
        lines += [f"## {o['title']}", '', f"{o['seconds']} s." + (f" {o['not_run']}." if o['not_run'] else ''), '']
        if o['rows']: lines += markdown(o['head'], o['rows'])
    return '\n'.join(lines)


def main(argv=None):
    p = options(__doc__, folder=None, out='folder')
    p.add_argument('--small', action='store_true', help="few rows, one repeat, tiny nets: a trial")
    args = p.parse_args(argv)
    if not (args.small or torch.cuda.is_available()): p.error("no CUDA device: give --small for a trial on the CPU")
    kit = Kit('cuda' if torch.cuda.is_available() else 'cpu', args.small)
    parts = list(run_parts(kit, PARTS))
    head = about(kit)
    text = page(head, parts)
    write_whole(args.out/'gpu.json', lambda f: f.write_text(json.dumps({**head, 'parts': parts}, indent=1)))
    write_page(text, args.out/'gpu.md')


if __name__ == '__main__': main()

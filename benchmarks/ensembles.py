"""Time and memory of members in one pass: next to as many networks one after another, and to TabM.

All are fitted for one epoch on the training rows of California, in batches of 256, through the functions that the
experiments use (loader, optimizer and validation included). Times are medians of interleaved repeats in one process,
given as ratios too; memory is what the networks and training steps add to the peak of a process of its own.

    python benchmarks/ensembles.py FOLDER --out benchmarks/ensembles.md

FOLDER has california/california_housing.csv.gz.
"""
import argparse
import json
import os
from pathlib import Path
from statistics import median

import torch
from fastai.basics import Adam, trainable_params
from files import added_mb, apart, interleaved, machine, markdown, options, write_page

from dropconnect_tab.bench.methods import METHODS
from dropconnect_tab.members import MemberLoss
from dropconnect_tab.model import DropConnectTabularModel
from dropconnect_tab.optimizer import FusedAdam
from dropconnect_tab.bench.datasets import load_dataset

COMMON = dict(epochs=1, bs=256, lr=.003, wd=.01)
NET = dict(**COMMON, layers=(200, 100))
# TabM's hidden layers are all of one width, so what stands beside it has two of 200
WIDE = dict(**COMMON, layers=(200, 200))
TABM = dict(**COMMON, n_blocks=2, d_block=200, dropout=0., bins=0)
MASKED = dict(weight_p=.5)


def fit_of(name, *settings, **more):
    "The fit of a method with settings"
    return METHODS[name].variant(**{k: v for o in (*settings, more) for k, v in o.items()}).fit


pairs = {
    'networks one after another': {
        '8 networks, one after another': fit_of('deep-ensemble', NET, nets=8),
        '8 members, dense': fit_of('members-dense', NET, members=8),
        '8 members, trainable masks': fit_of('members-masked', NET, MASKED, members=8),
        '8 members, frozen masks': fit_of('members-masked', NET, MASKED, members=8, mask='frozen'),
        '8 members, resampled masks': fit_of('members-masked', NET, MASKED, members=8, mask='resampled'),
        '1 network': fit_of('dense', NET)},
    'TabM, 32 members': {
        'TabM, k=32': fit_of('tabm-small', TABM, k=32),
        '32 members, dense': fit_of('members-dense', WIDE, members=32),
        '32 members, trainable masks': fit_of('members-masked', WIDE, MASKED, members=32),
        '32 members, frozen masks': fit_of('members-masked', WIDE, MASKED, members=32, mask='frozen')},
    'TabM, 8 members': {
        'TabM, k=8': fit_of('tabm-small', TABM, k=8),
        '8 members, dense': fit_of('members-dense', WIDE, members=8),
        '8 members, frozen masks': fit_of('members-masked', WIDE, MASKED, members=8, mask='frozen')},
}


def steps_of(members, nets, mask, device='cpu', layers=(1000, 500)):
    "A function that makes `nets` networks of `members` members, takes three steps with them, and returns them"
    cat, cont, y = (o.to(device) for o in (torch.zeros(256, 1).long(), torch.randn(256, 250), torch.randn(256, 1)))
    loss = torch.nn.MSELoss()
    if members > 1: loss = MemberLoss(loss)
    masks = dict(weight_p=.5, mask=mask) if mask else dict(weight_p=0)

    def steps():
        models = [DropConnectTabularModel([(6, 4)], 250, 1, list(layers), members=members, **masks).to(device)
                  for _ in range(nets)]
        make = FusedAdam if members > 1 else Adam  # as `dropconnect_learner` does
        opts = [make(trainable_params(o), lr=1e-3) for o in models]
        for _ in range(3):
            for opt in opts: opt.zero_grad()
            sum(loss(model(cat, cont), y) for model in models).backward()
            for opt in opts: opt.step()
        return models, opts
    return steps


def step_memory(members, nets, mask):
    "MB that `nets` networks of `members` members and steps of them add to this process: after a step, and at its peak"
    warm = torch.nn.Linear(8, 8)
    warm(torch.randn(256, 8)).sum().backward()
    return added_mb(steps_of(members, nets, mask))


def measured_apart(*args):
    "`step_memory` in a process of its own"
    env = {**os.environ, 'MALLOC_MMAP_THRESHOLD_': '65536', 'MALLOC_TRIM_THRESHOLD_': '0'}  # give back what is freed
    return apart(__file__, '--memory', json.dumps(args), env=env)


def main():
    p = options(__doc__, folder=None, repeats=5)
    p.add_argument('folder', type=Path, nargs='?')
    p.add_argument('--memory', type=json.loads, help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.memory: return print(json.dumps(step_memory(*args.memory)))
    if args.folder is None: p.error("give the folder with california/california_housing.csv.gz")
    table, lines = load_dataset('california', args.folder), []
    for title, fits in pairs.items():
        found = interleaved({k: lambda fit=fit: fit(table, 0)['seconds'] for k, fit in fits.items()}, args.repeats)
        base = next(iter(found.values()))
        rows = [[k, f'{v:.2f}', f'{v/base:.2f}'] for k, v in found.items()]
        lines += [f'## Beside {title}', '', *markdown(['fit', 'seconds', 'ratio'], rows)]
    lines += ['## Memory', '', 'Networks with 254 inputs, layers of 1,000 and 500 neurons, on the same batches of 256, with '
              'the optimizers of `dropconnect_learner`; MB',
              'after a step (weights, gradients, state of the optimizer), and at the peak of a step.', '']
    rows = []
    for mask in ('', 'trainable', 'frozen', 'resampled'):
        def both(*kind): return map(median, zip(*(measured_apart(*kind, mask) for _ in range(3))))
        (a, top_a), (b, top_b) = both(1, 8), both(8, 1)
        rows.append([mask or 'none', f'{a:.0f}', f'{b:.0f}', f'{b/a:.2f}', f'{top_a:.0f}', f'{top_b:.0f}',
                     f'{top_b/top_a:.2f}'])
    lines += markdown(['masks', '8 networks', '8 members', 'ratio', 'peak, 8 networks', 'peak, 8 members', 'ratio'], rows)
    head = (f"One epoch of {len(table.train_idx):,} rows, batches of 256; medians of {args.repeats} interleaved "
            f"repeats; {machine()}.")
    write_page('\n'.join(['# Members in one pass', '', head, '', *lines]), args.out)


if __name__ == '__main__': main()

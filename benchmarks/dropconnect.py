"""DropConnect beside its alternatives: time of a training step, and peak memory.

Two linear layers, 1634 → 500 → 250 with ReLU, batches of 1,024 rows: the first layers of a net for the Bulldozers
table. A step is forward, backward and SGD. Times are medians of interleaved repeats in one process, as ratios to plain
Linears with Dropout before each; memory is what a step adds to the peak of a process of its own.

    python benchmarks/dropconnect.py --out benchmarks/dropconnect.md
"""
import argparse
import json

import torch
from fastai.text.models.awdlstm import WeightDropout
from files import added_mb, apart, interleaved, machine, markdown, options, write_page
from torch import nn

from dropconnect_tab.layers import DropConnectLinear

SIZES, ROWS, P = (1634, 500, 250), 1024, .5


def net(layer): return nn.Sequential(*(m for i, o in zip(SIZES, SIZES[1:]) for m in (layer(i, o), nn.ReLU())))


variants = {
    'Dropout before each Linear': lambda: net(lambda i, o: nn.Sequential(nn.Dropout(P), nn.Linear(i, o))),
    'plain Linears': lambda: net(nn.Linear),
    'ours': lambda: net(lambda i, o: DropConnectLinear(i, o, weight_p=P)),
    'fastai WeightDropout': lambda: net(lambda i, o: WeightDropout(nn.Linear(i, o), P, 'weight')),
}


def stepper(name, device):
    "A function that does one training step"
    torch.manual_seed(0)
    model, x = variants[name]().to(device), torch.randn(ROWS, SIZES[0], device=device)
    opt = torch.optim.SGD(model.parameters(), 1e-3)
    def step():
        model(x).square().mean().backward()
        opt.step()
        opt.zero_grad()
        if device == 'cuda': torch.cuda.synchronize()
    return step


def peak_mb(name, device):
    "What a step adds to the peak memory, in MB"
    step = stepper(name, device)
    if device == 'cuda':
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated()-before)/2**20
    return added_mb(step)[1]


def main():
    p = options(__doc__, folder=None, repeats=31)
    p.add_argument('--device', default='cuda' if torch.cuda.is_available() else 'cpu')
    p.add_argument('--memory', help=argparse.SUPPRESS)
    args = p.parse_args()
    if args.memory: return print(json.dumps(peak_mb(args.memory, args.device)))
    first, secs = next(iter(variants)), interleaved({o: stepper(o, args.device) for o in variants}, args.repeats)
    mem = {o: apart(__file__, '--memory', o, '--device', args.device) for o in variants}
    name = torch.cuda.get_device_name() if args.device == 'cuda' else 'CPU'
    rows = [[o, f'{secs[o]/secs[first]:.2f}', f'{1000*secs[o]:.1f}', f'{mem[o]:.0f}'] for o in variants]
    text = '\n'.join([
        '# DropConnect', '', f"{' → '.join(map(str, SIZES))}, batches of {ROWS:,}, weight_p={P}; {name}, "
        f'{machine()}. Medians of {args.repeats} interleaved steps.', '',
        *markdown(['', 'time, ratio', 'ms per step', 'memory a step adds, MB'], rows)])
    write_page(text, args.out)


if __name__ == '__main__': main()

"""Time of a fit of `dropconnect_learner` with its defaults, over that of fastai's `tabular_learner`.

Both are fitted for one epoch on at most 8,000 training rows of each of the thirty datasets, in batches of the same size,
one after the other and again and again in one process, with fastai's own loader and with `TabTensorDL`, with one thread and
with two. Medians, and their ratio.

    python benchmarks/fit_time.py FOLDER --out benchmarks/fit_time.md

FOLDER is that of thirty.py, whose datasets these are.
"""
from statistics import median

import torch
from files import at_most, interleaved, machine, markdown, options, write_page
from thirty import DATASETS, load

from dropconnect_tab.bench.methods import METHODS

ROWS = 8000
THREADS = 1, 2
NETS = {'fastai': METHODS['fastai'].variant(epochs=1),
        'default': METHODS['default'].variant(epochs=1, loader='fastai'),
        'default, TabTensorDL': METHODS['default'].variant(epochs=1, loader='tensors')}


def ratios(dataset, repeats, threads):
    "Median seconds of fastai's model, and those of the others over it"
    torch.set_num_threads(threads)
    fits = {k: lambda net=net: net.fit(dataset, 0, 'cpu')['seconds'] for k, net in NETS.items()}
    base, *others = interleaved(fits, repeats, dataset.name).values()
    return base, *(o/base for o in others)


def main():
    p = options(__doc__, repeats=3)
    p.add_argument('--datasets', nargs='+', default=DATASETS)
    args, names = p.parse_args(), list(NETS)
    head = ['dataset', 'rows', *(f"{o}, {n} thread{'s'[:n > 1]}" for n in THREADS for o in ('seconds', *names[1:]))]
    rows, found = [], []
    for name in args.datasets:
        dataset = at_most(load(name, args.folder), ROWS, 1000)
        found.append([o for n in THREADS for o in ratios(dataset, args.repeats, n)])
        rows.append([name, f'{len(dataset.train_idx):,}', *(f'{o:.2f}' for o in found[-1])])
    rows.append(['median', '', *(f'{median(o):.2f}' for o in zip(*found))])
    text = '\n'.join([
        '# Time of a fit', '', f"One epoch on at most {ROWS:,} training rows, validation included: seconds of fastai's "
        f"model, and those of `dropconnect_learner` over them. Medians of {args.repeats} interleaved repeats; {machine()}.",
        '', *markdown(head, rows)])
    write_page(text, args.out)


if __name__ == '__main__': main()

"""Do eight masked members beat one net, eight dense members, eight nets one after the other, and TabM?

All nets have hidden layers of 200 and 100 neurons (TabM two of 256) and no embeddings of numbers; each arm may try the
same number of settings (learning rate, weight decay, and its own) on a slice of the training rows. Results go to
OUT/<table>-<split>/. Folders given as --with come into the table `members.md`, too: the sales of bulldozers, where
layers, epochs and batches were searched as well (`benchmarks/bulldozers_2012.sh`).

    python benchmarks/members_error.py FOLDER --out results/members --with results/bulldozers-2012

FOLDER has california/, bike/ and adult/. Runs that are there are not repeated.
"""
from pathlib import Path

from files import markdown, options, write_page

from dropconnect_tab.bench.methods import METHODS
from dropconnect_tab.bench.report import format_percent, read_results, report, summarise
from dropconnect_tab.bench.runs import measure_of, run_methods, dataset_folder
from dropconnect_tab.bench.datasets import load_dataset

ARMS = ['dense', 'members-dense', 'members-masked', 'deep-ensemble', 'tabm-small']
EPOCHS = dict(california=12, bike=12, adult=6)


def members_table(folders):
    "The error of each arm, and what masked members differ by, with its 95% interval, as Markdown"
    masked, others = 'members-masked', [o for o in ARMS if o != 'members-masked']
    rows = []
    for folder in folders:
        results = [r for r in read_results(folder) if r['arm'] in ARMS]
        measure, mean = measure_of(results[0]), summarise(results)[measure_of(results[0])]

        def cell(other):
            return f'{mean[other]:.4f}: {format_percent(results, masked, other)}'
        rows.append([folder.name, measure, f'{mean[masked]:.4f}', *map(cell, others)])
    return '\n'.join(markdown(['dataset', 'error', 'masked members', *others], rows)[:-1])


def main():
    p = options(__doc__, out='folder', seeds=5, search=6)
    p.add_argument('--tables', nargs='+', default=list(EPOCHS))
    p.add_argument('--with', type=Path, nargs='*', default=[], dest='others', help="other folders for the table")
    args = p.parse_args()
    folders = list(args.others)
    for name in args.tables:
        table = load_dataset(name, args.folder)
        run_methods(table, [METHODS[o] for o in ARMS], args.seeds, args.out, search=args.search, epochs=EPOCHS[name],
                    bs=256, layers=(200, 100), n_blocks=2, d_block=256, bins=0)
        folders.append(dataset_folder(args.out, table.name, table.split))
        report(folders[-1])
    write_page(members_table(folders)+'\n', args.out/'members.md')


if __name__ == '__main__': main()

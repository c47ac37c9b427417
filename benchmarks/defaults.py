"""`dropconnect_learner` with its defaults beside fastai's net, TabM, forests and boosted trees, each with its own.

Nothing is chosen here: nets are trained for the same epochs, in batches of the same size, and every arm has one
setting for all tables. What the defaults are made of is then taken away, one thing at a time. Results go to
OUT/<table>-<split>/, the tables over all of them to `ranks.md`, `default.md` and `ablation.md` in OUT.

    python benchmarks/defaults.py FOLDER --out results/defaults

FOLDER has california/, bike/, adult/ and bulldozers-2012/. Runs that are there are not repeated.
"""
import argparse
import warnings
from pathlib import Path

from dropconnect_tab.bench.files import write_whole
from dropconnect_tab.bench.bulldozers import bulldozers_table
from dropconnect_tab.bench.methods import read_method
from dropconnect_tab.bench.report import format_differences, format_ranks, rank_methods, report
from dropconnect_tab.bench.runs import run_methods, table_folder, with_parts
from dropconnect_tab.bench.tables import load_table

warnings.filterwarnings('ignore', 'The given NumPy array is not writable')  # fastai under pandas 3

# Epochs and batches, the same for all nets
TABLES = dict(california=(12, 256), bike=(12, 256), adult=(6, 256), bulldozers=(8, 256),
              diabetes=(30, 64), breast_cancer=(30, 32), wine=(30, 32))
ARMS = ['default', 'fastai', 'tabm-small', 'rf', 'et', 'xgb', 'lgbm', 'catboost']
# The one changed word alone: with fastai's loader, which draws rows with replacement, where the arm has `TabTensorDL`
ONE_WORD = 'default,loader=fastai'
# What is taken away, and where
PARTS = ['default,members=1', 'default,weight_p=0', 'default,members=1,weight_p=0', 'default,n_bins=0']
REST = ['default,y_scale=False', 'default,ps=0', 'default,layers=(200,100)', 'default,lr=0.003', 'default,mask=frozen']
ABLATED = dict(california=[PARTS, REST], bike=[PARTS, REST], adult=[PARTS], bulldozers=[PARTS])


def load(name, folder):
    if name != 'bulldozers': return load_table(name, folder)
    return bulldozers_table(folder/'bulldozers-2012', '2012', 'own')


def variants(name):
    "What is tried on a table besides the arms"
    return sum(ABLATED.get(name, []), [ONE_WORD])


def ablations(folders):
    "Tables of what was taken away, as Markdown; `folders` by the tables' names"
    groups = [(o, [folders[name] for name in folders if o in ABLATED.get(name, [])]) for o in (PARTS, REST)]
    return '\n\n'.join(format_ranks(rank_methods(where, ['default', *o])) for o, where in groups if where)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('folder', type=Path)
    p.add_argument('--tables', nargs='+', default=list(TABLES))
    p.add_argument('--seeds', type=int, default=5)
    p.add_argument('--ablations', nargs='*', help="only these")
    p.add_argument('--skip', nargs='*', default=[], help="arms to leave for another time")
    p.add_argument('--no-tables', action='store_true', help="run only: another process writes the tables")
    p.add_argument('--reports', action='store_true', help="write each table's report, too; its intervals take minutes")
    p.add_argument('--jobs', type=int, default=1, help="runs side by side")
    p.add_argument('--out', type=Path, required=True)
    args = p.parse_args()
    folders = {}
    for name in args.tables:
        table, (epochs, bs) = load(name, args.folder), TABLES[name]
        tried = [o for o in variants(name) if args.ablations is None or o in args.ablations]
        methods = with_parts([read_method(o) for o in (*ARMS, 'blend', *tried)])
        run_methods(table, [o for o in methods if o.label not in args.skip], args.seeds, args.out, jobs=args.jobs,
                    epochs=epochs, bs=bs)
        folders[name] = table_folder(args.out, table.name, table.split)
        if args.reports: report(folders[name])
    if args.no_tables: return
    every = list(folders.values())
    references = ['fastai', 'blend', 'xgb']
    texts = dict(ranks=format_ranks(rank_methods(every, ARMS)), ablation=ablations(folders),
                 default='\n\n'.join(format_differences(every, o, references) for o in ('default', ONE_WORD)))
    for name, text in texts.items():
        print(text, '\n')
        write_whole(args.out/f'{name}.md', lambda f: f.write_text(text+'\n', encoding='utf-8'))


if __name__ == '__main__': main()

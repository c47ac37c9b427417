"""`dropconnect_learner` with its defaults beside fastai's net, TabM, forests and boosted trees, each with its own.

Nothing is chosen here: nets are trained for the same epochs, in batches of the same size, and every arm has one
setting for all tables, but that trees read native categories where slices favour them. What the defaults are made of
is then taken away, one thing at a time; and both sides train for longer, the learner for twice the epochs, boosted
trees for more rounds. Results go to OUT/<table>-<split>/, the tables over all of them to `ranks.md`, `default.md`,
`ablation.md`, `single.md` and `longer.md` in OUT.

    python benchmarks/defaults.py FOLDER --out results/defaults

    python benchmarks/defaults.py FOLDER --out results/defaults --arms tabm realmlp --seeds 2

FOLDER has california/, bike/, adult/, bulldozers-2012/ and bulldozers-codes/. Runs that are there are not repeated.
"""

from files import markdown, options, write_page

from dropconnect_tab.bench.bulldozers import bulldozers_dataset
from dropconnect_tab.bench.methods import read_method
from dropconnect_tab.bench.report import differences_of, format_differences, format_ranks, rank_methods
from dropconnect_tab.bench.runs import read_runs, run_methods, dataset_folder, with_parts
from dropconnect_tab.bench.datasets import load_dataset

# Epochs and batches, the same for all nets
TABLES = {'california': (12, 256), 'bike': (12, 256), 'adult': (6, 256), 'bulldozers-2012': (8, 256),
          'bulldozers-codes': (15, 512), 'diabetes': (30, 64), 'breast_cancer': (30, 32), 'wine': (30, 32)}
ARMS = ['default', 'fastai', 'rf', 'et', 'xgb', 'lgbm', 'catboost']
# What their authors recommend, for hundreds of epochs: hours for a large table, so fewer seeds
AUTHORS = ['tabm', 'realmlp']
# Tables on whose slices native categories are better than codes (results/native)
NATIVE = dict(xgb=['california', 'bike', 'bulldozers-codes'], lgbm=['bulldozers-codes'],
              catboost=['adult', 'bulldozers-2012'])
NATIVE['blend'] = NATIVE['xgb']  # the only one of its parts that can read them
# Boosted trees with more rounds than elsewhere, where XGBoost and LightGBM have 400, and CatBoost 1,000
MORE_ROUNDS = ['xgb,n_estimators=2000', 'lgbm,n_estimators=2000', 'catboost,n_estimators=2000']
# The one changed word alone: with fastai's loader, which draws rows with replacement, where the arm has `TabTensorDL`
ONE_WORD = 'default,loader=fastai'
# A single net with a mask and nothing else, beside fastai's at the same cost
SINGLE = 'trainable,layers=(200,100)'
# What is taken away, and where
PARTS = ['default,weight_p=0', 'default,own_embeds=False', 'default,emb_std=0.01', 'default,emb_std=0.01,weight_p=0',
         'default,members=1', 'default,n_bins=0']
ABLATED = ['california', 'bike', 'adult', 'bulldozers-2012', 'bulldozers-codes']
# What older results call two of them
RENAMED = {'bulldozers': 'bulldozers-2012', 'codes': 'bulldozers-codes'}


def load(name, folder):
    name = RENAMED.get(name, name)
    if name != 'bulldozers-2012': return load_dataset(name, folder)
    return bulldozers_dataset(folder/'bulldozers-2012', '2012', 'own')


def twice(name):
    "The learner with twice the epochs, and the same without masks"
    arm = f'default,epochs={2*TABLES[name][0]}'
    return arm, f'{arm},weight_p=0'


def variants(name):
    "What is tried on a table besides the arms"
    if name not in ABLATED: return [ONE_WORD, PARTS[0]]
    return [ONE_WORD, *PARTS, SINGLE, *MORE_ROUNDS, *twice(name)]


def methods_for(name, labels):
    "The methods, and parts of blends, with native categories where they favour them"
    def told(m): return m.with_shared(native=name in NATIVE[m.name]) if m.name in NATIVE else m
    return with_parts([told(read_method(o)) for o in labels])


def ablations(folders):
    "A table of what was taken away, as Markdown; `folders` by the tables' names"
    where = [folders[o] for o in ABLATED if o in folders]
    return format_ranks(rank_methods(where, ['default', *PARTS])) if where else ''


def ranks(folders):
    "The errors of the arms on all tables, as Markdown; TabM and RealMLP where they ran"
    every = list(folders.values())
    authors = [o for o in AUTHORS if any(r['arm'] == o for f in every for r in read_runs(f))]
    return format_ranks(rank_methods(every, [*ARMS, *authors]))


def longer(folders):
    "The learner with twice the epochs and with the usual ones, beside others that train for longer, as Markdown"
    where = [o for o in ABLATED if o in folders]
    others = [*MORE_ROUNDS, 'tabm']
    def row(name):
        arm, dense = twice(name)
        return differences_of(folders[name], arm, ['default', dense, *others])
    head = ['dataset', 'twice the epochs', 'against the usual epochs', 'against itself with `weight_p=0`',
            *(f'against {o}' for o in others)]
    return '\n'.join([*markdown(head, [row(o) for o in where]),
                      format_differences([folders[o] for o in where], 'default', MORE_ROUNDS)])


def tables(folders):
    "Name → Markdown of the tables over all `folders`"
    every = list(folders.values())
    beside = ['fastai', 'blend', 'xgb']
    compared = [('default', [*beside, *PARTS[:2]]), ('default', ['catboost', *AUTHORS]), (ONE_WORD, beside)]
    single = [folders[o] for o in ABLATED if o in folders]
    return dict(ranks=ranks(folders), ablation=ablations(folders),
                default='\n\n'.join(format_differences(every, *o) for o in compared),
                single=format_differences(single, SINGLE, ['fastai']), longer=longer(folders))


def main():
    p = options(__doc__, out='folder', seeds=5, jobs=1)
    p.add_argument('--tables', nargs='+', default=list(TABLES))
    p.add_argument('--arms', nargs='+', help="only these; those of their authors run only where they are named")
    p.add_argument('--no-tables', action='store_true', help="run only: another process writes the tables")
    args = p.parse_args()
    folders = {}
    for name in args.tables:
        table, (epochs, bs) = load(name, args.folder), TABLES[name]
        methods = methods_for(name, args.arms or ['blend', *ARMS, *variants(name)])
        run_methods(table, methods, args.seeds, args.out, jobs=args.jobs, epochs=epochs, bs=bs)
        folders[name] = dataset_folder(args.out, table.name, table.split)
    if args.no_tables: return
    for name, text in tables(folders).items(): write_page(text+'\n', args.out/f'{name}.md')


if __name__ == '__main__': main()

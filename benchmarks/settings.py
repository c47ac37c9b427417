"""Which settings of `dropconnect_learner` pay, and which do not? Tried on slices of training rows, without test rows.

Each variant changes one thing of the start, which has everything that might pay. What made no difference is not among
the defaults: dropout of embeddings and a weight decay of 0.1. Its dropout is 0.1 everywhere; how much small tables want
is asked in dropout.py. The start's bins are quantiles alone; edges at common values, which `bin_edges` adds, are a
variant. It says what the defaults were when these results were made: half of the weights dropped, layers of 400 and
200 neurons, embeddings that members share and that start as fastai's do. Results go to OUT/runs.jsonl, a line for
each fit, and the table of mean errors to OUT/settings.md. What is there is not repeated.

    python benchmarks/settings.py FOLDER --out results/settings

FOLDER has california/, bike/, adult/ and bulldozers-2012/.
"""
import time
import warnings
from dataclasses import replace

from fastai.tabular.all import *
from fastprogress.fastprogress import progress_bar
from files import markdown, once, options, write_study
from rtdl_num_embeddings import PeriodicEmbeddings, compute_bins
from sklearn.preprocessing import QuantileTransformer
from thirty import load

from dropconnect_tab.all import dropconnect_config, dropconnect_learner
from dropconnect_tab.bench.files import read_jsonl
from dropconnect_tab.bench.runs import dataset_errors
from dropconnect_tab.bench.methods import L1Penalty, y_limits
from dropconnect_tab.bench.datasets import dataset_dls
from dropconnect_tab.embeddings import bin_edges

warnings.filterwarnings('ignore')

# Epochs and batches, the same for all networks
TABLES = {'california': (12, 256), 'bike': (12, 256), 'adult': (6, 256), 'bulldozers-2012': (8, 256),
          'bulldozers-codes': (15, 512), 'diabetes': (30, 64), 'breast_cancer': (30, 32), 'wine': (30, 32)}
RENAMED = {'bulldozers': 'bulldozers-2012'}  # what older results call one of them
SLICED = ['california', 'bike', 'adult', 'bulldozers', 'diabetes']
ONCE_DEFAULT = dict(weight_p=.5, layers=[400, 200], own_embeds=False, emb_std=.01)
START = dict(ps=.1, embed_p=.1, wd=.1, quantile_bins=True, **ONCE_DEFAULT)
VARIANTS = {
    'start': {}, 'weight_p=0': dict(weight_p=0), 'weight_p=0.8': dict(weight_p=.8),
    'weight_p=0.95': dict(weight_p=.95),
    'weight_p=[0.8, 0.5]': dict(weight_p={'layers.0.0': .8, 'layers.1.0': .5}),
    'frozen': dict(mask='frozen'), "unit='feature'": dict(unit='feature'),
    'resampled, 0.1': dict(mask='resampled', weight_p=.1),
    'members=1': dict(members=1), 'members=16': dict(members=16),
    'edges at common values': dict(quantile_bins=False), 'n_bins=0': dict(n_bins=0), 'n_bins=16': dict(n_bins=16),
    'periodic': dict(periodic=True),
    **{f'cont_emb_sz={o}': dict(cont_emb_sz=o) for o in (8, 4, 2)},
    'quantile transform': dict(quantile=True), 'quantile transform, n_bins=0': dict(quantile=True, n_bins=0),
    'y_range': dict(y_range=True), 'layers=[200, 100]': dict(layers=[200, 100]),
    'layers=[800, 400]': dict(layers=[800, 400]), 'layers=[400, 200, 100]': dict(layers=[400, 200, 100]),
    'ps=0': dict(ps=0), 'ps=0.3': dict(ps=.3), 'embed_p=0': dict(embed_p=0), 'embed_p=0.2': dict(embed_p=.2),
    'embeddings of half the width': dict(half=True),
    'lr=0.003': dict(lr=.003), 'lr=0.03': dict(lr=.03), 'wd=0.01': dict(wd=.01), 'wd=0.3': dict(wd=.3),
    'flat rate, then cosine': dict(flat=True), 'l1=1e-5': dict(l1=1e-5), "fastai's loader": dict(loader='fastai'),
}


def quantiles(table):
    "`table` with its continuous columns made normal, by quantiles of the training rows"
    conts = list(table.cont_names)
    values, train = table.df[conts].astype(float), table.df[conts].iloc[table.train_idx].astype(float)
    fit = QuantileTransformer(output_distribution='normal', n_quantiles=min(1000, len(train))).fit(train)
    return replace(table, df=table.df.assign(**dict(zip(conts, fit.transform(values).T))))


def quantile_edges(to, n_bins=None):
    "As `get_cont_edges`, by quantiles alone"
    x = torch.tensor(to.conts.to_numpy(np.float32))
    if not len(to.cont_names): return None
    n_bins = n_bins or max(2, min(48, len(to)//50))
    def edges(col): return compute_bins(col, n_bins=n_bins)[0] if len(col.unique()) > 2 else bin_edges(col)[0]
    return [edges(o[:, None]) for o in x.T]


def fit(table, seed, epochs, bs, *, quantile_bins=False, quantile=False, periodic=False, half=False, flat=False, l1=0,
        loader='tensors', y_range=False, embed_p=0., cont_emb_sz=16, **kwargs):
    "Error and seconds of one fit"
    set_seed(seed, reproducible=True)
    if quantile and table.cont_names: table = quantiles(table)
    dls = dataset_dls(table, bs, 'cpu', loader)
    if half: kwargs['emb_szs'] = {c: max(2, n//2) for c, (_, n) in zip(dls.cat_names, get_emb_sz(dls.train_ds))}
    if y_range and not table.classes: kwargs['y_range'] = y_limits(table.targets(table.train_idx))
    if kwargs.get('mask') != 'resampled': kwargs['seed'] = seed
    config, cbs = dropconnect_config(embed_p=embed_p, cont_emb_sz=cont_emb_sz), [L1Penalty(l1)] if l1 else None
    if quantile_bins and kwargs.get('n_bins') != 0:
        config['cont_edges'] = quantile_edges(dls.train_ds, kwargs.pop('n_bins', None))
    learn = dropconnect_learner(dls, config=config, cbs=cbs, **kwargs)
    if periodic and learn.model.cont_embed is not None:
        emb = learn.model.cont_embed
        emb.embed = PeriodicEmbeddings(len(emb.low), emb.emb_sz, frequency_init_scale=.05, lite=False)
        emb.forward = lambda x: emb.embed(x.clamp(emb.low, emb.high))
    learn.remove_cb(ProgressCallback)
    start = time.perf_counter()
    with learn.no_logging(): (learn.fit_flat_cos if flat else learn.fit_one_cycle)(epochs)
    seconds = time.perf_counter()-start
    return dict(error=dataset_errors(table, learn.get_preds()[0].numpy())[table.measure], seconds=round(seconds, 1))


def settings_table(out):
    "By how much each variant's errors on each table differ from those of the start with the same seeds, as Markdown"
    runs = pd.DataFrame(read_jsonl(out/'runs.jsonl'))
    errs = runs.pivot_table(index='variant', columns=['table', 'seed'], values='error')
    errs = errs.reindex([o for o in VARIANTS if o in errs.index])
    tables, start = [o for o in SLICED if o in errs], errs.loc['start']
    rows = [['initial', *(f'{start[o].mean():.4f}' for o in tables), ''],
            ['sd of its seeds', *(f'{100*start[o].std()/start[o].mean():.1f}%' for o in tables), '']]
    for variant, err in errs.iloc[1:].iterrows():
        there = err.notna()
        diff = [100*(err[o][there[o]].mean()/start[o][there[o]].mean()-1) for o in tables]
        rows.append([variant, *(f'{v:+.1f}%' if v == v else '' for v in diff), f'{np.nanmean(diff):+.1f}%'])
    rows.append(['seeds of each', *(str(errs[o].iloc[1:].notna().sum(1).min()) for o in tables), ''])
    head = ['variant', *tables, 'mean']
    return ("Errors on validation rows; below those of the initial settings, the differences of each variant with the "
            "same seeds.\n\n" + '\n'.join(markdown(head, rows)))


def main():
    p = options(__doc__, out='folder', seeds=1)
    p.add_argument('--tables', nargs='+', default=SLICED)
    p.add_argument('--variants', nargs='+', default=list(VARIANTS))
    args = p.parse_args()
    tables = {o: load(RENAMED.get(o, o), args.folder).slice() for o in args.tables}

    def fill(file):
        for seed, variant in progress_bar([(s, o) for s in range(args.seeds) for o in args.variants]):
            for name, table in tables.items():
                once(file, dict(table=name, variant=variant, seed=seed),
                     lambda: fit(table, seed, *TABLES[RENAMED.get(name, name)], **{**START, **VARIANTS[variant]}))
    write_study(args.out, 'settings', fill, settings_table)


if __name__ == '__main__': main()

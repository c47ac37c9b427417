"""When does a neuron that starts from few columns need fewer training rows? Targets that theory knows.

Sparse parities (Edelman et al., NeurIPS 2023), scikit-learn's made-up datasets with columns of noise, nodes of Bayesian
networks whose true probabilities are known, and two controls. At each row count one `DropConnectTabularModel` is
trained whose members are the arms: same rows, same batches, same weights before the masks; boosted trees get the rows
too. A fifth of the rows is held out, and says at which step (or round) a fit is best.

A line for each row count goes to OUT/runs.jsonl, the table to OUT/theory.md, the picture to OUT/theory.png. What is
there is not repeated, and after --minutes the rest is left for the next call.

    python benchmarks/theory.py --out results/theory

The nodes need the files that come with pgmpy (`pip install --no-deps pgmpy`); without it they are left out.
"""
import gzip
import re
import time
from collections import defaultdict
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from fastai.tabular.all import emb_sz_rule
from files import markdown, options, write_study
from sklearn.datasets import make_classification, make_friedman1
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from thirty import hgb_takes_a_slice
from torch.nn import functional as F

from dropconnect_tab.bench.files import append_jsonl, read_jsonl, write_figure
from dropconnect_tab.masks import draw_mask, find_linears
from dropconnect_tab.members import average_members, no_average
from dropconnect_tab.model import DropConnectTabularModel

TEST = 1000  # rows
STEPS, LOOKS, BATCH, RATE = 1000, 20, 64, .01  # of a net: steps, how often it is judged, rows in a batch, highest rate
LAYERS = [128, 64]
# Columns that a neuron of the first layer starts with, None: all; neurons that one of the second layer starts with;
# for how many columns a dense first layer is scaled
ARMS = {**{str(o): (o, None, None) for o in (2, 4, 8, 16)}, '4, later 2': (4, 2, None), 'dense': (None, None, None),
        'dense, scaled': (None, None, 4)}
VOTES = ['4, later 2', 'dense']  # the default, and the dense start, with eight members each


# --- Targets ---

@dataclass
class Rows:
    "Columns and a target; codes of categories where `sizes` has their numbers"
    x: np.ndarray
    y: np.ndarray  # whole numbers: classes
    sizes: list = None
    known: np.ndarray = None  # probability of each class, given the columns

    @property
    def n_classes(self): return 0 if self.y.dtype.kind == 'f' else int(self.y.max())+1


def signs(n_columns, seed, n): return np.random.default_rng(seed).choice([-1., 1.], (n, n_columns))


def parity(k, n_columns, seed, n):
    "Is the product of the first `k` columns of ±1 positive?"
    x = signs(n_columns, seed, n)
    return Rows(x, (x[:, :k].prod(1) > 0).astype(int))


def majority(k, n_columns, seed, n):
    "Are most of the first `k` columns of ±1 positive?"
    x = signs(n_columns, seed, n)
    return Rows(x, (x[:, :k].sum(1) > 0).astype(int))


def additive(k, n_columns, seed, n):
    "A sum of one smooth curve for each of the first `k` columns, and a tenth of its spread as noise"
    rng = np.random.default_rng(seed)
    x = rng.uniform(-1, 1, (n, n_columns))
    y = sum(np.sin((1+i%3)*x[:, i] + i) for i in range(k))
    return Rows(x, y + .1*y.std()*rng.normal(size=n))


def classification(noise, seed, n):
    "Clusters at corners of a cube of five columns, four for each class, and columns of noise"
    return Rows(*make_classification(n, 5+noise, n_informative=5, n_redundant=0, n_clusters_per_class=4, flip_y=0,
                                     class_sep=1.5, random_state=seed))


def friedman(noise, seed, n): return Rows(*make_friedman1(n, 5+noise, noise=1., random_state=seed))


@cache
def read_network(name):
    "Node → its values, its parents, and the probabilities of its values: (values of each parent ..., values)"
    folder = Path(find_spec('pgmpy').submodule_search_locations[0])/'utils'/'example_models'
    text = gzip.decompress((folder/f'{name}.bif.gz').read_bytes()).decode()
    values = {k: [o.strip() for o in v.split(',')]
              for k, v in re.findall(r'variable\s+(\S+)\s*{[^{]*{([^}]*)}', text)}
    nodes = {}
    for head, body in re.findall(r'probability\s*\(([^)]*)\)\s*{([^}]*)}', text):
        node, *parents = re.split(r'[\s|,]+', head.strip())
        p = np.empty([len(values[o]) for o in (*parents, node)])
        for given, row in re.findall(r'(?:\(([^)]*)\)|table)\s*([^;]*);', body):
            at = tuple(values[a].index(b.strip()) for a, b in zip(parents, given.split(','))) if given else ()
            p[at] = np.array(row.split(','), float)
        nodes[node] = parents, p
    return nodes


def sample(nodes, seed, n):
    "`n` draws from a network: node → codes"
    rng, drawn = np.random.default_rng(seed), {}
    while len(drawn) < len(nodes):
        for node, (parents, p) in nodes.items():
            if node in drawn or not {*parents} <= {*drawn}: continue
            edges = p[tuple(drawn[o] for o in parents)].cumsum(-1)
            drawn[node] = (rng.random((n, 1)) > edges[..., :-1]).sum(-1)
    return drawn


def probabilities(nodes, node, drawn):
    "Of each value of a node, given all others: what its parents say of it, and it of its children"
    parents, p = nodes[node]
    found = np.broadcast_to(p[tuple(drawn[o] for o in parents)], (len(drawn[node]), p.shape[-1])).copy()
    for child, (parents, p) in nodes.items():
        if node not in parents: continue
        at = [np.arange(found.shape[1]) if o == node else drawn[o][:, None] for o in parents]
        found *= p[(*at, drawn[child][:, None])]
    return found/found.sum(1, keepdims=True)


def node(network, name, seed, n):
    "A node of a Bayesian network, by all others"
    nodes = read_network(network)
    drawn = sample(nodes, seed, n)
    others = [o for o in nodes if o != name]
    return Rows(np.stack([drawn[o] for o in others], 1), drawn[name], [nodes[o][1].shape[-1] for o in others],
                probabilities(nodes, name, drawn))


def grid(low, high):
    "Row counts from `low` to `high`, each by a factor of about 1.4 above the one before, and with two digits"
    counts = low*2**(np.arange(40)/2)
    return [int(float(f'{o:.1e}')) for o in counts if o <= 1.01*high]


# Name → kind, what draws its rows, row counts, errors that are low enough, the lowest last
TARGETS = {
    'parity of 3 among 40': ('parity', partial(parity, 3, 40), grid(500, 4000), [.1]),
    'parity of 4 among 30': ('parity', partial(parity, 4, 30), grid(1000, 8000), [.1]),
    'Friedman, 60 noise': ('Friedman', partial(friedman, 60), grid(500, 8000), [.3, .15]),
    'majority of 5 among 40': ('controls', partial(majority, 5, 40), grid(125, 4000), [.1]),
    'classification, 60 noise': ('classification', partial(classification, 60), grid(700, 8000), [.15]),
    'additive, 5 among 40': ('controls', partial(additive, 5, 40), grid(180, 4000), [.15]),
    'RiskAversion of insurance': ('nodes', partial(node, 'insurance', 'RiskAversion'), grid(990, 8000), [.15]),
    'Friedman, 480 noise': ('Friedman', partial(friedman, 480), grid(1400, 16000), [.3]),
    'Friedman, 0 noise': ('Friedman', partial(friedman, 0), grid(45, 4000), [.15]),
    'classification, 0 noise': ('classification', partial(classification, 0), grid(90, 4000), [.07]),
    'LungParench of child': ('nodes', partial(node, 'child', 'LungParench'), grid(350, 8000), [.05]),
    'classification, 480 noise': ('classification', partial(classification, 480), grid(2800, 16000), [.3])}


# --- Fits ---

def start_members(model, arms, nets, seed):
    "Let members start as their arms say, the same net of each arm from the same weights"
    for l in find_linears(model).values():
        for p in l.parameters(): p.data[:] = p.data[:nets].repeat(len(arms), *[1]*(p.ndim-1))
    for e in model.embeds: e.weight.data[:] = e.weight.data[:, :nets].repeat(1, len(arms), 1)
    gen, groups = torch.Generator().manual_seed(seed), model.column_groups
    first, *later, _ = find_linears(model).values()
    for i, (columns, neurons, scaled) in enumerate(ARMS[o] for o in arms for _ in range(nets)):
        drop(first.weight.data[i], columns, gen, groups)
        if scaled: first.weight.data[i].mul_((len(groups)/scaled)**.5)
        for l in later: drop(l.weight.data[i], neurons, gen)


def drop(weight, k, gen, groups=None):
    "Keep `k` inputs (or groups of them) of each neuron, with larger weights; None: all"
    n = weight.shape[-1] if groups is None else len(groups)
    if k and k < n: weight.mul_(draw_mask(weight.shape, 1-k/n, gen, groups)).mul_((n/k)**.5)


def error(rows, at, pred):
    "Of outputs for the rows `at`: share of wrong classes, of unexplained variance, or excess log loss; lower is better"
    if rows.known is not None:
        log_p, known = F.log_softmax(pred, -1).double().numpy(), rows.known[at]
        return float((known*(np.log(known.clip(1e-12))-log_p)).sum(1).mean())
    if rows.n_classes: return float((pred.argmax(1).numpy() != rows.y[at]).mean())
    return float(((pred.squeeze(1).numpy()-rows.y[at])**2).mean()/rows.y[at].var())


def held_error(rows, at, pred):
    "The error, where the true probabilities are not needed for it; else the log loss"
    if rows.known is None: return error(rows, at, pred)
    return F.cross_entropy(pred, torch.tensor(rows.y[at])).item()


def loss_of(pred, y, classes):
    if classes: return F.cross_entropy(pred, y)
    return F.mse_loss(pred.squeeze(1), y)


def split(n):
    "Rows to train on, to hold out, and to test on, of `n` and TEST rows"
    return slice(0, n*4//5), slice(n*4//5, n), slice(-TEST, None)


def fit_nets(rows, n, seed, arms, nets=1):
    "Arm → error on the test rows at the step where that of held-out rows is lowest, and the step"
    torch.manual_seed(seed)
    classes, (train, held, test) = rows.n_classes, split(n)
    y = torch.tensor(rows.y if classes else (rows.y-rows.y[train].mean())/rows.y[train].std()).to(
        torch.long if classes else torch.float)
    x = torch.tensor(rows.x).to(torch.long if rows.sizes else torch.float)
    if not rows.sizes: x = (x-x[train].mean(0))/x[train].std(0)
    def inputs(o): return (o, None) if rows.sizes else (None, o)
    model = DropConnectTabularModel([(o, emb_sz_rule(o)) for o in rows.sizes or []], 0 if rows.sizes else x.shape[1],
        classes or 1, LAYERS, weight_p=0., members=len(arms)*nets, own_embeds=bool(rows.sizes), emb_std=.3,
        average='softmax' if classes else 'mean')
    start_members(model, arms, nets, seed)
    opt = torch.optim.AdamW(model.parameters(), betas=(.9, .99), weight_decay=.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(opt, RATE, STEPS, pct_start=.25, cycle_momentum=False)
    best = {o: (np.inf, None, None) for o in arms}
    def unscaled(t): return t if classes else t*rows.y[train].std()+rows.y[train].mean()
    order = torch.empty(0, dtype=torch.long)

    def look(step):
        "Keep the outputs of the arms that have not been as good on the held-out rows"
        model.eval()
        with torch.no_grad(), no_average(model):
            found = [unscaled(model(*inputs(x[o])).unflatten(1, (len(arms), nets))) for o in (held, test)]
        for i, arm in enumerate(arms):
            of_held, of_test = (average_members(o[:, i], model.average) for o in found)
            if (e := held_error(rows, held, of_held)) <= best[arm][0]: best[arm] = e, error(rows, test, of_test), step
        model.train()

    bs = min(BATCH, train.stop)
    for step in range(1, STEPS+1):
        if len(order) < bs: order = torch.randperm(train.stop)
        at, order = order[:bs], order[bs:]
        pred = torch.Tensor.as_subclass(model(*inputs(x[at])), torch.Tensor)
        each = pred.shape[1]
        loss = each*loss_of(pred.flatten(0, 1), y[at].repeat_interleave(each), classes)  # each net's own gradients
        opt.zero_grad()
        loss.backward()
        opt.step()
        schedule.step()
        if step % (STEPS//LOOKS) == 0: look(step)
    return {k: (e, step) for k, (_, e, step) in best.items()}


def fit_trees(rows, n, seed):
    "Error on the test rows of boosted trees that stop by the held-out rows"
    train, held, test = split(n)
    cls = HistGradientBoostingClassifier if rows.n_classes else HistGradientBoostingRegressor
    model = cls(max_iter=300, early_stopping=True, n_iter_no_change=20, random_state=seed,
                categorical_features=range(rows.x.shape[1]) if rows.sizes else None)
    model.fit(rows.x[train], rows.y[train], X_val=rows.x[held], y_val=rows.y[held])
    if not rows.n_classes: return error(rows, test, torch.tensor(model.predict(rows.x[test]))[:, None])
    log_p = np.full((TEST, rows.n_classes), -30.)  # of a class that no training row has
    log_p[:, model.classes_] = model.predict_proba(rows.x[test]).clip(1e-12)
    log_p[:, model.classes_] = np.log(log_p[:, model.classes_])
    return error(rows, test, torch.tensor(log_p))


def fits(name, n, seed, nets=1):
    "A line: the errors of all arms at a row count"
    _, draw, counts, _ = TARGETS[name]
    rows, began = draw(seed, counts[-1]+TEST), time.process_time()
    arms = VOTES if nets > 1 else [k for k, (o, _, _) in ARMS.items() if not o or o < rows.x.shape[1]]
    found = fit_nets(rows, n, seed, arms, nets)
    errors = {k: round(e, 4) for k, (e, _) in found.items()}
    if nets == 1: errors['trees'] = round(fit_trees(rows, n, seed), 4)
    return dict(target=name, rows=n, seed=seed, nets=nets, errors=errors, steps={k: o for k, (_, o) in found.items()},
                seconds=round(time.process_time()-began, 1))


def key(o): return o['target'], o['rows'], o['seed'], o['nets']


def plan(targets, seeds):
    "Target, seed, nets: all seeds of one target after another, for the parities also eight members"
    for name in targets:
        for seed in range(seeds): yield name, seed, 1
        if TARGETS[name][0] == 'parity': yield name, 0, 8


def counts_for(name, seed, nets, there):
    "Row counts for a target: all, or from one below that where a net first reached an error with the first seed"
    _, _, counts, enough = TARGETS[name]
    if (seed, nets) == (0, 1): return counts
    reached = [n for n in counts if (line := there.get((name, n, 0, 1))) and lowest(line) <= enough[0]]
    return counts[max(0, counts.index(reached[0])-1):] if reached else counts


def lowest(line): return min(e for k, e in line['errors'].items() if k != 'trees')


def is_done(lines):
    "Has each net reached the lowest error at some row count of a target and seed, or are there no more?"
    _, _, counts, enough = TARGETS[lines[0]['target']]
    arms = [o for o in lines[0]['errors'] if o != 'trees']
    return lines[-1]['rows'] == counts[-1] or all(min(o['errors'][a] for o in lines) <= enough[-1] for a in arms)


def run(file, targets, seeds, minutes):
    "Add row counts, the lowest first, until each net has reached the lowest error; whether there was time for all"
    there, began = {key(o): o for o in read_jsonl(file)}, time.monotonic()
    for name, seed, nets in plan(targets, seeds):
        seen = []
        for n in counts_for(name, seed, nets, there):
            line = there.get((name, n, seed, nets))
            if line is None:
                if time.monotonic()-began > 60*minutes: return False
                line = there[name, n, seed, nets] = fits(name, n, seed, nets)
                append_jsonl(file, line)
                print(name, n, seed, nets, line['errors'], line['seconds'], flush=True)
            seen.append(line)
            if is_done(seen): break
    return True


# --- What came of it ---

def rows_needed(counts, errors, enough):
    "The row count at which an error, linear in the logarithm between counts, is first low enough; inf: at none"
    for i, e in enumerate(errors):
        if e > enough: continue
        if i == 0: return counts[0]
        share = (errors[i-1]-enough)/(errors[i-1]-e)
        return counts[i-1]*(counts[i]/counts[i-1])**share
    return float('inf')


def needed(lines):
    "(target, members, error) → arm → rows needed with each seed that is done"
    found, curves = defaultdict(lambda: defaultdict(list)), defaultdict(list)
    for o in sorted(lines, key=lambda o: o['rows']): curves[o['target'], o['nets'], o['seed']].append(o)
    for (target, nets, _), curve in sorted(curves.items()):
        if not is_done(curve): continue
        for enough, arm in product(TARGETS[target][3], curve[0]['errors']):
            counts, errors = zip(*((o['rows'], o['errors'][arm]) for o in curve))
            found[target, nets, enough][arm].append(rows_needed(counts, errors, enough))
    return found


def ratios(arms, arm):
    "Rows that an arm needs over those of the dense start, by seed"
    return [a/b for a, b in zip(arms[arm], arms['dense']) if np.isfinite(b)] if arm in arms else []


def mean_ratio(found): return float(np.exp(np.mean(np.log(found))))


def shown(found):
    "Geometric mean, and the lowest and the highest"
    if not found: return ''
    def text(o): return f'{o:.2f}' if np.isfinite(o) else '∞'
    if not np.isfinite(found).all(): return f'{text(min(found))} to ∞' if np.isfinite(min(found)) else '∞'
    return text(mean_ratio(found)) + (f' ({text(min(found))}–{text(max(found))})' if len(found) > 1 else '')


def median_rows(found):
    middle = float(np.median(found))
    return f'{float(f"{middle:.2g}"):,.0f}' if np.isfinite(middle) else 'not reached'


def theory_table(out):
    "Rows needed by the arms relative to the dense start, as Markdown"
    lines = read_jsonl(out/'runs.jsonl')
    found = needed(lines)
    others = [*(o for o in ARMS if o != 'dense'), 'trees']
    rows = []
    for name, nets, enough in ((k, n, e) for k, v in TARGETS.items() for n in (1, 8) for e in v[3]):
        if not (arms := found.get((name, nets, enough))): continue
        rows.append([name + (', eight members' if nets > 1 else ''), enough, len(arms['dense']),
                     median_rows(arms['dense']), *(shown(ratios(arms, o)) for o in others)])
    every = [(o, [r for (_, nets, _), arms in found.items() if nets == 1 and (r := ratios(arms, o))]) for o in others]
    rows.append(['mean', '', '', '', *(shown([mean_ratio(r) for r in rs]) for _, rs in every)])
    head = ['target', 'error', 'seeds', 'rows that dense needs', *others]
    return ('# Training rows needed\n\n'
            f'Training rows needed until the error on {TEST:,} test rows reaches the threshold in the second column: '
            'the fraction of wrong classes, of unexplained variance (Friedman, additive), or the log loss above that '
            'of the true probabilities (nodes of Bayesian networks). The fourth column is the median for networks '
            'with a dense initialization. Further columns have the rows that others need, relative to it: the '
            'geometric mean over seeds, the lowest and the highest (∞: not reached with as many rows as were tried). '
            'Their names are the number of columns that a neuron of the first layer starts with; *later 2* is the '
            "library's default, whose neurons of the second layer start with two inputs; *scaled* is the dense "
            'initialization with a first layer scaled as for four columns. The last row has the '
            f'geometric means of the rows above it. Layers of {LAYERS} neurons, {STEPS:,} steps of {BATCH} rows. '
            'Written by `benchmarks/theory.py`.\n\n' + '\n'.join(markdown(head, rows)))


def draw(out):
    "Rows needed, relative to the dense start, by what a neuron of the first layer starts with, and by all else"
    found = needed(read_jsonl(out/'runs.jsonl'))
    ticks = ['2', '4', '8', '16', 'dense', '4, later 2', 'dense, scaled', 'trees']
    kinds = list(dict.fromkeys(v[0] for k, v in TARGETS.items() if (k, 1, v[3][0]) in found))
    fig, axs = plt.subplots(1, len(kinds), figsize=(3.4*len(kinds), 4.2), layout='constrained', sharey=True,
                            squeeze=False)
    for ax, kind in zip(axs[0], kinds):
        rows = [(k, e) for k, v in TARGETS.items() for e in v[3] if v[0] == kind and (k, 1, e) in found]
        for i, (name, enough) in enumerate(rows):
            by_tick = [ratios(found[name, 1, enough], o) for o in ticks]
            means = np.array([mean_ratio(o) if o and np.isfinite(o).all() else np.nan for o in by_tick])
            ax.plot(range(5), means[:5], marker='o', color=f'C{i}', label=f'{name}, error {enough:g}')
            ax.plot(range(5, len(ticks)), means[5:], 'o', color=f'C{i}')
            for x, seeds in enumerate(by_tick): ax.plot([x]*len(seeds), seeds, '.', color=f'C{i}', alpha=.4)
        ax.axhline(1, color='black', lw=.8, ls='--')
        ax.set(xticks=range(len(ticks)), yscale='log', ylim=(.15, 2.5), title=kind)
        ax.set(yticks=[.25, .5, 1, 2], yticklabels=['0.25', '0.5', '1', '2'])
        ax.set_xticklabels(ticks, rotation=60, ha='right')
        ax.minorticks_off()
        ax.grid(alpha=.3)
        ax.legend(frameon=False, fontsize=8, loc='lower left')
    axs[0, 0].set_ylabel('rows needed, relative to a dense start')
    write_figure(out/'theory.png', fig, dpi=90)


def main():
    p = options(__doc__, folder=None, out='folder', seeds=3, minutes=1e9)
    p.add_argument('--targets', nargs='+', default=list(TARGETS), choices=TARGETS)
    args = p.parse_args()
    if not hgb_takes_a_slice(): p.error("the trees need scikit-learn 1.7, whose `fit` takes held-out rows: update it")
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    targets = [o for o in args.targets if TARGETS[o][0] != 'nodes' or find_spec('pgmpy')]
    write_study(args.out, 'theory', lambda file: run(file, targets, args.seeds, args.minutes), theory_table)
    draw(args.out)


if __name__ == '__main__': main()

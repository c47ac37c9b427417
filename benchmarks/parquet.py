"""Memory and speed of loaders that are filled from a Parquet file, next to those of a DataFrame.

Writes synthetic rows, half of their columns categorical, then prepares loaders in several ways, each in a process of
its own: `parquet_dls` with all rows, in memory and mapped, a `TabularPandas` of a part that fits, and bigtabular,
fastai on dask, with a few rows, if it is installed. Prints rows a second of the preparation, of an epoch of the loader
and of a training (bigtabular: of fastai's model), and the peak memory.

    python benchmarks/parquet.py --rows 5000000 --out benchmarks/parquet.md
    python benchmarks/parquet.py --rows 50000000 --ways mapped tensors fastai --out benchmarks/parquet_larger.md

bigtabular needs `pip install bigtabular`.
"""
import json
import sys
import tempfile
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from files import apart, machine, markdown, options, write_page

BS = 4096
WAYS = {'memory': 'parquet_dls, in memory', 'mapped': 'parquet_dls, mapped', 'tensors': 'TabularPandas, TabTensorDL',
        'fastai': "TabularPandas, fastai's loader", 'bigtabular': 'bigtabular'}


def names(columns): return [f'c{i}' for i in range(columns//2)], [f'x{i}' for i in range(columns-columns//2)]


def make_rows(n, columns, rng):
    "Strings of 10 to 1,000 categories, float32 numbers, a fifth of them with missing values, and a target"
    import pyarrow as pa
    cats, conts = names(columns)
    res = {}
    for i, o in enumerate(cats):
        k = int(np.geomspace(10, 1000, len(cats))[i])
        codes = pa.array(rng.integers(0, k, n, dtype=np.int32))
        res[o] = pa.DictionaryArray.from_arrays(codes, [f'{o}_{j:04}' for j in range(k)]).cast(pa.string())
    for i, o in enumerate(conts):
        values = rng.standard_normal(n, dtype=np.float32)
        res[o] = pa.array(values, mask=rng.random(n, dtype=np.float32) < .1 if i % 5 == 0 else None)
    codes = np.asarray(codes)
    return pa.table({**res, 'y': values*(codes % 2) + rng.standard_normal(n, dtype=np.float32)})


def write_rows(path, n, columns, chunk=10**6):
    import pyarrow.parquet as pq
    rng, writer = np.random.default_rng(0), None
    for start in range(0, n, chunk):
        table = make_rows(min(chunk, n-start), columns, rng)
        writer = writer or pq.ParquetWriter(path, table.schema)
        writer.write_table(table, row_group_size=chunk//4)
    writer.close()


class Peak(threading.Thread):
    "The most memory that the process has of its own, in GB: without files that are mapped"
    def __init__(self):
        super().__init__(daemon=True)
        self.own = 0.
        self.start()

    def run(self):
        while True:
            self.own = max(self.own, self.gb('RssAnon'))
            time.sleep(.05)

    def gb(self, key):
        lines = Path('/proc/self/status').read_text().splitlines()
        return int(next(o for o in lines if o.startswith(key)).split()[1])/1e6


def on_dask(path, columns):
    "Loaders of bigtabular, which draws the validation rows by itself"
    import dask.dataframe as dd
    from bigtabular.core import DaskCategorify, DaskFillMissing, DaskNormalize, DaskRegressionBlock, RandomTrainMask
    from bigtabular.data import DaskDataLoaders
    cats, conts = names(columns)
    return DaskDataLoaders.from_ddf(
        dd.read_parquet(path), procs=[DaskCategorify, DaskFillMissing, DaskNormalize], cat_names=cats, cont_names=conts,
        y_names=['y'], y_block=DaskRegressionBlock(), train_mask_func=RandomTrainMask(.9, 0), bs=BS)


def prepare(way, path, columns, part, seed=0):
    from fastai.tabular.all import Categorify, FillMissing, Normalize, RandomSplitter, TabularPandas
    cats, conts = names(columns)
    if way in ('memory', 'mapped'):
        from dropconnect_tab.parquet import parquet_dls
        return parquet_dls(path, cats, conts, 'y', valid=.1, seed=seed, bs=BS, device='cpu',
                           limit=0 if way == 'mapped' else float('inf'), folder=Path(path).parent)
    if way == 'bigtabular': return on_dask(path, columns)
    import pyarrow.dataset as pads
    df = pads.dataset(path).head(part).to_pandas()
    to = TabularPandas(df, [Categorify, FillMissing, Normalize], cats, conts, 'y', splits=RandomSplitter(.1, seed)(df))
    from dropconnect_tab.data import TabTensorDL
    return to.dataloaders(bs=BS, device='cpu', dl_type=TabTensorDL if way == 'tensors' else None)


def make_learner(way, dls):
    if way == 'bigtabular':
        from bigtabular.learner import dask_learner
        return dask_learner(dls)
    from dropconnect_tab.learner import dropconnect_learner
    return dropconnect_learner(dls)


def measure(way, path, columns, part, fit_rows):
    "Print rows a second and memory, as JSON"
    from fastai.callback.core import Callback
    from fastai.callback.training import ShortEpochCallback

    peak, res = Peak(), {}

    def timed(name, f):
        start = time.perf_counter()
        n = f()
        res[name] = n/(time.perf_counter()-start)

    def make():
        nonlocal dls
        dls = prepare(way, path, columns, part)
        for o in dls.loaders: way == 'bigtabular' or getattr(o, 'table', None)
        return sum(o.n for o in dls.loaders)

    class Count(Callback):
        n = 0
        def after_step(self): self.n += BS

    def fit():
        learn, count = make_learner(way, dls), Count()
        with learn.no_bar(), learn.no_logging():
            learn.fit(1, cbs=[ShortEpochCallback(min(1., fit_rows/dls.train.n)), count])
        return count.n

    dls = None
    timed('prepared', make)
    timed('epoch', lambda: sum(len(b[2]) for b in dls.train))
    memory = dict(own=peak.own, all=peak.gb('VmHWM'))
    timed('trained', fit)
    print(json.dumps(dict(res, rows=sum(o.n for o in dls.loaders), **memory, fit=peak.own)))


def main():
    p = options(__doc__, folder=None, rows=5_000_000, columns=20, part=500_000, dask_rows=50_000, fit_rows=20_480)
    p.add_argument('--ways', nargs='+', choices=WAYS, default=list(WAYS))
    p.add_argument('--folder', type=Path, help="where the file is written; a temporary folder by default")
    args, lines = p.parse_args(), []
    with tempfile.TemporaryDirectory(dir=args.folder) as tmp:
        path = Path(tmp)/'rows.parquet'
        write_rows(path, args.rows, args.columns)
        size = path.stat().st_size/1e9
        for way in args.ways:
            source = path
            if way == 'bigtabular':
                if not find_spec('bigtabular'): continue
                write_rows(source := Path(tmp)/'few.parquet', args.dask_rows, args.columns)
            o = apart(__file__, 'measure', way, source, args.columns, args.part, args.fit_rows)
            lines.append([WAYS[way], *(f'{o[k]:,.0f}' for k in ('rows', 'prepared', 'epoch', 'trained')),
                          *(f'{o[k]:.1f}' for k in ('own', 'all', 'fit'))])
    head = (f"{args.rows:,} synthetic rows of {args.columns} columns in a file of {size:.2f} GB, {args.columns//2} of "
            f"them categorical; batches of {BS:,}; a tenth of the rows for validation; CPU, {machine()}. Rows a "
            f"second: prepared, in an epoch of the loader, and trained on, in a part of an epoch ({args.fit_rows:,} "
            f"rows) of `dropconnect_learner` with its defaults (bigtabular: fastai's model). Peak memory of the "
            f"process, PyTorch and fastai included: before the training, without and with the files that it maps, and "
            f"at its end.")
    table = markdown(['loaders', 'rows', 'prepared', 'loader', 'trained', 'memory, GB', 'with mapped files, GB',
                      'with training, GB'], lines)
    write_page('\n'.join([f"# {args.rows:,} rows from Parquet", '', head, '', *table]), args.out)


if __name__ == '__main__':
    if sys.argv[1:2] == ['measure']: measure(*sys.argv[2:4], *map(int, sys.argv[4:]))
    else: main()

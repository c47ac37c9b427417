"What the benchmarks share: options, lines for each fit, times side by side, processes of their own, pages in Markdown"
import argparse
import json
import platform
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import numpy as np
from fastprogress.fastprogress import progress_bar

from dropconnect_tab.bench.files import append_jsonl, lock_folder, read_jsonl, write_text

warnings.filterwarnings('ignore', 'The given NumPy array is not writable')  # fastai under pandas 3


def options(doc, folder='folder', out='file', **numbers):
    "A parser of the options that scripts have: a `folder` of data, `--out`, and numbers by their names with defaults"
    p = argparse.ArgumentParser(description=doc.splitlines()[0])
    if folder: p.add_argument(folder, type=Path)
    p.add_argument('--out', type=Path, required=out == 'folder', help="folder for results" if out == 'folder' else
                   "file for the page, else it is printed only")
    for k, v in numbers.items():
        p.add_argument(f"--{k.replace('_', '-')}", type=type(v), default=v, help=f"{v} by default")
    return p


# --- Pages ---

def markdown(head, rows):
    "Lines of a table, and an empty one"
    return ['| '+' | '.join(map(str, o))+' |' for o in (head, ['---']*len(head), *rows)] + ['']


def percent(v, of=1):
    "How much higher or lower than `of`; empty for NaN"
    return f'{100*(v/of-1):+.1f}%' if v == v else ''


def write_page(text, file=None):
    "Print a page, and write it"
    print(text)
    if file: write_text(file, text)


def machine():
    "What the times of a page depend on"
    import torch
    n = torch.get_num_threads()
    return f"{n} thread{'s'[:n>1]}, {platform.system()}, torch {torch.__version__}"


# --- Fewer rows ---

def at_most(dataset, n_train, n_test, seed=0):
    "`dataset` with at most so many training and test rows, drawn at random"
    rng = np.random.default_rng(seed)
    train, test = (np.sort(rng.permutation(o)[:n]) for o, n in ((dataset.train_idx, n_train), (dataset.test_idx, n_test)))
    return replace(dataset, train_idx=train, test_idx=test)


def split_again(dataset, split):
    "The dataset's own split, or a random one of the same size"
    if not split: return dataset
    n = len(dataset.train_idx)
    rows = np.random.default_rng(split).permutation(np.concatenate([dataset.train_idx, dataset.test_idx]))
    return replace(dataset, train_idx=np.sort(rows[:n]), test_idx=np.sort(rows[n:]), times=None, slice_idx=None)


# --- Lines for each fit ---

def once(file, key, fit):
    "Adds a line to `file` with what `fit()` finds, unless one with the same values of `key` is there"
    if any(all(line.get(k) == v for k, v in key.items()) for line in read_jsonl(file)): return
    append_jsonl(file, {**key, **fit()})


def side_by_side(file, fit, todo, jobs):
    "Adds the lines that `fit` finds for each of `todo` to `file`, `jobs` fits at a time"
    # forked, workers have what the script defines, cached functions too, which joblib cannot send to its own
    with get_context('fork').Pool(jobs) as pool:
        for lines in progress_bar(pool.imap_unordered(partial(_call, fit), todo), total=len(todo)):
            for line in lines: append_jsonl(file, line)


def _call(fit, args): return fit(*args)


def write_study(out, name, fill, table):
    "Let `fill` add lines to OUT/runs.jsonl, and write what `table` makes of OUT to OUT/`name`.md"
    with lock_folder(out):
        fill(out/'runs.jsonl')
        write_page(table(out), out/f'{name}.md')


# --- Times and memory ---

def interleaved(fs, repeats, label='', warm=1, limit=float('inf')):
    "Median seconds of each function of `fs`, in turns; no further turn after `limit` seconds, but one that counts"
    seconds, bar, begun = {k: [] for k in fs}, progress_bar(range(repeats+warm)), time.perf_counter()
    for i in bar:
        if i > warm and time.perf_counter()-begun > limit: break
        for k, f in fs.items():
            bar.comment = f'{label} {k}'
            start = time.perf_counter()
            found = f()
            if i >= warm: seconds[k].append(found if isinstance(found, float) else time.perf_counter()-start)
    return {k: median(v) for k, v in seconds.items()}


def apart(script, *args, **kwargs):
    "What a script with `args` prints in a process of its own: its last line, as JSON"
    command = [sys.executable, '-W', 'ignore', script, *map(str, args)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, **kwargs)
    return json.loads(done.stdout.splitlines()[-1])


def added_mb(work):
    "MB that `work()` adds to this process: when it is done, and at its peak"
    status = Path('/proc/self/status')
    if not status.exists(): sys.exit("memory on a CPU is measured on Linux only")

    def mb(key): return int(next(o for o in status.read_text().splitlines() if o.startswith(key)).split()[1])/2**10
    Path('/proc/self/clear_refs').write_text('5')  # the peak is counted from here
    before = mb('VmRSS')
    kept = work()  # what it returns is still there when it is done
    done = mb('VmRSS'), mb('VmHWM')
    del kept
    return tuple(o-before for o in done)

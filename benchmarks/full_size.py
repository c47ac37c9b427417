"""Time and memory of each arm on a table of the Bulldozers file's size.

Synthetic sales, 412,698 of them with the real cardinalities, go through the same command that a user with the real
file gives, one arm at a time in a process of its own. Prints a Markdown table: seconds to the first epoch (reading,
checking, features, loaders), seconds of an epoch (of the fit, for trees), and the process's peak memory.

    python benchmarks/full_size.py --out benchmarks/full_size.md
"""
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from fastprogress.fastprogress import progress_bar
from files import machine, markdown, options, write_page

from dropconnect_tab.bench.methods import METHODS, read_method
from dropconnect_tab.bench.runs import read_runs
from dropconnect_tab.bench.synthetic import write_synthetic

ROWS = 412_698  # as in TrainAndValid.csv
# Those that follow their authors stop when they want to, after hours here
ARMS = [k for k, o in METHODS.items() if not (o.parts or o.authors)]


def run(path, arm, columns, epochs, folder):
    "Seconds of the process, its peak memory in GB, and what its line in runs.jsonl says; trees have no epochs"
    command = [sys.executable, '-W', 'ignore', '-m', 'dropconnect_tab.bench', 'bulldozers', '--path', path, '--split',
               'book', '--columns', columns, '--arms', arm, '--seeds', '1', '--out', folder,
               *(['--epochs', epochs] if 'epochs' in read_method(arm).takes else [])]
    start = time.perf_counter()
    child = subprocess.Popen([*map(str, command)], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    said = child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    if status: sys.exit(f"{arm}: {said}")
    wall = time.perf_counter()-start
    peak = used.ru_maxrss/(2**30 if sys.platform == 'darwin' else 2**20)
    runs = read_runs(next(Path(folder).glob('*/runs.jsonl')).parent)
    return wall, peak, next(o for o in runs if o['arm'] == read_method(arm).label)


def main():
    p = options(__doc__, folder=None, rows=ROWS, epochs=2)
    p.add_argument('--arms', nargs='+', default=ARMS)
    p.add_argument('--columns', nargs='+', default=['book', 'own'])
    args = p.parse_args()
    rows = []
    with tempfile.TemporaryDirectory() as tmp:
        path = write_synthetic(Path(tmp)/'TrainAndValid.zip', args.rows, start='1989-01-17', end='2012-04-30')
        for columns, arm in progress_bar([(c, a) for c in args.columns for a in args.arms]):
            wall, peak, res = run(path, arm, columns, args.epochs, Path(tmp)/columns)
            per = res['seconds']/res['params'].get('epochs', 1)
            rows.append([columns, arm, f"{wall-res['seconds']:.0f}", f'{per:.1f}', f'{peak:.1f}'])
    head = (f"{args.rows:,} synthetic sales, split `book` ({res['rows']['train']:,} to train on), batches of 1,024; "
            f"device {res['device']}, {machine()}.")
    columns = ['columns', 'method', 'seconds before the fit', 'seconds per epoch (trees: whole fit)', 'peak memory, GB']
    write_page('\n'.join(["# Full size", '', head, '', *markdown(columns, rows)]), args.out)


if __name__ == '__main__': main()

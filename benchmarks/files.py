"What the benchmarks write: tables in Markdown, and files with a line for each fit"
from fastprogress.fastprogress import progress_bar
from joblib import Parallel, delayed

from dropconnect_tab.bench.files import append_jsonl, read_jsonl


def markdown(head, rows):
    "Lines of a table, and an empty one"
    return ['| '+' | '.join(o)+' |' for o in (head, ['---']*len(head), *rows)] + ['']


def once(file, key, fit):
    "Adds a line to `file` with what `fit()` finds, unless one with the same values of `key` is there"
    if any(all(line[k] == v for k, v in key.items()) for line in read_jsonl(file)): return
    append_jsonl(file, {**key, **fit()})


def side_by_side(file, fit, todo, jobs):
    "Adds the lines that `fit` finds for each of `todo` to `file`, `jobs` fits at a time"
    done = Parallel(jobs, return_as='generator_unordered')(delayed(fit)(*o) for o in todo)
    for lines in progress_bar(done, total=len(todo)):
        for line in lines: append_jsonl(file, line)

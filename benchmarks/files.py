"What the benchmarks write: tables in Markdown, and files with a line for each fit"
import json

from dropconnect_tab.bench.files import write_whole


def markdown(head, rows):
    "Lines of a table, and an empty one"
    return ['| '+' | '.join(o)+' |' for o in (head, ['---']*len(head), *rows)] + ['']


def once(file, key, fit):
    "Adds a line to `file` with what `fit()` finds, unless one with the same values of `key` is there"
    there = [json.loads(o) for o in file.read_text().splitlines()] if file.exists() else []
    if any(all(line[k] == v for k, v in key.items()) for line in there): return
    text = ''.join(json.dumps(o)+'\n' for o in (*there, {**key, **fit()}))
    write_whole(file, lambda f: f.write_text(text, encoding='utf-8'))

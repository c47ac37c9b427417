"""Mutation testing: each module of the core is broken in every way that cosmic-ray knows, and its tests should notice.

    pip install cosmic-ray
    python tests/mutate.py --out FOLDER                      # hours; what is there is not repeated
    python tests/mutate.py masks callback --out FOLDER --every 10 --jobs 2

A change is never written to a file: a forked process, with torch and fastai at hand, imports the changed module and
runs the tests that matter to it up to the first failure. FOLDER gets a line of JSON for each change; a table of what
was killed, and the changes that survived, are printed at the end.
"""
import argparse
import difflib
import os
import signal
import sys
import time
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path

from cosmic_ray.ast import ast_nodes, get_ast
from cosmic_ray.mutating import mutate_code
from cosmic_ray.plugins import get_operator, operator_names
from fastprogress.fastprogress import progress_bar

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root))
from dropconnect_tab.bench.files import append_jsonl, read_jsonl  # noqa: E402 - loads no module that is changed

# Module → its tests, the quick ones first
TESTS = dict(masks='masks dropconnect members contract soak kinds', layers='dropconnect masks members contract kinds',
             callback='dropconnect contract kinds lifecycle', model='members contract embeddings lifecycle',
             members='members predict lifecycle', learner='contract members embeddings lifecycle',
             embeddings='embeddings robust members serve')

UNCHANGED = 'none', 0


def changes(source):
    "Operator and occurrence of each change of a module's `source`"
    tree = get_ast(source)
    for name in operator_names():
        if get_operator(name).arguments(): continue
        found = [p for node in ast_nodes(tree) for p in get_operator(name)().mutation_positions(node)]
        for i in range(len(found)): yield name.removeprefix('core/'), i


def changed_lines(before, after):
    return [l for l in difflib.unified_diff(before.splitlines(), after.splitlines(), lineterm='', n=0) if l[:2] not in
            ('--', '++', '@@')]


class Changed(SourceFileLoader):
    "Imports a module from a changed text"
    def __init__(self, fullname, path, text): super().__init__(fullname, path); self.text = text
    def get_code(self, fullname): return compile(self.text, self.path, 'exec')


class Finder:
    "Finds one module in its changed text, before Python looks for files"
    def __init__(self, fullname, text): self.fullname, self.text = fullname, text

    def find_spec(self, fullname, path=None, target=None):
        if fullname != self.fullname: return None
        spec = PathFinder.find_spec(fullname, path)
        spec.loader = Changed(fullname, spec.origin, self.text)
        return spec


def start(module, text, seconds):
    "Fork a process that tests the package with `text` as its `module`; its exit status is pytest's"
    if pid := os.fork(): return pid
    os.setsid()
    signal.alarm(seconds)  # an endless loop is killed, too
    with open(os.devnull, 'w') as null:
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
    status = 1
    try:
        import pytest
        sys.meta_path.insert(0, Finder(f'dropconnect_tab.{module}', text))
        status = pytest.main(['-x', '-q', '-n', '0', '-p', 'no:cacheprovider', '-W', 'ignore',
                              *(str(root/'tests'/f'test_{o}.py') for o in TESTS[module].split())])
    finally: os._exit(int(status))


def results(file):
    "Change → what came of it, the last time"
    return {tuple(r['change']): r for r in read_jsonl(file)}


def test_changes(module, out, every, jobs, seconds, again):
    "Test each change of a module that `out` does not have yet, or those that survived"
    import fastai.tabular.all, hypothesis, pytest, sklearn.model_selection, torch  # noqa: F401,E401 - for all forks
    torch.set_num_threads(1)
    source, file = (root/'dropconnect_tab'/f'{module}.py').read_text(), out/f'{module}.jsonl'
    done = {o for o, r in results(file).items() if r['killed'] or not again or o == UNCHANGED}
    if UNCHANGED not in done:
        _, status = os.waitpid(start(module, source, 10*seconds), 0)
        if status: sys.exit(f"the tests of {module} fail without a change: {TESTS[module]}")
        append_jsonl(file, dict(change=UNCHANGED, killed=False))
    todo, running = [o for o in list(changes(source))[::every] if o not in done], {}

    def collect():
        pid, status = os.wait()
        change, lines, began = running.pop(pid)
        # Killed by the alarm, no test has failed: an endless loop, or tests that are slower than the limit
        timeout = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM
        append_jsonl(file, dict(change=change, killed=status != 0 and not timeout, timeout=timeout, lines=lines,
                                seconds=round(time.time()-began, 1)))

    print(module)
    for name, i in progress_bar(todo):
        text = mutate_code(source, get_operator(f'core/{name}')(), i)
        if len(running) == jobs: collect()
        running[start(module, text, seconds)] = (name, i), changed_lines(source, text), time.time()
    while running: collect()


def table(modules, out):
    "What was killed, as Markdown, and the changes that no test is known to notice"
    lines, left = ['| module | changes | killed | timeouts | survived | share killed |', '| --- '*6+'|'], []
    for module in modules:
        rows = [r for o, r in results(out/f'{module}.jsonl').items() if o != UNCHANGED]
        if not rows: continue
        killed, timeouts = (sum(bool(r.get(o)) for r in rows) for o in ('killed', 'timeout'))
        counts = len(rows), killed, timeouts, len(rows)-killed-timeouts
        lines.append(f"| {module} | {' | '.join(map(str, counts))} | {killed/len(rows):.1%} |")
        left += [f"{module}: {r['change'][0]}{' (timeout)' if r.get('timeout') else ''}\n    " +
                 '\n    '.join(r['lines']) for r in rows if not r['killed']]
    return '\n'.join(lines), '\n'.join(left)


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument('modules', nargs='*', metavar='MODULE', help=f"of {', '.join(TESTS)}; else all")
    p.add_argument('--out', type=Path, required=True)
    p.add_argument('--every', type=int, default=1, help="one change of so many")
    p.add_argument('--jobs', type=int, default=1, help="changes side by side")
    p.add_argument('--seconds', type=int, default=300, help="longer tests are timeouts, which count as no kill")
    p.add_argument('--again', action='store_true', help="repeat the changes that survived")
    args = p.parse_args()
    unknown = [o for o in args.modules if o not in TESTS]
    if unknown: p.error(f"{unknown[0]!r} is not one of {', '.join(TESTS)}")
    args.modules = args.modules or list(TESTS)
    args.out.mkdir(parents=True, exist_ok=True)
    for o in args.modules: test_changes(o, args.out, args.every, args.jobs, args.seconds, args.again)
    for o in table(args.modules, args.out)[::-1]: print(o, '\n')


if __name__ == '__main__': main()

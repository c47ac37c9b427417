"""Fills the blocks of `docs/*.md` and the README with what stands in other files: `python docs/fill.py`, or `--check` to only compare

A block is an HTML comment, which GitHub and the site hide, and is filled by [cog](https://cog.readthedocs.io):

    <!-- [[[cog include('../benchmarks/intervals.md') ]]] -->
    <!-- [[[end]]] -->

`include('../benchmarks/speed.md#memory')` is a file without its title, or one of its sections without the heading;
`pages('../nbs/tutorials')` lists the notebooks of a folder with their descriptions, and `arguments('DropConnectClassifier')`
the arguments of an estimator.
"""
import re
import sys
from pathlib import Path
from urllib.parse import urldefrag

import nbformat
from fastcore.basics import first

docs = Path(__file__).resolve().parent
root = docs.parent

# Tutorials in the order in which they build on each other; others come after them
tutorials_first = ['existing_training', 'custom_model', 'pytorch', 'ensembles', 'one_fit', 'uncertainty', 'bulldozers',
                   'other_datasets', 'why']
# Modules of the reference by entry point, the one to read first before others; those of no group come last
api_groups = {
    'The learner': ['learner', 'members', 'embeddings', 'data', 'optimizer', 'averaging'],
    'The model': ['model', 'layers'],
    'The callback': ['callback', 'masks'],
    'The estimators': ['sklearn', 'frame', 'tune', 'autogluon'],
    'A trained model': ['predict', 'oob', 'interpret', 'serve', 'exported', 'fold']}
rest = 'Shared by all'


def slug(heading): return re.sub(r'[^\w\- ]', '', heading.lower()).strip().replace(' ', '-')


def section(text, anchor):
    "The text of `text` below its title, or below its heading `anchor`, down to the next heading of that level"
    code = [m.span() for m in re.finditer(r'^```.*?^```', text, re.M | re.S)]
    heads = [h for h in re.finditer(r'^(#+) (.+)\n', text, re.M) if not any(a < h.start() < b for a, b in code)]
    title = first(h for h in heads if (slug(h[2]) == anchor if anchor else len(h[1]) == 1 and not h.start()))
    if not title: return None if anchor else text.strip()
    end = first(h.start() for h in heads if h.start() > title.start() and len(h[1]) <= len(title[1])) or len(text)
    return text[title.end():end].strip()


def include(target):
    "Writes the file or the section `target`"
    import cog
    path, anchor = urldefrag(target)
    part = section((Path(cog.inFile).parent/path).read_text(encoding='utf-8'), anchor)
    if not part: raise SystemExit(f"include {target}: there is no such heading")
    if '](' in part: raise SystemExit(f"include {target}: it has links, which would lead elsewhere from here")
    cog.outl(f'\n{part}\n')


def directives(cell): return {o[0]: o[1:] for l in re.findall(r'^#\|(.*)$', cell.source, re.M) if (o := l.split())}


def module_of(nb):
    "Name of the module that `nb` exports to, or None"
    return first(d['default_exp'][0] for c in nb.cells if 'default_exp' in (d := directives(c)))


def title(nb):
    "Title and description of a notebook"
    text = nb.cells[0].source
    return re.search(r'^# (.+)', text)[1], (re.search(r'^> (.+)', text, re.M) or ['', ''])[1]


def groups(folder):
    "The notebooks of `folder`, by path, below the names of their groups; None: a folder without groups"
    found = {o: nbformat.read(o, 4) for o in sorted(folder.glob('*.ipynb'))}
    if folder != root/'nbs':
        place = {o: i for i, o in enumerate(tutorials_first)}
        return {None: dict(sorted(found.items(), key=lambda o: place.get(o[0].stem, len(place))))}
    place = {module_of(nb): path for path, nb in found.items()}
    res = {k: [place.pop(m) for m in modules if m in place] for k, modules in api_groups.items()}
    res |= {rest: list(place.values())} if place else {}
    return {k: {o: found[o] for o in paths} for k, paths in res.items()}


def pages(folder):
    "Writes a list of the notebooks of `folder`"
    import cog
    for group, found in groups((docs/folder).resolve()).items():
        cog.outl(f'\n**{group}**\n' if group else '')
        for path, nb in found.items():
            name, said = title(nb)
            cog.outl(f'- [{name}]({folder}/{path.name}): {said}')
    cog.outl()


def arguments(name):
    "Writes a table of the arguments of an estimator"
    import cog
    from fastcore.docments import docments

    from dropconnect_tab import sklearn
    cog.outl('\n| argument | default | meaning |\n|---|---|---|')
    for k, o in docments(getattr(sklearn, name).__init__, full=True).items():
        if o.docment: cog.outl(f"| `{k}` | `{o.default!r}` | {o.docment.replace('|', ' or ')} |")
    cog.outl()


if __name__ == '__main__':
    from cogapp import Cog
    files = map(str, [root/'README.md', *sorted(docs.glob('*.md'))])
    how = sys.argv[1:] or ['-r']
    raise SystemExit(Cog().main(['cog', *how, '-I', str(docs), '-p', 'from fill import arguments, include, pages', *files]))

"""Gathers the sources of the site for Sphinx: `python docs/prepare.py FOLDER`

Pages are `docs/*.md`, the reference in `nbs/*.ipynb` and `nbs/bench/*.ipynb` and the tutorials in
`nbs/tutorials/*.ipynb`, with their stored outputs: no cell is run. What a notebook exports is shown as its signature,
docstring and table of arguments, taken from the module. Links between files of the repository become links between
pages, or to the repository where a file is not a page.

In `docs/*.md`, lines of their own:

- `<!-- include ../README.md#the-settings -->`: a file without its title, or one section of it without its heading
- `<!-- list ../nbs/tutorials -->`: the pages of a folder, with their descriptions
"""
import ast
import inspect
import os
import re
import shutil
import sys
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path
from urllib.parse import urldefrag

import nbformat
from fastcore.basics import first
from fastcore.docments import can_render, docments, docstring, empty
from fastcore.foundation import L
from nbdev.doclinks import patch_name
from nbformat.v4 import new_markdown_cell

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root))
package, branch = 'dropconnect_tab', 'main'
settings = ConfigParser(delimiters=['='])
settings.read(root/'settings.ini', encoding='utf-8')
repository = settings['DEFAULT']['repository']
# Tutorials in the order in which they build on each other; others come after them
tutorials_first = ['existing_training', 'custom_model', 'ensembles', 'uncertainty', 'bulldozers', 'other_datasets',
                   'why']

# Folders of notebooks in the navigation, and what stands above each
trees = [('tutorials', 'Tutorials'), ('', 'API'), ('bench', 'The bench')]
# Modules of the reference by entry point, the one to read first before others; those of no group come last
api_groups = {
    'The learner': ['learner', 'members', 'embeddings', 'data', 'optimizer', 'averaging'],
    'The model': ['model', 'layers'],
    'The callback': ['callback', 'masks'],
    'The estimators': ['sklearn', 'frame', 'tune'],
    'A trained net': ['predict', 'oob', 'interpret', 'serve', 'exported', 'fold']}
rest = 'Shared by all'

re_fence = re.compile(r'^(`{3,}|~{3,}).*?^\1`*[ \t]*$', re.M | re.S)
re_link = re.compile(r'(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)')
re_include = re.compile(r'^<!-- include (\S+) -->$', re.M)
re_list = re.compile(r'^<!-- list (\S+) -->$', re.M)
re_heading = re.compile(r'^(#+) (.+)$', re.M)


def read(path): return path.read_text(encoding='utf-8')


def directives(cell): return {o[0]: o[1:] for l in re.findall(r'^#\|(.*)$', cell.source, re.M) if (o := l.split())}


def module_of(nb):
    "Name of the module that `nb` exports to, or None"
    return first(d['default_exp'][0] for c in nb.cells if 'default_exp' in (d := directives(c)))


def api_page(mod): return f"api/{mod.replace('.', '/')}.ipynb"


def slug(heading): return re.sub(r'[^\w\- ]', '', heading.lower()).strip().replace(' ', '-')


def headings(text):
    "Matches of the headings of `text`, which has comments with the same sign in its code"
    return list(re_heading.finditer(re_fence.sub(lambda m: re.sub(r'[^\n]', ' ', m[0]), text)))


def outside_code(f, text):
    "`f` of each part of `text` that is not in a fence"
    parts, end = [], 0
    for m in re_fence.finditer(text):
        parts += [f(text[end:m.start()]), m[0]]
        end = m.end()
    return ''.join(parts + [f(text[end:])])


class Site:
    def __init__(self, out):
        self.out = out
        self.pages = {o: o.name for o in sorted((root/'docs').glob('*.md'))}  # source → page, relative to `out`
        self.notebooks, self.symbols, self.included = {}, {}, {}
        for path in (o for folder in ('', 'bench', 'tutorials') for o in sorted((root/'nbs'/folder).glob('*.ipynb'))):
            nb = self.notebooks[path] = nbformat.read(path, 4)
            mod = module_of(nb)
            if mod: self.symbols.update({nm: mod for c in nb.cells for nm in exported(c)})
            self.pages[path] = api_page(mod) if mod else f'tutorials/{path.name}'
        self.github = f'{repository}/blob/{branch}/'
        for page in self.pages:
            if page.suffix == '.md':
                for target in re_include.findall(read(page)):
                    path, anchor = self.split(target, page)
                    self.included[path, anchor] = '#' + target_name(path, anchor)
                    for h in headings(section(read(path), anchor, target)[0]):
                        self.included.setdefault((path, slug(h[2])), f'{page.name}#{slug(h[2])}')
        self.pages = {k: v for k, v in self.pages.items() if (k, '') not in self.included}

    def split(self, target, source):
        "Path and anchor of a link in `source`"
        path, anchor = urldefrag(target)
        return (source.parent/path).resolve() if path else source, anchor

    def listed(self, folder):
        "The notebooks of `folder` in the order of the navigation"
        found = [o for o in self.notebooks if o.parent == folder]
        place = {o: i for i, o in enumerate(tutorials_first)}
        return sorted(found, key=lambda o: (place.get(o.stem, len(place)), o.name))

    def groups(self, folder):
        "The notebooks of `folder` below the names of their groups; None: a folder without groups"
        found = self.listed(folder)
        if folder != root/'nbs': return {None: found}
        place = {module_of(self.notebooks[o]): o for o in found}
        groups = {k: [place.pop(m) for m in modules if m in place] for k, modules in api_groups.items()}
        return groups | ({rest: list(place.values())} if place else {})

    def title(self, path):
        "Title and description of a notebook"
        text = self.notebooks[path].cells[0].source
        return re.search(r'^# (.+)', text)[1], (re.search(r'^> (.+)', text, re.M) or ['', ''])[1]

    def link(self, target, source, page, image=False):
        "`target`, as it stands in the file `source`, for the page `page`"
        if target.startswith(self.github): target, source = target.removeprefix(self.github), root/'README.md'
        if re.match(r'\w+:', target): return target
        path, anchor = self.split(target, source)
        if not path.exists(): raise SystemExit(f"{source.relative_to(root)}: there is no {target}")
        name = path.relative_to(root)
        if image:
            shutil.copy2(path, self.out/'images'/(flat := '-'.join(name.parts).removeprefix('docs-images-')))
            return os.path.relpath(f'images/{flat}', Path(page).parent)
        anchored = f'#{anchor}' if anchor else ''
        if path in self.pages: return os.path.relpath(self.pages[path], Path(page).parent) + anchored
        if found := self.included.get((path, anchor)):
            return found if found[0] == '#' else os.path.relpath(found, Path(page).parent)
        return f'{self.github}{name}{anchored}'

    def links(self, text, source, page):
        def change(m):
            label = m[2] if m[1] else re_link.sub(change, m[2])
            return f'{m[1]}[{label}]({self.link(m[3], source, page, image=bool(m[1]))})'
        return outside_code(lambda o: re_link.sub(change, o), text)

    def name_symbols(self, text, page):
        "Links from names in backticks to where they are documented, but on their own page"
        def change(m):
            nm = re.sub(r'^learn\.', 'Learner.', m[1].removesuffix('()'))
            mod = self.symbols.get(nm)
            if not mod or page == api_page(mod): return m[0]
            return f'{{py:obj}}`{m[1]} <{package}.{mod}.{nm}>`'
        def line(l): return l if l.startswith('#') else re.sub(r'(?<![`\[}])`([\w.]+(?:\(\))?)`(?![`\]])', change, l)
        return outside_code(lambda o: '\n'.join(map(line, o.split('\n'))), text)

    def include(self, target, source, before):
        "The section `target`, its headings below the last one of the text `before` it"
        path, anchor = self.split(target, source)
        part, level = section(read(path), anchor, target)
        shift = len(headings(before)[-1][1]) - level
        part = outside_code(lambda o: re_heading.sub(lambda h: '#'*(len(h[1])+shift) + f' {h[2]}', o), part)
        part = part.replace(' ± ', '\u00a0±\u00a0')  # not broken in narrow columns
        return f'({target_name(path, anchor)})=\n\n{self.links(part, path, source.name)}'

    def page(self, source):
        "A hand-written page"
        page, text = self.pages[source], ''
        for i, part in enumerate(re_include.split(read(source))):  # text, target, text, target, ..., text
            text += self.include(part, source, text) if i%2 else self.links(part, source, page)
        text = re_list.sub(lambda m: '\n'.join(self.entries((source.parent/m[1]).resolve())), text)
        text = self.name_symbols(text, page)
        if source.stem == 'index': text += ''.join(self.toctree(*o) for o in trees)
        (self.out/page).write_text(text, encoding='utf-8')

    def entries(self, folder):
        res = []
        for group, paths in self.groups(folder).items():
            if group: res += ['', f'**{group}**', '']
            res += [f'- [{t}]({self.pages[o]}): {d}' for o in paths for t, d in [self.title(o)]]
        return res

    def toctree(self, folder, caption):
        def tree(name, paths):
            pages = '\n'.join(self.pages[o].removesuffix('.ipynb') for o in paths)
            return f'\n```{{toctree}}\n:hidden:\n:caption: {name}\n\n{pages}\n```\n'
        return ''.join(tree(f'{caption}: {group[0].lower()}{group[1:]}' if group else caption, paths)
                       for group, paths in self.groups(root/'nbs'/folder).items())

    def notebook(self, source):
        page, nb = self.pages[source], self.notebooks[source]
        mod, cells = module_of(nb), []
        for cell in nb.cells:
            d = directives(cell)
            if cell.cell_type == 'markdown':
                # the badge is a picture on a server
                text = re.sub(r'\[!\[(.+?)\]\(https?:[^)]+\)\]', r'[\1]', cell.source)
                cell.source = self.name_symbols(self.links(mathml(text), source, page), page)
                cells.append(cell)
            elif {'export', 'exports'} & d.keys():
                cells += [new_markdown_cell(self.name_symbols(self.document(nm, mod), page)) for nm in exported(cell)]
            elif not {'hide', 'default_exp', 'exporti'} & d.keys():
                cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M)
                if d.get('echo:') == ['false']: cell.metadata['tags'] = ['remove-input']
                cells.append(cell)
        nb.cells = cells
        nb.metadata['language_info'] = dict(name='python', pygments_lexer='ipython3')
        (self.out/page).parent.mkdir(parents=True, exist_ok=True)
        nbformat.write(nbformat.validator.normalize(nb)[1], self.out/page)

    def document(self, nm, mod, sym=None):
        "Signature, docstring and table of arguments of one exported name, as a Sphinx directive"
        sym = sym or eval(nm, vars(import_module(f'{package}.{mod}')))
        kind = ('class' if inspect.isclass(sym) else 'property' if isinstance(sym, property)
                else 'method' if '.' in nm else 'function')
        fn = sym.fget if kind == 'property' else sym
        file, line = mod.replace('.', '/'), inspect.getsourcelines(inspect.unwrap(fn))[1]
        body = [f'{docstring(fn) or ""} [source]({self.github}{package}/{file}.py#L{line}){{.source}}']
        if kind != 'property': body.append(arguments(fn))
        if kind == 'class':
            body += [self.document(f'{nm}.{k}', mod, v) for k, v in vars(sym).items()
                     if k[0] != '_' and (inspect.isfunction(v) or isinstance(v, property)) and v.__doc__
                     and f'{nm}.{k}' not in self.symbols]
        fence = '````' if kind == 'class' else '```'
        sig = '' if kind == 'property' else signature(fn, kind == 'method')
        return f'{fence}{{py:{kind}}} {nm}{sig}\n:module: {package}.{mod}\n\n' + '\n\n'.join(body) + f'\n{fence}'


def target_name(path, anchor): return slug(f'{path.relative_to(root).with_suffix("")}-{anchor}'.replace('/', '-'))


def section(text, anchor, target):
    "The text below the title of `text`, or below its heading `anchor`; and the level of that heading"
    heads = headings(text)
    if not anchor:
        if not heads or heads[0].start() or heads[0][1] != '#': return text.strip(), 1  # no title
        anchor = slug(heads[0][2])
    found = first(h for h in heads if slug(h[2]) == anchor)
    if not found: raise SystemExit(f"include {target}: there is no such heading")
    end = first(h.start() for h in heads if h.start() > found.start() and len(h[1]) <= len(found[1])) or len(text)
    return text[found.end():end].strip(), len(found[1])


def exported(cell):
    "Names of the functions, methods and classes that a cell exports"
    if cell.cell_type != 'code' or not {'export', 'exports'} & directives(cell).keys(): return []
    defs = [o for o in ast.parse(cell.source).body if isinstance(o, (ast.FunctionDef, ast.ClassDef))]
    return [nm for o in defs if o.name[0] != '_' for nm in L(patch_name(o))]


def default(o): return o.__name__ if hasattr(o, '__name__') else repr(o)


def signature(sym, method):
    "Names and defaults; types are in the table"
    parts, star = [], False
    if not can_render(sym): return ''  # a class whose constructor is not its own
    for i, (nm, p) in enumerate(inspect.signature(sym).parameters.items()):
        if method and i == 0: continue
        if p.kind == p.KEYWORD_ONLY and not star: parts.append('*')
        star = star or p.kind in (p.KEYWORD_ONLY, p.VAR_POSITIONAL)
        pre = {p.VAR_POSITIONAL: '*', p.VAR_KEYWORD: '**'}.get(p.kind, '')
        parts.append(pre + nm + ('' if p.default is p.empty else f'={default(p.default)}'))
    return f'({", ".join(parts)})'


def arguments(sym):
    "Table of the arguments that have a comment, and of what is returned"
    def type_of(o):
        if o is empty or o is type(None): return ''
        return re.sub(r'\b(?:\w+\.)+(?=\w)', '', inspect.formatannotation(o)).strip("'")
    rows = []
    if not can_render(sym): return ''
    for nm, o in docments(sym, full=True, returns=True).items():
        if nm == 'return':
            if o['docment']: rows.append(('*returns*', code(type_of(o['anno'])), '', o['docment']))
        elif nm != 'self' and o['docment']:
            shown = '' if o['default'] is empty else code(default(o['default']))
            rows.append((f'`{nm}`', code(type_of(o['anno'])), shown, o['docment']))
    if not rows: return ''
    head = [('argument', 'type', 'default', 'meaning'), ('---',)*4]
    filled = [i for i in range(4) if any(row[i] for row in rows)]
    rows = [[row[i] for i in filled] for row in head + rows]
    return '\n'.join('| ' + ' | '.join(c.replace('|', r'\|').replace('\n', ' ') for c in row) + ' |' for row in rows)


def code(s): return f'`{s}`' if s else ''


def mathml(text):
    "Formulas as MathML, which browsers show without a script"
    from docutils.utils.math.latex2mathml import tex2mathml
    def change(m): return tex2mathml(m[1].strip(), as_block=True).replace('\n', '')
    return re.sub(r'\$\$(.+?)\$\$', change, text, flags=re.S)


if __name__ == '__main__':
    out = Path(sys.argv[1]).resolve()
    (out/'images').mkdir(parents=True)
    (out/'.buildinfo').touch()  # build.sh may delete this folder
    site = Site(out)
    for path in site.pages: (site.page if path.suffix == '.md' else site.notebook)(path)

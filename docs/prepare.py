"""Gathers the sources of the site for Sphinx: `python docs/prepare.py FOLDER`

Pages are `docs/*.md`, the reference in `nbs/*.ipynb` and `nbs/bench/*.ipynb` and the tutorials in
`nbs/tutorials/*.ipynb`, with their stored outputs: no cell is run. What a notebook exports is shown as its signature,
docstring and table of arguments, taken from the module. Links between files of the repository become links between
pages, or to the repository where a file is not a page. A toctree stands in a comment, which GitHub hides.
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
from fastcore.docments import can_render, docments, docstring, empty
from fastcore.foundation import L
from nbdev.doclinks import patch_name
from nbformat.v4 import new_markdown_cell

from fill import directives, groups, module_of

root = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(root))
package, branch = 'dropconnect_tab', 'main'
settings = ConfigParser(delimiters=['='])
settings.read(root/'settings.ini', encoding='utf-8')
repository = settings['DEFAULT']['repository']

# Folders of notebooks in the navigation, and what stands above each
trees = [('tutorials', 'Tutorials'), ('', 'API'), ('bench', 'The bench')]

re_fence = re.compile(r'^(`{3,}|~{3,}).*?^\1`*[ \t]*$', re.M | re.S)
re_link = re.compile(r'(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^()\s]+)\)')
re_toctree = re.compile(r'^<!--\n(```\{toctree\}.*?^```)\n-->$', re.M | re.S)


def read(path): return path.read_text(encoding='utf-8')


def api_page(mod): return f"api/{mod.replace('.', '/')}.ipynb"


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
        self.notebooks, self.symbols = {}, {}
        for path in (o for folder in ('', 'bench', 'tutorials') for o in sorted((root/'nbs'/folder).glob('*.ipynb'))):
            nb = self.notebooks[path] = nbformat.read(path, 4)
            mod = module_of(nb)
            if mod: self.symbols.update({nm: mod for c in nb.cells for nm in exported(c)})
            self.pages[path] = api_page(mod) if mod else f'tutorials/{path.name}'
        self.github = f'{repository}/blob/{branch}/'

    def link(self, target, source, page, image=False):
        "`target`, as it stands in the file `source`, for the page `page`"
        if target.startswith(self.github): target, source = target.removeprefix(self.github), root/'README.md'
        if re.match(r'\w+:', target): return target
        path, anchor = urldefrag(target)
        path = (source.parent/path).resolve() if path else source
        if not path.exists(): raise SystemExit(f"{source.relative_to(root)}: there is no {target}")
        name = path.relative_to(root)
        if image:
            shutil.copy2(path, self.out/'images'/(flat := '-'.join(name.parts).removeprefix('docs-images-')))
            return os.path.relpath(f'images/{flat}', Path(page).parent)
        anchored = f'#{anchor}' if anchor else ''
        if path in self.pages: return os.path.relpath(self.pages[path], Path(page).parent) + anchored
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

    def page(self, source):
        "A hand-written page"
        page = self.pages[source]
        text = re_toctree.sub(r'\1', read(source)).replace(' ± ', '\u00a0±\u00a0')  # not broken in narrow columns
        text = self.name_symbols(self.links(text, source, page), page)
        if source.stem == 'index': text += ''.join(self.toctree(*o) for o in trees)
        (self.out/page).write_text(text, encoding='utf-8')

    def toctree(self, folder, caption):
        def tree(name, paths):
            pages = '\n'.join(self.pages[o].removesuffix('.ipynb') for o in paths)
            return f'\n```{{toctree}}\n:hidden:\n:caption: {name}\n\n{pages}\n```\n'
        return ''.join(tree(f'{caption}: {group[0].lower()}{group[1:]}' if group else caption, paths)
                       for group, paths in groups(root/'nbs'/folder).items())

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

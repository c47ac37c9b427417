"The site, built as its readers get it: pages, links, pictures, and how it looks in a browser."
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from urllib.parse import unquote, urldefrag, urlparse

import pytest
from helpers import root

pytestmark = pytest.mark.slow

for name in ('sphinx', 'furo', 'myst_nb'): pytest.importorskip(name)
chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')

pages = ['index', 'install', 'start', 'idea', 'entry_points', 'settings', 'training', 'estimators', 'uncertainty', 'when',
         'theory', 'serving', 'recipes', 'bench', 'faq', 'missing', 'results', 'comparison', 'lifecycle', 'origins']
tutorials = sorted(o.stem for o in (root/'nbs'/'tutorials').glob('*.ipynb'))
sources = [o.relative_to(root/'dropconnect_tab').with_suffix('') for o in (root/'dropconnect_tab').rglob('*.py')]
modules = sorted('.'.join(o.parts) for o in sources if o.name[0] != '_' and o.name != 'all')
def api(module): return f"api/{module.replace('.', '/')}"
every = [f'{o}.html' for o in [*pages, *(f'tutorials/{o}' for o in tutorials), *map(api, modules)]]


class Page(HTMLParser):
    "Links, ids, pictures and whatever a page loads"
    def __init__(self, text):
        super().__init__()
        self.hrefs, self.ids, self.images, self.loaded = [], set(), [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        if 'id' in attrs: self.ids.add(attrs['id'])
        if tag == 'a' and 'href' in attrs: self.hrefs.append(attrs['href'])
        if tag == 'img': self.images.append(attrs)
        if tag in ('script', 'img', 'iframe', 'source', 'video') and 'src' in attrs: self.loaded.append(attrs['src'])
        if tag == 'link' and attrs.get('rel') not in ('canonical', 'index', 'search', 'next', 'prev'):
            self.loaded.append(attrs['href'])


def build(*args): return subprocess.run(['bash', root/'docs'/'build.sh', *args], capture_output=True, text=True)


@pytest.fixture(scope='session')
def site(tmp_path_factory):
    "Folder of the built site"
    folder = tmp_path_factory.mktemp('site')
    out = build(folder/'_site', folder/'sources')
    assert out.returncode == 0 and not out.stderr, out.stderr
    return folder/'_site'


@pytest.fixture(scope='session')
def parsed(site):
    return {str(o.relative_to(site)): Page(o.read_text(encoding='utf-8')) for o in site.rglob('*.html')}


def local(target): return not urlparse(target).scheme and not target.startswith('//')


def test_all_pages_are_there(parsed):
    assert set(every) | {'search.html', 'genindex.html'} == set(parsed)
    reachable = {os.path.normpath(unquote(urldefrag(h)[0])) for h in parsed['index.html'].hrefs if local(h)}
    assert set(every) - {'index.html'} <= reachable


def test_no_link_is_broken(parsed, site):
    broken, n = [], 0
    for page, o in parsed.items():
        for href in filter(local, o.hrefs):
            path, anchor = map(unquote, urldefrag(href))
            to = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
            n += 1
            if not (site/to).is_file() or anchor and anchor not in parsed[to].ids: broken.append((page, href))
    assert not broken and n > 1000


def test_links_to_files_of_the_repository_lead_somewhere(parsed):
    to_file = re.compile(r'https://github\.com/.+?/blob/main/([^#]+)')
    files = {m[1] for o in parsed.values() for h in o.hrefs if (m := to_file.match(h))}
    assert len(files) > 20 and not [o for o in files if not (root/o).exists()]


def test_nothing_is_loaded_from_elsewhere(parsed, site):
    assert not [(page, o) for page, p in parsed.items() for o in p.loaded if not local(o)]
    styles = [o.read_text(encoding='utf-8') for o in site.rglob('*.css')]
    assert styles and not [o for s in styles for o in re.findall(r'url\(["\']?(https?:[^)]+)', s)]


def test_pictures_are_there(parsed, site):
    n = {}
    for page, o in parsed.items():
        for img in o.images:
            file = (site/page).parent/unquote(img['src'])
            assert file.stat().st_size > 1000, (page, img)
            if page[:-5] in pages: assert len(img['alt']) > 20, (page, img)
        n[page] = len(o.images)
    assert n['index.html'] == 1 and n['idea.html'] == 4 and n['results.html'] >= 4
    assert n['api/interpret.html'] >= 3 and n['tutorials/bulldozers.html'] >= 2 and n['tutorials/uncertainty.html'] >= 1


@pytest.mark.parametrize('module', modules)
def test_reference_has_every_name_and_argument(module, parsed, site):
    import inspect
    mod, page = import_module(f'dropconnect_tab.{module}'), f'{api(module)}.html'
    text = (site/page).read_text(encoding='utf-8')
    names = [o for o in mod.__all__ if getattr(getattr(mod, o), '__module__', '') == mod.__name__]
    names = [o for o in names if not hasattr(getattr(mod, o), '_fields')]  # named tuples explain themselves
    assert not [o for o in names if f'dropconnect_tab.{module}.{o}' not in parsed[page].ids]
    for o in filter(inspect.isfunction, (getattr(mod, o) for o in names)):
        params = inspect.signature(o).parameters
        assert not [k for k in params if f'>{k}</span>' not in text], o


def test_tutorials_show_what_they_have_found(parsed, site):
    for o in tutorials:
        nb = json.loads((root/'nbs'/'tutorials'/f'{o}.ipynb').read_text(encoding='utf-8'))
        n = sum('image/png' in out.get('data', {}) for c in nb['cells'] for out in c.get('outputs', []))
        assert len(parsed[f'tutorials/{o}.html'].images) == n
        assert 'colab.research.google.com' in (site/f'tutorials/{o}.html').read_text(encoding='utf-8')


@pytest.fixture
def repo(tmp_path):
    "A copy of what the site is made from, to be spoiled"
    for o in ('docs', 'nbs', 'dropconnect_tab', 'results', 'benchmarks'):
        shutil.copytree(root/o, tmp_path/o, ignore=shutil.ignore_patterns('*.json', '*.npz', '*.npy', '__pycache__'))
    for o in ('README.md', 'CONTRIBUTING.md', 'settings.ini'): shutil.copy(root/o, tmp_path/o)
    return tmp_path


@pytest.mark.parametrize('old,new,error', [
    ('(faq.md)', '(faqs.md)', 'docs/index.md: there is no faqs.md'),
    ('(images/idea.png)', '(images/ideas.png)', 'docs/index.md: there is no images/ideas.png'),
])
def test_a_link_to_nothing_stops_the_build(repo, old, new, error):
    page = repo/'docs'/'index.md'
    page.write_text(page.read_text().replace(old, new, 1))
    out = subprocess.run([sys.executable, repo/'docs'/'prepare.py', repo/'sources'], capture_output=True, text=True)
    assert out.returncode == 1 and error in out.stderr


def test_a_folder_that_is_not_a_site_is_left_alone(tmp_path):
    (tmp_path/'thesis.txt').write_text('years of work')
    out = build(tmp_path, tmp_path/'sources')
    assert out.returncode == 1 and 'is not a site' in out.stderr and (tmp_path/'thesis.txt').exists()


# In a browser

checker = '''<!doctype html><title>checking</title><body><script>
const pages = PAGES, found = {}
const wait = ms => new Promise(r => setTimeout(r, ms))
async function look(page, width) {
  const frame = document.createElement('iframe')
  frame.style = `width:${width}px;height:900px`
  const loaded = new Promise(r => frame.onload = r)
  frame.src = page
  document.body.append(frame)
  await loaded
  const doc = frame.contentDocument, win = frame.contentWindow
  for (const img of doc.images) img.loading = 'eager'
  await Promise.all([...doc.images].map(img => img.decode().catch(() => 0)))
  const ground = theme => { doc.body.dataset.theme = theme; return win.getComputedStyle(doc.body).backgroundColor }
  const html = doc.documentElement
  const res = {title: doc.title, heading: !!doc.querySelector('h1, h2'), overflow: html.scrollWidth - html.clientWidth,
    images: [...doc.images].filter(o => !o.naturalWidth).map(o => o.src), light: ground('light'), dark: ground('dark')}
  if (page.startsWith('search')) {
    const summary = () => doc.querySelector('#search-results .search-summary')?.textContent ?? ''
    for (let i = 0; i < 100 && !summary().includes('finished'); i++) await wait(100)
    res.hits = [...doc.querySelectorAll('#search-results li a')].map(o => o.getAttribute('href'))
  }
  frame.remove()
  return res
}
(async () => {
  for (const width of [390, 1280]) for (const page of pages) {
    const key = page + ' ' + width
    try { found[key] = await look(page, width) } catch (e) { found[key] = {error: String(e)} }
  }
  await fetch('/found', {method: 'POST', body: JSON.stringify(found)})
})()
</script>'''


@pytest.fixture(scope='session')
def seen(site):
    "What a browser says of each page, at the width of a phone and of a desk"
    if not chromium: pytest.skip('needs Chromium')
    found, done = {}, threading.Event()

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *args): pass

        def do_GET(self):
            if self.path != '/check': return super().do_GET()
            self.send_response(200)
            self.send_header('Content-Type', 'text/html; charset=utf-8')
            self.end_headers()
            asked = json.dumps([*every, 'search.html?q=weight_p', 'genindex.html'])
            self.wfile.write(checker.replace('PAGES', asked).encode())

        def do_POST(self):
            found.update(json.loads(self.rfile.read(int(self.headers['Content-Length']))))
            self.send_response(204)
            self.end_headers()
            done.set()

    server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Handler, directory=site))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    log = site.parent/'chromium.log'
    args = ['--headless', '--no-sandbox', '--disable-gpu', '--enable-logging=stderr', '--remote-debugging-port=0',
            f'--user-data-dir={site.parent/"chromium"}', f'http://127.0.0.1:{server.server_port}/check']
    with log.open('w') as f: browser = subprocess.Popen([chromium, *args], stderr=f, stdout=f)
    try: assert done.wait(300), log.read_text()[-2000:]
    finally:
        browser.terminate()
        browser.wait()
        server.shutdown()
    return found, log.read_text(errors='replace')


def test_every_page_loads_without_an_error(seen):
    found, log = seen
    assert len(found) == 2*(len(every)+2) and not [o for o in found.items() if 'error' in o[1]]
    assert not {k: o for k, o in found.items() if not o['heading'] or not o['title'] or o['images']}
    assert not re.findall(r'.*CONSOLE.*', log)


def test_a_phone_need_not_scroll_sideways(seen):
    assert not {k: o['overflow'] for k, o in seen[0].items() if o['overflow'] > 0}


def test_light_and_dark(seen):
    def brightness(rgb): return sum(map(int, re.findall(r'\d+', rgb)[:3]))/3
    assert all(brightness(o['light']) > 200 and brightness(o['dark']) < 60 for o in seen[0].values())


def test_search_finds_an_argument(seen):
    hits = seen[0]['search.html?q=weight_p 1280']['hits']
    assert any('api/learner.html' in o for o in hits) and any('faq.html' in o for o in hits)

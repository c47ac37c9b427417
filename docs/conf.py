"Configuration of the site for Sphinx; its sources are what prepare.py writes"
import re
from configparser import ConfigParser
from pathlib import Path

root = Path(__file__).resolve().parent.parent
cfg = ConfigParser()
cfg.read(root/'settings.ini', encoding='utf-8')
project = 'dropconnect_tab'
author = copyright = cfg['DEFAULT']['author']
version = release = re.search(r"__version__ = ['\"](.+?)['\"]", (root/project/'__init__.py').read_text())[1]

extensions = ['myst_nb']
exclude_patterns = ['.build']
nb_execution_mode = 'off'              # pages show stored outputs
nb_ipywidgets_js = {}                  # would be loaded from the net
nb_merge_streams = True
nb_output_stderr = 'remove'           # warnings of libraries
nb_render_markdown_format = 'gfm'      # tables in outputs
myst_heading_anchors = 4
myst_enable_extensions = ['attrs_inline']
add_module_names = False
python_maximum_signature_line_length = 90
toc_object_entries_show_parents = 'hide'

html_theme = 'furo'
html_title = project
html_static_path = ['_static']
html_css_files = ['site.css']
html_copy_source = html_show_sourcelink = False
html_theme_options = dict(navigation_with_keys=True)
pygments_style, pygments_dark_style = 'friendly', 'monokai'

"The three commands, also without installed scripts: `python -m dropconnect_tab.bench bulldozers|arena|report ...`"
import re
import sys

from .files import read_description

USAGE = "usage: python -m dropconnect_tab.bench bulldozers|arena|report ...: the first word says which command"


def bulldozers(args=None):
    from .cli import bulldozers_main
    bulldozers_main(args)


def arena(args=None):
    "What is wrong with a description is said before the import of what would train on it, which takes seconds"
    for o in sys.argv[1:] if args is None else args:
        try: o.endswith('.toml') and read_description(re.sub('^--[a-z]+=', '', o))
        except ValueError as e:
            print(f"dropconnect-arena: {e}", file=sys.stderr)
            sys.exit(2)
    from .cli import arena_main
    arena_main(args)


def report(args=None):
    from .cli import report_main
    report_main(args)


def main(args):
    command = dict(bulldozers=bulldozers, arena=arena, report=report).get(args[0] if args else '')
    command(args[1:]) if command else sys.exit(USAGE)


if __name__ == '__main__': main(sys.argv[1:])

"The three commands without their installed scripts: `python -m dropconnect_tab.bench bulldozers|arena|report ...`"
import sys

from .cli import arena_main, bulldozers_main, report_main

COMMANDS = dict(bulldozers=bulldozers_main, arena=arena_main, report=report_main)


def main(args):
    if not args or args[0] not in COMMANDS:
        sys.exit(f"usage: python -m dropconnect_tab.bench {'|'.join(COMMANDS)} ...: the first word says which command")
    COMMANDS[args[0]](args[1:])


if __name__ == '__main__': main(sys.argv[1:])

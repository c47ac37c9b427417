"""What a piece of work adds to the memory of this process."""
import sys
from pathlib import Path


def added_mb(work):
    "MB that `work()` adds to this process: when it is done, and at its peak"
    status = Path('/proc/self/status')
    if not status.exists(): sys.exit("memory on a CPU is measured on Linux only")

    def mb(key): return int(next(o for o in status.read_text().splitlines() if o.startswith(key)).split()[1])/2**10
    Path('/proc/self/clear_refs').write_text('5')  # the peak is counted from here
    before = mb('VmRSS')
    kept = work()  # what it returns is still there when it is done
    done = mb('VmRSS'), mb('VmHWM')
    del kept
    return tuple(o-before for o in done)

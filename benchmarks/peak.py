"""Run a command and say how long it took and how much memory the machine used more than before: `peak.py COMMAND…`.

The whole machine is looked at, since Ray's and vLLM's processes are not children of the command.
"""

import subprocess
import sys
import time

import psutil

started, before = time.perf_counter(), psutil.virtual_memory().available
process = subprocess.Popen(sys.argv[1:])
lowest = before
while process.poll() is None:
    lowest = min(lowest, psutil.virtual_memory().available)
    time.sleep(0.5)
print(f"{time.perf_counter() - started:.0f} s, peak memory {(before - lowest) / 1e9:.1f} GB", file=sys.stderr)
sys.exit(process.returncode)

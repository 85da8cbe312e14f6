import platform
import subprocess
import sys

import pytest

from wss_data.runtime.heap import freed_memory_kept

glibc = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="asks glibc")

# In a process of its own: what other tests left in the heap would be reused.
FAULTS = """
import ctypes, resource
from wss_data.runtime.heap import freed_memory_kept

library = ctypes.CDLL(None)
library.malloc.restype, library.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
library.free.argtypes = [ctypes.c_void_p]

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    block = library.malloc(100_000_000)
    ctypes.memset(block, 1, 100_000_000)
    library.free(block)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident():
    pages = int(open("/proc/self/statm").read().split()[1])
    return pages * resource.getpagesize()

outside = [faults(), faults()]
before = resident()
with freed_memory_kept():
    with freed_memory_kept():
        inside = [faults()]
    inside += [faults(), faults()]
    kept = resident()
given_back = resident()
print(min(outside), max(inside[1:]), min(faults(), faults()), kept - before > 90e6, given_back - before < 9e6)
"""


@glibc
def test_a_block_that_is_freed_and_taken_again_costs_no_new_pages_and_is_given_back_in_the_end():
    done = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True)
    outside, inside, after, kept, given_back = done.stdout.split()

    assert int(outside) > 100 and int(after) > 100  # some 24,000, or 48 where pages are large
    assert int(inside) < 20
    assert (kept, given_back) == ("True", "True")


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr("wss_data.runtime.heap.ctypes.CDLL", lambda _: object())

    with freed_memory_kept():
        pass


def test_an_error_in_the_block_comes_through():
    with pytest.raises(KeyError), freed_memory_kept():
        raise KeyError

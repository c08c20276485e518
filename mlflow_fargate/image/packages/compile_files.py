"""A program, not a module: compiles Python files with the interpreter that runs it. Standard library only.

    python -I compile_files.py < JSON [[source, compiled, place in the image], …]

What does not compile (templates, code for other Pythons) is passed over, as pip does.
"""

from __future__ import annotations

import json
import os
import py_compile
import sys
from concurrent.futures import ProcessPoolExecutor


def compile_file(task: list[str]) -> None:
    source, compiled, place = task
    try:
        # Unchecked: no times inside, none to compare with the layer's fixed ones, and no look at the source at start.
        # `place` is what tracebacks and __file__ name, so that the bytes do not depend on where this is done.
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(source, cfile=compiled, dfile=place, doraise=True, invalidation_mode=mode)
    except (py_compile.PyCompileError, ValueError, RecursionError, MemoryError):
        return


if __name__ == "__main__":
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_file, json.load(sys.stdin), chunksize=32))

"""A program, not a module: compiles Python files with the interpreter that runs it. Standard library only.

    python -I compile_files.py < JSON [[source, compiled, path in the image], …]

Files that do not compile (templates, code for other Python versions) are skipped, as in pip.
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
        # Unchecked: contains no time, is not compared with the layer's fixed times, and needs no source at start.
        # `place` is the path in tracebacks and __file__, so the bytes do not depend on where they are compiled.
        mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
        py_compile.compile(source, cfile=compiled, dfile=place, doraise=True, invalidation_mode=mode)
    except (py_compile.PyCompileError, ValueError, RecursionError, MemoryError):
        return


if __name__ == "__main__":
    with ProcessPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(compile_file, json.load(sys.stdin), chunksize=32))

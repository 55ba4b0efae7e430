"""Fuzzing of everything that reads what strangers wrote: `python -m tests.fuzz TARGET --seconds 60`.

1. A target is a module with `SEEDS`, well-formed inputs to start from; `TOKENS`, words of its language; and
   `try_one(data)`, which raises when a promise is broken. What it promises stands in its docstring.
2. Where atheris is installed it guides the search by coverage; elsewhere a plain mutator searches the same targets.
3. An input that breaks a promise is left in `build/fuzz/`. Once the fault is mended it goes to `tests/hostile/broke/`,
   where every run of the test-suite reads it again.
"""

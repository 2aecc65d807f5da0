"""Fuzzing: mutated inputs for every decoder and every boundary that a stranger can reach.

    seeds ─▶ mutation ─▶ target.run ─▶ an outcome, or an exception
      ▲                     │               │
      └── new outcomes ─────┘               └─▶ shrinking ─▶ regressions/<target>/<hash>

``scripts/fuzz`` runs without an end; ``test_fuzz.py`` runs each target for a moment with a fixed seed, and
every input that has ever failed. A target's oracle is more than *it does not raise*: ``target.py`` has the
rules.

Why a mutator of our own:

- *hypothesis* is what the unit tests use, and builds valid values from strategies. It is slow at bytes (some
  hundred examples a second), and its budget is a number of examples and not an hour.
- *atheris* (libFuzzer) has wheels for Python 3.11 and works. Its guidance is the coverage of Python's
  bytecode. What decodes here is C and Rust (msgspec, msgpack, zlib, SQLite, httptools, wasmtime), which it
  does not see unless all of them are built anew with a sanitizer. A wheel of 35 MB for what is left is a
  poor bargain.
- What guides this one instead is the *outcome*: the words with which an input was refused or accepted,
  without its numbers. Each check has a sentence of its own, so a sentence that was not heard before is a
  branch that was not taken before, in C as well. Its input joins the corpus. That costs nothing and needs no
  instrumentation.
- Structure matters more than guidance: a random byte hardly ever gets behind a checksum, a signature or a
  compressed body. A target's ``Codec`` opens an input, and what was changed inside is sealed again.
"""

"""WebAssembly guests: the engine, the ABI, and what a handler has done so far."""

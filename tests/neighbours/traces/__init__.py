"""A project that is traced: TRACER names the package, and what it would send goes to the file EVENTS, a line each."""

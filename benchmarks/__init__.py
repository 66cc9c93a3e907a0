"""Side-by-side measurements of the broker. Run `python -m benchmarks`."""

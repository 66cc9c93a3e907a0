"""Side-by-side measurements of the broker. Run them with `python -m benchmarks`."""

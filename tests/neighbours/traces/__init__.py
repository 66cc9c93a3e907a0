"""A traced project: TRACER names the package, which writes its events to the file EVENTS, one per line."""

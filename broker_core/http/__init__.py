"""Rules of HTTP over plain values: preferences, content codings, hop-by-hop fields, names of credentials."""

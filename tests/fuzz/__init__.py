"""Mutated input of every kind that comes from outside: messages, tokens, header fields, stored results.

FUZZ_EXAMPLES says how many examples each test tries (25; five times as many without input and output),
FUZZ_AT_LEAST how many all together have to be. A run side by side does not count them.
"""

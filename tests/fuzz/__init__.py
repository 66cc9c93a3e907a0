"""Mutated input of every kind that comes from outside: messages, tokens, header fields, stored results.

FUZZ_EXAMPLES says how many examples each test tries (200), FUZZ_AT_LEAST how many all together have to be.
"""

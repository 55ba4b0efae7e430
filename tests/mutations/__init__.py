"""Bugs planted on purpose, and the tests that have to find them.

A suite that stays green with a broken hand-over proves nothing. Each mutation is one small change of the product, of
the kind that other systems ship, with the named tests that must fail on it.
"""

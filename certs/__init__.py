"""A small certificate authority: no network, no clock, no database. Nothing asks for it yet."""

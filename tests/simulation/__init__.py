"""The service's own code in a world made of one number (F-3).

The real `Provisioner`, `Jobs`, `Administration`, store and SQL text, the real messages and the reference device run
here on one thread, in virtual time, against everything that may go wrong. A seed decides all of it: who speaks when,
what the network, the disk, the device broker, the clock and the operator do, and which bytes are drawn as random. So a
run that breaks a rule is a number, and that number breaks it again: `python -m tests.simulation --seed N` tells the
story.

Why, when there is a model check? That one explores every interleaving of a model of the protocol, this one some
interleavings of the code itself, with its SQL, its batches, its leases and its time. Price: what is written here has to
stay deterministic (no set of texts is walked through, nothing asks the system for time, order or entropy), and sockets
and threads are left to the tests with real ones.

From the inside out: `loop` (virtual time), `weather` (how often each fault strikes), `disk` (SQLite in memory that
fails on cue), `rules` (what must hold after each step), `brokers` (where devices work), `service` (a process that can
be killed), `network`, `unit` (a device that loses power), `thief`, `operator`, and `world`, which is one run.
"""

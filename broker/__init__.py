"""Every edge: packets, topics, HTTP, the command line, processes, other people's brokers.

Whatever meets the outside is here, so that the decision (`provisioner`) can be read, tested and simulated without it.
The arrow is `broker -> provisioner -> certs`, kept by a test. Start at `__main__.py`; `app.py` puts the parts together
and is the only reader of `config`: a part that took the settings object would know of settings that are none of its
business, and could not be built in a test from three plain values. The price is a few lines of hand-over there.
"""

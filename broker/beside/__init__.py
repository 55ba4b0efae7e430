"""Beside the broker somebody already runs: what it has to be told (`setup`), and whether it does it (`doctor`).

Every broker says "who may read and write which topic" in words of its own, and none of them tells a client the truth
about it: a SUBACK or PUBACK may be given for what is then not done. So the doctor believes nothing but messages that
arrive, and the templates are held to be right only because it was run against them. The price is a few dozen short
connections with the provision account each time the bridge connects.
"""

"""A small certificate authority: no network, no clock, no database.

Why pure functions. A certificate here is a function of its `Order` and the issuer's key: times come in as parameters,
randomness went into the order's serial, and ECDSA signs deterministically (RFC 6979). So the caller commits the order,
then asks for the certificate, then commits that; whoever crashes in between asks again and gets the same bytes, and no
serial ever stands on two different certificates. The price is that nothing here can remember: which serials are used,
revoked or whose key is whose, the caller's ledger knows.

Why two issuers. What a device authority must never do is to speak for a server. Its certificate says so twice: its
extended key usage is `clientAuth` alone, and a critical name constraint excludes every IP address. Chains for servers
cannot carry such a constraint by default, because mbedTLS, which many devices verify servers with, refuses every chain
that has one. `hierarchy.py` tells which constraints OpenSSL, GnuTLS and RFC 5280 agree on, and which they do not.

Only `keystore.py` touches the disk.
"""

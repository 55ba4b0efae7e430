"""How fast it is, beside a yardstick measured in the same run.

Why a yardstick: rates on a shared machine say more about the neighbours than about the program. The null endpoint has
the same sockets, the same MQTT and the same loop but a constant answer, so the ratio of whole hand-overs to its cycles
is what the store, the proofs, the sealing and the device broker cost. Rounds alternate, so that a noisy minute hits
both.

The price: the generator computes its proofs before the clock starts and checks what it got after it stopped, so that
its own arithmetic, which a fleet spreads over thousands of devices, does not count as the server's.
"""

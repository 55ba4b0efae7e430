"""Simulated devices, written from the wire contract alone.

Why a second implementation of proofs, sealing and replies, when `provisioner.handover` has one? Because a device that
shared that code could not disagree with it. Nothing here imports anything of ours but the packet codec, so what the
fleet can do, any firmware that follows the contract can do, and a slip on either side shows as a failed hand-over. The
price is a few hundred lines said twice.

One unit, from the inside out: `keys` (what the activation key is good for), `replies` (bytes to values), `flash` (two
slots), `device` (the pure state machine: no socket, no clock, no randomness of its own), `link` (one MQTT connection),
`unit` (a device with its links under the event loop's clock), `swarm` (many units at once, and their figures). Beside
them `faults`: the network as it is on a bad day, to put between devices and a server.
"""

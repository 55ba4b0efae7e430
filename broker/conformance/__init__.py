"""Does this firmware keep the contract? `provisioner check-device` plays both brokers to one real device.

Why not the real service with a proxy in between? Because most of what goes wrong in the field is what a good service
never does: replies withheld, doubled, late, sealed wrongly, far too large, and power that fails in the middle. A bench
that says exactly what a story wants needs no luck to see it. The price is a second, small server; how messages are
read, proved and sealed it shares with the real one.

From the inside out: `line` (one connection of the device), `bench` (both listeners and what was seen on them),
`answers` (messages to values, values to replies, good and bad), `power` (who switches the device), `sheet` (checks and
how they came out), `story` (what the three stories share: `orderly`, `hostile`, `cuts`), `examination` (all of it).
"""

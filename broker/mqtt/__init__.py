"""Everything that speaks MQTT: our own provisioning endpoint, the bridge to other brokers, the guarded device broker.

Why an MQTT server of our own, where brokers abound: a provisioning session is CONNECT, SUBSCRIBE, one claim, one reply,
and its login is assumed to be known to everybody. No broker tells which *connection* a message came from, so behind one
the client id in a topic is only as true as its ACL; on our own endpoint it is the connection's, and the reply goes back
there and nowhere else. The price is a codec and a session state machine to keep correct. Both are therefore free of
sockets and clocks (`packets`, `protocol`), tested as conversations, and driven by other people's clients as well.
"""

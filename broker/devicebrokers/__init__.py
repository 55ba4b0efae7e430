"""Putting credentials into a device broker, seeing them there, taking them out, and closing their sessions.

Why a folder: one file per kind of broker, all behind `provisioner.ports.DeviceBroker`, so the decision about a device
does not know which broker it will work on. Price: a broker's finer abilities show only as far as the port has words.

Why names of ours begin with `p.`: other people's users are in the same list, and what does not have that form is never
touched. Price: one provisioner a broker; two would take each other's names out.

Why changes are gathered (`batches`): a broker's list is rewritten, or its API called, once for all that wait. Price: a
claim waits for the write under way, and then for its own.

Why rights are written for each credential and not as one pattern with the client id in it: where a broker does not bind
client ids, whoever connects under another's id would get that one's topics. Price: Mosquitto looks through its ACL file
name by name, so its files suit thousands of devices and not hundreds of thousands.
"""

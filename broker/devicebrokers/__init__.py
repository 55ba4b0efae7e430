"""Putting credentials into a device broker, seeing them there, taking them out, and closing their sessions.

Why a folder: one file per kind of broker, all behind `provisioner.ports.DeviceBroker`, so the decision about a device
does not know which broker it will work on. Price: a broker's finer abilities show only as far as the port has words.
"""

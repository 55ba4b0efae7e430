"""What strangers send: a corpus of payloads and client ids that nobody may take, and inputs that once broke something.

Everything here was written from the wire contract alone; nothing of the program takes part in saying what is hostile.
"""

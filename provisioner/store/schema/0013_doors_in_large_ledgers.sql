-- What the doors ask for must not read a whole ledger: whoever reads holds up those who claim.
CREATE INDEX request_enclosing ON request (phase) WHERE attachments IS NOT NULL;
CREATE INDEX credential_loose ON credential (device_broker, username)
    WHERE coupling = 'LOOSE' AND bound_to IS NULL AND state = 'CONFIRMED';
CREATE INDEX request_registered_in ON request (id) WHERE record IS NOT NULL;

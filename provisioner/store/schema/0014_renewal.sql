-- When a device should ask for its next certificate: known when it is ordered, and never looked up again.
ALTER TABLE credential ADD COLUMN renew_on INTEGER;
UPDATE credential SET renew_on = k.not_before + (k.not_after - k.not_before) * 2 / 3 FROM certificate k
 WHERE k.device_broker = credential.device_broker AND k.client_id = credential.client_id
   AND k.generation = credential.generation;

-- What the ledger knows of the keys it is sealed under, and of having been copied.

-- `key_id` tells one key from another and opens nothing; an epoch's number is never used again.
CREATE TABLE vault_key (
    epoch   INTEGER PRIMARY KEY,
    key_id  TEXT NOT NULL,
    made_on INTEGER NOT NULL,
    state   TEXT NOT NULL
);

-- One row. `pass_position`: how far a rotation got, JSON. `copied_on`: only in a backup, and until the first start on it.
-- `generation_floor`: whatever was minted up to it may be known to a lost ledger alone, so it is not minted again.
CREATE TABLE ledger (
    only_row         INTEGER PRIMARY KEY CHECK (only_row = 1),
    pepper_id        TEXT,
    pass_position    TEXT,
    copied_on        INTEGER,
    generation_floor INTEGER NOT NULL
);
INSERT INTO ledger VALUES (1, NULL, NULL, NULL, 0);

-- What is sealed anew is sealed under the newest key, so one pass of a rotation finds all that is older.
CREATE TRIGGER request_added_under_former_key BEFORE INSERT ON request
WHEN CAST(NEW.keys_sealed AS INTEGER) < (SELECT max(epoch) FROM vault_key)
BEGIN
    SELECT RAISE(ABORT, 'sealed under a former key');
END;
CREATE TRIGGER request_sealed_under_former_key BEFORE UPDATE OF keys_sealed ON request
WHEN NEW.keys_sealed IS NOT OLD.keys_sealed
 AND CAST(NEW.keys_sealed AS INTEGER) < (SELECT max(epoch) FROM vault_key)
BEGIN
    SELECT RAISE(ABORT, 'sealed under a former key');
END;
CREATE TRIGGER credential_sealed_under_former_key BEFORE INSERT ON credential
WHEN CAST(NEW.secret_sealed AS INTEGER) < (SELECT max(epoch) FROM vault_key)
 AND NOT EXISTS (SELECT 1 FROM credential
                  WHERE device_broker = NEW.device_broker AND client_id = NEW.client_id
                    AND generation = NEW.generation)
BEGIN
    SELECT RAISE(ABORT, 'sealed under a former key');
END;

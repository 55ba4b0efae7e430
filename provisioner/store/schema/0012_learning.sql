-- From loose to tight: which client ids use each loose credential, and which one it was bound to.
CREATE TABLE sighting (
    device_broker TEXT NOT NULL,
    username      TEXT NOT NULL,
    client_id     TEXT NOT NULL,
    first_on      INTEGER NOT NULL,
    last_on       INTEGER NOT NULL,
    PRIMARY KEY (device_broker, username, client_id)
) WITHOUT ROWID;

CREATE TABLE locking (
    id        INTEGER PRIMARY KEY,
    locked_on INTEGER NOT NULL,
    locked_by INTEGER NOT NULL,
    undone_on INTEGER
);

CREATE TABLE locked (
    locking_id    INTEGER NOT NULL REFERENCES locking (id),
    account_id    INTEGER NOT NULL,
    device_broker TEXT NOT NULL,
    username      TEXT NOT NULL,
    client_id     TEXT NOT NULL,
    PRIMARY KEY (locking_id, device_broker, username)
) WITHOUT ROWID;

-- The one client id that may use a loose credential; NULL: any that is free.
ALTER TABLE credential ADD COLUMN bound_to TEXT;
CREATE UNIQUE INDEX credential_bound ON credential (device_broker, bound_to)
    WHERE bound_to IS NOT NULL AND state = 'CONFIRMED';

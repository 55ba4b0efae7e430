-- What a request is told onwards with: tags, places, policy, confirmed ownership.

CREATE TABLE label (
    uid        TEXT PRIMARY KEY,
    kind       TEXT NOT NULL,
    account_id INTEGER REFERENCES account (id),
    name       TEXT NOT NULL,
    created_on INTEGER NOT NULL,
    created_by INTEGER NOT NULL
) WITHOUT ROWID;
CREATE UNIQUE INDEX label_by_name ON label (kind, coalesce(account_id, 0), name);

-- JSON, see `labels`; NULL: none.
ALTER TABLE request ADD COLUMN labels TEXT;

-- One unit, one open request: who has the same serial number, or the same MAC address in another spelling?
CREATE INDEX request_by_serial ON request (serial_number) WHERE serial_number IS NOT NULL;
CREATE INDEX request_by_mac ON request (upper(replace(replace(replace(mac_address, ':', ''), '-', ''), '.', '')))
    WHERE mac_address IS NOT NULL;

-- EnOS's registration groups and the schemas of their master data.
CREATE TABLE master_data_group (
    id         TEXT PRIMARY KEY,
    account_id INTEGER NOT NULL REFERENCES account (id),
    name       TEXT NOT NULL,
    schema     TEXT NOT NULL
) WITHOUT ROWID;

CREATE TABLE registration_group (
    id                TEXT PRIMARY KEY,
    account_id        INTEGER NOT NULL REFERENCES account (id),
    name              TEXT NOT NULL,
    master_data_group TEXT,
    product_key       TEXT NOT NULL,
    region_id         TEXT NOT NULL,
    policy_uid        TEXT NOT NULL,
    reprovisioning    TEXT NOT NULL,
    batches           INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

-- What EnOS keeps of a device beside its request, JSON: see `dps`.
ALTER TABLE request ADD COLUMN record TEXT;
CREATE INDEX request_registered ON request (serial_number, id) WHERE record IS NOT NULL;

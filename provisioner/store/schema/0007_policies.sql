-- Policies: named sets of rules, a row a version, kept for ever: requests say which one they were made by.
CREATE TABLE policy (
    uid        TEXT NOT NULL,
    version    INTEGER NOT NULL,
    account_id INTEGER REFERENCES account (id),
    name       TEXT NOT NULL,
    rules      TEXT NOT NULL,
    created_on INTEGER NOT NULL,
    created_by INTEGER NOT NULL,
    PRIMARY KEY (uid, version)
) WITHOUT ROWID;

-- Which version counts now; a deleted policy has none.
CREATE TABLE policy_in_force (
    uid        TEXT PRIMARY KEY,
    version    INTEGER NOT NULL,
    account_id INTEGER,
    name       TEXT NOT NULL,
    FOREIGN KEY (uid, version) REFERENCES policy (uid, version)
) WITHOUT ROWID;
CREATE UNIQUE INDEX policy_by_name ON policy_in_force (coalesce(account_id, 0), name);

-- JSON, see `topics`; NULL: the device's own ones. `validity`: milliseconds after which a proved credential is renewed.
ALTER TABLE request ADD COLUMN topics TEXT;
ALTER TABLE request ADD COLUMN validity INTEGER;
ALTER TABLE credential ADD COLUMN topics TEXT;

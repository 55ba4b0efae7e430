-- Every statement of the store, by name. Parameters are :named; {request} and {credential} stand for the column lists
-- of those tables in the order of their values, prefixed with r. and c.

-- name: find_claims
-- A batch of claims: [[user, clientId, requestId], …] as JSON; all of the answer in one row.
SELECT json_group_array(json_array(j.key, {request}, {credential}, b.generation,
       max((SELECT generation_floor FROM ledger), coalesce((SELECT max(generation) FROM credential
            WHERE device_broker = r.device_broker AND client_id = r.client_id), 0)),
       (SELECT count(*) FROM credential o
         WHERE o.device_broker = r.device_broker AND o.client_id = r.client_id AND o.state != 'RETIRED'
           AND (o.request_id != r.id OR (o.generation != r.generation AND o.generation IS NOT r.proved_generation)))))
  FROM json_each(:batch) j
  JOIN provision_user u ON u.username = json_extract(j.value, '$[0]')
  JOIN request r ON r.id = (SELECT max(id) FROM request
                             WHERE provision_user_id = u.id AND client_id = json_extract(j.value, '$[1]'))
  JOIN account a ON a.id = r.account_id
  LEFT JOIN credential c ON c.device_broker = r.device_broker AND c.client_id = r.client_id
                        AND c.generation = r.generation AND c.request_id = r.id
  LEFT JOIN bound_request_id b ON b.request_id = r.id AND b.text = json_extract(j.value, '$[2]');

-- name: find_request
SELECT 0, {request}, {credential}, NULL,
       max((SELECT generation_floor FROM ledger), coalesce((SELECT max(generation) FROM credential
            WHERE device_broker = r.device_broker AND client_id = r.client_id), 0)),
       (SELECT count(*) FROM credential o
         WHERE o.device_broker = r.device_broker AND o.client_id = r.client_id AND o.state != 'RETIRED'
           AND (o.request_id != r.id OR (o.generation != r.generation AND o.generation IS NOT r.proved_generation)))
  FROM request r
  JOIN provision_user u ON u.id = r.provision_user_id
  JOIN account a ON a.id = r.account_id
  LEFT JOIN credential c ON c.device_broker = r.device_broker AND c.client_id = r.client_id
                        AND c.generation = r.generation AND c.request_id = r.id
 WHERE r.id = :id;

-- name: find_usernames
-- A batch of device logins: [[device broker, user name], …] as JSON; all of the answer in one row.
SELECT json_group_array(json_array(j.key, {credential}))
  FROM json_each(:batch) j
  JOIN credential c ON c.device_broker = json_extract(j.value, '$[0]') AND c.username = json_extract(j.value, '$[1]');

-- name: find_credentials
SELECT {credential} FROM credential c WHERE c.request_id = :id AND c.state != 'RETIRED' ORDER BY c.generation;

-- name: find_live
SELECT {credential} FROM credential c
 WHERE c.device_broker = :device_broker AND c.username > :after AND c.state IN ('INSTALLED', 'OFFERED', 'CONFIRMED')
 ORDER BY c.username LIMIT :limit;

-- name: find_open
SELECT {request} FROM request r
  JOIN provision_user u ON u.id = r.provision_user_id
  JOIN account a ON a.id = r.account_id
 WHERE r.device_broker = :device_broker AND r.client_id = :client_id
   AND r.phase NOT IN ('EXPIRED', 'ABANDONED', 'STOPPED', 'FAILED')
 ORDER BY r.id;

-- name: find_twin
-- An open request of another client id for the same unit: the same MAC address, or the same serial number of the same
-- model, or of no model within the account.
SELECT {request} FROM request r
  JOIN provision_user u ON u.id = r.provision_user_id
  JOIN account a ON a.id = r.account_id
 WHERE r.client_id != :client_id AND r.phase NOT IN ('EXPIRED', 'ABANDONED', 'STOPPED', 'FAILED')
   AND r.id IN (
       SELECT id FROM request WHERE serial_number = :serial AND model IS :model
          AND CASE WHEN :model IS NULL THEN account_id = :account_id ELSE coalesce(vendor, brand) IS :maker END
       UNION ALL
       SELECT id FROM request WHERE mac_address IS NOT NULL
          AND upper(replace(replace(replace(mac_address, ':', ''), '-', ''), '.', '')) = :mac)
 LIMIT 1;

-- name: add_label
INSERT INTO label (uid, kind, account_id, name, created_on, created_by)
VALUES (:uid, :kind, :account_id, :name, :created_on, :created_by);

-- name: list_labels
SELECT uid, kind, account_id, name, created_on, created_by FROM label
 WHERE (:kind IS NULL OR kind = :kind) AND (:uids IS NULL OR uid IN (SELECT value FROM json_each(:uids)))
 ORDER BY created_on, uid;

-- name: delete_label
DELETE FROM label WHERE uid = :uid RETURNING uid;

-- name: add_master_data_group
INSERT INTO master_data_group (id, account_id, name, schema) VALUES (:id, :account_id, :name, :schema);

-- name: find_master_data_groups
SELECT id, account_id, name, schema FROM master_data_group WHERE :id IS NULL OR id = :id ORDER BY name, id;

-- name: delete_master_data_group
DELETE FROM master_data_group WHERE id = :id;

-- name: add_registration_group
INSERT INTO registration_group (id, account_id, name, master_data_group, product_key, region_id, policy_uid, reprovisioning)
VALUES (:id, :account_id, :name, :master_data_group, :product_key, :region_id, :policy_uid, :reprovisioning);

-- name: find_registration_groups
SELECT id, account_id, name, master_data_group, product_key, region_id, policy_uid, reprovisioning
  FROM registration_group WHERE :id IS NULL OR id = :id ORDER BY name, id;

-- name: delete_registration_group
DELETE FROM registration_group WHERE id = :id;

-- name: next_batch
UPDATE registration_group SET batches = batches + 1 WHERE id = :id RETURNING batches;

-- name: find_registered_as
SELECT {request} FROM request r
  JOIN provision_user u ON u.id = r.provision_user_id
  JOIN account a ON a.id = r.account_id
 WHERE r.record IS NOT NULL AND r.serial_number IN (SELECT value FROM json_each(:sns))
   AND (:accounts IS NULL OR r.account_id IN (SELECT value FROM json_each(:accounts))) AND {fits}
 ORDER BY r.id DESC LIMIT :limit OFFSET :offset;

-- name: find_registered
SELECT {request} FROM request r
  JOIN provision_user u ON u.id = r.provision_user_id
  JOIN account a ON a.id = r.account_id
 WHERE r.record IS NOT NULL
   AND (:accounts IS NULL OR r.account_id IN (SELECT value FROM json_each(:accounts))) AND {fits}
 ORDER BY r.id DESC LIMIT :limit OFFSET :offset;

-- name: find_times
SELECT request_id, max(CASE WHEN phase = 'CONFIRMED' AND before IS NOT 'CONFIRMED' THEN at END),
       max(CASE WHEN phase IN ('EXPIRED', 'ABANDONED', 'STOPPED', 'FAILED') AND before IS NOT phase THEN at END)
  FROM journal WHERE request_id IN (SELECT value FROM json_each(:ids)) GROUP BY request_id;

-- name: add_piece
INSERT INTO attachment_piece (attachment_id, number, content) VALUES (:id, :number, :content);

-- name: read_piece
SELECT content FROM attachment_piece WHERE attachment_id = :id AND number = :number;

-- name: add_attachment
INSERT INTO attachment (id, account_id, name, size, sha256, created_on, created_by)
VALUES (:id, :account_id, :name, :size, :sha256, :created_on, :created_by);

-- name: find_attachments
SELECT id, account_id, name, size, sha256, created_on, created_by FROM attachment
 WHERE :ids IS NULL OR id IN (SELECT value FROM json_each(:ids)) ORDER BY created_on, id;

-- name: delete_attachment
DELETE FROM attachment WHERE id = :id AND NOT EXISTS (
       SELECT 1 FROM request r, json_each(r.attachments) e
        WHERE r.attachments IS NOT NULL AND r.phase NOT IN ('EXPIRED', 'ABANDONED', 'STOPPED', 'FAILED')
          AND json_extract(e.value, '$.id') = :id)
RETURNING id;

-- name: delete_pieces
DELETE FROM attachment_piece WHERE attachment_id = :id;

-- name: delete_stray_pieces
DELETE FROM attachment_piece WHERE attachment_id NOT IN (SELECT id FROM attachment);

-- name: is_used
SELECT 1 FROM used_ticket WHERE nonce = :nonce;

-- name: add_used
INSERT INTO used_ticket (nonce, expires_on) VALUES (:nonce, :expires_on);

-- name: delete_used
DELETE FROM used_ticket WHERE expires_on <= :now;

-- name: add_policy
INSERT INTO policy (uid, version, account_id, name, rules, created_on, created_by)
VALUES (:uid, :version, :account_id, :name, :rules, :created_on, :created_by);

-- name: put_policy_in_force
INSERT INTO policy_in_force (uid, version, account_id, name) VALUES (:uid, :version, :account_id, :name)
ON CONFLICT (uid) DO UPDATE SET version = excluded.version, name = excluded.name;

-- name: find_policies
SELECT p.uid, p.version, p.account_id, p.name, p.rules, p.created_on, p.created_by
  FROM policy p LEFT JOIN policy_in_force f ON f.uid = p.uid AND f.version = p.version
 WHERE (:uid IS NULL OR p.uid = :uid) AND (p.version = :version OR (:version IS NULL AND f.uid IS NOT NULL))
 ORDER BY p.name, p.uid;

-- name: delete_policy
DELETE FROM policy_in_force WHERE uid = :uid;

-- name: holds_client_id
SELECT 1 FROM credential WHERE device_broker = :device_broker AND client_id = :client_id
   AND request_id != :but_for AND state != 'RETIRED'
UNION ALL
SELECT 1 FROM credential WHERE device_broker = :device_broker AND bound_to = :client_id
   AND request_id != :but_for AND state = 'CONFIRMED' LIMIT 1;

-- name: add_sighting
INSERT INTO sighting (device_broker, username, client_id, first_on, last_on)
SELECT :device_broker, :username, :client_id, :at, :at
 WHERE EXISTS (SELECT 1 FROM sighting WHERE device_broker = :device_broker AND username = :username
                                        AND client_id = :client_id)
    OR (SELECT count(*) FROM sighting WHERE device_broker = :device_broker AND username = :username) < :most
ON CONFLICT DO UPDATE SET last_on = max(last_on, excluded.last_on);

-- name: find_loose
SELECT r.account_id, c.device_broker, c.username, c.request_id, c.client_id, s.client_id, s.first_on, s.last_on
  FROM credential c INDEXED BY credential_loose JOIN request r ON r.id = c.request_id
  LEFT JOIN sighting s ON s.device_broker = c.device_broker AND s.username = c.username
 WHERE c.coupling = 'LOOSE' AND c.bound_to IS NULL AND c.state = 'CONFIRMED'
 ORDER BY c.device_broker, c.username, s.client_id;

-- name: add_locking
INSERT INTO locking (id, locked_on, locked_by) VALUES (:id, :on, :by);

-- name: is_bound
SELECT 1 FROM credential WHERE device_broker = :device_broker AND bound_to = :client_id AND state = 'CONFIRMED';

-- name: bind_credential
UPDATE OR IGNORE credential SET bound_to = :client_id
 WHERE device_broker = :device_broker AND username = :username AND coupling = 'LOOSE' AND bound_to IS NULL
   AND state = 'CONFIRMED';

-- name: add_locked
INSERT INTO locked (locking_id, account_id, device_broker, username, client_id)
VALUES (:locking_id, :account_id, :device_broker, :username, :client_id);

-- name: release_bound
-- The generations that followed are bound as well: they are those of the same request.
UPDATE credential SET bound_to = NULL
 WHERE bound_to IS NOT NULL AND request_id IN (
       SELECT c.request_id FROM locked l
         JOIN credential c ON c.device_broker = l.device_broker AND c.username = l.username
        WHERE l.locking_id = :id);

-- name: end_locking
UPDATE locking SET undone_on = :on WHERE id = :id;

-- name: find_locks
SELECT k.id, k.locked_on, k.locked_by, k.undone_on,
       (SELECT json_group_array(json_array(account_id, device_broker, username, client_id))
          FROM locked WHERE locking_id = k.id)
  FROM locking k ORDER BY k.id DESC;

-- name: guards
-- All in one row: [[id, optlock, optlock of the job], …].
SELECT json_group_array(json_array(id, optlock, job_optlock)) FROM request
 WHERE id IN (SELECT value FROM json_each(:ids));

-- name: save_request
UPDATE request SET account_id = :account_id, device_broker = :device_broker, record = :record, topics = :topics,
       validity = :validity, status = :status, activates_on = :activates_on, expires_on = :expires_on, secure_url = :secure_url,
       coupling = :coupling, confirm = :confirm, confirm_time = :confirm_time, configuration = :configuration,
       serial_number = :serial_number, mac_address = :mac_address, vendor = :vendor, brand = :brand, model = :model,
       device_name = :device_name, labels = :labels, forget = :forget, reuse_key = :reuse_key,
       retry_max_attempts = :retry_max_attempts,
       modified_on = :modified_on, modified_by = :modified_by, optlock = :optlock
 WHERE id = :id;

-- name: save_jobs
-- Rows as a JSON array of objects. A rotation may have sealed the keys anew since they were read: what is as it was is
-- not written back.
UPDATE request SET keys_sealed = iif(j.keys_changed, j.keys_sealed, request.keys_sealed), phase = j.phase,
       generation = j.generation, proved_generation = j.proved_generation, retry_count = j.retry_count,
       rotate_wanted = j.rotate_wanted, stop_wanted = j.stop_wanted, skipped = j.skipped, progress = j.progress,
       start_on = j.start_on, last_refusal = j.last_refusal, job_status = j.job_status, job_optlock = j.job_optlock
  FROM (SELECT {jobs} FROM json_each(:rows)) j
 WHERE request.id = j.id;

-- name: add_requests
INSERT INTO request ({added}) VALUES {values};

-- name: save_credentials
-- Rows as a JSON array of objects. A password is sealed once, at the mint, and wiped once: in between only a rotation
-- writes it.
INSERT INTO credential ({credential_names})
SELECT {credentials} FROM json_each(:rows) WHERE true
ON CONFLICT (device_broker, client_id, generation) DO UPDATE SET
       secret_sealed = iif(excluded.secret_sealed IS NULL, NULL, secret_sealed), state = excluded.state,
       confirm_before = excluded.confirm_before, due_on = excluded.due_on, attempts = excluded.attempts,
       settled_on = excluded.settled_on;

-- name: add_certificates
-- Rows as a JSON array of objects.
INSERT INTO certificate ({certificate_names}) SELECT {certificates} FROM json_each(:rows);

-- name: used_keys
-- All in one row: [key id, …].
SELECT json_group_array(key_id) FROM certificate WHERE key_id IN (SELECT value FROM json_each(:keys));

-- name: revoke_certificates
-- Rows as a JSON array of objects.
UPDATE certificate SET revoked_on = j.revoked_on, reason = j.reason
  FROM (SELECT {revoked} FROM json_each(:rows)) j
 WHERE certificate.device_broker = j.device_broker AND certificate.client_id = j.client_id
   AND certificate.generation = j.generation AND certificate.revoked_on IS NULL;

-- name: find_serials
-- A batch of certificates: [serial, …] as JSON; all of the answer in one row.
SELECT json_group_array(json_array(j.key, {certificate}, {credential})) FROM json_each(:batch) j
  JOIN certificate k ON k.serial = j.value
  JOIN credential c ON c.device_broker = k.device_broker AND c.client_id = k.client_id AND c.generation = k.generation;

-- name: find_keys
-- A batch of keys: [key id, …] as JSON; all of the answer in one row.
SELECT json_group_array(json_array(j.key, {certificate})) FROM json_each(:batch) j
  JOIN certificate k ON k.key_id = j.value;

-- name: find_certificates
-- A batch of credentials: [[device broker, clientId, generation], …] as JSON; all of the answer in one row.
SELECT json_group_array(json_array(j.key, {certificate})) FROM json_each(:batch) j
  JOIN certificate k ON k.device_broker = json_extract(j.value, '$[0]') AND k.client_id = json_extract(j.value, '$[1]')
                    AND k.generation = json_extract(j.value, '$[2]');

-- name: list_revoked
SELECT {certificate} FROM certificate k
 WHERE k.issuer = :issuer AND k.not_after >= :now AND k.revoked_on IS NOT NULL ORDER BY k.serial;

-- name: count_revoked
SELECT count(*) FROM certificate WHERE revoked_on IS NOT NULL;

-- name: list_issuers
SELECT DISTINCT issuer FROM certificate;

-- name: bind
-- Rows as a JSON array of objects.
INSERT INTO bound_request_id (request_id, text, generation)
SELECT json_extract(value, '$.request_id'), json_extract(value, '$.text'), json_extract(value, '$.generation')
  FROM json_each(:rows) WHERE true
ON CONFLICT DO NOTHING;

-- name: lease_due
UPDATE credential SET due_on = :until
 WHERE (device_broker, client_id, generation) IN (
       SELECT device_broker, client_id, generation FROM credential
        WHERE due_on <= :now ORDER BY due_on LIMIT :limit)
RETURNING request_id, generation;

-- name: release_leases
UPDATE credential SET due_on = 0 WHERE due_on IS NOT NULL AND state IN ('MINTED', 'RETIRING');

-- name: recall
UPDATE credential SET due_on = 0
 WHERE due_on > :jobs AND (state IN ('MINTED', 'RETIRING') OR (state IN ('INSTALLED', 'OFFERED') AND due_on > :confirms));

-- name: newest_id
-- A request's job has the id after its own.
SELECT max(coalesce((SELECT job_id FROM request ORDER BY id DESC LIMIT 1), 0),
           coalesce((SELECT max(id) FROM account), 0), coalesce((SELECT max(id) FROM provision_user), 0),
           coalesce((SELECT max(id) FROM token), 0), coalesce((SELECT max(id) FROM model), 0),
           coalesce((SELECT max(id) FROM user_group), 0), coalesce((SELECT max(id) FROM contact), 0),
           coalesce((SELECT max(id) FROM batch), 0));

-- name: find_lapsed
SELECT {request} FROM request r
  JOIN provision_user u ON u.id = r.provision_user_id
  JOIN account a ON a.id = r.account_id
 WHERE r.phase = 'PENDING' AND r.expires_on IS NOT NULL AND r.expires_on <= :now LIMIT :limit;

-- name: next_due
SELECT min(at) FROM (SELECT min(due_on) AS at FROM credential WHERE due_on IS NOT NULL
       UNION ALL SELECT min(expires_on) FROM request WHERE phase = 'PENDING' AND expires_on IS NOT NULL);

-- name: list_requests
SELECT {request} FROM request r
  JOIN provision_user u ON u.id = r.provision_user_id
  JOIN account a ON a.id = r.account_id
 WHERE (:accounts IS NULL OR r.account_id IN (SELECT value FROM json_each(:accounts)))
   AND (:client_ids IS NULL OR r.client_id IN (SELECT value FROM json_each(:client_ids)))
   AND (:status IS NULL OR r.status = :status)
   AND (:statuses IS NULL OR r.job_status IN (SELECT value FROM json_each(:statuses)))
   AND (:end IS NULL OR r.activates_on IS NULL OR r.activates_on <= :end)
   AND (:start IS NULL OR r.expires_on IS NULL OR r.expires_on >= :start)
 ORDER BY r.id DESC LIMIT :limit + 1 OFFSET :offset;

-- name: count_open
SELECT count(*) FROM request WHERE account_id = :account_id
   AND phase NOT IN ('EXPIRED', 'ABANDONED', 'STOPPED', 'FAILED', 'CONFIRMED', 'RENEWING');

-- name: delete_request
DELETE FROM request WHERE id = :id AND optlock = :optlock AND job_optlock = :job_optlock;

-- name: delete_bound
DELETE FROM bound_request_id WHERE request_id = :id;

-- name: add_account
INSERT INTO account (id, uid, name, display_name, kind, parent_id, coupling, device_broker, quota, created_on,
       created_by, modified_on, modified_by, optlock)
VALUES (:id, :uid, :name, :display_name, :kind, :parent_id, :coupling, :device_broker, :quota, :created_on,
       :created_by, :modified_on, :modified_by, :optlock);

-- name: find_account
SELECT id, uid, name, display_name, kind, parent_id, coupling, device_broker, quota, created_on, created_by,
       modified_on, modified_by, optlock
  FROM account WHERE id = :id OR name = :name;

-- name: list_accounts
SELECT id, uid, name, display_name, kind, parent_id, coupling, device_broker, quota, created_on, created_by,
       modified_on, modified_by, optlock
  FROM account ORDER BY id;

-- name: add_user
INSERT INTO provision_user (id, account_id, username, password_hash, created_on, created_by)
VALUES (:id, :account_id, :username, :password_hash, :created_on, :created_by);

-- name: find_user
SELECT id, account_id, username, password_hash, created_on, created_by FROM provision_user WHERE username = :username;

-- name: list_users
SELECT id, account_id, username, password_hash, created_on, created_by FROM provision_user ORDER BY id;

-- name: save_device_broker
UPDATE account SET device_broker = :device_broker, modified_on = :at, optlock = optlock + 1 WHERE id = :id;

-- name: save_user_password
UPDATE provision_user SET password_hash = :password_hash WHERE id = :id;

-- name: add_token
INSERT INTO token (id, name, role, account_id, token_hash, created_on)
VALUES (:id, :name, :role, :account_id, :token_hash, :created_on);

-- name: find_token
SELECT id, name, role, account_id, token_hash, created_on FROM token WHERE token_hash = :token_hash;

-- name: list_tokens
SELECT id, name, role, account_id, token_hash, created_on FROM token ORDER BY id;

-- name: delete_token
DELETE FROM token WHERE id = :id RETURNING id;

-- name: add_model
INSERT INTO model (id, account_id, name, user_id, created_on, created_by)
VALUES (:id, :account_id, :name, :user_id, :created_on, :created_by);

-- name: find_models
SELECT m.id, m.account_id, a.name, a.device_broker, m.name, u.username, m.created_on, m.created_by
  FROM model m JOIN account a ON a.id = m.account_id JOIN provision_user u ON u.id = m.user_id
 WHERE a.name = :vendor AND (:name IS NULL OR m.name = :name) ORDER BY m.name;

-- name: delete_model
DELETE FROM model WHERE id = :id RETURNING id;

-- name: add_serial
INSERT INTO serial (model_id, serial_number, extra) VALUES (:model_id, :serial_number, :extra);

-- name: find_serial
SELECT extra FROM serial WHERE model_id = :model_id AND serial_number = :serial_number;

-- name: list_serials
SELECT serial_number, extra FROM serial WHERE model_id = :model_id
 ORDER BY serial_number LIMIT :limit OFFSET :offset;

-- name: delete_serials
DELETE FROM serial
 WHERE model_id = :model_id AND serial_number IN (SELECT value FROM json_each(:serial_numbers)) RETURNING serial_number;

-- name: add_range
INSERT INTO serial_range (model_id, format, length, casing, first, last)
VALUES (:model_id, :format, :length, :casing, :first, :last);

-- name: list_ranges
SELECT format, length, casing, first, last FROM serial_range WHERE model_id = :model_id;

-- name: delete_range
DELETE FROM serial_range
 WHERE model_id = :model_id AND format = :format AND length = :length AND casing = :casing AND first = :first
   AND last = :last;

-- name: find_newest
-- The newest request of each of these client ids in one account.
SELECT {request} FROM request r
  JOIN provision_user u ON u.id = r.provision_user_id
  JOIN account a ON a.id = r.account_id
 WHERE r.id IN (SELECT (SELECT max(id) FROM request
                         WHERE device_broker = :device_broker AND client_id = j.value AND account_id = :account_id)
                  FROM json_each(:client_ids) j);

-- name: find_groups
SELECT id, account_id, name FROM user_group WHERE account_id IN (SELECT value FROM json_each(:accounts));

-- name: find_group
SELECT id FROM user_group WHERE account_id = ? AND name = ?;

-- name: add_group
INSERT INTO user_group (id, account_id, name) VALUES (?, ?, ?) ON CONFLICT (account_id, name) DO NOTHING;

-- name: delete_group_if_empty
DELETE FROM user_group WHERE id = :id AND NOT EXISTS (SELECT 1 FROM device WHERE group_id = :id);

-- name: find_contacts
SELECT id, account_id, email, first_name, last_name, custom1, custom2, custom3 FROM contact
 WHERE account_id IN (SELECT value FROM json_each(:accounts)) AND email IN (SELECT value FROM json_each(:emails));

-- name: find_contact
SELECT id FROM contact WHERE account_id = ? AND email = ?;

-- name: save_contacts
INSERT INTO contact (id, account_id, email, first_name, last_name, custom1, custom2, custom3)
VALUES {values}
ON CONFLICT (account_id, email) DO UPDATE SET first_name = excluded.first_name, last_name = excluded.last_name,
       custom1 = excluded.custom1, custom2 = excluded.custom2, custom3 = excluded.custom3;

-- name: delete_contact_if_idle
DELETE FROM contact WHERE id = :id AND NOT EXISTS (SELECT 1 FROM device WHERE contact_id = :id);

-- name: find_devices
SELECT d.device_id, d.request_id, d.contact_id, d.group_id, d.policy_name, d.storage_gb, d.custom1, d.custom2,
       d.custom3, {request}
  FROM json_each(:device_ids) j
  JOIN device d ON d.device_id = j.value
  JOIN request r ON r.id = d.request_id
  JOIN provision_user u ON u.id = r.provision_user_id
  JOIN account a ON a.id = r.account_id;

-- name: list_devices
SELECT d.device_id, d.request_id, d.contact_id, d.group_id, d.policy_name, d.storage_gb, d.custom1, d.custom2,
       d.custom3, g.id, g.account_id, g.name, c.id, c.account_id, c.email, c.first_name, c.last_name, c.custom1,
       c.custom2, c.custom3, {request}
  FROM device d
  JOIN request r ON r.id = d.request_id
  JOIN provision_user u ON u.id = r.provision_user_id
  JOIN account a ON a.id = r.account_id
  JOIN user_group g ON g.id = d.group_id
  LEFT JOIN contact c ON c.id = d.contact_id
 WHERE d.device_id > :after
   AND (:accounts IS NULL OR r.account_id IN (SELECT value FROM json_each(:accounts)))
   AND (:batch_id IS NULL OR d.device_id IN (SELECT device_id FROM batch_row WHERE batch_id = :batch_id))
 ORDER BY d.device_id LIMIT :limit;

-- name: find_device_ties
SELECT group_id, contact_id FROM device WHERE device_id = :device_id;

-- name: save_devices
INSERT INTO device (device_id, request_id, contact_id, group_id, policy_name, storage_gb, custom1, custom2, custom3)
VALUES {values}
ON CONFLICT (device_id) DO UPDATE SET contact_id = excluded.contact_id, group_id = excluded.group_id,
       policy_name = excluded.policy_name, storage_gb = excluded.storage_gb, custom1 = excluded.custom1,
       custom2 = excluded.custom2, custom3 = excluded.custom3;

-- name: find_open_client_ids
SELECT client_id FROM request
 WHERE (device_broker, client_id) IN (SELECT b.device_broker, j.value
         FROM (SELECT DISTINCT device_broker FROM account) b, json_each(:client_ids) j)
   AND phase NOT IN ('EXPIRED', 'ABANDONED', 'STOPPED', 'FAILED');

-- name: find_open_pairs
SELECT device_broker, client_id FROM request
 WHERE (device_broker, client_id) IN (SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]')
                                        FROM json_each(:pairs))
   AND phase NOT IN ('EXPIRED', 'ABANDONED', 'STOPPED', 'FAILED');

-- name: find_open_units
SELECT serial_number FROM request
 WHERE serial_number IN (SELECT value FROM json_each(:units)) AND phase NOT IN ('EXPIRED', 'ABANDONED', 'STOPPED', 'FAILED')
UNION
SELECT upper(replace(replace(replace(mac_address, ':', ''), '-', ''), '.', '')) FROM request
 WHERE upper(replace(replace(replace(mac_address, ':', ''), '-', ''), '.', '')) IN (SELECT value FROM json_each(:units))
   AND mac_address IS NOT NULL AND phase NOT IN ('EXPIRED', 'ABANDONED', 'STOPPED', 'FAILED');

-- name: find_room
SELECT id, quota - (SELECT count(*) FROM request WHERE account_id = account.id
                       AND phase NOT IN ('EXPIRED', 'ABANDONED', 'STOPPED', 'FAILED', 'CONFIRMED', 'RENEWING'))
  FROM account WHERE id IN (SELECT value FROM json_each(:accounts)) AND quota IS NOT NULL;

-- name: find_optlocks
SELECT id, optlock FROM request WHERE id IN (SELECT value FROM json_each(:ids));

-- name: find_account_names
SELECT name, id FROM account WHERE name IN (SELECT value FROM json_each(:names));

-- name: add_batch
INSERT INTO batch (id, name, account_id, created_on, created_by) VALUES (?, ?, ?, ?, ?);

-- name: find_batch
SELECT id, name, account_id, created_on, created_by FROM batch WHERE id = :id;

-- name: list_batches
SELECT id, name, account_id, created_on, created_by, (SELECT count(*) FROM batch_row WHERE batch_id = batch.id)
  FROM batch WHERE :accounts IS NULL OR account_id IN (SELECT value FROM json_each(:accounts))
 ORDER BY id DESC LIMIT :limit;

-- name: add_batch_rows
INSERT INTO batch_row (batch_id, number, device_id, request_id, optlock, former) VALUES {values};

-- name: list_batch_rows
SELECT batch_id, number, device_id, request_id, optlock, former FROM batch_row
 WHERE batch_id = :batch_id AND number < :before ORDER BY number DESC LIMIT :limit;

-- name: delete_batch_row
DELETE FROM batch_row WHERE batch_id = :batch_id AND number = :number;

-- name: add_mails
INSERT INTO mail (request_id, email, due_on, attempts) VALUES {values}
ON CONFLICT (request_id) DO UPDATE SET email = excluded.email, due_on = excluded.due_on, attempts = 0;

-- name: lease_mails
UPDATE mail SET due_on = :until, attempts = attempts + 1
 WHERE request_id IN (SELECT request_id FROM mail WHERE due_on <= :now ORDER BY due_on LIMIT :limit)
RETURNING request_id, email, attempts;

-- name: next_mail
SELECT min(due_on) FROM mail;

-- name: postpone_mail
UPDATE mail SET due_on = :due_on WHERE request_id = :request_id;

-- name: delete_mail
DELETE FROM mail WHERE request_id = :request_id;

-- name: find_of_client
SELECT {request} FROM request r
  JOIN provision_user u ON u.id = r.provision_user_id
  JOIN account a ON a.id = r.account_id
 WHERE (r.device_broker, r.client_id) IN (SELECT device_broker, :client_id FROM account)
 ORDER BY r.id DESC LIMIT 20;

-- name: list_refusals
-- Of the last hundred thousand lines, as no index is worth its price here.
SELECT seq, at, action, actor, source, request_id, client_id, generation, before, phase, cause, digest FROM journal
 WHERE seq > (SELECT max(seq) FROM journal) - 100000 AND client_id = :client_id AND action IN ('claim', 'ack', 'activate')
   AND before IS phase AND source != '' AND cause NOT IN ('minted', 'minted, offered', 'offered again', 'stored')
 ORDER BY seq DESC LIMIT :limit;

-- name: list_epochs
SELECT epoch, key_id, made_on, state FROM vault_key ORDER BY epoch;

-- name: save_epoch
INSERT INTO vault_key (epoch, key_id, made_on, state) VALUES (:epoch, :key_id, :made_on, :state)
ON CONFLICT (epoch) DO UPDATE SET state = excluded.state;

-- name: find_ledger
SELECT pepper_id, pass_position, copied_on, generation_floor FROM ledger;

-- name: begin_pass
UPDATE ledger SET pepper_id = coalesce(pepper_id, :pepper_id), pass_position = NULL;

-- name: note_pass
UPDATE ledger SET pass_position = :position;

-- name: sealed_request
-- A rotation passes every row, sealed or not: each call is over after as many as it may.
SELECT id, keys_sealed FROM request WHERE id > coalesce(:key_0, 0) ORDER BY id LIMIT :limit;

-- name: sealed_credential
SELECT device_broker, client_id, generation, secret_sealed FROM credential
 WHERE (device_broker, client_id, generation) > (coalesce(:key_0, ''), coalesce(:key_1, ''), coalesce(:key_2, 0))
 ORDER BY device_broker, client_id, generation LIMIT :limit;

-- name: reseal_request
UPDATE request SET keys_sealed = :after WHERE id = :key_0 AND keys_sealed = :before;

-- name: reseal_credential
UPDATE credential SET secret_sealed = :after
 WHERE device_broker = :key_0 AND client_id = :key_1 AND generation = :key_2 AND secret_sealed = :before;

-- name: count_sealed
SELECT (SELECT count(*) FROM request) + (SELECT count(*) FROM credential);

-- name: journal_head
SELECT seq, digest FROM journal ORDER BY seq DESC LIMIT 1;

-- name: add_journal
-- Rows as a JSON array of arrays; their digests, which JSON cannot hold, one behind the other.
INSERT INTO journal (seq, at, action, actor, source, request_id, client_id, generation, before, phase, cause, digest)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
       json_extract(value, '$[3]'), json_extract(value, '$[4]'), json_extract(value, '$[5]'),
       json_extract(value, '$[6]'), json_extract(value, '$[7]'), json_extract(value, '$[8]'),
       json_extract(value, '$[9]'), json_extract(value, '$[10]'), substr(:digests, 32 * key + 1, 32)
  FROM json_each(:rows);

-- name: list_journal
SELECT seq, at, action, actor, source, request_id, client_id, generation, before, phase, cause, digest FROM journal
 WHERE seq > :after AND (:request_id IS NULL OR request_id = :request_id) ORDER BY seq LIMIT :limit;

-- name: lift_floor
UPDATE ledger SET generation_floor = max(generation_floor, :floor);

-- name: note_copy
UPDATE ledger SET copied_on = coalesce(copied_on, :now);

-- name: take_inventory
SELECT (SELECT count(*) FROM account), (SELECT count(*) FROM request), (SELECT count(*) FROM credential),
       max((SELECT max(modified_on) FROM request), coalesce((SELECT max(minted_on) FROM credential), 0)),
       coalesce((SELECT max(generation) FROM credential), 0);

-- name: find_unproved
SELECT {request}, {credential} FROM credential c
  JOIN request r ON r.id = c.request_id
  JOIN provision_user u ON u.id = r.provision_user_id
  JOIN account a ON a.id = r.account_id
 WHERE c.state IN ('MINTED', 'INSTALLED', 'OFFERED') LIMIT :limit;

-- name: allow_renewals
UPDATE request SET rotate_wanted = TRUE, retry_count = 0, job_optlock = job_optlock + 1
 WHERE phase IN ('CONFIRMED', 'RENEWING') AND reuse_key;

-- name: end_restore
UPDATE ledger SET copied_on = NULL;

-- name: add_probe
-- Comes and goes in one transaction: a page is written, and nothing is changed.
INSERT INTO migration (number, name, digest) VALUES (0, '', '');

-- name: delete_probe
DELETE FROM migration WHERE number = 0;

-- name: add_events
-- Rows as a JSON array of arrays.
INSERT INTO event (type, request_id, account_id, made_on, originator_id, originator_account_id, facts)
SELECT json_extract(value, '$[0]'), json_extract(value, '$[1]'), json_extract(value, '$[2]'),
       json_extract(value, '$[3]'), json_extract(value, '$[4]'),
       (SELECT account_id FROM token WHERE id = json_extract(value, '$[4]')), json_extract(value, '$[5]')
  FROM json_each(:rows);

-- name: newest_event
SELECT max(seq) FROM event;

-- name: find_events
SELECT {event} FROM event e {owners} WHERE e.seq IN (SELECT value FROM json_each(:seqs)) ORDER BY e.seq;

-- name: list_events
SELECT {event} FROM event e {owners}
 WHERE e.seq > :after AND e.seq <= :upto
   AND (:request_id IS NULL OR e.request_id = :request_id)
   AND (:accounts IS NULL OR e.account_id IN (SELECT value FROM json_each(:accounts)))
   AND (:types IS NULL OR e.type IN (SELECT value FROM json_each(:types)))
   AND (:start IS NULL OR e.made_on >= :start)
   AND (:end IS NULL OR e.made_on <= :end)
 ORDER BY e.seq LIMIT :limit OFFSET :offset;

-- name: open_sink
INSERT INTO sink (name, taken) SELECT :sink, coalesce(max(seq), 0) FROM event WHERE true ON CONFLICT DO NOTHING;

-- name: release_deliveries
-- What a dead process was delivering is due at once.
UPDATE delivery SET due_on = 0 WHERE sink = :sink AND due_on IS NOT NULL;

-- name: next_delivery
SELECT (SELECT min(due_on) FROM delivery WHERE sink = :sink AND due_on IS NOT NULL),
       (SELECT max(seq) FROM event) > (SELECT taken FROM sink WHERE name = :sink);

-- name: take_events
-- The next events of a sink; of a request of which nothing is left from before the first is due, the others follow it.
INSERT INTO delivery (seq, sink, request_id, attempts, due_on)
SELECT e.seq, s.name, e.request_id, 0,
       CASE WHEN EXISTS (SELECT 1 FROM delivery d WHERE d.sink = s.name AND d.request_id = e.request_id)
              OR EXISTS (SELECT 1 FROM event x WHERE x.request_id = e.request_id AND x.seq > s.taken AND x.seq < e.seq)
            THEN NULL ELSE 0 END
  FROM sink s JOIN event e ON e.seq > s.taken
 WHERE s.name = :sink ORDER BY e.seq LIMIT :limit;

-- name: mark_taken
UPDATE sink SET taken = coalesce(
       (SELECT max(seq) FROM (SELECT seq FROM event WHERE seq > sink.taken ORDER BY seq LIMIT :limit)), taken)
 WHERE name = :sink;

-- name: lease_first
-- What is due, if it is the earliest of its request: attempts to be repeated, and (due_on 0) in commit order the others.
UPDATE delivery SET due_on = :until
 WHERE sink = :sink
   AND seq IN (SELECT * FROM (SELECT seq FROM delivery WHERE sink = :sink AND due_on > 0 AND due_on <= :now
                               ORDER BY due_on LIMIT :limit / 2)
               UNION ALL
               SELECT * FROM (SELECT seq FROM delivery WHERE sink = :sink AND due_on = 0 ORDER BY seq LIMIT :limit))
   AND NOT EXISTS (SELECT 1 FROM delivery d
                    WHERE d.request_id = delivery.request_id AND d.sink = :sink AND d.seq < delivery.seq)
RETURNING seq, attempts, request_id;

-- name: lease_followers
-- The next ones of the same requests, up to a dead one.
UPDATE delivery SET due_on = :until
 WHERE sink = :sink
   AND seq IN (SELECT f.seq FROM json_each(:requests) r JOIN delivery f ON f.request_id = r.value AND f.sink = :sink
                WHERE NOT EXISTS (SELECT 1 FROM delivery d WHERE d.request_id = f.request_id AND d.sink = :sink
                                                             AND d.seq <= f.seq AND d.dead_on IS NOT NULL)
                ORDER BY f.seq LIMIT :limit + json_array_length(:requests))
RETURNING seq, attempts;

-- name: delete_deliveries
DELETE FROM delivery WHERE sink = :sink AND seq IN (SELECT value FROM json_each(:seqs));

-- name: save_delivery
UPDATE delivery SET attempts = :attempts, due_on = :due_on, dead_on = :dead_on, problem = :problem
 WHERE sink = :sink AND seq = :seq;

-- name: free_deliveries
-- The earliest of each of these requests is due, unless it is dead or waits for its next attempt already.
UPDATE delivery SET due_on = 0
 WHERE due_on IS NULL AND dead_on IS NULL AND (seq, sink) IN (
       SELECT min(d.seq), d.sink FROM json_each(:requests) r JOIN delivery d ON d.request_id = r.value
        GROUP BY d.request_id, d.sink);

-- name: list_dead
SELECT d.sink, d.attempts, d.dead_on, d.problem,
       (SELECT count(*) FROM delivery w WHERE w.sink = d.sink AND w.request_id = d.request_id AND w.seq > d.seq),
       {event}
  FROM delivery d JOIN event e ON e.seq = d.seq {owners}
 WHERE d.dead_on IS NOT NULL
   AND (:sink IS NULL OR d.sink = :sink)
   AND (:accounts IS NULL OR e.account_id IN (SELECT value FROM json_each(:accounts)))
 ORDER BY d.dead_on, d.seq LIMIT :limit OFFSET :offset;

-- name: redrive_dead
UPDATE delivery SET dead_on = NULL, attempts = 0
 WHERE dead_on IS NOT NULL
   AND (:sink IS NULL OR sink = :sink)
   AND (:seqs IS NULL OR seq IN (SELECT value FROM json_each(:seqs)))
   AND (:accounts IS NULL OR (SELECT account_id FROM event e WHERE e.seq = delivery.seq) IN
       (SELECT value FROM json_each(:accounts)))
RETURNING request_id;

-- name: discard_dead
DELETE FROM delivery
 WHERE dead_on IS NOT NULL
   AND (:sink IS NULL OR sink = :sink)
   AND (:seqs IS NULL OR seq IN (SELECT value FROM json_each(:seqs)))
   AND (:accounts IS NULL OR (SELECT account_id FROM event e WHERE e.seq = delivery.seq) IN
       (SELECT value FROM json_each(:accounts)))
RETURNING request_id;

-- name: replay_events
INSERT INTO delivery (seq, sink, request_id, attempts)
SELECT e.seq, :sink, e.request_id, 0 FROM event e
 WHERE e.seq > :after AND e.seq <= min(:upto, (SELECT taken FROM sink WHERE name = :sink))
   AND (:request_id IS NULL OR e.request_id = :request_id)
   AND (:accounts IS NULL OR e.account_id IN (SELECT value FROM json_each(:accounts)))
   AND (:types IS NULL OR e.type IN (SELECT value FROM json_each(:types)))
   AND (:start IS NULL OR e.made_on >= :start)
   AND (:end IS NULL OR e.made_on <= :end)
 ORDER BY e.seq LIMIT :limit
ON CONFLICT DO NOTHING
RETURNING request_id;

-- name: list_sinks
SELECT s.name,
       (SELECT count(*) FROM event WHERE seq > s.taken)
         + (SELECT count(*) FROM delivery WHERE sink = s.name AND dead_on IS NULL),
       (SELECT count(*) FROM delivery WHERE sink = s.name AND dead_on IS NOT NULL),
       (SELECT problem FROM delivery WHERE sink = s.name AND problem IS NOT NULL ORDER BY seq DESC LIMIT 1)
  FROM sink s ORDER BY s.name;

-- name: prune_events
-- Oldest first, and never the newest: whoever follows has to find where it was.
DELETE FROM event WHERE seq IN (
       SELECT e.seq FROM event e
        WHERE e.seq < min((SELECT max(seq) FROM event),
                          coalesce((SELECT seq FROM event WHERE made_on >= :before ORDER BY seq LIMIT 1),
                                   (SELECT max(seq) FROM event)))
          AND e.seq <= coalesce((SELECT min(taken) FROM sink WHERE name IN (SELECT value FROM json_each(:sinks))),
                                (SELECT max(seq) FROM event))
          AND NOT EXISTS (SELECT 1 FROM delivery d
                           WHERE d.seq = e.seq AND d.sink IN (SELECT value FROM json_each(:sinks)))
        ORDER BY e.seq LIMIT :limit)
RETURNING seq;

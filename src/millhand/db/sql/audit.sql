-- name: audit_get_shape
-- Return whether the audit table is there, as migration 7 of line millhand creates it.
SELECT to_regclass('/* schema */millhand_audit') IS NOT NULL AS is_there;

-- name: audit_insert
-- Record a change that a user of the web page made.
INSERT INTO /* schema */millhand_audit (actor, role, address, action, subject, detail, num_jobs)
VALUES (@actor, @role, @address, @action, @subject, @detail::text::jsonb, @num_jobs::integer);

-- name: audit_list
-- Return changes of one user or of all, newest first, before an id.
SELECT
    audit.id,
    audit.at,
    audit.actor,
    audit.role,
    audit.address,
    audit.action,
    audit.subject,
    audit.detail::text AS detail,
    audit.num_jobs
FROM /* schema */millhand_audit AS audit
WHERE audit.id < coalesce(@before_id::bigint, 9223372036854775807)
AND (@actor::text IS NULL OR audit.actor = @actor::text)
ORDER BY audit.id DESC
LIMIT @limit::integer;

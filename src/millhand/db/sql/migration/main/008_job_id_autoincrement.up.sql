-- Nothing to do here; the version counts so that all databases are at the same one.
SELECT 1;

DROP TABLE /* schema */millhand_archive_cursor;
DROP TABLE /* schema */millhand_archive_file;

ALTER TABLE /* schema */millhand_client SET UNLOGGED;

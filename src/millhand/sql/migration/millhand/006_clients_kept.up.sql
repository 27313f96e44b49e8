-- Who held which job is what a crash of the server, or a standby that takes over, makes one ask: without the row of a
-- client that died with it, its jobs would be left to their age. Written once every few seconds a client, that costs little.
ALTER TABLE /* schema */millhand_client SET LOGGED;

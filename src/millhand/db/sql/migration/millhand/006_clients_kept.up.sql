-- Logged, so that the rows survive a crash of the server and a failover: without the row of a client that died with the
-- server, its jobs would wait for the rescue by age. One small write a client every few seconds costs little.
ALTER TABLE /* schema */millhand_client SET LOGGED;

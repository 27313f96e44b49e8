DROP TABLE /* schema */millhand_leader;
DROP TABLE /* schema */millhand_client;

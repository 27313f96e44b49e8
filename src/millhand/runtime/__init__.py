"""Services of one client: insert, fetch, execute and complete jobs; elect a leader; send heartbeats."""

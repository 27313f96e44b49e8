"""Compare an S3 Inventory with the rows in one statement, which finds the keys that a run then evaluates."""

"""Dead letters: a copy of each discarded job, which stays when its row is deleted, and can be retried from."""

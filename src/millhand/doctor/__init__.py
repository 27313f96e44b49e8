"""Find what is wrong with a fleet, its database and its bucket; the web page shows a part of it."""

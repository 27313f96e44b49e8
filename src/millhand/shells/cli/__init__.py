"""What commands are made of: groups and options, the databases that they ask, and how they print."""

"""What we say to the database, one function per statement, as values."""

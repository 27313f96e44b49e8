"""How job arguments are typed, encoded and decoded."""

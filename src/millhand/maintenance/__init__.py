"""What one leader does for all: it runs only for as long as this client leads."""

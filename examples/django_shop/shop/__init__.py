"""The app: orders, and what is done about them."""

"""What pages and their changes are made of: the request, the database with short deadlines, forms, and what is hidden."""

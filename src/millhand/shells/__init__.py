"""What commands, pages and checks of any capability are made of. Nothing here knows one."""

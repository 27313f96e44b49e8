"""Integrations with web frameworks, one package or module each; nothing else imports them."""

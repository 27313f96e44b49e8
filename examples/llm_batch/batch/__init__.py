"""Summaries by a language model: a job for each document, as fast as the provider allows and no faster."""

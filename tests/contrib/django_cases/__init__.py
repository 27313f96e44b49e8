"""Tests of the app in a project of Django's, run by Django's own runner: by whatever Python and Django there is."""

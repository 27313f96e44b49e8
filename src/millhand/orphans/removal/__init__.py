"""Remove orphans: guards, quarantine, recovery, restore, and alerts."""

"""What the SQL stores have in common: batches of writes, checked caches and owners."""

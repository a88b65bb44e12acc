"""Techniques at work: data that comes along (`data`), one training loop (`fit`), results worth printing (`record`)."""
